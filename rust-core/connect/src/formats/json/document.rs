//! Reading one JSON document: the values of the declared fields, as tokens.
//!
//! The lexing (strings, escapes, numbers, white space, UTF-8) is sonic-rs's; the grammar around it is walked here, so
//! that nothing is skipped unchecked, depth is bounded, and no buffer is made per document. Everything of RFC 8259 is
//! checked, also in values that no field takes. Of a repeated key the last one counts.

use std::borrow::Cow;

use ringmill_wire::{DataType, ListItem};
use sonic_rs::{
    Read,
    parser::{Parser, Reference},
    reader::Reader,
};

use super::{
    list::Lists,
    paths::{Paths, Target},
};

/// Objects and arrays may be nested so deep.
pub(super) const DEPTH_MAX: u32 = 128;

/// A declared field's value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Token {
    Missing,
    Null,
    Bool(bool),
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    /// of a float32 column
    Single(f32),
    /// a number that no type here can hold
    Huge,
    /// a string without escapes: the bytes themselves
    Text,
    /// a string with escapes: a range of [`Document::text`]
    Unescaped(u32, u32),
    /// of a list column: a range of [`Lists::bytes`]
    List(u32, u32),
    /// of a list column: an array with an item that does not fit, which stands there instead
    WrongItem,
    /// an object or array where none is expected
    Nested,
}

/// A token and where it stands in the bytes, strings without their quotes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Cell {
    pub token: Token,
    pub start: u32,
    pub end: u32,
}

const MISSING: Cell = Cell { token: Token::Missing, start: 0, end: 0 };

/// What is wrong with a document.
#[derive(Debug)]
pub(super) struct Syntax {
    pub what: Cow<'static, str>,
    pub at: usize,
}

type Bytes<'de> = Parser<Read<'de>>;

/// What a column wants to be told beyond the plain token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Plain,
    Single,
    List(ListItem),
}

/// The values of one document.
#[derive(Debug, Clone)]
pub(super) struct Document {
    paths: Paths,
    wanted: Vec<Wanted>,
    pub cells: Vec<Cell>,
    /// unescaped strings
    pub text: Vec<u8>,
    pub lists: Lists,
    unescaped: Vec<u8>,
}

impl Document {
    pub fn new(paths: Paths, types: impl Iterator<Item = DataType>) -> Document {
        let wanted: Vec<Wanted> = types
            .map(|data_type| match data_type {
                DataType::Float32 => Wanted::Single,
                DataType::List(item) => Wanted::List(item),
                _ => Wanted::Plain,
            })
            .collect();
        Document {
            paths,
            cells: vec![MISSING; wanted.len()],
            wanted,
            text: Vec::new(),
            lists: Lists::default(),
            unescaped: Vec::new(),
        }
    }

    /// Reads the document that starts at the parser's position.
    pub fn read(&mut self, parser: &mut Bytes<'_>) -> Result<(), Syntax> {
        self.cells.fill(MISSING);
        self.text.clear();
        self.lists.clear();
        match parser.skip_space() {
            Some(b'{') => self.object(parser, 0, 1),
            Some(_) => wrong(parser, "a record must be an object"),
            None => ends(parser),
        }
    }

    /// An object, behind its `{`.
    fn object(&mut self, parser: &mut Bytes<'_>, node: usize, depth: u32) -> Result<(), Syntax> {
        let mut guess = 0;
        let mut next = parser.skip_space();
        if next == Some(b'}') {
            return Ok(());
        }
        loop {
            match next {
                Some(b'"') => {}
                Some(_) => return wrong(parser, "expected a key in quotes"),
                None => return ends(parser),
            }
            let key = match parser.parse_str(&mut self.unescaped) {
                Ok(key) => key,
                Err(error) => return Err(lexical(parser, &error)),
            };
            let found = self.paths.node(node).position(&key, guess);
            let first = value_after_colon(parser)?;
            match found {
                Some(child) => {
                    guess = child + 1;
                    let target = self.paths.node(node).children[child].target;
                    self.take(parser, first, target, depth)?;
                }
                None => self.skip(parser, first, depth)?,
            }
            match parser.skip_space() {
                Some(b',') => next = parser.skip_space(),
                Some(b'}') => return Ok(()),
                Some(_) => return wrong(parser, "expected `,` or `}`"),
                None => return ends(parser),
            }
        }
    }

    /// An array with declared fields in it, behind its `[`.
    fn array(&mut self, parser: &mut Bytes<'_>, node: usize, depth: u32) -> Result<(), Syntax> {
        let mut index = 0;
        items(parser, |parser, first| {
            let found = self.paths.node(node).position_of_index(index);
            index += 1;
            match found {
                Some(child) => {
                    let target = self.paths.node(node).children[child].target;
                    self.take(parser, first, target, depth)
                }
                None => self.skip(parser, first, depth),
            }
        })
    }

