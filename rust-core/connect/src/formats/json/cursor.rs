//! Going through a JSON document, token by token.
//!
//! The grammar of RFC 8259 is kept to the letter, also in values that nobody wants, which are passed over without being
//! made. Strings without escapes and well-formed numbers, that is nearly all, are recognized here; whatever else may be
//! there is for sonic-rs to read, or to refuse with a reason.

use std::{borrow::Cow, fmt::Write};

use sonic_rs::{
    Read,
    parser::{Parser, Reference},
    reader::Reader,
};

use super::document::Token;
use crate::formats::{block::Block, column::signed_zero};

/// Objects and arrays may be nested so deep.
const DEPTH_MAX: u32 = 128;
/// What a document that stops in its middle is told.
pub(super) const ENDS: &str = "the record ends too early";

/// What is wrong with a document.
#[derive(Debug)]
pub(super) struct Syntax {
    pub what: Cow<'static, str>,
    pub at: usize,
}

impl Syntax {
    /// Writes it down as the reason for which a record is refused.
    #[cold]
    pub fn tell(&self, reason: &mut String) {
        reason.clear();
        let _ = write!(reason, "not valid JSON at byte {}: {}", self.at, self.what);
    }
}

/// A string that was passed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Text {
    /// without escapes: what stands between its quotes
    Plain,
    /// with escapes: what it says is in the buffer that was given
    Unescaped,
}

/// A place in some bytes.
pub(super) struct Cursor<'de> {
    pub bytes: &'de [u8],
    /// index of the next byte
    pub at: usize,
    /// the bytes as far as they are UTF-8
    text: &'de [u8],
    /// reads what is not plain
    odd: Parser<Read<'de>>,
}

