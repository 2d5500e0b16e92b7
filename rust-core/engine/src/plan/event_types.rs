//! Streams of one type each, of a source whose events are of several.
//!
//! The source's rows are in the columns that its types share ([`EventTypes`]). Behind it stands a node for each type,
//! `SOURCE.TYPE`, which passes on the rows of its type, in the type's own columns. Nobody else reads the source's rows.

use std::sync::Arc;

use ringmill_connect::{EventType, EventTypes, schema_of};
use ringmill_wire::Schema;

use super::{NodeKind, NodeSpec, SourceSpec};

/// One type of a source's events.
#[derive(Clone, Debug)]
pub struct EventTypeSpec {
    /// All types of the source.
    pub types: Arc<EventTypes>,
    /// Which of them.
    pub number: usize,
}

impl EventTypeSpec {
    /// The nodes of a source's types; none if it has no types.
    pub fn nodes(source: &str, spec: &SourceSpec) -> Vec<NodeSpec> {
        let Some(types) = spec.connector.event_types() else { return Vec::new() };
        let node = |(number, event_type): (usize, &EventType)| NodeSpec {
            name: format!("{source}.{}", event_type.name),
            inputs: vec![source.to_owned()],
            kind: NodeKind::EventType(EventTypeSpec { types: Arc::clone(types), number }),
        };
        types.types().iter().enumerate().map(node).collect()
    }

    /// The type.
    pub fn event_type(&self) -> &EventType {
        &self.types.types()[self.number]
    }

    /// The columns of its rows; otherwise what is wrong with them.
    pub(super) fn schema(&self) -> Result<Arc<Schema>, String> {
        schema_of(&self.event_type().fields).map_err(|error| error.to_string())
    }

    /// For each of its columns the one of the source's rows that it stands in.
    pub fn columns(&self) -> &[usize] {
        self.types.columns(self.number)
    }

    /// Its rows have no time of their own, and those of other types move the watermark.
    pub(super) fn is_timeless(&self) -> bool {
        self.event_type().event_time.is_none() && self.types.time_column().is_some()
    }
}
