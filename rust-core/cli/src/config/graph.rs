//! How sources, steps and sinks hang together: names, dangling inputs, cycles. Works on the document as written, so that
//! these mistakes are found beside others.

use std::collections::HashMap;

use super::document::{Entry, Node, Value};
use super::mistake::Mistake;
use super::suggest::did_you_mean;

/// A source, step or sink by name.
struct Member<'a> {
    section: &'static str,
    entry: &'a Entry,
    inputs: Vec<(&'a str, &'a Node)>,
}

/// Notes bad and repeated names, inputs that nobody makes, and cycles.
pub fn check(document: &[Entry], mistakes: &mut Vec<Mistake>) {
    let members: Vec<Member<'_>> =
        ["sources", "steps", "sinks"].into_iter().flat_map(|s| members(document, s)).collect();
    let mut by_name: HashMap<&str, usize> = HashMap::new();
    for (index, member) in members.iter().enumerate() {
        check_name(member, mistakes);
        if let Some(first) = by_name.get(member.entry.key.as_str()) {
            let first = members[*first].section;
            let message = format!("the name `{}` is taken: there is [{first}.{0}] already", member.entry.key);
            let hint = "sources, steps and sinks share their names";
            mistakes.push(Mistake::at(member.entry.key_span, message).hint(hint));
        } else {
            by_name.insert(&member.entry.key, index);
        }
    }
    let streams = streams(&members);
    for member in &members {
        for (input, node) in &member.inputs {
            check_input(member, input, node, &members, &by_name, &streams, mistakes);
        }
    }
    check_cycles(&members, &by_name, mistakes);
}

fn members<'a>(document: &'a [Entry], section: &'static str) -> Vec<Member<'a>> {
    let Some(Value::Table(entries)) = document.iter().find(|entry| entry.key == section).map(|entry| &entry.node.value)
    else {
        return Vec::new();
    };
    let member = |entry: &'a Entry| {
        let keys: &[Entry] = if let Value::Table(keys) = &entry.node.value { keys } else { &[] };
        let inputs = match keys.iter().find(|key| key.key == "inputs").map(|key| &key.node.value) {
            Some(Value::List(items)) if section != "sources" => items.iter().filter_map(named).collect(),
            _ => Vec::new(),
        };
        Member { section, entry, inputs }
    };
    entries.iter().map(member).collect()
}

fn named(node: &Node) -> Option<(&str, &Node)> {
    match &node.value {
        Value::Text(name) => Some((name, node)),
        _ => None,
    }
}

fn check_name(member: &Member<'_>, mistakes: &mut Vec<Mistake>) {
    let name = &member.entry.key;
    if !is_name(name) {
        mistakes.push(Mistake::at(member.entry.key_span, format!("`{name}` cannot be a name")).hint(NAME_HINT));
    }
}

/// What a source, a step, a sink or a type of events can be called.
pub(super) fn is_name(name: &str) -> bool {
    let first = name.chars().next().is_some_and(|c| c.is_alphabetic() || c == '_');
    first && name.len() <= 64 && name.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '-')
}

/// The rule, for people.
pub(super) const NAME_HINT: &str = "names are up to 64 letters, digits, _ and -, and begin with a letter";

/// The types of a source's events; empty if it has none.
fn event_types<'a>(member: &Member<'a>) -> Vec<&'a str> {
    let Value::Table(keys) = &member.entry.node.value else { return Vec::new() };
    match keys.iter().find(|key| key.key == "types").map(|key| &key.node.value) {
        Some(Value::Table(types)) if member.section == "sources" => {
            types.iter().map(|event_type| event_type.key.as_str()).collect()
        }
        _ => Vec::new(),
    }
}

