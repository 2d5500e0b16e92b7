//! The keys `type` and `types` of a source whose events are of several types, checked together.

use ringmill_connect::{EventType, EventTypes, FieldSpec, Fields, Format, TypePlace};
use ringmill_wire::DataType;

use super::graph::{NAME_HINT, is_name};
use super::kafka::check_header;
use super::mistake::Mistake;
use super::raw::{RawEntry, Table};

/// Streams of a source that are no type's.
const TAKEN: [&str; 2] = ["dead_letters", "late"];

/// The types and what tells them apart; `None` if that cannot be known. `format`: of text; `fields_of` reads the `fields`
/// and `event_time` of a type.
pub fn event_types(
    table: &Table,
    format: Format,
    mut fields_of: impl FnMut(&Table, &mut Vec<Mistake>) -> Option<Vec<FieldSpec>>,
    mistakes: &mut Vec<Mistake>,
) -> Option<Fields> {
    check_others(table, format, mistakes);
    let place = place(table, mistakes);
    let types = table.table("types")?;
    if types.written.is_empty() {
        mistakes.push(Mistake::at(types.span, "`types` is empty").hint("add [sources.NAME.types.order], for example"));
        return None;
    }
    let mut known: Vec<(String, &str)> = Vec::new();
    let mut read: Vec<EventType> = Vec::new();
    let mut are_all_read = types.written.len() == types.entries.len();
    for entry in &types.entries {
        let Some(own) = entry.raw.table() else { continue };
        check_name(entry, mistakes);
        let values = values(entry, own, &mut known, mistakes);
        let Some(fields) = fields_of(own, mistakes) else {
            are_all_read = false;
            continue;
        };
        let event_time = own.text("event_time").map(str::to_owned);
        check_unit(own, &fields, &read, mistakes);
        read.push(EventType { name: entry.key.clone(), values, fields, event_time });
    }
    let place = place.filter(|_| are_all_read && mistakes.is_empty())?;
    match EventTypes::new(place, read) {
        Ok(types) => Some(types.into()),
        Err(error) => {
            mistakes.push(Mistake::at(types.span, format!("`types`: {error}")));
            None
        }
    }
}

/// What belongs to a source of one type only.
fn check_others(table: &Table, format: Format, mistakes: &mut Vec<Mistake>) {
    if let Some(entry) = table.entry("fields") {
        let mistake = Mistake::at(entry.key_span, "`fields` and `types` exclude each other");
        mistakes.push(mistake.hint("each type has fields of its own: [sources.NAME.types.order.fields]"));
    }
    if let Some(entry) = table.entry("event_time") {
        let mistake = Mistake::at(entry.key_span, "`event_time` stands in each type, if there are `types`");
        mistakes.push(mistake.hint("move it to [sources.NAME.types.order]"));
    }
    if let (Some(entry), Some("raw")) = (table.entry("types"), table.text("format")) {
        let mistake = Mistake::at(entry.key_span, "`types`: raw lines and messages do not say a type");
        mistakes.push(mistake.hint("add `fields` with one field"));
    }
    if let (Some(entry), Format::Csv) = (table.entry("types"), format) {
        let mistake = Mistake::at(entry.key_span, "`types`: all rows of CSV have the same columns, and so one type");
        mistakes.push(mistake.hint("read lines of JSON, or add `fields` with all columns and a filter for each type"));
    }
}

