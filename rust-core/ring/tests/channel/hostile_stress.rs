//! A worker that writes nonsense, well-aimed or not, into its response file: what the core makes of each poll is held
//! against a second reading of SPEC.md, section 7, and every violation is followed by a replacement.
//!
//! `RINGMILL_SOAK_MESSAGES` sets the size (a tenth of it are hostile stores; scripts/soak: 10^7),
//! `RINGMILL_FUZZ_SEED` the first seed; a failure prints the one to run again.

use crate::stress::{messages, seed};
use crate::support::{attached, create, mix};
use nix::sys::uio::{pread, pwrite};
use ringmill_ring::{
    Completion, CompletionKind, CoreEnd, NO_SLOT, ProtocolViolation, Resubmission, Submission, SubmissionKind, layout,
};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, TryRecvError, channel};

const SLOTS: u32 = 4;
const SLOT_BYTES: u32 = 64;
/// Entries of the completion ring: next_power_of_two(2 · SLOTS + 2).
const ENTRIES: u64 = 16;
/// No worker that was asked this little can have more to say.
const COMPLETIONS_MAX: usize = 2 * SLOTS as usize + 1;

/// splitmix64 as a stream.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(1);
        mix(self.0)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }
}

/// Fields of a descriptor: offset and size, in the order of [`Raw::fields`].
const FIELDS: [(usize, usize); 8] = [(0, 8), (8, 2), (10, 2), (12, 4), (16, 4), (20, 4), (24, 8), (32, 8)];
const SEQUENCE: usize = 0;

/// A descriptor as raw bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Raw([u8; 64]);

impl Raw {
    fn new(sequence: u64, completion: &Completion) -> Raw {
        let mut raw = Raw([0; 64]);
        let fields = [
            sequence,
            completion.kind as u64,
            u64::from(completion.leased),
            u64::from(completion.slot),
            u64::from(completion.byte_length),
            u64::from(completion.row_count),
            completion.batch,
            completion.epoch,
        ];
        fields.iter().enumerate().for_each(|(index, value)| raw.set(index, *value));
        raw
    }

    fn set(&mut self, field: usize, value: u64) {
        let (offset, bytes) = FIELDS[field];
        self.0[offset..offset + bytes].copy_from_slice(&value.to_le_bytes()[..bytes]);
    }

    fn fields(&self) -> [u64; 8] {
        FIELDS.map(|(offset, bytes)| {
            let mut value = [0; 8];
            value[..bytes].copy_from_slice(&self.0[offset..offset + bytes]);
            u64::from_le_bytes(value)
        })
    }

    fn write(&self, file: &OwnedFd, position: u64) {
        let offset = layout::RING_OFFSET + position % ENTRIES * 64;
        assert_eq!(pwrite(file, &self.0, offset as i64), Ok(64));
    }

    fn read(file: &OwnedFd, position: u64) -> Raw {
        let mut raw = Raw([0; 64]);
        let offset = layout::RING_OFFSET + position % ENTRIES * 64;
        assert_eq!(pread(file, &mut raw.0, offset as i64), Ok(64));
        raw
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Free,
    InFlight,
    Answered,
    AwaitingLease,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    phase: Phase,
    leased: bool,
    asked: Submission,
    position: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Nothing,
    Taken,
    Refused,
}

/// SPEC.md, section 7, read a second time. With `flaw` it forgets one of the rules, so that a test can see that the
/// comparison would find a core which does.
struct Judge {
    position: u64,
    ready: bool,
    places: [Place; SLOTS as usize],
    flaw: bool,
}

impl Judge {
    fn verdict(&self, raw: &Raw) -> Verdict {
        let [sequence, kind, flags, slot, byte_length, row_count, batch, epoch] = raw.fields();
        let expected = self.position + 1;
        if sequence != expected {
            let older = (1..=expected / ENTRIES).any(|laps| sequence == expected - laps * ENTRIES);
            return if sequence == 0 || older { Verdict::Nothing } else { Verdict::Refused };
        }
        let flags_known = if kind <= 2 { 1 } else { 0 };
        let place = self.places.get(slot as usize);
        let fits = flags & !flags_known == 0
            && byte_length <= u64::from(SLOT_BYTES)
            && match (kind, place) {
                (1 | 2, Some(place)) => {
                    place.phase == Phase::InFlight
                        && place.asked.batch == batch
                        && (self.flaw || place.asked.epoch == epoch)
                        && (kind == 2 || u64::from(place.asked.row_count) == row_count)
                }
                (3, Some(place)) => place.leased && place.asked.batch == batch,
                (6, _) => slot == u64::from(NO_SLOT) && !self.ready,
                _ => false,
            };
        if fits { Verdict::Taken } else { Verdict::Refused }
    }

