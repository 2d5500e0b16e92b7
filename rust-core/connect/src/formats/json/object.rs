//! One object as a row: its declared fields, each in its column.

use ringmill_wire::DataType;

use super::{
    cursor::{Cursor, Syntax},
    document::{Cell, Document, Token},
    number::{self, Wrong},
};
use crate::{
    ConnectError, FieldSpec,
    formats::{
        column::{Column, Refusal, Row},
        paths::Paths,
    },
};

/// Reads objects with the same fields.
#[derive(Debug, Clone)]
pub(super) struct Object {
    columns: Vec<Column>,
    document: Document,
    /// floats that are no numbers may be written as text
    takes_not_finite: bool,
    /// floats may be null also where there are no nulls, and are NaN then
    takes_null_floats: bool,
}

impl Object {
    /// For these fields, each with its column. `stops_early`: what stands behind the last of them is not looked at.
    pub fn of<'f>(
        fields: impl Iterator<Item = (usize, &'f FieldSpec)> + Clone,
        stops_early: bool,
    ) -> Result<Object, ConnectError> {
        // A path leads to the place in `columns`.
        let paths = Paths::new(fields.clone().enumerate().map(|(place, (_, field))| (place, field)))?;
        let columns: Vec<Column> = fields.map(|(index, field)| Column::new(index, field)).collect();
        let document = Document::new(paths, columns.iter().map(|column| column.data_type), stops_early);
        Ok(Object { columns, document, takes_not_finite: false, takes_null_floats: false })
    }

    /// The same, and a value that [`text`](Object::text) shows and that no column need take: its place there.
    pub fn with_value<'f>(
        fields: impl Iterator<Item = (usize, &'f FieldSpec)> + Clone,
        value: &FieldSpec,
        stops_early: bool,
    ) -> Result<(Object, usize), ConnectError> {
        let mut paths = Paths::new(fields.clone().enumerate().map(|(place, (_, field))| (place, field)))?;
        let columns: Vec<Column> = fields.map(|(index, field)| Column::new(index, field)).collect();
        let place = paths.share(value, columns.len())?;
        // A column may be there that takes it.
        let more = (place == columns.len()).then_some(value.data_type);
        let types = columns.iter().map(|column| column.data_type).chain(more);
        let document = Document::new(paths, types, stops_early);
        Ok((Object { columns, document, takes_not_finite: false, takes_null_floats: false }, place))
    }

    pub fn read_letters(&mut self) {
        self.takes_not_finite = true;
        self.document.lists.take_not_finite = true;
    }

    pub fn read_sent_letters(&mut self) {
        self.read_letters();
        self.takes_null_floats = true;
        self.document.lists.take_null = true;
    }

    /// Whether the object that was read last was left in its middle.
    #[inline]
    pub fn has_stopped(&self) -> bool {
        self.document.has_stopped()
    }

    /// Reads the object that begins where the cursor stands.
    #[inline]
    pub fn read(&mut self, cursor: &mut Cursor<'_>) -> Result<(), Syntax> {
        self.document.read(cursor)
    }

    /// The value at a place of the object that was read last from `bytes`, if it is text or an integer as it was written.
    #[inline]
    pub fn text<'a>(&'a self, place: usize, bytes: &'a [u8]) -> Option<&'a [u8]> {
        let cell = &self.document.cells[place];
        let raw = &bytes[cell.start as usize..cell.end as usize];
        match cell.token {
            Token::Text | Token::Unsigned(_) | Token::Signed(_) => Some(raw),
            // As the column wants it, or too large for any: it may be an integer all the same.
            Token::Single(_) | Token::Float(_) | Token::Huge => {
                raw.iter().all(|byte| byte.is_ascii_digit() || *byte == b'-').then_some(raw)
            }
            Token::Unescaped(from, to) => Some(&self.document.text[from as usize..to as usize]),
            _ => None,
        }
    }

    /// Moves the document's values into the row.
    #[inline]
    pub fn push(&self, bytes: &[u8], row: &mut Row<'_>) -> Result<(), Refusal> {
        for (column, cell) in self.columns.iter().zip(&self.document.cells) {
            self.push_cell(column, cell, bytes, row)?;
        }
        Ok(())
    }

