//! `ringmill checkpoints list|verify`: looks at a state folder without disturbing its owner.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ringmill_state::{CheckpointInfo, Manifest, StateError, StateFolder};
use serde::Serialize;

use super::print;
use crate::arguments::{CheckpointsCommand, ListArguments, VerifyArguments};
use crate::failure::{Failure, Hinted};
use crate::state_path::state_path;
use crate::table::TextTable;
use crate::units::{age, bytes, grouped};

/// Lists or verifies checkpoints.
///
/// # Errors
/// When the folder cannot be read, or a checkpoint that is verified is damaged.
pub fn execute(command: &CheckpointsCommand) -> Result<(), Failure> {
    match command {
        CheckpointsCommand::List(arguments) => list(arguments),
        CheckpointsCommand::Verify(arguments) => verify(arguments),
    }
}

/// A checkpoint as `--json` prints it.
#[derive(Serialize)]
struct Listed {
    id: u64,
    bytes: u64,
    #[serde(flatten)]
    known: Option<Known>,
    #[serde(skip_serializing_if = "Option::is_none")]
    damage: Option<String>,
}

/// What its manifest says.
#[derive(Serialize)]
struct Known {
    pipeline: String,
    created_ms: u64,
    rows_in: u64,
    shards: usize,
    is_final: bool,
}

impl Listed {
    fn new(info: CheckpointInfo) -> Listed {
        let (known, damage) = match info.manifest {
            Ok(manifest) => (Some(Known::new(manifest)), None),
            Err(error) => (None, Some(error.to_string())),
        };
        Listed { id: info.epoch, bytes: info.bytes, known, damage }
    }
}

impl Known {
    fn new(manifest: Manifest) -> Known {
        let sources = manifest.nodes.iter().filter(|node| node.kind == "source");
        let rows_in = sources.filter_map(|node| node.counts.get("rows_in")).sum();
        let Manifest { pipeline, created_ms, shards, is_final, .. } = manifest;
        Known { pipeline, created_ms, rows_in, shards, is_final }
    }
}

fn list(arguments: &ListArguments) -> Result<(), Failure> {
    let path = state_path(&arguments.state)?;
    // A pipeline that never ran has no state, which is no failure.
    let found = match path.exists() {
        true => StateFolder::open_read_only(&path).and_then(|folder| folder.checkpoints()).map_err(failed)?,
        false => Vec::new(),
    };
    let listed: Vec<Listed> = found.into_iter().map(Listed::new).collect();
    if arguments.json {
        let text =
            serde_json::to_string_pretty(&listed).map_err(|error| Failure::Run(Hinted::new(error.to_string())))?;
        return print(&format!("{text}\n"));
    }
    if listed.is_empty() {
        return print(&format!("no checkpoints in {}\n", path.display()));
    }
    print(&text(&listed, SystemTime::now()))
}

fn text(listed: &[Listed], now: SystemTime) -> String {
    let mut table = TextTable::new(["id", "age", "rows in", "shards", "size", ""]);
    let mut damages = Vec::new();
    for checkpoint in listed {
        let cells = match &checkpoint.known {
            Some(known) => {
                let created = UNIX_EPOCH + Duration::from_millis(known.created_ms);
                let end = if known.is_final { "final" } else { "" };
                let age = now.duration_since(created).map_or_else(|_| "in the future".to_owned(), age);
                [age, grouped(known.rows_in), known.shards.to_string(), bytes(checkpoint.bytes), end.to_owned()]
            }
            None => ["-", "-", "-", &bytes(checkpoint.bytes), "damaged"].map(str::to_owned),
        };
        table.push([checkpoint.id.to_string()].into_iter().chain(cells));
        damages.extend(checkpoint.damage.iter().map(|damage| format!("{damage}\n")));
    }
    format!("{}\n{}", table.lines().join("\n"), damages.concat())
}

fn verify(arguments: &VerifyArguments) -> Result<(), Failure> {
    let path = state_path(&arguments.state)?;
    let folder = StateFolder::open_read_only(&path).map_err(failed)?;
    let wanted = match arguments.id {
        Some(id) => vec![id],
        None => folder.checkpoints().map_err(failed)?.into_iter().map(|info| info.epoch).collect(),
    };
    if wanted.is_empty() {
        return Err(nothing(&path));
    }
    let mut damaged = 0;
    for &id in &wanted {
        match folder.verify(id) {
            Ok(manifest) => print(&sound(&manifest))?,
            // The run that owns the folder removed it since it was listed.
            Err(StateError::Missing { .. }) if arguments.id.is_none() => {}
            Err(error) if error.is_damage() => {
                damaged += 1;
                print(&format!("{error}\n"))?;
            }
            Err(error) => return Err(failed(error)),
        }
    }
    if damaged == 0 {
        return Ok(());
    }
    let message = format!("{damaged} of {} checkpoints are damaged", wanted.len());
    Err(Failure::Run(Hinted::new(message).hint("a run goes on from the newest one that is sound")))
}

fn sound(manifest: &Manifest) -> String {
    let size: u64 = manifest.files.iter().map(|file| file.bytes).sum();
    let files = manifest.files.len();
    let noun = if files == 1 { "file" } else { "files" };
    format!("checkpoint {} is sound: {files} {noun}, {}\n", manifest.epoch, bytes(size))
}

fn nothing(path: &Path) -> Failure {
    Failure::Run(Hinted::new(format!("there are no checkpoints in {}", path.display())))
}

fn failed(error: StateError) -> Failure {
    Failure::Run(Hinted::new(error.to_string()))
}
