//! Names and the edges between nodes.

use crate::{around, check, good, load};

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
