//! Number tokens as values of a type.

use super::document::Token;

/// Why a token is not a number of a type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wrong {
    /// it is not of that kind: a string, or 1.0 for an integer
    Kind,
    /// the type does not reach so far
    Range,
}

/// An integer; `raw` is how it was written. 1.0 and 1e3 are not integers.
#[inline(always)]
pub(super) fn integer<T: TryFrom<i64> + TryFrom<u64>>(token: Token, raw: &[u8]) -> Result<T, Wrong> {
    match token {
        Token::Unsigned(value) => T::try_from(value).map_err(|_| Wrong::Range),
        Token::Signed(value) => T::try_from(value).map_err(|_| Wrong::Range),
        other => odd_integer(other, raw),
    }
}

/// -0 and what exceeds 64 bits come as floats.
#[cold]
fn odd_integer<T: TryFrom<i64>>(token: Token, raw: &[u8]) -> Result<T, Wrong> {
    let whole = raw.strip_prefix(b"-").unwrap_or(raw);
    if !whole.iter().all(u8::is_ascii_digit) {
        return Err(Wrong::Kind);
    }
    match token {
        Token::Float(0.0) => T::try_from(0).map_err(|_| Wrong::Range),
        Token::Float(_) | Token::Huge => Err(Wrong::Range),
        _ => Err(Wrong::Kind),
    }
}

/// A double.
#[inline(always)]
pub(super) fn double(token: Token) -> Result<f64, Wrong> {
    match token {
        Token::Float(value) if value.is_finite() => Ok(value),
        Token::Unsigned(value) => Ok(value as f64),
        Token::Signed(value) => Ok(value as f64),
        Token::Float(_) | Token::Huge => Err(Wrong::Range),
        _ => Err(Wrong::Kind),
    }
}

/// A float.
#[inline(always)]
pub(super) fn single(token: Token) -> Result<f32, Wrong> {
    match token {
        Token::Single(value) if value.is_finite() => Ok(value),
        Token::Single(_) | Token::Huge => Err(Wrong::Range),
        _ => Err(Wrong::Kind),
    }
}
