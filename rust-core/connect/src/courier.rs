//! Rows that are sent to a server, or handed to a process, which is told by keys what it has taken already.
//!
//! With checkpoints the rows of an epoch are staged, and sent when it is committed; what is sent again after a crash has the
//! same keys. Without, or if they are to be sent at once, rows are sent as they come, and keys only say what the same run
//! sends again.
//!
//! Rows that are refused for good may become dead letters of their epoch ([`LetterLog`]), which are shown when all of its rows
//! are sent; those of rows that are sent at once, when the epoch is committed.

use std::{
    fs::{self, File},
    io::{self, BufRead, BufReader},
    path::PathBuf,
};

use ringmill_failpoint::hit;
use serde_json::Value;

use crate::{
    ConnectError, Transactions, Writer,
    backoff::unless_away,
    disk,
    letters::{Counted, LetterLog, LetterStore, Refusal},
    staging::{Commits, Sealed, StagePoints, Staged, StagingLog, new_writer_name, write_error},
};

/// The file that says under which name which epoch was sent last, and how many letters there were by then.
const SENT: &str = "sent";

/// The way to a server.
pub(crate) trait Courier: Send {
    /// What has to be known of staged rows to send them, besides their bytes.
    type Terms: Clone + Send;

    /// The places at which a test may kill the process: of the staged rows, and before and after the note of what was sent.
    const POINTS: (&'static StagePoints, [&'static str; 2]);

    /// The server, for messages.
    fn name(&self) -> &str;

    /// As they are configured.
    fn terms(&self) -> Self::Terms;

    /// Refuses rows that could never be sent.
    fn check(&mut self, _rows: &[u8]) -> Result<(), ConnectError> {
        Ok(())
    }

    /// Whether the server is not left alone; the error says why it is.
    fn ready(&self) -> Result<(), ConnectError>;

    /// Sends all rows but the first `done`, which the server has (or refused for good); `done` says so of the others, one by
    /// one. Keys begin with `key`. What is to be kept of rows that are refused for good goes to `refused`.
    fn send(
        &mut self,
        key: &str,
        rows: impl BufRead,
        terms: Self::Terms,
        done: &mut u64,
        refused: &mut Refused<'_>,
    ) -> Result<(), ConnectError>;

    /// Rows will come, with keys that begin with `name`. Those of the checkpoint that the run goes on from, if there is one,
    /// are sent: their key, unless there were none.
    fn settled(&mut self, _name: &str, _from: Option<(Option<&str>, &Self::Terms)>) -> Result<(), ConnectError> {
        Ok(())
    }

    /// What goes into the checkpoint.
    fn staged(rows: Sealed, writer: String, terms: Self::Terms) -> Staged;

    /// … and what comes out of it again; as it is if another kind of sink wrote it.
    fn unstaged(staged: Staged) -> Result<(Sealed, String, Self::Terms), Staged>;
}

/// Where rows go that are refused for good: to the letters of an epoch, if anything keeps them.
pub(crate) struct Refused<'a>(Option<(&'a mut LetterLog, u64)>);

impl Refused<'_> {
    /// Keeps rows, all or none; `false`: nothing does.
    pub fn push(&mut self, refusals: &[Refusal<'_>]) -> Result<bool, ConnectError> {
        match &mut self.0 {
            Some((letters, epoch)) => letters.push(*epoch, refusals),
            None => Ok(false),
        }
    }
}

/// Chunks of rows that are sent as they come, each with a key of its own.
struct Chunks {
    name: String,
    sent: u64,
    /// rows of the chunk being sent that need no more sending
    done: u64,
}

impl Chunks {
    fn new() -> Chunks {
        Chunks { name: key_name(), sent: 0, done: 0 }
    }

    fn send(&mut self, courier: &mut impl Courier, bytes: &[u8], mut refused: Refused<'_>) -> Result<(), ConnectError> {
        courier.check(bytes)?;
        let (key, terms) = (format!("{}/{}", self.name, self.sent), courier.terms());
        courier.send(&key, bytes, terms, &mut self.done, &mut refused)?;
        self.sent += 1;
        self.done = 0;
        Ok(())
    }
}

/// Without checkpoints each chunk of rows is sent at once.
pub(crate) struct ChunkWriter<C> {
    courier: C,
    chunks: Chunks,
}

impl<C: Courier> ChunkWriter<C> {
    pub fn new(courier: C) -> ChunkWriter<C> {
        ChunkWriter { courier, chunks: Chunks::new() }
    }
}

