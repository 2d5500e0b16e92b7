//! A cursor that writes rows or whole columns of a batch in place.
//!
//! Each column counts for itself how many values it has; a row is finished once every column has its value, and
//! [`BatchWriter::close`] insists that all columns end at the same row. Nothing allocates after [`BatchWriter::new`].
//! Validity is lazy: a column without a missing value touches its bitmap in `close` only.
//!
//! Misuse (a value of another type, a row beyond the capacity, a column left out) is a programming error and panics;
//! it never writes outside the region. The writer checks no UTF-8: whoever pushes into a utf8 column vouches for it
//! ([`BatchWriter::push_str`] lets the compiler vouch).
#![allow(unsafe_code)]

use std::ptr::NonNull;
use std::sync::Arc;

use crate::error::Full;
use crate::fixed::{Fixed, Physical, Plain, is_seen_as};
use crate::memory::AlignedMemory;
use crate::template::{ALIGNMENT, ColumnLayout, ROWS, Template};
use crate::view::{BatchView, ColumnParts};

/// What [`BatchWriter::close`] has finished: the figures of a ring descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closed {
    /// Rows of the batch.
    pub rows: u32,
    /// Bytes of the FlatBuffer: always those of the region, since buffers do not move.
    pub bytes: u32,
}

/// One column of the open region. The pointers are null until the first `open`.
#[derive(Debug)]
pub(crate) struct Column {
    pub(crate) values: *mut u8,
    /// Values written, including those of an unfinished row.
    pub(crate) next: u32,
    /// Bytes of values written; variable columns only.
    pub(crate) used: u32,
    pub(crate) physical: Physical,
    /// log2 of the item's width: how far a byte count is shifted to make an offset.
    pub(crate) item_shift: u8,
    pub(crate) nullable: bool,
    /// Missing values, including that of an unfinished row. The bitmap counts only while this is not 0.
    pub(crate) null_count: u32,
    pub(crate) values_capacity: u32,
    pub(crate) offsets: *mut i32,
    pub(crate) validity: *mut u8,
}

/// Writes batches in place, one region after the other.
#[derive(Debug)]
pub struct BatchWriter {
    pub(crate) template: Arc<Template>,
    pub(crate) columns: Box<[Column]>,
    pub(crate) rows: u32,
    /// `rows_max` while open, 0 while closed: then every push fails its bounds check.
    pub(crate) rows_limit: u32,
    memory: *mut u8,
    /// Each row's tag, up to the last row that has one.
    pub(crate) tags: Vec<u64>,
    pub(crate) carries_tags: bool,
    /// The region, if the writer belongs to a [`crate::HeapBatch`].
    pub(crate) owned: Option<AlignedMemory>,
}

// SAFETY: the region is exclusively the writer's while it is open (the contract of `open`), whatever thread it is on.
unsafe impl Send for BatchWriter {}
// SAFETY: methods that take `&self` only read.
unsafe impl Sync for BatchWriter {}

impl BatchWriter {
    /// A closed writer for regions of `template`.
    #[must_use]
    pub fn new(template: Arc<Template>) -> BatchWriter {
        let columns = template.columns().iter().map(Column::new).collect();
        BatchWriter {
            template,
            columns,
            rows: 0,
            rows_limit: 0,
            memory: std::ptr::null_mut(),
            tags: Vec::new(),
            carries_tags: false,
            owned: None,
        }
    }

    /// From now on rows carry *tags*: a number beside each row that never enters the region. Rows that are copied from a
    /// view bring theirs along; a row that nobody has tagged has 0. Allocates once.
    pub fn carry_tags(&mut self) {
        self.carries_tags = true;
        self.tags.reserve_exact(self.template.capacity().rows_max as usize);
    }

    /// Whether rows carry tags.
    #[inline]
    #[must_use]
    pub fn carries_tags(&self) -> bool {
        self.carries_tags
    }

    /// Takes the tags of a batch that was closed, and leaves room for those of the next: `room` should have as much
    /// capacity as [`BatchWriter::carry_tags`] asks for. What was in it is lost.
    pub fn swap_tags(&mut self, room: &mut Vec<u64>) {
        room.clear();
        std::mem::swap(&mut self.tags, room);
    }

