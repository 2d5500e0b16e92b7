//! Durable state: one RocksDB store for each shard, checkpoints of all of them under one manifest, and recovery.
//!
//! Guarantees: a checkpoint is there as a whole or not at all; whatever was damaged is noticed before it is used; no disk,
//! however full or broken, makes it panic. It knows neither operators nor sources: their state is entries
//! ([`EntryKey`]) and their positions are JSON. It does not decide when a checkpoint is taken or which one a run goes on
//! from.
//!
//! ```text
//! STATE/                        0700, of one pipeline, owned by one process at a time
//!   lock                        locked while that process lives; its number and start time, for the error message
//!   checkpoints/
//!     0000000007/               everything up to barrier 7
//!       manifest                JSON and its checksum; names every other file with length and CRC-32C
//!       shard-0/ shard-1/ …     a RocksDB each; its tables are shared with other checkpoints by hard links
//!     0000000008.partial/       being written: the rename to 0000000008 is the commit point
//!     0000000004.removed/       being removed
//!   live/shard-0/ …             the stores that epochs are written into: scratch, made anew from a checkpoint at start
//!   staging/SINK/               what a sink made durable and does not show yet
//!   dead_letters/               rows that no sink takes
//!   retained/STEP/              a RocksDB with the results of a step that are kept, see [`RetainedStore`]
//! ```

mod call;
mod checkpoint;
mod delta;
mod disk;
mod error;
mod folder;
mod key;
mod lock;
mod manifest;
mod node_ids;
mod retained;
mod store;

pub use call::{Entries, NodeCall, Scan, StoreCall};
pub use checkpoint::{CheckpointInfo, PartialCheckpoint};
pub use delta::{Delta, NodeDelta};
pub use error::StateError;
pub use folder::StateFolder;
pub use key::{EntryKey, HEAD_BYTES, KEY_GROUPS, NodeId, WHOLE_SHARD, group_of, shard_of};
pub use lock::Owner;
pub use manifest::{FORMAT, FileRecord, Manifest, NodeRecord, PartitionRecord, SinkRecord, SourceRecord};
pub use node_ids::{Misfit, NodeDeclaration, NodeIds, Renamed};
pub use retained::{
    Amount, Committed, KeyPart, Merge, RetainedFigures, RetainedLimits, RetainedRange, RetainedReader, RetainedRow,
    RetainedStore, RollUp, RollUpLevel,
};
pub use store::ShardStore;
