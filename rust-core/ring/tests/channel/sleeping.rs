//! Sleeping and waking across the public API; the proof over all interleavings is loom's (`src/loom_tests.rs`).

use crate::support::{attach, batch, create};
use ringmill_ring::{Completion, Doorbell, Wait};
use std::time::Duration;

#[test]
fn a_sleeping_worker_is_woken_by_a_submission() {
    let mut core = create(1, 64);
    let (request, response) = core.worker_fds().unwrap();
    let mut worker = attach(request, response, Doorbell::new().unwrap(), Wait::Block);
    let thread = std::thread::spawn(move || worker.wait(Duration::MAX).unwrap().unwrap().batch);
    while !core.peek_worker().sleeping {
        std::thread::yield_now();
    }
    let slot = core.acquire().unwrap();
    core.publish(&batch(slot, 11));
    assert_eq!(thread.join().unwrap(), 11);
    assert!(!core.peek_worker().sleeping);
}

#[test]
fn a_sleeping_core_is_woken_by_a_completion_and_only_once_per_sleep() {
    let mut core = create(2, 64);
    let doorbell = Doorbell::new().unwrap();
    let (request, response) = core.worker_fds().unwrap();
    let mut worker = attach(request, response, doorbell.try_clone().unwrap(), Wait::Adaptive);
    for number in 0..2 {
        let slot = core.acquire().unwrap();
        core.publish(&batch(slot, number));
    }
    assert!(core.arm_sleep());
    let first = worker.poll().unwrap().unwrap();
    worker.complete(&Completion::result(&first, 0));
    assert!(doorbell.wait(None));
    doorbell.clear();
    // The core has been told; until it sleeps again nothing more is owed.
    let second = worker.poll().unwrap().unwrap();
    worker.complete(&Completion::result(&second, 0));
    assert!(!doorbell.wait(Some(Duration::ZERO)));
    core.disarm_sleep();
    assert_eq!(core.poll().unwrap().unwrap().batch, 0);
    assert_eq!(core.poll().unwrap().unwrap().batch, 1);
}

#[test]
fn nobody_is_rung_while_awake() {
    let mut core = create(1, 64);
    let doorbell = Doorbell::new().unwrap();
    let (request, response) = core.worker_fds().unwrap();
    let mut worker = attach(request, response, doorbell.try_clone().unwrap(), Wait::Adaptive);
    worker.complete(&Completion::ready());
    assert!(!doorbell.wait(Some(Duration::ZERO)));
    assert!(!core.arm_sleep(), "something is there: do not sleep");
    core.poll().unwrap().unwrap();
    assert!(core.arm_sleep());
    core.disarm_sleep();
}

#[test]
fn a_wait_that_finds_nothing_ends_after_its_time() {
    for wait in [Wait::Spin, Wait::Adaptive, Wait::Block] {
        let (request, response) = create(1, 64).worker_fds().unwrap();
        let mut worker = attach(request, response, Doorbell::new().unwrap(), wait);
        let start = std::time::Instant::now();
        assert_eq!(worker.wait(Duration::from_millis(2)).unwrap(), None);
        assert!(start.elapsed() >= Duration::from_millis(2), "{wait}");
    }
}

#[test]
fn a_wait_that_has_something_returns_at_once() {
    for wait in [Wait::Spin, Wait::Adaptive, Wait::Block] {
        let mut core = create(1, 64);
        let (request, response) = core.worker_fds().unwrap();
        let mut worker = attach(request, response, Doorbell::new().unwrap(), wait);
        let slot = core.acquire().unwrap();
        core.publish(&batch(slot, 3));
        assert_eq!(worker.wait(Duration::ZERO).unwrap().unwrap().batch, 3);
    }
}

#[test]
fn wait_strategies_have_names() {
    for wait in [Wait::Spin, Wait::Adaptive, Wait::Block] {
        assert_eq!(wait.to_string().parse(), Ok(wait));
    }
    assert_eq!("busy".parse::<Wait>(), Err("unknown wait strategy \"busy\": spin, adaptive or block".to_owned()));
    assert_eq!(Wait::default(), Wait::Adaptive);
}
