//! The format of a broker's messages: the key `format` and the table of that name, checked with the fields of a source.

use std::path::Path;

use ringmill_connect::{AvroOutput, BinaryFormat, FieldSpec, Fields, MessageFormat, MessageOutput};

use super::avro::avro;
use super::mistake::Mistake;
use super::protobuf::protobuf;
use super::raw::Table;

/// The binary formats, what their tables may look like, and the keys of the files with their schemas.
const BINARY: [(&str, &str, &str); 2] = [
    ("avro", "{ schema_file = \"reading.avsc\" }", "schema_file"),
    ("protobuf", "{ descriptor_file = \"plant.pb\", message = \"plant.Reading\" }", "descriptor_file"),
];

/// What a source's messages are; `None` if that cannot be known. `members`: the fields that take what stands beside them.
pub fn message_format(
    table: &Table,
    fields: &Fields,
    members: &[&str],
    directory: &Path,
    mistakes: &mut Vec<Mistake>,
) -> Option<MessageFormat> {
    let format = table.text("format").unwrap_or("json");
    for (name, ..) in BINARY.iter().filter(|(name, ..)| *name != format) {
        if let Some(entry) = table.entry(name) {
            let message = format!("`{name}` has no effect without format = \"{name}\"");
            mistakes.push(Mistake::at(entry.key_span, message));
        }
    }
    let Some((name, example, file)) = BINARY.iter().find(|(name, ..)| *name == format) else {
        return Some(MessageFormat::Json);
    };
    let Some(own) = table.table(name) else {
        if !table.written.iter().any(|written| written == name) {
            let message = format!("`format` is {name}, but there is no table `{name}`");
            let mistake = Mistake::at(table.get("format")?.span, message);
            mistakes.push(mistake.hint(format!("add {name} = {example}")));
        }
        return None;
    };
    let format = match *name {
        "avro" => BinaryFormat::Avro(Box::new(avro(own, directory, mistakes)?)),
        _ => BinaryFormat::Protobuf(Box::new(protobuf(own, directory, mistakes)?)),
    };
    if fields.types().is_some() {
        check_registry(own, file, mistakes);
    } else {
        check(&format, table, (own, file), (fields, members), mistakes);
    }
    Some(MessageFormat::Binary(format))
}

/// Types are told apart by the schemas of a registry, which say all that is known of them.
fn check_registry(own: &Table, file: &str, mistakes: &mut Vec<Mistake>) {
    if own.entry("registry").is_none() {
        let mistake = Mistake::at(own.span, "types are told apart by the schemas of a registry, and none is named");
        mistakes.push(mistake.hint("add registry = \"http://registry:8081\""));
    }
    for entry in [file, "message"].iter().filter_map(|key| own.entry(key)) {
        let message = format!("`{}` is that of one type, and there are several", entry.key);
        mistakes.push(Mistake::at(entry.key_span, message).hint("remove it"));
    }
}

/// What of the schema does not fit a field is shown at the field.
fn check(
    format: &BinaryFormat,
    table: &Table,
    (own, file): (&Table, &str),
    (fields, members): (&[FieldSpec], &[&str]),
    mistakes: &mut Vec<Mistake>,
) {
    for misfit in format.misfits(fields, members) {
        let field = misfit.field.as_ref().and_then(|name| table.table("fields")?.entry(name));
        let schema = own.get(file).map(|file| file.span);
        let place = field.map(|entry| entry.raw.span).or(schema).unwrap_or(table.span);
        let mistake = match &misfit.field {
            Some(name) => Mistake::at(place, format!("`{name}` does not fit the schema: {}", misfit.reason)),
            None => Mistake::at(place, format!("`{file}`: {}", misfit.reason)),
        };
        mistakes.push(mistake.hint_maybe(misfit.hint));
    }
}

/// What a sink's messages are; `None` if that cannot be known. `subject`: under which their schema stands in a registry, if
/// the table does not say it.
pub fn message_output(
    table: &Table,
    subject: Option<String>,
    directory: &Path,
    mistakes: &mut Vec<Mistake>,
) -> Option<MessageOutput> {
    let (name, example, _) = BINARY[0];
    if table.text("format") != Some(name) {
        if let Some(entry) = table.entry(name) {
            mistakes.push(Mistake::at(entry.key_span, "`avro` has no effect without format = \"avro\""));
        }
        return Some(MessageOutput::Json);
    }
    let Some(own) = table.table(name) else {
        let mistake = Mistake::at(table.get("format")?.span, "`format` is avro, but there is no table `avro`");
        mistakes.push(mistake.hint(format!("add avro = {example}")));
        return None;
    };
    let (given, has_registry) = (own.entry("subject"), own.entry("registry").is_some());
    if let Some(entry) = given.filter(|_| !has_registry) {
        mistakes.push(Mistake::at(entry.key_span, "`subject` has no effect without `registry`"));
    }
    let subject = own.text("subject").map(str::to_owned).or(subject);
    if has_registry && subject.is_none() {
        let message = "`avro` needs `subject`, under which the schema stands in the registry, as no one topic says it";
        mistakes.push(Mistake::at(own.span, message).hint("add subject = \"scores-value\""));
    }
    let spec = avro(own, directory, mistakes)?;
    Some(MessageOutput::Avro(Box::new(AvroOutput::new(spec, subject.unwrap_or_default()))))
}
