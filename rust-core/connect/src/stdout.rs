//! Standard output as the target of a sink.

use std::io::{self, Write};

use crate::{ConnectError, Writer};

/// Writes to standard output, each write at once.
#[derive(Debug, Default)]
pub struct StdoutWriter;

fn failed(source: io::Error) -> ConnectError {
    ConnectError::Write { name: "standard output".to_owned(), source }
}

impl Writer for StdoutWriter {
    fn write(&mut self, _epoch: u64, bytes: &[u8]) -> Result<(), ConnectError> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(bytes).map_err(failed)?;
        stdout.flush().map_err(failed)
    }

    fn finish(&mut self) -> Result<(), ConnectError> {
        io::stdout().flush().map_err(failed)
    }
}
