//! Avro's object container files, one block of rows after the other.
//!
//! The header has the schema by which the rows were written. A block is decompressed to no more than [`BLOCK_BYTES_MAX`],
//! and its rows are counted and told apart before any is given out: one that does not fit is a dead letter of its own
//! bytes, and a block that is not what it says gives out none. Blocks that are passed over are not read, but for their
//! sync markers.
//!
//! Source: <https://avro.apache.org/docs/1.12.0/specification/#object-container-files>

use std::{
    io::{self, Read},
    ops::Range,
    sync::Arc,
};

use super::{Medium, RowFile, Trouble};
use crate::{
    AvroSchema, FieldSpec,
    formats::{AvroRows, Broken, Bytes, Records, Stop},
};

const MAGIC: &[u8; 4] = b"Obj\x01";
const SYNC_BYTES: usize = 16;
/// A header is no longer than this.
const HEADER_BYTES_MAX: u64 = 16 << 20;
/// So much of a file is read first to find its header's end.
const HEADER_BYTES_FIRST: u64 = 64 << 10;
/// Two numbers of variable length, before a block.
const COUNTS_BYTES: u64 = 20;
/// A block is no larger than this, compressed or not; writers make them of some kilobytes.
const BLOCK_BYTES_MAX: u64 = 256 << 20;
/// A block has no more rows than this, whose ends take 128 MiB; rows may be without a byte.
const BLOCK_ROWS_MAX: u64 = 32 << 20;
/// What follows a block of snappy: the checksum of what it becomes.
const CHECKSUM_BYTES: usize = 4;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Codec {
    Null,
    Deflate,
    Snappy,
    Zstandard,
}

/// An Avro file, of which one block is decoded at a time.
pub(super) struct AvroFile {
    file: Medium,
    bytes: u64,
    /// where the next block begins
    at: u64,
    codec: Codec,
    sync: [u8; SYNC_BYTES],
    /// the schema, as the header has it
    schema: Arc<str>,
    rows: AvroRows,
    block: Vec<u8>,
    /// where each row of the block ends
    ends: Vec<u32>,
    /// rows of the block that were given out
    next: usize,
    /// the numbers of the block's rows
    loaded: Range<u64>,
    /// rows that are passed over
    skip: u64,
}

/// What a header says.
struct Header {
    bytes: u64,
    codec: Codec,
    schema: String,
    sync: [u8; SYNC_BYTES],
}

impl AvroFile {
    pub fn open(file: Medium, reader: Option<&AvroSchema>, fields: &[FieldSpec]) -> Result<Box<dyn RowFile>, Trouble> {
        let bytes = file.length()?;
        let header = Header::read(&file, bytes)?;
        file.check_schema(header.schema.len())?;
        let schema = AvroSchema::parse(&header.schema);
        let schema = schema.map_err(|reason| Trouble::Broken(format!("the schema in its header: {reason}")))?;
        let rows = AvroRows::new(&schema, reader, fields).map_err(Trouble::Misfits)?;
        Ok(Box::new(AvroFile {
            file,
            bytes,
            at: header.bytes,
            codec: header.codec,
            sync: header.sync,
            schema: header.schema.into(),
            rows,
            block: Vec::new(),
            ends: Vec::new(),
            next: 0,
            loaded: 0..0,
            skip: 0,
        }))
    }

