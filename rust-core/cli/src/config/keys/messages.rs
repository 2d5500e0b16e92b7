//! The keys of sources and sinks whose rows are messages: `kafka`, `mqtt`, `nats`.

use super::{
    EVENT_TIME, FIELDS_OR_TYPES, IDLE_TIMEOUT, INPUTS, Key, Kind, MAX_FUTURE, OUT_OF_ORDERNESS, RATE, RECORD_SIZE_MAX,
    STOP_EARLY, TYPE_FIELD, TYPE_OF_LINES, TYPES, needed, optional,
};

const MESSAGE_FORMAT: Key = optional(
    "format",
    Kind::Choice(&["json", "avro", "protobuf", "raw"]),
    "What a message is: json (one object), avro (one datum), protobuf (one message), these two with a table of that name, or raw (the value of the one field that takes nothing else). Default: json.",
);
const AVRO: Key = optional("avro", Kind::Table(AVRO_KEYS), "How messages are read with format = \"avro\".");

const PROTOBUF: Key =
    optional("protobuf", Kind::Table(PROTOBUF_KEYS), "How messages are read with format = \"protobuf\".");

const TYPE_OF_MESSAGES: Key =
    optional("type", Kind::Table(TYPE_OF_MESSAGE), "With `types`: how an event says which of them it is of.");
static TYPE_OF_MESSAGE: &[Key] = &[
    TYPE_FIELD,
    optional("header", Kind::Filled, "The header of a message with the type; of several with this name the last."),
    TYPE_SCHEMA,
];
const TYPE_SCHEMA: Key = optional(
    "schema",
    Kind::Boolean,
    "true, with Avro or Protobuf by a schema registry: the type is the full name of a message's record or message type.",
);
const TYPE_WITHOUT_HEADERS: Key =
    optional("type", Kind::Table(TYPE_WITHOUT_HEADER), "With `types`: how an event says which of them it is of.");
static TYPE_WITHOUT_HEADER: &[Key] = &[TYPE_FIELD, TYPE_SCHEMA];

const REGISTRY: Key = optional(
    "registry",
    Kind::Filled,
    "Where a schema registry is, http:// or https://, by whose numbers messages say their schema (Confluent's wire format); or $NAME, the environment variable in which it stands.",
);
const REGISTRY_USER: Key =
    optional("user", Kind::Filled, "User at the registry, or $NAME, the environment variable in which it stands.");
const REGISTRY_PASSWORD: Key =
    optional("password", Kind::Filled, "$NAME, the environment variable with the user's password.");
const REGISTRY_CA_FILE: Key = optional(
    "ca_file",
    Kind::Filled,
    "With https: certificates to trust instead of the system's (PEM); relative to this file.",
);
const REGISTRY_TIMEOUT: Key =
    optional("timeout", Kind::Length, "For one request to the registry; at most 1h. Default: 10s.");

const OUTPUT_FORMAT: Key = optional(
    "format",
    Kind::Choice(&["json", "avro", "protobuf", "raw"]),
    "What a message is: json (the row as an object), avro (as one datum) or protobuf (as one message), these two with a table of that name, or raw (the value of the only column besides those for key, headers and the like). Default: json.",
);
const AVRO_OUTPUT: Key =
    optional("avro", Kind::Table(AVRO_OUTPUT_KEYS), "How messages are written with format = \"avro\".");
static AVRO_OUTPUT_KEYS: &[Key] = &[
    optional(
        "schema_file",
        Kind::Filled,
        "The schema of messages (.avsc), with a field for each column; relative to this file. With registry: optional, one is made of the columns.",
    ),
    optional(
        "encoding",
        Kind::Choice(&["datum", "single-object"]),
        "With schema_file, what stands around a datum: nothing, or Avro's single-object encoding with the schema's fingerprint. Default: datum.",
    ),
    REGISTRY_OUTPUT,
    SUBJECT,
    REGISTRY_USER,
    REGISTRY_PASSWORD,
    REGISTRY_CA_FILE,
    REGISTRY_TIMEOUT,
];

const REGISTRY_OUTPUT: Key = optional(
    "registry",
    Kind::Filled,
    "Where a schema registry is, http:// or https://, that is told the schema and by whose number messages say it (Confluent's wire format); or $NAME, the environment variable in which it stands.",
);
const SUBJECT: Key = optional(
    "subject",
    Kind::Filled,
    "With registry: under which the schema stands there. Default: TOPIC-value, with NATS STREAM-value.",
);

