//! The same promise with real shard threads, and a test in the place of the checkpoint thread.

use std::sync::Arc;

use crossbeam::channel::bounded;
use ringmill_ring::Wait;

use super::world::{Checkpoint, Outcome, Schedule, Store, Topology, build, run, signals, take};
use super::{EXCHANGED, TUMBLING, agrees_with_positions, compare, undisturbed};
use crate::metrics::{Control, NodeCounts};
use crate::random::Random;
use crate::runtime::checkpoint_link::{CheckpointLink, StoreEnd, connect};
use crate::runtime::shard::Shard;
use crate::runtime::signal::ShardSignal;
use crate::runtime::snapshot::BarrierRequest;
use crate::runtime::store_port::StoreTask;

/// Starts the shards' threads; figures of an earlier run are `base`.
fn start(
    topology: &Topology,
    schedule: &Schedule,
    link: &Arc<CheckpointLink>,
    signals: &[Arc<ShardSignal>],
    base: u64,
) -> (Vec<std::thread::JoinHandle<()>>, Vec<StoreEnd>, impl FnOnce() -> Outcome) {
    let control = Arc::new(Control::default());
    let (graphs, logs) = build(topology, schedule, &Checkpoint::default(), signals);
    let (mut threads, mut ends) = (Vec::new(), Vec::new());
    for (index, graph) in graphs.into_iter().enumerate() {
        let nodes: Vec<NodeCounts> = topology.nodes.iter().map(|_| NodeCounts::default()).collect();
        let mut before = nodes.clone();
        before.iter_mut().for_each(|counts| counts.rows_in = base);
        let base = if index == 0 { before } else { Vec::new() };
        let (checkpoints, end) = connect(link, index, graph.node_count(), base);
        ends.push(end);
        let shard = Shard {
            graph,
            signal: signals[index].clone(),
            wait: Wait::Adaptive,
            profile: Default::default(),
            cpu: None,
            nodes,
            mailbox: control.add_mailbox(),
            control: control.clone(),
            checkpoints: Some(checkpoints),
        };
        threads.push(std::thread::spawn(move || drop(shard.run())));
    }
    let finish = move || {
        let counts = control.snapshot().nodes;
        let sums = counts.iter().enumerate().filter_map(|(node, counts)| Some((node, counts.checksum?)));
        Outcome { checksums: sums.collect(), logs: take(logs), checkpoints: Vec::new() }
    };
    (threads, ends, finish)
}

#[test]
fn shard_threads_hand_over_one_snapshot_for_each_barrier_and_end_with_the_last() {
    const BASE: u64 = 1_000_000;
    let topology = Topology { nodes: EXCHANGED, shards: 3, windows: TUMBLING };
    let schedule = Schedule { random: Random(7), refuses: 4, barriers: 1, drains_at: u64::MAX };
    let signals = signals(topology.shards);
    let (wake, woken) = bounded(1);
    let waker = Arc::new(move || {
        let _ = wake.try_send(());
    });
    let link = Arc::new(CheckpointLink::new(0, signals.clone(), waker));
    let (threads, ends, finish) = start(&topology, &schedule, &link, &signals, BASE);
    let mut stores = vec![Store::new(); topology.shards];
    let mut checkpoints: Vec<Checkpoint> = Vec::new();
    loop {
        let epoch = checkpoints.len() as u64 + 1;
        let is_final = (0..topology.shards).all(|shard| link.is_exhausted(shard));
        link.request(BarrierRequest { epoch, is_final });
        let mut checkpoint = Checkpoint { epoch, ..Checkpoint::default() };
        for (shard, end) in ends.iter().enumerate() {
            let Some(StoreTask::Snapshot(mut snapshot)) = end.next() else { panic!("one for each barrier") };
            assert_eq!((snapshot.epoch, snapshot.shard), (epoch, shard));
            checkpoint.add(&mut stores[shard], &mut snapshot);
            end.give_back(snapshot);
        }
        checkpoint.counts.values_mut().for_each(|counts| counts.rows_in -= BASE);
        checkpoints.push(checkpoint);
        if is_final {
            break;
        }
    }
    assert!(ends.iter().all(|end| end.next().is_none()), "nothing follows the last barrier");
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    woken.recv().expect("exhausted shards wake the checkpoint thread");
    let first = finish();
    let reference = run(&topology, &undisturbed(), &Checkpoint::default()).unwrap();
    compare(&reference, &[(&first, u64::MAX)]).unwrap();
    for checkpoint in &checkpoints {
        agrees_with_positions(&topology, &first, checkpoint).unwrap();
    }
    let middle = &checkpoints[checkpoints.len() / 2];
    let second = run(&topology, &Schedule { barriers: 50, ..schedule }, middle).unwrap();
    compare(&reference, &[(&first, middle.epoch), (&second, u64::MAX)]).unwrap();
}
