//! Keys: how the key columns of a row become one word or one string of bytes, their hash, and the way back.
//!
//! Columns of fixed width that together take at most 8 bytes are packed into a word. A single utf8 or binary column is
//! used where it lies. Everything else is copied together: a nullable column gives a byte (1: there, 0: missing), then
//! come the value's bytes, before which a variable column that is not the last gives its length as a `u32`.

use std::hash::{BuildHasher, Hasher};
use std::ops::Range;

use foldhash::quality::FixedState;
use ringmill_wire::{BatchView, BatchWriter, DataType, Full, Schema};

/// Part of the format of stored state: another seed sends keys to other shards.
const SEED: u64 = 0x5269_6e67_6d69_6c6c;

#[derive(Clone, Copy, Debug)]
struct KeyColumn {
    index: usize,
    data_type: DataType,
    nullable: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// Packed into a word.
    Word,
    /// The one column's bytes where they lie.
    Direct,
    /// Copied together.
    Copied,
}

/// The key columns of a schema.
#[derive(Clone, Debug)]
pub struct KeyColumns {
    columns: Vec<KeyColumn>,
    form: Form,
}

impl KeyColumns {
    pub fn new(indices: &[usize], schema: &Schema) -> Self {
        let column = |&index: &usize| {
            let field = schema.field(index);
            KeyColumn { index, data_type: field.data_type, nullable: field.nullable }
        };
        let columns: Vec<KeyColumn> = indices.iter().map(column).collect();
        let width = |column: &KeyColumn| Some(column.data_type.width()? + usize::from(column.nullable));
        let total = columns.iter().map(width).try_fold(0, |total, width| Some(total + width?));
        let form = match (total, columns.as_slice()) {
            (Some(0..=8), _) => Form::Word,
            (None, [column]) if !column.nullable => Form::Direct,
            _ => Form::Copied,
        };
        Self { columns, form }
    }

    /// Keys are words, not bytes.
    pub fn are_words(&self) -> bool {
        self.form == Form::Word
    }

    /// Bytes of a key that is a word, as it is stored.
    pub fn word_bytes(&self) -> usize {
        let widths = self.columns.iter().map(|key| key.data_type.width().unwrap_or(0) + usize::from(key.nullable));
        if self.are_words() { widths.sum() } else { 0 }
    }

