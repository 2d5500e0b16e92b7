//! What Parquet's own headers say before anybody acts on it: how deep the schema is, and how large a page becomes.
//!
//! The library that decodes takes both on trust: it recurses as deep as the schema goes, and gets as much memory for a
//! page as the page's header asks for. So they are read here first, in Thrift's compact protocol, from untrusted bytes.

use crate::formats::{Broken, Bytes};

/// Structs and lists lie at most so deep in each other.
const DEPTH_MAX: u32 = 16;
/// Columns of a schema lie at most so deep in each other.
const SCHEMA_DEPTH_MAX: usize = 64;

const TRUE: u8 = 1;
const FALSE: u8 = 2;
const BYTE: u8 = 3;
const I16: u8 = 4;
const I32: u8 = 5;
const I64: u8 = 6;
const DOUBLE: u8 = 7;
const BINARY: u8 = 8;
const LIST: u8 = 9;
const SET: u8 = 10;
const MAP: u8 = 11;
const STRUCT: u8 = 12;

/// What a page's header says of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct PageHeader {
    /// bytes of the header itself
    pub header_bytes: u64,
    /// bytes that follow it
    pub compressed_bytes: i64,
    /// bytes that become of them
    pub bytes: i64,
    /// values in it, nulls among them
    pub values: i64,
    /// how they are encoded
    pub encoding: i64,
}

impl PageHeader {
    /// Reads the header that `bytes` begins with.
    pub fn read(bytes: &[u8]) -> Result<PageHeader, Broken> {
        let mut bytes = Bytes::new(bytes);
        let mut header = PageHeader::default();
        each_field(&mut bytes, |field, kind, bytes| {
            match (field, kind) {
                (2, I32) => header.bytes = bytes.zigzag()?,
                (3, I32) => header.compressed_bytes = bytes.zigzag()?,
                // Of a data page, of a dictionary, of a data page of the second version.
                (5 | 7 | 8, STRUCT) => {
                    let encoding = if field == 8 { 4 } else { 2 };
                    each_field(bytes, |inner, kind, bytes| {
                        match (inner, kind) {
                            (1, I32) => header.values = bytes.zigzag()?,
                            (inner, I32) if inner == encoding => header.encoding = bytes.zigzag()?,
                            _ => skip(kind, bytes, DEPTH_MAX)?,
                        }
                        Ok(())
                    })?;
                }
                _ => skip(kind, bytes, DEPTH_MAX)?,
            }
            Ok(())
        })?;
        header.header_bytes = bytes.at() as u64;
        Ok(header)
    }
}

/// Refuses metadata whose schema is too deep for a recursion.
pub(super) fn check_schema(metadata: &[u8]) -> Result<(), Broken> {
    let mut bytes = Bytes::new(metadata);
    each_field(&mut bytes, |field, kind, bytes| {
        if (field, kind) != (2, LIST) {
            return skip(kind, bytes, DEPTH_MAX);
        }
        let (count, kind) = list(bytes)?;
        // How many children of each column around are still to come.
        let mut open: Vec<i64> = Vec::new();
        for _ in 0..count {
            let mut children = 0;
            if kind != STRUCT {
                return Err(Broken::Key);
            }
            each_field(bytes, |field, kind, bytes| {
                match (field, kind) {
                    (5, I32) => children = bytes.zigzag()?,
                    _ => skip(kind, bytes, DEPTH_MAX)?,
                }
                Ok(())
            })?;
            if let Some(last) = open.last_mut() {
                *last -= 1;
            }
            if children > 0 {
                open.push(children);
            }
            if open.len() > SCHEMA_DEPTH_MAX {
                return Err(Broken::Depth);
            }
            while open.last().is_some_and(|left| *left <= 0) {
                open.pop();
            }
        }
        Ok(())
    })
}

