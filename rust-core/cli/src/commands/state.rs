//! `ringmill state get|scan`: looks at retained results, beside the pipeline that writes them or when it stands.

use std::fmt;
use std::io::Write;
use std::path::PathBuf;

use ringmill_engine::plan::retained::{RetainedAbout, retained_step};
use ringmill_engine::plan::{NodeKind, NodeSpec};
use ringmill_state::{Amount, RetainedReader, StateError, StateFolder};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;

use super::print;
use crate::arguments::{GetArguments, RetainedArguments, ScanArguments, StateCommand};
use crate::config;
use crate::config::suggest::did_you_mean;
use crate::failure::{Failure, Hinted};
use crate::machine::Machine;
use crate::state_path::state_path;
use crate::table::TextTable;
use crate::window_range::window_range;

/// Rows of a scan, unless it is asked for otherwise.
const SCAN_ROWS: u64 = 1_000;

/// Shows retained results.
///
/// # Errors
/// When there is no such step, it retains nothing, or nothing is there.
pub fn execute(command: &StateCommand) -> Result<(), Failure> {
    match command {
        StateCommand::Get(arguments) => get(arguments),
        StateCommand::Scan(arguments) => scan(arguments),
    }
}

fn get(arguments: &GetArguments) -> Result<(), Failure> {
    let range = window_range(arguments.retained.from.as_deref(), arguments.retained.to.as_deref()).map_err(misused)?;
    let reader = open(&arguments.retained)?;
    let about = RetainedAbout::read(reader.about());
    let about = about.ok_or_else(|| Failure::Run(Hinted::new("the store does not say what its keys are")))?;
    let key = about.parse_key(&arguments.keys).map_err(|reason| {
        Failure::Usage(Hinted::new(reason).hint("give each key column with --key VALUE, in their order"))
    })?;
    let max = Amount { rows: arguments.limit, bytes: u64::MAX };
    let (rows, is_more) = reader.get(&key, range, max).map_err(failed)?;
    show(&rows, arguments.retained.json)?;
    if is_more {
        eprintln!("older rows were left out; --limit shows more");
    }
    Ok(())
}

fn scan(arguments: &ScanArguments) -> Result<(), Failure> {
    let range = window_range(arguments.retained.from.as_deref(), arguments.retained.to.as_deref()).map_err(misused)?;
    let reader = open(&arguments.retained)?;
    let is_json = arguments.retained.json;
    let limit = arguments.limit.unwrap_or(if is_json { u64::MAX } else { SCAN_ROWS });
    let (mut rows, mut count, mut is_more) = (Vec::new(), 0u64, false);
    let mut out = std::io::stdout().lock();
    let mut printed = Ok(());
    let scanned = reader.scan(range, |row| {
        is_more = count == limit;
        if is_more {
            return false;
        }
        count += 1;
        if is_json {
            printed = out.write_all(row.row).and_then(|()| out.write_all(b"\n"));
        } else {
            rows.push(row.row.to_vec());
        }
        printed.is_ok()
    });
    drop(out);
    match printed {
        // A reader that has gone (`| head`) has enough.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => return Ok(()),
        Err(error) => return Err(Failure::Run(Hinted::new(format!("standard output cannot be written: {error}")))),
        Ok(()) => scanned.map_err(failed)?,
    }
    if !is_json {
        show(&rows, false)?;
    }
    if is_more {
        eprintln!("there are more rows; --limit shows more");
    }
    Ok(())
}

/// The rows as lines of JSON, or as a table.
fn show(rows: &[Vec<u8>], is_json: bool) -> Result<(), Failure> {
    if is_json {
        let mut text = String::new();
        for row in rows {
            text.push_str(&String::from_utf8_lossy(row));
            text.push('\n');
        }
        return print(&text);
    }
    if rows.is_empty() {
        return print("no rows\n");
    }
    let rows: Result<Vec<Row>, _> = rows.iter().map(|row| serde_json::from_slice(row)).collect();
    let rows = rows.map_err(|error| Failure::Run(Hinted::new(format!("a row is no JSON object: {error}"))))?;
    let mut table = TextTable::new(rows.first().iter().flat_map(|row| &row.0).map(|(name, _)| name.clone()));
    for row in rows {
        table.push(row.0.into_iter().map(|(_, value)| match value {
            Value::String(text) => text,
            Value::Null => "-".to_owned(),
            value => value.to_string(),
        }));
    }
    print(&format!("{}\n", table.lines().join("\n")))
}

/// A JSON object in the order in which it is written.
struct Row(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Row {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Row, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Row;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Row, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Row(members))
            }
        }
        deserializer.deserialize_map(Members)
    }
}

/// The results that a step retains.
fn open(arguments: &RetainedArguments) -> Result<RetainedReader, Failure> {
    let step = &arguments.step;
    let target = &arguments.state.target;
    if !target.is_dir() {
        check_step(arguments)?;
    }
    let state = state_path(&arguments.state)?;
    let nothing = || {
        let message = format!("{step} has retained nothing yet in {}", state.display());
        Failure::Run(Hinted::new(message).hint("results are there when the first checkpoint after them is complete"))
    };
    if !state.exists() {
        return Err(nothing());
    }
    let folder = StateFolder::open_read_only(&state).map_err(failed)?;
    let reader = RetainedReader::open(&folder.retained(step), &scratch()).map_err(failed)?;
    reader.ok_or_else(nothing)
}

/// Refuses a step that the configuration does not have, or whose results are not kept.
fn check_step(arguments: &RetainedArguments) -> Result<(), Failure> {
    let RetainedArguments { state, step, .. } = arguments;
    let refused = |mistakes| Failure::Configuration { mistakes, details: Vec::new() };
    let config = config::load(&state.target, &state.overrides, &Machine::detect()).map_err(refused)?;
    let mut retained = config.nodes.iter().filter_map(|node| retained_step(&node.name));
    if retained.any(|name| name == step) {
        return Ok(());
    }
    let is_step = |node: &&NodeSpec| !matches!(node.kind, NodeKind::Source(_) | NodeKind::Sink(_));
    let steps: Vec<&str> = config.nodes.iter().filter(is_step).map(|node| node.name.as_str()).collect();
    let hinted = if steps.contains(&step.as_str()) {
        let message = format!("{step} retains nothing");
        Hinted::new(message).hint("add retain = \"30d\" to it, for example; only window steps can")
    } else {
        let hint = did_you_mean(step, &steps).unwrap_or_else(|| match steps[..] {
            [] => "the pipeline has no steps".to_owned(),
            _ => format!("there are {}", steps.join(", ")),
        });
        Hinted::new(format!("{} has no step called {step:?}", state.target.display())).hint(hint)
    };
    Err(Failure::Usage(hinted))
}

/// A folder that RocksDB wants for itself and leaves empty.
fn scratch() -> PathBuf {
    std::env::temp_dir().join(format!("ringmill-state-{}", std::process::id()))
}

fn misused(reason: String) -> Failure {
    Failure::Usage(Hinted::new(reason))
}

fn failed(error: StateError) -> Failure {
    Failure::Run(Hinted::new(error.to_string()))
}
