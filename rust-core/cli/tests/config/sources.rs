//! Sources: fields, event time, formats.

use std::path::Path;
use std::time::Duration;

use ringmill::config::Config;
use ringmill_connect::{
    Address, Broker, HttpSpec, KafkaGroup, KafkaMembership, KafkaShare, KafkaStart, MqttVersion, NatsLogin, NatsStart,
    Promise, Replay, TokenPlace,
};
use ringmill_engine::plan::{NodeKind, SourceConnector, SourceSpec};

use crate::{around, check, good, load, node};

#[test]
fn fields_are_checked() {
    let source = |fields: &str| around(&format!("kind = \"stdin\"\nfields = {{ {fields} }}"), "");
    let cases = [
        ("a = \"string\"", "16", "`a`: `string` is not a column type (did you mean `utf8`?)"),
        ("a = \"flaot64\"", "16", "`a`: `flaot64` is not a column type (did you mean `float64`?)"),
        ("a = 5", "16", "`a` is an integer, but should be a column type (for example \"float64\")"),
        ("a = { nullable = true }", "12", "`a` needs `type` (Column type, for example \"utf8\" or \"timestamp[ms]\".)"),
        ("a = { type = \"utf8\", path = \"x.y\" }", "40", "`x.y` is not a JSON pointer (write \"/x/y\")"),
        ("a = { type = \"utf8\", nulable = true }", "33", "unknown key `nulable` in `a` (did you mean `nullable`?)"),
        ("", "1", "`fields` is empty (declare at least one column)"),
    ];
    for (fields, column, message) in cases {
        let line = format!("p.toml:3:{column}: {message}");
        check(&source(fields), &[&line]);
    }
}

#[test]
fn json_has_lists_and_csv_has_none() {
    let source = |format: &str| {
        around(&format!("kind = \"stdin\"\nformat = \"{format}\"\nfields = {{ a = \"list[int8]\" }}"), "")
    };
    good(&source("json"));
    check(&source("csv"), &["p.toml:4:16: `a`: there are no lists in CSV"]);
}

#[test]
fn event_time_has_to_be_a_timestamp_of_the_source() {
    let source = |time: &str| {
        let fields =
            "fields = { at = \"timestamp[ms]\", no = \"int64\", maybe = { type = \"timestamp[s]\", nullable = true } }";
        around(&format!("kind = \"stdin\"\nevent_time = \"{time}\"\n{fields}"), "")
    };
    good(&source("at"));
    check(&source("att"), &["p.toml:3:14: `event_time`: there is no field `att` (did you mean `at`?)"]);
    check(
        &source("no"),
        &[
            "p.toml:3:14: `event_time`: the field `no` is int64, not a timestamp (declare no = \"timestamp[ms]\" (or s, us, ns))",
        ],
    );
    check(
        &source("maybe"),
        &["p.toml:3:14: `event_time`: the field `maybe` may be null (event time needs a value in every row)"],
    );
}

#[test]
fn as_many_threads_decode_as_cores_are_left() {
    let source = |path: &str, more: &str| {
        around(&format!("kind = \"file\"\npath = \"{path}\"\nfields = {{ a = \"utf8\" }}\n{more}"), "")
    };
    let threads = |text: &str| match node(&good(text), "s") {
        NodeKind::Source(SourceSpec { connector: SourceConnector::File(file), .. }) => file.decode_threads,
        other => panic!("{other:?}"),
    };
    let cores = std::thread::available_parallelism().unwrap().get();
    assert_eq!(threads(&source("a.ndjson", "")), (cores - 1).min(4));
    assert_eq!(threads(&source("a.ndjson", "decode_threads = 7")), 7);
    assert_eq!(threads(&source("a.csv", "decode_threads = 0")), 0);
    check(&source("a.csv", "decode_threads = 65"), &["p.toml:5:18: `decode_threads` must be between 0 and 64"]);
    check(
        &source("a.parquet", "decode_threads = 2"),
        &["p.toml:5:1: `decode_threads` belongs to text, and this is parquet (remove it)"],
    );
}

#[test]
fn formats_come_from_the_extension() {
    let source = |path: &str| around(&format!("kind = \"file\"\npath = \"{path}\"\nfields = {{ a = \"utf8\" }}"), "");
    for path in [
        "a.ndjson",
        "a.jsonl.gz",
        "*.json.zst",
        "a.csv",
        "a.csv.gz",
        "a.parquet",
        "a.avro",
        "*.arrow",
        "a.arrows",
        "a.feather",
    ] {
        good(&source(path));
    }
    check(
        &source("a.txt"),
        &[
            "p.toml:3:8: the format of `a.txt` cannot be told from its name (add format = \"json\", \"csv\", \"raw\", \"arrow\", \"parquet\" or \"avro\")",
        ],
    );
}

