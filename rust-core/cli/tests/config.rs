//! Configuration files: every mistake is named with its line, and what is right is understood.

use std::path::Path;

use proptest::prelude::*;
use ringmill::config::keys::{Key, Kind, ROOT};
use ringmill::config::mistake::Mistakes;
use ringmill::config::schema::json_schema;
use ringmill::config::text::Text;
use ringmill::config::{Config, parse};
use ringmill::machine::Machine;
use ringmill_connect::{Tls, WriteMode};
use ringmill_engine::plan::{
    CheckpointSpec, NodeKind, OnError, PlanError, RestartSpec, SinkSpec, SourceConnector, StartFrom, Supervision,
};
use ringmill_engine::profile::Profile;
use ringmill_engine::window::{Statistic, WindowKind};
use ringmill_ring::Wait;

/// The form that was agreed on, word for word.
const EXAMPLE: &str = include_str!("example.toml");

fn machine(cores: usize) -> Machine {
    Machine {
        cores,
        memory_bytes: 8 << 30,
        python_variable: Some("/bin/true".into()),
        binary_directory: None,
        search_path: Vec::new(),
        run_base: "/tmp".into(),
        worker_environment: Vec::new(),
        failpoint: None,
    }
}

fn load(text: &str, overrides: &[&str]) -> Result<Config, Mistakes> {
    let overrides: Vec<String> = overrides.iter().map(|line| (*line).to_owned()).collect();
    parse(Text::new("p.toml", text), &overrides, Path::new("/etc/mill"), "p", &machine(2))
}

fn good(text: &str) -> Config {
    load(text, &[]).unwrap_or_else(|mistakes| panic!("{mistakes}"))
}

fn node<'a>(config: &'a Config, name: &str) -> &'a NodeKind {
    &config.nodes.iter().find(|node| node.name == name).expect("the node is there").kind
}

/// `expect`: one line for each mistake, in order.
fn check(text: &str, expect: &[&str]) {
    let mistakes = load(text, &[]).expect_err(text);
    let found = mistakes.to_string();
    assert_eq!(found.lines().collect::<Vec<_>>(), expect, "of\n{text}");
}

