//! `ringmill dlq`: letters are shown as they were stored, and a step's letters make a plan of their own.

mod folder;

use std::path::Path;

use folder::Folder;
use ringmill::replay::{find_step, replay_plan};
use ringmill_connect::{FileSink, LetterFilter, LetterForm};
use ringmill_engine::Plan;
use ringmill_engine::plan::replay::{Replayed, letters_of, windows_without_late};
use ringmill_engine::plan::{NodeKind, SinkSpec, UdfKind};
use ringmill_wire::{DataType, Field};

const PIPELINE: &str = "[checkpoint]\npath = \"state\"\n[sources.sensors]\nkind = \"generator\"\nrows = 3\n[sinks.out]\nkind = \"null\"\ninputs = [\"sensors\"]\n";

fn letter(index: usize) -> String {
    format!(
        "{{\"origin\":\"scores\",\"reason\":\"ValueError: {index}\",\"detail\":\"Traceback\\n  line\",\"partition\":null,\"offset\":null,\"record\":\"{{\\\"x\\\":{index}}}\",\"record_bytes\":null,\"attempts\":2}}"
    )
}

fn stored() -> Folder {
    let folder = Folder::new(PIPELINE);
    let write = |name: &str, lines: &[String]| {
        let path = folder.path("state/dead_letters").join(name);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("create");
        std::fs::write(path, lines.join("\n") + "\n").expect("write");
    };
    let letters = |range: std::ops::Range<usize>| range.map(letter).collect::<Vec<_>>();
    write("scores/part-0000000009.json", &letters(0..20));
    write("scores/part-0000000010.json", &letters(20..23));
    // What is staged is not there yet.
    write("scores/.part-0000000011.staged", &letters(50..60));
    let broken = "{\"origin\":\"readings\",\"reason\":\"not UTF-8\",\"detail\":null,\"partition\":\"a.ndjson\",\"offset\":42,\"record\":null,\"record_bytes\":\"/w==\"}";
    write("readings/part-0000000001.json", &[broken.to_owned()]);
    folder
}

#[test]
fn letters_are_shown_with_their_reason_place_and_record() {
    let folder = stored();
    let all = folder.run(&["dlq", "show", "pipeline.toml"]);
    let parts = [
        "readings: 1 dead letter\n\n  not UTF-8\n    id   readings/1-1\n    at   a.ndjson, byte 42\n    row  (base64) /w==\n",
        "scores: 23 dead letters, the newest 20\n\n  ValueError: 3 (2 attempts)\n    id   scores/9-4\n    row  {\"x\":3}\n    Traceback\n",
        "ValueError: 22",
    ];
    all.expect(0, &parts);
    assert!(!all.stdout.contains("ValueError: 2 ") && !all.stdout.contains("ValueError: 50"));
    let two = folder.run(&["dlq", "show", "state", "--step", "scores", "--limit", "2"]);
    two.expect(0, &["scores: 23 dead letters, the newest 2", "ValueError: 21", "ValueError: 22"]);
    assert!(!two.stdout.contains("readings") && !two.stdout.contains("ValueError: 20"));
    let json = folder.run(&["dlq", "show", "state", "--json", "--step", "scores"]);
    let id = |index: usize| if index < 20 { format!("9-{}", index + 1) } else { format!("10-{}", index - 19) };
    let expected = (0..23).map(|index| format!("{{\"id\":\"scores/{}\",{}", id(index), &letter(index)[1..]));
    assert_eq!(json.stdout.lines().map(str::to_owned).collect::<Vec<_>>(), expected.collect::<Vec<_>>());
    let some = folder.run(&["dlq", "show", "state", "--id", "scores/10-3", "--id", "scores/9-4"]);
    some.expect(0, &["scores: 2 dead letters\n", "ValueError: 3 ", "ValueError: 22 "]);
    folder.run(&["dlq", "show", "state", "--reason", "UTF-8"]).expect(0, &["readings: 1 dead letter\n"]);
    folder.run(&["dlq", "show", "state", "--id", "scores/9-21"]).expect(2, &["no letter scores/9-21 is stored"]);
    folder.run(&["dlq", "show", "state", "--id", "9-1"]).expect(2, &["\"9-1\" is no letter's id", "NAME/EPOCH-LINE"]);
    folder
        .run(&["dlq", "show", "state", "--step", "score"])
        .expect(2, &["no dead letters of \"score\" are stored", "did you mean `scores`?"]);
}

