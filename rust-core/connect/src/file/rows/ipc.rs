//! Arrow's IPC files (Feather) and IPC streams, one message after the other.
//!
//! A stream is read as it comes, a file by its footer, which says where the messages are. Each is looked at before it is
//! decoded: what it says of its buffers must be there, and must not become more than [`BATCH_BYTES_MAX`] when it is
//! decompressed.

use std::{collections::BTreeMap, sync::Arc, vec};

use arrow_array::RecordBatch;
use arrow_buffer::{Buffer, MutableBuffer};
use arrow_ipc::{
    Block, Message, MessageHeader, MetadataVersion, RecordBatch as BatchHeader, Schema as SchemaHeader,
    convert::try_fb_to_schema, reader::FileDecoder, root_as_footer, root_as_message_with_opts,
};
use arrow_schema::{Schema, SchemaRef};
use flatbuffers::{InvalidFlatbuffer, VerifierOptions};

use super::{
    Medium, Trouble,
    columns::{Batches, as_bytes, given_next},
};
use crate::formats::columns::Columns;

const MAGIC: &[u8; 6] = b"ARROW1";
/// The magic number of a file, filled up.
const HEAD_BYTES: u64 = 8;
/// The length of the footer and the magic number.
const TAIL_BYTES: u64 = 10;
/// Comes before a message's length, except in streams of long ago.
const CONTINUATION: [u8; 4] = [0xff; 4];
/// What describes a message is no longer than this.
const METADATA_BYTES_MAX: u64 = 64 << 20;
/// A record batch takes no more than this, decompressed.
const BATCH_BYTES_MAX: u64 = 1 << 30;
/// The dictionaries of a file take no more than this.
const DICTIONARIES_BYTES_MAX: u64 = if cfg!(test) { 64 << 10 } else { 1 << 30 };
/// What of the dictionaries counts for each message.
const DICTIONARY_SHARE: u64 = 1 << 10;
/// What stands before a compressed buffer: how long it becomes.
const PREFIX_BYTES: usize = 8;

/// An Arrow file or stream.
pub(super) struct IpcFile {
    file: Medium,
    /// where the next message of a stream begins
    at: u64,
    /// where those of a file begin that are still to be read
    offsets: Option<vec::IntoIter<u64>>,
    /// where the last one ends, at the latest
    end: u64,
    schema: SchemaRef,
    version: MetadataVersion,
    decoder: FileDecoder,
    /// what each takes
    dictionaries: BTreeMap<i64, u64>,
    /// … and all of them together
    dictionary_bytes: u64,
    /// decoded, and the rows of it that were handed out
    batch: Option<(RecordBatch, usize)>,
    /// rows that are passed over in the next batch
    skip: u64,
}

/// A message that has been read and looked at.
struct Read {
    block: Block,
    bytes: Buffer,
    kind: MessageHeader,
    rows: u64,
}

impl IpcFile {
    pub fn open(file: Medium) -> Result<IpcFile, Trouble> {
        let bytes = file.length()?;
        let mut head = [0; MAGIC.len()];
        let is_file = bytes >= HEAD_BYTES && file.read_exact_at(&mut head, 0).is_ok() && head == *MAGIC;
        if is_file { IpcFile::of_file(file, bytes) } else { IpcFile::of_stream(file, bytes) }
    }

    /// A file's footer has the schema, and says where the messages are.
    fn of_file(file: Medium, bytes: u64) -> Result<IpcFile, Trouble> {
        let (footer, end) = footer(&file, bytes)?;
        file.check_schema(footer.len())?;
        let refuse = || Trouble::broken("its footer is not one");
        let footer = root_as_footer(&footer).map_err(|_| refuse())?;
        let blocks = footer.dictionaries().into_iter().flatten().chain(footer.recordBatches().into_iter().flatten());
        let offsets = blocks.map(|block| u64::try_from(block.offset())).collect::<Result<Vec<u64>, _>>();
        let offsets = offsets.map_err(|_| refuse())?;
        let schema = footer.schema().ok_or_else(refuse)?;
        IpcFile::new(file, (0, end), (schema, footer.version()), Some(offsets.into_iter()))
    }

