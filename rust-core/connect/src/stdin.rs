//! Standard input as a source.

use std::{io, sync::Arc};

use nix::fcntl::FcntlArg;
use ringmill_wire::Schema;

use crate::{
    ConnectError, Fields, Format, Journal, Partitions, Replay, Resume, Waker,
    journal::Journaled,
    schema_of,
    text::{self, Content, Stream, TextOptions, TextPartition},
};

/// The only partition.
const NAME: &str = "stdin";
/// As much as a pipe may hold without privileges.
const PIPE_BYTES: i32 = 1 << 20;

/// Standard input as a source: one partition, on shard 0. Plain, gzip or zstd is told by its first bytes.
#[derive(Debug, Clone, PartialEq)]
pub struct StdinSpec {
    /// what comes in
    pub format: Format,
    /// the columns
    pub fields: Fields,
    /// rows per second; as fast as they come if absent
    pub rate: Option<f64>,
    /// longer records become dead letters
    pub record_bytes_max: usize,
}

impl StdinSpec {
    /// The columns of the stream.
    pub fn schema(&self) -> Result<Arc<Schema>, ConnectError> {
        schema_of(&self.fields)
    }

    /// A stream comes only once; with checkpoints it is opened with a journal.
    pub fn replay(&self) -> Replay {
        Replay::Journaled
    }

    /// Reads standard input from the first poll on. A CSV header that lacks a field is found when it has come, at a
    /// poll.
    ///
    /// With a journal, what it holds behind the checkpoint's position comes first; a journal that does not hold it is
    /// refused here. What comes in then is taken as new. Without one, positions are counted anew.
    pub fn open(
        &self,
        wakers: &[Waker],
        journal: Option<&Journal>,
        resume: Option<&[Resume<'_>]>,
    ) -> Result<Partitions, ConnectError> {
        let open = || {
            // What cannot be made larger is read all the same.
            let _ = nix::fcntl::fcntl(io::stdin(), FcntlArg::F_SETPIPE_SZ(PIPE_BYTES));
            text::of_stream(io::stdin())
        };
        self.open_with(open, wakers, journal, resume)
    }

    fn open_with(
        &self,
        open: impl FnOnce() -> io::Result<Content> + Send + 'static,
        wakers: &[Waker],
        journal: Option<&Journal>,
        resume: Option<&[Resume<'_>]>,
    ) -> Result<Partitions, ConnectError> {
        let options = TextOptions {
            format: self.format,
            fields: self.fields.clone(),
            rate: self.rate,
            record_bytes_max: self.record_bytes_max,
        };
        let partition = open_stream(NAME, &options, open, wakers, journal, resume)?;
        Ok(vec![(0, Box::new(partition))])
    }
}

/// Opens a stream of text that comes only once, as the only partition, on shard 0. With a journal, what it holds behind the
/// checkpoint's position comes first; a journal that does not hold it is refused here.
pub(crate) fn open_stream<S: Stream + 'static>(
    name: &str,
    options: &TextOptions,
    open: impl FnOnce() -> io::Result<S> + Send + 'static,
    wakers: &[Waker],
    journal: Option<&Journal>,
    resume: Option<&[Resume<'_>]>,
) -> Result<TextPartition, ConnectError> {
    let waker = wakers.first().cloned().unwrap_or_else(|| Arc::new(|| {}));
    let Some(journal) = journal else { return TextPartition::of_stream(name, options, open, waker) };
    let journaled = Journaled::new(journal, options.record_bytes_max, open);
    let mut partition = TextPartition::of_journal(name, options, journaled, waker)?;
    if !journal.is_emptied {
        let earlier = resume.and_then(|resume| resume.iter().find(|earlier| earlier.name == name));
        let position = earlier.map(Resume::position).transpose()?.unwrap_or_default();
        partition.resume_journal(&position)?;
    }
    Ok(partition)
}
