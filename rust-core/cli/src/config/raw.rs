//! First stage: the document against the tables of [`super::keys`]. Types, units and bounds are checked here, every
//! mistake is noted, and what was right comes out as typed values with their spans. It knows nothing of meaning.

use ringmill_wire::DataType;

use super::document::{Entry, Node, Value};
use super::duration::parse_duration;
use super::keys::{Key, Kind, Variant};
use super::mistake::Mistake;
use super::size::parse_size;
use super::suggest::did_you_mean;
use super::text::Span;

/// A checked value and where it stands.
#[derive(Clone, Debug)]
pub struct Raw {
    /// Where the value stands.
    pub span: Span,
    /// The value.
    pub value: RawValue,
}

/// A checked value.
#[derive(Clone, Debug)]
pub enum RawValue {
    /// A string or one word of a choice.
    Text(String),
    /// Within its bounds.
    Integer(i64),
    /// Within its bounds.
    Number(f64),
    /// `true` or `false`.
    Boolean(bool),
    /// Nanoseconds.
    Duration(i64),
    /// Bytes.
    Size(u64),
    /// A column type.
    DataType(DataType),
    /// Nanoseconds since 1970.
    Timestamp(i64),
    /// Items that were right.
    List(Vec<Raw>),
    /// Keys that were right.
    Table(Table),
    /// A table of whatever the user likes.
    Json(serde_json::Value),
}

/// A checked table, in the order of the file. Getters give `None` for what was absent or wrong (and then reported).
#[derive(Clone, Debug)]
pub struct Table {
    /// Where the table stands.
    pub span: Span,
    /// `kind` of a source, step or sink; empty otherwise.
    pub kind: &'static str,
    /// Its keys whose values were right.
    pub entries: Vec<RawEntry>,
    /// Its known keys, those with wrong values included, so that one mistake does not look like another.
    pub written: Vec<String>,
}

/// One key of a checked table.
#[derive(Clone, Debug)]
pub struct RawEntry {
    /// The key.
    pub key: String,
    /// Where it stands.
    pub key_span: Span,
    /// Its value.
    pub raw: Raw,
}

impl Table {
    fn new(span: Span) -> Table {
        Table { span, kind: "", entries: Vec::new(), written: Vec::new() }
    }

