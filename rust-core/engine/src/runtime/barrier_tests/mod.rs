//! Barriers through whole graphs: whatever the shards' turns, the refusals and the moments of the barriers are, what was
//! passed on before a barrier and what a run from that barrier's snapshot passes on make up the undisturbed output.

mod parts;
mod threads;
mod world;

use std::cell::Cell;

use crate::random::Random;
use parts::record;
use world::{Checkpoint, Kind, NodeSpec, Outcome, Schedule, Topology, run};

use super::operator::{DEAD_LETTERS, LATE, ROWS};
use crate::window::WindowKind;

thread_local! {
    static BROKEN: Cell<bool> = const { Cell::new(false) };
}

/// The canary's switch: nodes with several inputs do not wait for each other's barriers.
pub fn is_alignment_broken() -> bool {
    BROKEN.get()
}

const TUMBLING: WindowKind = WindowKind::Tumbling { size_ns: 500_000_000 };
const SLIDING: WindowKind = WindowKind::Sliding { size_ns: 500_000_000, every_ns: 250_000_000 };
const SESSION: WindowKind = WindowKind::Session { gap_ns: 120_000_000 };

/// Runs of this many schedules for each topology.
const SCHEDULES: u64 = 30;

const fn source(partitions: u64, records: u64, jitter_ms: i64) -> NodeSpec {
    NodeSpec { kind: Kind::Source { partitions, records, jitter_ms }, inputs: &[] }
}

const fn node(kind: Kind, inputs: &'static [(usize, usize)]) -> NodeSpec {
    NodeSpec { kind, inputs }
}

/// A source and its two sinks.
const STRAIGHT: &[NodeSpec] = &[
    source(3, 600, 200),
    node(Kind::Sink(ROWS), &[(0, ROWS)]),
    node(Kind::Sink(DEAD_LETTERS), &[(0, DEAD_LETTERS)]),
    node(Kind::Null, &[(0, ROWS)]),
];

/// Every port leads to a sink of its own. One partition, so that what is late follows from the rows' positions.
const WINDOWED: &[NodeSpec] = &[
    source(1, 1500, 800),
    node(Kind::Filter("k != 3"), &[(0, ROWS)]),
    node(Kind::Window, &[(1, ROWS)]),
    node(Kind::Sink(ROWS), &[(2, ROWS)]),
    node(Kind::Sink(LATE), &[(2, LATE)]),
    node(Kind::Sink(DEAD_LETTERS), &[(0, DEAD_LETTERS)]),
    node(Kind::Null, &[(1, ROWS)]),
];

/// One source, two branches, and sinks that read both.
const DIAMOND: &[NodeSpec] = &[
    source(2, 600, 200),
    node(Kind::Filter("k < 4"), &[(0, ROWS)]),
    node(Kind::Filter("k > 2"), &[(0, ROWS)]),
    node(Kind::Sink(LATE), &[(1, ROWS), (2, ROWS)]),
    node(Kind::Sink(LATE), &[(2, ROWS), (0, ROWS)]),
    node(Kind::Null, &[(1, ROWS), (2, ROWS)]),
];

/// Two sources of different length into one window.
const JOINED: &[NodeSpec] = &[
    source(2, 500, 50),
    source(1, 900, 50),
    node(Kind::Window, &[(0, ROWS), (1, ROWS)]),
    node(Kind::Sink(ROWS), &[(2, ROWS)]),
    node(Kind::Sink(LATE), &[(2, LATE), (0, ROWS)]),
];

/// Rows change shards before the window.
const EXCHANGED: &[NodeSpec] = &[
    source(4, 500, 50),
    node(Kind::Filter("k != 3"), &[(0, ROWS)]),
    node(Kind::Window, &[(1, ROWS), (0, ROWS)]),
    node(Kind::Sink(ROWS), &[(2, ROWS)]),
    node(Kind::Sink(LATE), &[(2, LATE)]),
    node(Kind::Sink(DEAD_LETTERS), &[(0, DEAD_LETTERS)]),
    node(Kind::Null, &[(2, ROWS)]),
];

fn undisturbed() -> Schedule {
    Schedule { random: Random(1), refuses: 0, barriers: 0, drains_at: u64::MAX }
}