impl<C: Courier> Writer for ChunkWriter<C> {
    fn write(&mut self, _epoch: u64, bytes: &[u8]) -> Result<(), ConnectError> {
        self.chunks.send(&mut self.courier, bytes, Refused(None))
    }

    fn finish(&mut self) -> Result<(), ConnectError> {
        Ok(())
    }
}

/// What keys begin with; no other output has it.
fn key_name() -> String {
    new_writer_name("ringmill").replace(' ', "-")
}

/// The rows of an epoch are staged until it is committed.
pub(crate) struct EpochWriter<C: Courier> {
    courier: C,
    log: StagingLog,
    letters: LetterLog,
    folder: PathBuf,
    /// What our keys begin with; the same from checkpoint to checkpoint, another one for an output that began anew.
    name: String,
    /// the epoch that was sent last under our name, as the file says; 0: none
    sent: u64,
    /// the rows of the checkpoint and their terms, until all of them are sent
    recovering: Option<(Sealed, C::Terms)>,
    is_settled: bool,
    commits: Commits,
    /// rows of the epoch being committed that need no more sending
    done: u64,
}

impl<C: Courier> EpochWriter<C> {
    pub fn open(
        courier: C,
        transactions: &Transactions<'_>,
        letters: Option<LetterStore>,
    ) -> Result<EpochWriter<C>, ConnectError> {
        let mut writer = EpochWriter {
            courier,
            log: StagingLog::new(transactions.staging, "", 0o600, C::POINTS.0),
            letters: LetterLog::new(transactions.staging, letters),
            folder: transactions.staging.to_owned(),
            name: key_name(),
            sent: 0,
            recovering: None,
            is_settled: false,
            commits: Commits::after(transactions),
            done: 0,
        };
        if let Some((epoch, value)) = transactions.known() {
            let target = writer.courier.name();
            let unstaged = C::unstaged(Staged::of(value, epoch, target)?);
            let (rows, name, terms) = unstaged.map_err(|staged| staged.refuse_kind(target))?;
            (writer.name, writer.recovering) = (name, Some((rows, terms)));
            let counted = writer.read_sent()?;
            let sent = counted.epoch;
            if sent > epoch {
                return Err(writer.refuse(format!("the rows of epoch {sent} were sent, and the checkpoint is older")));
            }
            writer.sent = sent;
            writer.letters.recover(epoch, sent == epoch || rows.bytes == 0, counted)?;
        } else if let Some((epoch, _)) = transactions.recovered {
            writer.letters.join(epoch)?;
        } else {
            writer.letters.begin()?;
        }
        unless_away(writer.settle())?;
        Ok(writer)
    }

    /// Sends the rows of the checkpoint unless they are sent. Until that is done no rows are taken.
    fn settle(&mut self) -> Result<(), ConnectError> {
        if self.is_settled {
            return Ok(());
        }
        let recovering = self.recovering.clone();
        if let Some((rows, terms)) = &recovering {
            self.apply(rows, terms.clone())?;
        }
        let sent = recovering.as_ref().map(|(rows, terms)| ((rows.bytes > 0).then(|| self.key(rows)), terms));
        self.courier.settled(&self.name, sent.as_ref().map(|(key, terms)| (key.as_deref(), *terms)))?;
        self.recovering = None;
        self.log.clear()?;
        self.is_settled = true;
        Ok(())
    }

    /// Sends the rows of an epoch, unless they are sent, and shows the letters of those that were refused.
    fn apply(&mut self, rows: &Sealed, terms: C::Terms) -> Result<(), ConnectError> {
        let epoch = rows.epoch;
        if self.sent < epoch && rows.bytes > 0 {
            self.courier.ready()?;
            let Some(file) = self.log.read(rows)? else { return Err(self.lost(rows)) };
            let key = self.key(rows);
            let staged = BufReader::with_capacity(256 << 10, file);
            let mut refused = Refused(Some((&mut self.letters, epoch)));
            self.courier.send(&key, staged, terms, &mut self.done, &mut refused)?;
        }
        if self.sent < epoch && (rows.bytes > 0 || self.letters.has(epoch)) {
            let letters = self.letters.seal(epoch)?;
            self.mark(Counted { epoch, letters })?;
        }
        self.letters.show(epoch)?;
        if rows.bytes > 0 {
            self.log.remove(epoch)?;
        }
        self.done = 0;
        Ok(())
    }

    /// With the checksum: a state folder that was copied or put back may have other rows in an epoch of this number.
    fn key(&self, rows: &Sealed) -> String {
        format!("{}/{}-{:08x}", self.name, rows.epoch, rows.crc32c)
    }

