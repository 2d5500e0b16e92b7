//! The core's end of a channel: owns both files, the slots' free list, and every decision.
//!
//! Does not wait (a shard thread sleeps on many channels at once) and does not look into payloads.

use crate::core_link::{CoreLink, Parts};
use crate::descriptor::{Completion, Resubmission, Submission};
use crate::error::{FileRole, ProtocolViolation, RingError};
use crate::header::Header;
use crate::layout::{Geometry, HEADER_BYTES};
use crate::mapping::Mapping;
use crate::memory::{Shared, Word};
use crate::memory_file;
use std::os::fd::OwnedFd;
use std::ptr::NonNull;

/// Sizes and identity of a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChannelConfig {
    /// Slot pairs: a power of two up to 1,024.
    pub slots: u32,
    /// Payload bytes of a request slot.
    pub request_slot_bytes: usize,
    /// Payload bytes of a response slot.
    pub response_slot_bytes: usize,
    /// Hash of the schema of the requests.
    pub schema_hash: u64,
    /// Hash of the schema of the responses.
    pub response_schema_hash: u64,
    /// How many workers this channel's place has seen. [`CoreEnd::replace_worker`] raises it.
    pub generation: u64,
}

/// How large a channel's response file is; see [`ResponseMemory`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResponseLayout(Geometry);

/// Memory for the answers of a worker to come. Making it is most of the work of [`CoreEnd::replace_worker`] (the kernel
/// clears it, some milliseconds for 16 MiB), and can be done on any thread.
pub struct ResponseMemory(File);

impl ResponseMemory {
    /// Take the memory from the kernel.
    ///
    /// # Errors
    /// [`RingError::OutOfMemory`] with the bytes needed, or [`RingError::System`].
    pub fn make(layout: ResponseLayout) -> Result<ResponseMemory, RingError> {
        File::of_response(memory_file::reserve(&layout.0)?, layout.0).map(ResponseMemory)
    }
}

impl std::fmt::Debug for ResponseMemory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ResponseMemory({} bytes)", self.0.geometry.file_bytes)
    }
}

/// What the worker says of itself. For logs and for finding hangs; nothing here is checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct WorkerState {
    /// Its last heartbeat, in ns of `CLOCK_MONOTONIC`; 0 before the first.
    pub heartbeat_ns: u64,
    /// Whether it has announced to sleep.
    pub sleeping: bool,
    /// The batch it said to work on.
    pub current_batch: u64,
    /// Submissions it has read.
    pub submissions_read: u64,
    /// Completions it has published.
    pub completions_published: u64,
    /// Its process number.
    pub process_id: u32,
}

/// The core's end. One thread at a time (`Send`, not `Sync`).
pub struct CoreEnd {
    link: CoreLink<Shared>,
    request: File,
    response: File,
    response_schema_hash: u64,
    generation: u64,
}

struct File {
    descriptor: OwnedFd,
    mapping: Mapping,
    geometry: Geometry,
}

impl File {
    /// Seal and map a response file that nobody else has yet.
    fn of_response(descriptor: OwnedFd, geometry: Geometry) -> Result<File, RingError> {
        memory_file::seal(&descriptor, false)?;
        let mapping = Mapping::read_only(FileRole::Response, &descriptor, geometry.file_bytes)?;
        Ok(File { descriptor, mapping, geometry })
    }
}

// SAFETY: the raw pointers inside lead into the two mappings, which the value owns and which no thread is tied to.
#[allow(unsafe_code)]
unsafe impl Send for CoreEnd {}

