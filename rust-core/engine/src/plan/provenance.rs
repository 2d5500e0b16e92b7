//! What is known of a row besides its columns: whether it can be told where it came from, and what its key is.

use super::{Node, NodeKind, OnError, Plan, Port};

/// Whether the rows that a node takes in (or a source gives out) are to be traced to the records that they were made
/// of: they come straight from a source, with no window in between, and a function that they come to makes dead letters.
pub fn are_rows_traced(plan: &Plan, index: usize) -> bool {
    comes_from_source(plan, index) && leads_to_letters(plan, index)
}

fn comes_from_source(plan: &Plan, index: usize) -> bool {
    match plan.nodes[index].kind {
        NodeKind::Source(_) => true,
        NodeKind::EventType(_) | NodeKind::Filter(_) | NodeKind::Udf(_) => {
            producers(plan, index).any(|before| comes_from_source(plan, before))
        }
        NodeKind::Window(_) | NodeKind::Sink(_) => false,
    }
}

fn leads_to_letters(plan: &Plan, index: usize) -> bool {
    match &plan.nodes[index].kind {
        NodeKind::Udf(udf) if udf.on_error == OnError::DeadLetter => true,
        NodeKind::Source(_) | NodeKind::EventType(_) | NodeKind::Filter(_) | NodeKind::Udf(_) => {
            consumers(plan, index).any(|behind| leads_to_letters(plan, behind))
        }
        NodeKind::Window(_) | NodeKind::Sink(_) => false,
    }
}

/// The columns of a function's input that are its rows' key: those of its own key, else of the window or keyed function
/// before it, else of the first one behind it.
pub fn key_columns(plan: &Plan, index: usize) -> Vec<usize> {
    let Some(input) = &plan.nodes[index].input_schema else { return Vec::new() };
    let here = |key: &[String]| key.iter().map(|name| input.index_of(name)).collect::<Option<Vec<usize>>>();
    let found = declared_key(&plan.nodes[index]).and_then(here);
    let found = found.or_else(|| producers(plan, index).find_map(|before| key_before(plan, before)).and_then(here));
    let found = found.or_else(|| consumers(plan, index).find_map(|behind| key_behind(plan, behind)).and_then(here));
    found.unwrap_or_default()
}

fn declared_key(node: &Node) -> Option<&[String]> {
    let key = match &node.kind {
        NodeKind::Window(window) => &window.key,
        NodeKind::Udf(udf) => &udf.key,
        NodeKind::Source(_) | NodeKind::EventType(_) | NodeKind::Filter(_) | NodeKind::Sink(_) => return None,
    };
    (!key.is_empty()).then_some(key)
}

fn key_before(plan: &Plan, index: usize) -> Option<&[String]> {
    let own = declared_key(&plan.nodes[index]);
    own.or_else(|| producers(plan, index).find_map(|before| key_before(plan, before)))
}

fn key_behind(plan: &Plan, index: usize) -> Option<&[String]> {
    let own = declared_key(&plan.nodes[index]);
    own.or_else(|| consumers(plan, index).find_map(|behind| key_behind(plan, behind)))
}

fn producers(plan: &Plan, index: usize) -> impl Iterator<Item = usize> {
    plan.nodes[index].inputs.iter().filter(|input| input.port == Port::Rows).map(|input| input.node)
}

/// The nodes that read a node's results.
pub fn consumers(plan: &Plan, index: usize) -> impl Iterator<Item = usize> {
    let reads = move |node: &Node| node.inputs.iter().any(|input| input.node == index && input.port == Port::Rows);
    (0..plan.nodes.len()).filter(move |consumer| reads(&plan.nodes[*consumer]))
}
