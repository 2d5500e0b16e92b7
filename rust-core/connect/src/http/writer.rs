//! Rows to a server: epoch by epoch, or as they come.

use std::{
    fs::{self, File},
    io::{self, BufRead, BufReader},
    ops::Range,
    path::PathBuf,
};

use ringmill_failpoint::hit;
use serde_json::Value;
use ureq::http::StatusCode;

use super::{
    HttpSink,
    client::{Answer, Client},
    refused::RefusedRows,
    requests::{Cut, Request, Requests},
};
use crate::{
    ConnectError, Fault, Transactions, Writer,
    backoff::unless_away,
    disk,
    staging::{Commits, Sealed, StagePoints, Staged, StagingLog, new_writer_name, stage_points, write_error},
};

const POINTS: StagePoints = stage_points!("sink.http");
/// The file that says under which name which epoch was sent last.
const SENT: &str = "sent";

/// Sends rows, request by request.
struct Sender {
    sink: HttpSink,
    client: Client,
    refused: Option<RefusedRows>,
}

impl Sender {
    fn open(sink: &HttpSink) -> Result<Sender, ConnectError> {
        let refused = sink.refused.as_deref().map(RefusedRows::open).transpose()?;
        Ok(Sender { sink: sink.clone(), client: Client::open(sink)?, refused })
    }

    /// Sends the rows of `lines` but for the first `done`, which the server has (or refused for good); `done` says so of
    /// the others, one by one. `name` stands in the keys.
    fn send(&mut self, name: &str, lines: impl BufRead, cut: Cut, done: &mut u64) -> Result<(), ConnectError> {
        let mut requests = Requests::new(lines, cut);
        let failed = |source| ConnectError::Read { name: format!("the rows for {name}"), offset: 0, source };
        while let Some(request) = requests.next().map_err(failed)? {
            self.give(name, &request, 0..request.rows(), done)?;
        }
        Ok(())
    }

    /// Sends some rows of a request, in parts if they are refused together.
    fn give(&mut self, name: &str, request: &Request, rows: Range<usize>, done: &mut u64) -> Result<(), ConnectError> {
        let number = |row: usize| request.first + row as u64;
        if number(rows.end) <= *done {
            return Ok(());
        }
        // Rows of which some are done were sent in parts, so they are again: a key always stands for the same rows.
        if number(rows.start) >= *done {
            let key = format!("{name}/{}-{}", number(rows.start), number(rows.end) - 1);
            hit("sink.http.send");
            let answer = self.client.send(&key, &request.body(rows.clone(), self.sink.body))?;
            hit("sink.http.sent");
            let Answer::Refused { status, reason } = answer else {
                *done = number(rows.end);
                return Ok(());
            };
            let is_divisible = rows.len() > 1 && (self.refused.is_some() || status == StatusCode::PAYLOAD_TOO_LARGE);
            if !is_divisible {
                let refused = self.refused.as_mut().ok_or_else(|| refusal(&self.client.name, rows.len(), &reason))?;
                refused.add(&key, status, &reason, request.row(rows.start))?;
                *done = number(rows.end);
                return Ok(());
            }
        }
        let middle = rows.start + rows.len() / 2;
        self.give(name, request, rows.start..middle, done)?;
        self.give(name, request, middle..rows.end, done)
    }
}

fn refusal(name: &str, rows: usize, reason: &str) -> ConnectError {
    let reason = format!("{reason} (rows in the request: {rows}; refused_path keeps those aside that it refuses)");
    ConnectError::Database { name: name.to_owned(), reason, fault: Fault::Permanent }
}

/// Each chunk of rows is sent at once.
pub struct ChunkWriter {
    sender: Sender,
    name: String,
    chunks: u64,
    /// rows of the chunk being written that need no more sending
    done: u64,
}

impl ChunkWriter {
    pub fn open(sink: &HttpSink) -> Result<ChunkWriter, ConnectError> {
        Ok(ChunkWriter { sender: Sender::open(sink)?, name: key_name(), chunks: 0, done: 0 })
    }
}

