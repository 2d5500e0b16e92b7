//! Reading a batch: rows seen through columns, wherever the columns' buffers lie.
//!
//! A view trusts its parts: they come from a writer of this process, from a private copy that was verified, or from a
//! region that its one writer has sealed. Accessors check their bounds, so a wrong row is a panic and never a read
//! elsewhere.
#![allow(unsafe_code)]

use std::marker::PhantomData;

use crate::data_type::DataType;
use crate::fixed::{Physical, Plain, is_seen_as};
use crate::schema::Schema;
use crate::writer::BatchWriter;

/// The raw parts of one column. Whoever puts them into a view vouches for them ([`BatchView::from_parts`]).
#[derive(Clone, Copy, Debug)]
pub struct ColumnParts {
    /// The column's type.
    pub data_type: DataType,
    /// Its rows.
    pub rows: u32,
    /// Start of the values; aligned to 64 in a region.
    pub values: *const u8,
    /// Bytes of the values of all rows.
    pub values_bytes: u32,
    /// `rows + 1` offsets, or null for fixed-width types.
    pub offsets: *const i32,
    /// One bit a row, or null if every value is there.
    pub validity: *const u8,
    /// Rows without a value.
    pub null_count: u32,
}

// SAFETY: parts are addresses; only the unsafe `BatchView::from_parts` makes them readable.
unsafe impl Send for ColumnParts {}
// SAFETY: as for Send.
unsafe impl Sync for ColumnParts {}

#[derive(Clone, Copy)]
enum Source<'a> {
    Parts(&'a [ColumnParts]),
    Writer(&'a BatchWriter),
}

/// Rows of a batch, to be read.
#[derive(Clone, Copy)]
pub struct BatchView<'a> {
    schema: &'a Schema,
    rows: usize,
    source: Source<'a>,
    tags: &'a [u64],
}

impl<'a> BatchView<'a> {
    /// A view of columns that may lie in different regions (a request slot and the copy of its answer, say).
    ///
    /// Panics unless there is a part for every column of the schema, of its type and with at least `rows` rows.
    ///
    /// # Safety
    /// For all of `'a` the parts' memory must be valid for reads and not be written. `values` must hold `values_bytes`
    /// bytes (for fixed-width types at least `rows` values) at the alignment of the type, `offsets` `rows + 1` numbers
    /// where the type is variable, `validity`, if not null, a bit for every row.
    #[must_use]
    pub unsafe fn from_parts(schema: &'a Schema, rows: usize, columns: &'a [ColumnParts]) -> BatchView<'a> {
        assert_eq!(schema.len(), columns.len(), "a view needs a part for every column");
        for (field, part) in schema.fields.iter().zip(columns) {
            assert_eq!(field.data_type, part.data_type, "column `{}`", field.name);
            assert!(part.rows as usize >= rows, "column `{}` has {} rows, not {rows}", field.name, part.rows);
        }
        BatchView { schema, rows, source: Source::Parts(columns), tags: &[] }
    }

    pub(crate) fn of_writer(writer: &'a BatchWriter) -> BatchView<'a> {
        let (schema, rows) = (writer.template().schema(), writer.rows() as usize);
        BatchView { schema, rows, source: Source::Writer(writer), tags: &writer.tags }
    }

    /// The same rows with these tags, the first row's first.
    #[must_use]
    pub fn with_tags(self, tags: &'a [u64]) -> BatchView<'a> {
        BatchView { tags, ..self }
    }

    /// The row's tag ([`BatchWriter::carry_tags`]); 0 if it has none.
    #[inline]
    #[must_use]
    pub fn tag(&self, row: usize) -> u64 {
        self.tags.get(row).copied().unwrap_or(0)
    }

    /// How many rows there are.
    #[inline]
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The first `rows` rows, or all if there are fewer.
    #[must_use]
    pub fn prefix(self, rows: usize) -> BatchView<'a> {
        BatchView { rows: rows.min(self.rows), ..self }
    }

    /// The columns' names and types.
    #[must_use]
    pub fn schema(&self) -> &'a Schema {
        self.schema
    }

    /// The column at `index`; panics when there is none. Ask once a batch, not once a row.
    #[inline]
    #[must_use]
    pub fn column(&self, index: usize) -> ColumnView<'a> {
        let parts = match self.source {
            Source::Parts(parts) => ColumnParts { rows: self.rows as u32, ..parts[index] },
            Source::Writer(writer) => writer.column_parts(index),
        };
        ColumnView { parts, batch: PhantomData }
    }

    /// All columns in order.
    pub fn columns(self) -> impl ExactSizeIterator<Item = ColumnView<'a>> {
        (0..self.schema.len()).map(move |index| self.column(index))
    }

    /// The parts of every column; replaces what `parts` held. They must not outlive the memory behind this view.
    pub fn parts(&self, parts: &mut Vec<ColumnParts>) {
        parts.clear();
        parts.extend(self.columns().map(|column| column.parts));
    }
}

