//! Where sinks write, and which may share a place.

use std::path::Path;
use std::time::Duration;

use ringmill_connect::{
    Compression, FileSink, Format, HeaderColumn, HttpBody, HttpMethod, MqttQuality, MqttVersion, OnRefused,
    OutputFormat, Promise, Rolling, Tls, TokenPlace, WriteMode,
};
use ringmill_engine::plan::{NodeKind, Plan, SinkSpec};

use crate::{check, good, load, node};

#[test]
fn two_writers_cannot_share_a_place() {
    const HEAD: &str = "[checkpoint]\npath = \"state\"\n[sources.s]\nkind = \"generator\"\n";
    let sink = |name: &str, path: &str| {
        format!("[sinks.{name}]\nkind = \"file\"\nformat = \"csv\"\ninputs = [\"s\"]\npath = \"{path}\"\n")
    };
    let cases = [
        ("o.csv", "./x/../o.csv", "the sink `a` writes this file already"),
        ("o.csv", "/etc/mill/o.csv", "the sink `a` writes this file already"),
        ("out/", "out/", "the sink `a` writes this folder already"),
        ("out/", "out", "the sink `a` writes this folder already"),
        ("out/", "out/x.csv", "this lies in the folder that the sink `a` has for itself"),
        ("out/x.csv", "out/", "the sink `a` writes into this folder already"),
        ("o.csv", "state/", "[checkpoint] writes this folder already"),
        ("o.csv", "state/o.csv", "this lies in the folder that [checkpoint] has for itself"),
        ("o.csv", "./", "[checkpoint] writes into this folder already"),
    ];
    for (first, second, message) in cases {
        let text = [HEAD, &sink("a", first), &sink("b", second)].concat();
        check(&text, &[&format!("p.toml:14:8: {message}")]);
    }
    good(&[HEAD, &sink("a", "out/"), &sink("b", "out.csv"), &sink("c", "out2/")].concat());
}

#[test]
fn sinks_may_share_a_database_but_no_table() {
    let sink = |name: &str, table: &str| {
        format!("[sinks.{name}]\nkind = \"sqlite\"\ninputs = [\"s\"]\npath = \"o.db\"\ntable = \"{table}\"\n")
    };
    let text = |first: &str, second: &str| {
        ["[sources.s]\nkind = \"generator\"\n", &sink("a", first), &sink("b", second)].concat()
    };
    let config = good(&text("Readings", "alerts"));
    let NodeKind::Sink(SinkSpec::Sqlite { path, table }) = node(&config, "a") else { panic!("a table") };
    assert_eq!((path.as_path(), table.as_str()), (Path::new("/etc/mill/o.db"), "Readings"));
    check(
        &text("readings", "Readings"),
        &["p.toml:11:8: the sink `a` writes the table `Readings` of this database already"],
    );
    let reserved = "names that begin with sqlite_ or ringmill_ are";
    check(
        &text("SQLite_x", "ringmill_epochs"),
        &[
            &format!("p.toml:7:9: `table`: `SQLite_x` is reserved: {reserved}"),
            &format!("p.toml:12:9: `table`: `ringmill_epochs` is reserved: {reserved}"),
        ],
    );
    let file = sink("b", "x").replace("sqlite", "file").replace("table = \"x\"", "format = \"csv\"");
    check(
        &["[sources.s]\nkind = \"generator\"\n", &sink("a", "x"), &file].concat(),
        &["p.toml:11:8: the sink `a` writes this file already"],
    );
}

