//! Arrow data that a UDF returned: any object with `__arrow_c_stream__` or `__arrow_c_array__`.
//!
//! Reads the layouts that Arrow libraries of today hand out (large and view strings, offsets into arrays, chunks), and
//! refuses the rest by name. The producer is a library in this process and is trusted as the interface asks; nothing
//! here is read beyond what an array's own lengths say.
#![allow(unsafe_code)]

use std::rc::Rc;

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use ringmill_wire::{DataType, ListItem, TimeUnit};

use super::abi::{ArrowArray, ArrowArrayStream, ArrowSchema, Owned, Structure, from_capsule, text};

/// What was imported.
pub(crate) enum Imported {
    /// A struct array or a stream of them.
    Table { columns: Vec<(String, Foreign)>, rows: usize },
    /// Anything else: one column.
    Column(Foreign),
}

/// How one column's values lie in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Nulls only.
    Null,
    /// Bits.
    Bool,
    /// One value of this type per row.
    Fixed(DataType),
    /// Text or bytes.
    Bytes { is_text: bool, layout: Layout },
    /// Lists of this type.
    List { item: DataType, layout: Layout },
}

/// How rows of different length are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    Offsets32,
    Offsets64,
    /// 16-byte views (text and bytes only).
    Views,
    /// So many items for each row (lists only).
    Fixed(usize),
}

/// A column, in one or more pieces.
pub(crate) struct Foreign {
    pub kind: Kind,
    /// The Arrow format string, for messages.
    pub format: String,
    pub pieces: Vec<Piece>,
}

/// Rows `start..start + rows` of an array.
pub(crate) struct Piece {
    /// Owns everything that `array` points to.
    owner: Rc<Owned<ArrowArray>>,
    array: *const ArrowArray,
    start: usize,
    pub rows: usize,
}

/// The data behind `object`, or None if it does not speak Arrow.
pub(crate) fn import(object: &Bound<'_, PyAny>) -> PyResult<Option<Imported>> {
    let py = object.py();
    // A class has the methods, but they want an instance.
    if object.is_instance_of::<pyo3::types::PyType>() {
        return Ok(None);
    }
    if let Some(method) = object.getattr_opt(intern!(py, "__arrow_c_array__"))? {
        let (schema, array): (Bound<'_, PyAny>, Bound<'_, PyAny>) = method.call0()?.extract()?;
        let schema = from_capsule::<ArrowSchema>(&schema)?;
        let array = from_capsule::<ArrowArray>(&array)?;
        return assemble(&schema.0, vec![array]).map(Some);
    }
    if let Some(method) = object.getattr_opt(intern!(py, "__arrow_c_stream__"))? {
        let mut stream = from_capsule::<ArrowArrayStream>(&method.call0()?)?;
        let (schema, arrays) = drain(&mut stream)?;
        return assemble(&schema.0, arrays).map(Some);
    }
    Ok(None)
}

fn drain(stream: &mut Owned<ArrowArrayStream>) -> PyResult<(Owned<ArrowSchema>, Vec<Owned<ArrowArray>>)> {
    let stream = &mut stream.0;
    let (Some(get_schema), Some(get_next)) = (stream.get_schema, stream.get_next) else {
        return Err(PyValueError::new_err("an Arrow stream was released before it was read"));
    };
    let mut schema = Owned(ArrowSchema::released());
    // SAFETY: the stream is not released, and the target is a structure to be filled.
    let status = unsafe { get_schema(stream, &mut schema.0) };
    if status != 0 {
        return Err(stream_failed(stream, status));
    }
    let mut arrays = Vec::new();
    loop {
        let mut array = Owned(ArrowArray::released());
        // SAFETY: as above.
        let status = unsafe { get_next(stream, &mut array.0) };
        if status != 0 {
            return Err(stream_failed(stream, status));
        }
        if array.0.release.is_none() {
            return Ok((schema, arrays));
        }
        arrays.push(array);
    }
}

fn stream_failed(stream: &mut ArrowArrayStream, status: i32) -> PyErr {
    let message = match stream.get_last_error {
        // SAFETY: the stream is not released; its message lives until the next call on it.
        Some(get) => unsafe { text(get(stream), "error").unwrap_or_default().to_owned() },
        None => String::new(),
    };
    PyValueError::new_err(format!("failed to read an Arrow stream: {message} (error {status})"))
}

fn assemble(schema: &ArrowSchema, arrays: Vec<Owned<ArrowArray>>) -> PyResult<Imported> {
    let arrays: Vec<_> = arrays.into_iter().map(Rc::new).collect();
    // SAFETY: a schema's texts live as long as it does.
    if unsafe { text(schema.format, "format")? } != "+s" {
        let pieces = arrays.iter().map(|owner| Piece::whole(owner, &owner.0)).collect();
        return foreign(schema, pieces).map(Imported::Column);
    }
    let rows = arrays.iter().map(|owner| owner.0.length as usize).sum();
    let columns = children(schema).map(|(index, child)| {
        // SAFETY: as above.
        let name = unsafe { text(child.name, "column name")? }.to_owned();
        let pieces = arrays.iter().map(|owner| Piece::of_struct(owner, index)).collect::<PyResult<_>>()?;
        let column = foreign(child, pieces).map_err(|error| PyTypeError::new_err(format!("column {name:?}: {error}")));
        Ok((name, column?))
    });
    Ok(Imported::Table { columns: columns.collect::<PyResult<_>>()?, rows })
}