impl CoreEnd {
    /// Make both files, with all their memory.
    ///
    /// # Errors
    /// [`RingError::BadConfig`], [`RingError::OutOfMemory`] with the bytes needed, or [`RingError::System`].
    pub fn create(config: &ChannelConfig) -> Result<CoreEnd, RingError> {
        let request_geometry = Geometry::new(FileRole::Request, config.slots, config.request_slot_bytes as u64)?;
        let response_geometry = Geometry::new(FileRole::Response, config.slots, config.response_slot_bytes as u64)?;
        let header = Header::new(&request_geometry, config.schema_hash, config.generation, 0);
        let descriptor = memory_file::create(&request_geometry, &header)?;
        let mapping = Mapping::writable(FileRole::Request, &descriptor, request_geometry.file_bytes)?;
        memory_file::seal(&descriptor, true)?;
        let request = File { descriptor, mapping, geometry: request_geometry };

        let header = Header::new(&response_geometry, config.response_schema_hash, config.generation, 0);
        let response = File::of_response(memory_file::create(&response_geometry, &header)?, response_geometry)?;

        let parts = parts(&request.mapping, &request.geometry, &response.mapping, &response.geometry, 0);
        // SAFETY: `parts` lie inside the mappings by the geometry, the mappings live as long as the link (both in
        // `self`), and the request file was sealed before anybody else could map it.
        #[allow(unsafe_code)]
        let link = unsafe { CoreLink::new(&parts) };
        let (response_schema_hash, generation) = (config.response_schema_hash, config.generation);
        Ok(CoreEnd { link, request, response, response_schema_hash, generation })
    }

    /// Make the channel ready for the next worker. The old one must be known to be dead (its pidfd said so, not a
    /// timer), and everything it published be polled: completions not polled by now are thrown away, which is right
    /// for those that follow a [`ProtocolViolation`].
    ///
    /// The request file stays, with every payload in it, and positions go on. The response file is made anew, with the
    /// next generation in its header, so that nothing the dead worker wrote, or might still write, can be read. What is
    /// returned was published and not answered, in the order in which it was published; its slots are the caller's, as
    /// if acquired and filled. Leases are over; slots that waited for nothing but a lease's end are free. An answer that
    /// was polled and not released is kept: [`CoreEnd::copy_response`] still gives it. Addresses that
    /// [`CoreEnd::response_memory`] gave before are void; those of [`CoreEnd::slot_memory`] hold. A drain is forgotten.
    /// [`CoreEnd::worker_fds`] gives the successor's descriptors.
    ///
    /// # Errors
    /// [`RingError::BadConfig`] if `generation` is not greater than the one before, [`RingError::OutOfMemory`] with the
    /// bytes needed, or [`RingError::System`]. Everything is then as before, and the call may be repeated.
    pub fn replace_worker(&mut self, generation: u64) -> Result<Vec<Resubmission>, RingError> {
        self.check_generation(generation)?;
        self.replace_worker_with(generation, ResponseMemory::make(self.response_layout())?)
    }

    /// [`CoreEnd::replace_worker`] with memory that was made before.
    ///
    /// # Errors
    /// As there; the memory is then gone.
    ///
    /// # Panics
    /// If the memory was made for another layout.
    pub fn replace_worker_with(
        &mut self,
        generation: u64,
        memory: ResponseMemory,
    ) -> Result<Vec<Resubmission>, RingError> {
        self.check_generation(generation)?;
        let (response, geometry, start) = (memory.0, self.response.geometry, self.link.position());
        assert_eq!(response.geometry, geometry, "response memory of another layout");
        let header = Header::new(&geometry, self.response_schema_hash, generation, start);
        memory_file::write_all(&response.descriptor, 0, &header.encode())?;
        let mut answer = Vec::new();
        for (slot, bytes) in self.link.slots.answered() {
            self.copy_response(slot, bytes, &mut answer);
            memory_file::write_all(&response.descriptor, geometry.slot_offset(slot) as u64, &answer)?;
        }

        let parts = parts(&self.request.mapping, &self.request.geometry, &response.mapping, &geometry, start);
        // SAFETY: as in `create`; the link forgets the old response before its mapping is dropped below.
        #[allow(unsafe_code)]
        let unanswered = unsafe { self.link.replace_worker(&parts) };
        self.response = response;
        self.generation = generation;
        Ok(unanswered)
    }

    fn check_generation(&self, generation: u64) -> Result<(), RingError> {
        if generation <= self.generation {
            let rule = "greater than that of the worker before";
            return Err(RingError::BadConfig { field: "generation", value: generation, rule });
        }
        Ok(())
    }

    /// How large the response file is, for [`ResponseMemory::make`].
    #[must_use]
    pub fn response_layout(&self) -> ResponseLayout {
        ResponseLayout(self.response.geometry)
    }

