//! What is said about retained results: `retain` of a window step, and `[serve]`.

use std::net::SocketAddr;

use ringmill_engine::plan::NodeSpec;
use ringmill_engine::plan::retained::{RetainedSpec, sink};
use ringmill_state::{RetainedLimits, RollUpLevel};

use super::duration::format_duration;
use super::listen;
use super::mistake::Mistake;
use super::raw::{Raw, Table};
use super::text::Span;

/// Windows that become one: each merge of them is one step of a thread.
const MERGED_MAX: i64 = 10_000;

/// The sink that keeps the results of the step called `name`, if they are to be kept.
pub fn retained(name: &str, table: &Table, mistakes: &mut Vec<Mistake>) -> Option<NodeSpec> {
    let retain_ns = table.duration("retain");
    for key in ["retain_size", "roll_up"] {
        if let Some(entry) = table.entry(key).filter(|_| !table.written.iter().any(|key| key == "retain")) {
            let mistake = Mistake::at(entry.key_span, format!("`{key}` has no effect without `retain`"));
            mistakes.push(mistake.hint("add retain = \"30d\", for example"));
        }
    }
    let limits = RetainedLimits { retain_ns: retain_ns?, bytes_max: table.size("retain_size") };
    let roll_up = roll_up(table, limits.retain_ns, mistakes);
    Some(sink(RetainedSpec { step: name.to_owned(), limits, roll_up }))
}

/// The levels of `roll_up`, those with mistakes included. That the windows can be rolled up at all, the engine says.
fn roll_up(table: &Table, retain_ns: i64, mistakes: &mut Vec<Mistake>) -> Vec<RollUpLevel> {
    // Without a length to compare with something else is wrong, or the engine refuses it.
    let Some(window_ns) = table.table("window").and_then(|window| window.duration("tumbling")) else {
        return table.list("roll_up").iter().filter_map(level).map(|(level, _)| level).collect();
    };
    let lateness_ns = table.duration("allowed_lateness").unwrap_or(0);
    let (mut levels, mut before) = (Vec::new(), (0, window_ns));
    for (level, [after, size]) in table.list("roll_up").iter().filter_map(level) {
        let checked = check_size(level.size_ns, before.1)
            .map_err(|wrong| (size, wrong))
            .and_then(|()| check_after(&level, before.0, lateness_ns, retain_ns).map_err(|wrong| (after, wrong)));
        if let Err((span, (message, hint))) = checked {
            mistakes.push(Mistake::at(span, message).hint(hint));
        }
        before = (level.after_ns, level.size_ns);
        levels.push(level);
    }
    levels
}

/// An item of the list, and where its `after` and `size` stand.
fn level(raw: &Raw) -> Option<(RollUpLevel, [Span; 2])> {
    let table = raw.table()?;
    let level = RollUpLevel { after_ns: table.duration("after")?, size_ns: table.duration("size")? };
    Some((level, [table.get("after")?.span, table.get("size")?.span]))
}

/// Message and hint.
type Wrong = (String, String);

fn check_size(size_ns: i64, finer_ns: i64) -> Result<(), Wrong> {
    let (size, finer) = (format_duration(size_ns), format_duration(finer_ns));
    if size_ns <= finer_ns || size_ns % finer_ns != 0 {
        let message = format!("`size`: {size} is no multiple of {finer}, the length of the windows that become one");
        let above = finer_ns.saturating_mul((size_ns / finer_ns).max(1) + 1);
        return Err((message, format!("use \"{}\", for example", format_duration(above))));
    }
    if size_ns / finer_ns > MERGED_MAX {
        let message =
            format!("`size`: {} windows of {finer} would become one; {MERGED_MAX} is the most", size_ns / finer_ns);
        return Err((message, "put a level with a shorter `size` before it".to_owned()));
    }
    Ok(())
}

fn check_after(level: &RollUpLevel, before_ns: i64, lateness_ns: i64, retain_ns: i64) -> Result<(), Wrong> {
    let RollUpLevel { after_ns, size_ns } = *level;
    let (after, size) = (format_duration(after_ns), format_duration(size_ns));
    let least_ns = lateness_ns.saturating_add(size_ns);
    if after_ns < least_ns {
        let message = format!("`after`: {after} is less than allowed_lateness + size; results may still come late");
        return Err((message, format!("use \"{}\" or more", format_duration(least_ns))));
    }
    if after_ns <= before_ns {
        let message = format!("`after`: {after} is not longer than that of the level before");
        return Err((message, format!("use more than \"{}\", or another order", format_duration(before_ns))));
    }
    if after_ns.saturating_add(size_ns) > retain_ns {
        let retain = format_duration(retain_ns);
        let message = format!(
            "`after`: windows of {size} that ended {after} ago are partly gone, as results are kept for {retain}"
        );
        let most_ns = retain_ns.saturating_sub(size_ns);
        let hint = if most_ns >= least_ns && most_ns > before_ns {
            format!("use \"{}\" or less, or a longer retain", format_duration(most_ns))
        } else {
            "use a longer retain, or take this level away".to_owned()
        };
        return Err((message, hint));
    }
    Ok(())
}

/// Where retained results are served, if they are; `has_retained`: some step keeps its results.
pub fn listen(root: &Table, has_retained: bool, mistakes: &mut Vec<Mistake>) -> Option<SocketAddr> {
    let table = root.table("serve")?;
    if !has_retained {
        let mistake = Mistake::at(table.span, "[serve] has nothing to serve: no step retains its results");
        mistakes.push(mistake.hint("add retain = \"30d\" to a window step, for example"));
    }
    listen::address(table, mistakes)
}
