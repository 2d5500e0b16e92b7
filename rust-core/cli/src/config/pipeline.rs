//! `[pipeline]`: what belongs to the pipeline as a whole.

use ringmill_engine::plan::{CheckpointSpec, NodeKind, NodeSpec, PipelineSpec, SinkSpec, SourceConnector, SourceSpec};
use ringmill_engine::profile::Profile;
use ringmill_ring::Wait;

use super::mistake::Mistake;
use super::raw::{Raw, RawValue, Table};
use super::resolve::count;
use crate::machine::Machine;

/// What rows that wait for a sink may take of each shard's memory.
const SINK_BUFFER_BYTES: u64 = 2 << 20;
const SINK_BUFFER_BYTES_MAX: u64 = 16 << 30;

/// The pipeline as a whole, whose name is `default_name` unless it says another.
pub(super) fn pipeline(
    table: Option<&Table>,
    nodes: &[NodeSpec],
    checkpoint: Option<CheckpointSpec>,
    (default_name, machine): (&str, &Machine),
    mistakes: &mut Vec<Mistake>,
) -> PipelineSpec {
    if let Some(table) = table {
        check_profile(table, mistakes);
        check_sink_buffer(table, mistakes);
    }
    let cpus: Vec<usize> = table.map_or(&[][..], |table| table.list("cpus")).iter().filter_map(index).collect();
    let cores = if cpus.is_empty() { machine.cores } else { cpus.len() };
    let is_latency = table.and_then(|table| table.text("profile")) == Some("latency");
    let wait = match table.and_then(|table| table.text("wait")) {
        _ if is_latency => Wait::Spin,
        Some("spin") => Wait::Spin,
        Some("block") => Wait::Block,
        _ => Wait::Adaptive,
    };
    PipelineSpec {
        name: table.and_then(|table| table.text("name")).unwrap_or(default_name).to_owned(),
        shards: table.and_then(|table| table.integer("shards")).map_or_else(|| shards_default(nodes, cores), count),
        wait,
        profile: if is_latency { Profile::Latency } else { Profile::Default },
        cpus,
        sink_buffer_bytes: table.and_then(|table| table.size("sink_buffer")).unwrap_or(SINK_BUFFER_BYTES),
        state_bytes_max: table.and_then(|table| table.size("state_memory")).unwrap_or(machine.memory_bytes / 4),
        run_base: Some(machine.run_base.clone()),
        worker_environment: machine.worker_environment.clone(),
        checkpoint,
    }
}

fn index(raw: &Raw) -> Option<usize> {
    match raw.value {
        RawValue::Integer(integer) => usize::try_from(integer).ok(),
        _ => None,
    }
}

/// As many shards as there are cores for a shard thread and its workers: 1 on 2 cores and 32 on 64 with one worker each.
fn shards_default(nodes: &[NodeSpec], cores: usize) -> usize {
    let workers: usize = nodes
        .iter()
        .map(|node| match &node.kind {
            NodeKind::Udf(udf) => udf.workers,
            NodeKind::Source(SourceSpec {
                connector: SourceConnector::Python(_) | SourceConnector::Producer(_),
                ..
            })
            | NodeKind::Sink(SinkSpec::Python(_)) => 1,
            _ => 0,
        })
        .sum();
    (cores / (1 + workers)).clamp(1, 1024)
}

/// The profile says how to wait.
fn check_profile(table: &Table, mistakes: &mut Vec<Mistake>) {
    if let (Some("latency"), Some(raw)) = (table.text("profile"), table.get("wait")) {
        let message = "`wait` and profile = \"latency\" exclude each other";
        let hint = "take `wait` away: with that profile shards spin and workers sleep";
        mistakes.push(Mistake::at(raw.span, message).hint(hint));
    }
}

/// More is a slip of the pen: it is there for each sink and shard.
fn check_sink_buffer(table: &Table, mistakes: &mut Vec<Mistake>) {
    if let (Some(raw), Some(bytes)) = (table.get("sink_buffer"), table.size("sink_buffer"))
        && bytes > SINK_BUFFER_BYTES_MAX
    {
        mistakes.push(Mistake::at(raw.span, "`sink_buffer` must be at most 16GiB"));
    }
}