/// The rows of several runs, each taken up to an epoch, are those of the undisturbed run; and the last one's checksums
/// are, as they go on from run to run.
fn compare(reference: &Outcome, parts: &[(&Outcome, u64)]) -> Result<(), String> {
    for (node, whole) in &reference.logs {
        let taken = parts.iter().flat_map(|(part, epoch)| part.logs[node].iter().filter(|(of, _)| of <= epoch));
        let mut taken: Vec<&str> = taken.map(|(_, line)| line.as_str()).collect();
        let mut whole: Vec<&str> = whole.iter().map(|(_, line)| line.as_str()).collect();
        taken.sort_unstable();
        whole.sort_unstable();
        if taken != whole {
            let differs = taken.iter().zip(&whole).find(|(taken, whole)| taken != whole);
            return Err(format!("sink {node}: {} rows instead of {}: {differs:?}", taken.len(), whole.len()));
        }
    }
    let last = parts.last().map(|(part, _)| &part.checksums);
    if last != Some(&reference.checksums) {
        return Err(format!("checksums {last:?} instead of {:?}", reference.checksums));
    }
    Ok(())
}

/// Keys and values of the rows that leave a node's port before a checkpoint; `None`: it is not row by row.
fn expected(topology: &Topology, checkpoint: &Checkpoint, (node, port): (usize, usize)) -> Option<Vec<[i64; 2]>> {
    let NodeSpec { kind, inputs } = &topology.nodes[node];
    let condition: fn(&[i64; 2]) -> bool = match *kind {
        Kind::Source { partitions, jitter_ms, .. } => {
            let mut rows = Vec::new();
            for partition in 0..partitions {
                let end = checkpoint.position(node, &format!("{node}/{partition}"));
                let number = (node as u64) << 8 | partition;
                rows.extend((0..end).filter_map(|index| record(number, index, jitter_ms)).map(|[_, k, x]| [k, x]));
            }
            return (port == ROWS).then_some(rows);
        }
        Kind::Filter("k != 3") => |row| row[0] != 3,
        Kind::Filter("k < 4") => |row| row[0] < 4,
        Kind::Filter("k > 2") => |row| row[0] > 2,
        _ => return None,
    };
    let mut rows = Vec::new();
    for input in *inputs {
        rows.extend(expected(topology, checkpoint, *input)?.into_iter().filter(condition));
    }
    Some(rows)
}

/// What each sink has got before the barrier is what follows from the records before the positions, and the figures
/// say so.
fn agrees_with_positions(topology: &Topology, first: &Outcome, checkpoint: &Checkpoint) -> Result<(), String> {
    for (node, NodeSpec { kind, inputs }) in topology.nodes.iter().enumerate() {
        let figures = &checkpoint.counts[&node];
        if let Kind::Source { partitions, .. } = kind {
            let position = |partition| checkpoint.position(node, &format!("{node}/{partition}"));
            let records: u64 = (0..*partitions).map(position).sum();
            if figures.rows_in != records {
                return Err(format!("source {node}: {} records counted, {records} read", figures.rows_in));
            }
        }
        let Some(log) = first.logs.get(&node) else { continue };
        let before: Vec<&str> =
            log.iter().filter(|(epoch, _)| *epoch <= checkpoint.epoch).map(|(_, line)| line.as_str()).collect();
        if figures.rows_in != before.len() as u64 {
            return Err(format!("sink {node}: {} rows counted, {} taken", figures.rows_in, before.len()));
        }
        let rows: Option<Vec<_>> = inputs.iter().map(|input| expected(topology, checkpoint, *input)).collect();
        let Some(rows) = rows else { continue };
        let mut values: Vec<i64> = rows.into_iter().flatten().map(|[_, x]| x).collect();
        let value = |line: &&str| serde_json::from_str::<serde_json::Value>(line).unwrap()["x"].as_i64().unwrap();
        let mut taken: Vec<i64> = before.iter().map(value).collect();
        values.sort_unstable();
        taken.sort_unstable();
        if taken != values {
            return Err(format!(
                "sink {node} before barrier {}: {} rows instead of {}",
                checkpoint.epoch,
                taken.len(),
                values.len()
            ));
        }
    }
    Ok(())
}

