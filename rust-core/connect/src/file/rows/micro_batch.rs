//! Micro-batches of other programs, one after the other, each behind its length (`schemas/README.md`).
//!
//! The declared fields are their schema. What is copied of one has been checked altogether ([`ForeignBatch`]), and is then read
//! as a record batch of Arrow is.

use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use ringmill_wire::{ForeignBatch, Schema, WireError};

use super::{
    Medium, Trouble,
    columns::{Batches, given_next},
};
use crate::{
    FieldSpec,
    formats::columns::{Columns, Declared},
    schema_of,
};

/// Batches, one after the other.
pub(super) struct MicroBatches {
    file: Medium,
    schema: Arc<Schema>,
    declared: Declared,
    /// where the next one begins
    at: u64,
    end: u64,
    /// copied, and the rows of it that were handed out
    batch: Option<(RecordBatch, usize)>,
    /// rows that are passed over in the next batches
    skip: u64,
}

impl MicroBatches {
    pub fn open(file: Medium, fields: &[FieldSpec]) -> Result<MicroBatches, Trouble> {
        let schema = schema_of(fields).map_err(Trouble::broken)?;
        let declared = Declared::new(fields).map_err(Trouble::broken)?;
        let end = file.length()?;
        Ok(MicroBatches { file, schema, declared, at: 0, end, batch: None, skip: 0 })
    }

    /// The next one, and goes behind it.
    fn read(&mut self) -> Result<ForeignBatch, Trouble> {
        let left = self.end - self.at;
        let mut bytes = vec![0; left.min(ForeignBatch::PREFIX_BYTES as u64) as usize];
        self.file.read_exact_at(&mut bytes, self.at)?;
        let length = ForeignBatch::bytes(&bytes).ok_or_else(|| self.refused("its length is not whole"))?;
        if length > left {
            return Err(self.refused(&format!("it has {length} bytes with its length, and {left} are there")));
        }
        bytes.resize(length as usize, 0);
        self.file.read_exact_at(&mut bytes, self.at)?;
        let batch = ForeignBatch::read(&bytes, &self.schema).map_err(|error| match error {
            WireError::OtherSchema { .. } => {
                let text = self.schema.canonical_text();
                self.refused(&format!("{error}, which is the hash (FNV-1a, 64 bits) of {text:?}"))
            }
            error => self.refused(&error.to_string()),
        })?;
        self.at += length;
        Ok(batch)
    }

    /// Where others come before it, it is told which one.
    fn refused(&self, reason: &str) -> Trouble {
        match self.at {
            0 => Trouble::Broken(reason.to_owned()),
            at => Trouble::Broken(format!("the micro-batch at byte {at}: {reason}")),
        }
    }
}

impl Batches for MicroBatches {
    fn schema(&self) -> SchemaRef {
        self.declared.schema()
    }

    fn choose(&mut self, _columns: &Columns) -> Result<(), Trouble> {
        Ok(())
    }

    fn seek(&mut self, row: u64) -> Result<(), Trouble> {
        self.skip = row;
        Ok(())
    }

    fn next(&mut self) -> Result<Option<RecordBatch>, Trouble> {
        loop {
            if let Some(rows) = given_next(&mut self.batch) {
                return Ok(Some(rows));
            }
            if self.at == self.end {
                return match self.skip {
                    0 => Ok(None),
                    left => Err(Trouble::Broken(format!("it has {left} rows less than were read before"))),
                };
            }
            let batch = self.read()?;
            let rows = batch.view().rows();
            let skip = self.skip.min(rows as u64) as usize;
            self.skip -= skip as u64;
            if skip < rows {
                let copied = self.declared.copy(&batch.view()).map_err(Trouble::broken)?;
                self.batch = Some((copied, skip));
            }
        }
    }
}
