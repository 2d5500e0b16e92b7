//! What can end a run.

use ringmill_connect::ConnectError;
use ringmill_ring::RingError;
use ringmill_wire::WireError;

use crate::window::StateFull;

/// Why a run could not start or had to end. `Display` gives one line; a Python traceback is in [`EngineError::traceback`].
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// A source or sink failed.
    #[error("{node}: {error}")]
    Connect {
        /// The node.
        node: String,
        /// What its connector said.
        error: ConnectError,
    },
    /// A channel to a worker could not be made.
    #[error("cannot make the channel to worker {worker}: {error}")]
    Channel {
        /// The worker.
        worker: String,
        /// What the ring said.
        error: RingError,
    },
    /// A micro-batch layout is impossible.
    #[error("{node}: {error}")]
    Layout {
        /// The node.
        node: String,
        /// What the wire layer said.
        error: WireError,
    },
    /// A thread, pipe or process could not be made.
    #[error("cannot {action}: {error}")]
    System {
        /// What was tried.
        action: String,
        /// What the system said.
        error: std::io::Error,
    },
    /// A worker ended before it was ready.
    #[error("worker {worker} could not start: {message}")]
    WorkerStart {
        /// The worker.
        worker: String,
        /// Its last words.
        message: String,
        /// The Python traceback, if it gave one.
        traceback: Option<String>,
    },
    /// A worker ended while it was needed.
    #[error("worker {worker} (pid {pid}) {how}{}", at_batch(*batch))]
    WorkerDied {
        /// The worker.
        worker: String,
        /// Its process.
        pid: i32,
        /// `was killed by SIGSEGV`, `exited with code 1`, …
        how: String,
        /// The batch it was working on; 0: none.
        batch: u64,
    },
    /// A worker broke the ring's protocol and was killed.
    #[error("worker {worker} broke the ring protocol and was killed: {violation}")]
    Protocol {
        /// The worker.
        worker: String,
        /// The rule it broke.
        violation: String,
    },
    /// A function raised and the step says `on_error = "stop"`.
    #[error("{step}: the function failed on batch {batch} ({rows} rows): {error}")]
    Udf {
        /// The step.
        step: String,
        /// Batch number in that shard and step.
        batch: u64,
        /// Its rows.
        rows: u32,
        /// `ValueError: …`.
        error: String,
        /// The Python traceback.
        traceback: Option<String>,
    },
    /// A window's state outgrew `state_memory`.
    #[error("{step}: {error}")]
    State {
        /// The step.
        step: String,
        /// Bytes needed and allowed.
        error: StateFull,
    },
    /// One row is larger than a whole micro-batch.
    #[error(
        "{node}: one row needs more room than a whole micro-batch has ({room} bytes for each variable-length column); raise batch_bytes"
    )]
    RowTooLarge {
        /// The node.
        node: String,
        /// Room there is.
        room: u32,
    },
    /// `ringmill.describe` could not be run.
    #[error("cannot ask Python for the functions: {message}")]
    Describe {
        /// Why.
        message: String,
        /// What the interpreter printed.
        stderr: String,
    },
    /// A thread of ours panicked: a bug.
    #[error("internal error: {0}")]
    Internal(String),
    /// The user asked for an immediate end.
    #[error("interrupted before the pipeline was drained")]
    Aborted,
}

impl EngineError {
    /// The Python traceback that belongs to the error, if any.
    pub fn traceback(&self) -> Option<&str> {
        match self {
            Self::WorkerStart { traceback, .. } | Self::Udf { traceback, .. } => traceback.as_deref(),
            Self::Describe { stderr, .. } if !stderr.is_empty() => Some(stderr),
            _ => None,
        }
    }

    pub(crate) fn system(action: impl Into<String>, error: impl Into<std::io::Error>) -> Self {
        Self::System { action: action.into(), error: error.into() }
    }
}

fn at_batch(batch: u64) -> String {
    if batch == 0 { String::new() } else { format!(" while it worked on batch {batch}") }
}