#[test]
fn files_of_avro_may_have_a_schema_of_the_readers() {
    let source = |path: &str, more: &str| {
        around(&format!("kind = \"file\"\npath = \"{path}\"\nfields = {{ a = \"utf8\" }}\n{more}"), "")
    };
    good(&source("a.dat", "format = \"avro\""));
    check(
        &source("a.csv", "avro = { schema_file = \"a.avsc\" }"),
        &["p.toml:5:1: `avro` has no effect without format = \"avro\" (remove it)"],
    );
    check(
        &source("a.avro", "avro = { schema_file = \"a.avsc\" }"),
        &["p.toml:5:24: `schema_file`: /etc/mill/a.avsc: No such file or directory (os error 2)"],
    );
    check(
        &source("a.avro", "avro = {}"),
        &[
            "p.toml:5:1: `avro` needs `schema_file` (Your schema (.avsc), which says the defaults and former names of fields that a file's schema lacks; relative to this file.)",
        ],
    );
    check(
        &source("a.avro", "record_size_max = \"1MB\""),
        &["p.toml:5:1: `record_size_max` belongs to text, and this is avro (remove it)"],
    );
}

#[test]
fn a_socket_listens_at_a_port_or_at_a_path() {
    let socket = |keys: &str| around(&format!("kind = \"socket\"\n{keys}\nfields = {{ a = \"int64\" }}"), "");
    let source = |config: &Config| match node(config, "s") {
        NodeKind::Source(source) => source.connector.clone(),
        other => panic!("{other:?}"),
    };
    let SourceConnector::Socket(tcp) = source(&good(&socket("tcp = \"127.0.0.1:7000\""))) else { panic!("a socket") };
    assert_eq!((tcp.address, tcp.connections_max), (Address::Tcp("127.0.0.1:7000".to_owned()), 100));
    let config = good(&socket("path = \"in.sock\"\nconnections_max = 7"));
    let SourceConnector::Socket(unix) = source(&config) else { panic!("a socket") };
    assert_eq!((unix.address, unix.connections_max), (Address::Unix("/etc/mill/in.sock".into()), 7));
    for keys in ["", "tcp = \"[::1]:7000\"\npath = \"in.sock\""] {
        check(
            &socket(keys),
            &[
                "p.toml:1:10: a socket needs either `tcp` or `path` (tcp = \"127.0.0.1:7000\" is a port, path = \"in.sock\" a Unix socket)",
            ],
        );
    }
}

fn http(keys: &str) -> String {
    around(&format!("kind = \"http\"\n{keys}\nfields = {{ a = \"int64\" }}"), "")
}

#[test]
fn an_http_source_listens_for_this_machine_unless_it_is_told_otherwise() {
    let spec = |keys: &str| -> HttpSpec {
        match node(&good(&http(keys)), "s") {
            NodeKind::Source(SourceSpec { connector: SourceConnector::Http(spec), .. }) => spec.clone(),
            other => panic!("{other:?}"),
        }
    };
    let default = spec("");
    assert_eq!((default.listen.to_string().as_str(), default.path.as_str()), ("127.0.0.1:8080", "/ingest"));
    assert_eq!((default.request_bytes_max, default.connections_max, default.token), (16 << 20, 100, None));
    assert_eq!(default.request_timeout, Duration::from_secs(30));
    let other = spec("listen = \"0.0.0.0:80\"\ntoken_file = \"token\"\npath = \"/a/b\"\nrequest_timeout = \"2s\"");
    assert_eq!(other.token, Some(TokenPlace::File("/etc/mill/token".into())));
    assert_eq!((other.path.as_str(), other.request_timeout), ("/a/b", Duration::from_secs(2)));
    assert!(spec("listen = \"[::]:80\"\nallow_remote = true").token.is_none());
    check(
        &http("listen = \"0.0.0.0:80\""),
        &[
            "p.toml:3:10: `listen`: whoever can reach 0.0.0.0:80 could send rows (add token_file = \"token\", or allow_remote = true)",
        ],
    );
}

#[test]
fn the_keys_of_an_http_source_are_checked() {
    let token = "(write token = \"$INGEST_TOKEN\", or token_file)";
    for (keys, place, problem) in [
        ("listen = \"here\"", "3:10", "`listen`: `here` is no address with a port (write \"127.0.0.1:8080\" for this machine, \"0.0.0.0:8080\" for everybody)".to_owned()),
        ("path = \"ingest\"", "3:8", "`path`: `ingest` is no path of an address (write path = \"/ingest\", for example)".to_owned()),
        ("path = \"/a?b\"", "3:8", "`path`: `/a?b` is no path of an address (write path = \"/ingest\", for example)".to_owned()),
        ("request_size_max = \"1GiB\"", "3:20", "`request_size_max` must be between 1B and 256MiB".to_owned()),
        ("request_timeout = \"2h\"", "3:19", "`request_timeout` must be at most 1h".to_owned()),
        ("token = \"s3cret\"", "1:10", format!("`token` is no token itself but names the variable in which it stands {token}")),
        ("token = \"$RINGMILL_NOT_THERE\"", "1:10", format!("`token`: there is no environment variable RINGMILL_NOT_THERE {token}")),
        ("token = \"$PATH\"\ntoken_file = \"t\"", "1:10", format!("`token` and `token_file` exclude each other {token}")),
    ] {
        check(&http(keys), &[&format!("p.toml:{place}: {problem}")]);
    }
}