/// A pipeline that is right, with `source` in place of its source's other keys and `rest` behind it.
fn around(source: &str, rest: &str) -> String {
    format!("[sources.s]\n{source}\n{rest}\n[sinks.out]\nkind = \"null\"\ninputs = [\"s\"]\n")
}

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
    let NodeKind::Sink(SinkSpec::File { path, .. }) = node(&config, "alerts") else { panic!("a file") };
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
        &["p.toml:1:10: `s` needs `kind` (kind is one of generator, file, stdin)", "p.toml:3:2: `sinks` is empty"],
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
fn fields_are_checked() {
    let source = |fields: &str| around(&format!("kind = \"stdin\"\nfields = {{ {fields} }}"), "");
    let cases = [
        ("a = \"string\"", "16", "`a`: `string` is not a column type (did you mean `utf8`?)"),
        ("a = \"flaot64\"", "16", "`a`: `flaot64` is not a column type (did you mean `float64`?)"),
        ("a = \"list[int8]\"", "16", "`a`: sources cannot read lists yet"),
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
fn formats_come_from_the_extension() {
    let source = |path: &str| around(&format!("kind = \"file\"\npath = \"{path}\"\nfields = {{ a = \"utf8\" }}"), "");
    for path in ["a.ndjson", "a.jsonl.gz", "*.json.zst", "a.csv", "a.csv.gz"] {
        good(&source(path));
    }
    check(
        &source("a.txt"),
        &["p.toml:3:8: the format of `a.txt` cannot be told from its name (add format = \"json\" or format = \"csv\")"],
    );
}

#[test]
fn window_shapes_are_checked() {
    const FORMS: &str = "write { tumbling = \"10s\" }, { sliding = \"10s\", every = \"2s\" } or { session = \"20s\" }";
    let step = |window: &str| {
        let rest = format!(
            "[steps.w]\nkind = \"window\"\ninputs = [\"s\"]\nwindow = {window}\naggregates = {{ n = \"count()\" }}"
        );
        around("kind = \"generator\"", &rest)
    };
    let cases = [
        ("{}", "1", "the window says no length"),
        ("{ tumbling = \"1s\", session = \"1s\" }", "1", "the window has several shapes"),
        ("{ sliding = \"1s\" }", "1", "a sliding window needs `every`"),
        ("{ tumbling = \"1s\", every = \"1s\" }", "37", "a tumbling window has no `every`"),
    ];
    for (window, column, message) in cases {
        check(&step(window), &[&format!("p.toml:6:{column}: {message} ({FORMS})")]);
    }
    check(
        &step("{ sliding = \"1s\", every = \"2s\" }"),
        &[
            "p.toml:6:36: `every` is longer than the window (rows between two windows would be in none; use at most the window's length)",
        ],
    );
    check(&step("{ tumbling = 10 }"), &["p.toml:6:23: `tumbling`: durations need a unit, for example \"10s\""]);
    let NodeKind::Window(window) = node(&good(&step("{ session = \"20s\" }")), "w").clone() else { panic!("a window") };
    assert_eq!(window.window, WindowKind::Session { gap_ns: 20_000_000_000 });
}

#[test]
fn statistics_are_checked_and_can_be_renamed() {
    let step = |statistics: &str| {
        let rest = format!(
            "[steps.w]\nkind = \"window\"\ninputs = [\"s\"]\nwindow = {{ tumbling = \"1s\" }}\naggregates = {{ mean_x = \"mean(x)\" }}\nstatistics = {statistics}"
        );
        around("kind = \"generator\"", &rest)
    };
    check(
        &step("{ of = \"meanx\", as = [\"mean\"] }"),
        &["p.toml:8:21: `of`: there is no aggregate `meanx` (did you mean `mean_x`?)"],
    );
    check(
        &step("{ of = \"mean_x\", as = [\"avg\"] }"),
        &["p.toml:8:37: `as` is `avg`, but should be one of count, mean, std"],
    );
    check(
        &step("{ of = \"mean_x\" }"),
        &[
            "p.toml:8:1: `statistics` needs `as` (Which: [\"mean\", \"std\", \"count\"], or { mean = \"column name\" }.)",
        ],
    );
    let config = good(&step("{ of = \"mean_x\", as = { std = \"spread\" }, horizon = \"1h\" }"));
    let NodeKind::Window(window) = node(&config, "w") else { panic!("a window") };
    let statistics = window.statistics.as_ref().expect("statistics");
    assert_eq!(statistics.columns, [(Statistic::Std, "spread".to_owned())]);
    assert_eq!(statistics.horizon_ns, Some(3_600_000_000_000));
}

#[test]
fn functions_and_their_rings_are_checked() {
    let step =
        |keys: &str| around("kind = \"generator\"", &format!("[steps.u]\nkind = \"udf\"\ninputs = [\"s\"]\n{keys}"));
    check(
        &step("function = \"anomaly.py\"\nslots = 6\nbatch_bytes = \"4GiB\"\non_error = \"ignore\""),
        &[
            "p.toml:6:12: `function`: `anomaly.py` names no function (write module:function, for example \"anomaly:anomaly_score\" for anomaly_score in anomaly.py)",
            "p.toml:7:9: `slots` must be a power of two (use 4 or 8)",
            "p.toml:8:15: `batch_bytes` must be less than 2GiB",
            "p.toml:9:12: `on_error` is `ignore`, but should be one of stop, skip, dead_letter",
        ],
    );
    let config = load(&step("function = \"m:f\"\n"), &["pipeline.python=/no/such/python"]).expect_err("no interpreter");
    assert_eq!(
        config.to_string(),
        "--set:1:19: there is no Python interpreter at `/no/such/python` (set `python` in [pipeline] or $RINGMILL_PYTHON to an interpreter that has the ringmill package)\n"
    );
}

#[test]
fn supervision_is_understood_and_has_defaults() {
    let step = |keys: &str| {
        around(
            "kind = \"generator\"",
            &format!("[steps.u]\nkind = \"udf\"\ninputs = [\"s\"]\nfunction = \"m:f\"\n{keys}"),
        )
    };
    let supervision = |keys: &str| {
        let NodeKind::Udf(udf) = node(&good(&step(keys)), "u").clone() else { panic!("a udf") };
        udf.supervision
    };
    let restart = RestartSpec { deaths_max: 11, ..RestartSpec::default() };
    let default =
        Supervision { retry_backoff_ns: 100_000_000, replay_bytes_max: 32 << 20, restart, ..Supervision::default() };
    assert_eq!(supervision(""), default);
    let keys = "timeout = \"30s\"\nmemory_limit = \"2GiB\"\nretries = 3\nretry_backoff = \"20ms\"\nrestart_backoff = \"20s\"\nrestarts_max = 0\nstart_timeout = \"2m\"\nreplay_memory = \"1GiB\"";
    let expected = Supervision {
        retries: 3,
        retry_backoff_ns: 20_000_000,
        timeout_ns: Some(30_000_000_000),
        memory_bytes_max: Some(2 << 30),
        replay_bytes_max: 1 << 30,
        // The longest wait is never shorter than the first.
        restart: RestartSpec {
            backoff_ns: 20_000_000_000,
            backoff_ns_max: 20_000_000_000,
            deaths_max: 1,
            start_ns_max: 120_000_000_000,
            ..restart
        },
    };
    assert_eq!(supervision(keys), expected);
    check(
        &step(
            "timeout = \"5ms\"\nmemory_limit = \"1MiB\"\nretries = -1\nretry_backoff = \"2h\"\nrestarts_max = \"many\"",
        ),
        &[
            "p.toml:7:11: `timeout` must be at least 10ms",
            "p.toml:8:16: `memory_limit` must be at least 64MiB (an interpreter with NumPy takes nearly that much before it has seen a row)",
            "p.toml:9:11: `retries` must be between 0 and 1000",
            "p.toml:10:17: `retry_backoff` must be at most 1h",
            "p.toml:11:16: `restarts_max` is a string, but should be a whole number",
        ],
    );
    check(
        &step("retry_backoff = \"1s\""),
        &["p.toml:7:1: `retry_backoff` has no effect without `retries` (add retries = 3, for example)"],
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

#[test]
fn dangling_inputs_are_found_with_a_suggestion() {
    let sink = |input: &str| {
        format!(
            "[sources.sensors]\nkind = \"generator\"\n[steps.hot]\nkind = \"filter\"\ninputs = [\"sensors\"]\nwhere = \"a > 1\"\n[sinks.out]\nkind = \"null\"\ninputs = [\"{input}\"]\n"
        )
    };
    for input in ["sensors", "hot", "hot.late", "hot.dead_letters", "sensors.dead_letters"] {
        good(&sink(input));
    }
    let cases = [
        ("sensor", "there is no source or step `sensor` (did you mean `sensors`?)"),
        ("xyz", "there is no source or step `xyz` (streams are sensors, hot)"),
        ("hot.lates", "there is no stream `hot.lates` (did you mean `hot.late`?)"),
        ("sensors.deadletters", "there is no stream `sensors.deadletters` (did you mean `sensors.dead_letters`?)"),
        ("sensors.late", "`sensors` is a source and has no `.late` (rows are late for a window: name the window step)"),
        ("out", "`out` is a sink, and sinks give no rows (name a source or a step)"),
        ("hot\", \"hot", "`hot` is named twice"),
    ];
    for (input, message) in cases {
        let mistakes = load(&sink(input), &[]).expect_err(input).to_string();
        assert!(mistakes.starts_with(&format!("p.toml:9:11: {message}\n")), "{mistakes}");
    }
}

#[test]
fn cycles_are_found_once_and_drawn() {
    let filter = |name: &str, input: &str| {
        format!("[steps.{name}]\nkind = \"filter\"\ninputs = [\"{input}\"]\nwhere = \"x > 1\"\n")
    };
    let rest = [filter("a", "c"), filter("b", "a"), filter("c", "b.late"), filter("d", "d")].concat();
    check(
        &around("kind = \"generator\"", &rest),
        &[
            "p.toml:9:11: the steps feed each other in a circle: a -> b -> c -> a (rows can only flow forwards)",
            "p.toml:17:11: the steps feed each other in a circle: d -> d (rows can only flow forwards)",
        ],
    );
}

#[test]
fn names_are_checked_and_unique() {
    check(
        "[sources.x]\nkind = \"generator\"\n[sinks.x]\nkind = \"null\"\ninputs = [\"x\"]\n[sinks.\"a.b\"]\nkind = \"null\"\ninputs = [\"x\"]\n",
        &[
            "p.toml:3:8: the name `x` is taken: there is [sources.x] already (sources, steps and sinks share their names)",
            "p.toml:6:8: `a.b` cannot be a name (names are up to 64 letters, digits, _ and -, and begin with a letter)",
        ],
    );
}

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
fn syntax_errors_have_their_line() {
    let mistakes = load("[pipeline\nname = \"x\"\n", &[]).expect_err("no TOML").to_string();
    assert!(mistakes.starts_with("p.toml:1:10: not valid TOML: "), "{mistakes}");
    let mistakes = load("a = 1\na = 2\n", &[]).expect_err("no TOML").to_string();
    assert!(mistakes.starts_with("p.toml:2:1: not valid TOML: duplicate key"), "{mistakes}");
}

#[test]
fn overrides_replace_add_and_are_located() {
    let text = around("kind = \"generator\"\nrows = 5", "");
    let spec = |overrides: &[&str]| {
        let config = load(&text, overrides).unwrap_or_else(|mistakes| panic!("{mistakes}"));
        let NodeKind::Source(source) = node(&config, "s").clone() else { panic!("a source") };
        let SourceConnector::Generator(generator) = source.connector else { panic!("a generator") };
        (config.pipeline.name, generator.rows, generator.period_ns)
    };
    assert_eq!(spec(&[]), ("p".to_owned(), Some(5), 1_000_000_000));
    let overrides = ["sources.s.rows=1_000", "sources.s.interval=2ms", "pipeline.name = other"];
    assert_eq!(spec(&overrides), ("other".to_owned(), Some(1_000), 2_000_000));
    let cases = [
        ("sources.s.rows=few", "--set:1:18: `rows` is a string, but should be a whole number"),
        ("sources.s.row=5", "--set:1:11: unknown key `row` in `s` (kind generator) (did you mean `rows`?)"),
        (
            "sources.s.rows",
            "--set:1:1: --set sources.s.rows has no value (write --set key.path=value, for example --set sources.sensors.rows=1000)",
        ),
    ];
    for (line, message) in cases {
        assert_eq!(load(&text, &[line]).expect_err(line).to_string().trim_end(), message);
    }
}

#[test]
fn the_engines_errors_get_their_lines() {
    let config = good(EXAMPLE);
    let error =
        |node: &str, key: &str| PlanError { node: node.into(), key: key.into(), message: "m".into(), hint: None };
    let line = |key: &str| EXAMPLE.lines().position(|line| line.starts_with(key)).expect("the line") + 1;
    let cases = [
        (error("hot", "where"), format!("p.toml:{}:9: m\n", line("where"))),
        (error("averages", "aggregates.readings"), format!("p.toml:{}:67: m\n", line("aggregates"))),
        (error("averages", "aggregates.nothing"), format!("p.toml:{}:1: m\n", line("aggregates"))),
        (error("scores", "argument"), format!("p.toml:{}:8: m\n", line("[steps.scores]"))),
        (error("pipeline", "sources"), "p.toml: pipeline: m\n".to_owned()),
    ];
    for (error, expected) in cases {
        assert_eq!(config.locate(vec![error]).to_string(), expected);
    }
}

#[test]
fn reports_mark_the_line() {
    let mistakes =
        load("[sources.s]\nkind = \"stdin\"\nfelds = 1\n[sinks.o]\nkind = \"null\"\ninputs = [\"s\"]\n", &[])
            .expect_err("wrong");
    for fancy in [false, true] {
        let report = mistakes.render(fancy);
        for part in ["p.toml:3:1", "felds = 1", "did you mean `fields`?", "2 mistakes in p.toml"] {
            assert!(report.contains(part), "{part} in\n{report}");
        }
        assert_eq!(report.contains('\u{1b}'), fancy);
    }
    let wide = format!("{} = 1\n", "x".repeat(100_000));
    assert!(load(&wide, &[]).expect_err("wrong").render(false).contains("p.toml:1:1: unknown key"));
}

/// Every key in the tables is in the schema at the same place, and nothing else is.
#[test]
fn schema_and_reader_know_the_same_keys() {
    let schema: serde_json::Value = serde_json::from_str(&json_schema()).expect("the schema is JSON");
    let names = |value: &serde_json::Value| {
        let properties = value["properties"].as_object().expect("properties");
        let mut names: Vec<String> = properties.keys().filter(|name| *name != "kind").cloned().collect();
        names.sort();
        names
    };
    let own = |keys: &[Key]| {
        let mut names: Vec<String> = keys.iter().map(|key| key.name.to_owned()).collect();
        names.sort();
        names
    };
    assert_eq!(names(&schema), own(ROOT));
    for key in ROOT {
        let Kind::Map(Kind::Variants(variants)) = key.kind else { continue };
        let options = schema["properties"][key.name]["additionalProperties"]["oneOf"].as_array().expect("variants");
        assert_eq!(options.len(), variants.len());
        for (option, variant) in options.iter().zip(*variants) {
            assert_eq!(option["properties"]["kind"]["const"], variant.kind);
            assert_eq!(names(option), own(variant.keys));
        }
    }
}

/// Pieces that make texts which are nearly configurations.
fn fragment() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("[sources.s]\n".to_owned()),
        Just("[steps.w]\nkind = \"window\"\n".to_owned()),
        Just("[sinks]\n".to_owned()),
        Just("kind = \"file\"\n".to_owned()),
        Just("window = { tumbling = \"1s\" }\n".to_owned()),
        Just("fields = { a = { type = \"utf8\" } }\n".to_owned()),
        Just("inputs = [\"w\", \"s.late\"]\n".to_owned()),
        "[a-z_]{1,12} = (\"\\PC{0,8}\"|[0-9]{1,20}|true|\\[\\]|\\{\\}|-1.5e9|1979-05-27)\n",
        "\\PC{0,40}\n",
    ]
}

proptest! {
    #[test]
    fn no_text_panics(pieces in proptest::collection::vec(fragment(), 0..12), line in "\\PC{0,30}") {
        let text = pieces.concat();
        let overrides = if line.is_empty() { vec![] } else { vec![line] };
        let outcome = parse(Text::new("p.toml", &text), &overrides, Path::new("/x"), "p", &machine(2));
        if let Err(mistakes) = outcome {
            prop_assert!(mistakes.count() > 0);
            prop_assert!(!mistakes.render(false).is_empty());
        }
    }

    #[test]
    fn a_damaged_example_never_panics(at in 0usize..1800, bytes in proptest::collection::vec(any::<char>(), 0..4), cut in 0usize..20) {
        let mut characters: Vec<char> = EXAMPLE.chars().collect();
        let start = at.min(characters.len());
        let end = (start + cut).min(characters.len());
        characters.splice(start..end, bytes);
        let text: String = characters.into_iter().collect();
        if let Err(mistakes) = load(&text, &[]) {
            prop_assert!(!mistakes.render(true).is_empty());
        }
    }
}
