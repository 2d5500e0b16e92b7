//! Lines of JSON, cut into what goes into one request.
//!
//! The same lines are always cut in the same way.

use std::{
    borrow::Cow,
    io::{self, BufRead},
    ops::Range,
};

use serde::{Deserialize, Serialize};

use super::{HttpBody, HttpSink};

/// How much goes into a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cut {
    /// at most
    pub rows_max: usize,
    /// as lines, at most; a longer row goes alone
    pub bytes_max: usize,
}

impl Cut {
    /// Of an array two bytes are not the rows': its lines are one byte shorter than it is.
    pub fn of(sink: &HttpSink) -> Cut {
        let more = usize::from(sink.body == HttpBody::Array);
        Cut { rows_max: sink.rows_max, bytes_max: sink.bytes_max.saturating_sub(more) }
    }
}

/// The rows of one request.
pub struct Request {
    /// the number of the first one among all, from 0
    pub first: u64,
    bytes: Vec<u8>,
    /// behind each row's line break
    ends: Vec<usize>,
}

impl Request {
    /// How many rows these are.
    pub fn rows(&self) -> usize {
        self.ends.len()
    }

    /// Some of them as the body of a request.
    pub fn body(&self, rows: Range<usize>, form: HttpBody) -> Cow<'_, [u8]> {
        match form {
            HttpBody::Lines => Cow::Borrowed(&self.bytes[self.start(rows.start)..self.start(rows.end)]),
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

    /// One of them, without its line break.
    pub fn row(&self, row: usize) -> &[u8] {
        self.bytes[self.start(row)..self.ends[row]].trim_ascii_end()
    }

    fn start(&self, row: usize) -> usize {
        row.checked_sub(1).map_or(0, |before| self.ends[before])
    }
}

/// Cuts lines into requests.
pub struct Requests<R> {
    lines: R,
    /// one that has been read and did not fit
    line: Vec<u8>,
    /// rows cut so far
    rows: u64,
    cut: Cut,
}

impl<R: BufRead> Requests<R> {
    /// Of so much at most.
    pub fn new(lines: R, cut: Cut) -> Requests<R> {
        Requests { lines, line: Vec::new(), rows: 0, cut }
    }

    /// The next one, until there are no more lines.
    pub fn next(&mut self) -> io::Result<Option<Request>> {
        let mut request = Request { first: self.rows, bytes: Vec::new(), ends: Vec::new() };
        loop {
            if self.line.is_empty() && self.lines.read_until(b'\n', &mut self.line)? == 0 {
                break;
            }
            let bytes = request.bytes.len() + self.line.len();
            if request.rows() == self.cut.rows_max || request.rows() > 0 && bytes > self.cut.bytes_max {
                break;
            }
            request.bytes.append(&mut self.line);
            request.ends.push(bytes);
        }
        self.rows += request.rows() as u64;
        Ok((request.rows() > 0).then_some(request))
    }
}
