//! The items of list columns, as bytes.

use ringmill_wire::{ListItem, TimeUnit};

use super::{document::Token, number};
use crate::formats::timestamp;

/// The lists of one document, one after the other, little-endian.
#[derive(Debug, Clone, Default)]
pub(super) struct Lists {
    pub bytes: Vec<u8>,
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
            ListItem::Float32 => put!(number::single(token)),
            ListItem::Float64 => put!(number::double(token)),
            ListItem::Timestamp(unit) => put!(instant(token, raw, unit)),
        }
    }
}

fn instant(token: Token, raw: &[u8], unit: TimeUnit) -> Result<i64, ()> {
    match token {
        Token::Text | Token::Unescaped(..) => timestamp::parse(raw, unit).map_err(drop),
        _ => number::integer(token, raw).map_err(drop),
    }
}