#[test]
fn a_postgres_sink_has_defaults_and_its_mistakes_never_show_the_url() {
    let sink = |keys: &str| {
        format!(
            "[sources.s]\nkind = \"generator\"\n[sinks.o]\nkind = \"postgres\"\ninputs = [\"s\"]\ntable = \"t\"\n{keys}"
        )
    };
    let url = "url = \"postgres://me:s3cret@db/events\"\n";
    let config = good(&sink(url));
    let NodeKind::Sink(SinkSpec::Postgres(found)) = node(&config, "o") else { panic!("a table") };
    assert_eq!((found.schema.as_str(), found.table.as_str()), ("public", "t"));
    assert_eq!((found.tls, &found.mode, found.create), (Tls::Prefer, &WriteMode::Insert, false));
    assert!(format!("{found:?}").contains("url: Secret(…)"));
    let keys = format!(
        "{url}mode = \"upsert\"\nconflict = [\"a\", \"b\"]\nsslmode = \"verify-full\"\nsslrootcert = \"ca.pem\"\n"
    );
    let config = good(&sink(&keys));
    let NodeKind::Sink(SinkSpec::Postgres(found)) = node(&config, "o") else { panic!("a table") };
    assert_eq!(found.mode, WriteMode::Upsert(vec!["a".to_owned(), "b".to_owned()]));
    assert_eq!(found.root_certificates.as_deref(), Some(Path::new("/etc/mill/ca.pem")));
    let wrong = "url = \"postgres://me:s3cret@db:x/events\"\n";
    let hint = "(for example url = \"postgres://user@localhost:5432/database\", with password_file)";
    let reason = "invalid connection string: invalid value for option `port`";
    check(&sink(wrong), &[&format!("p.toml:3:8: `url`: {reason} {hint}")]);
    let mistakes = load(&sink(wrong), &[]).expect_err("a mistake").to_string();
    assert!(!mistakes.contains("s3cret"), "{mistakes}");
    check(
        &sink("url = \"$RINGMILL_TEST_NO_SUCH_VARIABLE\"\n"),
        &["p.toml:3:8: `url`: there is no environment variable RINGMILL_TEST_NO_SUCH_VARIABLE"],
    );
    check(
        &sink(&format!("{url}mode = \"upsert\"\n")),
        &["p.toml:3:8: mode `upsert` needs `conflict` (name the key's columns: conflict = [\"device_id\"])"],
    );
    check(
        &sink(&format!("{url}conflict = [\"a\"]\nsslrootcert = \"ca.pem\"\n")),
        &[
            "p.toml:8:1: `conflict` has no effect without mode = \"upsert\"",
            "p.toml:9:1: `sslrootcert` has no effect without sslmode = \"verify-full\"",
        ],
    );
    let reserved = sink(url).replace("table = \"t\"", "table = \"Ringmill_epochs\"");
    check(&reserved, &["p.toml:6:9: `table`: `Ringmill_epochs` is reserved: names that begin with ringmill_ are"]);
}

