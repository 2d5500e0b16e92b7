//! Where every byte of the two memory files lies. `ringbuf-spec/layout.toml` is the same table for machines;
//! a test holds the two against each other.
//!
//! Offsets, sizes and geometry only: meaning and orderings are with the types that use them.

use crate::error::{FileRole, RingError};
use crate::memory::{Memory, Shared};
use crate::ring::Descriptor;
use std::mem::{offset_of, size_of};

/// First eight bytes of both files: `RINGMILL`.
pub const MAGIC: u64 = u64::from_le_bytes(*b"RINGMILL");
/// A reader refuses another major version.
pub const VERSION_MAJOR: u16 = 1;
/// A reader accepts a higher minor version: what it added can be ignored.
pub const VERSION_MINOR: u16 = 0;
/// Required feature bits that this build understands.
pub const FEATURES_REQUIRED_KNOWN: u64 = 0;
/// Bytes of the static header.
pub const HEADER_BYTES: usize = 128;
/// Bytes of a descriptor: one cache line, so that one line transfer brings news and metadata.
pub const DESCRIPTOR_BYTES: usize = 64;
/// Distance between fields of different writers or rates: two lines, because the adjacent-line prefetcher of x86
/// pulls lines in pairs (crossbeam-utils, `cache_padded.rs`).
pub const LINE_BYTES: usize = 128;
/// The ring starts on the second page; the rest of the first page is zero and reserved.
pub const RING_OFFSET: u64 = 4096;
/// Most slots of a channel.
pub const SLOTS_MAX: u32 = 1024;
/// Most bytes of a slot: a descriptor holds the payload length in 32 bits.
pub const SLOT_BYTES_MAX: u64 = 1 << 31;

const PAGE_BYTES: u64 = 4096;

/// One field of the shared layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// `header`, `request_state`, `response_state` or `descriptor`.
    pub section: &'static str,
    /// Name of the field.
    pub name: &'static str,
    /// Offset from the start of the file, or of the descriptor.
    pub offset: usize,
    /// Size in bytes; every field is an unsigned little-endian integer.
    pub bytes: usize,
}

const fn field(section: &'static str, name: &'static str, offset: usize, bytes: usize) -> Field {
    Field { section, name, offset, bytes }
}

/// Every field, in file order. The layout hash is computed from this table.
pub const FIELDS: &[Field] = &[
    field("header", "magic", 0, 8),
    field("header", "version_major", 8, 2),
    field("header", "version_minor", 10, 2),
    field("header", "role", 12, 4),
    field("header", "features_required", 16, 8),
    field("header", "features_optional", 24, 8),
    field("header", "layout_hash", 32, 8),
    field("header", "schema_hash", 40, 8),
    field("header", "generation", 48, 8),
    field("header", "file_bytes", 56, 8),
    field("header", "slots", 64, 4),
    field("header", "ring_entries", 68, 4),
    field("header", "slot_bytes", 72, 8),
    field("header", "slot_stride", 80, 8),
    field("header", "ring_offset", 88, 8),
    field("header", "slots_offset", 96, 8),
    field("header", "start_position", 104, 8),
    field("header", "reserved", 112, 8),
    field("header", "header_hash", 120, 8),
    field("request_state", "wake", 128, 4),
    field("request_state", "sleeping", 256, 4),
    field("request_state", "submissions_published", 384, 8),
    field("request_state", "completions_read", 392, 8),
    field("request_state", "slots_free", 400, 4),
    field("request_state", "slots_leased", 404, 4),
    field("response_state", "sleeping", 128, 4),
    field("response_state", "submissions_read", 256, 8),
    field("response_state", "completions_published", 264, 8),
    field("response_state", "heartbeat_ns", 272, 8),
    field("response_state", "current_batch", 280, 8),
    field("response_state", "process_id", 288, 4),
    field("descriptor", "sequence", 0, 8),
    field("descriptor", "kind", 8, 2),
    field("descriptor", "flags", 10, 2),
    field("descriptor", "slot", 12, 4),
    field("descriptor", "byte_length", 16, 4),
    field("descriptor", "row_count", 20, 4),
    field("descriptor", "batch", 24, 8),
    field("descriptor", "epoch", 32, 8),
    field("descriptor", "time_a", 40, 8),
    field("descriptor", "time_b", 48, 8),
    field("descriptor", "time_c", 56, 8),
];

