//! The bytes of a journal: segments of records.
//!
//! A segment is a file `<offset:020>.log`: a head that repeats the offset of its first byte, then records. All numbers
//! are little-endian.
//!
//! | segment head | bytes | | record head | bytes |
//! |---|---|---|---|---|
//! | `ringmill` | 8 | | offset of the first byte in the stream | 8 |
//! | offset | 8 | | length of what follows the head | 4 |
//! | CRC-32C of these | 4 | | kind: 1, 2, 3 | 4 |
//! | version: 1 | 4 | | CRC-32C of what follows the head | 4 |
//! | | | | CRC-32C of these | 4 |
//!
//! A record head that names its own offset can be found anywhere in a file: so a record that was never finished, behind
//! which there is nothing, is told from a damaged one.

const MAGIC: &[u8; 8] = b"ringmill";
const VERSION: u32 = 1;

pub(super) const SEGMENT_HEAD_BYTES: usize = 24;
pub(super) const RECORD_HEAD_BYTES: usize = 24;
const SUFFIX: &str = ".log";

/// What a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// more bytes of a stream
    More = 1,
    /// the first bytes of a stream
    Begin = 2,
    /// the stream was read to its end; no bytes
    End = 3,
}

/// What stands before a record's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    pub offset: u64,
    pub length: u32,
    pub kind: Kind,
    pub crc32c: u32,
}

impl Head {
    /// Of these bytes at this offset.
    pub fn of(kind: Kind, offset: u64, bytes: &[u8]) -> Head {
        Head { offset, length: bytes.len() as u32, kind, crc32c: crc32c::crc32c(bytes) }
    }

    pub fn encode(&self) -> [u8; RECORD_HEAD_BYTES] {
        let mut head = [0; RECORD_HEAD_BYTES];
        head[..8].copy_from_slice(&self.offset.to_le_bytes());
        head[8..12].copy_from_slice(&self.length.to_le_bytes());
        head[12..16].copy_from_slice(&(self.kind as u32).to_le_bytes());
        head[16..20].copy_from_slice(&self.crc32c.to_le_bytes());
        let crc32c = crc32c::crc32c(&head[..20]);
        head[20..].copy_from_slice(&crc32c.to_le_bytes());
        head
    }

    /// `None`: this is no head of a record.
    pub fn decode(head: &[u8; RECORD_HEAD_BYTES]) -> Option<Head> {
        let kind = match word(&head[12..]) {
            1 => Kind::More,
            2 => Kind::Begin,
            3 => Kind::End,
            _ => return None,
        };
        let is_whole = crc32c::crc32c(&head[..20]) == word(&head[20..]);
        is_whole.then(|| Head { offset: long(head), length: word(&head[8..]), kind, crc32c: word(&head[16..]) })
    }

    /// Offset behind the record.
    pub fn end(&self) -> u64 {
        self.offset.saturating_add(u64::from(self.length))
    }
}

/// What a segment begins with.
pub(super) fn segment_head(offset: u64) -> [u8; SEGMENT_HEAD_BYTES] {
    let mut head = [0; SEGMENT_HEAD_BYTES];
    head[..8].copy_from_slice(MAGIC);
    head[8..16].copy_from_slice(&offset.to_le_bytes());
    let crc32c = crc32c::crc32c(&head[..16]);
    head[16..20].copy_from_slice(&crc32c.to_le_bytes());
    head[20..].copy_from_slice(&VERSION.to_le_bytes());
    head
}

/// The name of the segment that begins at this offset.
pub(super) fn segment_name(offset: u64) -> String {
    format!("{offset:020}{SUFFIX}")
}

/// The offset at which the segment of this name begins; `None`: it is no segment's name.
pub(super) fn segment_offset(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(SUFFIX)?;
    let is_number = digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit());
    if is_number { digits.parse().ok() } else { None }
}

fn word(bytes: &[u8]) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[..4]);
    u32::from_le_bytes(word)
}

fn long(bytes: &[u8]) -> u64 {
    let mut long = [0; 8];
    long.copy_from_slice(&bytes[..8]);
    u64::from_le_bytes(long)
}