fn children(schema: &ArrowSchema) -> impl Iterator<Item = (usize, &ArrowSchema)> {
    (0..schema.n_children as usize).map(move |index| {
        // SAFETY: a schema has as many children as it says, alive as long as it is.
        (index, unsafe { &**schema.children.add(index) })
    })
}

fn foreign(schema: &ArrowSchema, pieces: Vec<Piece>) -> PyResult<Foreign> {
    // SAFETY: a schema's texts live as long as it does.
    let format = unsafe { text(schema.format, "format")? }.to_owned();
    if !schema.dictionary.is_null() {
        return Err(PyTypeError::new_err(
            "dictionary-encoded (categorical) Arrow data is not taken; cast it to its values",
        ));
    }
    let kind = if let Some(layout) = list_layout(&format) {
        let item = children(schema).next().and_then(|(_, item)| {
            // SAFETY: as above.
            unsafe { text(item.format, "format").ok() }.and_then(fixed_type)
        });
        item.map(|item| Kind::List { item, layout })
    } else {
        scalar_kind(&format)
    };
    let kind = kind.ok_or_else(|| {
        PyTypeError::new_err(format!(
            "Arrow data of format {format:?} is not taken; cast it to a type that ringmill has"
        ))
    })?;
    Ok(Foreign { kind, format, pieces })
}

fn scalar_kind(format: &str) -> Option<Kind> {
    let bytes = |is_text, layout| Some(Kind::Bytes { is_text, layout });
    match format {
        "n" => Some(Kind::Null),
        "b" => Some(Kind::Bool),
        "u" => bytes(true, Layout::Offsets32),
        "U" => bytes(true, Layout::Offsets64),
        "vu" => bytes(true, Layout::Views),
        "z" => bytes(false, Layout::Offsets32),
        "Z" => bytes(false, Layout::Offsets64),
        "vz" => bytes(false, Layout::Views),
        other => fixed_type(other).map(Kind::Fixed),
    }
}

fn list_layout(format: &str) -> Option<Layout> {
    match format {
        "+l" => Some(Layout::Offsets32),
        "+L" => Some(Layout::Offsets64),
        other => other.strip_prefix("+w:").and_then(|count| count.parse().ok()).map(Layout::Fixed),
    }
}

fn fixed_type(format: &str) -> Option<DataType> {
    Some(match format {
        "c" => DataType::Int8,
        "s" => DataType::Int16,
        "i" => DataType::Int32,
        "l" => DataType::Int64,
        "C" => DataType::UInt8,
        "S" => DataType::UInt16,
        "I" => DataType::UInt32,
        "L" => DataType::UInt64,
        "f" => DataType::Float32,
        "g" => DataType::Float64,
        // Whatever zone follows the colon: the values count from the same instant.
        other => DataType::Timestamp(match other.strip_prefix("ts")?.split_once(':')?.0 {
            "s" => TimeUnit::Second,
            "m" => TimeUnit::Millisecond,
            "u" => TimeUnit::Microsecond,
            "n" => TimeUnit::Nanosecond,
            _ => return None,
        }),
    })
}

impl Kind {
    /// The column type that holds this exactly, for messages and checks; None for nulls only.
    pub(crate) fn data_type(self) -> Option<DataType> {
        Some(match self {
            Kind::Null => return None,
            Kind::Bool => DataType::Bool,
            Kind::Fixed(data_type) => data_type,
            Kind::Bytes { is_text: true, .. } => DataType::Utf8,
            Kind::Bytes { is_text: false, .. } => DataType::Binary,
            Kind::List { item, .. } => DataType::List(ListItem::of(item)?),
        })
    }
}

impl Foreign {
    pub(crate) fn rows(&self) -> usize {
        self.pieces.iter().map(|piece| piece.rows).sum()
    }
}

impl Piece {
    fn whole(owner: &Rc<Owned<ArrowArray>>, array: &ArrowArray) -> Piece {
        Piece { owner: Rc::clone(owner), array, start: array.offset as usize, rows: array.length as usize }
    }

    /// Child `index` of a struct array: the struct's own offset and length hold for it too.
    fn of_struct(owner: &Rc<Owned<ArrowArray>>, index: usize) -> PyResult<Piece> {
        let array = &owner.0;
        if index >= array.n_children as usize {
            return Err(PyValueError::new_err("an Arrow array has fewer columns than its schema"));
        }
        let nulls = Piece::whole(owner, array);
        if (0..nulls.rows).any(|row| nulls.is_null(row)) {
            return Err(PyValueError::new_err("an Arrow table has rows that are null as a whole; null their columns"));
        }
        // SAFETY: an array has as many children as it says, alive as long as it is.
        let child = unsafe { &**array.children.add(index) };
        let start = child.offset as usize + array.offset as usize;
        Ok(Piece { owner: Rc::clone(owner), array: child, start, rows: array.length as usize })
    }