/// FNV-1a over [`FIELDS`]: two builds with equal hashes agree on every offset.
pub const LAYOUT_HASH: u64 = layout_hash(FIELDS);

const fn layout_hash(fields: &[Field]) -> u64 {
    let mut hash = fnv1a(FNV_OFFSET, &[]);
    let mut index = 0;
    while index < fields.len() {
        let field = &fields[index];
        hash = fnv1a(hash, field.section.as_bytes());
        hash = fnv1a(hash, b".");
        hash = fnv1a(hash, field.name.as_bytes());
        hash = fnv1a(hash, &(field.offset as u32).to_le_bytes());
        hash = fnv1a(hash, &(field.bytes as u32).to_le_bytes());
        index += 1;
    }
    hash
}

pub(crate) const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;

/// One more run of bytes into an FNV-1a hash (Fowler, Noll, Vo; 64 bits).
pub(crate) const fn fnv1a(mut hash: u64, bytes: &[u8]) -> u64 {
    let mut index = 0;
    while index < bytes.len() {
        hash = (hash ^ bytes[index] as u64).wrapping_mul(0x0000_0100_0000_01b3);
        index += 1;
    }
    hash
}

/// A value alone on two cache lines.
#[repr(C, align(128))]
pub(crate) struct Line<T>(pub T);

/// What the core writes beside descriptors and slots; at [`HEADER_BYTES`] of the request file.
#[repr(C)]
pub(crate) struct RequestState<M: Memory> {
    /// Futex word. Core: bumps it to wake the worker. Worker: sleeps on it. Any value; only a change matters.
    pub wake: Line<M::U32>,
    /// Core: ticket of its current sleep, 0 while awake. Worker: reads it after each completion.
    pub sleeping: Line<M::U32>,
    /// Figures for people. Core writes, inspectors read, nothing depends on them; stale by any amount.
    pub figures: Line<CoreFigures<M>>,
}

/// See [`RequestState::figures`].
#[repr(C)]
pub(crate) struct CoreFigures<M: Memory> {
    pub submissions_published: M::U64,
    pub completions_read: M::U64,
    pub slots_free: M::U32,
    pub slots_leased: M::U32,
}

/// What the worker writes beside descriptors and slots; at [`HEADER_BYTES`] of the response file.
#[repr(C)]
pub(crate) struct ResponseState<M: Memory> {
    /// Worker: ticket of its current sleep, 0 while awake. Core: reads it after each submission.
    pub sleeping: Line<M::U32>,
    /// Figures for people and for hang detection. Worker writes, core and inspectors read; stale by any amount.
    pub figures: Line<WorkerFigures<M>>,
}

/// See [`ResponseState::figures`].
#[repr(C)]
pub(crate) struct WorkerFigures<M: Memory> {
    pub submissions_read: M::U64,
    pub completions_published: M::U64,
    pub heartbeat_ns: M::U64,
    pub current_batch: M::U64,
    pub process_id: M::U32,
}

/// Offset that [`FIELDS`] gives a field.
const fn offset(section: &str, name: &str) -> usize {
    let mut index = 0;
    while index < FIELDS.len() {
        if equal(FIELDS[index].section, section) && equal(FIELDS[index].name, name) {
            return FIELDS[index].offset;
        }
        index += 1;
    }
    panic!("no such field")
}

const fn equal(left: &str, right: &str) -> bool {
    let (left, right) = (left.as_bytes(), right.as_bytes());
    if left.len() != right.len() {
        return false;
    }
    let mut index = 0;
    while index < left.len() {
        if left[index] != right[index] {
            return false;
        }
        index += 1;
    }
    true
}

