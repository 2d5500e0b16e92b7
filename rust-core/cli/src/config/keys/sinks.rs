//! The keys of sinks, but for those in modules of their own.

use super::{
    AT_LEAST, AT_MOST, EXACTLY, FORMAT, INPUTS, Key, Kind, Variant,
    messages::{KAFKA_SINK, MQTT_SINK, NATS_CORE_SINK, NATS_SINK},
    needed, optional,
    python::PYTHON_SINK,
};

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
