//! `ringmill check` says what each part promises about crashes.

mod folder;

use std::path::Path;

use folder::Folder;
use ringmill::config::text::Text;
use ringmill::machine::Machine;
use ringmill::promises;
use ringmill_engine::Plan;
use ringmill_engine::plan::{NodeKind, StateField, UdfDescription, UdfKind};
use ringmill_wire::{DataType, Field};

const CHECKPOINT: &str = "[checkpoint]\npath = \"state\"\ninterval = \"2s\"\nkeep = 5\n";
const MADE: &str = "[sources.made]\nkind = \"generator\"\ncolumns = [\"device_id\"]\n[sinks.kept]\nkind = \"file\"\npath = \"out/\"\nformat = \"json\"\ninputs = [\"made\"]\n[sinks.table]\nkind = \"sqlite\"\npath = \"o.db\"\ntable = \"made\"\ninputs = [\"made\"]\n[sinks.server]\nkind = \"postgres\"\nurl = \"postgres://me@db/d\"\ntable = \"made\"\ninputs = [\"made\"]\n[sinks.counted]\nkind = \"null\"\ninputs = [\"made\"]\n";
const PRINTED: &str = "[sources.lines]\nkind = \"stdin\"\nfields = { a = \"utf8\" }\n[sinks.printed]\nkind = \"stdout\"\ninputs = [\"lines\"]\n";
const REQUESTS: &str = "[sources.asked]\nkind = \"http\"\nfields = { a = \"utf8\" }\n[sinks.counted]\nkind = \"null\"\ninputs = [\"asked\"]\n";
const EXACTLY_ONCE: &str = "exactly once: rows show when their checkpoint is complete";

/// What stands between a node's own line and the next empty one, the table of columns left out.
fn notes<'a>(check: &'a str, node: &str) -> Vec<&'a str> {
    let lines = check.lines().skip_while(|line| !line.starts_with(&format!("{node} ("))).skip(1);
    let lines = lines.take_while(|line| !line.is_empty()).map(str::trim);
    lines.filter(|line| line.contains(' ') && !line.contains("  ")).collect()
}

#[test]
fn with_checkpoints_each_part_says_what_a_crash_costs() {
    let folder = Folder::new(&[CHECKPOINT, MADE].concat());
    let checked = folder.run(&["check", "pipeline.toml"]);
    let summary = format!("\ncheckpoints: every 2s to {}, 5 kept\n", folder.path("state").display());
    checked.expect(0, &[&summary, "\nend to end: whatever dies, each record counts exactly once\n"]);
    assert_eq!(notes(&checked.stdout, "made"), ["after a crash it is read again from the newest checkpoint on"]);
    assert_eq!(notes(&checked.stdout, "kept"), [EXACTLY_ONCE]);
    assert_eq!(notes(&checked.stdout, "table"), [EXACTLY_ONCE]);
    assert_eq!(notes(&checked.stdout, "server"), [EXACTLY_ONCE]);
    assert!(notes(&checked.stdout, "counted").is_empty());

    let rolled = MADE.replacen("path = \"out/\"", "path = \"out/\"\nroll_interval = \"10m\"", 1);
    let checked = Folder::new(&[CHECKPOINT, &rolled].concat()).run(&["check", "pipeline.toml"]);
    let later = "exactly once: rows show when their file is complete, with the first checkpoint of a run after \
                 `roll_interval`, or sooner";
    assert_eq!(notes(&checked.stdout, "kept"), [later]);
    let refused = Folder::new(&rolled).run(&["check", "pipeline.toml"]);
    refused
        .expect(2, &["files go on over checkpoints, and there are none", "[pipeline.toml:7:17]", "add [checkpoint]"]);

    let checked = Folder::new(&[CHECKPOINT, PRINTED].concat()).run(&["check", "pipeline.toml"]);
    let sentence = "\nend to end: whatever dies, each record counts at least once, since printed may show rows again; of lines, each \
                    that was on the disk\n";
    checked.expect(0, &[sentence, "\nok\n"]);
    let journaled = "journaled: after a crash it is read again from the journal; what was taken from the pipe and was not on \
                     the disk yet is lost";
    assert_eq!(notes(&checked.stdout, "lines"), [journaled]);
    let again = "at least once: rows show at once, and those since the newest checkpoint again after a crash";
    assert_eq!(notes(&checked.stdout, "printed"), [again]);
    let stored = notes(&checked.stdout, "dead_letters:lines");
    assert_eq!(stored, [EXACTLY_ONCE, "the built-in store: `ringmill dlq show` reads it"]);

    let checked = Folder::new(&[CHECKPOINT, REQUESTS].concat()).run(&["check", "pipeline.toml"]);
    let durable = "journaled: a request is answered with 202 when its rows are on the disk, all or none, and none of them is \
                   lost; one that is sent again because there was no answer may be there twice";
    assert_eq!(notes(&checked.stdout, "asked"), [durable]);
}