#[test]
fn an_http_sink_has_defaults_and_its_mistakes_never_show_the_url_or_a_header() {
    let sink =
        |keys: &str| format!("[sources.s]\nkind = \"generator\"\n[sinks.o]\nkind = \"http\"\ninputs = [\"s\"]\n{keys}");
    let found = |keys: &str| {
        let config = good(&sink(keys));
        let NodeKind::Sink(SinkSpec::Http(found)) = node(&config, "o") else { panic!("requests") };
        found.clone()
    };
    let url = "url = \"https://alerts/T0KEN\"\n";
    let plain = found(url);
    assert_eq!((plain.method, plain.body), (HttpMethod::Post, HttpBody::Lines));
    assert_eq!((plain.rows_max, plain.bytes_max, plain.timeout), (1_000, 1 << 20, Duration::from_secs(30)));
    assert!(
        !plain.is_compressed
            && !plain.is_idempotent
            && !plain.is_at_once
            && plain.on_refused == OnRefused::Stop
            && plain.token.is_none()
    );
    assert!(!format!("{plain:?}").contains("T0KEN"));
    let keys = "method = \"PUT\"\nbody = \"row\"\ncompression = \"gzip\"\nheaders = { x-a = \"b\" }\nca_file = \"ca.pem\"\n\
                token_file = \"token\"\ntimeout = \"1s\"\nidempotent = true\nrefused_path = \"refused.ndjson\"\n";
    let full = found(&[url, keys].concat());
    assert_eq!((full.method, full.body, full.rows_max), (HttpMethod::Put, HttpBody::Row, 1));
    assert_eq!(full.token, Some(TokenPlace::File("/etc/mill/token".into())));
    assert_eq!(full.on_refused, OnRefused::Append("/etc/mill/refused.ndjson".into()));
    let checkpoint = "[checkpoint]\npath = \"state\"\n";
    let config = good(&[&sink(&[url, "on_refused = \"dead_letter\"\n"].concat()), checkpoint].concat());
    let NodeKind::Sink(SinkSpec::Http(kept)) = node(&config, "o") else { panic!("requests") };
    assert_eq!(kept.on_refused, OnRefused::DeadLetter);
    check(
        &sink(&[url, "on_refused = \"dead_letter\"\nrefused_path = \"a\"\n"].concat()),
        &[
            "p.toml:8:1: `refused_path` and `on_refused` exclude each other (either keeps the rows that the server refuses)",
        ],
    );
    assert!(full.is_compressed && full.is_idempotent && full.headers.len() == 1);
    assert!(full.proxy.is_none());
    let keys = "proxy = \"http://proxy:3128\"\nproxy_user = \"me\"\nproxy_password_file = \"pass\"\n";
    let proxy = found(&[url, keys].concat()).proxy.expect("a proxy");
    assert_eq!(proxy.password_file.as_deref(), Some(Path::new("/etc/mill/pass")));
    let reason = "user and password do not belong into it: use proxy_user and proxy_password_file";
    let hint = "(for example proxy = \"http://proxy:3128\")";
    check(
        &sink(&[url, "proxy = \"http://me:T0KEN@proxy:3128\"\n"].concat()),
        &[&format!("p.toml:3:8: `proxy`: {reason} {hint}")],
    );
    check(
        &sink(&[url, "proxy = \"http://proxy:3128\"\nproxy_user = \"me:T0KEN\"\n"].concat()),
        &[
            "p.toml:8:1: `proxy_user`: no user of a proxy has a colon in the name (the password belongs into proxy_password_file)",
        ],
    );
    check(&sink(&[url, "proxy_user = \"me\"\n"].concat()), &["p.toml:7:1: `proxy_user` has no effect without `proxy`"]);
    let hint = "(for example url = \"https://alerts.example.com/v1/rows\")";
    let reason = "user and password do not belong into it: use token_file, or a header";
    check(&sink("url = \"http://me:T0KEN@alerts/\"\n"), &[&format!("p.toml:3:8: `url`: {reason} {hint}")]);
    let keys = "headers = { content-type = \"T0KEN\", x-b = \"$RINGMILL_TEST_NO_SUCH_VARIABLE\" }\n";
    check(
        &sink(&[url, keys].concat()),
        &[
            "p.toml:7:13: `headers`: content-type: the sink sets this header itself, to what `content_type` says",
            "p.toml:7:37: `headers`: there is no environment variable RINGMILL_TEST_NO_SUCH_VARIABLE",
        ],
    );
    let mistakes = load(&sink(&[url, keys].concat()), &[]).expect_err("a mistake").to_string();
    assert!(!mistakes.contains("T0KEN"), "{mistakes}");
    let keys = "url = \"http://alerts/\"\nbody = \"row\"\nrows_max = 5\nca_file = \"ca.pem\"\nbytes_max = \"1GiB\"\n";
    check(
        &sink(keys),
        &[
            "p.toml:8:1: `rows_max` has no effect with body = \"row\"",
            "p.toml:9:1: `ca_file` has no effect without https",
            "p.toml:10:1: `bytes_max` has no effect with body = \"row\"",
            "p.toml:10:13: `bytes_max` must be between 1B and 256MiB",
        ],
    );
    assert!(found(&[url, "at_once = true\n"].concat()).is_at_once);
    let both = "`idempotent` has no effect with `at_once`: after a crash other requests have the same rows";
    check(
        &sink(&[url, "at_once = true\nidempotent = true\n"].concat()),
        &[&format!("p.toml:8:1: {both} (leave either of them out)")],
    );
    let other = "[sinks.p]\nkind = \"file\"\ninputs = [\"s\"]\npath = \"x.ndjson\"\n";
    let keys = "url = \"http://alerts/\"\nrefused_path = \"x.ndjson\"\n";
    check(&[&sink(keys), other].concat(), &["p.toml:11:8: the sink `o` writes this file already"]);
}

