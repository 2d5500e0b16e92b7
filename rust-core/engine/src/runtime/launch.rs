//! Starts everything, waits for the end, and sums up.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use ringmill_failpoint::hit;

use super::assemble::{Assembly, node_counts};
use super::checkpoints::Checkpoints;
use super::farewell::Farewell;
use super::graph::Graph;
use super::producer;
use super::recovery::Durable;
use super::shard::Shard;
use super::signal::ShardSignal;
use super::snapshot::StartingPoint;
use super::supervisor::{WorkerUsage, own_usage};
use super::workers::start_workers;
use crate::error::EngineError;
use crate::metrics::{Control, Snapshot};
use crate::plan::Plan;
use crate::profile::Awake;
use crate::rundir;

/// How often starting workers are looked at where nothing wakes us.
const READY_LOOK: Duration = Duration::from_millis(50);

/// How a run went.
#[derive(Clone)]
pub struct Summary {
    /// The final figures.
    pub snapshot: Snapshot,
    /// Peak resident set of the core, in bytes.
    pub core_memory_bytes: u64,
    /// Sum of the workers' peak resident sets, in bytes.
    pub workers_memory_bytes: u64,
    /// User and system time of the core.
    pub core_cpu_seconds: f64,
    /// User and system time of the workers, their start included.
    pub workers_cpu_seconds: f64,
    /// Workers started.
    pub workers_started: u64,
    /// Workers started again after a death.
    pub workers_restarts: u64,
}

/// Runs a pipeline until its sources end, [`Control::request_drain`], or an error. Blocks.
///
/// Sources are open and workers ready before any sink is opened, so a run that cannot start leaves the outputs of the
/// last one alone.
pub fn run(plan: Plan, control: Arc<Control>) -> Result<Summary, EngineError> {
    let outcome = run_to_end(&plan, &control);
    control.stop_clock();
    control.set_finished();
    outcome
}

fn run_to_end(plan: &Plan, control: &Arc<Control>) -> Result<Summary, EngineError> {
    let _awake = Awake::hold(plan.profile);
    let signals = (0..plan.shards).map(|_| ShardSignal::new().map(Arc::new)).collect::<Result<Vec<_>, _>>();
    let signals = signals.map_err(|error| EngineError::Channel { worker: "(doorbell)".into(), error })?;
    signals.iter().for_each(|signal| control.add_waker(ringer(signal)));
    let mut durable = plan.checkpoint.as_ref().map(|spec| Durable::open(plan, spec, control)).transpose()?;
    let start = durable.as_ref().map_or_else(StartingPoint::default, |durable| durable.starting_point(plan));
    let mut assembly = Assembly::open_sources(plan, &signals, start, control)?;
    hit("recovery.sources");
    let workers = start_workers(plan, &signals, control)?;
    let workers_started = workers.handles.len() as u64;
    let supervisor = workers.supervisor;
    assembly.set_workers(workers.links);
    assembly.set_outlets(workers.outlets);
    let opened = assembly.set_feeds(workers.feeds);
    let folder = run_folder(plan);
    let listening = opened.and_then(|()| {
        let producers = producer::listen(plan, &signals, folder.as_ref())?;
        assembly.set_producers(producers.feeds).map(|()| producers.listener)
    });
    let (listener, opened) = listening.map_or_else(|error| (None, Err(error)), |listener| (listener, Ok(())));
    let onlookers = folder.and_then(|folder| show(folder, workers.handles));
    if let (Some(onlookers), Some(supervisor)) = (&onlookers, &supervisor) {
        supervisor.set_directory(onlookers.directory());
    }
    let outcome = opened.and_then(|()| run_shards(plan, &mut assembly, &signals, control, durable.as_mut()));
    if outcome.is_err() {
        control.request_abort();
    }
    let threads = std::mem::take(&mut assembly.threads);
    drop(assembly);
    let mut outcome = outcome;
    for thread in threads {
        if control.is_aborted() {
            thread.abandon();
        } else {
            outcome = outcome.and(thread.join());
        }
    }
    control.stop_clock();
    if control.is_aborted() {
        outcome = outcome.and(Err(EngineError::Aborted));
    }
    let usage = supervisor.map_or(Ok(WorkerUsage::default()), |supervisor| supervisor.finish())?;
    drop((listener, onlookers));
    if let Some(failure) = control.take_failure() {
        return Err(failure);
    }
    outcome?;
    if let Some(durable) = durable.as_ref().filter(|_| plan.is_replay()) {
        durable.take_letters_out(control)?;
    }
    let own = own_usage();
    let snapshot = control.snapshot();
    durable.iter().for_each(|durable| durable.note_end(&snapshot));
    Ok(Summary {
        workers_restarts: snapshot.workers.iter().map(|worker| worker.restarts).sum(),
        snapshot,
        core_memory_bytes: own.peak_bytes,
        workers_memory_bytes: usage.peak_bytes,
        core_cpu_seconds: own.cpu_seconds,
        workers_cpu_seconds: usage.cpu_seconds,
        workers_started,
    })
}

