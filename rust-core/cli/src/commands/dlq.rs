//! `ringmill dlq show|replay`: dead letters that no sink takes.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;

use ringmill_connect::create_output_folder;

use super::{print, run};
use crate::arguments::{DlqCommand, ReplayArguments, RunArguments, ShowArguments};
use crate::config::suggest::did_you_mean;
use crate::failure::{Failure, Hinted};
use crate::letters::{self, Letter, LettersError};
use crate::machine::Machine;
use crate::prepare::prepare;
use crate::replay::{find_step, letters_file, replay_plan};
use crate::state_path::state_path;
use crate::units::grouped;

/// Letters of each source or step that are shown to a person.
const SHOWN: usize = 20;
/// Characters of a record that are shown to a person.
const RECORD_SHOWN: usize = 300;

/// Shows or replays dead letters.
///
/// # Errors
/// See [`Failure`].
pub fn execute(command: &DlqCommand) -> Result<(), Failure> {
    match command {
        DlqCommand::Show(arguments) => show(arguments),
        DlqCommand::Replay(arguments) => run::on_screen(&arguments.log, false, |screen| replay(arguments, screen)),
    }
}

impl From<LettersError> for Failure {
    fn from(error: LettersError) -> Failure {
        Failure::Run(Hinted::new(error.to_string()))
    }
}

fn show(arguments: &ShowArguments) -> Result<(), Failure> {
    let state = state_path(&arguments.state)?;
    let origins = letters::origins(&state)?;
    let chosen: Vec<&String> = match &arguments.step {
        None => origins.iter().collect(),
        Some(name) => {
            let found = origins.iter().find(|origin| *origin == name);
            if found.is_none() && !origins.is_empty() {
                let hint = did_you_mean(name, &origins).unwrap_or_else(|| format!("there are {}", origins.join(", ")));
                let message = format!("no dead letters of {name:?} are stored in {}", state.display());
                return Err(Failure::Usage(Hinted::new(message).hint(hint)));
            }
            found.into_iter().collect()
        }
    };
    let mut found = false;
    for origin in chosen {
        let limit = arguments.limit.unwrap_or(if arguments.json { usize::MAX } else { SHOWN });
        let (total, last) = newest(&state, origin, limit)?;
        found |= total > 0;
        match arguments.json {
            true => last.iter().try_for_each(|(_, line)| print(&format!("{line}\n")))?,
            false if total > 0 => print(&text(origin, total, &last))?,
            false => {}
        }
    }
    if found || arguments.json { Ok(()) } else { print(&format!("no dead letters in {}\n", state.display())) }
}

/// How many letters there are, and the last `limit` of them with their lines.
fn newest(state: &Path, origin: &str, limit: usize) -> Result<(u64, VecDeque<(Letter, String)>), LettersError> {
    let mut total = 0;
    let mut last = VecDeque::new();
    letters::for_each(state, origin, |letter, line| {
        total += 1;
        if last.len() == limit {
            last.pop_front();
        }
        if limit > 0 {
            last.push_back((letter, line.to_owned()));
        }
        Ok::<(), LettersError>(())
    })?;
    Ok((total, last))
}

fn text(origin: &str, total: u64, last: &VecDeque<(Letter, String)>) -> String {
    let noun = if total == 1 { "dead letter" } else { "dead letters" };
    let shown = last.len() as u64;
    let part = if shown < total { format!(", the newest {}", grouped(shown)) } else { String::new() };
    let mut out = format!("{origin}: {} {noun}{part}\n", grouped(total));
    for (letter, _) in last {
        let attempts = letter.attempts.map_or_else(String::new, |attempts| format!(" ({attempts} attempts)"));
        out.push_str(&format!("\n  {}{attempts}\n", letter.reason));
        if let Some(key) = &letter.key {
            out.push_str(&format!("    key  {}\n", head(key)));
        }
        if let (Some(partition), Some(offset)) = (&letter.partition, letter.offset) {
            let source = letter.source.as_deref().filter(|source| *source != origin);
            let source = source.map_or_else(String::new, |source| format!("{source}: "));
            out.push_str(&format!("    at   {source}{partition}, byte {offset}\n"));
        }
        out.push_str(&record("row", &letter.record, &letter.record_bytes));
        out.push_str(&record("from", &letter.original, &letter.original_bytes));
        if let Some(reason) = &letter.original_missing {
            out.push_str(&format!("    from a record that cannot be read: {reason}\n"));
        }
        for line in letter.detail.iter().flat_map(|detail| detail.lines()) {
            out.push_str(&format!("    {line}\n"));
        }
    }
    out.push('\n');
    out
}

