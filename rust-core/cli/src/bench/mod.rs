//! `ringmill bench`: latency and throughput of a user's own pipeline, measured so that the figures can be trusted.
//!
//! [`target`] makes the pipeline ready, [`run`] runs it once under a load and lets [`verdict`] judge, [`measurement`]
//! merges runs, [`sweep`] looks for saturation. [`result`] is what is written; [`tables`], [`plots`] and [`html`] show it.
//! The method is described in `docs/benchmarking.md`.

pub mod chart;
pub mod events;
pub mod files;
pub mod hiccup;
pub mod html;
pub mod machine;
pub mod measurement;
pub mod percentiles;
pub mod plots;
pub mod result;
pub mod run;
pub mod sweep;
pub mod tables;
pub mod target;
pub mod verdict;
