//! Files that are readable only when they are complete: Arrow's file format and Parquet.
//!
//! Rows come as an Arrow IPC stream. What is known of a file's bytes goes to the staging log at once; its end follows when
//! the part is complete.

use arrow_array::RecordBatch;
use arrow_buffer::Buffer;
use arrow_ipc::{reader::StreamDecoder, writer::FileWriter};
use arrow_schema::{ArrowError, SchemaRef};
use arrow_select::coalesce::BatchCoalescer;
use parquet::{
    arrow::ArrowWriter,
    basic::{Compression as PageCompression, ZstdLevel},
    file::properties::WriterProperties,
};

use crate::{Compression, ConnectError, OutputFormat, formats::arrow::refused, staging::StagingLog};

/// Rows of a record batch of an Arrow file, at most.
const BATCH_ROWS: usize = if cfg!(test) { 4 } else { 65_536 };
/// A record batch of an Arrow file also ends with so many bytes: a batch of large values must neither take all the memory nor
/// more than 32-bit offsets address.
const BATCH_BYTES: usize = 16 << 20;
/// Rows of a row group of a Parquet file, at most.
const GROUP_ROWS: usize = if cfg!(test) { 4 } else { 1 << 20 };
/// … which also ends with so many bytes, as they are written.
const GROUP_BYTES: usize = 64 << 20;

/// The file that rows go to.
pub struct Completer {
    format: OutputFormat,
    /// the beginning of the stream of rows
    header: Vec<u8>,
    open: Option<(u64, OpenFile)>,
}

impl Completer {
    /// `None`: files of this format are complete with each row.
    pub fn new(format: OutputFormat, header: &[u8]) -> Option<Completer> {
        match format {
            OutputFormat::Json | OutputFormat::Csv | OutputFormat::Raw => None,
            OutputFormat::Arrow | OutputFormat::Parquet(_) => {
                Some(Completer { format, header: header.to_owned(), open: None })
            }
        }
    }

    /// Most memory that an open file takes, about.
    pub fn memory_bytes(format: OutputFormat) -> u64 {
        let bytes = match format {
            OutputFormat::Json | OutputFormat::Csv | OutputFormat::Raw => 0,
            // Rows that wait, and the record batch that they become.
            OutputFormat::Arrow => 2 * BATCH_BYTES,
            OutputFormat::Parquet(_) => 2 * GROUP_BYTES,
        };
        bytes as u64
    }

    /// Rows of the part `number`: all of them or, with an error of the log, none; then the call is made again. A part
    /// begins when the one before it is complete.
    pub fn write(&mut self, log: &mut StagingLog, number: u64, bytes: &[u8]) -> Result<(), ConnectError> {
        if !self.is_open(number) {
            let mut file = OpenFile::new(self.format);
            file.take(&self.header)?;
            self.open = Some((number, file));
        }
        self.feed(log, number, bytes)
    }

    /// The same with a piece of a stream that has its own beginning.
    pub fn write_again(&mut self, log: &mut StagingLog, number: u64, piece: &[u8]) -> Result<(), ConnectError> {
        if !self.is_open(number) {
            self.open = Some((number, OpenFile::new(self.format)));
        }
        self.feed(log, number, piece)
    }

    fn is_open(&self, number: u64) -> bool {
        self.open.as_ref().is_some_and(|(open, _)| *open == number)
    }

    fn feed(&mut self, log: &mut StagingLog, number: u64, bytes: &[u8]) -> Result<(), ConnectError> {
        let Some((_, file)) = &mut self.open else { return Err(over()) };
        if !file.is_taken {
            file.take(bytes)?;
            file.is_taken = true;
        }
        file.show(log, number)?;
        file.is_taken = false;
        Ok(())
    }

    /// Bytes that the file will have besides those in the log, about.
    pub fn bytes(&self) -> u64 {
        let bytes = self.open.as_ref().map_or(0, |(_, file)| match &file.file {
            Writing::Arrow(file) => file.waiting,
            Writing::Parquet(writer) => writer.in_progress_size(),
            Writing::Nothing | Writing::Complete(_) | Writing::Broken => 0,
        });
        bytes as u64
    }

    /// The end of a part's file, if it has begun. May be called again after an error.
    pub fn complete(&mut self, log: &mut StagingLog, number: u64) -> Result<(), ConnectError> {
        let Some((_, file)) = self.open.as_mut().filter(|(open, _)| *open == number) else { return Ok(()) };
        file.end()?;
        file.show(log, number)?;
        self.open = None;
        Ok(())
    }
}

/// A part's file while its rows come.
struct OpenFile {
    format: OutputFormat,
    decoder: StreamDecoder,
    file: Writing,
    /// the rows of a call that failed are in the file already; the log did not take its bytes
    is_taken: bool,
}

enum Writing {
    /// the columns are not known yet
    Nothing,
    Arrow(Box<ArrowFile>),
    Parquet(Box<ArrowWriter<Vec<u8>>>),
    /// bytes of the end
    Complete(Vec<u8>),
    /// its end could not be made
    Broken,
}

