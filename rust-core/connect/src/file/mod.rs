//! Files: a source of text, Arrow, Parquet or Avro, and a sink of the first three.

mod resume;
pub(crate) mod rows;
mod sink;

use std::{io, path::PathBuf, sync::Arc};

use ringmill_wire::Schema;
use serde::{Deserialize, Serialize};

use crate::{
    ConnectError, Fields, FileFormat, Journal, Partition, Partitions, Replay, Resume, Waker, schema_of,
    text::{self, Decoders, Part, TextOptions},
};
use resume::{FileShare, RowsForm};

pub use sink::{FileSink, Rolling};
pub(crate) use sink::{PlainWriter, part_epoch};

/// How a shard reads its files.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Order {
    /// all at once, each a partition of its own
    #[default]
    Parallel,
    /// one after the other in the order of their names, as one partition
    Sequential,
}

/// Files as a source. Of text, plain, gzip or zstd is told by their first bytes.
#[derive(Debug, Clone, PartialEq)]
pub struct FileSpec {
    /// a path, or a pattern with `*`, `?`, `[…]`, `**`
    pub path: String,
    /// what is in the files
    pub format: FileFormat,
    /// the columns
    pub fields: Fields,
    /// rows per second over all partitions (each has an equal part of it); as fast as they are taken if absent
    pub rate: Option<f64>,
    /// whether a shard reads its files at once or one after the other
    pub order: Order,
    /// longer records become dead letters
    pub record_bytes_max: usize,
    /// threads that decode long files beside the shards
    pub decode_threads: usize,
}

impl FileSpec {
    /// The columns of the stream.
    pub fn schema(&self) -> Result<Arc<Schema>, ConnectError> {
        schema_of(&self.fields)
    }

    /// Regular files can be read again; FIFOs and devices come only once, and are journaled.
    pub fn replay(&self) -> Replay {
        if !matches!(self.format, FileFormat::Text(_)) {
            return Replay::Seekable;
        }
        let is_stream = |path: &PathBuf| text::is_regular(path).is_ok_and(|regular| regular == Some(false));
        let paths = self.paths().unwrap_or_default();
        if paths.iter().any(is_stream) { Replay::Journaled } else { Replay::Seekable }
    }

