//! The text itself: syntax, overrides, how mistakes are shown, the schema; no text panics.

use std::path::Path;

use proptest::prelude::*;
use ringmill::config::keys::{Key, Kind, ROOT};
use ringmill::config::parse;
use ringmill::config::schema::json_schema;
use ringmill::config::text::Text;
use ringmill_engine::plan::{NodeKind, PlanError, SourceConnector};

use crate::{EXAMPLE, around, good, load, machine, node};

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