    fn lost(&self, rows: &Sealed) -> ConnectError {
        self.refuse(format!("the rows of epoch {} are to be sent, and the staged rows are gone", rows.epoch))
    }

    fn refuse(&self, reason: String) -> ConnectError {
        let reason = format!("{reason}; run with --fresh to begin anew");
        ConnectError::Target { name: self.courier.name().to_owned(), reason }
    }

    /// What was sent last under our name, from the file; epoch 0: nothing.
    fn read_sent(&self) -> Result<Counted, ConnectError> {
        let path = self.folder.join(SENT);
        let counted = |text: &str| {
            let mut numbers = text.strip_prefix(&self.name)?.strip_prefix(' ')?.split_ascii_whitespace();
            let epoch = numbers.next()?.parse().ok()?;
            Some(Counted { epoch, letters: numbers.next().and_then(|letters| letters.parse().ok()).unwrap_or(0) })
        };
        match fs::read_to_string(&path) {
            Ok(text) => Ok(counted(&text).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Counted::default()),
            Err(source) => Err(ConnectError::Open { path, source }),
        }
    }

    /// Takes note that the rows of an epoch are sent, before they are thrown away.
    fn mark(&mut self, counted: Counted) -> Result<(), ConnectError> {
        let Counted { epoch, letters } = counted;
        let (path, new) = (self.folder.join(SENT), self.folder.join("sent.new"));
        let write = || -> io::Result<()> {
            let file: File = disk::create(&new, 0o600)?;
            disk::write_at(&file, format!("{} {epoch} {letters}\n", self.name).as_bytes(), 0)?;
            disk::sync(&file)?;
            disk::rename(&new, &path)?;
            disk::sync_folder(&self.folder)
        };
        let [before, after] = C::POINTS.1;
        hit(before);
        write().map_err(|source| write_error(&path, source))?;
        self.sent = epoch;
        hit(after);
        Ok(())
    }
}

impl<C: Courier> Writer for EpochWriter<C> {
    fn write(&mut self, epoch: u64, bytes: &[u8]) -> Result<(), ConnectError> {
        self.settle()?;
        self.courier.check(bytes)?;
        if bytes.is_empty() { Ok(()) } else { self.log.append(epoch, &[bytes]) }
    }

    fn pre_commit(&mut self, epoch: u64) -> Result<Value, ConnectError> {
        self.settle()?;
        // Those of rows that were sent at once.
        self.letters.seal(epoch)?;
        let rows = self.commits.sealed(self.log.seal(epoch)?);
        C::staged(rows, self.name.clone(), self.courier.terms()).to_value()
    }

    fn commit(&mut self, epoch: u64) -> Result<(), ConnectError> {
        let Some(rows) = self.commits.due(epoch, self.courier.name())? else { return Ok(()) };
        let terms = self.courier.terms();
        self.apply(&rows, terms)?;
        self.commits.shown(epoch);
        Ok(())
    }

    fn finish(&mut self) -> Result<(), ConnectError> {
        Ok(())
    }
}

/// With checkpoints, and each chunk of rows is sent at once all the same: after a crash those of the interrupted epoch come
/// again. What an earlier run has staged comes first.
pub(crate) struct AtOnceWriter<C: Courier> {
    /// of which none has rows
    epochs: EpochWriter<C>,
    chunks: Chunks,
}

impl<C: Courier> AtOnceWriter<C> {
    pub fn open(
        courier: C,
        transactions: &Transactions<'_>,
        letters: Option<LetterStore>,
    ) -> Result<AtOnceWriter<C>, ConnectError> {
        Ok(AtOnceWriter { epochs: EpochWriter::open(courier, transactions, letters)?, chunks: Chunks::new() })
    }
}

impl<C: Courier> Writer for AtOnceWriter<C> {
    fn write(&mut self, epoch: u64, bytes: &[u8]) -> Result<(), ConnectError> {
        self.epochs.settle()?;
        let EpochWriter { courier, letters, .. } = &mut self.epochs;
        self.chunks.send(courier, bytes, Refused(Some((letters, epoch))))
    }

    fn pre_commit(&mut self, epoch: u64) -> Result<Value, ConnectError> {
        self.epochs.pre_commit(epoch)
    }

    fn commit(&mut self, epoch: u64) -> Result<(), ConnectError> {
        self.epochs.commit(epoch)
    }

    fn finish(&mut self) -> Result<(), ConnectError> {
        self.epochs.finish()
    }
}
