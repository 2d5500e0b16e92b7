//! Fills batches, column by column.

use std::sync::Arc;

use ringmill_wire::BatchWriter;

use super::{
    GeneratorSpec,
    cursor::Cursor,
    names::{Names, Style},
    values::{Quantity, Values},
};
use crate::{
    ConnectError, Partition, Poll, PollContext, Position, Share,
    pace::{Admission, Pace},
    places::{Original, Places, Tagger},
};

/// Rows filled at a time: the scratch of one chunk (16 KiB) stays in the first-level cache.
const CHUNK: usize = 1024;

/// One shard's share of a generated stream.
pub(super) struct GeneratorPartition {
    name: String,
    share: Share,
    start_ns: i64,
    values: Values,
    names: Names,
    columns: Vec<Quantity>,
    cursor: Cursor,
    pace: Pace,
    /// makes the tags of its rows, if they carry any
    tagger: Option<Tagger>,
    chunk: Box<Chunk>,
}

/// What the columns of a chunk are computed from.
struct Chunk {
    bits: [u64; CHUNK],
    keys: [u64; CHUNK],
    since_start_ns: [u64; CHUNK],
    /// runs of consecutive keys: first key and length
    runs: Vec<(u64, usize)>,
}

impl GeneratorPartition {
    pub fn new(spec: &GeneratorSpec, shard: u64, cursor: Cursor, columns: Vec<Quantity>) -> GeneratorPartition {
        let share = cursor.keys_here() as f64 / spec.keys as f64;
        let style = Style::new(spec.shape, spec.keys);
        let named = columns.contains(&Quantity::Name);
        let names_here = if named { cursor.keys_here() } else { 0 };
        GeneratorPartition {
            name: format!("generator/{shard}"),
            share: Share { index: shard, of: cursor.shards(), stream: spec.stream() },
            start_ns: spec.start_ns,
            values: Values::new(spec),
            names: Names::new(style, names_here, |key| cursor.key_index(key)),
            columns,
            pace: Pace::new(spec.rate.map(|rate| rate * share)),
            cursor,
            tagger: None,
            chunk: Box::new(Chunk {
                bits: [0; CHUNK],
                keys: [0; CHUNK],
                since_start_ns: [0; CHUNK],
                runs: Vec::with_capacity(CHUNK + 1),
            }),
        }
    }

    fn check_time(&self, rows: u64) -> Result<(), ConnectError> {
        let since_start = self.cursor.since_start_ns_max(rows);
        let last = since_start.and_then(|ns| i64::try_from(ns).ok()?.checked_add(self.start_ns));
        match last {
            Some(_) => Ok(()),
            None => Err(ConnectError::EventTime { row: self.cursor.row }),
        }
    }

    /// Tags the next rows with their indices.
    fn tag(&mut self, out: &mut BatchWriter, count: usize) {
        let Some(tagger) = &mut self.tagger else { return };
        let (mut cursor, name) = (self.cursor.clone(), &self.name);
        let first = cursor.row;
        let tag = tagger.tag(first, cursor.row_max(count as u64), || (name.as_str().into(), Original::None));
        out.tag_rows((0..count).map(|_| {
            let row = cursor.row;
            cursor.advance();
            if tag == 0 { 0 } else { tag + (row - first) }
        }));
    }

    fn fill(&mut self, out: &mut BatchWriter, count: usize) {
        if out.carries_tags() {
            self.tag(out, count);
        }
        self.chunk.walk(&mut self.cursor, &self.values, count);
        for column in 0..self.columns.len() {
            self.fill_column(out, column, count);
        }
        out.finish_rows(count as u32);
    }

