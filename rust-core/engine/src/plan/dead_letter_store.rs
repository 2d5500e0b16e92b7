//! The built-in store for dead letters that no sink takes.
//!
//! With checkpoints, every source and UDF step whose dead letters nobody reads gets a sink of its own: a folder of parts
//! in the pipeline's state folder, which the file sink commits together with everything else of an epoch. `ringmill dlq`
//! reads it. Without checkpoints there is no state folder, and such letters are only counted.
//!
//! A sink that keeps rows which it is refused has a folder of its own there, too. It shows its letters itself, when it knows
//! them: behind the checkpoint that has the rows.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use ringmill_connect::{FileSink, OutputFormat, Position, TakenLetters};
use ringmill_state::{Manifest, PartitionRecord};
use serde::Deserialize;

use super::build::stream_name;
use super::replay::replayed_node;
use super::{CheckpointSpec, Node, NodeKind, NodeSpec, PlanError, Port, SinkSpec, SourceConnector};

/// Configurations cannot have a name with a colon, so this one is never taken.
const PREFIX: &str = "dead_letters:";

/// Where the store lies in a state folder: a folder for each node.
pub fn root(state: &Path) -> PathBuf {
    state.join("dead_letters")
}

/// The folder of parts with the dead letters of a node; it ends in `/`, as the file sink wants it.
pub fn folder(state: &Path, node: &str) -> PathBuf {
    root(state).join(format!("{node}/"))
}

/// The node whose letters the sink called `name` stores, if it is such a sink.
pub fn stored_node(name: &str) -> Option<&str> {
    name.strip_prefix(PREFIX)
}

/// Letters of `node` that were replayed and are gone, though they may still stand in the store: the newest checkpoint says
/// so.
pub fn taken(manifest: &Manifest, node: &str) -> TakenLetters {
    let source = manifest.sources.iter().find(|source| replayed_node(&source.node) == Some(node));
    // There is one partition.
    source.and_then(|source| source.partitions.first()).map(letters_taken).unwrap_or_default()
}

/// The letters that a partition has taken.
pub(crate) fn letters_taken(partition: &PartitionRecord) -> TakenLetters {
    Position::deserialize(&partition.position).map(|position| position.letters).unwrap_or_default()
}

/// The sinks that the pipeline lacks.
pub(super) fn sinks(checkpoint: &CheckpointSpec, nodes: &[NodeSpec]) -> Vec<NodeSpec> {
    let read: HashSet<&str> = nodes
        .iter()
        .flat_map(|node| &node.inputs)
        .filter_map(|input| match stream_name(input) {
            (name, Port::DeadLetters) => Some(name),
            _ => None,
        })
        .collect();
    let mut seen = HashSet::new();
    nodes
        .iter()
        .filter(|node| makes_letters(&node.kind) && !read.contains(node.name.as_str()) && seen.insert(&node.name))
        .map(|node| NodeSpec {
            name: format!("{PREFIX}{}", node.name),
            inputs: vec![format!("{}.dead_letters", node.name)],
            kind: NodeKind::Sink(SinkSpec::File(FileSink::new(
                folder(&checkpoint.path, &node.name),
                OutputFormat::Json,
            ))),
        })
        .collect()
}

/// Sinks whose dead letters would have no place.
pub(super) fn without_checkpoints(nodes: &[Node]) -> Vec<PlanError> {
    let has_letters = |node: &&Node| matches!(&node.kind, NodeKind::Sink(sink) if sink.has_letters());
    let mistake = |node: &Node| PlanError {
        node: node.name.clone(),
        key: "on_refused".to_owned(),
        message: "`on_refused`: the dead letters of a sink are kept with the checkpoints, and there are none"
            .to_owned(),
        hint: Some("add [checkpoint] with path = \"state\"".to_owned()),
    };
    nodes.iter().filter(has_letters).map(mistake).collect()
}

/// A generator's rows are always right, and letters that fail again are those of their source or step.
fn makes_letters(kind: &NodeKind) -> bool {
    match kind {
        NodeKind::Source(source) => {
            !matches!(source.connector, SourceConnector::Generator(_) | SourceConnector::Letters(_))
        }
        NodeKind::Udf(_) => true,
        NodeKind::EventType(_) | NodeKind::Window(_) | NodeKind::Filter(_) | NodeKind::Sink(_) => false,
    }
}
