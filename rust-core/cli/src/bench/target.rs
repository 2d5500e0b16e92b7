//! The user's pipeline made ready to be measured: its sources paced, its sinks discarded, its state in a scratch folder.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ringmill_connect::open_loop::{Held, OpenLoop, hold_file, hold_stdin};
use ringmill_engine::Plan;
use ringmill_engine::instruments::{Instruments, Probe};
use ringmill_engine::plan::{CheckpointSpec, NodeKind, SinkSpec, SourceConnector, StartFrom};
use tempfile::TempDir;

use crate::arguments::ConfigArguments;
use crate::failure::{Failure, Hinted};
use crate::machine::Machine;
use crate::prepare::prepare_adjusted;
use crate::units::{bytes, grouped};

/// A pipeline that can be run again and again under a load.
pub struct Target {
    /// The pipeline, without instruments.
    pub plan: Plan,
    /// What was changed, a sentence each.
    pub notes: Vec<String>,
    /// Whether sinks write what they get.
    pub keeps_sinks: bool,
    shares: Vec<(usize, f64)>,
    /// Inputs in memory, for as long as the target is there.
    _held: Vec<Held>,
    scratch: TempDir,
}

impl Target {
    /// Reads the configuration and changes what has to be. Inputs are read into memory; `folder` exists and takes what is
    /// needed only while runs go on.
    ///
    /// # Errors
    /// As for [`crate::prepare::prepare`], and what is wrong with an input.
    pub fn prepare(
        arguments: &ConfigArguments,
        machine: &Machine,
        keeps_sinks: bool,
        folder: &Path,
    ) -> Result<Target, Failure> {
        let failed = |error| Failure::Run(Hinted::new(format!("{} cannot be written: {error}", folder.display())));
        let scratch = tempfile::Builder::new().prefix("scratch-").tempdir_in(folder).map_err(failed)?;
        let state = scratch.path().join("state");
        let mut notes = Vec::new();
        let (mut plan, serve) = prepare_adjusted(arguments, machine, |pipeline| {
            if let Some(checkpoint) = &mut pipeline.checkpoint {
                checkpoint.path = state.clone();
                checkpoint.start = StartFrom::Beginning;
                notes.push("checkpoints go to a scratch folder, and every run begins at the beginning".to_owned());
            }
        })?;
        notes.extend(serve.map(|_| "retained results are not served".to_owned()));
        let shares = shares(&plan);
        let held = hold_sources(&mut plan, scratch.path(), &mut notes)?;
        if keeps_sinks {
            notes.push("sinks write what they get".to_owned());
        } else {
            discard_sinks(&mut plan);
            notes.push("rows are counted where a sink would get them, and thrown away".to_owned());
        }
        Ok(Target { plan, notes, keeps_sinks, shares, _held: held, scratch })
    }

    /// The instruments of one run under `load`.
    pub fn instruments(&self, load: &Arc<OpenLoop>, slice_ns: u64, slices: usize) -> Instruments {
        let probe = Arc::new(Probe::new(load.clone(), slice_ns, slices));
        Instruments { load: load.clone(), probe, discards: !self.keeps_sinks }
    }

    /// Each source's part of the load, by its node's index.
    pub fn shares(&self) -> Vec<(usize, f64)> {
        self.shares.clone()
    }

    /// Checkpoints every `interval_ns` in the scratch folder.
    pub fn checkpoint_every(&self, interval_ns: u64) -> CheckpointSpec {
        let path: PathBuf = self.scratch.path().join("state");
        CheckpointSpec { path, interval_ns, keep: 3, start: StartFrom::Beginning }
    }
}

/// In the proportion of the sources' own rates, if all have one; otherwise equal parts.
fn shares(plan: &Plan) -> Vec<(usize, f64)> {
    let sources = plan.nodes.iter().enumerate().filter_map(|(index, node)| match &node.kind {
        NodeKind::Source(source) => Some((index, rate_of(&source.connector))),
        _ => None,
    });
    let sources: Vec<(usize, Option<f64>)> = sources.collect();
    let total: Option<f64> = sources.iter().map(|(_, rate)| *rate).sum();
    let part = |rate: Option<f64>| match (rate, total) {
        (Some(rate), Some(total)) => rate / total,
        _ => 1.0 / sources.len() as f64,
    };
    sources.iter().map(|(index, rate)| (*index, part(*rate))).collect()
}

fn rate_of(connector: &SourceConnector) -> Option<f64> {
    match connector {
        SourceConnector::Generator(spec) => spec.rate,
        SourceConnector::File(spec) => spec.rate,
        SourceConnector::Stdin(spec) => spec.rate,
        SourceConnector::Socket(spec) => spec.rate,
        SourceConnector::Http(spec) => spec.rate,
        SourceConnector::Kafka(spec) => spec.rate,
        SourceConnector::Mqtt(spec) => spec.rate,
        SourceConnector::Nats(spec) => spec.rate,
        SourceConnector::NatsCore(spec) => spec.rate,
        SourceConnector::Python(source) => source.feed.rate,
        SourceConnector::Producer(source) => source.feed.rate,
        SourceConnector::Letters(_) => None,
    }
}

/// Makes every source endless and as fast as it is asked.
fn hold_sources(plan: &mut Plan, scratch: &Path, notes: &mut Vec<String>) -> Result<Vec<Held>, Failure> {
    let mut all_held = Vec::new();
    for (index, node) in plan.nodes.iter_mut().enumerate() {
        let NodeKind::Source(source) = &mut node.kind else { continue };
        let name = &node.name;
        let refused = |error| Failure::Run(Hinted::new(format!("{name}: {error}")));
        let links = scratch.join(format!("input-{index}"));
        std::fs::create_dir(&links)
            .map_err(|error| Failure::Run(Hinted::new(format!("{} cannot be made: {error}", links.display()))))?;
        let held = match &mut source.connector {
            SourceConnector::Generator(spec) => {
                if let Some(rows) = spec.rows.take() {
                    notes.push(format!("{name} makes rows for as long as a run lasts, not {}", grouped(rows)));
                }
                spec.rate = None;
                continue;
            }
            SourceConnector::File(spec) => hold_file(spec, &links),
            SourceConnector::Stdin(spec) => hold_stdin(spec, &links),
            SourceConnector::Socket(_)
            | SourceConnector::Http(_)
            | SourceConnector::Kafka(_)
            | SourceConnector::Mqtt(_)
            | SourceConnector::Nats(_)
            | SourceConnector::NatsCore(_)
            | SourceConnector::Python(_)
            | SourceConnector::Producer(_) => {
                let hinted = Hinted::new(format!("{name}: there are no rows to send again and again"));
                return Err(Failure::Run(hinted.hint("measure with a source that reads a file of such rows")));
            }
            // No configuration has any.
            SourceConnector::Letters(_) => continue,
        };
        let (file, held) = held.map_err(refused)?;
        notes.push(format!("{name}: {} are held in memory and read again and again", bytes(held.bytes)));
        source.connector = SourceConnector::File(file);
        all_held.push(held);
    }
    Ok(all_held)
}

fn discard_sinks(plan: &mut Plan) {
    for node in &mut plan.nodes {
        if let NodeKind::Sink(sink) = &mut node.kind
            && !sink.is_internal(&node.name)
        {
            *sink = SinkSpec::Null;
        }
    }
}
