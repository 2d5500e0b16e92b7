//! Reading a record again, by a thread that may wait for the disk.

use std::{
    fs::File,
    io::{self, Read},
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{
    Format, Within, journal,
    letters::LetterBook,
    text::{Content, Source},
};

/// So much of a compressed file is decompressed at most for one record, beyond where the last one was.
const AHEAD_BYTES_MAX: u64 = 1 << 30;
/// Bytes read at a time.
const BLOCK_BYTES: usize = 16 << 10;

/// Where the records of a place can be read again.
#[derive(Debug, Clone)]
pub(crate) enum Original {
    /// rows that were made up have none
    None,
    /// a stream that comes only once
    Stream,
    /// a regular file
    File { path: PathBuf, inode: u64, form: Form },
    /// a stream that is journaled
    Journal { folder: PathBuf, form: Form },
    /// dead letters; the row's number is that of the letter
    Letters(Arc<LetterBook>),
}

/// How records are told from each other.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Form {
    pub format: Format,
    pub record_bytes_max: usize,
}

/// Keeps the last compressed file open: records are mostly asked for in their order.
#[derive(Default)]
pub(super) struct Reader {
    compressed: Option<Compressed>,
}

struct Compressed {
    inode: u64,
    content: Content,
    /// so much of the content was read
    at: u64,
}

impl Reader {
    /// The bytes of the record at `offset`, if it has any; or why they cannot be read.
    pub fn read(&mut self, original: &Original, offset: u64) -> Result<Option<Vec<u8>>, String> {
        let read = match original {
            Original::None | Original::Letters(_) => return Ok(None),
            Original::Stream => return Err("the stream comes only once, and it is kept with [checkpoint] only".into()),
            Original::File { path, inode, form } => self.read_file(path, *inode, offset, *form),
            Original::Journal { folder, form } => read_journal(folder, offset, *form),
        };
        read.map(Some)
    }

    fn read_file(&mut self, path: &Path, inode: u64, offset: u64, form: Form) -> Result<Vec<u8>, String> {
        let failed = |error: io::Error| format!("{}: {error}", path.display());
        let file = File::open(path).map_err(failed)?;
        if file.metadata().map_err(failed)?.ino() != inode {
            return Err(format!("{} is another file now", path.display()));
        }
        let source = Source::of(file).map_err(failed)?;
        let mut record = Record::new(form);
        let mut block = vec![0; BLOCK_BYTES];
        if source.is_plain() {
            let mut at = offset;
            while !record.is_complete() {
                let count = source.file().read_at(&mut block, at).map_err(failed)?;
                if count == 0 {
                    break;
                }
                record.push(&block[..count]);
                at += count as u64;
            }
            return record.finish(path);
        }
        let is_ahead = |open: &Compressed| open.inode == inode && open.at <= offset;
        let mut open = match self.compressed.take().filter(is_ahead) {
            Some(open) => open,
            None => Compressed { inode, content: source.content(0).map_err(failed)?, at: 0 },
        };
        let ahead = offset - open.at;
        open.at += skip(&mut open.content, ahead.min(AHEAD_BYTES_MAX)).map_err(failed)?;
        if open.at < offset {
            let reason = if ahead > AHEAD_BYTES_MAX {
                format!("{} is compressed, and the record lies {ahead} bytes ahead in it", path.display())
            } else {
                format!("{} has only {} bytes", path.display(), open.at)
            };
            self.compressed = (ahead > AHEAD_BYTES_MAX).then_some(open);
            return Err(reason);
        }
        while !record.is_complete() {
            // No further than the record, for the next one may be asked for.
            let count = open.content.read(&mut block[..1]).map_err(failed)?;
            if count == 0 {
                break;
            }
            open.at += count as u64;
            record.push(&block[..count]);
        }
        self.compressed = Some(open);
        record.finish(path)
    }
}

fn skip(content: &mut Content, bytes: u64) -> io::Result<u64> {
    io::copy(&mut content.by_ref().take(bytes), &mut io::sink())
}

fn read_journal(folder: &Path, offset: u64, form: Form) -> Result<Vec<u8>, String> {
    let mut record = Record::new(form);
    let visited = journal::read_from(folder, offset, |bytes| {
        record.push(bytes);
        !record.is_complete()
    });
    visited.map_err(|error| error.to_string())?;
    record.finish(folder)
}

/// A record that is being read.
struct Record {
    bytes: Vec<u8>,
    format: Format,
    within: Within,
    bytes_max: usize,
    is_whole: bool,
}

impl Record {
    fn new(form: Form) -> Record {
        let Form { format, record_bytes_max } = form;
        Record {
            bytes: Vec::new(),
            format,
            within: Within::start(format),
            bytes_max: record_bytes_max,
            is_whole: false,
        }
    }

    fn push(&mut self, bytes: &[u8]) {
        if !self.is_complete() {
            let length = self.within.pass(bytes);
            self.is_whole = length.is_some();
            self.bytes.extend_from_slice(&bytes[..length.unwrap_or(bytes.len())]);
        }
    }

    /// Nothing more is needed. A row's record is never longer than the source takes them.
    fn is_complete(&self) -> bool {
        self.is_whole || self.bytes.len() > self.bytes_max + LINE_END_BYTES
    }

    fn finish(mut self, path: &Path) -> Result<Vec<u8>, String> {
        if self.format == Format::Raw {
            // What is not its end belongs to it, and it may have nothing in it.
            let ends: [&[u8]; 2] = [b"\r\n", b"\n"];
            let end = ends.into_iter().find(|end| self.bytes.ends_with(end)).map_or(0, <[u8]>::len);
            self.bytes.truncate(self.bytes.len() - end);
            return Ok(self.bytes);
        }
        let is_end = |byte: &u8| matches!(byte, b'\n' | b'\r');
        while self.bytes.last().is_some_and(is_end) {
            self.bytes.pop();
        }
        match self.bytes.is_empty() {
            true => Err(format!("{} has no record there any more", path.display())),
            false => Ok(self.bytes),
        }
    }
}

const LINE_END_BYTES: usize = 2;
