//! The fields of a source that take what stands beside a message.

use ringmill_connect::Fields;
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
pub fn message_field_at(
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
