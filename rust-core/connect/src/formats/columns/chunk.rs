//! Rows of a file that are decoded and wait for room in a batch.

use std::{collections::BTreeMap, ops::Range};

use arrow_array::RecordBatch;
use ringmill_wire::{BatchWriter, DataType};

use super::{
    Columns,
    letter::object,
    values::{Loaded, Misfit, Values, load},
};
use crate::formats::{
    Records, Stop,
    column::{Refusal, Row},
};

/// Some rows of a file, column by column.
pub(crate) struct Chunk {
    batch: RecordBatch,
    columns: Vec<Loaded>,
    /// rows that do not fit, each with its column
    misfits: BTreeMap<usize, (usize, Misfit)>,
    /// the first row that was not given out
    next: usize,
}

/// Does this with the Rust type of a column of fixed width.
macro_rules! with_type {
    ($data_type:expr, $type:ident => $body:expr) => {
        match $data_type {
            DataType::Int8 => {
                type $type = i8;
                $body
            }
            DataType::Int16 => {
                type $type = i16;
                $body
            }
            DataType::Int32 => {
                type $type = i32;
                $body
            }
            DataType::Int64 | DataType::Timestamp(_) => {
                type $type = i64;
                $body
            }
            DataType::UInt8 | DataType::Bool => {
                type $type = u8;
                $body
            }
            DataType::UInt16 => {
                type $type = u16;
                $body
            }
            DataType::UInt32 => {
                type $type = u32;
                $body
            }
            DataType::UInt64 => {
                type $type = u64;
                $body
            }
            DataType::Float32 => {
                type $type = f32;
                $body
            }
            DataType::Float64 => {
                type $type = f64;
                $body
            }
            DataType::Utf8 | DataType::Binary | DataType::List(_) => {}
        }
    };
}

impl Chunk {
    /// `None`: the batch has not the columns that were bound.
    pub fn load(columns: &Columns, batch: RecordBatch) -> Option<Chunk> {
        let mut misfits = BTreeMap::new();
        let mut loaded = Vec::with_capacity(columns.bound.len());
        for (index, bound) in columns.bound.iter().enumerate() {
            let own = match bound.find(&batch) {
                Some(found) => load(&found.array, found.nulls, bound.column.data_type)?,
                None if bound.keys.is_empty() => Loaded { values: Values::Absent, nulls: None, misfits: Vec::new() },
                None => return None,
            };
            for (row, misfit) in &own.misfits {
                misfits.entry(*row).or_insert((index, *misfit));
            }
            if !bound.column.nullable {
                let all = matches!(own.values, Values::Absent);
                let is_null = |row: &usize| all || own.nulls.as_ref().is_some_and(|nulls| nulls.is_null(*row));
                let has_nulls = all || own.nulls.as_ref().is_some_and(|nulls| nulls.null_count() > 0);
                for row in (0..batch.num_rows()).filter(|row| has_nulls && is_null(row)) {
                    misfits.entry(row).or_insert((index, Misfit::Null));
                }
            }
            loaded.push(own);
        }
        Some(Chunk { batch, columns: loaded, misfits, next: 0 })
    }

    /// The first row that was not given out; the number of the rows when all were.
    pub fn next(&self) -> usize {
        self.next
    }

    /// Gives out rows while there are any and there is room. The offset and the tag of `records` are those of the chunk's
    /// first row.
    pub fn give(&mut self, columns: &Columns, records: &mut Records<'_, '_>) -> Result<(), Stop> {
        while self.next < self.batch.num_rows() {
            records.admit()?;
            let wanted = records.left().min(self.batch.num_rows() - self.next);
            let (until, misfit) = self.first_misfit(self.next..self.next + wanted, &records.row);
            let fitting = self.count_that_fits(records.row.out, self.next..until);
            if fitting > 0 {
                self.copy(records, self.next..self.next + fitting);
                self.next += fitting;
                continue;
            }
            match misfit {
                Some((column, misfit)) if self.next == until => self.bury(columns, column, misfit, records)?,
                // Not one row fits.
                _ => {
                    let record = object(columns, &self.batch, self.next);
                    records.end(Err(Refusal::Full), self.next, record.as_bytes())?;
                    self.next += 1;
                }
            }
        }
        Ok(())
    }

    /// The first of these rows that does not fit, or their end.
    fn first_misfit(&self, rows: Range<usize>, row: &Row<'_>) -> (usize, Option<(usize, Misfit)>) {
        let known = self.misfits.range(rows.clone()).next().map(|(row, misfit)| (*row, *misfit));
        let mut until = known.map_or(rows.end, |(row, _)| row);
        let mut found = known.map(|(_, misfit)| misfit);
        if let Some(column) = self.columns.get(row.event_column) {
            let times = match &column.values {
                Values::Fixed(buffer) => buffer.typed_data::<i64>(),
                _ => &[],
            };
            let misfit = |at: &usize| {
                let is_null = column.nulls.as_ref().is_some_and(|nulls| nulls.is_null(*at));
                is_null || times.get(*at).is_none_or(|time| *time > row.event_max)
            };
            if let Some(at) = (rows.start..until).find(misfit) {
                let is_null = times.is_empty() || column.nulls.as_ref().is_some_and(|nulls| nulls.is_null(at));
                until = at;
                found = Some((row.event_column, if is_null { Misfit::Null } else { Misfit::Beyond }));
            }
        }
        (until, found)
    }