    #[inline(always)]
    fn take(&mut self, parser: &mut Bytes<'_>, first: u8, target: Target, depth: u32) -> Result<(), Syntax> {
        match target {
            Target::Column(column) => {
                let cell = self.value(parser, first, self.wanted[column], depth)?;
                self.cells[column] = cell;
                Ok(())
            }
            Target::Node(node) => {
                // Of a repeated key the last one counts, with nothing of the earlier ones left.
                let cells = &mut self.cells;
                self.paths.columns_below(node, &mut |column| cells[column] = MISSING);
                match first {
                    b'{' => self.object(parser, node, deeper(parser, depth)?),
                    b'[' => self.array(parser, node, deeper(parser, depth)?),
                    _ => self.skip(parser, first, depth),
                }
            }
        }
    }

    /// The value of a declared field; `first` is its first byte, already consumed.
    #[inline(always)]
    fn value(&mut self, parser: &mut Bytes<'_>, first: u8, wanted: Wanted, depth: u32) -> Result<Cell, Syntax> {
        let start = parser.offset() - 1;
        let token = match first {
            b'"' => return self.string(parser),
            b'-' | b'0'..=b'9' => number(parser, first, wanted == Wanted::Single)?,
            b'n' => literal(parser, "ull", Token::Null)?,
            b't' => literal(parser, "rue", Token::Bool(true))?,
            b'f' => literal(parser, "alse", Token::Bool(false))?,
            b'[' => match wanted {
                Wanted::List(item) => return self.list(parser, item, depth),
                _ => self.skip(parser, first, depth).map(|()| Token::Nested)?,
            },
            b'{' => self.skip(parser, first, depth).map(|()| Token::Nested)?,
            _ => return wrong(parser, "expected a value"),
        };
        Ok(Cell { token, start: start as u32, end: parser.offset() as u32 })
    }

    #[inline(always)]
    fn string(&mut self, parser: &mut Bytes<'_>) -> Result<Cell, Syntax> {
        let start = parser.offset() as u32;
        let token = match parser.parse_str(&mut self.unescaped) {
            Ok(Reference::Borrowed(_)) => Token::Text,
            Ok(Reference::Copied(text)) => {
                let from = self.text.len() as u32;
                self.text.extend_from_slice(text.as_bytes());
                Token::Unescaped(from, self.text.len() as u32)
            }
            Err(error) => return Err(lexical(parser, &error)),
        };
        Ok(Cell { token, start, end: parser.offset() as u32 - 1 })
    }

    /// A list column's array, behind its `[`.
    fn list(&mut self, parser: &mut Bytes<'_>, item: ListItem, depth: u32) -> Result<Cell, Syntax> {
        let depth = deeper(parser, depth)?;
        let start = parser.offset() - 1;
        let from = self.lists.bytes.len() as u32;
        let mut wrong_item = None;
        items(parser, |parser, first| {
            let single = item.data_type() == DataType::Float32;
            let wanted = if single { Wanted::Single } else { Wanted::Plain };
            let cell = self.value(parser, first, wanted, depth)?;
            let bytes = &parser.read.as_u8_slice()[cell.start as usize..cell.end as usize];
            if wrong_item.is_none() && !self.lists.push(item, cell.token, bytes) {
                wrong_item = Some(cell);
            }
            Ok(())
        })?;
        Ok(match wrong_item {
            Some(cell) => Cell { token: Token::WrongItem, ..cell },
            None => Cell {
                token: Token::List(from, self.lists.bytes.len() as u32),
                start: start as u32,
                end: parser.offset() as u32,
            },
        })
    }

    /// Checks a value that nobody wants; `first` is its first byte, already consumed.
    fn skip(&mut self, parser: &mut Bytes<'_>, first: u8, depth: u32) -> Result<(), Syntax> {
        match first {
            b'"' => self.string_skipped(parser),
            b'-' | b'0'..=b'9' => skip_number(parser, first),
            b'n' => literal(parser, "ull", ()),
            b't' => literal(parser, "rue", ()),
            b'f' => literal(parser, "alse", ()),
            b'[' => {
                let depth = deeper(parser, depth)?;
                items(parser, |parser, first| self.skip(parser, first, depth))
            }
            b'{' => self.skip_object(parser, deeper(parser, depth)?),
            _ => wrong(parser, "expected a value"),
        }
    }