/// Calls `each` for every field of a struct, with its number and type; it has to read the value or to pass it over.
fn each_field<'a>(
    bytes: &mut Bytes<'a>,
    mut each: impl FnMut(i64, u8, &mut Bytes<'a>) -> Result<(), Broken>,
) -> Result<(), Broken> {
    let mut number = 0_i64;
    loop {
        let [head] = bytes.array()?;
        let (delta, kind) = (head >> 4, head & 0xf);
        if head == 0 {
            return Ok(());
        }
        number = if delta == 0 { bytes.zigzag()? } else { number.saturating_add(delta.into()) };
        each(number, kind, bytes)?;
    }
}

/// The number and the type of a list's items.
fn list(bytes: &mut Bytes<'_>) -> Result<(u64, u8), Broken> {
    let [head] = bytes.array()?;
    let count = if head >> 4 == 15 { bytes.varint()? } else { u64::from(head >> 4) };
    // Each takes a byte at least.
    if count > bytes.left() as u64 {
        return Err(Broken::Ends);
    }
    Ok((count, head & 0xf))
}

fn skip(kind: u8, bytes: &mut Bytes<'_>, depth: u32) -> Result<(), Broken> {
    let depth = depth.checked_sub(1).ok_or(Broken::Depth)?;
    match kind {
        TRUE | FALSE => {}
        BYTE => drop(bytes.take(1)?),
        I16 | I32 | I64 => drop(bytes.varint()?),
        DOUBLE => drop(bytes.take(8)?),
        BINARY => {
            let length = usize::try_from(bytes.varint()?).map_err(|_| Broken::Length)?;
            bytes.take(length)?;
        }
        LIST | SET => {
            let (count, kind) = list(bytes)?;
            for _ in 0..count {
                skip_item(kind, bytes, depth)?;
            }
        }
        MAP => {
            let count = bytes.varint()?;
            if count > 0 {
                let [kinds] = bytes.array()?;
                for _ in 0..count {
                    skip_item(kinds >> 4, bytes, depth)?;
                    skip_item(kinds & 0xf, bytes, depth)?;
                }
            }
        }
        STRUCT => each_field(bytes, |_, kind, bytes| skip(kind, bytes, depth))?,
        _ => return Err(Broken::Key),
    }
    Ok(())
}

/// A bool that is an item takes a byte of its own.
fn skip_item(kind: u8, bytes: &mut Bytes<'_>, depth: u32) -> Result<(), Broken> {
    skip(if matches!(kind, TRUE | FALSE) { BYTE } else { kind }, bytes, depth)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_header_says_how_large_its_page_is() {
        // type 0, 100 bytes, 40 compressed, a data page of 7 values, encoding 3, levels 3 and 3.
        let header = [0x15, 0, 0x15, 200, 1, 0x15, 80, 0x2c, 0x15, 14, 0x15, 6, 0x15, 6, 0x15, 6, 0, 0, 9, 9];
        let expected = PageHeader { header_bytes: 18, compressed_bytes: 40, bytes: 100, values: 7, encoding: 3 };
        assert_eq!(PageHeader::read(&header), Ok(expected));
        for length in 0..18 {
            assert_eq!(PageHeader::read(&header[..length]), Err(Broken::Ends), "{length} bytes");
        }
    }

    #[test]
    fn a_schema_that_is_too_deep_is_refused() {
        let nested = |depth: usize| {
            let element = [0x55, 2, 0];
            let mut bytes = vec![0x29, 0xfc];
            let mut count = depth as u64;
            while count > 0x7f {
                bytes.push(count as u8 | 0x80);
                count >>= 7;
            }
            bytes.push(count as u8);
            bytes.extend(element.repeat(depth));
            bytes.push(0);
            bytes
        };
        assert_eq!(check_schema(&nested(SCHEMA_DEPTH_MAX)), Ok(()));
        assert_eq!(check_schema(&nested(SCHEMA_DEPTH_MAX + 1)), Err(Broken::Depth));
        assert_eq!(check_schema(&nested(100_000)), Err(Broken::Depth));
        assert_eq!(check_schema(b"\x29\xfc\xff\xff\xff\xff\x0f"), Err(Broken::Ends));
        let lists: Vec<u8> = [&[0x19][..], &[0x19; 200]].concat();
        assert_eq!(check_schema(&lists), Err(Broken::Depth));
    }
}
