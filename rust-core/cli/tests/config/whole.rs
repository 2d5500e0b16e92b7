//! The file as a whole: the agreed example, defaults, keys, and the tables `pipeline` and `checkpoint`.

use std::path::Path;

use ringmill::config::parse;
use ringmill::config::text::Text;
use ringmill_connect::FileSink;
use ringmill_engine::plan::{CheckpointSpec, NodeKind, OnError, SinkSpec, SourceConnector, StartFrom};
use ringmill_engine::profile::Profile;
use ringmill_engine::window::{Statistic, WindowKind};
use ringmill_ring::Wait;

use crate::{EXAMPLE, around, check, good, machine, node};

#[test]
fn the_agreed_example_is_understood() {
    let config = good(EXAMPLE);
    assert_eq!((config.pipeline.name.as_str(), config.pipeline.shards), ("telemetry", 1));
    assert_eq!(config.pipeline.state_bytes_max, 2 << 30);
    let names: Vec<&str> = config.nodes.iter().map(|node| node.name.as_str()).collect();
    assert_eq!(names, ["sensors", "averages", "scores", "hot", "alerts"]);

    let NodeKind::Source(source) = node(&config, "sensors") else { panic!("a source") };
    let SourceConnector::File(file) = &source.connector else { panic!("a file") };
    assert_eq!(file.path, "/etc/mill/readings-*.ndjson.gz");
    let fields: Vec<_> = file.fields.iter().map(|f| (f.name.as_str(), f.data_type.to_string(), f.nullable)).collect();
    let expected = [
        ("device_id", "utf8", false),
        ("temperature", "float64", false),
        ("timestamp", "timestamp[ms]", false),
        ("site", "utf8", true),
    ];
    assert_eq!(fields, expected.map(|(name, data_type, nullable)| (name, data_type.to_owned(), nullable)));
    assert_eq!(file.fields[3].path.as_deref(), Some("/meta/site"));
    assert_eq!((source.event_time.as_deref(), source.out_of_orderness_ns), (Some("timestamp"), 2_000_000_000));

    let NodeKind::Window(window) = node(&config, "averages") else { panic!("a window") };
    assert_eq!(window.window, WindowKind::Tumbling { size_ns: 10_000_000_000 });
    assert_eq!((window.key.as_slice(), window.allowed_lateness_ns), (&["device_id".to_owned()][..], 5_000_000_000));
    let aggregates: Vec<_> = window.aggregates.iter().map(|a| (a.name.as_str(), a.expression.as_str())).collect();
    assert_eq!(aggregates, [("mean_temperature", "mean(temperature)"), ("readings", "count()")]);
    let statistics = window.statistics.as_ref().expect("statistics");
    let columns = [(Statistic::Mean, "mean"), (Statistic::Std, "std"), (Statistic::Count, "count")];
    assert_eq!(statistics.columns, columns.map(|(statistic, name)| (statistic, name.to_owned())));

    let NodeKind::Udf(udf) = node(&config, "scores") else { panic!("a udf") };
    assert_eq!((udf.function.as_str(), udf.batch_rows, udf.slots), ("anomaly:anomaly_score", 1024, 8));
    assert_eq!((udf.on_error, udf.variable_bytes), (OnError::DeadLetter, 65_536));
    assert_eq!((udf.directory.as_path(), udf.python.as_path()), (Path::new("/etc/mill"), Path::new("/bin/true")));

    let NodeKind::Filter(filter) = node(&config, "hot") else { panic!("a filter") };
    assert_eq!(filter.expression, "score > 4.0 and readings >= 3");
    let NodeKind::Sink(SinkSpec::File(FileSink { path, .. })) = node(&config, "alerts") else { panic!("a file") };
    assert_eq!(path, Path::new("/etc/mill/alerts.ndjson"));
}

