//! Writes results: a block of cells becomes rows of the output batch, column after column.

use ringmill_wire::{BatchWriter, DataType, Plain, TimeUnit};

use super::accumulate::{get_bytes, get_list, number, wide};
use super::arena::Arena;
use super::cells::{Action, CellLayout, Kind, Output, Reading};
use super::key::{KeyColumns, KeyScratch};
use super::spec::Statistic;
use super::statistics::Summary;

/// The output columns and the room to fill them.
#[derive(Debug)]
pub struct RowWriter {
    keys: KeyColumns,
    /// Columns before `window_start`.
    key_count: usize,
    unit: TimeUnit,
    statistics: Vec<Statistic>,
    /// The keys of the block; the caller gathers them.
    pub scratch: KeyScratch,
    list: Vec<u8>,
    /// Results that were clamped to the range of their type.
    pub clamped: u64,
}

/// A block of results; one entry of each slice for each row.
pub struct Results<'a> {
    pub words: &'a [u64],
    pub arena: &'a Arena,
    /// Where the cells begin among the words.
    pub cells: &'a [usize],
    /// Start and end of the windows, nanoseconds.
    pub bounds: &'a [(i64, i64)],
}

impl RowWriter {
    pub fn new(keys: KeyColumns, key_count: usize, unit: TimeUnit, statistics: Vec<Statistic>) -> Self {
        Self { keys, key_count, unit, statistics, scratch: KeyScratch::default(), list: Vec::new(), clamped: 0 }
    }

    /// Bytes of memory taken.
    pub fn bytes(&self) -> u64 {
        self.scratch.bytes() + self.list.capacity() as u64
    }

    /// Writes everything but the statistics and finishes no row; gives the rows that fit.
    pub fn write(&mut self, layout: &CellLayout, results: &Results<'_>, out: &mut BatchWriter) -> usize {
        let mut fit = results.cells.len().min(out.rows_free() as usize);
        if fit == 0 {
            return 0;
        }
        fit = self.keys.write(&mut self.scratch, fit, out);
        let first = self.key_count + 2;
        for (at, output) in layout.outputs.iter().enumerate().filter(|(_, output)| output.field.data_type.is_variable())
        {
            fit = self.write_variable(first + at, output, results, fit, out);
        }
        if fit == 0 {
            out.discard_row();
            return 0;
        }
        let step = self.unit.nanoseconds();
        let starts = out.fixed_tail::<i64>(self.key_count, fit).iter_mut().zip(results.bounds);
        starts.for_each(|(start, bounds)| *start = bounds.0.div_euclid(step));
        let ends = out.fixed_tail::<i64>(self.key_count + 1, fit).iter_mut().zip(results.bounds);
        ends.for_each(|(end, bounds)| *end = bounds.1.div_euclid(step));
        for (at, output) in
            layout.outputs.iter().enumerate().filter(|(_, output)| !output.field.data_type.is_variable())
        {
            self.write_fixed(first + at, output, results, fit, out);
        }
        fit
    }

    /// Writes the statistics of the rows that [`RowWriter::write`] has begun, and finishes them.
    pub fn finish(&self, layout: &CellLayout, summaries: &[Summary], rows: usize, out: &mut BatchWriter) {
        let first = self.key_count + 2 + layout.outputs.len();
        for (at, statistic) in self.statistics.iter().enumerate() {
            let column = first + at;
            match statistic {
                Statistic::Count => fill(out.fixed_tail::<u64>(column, rows), summaries, |summary| summary.count),
                Statistic::Mean => fill(out.fixed_tail::<f64>(column, rows), summaries, |summary| summary.mean),
                Statistic::Std => fill(out.fixed_tail::<f64>(column, rows), summaries, |summary| summary.std),
            }
        }
        out.finish_rows(rows as u32);
    }