    /// The entry of a key.
    pub fn entry(&self, key: &str) -> Option<&RawEntry> {
        self.entries.iter().find(|entry| entry.key == key)
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&Raw> {
        self.entry(key).map(|entry| &entry.raw)
    }

    /// A string or choice.
    pub fn text(&self, key: &str) -> Option<&str> {
        self.get(key)?.text()
    }

    /// A whole number.
    pub fn integer(&self, key: &str) -> Option<i64> {
        self.get(key)?.integer()
    }

    /// A number.
    pub fn number(&self, key: &str) -> Option<f64> {
        match self.get(key)?.value {
            RawValue::Number(number) => Some(number),
            _ => None,
        }
    }

    /// A boolean.
    pub fn boolean(&self, key: &str) -> Option<bool> {
        match self.get(key)?.value {
            RawValue::Boolean(boolean) => Some(boolean),
            _ => None,
        }
    }

    /// Nanoseconds.
    pub fn duration(&self, key: &str) -> Option<i64> {
        match self.get(key)?.value {
            RawValue::Duration(ns) => Some(ns),
            _ => None,
        }
    }

    /// Bytes.
    pub fn size(&self, key: &str) -> Option<u64> {
        match self.get(key)?.value {
            RawValue::Size(bytes) => Some(bytes),
            _ => None,
        }
    }

    /// Nanoseconds since 1970.
    pub fn timestamp(&self, key: &str) -> Option<i64> {
        match self.get(key)?.value {
            RawValue::Timestamp(ns) => Some(ns),
            _ => None,
        }
    }

    /// A column type.
    pub fn data_type(&self, key: &str) -> Option<DataType> {
        match self.get(key)?.value {
            RawValue::DataType(data_type) => Some(data_type),
            _ => None,
        }
    }

    /// Items of a list; empty when absent.
    pub fn list(&self, key: &str) -> &[Raw] {
        match self.get(key) {
            Some(Raw { value: RawValue::List(items), .. }) => items,
            _ => &[],
        }
    }

    /// Strings of a list; empty when absent.
    pub fn texts(&self, key: &str) -> Vec<String> {
        self.list(key).iter().filter_map(|raw| raw.text().map(str::to_owned)).collect()
    }

    /// A table under this one.
    pub fn table(&self, key: &str) -> Option<&Table> {
        self.get(key)?.table()
    }

    /// Entries of a table under this one; empty when absent.
    pub fn children(&self, key: &str) -> &[RawEntry] {
        self.table(key).map_or(&[], |table| &table.entries)
    }
}

impl Raw {
    /// The string, if it is one.
    pub fn text(&self) -> Option<&str> {
        match &self.value {
            RawValue::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The whole number, if it is one.
    pub fn integer(&self) -> Option<i64> {
        match self.value {
            RawValue::Integer(integer) => Some(integer),
            _ => None,
        }
    }

    /// The table, if it is one.
    pub fn table(&self) -> Option<&Table> {
        match &self.value {
            RawValue::Table(table) => Some(table),
            _ => None,
        }
    }
}

/// Checks the entries of a table against its keys. `what` names the table in messages, for example `a file source`.
pub fn check_table(entries: &[Entry], keys: &[Key], span: Span, what: &str, mistakes: &mut Vec<Mistake>) -> Table {
    let mut table = Table::new(span);
    for entry in entries {
        match keys.iter().find(|key| key.name == entry.key) {
            Some(key) => push_checked(&mut table, entry, &key.kind, mistakes),
            None if entry.key == "kind" && what != "the file" && !keys.iter().any(|key| key.name == "kind") => {}
            None => mistakes.push(unknown_key(entry, keys, what)),
        }
    }
    for key in keys.iter().filter(|key| key.required && !entries.iter().any(|entry| entry.key == key.name)) {
        let message = format!("{what} needs `{}`", key.name);
        let hint = Some(key.doc.to_owned());
        mistakes.push(Mistake { span: missing_place(span), message, hint, is_private: false });
    }
    table
}

/// An empty span is the whole file's: it has no line of its own.
fn missing_place(span: Span) -> Option<Span> {
    (span.start != span.end).then_some(span)
}

fn unknown_key(entry: &Entry, keys: &[Key], what: &str) -> Mistake {
    let names: Vec<&str> = keys.iter().map(|key| key.name).collect();
    let hint = did_you_mean(&entry.key, names.iter().copied())
        .unwrap_or_else(|| format!("{what} has the keys {}", names.join(", ")));
    Mistake::at(entry.key_span, format!("unknown key `{}` in {what}", entry.key)).hint(hint)
}

fn push_checked(table: &mut Table, entry: &Entry, kind: &Kind, mistakes: &mut Vec<Mistake>) {
    table.written.push(entry.key.clone());
    // A table's own place is its header or key, which says more than the whole body.
    let place = match entry.node.value {
        Value::Table(_) => entry.key_span,
        _ => entry.node.span,
    };
    if let Some(raw) = check(&entry.key, place, &entry.node, kind, mistakes) {
        table.entries.push(RawEntry { key: entry.key.clone(), key_span: entry.key_span, raw });
    }
}

/// Checks one value; notes what is wrong with it and gives `None` then.
fn check(key: &str, place: Span, node: &Node, kind: &Kind, mistakes: &mut Vec<Mistake>) -> Option<Raw> {
    let value = match (kind, &node.value) {
        (Kind::OrTable(_, keys), Value::Table(entries)) => {
            RawValue::Table(check_table(entries, keys, place, &format!("`{key}`"), mistakes))
        }
        (Kind::OrTable(kind, _), _) => return check(key, place, node, kind, mistakes),
        (Kind::Table(keys), Value::Table(entries)) => {
            RawValue::Table(check_table(entries, keys, place, &format!("`{key}`"), mistakes))
        }
        (Kind::Variants(variants), Value::Table(entries)) => {
            RawValue::Table(check_variant(key, place, entries, variants, mistakes)?)
        }
        (Kind::Map(kind), Value::Table(entries)) => {
            let mut table = Table::new(place);
            entries.iter().for_each(|entry| push_checked(&mut table, entry, kind, mistakes));
            RawValue::Table(table)
        }
        (Kind::Anything, Value::Table(_)) => RawValue::Json(json(key, node, mistakes)?),
        (Kind::List(kind), Value::List(items)) => {
            RawValue::List(items.iter().filter_map(|item| check(key, item.span, item, kind, mistakes)).collect())
        }
        (Kind::Streams, Value::List(items)) if items.is_empty() => {
            mistakes.push(Mistake::at(place, format!("`{key}` is empty")).hint("name at least one stream"));
            return None;
        }
        (Kind::Streams, Value::List(items)) => {
            let kind = &Kind::Filled;
            RawValue::List(items.iter().filter_map(|item| check(key, item.span, item, kind, mistakes)).collect())
        }
        _ => match check_scalar(key, node, kind) {
            Ok(value) => value,
            Err((message, hint)) => {
                let is_private = matches!(kind, Kind::Secret);
                mistakes.push(Mistake { span: Some(place), message, hint, is_private });
                return None;
            }
        },
    };
    Some(Raw { span: place, value })
}

/// A value as JSON; a date-time is the text that was written.
fn json(key: &str, node: &Node, mistakes: &mut Vec<Mistake>) -> Option<serde_json::Value> {
    Some(match &node.value {
        Value::Text(text) | Value::Datetime(text) => text.clone().into(),
        Value::Integer(Some(integer)) => (*integer).into(),
        Value::Float(number) if number.is_finite() => (*number).into(),
        Value::Boolean(boolean) => (*boolean).into(),
        Value::List(items) => items.iter().map(|item| json(key, item, mistakes)).collect::<Option<Vec<_>>>()?.into(),
        Value::Table(entries) => {
            let pair = |entry: &Entry| Some((entry.key.clone(), json(&entry.key, &entry.node, mistakes)?));
            serde_json::Value::Object(entries.iter().map(pair).collect::<Option<_>>()?)
        }
        Value::Integer(None) | Value::Float(_) => {
            let problem = "is neither a number of 64 bits nor a finite one";
            mistakes.push(Mistake::at(node.span, format!("`{key}` {problem}")).hint("write it in quotes"));
            return None;
        }
    })
}

fn check_variant(
    name: &str,
    place: Span,
    entries: &[Entry],
    variants: &[Variant],
    mistakes: &mut Vec<Mistake>,
) -> Option<Table> {
    let kinds: Vec<&str> = variants.iter().map(|variant| variant.kind).collect();
    let all = format!("kind is one of {}", kinds.join(", "));
    let Some(entry) = entries.iter().find(|entry| entry.key == "kind") else {
        mistakes.push(Mistake::at(place, format!("`{name}` needs `kind`")).hint(all));
        return None;
    };
    let Value::Text(kind) = &entry.node.value else {
        let message = format!("`kind` is {}, but should be a string", entry.node.value.type_name());
        mistakes.push(Mistake::at(entry.node.span, message).hint(all));
        return None;
    };
    let Some(variant) = variants.iter().find(|variant| variant.kind == kind) else {
        let hint = did_you_mean(kind, kinds.iter().copied()).unwrap_or(all);
        mistakes.push(Mistake::at(entry.node.span, format!("unknown kind `{kind}`")).hint(hint));
        return None;
    };
    let what = format!("`{name}` (kind {kind})");
    let mut table = check_table(entries, variant.keys, place, &what, mistakes);
    table.kind = variant.kind;
    Some(table)
}

/// Message and hint.
type Wrong = (String, Option<String>);

fn check_scalar(key: &str, node: &Node, kind: &Kind) -> Result<RawValue, Wrong> {
    match (kind, &node.value) {
        (Kind::Text | Kind::Secret, Value::Text(text)) => Ok(RawValue::Text(text.clone())),
        (Kind::Filled, Value::Text(text)) if text.trim().is_empty() => Err((format!("`{key}` is empty"), None)),
        (Kind::Filled, Value::Text(text)) => Ok(RawValue::Text(text.clone())),
        (Kind::Boolean, Value::Boolean(boolean)) => Ok(RawValue::Boolean(*boolean)),
        (Kind::Integer(..) | Kind::PowerOfTwo(..), Value::Integer(integer)) => check_integer(key, *integer, kind),
        (Kind::Number { .. }, Value::Integer(Some(integer))) => check_number(key, *integer as f64, kind),
        (Kind::Number { .. }, Value::Float(number)) => check_number(key, *number, kind),
        (Kind::Duration | Kind::Length, Value::Text(text)) => match parse_duration(text) {
            Ok(0) if matches!(kind, Kind::Length) => Err((format!("`{key}` must be longer than zero"), None)),
            Ok(ns) => Ok(RawValue::Duration(ns)),
            Err(error) => Err((format!("`{key}`: {error}"), None)),
        },
        (Kind::Duration | Kind::Length, Value::Integer(Some(number))) => {
            Err((format!("`{key}`: durations need a unit, for example \"{}s\"", number.unsigned_abs()), None))
        }
        (Kind::Size, Value::Text(text)) => {
            parse_size(text).map(RawValue::Size).map_err(|error| (format!("`{key}`: {error}"), None))
        }
        (Kind::Size, Value::Integer(Some(number))) => {
            Err((format!("`{key}`: sizes need a unit, for example \"{}KiB\"", number.unsigned_abs()), None))
        }
        (Kind::Choice(words), Value::Text(text)) => check_choice(key, text, words),
        (Kind::DataType, Value::Text(text)) => check_data_type(key, text),
        (Kind::Timestamp, Value::Text(text) | Value::Datetime(text)) => check_timestamp(key, text),
        (kind, value) => Err(wrong_type(key, value, kind)),
    }
}

fn check_integer(key: &str, integer: Option<i64>, kind: &Kind) -> Result<RawValue, Wrong> {
    let (&Kind::Integer(min, max) | &Kind::PowerOfTwo(min, max)) = kind else { unreachable!("called for integers") };
    let range = if max == i64::MAX { format!("at least {min}") } else { format!("between {min} and {max}") };
    let Some(integer) = integer.filter(|integer| (min..=max).contains(integer)) else {
        return Err((format!("`{key}` must be {range}"), None));
    };
    if matches!(kind, Kind::PowerOfTwo(..)) && !integer.unsigned_abs().is_power_of_two() {
        let above = integer.unsigned_abs().next_power_of_two();
        return Err((format!("`{key}` must be a power of two"), Some(format!("use {} or {above}", above / 2))));
    }
    Ok(RawValue::Integer(integer))
}

fn check_number(key: &str, number: f64, kind: &Kind) -> Result<RawValue, Wrong> {
    let &Kind::Number { above, inclusive, max } = kind else { unreachable!("called for numbers") };
    let enough = if inclusive { number >= above } else { number > above };
    if enough && number <= max {
        return Ok(RawValue::Number(number));
    }
    let bound =
        if inclusive { format!("between {above} and {max}") } else { format!("more than {above} and at most {max}") };
    Err((format!("`{key}` must be {bound}"), None))
}

fn check_choice(key: &str, text: &str, words: &[&str]) -> Result<RawValue, Wrong> {
    if words.contains(&text) {
        return Ok(RawValue::Text(text.to_owned()));
    }
    let hint = did_you_mean(text, words.iter().copied());
    Err((format!("`{key}` is `{text}`, but should be one of {}", words.join(", ")), hint))
}

/// What a source's field can be.
pub const DATA_TYPES: [&str; 17] = [
    "bool",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "float32",
    "float64",
    "utf8",
    "binary",
    "timestamp[s]",
    "timestamp[ms]",
    "timestamp[us]",
    "timestamp[ns]",
];

/// Names that people bring from other systems.
const FOREIGN_TYPES: [(&str, &str); 12] = [
    ("string", "utf8"),
    ("str", "utf8"),
    ("text", "utf8"),
    ("float", "float64"),
    ("double", "float64"),
    ("int", "int64"),
    ("integer", "int64"),
    ("long", "int64"),
    ("boolean", "bool"),
    ("bytes", "binary"),
    ("timestamp", "timestamp[ms]"),
    ("datetime", "timestamp[ms]"),
];

fn check_data_type(key: &str, text: &str) -> Result<RawValue, Wrong> {
    if let Ok(data_type) = text.parse() {
        return Ok(RawValue::DataType(data_type));
    }
    let lower = text.to_lowercase();
    let foreign = FOREIGN_TYPES.iter().find(|(name, _)| *name == lower);
    let hint = match foreign {
        Some((_, ours)) => format!("did you mean `{ours}`?"),
        None => did_you_mean(&lower, DATA_TYPES).unwrap_or_else(|| format!("types are {}", DATA_TYPES.join(", "))),
    };
    Err((format!("`{key}`: `{text}` is not a column type"), Some(hint)))
}

fn check_timestamp(key: &str, text: &str) -> Result<RawValue, Wrong> {
    let wrong = || {
        let hint = "write it in RFC 3339 with a time zone, for example \"2026-01-01T00:00:00Z\"";
        (format!("`{key}`: `{text}` is not a point in time"), Some(hint.to_owned()))
    };
    let timestamp: jiff::Timestamp = text.parse().map_err(|_| wrong())?;
    i64::try_from(timestamp.as_nanosecond()).map(RawValue::Timestamp).map_err(|_| wrong())
}

fn wrong_type(key: &str, value: &Value, kind: &Kind) -> Wrong {
    let (expected, hint) = match kind {
        Kind::Text | Kind::Secret | Kind::Filled | Kind::Choice(_) => ("a string".to_owned(), None),
        Kind::Boolean => ("true or false".to_owned(), None),
        Kind::Integer(..) | Kind::PowerOfTwo(..) => ("a whole number".to_owned(), None),
        Kind::Number { .. } => ("a number".to_owned(), None),
        Kind::Duration | Kind::Length => ("a duration".to_owned(), Some("for example \"10s\"".to_owned())),
        Kind::Size => ("a size".to_owned(), Some("for example \"64KiB\"".to_owned())),
        Kind::DataType => ("a column type".to_owned(), Some("for example \"float64\"".to_owned())),
        Kind::Timestamp => ("a point in time".to_owned(), Some("for example \"2026-01-01T00:00:00Z\"".to_owned())),
        Kind::List(_) | Kind::Streams => ("a list".to_owned(), list_hint(key, value)),
        Kind::Map(_) | Kind::Anything | Kind::Table(_) | Kind::Variants(_) => ("a table".to_owned(), None),
        Kind::OrTable(kind, _) => return wrong_type(key, value, kind),
    };
    (format!("`{key}` is {}, but should be {expected}", value.type_name()), hint)
}

fn list_hint(key: &str, value: &Value) -> Option<String> {
    match value {
        Value::Text(text) => Some(format!("write {key} = [\"{text}\"]")),
        _ => None,
    }
}
