//! Sources whose partitions come and go while the pipeline runs, and what cannot stand behind them.
//!
//! A partition that goes to another member of the group takes nothing along but its offset. What a step keeps for a key
//! would stay behind, and the other member would begin it anew.

use super::{Node, NodeKind, Plan, PlanError, SourceConnector, SourceSpec};

/// Refuses such sources where something behind them keeps state for each key, or nothing says how far they got.
pub(super) fn mistakes(nodes: &[Node], has_checkpoints: bool) -> Vec<PlanError> {
    let mut mistakes = Vec::new();
    for (index, node) in nodes.iter().enumerate().filter(|(_, node)| has_moving_partitions(node)) {
        let keyed: Vec<String> = behind(nodes, index).filter_map(keeps_keys).collect();
        if !keyed.is_empty() {
            let message = format!(
                "a partition that goes to another member of the group cannot take along what {} for each key",
                keyed.join(" and ")
            );
            let hint = "read fixed partitions: a `share` of them in each pipeline, or those in `partitions`";
            mistakes.push(mistake(node, message, hint));
        }
        if !has_checkpoints {
            let message = "the group is told what checkpoints cover, and there are none".to_owned();
            mistakes.push(mistake(node, message, "add a [checkpoint] table with path = \"state\""));
        }
    }
    mistakes
}

impl Plan {
    /// Whether it has such sources.
    pub fn has_moving_partitions(&self) -> bool {
        self.nodes.iter().any(has_moving_partitions)
    }
}

fn mistake(node: &Node, message: String, hint: &str) -> PlanError {
    let message = format!("`assignment` = \"group\": {message}");
    PlanError { node: node.name.clone(), key: "assignment".to_owned(), message, hint: Some(hint.to_owned()) }
}

fn has_moving_partitions(node: &Node) -> bool {
    match &node.kind {
        NodeKind::Source(SourceSpec { connector: SourceConnector::Kafka(spec), .. }) => spec.membership().is_some(),
        _ => false,
    }
}

/// The nodes that its rows, or what becomes of them, come to; `nodes` has producers before consumers.
fn behind(nodes: &[Node], source: usize) -> impl Iterator<Item = &Node> {
    let mut is_behind = vec![false; nodes.len()];
    is_behind[source] = true;
    for (index, node) in nodes.iter().enumerate() {
        is_behind[index] |= node.inputs.iter().any(|input| is_behind[input.node]);
    }
    nodes.iter().zip(is_behind).filter_map(|(node, is_behind)| is_behind.then_some(node))
}

/// What keeps state for each key, in words.
fn keeps_keys(node: &Node) -> Option<String> {
    let what = match &node.kind {
        NodeKind::Window(_) => "window",
        NodeKind::Udf(udf) if !udf.key.is_empty() => "function",
        _ => return None,
    };
    Some(format!("the {what} {:?} keeps", node.name))
}
