//! The keys of sources and sinks that are Python classes, checked together.

use std::path::{Path, PathBuf};

use ringmill_connect::{FedSpec, FieldSpec, OutletSink};
use ringmill_engine::plan::{ClassDescription, PythonSink, PythonSource, Supervision};

use super::mistake::Mistake;
use super::raw::{RawValue, Table};
use super::resolve::{batch_room, batch_room_of};

const SLOTS: i64 = 4;
/// What a class does with a batch, a transaction as a rule, costs more than what the ring does.
const SINK_BATCH_ROWS: i64 = 8192;

/// Whether a text is `module:name`.
pub fn is_reference(text: &str) -> bool {
    text.split_once(':').is_some_and(|(module, name)| {
        !module.is_empty() && !name.is_empty() && !module.ends_with(".py") && !module.contains('/')
    })
}

/// Reads the table of a source; `None` if it lacks what every such source needs.
pub fn python_source(
    table: &Table,
    fields: Vec<FieldSpec>,
    supervision: Supervision,
    (python, directory): (PathBuf, &Path),
    mistakes: &mut Vec<Mistake>,
) -> Option<PythonSource> {
    let text = class(table, mistakes)?;
    refuse_paths(table, "the class gives columns by their names", mistakes);
    let (rows_max, variable_bytes_max) = batch_room(table, mistakes);
    let feed = FedSpec {
        origin: text.to_owned(),
        fields,
        rate: table.number("rate"),
        // Until the class has said that it is not.
        is_seekable: true,
        variable_bytes_max,
        rows_max,
    };
    Some(PythonSource {
        feed,
        directory: directory.to_owned(),
        python,
        options: options(table),
        slots: u32::try_from(table.integer("slots").unwrap_or(SLOTS)).unwrap_or(0),
        supervision,
        description: ClassDescription::default(),
    })
}

/// Refuses to say where in a record a field stands where there are no records.
pub fn refuse_paths(table: &Table, reason: &str, mistakes: &mut Vec<Mistake>) {
    for entry in table.children("fields") {
        if let Some(path) = entry.raw.table().and_then(|field| field.entry("path")) {
            let message = format!("`{}`: `path` has no effect here: {reason}", entry.key);
            mistakes.push(Mistake::at(path.key_span, message).hint("remove it"));
        }
    }
}

/// Reads the table of a sink; `None` if it lacks what every such sink needs.
pub fn python_sink(
    table: &Table,
    supervision: Supervision,
    (python, directory): (PathBuf, &Path),
    mistakes: &mut Vec<Mistake>,
) -> Option<PythonSink> {
    let text = class(table, mistakes)?;
    let (rows_max, variable_bytes_max) = batch_room_of(table, SINK_BATCH_ROWS, mistakes);
    let outlet = OutletSink {
        origin: text.to_owned(),
        rows_max,
        variable_bytes_max,
        is_idempotent: table.boolean("idempotent").unwrap_or(false),
        keeps_rejected: table.text("on_refused") == Some("dead_letter"),
    };
    Some(PythonSink { outlet, directory: directory.to_owned(), python, options: options(table), supervision })
}

/// The class that a table names.
fn class<'a>(table: &'a Table, mistakes: &mut Vec<Mistake>) -> Option<&'a str> {
    let class = table.get("class")?;
    let text = class.text()?;
    if !is_reference(text) {
        let hint = "write module:Class, for example \"numbers:Numbers\" for class Numbers in numbers.py";
        mistakes.push(Mistake::at(class.span, format!("`class`: `{text}` names no class")).hint(hint));
    }
    Some(text)
}

/// Keyword arguments of the class, as a JSON object.
fn options(table: &Table) -> serde_json::Value {
    match table.get("options").map(|raw| &raw.value) {
        Some(RawValue::Json(options)) => options.clone(),
        _ => serde_json::json!({}),
    }
}
