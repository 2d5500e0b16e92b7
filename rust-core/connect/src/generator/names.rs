//! Device and symbol names, all of one width.

use super::Shape;

/// How keys are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Style {
    prefix: &'static str,
    first_digit: u8,
    base: u64,
    digits: usize,
}

impl Style {
    /// `sensor-000123` or `AAET`: as many digits as the largest key needs, but at least six or four.
    pub fn new(shape: Shape, keys: u64) -> Style {
        let (prefix, first_digit, base, digits_min) = match shape {
            Shape::Sensors => ("sensor-", b'0', 10, 6),
            Shape::Ticks => ("", b'A', 26, 4),
        };
        let mut digits = 1;
        let mut rest = (keys - 1) / base;
        while rest > 0 {
            digits += 1;
            rest /= base;
        }
        Style { prefix, first_digit, base, digits: digits_min.max(digits) }
    }

    /// Bytes of every name.
    pub fn width(&self) -> usize {
        self.prefix.len() + self.digits
    }

    /// Writes the name of key `index` to `out`, which is [`width`](Style::width) long.
    pub fn write(&self, index: u64, out: &mut [u8]) {
        let (prefix, digits) = out.split_at_mut(self.prefix.len());
        prefix.copy_from_slice(self.prefix.as_bytes());
        let mut rest = index;
        for digit in digits.iter_mut().rev() {
            *digit = self.first_digit + (rest % self.base) as u8;
            rest /= self.base;
        }
    }

    /// The name of key `index`.
    pub fn name(&self, index: u64) -> String {
        let mut bytes = vec![0; self.width()];
        self.write(index, &mut bytes);
        String::from_utf8(bytes).expect("letters, digits and a hyphen")
    }
}

/// A table of more bytes than this is not made; names are then formatted when they are needed.
const TABLE_BYTES_MAX: u64 = 64 << 20;

/// The names of one partition's keys, in the order in which they report.
#[derive(Debug)]
pub(super) struct Names {
    style: Style,
    table: Option<Box<[u8]>>,
    scratch: Vec<u8>,
}

impl Names {
    pub fn new(style: Style, keys: u64, index_of: impl Fn(u64) -> u64) -> Names {
        let width = style.width();
        let table = (keys.saturating_mul(width as u64) <= TABLE_BYTES_MAX).then(|| {
            let mut table = vec![0; keys as usize * width].into_boxed_slice();
            for (key, name) in table.chunks_exact_mut(width).enumerate() {
                style.write(index_of(key as u64), name);
            }
            table
        });
        Names { style, table, scratch: Vec::new() }
    }

    pub fn width(&self) -> usize {
        self.style.width()
    }

    /// The names of the keys `first..first + count`, one after the other.
    pub fn run(&mut self, first: u64, count: usize, index_of: impl Fn(u64) -> u64) -> &[u8] {
        let width = self.style.width();
        if let Some(table) = &self.table {
            return &table[first as usize * width..][..count * width];
        }
        self.scratch.resize(count * width, 0);
        for (name, key) in self.scratch.chunks_exact_mut(width).zip(first..) {
            self.style.write(index_of(key), name);
        }
        &self.scratch
    }
}
