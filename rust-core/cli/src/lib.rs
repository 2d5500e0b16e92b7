//! The `ringmill` command: configuration, commands, exit codes, and everything that a person sees.
//!
//! It is the only part that reads configuration files and the environment, and the only one that exits. Reading a
//! configuration is two-staged ([`config`]); running it is the engine's business, watching the run is [`commands::run`]'s.
//! This library exists for the binary and its tests; it is no public interface.

pub mod arguments;
pub mod bench;
pub mod commands;
pub mod config;
pub mod failure;
pub mod hlog;
pub mod inspect;
pub mod latency;
pub mod letters;
pub mod live;
pub mod logging;
pub mod machine;
pub mod prepare;
pub mod promises;
pub mod reconcile;
pub mod replay;
pub mod report;
pub mod retention;
pub mod serve;
pub mod signals;
pub mod state_path;
pub mod summary;
pub mod table;
pub mod terminal;
pub mod units;
pub mod window_range;