#[test]
fn no_two_listen_at_one_address() {
    let other = "[sources.t]\nkind = \"http\"\nlisten = \"localhost:8080\"\nfields = { a = \"int64\" }\n[sinks.more]\nkind = \"null\"\ninputs = [\"t\"]";
    let text = around("kind = \"http\"\nfields = { a = \"int64\" }", other);
    check(&text, &["p.toml:6:10: `listen`: s listens at 127.0.0.1:8080 already (give one of them another port)"]);
}

#[test]
fn an_mqtt_source_has_a_broker_topics_and_a_session() {
    let mqtt = |url: &str, keys: &str| {
        let fields = "fields = { a = \"int64\", topic = \"utf8\", there = { type = \"utf8\", path = \"/x\" } }";
        around(&format!("kind = \"mqtt\"\nurl = \"{url}\"\nclient_id = \"c\"\n{keys}\n{fields}"), "")
    };
    let config = good(&mqtt(
        "mqtts://broker",
        "topics = [\"a/+/b\", \"$share/g/#\"]\nqos = 0\nuser = \"u\"\npassword_file = \"secret\"\nca_file = \"ca.pem\"\ntopic_field = \"topic\"",
    ));
    let NodeKind::Source(source) = node(&config, "s") else { panic!("a source") };
    let SourceConnector::Mqtt(spec) = &source.connector else { panic!("a broker") };
    assert_eq!(spec.broker, Broker { host: "broker".to_owned(), port: 8883, is_encrypted: true });
    assert_eq!((spec.is_acknowledged, spec.topics.len()), (false, 2));
    assert_eq!(spec.password_file.as_deref(), Some(Path::new("/etc/mill/secret")));
    let newer = "topics = [\"a\"]\nprotocol = \"5\"\nsession_expiry = \"1h\"\nheader_fields = { topic = \"trace-id\" }";
    let config = good(&mqtt("mqtt://broker", newer));
    let NodeKind::Source(source) = node(&config, "s") else { panic!("a source") };
    let SourceConnector::Mqtt(spec) = &source.connector else { panic!("a broker") };
    assert_eq!((spec.version, spec.session_expiry_s, spec.members()), (MqttVersion::V5, Some(3_600), vec!["topic"]));
    let topics = "topics = [\"a\"]";
    for (url, keys, message) in [
        (
            "mqtt://me:s3cret@broker",
            topics,
            "p.toml:1:10: `url`: user and password do not stand in it, but in `user` and `password_file` (for example url = \"mqtt://localhost:1883\")",
        ),
        (
            "mqtt://broker",
            "topics = [\"a\"]\nheader_fields = { topic = \"trace-id\" }",
            "p.toml:6:1: `header_fields` is not known to MQTT 3.1.1 (add protocol = \"5\")",
        ),
        (
            "mqtt://broker",
            "topics = [\"a\"]\nprotocol = \"5\"\ntopic_field = \"topic\"\nheader_fields = { topic = \"trace-id\" }",
            "p.toml:8:19: `header_fields.topic`: field `topic` is that of `topic_field` already",
        ),
        ("mqtt://broker", "topics = []", "p.toml:5:10: `topics` is empty"),
        (
            "mqtt://broker",
            "topics = [\"a/#/b\"]",
            "p.toml:5:10: `topics`: \"a/#/b\" is none (`+` stands for one part between slashes, `#` for all parts at the end: \"plant/+/#\")",
        ),
        (
            "mqtt://broker",
            "topics = [\"a\"]\ntopic_field = \"nowhere\"",
            "p.toml:6:15: `topic_field`: there is no field `nowhere` ([sources.NAME.fields] nowhere = \"utf8\")",
        ),
        (
            "mqtt://broker",
            "topics = [\"a\"]\ntopic_field = \"there\"",
            "p.toml:6:15: `topic_field`: field `there` must have no path ([sources.NAME.fields] there = \"utf8\")",
        ),
        (
            "mqtt://broker",
            "topics = [\"a\"]\npassword_file = \"secret\"",
            "p.toml:6:1: `password_file` has no effect without `user`",
        ),
        (
            "mqtt://broker",
            "topics = [\"a\"]\nca_file = \"ca.pem\"",
            "p.toml:6:1: `ca_file` has no effect without mqtts://",
        ),
    ] {
        check(&mqtt(url, keys), &[message]);
    }
}

