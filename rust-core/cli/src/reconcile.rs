//! Whether every row that went in came out somewhere: within each node, and from node to node.

use ringmill_engine::plan::{Node, NodeKind};
use ringmill_engine::{NodeCounts, Plan};

use crate::units::grouped;

/// The differences, one sentence each; empty when the run reconciles.
pub fn differences(plan: &Plan, counts: &[NodeCounts]) -> Vec<String> {
    let mut found = Vec::new();
    for node in &plan.nodes {
        let Some(count) = find(counts, &node.name) else {
            found.push(format!("{} has no counts", node.name));
            continue;
        };
        let accounted = accounted(node, count);
        if accounted != count.rows_in {
            let (taken, out) = (grouped(count.rows_in), grouped(accounted));
            found.push(format!("{} took {taken} rows in but accounts for {out}", node.name));
        }
        if node.inputs.is_empty() {
            continue;
        }
        let given: u64 = node
            .inputs
            .iter()
            .filter_map(|input| Some(find(counts, &plan.nodes[input.node].name)?.given(input.port)))
            .sum();
        // What a function was given by replays, whose sources are not in the plan any more, and what went before it was there.
        let given = (given + count.replayed).saturating_sub(count.missed);
        if given != count.rows_in {
            let (given, taken) = (grouped(given), grouped(count.rows_in));
            found.push(format!("{} was given {given} rows but took {taken} in", node.name));
        }
    }
    found
}

/// Where the rows that a node took in are. What a window gives out is not what it took in, so it does not count there.
fn accounted(node: &Node, count: &NodeCounts) -> u64 {
    let passed = if matches!(node.kind, NodeKind::Window(_)) { 0 } else { count.rows_out };
    passed + count.late + count.dead_letters + count.absorbed
}

fn find<'a>(counts: &'a [NodeCounts], name: &str) -> Option<&'a NodeCounts> {
    counts.iter().find(|count| count.name == name)
}