// The types that lie over the mapping have their fields where the table says.
const _: () = {
    type Request = RequestState<Shared>;
    type Response = ResponseState<Shared>;
    const CORE: usize = HEADER_BYTES + offset_of!(Request, figures);
    const WORKER: usize = HEADER_BYTES + offset_of!(Response, figures);
    assert!(HEADER_BYTES + offset_of!(Request, wake) == offset("request_state", "wake"));
    assert!(HEADER_BYTES + offset_of!(Request, sleeping) == offset("request_state", "sleeping"));
    assert!(
        CORE + offset_of!(CoreFigures<Shared>, submissions_published)
            == offset("request_state", "submissions_published")
    );
    assert!(CORE + offset_of!(CoreFigures<Shared>, completions_read) == offset("request_state", "completions_read"));
    assert!(CORE + offset_of!(CoreFigures<Shared>, slots_free) == offset("request_state", "slots_free"));
    assert!(CORE + offset_of!(CoreFigures<Shared>, slots_leased) == offset("request_state", "slots_leased"));
    assert!(HEADER_BYTES + offset_of!(Response, sleeping) == offset("response_state", "sleeping"));
    assert!(
        WORKER + offset_of!(WorkerFigures<Shared>, submissions_read) == offset("response_state", "submissions_read")
    );
    assert!(
        WORKER + offset_of!(WorkerFigures<Shared>, completions_published)
            == offset("response_state", "completions_published")
    );
    assert!(WORKER + offset_of!(WorkerFigures<Shared>, heartbeat_ns) == offset("response_state", "heartbeat_ns"));
    assert!(WORKER + offset_of!(WorkerFigures<Shared>, current_batch) == offset("response_state", "current_batch"));
    assert!(WORKER + offset_of!(WorkerFigures<Shared>, process_id) == offset("response_state", "process_id"));
    assert!(size_of::<Descriptor<Shared>>() == DESCRIPTOR_BYTES);
    assert!(align_of::<Descriptor<Shared>>() == DESCRIPTOR_BYTES);
    assert!(size_of::<Line<u32>>() == LINE_BYTES);
    assert!(HEADER_BYTES + size_of::<Request>() <= RING_OFFSET as usize);
    assert!(HEADER_BYTES + size_of::<Response>() <= RING_OFFSET as usize);
};

/// Sizes and offsets of one file; everything follows from role, slot count and slot size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Which file.
    pub role: FileRole,
    /// Payload slots.
    pub slots: u32,
    /// Descriptors of the ring, a power of two.
    pub ring_entries: u32,
    /// Payload bytes of a slot.
    pub slot_bytes: u64,
    /// Distance between slots.
    pub slot_stride: u64,
    /// Offset of the ring.
    pub ring_offset: u64,
    /// Offset of slot 0.
    pub slots_offset: u64,
    /// Size of the file.
    pub file_bytes: u64,
}

impl Geometry {
    /// The geometry of a file with `slots` slots of `slot_bytes` bytes.
    ///
    /// # Errors
    /// [`RingError::BadConfig`] if `slots` is no power of two up to [`SLOTS_MAX`] or `slot_bytes` is 0 or above [`SLOT_BYTES_MAX`].
    pub fn new(role: FileRole, slots: u32, slot_bytes: u64) -> Result<Geometry, RingError> {
        if !slots.is_power_of_two() || slots > SLOTS_MAX {
            return Err(RingError::BadConfig {
                field: "slots",
                value: u64::from(slots),
                rule: "a power of two from 1 to 1024",
            });
        }
        if slot_bytes == 0 || slot_bytes > SLOT_BYTES_MAX {
            let field = match role {
                FileRole::Request => "request_slot_bytes",
                FileRole::Response => "response_slot_bytes",
            };
            return Err(RingError::BadConfig { field, value: slot_bytes, rule: "from 1 to 2147483648" });
        }
        // SPEC.md, invariants 4 and 5: no more descriptors than these can be unread at once.
        let unread_max = match role {
            FileRole::Request => slots + 2,
            FileRole::Response => 2 * slots + 2,
        };
        let ring_entries = unread_max.next_power_of_two();
        let slot_stride = slot_bytes.next_multiple_of(LINE_BYTES as u64);
        let ring_bytes = u64::from(ring_entries) * DESCRIPTOR_BYTES as u64;
        let slots_offset = (RING_OFFSET + ring_bytes).next_multiple_of(PAGE_BYTES);
        let file_bytes = (slots_offset + u64::from(slots) * slot_stride).next_multiple_of(PAGE_BYTES);
        Ok(Geometry {
            role,
            slots,
            ring_entries,
            slot_bytes,
            slot_stride,
            ring_offset: RING_OFFSET,
            slots_offset,
            file_bytes,
        })
    }

    /// Offset of a slot in its file.
    ///
    /// # Panics
    /// If there is no such slot.
    #[inline]
    #[must_use]
    pub fn slot_offset(&self, slot: u32) -> usize {
        assert!(slot < self.slots, "slot {slot} of {}", self.slots);
        (self.slots_offset + u64::from(slot) * self.slot_stride) as usize
    }
}