    /// A stream begins with the schema; the messages follow.
    fn of_stream(file: Medium, bytes: u64) -> Result<IpcFile, Trouble> {
        let Some((metadata, prefix)) = metadata_at(&file, 0, bytes)? else {
            return Err(Trouble::broken("it has nothing in it, not even a schema"));
        };
        let refuse =
            || Trouble::broken("it is neither an Arrow file nor an Arrow stream: it does not begin with a schema");
        file.check_schema(metadata.len())?;
        let message = message_of(&metadata[prefix..]).map_err(|_| refuse())?;
        let schema = message.header_as_schema().ok_or_else(refuse)?;
        let body = u64::try_from(message.bodyLength()).map_err(Trouble::broken)?;
        let at = (metadata.len() as u64).saturating_add(body);
        IpcFile::new(file, (at, bytes), (schema, message.version()), None)
    }

    fn new(
        file: Medium,
        (at, end): (u64, u64),
        (schema, version): (SchemaHeader<'_>, MetadataVersion),
        offsets: Option<vec::IntoIter<u64>>,
    ) -> Result<IpcFile, Trouble> {
        if !schema.endianness().equals_to_target_endianness() {
            return Err(Trouble::broken("its numbers are big-endian"));
        }
        let schema = Arc::new(try_fb_to_schema(schema).map_err(Trouble::broken)?);
        let decoder = decoder(&schema, version);
        let dictionaries = BTreeMap::new();
        Ok(IpcFile {
            file,
            at,
            end,
            offsets,
            schema,
            version,
            decoder,
            dictionaries,
            dictionary_bytes: 0,
            batch: None,
            skip: 0,
        })
    }

    /// The next message, and goes behind it; of a record batch nothing but its head if all its rows are passed over.
    fn message(&mut self) -> Result<Option<Read>, Trouble> {
        if let Some(offsets) = &mut self.offsets {
            let Some(offset) = offsets.next() else { return Ok(None) };
            self.at = offset;
        }
        let (metadata, prefix) = match metadata_at(&self.file, self.at, self.end)? {
            Some(found) => found,
            None if self.offsets.is_none() => {
                // What ends a stream are zeros, perhaps behind such a mark.
                let mut mark = [0; CONTINUATION.len()];
                let has_mark = self.file.read_exact_at(&mut mark, self.at).is_ok() && mark == CONTINUATION;
                self.file.check_end(self.at + if has_mark { mark.len() as u64 } else { 0 })?;
                return Ok(None);
            }
            None => return Err(Trouble::Broken(format!("there is no message at byte {}", self.at))),
        };
        let at = |reason: &str| Trouble::Broken(format!("the message at byte {}: {reason}", self.at));
        let message = message_of(&metadata[prefix..]).map_err(|error| at(&error.to_string()))?;
        let from = self.at + metadata.len() as u64;
        let length = u64::try_from(message.bodyLength()).ok().filter(|length| *length <= self.end - from);
        let length = length.ok_or_else(|| at(&format!("it has more bytes than are there{}", self.file.cut())))?;
        let rows = message.header_as_record_batch().map_or(0, |batch| batch.length());
        let rows = u64::try_from(rows).map_err(|_| at("it has fewer than 0 rows"))?;
        let kind = message.header_type();
        let block = Block::new(0, i32::try_from(metadata.len()).map_err(Trouble::broken)?, message.bodyLength());
        let is_passed_over = kind == MessageHeader::RecordBatch && rows <= self.skip && self.skip > 0;
        let bytes = if is_passed_over {
            Buffer::default()
        } else {
            let total = metadata.len() as u64 + length;
            if total > BATCH_BYTES_MAX {
                return Err(at("it has more than 1 GiB"));
            }
            let mut bytes = MutableBuffer::from_len_zeroed(total as usize);
            let (head, body) = bytes.as_slice_mut().split_at_mut(metadata.len());
            head.copy_from_slice(&metadata);
            self.file.read_exact_at(body, from)?;
            let decoded = check(&message, body).map_err(|reason| at(&reason))?;
            let all = decoded.saturating_add(metadata.len() as u64);
            // The dictionaries are gone through for it as well, which may be short: that costs a little, and ends.
            self.file.unpacked(all.saturating_add(self.dictionary_bytes / DICTIONARY_SHARE), rows)?;
            if let Some(dictionary) = message.header_as_dictionary_batch() {
                let own = self.dictionaries.entry(dictionary.id()).or_default();
                let before = *own;
                *own = if dictionary.isDelta() { own.saturating_add(decoded) } else { decoded };
                self.dictionary_bytes = (self.dictionary_bytes - before).saturating_add(*own);
                if self.dictionary_bytes > DICTIONARIES_BYTES_MAX {
                    return Err(at("with it, the dictionaries have more than 1 GiB"));
                }
            }
            bytes.into()
        };
        self.at = from + length;
        Ok(Some(Read { block, bytes, kind, rows }))
    }
}

/// Decodes messages with these columns.
fn decoder(schema: &SchemaRef, version: MetadataVersion) -> FileDecoder {
    FileDecoder::new(Arc::new(Schema::new(as_bytes(schema.fields()))), version)
}

/// A file's footer, and where the messages end at the latest.
fn footer(file: &Medium, bytes: u64) -> Result<(Vec<u8>, u64), Trouble> {
    let mut tail = [0; TAIL_BYTES as usize];
    let is_complete = bytes >= HEAD_BYTES + TAIL_BYTES
        && file.read_exact_at(&mut tail, bytes - TAIL_BYTES).is_ok()
        && tail.ends_with(MAGIC);
    if !is_complete {
        return Err(Trouble::broken("it lacks its end, ARROW1: it is not complete, or was cut"));
    }
    let length = u64::from(u32::from_le_bytes([tail[0], tail[1], tail[2], tail[3]]));
    let end = (bytes - TAIL_BYTES).checked_sub(length).filter(|end| *end >= HEAD_BYTES && length <= METADATA_BYTES_MAX);
    let refuse = || Trouble::Broken(format!("its footer has {length} bytes, which are not there or too many"));
    let end = end.ok_or_else(refuse)?;
    let mut footer = vec![0; length as usize];
    file.read_exact_at(&mut footer, end)?;
    Ok((footer, end))
}

/// What a message begins with: how many bytes that is, and how many behind it describe the message, 0 at the end of a
/// stream; `None`: it is not all there.
pub(crate) fn message_prefix(bytes: &[u8]) -> Option<(usize, usize)> {
    let (length, prefix) = match *bytes {
        [0xff, 0xff, 0xff, 0xff, a, b, c, d, ..] => ([a, b, c, d], 8),
        [0xff, 0xff, 0xff, 0xff, ..] => return None,
        [a, b, c, d, ..] => ([a, b, c, d], 4),
        _ => return None,
    };
    Some((prefix, u32::from_le_bytes(length) as usize))
}

/// The message that these bytes describe. One of which parts stand in several places, each of which would become as much as if
/// it stood there itself, is none: no writer makes it, and a thousand bytes could become millions of columns.
pub(crate) fn message_of(metadata: &[u8]) -> Result<Message<'_>, InvalidFlatbuffer> {
    // Tables share descriptions of themselves, which count as well.
    let max_apparent_size = 8 * metadata.len() + (64 << 10);
    root_as_message_with_opts(&VerifierOptions { max_apparent_size, ..VerifierOptions::default() }, metadata)
}

