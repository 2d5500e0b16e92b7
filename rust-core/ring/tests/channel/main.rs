//! The channel's promises, seen through its public API and through the files themselves.
#![allow(unsafe_code, reason = "payloads are written and read through raw slot addresses, as users of the crate do")]

mod attach;
mod death;
mod filling;
mod hostile;
mod hostile_stress;
mod inspection;
mod invariants;
mod layout;
mod model;
mod replacement;
mod sealing;
mod sleeping;
mod stress;
mod support;
mod vectors;