#[test]
fn a_kafka_source_has_brokers_topics_and_fields_for_what_stands_beside_a_message() {
    let kafka = |keys: &str| {
        let fields = "fields = { a = \"int64\", key = \"utf8\", at = \"timestamp[s]\", trace = \"utf8\" }";
        around(&format!("kind = \"kafka\"\nbrokers = [\"b:9092\"]\n{keys}\n{fields}"), "")
    };
    let config = good(&kafka(
        "topics = [\"t\", \"u*\"]\npartitions = [0, 3]\nstart_time = \"1970-01-01T00:00:01.5Z\"\nkey_field = \"key\"\n\
         options = { \"security.protocol\" = \"ssl\" }\noptions_file = \"secret\"\nstop_at_end = true\n\
         header_fields = { trace = \"trace-id\" }\nshare = { index = 3, count = 4 }",
    ));
    let NodeKind::Source(source) = node(&config, "s") else { panic!("a source") };
    let SourceConnector::Kafka(spec) = &source.connector else { panic!("brokers") };
    assert_eq!((spec.start, spec.partitions.as_slice()), (KafkaStart::Timestamp(1_500), &[0, 3][..]));
    assert_eq!(spec.options_file.as_deref(), Some(Path::new("/etc/mill/secret")));
    assert_eq!((spec.message_fields.key.as_deref(), spec.stops_at_end), (Some("key"), true));
    assert!(!format!("{spec:?}").contains("\"ssl\""), "what may be a password is not shown");
    assert_eq!(spec.message_fields.names(), ["key", "trace"]);
    assert_eq!(spec.share, Some(KafkaShare { index: 3, count: 4 }));
    assert_eq!(spec.message_fields.headers[0].header, "trace-id");
    let listed = "(they are listed at https://github.com/confluentinc/librdkafka/blob/master/CONFIGURATION.md)";
    for (keys, message) in [
        ("topics = []", "4:10: `topics` is empty".to_owned()),
        (
            "topics = [\"t\"]\nstart = \"latest\"\nstart_time = 2026-01-01T00:00:00Z",
            "6:1: `start` and `start_time` contradict each other".to_owned(),
        ),
        (
            "topics = [\"t\"]\nstart = \"oldest\"",
            "5:9: `start` is `oldest`, but should be one of earliest, latest".to_owned(),
        ),
        (
            "topics = [\"t\"]\ntimestamp_field = \"at\"",
            "5:19: `timestamp_field`: field `at` must be timestamp[ms] ([sources.NAME.fields] at = \"timestamp[ms]\")"
                .to_owned(),
        ),
        (
            "topics = [\"t\"]\nshare = { index = 4, count = 4 }",
            "5:19: `index` is 4, but of 4 shares the last is 3".to_owned(),
        ),
        (
            "topics = [\"t\"]\nheader_fields = { a = \"b\" }",
            "5:19: `header_fields.a`: field `a` must be utf8 or binary ([sources.NAME.fields] a = \"utf8\")".to_owned(),
        ),
        (
            "topics = [\"t\"]\nheader_fields = { trcae = \"b\" }",
            "5:19: `header_fields.trcae`: there is no field `trcae` ([sources.NAME.fields] trcae = \"utf8\")"
                .to_owned(),
        ),
        (
            "topics = [\"t\"]\nkey_field = \"key\"\nheader_fields = { key = \"b\" }",
            "6:19: `header_fields.key`: field `key` is that of `key_field` already".to_owned(),
        ),
        (
            "topics = [\"t\"]\nheader_fields = { trace = \"b\\u0000c\" }",
            "5:27: \"b\\0c\" is no header's name: it has a zero byte".to_owned(),
        ),
        (
            "topics = [\"t\"]\noptions = { \"sasl.pasword\" = \"hunter2\" }",
            format!("5:13: `options`: librdkafka has no property \"sasl.pasword\" {listed}"),
        ),
        (
            "topics = [\"t\"]\noptions = { \"group.id\" = \"mine\" }",
            format!("5:13: `options`: \"group.id\" follows from `group` {listed}"),
        ),
    ] {
        check(&kafka(keys), &[&format!("p.toml:{message}")]);
    }
}

