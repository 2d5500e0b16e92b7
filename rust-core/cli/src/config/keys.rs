//! Every key of the configuration: name, type, default, meaning. The reader ([`super::raw`]), the JSON Schema
//! ([`super::schema`]) and the "did you mean" hints all work from these tables, so they cannot disagree.

mod messages;
mod python;

use ringmill_connect::Promise;

use messages::{KAFKA, KAFKA_SINK, MQTT, MQTT_SINK, NATS, NATS_CORE, NATS_CORE_SINK, NATS_SINK};
use python::{PRODUCER, PYTHON, PYTHON_SINK};

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

/// `[sources.NAME]`
pub static SOURCES: &[Variant] = &[
    Variant {
        kind: "generator",
        doc: "Made-up events, the same for the same seed.",
        promise: EXACTLY,
        keys: GENERATOR,
    },
    Variant {
        kind: "file",
        doc: "Files: text, plain, gzip or zstd; Arrow (Feather, or an IPC stream), Parquet and Avro.",
        promise: EXACTLY,
        keys: FILE_SOURCE,
    },
    Variant { kind: "stdin", doc: "Standard input.", promise: AT_MOST, keys: STDIN },
    Variant {
        kind: "socket",
        doc: "Lines of JSON, raw ones, streams of Arrow, or micro-batches, from whoever connects to a TCP port or a Unix socket.",
        promise: AT_MOST,
        keys: SOCKET,
    },
    Variant {
        kind: "http",
        doc: "Rows from requests: POST with JSON (lines, an array, one object), an Arrow IPC stream, an Avro container or micro-batches, plain, gzip or zstd.",
        promise: AT_LEAST,
        keys: HTTP,
    },
    Variant {
        kind: "kafka",
        doc: "Messages, JSON, Avro, Protobuf or raw, from topics of Apache Kafka.",
        promise: EXACTLY,
        keys: KAFKA,
    },
    Variant {
        kind: "mqtt",
        doc: "Messages, JSON, Avro, Protobuf or raw, from topics of an MQTT broker.",
        promise: AT_LEAST,
        keys: MQTT,
    },
    Variant {
        kind: "nats",
        doc: "Messages, JSON, Avro, Protobuf or raw, from a stream of NATS JetStream.",
        promise: EXACTLY,
        keys: NATS,
    },
    Variant {
        kind: "nats_core",
        doc: "JSON objects, one a message, from subjects of core NATS, whose servers keep none.",
        promise: AT_MOST,
        keys: NATS_CORE,
    },
    Variant {
        kind: "python",
        doc: "Rows of a Python class, `rm.Source`, in a process of its own for each partition; without `seek()` at most once.",
        promise: EXACTLY,
        keys: PYTHON,
    },
    Variant {
        kind: "producer",
        doc: "Rows that processes of this machine and user send through shared memory: `rm.connect`. Exactly once with `replayable`.",
        promise: AT_MOST,
        keys: PRODUCER,
    },
];

static GENERATOR: &[Key] = &[
    optional(
        "shape",
        Kind::Choice(&["sensors", "ticks"]),
        "sensors: device_id, timestamp, temperature, humidity, air_quality; ticks: symbol, price, size, timestamp. Default: sensors.",
    ),
    optional("keys", Kind::Integer(1, 1 << 32), "How many devices or symbols. Default: 1000."),
    optional("rows", Kind::Integer(0, COUNT_MAX), "How many rows. Default: endless."),
    RATE,
    optional("seed", Kind::Integer(0, COUNT_MAX), "Same seed, same rows. Default: 0."),
    optional(
        "anomaly_rate",
        Kind::Number { above: 0.0, inclusive: true, max: 1.0 },
        "Share of rows with an injected anomaly. Default: 0.",
    ),
    optional(
        "anomaly_sigmas",
        POSITIVE,
        "How far an anomaly lies off, in standard deviations of its column's noise. Default: 25.",
    ),
    optional("start", Kind::Timestamp, "Event time of the first row. Default: 2024-01-01T00:00:00Z."),
    optional("interval", Kind::Length, "Event time between the rows of one key. Default: 1s."),
    optional("columns", Kind::List(&Kind::Filled), "Only these columns. Default: all."),
    EVENT_TIME,
    OUT_OF_ORDERNESS,
    IDLE_TIMEOUT,
    MAX_FUTURE,
];

static AVRO_FILE_KEYS: &[Key] = &[needed(
    "schema_file",
    Kind::Filled,
    "Your schema (.avsc), which says the defaults and former names of fields that a file's schema lacks; relative to this file.",
)];