    /// Starts a batch in a region. An open batch is given up.
    ///
    /// # Safety
    /// The region must be stamped with this writer's template ([`Template::stamp`]), be valid for reads and writes, and
    /// be touched by nobody else until [`BatchWriter::close`]. Never call it on the writer of a [`crate::HeapBatch`].
    pub unsafe fn open(&mut self, memory: NonNull<u8>) {
        let start = memory.as_ptr();
        assert_eq!(start as usize % ALIGNMENT, 0, "a region starts at a multiple of {ALIGNMENT}");
        for (column, layout) in self.columns.iter_mut().zip(self.template.columns()) {
            column.next = 0;
            column.used = 0;
            column.null_count = 0;
            // SAFETY: the offsets lie within the region, which the caller vouches for.
            unsafe {
                column.values = start.add(layout.values_offset);
                if let Some(offset) = layout.offsets_offset {
                    column.offsets = start.add(offset).cast();
                    column.offsets.write(0);
                }
                if let Some(offset) = layout.validity_offset {
                    column.validity = start.add(offset);
                }
            }
        }
        self.memory = start;
        self.rows = 0;
        self.tags.clear();
        self.rows_limit = self.template.capacity().rows_max;
    }

    /// Whether a batch is being written.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.rows_limit != 0
    }

    /// The template of the regions it writes.
    #[must_use]
    pub fn template(&self) -> &Arc<Template> {
        &self.template
    }

    /// Finished rows of the batch; after `close` those of the batch that was closed.
    #[inline]
    #[must_use]
    pub fn rows(&self) -> u32 {
        self.rows
    }

    /// Rows that there is still room for; 0 while closed.
    #[inline]
    #[must_use]
    pub fn rows_free(&self) -> u32 {
        self.rows_limit.saturating_sub(self.rows)
    }

    /// Value bytes that a variable column still has room for.
    #[inline]
    #[must_use]
    pub fn bytes_free(&self, column: usize) -> u32 {
        let column = &self.columns[column];
        column.values_capacity - column.used
    }

    /// Appends a value to a fixed-width column. `i64` also fits every timestamp.
    ///
    /// Panics if the column is of another type, or has no row left (ask [`BatchWriter::rows_free`] once a row).
    #[inline]
    pub fn push<T: Fixed>(&mut self, column: usize, value: T) {
        let limit = self.rows_limit;
        let state = &mut self.columns[column];
        if state.physical as u8 != T::PHYSICAL as u8 || state.next >= limit {
            state.refuse(T::PHYSICAL);
        }
        // SAFETY: the column is of T's width and holds `rows_max` values, of which `next` is one; it is aligned to 64.
        unsafe { state.values.cast::<T>().add(state.next as usize).write(value) };
        state.next += 1;
    }

    /// Appends to a bool column.
    #[inline]
    pub fn push_bool(&mut self, column: usize, value: bool) {
        self.push(column, value);
    }

    /// Appends to a timestamp column, in the column's unit.
    #[inline]
    pub fn push_timestamp(&mut self, column: usize, value: i64) {
        self.push(column, value);
    }

    /// Appends to a utf8 or binary column. For utf8 the caller vouches that `value` is valid UTF-8.
    ///
    /// # Errors
    /// [`Full`] when the column's bytes do not suffice; nothing was written. A value longer than the capacity's
    /// `variable_bytes_max` fits no batch: the caller must not try for ever.
    #[inline]
    pub fn push_bytes(&mut self, column: usize, value: &[u8]) -> Result<(), Full> {
        let limit = self.rows_limit;
        let state = &mut self.columns[column];
        if state.physical as u8 != Physical::Bytes as u8 || state.next >= limit {
            state.refuse(Physical::Bytes);
        }
        if value.len() > (state.values_capacity - state.used) as usize {
            return Err(Full);
        }
        // SAFETY: the bytes fit (checked above), as does offset `next + 1` of `rows_max + 1`. The region is the
        // writer's alone, so `value` does not overlap it.
        unsafe {
            copy_short(value, state.values.add(state.used as usize));
            state.used += value.len() as u32;
            state.offsets.add(state.next as usize + 1).write((state.used >> state.item_shift) as i32);
        }
        state.next += 1;
        Ok(())
    }

    /// Appends text to a utf8 column.
    ///
    /// # Errors
    /// [`Full`], as for [`BatchWriter::push_bytes`].
    #[inline]
    pub fn push_str(&mut self, column: usize, value: &str) -> Result<(), Full> {
        self.push_bytes(column, value.as_bytes())
    }

    /// Appends a list: its items' little-endian bytes, a whole number of them.
    ///
    /// # Errors
    /// [`Full`], as for [`BatchWriter::push_bytes`].
    #[inline]
    pub fn push_list(&mut self, column: usize, items: &[u8]) -> Result<(), Full> {
        let shift = self.columns[column].item_shift;
        assert!(items.len() & ((1 << shift) - 1) == 0, "a list is a whole number of items");
        self.push_bytes(column, items)
    }

    /// Appends a missing value to a nullable column.
    pub fn push_null(&mut self, column: usize) {
        self.push_empty(column);
        let row = self.columns[column].next as usize - 1;
        self.set_null(column, row);
    }

    /// Appends what nobody will look at: zero, or nothing. It is no missing value, so the column need not be nullable.
    pub fn push_empty(&mut self, column: usize) {
        let limit = self.rows_limit;
        let state = &mut self.columns[column];
        assert!(state.next < limit, "row {} is beyond the batch's capacity, or it is closed", state.next);
        let row = state.next as usize;
        // SAFETY: the row is within the capacity (asserted), hence so are its value and its offset.
        unsafe {
            match state.physical {
                Physical::Bytes => state.offsets.add(row + 1).write((state.used >> state.item_shift) as i32),
                _ => {
                    let width = 1 << state.item_shift;
                    state.values.add(row * width).write_bytes(0, width);
                }
            }
        }
        state.next += 1;
    }

    /// Marks a value that was already written (`row` counts from the batch's first) as missing. For columns filled
    /// through [`BatchWriter::fixed_tail`]; the value's bytes stay and should be 0.
    pub fn set_null(&mut self, column: usize, row: usize) {
        let rows_max = self.rows_limit;
        let state = &mut self.columns[column];
        assert!(state.nullable, "column {column} is not nullable");
        assert!(rows_max != 0 && row < state.next as usize, "row {row} is not written");
        // SAFETY: the bitmap has a bit for each of the `rows_max` rows.
        unsafe {
            if state.null_count == 0 {
                state.validity.write_bytes(0xFF, (rows_max as usize).div_ceil(8));
            }
            let byte = state.validity.add(row / 8);
            let bit = 1 << (row % 8);
            state.null_count += u32::from(byte.read() & bit != 0);
            byte.write(byte.read() & !bit);
        }
    }

    /// Ends a row: every column has its value. (That none was forgotten is checked when the batch is closed or seen.)
    #[inline]
    pub fn finish_row(&mut self) {
        self.rows += 1;
    }

    /// Ends a row like [`BatchWriter::finish_row`], with a tag if rows carry them.
    #[inline]
    pub fn finish_tagged_row(&mut self, tag: u64) {
        self.tag_rows(std::iter::once(tag));
        self.finish_row();
    }

    /// Sets the tags of the rows behind the last finished one, which are about to be finished.
    #[inline]
    pub fn tag_rows(&mut self, tags: impl ExactSizeIterator<Item = u64>) {
        if self.carries_tags {
            assert!(tags.len() <= self.rows_free() as usize, "{} tags, {} rows are free", tags.len(), self.rows_free());
            self.tags.resize(self.rows as usize, 0);
            self.tags.extend(tags);
        }
    }

    /// Takes back what was pushed since the last finished row.
    pub fn discard_row(&mut self) {
        for column in &mut self.columns {
            column.truncate(self.rows);
        }
        self.tags.truncate(self.rows as usize);
    }

    /// Room for `n` more rows of a fixed-width column, to be filled by the caller and then finished with
    /// [`BatchWriter::finish_rows`]; until then it may be asked for again. It shows whatever lay there before.
    /// A bool column is seen as `u8`, and the caller writes 0 or 1.
    ///
    /// Panics if the column is of another type or `n` exceeds [`BatchWriter::rows_free`].
    pub fn fixed_tail<T: Plain>(&mut self, column: usize, n: usize) -> &mut [T] {
        assert!(n <= self.rows_free() as usize, "{n} rows do not fit: {} are free", self.rows_free());
        let state = &mut self.columns[column];
        if !is_seen_as::<T>(state.physical) {
            state.refuse(T::PHYSICAL);
        }
        state.truncate(self.rows + n as u32);
        state.next = self.rows + n as u32;
        // SAFETY: rows `rows..rows + n` are within the capacity (asserted); the buffer is aligned to 64, it is
        // initialised memory (mapped or zeroed), T takes every bit pattern, and the region is exclusively ours.
        unsafe { std::slice::from_raw_parts_mut(state.values.cast::<T>().add(self.rows as usize), n) }
    }

    /// Ends `n` rows that every column has been filled for; what a column has beyond them is taken back.
    pub fn finish_rows(&mut self, n: u32) {
        assert!(n <= self.rows_free(), "{n} rows do not fit: {} are free", self.rows_free());
        let rows = self.rows + n;
        for (index, column) in self.columns.iter_mut().enumerate() {
            assert!(column.next >= rows, "column {index} has {} values, not {rows}", column.next);
            column.truncate(rows);
        }
        self.rows = rows;
    }

    /// The values of a fixed-width column in the finished rows from `from` on, to be changed.
    ///
    /// Panics if the column is of another type.
    pub fn finished_rows<T: Plain>(&mut self, column: usize, from: u32) -> &mut [T] {
        let (from, count) = (from.min(self.rows) as usize, self.rows.saturating_sub(from) as usize);
        let state = &mut self.columns[column];
        if !is_seen_as::<T>(state.physical) {
            state.refuse(T::PHYSICAL);
        }
        if count == 0 {
            return &mut [];
        }
        // SAFETY: rows `from..rows` were finished, so they lie within the open region, which is exclusively ours and
        // initialised; the buffer is aligned to 64 and T takes every bit pattern.
        unsafe { std::slice::from_raw_parts_mut(state.values.cast::<T>().add(from), count) }
    }

    /// Ends the batch: patches row count, null counts and lengths, after which the region is a FlatBuffer of
    /// [`BatchWriter::rows`] rows. An unfinished row is discarded.
    pub fn close(&mut self) -> Closed {
        assert!(self.is_open(), "the batch is closed already");
        self.discard_row();
        self.patch();
        self.rows_limit = 0;
        Closed { rows: self.rows, bytes: self.template.bytes() as u32 }
    }

    /// Writes what `close` promises, and leaves the batch open.
    pub(crate) fn patch(&mut self) {
        let rows = self.rows as usize;
        for (column, layout) in self.columns.iter_mut().zip(self.template.columns()) {
            assert!(column.next == self.rows, "a column has {} values, not {rows}", column.next);
            let values_bytes = column.values_bytes(self.rows);
            // SAFETY: each place lies within the region, which is open and hence exclusively ours.
            unsafe {
                let length_of = |buffer: usize| self.memory.add(buffer - 4).cast::<u32>();
                length_of(layout.values_offset).write(values_bytes.to_le());
                self.memory.add(layout.null_count_offset).cast::<u32>().write(column.null_count.to_le());
                if let Some(offsets) = layout.offsets_offset {
                    length_of(offsets).write((self.rows + 1).to_le());
                }
                if let Some(validity) = layout.validity_offset {
                    length_of(validity).write((rows.div_ceil(8) as u32).to_le());
                    if column.null_count == 0 {
                        column.validity.write_bytes(0xFF, rows.div_ceil(8));
                    }
                    if !rows.is_multiple_of(8) {
                        let last = column.validity.add(rows / 8);
                        last.write(last.read() & ((1 << (rows % 8)) - 1));
                    }
                }
            }
        }
        // SAFETY: as above.
        unsafe { self.memory.add(ROWS).cast::<u32>().write(self.rows.to_le()) };
    }

    /// The parts of the finished rows, for views composed of several regions; replaces what `parts` held. After `close`
    /// they are those of the batch that was closed, as long as its region stays.
    pub fn parts(&self, parts: &mut Vec<ColumnParts>) {
        parts.clear();
        parts.extend((0..self.columns.len()).map(|index| self.column_parts(index)));
    }

    /// The finished rows of the open batch.
    #[must_use]
    pub fn view(&self) -> BatchView<'_> {
        assert!(self.is_open() || self.owned.is_some(), "the batch is closed: its region may be another's");
        BatchView::of_writer(self)
    }

    #[inline]
    pub(crate) fn column_parts(&self, index: usize) -> ColumnParts {
        let column = &self.columns[index];
        assert!(column.next >= self.rows, "column {index} has {} values, not {}", column.next, self.rows);
        let null_count = column.null_count - column.nulls_from(self.rows);
        ColumnParts {
            data_type: self.template.columns()[index].data_type,
            rows: self.rows,
            values: column.values,
            values_bytes: column.values_bytes(self.rows),
            offsets: column.offsets,
            validity: if null_count == 0 { std::ptr::null() } else { column.validity },
            null_count,
        }
    }
}

