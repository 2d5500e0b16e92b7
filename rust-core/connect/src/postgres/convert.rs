//! Staged rows to what the columns of a table take, where that is another type than the one they were staged as.

use std::io::{self, Read};

use super::encode::put_numeric;

/// What is done to the values of one column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Conversion {
    /// nothing
    Same,
    /// an integer of any width to one of so many bytes
    Widen(usize),
    /// an integer to a numeric
    Numeric,
    /// eight bytes without sign to a bigint, if they fit
    Signed,
    /// eight bytes without sign to a numeric
    NumericUnsigned,
    /// a real to a double precision
    Double,
}

/// Why a row could not be converted.
#[derive(Debug)]
pub enum Refused {
    /// reading it failed
    Read(io::Error),
    /// it is none of ours
    Damaged,
    /// this value of the column with this index does not fit
    Unfit(usize, u64),
}

/// Appends the next row, converted, to `out`; `false`: there is none.
pub fn convert_row(rows: &mut impl Read, conversions: &[Conversion], out: &mut Vec<u8>) -> Result<bool, Refused> {
    let mut count = [0; 2];
    match rows.read(&mut count[..1]).map_err(Refused::Read)? {
        0 => return Ok(false),
        _ => read_exact(rows, &mut count[1..])?,
    }
    if usize::from(u16::from_be_bytes(count)) != conversions.len() {
        return Err(Refused::Damaged);
    }
    out.extend_from_slice(&count);
    for (index, conversion) in conversions.iter().enumerate() {
        let mut length = [0; 4];
        read_exact(rows, &mut length)?;
        let Ok(bytes) = usize::try_from(i32::from_be_bytes(length)) else {
            out.extend_from_slice(&length);
            continue;
        };
        if *conversion == Conversion::Same {
            out.extend_from_slice(&length);
            let start = out.len();
            out.resize(start + bytes, 0);
            read_exact(rows, &mut out[start..])?;
            continue;
        }
        let mut word = [0; 8];
        let word = word.get_mut(..bytes).ok_or(Refused::Damaged)?;
        read_exact(rows, word)?;
        put_converted(word, *conversion, out).map_err(|value| Refused::Unfit(index, value))?;
    }
    Ok(true)
}

fn read_exact(rows: &mut impl Read, buffer: &mut [u8]) -> Result<(), Refused> {
    rows.read_exact(buffer).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => Refused::Damaged,
        _ => Refused::Read(error),
    })
}

fn put_converted(word: &[u8], conversion: Conversion, out: &mut Vec<u8>) -> Result<(), u64> {
    let unsigned = word.iter().fold(0, |value, byte| value << 8 | u64::from(*byte));
    let unused = 64 - 8 * word.len().max(1) as u32;
    let signed = (unsigned << unused) as i64 >> unused;
    let mut put = |bytes: &[u8]| {
        out.extend_from_slice(&(bytes.len() as i32).to_be_bytes());
        out.extend_from_slice(bytes);
    };
    match conversion {
        Conversion::Same => put(word),
        Conversion::Widen(width) => put(&signed.to_be_bytes()[8 - width..]),
        Conversion::Numeric => put_numeric(signed.unsigned_abs(), signed < 0, out),
        Conversion::Signed => put(&i64::try_from(unsigned).map_err(|_| unsigned)?.to_be_bytes()),
        Conversion::NumericUnsigned => put_numeric(unsigned, false, out),
        Conversion::Double => put(&f64::from(f32::from_bits(unsigned as u32)).to_be_bytes()),
    }
    Ok(())
}