    #[inline(always)]
    fn push_cell(&self, column: &Column, cell: &Cell, bytes: &[u8], row: &mut Row<'_>) -> Result<(), Refusal> {
        let raw = &bytes[cell.start as usize..cell.end as usize];
        let text = match cell.token {
            Token::Missing => return column.push_null(row, "missing"),
            Token::Null if self.takes_null_floats => return null_or_nan(column, row),
            Token::Null => return column.push_null(row, "null"),
            Token::Text => Some(raw),
            Token::Unescaped(from, to) => Some(&self.document.text[from as usize..to as usize]),
            _ => None,
        };
        macro_rules! put {
            ($value:expr) => {
                match $value {
                    Ok(value) => {
                        row.out.push(column.index, value);
                        Ok(())
                    }
                    Err(wrong) => Err(self.refuse(column, cell, bytes, row, wrong)),
                }
            };
        }
        match column.data_type {
            DataType::Float64 => put!(number::double(cell.token).or_else(|wrong| self.not_finite(text, wrong))),
            DataType::Float32 => {
                let not_finite = |wrong| self.not_finite(text, wrong).map(|value| value as f32);
                put!(number::single(cell.token).or_else(not_finite))
            }
            DataType::Int64 => put!(number::integer::<i64>(cell.token, raw)),
            DataType::Int32 => put!(number::integer::<i32>(cell.token, raw)),
            DataType::Int16 => put!(number::integer::<i16>(cell.token, raw)),
            DataType::Int8 => put!(number::integer::<i8>(cell.token, raw)),
            DataType::UInt64 => put!(number::integer::<u64>(cell.token, raw)),
            DataType::UInt32 => put!(number::integer::<u32>(cell.token, raw)),
            DataType::UInt16 => put!(number::integer::<u16>(cell.token, raw)),
            DataType::UInt8 => put!(number::integer::<u8>(cell.token, raw)),
            DataType::Bool => match cell.token {
                Token::Bool(value) => put!(Ok(value)),
                _ => put!(Err::<bool, _>(Wrong::Kind)),
            },
            DataType::Utf8 => match text {
                Some(text) => column.push_bytes(row, text),
                None => Err(self.refuse(column, cell, bytes, row, Wrong::Kind)),
            },
            DataType::Binary => match text {
                Some(text) => column.push_base64(row, text, written(cell, bytes)),
                None => Err(self.refuse(column, cell, bytes, row, Wrong::Kind)),
            },
            DataType::Timestamp(unit) => match text {
                Some(text) => column.push_timestamp_text(row, text, written(cell, bytes), unit),
                None => match number::integer(cell.token, raw) {
                    Ok(value) => column.push_timestamp(row, value, raw),
                    Err(wrong) => Err(self.refuse(column, cell, bytes, row, wrong)),
                },
            },
            DataType::List(_) => match cell.token {
                Token::List(from, to) => {
                    let items = &self.document.lists.bytes[from as usize..to as usize];
                    row.out.push_list(column.index, items).map_err(|_| Refusal::Full)
                }
                _ => Err(self.refuse(column, cell, bytes, row, Wrong::Kind)),
            },
        }
    }

    /// A float that no number stands for, where it may be written as text.
    #[cold]
    fn not_finite(&self, text: Option<&[u8]>, wrong: Wrong) -> Result<f64, Wrong> {
        match text.filter(|_| self.takes_not_finite) {
            Some(b"NaN") => Ok(f64::NAN),
            Some(b"inf") => Ok(f64::INFINITY),
            Some(b"-inf") => Ok(f64::NEG_INFINITY),
            _ => Err(wrong),
        }
    }

    #[cold]
    fn refuse(&self, column: &Column, cell: &Cell, bytes: &[u8], row: &mut Row<'_>, wrong: Wrong) -> Refusal {
        let got = written(cell, bytes);
        match (wrong, cell.token) {
            (_, Token::WrongItem) => column.misfit(row, got, " in its array"),
            (Wrong::Range, _) => column.out_of_range(row, got),
            (Wrong::Kind, _) => column.misfit(row, got, ""),
        }
    }
}

#[cold]
fn null_or_nan(column: &Column, row: &mut Row<'_>) -> Result<(), Refusal> {
    match column.data_type {
        DataType::Float64 if !column.nullable => row.out.push(column.index, f64::NAN),
        DataType::Float32 if !column.nullable => row.out.push(column.index, f32::NAN),
        _ => return column.push_null(row, "null"),
    }
    Ok(())
}

/// A value as it was written, strings with their quotes.
#[inline(always)]
fn written<'a>(cell: &Cell, bytes: &'a [u8]) -> &'a [u8] {
    let (start, end) = (cell.start as usize, cell.end as usize);
    match cell.token {
        Token::Text | Token::Unescaped(..) => &bytes[start - 1..end + 1],
        _ => &bytes[start..end],
    }
}