#[test]
fn letters_of_rows_are_shown_with_their_key_and_the_record_that_they_were_made_of() {
    let folder = Folder::new(PIPELINE);
    let path = folder.path("state/dead_letters/scores");
    std::fs::create_dir_all(&path).expect("create");
    let common = "\"origin\":\"scores\",\"reason\":\"ValueError\",\"key\":\"{\\\"id\\\":7}\",\"source\":\"sensors\",\"partition\":\"a.csv\",\"offset\":42";
    let letters = [
        format!("{{{common},\"record\":\"{{}}\",\"original\":\"7,1.5\"}}"),
        format!("{{{common},\"original_bytes\":\"/w==\"}}"),
        format!("{{{common},\"original_missing\":\"a.csv is another file now\"}}"),
    ];
    std::fs::write(path.join("part-0000000001.json"), letters.join("\n") + "\n").expect("write");
    let parts = [
        "    key  {\"id\":7}\n    at   sensors: a.csv, byte 42\n    row  {}\n    from 7,1.5\n",
        "    from (base64) /w==\n",
        "    from a record that cannot be read: a.csv is another file now\n",
    ];
    folder.run(&["dlq", "show", "state"]).expect(0, &parts);
}

#[test]
fn no_letters_are_no_failure_and_foreign_lines_are() {
    let folder = Folder::new(PIPELINE);
    folder.run(&["dlq", "show", "pipeline.toml"]).expect(0, &["no dead letters in "]);
    let folder = stored();
    std::fs::write(folder.path("state/dead_letters/scores/part-0000000012.json"), "{\"a\":1}\n").expect("write");
    folder.run(&["dlq", "show", "state"]).expect(1, &["part-0000000012.json, line 1: this is no dead letter"]);
}

/// A plan with windows before and a filter, another step and sinks behind the step `scores`.
fn plan(step: &str) -> Plan {
    let pipeline = format!(
        "[checkpoint]\npath = \"state\"\n[sources.sensors]\nkind = \"generator\"\n[steps.scores]\nkind = \"udf\"\ninputs = [\"sensors\"]\nfunction = \"m:f\"\non_error = \"dead_letter\"\n[steps.hot]\nkind = \"filter\"\ninputs = [\"scores\"]\nwhere = \"score > 1\"\n{step}[sinks.alerts]\nkind = \"file\"\npath = \"alerts.csv\"\ninputs = [\"hot\"]\n[sinks.all]\nkind = \"null\"\ninputs = [\"sensors\"]\n"
    );
    let machine = ringmill::machine::Machine { python_variable: Some("/bin/true".into()), ..detect() };
    let text = ringmill::config::text::Text::new("p.toml", &pipeline);
    let mut config = ringmill::config::parse(text, &[], Path::new("/etc/mill"), "p", &machine)
        .unwrap_or_else(|mistakes| panic!("{mistakes}"));
    for node in &mut config.nodes {
        let NodeKind::Udf(udf) = &mut node.kind else { continue };
        udf.description.outputs = vec![Field { name: "score".into(), data_type: DataType::Float64, nullable: false }];
        udf.description.kind = UdfKind::Function;
    }
    Plan::build(config.pipeline, config.nodes).unwrap_or_else(|errors| panic!("{errors:?}"))
}

fn detect() -> ringmill::machine::Machine {
    ringmill::machine::Machine::detect()
}

#[test]
fn a_replay_runs_the_step_and_what_is_behind_it_and_writes_beside() {
    let plan = plan("");
    let step = find_step(&plan, "scores").expect("it can be replayed");
    let replay = replay_plan(&plan, step, Path::new("/tmp/replayed")).expect("a plan");
    assert!(replay.checkpoint.is_none());
    let nodes: Vec<&str> = replay.nodes.iter().map(|node| node.name.as_str()).collect();
    assert_eq!(nodes, ["letters:scores", "scores", "hot", "alerts", "dead_letters:scores", "scores.unreadable"]);
    assert_eq!(replay.nodes[1].input_schema, plan.nodes[step].input_schema);
    let files: Vec<String> = replay.nodes.iter().filter_map(|node| file(&node.kind)).collect();
    let expected = ["alerts.csv", "scores.dead_letters.ndjson", "scores.unreadable.ndjson"];
    assert_eq!(files, expected.map(|name| format!("/tmp/replayed/{name}")));
}

/// What of the pipeline's letters is fed back.
fn replaying(plan: &Plan, origins: &[&str]) -> Result<Plan, String> {
    let letters = |origin: &&str| Replayed { origin: (*origin).to_owned(), filter: LetterFilter::default() };
    let letters: Vec<Replayed> = origins.iter().map(letters).collect();
    plan.replaying(&letters).map_err(|refused| format!("{refused}; {}", refused.hint.clone().unwrap_or_default()))
}

