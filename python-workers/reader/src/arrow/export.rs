//! Columns of a slot as Arrow arrays, without a copy.
//!
//! Every exported array, and every child that a consumer moves out of it, holds the slot until it is released, which
//! may happen on any thread and without the GIL. Only bool columns are copied: a slot has a byte for each value, Arrow
//! a bit.
#![allow(unsafe_code)]

use std::ffi::{CString, c_char, c_int, c_void};
use std::ptr;
use std::sync::Arc;

use pyo3::prelude::*;
use ringmill_wire::{ColumnParts, DataType, Schema};

use super::abi::{ArrowArray, ArrowArrayStream, ArrowSchema, FLAG_NULLABLE, Structure, into_capsule};
use crate::lease::Hold;
use crate::ndarray::unit_name;

/// `__arrow_c_schema__` of one column.
pub(crate) fn column_schema(name: &str, data_type: DataType, nullable: bool) -> ArrowSchema {
    let children = match data_type {
        DataType::List(item) => vec![column_schema("item", item.data_type(), false)],
        _ => Vec::new(),
    };
    schema(&format(data_type), name, if nullable { FLAG_NULLABLE } else { 0 }, children)
}

/// The schema of a batch: a struct of its columns.
pub(crate) fn batch_schema(columns: &Schema) -> ArrowSchema {
    let children = columns.fields.iter().map(|field| column_schema(&field.name, field.data_type, field.nullable));
    schema("+s", "", 0, children.collect())
}

/// One column as an array.
///
/// # Safety
/// `hold` must keep what `parts` points to valid and unchanged.
pub(crate) unsafe fn column_array(parts: &ColumnParts, hold: &Arc<Hold>) -> ArrowArray {
    let mut owned = None;
    let mut children = Vec::new();
    let validity: *const c_void = if parts.null_count > 0 { parts.validity.cast() } else { ptr::null() };
    let values: *const c_void = parts.values.cast();
    let buffers = match parts.data_type {
        DataType::Bool => {
            // SAFETY: a bool column has a byte of values per row, by the contract of this function.
            let bytes = unsafe { std::slice::from_raw_parts(parts.values, parts.rows as usize) };
            let bits = owned.insert(pack_bits(bytes));
            vec![validity, bits.as_ptr().cast()]
        }
        DataType::Utf8 | DataType::Binary => vec![validity, parts.offsets.cast(), values],
        DataType::List(item) => {
            let length = parts.values_bytes as usize / item.data_type().item_width();
            let child = Private {
                hold: Arc::clone(hold),
                buffers: vec![ptr::null(), values],
                children: Vec::new(),
                _owned: None,
            };
            children.push(child.into_array(length, 0));
            vec![validity, parts.offsets.cast()]
        }
        _ => vec![validity, values],
    };
    let private = Private { hold: Arc::clone(hold), buffers, children: boxed(children), _owned: owned };
    private.into_array(parts.rows as usize, parts.null_count as usize)
}

/// A batch as a struct array.
///
/// # Safety
/// As for [`column_array`], for all of `columns`, each of `rows` rows.
pub(crate) unsafe fn batch_array(columns: &[ColumnParts], rows: usize, hold: &Arc<Hold>) -> ArrowArray {
    // SAFETY: passed on to the caller.
    let children = columns.iter().map(|parts| unsafe { column_array(parts, hold) }).collect();
    let private =
        Private { hold: Arc::clone(hold), buffers: vec![ptr::null()], children: boxed(children), _owned: None };
    private.into_array(rows, 0)
}