#[test]
fn a_member_of_a_group_has_its_name_and_fixes_nothing_that_is_dealt() {
    let kafka = |keys: &str| {
        let source =
            format!("kind = \"kafka\"\nbrokers = [\"b:9092\"]\ntopics = [\"t\"]\n{keys}\nfields = {{ a = \"int64\" }}");
        around(&source, "")
    };
    let group = |keys: &str| {
        let config = good(&kafka(keys));
        let NodeKind::Source(source) = node(&config, "s") else { panic!("a source") };
        let SourceConnector::Kafka(spec) = &source.connector else { panic!("brokers") };
        (spec.group.clone(), source.connector.promise())
    };
    let named = |membership| Some(KafkaGroup { name: "g".to_owned(), membership });
    assert_eq!(group(""), (None, Promise::ExactlyOnce));
    assert_eq!(group("group = \"g\"\nassignment = \"fixed\""), (named(None), Promise::ExactlyOnce));
    let membership = KafkaMembership { instance: None };
    assert_eq!(group("group = \"g\"\nassignment = \"group\""), (named(Some(membership)), Promise::AtLeastOnce));
    let membership = KafkaMembership { instance: Some("i".to_owned()) };
    let keys = "group = \"g\"\nassignment = \"group\"\ngroup_instance_id = \"i\"\nstop_at_end = false";
    assert_eq!(group(keys), (named(Some(membership)), Promise::AtLeastOnce));
    for (keys, messages) in [
        ("assignment = \"group\"", &["5:14: `assignment` = \"group\" needs `group`, the name of the group"][..]),
        (
            "group = \"g\"\ngroup_instance_id = \"i\"",
            &["6:1: `group_instance_id` is for a member of a group (add assignment = \"group\")"],
        ),
        (
            "group = \"g\"\nassignment = \"group\"\npartitions = [1]\nshare = { index = 0, count = 2 }\nstop_at_end = true",
            &[
                "7:1: `partitions` fixes what `assignment` = \"group\" leaves to the group",
                "8:1: `share` fixes what `assignment` = \"group\" leaves to the group",
                "9:1: `stop_at_end`: with `assignment` = \"group\" a partition that was read to its end may come back",
            ],
        ),
        (
            "group = \"g\"\noptions = { \"group.instance.id\" = \"i\" }",
            &[
                "6:13: `options`: \"group.instance.id\" follows from `group_instance_id` (they are listed at https://github.com/confluentinc/librdkafka/blob/master/CONFIGURATION.md)",
            ],
        ),
    ] {
        let messages: Vec<String> = messages.iter().map(|message| format!("p.toml:{message}")).collect();
        check(&kafka(keys), &messages.iter().map(String::as_str).collect::<Vec<_>>());
    }
}

