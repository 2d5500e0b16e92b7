//! The keys of steps.

use super::{
    BATCH_BYTES, BATCH_ROWS, INPUTS, Key, Kind, MEMORY_LIMIT, RESTART_BACKOFF, RETRY_BACKOFF, Variant, needed, optional,
};

/// `[steps.NAME]`
pub static STEPS: &[Variant] = &[
    Variant { kind: "window", doc: "Aggregates over keyed windows in event time.", promise: None, keys: WINDOW },
    Variant { kind: "udf", doc: "A Python function in worker processes.", promise: None, keys: UDF },
    Variant { kind: "filter", doc: "Rows for which a condition holds.", promise: None, keys: FILTER },
];

static WINDOW: &[Key] = &[
    INPUTS,
    optional("key", Kind::List(&Kind::Filled), "Key columns. Default: none, one global window."),
    needed(
        "window",
        Kind::Table(WINDOW_SHAPE),
        "{ tumbling = \"10s\" }, { sliding = \"10s\", every = \"2s\" } or { session = \"20s\" }.",
    ),
    optional(
        "allowed_lateness",
        Kind::Duration,
        "How long after a window closed its rows still make it fire again; later ones go to NAME.late. Default: 0s.",
    ),
    needed(
        "aggregates",
        Kind::Map(&Kind::Filled),
        "Output columns: name = \"mean(column)\"; count(), sum, mean, min, max, variance, stddev, first, last, collect.",
    ),
    optional("statistics", Kind::Table(STATISTICS), "Rolling statistics over the key's earlier windows."),
    optional(
        "retain",
        Kind::Length,
        "Keep the results to be read with `ringmill state` and [serve], until windows end that much later, for example \"30d\"; needs [checkpoint]. Default: they are not kept.",
    ),
    optional(
        "retain_size",
        Kind::Size,
        "Most bytes of kept results, before compression; the oldest go first, the newest 1/4096 of `retain` never. Default: no limit.",
    ),
    optional(
        "roll_up",
        Kind::List(&Kind::Table(ROLL_UP)),
        "Make longer windows of older kept results, for example [{ after = \"7d\", size = \"1h\" }, { after = \"14d\", size = \"1d\" }]; for tumbling windows. Default: they stay as they are.",
    ),
];

static ROLL_UP: &[Key] = &[
    needed(
        "after",
        Kind::Length,
        "When windows end so long after the longer one, its results become one; at least allowed_lateness + size.",
    ),
    needed("size", Kind::Length, "Length of the longer windows; a multiple of the length before."),
];

/// The shapes of a window.
static WINDOW_SHAPE: &[Key] = &[
    optional("tumbling", Kind::Length, "Length of adjoining windows."),
    optional("sliding", Kind::Length, "Length of overlapping windows; needs every."),
    optional("every", Kind::Length, "Distance between the starts of sliding windows."),
    optional("session", Kind::Length, "Silence that ends a session."),
];

static STATISTIC_NAMES: &[&str] = &["count", "mean", "std"];

static STATISTICS: &[Key] = &[
    needed("of", Kind::Filled, "The aggregate they are of."),
    needed(
        "as",
        Kind::OrTable(&Kind::List(&Kind::Choice(STATISTIC_NAMES)), STATISTIC_COLUMNS),
        "Which: [\"mean\", \"std\", \"count\"], or { mean = \"column name\" }.",
    ),
    optional("horizon", Kind::Length, "Only windows that ended within this long before. Default: the whole history."),
];

/// The long form of `as`.
static STATISTIC_COLUMNS: &[Key] = &[
    optional("count", Kind::Filled, "Column for the number of earlier windows."),
    optional("mean", Kind::Filled, "Column for their mean."),
    optional("std", Kind::Filled, "Column for their sample standard deviation."),
];

static UDF: &[Key] = &[
    INPUTS,
    needed("function", Kind::Filled, "module:function; the module lies beside this file or can be imported."),
    optional(
        "key",
        Kind::List(&Kind::Filled),
        "Columns by which the function's state= is kept. Default: it keeps none.",
    ),
    optional("workers", Kind::Integer(1, 1024), "Worker processes in each shard. Default: 1."),
    BATCH_ROWS,
    BATCH_BYTES,
    optional("slots", Kind::PowerOfTwo(2, 1024), "Micro-batches that a worker's ring holds. Default: 8."),
    optional(
        "on_error",
        Kind::Choice(&["stop", "skip", "dead_letter"]),
        "For rows that still fail, or kill their worker, when they stand alone: end the run, leave them out, or send them to NAME.dead_letters. Default: stop.",
    ),
    optional(
        "retries",
        Kind::Integer(0, 1000),
        "How often a batch for which the function raised is tried again before on_error decides. Default: 0.",
    ),
    RETRY_BACKOFF,
    optional(
        "timeout",
        Kind::Length,
        "A worker that takes longer for a batch is killed and replaced; at least 10ms. Default: none.",
    ),
    optional(
        "start_timeout",
        Kind::Length,
        "A worker that is not ready so long after its start (imports, setup()), or not done with restore(), is killed and replaced; at least 1s. Default: 60s.",
    ),
    MEMORY_LIMIT,
    optional(
        "replay_memory",
        Kind::Size,
        "For a class with snapshot(): memory for the batches that each worker was given since its last snapshot, which its successor is given again. When half of it is full, a snapshot is taken in between. Holds four micro-batches at least. Default: 32MiB.",
    ),
    RESTART_BACKOFF,
    optional(
        "restarts_max",
        Kind::Integer(0, 10_000),
        "Restarts of one worker within a minute; after one more death it is given up, and a step without workers ends the run. Default: 10.",
    ),
];

static FILTER: &[Key] = &[INPUTS, needed("where", Kind::Filled, "For example \"score > 4.0 and readings >= 3\".")];