fn record(name: &str, text: &Option<String>, bytes: &Option<String>) -> String {
    match (text, bytes) {
        (Some(text), _) => format!("    {name:4} {}\n", head(text)),
        (None, Some(bytes)) => format!("    {name:4} (base64) {}\n", head(bytes)),
        (None, None) => String::new(),
    }
}

fn head(text: &str) -> String {
    match text.char_indices().nth(RECORD_SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

fn replay(arguments: &ReplayArguments, screen: crate::terminal::Screen) -> Result<(), Failure> {
    let plan = prepare(&arguments.config, &Machine::detect())?;
    let step = find_step(&plan, &arguments.step).map_err(Failure::Usage)?;
    let Some(checkpoint) = &plan.checkpoint else {
        let message = format!("{} has no [checkpoint] table, so no dead letters are stored", plan.name);
        return Err(Failure::Usage(Hinted::new(message)));
    };
    let folder = std::path::absolute(&arguments.into).unwrap_or_else(|_| arguments.into.clone());
    make_folder(&folder)?;
    let count = write_rows(&checkpoint.path, &arguments.step, &folder)?;
    if count == 0 {
        // The folder stays empty, so a later replay may have it.
        let message = format!("{} has no dead letters in {}", arguments.step, checkpoint.path.display());
        return Err(Failure::Run(Hinted::new(message)));
    }
    let built = replay_plan(&plan, step, &folder).map_err(|errors| {
        let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
        Failure::Run(Hinted::new(format!("the step cannot be replayed: {}", errors.join("; "))))
    })?;
    let run = RunArguments {
        config: arguments.config.clone(),
        duration: None,
        report: None,
        hlog: None,
        fresh: false,
        from_checkpoint: None,
        quiet: false,
        log: arguments.log.clone(),
    };
    run::watch(&run, &built, None, screen)
}

fn make_folder(folder: &Path) -> Result<(), Failure> {
    let failed = |error| Failure::Run(Hinted::new(format!("{} cannot be made: {error}", folder.display())));
    create_output_folder(folder).map_err(failed)?;
    if fs::read_dir(folder).map_err(failed)?.next().is_some() {
        let message = format!("{} is not empty", folder.display());
        return Err(Failure::Usage(Hinted::new(message).hint("name a folder that is not there yet")));
    }
    Ok(())
}

/// Writes the letters' rows where the replay reads them; how many letters there are.
fn write_rows(state: &Path, step: &str, folder: &Path) -> Result<u64, Failure> {
    let path = folder.join(letters_file(step));
    let failed = |error| Failure::Run(Hinted::new(format!("{} cannot be written: {error}", path.display())));
    let mut out = None;
    let mut count = 0;
    letters::for_each(state, step, |letter, _| {
        // A row is always text; what is not was no row.
        let record = letter.record.or(letter.record_bytes).unwrap_or_default();
        let out = match &mut out {
            Some(out) => out,
            None => out.insert(BufWriter::new(File::create(&path).map_err(failed)?)),
        };
        count += 1;
        out.write_all(record.as_bytes()).and_then(|()| out.write_all(b"\n")).map_err(failed)
    })?;
    out.map_or(Ok(()), |mut out| out.flush()).map_err(failed)?;
    Ok(count)
}
