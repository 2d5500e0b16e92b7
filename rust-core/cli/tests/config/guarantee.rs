//! What sources and sinks promise, and pipelines that demand more.

use ringmill::config::keys::{SINKS, SOURCES, Variant};
use ringmill_connect::Promise;
use ringmill_engine::plan::NodeKind;

use crate::{check, good, node};

/// Keys that a kind cannot do without.
fn keys(variant: &Variant) -> &'static str {
    match variant.kind {
        "generator" | "stdout" | "null" | "http" | "python" | "producer" => "",
        "file" => "path = \"x.csv\"\n",
        "stdin" => "fields = { a = \"int64\" }\n",
        "socket" => "path = \"in.sock\"\nfields = { a = \"int64\" }\n",
        "kafka" => "brokers = [\"b:9092\"]\n",
        "mqtt" => "url = \"mqtt://b\"\nclient_id = \"c\"\n",
        "nats" | "nats_core" => "url = \"nats://b\"\n",
        "sqlite" => "path = \"x.db\"\ntable = \"t\"\n",
        "postgres" => "url = \"postgres://me@db/events\"\ntable = \"t\"\n",
        other => panic!("{other} needs an example"),
    }
}

fn source(variant: &Variant) -> String {
    let more = match variant.kind {
        "file" | "http" | "producer" => "fields = { a = \"int64\" }\n",
        "python" => "class = \"numbers:Numbers\"\nfields = { a = \"int64\" }\n",
        "nats" => "stream = \"S\"\nfields = { a = \"int64\" }\n",
        "nats_core" => "subjects = [\"a\"]\nfields = { a = \"int64\" }\n",
        "kafka" | "mqtt" => "topics = [\"t\"]\nfields = { a = \"int64\" }\n",
        _ => "",
    };
    format!("[sources.s]\nkind = \"{}\"\n{}{more}", variant.kind, keys(variant))
}

fn sink(variant: &Variant) -> String {
    let more = match variant.kind {
        "kafka" | "mqtt" => "topic = \"t\"\n",
        "http" => "url = \"http://alerts/rows\"\n",
        "python" => "class = \"alerts:Alerts\"\n",
        "nats" => "stream = \"S\"\nsubject = \"a\"\n",
        "nats_core" => "subject = \"a\"\n",
        _ => "",
    };
    format!("[sinks.o]\nkind = \"{}\"\ninputs = [\"s\"]\n{}{more}", variant.kind, keys(variant))
}

const GENERATOR: &str = "[sources.s]\nkind = \"generator\"\n";
const NULL: &str = "[sinks.o]\nkind = \"null\"\ninputs = [\"s\"]\n";

#[test]
fn what_a_kind_is_said_to_promise_is_what_it_promises() {
    for variant in SOURCES {
        let config = good(&[source(variant).as_str(), NULL].concat());
        let NodeKind::Source(source) = node(&config, "s") else { panic!("a source") };
        assert_eq!(Some(source.connector.promise()), variant.promise, "{}", variant.kind);
    }
    for variant in SINKS {
        let config = good(&[GENERATOR, &sink(variant)].concat());
        let NodeKind::Sink(sink) = node(&config, "o") else { panic!("a sink") };
        assert_eq!(Some(sink.promise()), variant.promise, "{}", variant.kind);
    }
}

#[test]
fn a_pipeline_with_a_part_that_promises_less_is_refused() {
    let head = |word: &str| format!("[pipeline]\nguarantee = \"{word}\"\n[checkpoint]\npath = \"state\"\n");
    for (word, demanded) in [("exactly-once", Promise::ExactlyOnce), ("at-least-once", Promise::AtLeastOnce)] {
        for (kinds, is_source) in [(SOURCES, true), (SINKS, false)] {
            for variant in kinds {
                let text = match is_source {
                    true => [head(word).as_str(), &source(variant), NULL].concat(),
                    false => [head(word).as_str(), GENERATOR, &sink(variant)].concat(),
                };
                let promise = variant.promise.expect("a source or a sink promises something");
                if promise >= demanded {
                    good(&text);
                    continue;
                }
                let place = if is_source { "p.toml:5:10" } else { "p.toml:7:8" };
                let hint = match promise {
                    Promise::AtLeastOnce => "guarantee = \"at-least-once\" would be met",
                    _ => "`ringmill check` without `guarantee` says why",
                };
                check(
                    &text,
                    &[&format!("{place}: `guarantee` demands {demanded}, and this promises {promise} ({hint})")],
                );
            }
        }
    }
    let unacknowledged = "[sources.s]\nkind = \"mqtt\"\nurl = \"mqtt://b\"\ntopics = [\"t\"]\nclient_id = \"c\"\nqos = 0\nfields = { a = \"int64\" }\n";
    check(
        &[head("at-least-once").as_str(), unacknowledged, NULL].concat(),
        &[
            "p.toml:5:10: `guarantee` demands at least once, and this promises at most once (`ringmill check` without `guarantee` says why)",
        ],
    );
}

#[test]
fn without_checkpoints_nothing_can_be_demanded() {
    check(
        &["[pipeline]\nguarantee = \"at-least-once\"\n", GENERATOR, NULL].concat(),
        &[
            "p.toml:2:13: `guarantee`: without checkpoints no pipeline counts its records at least once (add [checkpoint] with path = \"state\")",
        ],
    );
}