const PROTOBUF_OUTPUT: Key =
    optional("protobuf", Kind::Table(PROTOBUF_OUTPUT_KEYS), "How messages are written with format = \"protobuf\".");
static PROTOBUF_OUTPUT_KEYS: &[Key] = &[
    optional(
        "descriptor_file",
        Kind::Filled,
        "Without registry: the types of messages, as protoc --include_imports --descriptor_set_out writes them; relative to this file.",
    ),
    optional(
        "schema_file",
        Kind::Filled,
        "With registry: the types as text (.proto), which the registry is told; relative to this file. Without it, a message is made of the columns.",
    ),
    optional("message", Kind::Filled, "With either file: the full name of the type, such as plant.Reading."),
    optional(
        "paths",
        Kind::Map(&Kind::Filled),
        "Where columns are written that are not fields of their own name: JSON pointers through messages, such as { site = \"/meta/site\" }.",
    ),
    REGISTRY_OUTPUT,
    SUBJECT,
    REGISTRY_USER,
    REGISTRY_PASSWORD,
    REGISTRY_CA_FILE,
    REGISTRY_TIMEOUT,
];

static PROTOBUF_KEYS: &[Key] = &[
    optional(
        "descriptor_file",
        Kind::Filled,
        "The types of messages, as protoc --include_imports --descriptor_set_out writes them; relative to this file.",
    ),
    optional(
        "message",
        Kind::Filled,
        "The full name of the type that messages have, such as plant.Reading. With registry: messages of others become dead letters; optional.",
    ),
    REGISTRY,
    REGISTRY_USER,
    REGISTRY_PASSWORD,
    REGISTRY_CA_FILE,
    REGISTRY_TIMEOUT,
];

static AVRO_KEYS: &[Key] = &[
    optional(
        "schema_file",
        Kind::Filled,
        "The schema by which messages were written (.avsc); relative to this file. With registry: yours, which says the defaults and former names of fields that a message's schema lacks; optional.",
    ),
    optional(
        "encoding",
        Kind::Choice(&["datum", "single-object"]),
        "With schema_file, what stands around a datum: nothing, or Avro's single-object encoding with the schema's fingerprint. Default: datum.",
    ),
    REGISTRY,
    REGISTRY_USER,
    REGISTRY_PASSWORD,
    REGISTRY_CA_FILE,
    REGISTRY_TIMEOUT,
];

const HEADER_FIELDS: Key = optional(
    "header_fields",
    Kind::Map(&Kind::Filled),
    "Fields (utf8 or binary) that take the value of a message's header each, such as { trace = \"trace-id\" }; null where there is none.",
);

const BROKERS: Key = needed(
    "brokers",
    Kind::List(&Kind::Filled),
    "Where to ask for all brokers, such as [\"kafka-1:9092\", \"kafka-2:9092\"].",
);
const KAFKA_OPTIONS: Key = optional(
    "options",
    Kind::Map(&Kind::Secret),
    "Properties of librdkafka, such as { \"security.protocol\" = \"ssl\" }.",
);
const KAFKA_OPTIONS_FILE: Key = optional(
    "options_file",
    Kind::Filled,
    "A file with further ones, name=value a line, for passwords; relative to this file.",
);

static KAFKA_SHARE: &[Key] = &[
    needed(
        "index",
        Kind::Integer(0, i32::MAX as i64),
        "Which of the shares, from 0: the partitions whose number leaves it when divided by `count`.",
    ),
    needed("count", Kind::Integer(1, i32::MAX as i64), "How many shares there are."),
];