struct ArrowFile {
    writer: FileWriter<Vec<u8>>,
    batches: BatchCoalescer,
    /// bytes of the rows that wait
    waiting: usize,
}

impl OpenFile {
    fn new(format: OutputFormat) -> OpenFile {
        OpenFile { format, decoder: StreamDecoder::new(), file: Writing::Nothing, is_taken: false }
    }

    fn begin(&mut self) -> Result<(), ConnectError> {
        if let (Writing::Nothing, Some(schema)) = (&self.file, self.decoder.schema()) {
            self.file = match self.format {
                OutputFormat::Parquet(compression) => Writing::Parquet(Box::new(parquet_file(schema, compression)?)),
                _ => Writing::Arrow(Box::new(ArrowFile::begin(schema).map_err(refused)?)),
            };
        }
        Ok(())
    }

    fn take(&mut self, bytes: &[u8]) -> Result<(), ConnectError> {
        let length = bytes.len();
        let mut bytes = Buffer::from(bytes);
        loop {
            let batch = self.decoder.decode(&mut bytes).map_err(refused)?;
            self.begin()?;
            let Some(batch) = batch else { break };
            match &mut self.file {
                Writing::Arrow(file) => file.take(batch).map_err(refused)?,
                Writing::Parquet(writer) => writer.write(&batch).map_err(refused)?,
                Writing::Nothing | Writing::Complete(_) | Writing::Broken => return Err(over()),
            }
        }
        match &mut self.file {
            Writing::Nothing => Ok(()),
            Writing::Arrow(file) => file.count(length).map_err(refused),
            Writing::Parquet(writer) => writer.sync().map_err(refused),
            Writing::Complete(_) | Writing::Broken => Err(over()),
        }
    }

    /// Puts what is known of the file into the log.
    fn show(&mut self, log: &mut StagingLog, number: u64) -> Result<(), ConnectError> {
        let bytes = match &mut self.file {
            Writing::Nothing => return Ok(()),
            Writing::Arrow(file) => file.writer.get_mut(),
            Writing::Parquet(writer) => writer.inner_mut(),
            Writing::Complete(rest) => rest,
            Writing::Broken => return Err(over()),
        };
        if !bytes.is_empty() {
            log.append(number, &[bytes])?;
            // A row group's memory is not kept for the next one.
            *bytes = Vec::new();
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), ConnectError> {
        self.file = match std::mem::replace(&mut self.file, Writing::Broken) {
            Writing::Arrow(file) => Writing::Complete(file.end().map_err(refused)?),
            Writing::Parquet(writer) => Writing::Complete(writer.into_inner().map_err(refused)?),
            over @ (Writing::Nothing | Writing::Complete(_) | Writing::Broken) => over,
        };
        Ok(())
    }
}

/// Nothing can be written any more.
fn over() -> ConnectError {
    ConnectError::Schema("the file has its end already, or could not get one".to_owned())
}

impl ArrowFile {
    fn begin(schema: SchemaRef) -> Result<ArrowFile, ArrowError> {
        let writer = FileWriter::try_new(Vec::new(), &schema)?;
        Ok(ArrowFile { writer, batches: BatchCoalescer::new(schema, BATCH_ROWS), waiting: 0 })
    }

    fn take(&mut self, batch: RecordBatch) -> Result<(), ArrowError> {
        self.batches.push_batch(batch)?;
        if self.batches.has_completed_batch() {
            self.waiting = 0;
        }
        self.write()
    }

    /// The rows just taken came as so many bytes.
    fn count(&mut self, bytes: usize) -> Result<(), ArrowError> {
        self.waiting += bytes;
        if self.waiting >= BATCH_BYTES {
            self.waiting = 0;
            self.batches.finish_buffered_batch()?;
        }
        self.write()
    }

    fn write(&mut self) -> Result<(), ArrowError> {
        while let Some(batch) = self.batches.next_completed_batch() {
            self.writer.write(&batch)?;
        }
        Ok(())
    }

    fn end(mut self) -> Result<Vec<u8>, ArrowError> {
        self.batches.finish_buffered_batch()?;
        self.write()?;
        self.writer.finish()?;
        self.writer.into_inner()
    }
}

fn parquet_file(schema: SchemaRef, compression: Compression) -> Result<ArrowWriter<Vec<u8>>, ConnectError> {
    let compression = match compression {
        Compression::None => PageCompression::UNCOMPRESSED,
        Compression::Snappy => PageCompression::SNAPPY,
        Compression::Zstd => PageCompression::ZSTD(ZstdLevel::default()),
    };
    let properties = WriterProperties::builder()
        .set_compression(compression)
        .set_created_by(concat!("ringmill ", env!("CARGO_PKG_VERSION")).to_owned())
        .set_max_row_group_row_count(Some(GROUP_ROWS))
        .set_max_row_group_bytes(Some(GROUP_BYTES))
        .build();
    ArrowWriter::try_new(Vec::new(), schema, Some(properties)).map_err(refused)
}
