//! The 64-byte descriptor and its two readings: [`Submission`] (core to worker) and [`Completion`] (back).
//!
//! Packing and unpacking only; whether a descriptor may be believed is the reader's matter.

/// Slot number of a descriptor that has no payload slot.
pub const NO_SLOT: u32 = u32::MAX;

/// Bit 0 of a completion's flags: user code still looks into the slot.
pub(crate) const FLAG_LEASED: u16 = 1;

/// Everything of a descriptor but its sequence number, in memory order.
pub(crate) type Words = [u64; 7];

/// What a submission asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum SubmissionKind {
    /// Run the function over the batch in `slot`.
    Batch = 1,
    /// Finish what is published, then exit. Nothing follows it.
    Drain = 3,
    /// Write what the function keeps into the response slot of `slot`. Has no payload and no rows.
    Snapshot = 4,
    /// Make the function what it was when it wrote the payload of `slot`. Has no rows.
    Restore = 5,
    /// Write rows into the response slot of `slot`, `row_count` at the most. Has no payload.
    Fill = 6,
}

impl SubmissionKind {
    /// Whether a submission of this kind has a slot, and so an answer.
    #[inline]
    #[must_use]
    pub const fn has_slot(self) -> bool {
        !matches!(self, SubmissionKind::Drain)
    }
}

/// What a completion says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum CompletionKind {
    /// The answer is in the response slot: of a batch or a fill its rows, of a snapshot the bytes to restore from, of a
    /// restore nothing.
    Result = 1,
    /// The function failed; the response slot holds UTF-8 JSON `{"error", "traceback"}`.
    Failed = 2,
    /// The last view into a slot that was reported `leased` is gone.
    LeaseReleased = 3,
    /// The worker is set up and waits for batches. Said once; `slot` is [`NO_SLOT`].
    Ready = 6,
}

/// A descriptor of the submission ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Submission {
    /// What to do.
    pub kind: SubmissionKind,
    /// Slot of the payload, or [`NO_SLOT`].
    pub slot: u32,
    /// Payload bytes, at most the request slot's.
    pub byte_length: u32,
    /// Rows of the batch; of a fill the most that are wanted; 0 for every other kind.
    pub row_count: u32,
    /// Number of the batch, counted per shard and step; for every other kind any number, its answer repeats it.
    pub batch: u64,
    /// Epoch (checkpoint) the batch belongs to.
    pub epoch: u64,
    /// When the batch's oldest row was ingested, in ns of `CLOCK_MONOTONIC`.
    pub ingest_ns: u64,
    /// When the batch was published, in ns of `CLOCK_MONOTONIC`.
    pub publish_ns: u64,
}

/// What a dead worker was asked and did not answer; see [`CoreEnd::replace_worker`](crate::CoreEnd::replace_worker).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resubmission {
    /// As it was published. The payload stands unchanged in its slot, which is the caller's again: to be published once
    /// more just so, to be filled anew, or to be released.
    pub submission: Submission,
    /// Its position in the submission ring. [`WorkerState::submissions_read`](crate::WorkerState::submissions_read) says,
    /// as the dead worker's unchecked word, which positions it had taken.
    pub position: u64,
}

/// A descriptor of the completion ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completion {
    /// What happened.
    pub kind: CompletionKind,
    /// User code still looks into the slot; a [`CompletionKind::LeaseReleased`] will follow.
    pub leased: bool,
    /// Slot of the payload, or [`NO_SLOT`].
    pub slot: u32,
    /// Payload bytes, at most the response slot's.
    pub byte_length: u32,
    /// Rows of the answer: those of the batch, of a fill at most those that were wanted.
    pub row_count: u32,
    /// The batch that is answered.
    pub batch: u64,
    /// The epoch it was submitted with.
    pub epoch: u64,
    /// When the worker saw the batch, in ns of `CLOCK_MONOTONIC` (a figure of the worker's: not checked).
    pub pickup_ns: u64,
    /// When the function began (likewise).
    pub udf_start_ns: u64,
    /// When the function returned (likewise).
    pub udf_end_ns: u64,
}

