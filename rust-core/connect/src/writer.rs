//! The writing side: what a sink thread drives.

use crate::ConnectError;

/// Puts encoded rows where they belong. Runs on the sink's own thread and may block.
///
/// Epochs are those of the checkpoint that the bytes belong to; `pre_commit`, `commit` and `abort` do nothing for
/// writers that show their rows at once.
pub trait Writer: Send {
    /// Writes all of `bytes`, whole rows of `epoch`.
    fn write(&mut self, epoch: u64, bytes: &[u8]) -> Result<(), ConnectError>;

    /// Makes everything written for `epoch` durable without showing it.
    fn pre_commit(&mut self, _epoch: u64) -> Result<(), ConnectError> {
        Ok(())
    }

    /// Shows what `pre_commit` made durable.
    fn commit(&mut self, _epoch: u64) -> Result<(), ConnectError> {
        Ok(())
    }

    /// Throws what was written for `epoch` away.
    fn abort(&mut self, _epoch: u64) -> Result<(), ConnectError> {
        Ok(())
    }

    /// Ends the output in good order; nothing is written afterwards.
    fn finish(&mut self) -> Result<(), ConnectError>;
}