pub(super) static KAFKA: &[Key] = &[
    BROKERS,
    needed(
        "topics",
        Kind::List(&Kind::Filled),
        "Topics, or patterns (*, ?, [a-z]) that are looked for at the start. Each partition is read by one shard.",
    ),
    optional(
        "partitions",
        Kind::List(&Kind::Integer(0, i32::MAX as i64)),
        "Only these partitions of each topic, where several pipelines share them. Default: all.",
    ),
    optional(
        "share",
        Kind::Table(KAFKA_SHARE),
        "Of these partitions only a share, such as { index = 0, count = 4 }, where several pipelines share them evenly. Default: all.",
    ),
    optional(
        "start",
        Kind::Choice(&["earliest", "latest"]),
        "Where a partition begins of which no checkpoint says where. Default: \"earliest\".",
    ),
    optional("start_time", Kind::Timestamp, "Instead of `start`: begin with messages of this time."),
    optional(
        "stop_at_end",
        Kind::Boolean,
        "Whether a partition has ended when all messages in it are read. Default: false, further ones are waited for.",
    ),
    optional(
        "assignment",
        Kind::Choice(&["fixed", "group"]),
        "Who says which partitions are read: fixed (`partitions` and `share`, at the start) or group (the brokers deal them to the members of `group`, and they come and go). Default: fixed.",
    ),
    optional(
        "group",
        Kind::Filled,
        "Group under which the brokers are told what completed checkpoints cover: for tools that show lag, and with assignment = \"group\" for its other members. Default: none.",
    ),
    optional(
        "group_instance_id",
        Kind::Filled,
        "With assignment = \"group\": a name of this member's own. Back within session.timeout.ms, it has the same partitions again, and the group does not notice. Default: none.",
    ),
    KAFKA_OPTIONS,
    KAFKA_OPTIONS_FILE,
    optional("topic_field", Kind::Filled, "The field (utf8) that takes a message's topic."),
    optional("key_field", Kind::Filled, "The field (utf8 or binary) that takes a message's key."),
    optional("partition_field", Kind::Filled, "The field (int32 or int64) that takes a message's partition."),
    optional("offset_field", Kind::Filled, "The field (int64) that takes a message's offset."),
    optional("timestamp_field", Kind::Filled, "The field (timestamp[ms]) that takes a message's time stamp."),
    HEADER_FIELDS,
    MESSAGE_FORMAT,
    AVRO,
    PROTOBUF,
    FIELDS_OR_TYPES,
    TYPE_OF_MESSAGES,
    TYPES,
    RATE,
    RECORD_SIZE_MAX,
    STOP_EARLY,
    EVENT_TIME,
    OUT_OF_ORDERNESS,
    IDLE_TIMEOUT,
    MAX_FUTURE,
];

const MQTT_URL: Key =
    needed("url", Kind::Filled, "mqtt://host:port, or mqtts://host:port for an encrypted connection.");
const MQTT_USER: Key = optional("user", Kind::Filled, "User at the broker.");
const MQTT_PASSWORD_FILE: Key =
    optional("password_file", Kind::Filled, "A file with the user's password; relative to this file.");
const MQTT_CA_FILE: Key = optional(
    "ca_file",
    Kind::Filled,
    "With mqtts: certificates to trust instead of the system's (PEM); relative to this file.",
);

const MQTT_PROTOCOL: Key =
    optional("protocol", Kind::Choice(&["3.1.1", "5"]), "Version of MQTT that is spoken. Default: \"3.1.1\".");

pub(super) static MQTT: &[Key] = &[
    MQTT_URL,
    MQTT_PROTOCOL,
    needed(
        "topics",
        Kind::List(&Kind::Filled),
        "Topics, such as [\"plant/+/temperature\"], also of the form $share/GROUP/TOPIC.",
    ),
    needed(
        "client_id",
        Kind::Filled,
        "Name of the session that the broker keeps, with what was not acknowledged. No other client may use it.",
    ),
    optional(
        "session_expiry",
        Kind::Length,
        "With protocol = \"5\": for so long the broker keeps the session while nobody is connected; whole seconds. Default: for ever.",
    ),
    optional(
        "qos",
        Kind::Integer(0, 1),
        "1: the broker sends again what was not acknowledged; 0: each message once, whether it arrives or not. Default: 1.",
    ),
    MQTT_USER,
    MQTT_PASSWORD_FILE,
    MQTT_CA_FILE,
    optional("topic_field", Kind::Filled, "The field that takes a message's topic."),
    optional(
        "header_fields",
        Kind::Map(&Kind::Filled),
        "With protocol = \"5\": fields (utf8 or binary) that take the value of a message's user property each, such as { trace = \"trace-id\" }; null where there is none.",
    ),
    MESSAGE_FORMAT,
    AVRO,
    PROTOBUF,
    FIELDS_OR_TYPES,
    TYPE_WITHOUT_HEADERS,
    TYPES,
    RATE,
    RECORD_SIZE_MAX,
    STOP_EARLY,
    EVENT_TIME,
    OUT_OF_ORDERNESS,
    IDLE_TIMEOUT,
    MAX_FUTURE,
];

