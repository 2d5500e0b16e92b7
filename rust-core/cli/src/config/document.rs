//! The TOML document as a tree in the order of the file, every key and value with its span; overrides merged in.

use toml::de::{DeTable, DeValue};

use super::mistake::Mistake;
use super::text::{Span, Text};

/// A value and where it stands.
#[derive(Clone, Debug)]
pub struct Node {
    /// Where the value stands; for a table made by a header, the header.
    pub span: Span,
    /// The value.
    pub value: Value,
}

/// A TOML value.
#[derive(Clone, Debug)]
pub enum Value {
    /// `"text"`
    Text(String),
    /// `12`; `None` if it does not fit 64 bits.
    Integer(Option<i64>),
    /// `1.5`
    Float(f64),
    /// `true`
    Boolean(bool),
    /// `2026-01-01T00:00:00Z`, as written
    Datetime(String),
    /// `[1, 2]`
    List(Vec<Node>),
    /// `{ a = 1 }` or `[a]`
    Table(Vec<Entry>),
}

impl Value {
    /// What a message calls a value of this type.
    pub fn type_name(&self) -> &'static str {
        match self {
            Value::Text(_) => "a string",
            Value::Integer(_) => "an integer",
            Value::Float(_) => "a number",
            Value::Boolean(_) => "a boolean",
            Value::Datetime(_) => "a date-time",
            Value::List(_) => "a list",
            Value::Table(_) => "a table",
        }
    }
}

/// One key of a table.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The key without quotes.
    pub key: String,
    /// Where the key stands.
    pub key_span: Span,
    /// Its value.
    pub node: Node,
}

/// Parses the file and lays the `key=value` overrides over it. What could not be read is reported in `mistakes`; the rest is returned.
pub fn parse(text: &mut Text, overrides: &[String], mistakes: &mut Vec<Mistake>) -> Vec<Entry> {
    let mut entries = parse_part(text.file(), 0, mistakes);
    for line in overrides {
        let (line, part) = parse_override(line);
        let start = text.push_override(&line);
        match part {
            Ok(()) => {
                for entry in parse_part(&line, start, mistakes) {
                    merge(&mut entries, entry);
                }
            }
            Err(message) => {
                let span = Span { start, end: start + line.len() };
                let hint = "write --set key.path=value, for example --set sources.sensors.rows=1000";
                mistakes.push(Mistake::at(span, message).hint(hint));
            }
        }
    }
    entries
}

/// `rows=10` as it stands if it is TOML, else with the value quoted, so that `path=/tmp/x` and `size=10s` need no quotes.
fn parse_override(line: &str) -> (String, Result<(), String>) {
    if DeTable::parse(line).is_ok_and(|table| table.get_ref().len() == 1) {
        return (line.to_owned(), Ok(()));
    }
    let Some((key, value)) = line.split_once('=') else {
        return (line.to_owned(), Err(format!("--set {line} has no value")));
    };
    let quoted = format!("{} = {}", key.trim(), toml::Value::String(value.trim().to_owned()));
    match DeTable::parse(&quoted) {
        Ok(_) => (quoted, Ok(())),
        Err(error) => (line.to_owned(), Err(format!("--set {line}: {}", error.message()))),
    }
}

fn parse_part(text: &str, offset: usize, mistakes: &mut Vec<Mistake>) -> Vec<Entry> {
    let (table, errors) = DeTable::parse_recoverable(text);
    for error in errors {
        let span = error.span().map(|span| Span::from(span).shifted(offset));
        mistakes.push(Mistake {
            span,
            message: format!("not valid TOML: {}", error.message()),
            hint: None,
            is_private: false,
        });
    }
    convert_table(table.get_ref(), offset)
}

fn convert_table(table: &DeTable<'_>, offset: usize) -> Vec<Entry> {
    let mut entries: Vec<Entry> = table
        .iter()
        .map(|(key, value)| Entry {
            key: key.get_ref().to_string(),
            key_span: Span::from(key.span()).shifted(offset),
            node: Node { span: Span::from(value.span()).shifted(offset), value: convert(value.get_ref(), offset) },
        })
        .collect();
    entries.sort_by_key(|entry| entry.key_span.start);
    entries
}

fn convert(value: &DeValue<'_>, offset: usize) -> Value {
    match value {
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Integer(integer) => {
            Value::Integer(i64::from_str_radix(&integer.as_str().replace('_', ""), integer.radix()).ok())
        }
        DeValue::Float(float) => Value::Float(float.as_str().replace('_', "").parse().unwrap_or(f64::NAN)),
        DeValue::Boolean(boolean) => Value::Boolean(*boolean),
        DeValue::Datetime(datetime) => Value::Datetime(datetime.to_string()),
        DeValue::Array(items) => Value::List(
            items
                .iter()
                .map(|item| Node {
                    span: Span::from(item.span()).shifted(offset),
                    value: convert(item.get_ref(), offset),
                })
                .collect(),
        ),
        DeValue::Table(table) => Value::Table(convert_table(table, offset)),
    }
}

/// Lays one override over a table: tables are merged, anything else is replaced.
fn merge(entries: &mut Vec<Entry>, new: Entry) {
    let Some(old) = entries.iter_mut().find(|entry| entry.key == new.key) else {
        entries.push(new);
        return;
    };
    match (&mut old.node.value, new.node.value) {
        (Value::Table(old), Value::Table(new)) => new.into_iter().for_each(|entry| merge(old, entry)),
        (old_value, new_value) => {
            *old_value = new_value;
            old.key_span = new.key_span;
            old.node.span = new.node.span;
        }
    }
}