    /// Finds the files and gives them, in the order of their names, to one shard after the other. Files that cannot be
    /// opened and CSV headers that lack a field are found here; FIFOs are opened at the first poll.
    ///
    /// A checkpoint's partitions come back as they were, and files that are new since make partitions of their own. A
    /// file that was not read to its end and is gone, cut or replaced is refused; one that has grown is read on.
    pub fn open(
        &self,
        shards: usize,
        wakers: &[Waker],
        resume: Option<&[Resume<'_>]>,
    ) -> Result<Partitions, ConnectError> {
        self.open_journaled(shards, wakers, None, resume)
    }

    /// The same; each FIFO is read through a journal of its own, and makes a partition of its own whatever the order.
    pub fn open_journaled(
        &self,
        shards: usize,
        wakers: &[Waker],
        journal: Option<&Journal>,
        resume: Option<&[Resume<'_>]>,
    ) -> Result<Partitions, ConnectError> {
        let shards = shards.max(1);
        let waker = |shard: usize| wakers.get(shard).cloned().unwrap_or_else(|| Arc::new(|| {}));
        let plan = match resume {
            None => self.deal(self.find()?, shards, 0, journal),
            Some(resume) => {
                let found = match self.find() {
                    Err(ConnectError::NoMatch { .. }) => Vec::new(),
                    found => found?,
                };
                let (mut plan, new) = resume::plan(resume, &found, &self.path)?;
                let shards_of_new = if self.order == Order::Sequential { 1 } else { shards };
                let number = self.next_number(resume);
                plan.extend(self.deal(new, shards_of_new, number, journal));
                plan
            }
        };
        let open = plan.iter().filter(|share| !share.is_ended()).count().max(1);
        let rate = self.rate.map(|rate| rate / open as f64);
        let FileFormat::Text(format) = self.format else {
            let form = RowsForm { format: &self.format, fields: &self.fields, rate };
            let open = |(index, share): (usize, FileShare)| Ok((index % shards, share.open_rows(&form)?));
            return plan.into_iter().enumerate().map(open).collect();
        };
        let fields = self.fields.clone();
        let options = TextOptions { format, fields, rate, record_bytes_max: self.record_bytes_max };
        let decoders = self.decoders()?;
        let mut partitions = Partitions::with_capacity(plan.len());
        for (index, share) in plan.into_iter().enumerate() {
            let shard = index % shards;
            let mut partition = share.open(&options, &waker(shard), journal)?;
            if let Some(decoders) = &decoders {
                partition.decode_with(decoders);
            }
            partitions.push((shard, Box::new(partition) as Box<dyn Partition>));
        }
        Ok(partitions)
    }

    /// Bytes that the blocks of a long file of text take while they are decoded ahead.
    pub fn ahead_bytes(&self) -> u64 {
        if !matches!(self.format, FileFormat::Text(_)) {
            return 0;
        }
        text::ahead_memory_bytes(self.decode_threads, self.record_bytes_max)
    }

    fn decoders(&self) -> Result<Option<Arc<Decoders>>, ConnectError> {
        if self.decode_threads == 0 {
            return Ok(None);
        }
        let started = Decoders::start(self.decode_threads);
        let refuse = |source| ConnectError::Read { name: self.path.clone(), offset: 0, source };
        started.map(Some).map_err(refuse)
    }

    /// Makes partitions of files of which nothing has been read; those of several files are numbered from `number` on.
    fn deal(&self, parts: Vec<Part>, shards: usize, number: usize, journal: Option<&Journal>) -> Vec<FileShare> {
        let is_alone = |part: &Part| self.order == Order::Parallel || journal.is_some() && !part.regular;
        let (alone, joined): (Vec<Part>, Vec<Part>) = parts.into_iter().partition(is_alone);
        let several = (0..joined.len().min(shards)).map(|shard| {
            let own = joined.iter().skip(shard).step_by(shards).cloned().collect();
            FileShare::new(format!("{}#{}", self.path, number + shard), own, true)
        });
        let alone = alone.into_iter().map(|part| FileShare::new(part.name.to_string(), vec![part], false));
        several.chain(alone).collect()
    }

    /// The number that the next partition of several files gets.
    fn next_number(&self, resume: &[Resume<'_>]) -> usize {
        let number = |earlier: &Resume<'_>| {
            let (_, number) = earlier.name.rsplit_once('#')?;
            number.parse::<usize>().ok()
        };
        resume.iter().filter_map(number).max().map_or(0, |number| number + 1)
    }

    /// The matching files, sorted by name.
    fn find(&self) -> Result<Vec<Part>, ConnectError> {
        let paths = self.paths()?;
        let mut parts = Vec::with_capacity(paths.len());
        for path in paths {
            let regular =
                text::is_regular(&path).map_err(|source| ConnectError::Open { path: path.clone(), source })?;
            if let Some(regular) = regular {
                // Names tell partitions apart, so one that is no text is written out byte by byte.
                let name = path
                    .to_str()
                    .map_or_else(|| path.as_os_str().as_encoded_bytes().escape_ascii().to_string().into(), Into::into);
                parts.push(Part { name, path, regular });
            }
        }
        if parts.is_empty() {
            return Err(ConnectError::NoMatch { pattern: self.path.clone() });
        }
        Ok(parts)
    }

    pub(crate) fn paths(&self) -> Result<Vec<PathBuf>, ConnectError> {
        let literal = PathBuf::from(&self.path);
        if literal.is_dir() {
            let source = io::Error::new(
                io::ErrorKind::IsADirectory,
                "it is a directory; a pattern such as `*.ndjson` is missing",
            );
            return Err(ConnectError::Open { path: literal, source });
        }
        if literal.exists() {
            return Ok(vec![literal]);
        }
        let matches = glob::glob(&self.path)
            .map_err(|error| ConnectError::Pattern { pattern: self.path.clone(), reason: error.to_string() })?;
        let paths: Result<Vec<PathBuf>, glob::GlobError> = matches.collect();
        let mut paths =
            paths.map_err(|error| ConnectError::Open { path: error.path().to_owned(), source: error.into() })?;
        paths.sort();
        Ok(paths)
    }
}

#[cfg(test)]
mod resume_tests;
#[cfg(test)]
mod rolled_tests;
#[cfg(test)]
mod sink_tests;
#[cfg(test)]
mod tests;
