//! Runs a plan: shard threads with their graphs of operators, sink threads, and the supervisor of the workers.
//!
//! Rows flow through a shard without any step ever waiting: see [`operator`]. Threads talk through bounded queues only.

mod assemble;
#[cfg(test)]
mod barrier_tests;
mod checkpoint_link;
mod checkpoint_thread;
mod checkpoints;
mod dead_letters;
mod exchange;
mod farewell;
mod filter;
mod graph;
mod launch;
mod operator;
mod outputs;
mod patience;
mod producer;
mod recovery;
mod restarts;
mod retained;
mod roll_up;
mod shard;
mod signal;
mod sink;
mod snapshot;
mod source;
mod standing;
mod store_port;
mod store_thread;
mod supervisor;
mod udf;
mod window;
mod worker_feed;
mod worker_link;
mod worker_log;
mod worker_outlet;
mod workers;
mod writer_thread;

pub use assemble::memory_budget;
pub use launch::{Summary, run};
