//! Text into tokens.

use super::ExpressionError;

/// A word of the language.
#[derive(Clone, Debug, PartialEq)]
pub enum Token {
    /// A column or keyword as written.
    Name(String),
    /// A name in backticks: always a column.
    Quoted(String),
    /// A whole number.
    Integer(i128),
    /// A number with a point or exponent.
    Float(f64),
    /// A string in single or double quotes.
    Text(String),
    /// An operator, parenthesis or comma.
    Symbol(&'static str),
    /// The end of the text.
    End,
}

const SYMBOLS: [&str; 15] = ["<=", ">=", "==", "!=", "<>", "<", ">", "+", "-", "*", "/", "%", "(", ")", ","];

/// All tokens with the offsets at which they begin; the last one is [`Token::End`].
pub fn tokens(text: &str) -> Result<Vec<(usize, Token)>, ExpressionError> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(character) = text[at..].chars().next() {
        let rest = &text[at..];
        let (token, length) = if character.is_whitespace() {
            at += character.len_utf8();
            continue;
        } else if character.is_ascii_digit() || character == '.' {
            number(rest, at)?
        } else if character.is_alphabetic() || character == '_' {
            let length = rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len());
            (Token::Name(rest[..length].to_owned()), length)
        } else if matches!(character, '\'' | '"' | '`') {
            quoted(rest, at, character)?
        } else if let Some(symbol) = SYMBOLS.into_iter().find(|symbol| rest.starts_with(symbol)) {
            (Token::Symbol(symbol), symbol.len())
        } else {
            return Err(unexpected(character, at));
        };
        found.push((at, token));
        at += length;
    }
    found.push((text.len(), Token::End));
    Ok(found)
}

fn unexpected(character: char, at: usize) -> ExpressionError {
    let error = ExpressionError::new(at, format!("{character:?} does not belong here"));
    match character {
        '=' => error.hint("equality is written =="),
        '&' => error.hint("write `and`"),
        '|' => error.hint("write `or`"),
        '!' => error.hint("write `not`"),
        _ => error,
    }
}

fn number(rest: &str, at: usize) -> Result<(Token, usize), ExpressionError> {
    let bytes = rest.as_bytes();
    let mut length = 0;
    while let Some(byte) = bytes.get(length) {
        let is_sign_of_exponent = matches!(byte, b'+' | b'-') && length > 0 && matches!(bytes[length - 1], b'e' | b'E');
        if !(byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_') || is_sign_of_exponent) {
            break;
        }
        length += 1;
    }
    let digits = rest[..length].replace('_', "");
    let token = match digits.parse::<i128>() {
        Ok(integer) => Token::Integer(integer),
        Err(_) => match digits.parse::<f64>() {
            Ok(float) if float.is_finite() && digits.starts_with(|c: char| c.is_ascii_digit() || c == '.') => {
                Token::Float(float)
            }
            _ => return Err(ExpressionError::new(at, format!("{:?} is not a number", &rest[..length]))),
        },
    };
    Ok((token, length))
}

/// A string or a name in quotes; a doubled quote stands for one.
fn quoted(rest: &str, at: usize, quote: char) -> Result<(Token, usize), ExpressionError> {
    let mut text = String::new();
    let mut characters = rest.char_indices().skip(1).peekable();
    while let Some((index, character)) = characters.next() {
        if character != quote {
            text.push(character);
        } else if characters.next_if(|(_, next)| *next == quote).is_some() {
            text.push(quote);
        } else {
            let token = if quote == '`' { Token::Quoted(text) } else { Token::Text(text) };
            return Ok((token, index + 1));
        }
    }
    Err(ExpressionError::new(at, format!("the {quote} that opens here is never closed")))
}