impl<'de> Cursor<'de> {
    /// Checks where the bytes stop being UTF-8.
    pub fn new(bytes: &'de [u8]) -> Cursor<'de> {
        let odd = Parser::new(Read::from(bytes));
        let text = &bytes[..odd.read.next_invalid_utf8().min(bytes.len())];
        Cursor { bytes, at: 0, text, odd }
    }

    /// Whether the bytes before that place are UTF-8.
    #[inline]
    pub fn is_text_until(&self, end: usize) -> bool {
        self.text.len() >= end
    }

    /// The next byte behind white space.
    #[inline(always)]
    pub fn next(&mut self) -> Result<u8, Syntax> {
        match self.bytes.get(self.at) {
            Some(&byte) if byte > b' ' => {
                self.at += 1;
                Ok(byte)
            }
            _ => self.next_behind_space(),
        }
    }

    #[inline(never)]
    fn next_behind_space(&mut self) -> Result<u8, Syntax> {
        while let Some(&byte) = self.bytes.get(self.at) {
            self.at += 1;
            if !matches!(byte, b' ' | b'\t' | b'\r' | b'\n') {
                return Ok(byte);
            }
        }
        self.ends()
    }

    /// The first byte of the value that belongs to a key.
    #[inline(always)]
    pub fn value_after_colon(&mut self) -> Result<u8, Syntax> {
        match self.next()? {
            b':' => self.next(),
            _ => self.wrong("expected `:`"),
        }
    }

    /// The items of an array, behind its `[`: each by its first byte, already consumed. With the first one that says so
    /// (`false`) no more is read.
    #[inline]
    pub fn items(&mut self, mut item: impl FnMut(&mut Self, u8) -> Result<bool, Syntax>) -> Result<(), Syntax> {
        let mut first = self.next()?;
        if first == b']' {
            return Ok(());
        }
        loop {
            if !item(self, first)? {
                return Ok(());
            }
            match self.next()? {
                b',' => first = self.next()?,
                b']' => return Ok(()),
                _ => return self.wrong("expected `,` or `]`"),
            }
        }
    }

    /// The depth within an object or array that begins at `depth`.
    #[inline(always)]
    pub fn deeper(&self, depth: u32) -> Result<u32, Syntax> {
        if depth < DEPTH_MAX { Ok(depth + 1) } else { self.wrong("nested deeper than 128") }
    }

    /// Passes over a string, behind its opening quote.
    #[inline(always)]
    pub fn string(&mut self, unescaped: &mut Vec<u8>) -> Result<Text, Syntax> {
        let end = plain_end(self.text, self.at);
        if self.text.get(end) != Some(&b'"') {
            return self.odd_string(unescaped);
        }
        self.at = end + 1;
        Ok(Text::Plain)
    }

    /// One with escapes, or none at all.
    #[inline(never)]
    fn odd_string(&mut self, unescaped: &mut Vec<u8>) -> Result<Text, Syntax> {
        self.odd.read.set_index(self.at);
        let read = self.odd.parse_str(unescaped);
        self.at = self.odd.offset();
        match read {
            Ok(Reference::Borrowed(_)) => Ok(Text::Plain),
            Ok(Reference::Copied(_)) => Ok(Text::Unescaped),
            Err(error) => Err(self.lexical(&error)),
        }
    }

    /// Passes over `null`, `true` or `false`, behind its first byte.
    #[inline(always)]
    pub fn literal(&mut self, first: u8) -> Result<Token, Syntax> {
        let (rest, token): (&[u8], _) = match first {
            b'n' => (b"ull", Token::Null),
            b't' => (b"rue", Token::Bool(true)),
            _ => (b"alse", Token::Bool(false)),
        };
        match self.bytes.get(self.at..self.at + rest.len()) {
            Some(found) => {
                self.at += rest.len();
                if found == rest { Ok(token) } else { self.wrong("expected null, true or false") }
            }
            None => self.wrong("expected null, true or false"),
        }
    }

    /// A number, behind its first byte. `single`: of a float32 column.
    #[inline(always)]
    pub fn number(&mut self, first: u8, single: bool) -> Result<Token, Syntax> {
        use sonic_number::ParserNumber;
        let negative = first == b'-';
        let mut at = self.at - usize::from(!negative);
        let token = if single {
            let value = sonic_number::parse_float32(self.bytes, &mut at, negative);
            value.map(|value| Token::Single(signed_zero(f64::from(value), negative) as f32))
        } else {
            let number = sonic_number::parse_number(self.bytes, &mut at, negative);
            number.map(|number| match number {
                ParserNumber::Unsigned(value) => Token::Unsigned(value),
                ParserNumber::Signed(value) => Token::Signed(value),
                ParserNumber::Float(value) => Token::Float(signed_zero(value, negative)),
            })
        };
        match token {
            Ok(token) => {
                self.at = at;
                Ok(token)
            }
            // Either it is no number, or one beyond the largest float.
            Err(_) => self.skip_number(first).map(|()| Token::Huge),
        }
    }

    /// Passes over a number, behind its first byte.
    #[inline(always)]
    fn skip_number(&mut self, first: u8) -> Result<(), Syntax> {
        match number_end(self.bytes, self.at - 1) {
            Some(end) => {
                self.at = end;
                Ok(())
            }
            None => self.no_number(first),
        }
    }

    #[cold]
    fn no_number(&mut self, first: u8) -> Result<(), Syntax> {
        self.odd.read.set_index(self.at);
        let read = self.odd.skip_number(first).map(drop);
        self.at = self.odd.offset();
        read.map_err(|error| self.lexical(&error))
    }

    /// Passes over a value, behind its first byte, which stands at `depth`. `unescaped` is overwritten.
    pub fn skip(&mut self, mut first: u8, depth: u32, unescaped: &mut Vec<u8>) -> Result<(), Syntax> {
        // A bit for each object and array that is open in this value, the innermost lowest: whether it is an object.
        let mut objects = 0_u128;
        let mut open = depth;
        loop {
            match first {
                b'"' => self.string(unescaped).map(drop)?,
                b'-' | b'0'..=b'9' => self.skip_number(first)?,
                b'n' | b't' | b'f' => self.literal(first).map(drop)?,
                b'{' => {
                    open = self.deeper(open)?;
                    objects = objects << 1 | 1;
                    first = self.next()?;
                    if first != b'}' {
                        first = self.skip_key(first, unescaped)?;
                        continue;
                    }
                    (open, objects) = (open - 1, objects >> 1);
                }
                b'[' => {
                    open = self.deeper(open)?;
                    objects <<= 1;
                    first = self.next()?;
                    if first != b']' {
                        continue;
                    }
                    (open, objects) = (open - 1, objects >> 1);
                }
                _ => return self.wrong("expected a value"),
            }
            // Behind a value, and behind whatever ends with it.
            loop {
                if open == depth {
                    return Ok(());
                }
                let in_object = objects & 1 == 1;
                match self.next()? {
                    b',' => {
                        first = self.next()?;
                        if in_object {
                            first = self.skip_key(first, unescaped)?;
                        }
                        break;
                    }
                    b'}' if in_object => {}
                    b']' if !in_object => {}
                    _ if in_object => return self.wrong("expected `,` or `}`"),
                    _ => return self.wrong("expected `,` or `]`"),
                }
                (open, objects) = (open - 1, objects >> 1);
            }
        }
    }

    /// Passes over a key, behind its first byte; the first byte of its value.
    #[inline(always)]
    fn skip_key(&mut self, first: u8, unescaped: &mut Vec<u8>) -> Result<u8, Syntax> {
        self.opens_key(first)?;
        self.string(unescaped)?;
        self.value_after_colon()
    }

    /// Whether a key begins with this byte.
    #[inline(always)]
    pub fn opens_key(&self, first: u8) -> Result<(), Syntax> {
        if first == b'"' { Ok(()) } else { self.wrong("expected a key in quotes") }
    }

    /// Refuses the byte that was taken last.
    #[cold]
    pub fn wrong<T>(&self, what: &'static str) -> Result<T, Syntax> {
        Err(Syntax { what: Cow::Borrowed(what), at: self.at.saturating_sub(1) })
    }

    #[cold]
    fn ends<T>(&self) -> Result<T, Syntax> {
        Err(Syntax { what: Cow::Borrowed(ENDS), at: self.at })
    }

    /// An error of sonic-rs, without its picture of the surroundings.
    #[cold]
    fn lexical(&self, error: &sonic_rs::Error) -> Syntax {
        let text = error.to_string();
        let what = text.split(" at line ").next().unwrap_or_default();
        Syntax { what: Cow::Owned(what.trim().to_owned()), at: self.at.saturating_sub(1) }
    }
}

/// Where what a string without escapes may hold ends that begins at `at`: at a quote, a backslash, a control character or
/// the end of `text`.
#[inline(always)]
fn plain_end(text: &[u8], mut at: usize) -> usize {
    while let Some(block) = Block::at(text, at) {
        let ends = block.equal(b'"').or(block.equal(b'\\')).or(block.at_most(0x1f)).bits();
        if ends != 0 {
            return at + ends.trailing_zeros() as usize;
        }
        at += Block::BYTES;
    }
    at
}

/// The end of the number at `at`, by the grammar of RFC 8259, section 6; `None` if there is none.
#[inline(always)]
fn number_end(bytes: &[u8], at: usize) -> Option<usize> {
    let byte = |at: usize| bytes.get(at).copied().unwrap_or_default();
    let digits = |mut at: usize| {
        while byte(at).is_ascii_digit() {
            at += 1;
        }
        at
    };
    let some_digits = |at: usize| Some(digits(at)).filter(|end| *end > at);
    let start = at + usize::from(byte(at) == b'-');
    let mut end = some_digits(start)?;
    if byte(start) == b'0' && end > start + 1 {
        return None;
    }
    if byte(end) == b'.' {
        end = some_digits(end + 1)?;
    }
    if matches!(byte(end), b'e' | b'E') {
        end = some_digits(end + 1 + usize::from(matches!(byte(end + 1), b'+' | b'-')))?;
    }
    Some(end)
}
