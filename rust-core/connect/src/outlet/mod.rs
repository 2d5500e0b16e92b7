//! Rows that a process of its own takes, batch by batch.
//!
//! How the process is fed, watched and started again is the business of whoever implements [`Outlet`]; here its rows are
//! encoded, staged with checkpoints until their epoch is committed, and cut into batches. Each row has an *identity*: a
//! text and a number, which are the same however often the row has to be handed over. With checkpoints that holds whatever
//! dies, without them for one run.

mod courier;
#[cfg(test)]
mod tests;

use std::{ops::Range, sync::Arc};

use ringmill_wire::{BatchView, Capacity, Schema, Template};

use self::courier::Deliverer;
use crate::{
    ConnectError, Encoder, LetterStore, Promise, Transactions, Writer,
    courier::{ChunkWriter, EpochWriter},
};

/// A process of its own as a sink.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutletSink {
    /// what takes the rows, for errors: `module:Class`
    pub origin: String,
    /// rows of a batch, at most
    pub rows_max: u32,
    /// room in one batch for the bytes of each variable-length column
    pub variable_bytes_max: u32,
    /// Whoever takes the rows makes the same of them when they come again.
    pub is_idempotent: bool,
    /// With checkpoints, rows that are rejected are dead letters of the sink, each once; otherwise they end the run.
    pub keeps_rejected: bool,
}

/// Rows of a batch that whoever was given it refuses for good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// their places in the batch, ascending
    pub rows: Vec<u32>,
    /// why
    pub reason: String,
}

/// The process behind a sink. When this is dropped nothing follows, whether all rows were taken or the run gave up.
pub trait Outlet: Send {
    /// Hands over rows, no more than fit into a batch, and waits until they are taken: all of them but those that are
    /// rejected or, with an error, perhaps some. A process that dies meanwhile is given them again. Their identities are `id` and the numbers from `first` on.
    ///
    /// # Errors
    /// A transient one if they are to be handed over again later.
    fn deliver(&mut self, id: &str, first: u64, rows: &BatchView<'_>) -> Result<Option<Rejection>, ConnectError>;
}

impl OutletSink {
    /// What it promises with checkpoints.
    pub fn promise(&self) -> Promise {
        if self.is_idempotent { Promise::ExactlyOnce } else { Promise::AtLeastOnce }
    }

    /// The layout of its batches.
    pub fn template(&self, schema: &Arc<Schema>) -> Result<Arc<Template>, ConnectError> {
        let capacity = Capacity { rows_max: self.rows_max, variable_bytes_max: self.variable_bytes_max };
        let template = Template::new(schema.clone(), capacity);
        template.map(Arc::new).map_err(|error| ConnectError::Schema(error.to_string()))
    }

    /// What makes bytes of rows. Rows that are too large for a batch are refused.
    pub fn encoder(&self) -> Box<dyn Encoder> {
        Box::new(BlockEncoder {
            rows_max: self.rows_max as usize,
            variable_bytes_max: self.variable_bytes_max as usize,
        })
    }

    /// Hands over what a checkpoint has left to be. A process that cannot take it yet is waited for later. `letters` is where
    /// the sink's dead letters go.
    pub fn open(
        &self,
        schema: &Arc<Schema>,
        outlet: Box<dyn Outlet>,
        transactions: Option<&Transactions<'_>>,
        letters: Option<LetterStore>,
    ) -> Result<Box<dyn Writer>, ConnectError> {
        let deliverer = Deliverer::new(self, self.template(schema)?, outlet);
        Ok(match transactions {
            Some(transactions) => Box::new(EpochWriter::open(deliverer, transactions, letters)?),
            None => Box::new(ChunkWriter::new(deliverer)),
        })
    }
}

/// Rows as blocks ([`ringmill_wire::BlockHead`]).
struct BlockEncoder {
    rows_max: usize,
    variable_bytes_max: usize,
}

impl Encoder for BlockEncoder {
    fn begin(&mut self, _schema: &Schema, _out: &mut Vec<u8>) {}

    fn rows_at_once(&self) -> usize {
        self.rows_max
    }

    fn check(&self, view: &BatchView<'_>, rows: Range<usize>) -> Result<(), ConnectError> {
        let fields = view.schema().fields.iter().zip(view.columns());
        for (field, column) in fields.filter(|(field, _)| field.data_type.is_variable()) {
            let too_long = |row: &usize| column.bytes(*row).len() > self.variable_bytes_max;
            if let Some(row) = rows.clone().find(too_long) {
                return Err(ConnectError::Value {
                    column: field.name.clone(),
                    value: format!("{} bytes", column.bytes(row).len()),
                    reason: "a batch of the sink has room for `batch_bytes` of each column",
                });
            }
        }
        Ok(())
    }

    fn encode(&mut self, view: &BatchView<'_>, rows: Range<usize>, out: &mut Vec<u8>) {
        view.put_block(rows, out);
    }
}
