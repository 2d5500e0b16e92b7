//! Configuration files: every mistake is named with its line, and what is right is understood.

mod avro;
mod event_types;
mod graph;
mod guarantee;
mod protobuf;
mod sinks;
mod sources;
mod steps;
mod text;
mod whole;

use std::path::Path;

use ringmill::config::mistake::Mistakes;
use ringmill::config::text::Text;
use ringmill::config::{Config, parse};
use ringmill::machine::Machine;
use ringmill_engine::plan::NodeKind;

/// The form that was agreed on, word for word.
const EXAMPLE: &str = include_str!("../example.toml");

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
