//! The micro-batches that a connection sends, as parcels.
//!
//! Each is a parcel of its own, with its length as it came. It is read once before it is handed out, so that nothing lies in a
//! journal that cannot be read. What cannot be, what is too long and what breaks off ends its connection; the batches before
//! it are taken.

use std::{mem, sync::Arc};

use ringmill_wire::ForeignBatch;

use super::connections::Assembler;
use crate::{
    Fields,
    parcel::{HEAD_BYTES, Kind, count_rows},
};

/// What one connection sends.
pub struct BatchStream {
    fields: Fields,
    record_bytes_max: usize,
    /// the beginning of a batch
    rest: Vec<u8>,
}

impl BatchStream {
    /// No batch is longer than `record_bytes_max`, its length included.
    pub fn new(fields: &Fields, record_bytes_max: usize) -> BatchStream {
        BatchStream { fields: fields.clone(), record_bytes_max, rest: Vec::new() }
    }

    /// Of the longest parcel.
    pub fn parcel_bytes_max(record_bytes_max: usize) -> usize {
        HEAD_BYTES + record_bytes_max
    }

    /// Takes the batch that `bytes` begins with; its length, or `None` if it is not whole.
    fn batch(&self, bytes: &[u8], whole: &mut Vec<u8>) -> Result<Option<usize>, String> {
        let Some(length) = ForeignBatch::bytes(bytes) else { return Ok(None) };
        if length > self.record_bytes_max as u64 {
            return Err(format!("a micro-batch has {length} bytes, and record_size_max is {}", self.record_bytes_max));
        }
        let Some(own) = bytes.get(..length as usize) else { return Ok(None) };
        let content = Arc::new(own.to_vec());
        let rows = count_rows(Kind::MicroBatch, &content, &self.fields, self.record_bytes_max as u64);
        if rows.map_err(|trouble| trouble.reason())? > 0 {
            whole.extend_from_slice(&Kind::MicroBatch.head(own.len()));
            whole.extend_from_slice(own);
        }
        Ok(Some(own.len()))
    }
}

impl Assembler for BatchStream {
    fn take(&mut self, bytes: &[u8], whole: &mut Vec<u8>) -> Result<(), String> {
        self.rest.extend_from_slice(bytes);
        let mut rest = mem::take(&mut self.rest);
        let mut at = 0;
        while let Some(length) = self.batch(&rest[at..], whole)? {
            at += length;
        }
        rest.drain(..at);
        self.rest = rest;
        Ok(())
    }

    fn end(&mut self, _whole: &mut Vec<u8>) -> Result<(), String> {
        match self.rest.is_empty() {
            true => Ok(()),
            false => Err("it broke off within a micro-batch".to_owned()),
        }
    }
}
