//! The fields of a source that take what stands beside a message, and the columns of a sink that stand there.

use ringmill_connect::{Fields, HeaderColumn, HeaderField};
use ringmill_wire::DataType;

use super::mistake::Mistake;
use super::raw::Table;
use super::text::Span;

/// The field that `key` names, if it is one of these types; `words` are the types for people.
pub fn message_field(
    table: &Table,
    key: &str,
    (types, words): (&[DataType], &str),
    fields: &Fields,
    mistakes: &mut Vec<Mistake>,
) -> Option<String> {
    let entry = table.entry(key)?;
    message_field_at(key, (entry.raw.text()?, entry.raw.span), (types, words), fields, mistakes)
}

/// The same where the name stands at `span`.
fn message_field_at(
    key: &str,
    (name, span): (&str, Span),
    (types, words): (&[DataType], &str),
    fields: &Fields,
    mistakes: &mut Vec<Mistake>,
) -> Option<String> {
    let own: Vec<_> = fields.declared().filter(|field| field.name == name).collect();
    let wrong = if own.is_empty() {
        format!("`{key}`: there is no field `{name}`")
    } else if own.iter().any(|field| !types.contains(&field.data_type)) {
        format!("`{key}`: field `{name}` must be {words}")
    } else if own.iter().any(|field| field.path.is_some()) {
        format!("`{key}`: field `{name}` must have no path")
    } else if types.contains(&DataType::Binary)
        && let Some(other) = own.iter().find(|field| field.data_type != own[0].data_type)
    {
        // It is written once, as text or in base64, before it is known what type the event is of.
        let (one, other) = (own[0].data_type, other.data_type);
        format!("`{key}`: field `{name}` is {one} in one type and {other} in another")
    } else {
        return Some(name.to_owned());
    };
    let hint = format!("[sources.NAME.fields] {name} = \"{}\"", types[0]);
    mistakes.push(Mistake::at(span, wrong).hint(hint));
    None
}

/// Refuses the name of a header, which stands there.
pub type CheckHeader = fn(&str, Span, &mut Vec<Mistake>);

/// The fields that take a header's value each; `beside`: keys that name a field of their own.
pub fn header_fields(
    table: &Table,
    (beside, check_header): (&[&str], CheckHeader),
    fields: &Fields,
    mistakes: &mut Vec<Mistake>,
) -> Vec<HeaderField> {
    let mut headers = Vec::new();
    for entry in table.children("header_fields") {
        let Some(header) = entry.raw.text() else { continue };
        check_header(header, entry.raw.span, mistakes);
        if let Some(other) = beside.iter().find(|other| table.text(other) == Some(entry.key.as_str())) {
            let message = format!("`header_fields.{0}`: field `{0}` is that of `{other}` already", entry.key);
            mistakes.push(Mistake::at(entry.key_span, message));
            continue;
        }
        let types = (&[DataType::Utf8, DataType::Binary][..], "utf8 or binary");
        let key = format!("header_fields.{}", entry.key);
        let field = message_field_at(&key, (&entry.key, entry.key_span), types, fields, mistakes);
        headers.extend(field.map(|field| HeaderField { field, header: header.to_owned() }));
    }
    headers
}

/// The columns that are also headers.
pub fn header_columns(table: &Table, check_header: CheckHeader, mistakes: &mut Vec<Mistake>) -> Vec<HeaderColumn> {
    let mut headers = Vec::new();
    for entry in table.children("headers") {
        let Some(column) = entry.raw.text() else { continue };
        check_header(&entry.key, entry.raw.span, mistakes);
        headers.push(HeaderColumn { name: entry.key.clone(), column: column.to_owned() });
    }
    headers
}

/// Refuses a list without anything in it.
pub fn check_filled(table: &Table, key: &str, mistakes: &mut Vec<Mistake>) {
    if let Some(entry) = table.entry(key).filter(|_| table.list(key).is_empty()) {
        mistakes.push(Mistake::at(entry.raw.span, format!("`{key}` is empty")));
    }
}
