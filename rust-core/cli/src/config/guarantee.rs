//! What `guarantee` demands of every source and sink.

use ringmill_connect::Promise;
use ringmill_engine::plan::{NodeKind, NodeSpec};

use super::mistake::Mistake;
use super::raw::Table;

/// Refuses what promises less, as far as that is known; returns what is demanded.
pub fn check(root: &Table, nodes: &[NodeSpec], mistakes: &mut Vec<Mistake>) -> Option<Promise> {
    let guarantee = root.table("pipeline").and_then(|table| table.get("guarantee"))?;
    let demanded = match guarantee.text() {
        Some("at-least-once") => Promise::AtLeastOnce,
        _ => Promise::ExactlyOnce,
    };
    if root.get("checkpoint").is_none() {
        let message = format!("`guarantee`: without checkpoints no pipeline counts its records {demanded}");
        mistakes.push(Mistake::at(guarantee.span, message).hint("add [checkpoint] with path = \"state\""));
        return None;
    }
    for node in nodes {
        let (section, promise) = match &node.kind {
            NodeKind::Source(source) => ("sources", source.connector.promise()),
            NodeKind::Sink(sink) => ("sinks", sink.promise()),
            NodeKind::EventType(_) | NodeKind::Window(_) | NodeKind::Udf(_) | NodeKind::Filter(_) => continue,
        };
        let written = root.children(section).iter().find(|entry| entry.key == node.name);
        if let Some(entry) = written.filter(|_| promise < demanded) {
            mistakes.push(refusal(Mistake::at(entry.key_span, ""), demanded, promise));
        }
    }
    Some(demanded)
}

/// The mistake of promising less than is demanded, at the place of `mistake`.
pub fn refusal(mistake: Mistake, demanded: Promise, promise: Promise) -> Mistake {
    let message = format!("`guarantee` demands {demanded}, and this promises {promise}");
    let hint = match promise {
        Promise::AtLeastOnce => "guarantee = \"at-least-once\" would be met",
        Promise::AtMostOnce | Promise::ExactlyOnce => "`ringmill check` without `guarantee` says why",
    };
    Mistake { message, ..mistake }.hint(hint)
}
