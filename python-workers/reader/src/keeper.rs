//! What a class UDF has learnt, on its way to the core and back, in pieces as large as a slot.
//!
//! The pieces of one snapshot are numbered from 0 on. One that does not fill its slot is the last, so a snapshot that is
//! a multiple of the slot ends with an empty piece. `snapshot()` is called for piece 0, `restore()` after the last.
#![allow(unsafe_code)]

use std::ptr::NonNull;

use pyo3::exceptions::{PyRuntimeError, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes};

/// Calls `snapshot()` and `restore()` of one instance.
pub(crate) struct Keeper {
    snapshot: Py<PyAny>,
    restore: Py<PyAny>,
    /// The whole of which pieces are given or taken; empty between.
    whole: Vec<u8>,
    /// The piece that comes next.
    next: u64,
}

impl Keeper {
    pub(crate) fn new(snapshot: Py<PyAny>, restore: Py<PyAny>) -> Keeper {
        Keeper { snapshot, restore, whole: Vec::new(), next: 0 }
    }

    /// Writes piece number `piece` to `memory`; returns its length.
    ///
    /// # Safety
    /// `memory` is writable for `room` bytes.
    pub(crate) unsafe fn give(
        &mut self,
        py: Python<'_>,
        piece: u64,
        memory: NonNull<u8>,
        room: usize,
    ) -> PyResult<u32> {
        if piece == 0 {
            self.whole.clear();
            let value = self.snapshot.bind(py).call0()?;
            self.whole = bytes_of(&value)?;
        } else if piece != self.next {
            return Err(PyRuntimeError::new_err(format!("piece {piece} of a snapshot was asked for out of order")));
        }
        self.next = piece + 1;
        let start = usize::try_from(piece).unwrap_or(usize::MAX).saturating_mul(room).min(self.whole.len());
        let part = &self.whole[start..self.whole.len().min(start + room)];
        // SAFETY: the part is no longer than the room, which nobody else holds (see above).
        unsafe { memory.as_ptr().copy_from_nonoverlapping(part.as_ptr(), part.len()) };
        let length = part.len();
        if length < room {
            self.whole = Vec::new();
        }
        Ok(length as u32)
    }

    /// Takes piece number `piece`; `room` is what a full one has.
    pub(crate) fn take(&mut self, py: Python<'_>, piece: u64, part: &[u8], room: usize) -> PyResult<()> {
        if piece == 0 {
            self.whole.clear();
        } else if piece != self.next {
            return Err(PyRuntimeError::new_err(format!("piece {piece} of a snapshot came out of order")));
        }
        self.next = piece + 1;
        self.whole.extend_from_slice(part);
        if part.len() < room {
            let whole = std::mem::take(&mut self.whole);
            self.restore.bind(py).call1((PyBytes::new(py, &whole),))?;
        }
        Ok(())
    }
}

/// A copy of what `snapshot()` returned.
fn bytes_of(value: &Bound<'_, PyAny>) -> PyResult<Vec<u8>> {
    if let Ok(bytes) = value.cast::<PyBytes>() {
        return Ok(bytes.as_bytes().to_vec());
    }
    if let Ok(bytes) = value.cast::<PyByteArray>() {
        return Ok(bytes.to_vec());
    }
    let name = value.get_type().name()?;
    if name != "memoryview" {
        let message = format!("snapshot() must return bytes, bytearray or memoryview, not {name}");
        return Err(PyTypeError::new_err(message));
    }
    let bytes = value.call_method0("tobytes")?;
    Ok(bytes.cast_into::<PyBytes>()?.as_bytes().to_vec())
}