#[test]
fn an_http_sink_sends_text_of_ones_own_and_its_format_body_and_type_go_together() {
    let text = |keys: &str| {
        format!(
            "[sources.s]\nkind = \"stdin\"\nfields = {{ id = \"int64\", line = \"utf8\" }}\n\
             [sinks.o]\nkind = \"http\"\ninputs = [\"s\"]\nurl = \"http://x/\"\n{keys}"
        )
    };
    let found = |keys: &str| {
        let config = good(&text(keys));
        let NodeKind::Sink(SinkSpec::Http(found)) = node(&config, "o") else { panic!("requests") };
        found.clone()
    };
    let plain = found("");
    assert_eq!((plain.format, plain.column, plain.content_type), (Format::Json, None, None));
    let raw = found("format = \"raw\"\ncolumn = \"line\"\nbody = \"row\"\ncontent_type = \"text/plain\"\n");
    assert_eq!((raw.format, raw.body, raw.rows_max), (Format::Raw, HttpBody::Row, 1));
    assert_eq!((raw.column.as_deref(), raw.content_type.as_deref()), (Some("line"), Some("text/plain")));
    assert_eq!(found("format = \"csv\"\n").format, Format::Csv);
    let hint = "(for example content_type = \"text/plain; charset=utf-8\")";
    for (keys, problem) in [
        (
            "format = \"raw\"\ncolumn = \"line\"\nbody = \"array\"",
            "10:8: `body`: `array` does not go with format = \"raw\" (raw values are lines, or each is a body as it is)",
        ),
        (
            "format = \"csv\"\nbody = \"row\"",
            "9:8: `body`: `row` does not go with format = \"csv\" (rows of CSV are lines below their header)",
        ),
        ("column = \"line\"", "8:1: `column` has no effect without format = \"raw\""),
        (
            "format = \"raw\"\ncolumn = \"line\"\ncontent_type = \"text\"",
            &format!("10:16: `content_type`: `text`: this is no media type {hint}"),
        ),
    ] {
        check(&text(keys), &[&format!("p.toml:{problem}")]);
    }
    for (keys, problem) in [
        ("column = \"lin\"", "9:10: column is lin, but the rows have no such column"),
        ("column = \"id\"", "8:10: column \"id\" is int64, which raw cannot carry"),
        ("", "8:10: format is raw, but the rows have more than one column, and a line or message is one value"),
    ] {
        let config = good(&text(&format!("format = \"raw\"\n{keys}")));
        let errors = Plan::build(config.pipeline.clone(), config.nodes.clone()).expect_err("no value");
        assert_eq!(config.locate(errors).to_string().trim_end(), format!("p.toml:{problem}"));
    }
}

#[test]
fn a_nats_sink_has_a_stream_and_a_subject_or_a_column_with_subjects() {
    let sink =
        |keys: &str| format!("[sources.s]\nkind = \"generator\"\n[sinks.o]\nkind = \"nats\"\ninputs = [\"s\"]\n{keys}");
    let config = good(&sink(
        "url = \"nats://b\"\nstream = \"S\"\nsubject = \"a.b\"\nsubject_column = \"device_id\"\ntoken_file = \"t\"\n\
         headers = { trace = \"device_id\" }\n",
    ));
    let NodeKind::Sink(SinkSpec::Nats(found)) = node(&config, "o") else { panic!("subjects") };
    assert_eq!((found.stream.as_str(), found.subject.as_deref()), ("S", Some("a.b")));
    assert_eq!(found.subject_column.as_deref(), Some("device_id"));
    assert_eq!((found.headers[0].name.as_str(), found.headers[0].column.as_str()), ("trace", "device_id"));
    check(
        &sink(
            "url = \"nats://b\"\nstream = \"S\"\nsubject = \"a\"\nheaders = { \"a b\" = \"x\", nats-msg-id = \"y\" }\n",
        ),
        &[
            "p.toml:9:21: no message can have a header of the name \"a b\" (names of headers in NATS are ASCII without spaces and colons)",
            "p.toml:9:40: \"nats-msg-id\": headers whose name begins with Nats- are for the servers",
        ],
    );
    let needed = "p.toml:3:8: `subject` or `subject_column` is needed (add subject = \"scores\")";
    check(&sink("url = \"nats://b\"\nstream = \"S\"\n"), &[needed]);
    check(
        &sink("url = \"nats://b\"\nstream = \"S.T\"\nsubject = \"a.*\"\n"),
        &[
            "p.toml:7:10: `stream`: no stream can have this name (the messages of a stream are chosen with `subject`)",
            "p.toml:8:11: `subject`: no message can have it (`*` and `>` are for those who read)",
        ],
    );
}

