//! Runs a resolved pipeline ([`Plan`]): shards, windows, UDF workers, sinks and metrics.
//!
//! Guarantees: rows keep their order per key; every queue is bounded and a full one slows its producer; every row that
//! enters is passed on, aggregated, or counted where it left (late, dead letter, skipped). A worker can be killed
//! without the core crashing or hanging; in this version the run then ends with an error.
//!
//! It reads no configuration and no environment, prints nothing, and never exits the process.

pub mod checkpoint;
pub mod describe;
mod error;
pub mod expression;
pub mod instruments;
pub mod metrics;
mod nearest;
pub mod plan;
pub mod profile;
mod random;
pub mod rundir;
mod runtime;
mod time;
mod user_mask;
pub mod window;

pub use error::EngineError;
pub use metrics::{
    CheckpointFigures, Control, NodeCounts, PartitionLag, RecoveredFrom, Snapshot, Stage, WorkerCondition,
    WorkerSnapshot, latency_histogram,
};
pub use plan::Plan;
pub use runtime::{Summary, memory_budget, run};
