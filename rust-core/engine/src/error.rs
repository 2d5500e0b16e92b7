//! What can end a run.

use ringmill_connect::ConnectError;
use ringmill_ring::RingError;
use ringmill_state::StateError;
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
    /// A function failed and the step says `on_error = "stop"`.
    #[error("{step}: the function failed on row {row} of the {rows} of batch {batch}: {error}; the row: {record}")]
    Udf {
        /// The step.
        step: String,
        /// Batch number in that shard and step.
        batch: u64,
        /// Its rows.
        rows: u32,
        /// The row, counted from 1, for which the function failed though it stood alone.
        row: u32,
        /// The beginning of the row, as JSON.
        record: String,
        /// `ValueError: …`, or how the worker died of it.
        error: String,
        /// The Python traceback.
        traceback: Option<String>,
    },
    /// All workers of a step died so often that none is started again.
    #[error("{step}: no worker is left: {workers}")]
    WorkersFailed {
        /// The step.
        step: String,
        /// Each worker of the shard with its deaths and its last reasons.
        workers: String,
        /// The traceback of the last one, if there is one.
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
    /// A function's per-key state outgrew `state_memory`.
    #[error(
        "{step}: per-key state needs {needed} bytes and may take {allowed} in this shard; raise state_memory or use fewer \
         distinct keys"
    )]
    KeyedState {
        /// The step.
        step: String,
        /// Bytes that it would take.
        needed: u64,
        /// Bytes that it may take.
        allowed: u64,
    },
    /// A class could not give out what it has learnt, or take it back.
    #[error("{step}: {method} failed: {error}")]
    Keep {
        /// The step.
        step: String,
        /// `snapshot()` or `restore()`.
        method: &'static str,
        /// `ValueError: …`
        error: String,
        /// The Python traceback.
        traceback: Option<String>,
    },
    /// State in a checkpoint cannot be taken back by the node that wrote it.
    #[error("{node}: its state in the checkpoint cannot be read: {reason}")]
    Unfit {
        /// The node.
        node: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The run cannot begin where it is to begin.
    #[error("{message}")]
    Recovery {
        /// What is in the way.
        message: String,
        /// What to do about it.
        hint: String,
    },
    /// Durable state cannot be written or read.
    #[error("cannot {action}: {error}")]
    Durable {
        /// What was tried.
        action: String,
        /// What the state layer said.
        error: StateError,
    },
    /// The run was to end while something that it waited for, space for example, had not come.
    #[error("the run was ended before this could be done: {reason}; {left}")]
    Unfinished {
        /// What could not be done, and why.
        reason: String,
        /// What that leaves undone.
        left: String,
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
            Self::WorkerStart { traceback, .. }
            | Self::Udf { traceback, .. }
            | Self::Keep { traceback, .. }
            | Self::WorkersFailed { traceback, .. } => traceback.as_deref(),
            Self::Connect { error: ConnectError::Process { detail, .. }, .. } => detail.as_deref(),
            Self::Describe { stderr, .. } if !stderr.is_empty() => Some(stderr),
            _ => None,
        }
    }

    /// Whether it is over once there is room on the disk again.
    pub fn is_out_of_space(&self) -> bool {
        match self {
            Self::Connect { error, .. } => error.is_out_of_space(),
            Self::Durable { error, .. } => error.is_out_of_space(),
            _ => false,
        }
    }

    /// What to do about it, where the error itself knows.
    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::Recovery { hint, .. } => Some(hint),
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