    /// How many workers the channel's place has seen: the generation of the present one.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Descriptors for the worker: request (read-only) and response. Both close-on-exec: the spawner clears that in
    /// the child only.
    ///
    /// # Errors
    /// [`RingError::System`] when the process has no descriptors left.
    pub fn worker_fds(&self) -> Result<(OwnedFd, OwnedFd), RingError> {
        let request = memory_file::reopen_read_only(&self.request.descriptor)?;
        let response =
            self.response.descriptor.try_clone().map_err(|error| RingError::system("dup", "response memory", error))?;
        Ok((request, response))
    }

    /// Slot pairs of the channel.
    #[inline]
    #[must_use]
    pub fn slots(&self) -> u32 {
        self.request.geometry.slots
    }

    /// Payload bytes of a request slot.
    #[inline]
    #[must_use]
    pub fn request_slot_bytes(&self) -> usize {
        self.request.geometry.slot_bytes as usize
    }

    /// Payload bytes of a response slot.
    #[inline]
    #[must_use]
    pub fn response_slot_bytes(&self) -> usize {
        self.response.geometry.slot_bytes as usize
    }

    /// Bytes of shared memory that the channel holds.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        self.request.geometry.file_bytes + self.response.geometry.file_bytes
    }

    /// Request slot `slot`: 128-byte aligned, writable while the slot is acquired and not published. The address
    /// holds as long as `self`.
    ///
    /// # Panics
    /// If there is no such slot.
    #[inline]
    #[must_use]
    #[allow(unsafe_code)]
    pub fn slot_memory(&self, slot: u32) -> NonNull<u8> {
        let offset = self.request.geometry.slot_offset(slot);
        // SAFETY: a slot's offset is inside the mapping, and no mapping lies at address 0.
        unsafe { NonNull::new_unchecked(self.request.mapping.base().add(offset)) }
    }

    /// Response slot `slot`, read-only. Until its answer was polled, and even after, a hostile worker may write it. The
    /// address holds until [`CoreEnd::replace_worker`], at the longest as long as `self`.
    ///
    /// # Panics
    /// If there is no such slot.
    #[inline]
    #[must_use]
    #[allow(unsafe_code)]
    pub fn response_memory(&self, slot: u32) -> *const u8 {
        let offset = self.response.geometry.slot_offset(slot);
        // SAFETY: a slot's offset is inside the mapping.
        unsafe { self.response.mapping.base().add(offset) }
    }

    /// Replace `out` by a private copy of the first `bytes` bytes of a response slot.
    ///
    /// # Panics
    /// If there is no such slot or it is smaller.
    pub fn copy_response(&self, slot: u32, bytes: u32, out: &mut Vec<u8>) {
        self.copy_response_from(slot, 0, bytes, out);
    }

    /// The same of `bytes` bytes from `start` on, a multiple of 8.
    ///
    /// # Panics
    /// As [`CoreEnd::copy_response`], and if `start` is no such number.
    #[allow(unsafe_code)]
    pub fn copy_response_from(&self, slot: u32, start: u32, bytes: u32, out: &mut Vec<u8>) {
        let end = u64::from(start) + u64::from(bytes);
        assert!(end <= self.response.geometry.slot_bytes, "copy beyond the slot");
        assert!(start.is_multiple_of(8), "copy from byte {start}");
        out.clear();
        for index in 0..(bytes as usize).div_ceil(8) {
            // SAFETY: aligned and inside the slot, whose stride is a multiple of 128. Volatile, because the worker
            // may write at the same time: the copy may then be nonsense, but it is one value per word.
            let word =
                unsafe { self.response_memory(slot).add(start as usize).cast::<u64>().add(index).read_volatile() };
            out.extend_from_slice(&word.to_ne_bytes());
        }
        out.truncate(bytes as usize);
    }

    /// A free slot pair, now the caller's to fill.
    #[inline]
    pub fn acquire(&mut self) -> Option<u32> {
        self.link.acquire()
    }

    /// How many [`CoreEnd::acquire`]s would succeed.
    #[inline]
    #[must_use]
    pub fn free_slots(&self) -> usize {
        self.link.slots.free_count()
    }

    /// Slots that user code of the worker still looks into.
    #[inline]
    #[must_use]
    pub fn leased_slots(&self) -> usize {
        self.link.slots.leased_count() as usize
    }

    /// Whether user code of the worker still looks into this slot: it must not be published then.
    ///
    /// # Panics
    /// If there is no such slot.
    #[inline]
    #[must_use]
    pub fn is_leased(&self, slot: u32) -> bool {
        self.link.slots.is_leased(slot)
    }

    /// Give a slot pair back: never published, or answered and consumed. If it is leased it becomes free when the
    /// lease ends.
    ///
    /// # Panics
    /// If the slot is free or in flight (an error of the caller).
    #[inline]
    pub fn release(&mut self, slot: u32) {
        self.link.release(slot);
    }

    /// Hand a batch (or a drain) to the worker, waking it if it sleeps. The ring is never full.
    ///
    /// # Panics
    /// If the slot is not the caller's or still leased, the payload is longer than a slot, or a drain was published before.
    #[inline]
    pub fn publish(&mut self, submission: &Submission) {
        self.link.place(submission);
        self.link.notify();
    }

    /// Like [`CoreEnd::publish`], but a sleeping worker sleeps on until [`CoreEnd::notify`]. Saves a full fence (some
    /// 100 ns of waiting for a cache line) where several batches are published at once.
    ///
    /// # Panics
    /// As [`CoreEnd::publish`].
    #[inline]
    pub fn place(&mut self, submission: &Submission) {
        self.link.place(submission);
    }

    /// Wake the worker if it sleeps; owed after [`CoreEnd::place`].
    #[inline]
    pub fn notify(&mut self) {
        self.link.notify();
    }

    /// The next completion, checked against what was submitted.
    ///
    /// # Errors
    /// A worker that breaks the protocol has to be killed; nothing that it said from here on may be used, so do not poll
    /// again before [`CoreEnd::replace_worker`].
    #[inline]
    pub fn poll(&mut self) -> Result<Option<Completion>, ProtocolViolation> {
        self.link.poll()
    }

    /// Announce a sleep on the doorbell. False: something is already there, do not sleep. To be called before
    /// every sleep, with [`CoreEnd::disarm_sleep`] after it.
    #[inline]
    #[must_use]
    pub fn arm_sleep(&mut self) -> bool {
        self.link.arm_sleep()
    }

    /// Awake again.
    #[inline]
    pub fn disarm_sleep(&mut self) {
        self.link.disarm_sleep();
    }

    /// The worker's own figures, unchecked.
    #[must_use]
    pub fn peek_worker(&self) -> WorkerState {
        let state = self.link.response();
        let figures = &state.figures.0;
        WorkerState {
            heartbeat_ns: figures.heartbeat_ns.load_relaxed(),
            sleeping: state.sleeping.0.load_relaxed() != 0,
            current_batch: figures.current_batch.load_relaxed(),
            submissions_read: figures.submissions_read.load_relaxed(),
            completions_published: figures.completions_published.load_relaxed(),
            process_id: figures.process_id.load_relaxed(),
        }
    }
}

/// Where the shared structures of two mapped files lie.
#[allow(unsafe_code)]
pub(crate) fn parts(
    request: &Mapping,
    request_geometry: &Geometry,
    response: &Mapping,
    response_geometry: &Geometry,
    start_position: u64,
) -> Parts<Shared> {
    // SAFETY: both offsets lie inside a mapping that is `file_bytes` of its geometry long.
    let at = |mapping: &Mapping, offset: u64| unsafe { mapping.base().add(offset as usize) };
    Parts {
        request: at(request, HEADER_BYTES as u64).cast(),
        response: at(response, HEADER_BYTES as u64).cast(),
        submissions: at(request, request_geometry.ring_offset).cast(),
        completions: at(response, response_geometry.ring_offset).cast(),
        submission_entries: request_geometry.ring_entries,
        completion_entries: response_geometry.ring_entries,
        slots: request_geometry.slots,
        request_slot_bytes: request_geometry.slot_bytes,
        response_slot_bytes: response_geometry.slot_bytes,
        start_position,
    }
}
