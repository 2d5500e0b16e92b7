//! The body of a request as lines, each a record, made in place.
//!
//! Only the outline of an array is looked at: where its elements begin and end. What an element is, the decoder of lines
//! says, as strictly as anywhere; an element that is no JSON makes itself a dead letter and not its request wrong. Line
//! breaks become blanks where they are white space; in a string JSON has none, and the body is refused.

use std::fmt;

use memchr::{memchr_iter, memchr3};

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Why a body is no JSON array and no object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotJson {
    what: &'static str,
    /// offset in the body, decompressed
    at: usize,
}

impl fmt::Display for NotJson {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not a JSON array or object: {} at byte {}", self.what, self.at)
    }
}

/// Makes lines whole: the last one gets its end. How many records there are, empty lines left out.
pub fn lines(body: &mut Vec<u8>) -> u64 {
    blank_mark(body);
    if body.last().is_some_and(|last| *last != b'\n') {
        body.push(b'\n');
    }
    let mut start = 0;
    let is_record = |end| {
        let line = &body[start..end];
        start = end + 1;
        !line.iter().all(|byte| matches!(byte, b' ' | b'\t' | b'\r'))
    };
    memchr_iter(b'\n', body).map(is_record).filter(|is_record| *is_record).count() as u64
}

/// Makes a line of each element of an array, or of the one object that `body` is. How many there are.
pub fn elements(body: &mut Vec<u8>) -> Result<u64, NotJson> {
    blank_mark(body);
    let wrong = |what, at| Err(NotJson { what, at });
    let is_space = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\r' | b'\n');
    let Some(start) = body.iter().position(|byte| !is_space(byte)) else { return wrong("nothing", body.len()) };
    let is_array = match body[start] {
        b'[' => true,
        b'{' => false,
        _ => return wrong("another value", start),
    };
    // The objects of an array lie one level deeper than a single one does.
    let separator_depth = if is_array { 1 } else { usize::MAX };
    let (mut at, mut depth, mut is_filled, mut count) = (start + 1, 1_usize, !is_array, 0);
    loop {
        match body.get(at) {
            None => return wrong("it breaks off", at),
            Some(b'"') => {
                is_filled = true;
                at = string_end(body, at)?;
            }
            Some(b'[' | b'{') => {
                is_filled = true;
                depth += 1;
            }
            Some(close @ (b']' | b'}')) => {
                depth -= 1;
                if depth == 0 && (*close == b']') != is_array {
                    return wrong("a bracket of the other kind", at);
                }
                if depth == 0 {
                    break;
                }
            }
            Some(b',') if depth == separator_depth => {
                if !is_filled {
                    return wrong("an element is missing", at);
                }
                (is_filled, count) = (false, count + 1);
                body[at] = b'\n';
            }
            Some(b'\n') => body[at] = b' ',
            Some(b' ' | b'\t' | b'\r') => {}
            Some(_) => is_filled = true,
        }
        at += 1;
    }
    if let Some(more) = body[at + 1..].iter().position(|byte| !is_space(byte)) {
        return wrong("something follows it (lines are sent as application/x-ndjson)", at + 1 + more);
    }
    if !is_filled && count > 0 {
        return wrong("an element is missing", at);
    }
    if is_array {
        (body[start], body[at]) = (b' ', b'\n');
        body.truncate(at + 1);
    } else {
        body.truncate(at + 1);
        body.push(b'\n');
    }
    Ok(count + u64::from(is_filled))
}

/// Where the string ends that begins at `start`.
fn string_end(body: &[u8], start: usize) -> Result<usize, NotJson> {
    let mut at = start + 1;
    loop {
        let Some(next) = memchr3(b'"', b'\\', b'\n', &body[at..]) else {
            return Err(NotJson { what: "it breaks off within a string", at: body.len() });
        };
        at += next;
        match body[at] {
            b'"' => return Ok(at),
            // What is escaped ends nothing; a line break is no such thing.
            b'\\' if body.get(at + 1).is_some_and(|escaped| *escaped != b'\n') => at += 2,
            b'\\' => at += 1,
            _ => return Err(NotJson { what: "a line break in a string", at }),
        }
        at = at.min(body.len());
    }
}

/// A byte-order mark may come first, as in files.
fn blank_mark(body: &mut [u8]) {
    if body.starts_with(BYTE_ORDER_MARK) {
        body[..BYTE_ORDER_MARK.len()].fill(b' ');
    }
}
