//! Many connections as one stream of parcels.

use std::io;

use super::{
    connections::{Assembler, Connections},
    listener::Listener,
};
use crate::text::Stream;

/// The stream. It never ends.
pub struct Parcels(Connections);

impl Parcels {
    /// Each connection has an assembler of its own, which puts parcels together.
    pub fn new<A: Assembler + 'static>(
        listener: Listener,
        connections_max: usize,
        assembler: impl Fn() -> A + Send + 'static,
    ) -> Parcels {
        Parcels(Connections::new(listener, connections_max, assembler))
    }
}

impl Stream for Parcels {
    fn fill(&mut self, bytes: &mut Vec<u8>, at: usize, _bytes_max: usize) -> io::Result<usize> {
        bytes.truncate(at);
        while bytes.len() == at {
            self.0.go_on(bytes)?;
        }
        Ok(bytes.len() - at)
    }
}