/// What describes the message at a place, with its length before it, which takes so many bytes; `None`: the stream ends.
fn metadata_at(file: &Medium, at: u64, end: u64) -> Result<Option<(Vec<u8>, usize)>, Trouble> {
    let left = end.saturating_sub(at);
    if left == 0 {
        return Ok(None);
    }
    let cut = |what: &str| Trouble::Broken(format!("the message at byte {at} {what}{}", file.cut()));
    let mut prefix = [0; 8];
    let prefix = &mut prefix[..left.min(8) as usize];
    file.read_exact_at(prefix, at)?;
    let Some((prefix_bytes, length)) = message_prefix(prefix) else { return Err(cut("has not even a length")) };
    let length = length as u64;
    if length == 0 {
        return Ok(None);
    }
    if length > METADATA_BYTES_MAX || length > left - prefix_bytes as u64 {
        return Err(cut(&format!("says that {length} bytes describe it, which are not there or too many")));
    }
    let mut metadata = vec![0; prefix_bytes + length as usize];
    file.read_exact_at(&mut metadata, at)?;
    Ok(Some((metadata, prefix_bytes)))
}

/// Looks at what a message says of its body; how many bytes that becomes.
fn check(message: &Message<'_>, body: &[u8]) -> Result<u64, String> {
    let batch = message.header_as_record_batch();
    let batch = batch.or_else(|| message.header_as_dictionary_batch().and_then(|dictionary| dictionary.data()));
    batch.map_or(Ok(0), |batch| check_batch(&batch, body))
}