    fn write_variable(
        &mut self,
        column: usize,
        output: &Output,
        results: &Results<'_>,
        fit: usize,
        out: &mut BatchWriter,
    ) -> usize {
        let Results { words, arena, .. } = results;
        let push = |&cell: &&usize| match output.reading {
            _ if output.present.is_some_and(|word| words[cell + word] == 0) => {
                out.push_null(column);
                true
            }
            Reading::List(word) => {
                self.list.clear();
                get_list(&words[cell + word..cell + word + 2], arena, &mut self.list);
                out.push_list(column, &self.list).is_ok()
            }
            Reading::Bytes(word) => out.push_bytes(column, get_bytes(words[cell + word + 1], arena)).is_ok(),
            _ => false,
        };
        results.cells[..fit].iter().take_while(push).count()
    }

    fn write_fixed(
        &mut self,
        column: usize,
        output: &Output,
        results: &Results<'_>,
        rows: usize,
        out: &mut BatchWriter,
    ) {
        let words = results.words;
        let cells = &results.cells[..rows];
        match output.reading {
            Reading::Count(word) => fill(out.fixed_tail::<u64>(column, rows), cells, |cell| words[cell + word]),
            Reading::Sum(Action::SumFloat, _, word) => {
                fill(out.fixed_tail::<f64>(column, rows), cells, |cell| f64::from_bits(words[cell + word]));
            }
            Reading::Sum(action, kind, word) => {
                let clamped = &mut self.clamped;
                let value = |cell: &usize| clamp(sum(words, action, kind, cell + word), kind, clamped);
                if kind == Kind::Signed {
                    fill_with(out.fixed_tail::<i64>(column, rows), cells, value, |word| word as i64);
                } else {
                    fill_with(out.fixed_tail::<u64>(column, rows), cells, value, |word| word);
                }
            }
            Reading::Mean(..) | Reading::Variance(_) | Reading::Stddev(_) => {
                fill(out.fixed_tail::<f64>(column, rows), cells, |cell| as_number(output, words, *cell));
            }
            Reading::Value(_, word) => write_values(column, output.field.data_type, words, cells, word, out),
            Reading::Bytes(_) | Reading::List(_) => {}
        }
        if let Some(present) = output.present {
            let first = out.rows() as usize;
            for (row, cell) in cells.iter().enumerate() {
                if words[cell + present] == 0 {
                    write_null(column, output.field.data_type, row, rows, out);
                    out.set_null(column, first + row);
                }
            }
        }
    }
}

#[inline(always)]
fn fill<T: Copy, S>(to: &mut [T], from: &[S], mut value: impl FnMut(&S) -> T) {
    to.iter_mut().zip(from).for_each(|(to, from)| *to = value(from));
}

#[inline(always)]
fn fill_with<T: Copy>(to: &mut [T], cells: &[usize], mut value: impl FnMut(&usize) -> u64, cast: impl Fn(u64) -> T) {
    to.iter_mut().zip(cells).for_each(|(to, cell)| *to = cast(value(cell)));
}

/// Zeroes the value under a null, as the wire format has it.
fn write_null(column: usize, data_type: DataType, row: usize, rows: usize, out: &mut BatchWriter) {
    fn zero<T: Plain>(column: usize, row: usize, rows: usize, out: &mut BatchWriter) {
        out.fixed_tail::<T>(column, rows)[row] = T::zeroed();
    }
    match data_type {
        DataType::Bool | DataType::UInt8 => zero::<u8>(column, row, rows, out),
        DataType::Int8 => zero::<i8>(column, row, rows, out),
        DataType::Int16 => zero::<i16>(column, row, rows, out),
        DataType::UInt16 => zero::<u16>(column, row, rows, out),
        DataType::Int32 => zero::<i32>(column, row, rows, out),
        DataType::UInt32 => zero::<u32>(column, row, rows, out),
        DataType::UInt64 => zero::<u64>(column, row, rows, out),
        DataType::Float32 => zero::<f32>(column, row, rows, out),
        DataType::Float64 => zero::<f64>(column, row, rows, out),
        DataType::Int64 | DataType::Timestamp(_) => zero::<i64>(column, row, rows, out),
        DataType::Utf8 | DataType::Binary | DataType::List(_) => {}
    }
}

