//! What a class UDF has learnt: asked of every worker at a barrier, and given to the process that takes its place.
//!
//! At a barrier all earlier batches are answered and no later one was taken, so a snapshot is that of the barrier. It
//! goes through the ring in pieces of a slot; one that does not fill its slot is the last. The barrier leaves through
//! the last of the node's ports only when all workers have answered.
//!
//! A worker that died is restored to its last snapshot before it is given anything else. What the dead one had learnt
//! since then is lost, unless the whole run goes on from a checkpoint. So a worker that is not running at a barrier has
//! nothing to be asked for: what it will be restored to is in the stores already.

use ringmill_ring::{Completion, CompletionKind, Submission, SubmissionKind, monotonic_ns};
use ringmill_state::{EntryKey, WHOLE_SHARD};

use super::link::State;
use super::{Failure, UdfOperator};
use crate::error::EngineError;
use crate::runtime::operator::ShardContext;

/// Its part of the node's state in the stores.
pub(super) const SECTION: u8 = 1;

/// Largest snapshot of one worker. It lies in the core's memory and goes whole into every checkpoint.
const BYTES_MAX: usize = 64 << 20;

/// What one worker is doing about its snapshot.
enum Step {
    Idle,
    /// It is asked for this piece of a new one.
    Taking {
        piece: u64,
        slot: Option<u32>,
        so_far: Vec<u8>,
    },
    /// It is given this piece of the last one.
    Restoring {
        piece: u64,
        slot: Option<u32>,
    },
}

struct Kept {
    /// `shard/index`, as in the worker's name.
    key: String,
    last: Option<Vec<u8>>,
    step: Step,
}

/// The snapshots of a step's workers in one shard.
pub(super) struct Snapshots {
    /// By worker.
    workers: Vec<Kept>,
    failed: Option<EngineError>,
}

impl Snapshots {
    /// For workers of these names.
    pub(super) fn new<'a>(names: impl Iterator<Item = &'a str>) -> Snapshots {
        let key = |name: &str| {
            let mut parts = name.rsplitn(3, '/');
            let (index, shard) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
            format!("{shard}/{index}")
        };
        let kept = |name| Kept { key: key(name), last: None, step: Step::Idle };
        Snapshots { workers: names.map(kept).collect(), failed: None }
    }

    /// Some worker has not answered yet.
    pub(super) fn are_pending(&self) -> bool {
        self.workers.iter().any(|kept| matches!(kept.step, Step::Taking { .. }))
    }

    /// Some worker is asked or told something, after which nothing may follow yet.
    pub(super) fn are_under_way(&self) -> bool {
        self.workers.iter().any(|kept| !matches!(kept.step, Step::Idle))
    }

    /// Takes one entry back; or says what is wrong with it.
    pub(super) fn restore(&mut self, entry: &EntryKey<'_>, value: &[u8]) -> Result<(), String> {
        let kept = self.workers.iter_mut().find(|kept| kept.key.as_bytes() == entry.key);
        let kept = kept.ok_or_else(|| format!("there is no worker {}", String::from_utf8_lossy(entry.key)))?;
        kept.last = Some(value.to_vec());
        Ok(())
    }

    /// The worker will be given its last snapshot, if it has one, before anything else.
    fn begin_restoring(&mut self, index: usize) -> bool {
        let kept = &mut self.workers[index];
        if kept.last.is_some() {
            kept.step = Step::Restoring { piece: 0, slot: None };
        }
        kept.last.is_some()
    }
}

impl UdfOperator {
    /// All rows before a barrier have left: asks the workers what they have learnt.
    pub(super) fn begin_snapshots(&mut self) {
        let Some(snapshots) = &mut self.snapshots else { return };
        for (kept, worker) in snapshots.workers.iter_mut().zip(&self.workers) {
            if worker.state == State::Running && !worker.is_restoring {
                kept.step = Step::Taking { piece: 0, slot: None, so_far: Vec::new() };
            }
        }
    }

    /// All entries were given back, or its process is new: the worker is restored first.
    pub(super) fn restore_worker(&mut self, index: usize) {
        let Some(snapshots) = &mut self.snapshots else { return };
        self.workers[index].is_restoring = snapshots.begin_restoring(index);
    }

    /// Publishes the pieces that are due; says whether there were any.
    pub(super) fn go_on_keeping(&mut self) -> Result<bool, EngineError> {
        let Some(snapshots) = &mut self.snapshots else { return Ok(false) };
        if let Some(error) = snapshots.failed.take() {
            return Err(error);
        }
        let (mut moved, epoch) = (false, self.outputs.epoch() + 1);
        for (kept, worker) in snapshots.workers.iter_mut().zip(&mut self.workers) {
            let is_due = matches!(&kept.step, Step::Taking { slot: None, .. } | Step::Restoring { slot: None, .. });
            if !is_due || !worker.is_live() || worker.sentence.is_some() {
                continue;
            }
            let Some(free) = worker.channel.acquire() else { continue };
            let (kind, batch, byte_length) = match &mut kept.step {
                Step::Idle => continue,
                Step::Taking { piece, slot, .. } => {
                    *slot = Some(free);
                    (SubmissionKind::Snapshot, *piece, 0)
                }
                Step::Restoring { piece, slot } => {
                    *slot = Some(free);
                    let whole = kept.last.as_deref().unwrap_or_default();
                    (SubmissionKind::Restore, *piece, write_piece(worker, free, whole, *piece))
                }
            };
            worker.publish(&Submission {
                slot: free,
                byte_length,
                batch,
                epoch,
                publish_ns: monotonic_ns(),
                ..Submission::new(kind)
            });
            moved = true;
        }
        Ok(moved)
    }