impl Submission {
    /// A submission without payload: slot [`NO_SLOT`], everything else 0.
    #[must_use]
    pub const fn new(kind: SubmissionKind) -> Submission {
        Submission {
            kind,
            slot: NO_SLOT,
            byte_length: 0,
            row_count: 0,
            batch: 0,
            epoch: 0,
            ingest_ns: 0,
            publish_ns: 0,
        }
    }

    #[inline]
    pub(crate) fn pack(&self) -> Words {
        [
            pack_kind(self.kind as u16, 0, self.slot),
            pack_lengths(self.byte_length, self.row_count),
            self.batch,
            self.epoch,
            self.ingest_ns,
            self.publish_ns,
            0,
        ]
    }

    /// `Err` is a kind that this build does not know.
    #[inline]
    pub(crate) fn unpack(words: &Words) -> Result<Submission, u16> {
        let kind = match unpack_kind(words) {
            1 => SubmissionKind::Batch,
            3 => SubmissionKind::Drain,
            4 => SubmissionKind::Snapshot,
            5 => SubmissionKind::Restore,
            6 => SubmissionKind::Fill,
            other => return Err(other),
        };
        Ok(Submission {
            kind,
            slot: unpack_slot(words),
            byte_length: words[1] as u32,
            row_count: (words[1] >> 32) as u32,
            batch: words[2],
            epoch: words[3],
            ingest_ns: words[4],
            publish_ns: words[5],
        })
    }
}

impl Completion {
    /// The answer to `submission`, `byte_length` bytes long, with its row count; the times are 0.
    #[must_use]
    pub const fn result(submission: &Submission, byte_length: u32) -> Completion {
        Completion {
            kind: CompletionKind::Result,
            leased: false,
            slot: submission.slot,
            byte_length,
            row_count: submission.row_count,
            batch: submission.batch,
            epoch: submission.epoch,
            pickup_ns: 0,
            udf_start_ns: 0,
            udf_end_ns: 0,
        }
    }

    /// "Set up, waiting for batches."
    #[must_use]
    pub const fn ready() -> Completion {
        Completion {
            kind: CompletionKind::Ready,
            leased: false,
            slot: NO_SLOT,
            byte_length: 0,
            row_count: 0,
            batch: 0,
            epoch: 0,
            pickup_ns: 0,
            udf_start_ns: 0,
            udf_end_ns: 0,
        }
    }

    #[inline]
    pub(crate) fn pack(&self) -> Words {
        [
            pack_kind(self.kind as u16, if self.leased { FLAG_LEASED } else { 0 }, self.slot),
            pack_lengths(self.byte_length, self.row_count),
            self.batch,
            self.epoch,
            self.pickup_ns,
            self.udf_start_ns,
            self.udf_end_ns,
        ]
    }

    /// `Err` is a kind that this build does not know.
    #[inline]
    pub(crate) fn unpack(words: &Words) -> Result<Completion, u16> {
        let kind = match unpack_kind(words) {
            1 => CompletionKind::Result,
            2 => CompletionKind::Failed,
            3 => CompletionKind::LeaseReleased,
            6 => CompletionKind::Ready,
            other => return Err(other),
        };
        Ok(Completion {
            kind,
            leased: unpack_flags(words) & FLAG_LEASED != 0,
            slot: unpack_slot(words),
            byte_length: words[1] as u32,
            row_count: (words[1] >> 32) as u32,
            batch: words[2],
            epoch: words[3],
            pickup_ns: words[4],
            udf_start_ns: words[5],
            udf_end_ns: words[6],
        })
    }
}

#[inline]
fn pack_kind(kind: u16, flags: u16, slot: u32) -> u64 {
    u64::from(kind) | u64::from(flags) << 16 | u64::from(slot) << 32
}

#[inline]
fn pack_lengths(byte_length: u32, row_count: u32) -> u64 {
    u64::from(byte_length) | u64::from(row_count) << 32
}

#[inline]
fn unpack_kind(words: &Words) -> u16 {
    words[0] as u16
}

#[inline]
pub(crate) fn unpack_flags(words: &Words) -> u16 {
    (words[0] >> 16) as u16
}

#[inline]
fn unpack_slot(words: &Words) -> u32 {
    (words[0] >> 32) as u32
}