    /// Keep the book of what was taken.
    fn note(&mut self, completion: &Completion) {
        self.position += 1;
        match completion.kind {
            CompletionKind::Ready => self.ready = true,
            CompletionKind::LeaseReleased => {
                let place = &mut self.places[completion.slot as usize];
                place.leased = false;
                if place.phase == Phase::AwaitingLease {
                    place.phase = Phase::Free;
                }
            }
            CompletionKind::Result | CompletionKind::Failed => {
                let place = &mut self.places[completion.slot as usize];
                (place.phase, place.leased) = (Phase::Answered, completion.leased);
            }
        }
    }

    fn in_flight(&self) -> Vec<Resubmission> {
        let in_flight = self.places.iter().filter(|place| place.phase == Phase::InFlight);
        let mut list: Vec<_> =
            in_flight.map(|place| Resubmission { submission: place.asked, position: place.position }).collect();
        list.sort_by_key(|entry| entry.position);
        list
    }
}

#[derive(Debug, Default)]
struct Figures {
    descriptors: u64,
    taken: u64,
    refused: u64,
    finished_by_an_honest_worker: u64,
}

/// The core, its judge, and the hostile worker in one.
struct Arena {
    core: CoreEnd,
    response: OwnedFd,
    judge: Judge,
    published: u64,
    batch: u64,
    random: Random,
    /// One store in this many is a lie; drawn anew for each worker, so that some live long enough to go round the ring.
    honesty: u64,
    figures: Figures,
}

impl Arena {
    fn new(seed: u64, flaw: bool) -> Arena {
        let core = create(SLOTS, SLOT_BYTES as usize);
        let (_, response) = core.worker_fds().unwrap();
        let asked = Submission::new(SubmissionKind::Batch);
        let place = Place { phase: Phase::Free, leased: false, asked, position: 0 };
        let judge = Judge { position: 0, ready: false, places: [place; SLOTS as usize], flaw };
        let (random, figures) = (Random(mix(seed)), Figures::default());
        Arena { core, response, judge, published: 0, batch: 0, random, honesty: 2, figures }
    }

    fn publish(&mut self, submission: Submission) {
        self.core.publish(&submission);
        let place = &mut self.judge.places[submission.slot as usize];
        *place = Place { phase: Phase::InFlight, leased: false, asked: submission, position: self.published };
        self.published += 1;
    }

    /// Ask in every free slot, consume some answers.
    fn play_core(&mut self) {
        for slot in 0..SLOTS {
            let place = &mut self.judge.places[slot as usize];
            if place.phase == Phase::Answered && self.random.below(3) > 0 {
                self.core.release(slot);
                place.phase = if place.leased { Phase::AwaitingLease } else { Phase::Free };
            }
        }
        while let Some(slot) = self.core.acquire() {
            assert_eq!(self.judge.places[slot as usize].phase, Phase::Free);
            self.batch += 1;
            let (epoch, batch) = (self.batch / 7, self.batch);
            let kind = if self.random.below(8) == 0 { SubmissionKind::Snapshot } else { SubmissionKind::Batch };
            let row_count = if kind == SubmissionKind::Batch { self.random.below(4) as u32 } else { 0 };
            self.publish(Submission { slot, batch, epoch, row_count, ..Submission::new(kind) });
        }
    }

    /// What an honest worker might say next.
    fn honest(&mut self) -> Completion {
        let leased: Vec<Place> = self.judge.places.iter().filter(|place| place.leased).copied().collect();
        let in_flight = self.judge.in_flight();
        if !self.judge.ready || (leased.is_empty() && in_flight.is_empty()) {
            return Completion::ready();
        }
        if in_flight.is_empty() || (!leased.is_empty() && self.random.below(2) == 0) {
            let Submission { slot, batch, .. } = self.random.of(&leased).asked;
            return Completion { kind: CompletionKind::LeaseReleased, slot, batch, ..Completion::ready() };
        }
        let asked = self.random.of(&in_flight).submission;
        let kind = self.random.of(&[CompletionKind::Result, CompletionKind::Result, CompletionKind::Failed]);
        let leased = self.random.below(4) == 0;
        Completion { kind, leased, ..Completion::result(&asked, self.random.below(u64::from(SLOT_BYTES) + 1) as u32) }
    }

    /// A value near which a rule has its border.
    fn border(&mut self, value: u64) -> u64 {
        let other = self.random.of(&self.judge.places).asked;
        let choices = [
            0,
            1,
            2,
            3,
            u64::from(SLOTS),
            u64::from(SLOT_BYTES) + 1,
            u64::from(u32::MAX),
            u64::MAX,
            value.wrapping_add(1),
            value.wrapping_sub(1),
            value.wrapping_add(ENTRIES),
            value.wrapping_sub(ENTRIES),
            value ^ 1 << self.random.below(64),
            other.batch,
            other.epoch,
            self.random.next(),
        ];
        self.random.of(&choices)
    }

