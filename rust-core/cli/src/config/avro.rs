//! The keys of the table `avro` of a source and of a sink, checked together.

use std::path::Path;

use ringmill_connect::{AvroSchema, AvroSpec};

use super::mistake::Mistake;
use super::raw::{Raw, Table};
use super::registry::{check_unused, registry};

/// What messages are, and the schema by which they were or are written; `None` if that cannot be known.
pub fn avro(table: &Table, directory: &Path, mistakes: &mut Vec<Mistake>) -> Option<AvroSpec> {
    let (file, registry_entry) = (table.get("schema_file"), table.entry("registry"));
    check_unused(table, mistakes);
    match (file, registry_entry) {
        (_, Some(_)) => {
            if let Some(entry) = table.entry("encoding") {
                mistakes.push(Mistake::at(entry.key_span, "`encoding` has no effect with `registry`"));
            }
        }
        (None, None) => {
            let written = |key: &str| table.written.iter().any(|written| written == key);
            if !written("schema_file") && !written("registry") {
                let mistake = Mistake::at(table.span, "`avro` needs either `schema_file` or `registry`");
                mistakes.push(mistake.hint("add schema_file = \"reading.avsc\""));
            }
            return None;
        }
        (Some(_), None) => {}
    }
    let schema = file.map(|file| schema(file, directory, mistakes));
    if registry_entry.is_some() {
        let registry = registry(table, directory, mistakes);
        // A file that cannot be read is not left out.
        let schema = schema.map_or(Some(None), |schema| schema.map(Some));
        return Some(AvroSpec::Registry(registry?, schema?));
    }
    let encoding = match table.text("encoding") {
        Some("single-object") => AvroSpec::SingleObject,
        _ => AvroSpec::Datum,
    };
    schema?.map(encoding)
}

/// The schema in a file.
pub fn schema(file: &Raw, directory: &Path, mistakes: &mut Vec<Mistake>) -> Option<AvroSchema> {
    let path = directory.join(file.text()?);
    let wrong = |reason| Mistake::at(file.span, format!("`schema_file`: {}: {reason}", path.display()));
    AvroSchema::read(&path).map_err(|reason| mistakes.push(wrong(reason))).ok()
}
