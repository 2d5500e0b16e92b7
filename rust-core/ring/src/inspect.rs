//! Looking at a live channel without disturbing it: reads through the descriptors, maps and writes nothing.

use crate::core_end::WorkerState;
use crate::error::{FileRole, RingError};
use crate::header::Header;
use crate::layout::{DESCRIPTOR_BYTES, Geometry, HEADER_BYTES, RING_OFFSET};
use crate::memory_file::read_exact;
use crate::worker_end::check_header;
use std::fmt;
use std::os::fd::OwnedFd;

/// A look at a channel. The two sides go on while it is taken, so figures of one look need not fit each other exactly.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Inspection {
    /// When it was taken, in ns of `CLOCK_MONOTONIC`: two looks give rates.
    pub taken_ns: u64,
    /// Protocol version, "major.minor".
    pub version: String,
    /// Which of the channel's workers this is: its generation.
    pub generation: u64,
    /// Slot pairs.
    pub slots: u32,
    /// Slots on the core's free list.
    pub slots_free: u32,
    /// Slots that user code of the worker looks into beyond its answer.
    pub slots_leased: u32,
    /// Whether the core has announced to sleep.
    pub core_sleeping: bool,
    /// Core to worker.
    pub submissions: RingInspection,
    /// Worker to core.
    pub completions: RingInspection,
    /// The request file.
    pub request: SideInspection,
    /// The response file.
    pub response: SideInspection,
    /// What the worker says of itself.
    pub worker: WorkerState,
}

/// One ring.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct RingInspection {
    /// Descriptors it can hold.
    pub entries: u32,
    /// Descriptors ever published.
    pub published: u64,
    /// Descriptors ever read.
    pub read: u64,
    /// Published and not read.
    pub unread: u64,
    /// How often each kind stands in the ring (read or not), by name.
    pub kinds: std::collections::BTreeMap<&'static str, u32>,
}

/// One file.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct SideInspection {
    /// Its size.
    pub file_bytes: u64,
    /// Payload bytes of a slot.
    pub slot_bytes: u64,
    /// Hash of the payload schema.
    pub schema_hash: u64,
}

/// Look at a channel through read-only descriptors of its files (for instance `/proc/PID/fd/N`).
///
/// # Errors
/// The same refusals as attaching, but for seals and schema hashes, which an onlooker need not know.
pub fn inspect(request: &OwnedFd, response: &OwnedFd) -> Result<Inspection, RingError> {
    let (request_header, request_geometry) = check_header(FileRole::Request, request)?;
    let (response_header, response_geometry) = check_header(FileRole::Response, response)?;
    let core = Page::read(FileRole::Request, request)?;
    let worker = Page::read(FileRole::Response, response)?;
    let state = WorkerState {
        heartbeat_ns: worker.u64("response_state", "heartbeat_ns"),
        sleeping: worker.u64("response_state", "sleeping") != 0,
        current_batch: worker.u64("response_state", "current_batch"),
        submissions_read: worker.u64("response_state", "submissions_read"),
        completions_published: worker.u64("response_state", "completions_published"),
        process_id: worker.u64("response_state", "process_id") as u32,
    };
    let published = core.u64("request_state", "submissions_published");
    // Before it attaches, a worker has not said yet that it does not read what was meant for its predecessor.
    let submissions_read = state.submissions_read.max(response_header.start_position);
    let read = core.u64("request_state", "completions_read");
    Ok(Inspection {
        taken_ns: crate::monotonic_ns(),
        version: format!("{}.{}", request_header.version_major, request_header.version_minor),
        generation: response_header.generation,
        slots: request_geometry.slots,
        slots_free: core.u64("request_state", "slots_free") as u32,
        slots_leased: core.u64("request_state", "slots_leased") as u32,
        core_sleeping: core.u64("request_state", "sleeping") != 0,
        submissions: ring(request, &request_geometry, published, submissions_read)?,
        completions: ring(response, &response_geometry, state.completions_published, read)?,
        request: side(&request_header),
        response: side(&response_header),
        worker: state,
    })
}