#[test]
fn an_mqtt_sink_has_a_topic_or_a_column_with_topics() {
    let sink =
        |keys: &str| format!("[sources.s]\nkind = \"generator\"\n[sinks.o]\nkind = \"mqtt\"\ninputs = [\"s\"]\n{keys}");
    let config = good(&sink("url = \"mqtt://b\"\ntopic = \"a/b\"\ntopic_column = \"device_id\"\nretain = true\n"));
    let NodeKind::Sink(SinkSpec::Mqtt(found)) = node(&config, "o") else { panic!("topics") };
    assert_eq!((found.broker.port, found.topic.as_deref()), (1883, Some("a/b")));
    assert_eq!((found.topic_column.as_deref(), found.is_retained), (Some("device_id"), true));
    let needed = "p.toml:3:8: `topic` or `topic_column` is needed (add topic = \"scores\")";
    check(&sink("url = \"mqtt://b\"\n"), &[needed]);
    check(
        &sink("url = \"mqtt://b\"\ntopic = \"a/+\"\nca_file = \"ca.pem\"\npassword_file = \"p\"\n"),
        &[
            "p.toml:7:9: `topic`: no message can have it (`+` and `#` are for those who subscribe)",
            "p.toml:8:1: `ca_file` has no effect without mqtts://",
            "p.toml:9:1: `password_file` has no effect without `user`",
        ],
    );
}

#[test]
fn what_mqtt_3_does_not_know_and_qos_2_without_a_name_is_refused() {
    let sink = |keys: &str| {
        format!(
            "[sources.s]\nkind = \"generator\"\n[sinks.o]\nkind = \"mqtt\"\ninputs = [\"s\"]\nurl = \"mqtt://b\"\ntopic = \"t\"\n{keys}"
        )
    };
    let newer = "headers = { trace-id = \"device_id\" }\ncontent_type = \"text/x\"\nmessage_expiry = \"90s\"\n";
    let config = good(&sink(&format!("protocol = \"5\"\nqos = 2\nclient_id = \"c\"\n{newer}")));
    let NodeKind::Sink(SinkSpec::Mqtt(found)) = node(&config, "o") else { panic!("topics") };
    assert_eq!((found.version, found.quality), (MqttVersion::V5, MqttQuality::ExactlyOnce));
    assert_eq!((found.content_type.as_deref(), found.message_expiry_s), (Some("text/x"), Some(90)));
    assert_eq!(found.headers, [HeaderColumn { name: "trace-id".to_owned(), column: "device_id".to_owned() }]);
    let NodeKind::Sink(sink_of_3) = node(&good(&sink("qos = 0\n")), "o").clone() else { panic!("topics") };
    assert_eq!(sink_of_3.promise(), Promise::AtMostOnce);
    check(
        &sink(newer),
        &[
            "p.toml:8:1: `headers` is not known to MQTT 3.1.1 (add protocol = \"5\")",
            "p.toml:9:1: `content_type` is not known to MQTT 3.1.1 (add protocol = \"5\")",
            "p.toml:10:1: `message_expiry` is not known to MQTT 3.1.1 (add protocol = \"5\")",
        ],
    );
    let seconds = "is no number of whole seconds up to 4294967295s (MQTT counts them)";
    check(
        &sink("protocol = \"5\"\nqos = 2\nmessage_expiry = \"1500ms\"\ncontent_type = \"a\\u0000\"\n"),
        &[
            "p.toml:9:7: `qos = 2` needs `client_id` (the broker keeps a session under it)",
            &format!("p.toml:10:18: `message_expiry`: 1500ms {seconds}"),
            "p.toml:11:16: a text of MQTT has no null characters, and 65,535 bytes at most",
        ],
    );
}

