//! Which number a node has in the stores, and whether the state that is there fits what it is now.
//!
//! A name keeps its number for good, also while the pipeline has no such node, so that no node ever finds another one's
//! state.

use std::collections::HashSet;

use crate::error::StateError;
use crate::key::NodeId;
use crate::manifest::{Manifest, NodeRecord};

/// A node as the pipeline has it now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeDeclaration<'a> {
    /// As in the configuration.
    pub name: &'a str,
    /// `source`, `window`, `udf`, `filter`, `sink`.
    pub kind: &'a str,
    /// What its state has to look like; empty: it keeps none.
    pub fingerprint: &'a str,
    /// Declared version of a function.
    pub udf_version: Option<u32>,
}

/// Why a checkpoint's state cannot go on in the pipeline as it is now.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Misfit {
    /// A node's state is of another make.
    #[error("the state of step {node:?} no longer fits: it was {was:?}, and the step is now {is:?}")]
    Changed {
        /// the node's name
        node: String,
        /// its kind and fingerprint in the checkpoint
        was: String,
        /// its kind and fingerprint now
        is: String,
    },
    /// A node that has state is not there any more.
    #[error("step {node:?} is gone, but the checkpoint holds its state ({was:?})")]
    Gone {
        /// the node's name
        node: String,
        /// its kind and fingerprint in the checkpoint
        was: String,
    },
}

/// The checkpoint was written under another name; worth a warning and no more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Renamed {
    /// The pipeline's name in the checkpoint.
    pub was: String,
    /// Its name now.
    pub is: String,
}

/// The nodes that there ever were, with their numbers.
#[derive(Clone, Debug, Default)]
pub struct NodeIds {
    records: Vec<NodeRecord>,
    pipeline: Option<String>,
}

impl NodeIds {
    /// What the checkpoint knows; without one, nothing.
    #[must_use]
    pub fn new(manifest: Option<&Manifest>) -> NodeIds {
        NodeIds {
            records: manifest.map(|manifest| manifest.nodes.clone()).unwrap_or_default(),
            pipeline: manifest.map(|manifest| manifest.pipeline.clone()),
        }
    }

    /// Everything in the checkpoint that the pipeline's nodes do not go on from; empty: all fits.
    #[must_use]
    pub fn misfits(&self, nodes: &[NodeDeclaration<'_>]) -> Vec<Misfit> {
        let mut misfits = Vec::new();
        for record in self.records.iter().filter(|record| !record.fingerprint.is_empty()) {
            let was = make(&record.kind, &record.fingerprint);
            match nodes.iter().find(|node| node.name == record.name) {
                None => misfits.push(Misfit::Gone { node: record.name.clone(), was }),
                Some(node) if (node.kind, node.fingerprint) != (record.kind.as_str(), record.fingerprint.as_str()) => {
                    misfits.push(Misfit::Changed {
                        node: record.name.clone(),
                        was,
                        is: make(node.kind, node.fingerprint),
                    });
                }
                Some(_) => {}
            }
        }
        misfits
    }

    /// Whether the pipeline had another name when the checkpoint was written.
    #[must_use]
    pub fn renamed(&self, pipeline: &str) -> Option<Renamed> {
        let was = self.pipeline.as_ref().filter(|was| *was != pipeline)?;
        Some(Renamed { was: was.clone(), is: pipeline.to_owned() })
    }

    /// Gives every node its number, in the order of `nodes`: the one that it has, or the next that nobody ever had.
    /// Their records are those of the declarations from now on; counts stay.
    ///
    /// # Errors
    /// [`StateError::Nodes`] if there are no more numbers; nothing has changed then.
    pub fn assign(&mut self, nodes: &[NodeDeclaration<'_>]) -> Result<Vec<NodeId>, StateError> {
        let mut records = self.records.clone();
        // The last number stays free: nothing sorts after its last window.
        let mut taken: HashSet<NodeId> = records.iter().map(|record| record.id).chain([NodeId::MAX]).collect();
        let mut next = 0;
        let mut ids = Vec::with_capacity(nodes.len());
        for node in nodes {
            if let Some(record) = records.iter_mut().find(|record| record.name == node.name) {
                ids.push(record.id);
                record.kind = node.kind.to_owned();
                record.fingerprint = node.fingerprint.to_owned();
                record.udf_version = node.udf_version;
                continue;
            }
            let id = (next..NodeId::MAX).find(|id| !taken.contains(id));
            let id = id.ok_or_else(|| StateError::Nodes { name: node.name.to_owned(), count: records.len() })?;
            next = id + 1;
            taken.insert(id);
            ids.push(id);
            records.push(NodeRecord {
                id,
                name: node.name.to_owned(),
                kind: node.kind.to_owned(),
                fingerprint: node.fingerprint.to_owned(),
                udf_version: node.udf_version,
                counts: Default::default(),
            });
        }
        self.records = records;
        Ok(ids)
    }

    /// For the next manifest: all nodes that there ever were.
    #[must_use]
    pub fn records(&self) -> &[NodeRecord] {
        &self.records
    }

    /// The same, to bring the counts up to date.
    pub fn records_mut(&mut self) -> impl Iterator<Item = (NodeId, &mut std::collections::BTreeMap<String, u64>)> {
        self.records.iter_mut().map(|record| (record.id, &mut record.counts))
    }
}

fn make(kind: &str, fingerprint: &str) -> String {
    if fingerprint.is_empty() { format!("{kind} without state") } else { format!("{kind} {fingerprint}") }
}