#[test]
fn partitions_that_a_group_deals_come_at_least_once_and_go_without_what_is_kept_for_a_key() {
    const DEALT: &str = "[sources.dealt]\nkind = \"kafka\"\nbrokers = [\"b:9092\"]\ntopics = [\"t\"]\ngroup = \"g\"\nassignment = \"group\"\nfields = { a = \"int64\", at = \"timestamp[ms]\" }\nevent_time = \"at\"\n";
    const HOT: &str = "[steps.hot]\nkind = \"filter\"\ninputs = [\"dealt\"]\nwhere = \"a > 1\"\n";
    let file = |input: &str| format!("[sinks.kept]\nkind = \"file\"\npath = \"out.ndjson\"\ninputs = [\"{input}\"]\n");
    let checked = Folder::new(&[CHECKPOINT, DEALT, HOT, &file("hot")].concat()).run(&["check", "pipeline.toml"]);
    let sentence = "\nend to end: whatever dies, each record counts at least once, since other members of its group may read rows of \
                    dealt again\n";
    checked.expect(0, &[sentence, "\nok\n"]);
    let again = "after a crash each partition is read again from what its group was told of a checkpoint on, by whichever member \
                 has it then: at least once; a partition that is handed over comes once";
    assert_eq!(notes(&checked.stdout, "dealt"), [again]);

    const WINDOW: &str = "[steps.counts]\nkind = \"window\"\ninputs = [\"hot\"]\nkey = [\"a\"]\nwindow = { tumbling = \"1s\" }\naggregates = { n = \"count()\" }\n";
    let text = [CHECKPOINT, DEALT, HOT, WINDOW, &file("counts")].concat();
    let line = 1 + text.lines().position(|line| line.starts_with("assignment")).expect("it is there");
    let refused = "`assignment` = \"group\": a partition that goes to another member of the group cannot take along what the window \
                   \"counts\" keeps for each key";
    let checked = Folder::new(&text).run(&["check", "pipeline.toml"]);
    checked.expect(2, &[refused, &format!("[pipeline.toml:{line}:14]"), "a `share` of them in each pipeline"]);
    let checked = Folder::new(&[DEALT, &file("dealt")].concat()).run(&["check", "pipeline.toml"]);
    checked.expect(2, &["the group is told what checkpoints cover, and there are none"]);
}

#[test]
fn a_topic_is_exactly_once_in_transactions() {
    let topic = |keys: &str| {
        format!("[sinks.topic]\nkind = \"kafka\"\nbrokers = [\"b:9092\"]\ntopic = \"t\"\ninputs = [\"made\"]\n{keys}\n")
    };
    let pipeline = |keys: &str| [CHECKPOINT, MADE, &topic(keys)].concat();
    let checked = Folder::new(&pipeline("transactional_id = \"alerts\"")).run(&["check", "pipeline.toml"]);
    checked.expect(0, &["\nend to end: whatever dies, each record counts exactly once\n", "\nok\n"]);
    let committed = "exactly once, for those who read what is committed (isolation.level = read_committed): the rows of a \
                     checkpoint are one transaction, which is sent when it is complete";
    assert_eq!(notes(&checked.stdout, "topic"), [committed]);
    let checked = Folder::new(&pipeline("")).run(&["check", "pipeline.toml"]);
    checked.expect(0, &["each record counts at least once, since topic may show rows again\n"]);
}

#[test]
fn without_checkpoints_nothing_is_promised() {
    let checked = Folder::new(&[MADE, "[sinks.p]\nkind = \"stdout\"\ninputs = [\"made\"]\n"].concat())
        .run(&["check", "pipeline.toml"]);
    checked.expect(0, &["\nno [checkpoint]: a run that dies begins anew\n"]);
    assert!(notes(&checked.stdout, "made").is_empty() && notes(&checked.stdout, "p").is_empty());
    assert_eq!(notes(&checked.stdout, "kept"), ["written anew by every run"]);
    assert_eq!(notes(&checked.stdout, "server"), notes(&checked.stdout, "table"));
    assert_eq!(notes(&checked.stdout, "table"), ["every run adds its rows, also those that an earlier run has added"]);
    assert!(!checked.stdout.contains("exactly once"));
    let checked = Folder::new(PRINTED).run(&["check", "pipeline.toml"]);
    assert!(notes(&checked.stdout, "lines").is_empty() && !checked.stdout.contains("dead_letters:"));
    let checked = Folder::new(REQUESTS).run(&["check", "pipeline.toml"]);
    let taken = "a request is answered with 202 when the pipeline has taken its rows, and a crash loses them";
    assert_eq!(notes(&checked.stdout, "asked"), [taken]);
}