#[test]
fn letters_are_fed_back_where_they_failed_and_nothing_else_changes() {
    let plan = plan("");
    let replay = replaying(&plan, &["scores"]).expect("a plan");
    assert!(replay.is_replay() && !plan.is_replay());
    assert_eq!(
        (&replay.checkpoint, replay.shards, replay.nodes.len()),
        (&plan.checkpoint, plan.shards, plan.nodes.len() + 1)
    );
    let inputs = |plan: &Plan, name: &str| -> Vec<String> {
        let node = plan.nodes.iter().find(|node| node.name == name).expect("it is there");
        node.inputs.iter().map(|input| plan.stream_name(*input)).collect()
    };
    for node in &plan.nodes {
        let more: &[&str] = if node.name == "scores" { &["replay:scores"] } else { &[] };
        let expected = [inputs(&plan, &node.name), more.iter().map(|&name| name.to_owned()).collect()].concat();
        assert_eq!(inputs(&replay, &node.name), expected, "{}", node.name);
    }
    let letters = replay.nodes.iter().find_map(letters_of).expect("a source of letters");
    assert!(letters.folder.ends_with("state/dead_letters/scores"), "{}", letters.folder.display());
    assert_eq!((&letters.form, letters.origin.as_str()), (&LetterForm::Rows, "scores"));
}

#[test]
fn letters_that_cannot_be_fed_back_are_refused_with_the_reason() {
    let window = "[steps.minutes]\nkind = \"window\"\ninputs = [\"hot\"]\nwindow = { tumbling = \"1m\" }\naggregates = { n = \"count()\" }\n[steps.learns]\nkind = \"udf\"\ninputs = [\"minutes\"]\nfunction = \"m:g\"\non_error = \"dead_letter\"\n[sinks.counts]\nkind = \"null\"\ninputs = [\"learns\"]\n";
    let mut plan = plan(window);
    let learns = plan.nodes.iter_mut().find(|node| node.name == "learns").expect("it is there");
    let NodeKind::Udf(udf) = &mut learns.kind else { panic!("a function") };
    udf.description.snapshot = true;
    plan.shards = 1;
    assert!(replaying(&plan, &["learns", "scores"]).is_ok());
    let origin = |name: &str| plan.nodes.iter().position(|node| node.name == name).expect(name);
    assert_eq!(windows_without_late(&plan, origin("scores")), ["minutes"], "what is late there is gone");
    assert!(windows_without_late(&plan, origin("learns")).is_empty());
    plan.shards = 2;
    assert!(replaying(&plan, &["scores"]).is_ok(), "the window brings rows to the shards of their keys");
    let refused = |plan: &Plan, origin: &str| replaying(plan, &[origin]).expect_err(origin);
    assert!(refused(&plan, "learns").contains("m:g learns from its rows, and with 2 shards"));
    assert!(refused(&plan, "sensors").contains("sensors makes its rows, and they are always right"));
    assert!(refused(&plan, "hot").contains("hot has no dead letters"));
    assert!(refused(&plan, "score").contains("there is no source, step or sink \"score\"; did you mean `scores`?"));
    plan.checkpoint = None;
    assert!(refused(&plan, "scores").contains("has no [checkpoint] table"));
}

fn file(kind: &NodeKind) -> Option<String> {
    match kind {
        NodeKind::Sink(SinkSpec::File(FileSink { path, .. })) => Some(path.display().to_string()),
        _ => None,
    }
}

#[test]
fn what_cannot_be_replayed_is_said_with_the_reason() {
    let window = "[steps.minutes]\nkind = \"window\"\ninputs = [\"hot\"]\nwindow = { tumbling = \"1m\" }\naggregates = { n = \"count()\" }\n[sinks.counts]\nkind = \"null\"\ninputs = [\"minutes\"]\n";
    let cases = [
        ("", "score", "there is no step \"score\"", "did you mean `scores`?"),
        ("", "sensors", "sensors is a source; its dead letters are records, not rows", "without --into"),
        ("", "hot", "hot has no dead letters; only sources and udf steps have", ""),
        ("", "alerts", "there is no step \"alerts\"", ""),
        (window, "scores", "scores cannot be replayed: the windows of minutes would lack their other rows", ""),
    ];
    for (more, step, message, hint) in cases {
        let refusal = find_step(&plan(more), step).expect_err(step);
        assert_eq!(refusal.message, message);
        assert!(refusal.hint.unwrap_or_default().contains(hint), "{step}");
    }
}
