//! A worker that is a source is asked for rows, and answers with as many as it has.

use crate::replacement::raw_completion;
use crate::support::{attached, create};
use ringmill_ring::{Completion, ProtocolViolation, Submission, SubmissionKind};

#[test]
fn a_worker_that_is_asked_for_rows_answers_with_fewer_or_none() {
    let mut core = create(4, 256);
    let mut worker = attached(&core);
    for (batch, rows) in [(0, 8), (1, 3), (2, 0)] {
        let slot = core.acquire().unwrap();
        let fill = Submission { slot, batch, row_count: 8, ..Submission::new(SubmissionKind::Fill) };
        core.publish(&fill);
        let asked = worker.poll().unwrap().unwrap();
        assert_eq!(asked, fill);
        worker.complete(&Completion { row_count: rows, ..Completion::result(&asked, 128) });
        let answer = core.poll().unwrap().unwrap();
        assert_eq!((answer.slot, answer.batch, answer.row_count, answer.byte_length), (slot, batch, rows, 128));
        core.release(slot);
    }
}

#[test]
fn more_rows_than_were_asked_for_are_a_violation() {
    let mut core = create(2, 256);
    let slot = core.acquire().unwrap();
    let asked = Submission { slot, row_count: 8, ..Submission::new(SubmissionKind::Fill) };
    core.publish(&asked);
    let (_, response) = core.worker_fds().unwrap();
    raw_completion(&response, &Completion { row_count: 9, ..Completion::result(&asked, 8) });
    let violation = ProtocolViolation::WrongRowCount { position: 0, slot, found: 9, expected: 8 };
    assert_eq!(core.poll(), Err(violation));
}

#[test]
fn what_follows_the_rows_is_copied_alone() {
    let mut core = create(2, 256);
    let mut worker = attached(&core);
    let slot = core.acquire().unwrap();
    core.publish(&Submission { slot, row_count: 1, ..Submission::new(SubmissionKind::Fill) });
    let asked = worker.poll().unwrap().unwrap();
    let bytes: Vec<u8> = (0..=255).collect();
    // SAFETY: the response slot has 256 bytes and is the worker's.
    unsafe { worker.response_slot(slot).as_ptr().copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
    worker.complete(&Completion::result(&asked, 77));
    core.poll().unwrap().unwrap();
    let mut copied = vec![9; 500];
    for (start, length) in [(64, 13), (0, 77), (8, 1), (16, 0), (248, 8)] {
        core.copy_response_from(slot, start, length, &mut copied);
        assert_eq!(copied, bytes[start as usize..(start + length) as usize]);
    }
}
