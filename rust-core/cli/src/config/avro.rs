//! The format of a broker's messages: the keys `format` and `avro`, checked with the fields.

use std::path::Path;

use ringmill_connect::{AvroSchema, AvroSpec, FieldSpec, MessageFormat};

use super::mistake::Mistake;
use super::raw::Table;

/// What a source's messages are; `None` if that cannot be known. `members`: the fields that take what stands beside them.
pub fn message_format(
    table: &Table,
    fields: &[FieldSpec],
    members: &[&str],
    directory: &Path,
    mistakes: &mut Vec<Mistake>,
) -> Option<MessageFormat> {
    let entry = table.entry("avro");
    match (table.text("format"), entry) {
        (Some("avro"), Some(_)) => {}
        (Some("avro"), None) => {
            let mistake = Mistake::at(table.get("format")?.span, "`format` is avro, but there is no table `avro`");
            mistakes.push(mistake.hint("add avro = { schema_file = \"reading.avsc\" }"));
            return None;
        }
        (_, Some(entry)) => {
            let mistake = Mistake::at(entry.key_span, "`avro` has no effect without format = \"avro\"");
            mistakes.push(mistake);
            return Some(MessageFormat::Json);
        }
        (_, None) => return Some(MessageFormat::Json),
    }
    let avro = avro(table.table("avro")?, directory, mistakes)?;
    check(&avro, table, (fields, members), mistakes);
    Some(MessageFormat::Avro(Box::new(avro)))
}

fn avro(table: &Table, directory: &Path, mistakes: &mut Vec<Mistake>) -> Option<AvroSpec> {
    let file = table.get("schema_file")?;
    let path = directory.join(file.text()?);
    let schema = AvroSchema::read(&path).map_err(|reason| {
        mistakes.push(Mistake::at(file.span, format!("`schema_file`: {}: {reason}", path.display())));
    });
    let encoding = match table.text("encoding") {
        Some("single-object") => AvroSpec::SingleObject,
        _ => AvroSpec::Datum,
    };
    schema.map(encoding).ok()
}

/// What of the schema does not fit a field is shown at the field.
fn check(avro: &AvroSpec, table: &Table, (fields, members): (&[FieldSpec], &[&str]), mistakes: &mut Vec<Mistake>) {
    for misfit in avro.misfits(fields, members) {
        let field = misfit.field.as_ref().and_then(|name| table.table("fields")?.entry(name));
        let schema = table.table("avro").and_then(|avro| avro.get("schema_file"));
        let place = field.map(|entry| entry.raw.span).or(schema.map(|file| file.span)).unwrap_or(table.span);
        let mistake = match &misfit.field {
            Some(name) => Mistake::at(place, format!("`{name}` does not fit the schema: {}", misfit.reason)),
            None => Mistake::at(place, format!("`schema_file`: {}", misfit.reason)),
        };
        mistakes.push(mistake.hint_maybe(misfit.hint));
    }
}