#[test]
fn when_a_folder_s_files_are_complete_is_written_down() {
    let sink = |keys: &str| {
        format!("[sources.s]\nkind = \"generator\"\n[sinks.o]\nkind = \"file\"\ninputs = [\"s\"]\n{keys}\n")
    };
    let checkpoint = "[checkpoint]\npath = \"state\"\n";
    let rolling_of = |keys: &str| {
        let config = good(&format!("{}{checkpoint}", sink(keys)));
        let NodeKind::Sink(SinkSpec::File(FileSink { rolling, .. })) = node(&config, "o") else { panic!("a file") };
        *rolling
    };
    assert_eq!(rolling_of("path = \"o.csv/\""), Rolling::default());
    let rolling = rolling_of("path = \"o.csv/\"\nfile_size_max = \"128MiB\"\nroll_interval = \"10m\"");
    assert_eq!(rolling, Rolling { bytes_max: Some(128 << 20), interval: Some(Duration::from_secs(600)) });
    check(
        &sink("path = \"o.csv\"\nfile_size_max = \"1GiB\"\nroll_interval = \"0s\""),
        &[
            "p.toml:7:17: `file_size_max` belongs to a folder of files, and this is one file (end the path with a slash: path = \"o.csv/\")",
            "p.toml:8:17: `roll_interval` belongs to a folder of files, and this is one file (end the path with a slash: path = \"o.csv/\")",
            "p.toml:8:17: `roll_interval` must be more than 0 (leave it out)",
        ],
    );
    check(
        &sink("path = \"o.csv/\"\nfile_size_max = \"0B\""),
        &["p.toml:7:17: `file_size_max` must be more than 0 (leave it out)"],
    );
    check(
        &sink("path = \"o.csv/\"\nfile_size_max = \"128\""),
        &["p.toml:7:17: `file_size_max`: sizes need a unit, for example \"128KiB\""],
    );
}

#[test]
fn a_file_s_format_is_written_down_or_told_by_its_name() {
    let sink = |keys: &str| {
        format!("[sources.s]\nkind = \"generator\"\n[sinks.o]\nkind = \"file\"\ninputs = [\"s\"]\n{keys}\n")
    };
    let format_of = |keys: &str| {
        let config = good(&sink(keys));
        let NodeKind::Sink(SinkSpec::File(FileSink { format, .. })) = node(&config, "o") else { panic!("a file") };
        *format
    };
    assert_eq!(format_of("path = \"o.jsonl\""), OutputFormat::Json);
    assert_eq!(format_of("path = \"o.csv/\""), OutputFormat::Csv);
    assert_eq!(format_of("path = \"o.arrow\""), OutputFormat::Arrow);
    assert_eq!(format_of("path = \"o/\"\nformat = \"arrow\""), OutputFormat::Arrow);
    assert_eq!(format_of("path = \"o.parquet/\""), OutputFormat::Parquet(Compression::Zstd));
    let keys = "path = \"o/\"\nformat = \"parquet\"\ncompression = \"none\"";
    assert_eq!(format_of(keys), OutputFormat::Parquet(Compression::None));
    check(
        &sink("path = \"o.parquet\""),
        &[
            "p.toml:6:8: `path`: a Parquet file cannot grow, so rows are written as files of a folder (end the path with a slash: path = \"o.parquet/\")",
        ],
    );
    check(
        &sink("path = \"o.feather\""),
        &[
            "p.toml:6:8: `path`: a Feather file cannot grow, so rows are written as files of a folder (end the path with a slash: path = \"o.feather/\")",
        ],
    );
    check(
        &sink("path = \"o.csv\"\ncompression = \"zstd\""),
        &["p.toml:7:1: `compression` belongs to format = \"parquet\", and this is csv (remove it)"],
    );
    check(
        &sink("path = \"out\""),
        &[
            "p.toml:6:8: the format of `out` cannot be told from its name (add format = \"json\", \"csv\", \"raw\", \"arrow\" or \"parquet\")",
        ],
    );
}