#[test]
fn defaults_come_from_the_machine() {
    let shards = |cores: usize, workers: &str| {
        let text = EXAMPLE.replace("shards = 1 ", "").replace("workers = 1", workers);
        let config = parse(Text::new("p.toml", &text), &[], Path::new("/x"), "p", &machine(cores));
        config.unwrap_or_else(|mistakes| panic!("{mistakes}")).pipeline.shards
    };
    assert_eq!([shards(1, ""), shards(2, ""), shards(64, ""), shards(64, "workers = 3")], [1, 1, 32, 16]);
}

#[test]
fn unknown_keys_kinds_and_words_are_refused_with_a_suggestion() {
    check(
        "[pipelin]\n[sources.s]\nkind = \"generater\"\n[sinks.out]\nkind = \"null\"\ninputs = [\"s\"]\nformat = \"json\"\n",
        &[
            "p.toml:1:2: unknown key `pipelin` in the file (did you mean `pipeline`?)",
            "p.toml:3:8: unknown kind `generater` (did you mean `generator`?)",
            "p.toml:7:1: unknown key `format` in `out` (kind null) (`out` (kind null) has the keys inputs)",
        ],
    );
    check(
        &around("kind = \"generator\"\nshape = \"sensor\"\nrow = 5", ""),
        &[
            "p.toml:3:9: `shape` is `sensor`, but should be one of sensors, ticks (did you mean `sensors`?)",
            "p.toml:4:1: unknown key `row` in `s` (kind generator) (did you mean `rows`?)",
        ],
    );
}

#[test]
fn wrong_types_units_and_bounds_are_named() {
    let cases = [
        ("rows = \"many\"", "`rows` is a string, but should be a whole number"),
        ("rows = -1", "`rows` must be at least 0"),
        ("rows = 99999999999999999999", "`rows` must be at least 0"),
        ("keys = 0", "`keys` must be between 1 and 4294967296"),
        ("rate = 0", "`rate` must be more than 0 and at most 1000000000000"),
        ("anomaly_rate = 1.5", "`anomaly_rate` must be between 0 and 1"),
        ("anomaly_rate = nan", "`anomaly_rate` must be between 0 and 1"),
        ("interval = \"10\"", "`interval`: durations need a unit, for example \"10s\""),
        ("interval = 10", "`interval`: durations need a unit, for example \"10s\""),
        ("interval = \"0s\"", "`interval` must be longer than zero"),
        ("interval = true", "`interval` is a boolean, but should be a duration (for example \"10s\")"),
        ("max_future = \"1 week\"", "`max_future`: `week` is not a unit of time (ns, us, ms, s, m, h, d)"),
        (
            "start = \"yesterday\"",
            "`start`: `yesterday` is not a point in time (write it in RFC 3339 with a time zone, for example \"2026-01-01T00:00:00Z\")",
        ),
        ("columns = \"x\"", "`columns` is a string, but should be a list (write columns = [\"x\"])"),
        ("event_time = \" \"", "`event_time` is empty"),
    ];
    for (line, message) in cases {
        let column = line.find('=').expect("a value") + 3;
        check(&around(&format!("kind = \"generator\"\n{line}"), ""), &[&format!("p.toml:3:{column}: {message}")]);
    }
}

#[test]
fn pipeline_keys_are_checked() {
    let text = "[pipeline]\nshards = 0\nwait = \"spining\"\ncpus = [0, -1]\nstate_memory = 64\n";
    check(
        &format!("{text}{}", around("kind = \"generator\"", "")),
        &[
            "p.toml:2:10: `shards` must be between 1 and 1024",
            "p.toml:3:8: `wait` is `spining`, but should be one of spin, adaptive, block (did you mean `spin`?)",
            "p.toml:4:12: `cpus` must be between 0 and 8191",
            "p.toml:5:16: `state_memory`: sizes need a unit, for example \"64KiB\"",
        ],
    );
}

