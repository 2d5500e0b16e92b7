//! Datums one after the other, as they stand in a block of a file: where each ends, and what becomes of it.

use std::sync::Arc;

use ringmill_wire::{Capacity, DataType, Field, HeapBatch, Schema, Template};

use super::{
    AvroSchema,
    program::{Program, Unread},
    reader,
};
use crate::{
    FieldSpec,
    formats::{
        FieldMisfit,
        binary::{Broken, Bytes},
        column::{Refusal, Row},
    },
};

/// Reads datums of one schema.
#[derive(Debug)]
pub(crate) struct AvroRows {
    program: Program,
    /// the same for no column: finds where a datum ends
    pass: Program,
    /// where it writes its columns
    nowhere: HeapBatch,
}

impl AvroRows {
    /// Of datums that were written by `schema`; `reader` says what it lacks. The error says what does not fit.
    pub fn new(
        schema: &AvroSchema,
        reader: Option<&AvroSchema>,
        fields: &[FieldSpec],
    ) -> Result<AvroRows, Vec<FieldMisfit>> {
        let fields: Vec<_> = fields.iter().enumerate().collect();
        let of_schema = |error: String| vec![FieldMisfit::of_schema(error)];
        let nothing = Schema::new(vec![Field::new("nothing", DataType::Bool)]);
        let nothing = nothing.map_err(|error| of_schema(error.to_string()))?;
        let capacity = Capacity { rows_max: 1, variable_bytes_max: 1 };
        let nowhere = Template::new(Arc::new(nothing), capacity).map_err(|error| of_schema(error.to_string()))?;
        Ok(AvroRows {
            program: reader::compile(schema, reader, &fields, &[])?,
            pass: reader::compile(schema, None, &[], &[])?,
            nowhere: HeapBatch::new(Arc::new(nowhere)),
        })
    }

    /// Goes behind the next datum, whatever its values are.
    pub fn pass(&mut self, bytes: &mut Bytes<'_>) -> Result<(), Broken> {
        let (mut reason, mut binary) = (String::new(), Vec::new());
        let mut row = Row {
            out: self.nowhere.writer(),
            reason: &mut reason,
            event_column: usize::MAX,
            event_max: i64::MAX,
            binary: &mut binary,
        };
        match self.pass.run(bytes, &mut row) {
            Ok(()) | Err(Unread::Refused(_)) => Ok(()),
            Err(Unread::Broken(broken)) => Err(broken),
        }
    }

    /// Moves a datum into the row.
    pub fn fill(&self, datum: &[u8], row: &mut Row<'_>) -> Result<(), Refusal> {
        reader::fill(&self.program, datum, 0, row)
    }
}