impl Writer for ChunkWriter {
    fn write(&mut self, _epoch: u64, bytes: &[u8]) -> Result<(), ConnectError> {
        let name = format!("{}/{}", self.name, self.chunks);
        let cut = Cut::of(&self.sender.sink);
        self.sender.send(&name, bytes, cut, &mut self.done)?;
        self.chunks += 1;
        self.done = 0;
        Ok(())
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
pub struct EpochWriter {
    sender: Sender,
    log: StagingLog,
    folder: PathBuf,
    /// What our keys begin with; the same from checkpoint to checkpoint, another one for an output that began anew.
    name: String,
    /// the epoch that was sent last under our name, as the file says; 0: none
    sent: u64,
    /// the rows of the checkpoint and how they were cut, until all of them are sent
    recovering: Option<(Sealed, Cut)>,
    is_settled: bool,
    commits: Commits,
    /// rows of the epoch being committed that need no more sending
    done: u64,
}

impl EpochWriter {
    pub fn open(sink: &HttpSink, transactions: &Transactions<'_>) -> Result<EpochWriter, ConnectError> {
        let mut writer = EpochWriter {
            sender: Sender::open(sink)?,
            log: StagingLog::new(transactions.staging, "", 0o600, &POINTS),
            folder: transactions.staging.to_owned(),
            name: key_name(),
            sent: 0,
            recovering: None,
            is_settled: false,
            commits: Commits::after(transactions),
            done: 0,
        };
        if let Some((epoch, value)) = transactions.known() {
            let target = &writer.sender.client.name;
            let staged = Staged::of(value, epoch, target)?;
            let Staged::Http { rows, writer: name, rows_max, bytes_max } = staged else {
                return Err(staged.refuse_kind(target));
            };
            (writer.name, writer.recovering) = (name, Some((rows, Cut { rows_max, bytes_max })));
            let sent = writer.read_sent()?;
            if sent > epoch {
                return Err(writer.refuse(format!("the rows of epoch {sent} were sent, and the checkpoint is older")));
            }
            writer.sent = sent;
        }
        unless_away(writer.settle())?;
        Ok(writer)
    }

    /// Sends the rows of the checkpoint unless they are sent. Until that is done no rows are taken.
    fn settle(&mut self) -> Result<(), ConnectError> {
        if self.is_settled {
            return Ok(());
        }
        if let Some((rows, cut)) = self.recovering {
            self.apply(&rows, cut)?;
        }
        self.recovering = None;
        self.log.clear()?;
        self.is_settled = true;
        Ok(())
    }

    /// Sends the rows of an epoch, unless they are sent.
    fn apply(&mut self, rows: &Sealed, cut: Cut) -> Result<(), ConnectError> {
        if rows.bytes == 0 {
            return Ok(());
        }
        if self.sent < rows.epoch {
            self.sender.client.ready()?;
            let Some(file) = self.log.read(rows)? else { return Err(self.lost(rows)) };
            // With the checksum: a state folder that was copied or put back may have other rows in an epoch of this number.
            let name = format!("{}/{}-{:08x}", self.name, rows.epoch, rows.crc32c);
            self.sender.send(&name, BufReader::with_capacity(256 << 10, file), cut, &mut self.done)?;
            self.mark(rows.epoch)?;
        }
        self.log.remove(rows.epoch)?;
        self.done = 0;
        Ok(())
    }

    fn lost(&self, rows: &Sealed) -> ConnectError {
        self.refuse(format!("the rows of epoch {} are to be sent, and the staged rows are gone", rows.epoch))
    }

    fn refuse(&self, reason: String) -> ConnectError {
        let reason = format!("{reason}; run with --fresh to begin anew");
        ConnectError::Target { name: self.sender.client.name.clone(), reason }
    }

    fn read_sent(&self) -> Result<u64, ConnectError> {
        let path = self.folder.join(SENT);
        let epoch = |text: &str| text.trim_end().strip_prefix(&self.name)?.strip_prefix(' ')?.parse().ok();
        match fs::read_to_string(&path) {
            Ok(text) => Ok(epoch(&text).unwrap_or(0)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
            Err(source) => Err(ConnectError::Open { path, source }),
        }
    }

    /// Takes note that the rows of an epoch are sent, before they are thrown away.
    fn mark(&mut self, epoch: u64) -> Result<(), ConnectError> {
        let (path, new) = (self.folder.join(SENT), self.folder.join("sent.new"));
        let write = || -> io::Result<()> {
            let file: File = disk::create(&new, 0o600)?;
            disk::write_at(&file, format!("{} {epoch}\n", self.name).as_bytes(), 0)?;
            disk::sync(&file)?;
            disk::rename(&new, &path)?;
            disk::sync_folder(&self.folder)
        };
        hit("sink.http.mark");
        write().map_err(|source| write_error(&path, source))?;
        hit("sink.http.marked");
        self.sent = epoch;
        Ok(())
    }
}

impl Writer for EpochWriter {
    fn write(&mut self, epoch: u64, bytes: &[u8]) -> Result<(), ConnectError> {
        self.settle()?;
        if bytes.is_empty() { Ok(()) } else { self.log.append(epoch, &[bytes]) }
    }

    fn pre_commit(&mut self, epoch: u64) -> Result<Value, ConnectError> {
        self.settle()?;
        let rows = self.commits.sealed(self.log.seal(epoch)?);
        let Cut { rows_max, bytes_max } = Cut::of(&self.sender.sink);
        Staged::Http { rows, writer: self.name.clone(), rows_max, bytes_max }.to_value()
    }

    fn commit(&mut self, epoch: u64) -> Result<(), ConnectError> {
        let Some(rows) = self.commits.due(epoch, &self.sender.client.name)? else { return Ok(()) };
        self.apply(&rows, Cut::of(&self.sender.sink))?;
        self.commits.shown(epoch);
        Ok(())
    }

    fn finish(&mut self) -> Result<(), ConnectError> {
        Ok(())
    }
}
