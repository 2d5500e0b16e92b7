//! The nodes of a pipeline and those of a checkpoint: who is who, and whose state still fits.
//!
//! A node is known by its name and keeps its number in the stores for good. State fits if its owner says the same about
//! it as the one who wrote it; otherwise the run is refused. State of a node that is gone is put aside.

use std::collections::BTreeMap;

use ringmill_state::{Manifest, Misfit, NodeDeclaration, NodeId, NodeIds, NodeRecord, StateError};

use crate::metrics::NodeCounts;
use crate::plan::replay::replayed_node;

/// What a plan's node says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeIdentity {
    /// As in the configuration.
    pub name: String,
    /// `source`, `window`, `udf`, `filter`, `sink`.
    pub kind: &'static str,
    /// What its state has to look like, readable; empty: it keeps none.
    pub fingerprint: String,
    /// Declared version of a function.
    pub udf_version: Option<u32>,
}

/// Why a pipeline cannot go on from a checkpoint.
#[derive(Debug)]
pub enum NoMatch {
    /// The nodes whose state does not fit any more.
    Misfits(Vec<Misfit>),
    /// There are no numbers left.
    State(StateError),
}

/// The nodes of a pipeline with their numbers and earlier figures.
#[derive(Clone, Debug, Default)]
pub struct NodeTable {
    /// By index in the plan.
    ids: Vec<NodeId>,
    /// All nodes that there ever were, with the figures of the checkpoint.
    records: Vec<NodeRecord>,
    /// Numbers and names of nodes that are gone and whose state is put aside.
    put_aside: Vec<(NodeId, String)>,
}

impl NodeTable {
    /// Finds the plan's nodes among those of a checkpoint, if there is one.
    ///
    /// # Errors
    /// All nodes whose state does not fit.
    pub fn match_up(nodes: &[NodeIdentity], manifest: Option<&Manifest>) -> Result<NodeTable, NoMatch> {
        let declarations: Vec<NodeDeclaration<'_>> = nodes
            .iter()
            .map(|node| NodeDeclaration {
                name: &node.name,
                kind: node.kind,
                fingerprint: &node.fingerprint,
                udf_version: node.udf_version,
            })
            .collect();
        let mut all = NodeIds::new(manifest);
        let (gone, changed): (Vec<Misfit>, Vec<Misfit>) =
            all.misfits(&declarations).into_iter().partition(|misfit| matches!(misfit, Misfit::Gone { .. }));
        if !changed.is_empty() {
            return Err(NoMatch::Misfits(changed));
        }
        let ids = all.assign(&declarations).map_err(NoMatch::State)?;
        let mut table = NodeTable { ids, records: all.records().to_vec(), put_aside: Vec::new() };
        for record in &mut table.records {
            let is_gone = |misfit: &Misfit| matches!(misfit, Misfit::Gone { node, .. } if *node == record.name);
            if gone.iter().any(is_gone) {
                // Should the node come back, it begins anew.
                table.put_aside.push((record.id, record.name.clone()));
                record.fingerprint.clear();
                record.counts.clear();
            }
        }
        table.settle_replays(nodes);
        Ok(table)
    }

    /// What the sources of earlier replays gave counts for the nodes whose letters those were: a source has read its
    /// records again, and a function was given its rows once more.
    fn settle_replays(&mut self, nodes: &[NodeIdentity]) {
        let is_over = |record: &&mut NodeRecord| {
            replayed_node(&record.name).is_some() && !nodes.iter().any(|node| node.name == record.name)
        };
        let over = self.records.iter_mut().filter(is_over);
        let given: Vec<_> = over.map(|record| (record.name.clone(), std::mem::take(&mut record.counts))).collect();
        for (source, counts) in given {
            let origin = replayed_node(&source).unwrap_or_default();
            let Some(record) = self.records.iter_mut().find(|record| record.name == origin) else { continue };
            let mut add = |key: &str, from: &str| {
                *record.counts.entry(key.to_owned()).or_default() += counts.get(from).copied().unwrap_or(0);
            };
            if record.kind == "source" {
                ["rows_in", "rows_out", "dead_letters"].into_iter().for_each(|key| add(key, key));
            } else {
                add("replayed", "rows_out");
            }
        }
    }