    /// The next block: how many rows it has, and its bytes as they are in the file; goes behind it.
    fn next_block(&mut self) -> Result<Option<(u64, Vec<u8>)>, Trouble> {
        let left = self.bytes - self.at;
        if left == 0 {
            return Ok(None);
        }
        let at = |reason: String| Trouble::Broken(format!("the block at byte {}: {reason}", self.at));
        let cut = || at(format!("it has more bytes than are there{}", self.file.cut()));
        let mut head = vec![0; left.min(COUNTS_BYTES) as usize];
        self.file.read_exact_at(&mut head, self.at)?;
        let mut head = Bytes::new(&head);
        let counts = head.zigzag().and_then(|rows| Ok((rows, head.zigzag()?)));
        let (rows, length) = counts.map_err(|broken| match broken {
            Broken::Ends => cut(),
            other => at(other.what().to_owned()),
        })?;
        let (Ok(rows), Ok(length)) = (u64::try_from(rows), u64::try_from(length)) else {
            return Err(at(format!("it says that it has {rows} rows in {length} bytes")));
        };
        if rows > BLOCK_ROWS_MAX {
            return Err(at(format!("it says that it has {rows} rows; at most 32 Mi are read at a time")));
        }
        let from = head.at() as u64;
        if length > left - from || left - from - length < SYNC_BYTES as u64 {
            return Err(cut());
        }
        if length > BLOCK_BYTES_MAX {
            return Err(at(format!("it has {length} bytes; at most 256 MiB are read at a time")));
        }
        let mut sync = [0; SYNC_BYTES];
        self.file.read_exact_at(&mut sync, self.at + from + length)?;
        if sync != self.sync {
            return Err(at("what follows it is not the file's sync marker".to_owned()));
        }
        let mut block = Vec::new();
        if !self.is_passed_over(rows) {
            block.resize(length as usize, 0);
            self.file.read_exact_at(&mut block, self.at + from)?;
        }
        self.at += from + length + SYNC_BYTES as u64;
        Ok(Some((rows, block)))
    }

    /// Whether nothing of a block of so many rows is needed.
    fn is_passed_over(&self, rows: u64) -> bool {
        self.skip > 0 && rows <= self.skip
    }

    /// Finds the ends of a block's rows.
    fn tell_apart(&mut self, rows: u64) -> Result<(), String> {
        let mut bytes = Bytes::new(&self.block);
        for row in 0..rows {
            let broken = |broken: Broken| format!("row {row} of it: {}", broken.what());
            self.rows.pass(&mut bytes).map_err(broken)?;
            self.ends.push(bytes.at() as u32);
        }
        match bytes.left() {
            0 => Ok(()),
            left => Err(format!("{left} bytes follow its rows")),
        }
    }
}

impl Header {
    fn read(file: &Medium, bytes: u64) -> Result<Header, Trouble> {
        let foreign = || Trouble::broken("it is not an Avro file, which begins with Obj and 1");
        let mut length = bytes.min(HEADER_BYTES_FIRST);
        loop {
            let mut head = vec![0; length as usize];
            file.read_exact_at(&mut head, 0)?;
            let rest = head.strip_prefix(MAGIC).ok_or_else(foreign)?;
            match Header::parse(rest) {
                Ok(header) => return header,
                Err(Broken::Ends) if length == bytes => {
                    return Err(Trouble::Broken(format!("it ends within its header{}", file.cut())));
                }
                Err(Broken::Ends) if length == HEADER_BYTES_MAX => {
                    return Err(Trouble::broken("its header has more than 16 MiB"));
                }
                Err(Broken::Ends) => length = (length * 4).min(bytes).min(HEADER_BYTES_MAX),
                Err(broken) => return Err(Trouble::Broken(format!("its header: {}", broken.what()))),
            }
        }
    }

    /// Behind the magic number: a map of metadata, and the sync marker.
    fn parse(bytes: &[u8]) -> Result<Result<Header, Trouble>, Broken> {
        let mut bytes = Bytes::new(bytes);
        let (mut schema, mut codec) = (None, None);
        loop {
            let (count, _) = bytes.block()?;
            if count == 0 {
                break;
            }
            for _ in 0..count {
                let (key, value) = (bytes.prefixed()?, bytes.prefixed()?);
                match key {
                    b"avro.schema" => schema = Some(value),
                    b"avro.codec" => codec = Some(value),
                    _ => {}
                }
            }
        }
        let sync = bytes.array()?;
        let header_bytes = (MAGIC.len() + bytes.at()) as u64;
        Ok(Header::of(header_bytes, schema, codec, sync))
    }

    fn of(bytes: u64, schema: Option<&[u8]>, codec: Option<&[u8]>, sync: [u8; SYNC_BYTES]) -> Result<Header, Trouble> {
        let codec = match codec {
            None | Some(b"null" | b"") => Codec::Null,
            Some(b"deflate") => Codec::Deflate,
            Some(b"snappy") => Codec::Snappy,
            Some(b"zstandard") => Codec::Zstandard,
            Some(other) => {
                let name = other.escape_ascii();
                return Err(Trouble::Broken(format!(
                    "it is compressed with {name}; null, deflate, snappy and zstandard are read"
                )));
            }
        };
        let schema = schema.ok_or_else(|| Trouble::broken("its header has no schema"))?;
        let schema = std::str::from_utf8(schema).map_err(|_| Trouble::broken("the schema in its header is no text"))?;
        Ok(Header { bytes, codec, schema: schema.to_owned(), sync })
    }
}