/// Every stream that can be read.
fn streams(members: &[Member<'_>]) -> Vec<String> {
    let mut streams = Vec::new();
    for member in members.iter().filter(|member| member.section != "sinks") {
        let name = &member.entry.key;
        match event_types(member)[..] {
            [] => streams.push(name.clone()),
            ref types => streams.extend(types.iter().map(|event_type| format!("{name}.{event_type}"))),
        }
        streams.push(format!("{name}.dead_letters"));
        if member.section == "steps" {
            streams.push(format!("{name}.late"));
        }
    }
    streams
}

fn check_input(
    reader: &Member<'_>,
    input: &str,
    node: &Node,
    members: &[Member<'_>],
    by_name: &HashMap<&str, usize>,
    streams: &[String],
    mistakes: &mut Vec<Mistake>,
) {
    if streams.iter().any(|stream| stream == input) {
        if reader.inputs.iter().filter(|(name, _)| *name == input).count() > 1 {
            mistakes.push(Mistake::at(node.span, format!("`{input}` is named twice")));
        }
        return;
    }
    let (name, port) = input.split_once('.').unwrap_or((input, ""));
    let mistake = match by_name.get(name).map(|index| members[*index].section) {
        Some("sinks") => Mistake::at(node.span, format!("`{name}` is a sink, and sinks give no rows"))
            .hint("name a source or a step"),
        Some("sources") if port.is_empty() => {
            let own = streams.iter().filter(|stream| stream.starts_with(&format!("{name}."))).map(String::as_str);
            let own: Vec<&str> = own.filter(|stream| !stream.ends_with(".dead_letters")).collect();
            Mistake::at(node.span, format!("`{name}` has events of several types, each with a stream of its own"))
                .hint(format!("name them: {}", own.join(", ")))
        }
        Some("sources") if port == "late" => Mistake::at(node.span, format!("`{name}` is a source and has no `.late`"))
            .hint("rows are late for a window: name the window step"),
        Some(_) => {
            let hint = did_you_mean(input, streams)
                .unwrap_or_else(|| format!("{name} offers {name}.late and {name}.dead_letters"));
            Mistake::at(node.span, format!("there is no stream `{input}`")).hint(hint)
        }
        None => {
            let hint = did_you_mean(input, streams).or_else(|| did_you_mean(name, streams));
            Mistake::at(node.span, format!("there is no source or step `{name}`"))
                .hint(hint.unwrap_or_else(|| format!("streams are {}", shortened(streams))))
        }
    };
    mistakes.push(mistake);
}

fn shortened(streams: &[String]) -> String {
    let main: Vec<&str> = streams.iter().map(String::as_str).filter(|stream| !stream.contains('.')).take(12).collect();
    if main.is_empty() { "not there yet".to_owned() } else { main.join(", ") }
}

/// Follows inputs upwards from every step; each cycle is reported once, at the input that closes it.
fn check_cycles(members: &[Member<'_>], by_name: &HashMap<&str, usize>, mistakes: &mut Vec<Mistake>) {
    #[derive(Clone, Copy, PartialEq)]
    enum Mark {
        New,
        Open,
        Done,
    }
    let mut marks = vec![Mark::New; members.len()];
    for start in 0..members.len() {
        // A stack of (member, next input), so that a long chain cannot exhaust the thread's own stack.
        let mut path: Vec<(usize, usize)> = Vec::new();
        if marks[start] == Mark::New {
            marks[start] = Mark::Open;
            path.push((start, 0));
        }
        while let Some((member, next)) = path.last_mut() {
            let Some((input, node)) = members[*member].inputs.get(*next) else {
                marks[*member] = Mark::Done;
                path.pop();
                continue;
            };
            *next += 1;
            let name = input.split_once('.').map_or(*input, |(name, _)| name);
            let Some(&producer) = by_name.get(name).filter(|index| members[**index].section != "sinks") else {
                continue;
            };
            match marks[producer] {
                Mark::Done => {}
                Mark::New => {
                    marks[producer] = Mark::Open;
                    path.push((producer, 0));
                }
                Mark::Open => {
                    let from = path.iter().position(|(member, _)| *member == producer).unwrap_or(0);
                    let mut names: Vec<&str> =
                        path[from..].iter().map(|(m, _)| members[*m].entry.key.as_str()).collect();
                    names.push(name);
                    // The path runs from reader to producer; rows flow the other way.
                    names.reverse();
                    let message = format!("the steps feed each other in a circle: {}", names.join(" -> "));
                    mistakes.push(Mistake::at(node.span, message).hint("rows can only flow forwards"));
                }
            }
        }
    }
}
