//! Standard output as the target of a sink.

use std::io::{self, Write};

use ringmill_wire::Schema;

use crate::{ConnectError, OutputFormat, Promise, Writer, encoder};

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
        Ok(Box::new(StdoutWriter { header }))
    }

    /// What was printed cannot be taken back.
    pub fn promise(&self) -> Promise {
        Promise::AtLeastOnce
    }
}

struct StdoutWriter {
    /// to be written before the first rows
    header: Vec<u8>,
}

impl StdoutWriter {
    fn write_header(&mut self) -> Result<(), ConnectError> {
        if !self.header.is_empty() {
            put(&self.header)?;
            self.header = Vec::new();
        }
        Ok(())
    }
}

fn put(bytes: &[u8]) -> Result<(), ConnectError> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(bytes).map_err(failed)?;
    stdout.flush().map_err(failed)
}

fn failed(source: io::Error) -> ConnectError {
    ConnectError::Write { name: "standard output".to_owned(), source }
}

impl Writer for StdoutWriter {
    fn write(&mut self, _epoch: u64, bytes: &[u8]) -> Result<(), ConnectError> {
        self.write_header()?;
        put(bytes)
    }

    fn finish(&mut self) -> Result<(), ConnectError> {
        self.write_header()?;
        io::stdout().flush().map_err(failed)
    }
}