    /// Puts one stored key into the scratch room; what is wrong with it if it is none.
    pub fn load(&self, key: &[u8], scratch: &mut KeyScratch) -> Result<(), &'static str> {
        if self.are_words() {
            if key.len() != self.word_bytes() {
                return Err("its key has the wrong length");
            }
            let mut padded = [0; 8];
            padded[..key.len()].copy_from_slice(key);
            scratch.words.clear();
            scratch.words.push(u64::from_le_bytes(padded));
            return Ok(());
        }
        self.check(key)?;
        scratch.data.clear();
        scratch.data.extend_from_slice(key);
        scratch.offsets.clear();
        scratch.offsets.extend([0, i32::try_from(key.len()).map_err(|_| "its key is too long")?]);
        Ok(())
    }

    /// Whether bytes are a key of these columns.
    fn check(&self, mut key: &[u8]) -> Result<(), &'static str> {
        let short = "its key is too short";
        for (at, column) in self.columns.iter().enumerate() {
            let is_last = at + 1 == self.columns.len();
            let mut there = true;
            if column.nullable {
                let (flag, rest) = key.split_first().ok_or(short)?;
                (there, key) = (*flag != 0, rest);
            }
            let length = match column.data_type.width() {
                Some(width) => {
                    if there {
                        width
                    } else {
                        0
                    }
                }
                None if is_last => key.len(),
                None => {
                    let (length, rest) = key.split_first_chunk::<4>().ok_or(short)?;
                    key = rest;
                    u32::from_le_bytes(*length) as usize
                }
            };
            let (value, rest) = key.split_at_checked(length).ok_or(short)?;
            key = rest;
            if !there && !value.is_empty() {
                return Err("its key has a value that is missing");
            }
            if column.data_type == DataType::Utf8 && std::str::from_utf8(value).is_err() {
                return Err("its key is no UTF-8");
            }
        }
        if key.is_empty() { Ok(()) } else { Err("its key is too long") }
    }

    /// Reads and hashes the keys of some rows.
    pub fn read<'a>(&self, view: &BatchView<'a>, rows: Range<usize>, scratch: &'a mut KeyScratch) -> Keys<'a> {
        let count = rows.len();
        match self.form {
            Form::Word => {
                scratch.words.clear();
                scratch.words.resize(count, 0);
                self.pack(view, rows, &mut scratch.words);
            }
            Form::Direct => {
                let column = view.column(self.columns[0].index);
                let offsets = &column.offsets()[rows.start..=rows.end];
                let bytes = ByteKeys { offsets, data: column.value_bytes() };
                bytes.hash(&mut scratch.hashes);
                return Keys { hashes: &scratch.hashes, data: KeyData::Bytes(bytes) };
            }
            Form::Copied => self.copy(view, rows, scratch),
        }
        self.of_scratch(scratch)
    }

    fn pack(&self, view: &BatchView<'_>, rows: Range<usize>, words: &mut [u64]) {
        let mut shift = 0;
        for key in &self.columns {
            let column = view.column(key.index);
            if key.nullable {
                for (word, row) in words.iter_mut().zip(rows.clone()) {
                    *word |= u64::from(column.is_valid(row)) << shift;
                }
                shift += 8;
            }
            let width = key.data_type.width().unwrap_or(8);
            let bytes = &column.value_bytes()[rows.start * width..rows.end * width];
            // Where a value is missing its bytes are 0 by the wire format, yet a batch view from elsewhere may differ.
            let valid = |at: usize| !key.nullable || column.is_valid(rows.start + at);
            for (at, (word, value)) in words.iter_mut().zip(bytes.chunks_exact(width)).enumerate() {
                let mut padded = [0; 8];
                padded[..width].copy_from_slice(value);
                *word |= if valid(at) { u64::from_le_bytes(padded) << shift } else { 0 };
            }
            shift += 8 * width as u32;
        }
    }

    fn copy(&self, view: &BatchView<'_>, rows: Range<usize>, scratch: &mut KeyScratch) {
        scratch.data.clear();
        scratch.offsets.clear();
        scratch.offsets.push(0);
        for row in rows {
            for (at, key) in self.columns.iter().enumerate() {
                let column = view.column(key.index);
                let valid = column.is_valid(row);
                if key.nullable {
                    scratch.data.push(u8::from(valid));
                }
                match key.data_type.width() {
                    Some(_) if !valid => {}
                    Some(width) => {
                        scratch.data.extend_from_slice(&column.value_bytes()[row * width..(row + 1) * width])
                    }
                    None => {
                        let value = if valid { column.bytes(row) } else { &[] };
                        if at + 1 < self.columns.len() {
                            scratch.data.extend_from_slice(&(value.len() as u32).to_le_bytes());
                        }
                        scratch.data.extend_from_slice(value);
                    }
                }
            }
            scratch.offsets.push(scratch.data.len() as i32);
        }
    }

    /// The keys that were gathered into the scratch room, hashed.
    pub fn of_scratch<'a>(&self, scratch: &'a mut KeyScratch) -> Keys<'a> {
        if self.are_words() {
            hash_words(&scratch.words, &mut scratch.hashes);
            return Keys { hashes: &scratch.hashes, data: KeyData::Words(&scratch.words) };
        }
        let bytes = ByteKeys { offsets: &scratch.offsets, data: &scratch.data };
        bytes.hash(&mut scratch.hashes);
        Keys { hashes: &scratch.hashes, data: KeyData::Bytes(bytes) }
    }

    /// Writes the first `count` gathered keys to the leading columns of `out`; gives how many fit.
    pub fn write(&self, scratch: &mut KeyScratch, count: usize, out: &mut BatchWriter) -> usize {
        match self.form {
            Form::Word => {
                let mut shift = 0;
                for (at, key) in self.columns.iter().enumerate() {
                    write_word_column(at, key, &scratch.words[..count], &mut shift, out);
                }
                count
            }
            Form::Direct => {
                let keys = ByteKeys { offsets: &scratch.offsets, data: &scratch.data };
                (0..count).take_while(|&row| out.push_bytes(0, keys.get(row)).is_ok()).count()
            }
            Form::Copied => {
                let keys = ByteKeys { offsets: &scratch.offsets, data: &scratch.data };
                (0..count).take_while(|&row| self.write_copied(keys.get(row), out).is_ok()).count()
            }
        }
    }

    fn write_copied(&self, mut key: &[u8], out: &mut BatchWriter) -> Result<(), Full> {
        for (at, column) in self.columns.iter().enumerate() {
            if column.nullable && take(&mut key, 1)[0] == 0 {
                if column.data_type.is_variable() && at + 1 < self.columns.len() {
                    take(&mut key, 4);
                }
                out.push_null(at);
                continue;
            }
            match column.data_type.width() {
                Some(width) => push_fixed(at, column.data_type, take(&mut key, width), out),
                None if at + 1 < self.columns.len() => {
                    let length = take(&mut key, 4);
                    let length = u32::from_le_bytes([length[0], length[1], length[2], length[3]]);
                    out.push_bytes(at, take(&mut key, length as usize))?;
                }
                None => out.push_bytes(at, std::mem::take(&mut key))?,
            }
        }
        Ok(())
    }
}

fn take<'a>(from: &mut &'a [u8], count: usize) -> &'a [u8] {
    let (taken, rest) = from.split_at(count);
    *from = rest;
    taken
}

