//! The keys of sources and sinks that are Python processes: classes, and producers.

use super::{
    BATCH_BYTES, BATCH_ROWS, EVENT_TIME, FIELDS, IDLE_TIMEOUT, INPUTS, Key, Kind, MAX_FUTURE, MEMORY_LIMIT,
    OUT_OF_ORDERNESS, RATE, RESTART_BACKOFF, RETRY_BACKOFF, needed, optional,
};

const CLASS: Key = needed("class", Kind::Filled, "module:Class; the module lies beside this file or can be imported.");
const OPTIONS: Key = optional(
    "options",
    Kind::Anything,
    "Keyword arguments of the class. Passwords are better named by an environment variable that the class reads. Default: none.",
);
const PROCESS_RESTARTS_MAX: Key = optional(
    "restarts_max",
    Kind::Integer(0, 10_000),
    "Restarts of one process within a minute; one more death ends the run. Default: 10.",
);

/// `kind = "producer"` of sources
pub static PRODUCER: &[Key] = &[
    FIELDS,
    optional(
        "producers",
        Kind::List(&Kind::Filled),
        "Names of those that may send, each at a time from one process; each is a partition. Default: [\"default\"].",
    ),
    optional(
        "replayable",
        Kind::Boolean,
        "Producers go on from the position that they are told when they connect, with the same rows in the same order: then each row counts once. Default: false, and what a crash loses is lost.",
    ),
    optional(
        "end",
        Kind::Choice(&["never", "closed"]),
        "closed: a producer that closes was the last of its name, and the run ends when all have closed. never: the next one is waited for. Default: never.",
    ),
    RATE,
    BATCH_ROWS,
    BATCH_BYTES,
    optional(
        "slots",
        Kind::PowerOfTwo(2, 1024),
        "Micro-batches that a producer may send before they are taken; then it waits. Default: 16.",
    ),
    EVENT_TIME,
    OUT_OF_ORDERNESS,
    IDLE_TIMEOUT,
    MAX_FUTURE,
];

/// `kind = "python"` of sources
pub static PYTHON: &[Key] = &[
    CLASS,
    OPTIONS,
    FIELDS,
    RATE,
    BATCH_ROWS,
    BATCH_BYTES,
    optional(
        "slots",
        Kind::PowerOfTwo(2, 1024),
        "Micro-batches that a process makes ahead of what was taken. Default: 4.",
    ),
    optional(
        "retries",
        Kind::Integer(0, 1000),
        "How often a class that raised is asked again, after seek() if it has that, before the run ends; counted anew after each success. A result that does not fit `fields` is not tried again. Default: 0.",
    ),
    RETRY_BACKOFF,
    optional(
        "timeout",
        Kind::Length,
        "A process that takes longer for a poll() is killed and replaced; at least 10ms. Default: none.",
    ),
    optional(
        "start_timeout",
        Kind::Length,
        "A process that is not ready so long after its start (imports, __init__) is killed and replaced; at least 1s. Default: 60s.",
    ),
    MEMORY_LIMIT,
    RESTART_BACKOFF,
    PROCESS_RESTARTS_MAX,
    EVENT_TIME,
    OUT_OF_ORDERNESS,
    IDLE_TIMEOUT,
    MAX_FUTURE,
];

/// `kind = "python"` of sinks
pub static PYTHON_SINK: &[Key] = &[
    INPUTS,
    CLASS,
    OPTIONS,
    optional(
        "idempotent",
        Kind::Boolean,
        "Whether the class makes the same of rows that come again, by their identities or by an upsert. Then the sink is exactly once, with [checkpoint]. Default: false.",
    ),
    optional(
        "on_refused",
        Kind::Choice(&["stop", "dead_letter"]),
        "For rows that the class rejects (rm.Reject): end the run, or keep them as dead letters of the sink, with the reason (needs [checkpoint]). Default: stop.",
    ),
    optional("batch_rows", Kind::Integer(1, 1 << 24), "Most rows in a batch. Default: 8192."),
    optional(
        "batch_bytes",
        Kind::Size,
        "Room in a batch for each column of variable length; a longer value ends the run. Default: 64 bytes for each row.",
    ),
    optional(
        "retries",
        Kind::Integer(0, 1000),
        "How often a batch for which write() raised is tried again, later and later, before the run ends; counted anew after each success. An rm.Retry is not counted. Default: 0.",
    ),
    optional(
        "timeout",
        Kind::Length,
        "A process that takes longer for a write() is killed and replaced; at least 10ms. Default: none.",
    ),
    optional(
        "start_timeout",
        Kind::Length,
        "A process that is not ready so long after its start (imports, __init__, setup()) is killed and replaced; at least 1s. Default: 60s.",
    ),
    MEMORY_LIMIT,
    RESTART_BACKOFF,
    PROCESS_RESTARTS_MAX,
];