    /// One store of the worker: by the rules, or not.
    fn play_worker(&mut self) {
        self.figures.descriptors += 1;
        let position = self.judge.position;
        let completion = self.honest();
        let mut raw = Raw::new(position + 1, &completion);
        if self.random.below(self.honesty) > 0 {
            return raw.write(&self.response, position);
        }
        match self.random.below(10) {
            // One or two fields off, most often not the sequence number: then nobody would look at the rest.
            0..=4 => {
                for _ in 0..=self.random.below(2) {
                    let field = self.random.of(&[SEQUENCE, 1, 1, 2, 3, 3, 4, 5, 6, 6, 7, 7]);
                    let value = self.border(raw.fields()[field]);
                    raw.set(field, value);
                }
                raw.write(&self.response, position);
            }
            5 => {
                raw.0.iter_mut().for_each(|byte| *byte = self.random.next() as u8);
                raw.set(SEQUENCE, position + 1);
                raw.write(&self.response, position);
            }
            6 => {
                raw.0.iter_mut().for_each(|byte| *byte = self.random.next() as u8);
                raw.write(&self.response, position);
            }
            7 => {
                let at = position + self.random.below(ENTRIES);
                raw.set(SEQUENCE, at + 1);
                raw.write(&self.response, at);
            }
            8 => {
                let mut replayed = Raw::read(&self.response, self.random.next());
                replayed.set(SEQUENCE, position + 1);
                replayed.write(&self.response, position);
            }
            _ => self.scribble(),
        }
    }

    /// Bytes anywhere in the file: header, figures, ring, payloads.
    fn scribble(&mut self) {
        let size = nix::sys::stat::fstat(&self.response).unwrap().st_size as u64;
        let offset = self.random.below(size);
        let length = (size - offset).min(1 + self.random.below(200));
        let bytes: Vec<u8> = (0..length).map(|_| self.random.next() as u8).collect();
        assert_eq!(pwrite(&self.response, &bytes, offset as i64), Ok(bytes.len()));
    }

    /// Poll until nothing is there; `Err` says what is wrong with the core.
    fn poll_all(&mut self) -> Result<(), String> {
        let mut copied = Vec::new();
        for _ in 0..=COMPLETIONS_MAX {
            let raw = Raw::read(&self.response, self.judge.position);
            let verdict = self.judge.verdict(&raw);
            let polled = self.core.poll();
            let found = match &polled {
                Ok(None) => Verdict::Nothing,
                Ok(Some(_)) => Verdict::Taken,
                Err(_) => Verdict::Refused,
            };
            if found != verdict {
                let position = self.judge.position;
                return Err(format!(
                    "position {position}: {polled:?}, but {verdict:?} by the rules; {:?}",
                    raw.fields()
                ));
            }
            match polled {
                Ok(None) => return Ok(()),
                Ok(Some(completion)) => {
                    if matches!(completion.kind, CompletionKind::Result | CompletionKind::Failed) {
                        self.core.copy_response(completion.slot, completion.byte_length, &mut copied);
                        assert_eq!(copied.len(), completion.byte_length as usize);
                    }
                    self.figures.taken += 1;
                    self.judge.note(&completion);
                }
                Err(violation) => return self.replace(violation),
            }
        }
        Err(format!("more than {COMPLETIONS_MAX} completions without a new question"))
    }