static FILE_SOURCE: &[Key] = &[
    needed("path", Kind::Filled, "A file or a glob, relative to this file; text that ends in .gz or .zst is unpacked."),
    optional(
        "format",
        Kind::Choice(&["json", "csv", "raw", "arrow", "parquet", "avro"]),
        "json (one object a line), csv (with a header), raw (lines, each the value of the only field), arrow (Feather, or an IPC stream), parquet or avro (object container files, which have their schema in them). Default: from the extension.",
    ),
    optional("avro", Kind::Table(AVRO_FILE_KEYS), "With format = \"avro\": what the schemas of the files lack."),
    FIELDS_OR_TYPES,
    TYPE_OF_LINES,
    TYPES,
    RATE,
    optional(
        "order",
        Kind::Choice(&["parallel", "sequential"]),
        "Read many files at once, or one after another by name. Default: parallel.",
    ),
    optional(
        "decode_threads",
        Kind::Integer(0, 64),
        "Threads that decode files of text of more than 1 MiB beside the shards, in the order of the file. They do what the shards have no time for: with 0, a file is decoded by one shard alone. Default: the machine's cores but one, at most 4.",
    ),
    RECORD_SIZE_MAX,
    STOP_EARLY,
    EVENT_TIME,
    OUT_OF_ORDERNESS,
    IDLE_TIMEOUT,
    MAX_FUTURE,
];

static STDIN: &[Key] = &[
    optional(
        "format",
        FORMAT,
        "json (one object a line), csv (with a header) or raw (lines, each the value of the only field). Default: json.",
    ),
    FIELDS_OR_TYPES,
    TYPE_OF_LINES,
    TYPES,
    RATE,
    RECORD_SIZE_MAX,
    STOP_EARLY,
    EVENT_TIME,
    OUT_OF_ORDERNESS,
    IDLE_TIMEOUT,
    MAX_FUTURE,
];

static SOCKET: &[Key] = &[
    optional(
        "format",
        Kind::Choice(&["json", "raw", "arrow", "micro_batch"]),
        "json (one object a line), raw (lines, each the value of the only field), arrow (IPC streams) or micro_batch (Ringmill's own FlatBuffers, each behind its length). Default: json.",
    ),
    optional(
        "tcp",
        Kind::Filled,
        "Host and port, such as \"127.0.0.1:7000\". There is no password: whoever can reach it can send rows. Either this or path.",
    ),
    optional(
        "path",
        Kind::Filled,
        "File of a Unix socket, to which the same user can connect; relative to the configuration. Either this or tcp.",
    ),
    optional(
        "connections_max",
        Kind::Integer(1, 10_000),
        "Connections at a time; each may take as much memory as the longest record. Further ones wait. Default: 100.",
    ),
    FIELDS_OR_TYPES,
    TYPE_OF_LINES,
    TYPES,
    RATE,
    RECORD_SIZE_MAX,
    STOP_EARLY,
    EVENT_TIME,
    OUT_OF_ORDERNESS,
    IDLE_TIMEOUT,
    MAX_FUTURE,
];

