//! The content of a file or stream: plain, gzip or zstd, told apart by the first bytes.

use std::{
    fs::File,
    io::{self, BufReader, Cursor, Read, Seek, SeekFrom},
    os::unix::fs::{FileExt, MetadataExt},
    path::Path,
};

use flate2::bufread::MultiGzDecoder;

use crate::FileIdentity;

/// Decompressed bytes, or plain ones.
pub(crate) type Content = Box<dyn Read + Send>;

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

/// A regular file while it is read, to be known again later.
#[derive(Debug)]
pub(crate) struct Source {
    file: File,
    is_plain: bool,
    /// when it was opened
    bytes: u64,
}

impl Source {
    pub fn open(path: &Path) -> io::Result<Source> {
        Source::of(File::open(path)?)
    }

    pub fn of(file: File) -> io::Result<Source> {
        let mut first = [0; MAGIC_BYTES];
        let count = file.read_at(&mut first, 0)?;
        let bytes = file.metadata()?.len();
        Ok(Source { file, is_plain: Compression::of(&first[..count]) == Compression::None, bytes })
    }

    pub fn file(&self) -> &File {
        &self.file
    }

    /// How long it was when it was opened, as it is on the disk.
    pub fn file_bytes(&self) -> u64 {
        self.bytes
    }

    /// Its bytes are its content.
    pub fn is_plain(&self) -> bool {
        self.is_plain
    }

    /// The content from byte `offset` on. A compressed file is decompressed up to there.
    pub fn content(&self, offset: u64) -> io::Result<Content> {
        let mut file = self.file.try_clone()?;
        if self.is_plain {
            let length = file.metadata()?.len();
            if offset > length {
                return Err(too_short(length));
            }
            file.seek(SeekFrom::Start(offset))?;
            return Ok(Box::new(file));
        }
        file.seek(SeekFrom::Start(0))?;
        let mut first = [0; MAGIC_BYTES];
        let count = file.read_at(&mut first, 0)?;
        let mut content = Compression::of(&first[..count]).decode(file)?;
        let skipped = io::copy(&mut content.by_ref().take(offset), &mut io::sink())?;
        if skipped < offset {
            return Err(too_short(skipped));
        }
        Ok(content)
    }

    /// By what the file is known again, when `offset` bytes of its content were consumed.
    pub fn identity(&self, offset: u64) -> io::Result<FileIdentity> {
        let metadata = self.file.metadata()?;
        // Nobody writes into what we have consumed; a compressed file is taken as it is.
        let known = if self.is_plain { offset } else { u64::MAX };
        let head_bytes = HEAD_BYTES.min(known).min(metadata.len());
        Ok(FileIdentity { inode: metadata.ino(), head_bytes, head_crc32c: self.head_crc32c(head_bytes)? })
    }

    fn head_crc32c(&self, bytes: u64) -> io::Result<u32> {
        let mut block = [0; HEAD_BYTES as usize];
        let head = &mut block[..bytes as usize];
        self.file.read_exact_at(head, 0)?;
        Ok(crc32c::crc32c(head))
    }

    /// Whether this is still the file of which `offset` bytes were consumed when it was `earlier`; otherwise why not.
    pub fn check(&self, earlier: &FileIdentity, offset: u64) -> io::Result<Result<(), String>> {
        let metadata = self.file.metadata()?;
        let (inode, length) = (metadata.ino(), metadata.len());
        if inode != earlier.inode {
            return Ok(Err(format!("it is another file (inode {inode} instead of {})", earlier.inode)));
        }
        let least = if self.is_plain { offset } else { earlier.head_bytes };
        if length < least || earlier.head_bytes > HEAD_BYTES {
            return Ok(Err(format!("it has only {length} bytes, and {least} were read before")));
        }
        if self.head_crc32c(earlier.head_bytes)? != earlier.head_crc32c {
            let reason = format!("its first {} bytes are others than those that were read before", earlier.head_bytes);
            return Ok(Err(reason));
        }
        Ok(Ok(()))
    }

    /// Whether a plain file goes on behind `offset` although the byte before it ends no line.
    pub fn continues_a_line(&self, offset: u64) -> io::Result<bool> {
        let mut before = [0];
        if !self.is_plain || offset == 0 || self.file.metadata()?.len() <= offset {
            return Ok(false);
        }
        self.file.read_exact_at(&mut before, offset - 1)?;
        Ok(!matches!(before, [b'\n' | b'\r']))
    }
}

/// Bytes by which a file is known again.
const HEAD_BYTES: u64 = 4096;

/// Content of a stream that cannot be read twice.
pub(crate) fn of_stream(mut read: impl Read + Send + 'static) -> io::Result<Content> {
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
