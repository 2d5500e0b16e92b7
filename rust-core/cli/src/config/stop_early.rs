//! The key `stop_early` of sources that read JSON.

use ringmill_connect::{Fields, Format};

use super::mistake::Mistake;
use super::raw::Table;

/// The fields, read as the key says.
pub fn stop_early(table: &Table, format: Format, fields: Fields, mistakes: &mut Vec<Mistake>) -> Fields {
    let Some(entry) = table.entry("stop_early").filter(|_| table.boolean("stop_early") == Some(true)) else {
        return fields;
    };
    let other = table.text("format").filter(|name| *name != "json");
    if format != Format::Json || other.is_some() {
        let message = format!("`stop_early` belongs to JSON, and this is {}", other.unwrap_or(format.name()));
        mistakes.push(Mistake::at(entry.key_span, message).hint("remove it"));
    }
    // What a broker says of a message is read behind all that the message says.
    let is_beside = |key: &&String| key.ends_with("_field") || *key == "header_fields";
    if let Some(beside) = table.written.iter().find(is_beside) {
        let message = format!("`stop_early` has no effect with `{beside}`, whose value stands behind a message's end");
        mistakes.push(Mistake::at(entry.key_span, message).hint("leave either of them out"));
    }
    fields.stop_early()
}