#[test]
fn a_nats_source_has_servers_a_stream_and_a_way_to_show_who_we_are() {
    let nats = |url: &str, keys: &str| {
        let fields = "fields = { a = \"int64\", subject = \"utf8\", trace = \"binary\", at = \"timestamp[ms]\" }";
        around(&format!("kind = \"nats\"\nurl = \"{url}\"\n{keys}\n{fields}"), "")
    };
    let config = good(&nats(
        "tls://a,tls://b:4223",
        "stream = \"EVENTS\"\nsubject = \"plant.*\"\nstart_time = \"1970-01-01T00:00:01.5Z\"\nsubject_field = \"subject\"\n\
         credentials_file = \"mill.creds\"\nca_file = \"ca.pem\"\nstop_at_end = true\n\
         header_fields = { trace = \"trace-id\" }",
    ));
    let NodeKind::Source(source) = node(&config, "s") else { panic!("a source") };
    let SourceConnector::Nats(spec) = &source.connector else { panic!("servers") };
    assert_eq!((spec.servers.to_string().as_str(), spec.stream.as_str()), ("tls://a:4222,tls://b:4223", "EVENTS"));
    assert_eq!((spec.start, spec.stops_at_end), (NatsStart::Time(1_500_000_000), true));
    assert_eq!(spec.servers.login, NatsLogin::Credentials("/etc/mill/mill.creds".into()));
    assert_eq!(spec.servers.root_certificates.as_deref(), Some(Path::new("/etc/mill/ca.pem")));
    assert_eq!(spec.message_fields.names(), ["subject", "trace"]);
    assert_eq!(spec.subjects, ["plant.*"]);
    let config = good(&nats("nats://b", "stream = \"S\"\nsubjects = [\"plant.*\", \"spare.>\"]"));
    let NodeKind::Source(source) = node(&config, "s") else { panic!("a source") };
    let SourceConnector::Nats(spec) = &source.connector else { panic!("servers") };
    assert_eq!(spec.subjects, ["plant.*", "spare.>"]);
    let durable = |name: &str| {
        nats("nats://b", &format!("stream = \"S\"\ndurable = \"{name}\"")) + "\n[checkpoint]\npath = \"state\"\n"
    };
    good(&durable("mill"));
    let message = "p.toml:5:11: `durable`: no consumer can have this name (it has no spaces, and none of . * > / \\)";
    check(&durable("a.b"), &[message]);
    let example = "(for example url = \"nats://localhost:4222\")";
    for (url, keys, message) in [
        (
            "nats://me:s3cret@b",
            "stream = \"S\"",
            format!("1:10: `url`: user, password and token do not stand in it, but in keys of their own {example}"),
        ),
        ("http://b", "stream = \"S\"", format!("1:10: `url`: it must begin with nats:// or tls:// {example}")),
        (
            "nats://b",
            "stream = \"S.>\"",
            "4:10: `stream`: no stream can have this name (the messages of a stream are chosen with `subject`)".to_owned(),
        ),
        (
            "nats://b",
            "stream = \"S\"\nsubject = \"a.>.b\"",
            "5:11: `subject`: this is none (`*` stands for one part between dots, `>` for all parts at the end: \"plant.*.>\")"
                .to_owned(),
        ),
        (
            "nats://b",
            "stream = \"S\"\nsubject = \"a\"\nsubjects = [\"b\"]",
            "6:1: `subject` and `subjects` exclude each other".to_owned(),
        ),
        (
            "nats://b",
            "stream = \"S\"\ndurable = \"mill\"",
            "5:1: `durable` has no effect without [checkpoint]".to_owned(),
        ),
        ("nats://b", "stream = \"S\"\nsubjects = []", "5:12: `subjects` is empty".to_owned()),
        (
            "nats://b",
            "stream = \"S\"\nsubjects = [\"a\", \"b..c\"]",
            "5:18: `subjects`: this is none (`*` stands for one part between dots, `>` for all parts at the end: \"plant.*.>\")"
                .to_owned(),
        ),
        (
            "nats://b",
            "stream = \"S\"\nsubjects = [\"a.*\", \"b\", \"*.c\"]",
            "5:25: `subjects`: a message can be of both \"a.*\" and \"*.c\" (servers choose only by subjects that do not overlap)"
                .to_owned(),
        ),
        (
            "nats://b",
            "stream = \"S\"\nheader_fields = { subject = \"a:b\" }",
            "5:29: no message can have a header of the name \"a:b\" (names of headers in NATS are ASCII without spaces and colons)"
                .to_owned(),
        ),
        (
            "nats://b",
            "stream = \"S\"\nsubject_field = \"subject\"\nheader_fields = { subject = \"a\" }",
            "6:19: `header_fields.subject`: field `subject` is that of `subject_field` already".to_owned(),
        ),
        ("nats://b", "stream = \"S\"\nca_file = \"x\"", "5:1: `ca_file` has no effect without tls://".to_owned()),
        (
            "nats://b",
            "stream = \"S\"\npassword_file = \"x\"",
            "5:1: `password_file` has no effect without `user`".to_owned(),
        ),
        (
            "nats://b",
            "stream = \"S\"\nuser = \"me\"\ntoken_file = \"x\"",
            "1:10: `user`, `token` and `credentials_file` exclude each other".to_owned(),
        ),
        (
            "nats://b",
            "stream = \"S\"\nstart = \"latest\"\nstart_time = 2026-01-01T00:00:00Z",
            "6:1: `start` and `start_time` contradict each other".to_owned(),
        ),
        (
            "nats://b",
            "stream = \"S\"\ntimestamp_field = \"at\"",
            "5:19: `timestamp_field`: field `at` must be timestamp[ns] ([sources.NAME.fields] at = \"timestamp[ns]\")"
                .to_owned(),
        ),
    ] {
        check(&nats(url, keys), &[&format!("p.toml:{message}")]);
    }
}

#[test]
fn a_source_of_core_nats_has_subjects_and_perhaps_a_group() {
    let core = |keys: &str| {
        around(
            &format!("kind = \"nats_core\"\nurl = \"nats://b\"\n{keys}\nfields = {{ a = \"int64\", s = \"utf8\" }}"),
            "",
        )
    };
    let keys = "subjects = [\"a.*\", \"b\"]\nqueue_group = \"mill\"\nheader_fields = { s = \"trace\" }";
    let config = good(&core(keys));
    let NodeKind::Source(source) = node(&config, "s") else { panic!("a source") };
    let SourceConnector::NatsCore(spec) = &source.connector else { panic!("subjects") };
    assert_eq!((&*spec.subjects, spec.queue_group.as_deref()), (&["a.*".to_owned(), "b".to_owned()][..], Some("mill")));
    assert_eq!(spec.message_fields.names(), ["s"]);
    for (keys, message) in [
        ("subjects = []", "4:12: `subjects` is empty"),
        (
            "subjects = [\"a\", \">\"]",
            "4:18: `subjects`: a message can be of both \"a\" and \">\" (servers choose only by subjects that do not overlap)",
        ),
        ("subjects = [\"a\"]\nqueue_group = \"a b\"", "5:15: `queue_group`: no group can have this name"),
    ] {
        check(&core(keys), &[&format!("p.toml:{message}")]);
    }
}