static HTTP: &[Key] = &[
    optional("listen", Kind::Filled, "Address and port. Default: 127.0.0.1:8080, for this machine only."),
    optional("path", Kind::Filled, "Path of the requests. Default: /ingest."),
    optional(
        "token",
        Kind::Filled,
        "$NAME, the environment variable with the token that requests must carry as `authorization: Bearer TOKEN`. Either this or token_file. Default: none is needed.",
    ),
    optional("token_file", Kind::Filled, "File with that token; relative to the configuration."),
    optional(
        "allow_remote",
        Kind::Boolean,
        "Whether an address that others can reach may do without a token. Default: false.",
    ),
    optional(
        "request_size_max",
        Kind::Size,
        "Longest body of a request, also when it is unpacked; at most 256MiB. Default: 16MiB.",
    ),
    optional(
        "request_timeout",
        Kind::Length,
        "How long the head of a request may take, its body, and its rows until they are durable; at most 1h. Default: 30s.",
    ),
    optional("connections_max", Kind::Integer(1, 10_000), "Connections at a time. Further ones wait. Default: 100."),
    FIELDS_OR_TYPES,
    TYPE_OF_LINES,
    TYPES,
    RATE,
    RECORD_SIZE_MAX,
    STOP_EARLY,
    EVENT_TIME,
    OUT_OF_ORDERNESS,
    IDLE_TIMEOUT,
    MAX_FUTURE,
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
pub static WINDOW_SHAPE: &[Key] = &[
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
pub static STATISTIC_COLUMNS: &[Key] = &[
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

/// `[sinks.NAME]`
pub static SINKS: &[Variant] = &[
    Variant {
        kind: "file",
        doc: "A file, or a folder of them: text, Arrow or Parquet.",
        promise: EXACTLY,
        keys: FILE_SINK,
    },
    Variant { kind: "sqlite", doc: "A table of an SQLite database.", promise: EXACTLY, keys: SQLITE },
    Variant { kind: "postgres", doc: "A table of a PostgreSQL database.", promise: EXACTLY, keys: POSTGRES },
    Variant {
        kind: "kafka",
        doc: "A topic of Apache Kafka; exactly once with a `transactional_id`.",
        promise: AT_LEAST,
        keys: KAFKA_SINK,
    },
    Variant { kind: "mqtt", doc: "Topics of an MQTT broker, at least once.", promise: AT_LEAST, keys: MQTT_SINK },
    Variant {
        kind: "nats",
        doc: "A stream of NATS JetStream, at least once, with ids by which it drops what it has had.",
        promise: AT_LEAST,
        keys: NATS_SINK,
    },
    Variant {
        kind: "nats_core",
        doc: "Subjects of core NATS, whose servers keep nothing for those who are not there.",
        promise: AT_MOST,
        keys: NATS_CORE_SINK,
    },
    Variant {
        kind: "http",
        doc: "Requests to a server; exactly once if it is `idempotent`.",
        promise: AT_LEAST,
        keys: HTTP_SINK,
    },
    Variant {
        kind: "python",
        doc: "A Python class, `rm.Sink`, in a process of its own; exactly once if it is `idempotent`.",
        promise: AT_LEAST,
        keys: PYTHON_SINK,
    },
    Variant { kind: "stdout", doc: "Standard output.", promise: AT_LEAST, keys: STDOUT },
    Variant { kind: "null", doc: "Counts rows and checksums every column.", promise: EXACTLY, keys: NULL },
];

static FILE_SINK: &[Key] = &[
    INPUTS,
    needed(
        "path",
        Kind::Filled,
        "A file, or with a / at its end a folder of parts; created or replaced; relative to this file.",
    ),
    optional(
        "format",
        Kind::Choice(&["json", "csv", "raw", "arrow", "parquet"]),
        "json (one object a line), csv (with a header), raw (the only column, a value a line), arrow (the files of a folder are Feather files; a single one is an IPC stream, for pyarrow.ipc.open_stream or polars.read_ipc_stream) or parquet (a folder only). Default: from the extension.",
    ),
    optional(
        "compression",
        Kind::Choice(&["zstd", "snappy", "none"]),
        "How the pages of Parquet files are compressed. Default: zstd.",
    ),
    optional(
        "file_size_max",
        Kind::Size,
        "Of a folder: a file of this size, or a little more, is complete, and rows go on in another. Default: any size.",
    ),
    optional(
        "roll_interval",
        Kind::Duration,
        "Of a folder: files go on over checkpoints, and each is complete, and shown, with the first checkpoint after so long, or when it has `file_size_max`; needs [checkpoint]. Default: with each checkpoint.",
    ),
];

static SQLITE: &[Key] = &[
    INPUTS,
    needed("path", Kind::Filled, "The database's file, created if it is missing; relative to this file."),
    needed(
        "table",
        Kind::Filled,
        "The table, created if it is missing; one that is there needs a column for each of the stream's. Rows are only added.",
    ),
];

static POSTGRES: &[Key] = &[
    INPUTS,
    needed(
        "url",
        Kind::Filled,
        "postgres://user@host:port/database, for a Unix socket postgres://user@/database?host=/run/postgresql; or $NAME, the environment variable in which it stands.",
    ),
    optional(
        "password_file",
        Kind::Filled,
        "A file with the user's password; relative to this file. Default: the password in the url, if there is one.",
    ),
    optional(
        "sslmode",
        Kind::Choice(&["disable", "prefer", "require", "verify-full"]),
        "Encryption: never; if the server can; always; always, and with a certificate that is good and the host's. Default: prefer.",
    ),
    optional(
        "sslrootcert",
        Kind::Filled,
        "For verify-full: a PEM file with the certificates to trust; relative to this file. Default: the system's.",
    ),
    optional("schema", Kind::Filled, "The schema of the table, and of the table ringmill_epochs. Default: public."),
    needed("table", Kind::Filled, "The table. Its columns are found by their names, as they are written."),
    optional(
        "mode",
        Kind::Choice(&["insert", "upsert"]),
        "insert adds rows; with upsert a row replaces the one that is equal in the columns of `conflict`. Default: insert.",
    ),
    optional("conflict", Kind::List(&Kind::Filled), "The key's columns, over which the table has a unique index."),
    optional(
        "create",
        Kind::Boolean,
        "Create the table if it is missing, with a column for each of the stream's. Default: false.",
    ),
    optional("connect_timeout", Kind::Length, "For one attempt to connect; more follow. Default: 10s."),
    optional("statement_timeout", Kind::Length, "For one statement; the rows of a checkpoint are one. Default: 5m."),
    optional("application_name", Kind::Filled, "What the server shows in pg_stat_activity. Default: ringmill."),
];

static HTTP_SINK: &[Key] = &[
    INPUTS,
    needed(
        "url",
        Kind::Filled,
        "Where requests go, http:// or https://; or $NAME, the environment variable in which it stands.",
    ),
    optional("method", Kind::Choice(&["POST", "PUT"]), "Default: POST."),
    optional(
        "format",
        FORMAT,
        "json (each row an object), csv, or raw: the values of one column as they are, text or bytes that you have made. Default: json.",
    ),
    optional(
        "column",
        Kind::Filled,
        "With format = \"raw\": the column whose values are sent, utf8 or binary, never null. Default: the only one.",
    ),
    optional(
        "body",
        Kind::Choice(&["lines", "array", "row"]),
        "What a request has: rows with a line end behind each (csv: below a header), one array (json only), or one row as it is (json and raw). Default: lines.",
    ),
    optional(
        "content_type",
        Kind::Filled,
        "What requests say that their bodies are, a media type. Default: application/x-ndjson for lines of JSON, application/json for other JSON, text/csv, text/plain; charset=utf-8 for raw text, application/octet-stream for raw bytes.",
    ),
    optional("rows_max", Kind::Integer(1, 1 << 20), "Rows in a request, at most. Default: 1000."),
    optional(
        "bytes_max",
        Kind::Size,
        "Bytes in a request, at most, before compression; a longer row goes alone. Default: 1MiB.",
    ),
    optional("compression", Kind::Choice(&["none", "gzip"]), "How bodies are packed. Default: none."),
    optional(
        "headers",
        Kind::Map(&Kind::Secret),
        "Further headers, such as { \"x-api-key\" = \"$API_KEY\" }; $NAME is the environment variable with the value.",
    ),
    optional(
        "token",
        Kind::Filled,
        "$NAME, the environment variable with the token that is shown as `authorization: Bearer TOKEN`. Either this or token_file.",
    ),
    optional("token_file", Kind::Filled, "File with that token; relative to this file."),
    optional(
        "ca_file",
        Kind::Filled,
        "With https: certificates to trust instead of the system's (PEM); relative to this file.",
    ),
    optional(
        "proxy",
        Kind::Filled,
        "A proxy that connects us (CONNECT), http://host:port or https://host:port; or $NAME, the environment variable in which it stands. Default: none, whatever HTTP_PROXY and its like say.",
    ),
    optional("proxy_user", Kind::Filled, "Who asks the proxy, if it wants to know (Basic)."),
    optional("proxy_password_file", Kind::Filled, "File with that user's password; relative to this file."),
    optional(
        "timeout",
        Kind::Length,
        "For a request and its answer; at most 1h. A run that is to end waits for it. Default: 30s.",
    ),
    optional(
        "idempotent",
        Kind::Boolean,
        "Whether the server takes requests with the same Idempotency-Key once. Then the sink is exactly once, with [checkpoint]. Default: false.",
    ),
    optional(
        "at_once",
        Kind::Boolean,
        "With [checkpoint]: send rows as they come and not when their checkpoint is complete. They are there sooner; after a crash those since the newest checkpoint are sent again, in other requests. Default: false.",
    ),
    optional(
        "on_refused",
        Kind::Choice(&["stop", "dead_letter"]),
        "For rows that the server refuses for good (400, 413, 422): end the run, or keep them as dead letters of the sink, with its reason (needs [checkpoint]). Default: stop.",
    ),
    optional(
        "refused_path",
        Kind::Filled,
        "Instead of on_refused: a file to which such rows are appended with the server's reason; relative to this file.",
    ),
];

static STDOUT: &[Key] = &[
    INPUTS,
    optional(
        "format",
        Kind::Choice(&["json", "csv", "raw", "arrow"]),
        "json (one object a line), csv (with a header), raw (the only column, a value a line) or arrow (an IPC stream). Default: json.",
    ),
];

static NULL: &[Key] = &[INPUTS];
