//! The writing side: what a sink thread drives, and what it promises.
//!
//! With checkpoints, a writer shows the rows of an epoch when that epoch is committed, and not before:
//!
//! 1. [`Writer::write`] stages rows of the open epoch (a few of the next may already come).
//! 2. [`Writer::pre_commit`] makes the epoch durable without showing it. What it answers goes into the checkpoint's
//!    manifest; writing that manifest is the commit point.
//! 3. [`Writer::commit`] shows the epoch. If the process dies before it is done, opening with
//!    [`Transactions::recovered`] does the rest.
//!
//! Without checkpoints rows are written at once, and only `write` and `finish` are called.

use std::{fmt, path::Path};

use serde_json::Value;

use crate::ConnectError;

/// What a source or a sink promises for a run with checkpoints, whatever is killed and whenever; less comes before more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Promise {
    /// A source: a record that was on its way when the core died may be lost. A sink: so may a row whenever the other side
    /// goes away, and after a recovery those of the interrupted epoch are shown again.
    AtMostOnce,
    /// A source: no record is lost that was acknowledged, and its sender sends the others again, of which some may then
    /// come twice. A sink: every row is shown at once; after a recovery those of the interrupted epoch are shown again.
    AtLeastOnce,
    /// A source: every record is taken once. A sink: every row is shown once, when its epoch is committed.
    ExactlyOnce,
}

impl fmt::Display for Promise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Promise::AtMostOnce => "at most once",
            Promise::AtLeastOnce => "at least once",
            Promise::ExactlyOnce => "exactly once",
        })
    }
}

/// What a sink needs to take part in checkpoints.
#[derive(Debug, Clone, Copy)]
pub struct Transactions<'a> {
    /// a folder of its own, on a disk, for rows that are not yet shown; it exists and nobody else writes there
    pub staging: &'a Path,
    /// the checkpoint that the run continues from: its epoch, and what [`Writer::pre_commit`] answered for it (null for
    /// a sink that the checkpoint does not know). `None`: the run begins anew, and so does the output
    pub recovered: Option<(u64, &'a Value)>,
}

impl<'a> Transactions<'a> {
    /// The epoch and the sink's own value, if there is one.
    pub fn known(&self) -> Option<(u64, &'a Value)> {
        self.recovered.filter(|(_, value)| !value.is_null())
    }
}

/// Puts encoded rows where they belong. Runs on the sink's own thread and may block.
pub trait Writer: Send {
    /// Writes all of `bytes`, whole rows of `epoch`. Rows of an epoch and of the one after it may come alternately, until
    /// `pre_commit` of the earlier one. A call that failed has written nothing; it is made again with the
    /// same bytes before anything else is done for that epoch.
    fn write(&mut self, epoch: u64, bytes: &[u8]) -> Result<(), ConnectError>;

    /// All input was read, and everything that follows from it is in the epoch that is made durable next.
    fn input_ends(&mut self) {}

    /// Makes everything written for `epoch` durable without showing it, and says what is needed to show it. May be called
    /// again after an error.
    fn pre_commit(&mut self, _epoch: u64) -> Result<Value, ConnectError> {
        Ok(Value::Null)
    }

    /// Shows what `pre_commit` made durable; nothing if it is shown already. May be called again after an error.
    fn commit(&mut self, _epoch: u64) -> Result<(), ConnectError> {
        Ok(())
    }

    /// Ends the output in good order; nothing is written afterwards. What was staged and not committed stays unseen.
    fn finish(&mut self) -> Result<(), ConnectError>;
}
