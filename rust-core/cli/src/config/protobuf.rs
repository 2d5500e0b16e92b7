//! The keys of the table `protobuf`, checked together.

use std::path::Path;

use ringmill_connect::{ProtobufSchema, ProtobufSpec, ProtobufTypes};

use super::mistake::Mistake;
use super::raw::{Raw, Table};
use super::registry::{check_unused, registry};
use super::suggest::did_you_mean;

/// So many types are named in a hint.
const NAMES_MAX: usize = 20;

/// How messages are read; `None` if that cannot be known.
pub fn protobuf(table: &Table, directory: &Path, mistakes: &mut Vec<Mistake>) -> Option<ProtobufSpec> {
    let (file, message) = (table.get("descriptor_file"), table.get("message"));
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
    if !written("descriptor_file") {
        let mistake = Mistake::at(table.span, "`protobuf` needs either `descriptor_file` or `registry`");
        mistakes.push(mistake.hint("add descriptor_file = \"plant.pb\", message = \"plant.Reading\""));
        return None;
    }
    if !written("message") {
        let mistake = Mistake::at(table.span, "`protobuf` needs `message` with `descriptor_file`");
        mistakes.push(mistake.hint("add the full name of the type, such as message = \"plant.Reading\""));
        return None;
    }
    schema(file?, message?, directory, mistakes).map(ProtobufSpec::Plain)
}

fn schema(file: &Raw, message: &Raw, directory: &Path, mistakes: &mut Vec<Mistake>) -> Option<ProtobufSchema> {
    let path = directory.join(file.text()?);
    let wrong = |reason| Mistake::at(file.span, format!("`descriptor_file`: {}: {reason}", path.display()));
    let types = ProtobufTypes::read(&path).map_err(|reason| mistakes.push(wrong(reason))).ok()?;
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