fn write_values(
    column: usize,
    data_type: DataType,
    words: &[u64],
    cells: &[usize],
    word: usize,
    out: &mut BatchWriter,
) {
    let rows = cells.len();
    let value = |cell: &usize| words[cell + word];
    match data_type {
        DataType::Bool | DataType::UInt8 => fill(out.fixed_tail::<u8>(column, rows), cells, |cell| value(cell) as u8),
        DataType::Int8 => fill(out.fixed_tail::<i8>(column, rows), cells, |cell| value(cell) as i8),
        DataType::Int16 => fill(out.fixed_tail::<i16>(column, rows), cells, |cell| value(cell) as i16),
        DataType::UInt16 => fill(out.fixed_tail::<u16>(column, rows), cells, |cell| value(cell) as u16),
        DataType::Int32 => fill(out.fixed_tail::<i32>(column, rows), cells, |cell| value(cell) as i32),
        DataType::UInt32 => fill(out.fixed_tail::<u32>(column, rows), cells, |cell| value(cell) as u32),
        DataType::UInt64 => fill(out.fixed_tail::<u64>(column, rows), cells, value),
        DataType::Float32 => {
            fill(out.fixed_tail::<f32>(column, rows), cells, |cell| f64::from_bits(value(cell)) as f32)
        }
        DataType::Float64 => fill(out.fixed_tail::<f64>(column, rows), cells, |cell| f64::from_bits(value(cell))),
        DataType::Int64 | DataType::Timestamp(_) => {
            fill(out.fixed_tail::<i64>(column, rows), cells, |cell| value(cell) as i64)
        }
        DataType::Utf8 | DataType::Binary | DataType::List(_) => {}
    }
}

fn sum(words: &[u64], action: Action, kind: Kind, at: usize) -> i128 {
    match (action, kind) {
        (Action::SumWide, _) => wide(words, at),
        (_, Kind::Signed) => i128::from(words[at] as i64),
        _ => i128::from(words[at]),
    }
}

/// The nearest number that the result's type has.
fn clamp(sum: i128, kind: Kind, clamped: &mut u64) -> u64 {
    let (least, most) = if kind == Kind::Signed { (i64::MIN.into(), i64::MAX.into()) } else { (0, u64::MAX.into()) };
    let result = sum.clamp(least, most);
    *clamped += u64::from(result != sum);
    result as u64
}

/// A result as a float; NaN if there is none.
pub fn as_number(output: &Output, words: &[u64], cell: usize) -> f64 {
    if output.present.is_some_and(|word| words[cell + word] == 0) {
        return f64::NAN;
    }
    match output.reading {
        Reading::Count(word) => words[cell + word] as f64,
        Reading::Sum(Action::SumFloat, _, word) => f64::from_bits(words[cell + word]),
        Reading::Sum(action, kind, word) => number(kind, clamp(sum(words, action, kind, cell + word), kind, &mut 0)),
        Reading::Mean(Action::SumFloat, _, word, count) => {
            f64::from_bits(words[cell + word]) / words[cell + count] as f64
        }
        Reading::Mean(action, kind, word, count) => {
            sum(words, action, kind, cell + word) as f64 / words[cell + count] as f64
        }
        Reading::Value(kind, word) => number(kind, words[cell + word]),
        Reading::Variance(word) => variance(words, cell + word),
        Reading::Stddev(word) => variance(words, cell + word).sqrt(),
        Reading::Bytes(_) | Reading::List(_) => f64::NAN,
    }
}

fn variance(words: &[u64], at: usize) -> f64 {
    if words[at] < 2 { f64::NAN } else { f64::from_bits(words[at + 2]) / (words[at] - 1) as f64 }
}
