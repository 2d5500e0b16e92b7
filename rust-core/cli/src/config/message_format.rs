//! The format of a broker's messages: the key `format` and the table of that name, checked with the fields of a source.

use std::path::Path;

use ringmill_connect::{AvroOutput, BinaryFormat, FieldMisfit, Fields, MessageFormat, MessageOutput};

use super::avro::avro;
use super::mistake::Mistake;
use super::protobuf::{protobuf, protobuf_output};
use super::raw::{Raw, Table};

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
    let Some(Chosen { name, file, table: own }) = chosen(table, mistakes)? else {
        if table.text("format") != Some("raw") {
            return Some(MessageFormat::Json);
        }
        if fields.types().is_none() {
            show_misfits(BinaryFormat::Raw.misfits(fields, members), table, None, mistakes);
        }
        return Some(MessageFormat::Binary(BinaryFormat::Raw));
    };
    let format = match name {
        "avro" => BinaryFormat::Avro(Box::new(avro(own, directory, mistakes)?)),
        _ => BinaryFormat::Protobuf(Box::new(protobuf(own, directory, mistakes)?)),
    };
    if fields.types().is_some() {
        check_registry(own, file, mistakes);
    } else {
        let file = own.get(file).map(|raw| (file, raw));
        show_misfits(format.misfits(fields, members), table, file, mistakes);
    }
    Some(MessageFormat::Binary(format))
}

/// A binary format.
struct Chosen<'t> {
    name: &'static str,
    /// the key of the file with its schema
    file: &'static str,
    /// the table of its name
    table: &'t Table,
}

/// The binary format that is chosen, or that it is none of them; `None` if that cannot be known.
fn chosen<'t>(table: &'t Table, mistakes: &mut Vec<Mistake>) -> Option<Option<Chosen<'t>>> {
    let format = table.text("format").unwrap_or("json");
    for (name, ..) in BINARY.iter().filter(|(name, ..)| *name != format) {
        if let Some(entry) = table.entry(name) {
            let message = format!("`{name}` has no effect without format = \"{name}\"");
            mistakes.push(Mistake::at(entry.key_span, message));
        }
    }
    let Some((name, example, file)) = BINARY.iter().find(|(name, ..)| *name == format) else { return Some(None) };
    match table.table(name) {
        Some(table) => Some(Some(Chosen { name, file, table })),
        None => {
            if !table.written.iter().any(|written| written == name) {
                let message = format!("`format` is {name}, but there is no table `{name}`");
                let mistake = Mistake::at(table.get("format")?.span, message);
                mistakes.push(mistake.hint(format!("add {name} = {example}")));
            }
            None
        }
    }
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

/// Shows what does not fit a field at the field; what a schema itself is to blame for at the key with its `file`.
pub fn show_misfits(misfits: Vec<FieldMisfit>, table: &Table, file: Option<(&str, &Raw)>, mistakes: &mut Vec<Mistake>) {
    for misfit in misfits {
        let field = misfit.field.as_ref().and_then(|name| table.table("fields")?.entry(name));
        let place = field.map(|entry| entry.raw.span).or(file.map(|(_, raw)| raw.span)).unwrap_or(table.span);
        let message = match (&misfit.field, file) {
            (Some(name), Some(_)) => format!("`{name}` does not fit the schema: {}", misfit.reason),
            (Some(name), None) => format!("`{name}`: {}", misfit.reason),
            (None, Some((key, _))) => format!("`{key}`: {}", misfit.reason),
            (None, None) => format!("`format`: {}", misfit.reason),
        };
        mistakes.push(Mistake::at(place, message).hint_maybe(misfit.hint));
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
    let Some(Chosen { name, table: own, .. }) = chosen(table, mistakes)? else {
        return Some(if table.text("format") == Some("raw") { MessageOutput::Raw } else { MessageOutput::Json });
    };
    let (given, has_registry) = (own.entry("subject"), own.entry("registry").is_some());
    if let Some(entry) = given.filter(|_| !has_registry) {
        mistakes.push(Mistake::at(entry.key_span, "`subject` has no effect without `registry`"));
    }
    let subject = own.text("subject").map(str::to_owned).or(subject);
    if has_registry && subject.is_none() {
        let message =
            format!("`{name}` needs `subject`, under which the schema stands in the registry, as no one topic says it");
        mistakes.push(Mistake::at(own.span, message).hint("add subject = \"scores-value\""));
    }
    let subject = subject.unwrap_or_default();
    Some(match name {
        "avro" => MessageOutput::Avro(Box::new(AvroOutput::new(avro(own, directory, mistakes)?, subject))),
        _ => MessageOutput::Protobuf(Box::new(protobuf_output(own, subject, directory, mistakes)?)),
    })
}
