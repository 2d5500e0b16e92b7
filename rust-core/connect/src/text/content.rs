//! The content of a file or stream: plain, gzip or zstd, told apart by the first bytes.

use std::{
    fs::File,
    io::{self, BufReader, Cursor, Read, Seek, SeekFrom},
    os::unix::fs::FileExt,
    path::Path,
};

use flate2::bufread::MultiGzDecoder;

/// Decompressed bytes, or plain ones.
pub(super) type Content = Box<dyn Read + Send>;

/// Compressed input is read in blocks of this size.
const COMPRESSED_BLOCK_BYTES: usize = 256 << 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Compression {
    None,
    Gzip,
    Zstd,
}

const MAGIC_BYTES: usize = 4;

impl Compression {
    /// By the magic numbers of RFC 1952 and RFC 8878 (frames and skippable frames).
    fn of(first: &[u8]) -> Compression {
        match first {
            [0x1f, 0x8b, ..] => Compression::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd] | [0x50..=0x5f, 0x2a, 0x4d, 0x18] => Compression::Zstd,
            _ => Compression::None,
        }
    }

    /// Whether these bytes may be the beginning of a magic number.
    fn may_begin_with(first: &[u8]) -> bool {
        matches!(
            first,
            [] | [0x1f]
                | [0x28]
                | [0x28, 0xb5]
                | [0x28, 0xb5, 0x2f]
                | [0x50..=0x5f]
                | [0x50..=0x5f, 0x2a]
                | [0x50..=0x5f, 0x2a, 0x4d]
        )
    }

    fn decode(self, read: impl Read + Send + 'static) -> io::Result<Content> {
        let block = BufReader::with_capacity(COMPRESSED_BLOCK_BYTES, read);
        Ok(match self {
            Compression::None => Box::new(block.into_inner()),
            Compression::Gzip => Box::new(MultiGzDecoder::new(block)),
            Compression::Zstd => Box::new(zstd::Decoder::with_buffer(block)?),
        })
    }
}

/// Content of a regular file from byte `offset` on. Compressed files are decompressed up to there.
pub(super) fn of_file(path: &Path, offset: u64) -> io::Result<Content> {
    let mut file = File::open(path)?;
    let mut first = [0; MAGIC_BYTES];
    let count = file.read_at(&mut first, 0)?;
    let compression = Compression::of(&first[..count]);
    if compression == Compression::None {
        let length = file.metadata()?.len();
        if offset > length {
            return Err(too_short(length));
        }
        file.seek(SeekFrom::Start(offset))?;
        return Ok(Box::new(file));
    }
    let mut content = compression.decode(file)?;
    let skipped = io::copy(&mut content.by_ref().take(offset), &mut io::sink())?;
    if skipped < offset {
        return Err(too_short(skipped));
    }
    Ok(content)
}

/// Content of a stream that cannot be read twice.
pub(super) fn of_stream(mut read: impl Read + Send + 'static) -> io::Result<Content> {
    let mut first = Vec::with_capacity(MAGIC_BYTES);
    // Byte by byte, so that a short first record is not kept waiting for more bytes than the decision needs.
    while Compression::may_begin_with(&first) && first.len() < MAGIC_BYTES {
        if read.by_ref().take(1).read_to_end(&mut first)? == 0 {
            break;
        }
    }
    Compression::of(&first).decode(Cursor::new(first).chain(read))
}

fn too_short(length: u64) -> io::Error {
    let text = format!("it has only {length} bytes");
    io::Error::new(io::ErrorKind::UnexpectedEof, text)
}