impl Column {
    fn new(layout: &ColumnLayout) -> Column {
        Column {
            values: std::ptr::null_mut(),
            next: 0,
            used: 0,
            physical: layout.physical,
            item_shift: layout.data_type.item_width().trailing_zeros() as u8,
            nullable: layout.nullable,
            null_count: 0,
            values_capacity: layout.values_capacity as u32,
            offsets: std::ptr::null_mut(),
            validity: std::ptr::null_mut(),
        }
    }

    /// Bytes of the values of the first `rows` rows, which are written.
    #[inline]
    pub(crate) fn values_bytes(&self, rows: u32) -> u32 {
        match self.physical {
            Physical::Bytes if rows == self.next => self.used,
            // SAFETY: offset `rows` was written with row `rows - 1`, or by `open`; the writer is or was open, since
            // `next` > `rows`.
            Physical::Bytes => unsafe { (self.offsets.add(rows as usize).read() as u32) << self.item_shift },
            _ => rows << self.item_shift,
        }
    }

    /// Missing values among those written from `row` on.
    #[inline]
    fn nulls_from(&self, row: u32) -> u32 {
        if self.null_count == 0 {
            return 0;
        }
        let is_null = |row: &u32| {
            // SAFETY: the bitmap has a bit for every written row, and is in use since there is a missing value.
            let byte = unsafe { self.validity.add(*row as usize / 8).read() };
            byte & (1 << (row % 8)) == 0
        };
        (row..self.next).filter(is_null).count() as u32
    }