    /// Notes what had been given to a node by the time it was new; `given`: to it, by the figures of all nodes.
    pub fn note_missed(&mut self, node: usize, given: impl Fn(&[NodeCounts]) -> u64) {
        let given = given(&self.base_counts());
        let id = self.ids[node];
        if let Some(record) = self.records.iter_mut().find(|record| record.id == id && record.counts.is_empty()) {
            record.counts = BTreeMap::from([("missed".to_owned(), given)]);
        }
    }

    /// The nodes' numbers in the stores, by index in the plan.
    #[must_use]
    pub fn ids(&self) -> &[NodeId] {
        &self.ids
    }

    /// Figures of the runs before, by index in the plan.
    #[must_use]
    pub fn base_counts(&self) -> Vec<NodeCounts> {
        let of = |id: &NodeId| {
            let record = self.records.iter().find(|record| record.id == *id);
            let count = |key: &str| record.and_then(|record| record.counts.get(key)).copied().unwrap_or(0);
            NodeCounts {
                rows_in: count("rows_in"),
                rows_out: count("rows_out"),
                late: count("late"),
                dead_letters: count("dead_letters"),
                absorbed: count("absorbed"),
                replayed: count("replayed"),
                missed: count("missed"),
                ..NodeCounts::default()
            }
        };
        self.ids.iter().map(of).collect()
    }

    /// Numbers and names of nodes that are gone with their state; what the stores have of it is to be deleted.
    #[must_use]
    pub fn put_aside(&self) -> &[(NodeId, String)] {
        &self.put_aside
    }

    /// Records for a manifest with the figures of all shards, by index in the plan.
    #[must_use]
    pub fn records(&self, counts: &[NodeCounts]) -> Vec<NodeRecord> {
        let mut records = self.records.clone();
        for (id, counts) in self.ids.iter().zip(counts) {
            let Some(record) = records.iter_mut().find(|record| record.id == *id) else { continue };
            let all = [
                ("rows_in", counts.rows_in),
                ("rows_out", counts.rows_out),
                ("late", counts.late),
                ("dead_letters", counts.dead_letters),
                ("absorbed", counts.absorbed),
            ];
            record.counts = BTreeMap::from(all.map(|(key, count)| (key.to_owned(), count)));
            for (key, count) in [("replayed", counts.replayed), ("missed", counts.missed)] {
                if count > 0 {
                    record.counts.insert(key.to_owned(), count);
                }
            }
        }
        records
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, kind: &'static str, fingerprint: &str) -> NodeIdentity {
        NodeIdentity { name: name.into(), kind, fingerprint: fingerprint.into(), udf_version: None }
    }