    /// An answer to a piece; `false`: it answers something else.
    pub(super) fn note_kept(&mut self, index: usize, completion: &Completion, context: &mut ShardContext<'_>) -> bool {
        let Some(snapshots) = &mut self.snapshots else { return false };
        let kept = &mut snapshots.workers[index];
        let (slot, is_restore) = match &kept.step {
            Step::Taking { slot, .. } => (*slot, false),
            Step::Restoring { slot, .. } => (*slot, true),
            Step::Idle => return false,
        };
        if slot != Some(completion.slot) {
            return false;
        }
        let worker = &mut self.workers[index];
        worker.note_kept(monotonic_ns());
        if completion.kind == CompletionKind::Failed {
            worker.channel.copy_response(completion.slot, completion.byte_length, &mut self.text);
            let Failure { error, detail, .. } = Failure::read(&self.text);
            snapshots.failed = Some(EngineError::Keep {
                step: self.name.clone(),
                method: if is_restore { "restore()" } else { "snapshot()" },
                error,
                traceback: detail,
            });
            kept.step = Step::Idle;
            return true;
        }
        let is_restored = match &mut kept.step {
            Step::Idle => false,
            Step::Taking { piece, slot, so_far } => {
                worker.channel.copy_response(completion.slot, completion.byte_length, &mut self.text);
                so_far.extend_from_slice(&self.text);
                (*piece, *slot) = (*piece + 1, None);
                if so_far.len() > BYTES_MAX {
                    snapshots.failed = Some(EngineError::Keep {
                        step: self.name.clone(),
                        method: "snapshot()",
                        error: format!("it gives more than {} MiB", BYTES_MAX >> 20),
                        traceback: None,
                    });
                    kept.step = Step::Idle;
                    return true;
                }
                if (completion.byte_length as usize) < worker.channel.response_slot_bytes() {
                    let whole = std::mem::take(so_far);
                    let mut delta = context.snapshot.delta.node(self.id);
                    delta.put(SECTION, 0, WHOLE_SHARD, kept.key.as_bytes(), &whole);
                    (kept.last, kept.step) = (Some(whole), Step::Idle);
                }
                false
            }
            Step::Restoring { piece, slot } => {
                stamp(worker, &self.request, completion.slot);
                (*piece, *slot) = (*piece + 1, None);
                let length = kept.last.as_ref().map_or(0, Vec::len) as u64;
                let is_last = *piece > length / worker.channel.request_slot_bytes() as u64;
                if is_last {
                    kept.step = Step::Idle;
                }
                is_last
            }
        };
        worker.channel.release(completion.slot);
        if is_restored {
            worker.is_restoring = false;
            self.publish_held(index);
        }
        true
    }

    /// Takes a piece back from a dead worker, if it is one.
    pub(super) fn take_back_kept(&mut self, index: usize, submission: &Submission) -> bool {
        if !matches!(submission.kind, SubmissionKind::Snapshot | SubmissionKind::Restore) {
            return false;
        }
        let worker = &mut self.workers[index];
        stamp(worker, &self.request, submission.slot);
        worker.channel.release(submission.slot);
        worker.in_flight -= 1;
        true
    }

    /// A worker is dead, and with it what it had learnt since its last snapshot.
    pub(super) fn forget_step(&mut self, index: usize) {
        if let Some(snapshots) = &mut self.snapshots {
            snapshots.workers[index].step = Step::Idle;
        }
    }
}

/// Writes one piece of a snapshot into a request slot; returns its length.
#[allow(unsafe_code)]
fn write_piece(worker: &super::WorkerLink, slot: u32, whole: &[u8], piece: u64) -> u32 {
    let room = worker.channel.request_slot_bytes();
    let start = usize::try_from(piece).unwrap_or(usize::MAX).saturating_mul(room).min(whole.len());
    let part = &whole[start..whole.len().min(start + room)];
    let memory = worker.channel.slot_memory(slot).as_ptr();
    // SAFETY: the slot is `room` bytes long, and from `acquire` to `publish` nobody else touches it.
    unsafe { memory.copy_from_nonoverlapping(part.as_ptr(), part.len()) };
    part.len() as u32
}

/// Makes a request slot one for batches again, over whose stamp raw bytes may lie.
#[allow(unsafe_code)]
fn stamp(worker: &super::WorkerLink, request: &ringmill_wire::Template, slot: u32) {
    // SAFETY: the slot was made for this template, and its submission is answered or taken back.
    unsafe { request.stamp(worker.channel.slot_memory(slot).as_ptr()) };
}