impl Codec {
    /// What a block becomes; `None`: more than `bytes_max`.
    fn decompress(self, block: Vec<u8>, bytes_max: u64) -> Result<Option<Vec<u8>>, String> {
        let bytes = match self {
            Codec::Null => block,
            Codec::Deflate => limited(flate2::read::DeflateDecoder::new(&block[..]), bytes_max)?,
            Codec::Zstandard => {
                let decoder = zstd::Decoder::new(&block[..]).map_err(|error| error.to_string())?;
                limited(decoder, bytes_max)?
            }
            Codec::Snappy => {
                let (compressed, checksum) = block.split_last_chunk::<CHECKSUM_BYTES>().ok_or("it has no checksum")?;
                let length = snap::raw::decompress_len(compressed).map_err(|error| error.to_string())?;
                if length as u64 > bytes_max {
                    return Ok(None);
                }
                let bytes = snap::raw::Decoder::new().decompress_vec(compressed).map_err(|error| error.to_string())?;
                let mut crc = flate2::Crc::new();
                crc.update(&bytes);
                if crc.sum() != u32::from_be_bytes(*checksum) {
                    return Err("its checksum is another".to_owned());
                }
                bytes
            }
        };
        Ok(Some(bytes).filter(|bytes| bytes.len() as u64 <= bytes_max))
    }
}

/// What comes out of a decompressor, of too much only so much that it can be seen.
fn limited(reader: impl Read, bytes_max: u64) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let read = reader.take(bytes_max + 1).read_to_end(&mut bytes);
    read.map_err(|error: io::Error| error.to_string())?;
    Ok(bytes)
}

const TOO_LARGE: &str = "it becomes too large when it is decompressed; at most 256 MiB are read at a time";

impl RowFile for AvroFile {
    fn seek(&mut self, row: u64) -> Result<(), Trouble> {
        self.skip = row;
        Ok(())
    }

    fn load(&mut self) -> Result<bool, Trouble> {
        loop {
            let from = self.at;
            let Some((rows, block)) = self.next_block()? else {
                let (row, left) = (self.loaded.end, self.skip);
                return match left {
                    0 => Ok(false),
                    _ => Err(Trouble::Broken(format!("it has only {row} rows, and {} were read before", row + left))),
                };
            };
            let first = self.loaded.end;
            (self.loaded, self.next) = (first..first + rows, 0);
            self.ends.clear();
            if self.is_passed_over(rows) {
                self.skip -= rows;
                self.next = rows as usize;
                continue;
            }
            let at = |reason: String| Trouble::Broken(format!("the block at byte {from}: {reason}"));
            // What is empty need not be something that can be decompressed.
            self.block = if block.is_empty() {
                block
            } else {
                let bytes_max = self.file.block_bytes_max(BLOCK_BYTES_MAX);
                let unpacked = self.codec.decompress(block, bytes_max).map_err(at)?;
                unpacked.ok_or_else(|| {
                    self.file.too_large(BLOCK_BYTES_MAX, || format!("the block at byte {from}: {TOO_LARGE}"))
                })?
            };
            self.file.unpacked(self.block.len() as u64, rows)?;
            self.tell_apart(rows).map_err(at)?;
            self.next = std::mem::take(&mut self.skip) as usize;
            return Ok(true);
        }
    }

    fn loaded(&self) -> Range<u64> {
        self.loaded.clone()
    }

    fn row(&self) -> u64 {
        self.loaded.start + self.next as u64
    }

    fn give(&mut self, records: &mut Records<'_, '_>) -> Result<(), Stop> {
        while let Some(end) = self.ends.get(self.next) {
            records.admit()?;
            let start = self.next.checked_sub(1).map_or(0, |before| self.ends[before]);
            let datum = &self.block[start as usize..*end as usize];
            let outcome = self.rows.fill(datum, &mut records.row);
            records.end_with(outcome, self.next, datum, Some(&self.schema))?;
            self.next += 1;
        }
        Ok(())
    }
}