    /// Takes back what lies beyond the first `rows` values.
    #[inline]
    fn truncate(&mut self, rows: u32) {
        if self.next <= rows {
            return;
        }
        let nulls = self.nulls_from(rows);
        if nulls > 0 {
            self.null_count -= nulls;
            for row in rows as usize..self.next as usize {
                // SAFETY: the bitmap has a bit for every written row.
                unsafe {
                    let byte = self.validity.add(row / 8);
                    byte.write(byte.read() | 1 << (row % 8));
                }
            }
        }
        if self.physical == Physical::Bytes {
            self.used = self.values_bytes(rows);
        }
        self.next = rows;
    }

    #[cold]
    #[inline(never)]
    fn refuse(&self, pushed: Physical) -> ! {
        assert!(self.physical == pushed, "a {pushed:?} value was pushed into a {:?} column", self.physical);
        panic!("row {} is beyond the batch's capacity, or the batch is closed", self.next);
    }
}

/// Copies a slice that is mostly short (keys, names) without the call to `memcpy`, which costs more than the copy.
///
/// # Safety
/// `target` must be valid for writes of `source.len()` bytes and not overlap `source`.
#[inline]
pub(crate) unsafe fn copy_short(source: &[u8], target: *mut u8) {
    let bytes = source.len();
    let from = source.as_ptr();
    // SAFETY: each branch reads and writes within the first `bytes` bytes only: two words that overlap where needed.
    unsafe {
        match bytes {
            0 => {}
            1..=3 => {
                target.write(from.read());
                target.add(bytes / 2).write(from.add(bytes / 2).read());
                target.add(bytes - 1).write(from.add(bytes - 1).read());
            }
            4..=7 => {
                let last = from.add(bytes - 4).cast::<u32>().read_unaligned();
                target.cast::<u32>().write_unaligned(from.cast::<u32>().read_unaligned());
                target.add(bytes - 4).cast::<u32>().write_unaligned(last);
            }
            8..=16 => {
                let last = from.add(bytes - 8).cast::<u64>().read_unaligned();
                target.cast::<u64>().write_unaligned(from.cast::<u64>().read_unaligned());
                target.add(bytes - 8).cast::<u64>().write_unaligned(last);
            }
            17..=32 => {
                let last = from.add(bytes - 16).cast::<u128>().read_unaligned();
                target.cast::<u128>().write_unaligned(from.cast::<u128>().read_unaligned());
                target.add(bytes - 16).cast::<u128>().write_unaligned(last);
            }
            _ => target.copy_from_nonoverlapping(from, bytes),
        }
    }
}