    /// How many of these rows, from the first on, there is room for.
    fn count_that_fits(&self, out: &BatchWriter, rows: Range<usize>) -> usize {
        let mut count = rows.len();
        for (index, column) in self.columns.iter().enumerate() {
            let mut room = out.bytes_free(index) as usize;
            let is_null = |row: usize| column.nulls.as_ref().is_some_and(|nulls| nulls.is_null(row));
            let bytes = |row: usize| match &column.values {
                _ if is_null(row) => 0,
                Values::Bytes(bytes) => bytes.value(row).len(),
                Values::Lists(_, ranges) => ranges[row].len() * out_width(out, index),
                Values::Absent | Values::Fixed(_) => 0,
            };
            if matches!(column.values, Values::Bytes(_) | Values::Lists(..)) {
                let fits = |row: &usize| {
                    let left = room.checked_sub(bytes(*row));
                    room = left.unwrap_or(room);
                    left.is_some()
                };
                count = (rows.start..rows.start + count).take_while(fits).count();
            }
        }
        count
    }

    /// Copies rows that fit.
    fn copy(&self, records: &mut Records<'_, '_>, rows: Range<usize>) {
        let (count, tag) = (rows.len(), records.tag);
        let out = &mut *records.row.out;
        let first = out.rows() as usize;
        for (index, column) in self.columns.iter().enumerate() {
            let nulls = column.nulls.as_ref().map(|nulls| nulls.slice(rows.start, count));
            let nulls = nulls.filter(|nulls| nulls.null_count() > 0);
            let is_null = |row: usize| nulls.as_ref().is_some_and(|nulls| nulls.is_null(row));
            match &column.values {
                Values::Absent => (0..count).for_each(|_| out.push_null(index)),
                Values::Fixed(buffer) => {
                    let data_type = out.template().schema().field(index).data_type;
                    with_type!(data_type, T => {
                        let values = &buffer.typed_data::<T>()[rows.clone()];
                        let tail = out.fixed_tail::<T>(index, count);
                        tail.copy_from_slice(values);
                        if nulls.is_some() {
                            tail.iter_mut().enumerate().filter(|(row, _)| is_null(*row)).for_each(|(_, value)| *value = 0 as T);
                        }
                    });
                    for row in (0..count).filter(|row| nulls.is_some() && is_null(*row)) {
                        out.set_null(index, first + row);
                    }
                }
                Values::Bytes(bytes) => {
                    for (at, row) in rows.clone().enumerate() {
                        if is_null(at) {
                            out.push_null(index);
                        } else {
                            out.push_bytes(index, bytes.value(row)).expect("the caller counted the bytes");
                        }
                    }
                }
                Values::Lists(items, ranges) => {
                    let width = out_width(out, index);
                    for (at, range) in ranges[rows.clone()].iter().enumerate() {
                        if is_null(at) {
                            out.push_null(index);
                        } else {
                            let items = &items[range.start * width..range.end * width];
                            out.push_list(index, items).expect("the caller counted the bytes");
                        }
                    }
                }
            }
        }
        out.tag_rows(rows.map(|row| if tag == 0 { 0 } else { tag + row as u64 }));
        out.finish_rows(count as u32);
        records.consumed += count as u32;
    }

    /// Makes the next row a dead letter.
    #[cold]
    fn bury(
        &mut self,
        columns: &Columns,
        column: usize,
        misfit: Misfit,
        records: &mut Records<'_, '_>,
    ) -> Result<(), Stop> {
        let bound = &columns.bound[column];
        let got = columns.shown(column, &self.batch, self.next);
        let refused = match misfit {
            Misfit::Null => match bound.column.push_null(&mut records.row, "null") {
                Err(refused) => refused,
                Ok(()) => Refusal::Misfit,
            },
            Misfit::NullItem => bound.column.misfit(&mut records.row, got.as_bytes(), " (with a null in it)"),
            Misfit::NoText => bound.column.misfit(&mut records.row, got.as_bytes(), " (not valid UTF-8)"),
            Misfit::Beyond if self.is_too_far(column, &records.row) => {
                bound.column.misfit(&mut records.row, got.as_bytes(), ", which lies too far in the future")
            }
            Misfit::Beyond => bound.column.out_of_range(&mut records.row, got.as_bytes()),
        };
        let record = object(columns, &self.batch, self.next);
        records.end(Err(refused), self.next, record.as_bytes())?;
        self.next += 1;
        Ok(())
    }

    /// Whether the next row's time fits its column, but not the clock.
    fn is_too_far(&self, column: usize, row: &Row<'_>) -> bool {
        column == row.event_column && self.misfits.get(&self.next).is_none_or(|(known, _)| *known != column)
    }
}

fn out_width(out: &BatchWriter, column: usize) -> usize {
    out.template().schema().field(column).data_type.item_width()
}