#[test]
fn a_mistake_in_an_option_that_may_be_a_password_is_shown_without_its_line() {
    for option in ["\"sasl.pasword\" = \"hunter2\"", "\"sasl.password\" = [\"hunter2\"]"] {
        let keys = format!("kind = \"kafka\"\nbrokers = [\"b\"]\ntopics = [\"t\"]\noptions = {{ {option} }}");
        let mistakes = load(&around(&format!("{keys}\nfields = {{ a = \"int64\" }}"), ""), &[]).expect_err(option);
        let shown = mistakes.render(false);
        assert!(shown.contains("p.toml:5:") && !shown.contains("hunter2"), "{shown}");
    }
}

#[test]
fn a_python_source_is_a_class_with_its_options() {
    let config = good(&around(
        "kind = \"python\"\nclass = \"orders:Orders\"\nfields = { id = \"int64\", name = { type = \"utf8\", nullable = true } }\n\
         options = { path = \"x.db\", since = 2026-01-01T00:00:00Z, rows = 7, share = 0.5, follow = true, more = [1, { a = \"b\" }] }\n\
         batch_rows = 10\nslots = 2\nretries = 3\ntimeout = \"2s\"\nrate = 5",
        "",
    ));
    let NodeKind::Source(source) = node(&config, "s") else { panic!("a source") };
    let SourceConnector::Python(python) = &source.connector else { panic!("a class") };
    assert_eq!(python.feed.origin, "orders:Orders");
    assert_eq!((python.feed.rows_max, python.feed.variable_bytes_max, python.slots), (10, 640, 2));
    assert_eq!((python.supervision.retries, python.supervision.timeout_ns), (3, Some(2_000_000_000)));
    let expected = serde_json::json!({
        "path": "x.db", "since": "2026-01-01T00:00:00Z", "rows": 7, "share": 0.5, "follow": true, "more": [1, { "a": "b" }]
    });
    assert_eq!(python.options, expected);
    assert_eq!(config.python.as_deref(), Some(Path::new("/bin/true")), "it needs an interpreter");
}

#[test]
fn a_producer_source_names_who_may_send() {
    let source = |keys: &str| {
        let config = good(&around(&format!("kind = \"producer\"\nfields = {{ id = \"int64\" }}\n{keys}"), ""));
        let NodeKind::Source(source) = node(&config, "s") else { panic!("a source") };
        let SourceConnector::Producer(producer) = &source.connector else { panic!("producers") };
        (**producer).clone()
    };
    let plain = source("");
    assert_eq!((&plain.names[..], plain.slots, plain.is_ended_by_closing), (&["default".to_owned()][..], 16, false));
    assert_eq!((plain.feed.replay(), plain.feed.rows_max), (Replay::Lost, 1024));
    let other = source("producers = [\"a\", \"b\"]\nreplayable = true\nend = \"closed\"\nslots = 2\nbatch_rows = 10");
    assert_eq!(
        (&other.names[..], other.slots, other.is_ended_by_closing),
        (&["a".to_owned(), "b".to_owned()][..], 2, true)
    );
    assert_eq!((other.feed.replay(), other.feed.rows_max), (Replay::Seekable, 10));
}

#[test]
fn mistakes_of_a_producer_source_are_named_with_their_lines() {
    check(
        &around(
            "kind = \"producer\"\nfields = { id = { type = \"int64\", path = \"/id\" } }\nproducers = [\"a\", \"b\", \"a\"]\nend = \"later\"\nslots = 3",
            "",
        ),
        &[
            "p.toml:3:35: `id`: `path` has no effect here: producers give columns by their names (remove it)",
            "p.toml:4:13: `producers` names `a` twice (each producer is a partition with a name of its own)",
            "p.toml:5:7: `end` is `later`, but should be one of never, closed",
            "p.toml:6:9: `slots` must be a power of two (use 2 or 4)",
        ],
    );
    check(
        &around("kind = \"producer\"\nfields = { id = \"int64\" }\nproducers = []", ""),
        &["p.toml:4:13: `producers` is empty, so nobody could send (leave it out for a single producer, \"default\")"],
    );
}

#[test]
fn mistakes_of_a_python_source_are_named_with_their_lines() {
    check(
        &around(
            "kind = \"python\"\nclass = \"orders.py\"\nfields = { id = { type = \"int64\", path = \"/id\" } }\noptions = 7\nretry_backoff = \"1s\"",
            "",
        ),
        &[
            "p.toml:3:9: `class`: `orders.py` names no class (write module:Class, for example \"numbers:Numbers\" for class Numbers in numbers.py)",
            "p.toml:4:35: `id`: `path` has no effect here: the class gives columns by their names (remove it)",
            "p.toml:5:11: `options` is an integer, but should be a table",
            "p.toml:6:1: `retry_backoff` has no effect without `retries` (add retries = 3, for example)",
        ],
    );
    check(
        &around("kind = \"python\"\nclass = \"a:B\"\nfields = { id = \"int64\" }\noptions = { size = nan }", ""),
        &["p.toml:5:20: `size` is neither a number of 64 bits nor a finite one (write it in quotes)"],
    );
}

