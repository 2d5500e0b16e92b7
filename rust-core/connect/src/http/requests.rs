//! Staged rows, cut into what goes into one request.
//!
//! The same rows are always cut in the same way, and a row is never cut, whatever line ends are in it.

use std::{
    borrow::Cow,
    io::{self, BufRead},
    ops::Range,
};

use serde::{Deserialize, Serialize};

use super::{Form, HttpBody, HttpSink};
use crate::{Format, letters::Sent, message::read_message};

/// A request's rows have no more beside them, as letters of them would, but for a single row.
const BESIDE_BYTES_MAX: usize = 4 << 20;

/// How much goes into a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cut {
    /// at most
    pub rows_max: usize,
    /// as lines without what stands around them, at most; a longer row goes alone
    pub bytes_max: usize,
}

impl Cut {
    /// Of an array two bytes are not the rows': its lines are one byte shorter than it is. Nor is a header theirs.
    pub fn of(sink: &HttpSink, form: &Form) -> Cut {
        let more = form.header.len() + usize::from(form.body == HttpBody::Array);
        Cut { rows_max: sink.rows_max, bytes_max: sink.bytes_max.saturating_sub(more) }
    }
}

/// The rows of one request.
pub struct Request<'a> {
    /// the number of the first one among all, from 0
    pub first: u64,
    /// what they look like
    pub form: &'a Form,
    bytes: Vec<u8>,
    /// behind each row's line end
    ends: Vec<usize>,
    /// what stands beside each of them, if anything does of any
    beside: Vec<Option<Vec<u8>>>,
}

impl Request<'_> {
    /// How many rows these are.
    pub fn rows(&self) -> usize {
        self.ends.len()
    }

    /// Some of them as the body of a request.
    pub fn body(&self, rows: Range<usize>) -> Cow<'_, [u8]> {
        match self.form.body {
            HttpBody::Lines => {
                let lines = &self.bytes[self.start(rows.start)..self.start(rows.end)];
                let header = self.form.header.as_bytes();
                if header.is_empty() { Cow::Borrowed(lines) } else { Cow::Owned([header, lines].concat()) }
            }
            HttpBody::Row => Cow::Borrowed(self.row(rows.start)),
            HttpBody::Array => {
                let mut body = vec![b'['];
                for row in rows.clone() {
                    if row > rows.start {
                        body.push(b',');
                    }
                    body.extend_from_slice(self.row(row));
                }
                body.push(b']');
                Cow::Owned(body)
            }
        }
    }

    /// One of them, without its line end.
    pub fn row(&self, row: usize) -> &[u8] {
        &self.bytes[self.start(row)..self.ends[row] - 1]
    }

    /// How that one can be read back.
    pub fn sent(&self, row: usize) -> Sent<'_> {
        match self.form.format {
            Format::Json => Sent::Json,
            Format::Csv => Sent::Csv(&self.form.header),
            Format::Raw => Sent::Raw(self.beside.get(row).and_then(|beside| str::from_utf8(beside.as_deref()?).ok())),
        }
    }

    fn start(&self, row: usize) -> usize {
        row.checked_sub(1).map_or(0, |before| self.ends[before])
    }
}

/// Cuts rows into requests.
pub struct Requests<'a, R> {
    rows: R,
    form: &'a Form,
    cut: Cut,
    /// one that has been read and did not fit, with its line end
    row: Vec<u8>,
    /// what stands beside that one
    beside: Option<Vec<u8>>,
    /// rows cut so far
    count: u64,
}

impl<'a, R: BufRead> Requests<'a, R> {
    /// Of rows in this form, so much at most.
    pub fn new(rows: R, cut: Cut, form: &'a Form) -> Requests<'a, R> {
        Requests { rows, form, cut, row: Vec::new(), beside: None, count: 0 }
    }

    /// The next one, until there are no more rows.
    pub fn next(&mut self) -> io::Result<Option<Request<'a>>> {
        let (bytes, ends, beside) = (Vec::new(), Vec::new(), Vec::new());
        let mut request = Request { first: self.count, form: self.form, bytes, ends, beside };
        let mut beside_bytes = 0;
        while self.read()? {
            let bytes = request.bytes.len() + self.row.len();
            beside_bytes += self.beside.as_ref().map_or(0, Vec::len);
            let is_long = bytes > self.cut.bytes_max || beside_bytes > BESIDE_BYTES_MAX;
            if request.rows() == self.cut.rows_max || request.rows() > 0 && is_long {
                break;
            }
            request.bytes.append(&mut self.row);
            request.ends.push(bytes);
            if self.form.format == Format::Raw {
                request.beside.push(self.beside.take());
            }
        }
        self.count += request.rows() as u64;
        Ok((request.rows() > 0).then_some(request))
    }

    /// Reads a row unless there is one; `false`: there are no more.
    fn read(&mut self) -> io::Result<bool> {
        if !self.row.is_empty() {
            return Ok(true);
        }
        if self.form.format == Format::Json {
            return Ok(self.rows.read_until(b'\n', &mut self.row)? > 0);
        }
        let Some(message) = read_message(&mut self.rows, 0)? else { return Ok(false) };
        (self.row, self.beside) = (message.value, message.key);
        self.row.push(b'\n');
        Ok(true)
    }
}