    fn array(&self) -> &ArrowArray {
        let _ = &self.owner; // what keeps it alive
        // SAFETY: the owner keeps all of its arrays where they are.
        unsafe { &*self.array }
    }

    fn buffer(&self, index: usize) -> *const u8 {
        debug_assert!(index < self.array().n_buffers as usize);
        // SAFETY: an array of this kind has this buffer.
        unsafe { (*self.array().buffers.add(index)).cast() }
    }

    pub(crate) fn has_nulls(&self) -> bool {
        self.array().null_count != 0 && self.array().n_buffers > 0 && !self.buffer(0).is_null()
    }

    /// Whether row `row` of this piece is null.
    pub(crate) fn is_null(&self, row: usize) -> bool {
        // SAFETY: a validity buffer has a bit for every row.
        self.has_nulls() && !unsafe { bit(self.buffer(0), self.start + row) }
    }

    /// The bits of a bool column as bytes.
    pub(crate) fn bools(&self) -> Vec<u8> {
        let bits = self.buffer(1);
        // SAFETY: the values buffer has a bit for every row.
        (0..self.rows).map(|row| u8::from(unsafe { bit(bits, self.start + row) })).collect()
    }

    /// The first value of a fixed-width column.
    pub(crate) fn values(&self, width: usize) -> *const u8 {
        self.buffer(1).wrapping_add(self.start * width)
    }

    /// The bytes of one row of text or bytes.
    pub(crate) fn bytes(&self, layout: Layout, row: usize) -> &[u8] {
        if layout == Layout::Views {
            return self.viewed(row);
        }
        let (start, end) = self.range(layout, row);
        if start == end {
            return &[]; // the buffer may be null
        }
        // SAFETY: offsets of an Arrow array lie within its data buffer.
        unsafe { std::slice::from_raw_parts(self.buffer(2).add(start), end - start) }
    }

    /// The bytes behind a 16-byte view: length, then either the bytes, or prefix, buffer number and offset.
    fn viewed(&self, row: usize) -> &[u8] {
        // SAFETY: the views buffer has 16 bytes for every row; a view's buffer number and offset lie within the
        // variadic buffers, which follow from buffer 2 on.
        unsafe {
            let view = self.buffer(1).add((self.start + row) * 16);
            let length = view.cast::<i32>().read_unaligned() as usize;
            if length <= 12 {
                return std::slice::from_raw_parts(view.add(4), length);
            }
            let buffer = view.add(8).cast::<i32>().read_unaligned() as usize;
            let offset = view.add(12).cast::<i32>().read_unaligned() as usize;
            std::slice::from_raw_parts(self.buffer(2 + buffer).add(offset), length)
        }
    }

    /// The first item of one row of a list column, and how many there are.
    pub(crate) fn items(&self, layout: Layout, width: usize, row: usize) -> (*const u8, usize) {
        let (start, end) = self.range(layout, row);
        // SAFETY: a list array has one child.
        let child = unsafe { &**self.array().children };
        // SAFETY: a fixed-width array has two buffers.
        let values = unsafe { (*child.buffers.add(1)).cast::<u8>() };
        (values.wrapping_add((child.offset as usize + start) * width), end - start)
    }

    /// The first null item of a list, which no list column can hold.
    pub(crate) fn has_null_items(&self) -> bool {
        // SAFETY: a list array has one child; its validity covers its offset and length.
        unsafe {
            let child = &**self.array().children;
            let validity = (*child.buffers).cast::<u8>();
            child.null_count != 0
                && !validity.is_null()
                && (0..child.length as usize).any(|item| !bit(validity, child.offset as usize + item))
        }
    }

    fn range(&self, layout: Layout, row: usize) -> (usize, usize) {
        let row = self.start + row;
        let offsets = || self.buffer(1);
        // SAFETY: an offsets buffer has an entry more than there are rows.
        unsafe {
            match layout {
                Layout::Offsets32 => {
                    let offsets = offsets().cast::<i32>();
                    (offsets.add(row).read_unaligned() as usize, offsets.add(row + 1).read_unaligned() as usize)
                }
                Layout::Offsets64 => {
                    let offsets = offsets().cast::<i64>();
                    (offsets.add(row).read_unaligned() as usize, offsets.add(row + 1).read_unaligned() as usize)
                }
                Layout::Fixed(count) => (row * count, (row + 1) * count),
                Layout::Views => (0, 0),
            }
        }
    }
}

/// # Safety
/// `bits` must have bit `index`.
unsafe fn bit(bits: *const u8, index: usize) -> bool {
    // SAFETY: passed on to the caller.
    unsafe { *bits.add(index / 8) >> (index % 8) & 1 == 1 }
}