    fn manifest(nodes: Vec<NodeRecord>) -> Manifest {
        let text = r#"{"format": 1, "epoch": 1, "created_ms": 0, "pipeline": "p", "ringmill": "0", "shards": 1,
            "is_final": false, "nodes": [], "sources": [], "sinks": [], "files": []}"#;
        Manifest { nodes, ..serde_json::from_str(text).unwrap() }
    }

    /// What a checkpoint of these nodes says.
    fn earlier(nodes: &[NodeIdentity]) -> Manifest {
        let counts = NodeCounts { rows_in: 7, rows_out: 5, ..NodeCounts::default() };
        manifest(NodeTable::match_up(nodes, None).unwrap().records(&vec![counts; nodes.len()]))
    }

    #[test]
    fn nodes_keep_their_numbers_and_figures_whatever_their_order() {
        let earlier = earlier(&[node("a", "source", "generator"), node("b", "window", "w")]);
        let now = [node("c", "filter", ""), node("b", "window", "w"), node("a", "source", "generator")];
        let table = NodeTable::match_up(&now, Some(&earlier)).unwrap();
        assert_eq!(table.ids(), [2, 1, 0]);
        let rows: Vec<u64> = table.base_counts().iter().map(|counts| counts.rows_in).collect();
        assert_eq!((rows, table.put_aside()), (vec![0, 7, 7], &[][..]));
    }

    #[test]
    fn state_that_does_not_fit_is_refused_naming_each_step() {
        let earlier = earlier(&[node("a", "window", "key x"), node("b", "window", "w"), node("c", "filter", "")]);
        let now = [node("a", "window", "key y"), node("b", "filter", ""), node("c", "window", "w")];
        let NoMatch::Misfits(misfits) = NodeTable::match_up(&now, Some(&earlier)).unwrap_err() else { panic!() };
        let said: Vec<String> = misfits.iter().map(Misfit::to_string).collect();
        assert_eq!(said.len(), 2, "{said:?}");
        assert!(said[0].contains("\"a\"") && said[0].contains("key x") && said[0].contains("key y"), "{said:?}");
    }

    #[test]
    fn rows_of_a_replay_count_for_the_nodes_whose_letters_they_were_once() {
        let ordinary = [node("in", "source", "file"), node("f", "udf", "")];
        let replay = [&ordinary[..], &[node("replay:in", "source", ""), node("replay:f", "source", "")]].concat();
        let earlier = earlier(&replay);
        let figures = |table: &NodeTable| -> Vec<(u64, u64, u64)> {
            table.base_counts().iter().map(|counts| (counts.rows_in, counts.rows_out, counts.replayed)).collect()
        };
        let again = NodeTable::match_up(&replay, Some(&earlier)).unwrap();
        assert_eq!(figures(&again), [(7, 5, 0); 4]);
        let table = NodeTable::match_up(&ordinary, Some(&earlier)).unwrap();
        assert_eq!(figures(&table), [(14, 10, 0), (7, 5, 5)]);
        let later = manifest(table.records(&table.base_counts()));
        let table = NodeTable::match_up(&ordinary, Some(&later)).unwrap();
        assert_eq!(figures(&table), [(14, 10, 0), (7, 5, 5)]);
    }

    #[test]
    fn what_was_given_before_a_node_was_there_is_noted_once() {
        let source = node("in", "source", "file");
        let first = earlier(&[source.clone(), node("a", "sink", "")]);
        let now = [node("b", "sink", ""), source, node("a", "sink", "")];
        let missed = |earlier: Option<&Manifest>| {
            let mut table = NodeTable::match_up(&now, earlier).unwrap();
            [0, 2].into_iter().for_each(|node| table.note_missed(node, |counts| counts[1].rows_out));
            (table.base_counts().iter().map(|counts| counts.missed).collect::<Vec<_>>(), table)
        };
        assert_eq!(missed(None).0, [0; 3]);
        let (found, table) = missed(Some(&first));
        assert_eq!(found, [5, 0, 0], "the source had given 5 rows");
        let counts: Vec<NodeCounts> = table
            .base_counts()
            .into_iter()
            .map(|counts| NodeCounts { rows_in: counts.rows_in + 1, ..counts })
            .collect();
        let (found, _) = missed(Some(&manifest(table.records(&counts))));
        assert_eq!(found, [5, 0, 0], "it is not new any more");
    }

    #[test]
    fn state_of_a_node_that_is_gone_is_put_aside_and_its_number_never_given_to_another() {
        let first = earlier(&[node("a", "source", "generator"), node("b", "window", "w")]);
        let now = [node("a", "source", "generator"), node("new", "window", "w")];
        let table = NodeTable::match_up(&now, Some(&first)).unwrap();
        assert_eq!((table.ids(), table.put_aside()), (&[0, 2][..], &[(1, "b".to_owned())][..]));
        let second = manifest(table.records(&[]));
        let again = [node("b", "window", "other"), node("d", "window", "w")];
        let table = NodeTable::match_up(&again, Some(&second)).unwrap();
        assert_eq!(table.ids(), [1, 3]);
        assert_eq!(table.base_counts()[0], NodeCounts::default());
        assert_eq!(table.put_aside(), [(0, "a".to_owned()), (2, "new".to_owned())]);
    }
}