/// A stream that yields `array` once.
pub(crate) fn stream(py: Python<'_>, schema: ArrowSchema, array: ArrowArray) -> PyResult<Bound<'_, PyAny>> {
    let private = Box::new(Stream { schema: Some(schema), array: Some(array) });
    let stream = ArrowArrayStream {
        get_schema: Some(stream_schema),
        get_next: Some(stream_next),
        get_last_error: Some(stream_error),
        release: Some(release_stream),
        private_data: Box::into_raw(private).cast(),
    };
    into_capsule(py, stream)
}

/// What an exported array owns.
struct Private {
    hold: Arc<Hold>,
    buffers: Vec<*const c_void>,
    children: Vec<*mut ArrowArray>,
    _owned: Option<Box<[u8]>>,
}

impl Private {
    fn into_array(self, length: usize, null_count: usize) -> ArrowArray {
        let mut private = Box::new(self);
        ArrowArray {
            length: length as i64,
            null_count: null_count as i64,
            offset: 0,
            n_buffers: private.buffers.len() as i64,
            n_children: private.children.len() as i64,
            buffers: private.buffers.as_mut_ptr(),
            children: private.children.as_mut_ptr(),
            dictionary: ptr::null_mut(),
            release: Some(release_array),
            private_data: Box::into_raw(private).cast(),
        }
    }
}

fn boxed<T>(values: Vec<T>) -> Vec<*mut T> {
    values.into_iter().map(|value| Box::into_raw(Box::new(value))).collect()
}

unsafe extern "C" fn release_array(array: *mut ArrowArray) {
    // SAFETY: only arrays made by `Private::into_array` have this callback, and it is called once. Consumers that
    // moved a child out have left it released.
    unsafe {
        let private = Box::from_raw((*array).private_data.cast::<Private>());
        for &child in &private.children {
            Box::from_raw(child).release();
        }
        (*array).release = None;
        drop(private.hold);
    }
}

/// What an exported schema owns.
struct PrivateSchema {
    _texts: [CString; 2],
    children: Vec<*mut ArrowSchema>,
}

fn schema(format: &str, name: &str, flags: i64, children: Vec<ArrowSchema>) -> ArrowSchema {
    // A name with a NUL cannot be said in C; it is cut there.
    let texts =
        [format, name].map(|text| CString::new(text.split('\0').next().unwrap_or_default()).unwrap_or_default());
    let [format, name] = [texts[0].as_ptr(), texts[1].as_ptr()];
    let mut private = Box::new(PrivateSchema { _texts: texts, children: boxed(children) });
    ArrowSchema {
        format,
        name,
        metadata: ptr::null(),
        flags,
        n_children: private.children.len() as i64,
        children: private.children.as_mut_ptr(),
        dictionary: ptr::null_mut(),
        release: Some(release_schema),
        private_data: Box::into_raw(private).cast(),
    }
}

unsafe extern "C" fn release_schema(schema: *mut ArrowSchema) {
    // SAFETY: as for `release_array`.
    unsafe {
        let private = Box::from_raw((*schema).private_data.cast::<PrivateSchema>());
        for &child in &private.children {
            Box::from_raw(child).release();
        }
        (*schema).release = None;
    }
}

/// What an exported stream still has to say.
struct Stream {
    schema: Option<ArrowSchema>,
    array: Option<ArrowArray>,
}

impl Drop for Stream {
    fn drop(&mut self) {
        if let Some(schema) = &mut self.schema {
            schema.release();
        }
        if let Some(array) = &mut self.array {
            array.release();
        }
    }
}

/// Calls on a stream come one at a time, by the interface's contract.
unsafe fn private_of<'a>(stream: *mut ArrowArrayStream) -> &'a mut Stream {
    // SAFETY: only streams made by `stream` have the callbacks that call this.
    unsafe { &mut *(*stream).private_data.cast::<Stream>() }
}

unsafe extern "C" fn stream_schema(stream: *mut ArrowArrayStream, out: *mut ArrowSchema) -> c_int {
    // SAFETY: the consumer gives room for a schema.
    unsafe {
        let Some(schema) = &private_of(stream).schema else { return libc::EINVAL };
        out.write(copy_schema(schema));
    }
    0
}

unsafe extern "C" fn stream_next(stream: *mut ArrowArrayStream, out: *mut ArrowArray) -> c_int {
    // SAFETY: the consumer gives room for an array; a released one means the end.
    unsafe { out.write(private_of(stream).array.take().unwrap_or_else(ArrowArray::released)) };
    0
}

unsafe extern "C" fn stream_error(_stream: *mut ArrowArrayStream) -> *const c_char {
    ptr::null()
}

unsafe extern "C" fn release_stream(stream: *mut ArrowArrayStream) {
    // SAFETY: as for `private_of`, once.
    unsafe {
        drop(Box::from_raw((*stream).private_data.cast::<Stream>()));
        (*stream).release = None;
    }
}

/// A deep copy of a schema of ours.
///
/// # Safety
/// `from` must have been made by [`schema`].
unsafe fn copy_schema(from: &ArrowSchema) -> ArrowSchema {
    // SAFETY: made by `schema`: texts are C strings from `&str`s, children are schemas of ours.
    unsafe {
        let text = |pointer| std::ffi::CStr::from_ptr(pointer).to_str().unwrap_or_default();
        let children = std::slice::from_raw_parts(from.children, from.n_children as usize);
        let children = children.iter().map(|&child| copy_schema(&*child)).collect();
        schema(text(from.format), text(from.name), from.flags, children)
    }
}

fn format(data_type: DataType) -> String {
    match data_type {
        DataType::Bool => "b",
        DataType::Int8 => "c",
        DataType::Int16 => "s",
        DataType::Int32 => "i",
        DataType::Int64 => "l",
        DataType::UInt8 => "C",
        DataType::UInt16 => "S",
        DataType::UInt32 => "I",
        DataType::UInt64 => "L",
        DataType::Float32 => "f",
        DataType::Float64 => "g",
        DataType::Utf8 => "u",
        DataType::Binary => "z",
        // Not `tss:UTC`: NumPy's datetime64 carries no zone either, and consumers treat the two as different types.
        DataType::Timestamp(unit) => return format!("ts{}:", unit_letter(unit_name(unit))),
        DataType::List(_) => "+l",
    }
    .to_owned()
}

/// Arrow says `m` for `ms`.
fn unit_letter(name: &str) -> &str {
    &name[..1]
}

/// Bytes of 0 and 1 as bits, least significant first.
fn pack_bits(bytes: &[u8]) -> Box<[u8]> {
    bytes.chunks(8).map(|chunk| chunk.iter().rev().fold(0, |bits, &byte| bits << 1 | (byte & 1))).collect()
}