    fn skip_object(&mut self, parser: &mut Bytes<'_>, depth: u32) -> Result<(), Syntax> {
        let mut next = parser.skip_space();
        if next == Some(b'}') {
            return Ok(());
        }
        loop {
            match next {
                Some(b'"') => self.string_skipped(parser)?,
                Some(_) => return wrong(parser, "expected a key in quotes"),
                None => return ends(parser),
            }
            let first = value_after_colon(parser)?;
            self.skip(parser, first, depth)?;
            match parser.skip_space() {
                Some(b',') => next = parser.skip_space(),
                Some(b'}') => return Ok(()),
                Some(_) => return wrong(parser, "expected `,` or `}`"),
                None => return ends(parser),
            }
        }
    }

    fn string_skipped(&mut self, parser: &mut Bytes<'_>) -> Result<(), Syntax> {
        match parser.parse_str(&mut self.unescaped) {
            Ok(_) => Ok(()),
            Err(error) => Err(lexical(parser, &error)),
        }
    }
}

/// What a document that stops in its middle is told.
pub(super) const ENDS: &str = "the record ends too early";

/// The items of an array, behind its `[`.
#[inline]
fn items<'de>(
    parser: &mut Bytes<'de>,
    mut item: impl FnMut(&mut Bytes<'de>, u8) -> Result<(), Syntax>,
) -> Result<(), Syntax> {
    let mut next = parser.skip_space();
    if next == Some(b']') {
        return Ok(());
    }
    loop {
        let Some(first) = next else {
            return ends(parser);
        };
        item(parser, first)?;
        match parser.skip_space() {
            Some(b',') => next = parser.skip_space(),
            Some(b']') => return Ok(()),
            Some(_) => return wrong(parser, "expected `,` or `]`"),
            None => return ends(parser),
        }
    }
}

#[inline(always)]
fn value_after_colon(parser: &mut Bytes<'_>) -> Result<u8, Syntax> {
    match parser.skip_space() {
        Some(b':') => {}
        Some(_) => return wrong(parser, "expected `:`"),
        None => return ends(parser),
    }
    match parser.skip_space() {
        Some(first) => Ok(first),
        None => ends(parser),
    }
}

#[inline(always)]
fn literal<T>(parser: &mut Bytes<'_>, rest: &'static str, value: T) -> Result<T, Syntax> {
    if parser.read.next_n(rest.len()) == Some(rest.as_bytes()) {
        Ok(value)
    } else {
        wrong(parser, "expected null, true or false")
    }
}

#[inline(always)]
fn number(parser: &mut Bytes<'_>, first: u8, single: bool) -> Result<Token, Syntax> {
    use sonic_number::ParserNumber;
    let start = parser.offset();
    if single && let Ok(value) = parser.parse_float32(first) {
        return Ok(Token::Single(signed_zero(f64::from(value), first) as f32));
    } else if !single && let Ok(number) = parser.parse_number(first) {
        return Ok(match number {
            ParserNumber::Unsigned(value) => Token::Unsigned(value),
            ParserNumber::Signed(value) => Token::Signed(value),
            ParserNumber::Float(value) => Token::Float(signed_zero(value, first)),
        });
    }
    // Either it is no number, or one beyond the largest float.
    parser.read.set_index(start);
    skip_number(parser, first).map(|()| Token::Huge)
}

/// sonic-number drops the sign of zero.
#[inline(always)]
fn signed_zero(value: f64, first: u8) -> f64 {
    if value == 0.0 && first == b'-' { -0.0 } else { value }
}

fn skip_number(parser: &mut Bytes<'_>, first: u8) -> Result<(), Syntax> {
    match parser.skip_number(first) {
        Ok(_) => Ok(()),
        Err(error) => Err(lexical(parser, &error)),
    }
}

#[inline(always)]
fn deeper(parser: &Bytes<'_>, depth: u32) -> Result<u32, Syntax> {
    if depth < DEPTH_MAX { Ok(depth + 1) } else { wrong(parser, "nested deeper than 128") }
}

#[cold]
fn wrong<T>(parser: &Bytes<'_>, what: &'static str) -> Result<T, Syntax> {
    Err(Syntax { what: Cow::Borrowed(what), at: parser.offset().saturating_sub(1) })
}

#[cold]
fn ends<T>(parser: &Bytes<'_>) -> Result<T, Syntax> {
    Err(Syntax { what: Cow::Borrowed(ENDS), at: parser.offset() })
}

/// An error of sonic-rs, without its picture of the surroundings.
#[cold]
fn lexical(parser: &Bytes<'_>, error: &sonic_rs::Error) -> Syntax {
    let text = error.to_string();
    let what = text.split(" at line ").next().unwrap_or_default();
    Syntax { what: Cow::Owned(what.trim().to_owned()), at: parser.offset().saturating_sub(1) }
}