#[test]
fn the_room_in_which_rows_wait_for_a_sink_is_a_size_within_reason() {
    let source = around("kind = \"generator\"", "");
    let with = |size: &str| format!("[pipeline]\nsink_buffer = \"{size}\"\n{source}");
    assert_eq!(good(&source).pipeline.sink_buffer_bytes, 2 << 20);
    assert_eq!(good(&with("16GiB")).pipeline.sink_buffer_bytes, 16 << 30);
    assert_eq!(good(&with("0B")).pipeline.sink_buffer_bytes, 0, "as little as there has to be");
    check(&with("17GiB"), &["p.toml:2:15: `sink_buffer` must be at most 16GiB"]);
}

#[test]
fn the_latency_profile_says_how_to_wait() {
    let source = around("kind = \"generator\"", "");
    let config = good(&format!("[pipeline]\nprofile = \"latency\"\n{source}"));
    assert_eq!((config.pipeline.profile, config.pipeline.wait), (Profile::Latency, Wait::Spin));
    assert_eq!(good(&source).pipeline.profile, Profile::Default);
    check(
        &format!("[pipeline]\nprofile = \"latency\"\nwait = \"block\"\n{source}"),
        &[
            "p.toml:3:8: `wait` and profile = \"latency\" exclude each other (take `wait` away: with that profile shards spin \
           and workers sleep)",
        ],
    );
}

#[test]
fn missing_parts_are_named() {
    check(
        "",
        &[
            "p.toml: the file needs `sources` (Where rows come in, by name.)",
            "p.toml: the file needs `sinks` (Where rows go out, by name.)",
        ],
    );
    check(
        "[sources.s]\nrows = 5\n[sinks]\n",
        &[
            "p.toml:1:10: `s` needs `kind` (kind is one of generator, file, stdin, socket, http, kafka, mqtt, nats, nats_core, python, producer)",
            "p.toml:3:2: `sinks` is empty",
        ],
    );
    let step = "[steps.w]\nkind = \"window\"\ninputs = []";
    check(
        &around("kind = \"generator\"", step),
        &[
            "p.toml:3:8: `w` (kind window) needs `window` ({ tumbling = \"10s\" }, { sliding = \"10s\", every = \"2s\" } or { session = \"20s\" }.)",
            "p.toml:3:8: `w` (kind window) needs `aggregates` (Output columns: name = \"mean(column)\"; count(), sum, mean, min, max, variance, stddev, first, last, collect.)",
            "p.toml:5:10: `inputs` is empty (name at least one stream)",
        ],
    );
}

#[test]
fn checkpoints_are_understood_and_have_defaults() {
    let text = |keys: &str| format!("[checkpoint]\n{keys}\n{}", around("kind = \"generator\"", ""));
    let spec = |keys: &str| good(&text(keys)).pipeline.checkpoint.expect("checkpoints");
    let start = StartFrom::Newest;
    let expected = |path: &str, interval_ns, keep| CheckpointSpec { path: path.into(), interval_ns, keep, start };
    assert_eq!(spec("path = \"state\""), expected("/etc/mill/state", 5_000_000_000, 3));
    let keys = "path = \"/var/lib/mill\"\ninterval = \"10ms\"\nkeep = 1";
    assert_eq!(spec(keys), expected("/var/lib/mill", 10_000_000, 1));
    assert!(good(&around("kind = \"generator\"", "")).pipeline.checkpoint.is_none());
    check(
        &text("interval = \"9ms\"\nkeep = 0"),
        &[
            "p.toml:1:2: `checkpoint` needs `path` (The pipeline's state folder, its own and nobody else's; relative to this file.)",
            "p.toml:2:12: `interval` must be at least 10ms",
            "p.toml:3:8: `keep` must be between 1 and 1000",
        ],
    );
    check(&text("path = \"s\"\ninterval = \"25h\""), &["p.toml:3:12: `interval` must be at most 24h"]);
    for path in [".", "..", "/etc", "../mill/"] {
        let hint = "name a folder of its own, for example path = \"state\"";
        check(
            &text(&format!("path = \"{path}\"")),
            &[&format!("p.toml:2:8: `path`: the pipeline file lies in this folder ({hint})")],
        );
    }
}
