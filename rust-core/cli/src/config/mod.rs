//! Configuration files: read in two stages, raw (types and units) then resolved (meaning); all mistakes at once.
//!
//! [`load`] reads a file and gives a [`Config`] or every [`Mistake`] found in it. Nothing is executed and nothing but the
//! one file, and the schemas that it names, is read. What needs the schemas of all streams is checked later, by the engine; [`Config::locate`] gives its
//! errors their lines.

mod avro;
pub mod document;
pub mod duration;
mod event_types;
pub mod graph;
pub mod guarantee;
pub mod http;
mod kafka;
pub mod keys;
pub mod listen;
mod message_fields;
mod message_format;
pub mod mistake;
mod mqtt;
mod nats;
pub mod paths;
mod pipeline;
pub mod postgres;
mod producer;
mod protobuf;
mod python;
pub mod raw;
mod registry;
pub mod resolve;
pub mod retained;
mod rolling;
pub mod schema;
pub mod size;
mod stop_early;
pub mod suggest;
pub mod text;
mod url;
mod variable;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use ringmill_connect::Promise;
use ringmill_engine::plan::retained::retained_step;
use ringmill_engine::plan::{NodeKind, NodeSpec, PipelineSpec, PlanError};

use crate::machine::Machine;
use document::{Entry, Value};
use mistake::{Mistake, Mistakes};
use text::{Span, Text};

/// A resolved configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// The file and the overrides.
    text: Text,
    /// The document, for places.
    document: Vec<Entry>,
    /// Folder that relative paths start from.
    pub directory: PathBuf,
    /// `[pipeline]` with its defaults filled in.
    pub pipeline: PipelineSpec,
    /// Sources, steps and sinks in the order of the file. Functions are not described yet.
    pub nodes: Vec<NodeSpec>,
    /// The workers' interpreter; `None` when no step needs one.
    pub python: Option<PathBuf>,
    /// Where retained results are served; `None`: they are not.
    pub serve: Option<SocketAddr>,
    /// What every source and sink must promise.
    pub demanded: Option<Promise>,
}

/// Reads and resolves the file, with `key=value` overrides laid over it.
pub fn load(path: &Path, overrides: &[String], machine: &Machine) -> Result<Config, Mistakes> {
    let name = path.display().to_string();
    let unreadable = |message: String| Mistakes::new(Text::new(&name, ""), vec![Mistake::of_file(message)]);
    let bytes = std::fs::read(path).map_err(|error| unreadable(format!("cannot be read: {error}")))?;
    let file = String::from_utf8(bytes).map_err(|error| unreadable(format!("is not UTF-8: {error}")))?;
    let directory = match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => PathBuf::from("."),
        Some(parent) => parent.to_owned(),
        None => PathBuf::from("."),
    };
    let directory = std::path::absolute(&directory).unwrap_or(directory);
    parse(Text::new(&name, &file), overrides, &directory, &default_name(path, &directory), machine)
}

/// The file's name without its ending; `pipeline.toml` is named for its folder.
fn default_name(path: &Path, directory: &Path) -> String {
    let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    if stem != "pipeline" && !stem.is_empty() {
        return stem;
    }
    directory.file_name().map_or_else(|| "pipeline".to_owned(), |name| name.to_string_lossy().into_owned())
}

/// Resolves a text.
pub fn parse(
    mut text: Text,
    overrides: &[String],
    directory: &Path,
    default_name: &str,
    machine: &Machine,
) -> Result<Config, Mistakes> {
    let mut mistakes = Vec::new();
    let document = document::parse(&mut text, overrides, &mut mistakes);
    if !mistakes.is_empty() {
        // What stands behind a syntax error cannot be judged.
        return Err(Mistakes::new(text, mistakes));
    }
    let root = raw::check_table(&document, keys::ROOT, Span { start: 0, end: 0 }, "the file", &mut mistakes);
    graph::check(&document, &mut mistakes);
    let resolved = resolve::resolve(&root, directory, default_name, machine, &mut mistakes);
    let demanded = guarantee::check(&root, &resolved.1, &mut mistakes);
    let has_retained = resolved.1.iter().any(|node| retained_step(&node.name).is_some());
    let serve = retained::listen(&root, has_retained, &mut mistakes);
    listen::check(&root, &mut mistakes);
    if !mistakes.is_empty() {
        return Err(Mistakes::new(text, mistakes));
    }
    let (pipeline, nodes, python) = resolved;
    Ok(Config { text, document, directory: directory.to_owned(), pipeline, nodes, python, serve, demanded })
}

impl Config {
    /// Gives the engine's errors their places.
    pub fn locate(&self, errors: Vec<PlanError>) -> Mistakes {
        let list = errors.into_iter().map(|error| {
            let span = self.place(&error.node, &error.key);
            // Where the node itself is unknown, its name has to be in the message.
            let message = if span.is_some() { error.message } else { format!("{}: {}", error.node, error.message) };
            Mistake { span, message, hint: error.hint, is_private: false }
        });
        Mistakes::new(self.text.clone(), list.collect())
    }

    /// Mistakes at one key of a node.
    pub fn mistake_at(&self, node: &str, key: &str, message: impl Into<String>) -> Mistake {
        Mistake { span: self.place(node, key), message: message.into(), hint: None, is_private: false }
    }

    /// Wraps mistakes found later with the text they stand in.
    pub fn mistakes(&self, list: Vec<Mistake>) -> Mistakes {
        Mistakes::new(self.text.clone(), list)
    }

    /// The value of a dotted key of a node; if it is absent, its nearest ancestor.
    fn place(&self, node: &str, key: &str) -> Option<Span> {
        let sections = self.document.iter().filter(|entry| ["sources", "steps", "sinks"].contains(&entry.key.as_str()));
        let mut entry = sections.flat_map(children).find(|entry| entry.key == node)?;
        for part in key.split('.').filter(|part| !part.is_empty()) {
            match children(entry).iter().find(|child| child.key == part) {
                Some(child) => entry = child,
                None => break,
            }
        }
        Some(match entry.node.value {
            Value::Table(_) => entry.key_span,
            _ => entry.node.span,
        })
    }

    /// The steps that run Python, with the place of each among [`Config::nodes`].
    pub fn functions(&self) -> impl Iterator<Item = (usize, &NodeSpec)> {
        self.nodes.iter().enumerate().filter(|(_, node)| matches!(node.kind, NodeKind::Udf(_)))
    }
}

fn children(entry: &Entry) -> &[Entry] {
    match &entry.node.value {
        Value::Table(entries) => entries,
        _ => &[],
    }
}