/// What is said about a step with these keys.
fn of_step(keys: &str, kind: UdfKind) -> Vec<String> {
    of_function(keys, |description| description.kind = kind)
}

/// What is said about a step with these keys and a function that describes itself so.
fn of_function(keys: &str, describe: impl Fn(&mut UdfDescription)) -> Vec<String> {
    let text = format!(
        "[sources.s]\nkind = \"generator\"\n[steps.u]\nkind = \"udf\"\ninputs = [\"s\"]\nfunction = \"m:f\"\n{keys}\n[sinks.o]\nkind = \"null\"\ninputs = [\"u\"]\n"
    );
    let machine = Machine { python_variable: Some("/bin/true".into()), ..Machine::detect() };
    let mut config = ringmill::config::parse(Text::new("p.toml", &text), &[], Path::new("/x"), "p", &machine)
        .unwrap_or_else(|mistakes| panic!("{mistakes}"));
    for node in &mut config.nodes {
        let NodeKind::Udf(udf) = &mut node.kind else { continue };
        udf.description.name = "Model".to_owned();
        udf.description.outputs = vec![Field { name: "y".into(), data_type: DataType::Float64, nullable: false }];
        describe(&mut udf.description);
    }
    let plan = Plan::build(config.pipeline, config.nodes).unwrap_or_else(|errors| panic!("{errors:?}"));
    let repeats = "note: when a worker or the core dies, functions are called again for rows that they have seen";
    assert_eq!(promises::of_plan(&plan).last().map(String::as_str), Some(repeats));
    let step = plan.nodes.iter().find(|node| node.name == "u").expect("the step");
    promises::of_node(&plan, step)
}

#[test]
fn a_step_says_what_becomes_of_what_its_function_keeps() {
    let keyed = |description: &mut UdfDescription| {
        let initial = "0000000000000000".to_owned();
        description.state = vec![StateField { name: "level".into(), data_type: DataType::Float64, initial }];
    };
    let said = of_function("key = [\"device_id\"]", keyed);
    assert_eq!(said[2..], ["level: kept for each device_id"]);
    let learnt = |description: &mut UdfDescription| (description.kind, description.snapshot) = (UdfKind::Class, true);
    let said = "note: what Model keeps in `self` outlives its worker and dies with the run";
    assert_eq!(of_function("", learnt)[2..], [said]);
}

#[test]
fn a_step_says_how_it_is_watched() {
    assert_eq!(
        of_step("", UdfKind::Function),
        ["rows that fail or kill their worker end the run", "timeout none, to get ready 1m, memory limit none"]
    );
    let keys = "timeout = \"30s\"\nmemory_limit = \"2GiB\"\nretries = 3\non_error = \"dead_letter\"";
    assert_eq!(
        of_step(keys, UdfKind::Class),
        [
            "rows that fail or kill their worker go to u.dead_letters, after 3 retries",
            "timeout 30s, to get ready 1m, memory limit 2.00 GiB",
            "note: what Model keeps in `self` dies with its worker",
        ]
    );
    assert_eq!(
        of_step("on_error = \"skip\"\nretries = 1", UdfKind::Function)[0],
        "rows that fail or kill their worker are left out and counted, after 1 retry"
    );
}

#[test]
fn a_sink_that_keeps_what_it_is_refused_says_where_and_needs_checkpoints() {
    const MADE: &str = "[sources.made]\nkind = \"generator\"\n[sinks.server]\nkind = \"http\"\nurl = \"http://alerts/\"\non_refused = \"dead_letter\"\ninputs = [\"made\"]\n";
    let checked = Folder::new(&[CHECKPOINT, MADE].concat()).run(&["check", "pipeline.toml"]);
    let kept = "rows that it refuses for good are dead letters of server: `ringmill dlq show` reads them";
    assert!(notes(&checked.stdout, "server").contains(&kept), "{}", checked.stdout);
    let refused = Folder::new(MADE).run(&["check", "pipeline.toml"]);
    let reason = "the dead letters of a sink are kept with the checkpoints, and there are none";
    refused.expect(2, &[reason, "[pipeline.toml:6:14]", "add [checkpoint]"]);
    let read = "[sinks.more]\nkind = \"null\"\ninputs = [\"server.dead_letters\"]\n";
    let refused = Folder::new(&[CHECKPOINT, MADE, read].concat()).run(&["check", "pipeline.toml"]);
    refused.expect(2, &["`server` is a sink, and sinks give no rows"]);
}