/// Runs the topology under one schedule, goes on from one of its checkpoints, and from one of that run's.
fn check(topology: &Topology, reference: &Outcome, seed: u64) -> Result<(), String> {
    let mut random = Random(seed);
    let schedule = |random: &mut Random, drains_at| Schedule {
        random: Random(random.next()),
        refuses: 2 + random.below(6),
        barriers: 3 + random.below(300),
        drains_at,
    };
    let drains_at = if random.one_in(3) { random.below(400) } else { u64::MAX };
    let first = run(topology, &schedule(&mut random, drains_at), &Checkpoint::default())?;
    if drains_at == u64::MAX {
        compare(reference, &[(&first, u64::MAX)])?;
    }
    for checkpoint in &first.checkpoints {
        agrees_with_positions(topology, &first, checkpoint)?;
    }
    let pick = |outcome: &Outcome, random: &mut Random| random.below(outcome.checkpoints.len() as u64) as usize;
    let one = &first.checkpoints[pick(&first, &mut random)];
    let shards = if topology.shards > 1 { 1 + random.below(4) as usize } else { 1 };
    let other = Topology { shards, ..*topology };
    let second = run(&other, &schedule(&mut random, u64::MAX), one)?;
    let place = |error| format!("from checkpoint {} on {shards} shards: {error}", one.epoch);
    compare(reference, &[(&first, one.epoch), (&second, u64::MAX)]).map_err(place)?;
    let two = &second.checkpoints[pick(&second, &mut random)];
    let third = run(topology, &schedule(&mut random, u64::MAX), two)?;
    let place = |error| format!("from checkpoint {}, then {}: {error}", one.epoch, two.epoch);
    compare(reference, &[(&first, one.epoch), (&second, two.epoch), (&third, u64::MAX)]).map_err(place)
}

/// All schedules of a topology; the first that fails.
fn check_all(nodes: &'static [NodeSpec], shards: usize, windows: WindowKind) -> Result<(), String> {
    let topology = Topology { nodes, shards, windows };
    let reference = run(&topology, &undisturbed(), &Checkpoint::default())?;
    let rows: Vec<(usize, usize)> = reference.logs.iter().map(|(node, log)| (*node, log.len())).collect();
    // Rows of several partitions meet in no particular order, so there none is late.
    let is_fit = |(node, rows): &(usize, usize)| *rows > 0 || std::ptr::eq(nodes, EXCHANGED) && *node == 4;
    assert!(rows.iter().all(is_fit), "a sink has nothing to do: {rows:?}");
    (1..=SCHEDULES)
        .try_for_each(|seed| check(&topology, &reference, seed).map_err(|error| format!("seed {seed}: {error}")))
}

fn passes(nodes: &'static [NodeSpec], shards: usize, windows: WindowKind) {
    check_all(nodes, shards, windows).unwrap_or_else(|error| panic!("{shards} shards, {windows:?}: {error}"));
}

#[test]
fn rows_and_dead_letters_before_a_barrier_are_those_of_the_records_before_the_positions() {
    passes(STRAIGHT, 1, TUMBLING);
    passes(STRAIGHT, 2, TUMBLING);
}

#[test]
fn windows_with_late_rows_go_on_where_the_barrier_was() {
    for windows in [TUMBLING, SLIDING, SESSION] {
        passes(WINDOWED, 1, windows);
    }
}

#[test]
fn a_sink_that_reads_two_branches_waits_for_both_barriers() {
    passes(DIAMOND, 1, TUMBLING);
}

#[test]
fn a_window_that_reads_two_sources_waits_for_both_barriers() {
    passes(JOINED, 1, TUMBLING);
    passes(JOINED, 1, SESSION);
}

#[test]
fn rows_that_change_shards_stay_in_their_epoch_whatever_the_number_of_shards() {
    for shards in [2, 3] {
        passes(EXCHANGED, shards, TUMBLING);
        passes(EXCHANGED, shards, SESSION);
    }
}

/// The checks above are worth something: without alignment each of them fails.
#[test]
fn without_alignment_the_checks_fail() {
    BROKEN.set(true);
    for (nodes, shards) in [(DIAMOND, 1), (JOINED, 1), (EXCHANGED, 2)] {
        let outcome = std::panic::catch_unwind(|| check_all(nodes, shards, TUMBLING));
        assert!(!matches!(outcome, Ok(Ok(()))), "{shards} shards: nothing was noticed");
    }
    BROKEN.set(false);
}