/// A copy of a file's first page.
struct Page {
    bytes: Vec<u8>,
}

impl Page {
    fn read(file: FileRole, descriptor: &OwnedFd) -> Result<Page, RingError> {
        let mut bytes = vec![0; RING_OFFSET as usize - HEADER_BYTES];
        read_exact(file, descriptor, HEADER_BYTES as u64, &mut bytes)?;
        Ok(Page { bytes })
    }

    fn u64(&self, section: &str, name: &str) -> u64 {
        let found = crate::layout::FIELDS.iter().find(|field| field.section == section && field.name == name);
        found.map_or(0, |field| {
            let mut word = [0; 8];
            let at = field.offset - HEADER_BYTES;
            word[..field.bytes].copy_from_slice(&self.bytes[at..at + field.bytes]);
            u64::from_le_bytes(word)
        })
    }
}

fn side(header: &Header) -> SideInspection {
    SideInspection { file_bytes: header.file_bytes, slot_bytes: header.slot_bytes, schema_hash: header.schema_hash }
}

fn ring(descriptor: &OwnedFd, geometry: &Geometry, published: u64, read: u64) -> Result<RingInspection, RingError> {
    let mut bytes = vec![0; geometry.ring_entries as usize * DESCRIPTOR_BYTES];
    read_exact(geometry.role, descriptor, geometry.ring_offset, &mut bytes)?;
    let mut kinds = std::collections::BTreeMap::new();
    for entry in bytes.chunks_exact(DESCRIPTOR_BYTES) {
        if entry[..8] != [0; 8] {
            *kinds.entry(kind_name(geometry.role, u16::from_le_bytes([entry[8], entry[9]]))).or_insert(0) += 1;
        }
    }
    let unread = published.saturating_sub(read);
    Ok(RingInspection { entries: geometry.ring_entries, published, read, unread, kinds })
}

fn kind_name(role: FileRole, kind: u16) -> &'static str {
    match (role, kind) {
        (FileRole::Request, 1) => "batch",
        (FileRole::Request, 2) => "reload",
        (FileRole::Request, 3) => "drain",
        (FileRole::Request, 4) => "snapshot",
        (FileRole::Request, 5) => "restore",
        (FileRole::Request, 6) => "fill",
        (FileRole::Response, 1) => "result",
        (FileRole::Response, 2) => "failed",
        (FileRole::Response, 3) => "lease_released",
        (FileRole::Response, 4) => "log",
        (FileRole::Response, 5) => "stats",
        (FileRole::Response, 6) => "ready",
        _ => "unknown",
    }
}

impl fmt::Display for Inspection {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = |sleeping| if sleeping { "asleep" } else { "awake" };
        let age = if self.worker.heartbeat_ns == 0 {
            "never".to_owned()
        } else {
            format!("{} ms ago", self.taken_ns.saturating_sub(self.worker.heartbeat_ns) / 1_000_000)
        };
        writeln!(formatter, "protocol {}, generation {}", self.version, self.generation)?;
        writeln!(formatter, "slots        {} ({} free, {} leased)", self.slots, self.slots_free, self.slots_leased)?;
        for (name, ring) in [("submissions", &self.submissions), ("completions", &self.completions)] {
            write!(
                formatter,
                "{name}  {} published, {} read, {} unread of {} entries;",
                ring.published, ring.read, ring.unread, ring.entries
            )?;
            for (kind, count) in &ring.kinds {
                write!(formatter, " {kind} {count}")?;
            }
            writeln!(formatter)?;
        }
        for (name, side) in [("request", &self.request), ("response", &self.response)] {
            writeln!(
                formatter,
                "{name:<12} {} bytes, slots of {} bytes, schema {:#018x}",
                side.file_bytes, side.slot_bytes, side.schema_hash
            )?;
        }
        writeln!(formatter, "core         {}", state(self.core_sleeping))?;
        write!(
            formatter,
            "worker       process {}, {}, batch {}, heartbeat {age}",
            self.worker.process_id,
            state(self.worker.sleeping),
            self.worker.current_batch
        )
    }
}
