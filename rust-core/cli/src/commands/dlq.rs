//! `ringmill dlq show`: dead letters that no sink takes.

use std::collections::VecDeque;

use ringmill_connect::{Letter, LetterFilter, LetterId};
use ringmill_engine::plan::replay::Replayed;

use super::{print, replay, run};
use crate::arguments::{ChoiceArguments, DlqCommand, ShowArguments};
use crate::config::suggest::did_you_mean;
use crate::failure::{Failure, Hinted};
use crate::letters::Store;
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
        DlqCommand::Replay(arguments) => {
            run::on_screen(&arguments.log, arguments.quiet, |screen| replay::execute(arguments, screen))
        }
    }
}

/// The letters that are meant: of which sources and steps, and which of them.
///
/// # Errors
/// When a name or a number is none of a letter that is stored.
pub fn choose(store: &Store, arguments: &ChoiceArguments) -> Result<Vec<Replayed>, Failure> {
    let (origins, reason) = (store.origins()?, &arguments.reason);
    let filter = |ids| LetterFilter { ids, reason: reason.clone(), limit: None };
    let unknown = |name: &str| {
        let hint = did_you_mean(name, &origins).unwrap_or_else(|| format!("there are {}", origins.join(", ")));
        let message = format!("no dead letters of {name:?} are stored in {}", store.state().display());
        Failure::Usage(Hinted::new(message).hint(hint))
    };
    let wanted = |name: &str| arguments.step.as_ref().is_none_or(|step| step == name);
    if let Some(step) = arguments.step.as_ref().filter(|step| !origins.contains(step) && !origins.is_empty()) {
        return Err(unknown(step));
    }
    if arguments.ids.is_empty() {
        let chosen = origins.iter().filter(|name| wanted(name));
        return Ok(chosen.map(|origin| Replayed { origin: origin.clone(), filter: filter(Vec::new()) }).collect());
    }
    let mut chosen: Vec<Replayed> = Vec::new();
    for text in &arguments.ids {
        let misspelt = || Failure::Usage(Hinted::new(format!("{text:?} is no letter's id")).hint(ID_HINT));
        let (origin, id) = text.rsplit_once('/').ok_or_else(misspelt)?;
        let id: LetterId = id.parse().map_err(|_| misspelt())?;
        if !origins.iter().any(|known| known == origin) {
            return Err(unknown(origin));
        }
        match chosen.iter_mut().find(|known| known.origin == origin) {
            Some(known) => known.filter.ids.push(id),
            None if wanted(origin) => chosen.push(Replayed { origin: origin.to_owned(), filter: filter(vec![id]) }),
            None => {}
        }
    }
    for Replayed { origin, filter } in &chosen {
        let mut missing = filter.ids.clone();
        let by_id = LetterFilter { ids: filter.ids.clone(), ..LetterFilter::default() };
        store.for_each(origin, &by_id, |id, _, _| {
            missing.retain(|other| *other != id);
            Ok(())
        })?;
        if let Some(id) = missing.first() {
            return Err(Failure::Usage(Hinted::new(format!("no letter {origin}/{id} is stored")).hint(ID_HINT)));
        }
    }
    Ok(chosen)
}

const ID_HINT: &str = "`ringmill dlq show` prints each letter with its id, NAME/EPOCH-LINE";

fn show(arguments: &ShowArguments) -> Result<(), Failure> {
    let store = Store::open(&state_path(&arguments.state)?)?;
    let mut found = false;
    for Replayed { origin, filter } in choose(&store, &arguments.choice)? {
        let limit = arguments.limit.unwrap_or(if arguments.json { usize::MAX } else { SHOWN });
        let (total, last) = newest(&store, &origin, &filter, limit)?;
        found |= total > 0;
        match arguments.json {
            true => last.iter().try_for_each(|shown| print(&shown.json(&origin)))?,
            false if total > 0 => print(&text(&origin, total, &last))?,
            false => {}
        }
    }
    if found || arguments.json { Ok(()) } else { print(&format!("no dead letters in {}\n", store.state().display())) }
}

/// A letter that is shown.
struct Shown {
    id: LetterId,
    letter: Letter,
    line: String,
}

impl Shown {
    /// As it is stored, with its id.
    fn json(&self, origin: &str) -> String {
        let id = format!("{origin}/{}", self.id);
        format!("{{\"id\":{},{}\n", serde_json::Value::from(id), &self.line[1..])
    }
}

/// How many letters there are, and the last `limit` of them.
fn newest(store: &Store, origin: &str, filter: &LetterFilter, limit: usize) -> Result<(u64, VecDeque<Shown>), Failure> {
    let mut total = 0;
    let mut last = VecDeque::new();
    store.for_each(origin, filter, |id, letter, line| {
        total += 1;
        if last.len() == limit {
            last.pop_front();
        }
        if limit > 0 {
            last.push_back(Shown { id, letter, line: line.to_owned() });
        }
        Ok(())
    })?;
    Ok((total, last))
}

fn text(origin: &str, total: u64, last: &VecDeque<Shown>) -> String {
    let noun = if total == 1 { "dead letter" } else { "dead letters" };
    let shown = last.len() as u64;
    let part = if shown < total { format!(", the newest {}", grouped(shown)) } else { String::new() };
    let mut out = format!("{origin}: {} {noun}{part}\n", grouped(total));
    for Shown { id, letter, .. } in last {
        let attempts = letter.attempts.map_or_else(String::new, |attempts| format!(" ({attempts} attempts)"));
        out.push_str(&format!("\n  {}{attempts}\n    id   {origin}/{id}\n", letter.reason));
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