/// The values of one column, to be read.
#[derive(Clone, Copy)]
pub struct ColumnView<'a> {
    parts: ColumnParts,
    batch: PhantomData<&'a [u8]>,
}

impl<'a> ColumnView<'a> {
    /// The column's type.
    #[inline]
    #[must_use]
    pub fn data_type(&self) -> DataType {
        self.parts.data_type
    }

    /// How many rows there are.
    #[inline]
    #[must_use]
    pub fn rows(&self) -> usize {
        self.parts.rows as usize
    }

    /// The parts that the view is made of.
    #[must_use]
    pub fn parts(&self) -> &ColumnParts {
        &self.parts
    }

    /// A fixed-width column's values, one a row: 0 where missing. Timestamps are `i64`, bools are `u8`.
    ///
    /// Panics if the column is of another type.
    #[inline]
    #[must_use]
    pub fn values<T: Plain>(&self) -> &'a [T] {
        assert!(
            is_seen_as::<T>(Physical::of(self.parts.data_type)),
            "a {} column was read as {:?}",
            self.parts.data_type,
            T::PHYSICAL
        );
        // SAFETY: the type matches, so there are `rows` values of T (`from_parts`, or the writer's own count).
        unsafe { slice(self.parts.values.cast(), self.rows()) }
    }

    /// A variable column's value: the bytes of the text, the blob, or the list's items. Empty where missing.
    ///
    /// Panics if the column is of fixed width or has no such row.
    #[inline]
    #[must_use]
    pub fn bytes(&self, row: usize) -> &'a [u8] {
        let offsets = self.offsets();
        let width = self.parts.data_type.item_width();
        &self.value_bytes()[offsets[row] as usize * width..offsets[row + 1] as usize * width]
    }

    /// A utf8 value; `None` if it is not UTF-8 after all, which only a writer that broke its word can cause.
    #[inline]
    #[must_use]
    pub fn str(&self, row: usize) -> Option<&'a str> {
        std::str::from_utf8(self.bytes(row)).ok()
    }

    /// A list's items. Panics if the column is no list of T.
    #[inline]
    #[must_use]
    pub fn list<T: Plain>(&self, row: usize) -> &'a [T] {
        let DataType::List(item) = self.parts.data_type else {
            panic!("a {} column was read as a list", self.parts.data_type);
        };
        assert!(
            is_seen_as::<T>(Physical::of(item.data_type())),
            "a {} column was read as a list of {:?}",
            self.parts.data_type,
            T::PHYSICAL
        );
        let bytes = self.bytes(row);
        // SAFETY: the items are of T's width and the values start aligned, so every item is; the slice is all theirs.
        unsafe { slice(bytes.as_ptr().cast(), bytes.len() / size_of::<T>()) }
    }

    /// A variable column's `rows + 1` offsets, in bytes or, for lists, items. Panics if the column is of fixed width.
    #[inline]
    #[must_use]
    pub fn offsets(&self) -> &'a [i32] {
        assert!(self.parts.data_type.is_variable(), "a {} column has no offsets", self.parts.data_type);
        if self.parts.offsets.is_null() {
            return &[0]; // a batch that was never opened
        }
        // SAFETY: a variable column has `rows + 1` offsets.
        unsafe { slice(self.parts.offsets, self.rows() + 1) }
    }

    /// All value bytes: of fixed width one value after the other, else what the offsets point into.
    #[inline]
    #[must_use]
    pub fn value_bytes(&self) -> &'a [u8] {
        // SAFETY: `values_bytes` counts exactly these.
        unsafe { slice(self.parts.values, self.parts.values_bytes as usize) }
    }

    /// Whether the row has a value.
    #[inline]
    #[must_use]
    pub fn is_valid(&self, row: usize) -> bool {
        match self.validity() {
            None => true,
            Some(bits) => bits[row / 8] & (1 << (row % 8)) != 0,
        }
    }

    /// The validity bitmap, lowest bit first; `None` if every value is there.
    #[inline]
    #[must_use]
    pub fn validity(&self) -> Option<&'a [u8]> {
        if self.parts.validity.is_null() {
            return None;
        }
        // SAFETY: a bitmap that is there has a bit for every row.
        Some(unsafe { slice(self.parts.validity, self.rows().div_ceil(8)) })
    }

    /// How many rows have no value.
    #[inline]
    #[must_use]
    pub fn null_count(&self) -> usize {
        self.parts.null_count as usize
    }
}

/// A slice that may be empty at a null address.
///
/// # Safety
/// As for [`std::slice::from_raw_parts`], unless `length` is 0.
#[inline]
unsafe fn slice<'a, T>(start: *const T, length: usize) -> &'a [T] {
    if length == 0 {
        return &[];
    }
    // SAFETY: passed on to the caller.
    unsafe { std::slice::from_raw_parts(start, length) }
}
