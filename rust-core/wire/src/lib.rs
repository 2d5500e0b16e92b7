//! Columnar micro-batches stamped as FlatBuffers.
//!
//! A [`Template`] says where every byte of a batch region stands. A region is *stamped* once with a complete, empty
//! FlatBuffer; a [`BatchWriter`] then writes values in place and patches the lengths, so the hot path has no builder, no
//! allocation and no zeroing, and any FlatBuffers reader of any language can still read the region
//! (`schemas/micro_batch.fbs`). Columns have the layout of Apache Arrow, with one exception: a bool is a whole byte.
//!
//! Guarantees: every buffer is 64-byte aligned; no byte of an earlier batch is left in what describes a batch or within
//! its lengths; a region that another process wrote is believed only after [`Template::copy_untrusted`] has copied and
//! checked it, a buffer that another program built only as a [`ForeignBatch`].
//!
//! This crate maps no memory and knows nothing of rings, Python or configuration.

mod block;
mod copy;
mod data_type;
mod error;
mod fingerprint;
mod fixed;
mod foreign;
#[allow(
    clippy::all,
    clippy::undocumented_unsafe_blocks,
    missing_docs,
    unsafe_code,
    unsafe_op_in_unsafe_fn,
    unused_imports,
    mismatched_lifetime_syntaxes
)]
#[rustfmt::skip]
#[path = "generated/micro_batch_generated.rs"]
mod generated;
mod heap_batch;
mod lengths;
mod memory;
mod packed;
mod schema;
mod stamp;
mod template;
mod untrusted;
mod view;
mod writer;

pub use block::BlockHead;
pub use data_type::{DataType, ListItem, TimeUnit, UnknownDataType};
pub use error::{Full, WireError};
pub use fixed::{Fixed, Plain};
pub use foreign::ForeignBatch;
pub use generated::ringmill::wire as flatbuffer;
pub use heap_batch::HeapBatch;
pub use lengths::{ColumnLengths, Lengths};
pub use packed::{pack, packed_words, unpack};
pub use schema::{Field, Schema};
pub use template::{ALIGNMENT, Capacity, ColumnLayout, Template};
pub use view::{BatchView, ColumnParts, ColumnView};
pub use writer::{BatchWriter, Closed};
