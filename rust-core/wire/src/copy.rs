//! Copying rows from a view into the batch that is being written, column by column.
//!
//! Column i of the writer takes column i of the view, or the one that is named, which must be of the same type; further
//! columns of the view are left out. A missing value can only be copied into a nullable column. All of this is checked, and panics.
#![allow(unsafe_code)]

use std::ops::Range;

use crate::error::Full;
use crate::fixed::Physical;
use crate::view::{BatchView, ColumnView};
use crate::writer::{BatchWriter, Column, copy_short};

impl BatchWriter {
    /// Appends rows of a view, as many as there is room for; returns how many.
    pub fn copy_rows(&mut self, view: &BatchView<'_>, rows: Range<usize>) -> usize {
        self.copy_rows_tagged(view, rows, 0)
    }

    /// Like [`BatchWriter::copy_rows`], with `tag` added (wrapping) to each row's tag.
    pub fn copy_rows_tagged(&mut self, view: &BatchView<'_>, rows: Range<usize>, tag: u64) -> usize {
        assert!(rows.start <= rows.end && rows.end <= view.rows(), "rows {rows:?} of {}", view.rows());
        let mut count = rows.len().min(self.rows_free() as usize);
        for index in 0..self.columns.len() {
            count = self.columns[index].count_that_fits(&view.column(index), rows.start, count);
        }
        for index in 0..self.columns.len() {
            self.copy_column(index, &view.column(index), rows.start..rows.start + count);
        }
        self.tag_rows((rows.start..rows.start + count).map(|row| view.tag(row).wrapping_add(tag)));
        self.rows += count as u32;
        count
    }

    /// Appends the rows of a view that `selection` lists, in its order, as many as there is room for; returns how many.
    pub fn copy_selected(&mut self, view: &BatchView<'_>, selection: &[u32]) -> usize {
        self.copy_selected_from(view, |index| index, selection)
    }

    /// The same where column i takes column `columns[i]` of the view. In rows that are not selected, that may have missing
    /// values although column i is not nullable.
    pub fn copy_selected_columns(&mut self, view: &BatchView<'_>, columns: &[usize], selection: &[u32]) -> usize {
        assert_eq!(columns.len(), self.columns.len(), "each column needs one of the view");
        self.copy_selected_from(view, |index| columns[index], selection)
    }

    fn copy_selected_from(
        &mut self,
        view: &BatchView<'_>,
        source: impl Fn(usize) -> usize,
        selection: &[u32],
    ) -> usize {
        let mut count = selection.len().min(self.rows_free() as usize);
        for (index, state) in self.columns.iter().enumerate() {
            if state.physical == Physical::Bytes {
                let (column, mut room) = (view.column(source(index)), (state.values_capacity - state.used) as usize);
                let fits = |row: &&u32| {
                    let bytes = column.bytes(**row as usize).len();
                    let fits = bytes <= room;
                    room = room.saturating_sub(bytes);
                    fits
                };
                count = selection[..count].iter().take_while(fits).count();
            }
        }
        for index in 0..self.columns.len() {
            self.copy_column_selected(index, &view.column(source(index)), &selection[..count]);
        }
        self.tag_rows(selection[..count].iter().map(|row| view.tag(*row as usize)));
        self.rows += count as u32;
        count
    }

    /// Appends one row of a view. For many rows, [`BatchWriter::copy_selected`] is ten times as fast.
    ///
    /// # Errors
    /// [`Full`] when there is no room for the row; nothing of it was written.
    pub fn copy_row(&mut self, view: &BatchView<'_>, row: usize) -> Result<(), Full> {
        if self.rows_free() == 0 {
            return Err(Full);
        }
        for index in 0..self.columns.len() {
            if let Err(full) = self.copy_value(index, &view.column(index), row) {
                self.discard_row();
                return Err(full);
            }
        }
        self.finish_tagged_row(view.tag(row));
        Ok(())
    }

    /// Appends one value of a column of the same type, from any batch, to the unfinished row.
    ///
    /// # Errors
    /// [`Full`], as for [`BatchWriter::push_bytes`].
    #[inline]
    pub fn copy_value(&mut self, column: usize, from: &ColumnView<'_>, row: usize) -> Result<(), Full> {
        assert_eq!(self.template.columns()[column].data_type, from.data_type(), "column {column}");
        if !from.is_valid(row) {
            self.push_null(column);
            return Ok(());
        }
        if self.columns[column].physical == Physical::Bytes {
            return self.push_bytes(column, from.bytes(row));
        }
        let limit = self.rows_limit;
        let state = &mut self.columns[column];
        assert!(row < from.rows() && state.next < limit, "row {row} of {}, to row {}", from.rows(), state.next);
        let width = 1 << state.item_shift;
        // SAFETY: equal types have equal widths; `row` is a row of the source and `next` one of the target (asserted).
        unsafe {
            let value = std::slice::from_raw_parts(from.parts().values.add(row * width), width);
            copy_short(value, state.values.add(state.next as usize * width));
        }
        state.next += 1;
        Ok(())
    }