/// Where the type stands: one of three keys.
fn place(table: &Table, mistakes: &mut Vec<Mistake>) -> Option<TypePlace> {
    let Some(own) = table.table("type") else {
        if !table.written.iter().any(|written| written == "type") {
            let mistake = Mistake::at(table.span, "`types` needs `type`, which says how types are told apart");
            mistakes.push(mistake.hint("add type = { field = \"kind\" }"));
        }
        return None;
    };
    if own.written.len() != 1 {
        let message = "`type` needs exactly one key, which says how types are told apart";
        mistakes.push(Mistake::at(own.span, message).hint("write type = { field = \"kind\" }, for example"));
        return None;
    }
    let format = table.text("format").unwrap_or("json");
    let is_message = matches!(format, "avro" | "protobuf");
    let place = match own.entries.first()?.key.as_str() {
        "field" => TypePlace::Field(own.text("field")?.to_owned()),
        "header" => TypePlace::Header(own.text("header")?.to_owned()),
        _ => TypePlace::Schema,
    };
    let wrong = match place {
        TypePlace::Schema if own.boolean("schema") != Some(true) => Some("`schema` can be nothing but true".to_owned()),
        TypePlace::Schema if !is_message => {
            Some("`schema` tells types of Avro and Protobuf apart, not of JSON".to_owned())
        }
        TypePlace::Field(_) | TypePlace::Header(_) if is_message => {
            Some(format!("with format = \"{format}\" types are told apart by their schemas"))
        }
        _ => None,
    };
    if let Some(message) = wrong {
        let hint = if is_message { "write type = { schema = true }" } else { "write type = { field = \"kind\" }" };
        mistakes.push(Mistake::at(own.span, message).hint(hint));
        return None;
    }
    if let TypePlace::Header(name) = &place {
        check_header(name, own.get("header")?.span, mistakes);
    }
    Some(place)
}

fn check_name(entry: &RawEntry, mistakes: &mut Vec<Mistake>) {
    let name = &entry.key;
    if TAKEN.contains(&name.as_str()) {
        let mistake = Mistake::at(entry.key_span, format!("no type can be called `{name}`: that is another stream"));
        mistakes.push(mistake.hint(format!("give it another name, and values = [\"{name}\"]")));
    } else if !is_name(name) {
        let mistake = Mistake::at(entry.key_span, format!("`{name}` cannot be a name"));
        mistakes.push(mistake.hint(format!("{NAME_HINT}; what events say is told by values = [\"{name}\"]")));
    }
}

/// What events of a type say; each value stands for one type.
fn values<'t>(
    entry: &'t RawEntry,
    own: &Table,
    known: &mut Vec<(String, &'t str)>,
    mistakes: &mut Vec<Mistake>,
) -> Vec<String> {
    let span = own.get("values").map_or(entry.key_span, |raw| raw.span);
    let values = if own.written.iter().any(|written| written == "values") {
        own.texts("values")
    } else {
        vec![entry.key.clone()]
    };
    if own.get("values").is_some() && values.is_empty() {
        mistakes.push(Mistake::at(span, "`values` is empty").hint("leave it out where it is the type's name"));
    }
    for value in &values {
        match known.iter().find(|(other, _)| other == value) {
            Some((_, other)) => {
                mistakes.push(Mistake::at(span, format!("`{value}` stands for the type `{other}` already")));
            }
            None => known.push((value.clone(), &entry.key)),
        }
    }
    values
}

/// The event times of all types are in one column.
fn check_unit(own: &Table, fields: &[FieldSpec], others: &[EventType], mistakes: &mut Vec<Mistake>) {
    let unit = |name: &str, fields: &[FieldSpec]| {
        let field = fields.iter().find(|field| field.name == name);
        field.map(|field| field.data_type).filter(|data_type| matches!(data_type, DataType::Timestamp(_)))
    };
    let Some(raw) = own.get("event_time") else { return };
    let Some(found) = raw.text().and_then(|name| unit(name, fields)) else { return };
    let of = |other: &EventType| Some((other.name.clone(), unit(other.event_time.as_deref()?, &other.fields)?));
    if let Some((other, wanted)) = others.iter().find_map(of).filter(|(_, wanted)| *wanted != found) {
        let message =
            format!("`event_time` is {found}, and that of `{other}` is {wanted}: they must have the same unit");
        mistakes.push(Mistake::at(raw.span, message).hint(format!("declare the field as \"{wanted}\"")));
    }
}
