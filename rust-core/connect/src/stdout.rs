//! Standard output as the target of a sink.

use std::{io, os::fd::AsFd};

use ringmill_wire::Schema;

use crate::{ConnectError, OutputFormat, Promise, Writer, encoder, file::PlainWriter};

const NAME: &str = "standard output";

/// Standard output as a sink: rows are shown at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StdoutSink {
    /// what is written
    pub format: OutputFormat,
}

impl StdoutSink {
    /// Writes to standard output from now on, and the header of the format first.
    pub fn open(&self, schema: &Schema) -> Result<Box<dyn Writer>, ConnectError> {
        let mut header = Vec::new();
        encoder(self.format, schema)?.begin(schema, &mut header);
        // Not through Rust's buffer: of a write that failed it is not known how much was taken.
        let stdout = io::stdout().as_fd().try_clone_to_owned();
        let stdout = stdout.map_err(|source| ConnectError::Write { name: NAME.to_owned(), source })?;
        Ok(Box::new(StdoutWriter { to: PlainWriter::of_stream(stdout.into(), NAME), header }))
    }

    /// What was printed cannot be taken back.
    pub fn promise(&self) -> Promise {
        Promise::AtLeastOnce
    }
}

struct StdoutWriter {
    to: PlainWriter,
    /// to be written before the first rows
    header: Vec<u8>,
}

impl StdoutWriter {
    fn write_header(&mut self) -> Result<(), ConnectError> {
        if !self.header.is_empty() {
            self.to.write(0, &self.header)?;
            self.header = Vec::new();
        }
        Ok(())
    }
}

impl Writer for StdoutWriter {
    fn write(&mut self, epoch: u64, bytes: &[u8]) -> Result<(), ConnectError> {
        self.write_header()?;
        self.to.write(epoch, bytes)
    }

    fn finish(&mut self) -> Result<(), ConnectError> {
        self.write_header()
    }
}