    fn fill_column(&mut self, out: &mut BatchWriter, column: usize, count: usize) {
        let (values, chunk) = (&self.values, &*self.chunk);
        let bits = &chunk.bits[..count];
        let keys = &chunk.keys[..count];
        let times = &chunk.since_start_ns[..count];
        match self.columns[column] {
            Quantity::Name => {
                let cursor = &self.cursor;
                let width = self.names.width();
                for &(first, length) in &chunk.runs {
                    let names = self.names.run(first, length, |key| cursor.key_index(key));
                    for name in names.chunks_exact(width) {
                        let pushed = out.push_bytes(column, name);
                        debug_assert!(pushed.is_ok(), "room was asked for");
                    }
                }
            }
            Quantity::Milliseconds => {
                // Milliseconds before the start's own are rounded down, also before 1970.
                let (start_ms, rest_ns) =
                    (self.start_ns.div_euclid(1_000_000), self.start_ns.rem_euclid(1_000_000) as u64);
                let tail = out.fixed_tail::<i64>(column, count);
                for (to, ns) in tail.iter_mut().zip(times) {
                    *to = start_ms + ((ns + rest_ns) / 1_000_000) as i64;
                }
            }
            Quantity::Nanoseconds => {
                let tail = out.fixed_tail::<i64>(column, count);
                for (to, ns) in tail.iter_mut().zip(times) {
                    *to = self.start_ns + *ns as i64;
                }
            }
            Quantity::Temperature => zip(out, column, bits, keys, |b, k| values.temperature(b, k)),
            Quantity::Humidity => zip(out, column, bits, keys, |b, k| values.humidity(b, k)),
            Quantity::AirQuality => zip(out, column, bits, keys, |b, k| values.air_quality(b, k)),
            Quantity::Price => zip(out, column, bits, keys, |b, k| values.price(b, k)),
            Quantity::Size => {
                let tail = out.fixed_tail::<u32>(column, count);
                for (to, bits) in tail.iter_mut().zip(bits) {
                    *to = values.size(*bits);
                }
            }
        }
    }
}

#[inline(always)]
fn zip(out: &mut BatchWriter, column: usize, bits: &[u64], keys: &[u64], value: impl Fn(u64, u64) -> f64) {
    let tail = out.fixed_tail::<f64>(column, bits.len());
    for ((to, bits), key) in tail.iter_mut().zip(bits).zip(keys) {
        *to = value(*bits, *key);
    }
}

impl Chunk {
    /// Takes the next `count` rows from `cursor`.
    fn walk(&mut self, cursor: &mut Cursor, values: &Values, count: usize) {
        self.runs.clear();
        let mut run = (cursor.key, 0);
        let rows = self.bits[..count].iter_mut();
        let slots = rows.zip(&mut self.keys[..count]).zip(&mut self.since_start_ns[..count]);
        for ((bits, key), since_start_ns) in slots {
            *bits = cursor.row;
            *key = cursor.key;
            *since_start_ns = cursor.since_start_ns;
            run.1 += 1;
            cursor.advance();
            if cursor.key == 0 {
                self.runs.push(run);
                run = (0, 0);
            }
        }
        if run.1 > 0 {
            self.runs.push(run);
        }
        for bits in &mut self.bits[..count] {
            *bits = values.bits(*bits);
        }
        for key in &mut self.keys[..count] {
            *key = values.key_bits(cursor.key_index(*key));
        }
    }
}

impl Partition for GeneratorPartition {
    fn name(&self) -> &str {
        &self.name
    }

    fn poll(&mut self, out: &mut BatchWriter, context: &mut PollContext<'_>) -> Result<Poll, ConnectError> {
        if self.cursor.left() == 0 {
            return Ok(Poll::End);
        }
        let wanted = self.cursor.left().min(u64::from(context.rows_max));
        let mut rows = match self.pace.admit(context.now_ns, wanted) {
            Admission::Rows(due) => due,
            Admission::Until(time_ns) => return Ok(Poll::Until(time_ns)),
        };
        let mut room = u64::from(out.rows_free());
        for (column, what) in self.columns.iter().enumerate() {
            if *what == Quantity::Name {
                room = room.min(u64::from(out.bytes_free(column)) / self.names.width() as u64);
            }
        }
        rows = rows.min(room);
        if rows == 0 {
            return Ok(Poll::Full);
        }
        self.check_time(rows)?;
        let mut left = rows as usize;
        while left > 0 {
            let count = left.min(CHUNK);
            self.fill(out, count);
            left -= count;
        }
        self.pace.consumed(rows);
        Ok(Poll::Rows)
    }

    fn position(&self) -> Position {
        let (offset, rows, share) = (self.cursor.row, self.cursor.done(), Some(self.share.clone()));
        Position { offset, rows, share, ..Position::default() }
    }

    fn note_places(&mut self, places: &Arc<Places>, source: &str) {
        self.tagger = Some(Tagger::new(places, source));
    }

    fn seek(&mut self, position: &Position) -> Result<(), ConnectError> {
        self.cursor.go_to(position.rows);
        self.pace.restart();
        Ok(())
    }
}