const NATS_URL: Key = needed(
    "url",
    Kind::Filled,
    "nats://host:port, or tls://host:port for an encrypted connection; several servers with commas in between.",
);
const NATS_USER: Key = optional("user", Kind::Filled, "User at the servers.");
const NATS_PASSWORD_FILE: Key =
    optional("password_file", Kind::Filled, "A file with the user's password; relative to this file.");
const NATS_TOKEN: Key =
    optional("token", Kind::Filled, "$NAME, the environment variable with a token instead of a user.");
const NATS_TOKEN_FILE: Key = optional("token_file", Kind::Filled, "A file with a token; relative to this file.");
const NATS_CREDENTIALS_FILE: Key = optional(
    "credentials_file",
    Kind::Filled,
    "A file with a JWT and the seed of its key (.creds) instead of a user; relative to this file.",
);
const NATS_CA_FILE: Key = optional(
    "ca_file",
    Kind::Filled,
    "With tls: certificates to trust instead of the system's (PEM); relative to this file.",
);

pub(super) static NATS: &[Key] = &[
    NATS_URL,
    needed("stream", Kind::Filled, "The stream, whose retention is `limits`. One shard reads it."),
    optional(
        "subject",
        Kind::Filled,
        "Only messages of this subject, such as \"plant.*.temperature\" or \"plant.>\". Default: all.",
    ),
    optional(
        "subjects",
        Kind::List(&Kind::Filled),
        "Only messages of these subjects, no two of which have one in common. Servers before 2.10 send all, and the others are left out here.",
    ),
    optional(
        "durable",
        Kind::Filled,
        "Name of a durable consumer on which is acknowledged, for tools that show lag, what completed checkpoints cover; of this pipeline alone. Default: none.",
    ),
    optional(
        "start",
        Kind::Choice(&["earliest", "latest"]),
        "Where reading begins if no checkpoint says where. Default: \"earliest\".",
    ),
    optional("start_time", Kind::Timestamp, "Instead of `start`: begin with messages that were taken at this time."),
    optional(
        "stop_at_end",
        Kind::Boolean,
        "Whether the source has ended when all messages in the stream are read. Default: false, further ones are waited for.",
    ),
    NATS_USER,
    NATS_PASSWORD_FILE,
    NATS_TOKEN,
    NATS_TOKEN_FILE,
    NATS_CREDENTIALS_FILE,
    NATS_CA_FILE,
    optional("subject_field", Kind::Filled, "The field (utf8) that takes a message's subject."),
    optional("sequence_field", Kind::Filled, "The field (int64) that takes a message's number in the stream."),
    optional("timestamp_field", Kind::Filled, "The field (timestamp[ns]) that takes the time at which it was taken."),
    HEADER_FIELDS,
    MESSAGE_FORMAT,
    AVRO,
    PROTOBUF,
    FIELDS_OR_TYPES,
    TYPE_OF_MESSAGES,
    TYPES,
    RATE,
    RECORD_SIZE_MAX,
    STOP_EARLY,
    EVENT_TIME,
    OUT_OF_ORDERNESS,
    IDLE_TIMEOUT,
    MAX_FUTURE,
];