#[test]
fn raw_lines_and_messages_have_one_field_of_text_or_bytes() {
    let file = |fields: &str| around(&format!("kind = \"file\"\npath = \"a.log\"\nformat = \"raw\"\n{fields}"), "");
    let kafka = |fields: &str| {
        let kafka = "kind = \"kafka\"\nbrokers = [\"b\"]\ntopics = [\"t\"]\nkey_field = \"key\"\nformat = \"raw\"";
        around(&format!("{kafka}\n{fields}"), "")
    };
    good(&file("fields = { line = \"utf8\" }"));
    good(&kafka("fields = { key = \"utf8\", payload = \"binary\" }"));
    check(
        &file("fields = { line = \"utf8\", number = \"int64\" }"),
        &["p.toml:5:36: `number`: a raw line or message is one value, which line takes"],
    );
    check(
        &kafka("fields = { key = \"utf8\", payload = \"int64\" }"),
        &["p.toml:7:36: `payload`: it is int64, and a raw line or message is utf8 or binary"],
    );
    check(
        &kafka("fields = { key = \"utf8\" }"),
        &["p.toml:1:10: `format`: none of the fields takes the line or message itself"],
    );
    check(
        &file("type = { field = \"kind\" }\n[sources.s.types.order]\nfields = { a = \"utf8\" }"),
        &[
            "p.toml:6:12: `types`: raw lines and messages do not say a type (add `fields` with one field)",
            "p.toml:11:11: `s` has events of several types, each with a stream of its own (name them: s.order)",
        ],
    );
    check(
        &kafka("avro = { registry = \"http://r\" }\nfields = { key = \"utf8\", payload = \"binary\" }"),
        &["p.toml:7:1: `avro` has no effect without format = \"avro\""],
    );
}

#[test]
fn only_json_that_says_all_its_fields_itself_is_read_no_further_than_needed() {
    let source = |keys: &str| around(&format!("stop_early = true\n{keys}\nfields = {{ a = \"utf8\" }}"), "");
    let kafka = "kind = \"kafka\"\nbrokers = [\"b:1\"]\ntopics = [\"t\"]";
    let wrong = |text: &str| format!("p.toml:2:1: `stop_early` {text}");
    for keys in ["kind = \"file\"\npath = \"a.ndjson\"", "kind = \"stdin\"", "kind = \"socket\"\npath = \"a\"", kafka] {
        good(&source(keys));
    }
    check(&source("kind = \"file\"\npath = \"a.csv\""), &[&wrong("belongs to JSON, and this is csv (remove it)")]);
    check(&source("kind = \"file\"\npath = \"a.arrow\""), &[&wrong("belongs to text, and this is arrow (remove it)")]);
    check(&source("kind = \"stdin\"\nformat = \"raw\""), &[&wrong("belongs to JSON, and this is raw (remove it)")]);
    check(
        &source(&format!("{kafka}\nheader_fields = {{ a = \"h\" }}")),
        &[&wrong(
            "has no effect with `header_fields`, whose value stands behind a message's end (leave either of them out)",
        )],
    );
}

#[test]
fn a_socket_takes_lines_streams_of_arrow_or_micro_batches() {
    let socket = |keys: &str| around(&format!("kind = \"socket\"\npath = \"in.sock\"\n{keys}"), "");
    let format = |keys: &str| match node(&good(&socket(keys)), "s") {
        NodeKind::Source(SourceSpec { connector: SourceConnector::Socket(spec), .. }) => spec.format.name(),
        other => panic!("{other:?}"),
    };
    assert_eq!(format("fields = { a = \"int64\" }"), "json");
    assert_eq!(format("format = \"raw\"\nfields = { a = \"utf8\" }"), "raw");
    assert_eq!(format("format = \"arrow\"\nfields = { a = \"int64\", b = \"utf8\" }"), "arrow");
    assert_eq!(format("format = \"micro_batch\"\nfields = { a = \"int64\", b = \"utf8\" }"), "micro_batch");
    for format in ["arrow", "micro_batch"] {
        let types = "type = { field = \"kind\" }\n[sources.s.types.order]\nfields = { a = \"utf8\" }";
        check(
            &socket(&format!("format = \"{format}\"\n{types}")),
            &[
                &format!("p.toml:5:1: `type` belongs to lines, and this is {format} (remove it)"),
                &format!("p.toml:6:12: `types` belongs to lines, and this is {format} (remove it)"),
                "p.toml:11:11: `s` has events of several types, each with a stream of its own (name them: s.order)",
            ],
        );
    }
    check(
        &socket("format = \"csv\"\nfields = { a = \"utf8\" }"),
        &["p.toml:4:10: `format` is `csv`, but should be one of json, raw, arrow, micro_batch"],
    );
}
