//! Windows, statistics, functions and how they are supervised.

use ringmill_engine::plan::{NodeKind, RestartSpec, Supervision};
use ringmill_engine::window::{Statistic, WindowKind};

use crate::{around, check, good, load, node};

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
