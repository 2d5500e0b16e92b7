//! A worker is killed while batches fly; the core reads what was published, whole, and knows the rest.
//!
//! (The kill at every single store is in `src/death_tests.rs`: it needs the algorithm's insides.)

use crate::stress::ask;
use crate::support::{ANSWER, Worker, check_payload, create, mix};
use ringmill_ring::process::PidFd;
use ringmill_ring::{CompletionKind, Doorbell, Wait};
use std::collections::BTreeSet;
use std::time::Duration;

#[test]
fn after_a_kill_at_any_moment_the_core_reads_whole_messages_only() {
    for round in 0..30 {
        let mut core = create(8, 256);
        let doorbell = Doorbell::new().unwrap();
        let mut worker = Worker::spawn(&core, &doorbell, "answer", Wait::Adaptive);
        let answers_before_death = mix(round) % 400;
        let (mut published, mut answered) = (0, 0);
        let mut in_flight = BTreeSet::new();
        let mut killed = false;
        loop {
            while !killed && ask(&mut core, published) {
                in_flight.insert(published);
                published += 1;
            }
            match core.poll().unwrap() {
                Some(completion) if completion.kind == CompletionKind::Result => {
                    check_payload(core.response_memory(completion.slot), completion.batch, ANSWER);
                    assert!(in_flight.remove(&completion.batch));
                    core.release(completion.slot);
                    answered += 1;
                }
                Some(_) => {}
                None if killed => break,
                None => std::thread::yield_now(),
            }
            if !killed && answered >= answers_before_death {
                worker.kill();
                killed = true;
            }
        }
        assert_eq!(answered + in_flight.len() as u64, published);
    }
}

#[test]
fn the_kernel_tells_of_a_death_at_once() {
    let core = create(1, 64);
    let doorbell = Doorbell::new().unwrap();
    let mut worker = Worker::spawn(&core, &doorbell, "answer", Wait::Block);
    assert!(!worker.death.is_dead());
    assert!(!worker.death.wait_dead(Some(Duration::ZERO)));
    worker.kill();
    assert!(worker.death.is_dead());
    assert!(worker.death.wait_dead(Some(Duration::ZERO)));
}

#[test]
fn a_process_that_is_not_there_is_an_error() {
    let error = PidFd::open(i32::MAX as u32).unwrap_err();
    assert_eq!(error.to_string(), "pidfd_open of 0 bytes for a process: No such process (os error 3)");
}
