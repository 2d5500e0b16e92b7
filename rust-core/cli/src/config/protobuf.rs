//! The keys of the table `protobuf` of a source and of a sink, checked together.

use std::path::Path;

use ringmill_connect::{ProtobufOutput, ProtobufSchema, ProtobufSpec, ProtobufTarget, ProtobufTypes};

use super::mistake::Mistake;
use super::raw::{Raw, RawEntry, Table};
use super::registry::{check_unused, registry};
use super::suggest::did_you_mean;

/// So many types are named in a hint.
const NAMES_MAX: usize = 20;

/// How messages are read; `None` if that cannot be known.
pub fn protobuf(table: &Table, directory: &Path, mistakes: &mut Vec<Mistake>) -> Option<ProtobufSpec> {
    let message = table.get("message");
    let written = |key: &str| table.written.iter().any(|written| written == key);
    check_unused(table, mistakes);
    if written("registry") {
        if let Some(entry) = table.entry("descriptor_file") {
            mistakes.push(Mistake::at(entry.key_span, "`descriptor_file` has no effect with `registry`"));
        }
        table.entry("registry")?;
        let registry = registry(table, directory, mistakes)?;
        return Some(ProtobufSpec::Registry(registry, message.and_then(Raw::text).map(str::to_owned)));
    }
    plain(table, directory, mistakes).map(ProtobufSpec::Plain)
}

/// The type that messages have which nothing stands before.
fn plain(table: &Table, directory: &Path, mistakes: &mut Vec<Mistake>) -> Option<ProtobufSchema> {
    let (file, message) = (table.entry("descriptor_file"), table.get("message"));
    let written = |key: &str| table.written.iter().any(|written| written == key);
    if !written("descriptor_file") {
        let mistake = Mistake::at(table.span, "`protobuf` needs either `descriptor_file` or `registry`");
        mistakes.push(mistake.hint("add descriptor_file = \"plant.pb\", message = \"plant.Reading\""));
        return None;
    }
    if !written("message") {
        mistakes.push(needs_message(table, "descriptor_file"));
        return None;
    }
    schema((file?, ProtobufTypes::read), message?, directory, mistakes)
}

fn needs_message(table: &Table, file: &str) -> Mistake {
    let mistake = Mistake::at(table.span, format!("`protobuf` needs `message` with `{file}`"));
    mistake.hint("add the full name of the type, such as message = \"plant.Reading\"")
}

/// How messages are written; `None` if that cannot be known. `subject`: under which their schema stands in a registry.
pub fn protobuf_output(
    table: &Table,
    subject: String,
    directory: &Path,
    mistakes: &mut Vec<Mistake>,
) -> Option<ProtobufOutput> {
    let written = |key: &str| table.written.iter().any(|written| written == key);
    check_unused(table, mistakes);
    let mut unused = |key: &str, other: &str, word: &str| {
        if let Some(entry) = table.entry(key) {
            let message = format!("`{key}` has no effect {word} `{other}`");
            mistakes.push(Mistake::at(entry.key_span, message));
        }
    };
    let has_registry = written("registry");
    match has_registry {
        true => unused("descriptor_file", "registry", "with"),
        false => unused("schema_file", "registry", "without"),
    }
    if has_registry && !written("schema_file") {
        ["message", "paths"].iter().for_each(|key| unused(key, "schema_file", "without"));
    }
    let paths = table.children("paths").iter();
    let paths = paths.filter_map(|entry| Some((entry.key.clone(), entry.raw.text()?.to_owned()))).collect();
    if !has_registry {
        return Some(ProtobufOutput::new(ProtobufTarget::Plain(plain(table, directory, mistakes)?), paths));
    }
    let schema = match (table.entry("schema_file"), table.get("message")) {
        _ if !written("schema_file") => Some(None),
        (Some(file), Some(message)) => schema((file, ProtobufTypes::read_text), message, directory, mistakes).map(Some),
        _ => {
            if !written("message") {
                mistakes.push(needs_message(table, "schema_file"));
            }
            None
        }
    };
    table.entry("registry")?;
    let registry = registry(table, directory, mistakes)?;
    Some(ProtobufOutput::new(ProtobufTarget::Registry { registry, subject, schema: schema? }, paths))
}

/// How the types in a file are read.
type Read = fn(&Path) -> Result<ProtobufTypes, String>;

/// The type of this name in a file.
fn schema(
    (file, read): (&RawEntry, Read),
    message: &Raw,
    directory: &Path,
    mistakes: &mut Vec<Mistake>,
) -> Option<ProtobufSchema> {
    let path = directory.join(file.raw.text()?);
    let wrong = |reason| Mistake::at(file.raw.span, format!("`{}`: {}: {reason}", file.key, path.display()));
    let types = read(&path).map_err(|reason| mistakes.push(wrong(reason))).ok()?;
    let name = message.text()?;
    let found = types.message(name);
    if found.is_none() {
        let names = types.names();
        let hint = did_you_mean(name, names.iter().map(String::as_str)).or_else(|| match names.len() {
            0 => None,
            count if count > NAMES_MAX => Some(format!("it has {count} others")),
            _ => Some(format!("it has {}", names.join(", "))),
        });
        let mistake = Mistake::at(message.span, format!("`message`: {} has no message {name}", path.display()));
        mistakes.push(mistake.hint_maybe(hint));
    }
    found
}
