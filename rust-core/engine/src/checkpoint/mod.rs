//! Checkpoints: when they are taken, what is in them, and whether a run can begin from one.
//!
//! What is here is pure: it decides, and others do. The threads that do are in the runtime.

mod alignment;
mod contents;
mod coordinator;
mod nodes;
#[cfg(test)]
mod simulation;

pub use alignment::Alignment;
pub use contents::{ManifestFrame, ShardContent};
pub use coordinator::{Action, Coordinator, CoordinatorConfig, Event, Figures, Part, Refusal};
pub use nodes::{NoMatch, NodeIdentity, NodeTable};
