//! Lines that are too long: what is known of one that has begun.

use super::{Progress, Records, Stop, Within};

/// Where a decoder of lines stands in one that is too long and already buried.
#[derive(Debug, Clone)]
pub(super) struct LongLine {
    pub record_bytes_max: usize,
    is_within: bool,
}

impl LongLine {
    pub fn new(record_bytes_max: usize) -> LongLine {
        LongLine { record_bytes_max, is_within: false }
    }

    pub fn within(&self) -> Option<Within> {
        self.is_within.then_some(Within::Line)
    }

    /// The next bytes are the rest of such a line, or not.
    pub fn go_on_within(&mut self, within: Option<Within>) {
        self.is_within = within.is_some();
    }

    /// Where the next line begins; `None`: it is not among these bytes.
    pub fn pass(&mut self, bytes: &[u8]) -> Option<usize> {
        if !self.is_within {
            return Some(0);
        }
        let length = Within::Line.pass(bytes);
        self.is_within = length.is_none();
        length
    }

    /// What becomes of the line at `at`, whose end is not there.
    pub fn unfinished(&mut self, bytes: &[u8], at: usize, records: &mut Records<'_, '_>) -> Progress {
        let mut progress = Progress { consumed: at, stop: Stop::NeedMore };
        if is_line_too_long(&bytes[at..], self.record_bytes_max) {
            if let Err(stop) = records.admit() {
                progress.stop = stop;
                return progress;
            }
            records.too_long(at, &bytes[at..], self.record_bytes_max);
            self.is_within = true;
            progress.consumed = bytes.len();
        }
        progress
    }
}

/// Whether a line that begins with these bytes (or is them, without its line feed) is given up. White space counts, so
/// that this is known before the line's end is; but a carriage return at the end may belong to that.
pub(super) fn is_line_too_long(line: &[u8], max: usize) -> bool {
    line.strip_suffix(b"\r").unwrap_or(line).len() > max
}
