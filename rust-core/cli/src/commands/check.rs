//! `ringmill check FILE`: everything that can be known before a run.

use ringmill_connect::EventTypes;
use ringmill_engine::plan::{Node, NodeKind, Port};
use ringmill_engine::profile::{Profile, missing};
use ringmill_engine::{Plan, memory_budget};

use super::print;
use crate::arguments::CheckArguments;
use crate::failure::Failure;
use crate::machine::Machine;
use crate::prepare::prepare;
use crate::promises;
use crate::table::TextTable;
use crate::units::bytes;

/// Checks and describes the pipeline.
///
/// # Errors
/// Every mistake of the configuration.
pub fn execute(arguments: &CheckArguments) -> Result<(), Failure> {
    let plan = prepare(&arguments.config, &Machine::detect())?;
    print(&describe(&plan))
}

fn describe(plan: &Plan) -> String {
    let shards = if plan.shards == 1 { "1 shard".to_owned() } else { format!("{} shards", plan.shards) };
    let mut lines = vec![format!("{}: {shards}, wait {}", plan.name, plan.wait)];
    lines.extend(profile(plan));
    lines.push(String::new());
    for node in &plan.nodes {
        lines.push(format!("{} ({}){}", node.name, kind(node), inputs(plan, node)));
        // The rows of several types have columns of their own behind it.
        if !matches!(node.kind, NodeKind::Sink(_)) && event_types(node).is_none() {
            lines.extend(schema(node).lines());
        }
        lines.extend(promises::of_node(plan, node).into_iter().map(|line| format!("  {line}")));
        lines.push(String::new());
    }
    let unread = unread(plan);
    if !unread.is_empty() {
        lines.extend(unread.iter().map(|name| format!("note: nobody reads `{name}`; its rows are only counted")));
        lines.push(String::new());
    }
    lines.extend(promises::of_plan(plan));
    lines.push(String::new());
    lines.push("memory".to_owned());
    lines.extend(budget(plan).lines());
    lines.push(String::new());
    lines.push("ok\n".to_owned());
    lines.join("\n")
}

/// What becomes of a profile on this machine, for this user.
fn profile(plan: &Plan) -> Option<String> {
    let missing = missing(plan.profile);
    match (plan.profile, missing.is_empty()) {
        (Profile::Default, _) => None,
        (Profile::Latency, true) => Some(
            "profile latency: shards spin at nice -20, workers sleep under SCHED_FIFO 50, no deep idle states"
                .to_owned(),
        ),
        (Profile::Latency, false) => Some(format!("profile latency, without {}", missing.join(", "))),
    }
}

fn kind(node: &Node) -> String {
    match &node.kind {
        NodeKind::Source(_) => match event_types(node) {
            None => "source".to_owned(),
            Some(types) => format!("source, types by {}", types.place()),
        },
        NodeKind::EventType(spec) => format!("event type {}", spec.event_type().values.join(", ")),
        NodeKind::Window(_) => "window".to_owned(),
        NodeKind::Udf(udf) => format!("udf {}, workers in each shard: {}", udf.function, udf.workers),
        NodeKind::Filter(filter) => format!("filter {}", filter.expression),
        NodeKind::Sink(_) => "sink".to_owned(),
    }
}

fn event_types(node: &Node) -> Option<&EventTypes> {
    match &node.kind {
        NodeKind::Source(source) => source.connector.event_types().map(|types| &**types),
        _ => None,
    }
}

fn inputs(plan: &Plan, node: &Node) -> String {
    if node.inputs.is_empty() {
        return String::new();
    }
    let names = node.inputs.iter().map(|input| {
        let name = &plan.nodes[input.node].name;
        match input.port {
            Port::Rows => name.clone(),
            Port::Late => format!("{name}.late"),
            Port::DeadLetters => format!("{name}.dead_letters"),
        }
    });
    format!(" <- {}", names.collect::<Vec<_>>().join(", "))
}

/// Sources and steps whose results go nowhere.
fn unread(plan: &Plan) -> Vec<&str> {
    let is_read = |index: usize| {
        let inputs = plan.nodes.iter().flat_map(|node| &node.inputs);
        inputs.into_iter().any(|input| input.node == index && input.port == Port::Rows)
    };
    let nodes = plan.nodes.iter().enumerate();
    nodes
        .filter(|(index, node)| !matches!(node.kind, NodeKind::Sink(_)) && !is_read(*index))
        .map(|(_, node)| node.name.as_str())
        .collect()
}

fn schema(node: &Node) -> TextTable {
    let mut table = TextTable::new(["column", "type", ""]).left(3);
    for field in &node.schema.fields {
        let note = match (node.event_time.as_deref() == Some(field.name.as_str()), field.nullable) {
            (true, _) => "event time",
            (false, true) => "nullable",
            (false, false) => "",
        };
        table.push([field.name.clone(), field.data_type.to_string(), note.to_owned()]);
    }
    table
}

/// What a run will take, part by part and in all.
pub fn budget(plan: &Plan) -> TextTable {
    let parts = memory_budget(plan);
    let total: u64 = parts.iter().map(|(_, size)| size).sum();
    let mut table = TextTable::new(["what", "memory"]);
    for (what, size) in parts {
        table.push([what, bytes(size)]);
    }
    table.push(["in all".to_owned(), bytes(total)]);
    table
}
