//! The keys of sources, but for those in modules of their own.

use super::{
    AT_LEAST, AT_MOST, COUNT_MAX, EVENT_TIME, EXACTLY, FIELDS_OR_TYPES, FORMAT, IDLE_TIMEOUT, Key, Kind, MAX_FUTURE,
    OUT_OF_ORDERNESS, POSITIVE, RATE, RECORD_SIZE_MAX, STOP_EARLY, TYPE_OF_LINES, TYPES, Variant,
    messages::{KAFKA, MQTT, NATS, NATS_CORE},
    needed, optional,
    python::{PRODUCER, PYTHON},
};

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