#[test]
fn transactions_of_a_kafka_sink_need_checkpoints_and_a_name_of_their_own() {
    const CHECKPOINT: &str = "[checkpoint]\npath = \"state\"\n";
    let sink = |name: &str, broker: &str, keys: &str| {
        format!("[sinks.{name}]\nkind = \"kafka\"\ninputs = [\"s\"]\nbrokers = [\"{broker}\"]\ntopic = \"t\"\n{keys}\n")
    };
    const SOURCE: &str = "[sources.s]\nkind = \"generator\"\n";
    let id = "transactional_id = \"alerts\"";
    let promised = |keys: &str| match node(&good(&[CHECKPOINT, SOURCE, &sink("o", "b:1", keys)].concat()), "o") {
        NodeKind::Sink(sink @ SinkSpec::Kafka(found)) => (sink.promise(), found.transactional_id.clone()),
        other => panic!("{other:?}"),
    };
    assert_eq!(promised(""), (Promise::AtLeastOnce, None));
    assert_eq!(promised(id), (Promise::ExactlyOnce, Some("alerts".to_owned())));
    good(&["[pipeline]\nguarantee = \"exactly-once\"\n", CHECKPOINT, SOURCE, &sink("o", "b:1", id)].concat());
    check(
        &[SOURCE, &sink("o", "b:1", id)].concat(),
        &[
            "p.toml:8:1: `transactional_id`: what is committed in a transaction is a checkpoint's, and there are none (add [checkpoint] with path = \"state\")",
        ],
    );
    check(
        &[CHECKPOINT, SOURCE, &sink("o", "b:1", id), &sink("p", "b:1", id)].concat(),
        &[
            "p.toml:16:20: `transactional_id`: the sink `o` has this one already (each sink of each pipeline has one of its own)",
        ],
    );
    good(&[CHECKPOINT, SOURCE, &sink("o", "b:1", id), &sink("p", "c:1", id)].concat());
    check(
        &[CHECKPOINT, SOURCE, &sink("o", "b:1", "options = { \"transactional.id\" = \"x\" }")].concat(),
        &[
            "p.toml:10:13: `options`: \"transactional.id\" follows from `transactional_id` (they are listed at https://github.com/confluentinc/librdkafka/blob/master/CONFIGURATION.md)",
        ],
    );
}

#[test]
fn messages_of_a_sink_are_json_or_avro_by_a_schema_or_a_registry() {
    use ringmill_connect::{AvroSpec, MessageOutput};
    let sink = |kind: &str, keys: &str| {
        format!("[sources.s]\nkind = \"generator\"\n[sinks.o]\nkind = \"{kind}\"\ninputs = [\"s\"]\n{keys}\n")
    };
    let kafka = |keys: &str| sink("kafka", &format!("brokers = [\"b:9092\"]\ntopic = \"scores\"\n{keys}"));
    let format = |text: &str| match node(&good(text), "o") {
        NodeKind::Sink(SinkSpec::Kafka(found)) => found.format.clone(),
        NodeKind::Sink(SinkSpec::Nats(found)) => found.format.clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(format(&kafka("")), MessageOutput::Json);
    let registry = "format = \"avro\"\navro = { registry = \"http://r:8081\" }";
    let MessageOutput::Avro(avro) = format(&kafka(registry)) else { panic!("avro") };
    assert!(matches!(avro.spec, AvroSpec::Registry(_, None)) && avro.subject == "scores-value", "{avro:?}");
    let nats = "url = \"nats://b\"\nstream = \"S\"\nsubject = \"a\"\nformat = \"avro\"\n";
    let MessageOutput::Avro(avro) = format(&sink("nats", &[nats, "avro = { registry = \"http://r\" }"].concat()))
    else {
        panic!("avro")
    };
    assert_eq!(avro.subject, "S-value");
    for (keys, expected) in [
        (
            "format = \"avro\"",
            "p.toml:8:10: `format` is avro, but there is no table `avro` (add avro = { schema_file = \"reading.avsc\" })",
        ),
        ("avro = { registry = \"http://r\" }", "p.toml:8:1: `avro` has no effect without format = \"avro\""),
        (
            "format = \"avro\"\navro = { registry = \"r\" }",
            "p.toml:9:1: `registry`: this is no address that begins with http:// or https://",
        ),
        (
            "format = \"avro\"\navro = { schema_file = \"/gone.avsc\", subject = \"x\" }",
            "p.toml:9:38: `subject` has no effect without `registry`",
        ),
    ] {
        let mistakes = load(&kafka(keys), &[]).expect_err(keys).to_string();
        assert!(mistakes.lines().any(|line| line == expected), "{mistakes}");
    }
    let columns = "url = \"mqtt://b\"\ntopic_column = \"device_id\"\n";
    let mistakes = load(&sink("mqtt", &[columns, registry].concat()), &[]).expect_err("no topic").to_string();
    assert!(mistakes.contains("`avro` needs `subject`"), "{mistakes}");
}
