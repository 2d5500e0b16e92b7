//! Letters of a sink, on their way into its store.
//!
//! Which rows are refused for good shows when those of an epoch are sent, and so behind the checkpoint that has them. The
//! letters of an epoch are gathered in the sink's own folder, and shown in the store, as one part, when it is on the disk
//! that all of the epoch's rows need no more sending. After a crash before that the rows are sent again and their letters
//! gathered anew; after a crash behind it the part is shown by the next run. So a letter is there once.

use std::{
    collections::BTreeMap,
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use ringmill_failpoint::hit;
use serde::Serialize;

use super::{Sent, part, text_or_base64};
use crate::{
    ConnectError, disk,
    staging::{StagePoints, StagingLog, read_error, stage_points, write_error},
};

const POINTS: StagePoints = stage_points!("sink.letters");
const PREFIX: &str = "refused-";
const MODE: u32 = 0o600;

/// Where the dead letters of a sink go.
#[derive(Debug, Clone)]
pub struct LetterStore {
    /// of the store's parts; it exists
    pub folder: PathBuf,
    /// the sink
    pub origin: String,
    /// how many letters there have been since its output began; this is where that is told
    pub count: Arc<AtomicU64>,
}

/// A row that was refused for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal<'a> {
    /// what whoever refused it says
    pub reason: &'a str,
    /// more of that: the request that it was in, a traceback
    pub detail: Option<&'a str>,
    /// as it was sent
    pub row: &'a [u8],
    /// how it can be read back
    pub sent: Sent<'a>,
}

/// What the disk says of an output: the epoch that was sent last, and the letters that there were by its end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counted {
    pub epoch: u64,
    pub letters: u64,
}

/// A letter as it lies in a part.
#[derive(Serialize)]
struct Line<'a> {
    origin: &'a str,
    reason: &'a str,
    detail: Option<&'a str>,
    record: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    record_bytes: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    header: Option<&'a str>,
}

/// The letters of a sink's epochs; without a store nothing is kept.
#[derive(Debug)]
pub(crate) struct LetterLog {
    log: StagingLog,
    store: Option<LetterStore>,
    /// letters of epochs that are not counted on the disk, by epoch
    gathered: BTreeMap<u64, u64>,
    /// all others
    counted: u64,
    /// Whether a part may have its name in the store, and not yet on the disk.
    is_name_in_doubt: bool,
}

impl LetterLog {
    /// Gathers in `folder`, which is the sink's own.
    pub fn new(folder: &Path, store: Option<LetterStore>) -> LetterLog {
        LetterLog {
            log: StagingLog::new(folder, PREFIX, MODE, &POINTS),
            store,
            gathered: BTreeMap::new(),
            counted: 0,
            is_name_in_doubt: false,
        }
    }

    /// The output begins anew, and so does the store.
    pub fn begin(&mut self) -> Result<(), ConnectError> {
        if let Some(store) = &self.store {
            for (_, path) in part::parts(&store.folder)? {
                disk::remove(&path).map_err(|source| write_error(&path, source))?;
            }
            disk::sync_folder(&store.folder).map_err(|source| write_error(&store.folder, source))?;
        }
        self.log.clear()
    }

    /// Goes on from the checkpoint of `epoch`. Its letters are whole if `is_sent`, as no row of it needs sending, and `counted`
    /// has them if they are counted on the disk. All others are thrown away; they will be gathered anew.
    pub fn recover(&mut self, epoch: u64, is_sent: bool, counted: Counted) -> Result<(), ConnectError> {
        self.counted = counted.letters;
        // An earlier process may have shown them, and died before that was durable.
        self.is_name_in_doubt = is_sent;
        self.log.clear_but(is_sent.then_some(epoch))?;
        if is_sent && counted.epoch < epoch {
            let path = self.log.path(epoch);
            match fs::read(&path) {
                Ok(bytes) => _ = self.gathered.insert(epoch, memchr::memchr_iter(b'\n', &bytes).count() as u64),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(source) => return Err(read_error(&path, source)),
            }
        }
        self.tell();
        Ok(())
    }

    /// The checkpoint of `epoch` does not know the sink. What is stored stays, unless it is of a pipeline that has begun
    /// anew since.
    pub fn join(&mut self, epoch: u64) -> Result<(), ConnectError> {
        let Some(store) = &self.store else { return self.log.clear() };
        match part::parts(&store.folder)?.last() {
            Some((newest, _)) if *newest > epoch => self.begin(),
            _ => self.log.clear(),
        }
    }

    /// Gathers the letters of rows of `epoch`, all or none; `false`: nobody keeps them.
    pub fn push(&mut self, epoch: u64, refusals: &[Refusal<'_>]) -> Result<bool, ConnectError> {
        let Some(store) = &self.store else { return Ok(false) };
        let mut bytes = Vec::new();
        for Refusal { reason, detail, row, sent } in refusals {
            let (record, record_bytes) = text_or_base64(row);
            let (origin, header) = (&*store.origin, sent.header());
            let line = Line { origin, reason, detail: *detail, record, record_bytes, header };
            serde_json::to_writer(&mut bytes, &line).map_err(|error| ConnectError::Schema(error.to_string()))?;
            bytes.push(b'\n');
        }
        self.log.append(epoch, &[&bytes])?;
        let before = store.count.load(Ordering::Relaxed);
        *self.gathered.entry(epoch).or_default() += refusals.len() as u64;
        self.tell();
        let total = store.count.load(Ordering::Relaxed);
        if let Some(last) = refusals.last().filter(|_| total.checked_ilog2() != before.checked_ilog2()) {
            tracing::warn!(
                "{}: {total} rows were refused so far and are dead letters; the last one: {}",
                store.origin,
                last.reason
            );
        }
        Ok(true)
    }

    /// Makes the letters of an epoch durable; how many there are by its end.
    pub fn seal(&mut self, epoch: u64) -> Result<u64, ConnectError> {
        self.log.seal(epoch)?;
        Ok(self.counted + self.gathered.get(&epoch).unwrap_or(&0))
    }

    /// Whether there are letters of an epoch that were gathered by this process.
    pub fn has(&self, epoch: u64) -> bool {
        self.gathered.contains_key(&epoch)
    }

    /// Shows the letters of an epoch, if there are any that are not shown.
    pub fn show(&mut self, epoch: u64) -> Result<(), ConnectError> {
        let Some(store) = &self.store else { return Ok(()) };
        let from = self.log.path(epoch);
        match fs::symlink_metadata(&from) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(source) => return Err(read_error(&from, source)),
            Ok(_) => {
                hit("sink.letters.show");
                let to = store.folder.join(format!("part-{epoch:010}.json"));
                disk::rename(&from, &to).map_err(|source| write_error(&to, source))?;
                self.is_name_in_doubt = true;
                hit("sink.letters.renamed");
            }
        }
        if self.is_name_in_doubt {
            disk::sync_folder(&store.folder).map_err(|source| write_error(&store.folder, source))?;
            self.is_name_in_doubt = false;
            hit("sink.letters.shown");
        }
        self.log.forget(epoch);
        self.counted += self.gathered.remove(&epoch).unwrap_or(0);
        Ok(())
    }

    fn tell(&self) {
        if let Some(store) = &self.store {
            store.count.store(self.counted + self.gathered.values().sum::<u64>(), Ordering::Relaxed);
        }
    }
}
