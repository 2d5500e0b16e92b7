//! What goes into a manifest, gathered from the shards and the sinks.

use ringmill_state::{FORMAT, FileRecord, Manifest, PartitionRecord, SinkRecord, SourceRecord};

use super::nodes::NodeTable;
use crate::metrics::NodeCounts;

/// What a shard hands in at the end of an epoch.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ShardContent {
    /// Where each of its partitions goes on, with the source's index in the plan.
    pub partitions: Vec<(usize, PartitionRecord)>,
    /// Each node's figures, by index in the plan.
    pub counts: Vec<(usize, NodeCounts)>,
    /// The files of its store.
    pub files: Vec<FileRecord>,
}

/// What all manifests of a run have in common.
#[derive(Clone, Debug)]
pub struct ManifestFrame {
    /// The pipeline's name.
    pub pipeline: String,
    /// Its shards.
    pub shards: usize,
    /// Its nodes.
    pub nodes: NodeTable,
    /// Its sources: index in the plan and name.
    pub sources: Vec<(usize, String)>,
    /// Names of the sinks that stage and commit, in the coordinator's order.
    pub sinks: Vec<String>,
    /// Of a run that leaves the sources where they are: whether they had ended before it.
    pub had_ended: Option<bool>,
}

impl ManifestFrame {
    /// The manifest of one epoch.
    #[must_use]
    pub fn fill(
        &self,
        epoch: u64,
        is_final: bool,
        created_ms: u64,
        shards: Vec<ShardContent>,
        staged: Vec<serde_json::Value>,
    ) -> Manifest {
        let mut counts: Vec<NodeCounts> = Vec::new();
        let mut sources: Vec<SourceRecord> = Vec::with_capacity(self.sources.len());
        let sources_of = |name: &String| SourceRecord { node: name.clone(), partitions: Vec::new() };
        sources.extend(self.sources.iter().map(|(_, name)| sources_of(name)));
        let mut files = Vec::new();
        for shard in shards {
            for (node, shard_counts) in &shard.counts {
                if counts.len() <= *node {
                    counts.resize(node + 1, NodeCounts::default());
                }
                add(&mut counts[*node], shard_counts);
            }
            for (node, partition) in shard.partitions {
                if let Some(at) = self.sources.iter().position(|(index, _)| *index == node) {
                    sources[at].partitions.push(partition);
                }
            }
            files.extend(shard.files);
        }
        let sinks = self.sinks.iter().zip(staged);
        Manifest {
            format: FORMAT,
            epoch,
            created_ms,
            pipeline: self.pipeline.clone(),
            ringmill: env!("CARGO_PKG_VERSION").to_owned(),
            shards: self.shards,
            is_final: self.had_ended.unwrap_or(is_final),
            nodes: self.nodes.records(&counts),
            sources,
            sinks: sinks.map(|(name, staged)| SinkRecord { node: name.clone(), staged }).collect(),
            files,
        }
    }
}

fn add(total: &mut NodeCounts, shard: &NodeCounts) {
    total.rows_in += shard.rows_in;
    total.rows_out += shard.rows_out;
    total.late += shard.late;
    total.dead_letters += shard.dead_letters;
    total.absorbed += shard.absorbed;
    total.replayed += shard.replayed;
    total.missed += shard.missed;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::NodeIdentity;

    #[test]
    fn figures_are_summed_and_partitions_gathered_over_the_shards() {
        let source =
            NodeIdentity { name: "in".into(), kind: "source", fingerprint: "generator".into(), udf_version: None };
        let nodes = NodeTable::match_up(&[source], None).unwrap();
        let (sources, sinks) = (vec![(0, "in".to_owned())], vec!["out".to_owned()]);
        let frame = ManifestFrame { pipeline: "test".into(), shards: 2, nodes, sources, sinks, had_ended: None };
        let content = |name: &str, rows_in: u64| ShardContent {
            partitions: vec![(
                0,
                PartitionRecord { name: name.into(), position: rows_in.into(), newest_ns: 0, ended: false },
            )],
            counts: vec![(0, NodeCounts { rows_in, ..NodeCounts::default() })],
            files: vec![FileRecord { path: format!("{name}/CURRENT"), bytes: 1, crc32c: 2 }],
        };
        let manifest = frame.fill(3, false, 9, vec![content("a", 5), content("b", 6)], vec!["staged".into()]);
        assert_eq!((manifest.epoch, manifest.shards, manifest.files.len()), (3, 2, 2));
        assert_eq!(manifest.nodes[0].counts["rows_in"], 11);
        assert_eq!(manifest.sources[0].partitions.len(), 2);
        assert_eq!(manifest.sinks, [SinkRecord { node: "out".into(), staged: "staged".into() }]);
    }
}
