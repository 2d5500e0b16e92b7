//! The run directory: how `ringmill inspect` finds a live run and gets hold of its channels.
//!
//! Every run makes a folder `BASE/ringmill-UID/PIPELINE-PID/` (mode 0700) with a socket `channels.sock`. Whoever connects
//! and has the same user id (or is root) is handed a short greeting and, channel by channel, read-only descriptors
//! of the two memory files. The folder goes with the run; what a killed run left behind is swept by the next one.
//!
//! Where the pipeline has sources for producers, they connect to `producers.sock` beside it (`runtime/producer`).
//!
//! The hot path knows nothing of this: a thread of its own sleeps on the socket, and looking reads memory only.
//! It does not interpret what the files hold; [`ringmill_ring::inspect`] does.

mod client;
mod folder;
mod message;
mod server;

pub use client::{ClientError, Run, connect};
pub use folder::{RunEntry, RunFolder, list};
pub use message::Greeting;
pub(crate) use message::send;
pub use server::{Directory, Server, serve};

use std::os::fd::OwnedFd;

/// A channel as it is handed to an onlooker.
#[derive(Debug)]
pub struct ChannelHandle {
    /// The worker's name: `step/shard/index`.
    pub name: String,
    /// The worker's process.
    pub pid: i32,
    /// The core's memory file.
    pub request: OwnedFd,
    /// The worker's memory file.
    pub response: OwnedFd,
}
