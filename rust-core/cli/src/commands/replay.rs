//! `ringmill dlq replay`: stored dead letters back into the pipeline, or into a folder.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use ringmill_connect::{LetterFilter, create_output_folder};
use ringmill_engine::Plan;
use ringmill_engine::plan::replay::{Replayed, find_origin, windows_without_late};

use super::{dlq, run};
use crate::arguments::{ReplayArguments, RunArguments};
use crate::failure::{Failure, Hinted};
use crate::letters::Store;
use crate::machine::Machine;
use crate::prepare::prepare;
use crate::replay::{find_step, letters_file, replay_plan};
use crate::terminal::Screen;
use crate::units::grouped;

/// Replays dead letters.
///
/// # Errors
/// See [`Failure`].
pub fn execute(arguments: &ReplayArguments, screen: Screen) -> Result<(), Failure> {
    let machine = Machine::detect();
    run::arm_failpoints(&machine)?;
    let plan = prepare(&arguments.config, &machine)?;
    let Some(checkpoint) = &plan.checkpoint else {
        let message = format!("{} has no [checkpoint] table, so no dead letters are stored", plan.name);
        return Err(Failure::Usage(Hinted::new(message)));
    };
    let store = Store::open(&checkpoint.path)?;
    let run = RunArguments {
        config: arguments.config.clone(),
        duration: None,
        report: arguments.report.clone(),
        hlog: None,
        fresh: false,
        from_checkpoint: None,
        quiet: arguments.quiet,
        log: arguments.log.clone(),
    };
    match &arguments.into {
        Some(folder) => {
            let built = beside(arguments, &plan, &store, folder)?;
            run::watch(&run, &built, None, screen)
        }
        None => {
            let chosen = chosen(arguments, &store)?;
            let letters: Vec<Replayed> = chosen.iter().map(|chosen| chosen.letters.clone()).collect();
            let built = plan.replaying(&letters)?;
            warn_of_late(&plan, &letters);
            run::watch(&run, &built, None, screen)?;
            if arguments.quiet { Ok(()) } else { chosen.iter().try_for_each(|chosen| tell(&store, chosen)) }
        }
    }
}

/// Letters of one source or step that are to be replayed.
struct Chosen {
    letters: Replayed,
    /// Those that the filter lets through, but for its limit.
    matching: u64,
}

fn chosen(arguments: &ReplayArguments, store: &Store) -> Result<Vec<Chosen>, Failure> {
    let mut found = Vec::new();
    for mut letters in dlq::choose(store, &arguments.choice)? {
        letters.filter.limit = arguments.limit;
        let mut matching = 0;
        store.for_each(&letters.origin, &letters.filter, |_, _, _| {
            matching += 1;
            Ok(())
        })?;
        if matching > 0 {
            found.push(Chosen { letters, matching });
        }
    }
    if found.is_empty() {
        let message = format!("there are no such dead letters in {}", store.state().display());
        return Err(Failure::Run(Hinted::new(message)));
    }
    Ok(found)
}

/// A row that is late and read by nobody is counted and gone, and here it was a letter that could have waited.
fn warn_of_late(plan: &Plan, all: &[Replayed]) {
    for Replayed { origin, .. } in all {
        let Ok(index) = find_origin(plan, origin) else { continue };
        for window in windows_without_late(plan, index) {
            tracing::warn!(
                "letters of {origin} that come too late for {window} are counted and gone: nobody reads {window}.late"
            );
        }
    }
}

/// Says what became of them. What is stored by a later epoch than before has failed again.
fn tell(before: &Store, Chosen { letters, matching }: &Chosen) -> Result<(), Failure> {
    let Replayed { origin, filter } = letters;
    let chosen = filter.limit.map_or(*matching, |limit| (*matching).min(limit as u64));
    let (mut kept, mut again) = (0, 0);
    Store::open(before.state())?.for_each(origin, &LetterFilter::default(), |id, letter, _| {
        if id.epoch > before.epoch() {
            again += 1;
        } else {
            kept += u64::from(filter.matches(id, &letter));
        }
        Ok(())
    })?;
    let taken = matching.saturating_sub(kept);
    let noun = if chosen == 1 { "letter" } else { "letters" };
    let mut text = format!("{origin}: {} of {} {noun} replayed", grouped(taken), grouped(chosen));
    if again > 0 {
        text.push_str(&format!("; {} failed again", grouped(again)));
    }
    if taken < chosen {
        text.push_str(&format!("; {} as before", grouped(chosen - taken)));
    }
    super::print(&format!("{text}\n"))
}

/// The plan that runs one step on its letters and writes into a folder.
fn beside(arguments: &ReplayArguments, plan: &Plan, store: &Store, folder: &Path) -> Result<Plan, Failure> {
    let Some(step) = &arguments.choice.step else {
        return Err(Failure::Usage(Hinted::new("--into needs --step").hint("it runs one step and what is behind it")));
    };
    let index = find_step(plan, step).map_err(Failure::Usage)?;
    let chosen = dlq::choose(store, &arguments.choice)?;
    let folder = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
    make_folder(&folder)?;
    let mut count = 0;
    for letters in &chosen {
        count += write_rows(store, letters, arguments.limit, &folder)?;
    }
    if count == 0 {
        // The folder stays empty, so a later replay may have it.
        let message = format!("{step} has no such dead letters in {}", store.state().display());
        return Err(Failure::Run(Hinted::new(message)));
    }
    replay_plan(plan, index, &folder).map_err(|errors| {
        let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
        Failure::Run(Hinted::new(format!("the step cannot be replayed: {}", errors.join("; "))))
    })
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
fn write_rows(store: &Store, letters: &Replayed, limit: Option<usize>, folder: &Path) -> Result<u64, Failure> {
    let path: PathBuf = folder.join(letters_file(&letters.origin));
    let failed = |error| Failure::Run(Hinted::new(format!("{} cannot be written: {error}", path.display())));
    let mut out: Option<BufWriter<File>> = None;
    let mut count = 0;
    store.for_each(&letters.origin, &letters.filter, |_, letter, _| {
        if limit.is_some_and(|limit| count >= limit as u64) {
            return Ok(());
        }
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
