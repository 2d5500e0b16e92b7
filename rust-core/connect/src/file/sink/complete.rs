//! Files that are readable only when they are complete: Arrow's file format and Parquet.
//!
//! Rows come as an Arrow IPC stream. What is known of a file's bytes goes to the staging log at once; its end follows when
//! the epoch is complete.

use arrow_array::RecordBatch;
use arrow_buffer::Buffer;
use arrow_ipc::{
    reader::{StreamDecoder, StreamReader},
    writer::{FileWriter, IpcWriteOptions},
};
use arrow_schema::{ArrowError, SchemaRef};
use arrow_select::coalesce::BatchCoalescer;
use parquet::{
    arrow::ArrowWriter,
    basic::{Compression as PageCompression, ZstdLevel},
    errors::ParquetError,
    file::properties::WriterProperties,
};

use crate::{Compression, ConnectError, OutputFormat, formats::arrow::refused, staging::StagingLog};

/// Rows of a record batch of an Arrow file, but the last.
const BATCH_ROWS: usize = 65_536;
/// A row group of a Parquet file ends with so many bytes, so that an open epoch takes a bounded part of the memory.
const GROUP_BYTES: usize = 64 << 20;

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
}

struct ArrowFile {
    writer: FileWriter<Vec<u8>>,
    batches: BatchCoalescer,
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
        let mut bytes = Buffer::from(bytes);
        while let Some(batch) = self.decoder.decode(&mut bytes).map_err(refused)? {
            match &mut self.file {
                Writing::Arrow(file) => file.take(batch).map_err(refused)?,
                Writing::Parquet(writer) => writer.write(&batch).map_err(refused_by_parquet)?,
                Writing::Complete(_) => return Err(ConnectError::Schema("the file is complete".to_owned())),
            }
        }
        Ok(())
    }

    /// Puts what is known of the file into the log.
    fn show(&mut self, log: &mut StagingLog, epoch: u64) -> Result<(), ConnectError> {
        let bytes = match &mut self.file {
            Writing::Arrow(file) => file.writer.get_mut(),
            Writing::Parquet(writer) => writer.inner_mut(),
            Writing::Complete(rest) => rest,
        };
        if !bytes.is_empty() {
            log.append(epoch, &[bytes])?;
            bytes.clear();
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), ConnectError> {
        self.file = match std::mem::replace(&mut self.file, Writing::Complete(Vec::new())) {
            Writing::Arrow(file) => Writing::Complete(file.end().map_err(refused)?),
            Writing::Parquet(writer) => Writing::Complete(writer.into_inner().map_err(refused_by_parquet)?),
            complete @ Writing::Complete(_) => complete,
        };
        Ok(())
    }
}

impl ArrowFile {
    fn begin(schema: SchemaRef) -> Result<ArrowFile, ArrowError> {
        let writer = FileWriter::try_new_with_options(Vec::new(), &schema, IpcWriteOptions::default())?;
        Ok(ArrowFile { writer, batches: BatchCoalescer::new(schema, BATCH_ROWS) })
    }

    fn take(&mut self, batch: RecordBatch) -> Result<(), ArrowError> {
        self.batches.push_batch(batch)?;
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
        .set_max_row_group_bytes(Some(GROUP_BYTES))
        .build();
    ArrowWriter::try_new(Vec::new(), schema, Some(properties)).map_err(refused_by_parquet)
}

fn refused_by_parquet(error: ParquetError) -> ConnectError {
    ConnectError::Schema(error.to_string())
}