    fn replace(&mut self, violation: ProtocolViolation) -> Result<(), String> {
        self.figures.refused += 1;
        let unanswered = self.core.replace_worker(self.core.generation() + 1).unwrap();
        if unanswered != self.judge.in_flight() {
            return Err(format!("after {violation:?}: {unanswered:?}, expected {:?}", self.judge.in_flight()));
        }
        (_, self.response) = self.core.worker_fds().unwrap();
        (self.judge.position, self.judge.ready) = (0, false);
        for place in &mut self.judge.places {
            place.leased = false;
            if place.phase == Phase::AwaitingLease {
                place.phase = Phase::Free;
            }
        }
        self.honesty = self.random.of(&[1, 1, 2, 4, 30]);
        let honest = (self.random.below(32) == 0).then(|| attached(&self.core));
        unanswered.iter().for_each(|entry| self.publish(entry.submission));
        let Some(mut worker) = honest else { return Ok(()) };
        // What the hostile worker left, an honest one finishes; then it turns hostile, too.
        worker.complete(&Completion::ready());
        while let Some(submission) = worker.poll().unwrap() {
            worker.complete(&Completion::result(&submission, 0));
        }
        self.poll_all()?;
        self.figures.finished_by_an_honest_worker += 1;
        let left = self.judge.in_flight().len();
        if left == 0 { Ok(()) } else { Err(format!("{left} batches left by an honest worker")) }
    }
}

/// `descriptors` stores of hostile workers; `Err` says where core and judge disagree.
fn fight(seed: u64, descriptors: u64, flaw: bool) -> Result<Figures, String> {
    let mut arena = Arena::new(seed, flaw);
    while arena.figures.descriptors < descriptors {
        arena.play_core();
        for _ in 0..=arena.random.below(2) {
            arena.play_worker();
        }
        if let Err(text) = arena.poll_all() {
            return Err(format!("after {} descriptors: {text}", arena.figures.descriptors));
        }
    }
    Ok(arena.figures)
}

#[test]
fn whatever_a_worker_writes_is_judged_by_the_rules_and_the_worker_can_be_replaced() {
    let mut total = Figures::default();
    for seed in seed()..seed() + 8 {
        match fight(seed, messages() / 80, false) {
            Err(text) => panic!("RINGMILL_FUZZ_SEED={seed}: {text}"),
            Ok(figures) => {
                total.descriptors += figures.descriptors;
                total.taken += figures.taken;
                total.refused += figures.refused;
                total.finished_by_an_honest_worker += figures.finished_by_an_honest_worker;
            }
        }
    }
    println!("RINGMILL_FUZZ_SEED={}: {total:?}", seed());
    assert!(total.taken > 1000 && total.refused > 1000 && total.finished_by_an_honest_worker > 10, "{total:?}");
}

#[test]
fn a_core_that_forgot_a_rule_would_be_found_out() {
    assert!((0..4).all(|seed| fight(seed, 5_000, true).is_err()));
}

/// Writes descriptors around the core's position, until nobody sends files any more. The batch in slot s always has
/// number s.
fn write_without_pause(mut response: OwnedFd, successors: &Receiver<OwnedFd>, position: &AtomicU64) {
    let mut random = Random(seed());
    loop {
        for _ in 0..64 {
            let slot = random.below(u64::from(SLOTS)) as u32;
            let asked = Submission { slot, batch: u64::from(slot), ..Submission::new(SubmissionKind::Batch) };
            let byte_length = random.below(u64::from(SLOT_BYTES) + 2) as u32;
            let at = position.load(Ordering::Relaxed) + random.below(12);
            let mut raw = Raw::new(at + 1, &Completion::result(&asked, byte_length));
            if random.below(64) == 0 {
                raw.set(1, random.below(8));
            }
            raw.write(&response, at);
        }
        match successors.try_recv() {
            Ok(successor) => response = successor,
            Err(TryRecvError::Empty) => {}
            Err(TryRecvError::Disconnected) => return,
        }
    }
}

/// A second thread writes without pause, so that descriptors change under the core's eyes; each batch is answered at
/// most once all the same, and every worker can be replaced.
#[test]
fn what_changes_while_it_is_read_is_taken_once_or_refused() {
    let mut core = create(SLOTS, SLOT_BYTES as usize);
    let response = core.worker_fds().unwrap().1;
    let (sender, successors) = channel();
    let (position, goal) = (Arc::new(AtomicU64::new(0)), messages() / 200);
    let writer = {
        let position = Arc::clone(&position);
        std::thread::spawn(move || write_without_pause(response, &successors, &position))
    };
    let (mut taken, mut replaced) = (0, 0);
    let mut in_flight = [false; SLOTS as usize];
    let mut copied = Vec::new();
    while taken + replaced < goal {
        while let Some(slot) = core.acquire() {
            in_flight[slot as usize] = true;
            core.publish(&Submission { slot, batch: u64::from(slot), ..Submission::new(SubmissionKind::Batch) });
        }
        match core.poll() {
            Ok(None) => std::thread::yield_now(),
            Ok(Some(completion)) => {
                taken += 1;
                position.fetch_add(1, Ordering::Relaxed);
                if matches!(completion.kind, CompletionKind::Result | CompletionKind::Failed) {
                    assert!(std::mem::replace(&mut in_flight[completion.slot as usize], false));
                    core.copy_response(completion.slot, completion.byte_length, &mut copied);
                    core.release(completion.slot);
                }
            }
            Err(_) => {
                let unanswered = core.replace_worker(core.generation() + 1).unwrap();
                assert_eq!(unanswered.len(), in_flight.iter().filter(|asked| **asked).count());
                unanswered.iter().for_each(|entry| core.publish(&entry.submission));
                sender.send(core.worker_fds().unwrap().1).unwrap();
                position.store(0, Ordering::Relaxed);
                replaced += 1;
            }
        }
    }
    drop(sender);
    writer.join().unwrap();
    println!("RINGMILL_FUZZ_SEED={}: {taken} completions taken, {replaced} workers replaced", seed());
    assert!(taken > goal / 10 && replaced > goal / 1000, "{taken} taken, {replaced} replaced");
}
