//! The items of list columns, as bytes.

use ringmill_wire::{ListItem, TimeUnit};

use super::{document::Token, number};
use crate::formats::timestamp;

/// The lists of one document, one after the other, little-endian.
#[derive(Debug, Clone, Default)]
pub(super) struct Lists {
    pub bytes: Vec<u8>,
    /// whether a float may be the text `NaN`, `inf` or `-inf`
    pub take_not_finite: bool,
    /// whether a float may be null, and is NaN then
    pub take_null: bool,
}

impl Lists {
    pub fn clear(&mut self) {
        self.bytes.clear();
    }

    /// Appends an item; `false` if it does not fit.
    pub fn push(&mut self, item: ListItem, token: Token, raw: &[u8]) -> bool {
        macro_rules! put {
            ($value:expr) => {
                match $value {
                    Ok(value) => {
                        self.bytes.extend_from_slice(&value.to_le_bytes());
                        true
                    }
                    Err(_) => false,
                }
            };
        }
        match item {
            ListItem::Int8 => put!(number::integer::<i8>(token, raw)),
            ListItem::Int16 => put!(number::integer::<i16>(token, raw)),
            ListItem::Int32 => put!(number::integer::<i32>(token, raw)),
            ListItem::Int64 => put!(number::integer::<i64>(token, raw)),
            ListItem::UInt8 => put!(number::integer::<u8>(token, raw)),
            ListItem::UInt16 => put!(number::integer::<u16>(token, raw)),
            ListItem::UInt32 => put!(number::integer::<u32>(token, raw)),
            ListItem::UInt64 => put!(number::integer::<u64>(token, raw)),
            ListItem::Float32 => {
                put!(number::single(token).or_else(|_| self.not_finite(raw).map(|value| value as f32)))
            }
            ListItem::Float64 => put!(number::double(token).or_else(|_| self.not_finite(raw))),
            ListItem::Timestamp(unit) => put!(instant(token, raw, unit)),
        }
    }

    #[cold]
    fn not_finite(&self, raw: &[u8]) -> Result<f64, ()> {
        match raw {
            _ if !self.take_not_finite => Err(()),
            b"null" if self.take_null => Ok(f64::NAN),
            b"NaN" => Ok(f64::NAN),
            b"inf" => Ok(f64::INFINITY),
            b"-inf" => Ok(f64::NEG_INFINITY),
            _ => Err(()),
        }
    }
}

fn instant(token: Token, raw: &[u8], unit: TimeUnit) -> Result<i64, ()> {
    match token {
        Token::Text | Token::Unescaped(..) => timestamp::parse(raw, unit).map_err(drop),
        _ => number::integer(token, raw).map_err(drop),
    }
}
