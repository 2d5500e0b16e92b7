//! Reading one JSON document: the values of the declared fields, as tokens.
//!
//! What no field takes is passed over, yet checked like the rest. Of a repeated key the last one counts. If it may stop early,
//! nothing is read behind the value that is declared and comes last.

use ringmill_wire::{DataType, ListItem};

use super::{
    cursor::{Cursor, Syntax, Text},
    list::Lists,
};
use crate::formats::paths::{Paths, Target};

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
    stops_early: bool,
    /// how many values are still looked for, if nothing is read behind the last one
    left: usize,
}

impl Document {
    pub fn new(paths: Paths, types: impl Iterator<Item = DataType>, stops_early: bool) -> Document {
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
            stops_early,
            left: usize::MAX,
        }
    }

    /// Whether what was read last was left in its middle, as nothing more was looked for.
    #[inline]
    pub fn has_stopped(&self) -> bool {
        self.left == 0
    }

    /// Reads the document that starts where the cursor stands.
    pub fn read(&mut self, cursor: &mut Cursor<'_>) -> Result<(), Syntax> {
        self.left = if self.stops_early { self.cells.len() } else { usize::MAX };
        self.cells.fill(MISSING);
        self.text.clear();
        self.lists.clear();
        match cursor.next()? {
            b'{' => self.object(cursor, 0, 1),
            _ => cursor.wrong("a record must be an object"),
        }
    }

    /// An object, behind its `{`.
    fn object(&mut self, cursor: &mut Cursor<'_>, node: usize, depth: u32) -> Result<(), Syntax> {
        let mut guess = 0;
        let mut next = cursor.next()?;
        if next == b'}' {
            return Ok(());
        }
        loop {
            cursor.opens_key(next)?;
            let start = cursor.at;
            let key = match cursor.string(&mut self.unescaped)? {
                Text::Plain => &cursor.bytes[start..cursor.at - 1],
                Text::Unescaped => &self.unescaped,
            };
            let found = self.paths.node(node).position(key, guess);
            let first = cursor.value_after_colon()?;
            match found {
                Some(child) => {
                    guess = child + 1;
                    let target = self.paths.node(node).children[child].target;
                    self.take(cursor, first, target, depth)?;
                    if self.has_stopped() {
                        return Ok(());
                    }
                }
                None => cursor.skip(first, depth, &mut self.unescaped)?,
            }
            match cursor.next()? {
                b',' => next = cursor.next()?,
                b'}' => return Ok(()),
                _ => return cursor.wrong("expected `,` or `}`"),
            }
        }
    }

    /// An array with declared fields in it, behind its `[`.
    fn array(&mut self, cursor: &mut Cursor<'_>, node: usize, depth: u32) -> Result<(), Syntax> {
        let mut index = 0;
        cursor.items(|cursor, first| {
            let found = self.paths.node(node).position_of_index(index);
            index += 1;
            match found {
                Some(child) => {
                    let target = self.paths.node(node).children[child].target;
                    self.take(cursor, first, target, depth)?;
                }
                None => cursor.skip(first, depth, &mut self.unescaped)?,
            }
            Ok(!self.has_stopped())
        })
    }

    #[inline(always)]
    fn take(&mut self, cursor: &mut Cursor<'_>, first: u8, target: Target, depth: u32) -> Result<(), Syntax> {
        match target {
            Target::Column(column) => {
                let cell = self.value(cursor, first, self.wanted[column], depth)?;
                let before = std::mem::replace(&mut self.cells[column], cell);
                self.left -= usize::from(matches!(before.token, Token::Missing));
                Ok(())
            }
            Target::Node(node) => {
                // Of a repeated key the last one counts, with nothing of the earlier ones left.
                let (cells, left) = (&mut self.cells, &mut self.left);
                self.paths.columns_below(node, &mut |column| {
                    let before = std::mem::replace(&mut cells[column], MISSING);
                    *left += usize::from(!matches!(before.token, Token::Missing));
                });
                match first {
                    b'{' => self.object(cursor, node, cursor.deeper(depth)?),
                    b'[' => self.array(cursor, node, cursor.deeper(depth)?),
                    _ => cursor.skip(first, depth, &mut self.unescaped),
                }
            }
        }
    }

    /// The value of a declared field; `first` is its first byte, already consumed.
    #[inline(always)]
    fn value(&mut self, cursor: &mut Cursor<'_>, first: u8, wanted: Wanted, depth: u32) -> Result<Cell, Syntax> {
        let start = cursor.at - 1;
        let token = match first {
            b'"' => return self.string(cursor),
            b'-' | b'0'..=b'9' => cursor.number(first, wanted == Wanted::Single)?,
            b'n' | b't' | b'f' => cursor.literal(first)?,
            b'[' if let Wanted::List(item) = wanted => return self.list(cursor, item, depth),
            _ => {
                cursor.skip(first, depth, &mut self.unescaped)?;
                Token::Nested
            }
        };
        Ok(Cell { token, start: start as u32, end: cursor.at as u32 })
    }

    #[inline(always)]
    fn string(&mut self, cursor: &mut Cursor<'_>) -> Result<Cell, Syntax> {
        let start = cursor.at as u32;
        let token = match cursor.string(&mut self.unescaped)? {
            Text::Plain => Token::Text,
            Text::Unescaped => {
                let from = self.text.len() as u32;
                self.text.extend_from_slice(&self.unescaped);
                Token::Unescaped(from, self.text.len() as u32)
            }
        };
        Ok(Cell { token, start, end: cursor.at as u32 - 1 })
    }

    /// A list column's array, behind its `[`.
    fn list(&mut self, cursor: &mut Cursor<'_>, item: ListItem, depth: u32) -> Result<Cell, Syntax> {
        let depth = cursor.deeper(depth)?;
        let start = cursor.at - 1;
        let from = self.lists.bytes.len() as u32;
        let mut wrong_item = None;
        cursor.items(|cursor, first| {
            let single = item.data_type() == DataType::Float32;
            let wanted = if single { Wanted::Single } else { Wanted::Plain };
            let cell = self.value(cursor, first, wanted, depth)?;
            let bytes = match cell.token {
                Token::Unescaped(from, to) => &self.text[from as usize..to as usize],
                _ => &cursor.bytes[cell.start as usize..cell.end as usize],
            };
            if wrong_item.is_none() && !self.lists.push(item, cell.token, bytes) {
                wrong_item = Some(cell);
            }
            Ok(true)
        })?;
        Ok(match wrong_item {
            Some(cell) => Cell { token: Token::WrongItem, ..cell },
            None => Cell {
                token: Token::List(from, self.lists.bytes.len() as u32),
                start: start as u32,
                end: cursor.at as u32,
            },
        })
    }
}
