//! The columns of a source: those of its only type of events, or those that several types share.

use std::{ops::Deref, sync::Arc};

#[cfg(any(feature = "kafka", feature = "nats"))]
use ringmill_wire::DataType;

use crate::{EventTypes, FieldSpec};

/// The columns of the batches that a source's rows are written into.
#[derive(Debug, Clone, PartialEq)]
pub struct Fields {
    columns: Arc<[FieldSpec]>,
    types: Option<Arc<EventTypes>>,
    stops_early: bool,
}

impl Fields {
    /// The same, and a JSON object is read no further than to the last value that is declared: what stands behind it is not
    /// looked at.
    pub fn stop_early(self) -> Fields {
        Fields { stops_early: true, ..self }
    }

    /// Whether objects are read so.
    pub(crate) fn stops_early(&self) -> bool {
        self.stops_early
    }

    /// The types that share the columns, if there are several.
    pub fn types(&self) -> Option<&Arc<EventTypes>> {
        self.types.as_ref()
    }

    /// The fields of the type with this number (0, if there is only one), each with the column that it stands in.
    pub(crate) fn of_type(&self, number: usize) -> Vec<(usize, &FieldSpec)> {
        match &self.types {
            None => self.columns.iter().enumerate().collect(),
            Some(types) => types.columns(number).iter().copied().zip(&types.types()[number].fields).collect(),
        }
    }

    /// Whether a field of this name is binary.
    #[cfg(any(feature = "kafka", feature = "mqtt", feature = "nats"))]
    pub(crate) fn is_binary(&self, name: &str) -> bool {
        self.declared().any(|field| field.name == name && field.data_type == DataType::Binary)
    }

    /// What was declared, type by type.
    pub fn declared(&self) -> impl Iterator<Item = &FieldSpec> {
        let types = self.types.iter().flat_map(|types| types.types()).flat_map(|event_type| &event_type.fields);
        let only = if self.types.is_some() { &[] } else { &self.columns[..] };
        only.iter().chain(types)
    }
}

impl From<Vec<FieldSpec>> for Fields {
    fn from(fields: Vec<FieldSpec>) -> Fields {
        Fields { columns: fields.into(), types: None, stops_early: false }
    }
}

impl FromIterator<FieldSpec> for Fields {
    fn from_iter<I: IntoIterator<Item = FieldSpec>>(fields: I) -> Fields {
        fields.into_iter().collect::<Vec<_>>().into()
    }
}

impl From<EventTypes> for Fields {
    fn from(types: EventTypes) -> Fields {
        Fields { columns: types.shared().into(), types: Some(Arc::new(types)), stops_early: false }
    }
}

impl Deref for Fields {
    type Target = [FieldSpec];

    fn deref(&self) -> &[FieldSpec] {
        &self.columns
    }
}
