//! Runs a plan: shard threads with their graphs of operators, sink threads, and the supervisor of the workers.
//!
//! Rows flow through a shard without any step ever waiting: see [`operator`]. Threads talk through bounded queues only.

mod assemble;
mod dead_letters;
mod exchange;
mod filter;
mod graph;
mod launch;
mod operator;
mod shard;
mod signal;
mod sink;
mod source;
mod supervisor;
mod udf;
mod window;
mod worker_log;
mod workers;

pub use assemble::memory_budget;
pub use launch::{Summary, run};
