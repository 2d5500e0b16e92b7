//! Many connections as one stream of whole lines.

use std::io::{self, Read};

use super::{
    connections::{Assembler, Connections},
    listener::Listener,
};

/// The stream. It never ends.
pub struct Lines {
    connections: Connections,
    /// whole lines; `ready[taken..]` are not handed out yet
    ready: Vec<u8>,
    taken: usize,
}

/// The line that a connection is within.
struct Line {
    /// its beginning
    rest: Vec<u8>,
    record_bytes_max: usize,
    /// what follows belongs to a line that is too long, of which enough was handed out
    is_skipping: bool,
}

impl Lines {
    pub fn new(listener: Listener, record_bytes_max: usize, connections_max: usize) -> Lines {
        let line = move || Line { rest: Vec::new(), record_bytes_max, is_skipping: false };
        Lines { connections: Connections::new(listener, connections_max, line), ready: Vec::new(), taken: 0 }
    }
}

impl Assembler for Line {
    fn take(&mut self, mut bytes: &[u8], whole: &mut Vec<u8>) -> Result<(), String> {
        if self.is_skipping {
            let Some(end) = memchr::memchr(b'\n', bytes) else { return Ok(()) };
            bytes = &bytes[end + 1..];
            self.is_skipping = false;
        }
        if let Some(end) = memchr::memrchr(b'\n', bytes) {
            whole.append(&mut self.rest);
            whole.extend_from_slice(&bytes[..=end]);
            bytes = &bytes[end + 1..];
        }
        self.rest.extend_from_slice(bytes);
        // So much that it is known to be too long, even if a carriage return were the last byte, which belongs to an end.
        let too_long = self.record_bytes_max + 2;
        if self.rest.len() >= too_long {
            self.rest.truncate(too_long);
            self.end_line(whole);
            self.is_skipping = true;
        }
        Ok(())
    }

    fn end(&mut self, whole: &mut Vec<u8>) -> Result<(), String> {
        if !self.rest.is_empty() {
            self.end_line(whole);
        }
        Ok(())
    }
}

impl Line {
    fn end_line(&mut self, whole: &mut Vec<u8>) {
        whole.append(&mut self.rest);
        whole.push(b'\n');
    }
}

impl Read for Lines {
    /// Waits for at least one whole line; hands out whole lines only, where the buffer has room for them.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.taken == self.ready.len() {
            self.ready.clear();
            self.taken = 0;
            self.connections.go_on(&mut self.ready)?;
        }
        let count = buffer.len().min(self.ready.len() - self.taken);
        buffer[..count].copy_from_slice(&self.ready[self.taken..self.taken + count]);
        self.taken += count;
        Ok(count)
    }
}