/// Where `ringmill inspect` and producers find the run; only producers cannot do without.
fn run_folder(plan: &Plan) -> Option<rundir::RunFolder> {
    let base = plan.run_base.as_deref()?;
    rundir::RunFolder::create(base, &plan.name).inspect_err(warn_unseen).ok()
}

/// Lets `ringmill inspect` see the run; one that cannot be shown still runs.
fn show(folder: rundir::RunFolder, channels: Vec<rundir::ChannelHandle>) -> Option<rundir::Server> {
    rundir::serve(folder, channels).inspect_err(warn_unseen).ok()
}

fn warn_unseen(error: &std::io::Error) {
    tracing::warn!("`ringmill inspect` will not find this run: {error}");
}

fn ringer(signal: &Arc<ShardSignal>) -> ringmill_connect::Waker {
    let signal = signal.clone();
    Arc::new(move || signal.ring())
}

fn run_shards(
    plan: &Plan,
    assembly: &mut Assembly<'_>,
    signals: &[Arc<ShardSignal>],
    control: &Arc<Control>,
    mut durable: Option<&mut Durable>,
) -> Result<(), EngineError> {
    let mut graphs = (0..plan.shards).map(|index| assembly.graph(index)).collect::<Result<Vec<_>, _>>()?;
    // The workers' interpreters start meanwhile. Where all is to be deleted, that comes first.
    let early = durable.as_deref().filter(|durable| durable.goes_on());
    let restored = early.map(|durable| durable.restore(&mut graphs, control)).transpose()?;
    await_ready(&mut graphs, signals, control)?;
    assembly.await_outlets(control)?;
    durable.as_deref_mut().map_or(Ok(()), |durable| durable.settle(control))?;
    let durable = durable.as_deref();
    let stores = match (restored, durable) {
        (Some(stores), _) => stores,
        (None, Some(durable)) => durable.restore(&mut graphs, control)?,
        (None, None) => Vec::new(),
    };
    let checkpoints = plan.checkpoint.as_ref().zip(durable);
    let checkpoints = checkpoints.map(|(spec, durable)| Checkpoints::new(plan, spec, durable));
    let links = checkpoints.as_ref().map(|checkpoints| (checkpoints.durable, &checkpoints.reports));
    let commands = assembly.open_sinks(control, links)?;
    hit("recovery.sinks");
    assembly.add_sinks(&mut graphs)?;
    let (ends, checkpoint_threads) = match checkpoints {
        None => (Vec::new(), None),
        Some(checkpoints) => {
            let epoch = checkpoints.durable.epoch();
            graphs.iter_mut().try_for_each(|graph| graph.restored(epoch))?;
            let (ends, threads) = checkpoints.start(&mut graphs, stores, commands, signals, control)?;
            (ends, Some(threads))
        }
    };
    let mut ends = ends.into_iter();
    let shards = graphs.into_iter().enumerate().map(|(index, graph)| Shard {
        graph,
        signal: signals[index].clone(),
        wait: plan.wait,
        profile: plan.profile,
        cpu: plan.cpus.get(index).copied(),
        nodes: node_counts(plan),
        mailbox: control.add_mailbox(),
        control: control.clone(),
        checkpoints: ends.next(),
    });
    let shards: Vec<Shard> = shards.collect();
    control.start_clock();
    let farewells = run_threads(shards, control);
    if let Some(threads) = checkpoint_threads {
        threads.join();
    }
    let farewells = farewells?;
    if !control.is_aborted() {
        farewells.into_iter().for_each(Farewell::tell);
    }
    Ok(())
}

/// Waits until all workers are ready, or one of them could not start.
fn await_ready(graphs: &mut [Graph], signals: &[Arc<ShardSignal>], control: &Control) -> Result<(), EngineError> {
    for (graph, signal) in graphs.iter_mut().zip(signals) {
        while !graph.is_ready()? {
            if control.is_aborted() {
                return Err(EngineError::Aborted);
            }
            signal.sleep(READY_LOOK);
            signal.doorbell().clear();
        }
    }
    Ok(())
}

/// One thread for each shard, until all have ended; what outlives them.
fn run_threads(shards: Vec<Shard>, control: &Arc<Control>) -> Result<Vec<Farewell>, EngineError> {
    let mut threads: Vec<JoinHandle<Vec<Farewell>>> = Vec::with_capacity(shards.len());
    let mut outcome = Ok(());
    let mut farewells = Vec::new();
    for (index, shard) in shards.into_iter().enumerate() {
        let spawned = std::thread::Builder::new().name(format!("shard-{index}")).spawn(move || shard.run());
        match spawned {
            Ok(thread) => threads.push(thread),
            Err(error) => {
                control.request_abort();
                outcome = Err(EngineError::system("start a shard thread", error));
            }
        }
    }
    for thread in threads {
        match thread.join() {
            Ok(left) => farewells.extend(left),
            Err(_) => {
                control.request_abort();
                outcome = Err(EngineError::Internal("a shard thread panicked".into()));
            }
        }
    }
    outcome.map(|()| farewells)
}