fn check_batch(batch: &BatchHeader<'_>, body: &[u8]) -> Result<u64, String> {
    for node in batch.nodes().iter().flatten() {
        if node.length() < 0 || !(0..=node.length()).contains(&node.null_count()) {
            return Err(format!("a column has {} values, and {} of them are null", node.length(), node.null_count()));
        }
    }
    let is_compressed = batch.compression().is_some();
    let mut total = body.len() as u64;
    for buffer in batch.buffers().iter().flatten() {
        let (offset, length) = (usize::try_from(buffer.offset()), usize::try_from(buffer.length()));
        let range = offset.ok().zip(length.ok()).and_then(|(from, length)| Some(from..from.checked_add(length)?));
        let bytes = range.and_then(|range| body.get(range));
        let bytes = bytes.ok_or("a buffer lies beyond its bytes")?;
        if is_compressed && !bytes.is_empty() {
            let prefix = bytes.first_chunk::<PREFIX_BYTES>().ok_or("a compressed buffer has no length")?;
            // -1: it is not compressed.
            let length = i64::from_le_bytes(*prefix);
            total = total.saturating_add(u64::try_from(length).unwrap_or(0));
        }
    }
    if total > BATCH_BYTES_MAX {
        return Err(format!("it becomes {total} bytes when it is decompressed; at most 1 GiB is read at a time"));
    }
    Ok(total)
}

impl Batches for IpcFile {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn choose(&mut self, columns: &Columns) -> Result<(), Trouble> {
        let mut roots = columns.roots().map(|name| self.schema.index_of(name)).collect::<Result<Vec<_>, _>>();
        if let Ok(roots) = &mut roots {
            roots.sort_unstable();
            roots.dedup();
        }
        // Nothing has been decoded yet, so the decoder can still be another one.
        self.decoder = decoder(&self.schema, self.version).with_projection(roots.map_err(Trouble::broken)?);
        Ok(())
    }

    fn seek(&mut self, row: u64) -> Result<(), Trouble> {
        self.skip = row;
        Ok(())
    }

    fn repeat(&mut self, bytes: impl FnOnce() -> u64) -> Result<(), Trouble> {
        self.file.repeated(bytes)
    }

    fn next(&mut self) -> Result<Option<RecordBatch>, Trouble> {
        loop {
            if let Some(rows) = given_next(&mut self.batch) {
                return Ok(Some(rows));
            }
            let Some(read) = self.message()? else {
                return match self.skip {
                    0 => Ok(None),
                    left => Err(Trouble::Broken(format!("it has {left} rows less than were read before"))),
                };
            };
            match read.kind {
                MessageHeader::DictionaryBatch => {
                    self.decoder.read_dictionary(&read.block, &read.bytes).map_err(Trouble::broken)?;
                }
                MessageHeader::RecordBatch if read.rows <= self.skip && self.skip > 0 => self.skip -= read.rows,
                MessageHeader::RecordBatch => {
                    let batch = self.decoder.read_record_batch(&read.block, &read.bytes).map_err(Trouble::broken)?;
                    let skip = std::mem::take(&mut self.skip) as usize;
                    self.batch = batch.filter(|batch| batch.num_rows() > skip).map(|batch| (batch, skip));
                }
                other => return Err(Trouble::Broken(format!("it has a message of the kind {other:?}"))),
            }
        }
    }
}