    /// Appends the values of rows that fit.
    fn copy_column(&mut self, index: usize, from: &ColumnView<'_>, rows: Range<usize>) {
        self.check_source(index, from);
        let state = &mut self.columns[index];
        let first = state.next as usize;
        let shift = state.item_shift;
        if state.physical == Physical::Bytes {
            let offsets = &from.offsets()[rows.start..=rows.end];
            let (start, end) = ((offsets[0] as usize) << shift, (offsets[rows.len()] as usize) << shift);
            let bytes = &from.value_bytes()[start..end];
            assert!(bytes.len() <= (state.values_capacity - state.used) as usize, "checked by the caller");
            let shifted_by = (state.used >> shift) as i32 - offsets[0];
            // SAFETY: the bytes fit (asserted), and so do the rows (the caller counted them).
            unsafe {
                let target = state.values.add(state.used as usize);
                target.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
                let target = state.offsets.add(first + 1);
                for (row, offset) in offsets[1..].iter().enumerate() {
                    target.add(row).write(offset + shifted_by);
                }
            }
            state.used += bytes.len() as u32;
        } else {
            let width = 1 << shift;
            let bytes = &from.value_bytes()[rows.start * width..rows.end * width];
            // SAFETY: as many rows as the caller found room for.
            unsafe { state.values.add(first * width).copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        }
        state.next += rows.len() as u32;
        self.copy_nulls(index, from, first, rows);
    }

    fn copy_column_selected(&mut self, index: usize, from: &ColumnView<'_>, selection: &[u32]) {
        self.check_source(index, from);
        let first = self.columns[index].next as usize;
        if self.columns[index].physical == Physical::Bytes {
            for &row in selection {
                self.push_bytes(index, from.bytes(row as usize)).expect("the caller counted the bytes");
            }
        } else {
            match self.columns[index].item_shift {
                0 => self.columns[index].select::<u8>(from, selection),
                1 => self.columns[index].select::<u16>(from, selection),
                2 => self.columns[index].select::<u32>(from, selection),
                _ => self.columns[index].select::<u64>(from, selection),
            }
        }
        self.copy_nulls(index, from, first, selection.iter().map(|&row| row as usize));
    }

    fn copy_nulls(&mut self, index: usize, from: &ColumnView<'_>, first: usize, rows: impl Iterator<Item = usize>) {
        if from.null_count() > 0 {
            for (target, row) in rows.enumerate() {
                if !from.is_valid(row) {
                    self.set_null(index, first + target);
                }
            }
        }
    }

    fn check_source(&self, index: usize, from: &ColumnView<'_>) {
        let state = &self.columns[index];
        assert_eq!(self.template.columns()[index].data_type, from.data_type(), "column {index}");
        assert!(state.next == self.rows, "column {index} has {} values, not {}", state.next, self.rows);
    }
}

impl Column {
    /// How many of `count` rows, from `first` on, the column has bytes for.
    fn count_that_fits(&self, from: &ColumnView<'_>, first: usize, count: usize) -> usize {
        if self.physical != Physical::Bytes {
            return count;
        }
        let room = ((self.values_capacity - self.used) >> self.item_shift) as i64;
        let offsets = &from.offsets()[first..=first + count];
        let start = i64::from(offsets[0]);
        offsets[1..].partition_point(|&end| i64::from(end) - start <= room)
    }

    /// Appends fixed-width values of T's size; the caller has made sure that they fit.
    fn select<T: bytemuck::Pod>(&mut self, from: &ColumnView<'_>, selection: &[u32]) {
        if selection.is_empty() {
            return;
        }
        let values: &[T] = bytemuck::cast_slice(&from.value_bytes()[..from.rows() * size_of::<T>()]);
        // SAFETY: the column holds values of T's size and has room for the selection's.
        let target = unsafe { self.values.cast::<T>().add(self.next as usize) };
        for (index, &row) in selection.iter().enumerate() {
            // SAFETY: as above; the index into the source is checked.
            unsafe { target.add(index).write(values[row as usize]) };
        }
        self.next += selection.len() as u32;
    }
}
