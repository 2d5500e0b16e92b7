//! Files that are readable only when they are complete: Arrow's file format and Parquet.
//!
//! Rows come as an Arrow IPC stream. What is known of a file's bytes goes to the staging log at once; its end follows when
//! the epoch is complete.

use arrow_array::RecordBatch;
use arrow_buffer::Buffer;
use arrow_ipc::{
    reader::{StreamDecoder, StreamReader},
    writer::FileWriter,
};
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
/// An epoch is complete while rows of the next one come already.
const EPOCHS: usize = 2;

/// The files of all open epochs.
pub struct Completer {
    format: OutputFormat,
    /// the beginning of the stream of rows
    header: Vec<u8>,
    open: Vec<(u64, OpenFile)>,
}

impl Completer {
    /// `None`: files of this format are complete with each row.
    pub fn new(format: OutputFormat, header: &[u8]) -> Option<Completer> {
        match format {
            OutputFormat::Json | OutputFormat::Csv => None,
            OutputFormat::Arrow | OutputFormat::Parquet(_) => {
                Some(Completer { format, header: header.to_owned(), open: Vec::new() })
            }
        }
    }

    /// Most memory that open files take, about.
    pub fn memory_bytes(format: OutputFormat) -> u64 {
        let bytes = match format {
            OutputFormat::Json | OutputFormat::Csv => 0,
            // Rows that wait, and the record batch that they become.
            OutputFormat::Arrow => 2 * BATCH_BYTES,
            OutputFormat::Parquet(_) => 2 * GROUP_BYTES,
        };
        (EPOCHS * bytes) as u64
    }

    /// Rows of an epoch: all of them or, with an error of the log, none; then the call is made again.
    pub fn write(&mut self, log: &mut StagingLog, epoch: u64, bytes: &[u8]) -> Result<(), ConnectError> {
        let index = match self.open.iter().position(|(open, _)| *open == epoch) {
            Some(index) => index,
            None => {
                self.open.push((epoch, OpenFile::begin(self.format, &self.header)?));
                self.open.len() - 1
            }
        };
        let (_, file) = &mut self.open[index];
        if !file.is_taken {
            file.take(bytes)?;
            file.is_taken = true;
        }
        file.show(log, epoch)?;
        file.is_taken = false;
        Ok(())
    }

    /// The end of an epoch's file, if it has one. May be called again after an error.
    pub fn complete(&mut self, log: &mut StagingLog, epoch: u64) -> Result<(), ConnectError> {
        let Some(index) = self.open.iter().position(|(open, _)| *open == epoch) else { return Ok(()) };
        let (_, file) = &mut self.open[index];
        file.end()?;
        file.show(log, epoch)?;
        self.open.swap_remove(index);
        Ok(())
    }
}

/// An epoch's file while its rows come.
struct OpenFile {
    decoder: StreamDecoder,
    file: Writing,
    /// the rows of a call that failed are in the file already; the log did not take its bytes
    is_taken: bool,
}

enum Writing {
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
    fn begin(format: OutputFormat, header: &[u8]) -> Result<OpenFile, ConnectError> {
        let mut decoder = StreamDecoder::new();
        decoder.decode(&mut Buffer::from(header)).map_err(refused)?;
        let schema = StreamReader::try_new(header, None).map_err(refused)?.schema();
        let file = match format {
            OutputFormat::Parquet(compression) => Writing::Parquet(Box::new(parquet_file(schema, compression)?)),
            _ => Writing::Arrow(Box::new(ArrowFile::begin(schema).map_err(refused)?)),
        };
        Ok(OpenFile { decoder, file, is_taken: false })
    }

    fn take(&mut self, bytes: &[u8]) -> Result<(), ConnectError> {
        let length = bytes.len();
        let mut bytes = Buffer::from(bytes);
        while let Some(batch) = self.decoder.decode(&mut bytes).map_err(refused)? {
            match &mut self.file {
                Writing::Arrow(file) => file.take(batch).map_err(refused)?,
                Writing::Parquet(writer) => writer.write(&batch).map_err(refused)?,
                Writing::Complete(_) | Writing::Broken => return Err(over()),
            }
        }
        match &mut self.file {
            Writing::Arrow(file) => file.count(length).map_err(refused),
            Writing::Parquet(writer) => writer.sync().map_err(refused),
            Writing::Complete(_) | Writing::Broken => Err(over()),
        }
    }

    /// Puts what is known of the file into the log.
    fn show(&mut self, log: &mut StagingLog, epoch: u64) -> Result<(), ConnectError> {
        let bytes = match &mut self.file {
            Writing::Arrow(file) => file.writer.get_mut(),
            Writing::Parquet(writer) => writer.inner_mut(),
            Writing::Complete(rest) => rest,
            Writing::Broken => return Err(over()),
        };
        if !bytes.is_empty() {
            log.append(epoch, &[bytes])?;
            // A row group's memory is not kept for the next one.
            *bytes = Vec::new();
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), ConnectError> {
        self.file = match std::mem::replace(&mut self.file, Writing::Broken) {
            Writing::Arrow(file) => Writing::Complete(file.end().map_err(refused)?),
            Writing::Parquet(writer) => Writing::Complete(writer.into_inner().map_err(refused)?),
            over @ (Writing::Complete(_) | Writing::Broken) => over,
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
