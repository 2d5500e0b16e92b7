//! The log's format: what was done to the files, one record after the other, in the one order in which it was done.
//!
//! The shim writes it and `ringmill-system-tests` reads it; both compile this file. Numbers are little-endian, paths are
//! relative to the watched folder. A process that is killed leaves whole records and perhaps a torn last one, which
//! [`Record::decode`] ends before.

/// What a record says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// `handle` now stands for the file or folder `path`; `number` has the bits `OPENED_…`.
    Open = 1,
    /// `data` was written through `handle` at `number`.
    Write = 2,
    /// The file of `handle`, or without one (0) the file `path`, now has `number` bytes.
    Resize = 3,
    /// The file of `handle` now has at least `number` bytes.
    Grow = 4,
    /// `path` is now called `other`.
    Rename = 5,
    /// `other` is another name for `path`.
    Link = 6,
    /// The name `path` is gone; `number` is 1 if it was a folder's.
    Remove = 7,
    /// The folder `path` was made.
    MakeFolder = 8,
    /// What was written through `handle`, or the names in its folder, were made durable.
    Sync = 9,
    /// Such a call was answered with success and not carried out.
    SyncLied = 10,
    /// Everything was made durable.
    SyncAll = 11,
    /// The call of the name `other` on `path` failed because it was told to, with the error code `number`.
    Fault = 12,
    /// `other` was done to `path`, of which this log knows too little: it is worth nothing.
    Blind = 13,
    /// The process `number` is watched. The first record.
    Begin = 14,
}

/// The file was not there before.
pub const OPENED_NEW: u64 = 1;
/// What was in the file is gone.
pub const OPENED_EMPTIED: u64 = 2;
/// Every write is durable at once.
pub const OPENED_SYNCHRONOUS: u64 = 4;

const KINDS: [Kind; 14] = [
    Kind::Open,
    Kind::Write,
    Kind::Resize,
    Kind::Grow,
    Kind::Rename,
    Kind::Link,
    Kind::Remove,
    Kind::MakeFolder,
    Kind::Sync,
    Kind::SyncLied,
    Kind::SyncAll,
    Kind::Fault,
    Kind::Blind,
    Kind::Begin,
];

/// One record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    /// What it says.
    pub kind: Kind,
    /// Which opened file; never used twice in a log, 0 is none.
    pub handle: u32,
    /// An offset, a length, bits or an error code.
    pub number: u64,
    /// The file, if it is said by name.
    pub path: &'a [u8],
    /// Another name, or bytes.
    pub other: &'a [u8],
}

impl<'a> Record<'a> {
    /// About an opened file.
    pub const fn of(kind: Kind, handle: u32, number: u64) -> Record<'static> {
        Record { kind, handle, number, path: b"", other: b"" }
    }

    /// The same, at this path.
    pub const fn at(self, path: &'a [u8]) -> Record<'a> {
        Record { path, ..self }
    }

    /// The same, with this second name or data.
    pub const fn with(self, other: &'a [u8]) -> Record<'a> {
        Record { other, ..self }
    }

    /// Appends it to `log`.
    pub fn encode(&self, log: &mut Vec<u8>) {
        log.push(self.kind as u8);
        log.extend_from_slice(&self.handle.to_le_bytes());
        log.extend_from_slice(&self.number.to_le_bytes());
        for bytes in [self.path, self.other] {
            log.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
            log.extend_from_slice(bytes);
        }
    }

    /// Takes the first one off `log`; none if there is no whole one.
    pub fn decode(log: &mut &'a [u8]) -> Option<Record<'a>> {
        let mut rest = *log;
        let kind = take(&mut rest, 1)?[0];
        let kind = *KINDS.get(usize::from(kind).checked_sub(1)?)?;
        let handle = u32::from_le_bytes(take(&mut rest, 4)?.try_into().ok()?);
        let number = u64::from_le_bytes(take(&mut rest, 8)?.try_into().ok()?);
        let path = take_text(&mut rest)?;
        let other = take_text(&mut rest)?;
        *log = rest;
        Some(Record { kind, handle, number, path, other })
    }
}

fn take<'a>(rest: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (taken, left) = rest.split_at_checked(count)?;
    *rest = left;
    Some(taken)
}

fn take_text<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = u32::from_le_bytes(take(rest, 4)?.try_into().ok()?);
    take(rest, length as usize)
}
