//! The worker's end of a channel: attaches to both files, takes batches, answers them.
//!
//! Can write the response file only. Does not look into payloads and knows no GIL: `poll` never blocks, and who calls
//! `wait` releases first whatever must not be held.

use crate::core_end::parts;
use crate::descriptor::{Completion, CompletionKind, Submission};
use crate::doorbell::Doorbell;
use crate::error::{FileRole, ProtocolViolation, RingError};
use crate::header::Header;
use crate::layout::Geometry;
use crate::mapping::Mapping;
use crate::memory::{Shared, Word};
use crate::memory_file;
use crate::wait::{PAUSES_PER_CLOCK, SPIN, Wait, YIELDS};
use crate::worker_link::WorkerLink;
use std::os::fd::OwnedFd;
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The worker's end. One thread at a time (`Send`, not `Sync`).
pub struct WorkerEnd {
    link: WorkerLink<Shared>,
    doorbell: Doorbell,
    wait: Wait,
    mappings: Arc<Mappings>,
    request: Geometry,
    response: Geometry,
    generation: u64,
}

struct Mappings {
    request: Mapping,
    response: Mapping,
}

/// Keeps the mappings, and so every address into a slot, valid beyond the [`WorkerEnd`].
#[derive(Clone)]
pub struct MappingGuard {
    _mappings: Arc<Mappings>,
}

// SAFETY: the raw pointers inside lead into the two mappings, which the value keeps alive and which no thread is tied to.
#[allow(unsafe_code)]
unsafe impl Send for WorkerEnd {}

impl WorkerEnd {
    /// Attach to the two files of a channel. `doorbell` is the core's.
    ///
    /// # Errors
    /// Whatever this build does not understand, or was not promised, is refused by name; see [`RingError`].
    pub fn attach(
        request: OwnedFd,
        response: OwnedFd,
        doorbell: Doorbell,
        wait: Wait,
        expect_schema_hash: u64,
        expect_response_schema_hash: u64,
    ) -> Result<WorkerEnd, RingError> {
        let (request_header, request_geometry) = check(FileRole::Request, &request, expect_schema_hash)?;
        let (response_header, response_geometry) = check(FileRole::Response, &response, expect_response_schema_hash)?;
        // The request file keeps the header of its creation; the response file is made anew for each worker.
        if response_header.generation < request_header.generation {
            return Err(RingError::GenerationMismatch {
                request: request_header.generation,
                response: response_header.generation,
            });
        }
        if request_geometry.slots != response_geometry.slots {
            return Err(RingError::BadGeometry {
                file: FileRole::Response,
                field: "slots",
                found: u64::from(response_geometry.slots),
                expected: u64::from(request_geometry.slots),
            });
        }
        let mappings = Mappings {
            request: Mapping::read_only(FileRole::Request, &request, request_geometry.file_bytes)?,
            response: Mapping::writable(FileRole::Response, &response, response_geometry.file_bytes)?,
        };
        let parts = parts(
            &mappings.request,
            &request_geometry,
            &mappings.response,
            &response_geometry,
            response_header.start_position,
        );
        // SAFETY: `parts` lie inside the mappings by the checked geometry; the files cannot shrink (seals checked);
        // the mappings live as long as the link (both in `self`).
        #[allow(unsafe_code)]
        let link = unsafe { WorkerLink::new(&parts) };
        let figures = &link.response().figures.0;
        figures.submissions_read.store_relaxed(response_header.start_position);
        figures.process_id.store_relaxed(std::process::id());
        Ok(WorkerEnd {
            link,
            doorbell,
            wait,
            mappings: Arc::new(mappings),
            request: request_geometry,
            response: response_geometry,
            generation: response_header.generation,
        })
    }

    /// Slot pairs of the channel.
    #[inline]
    #[must_use]
    pub fn slots(&self) -> u32 {
        self.request.slots
    }

    /// Payload bytes of a request slot.
    #[inline]
    #[must_use]
    pub fn request_slot_bytes(&self) -> usize {
        self.request.slot_bytes as usize
    }

    /// Payload bytes of a response slot.
    #[inline]
    #[must_use]
    pub fn response_slot_bytes(&self) -> usize {
        self.response.slot_bytes as usize
    }

    /// Which of the channel's workers this one is.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Something to keep while an address into a slot is in use.
    #[must_use]
    pub fn mapping_guard(&self) -> MappingGuard {
        MappingGuard { _mappings: Arc::clone(&self.mappings) }
    }

    /// Request slot `slot`, 128-byte aligned, mapped read-only. Immutable from the poll that named it until its completion (or, if
    /// leased, its lease release) is published.
    ///
    /// # Panics
    /// If there is no such slot.
    #[inline]
    #[must_use]
    #[allow(unsafe_code)]
    pub fn request_memory(&self, slot: u32) -> *const u8 {
        let offset = self.request.slot_offset(slot);
        // SAFETY: a slot's offset is inside the mapping.
        unsafe { self.mappings.request.base().add(offset) }
    }