/// Appends a value of fixed width that lies there as bytes.
pub fn push_fixed(column: usize, data_type: DataType, bytes: &[u8], out: &mut BatchWriter) {
    let mut padded = [0; 8];
    padded[..bytes.len()].copy_from_slice(bytes);
    let word = u64::from_le_bytes(padded);
    match data_type {
        DataType::Bool => out.push(column, word != 0),
        DataType::Int8 => out.push(column, word as i8),
        DataType::UInt8 => out.push(column, word as u8),
        DataType::Int16 => out.push(column, word as i16),
        DataType::UInt16 => out.push(column, word as u16),
        DataType::Int32 => out.push(column, word as i32),
        DataType::UInt32 => out.push(column, word as u32),
        DataType::Float32 => out.push(column, f32::from_bits(word as u32)),
        DataType::Float64 => out.push(column, f64::from_bits(word)),
        DataType::UInt64 => out.push(column, word),
        _ => out.push(column, word as i64),
    }
}

fn write_word_column(at: usize, key: &KeyColumn, words: &[u64], shift: &mut u32, out: &mut BatchWriter) {
    let null_shift = *shift;
    *shift += if key.nullable { 8 } else { 0 };
    let value_shift = *shift;
    let width = key.data_type.width().unwrap_or(8);
    *shift += 8 * width as u32;
    for word in words {
        if key.nullable && (word >> null_shift) & 1 == 0 {
            out.push_null(at);
        } else {
            let bytes = (word >> value_shift).to_le_bytes();
            push_fixed(at, key.data_type, &bytes[..width], out);
        }
    }
}

/// Room for keys, used again for every block of rows.
#[derive(Clone, Debug, Default)]
pub struct KeyScratch {
    pub words: Vec<u64>,
    pub offsets: Vec<i32>,
    pub data: Vec<u8>,
    pub hashes: Vec<u64>,
}

impl KeyScratch {
    /// Bytes of memory taken.
    pub fn bytes(&self) -> u64 {
        ((self.words.capacity() + self.hashes.capacity()) * 8 + self.offsets.capacity() * 4 + self.data.capacity())
            as u64
    }
}

/// The keys of some rows and their hashes.
#[derive(Clone, Copy)]
pub struct Keys<'a> {
    pub hashes: &'a [u64],
    pub data: KeyData<'a>,
}

impl Keys<'_> {
    /// Shows one row's key as it is stored; one that is a word has `word_bytes` bytes.
    pub fn with_bytes<T>(&self, row: usize, word_bytes: usize, show: impl FnOnce(&[u8]) -> T) -> T {
        match self.data {
            KeyData::Words(words) => show(&words[row].to_le_bytes()[..word_bytes]),
            KeyData::Bytes(bytes) => show(bytes.get(row)),
        }
    }
}

/// The keys of some rows.
#[derive(Clone, Copy)]
pub enum KeyData<'a> {
    Words(&'a [u64]),
    Bytes(ByteKeys<'a>),
}

/// Byte keys, Arrow-like.
#[derive(Clone, Copy)]
pub struct ByteKeys<'a> {
    offsets: &'a [i32],
    data: &'a [u8],
}

impl<'a> ByteKeys<'a> {
    #[inline]
    pub fn get(&self, row: usize) -> &'a [u8] {
        &self.data[self.offsets[row] as usize..self.offsets[row + 1] as usize]
    }

    fn hash(&self, hashes: &mut Vec<u64>) {
        let state = FixedState::with_seed(SEED);
        hashes.clear();
        hashes.extend((0..self.offsets.len().saturating_sub(1)).map(|row| {
            let mut hasher = state.build_hasher();
            hasher.write(self.get(row));
            hasher.finish()
        }));
    }
}

fn hash_words(words: &[u64], hashes: &mut Vec<u64>) {
    let state = FixedState::with_seed(SEED);
    hashes.clear();
    hashes.extend(words.iter().map(|word| {
        let mut hasher = state.build_hasher();
        hasher.write_u64(*word);
        hasher.finish()
    }));
}

/// Hashes the keys of rows, the same in every process and run, so that the exchange and the windows agree on them.
#[derive(Clone, Debug)]
pub struct KeyHasher {
    indices: Vec<usize>,
    columns: Option<KeyColumns>,
    scratch: KeyScratch,
}

impl KeyHasher {
    /// Of the key columns with these indices; without any all rows have one hash.
    #[must_use]
    pub fn new(columns: Vec<usize>) -> Self {
        Self { indices: columns, columns: None, scratch: KeyScratch::default() }
    }

    /// Replaces `hashes` by those of `rows`. All views must have the schema of the first.
    pub fn hash(&mut self, view: &BatchView<'_>, rows: Range<usize>, hashes: &mut Vec<u64>) {
        let columns = self.columns.get_or_insert_with(|| KeyColumns::new(&self.indices, view.schema()));
        columns.read(view, rows, &mut self.scratch);
        hashes.clear();
        hashes.extend_from_slice(&self.scratch.hashes);
    }
}