pub(super) static NATS_CORE: &[Key] = &[
    NATS_URL,
    needed(
        "subjects",
        Kind::List(&Kind::Filled),
        "Subjects, such as [\"plant.*.temperature\", \"spare.>\"], no two of which have a message in common.",
    ),
    optional(
        "queue_group",
        Kind::Filled,
        "Each message comes to one of those that subscribe under this name. Default: to everybody.",
    ),
    NATS_USER,
    NATS_PASSWORD_FILE,
    NATS_TOKEN,
    NATS_TOKEN_FILE,
    NATS_CREDENTIALS_FILE,
    NATS_CA_FILE,
    optional("subject_field", Kind::Filled, "The field (utf8) that takes a message's subject."),
    HEADER_FIELDS,
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

pub(super) static KAFKA_SINK: &[Key] = &[
    INPUTS,
    BROKERS,
    needed("topic", Kind::Filled, "The topic. Each row is a message."),
    optional("key", Kind::Filled, "The column (utf8, binary or an integer) that is also the key. Default: no key."),
    optional(
        "timestamp",
        Kind::Filled,
        "The column (timestamp) that is also the message's time stamp. Default, and where it is null: when it is sent.",
    ),
    optional(
        "headers",
        Kind::Map(&Kind::Filled),
        "Headers of a message, and the columns (utf8, binary or integers) with their values, such as { trace-id = \"trace\" }; where one is null its header is left out.",
    ),
    OUTPUT_FORMAT,
    AVRO_OUTPUT,
    PROTOBUF_OUTPUT,
    optional(
        "transactional_id",
        Kind::Filled,
        "Send the rows of each checkpoint in a transaction, under this name, which no other sink of any pipeline has: exactly once, for those who read what is committed; needs [checkpoint]. Default: there are no transactions, and rows are sent as they come.",
    ),
    KAFKA_OPTIONS,
    KAFKA_OPTIONS_FILE,
];

pub(super) static MQTT_SINK: &[Key] = &[
    INPUTS,
    MQTT_URL,
    MQTT_PROTOCOL,
    optional("topic", Kind::Filled, "The topic. Each row is a message."),
    optional(
        "topic_column",
        Kind::Filled,
        "The column (utf8) with a row's topic; where it is null `topic` is meant. Either of them is needed.",
    ),
    optional(
        "qos",
        Kind::Integer(0, 2),
        "1: a message is sent again until the broker acknowledges it; 2: the same, and it is taken once as long as the broker keeps the session, which needs `client_id`; 0: sent once, whether it arrives or not. Default: 1.",
    ),
    optional(
        "retain",
        Kind::Boolean,
        "Whether the broker keeps a topic's last message for those who subscribe later. Default: false.",
    ),
    optional(
        "headers",
        Kind::Map(&Kind::Filled),
        "With protocol = \"5\": user properties of a message, and the columns (utf8 or integers) with their values, such as { trace-id = \"trace\" }; where one is null its property is left out.",
    ),
    optional(
        "content_type",
        Kind::Filled,
        "With protocol = \"5\": what a payload is, such as \"application/json\", for those who read it. Default: it is not said.",
    ),
    optional(
        "message_expiry",
        Kind::Length,
        "With protocol = \"5\": after so long the broker hands a message out no more; whole seconds. Default: it always does.",
    ),
    optional(
        "client_id",
        Kind::Filled,
        "Name at the broker, where no other client may have it. Default: one made up for each run.",
    ),
    OUTPUT_FORMAT,
    AVRO_OUTPUT,
    PROTOBUF_OUTPUT,
    MQTT_USER,
    MQTT_PASSWORD_FILE,
    MQTT_CA_FILE,
];

const NATS_SUBJECT: Key = optional("subject", Kind::Filled, "The subject. Each row is a message.");
const NATS_SUBJECT_COLUMN: Key = optional(
    "subject_column",
    Kind::Filled,
    "The column (utf8) with a row's subject; where it is null `subject` is meant. Either of them is needed.",
);
const NATS_HEADERS: Key = optional(
    "headers",
    Kind::Map(&Kind::Filled),
    "Headers of a message, and the columns (utf8 or integers) with their values, such as { trace-id = \"trace\" }; where one is null its header is left out.",
);

pub(super) static NATS_SINK: &[Key] = &[
    INPUTS,
    NATS_URL,
    needed("stream", Kind::Filled, "The stream. No other one is written to."),
    NATS_SUBJECT,
    NATS_SUBJECT_COLUMN,
    NATS_HEADERS,
    OUTPUT_FORMAT,
    AVRO_OUTPUT,
    PROTOBUF_OUTPUT,
    NATS_USER,
    NATS_PASSWORD_FILE,
    NATS_TOKEN,
    NATS_TOKEN_FILE,
    NATS_CREDENTIALS_FILE,
    NATS_CA_FILE,
];

pub(super) static NATS_CORE_SINK: &[Key] = &[
    INPUTS,
    NATS_URL,
    NATS_SUBJECT,
    NATS_SUBJECT_COLUMN,
    NATS_HEADERS,
    OUTPUT_FORMAT,
    AVRO_OUTPUT,
    PROTOBUF_OUTPUT,
    NATS_USER,
    NATS_PASSWORD_FILE,
    NATS_TOKEN,
    NATS_TOKEN_FILE,
    NATS_CREDENTIALS_FILE,
    NATS_CA_FILE,
];
