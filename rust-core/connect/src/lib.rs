//! Sources, sinks and formats.
//!
//! A *source* is a spec ([`GeneratorSpec`], [`FileSpec`], [`StdinSpec`]) that opens into [`Partition`]s: each is polled
//! by the one shard thread that owns it and writes rows straight into that shard's open micro-batch. A *sink* is an
//! [`Encoder`] (rows to bytes, on the shard thread) and a [`Writer`] (bytes to the target, on the sink's own thread);
//! the null sink is a [`Checksum`].
//!
//! Guarantees: no call blocks the thread that polls (FIFOs and standard input are read by threads of their own);
//! steady-state polling and encoding allocate nothing; no input can cause a panic; every record of the input becomes
//! exactly one row or one [`DeadLetter`].
//!
//! It does not know windows, rings or configuration files.

mod dead_letter;
mod error;
mod field;
mod file;
mod formats;
mod generator;
mod null;
mod pace;
mod partition;
mod stdin;
mod stdout;
#[cfg(test)]
mod testing;
mod text;
mod writer;

pub use dead_letter::{DeadLetter, DeadLetters, dead_letter_schema};
pub use error::ConnectError;
pub use field::{FieldSpec, schema_of};
pub use file::{FileSpec, FileWriter, Order};
pub use formats::{Encoder, Format, encoder};
pub use generator::{GeneratorSpec, Shape};
pub use null::Checksum;
pub use partition::{Partition, Partitions, Poll, PollContext, Position, Waker};
pub use stdin::StdinSpec;
pub use stdout::StdoutWriter;
pub use writer::Writer;

/// Longest record that a text source takes, unless its spec says otherwise.
pub const RECORD_BYTES_MAX: usize = 1 << 20;