    /// Response slot `slot`, 128-byte aligned, writable from the poll that named it until its completion is published.
    ///
    /// # Panics
    /// If there is no such slot.
    #[inline]
    #[must_use]
    #[allow(unsafe_code)]
    pub fn response_slot(&self, slot: u32) -> NonNull<u8> {
        let offset = self.response.slot_offset(slot);
        // SAFETY: a slot's offset is inside the mapping, and no mapping lies at address 0.
        unsafe { NonNull::new_unchecked(self.mappings.response.base().add(offset)) }
    }

    /// The next submission, if it is there. Never blocks, no system call.
    ///
    /// # Errors
    /// A core that breaks the protocol: the worker should exit.
    #[inline]
    pub fn poll(&mut self) -> Result<Option<Submission>, ProtocolViolation> {
        self.link.poll()
    }

    /// The next submission, waited for at most `timeout` in the manner of the channel's [`Wait`].
    ///
    /// # Errors
    /// As [`WorkerEnd::poll`].
    pub fn wait(&mut self, timeout: Duration) -> Result<Option<Submission>, ProtocolViolation> {
        let start = Instant::now();
        let spin = match self.wait {
            Wait::Spin => timeout,
            Wait::Adaptive => SPIN.min(timeout),
            Wait::Block => Duration::ZERO,
        };
        loop {
            for _ in 0..PAUSES_PER_CLOCK {
                if let Some(submission) = self.link.poll()? {
                    return Ok(Some(submission));
                }
                if self.wait == Wait::Block {
                    break;
                }
                std::hint::spin_loop();
            }
            if start.elapsed() >= spin {
                break;
            }
        }
        if self.wait == Wait::Adaptive {
            for _ in 0..YIELDS {
                std::thread::yield_now();
                if let Some(submission) = self.link.poll()? {
                    return Ok(Some(submission));
                }
            }
        }
        self.sleep_until(start, timeout)
    }

    #[cold]
    fn sleep_until(&mut self, start: Instant, timeout: Duration) -> Result<Option<Submission>, ProtocolViolation> {
        loop {
            let left = timeout.saturating_sub(start.elapsed());
            if left.is_zero() {
                return Ok(None);
            }
            if let Some(submission) = self.link.sleep(left)? {
                return Ok(Some(submission));
            }
            if let Some(submission) = self.link.poll()? {
                return Ok(Some(submission));
            }
        }
    }

    /// Answer a batch (or say ready), ringing the core if it sleeps. The ring is never full.
    ///
    /// # Panics
    /// If the slot was not handed to the worker or was answered before, or the payload is longer than a slot.
    #[inline]
    pub fn complete(&mut self, completion: &Completion) {
        self.link.place(completion);
        self.notify();
    }

    /// Like [`WorkerEnd::complete`], but a sleeping core sleeps on until [`WorkerEnd::notify`].
    ///
    /// # Panics
    /// As [`WorkerEnd::complete`].
    #[inline]
    pub fn place(&mut self, completion: &Completion) {
        self.link.place(completion);
    }

    /// Ring the core if it sleeps; owed after [`WorkerEnd::place`].
    #[inline]
    pub fn notify(&mut self) {
        if self.link.must_ring() {
            self.doorbell.ring();
        }
    }

    /// The last view into a slot that was completed as leased is gone.
    ///
    /// # Panics
    /// If the slot is not leased.
    pub fn lease_released(&mut self, slot: u32, batch: u64) {
        self.complete(&Completion { kind: CompletionKind::LeaseReleased, slot, batch, ..Completion::ready() });
    }

    /// Say that the worker lives and what it works on.
    #[inline]
    pub fn heartbeat(&mut self, current_batch: u64) {
        let figures = &self.link.response().figures.0;
        figures.current_batch.store_relaxed(current_batch);
        figures.heartbeat_ns.store_relaxed(crate::monotonic_ns());
    }
}

fn check(file: FileRole, descriptor: &OwnedFd, expected: u64) -> Result<(Header, Geometry), RingError> {
    check_header(file, descriptor).and_then(|(header, geometry)| {
        memory_file::check_seals(file, descriptor)?;
        if header.schema_hash != expected {
            return Err(RingError::WrongSchema { file, found: header.schema_hash, expected });
        }
        Ok((header, geometry))
    })
}

/// Header and geometry of a file, both understood.
pub(crate) fn check_header(file: FileRole, descriptor: &OwnedFd) -> Result<(Header, Geometry), RingError> {
    let (header, bytes) = memory_file::read_header(file, descriptor)?;
    let geometry = header.check(file, bytes)?;
    Ok((header, geometry))
}
