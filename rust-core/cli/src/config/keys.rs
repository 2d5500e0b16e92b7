//! Every key of the configuration: name, type, default, meaning. The reader ([`super::raw`]), the JSON Schema
//! ([`super::schema`]) and the "did you mean" hints all work from these tables, so they cannot disagree.

mod messages;
mod python;
mod sinks;
mod sources;
mod steps;

use ringmill_connect::Promise;

pub use sinks::SINKS;
pub use sources::SOURCES;
use steps::STEPS;

/// The type of a value.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// Any string.
    Text,
    /// A string that may be a password.
    Secret,
    /// A string that is not empty.
    Filled,
    /// `true` or `false`.
    Boolean,
    /// A whole number within bounds, both included.
    Integer(i64, i64),
    /// A power of two within bounds, both included.
    PowerOfTwo(i64, i64),
    /// A number above the first bound (or equal to it, if the flag says so), up to the second.
    Number {
        /// Lower bound.
        above: f64,
        /// Whether the lower bound itself is allowed.
        inclusive: bool,
        /// Upper bound, included.
        max: f64,
    },
    /// `"10s"`; may be zero.
    Duration,
    /// `"10s"`; more than zero.
    Length,
    /// `"64KiB"`
    Size,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// A column type such as `"float64"`.
    DataType,
    /// `"2026-01-01T00:00:00Z"`, quoted or not.
    Timestamp,
    /// A list.
    List(&'static Kind),
    /// A list of stream names, at least one.
    Streams,
    /// A table with keys that the user chooses.
    Map(&'static Kind),
    /// A table with whatever the user likes in it.
    Anything,
    /// A table with these keys.
    Table(&'static [Key]),
    /// A table whose `kind` says which keys it has.
    Variants(&'static [Variant]),
    /// Either of two types, told apart by whether the value is a table.
    OrTable(&'static Kind, &'static [Key]),
}

/// One key of a table.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Its name.
    pub name: &'static str,
    /// Type of its value.
    pub kind: Kind,
    /// Whether it has to be there.
    pub required: bool,
    /// What it is for, with the default.
    pub doc: &'static str,
}

/// One `kind` of a source, step or sink.
#[derive(Clone, Copy, Debug)]
pub struct Variant {
    /// The value of `kind`.
    pub kind: &'static str,
    /// What it is.
    pub doc: &'static str,
    /// What it promises with checkpoints, unless its keys say otherwise; `None`: it is a step.
    pub promise: Option<Promise>,
    /// Its keys besides `kind`.
    pub keys: &'static [Key],
}

const EXACTLY: Option<Promise> = Some(Promise::ExactlyOnce);
const AT_LEAST: Option<Promise> = Some(Promise::AtLeastOnce);
const AT_MOST: Option<Promise> = Some(Promise::AtMostOnce);

const fn needed(name: &'static str, kind: Kind, doc: &'static str) -> Key {
    Key { name, kind, required: true, doc }
}

const fn optional(name: &'static str, kind: Kind, doc: &'static str) -> Key {
    Key { name, kind, required: false, doc }
}

/// Largest integer that TOML and JSON tools agree on.
const COUNT_MAX: i64 = i64::MAX;
const POSITIVE: Kind = Kind::Number { above: 0.0, inclusive: false, max: 1e12 };
const FORMAT: Kind = Kind::Choice(&["json", "csv", "raw"]);

/// The whole file.
pub static ROOT: &[Key] = &[
    optional("pipeline", Kind::Table(PIPELINE), "What belongs to the pipeline as a whole."),
    optional(
        "checkpoint",
        Kind::Table(CHECKPOINT),
        "Checkpoints, from which a run that was killed goes on. Without this table there are none, and a run begins anew.",
    ),
    optional(
        "serve",
        Kind::Table(SERVE),
        "Retained results over HTTP while the pipeline runs: GET /v1/STEP?key=…&from=…&to=…&limit=…. Without this table nothing is served.",
    ),
    needed("sources", Kind::Map(&Kind::Variants(SOURCES)), "Where rows come in, by name."),
    optional("steps", Kind::Map(&Kind::Variants(STEPS)), "What is done with rows, by name."),
    needed("sinks", Kind::Map(&Kind::Variants(SINKS)), "Where rows go out, by name."),
];

/// `[pipeline]`
pub static PIPELINE: &[Key] = &[
    optional(
        "name",
        Kind::Filled,
        "Name in reports and logs. Default: the file's name without .toml (or, for pipeline.toml, its folder's).",
    ),
    optional(
        "shards",
        Kind::Integer(1, 1024),
        "Shard threads; each owns a slice of the keys. Default: from the machine's cores and the workers.",
    ),
    optional(
        "wait",
        Kind::Choice(&["spin", "adaptive", "block"]),
        "How shards and workers wait for each other: spin is fastest and needs a core of its own for every shard and worker, block sleeps at once. Default: adaptive.",
    ),
    optional(
        "profile",
        Kind::Choice(&["default", "latency"]),
        "How the run asks the kernel to treat it. latency, for the shortest tails: shards spin at nice -20 and need a core each, workers sleep under the real-time policy SCHED_FIFO 50, deep idle states are forbidden while it runs; it sets `wait` and needs root, CAP_SYS_NICE, or an rtprio limit, and write access to /dev/cpu_dma_latency; what cannot be had is logged, and the run goes on without. Default: default.",
    ),
    optional(
        "cpus",
        Kind::List(&Kind::Integer(0, 8191)),
        "CPUs to pin to: shard threads first, then workers. Default: no pinning.",
    ),
    optional(
        "guarantee",
        Kind::Choice(&["exactly-once", "at-least-once"]),
        "What every source and sink must promise, whatever dies and whenever; a pipeline with one that promises less is refused, and so is one without [checkpoint]. Default: each does what it can, and `ringmill check` says what.",
    ),
    optional(
        "state_memory",
        Kind::Size,
        "Most memory that the state of all windows and functions may take. With [checkpoint], what does not fit spills to the disk; without, it ends the run. Default: a quarter of the machine's.",
    ),
    optional(
        "sink_buffer",
        Kind::Size,
        "Memory in which rows wait for a sink, for each sink and shard. When it is full the sink holds up everything that its rows come from, other sinks included: with results that come all at once, as a window's do, more of it keeps a slow sink from delaying a quick one; checkpoints and the end of the run wait for what is in it. Default: 2MiB; as much as keeps a sink busy is always there, 1 to 4MiB.",
    ),
    optional(
        "python",
        Kind::Filled,
        "The Python interpreter of the workers. Default: $RINGMILL_PYTHON, else the one beside the ringmill command, else python3 on the PATH.",
    ),
];

/// `[checkpoint]`
pub static CHECKPOINT: &[Key] = &[
    needed("path", Kind::Filled, "The pipeline's state folder, its own and nobody else's; relative to this file."),
    optional(
        "interval",
        Kind::Length,
        "From the start of one checkpoint to the start of the next, at least 10ms. Default: 5s.",
    ),
    optional("keep", Kind::Integer(1, 1000), "How many checkpoints are kept. Default: 3."),
];

/// `[serve]`
pub static SERVE: &[Key] = &[optional(
    "listen",
    Kind::Filled,
    "Address and port. There is no password: whoever can reach the address can read the results. Default: 127.0.0.1:8080, for this machine only.",
)];

const EVENT_TIME: Key = optional(
    "event_time",
    Kind::Filled,
    "Timestamp column that carries event time. Default: the time of arrival is used.",
);
const OUT_OF_ORDERNESS: Key = optional(
    "out_of_orderness",
    Kind::Duration,
    "How far behind the newest row of its partition a row may come without being late. Default: 0s.",
);
const IDLE_TIMEOUT: Key = optional(
    "idle_timeout",
    Kind::Length,
    "A partition silent for this long no longer holds the watermark back. Default: it always does.",
);
const MAX_FUTURE: Key = optional(
    "max_future",
    Kind::Duration,
    "Rows stamped further ahead of the wall clock go to dead letters. Default: 24h.",
);
static FIELD_KIND: Kind = Kind::OrTable(&Kind::DataType, FIELD);
const FIELDS: Key = needed(
    "fields",
    Kind::Map(&FIELD_KIND),
    "Columns to read, in order: name = \"type\" or name = { type, path, nullable }.",
);
const FIELDS_OR_TYPES: Key = optional(
    "fields",
    Kind::Map(&FIELD_KIND),
    "Columns to read, in order: name = \"type\" or name = { type, path, nullable }. Either these or `types` are needed.",
);
const TYPE_OF_LINES: Key =
    optional("type", Kind::Table(TYPE_BY_FIELD), "With `types`: how an event says which of them it is of.");
static EVENT_TYPE_KIND: Kind = Kind::Table(EVENT_TYPE);
const TYPES: Key = optional(
    "types",
    Kind::Map(&EVENT_TYPE_KIND),
    "Types of events that come together, by name, each with the stream SOURCE.NAME. An event of another type, or of none, is a dead letter.",
);
const RATE: Key = optional("rate", POSITIVE, "Rows a second. Default: as fast as the pipeline takes them.");
const RECORD_SIZE_MAX: Key =
    optional("record_size_max", Kind::Size, "Longest record; a longer one goes to dead letters. Default: 1MiB.");
const STOP_EARLY: Key = optional(
    "stop_early",
    Kind::Boolean,
    "With JSON: true reads an object no further than to the last value that is declared. What stands behind it costs nothing, and is not checked; of a key that is repeated there, the earlier value counts. Default: false.",
);

/// The long form of a field.
pub static FIELD: &[Key] = &[
    needed("type", Kind::DataType, "Column type, for example \"utf8\" or \"timestamp[ms]\"."),
    optional(
        "path",
        Kind::Text,
        "Where the value stands: a JSON pointer such as /meta/site, or the CSV header. Default: the name.",
    ),
    optional(
        "nullable",
        Kind::Boolean,
        "Whether a missing or null value is a null instead of a dead letter. Default: false.",
    ),
];

const TYPE_FIELD: Key = optional(
    "field",
    Kind::Filled,
    "The field with the type, text or an integer: a name, or a JSON pointer such as /meta/kind.",
);

static TYPE_BY_FIELD: &[Key] = &[TYPE_FIELD];

/// One of `types`.
static EVENT_TYPE: &[Key] = &[
    FIELDS,
    optional("values", Kind::List(&Kind::Filled), "What events of this type say. Default: the type's name alone."),
    EVENT_TIME,
];

const BATCH_ROWS: Key = optional("batch_rows", Kind::Integer(1, 1 << 24), "Most rows in a micro-batch. Default: 1024.");
const BATCH_BYTES: Key = optional(
    "batch_bytes",
    Kind::Size,
    "Room in a micro-batch for each column of variable length. Default: 64 bytes for each row.",
);
const RETRY_BACKOFF: Key =
    optional("retry_backoff", Kind::Duration, "Wait before the first retry, doubled each time. Default: 100ms.");
const MEMORY_LIMIT: Key = optional(
    "memory_limit",
    Kind::Size,
    "Most memory that a worker may allocate (heap and private mappings); beyond it Python raises MemoryError or dies of it. At least 64MiB. Default: none.",
);
const RESTART_BACKOFF: Key = optional(
    "restart_backoff",
    Kind::Duration,
    "Wait before the second restart of a worker in a row (the first follows at once), doubled each time. Default: 100ms.",
);

const INPUTS: Key =
    needed("inputs", Kind::Streams, "Streams to read: NAME of a source or step, NAME.late, NAME.dead_letters.");
