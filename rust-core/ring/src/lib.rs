//! Shared-memory channel between the core and one worker process.
//!
//! A channel is two memory files: `request`, written by the core alone, and `response`, written by the
//! worker alone. Each holds a ring of 64-byte descriptors and as many payload slots as the other; request slot
//! *i* is answered in response slot *i*. Neither side ever takes a lock, and neither makes a system call
//! while its peer is awake.
//!
//! A dead worker's place is taken by another with [`CoreEnd::replace_worker`], which keeps the request file and makes the
//! response file anew.
//!
//! The protocol, with its proofs, is `ringbuf-spec/SPEC.md`; the invariants are numbered there.
//!
//! What this crate does not know: FlatBuffers, columns, Python, configuration. A slot is bytes.
//!
//! ```
//! use ringmill_ring::{ChannelConfig, Completion, CoreEnd, Doorbell, Submission, SubmissionKind, Wait, WorkerEnd};
//!
//! let config = ChannelConfig {
//!     slots: 4,
//!     request_slot_bytes: 4096,
//!     response_slot_bytes: 4096,
//!     schema_hash: 1,
//!     response_schema_hash: 2,
//!     generation: 1,
//! };
//! let mut core = CoreEnd::create(&config)?;
//! let (request, response) = core.worker_fds()?;
//! // In real use the next line runs in another process, which inherited the three descriptors.
//! let mut worker = WorkerEnd::attach(request, response, Doorbell::new()?, Wait::Adaptive, 1, 2)?;
//!
//! let slot = core.acquire().expect("a new channel has free slots");
//! core.publish(&Submission { slot, row_count: 7, batch: 1, ..Submission::new(SubmissionKind::Batch) });
//!
//! let submission = worker.poll()?.expect("one batch was published");
//! worker.complete(&Completion::result(&submission, 0));
//!
//! let completion = core.poll()?.expect("the batch was answered");
//! assert_eq!((completion.slot, completion.row_count), (slot, 7));
//! core.release(slot);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#[cfg(not(all(target_os = "linux", target_pointer_width = "64", target_endian = "little")))]
compile_error!("ringmill-ring needs 64-bit little-endian Linux (memfd seals, futex, pidfd)");

mod clock;
mod core_end;
mod core_link;
mod descriptor;
mod doorbell;
mod error;
mod header;
mod inspect;
pub mod layout;
mod mapping;
mod memory;
mod memory_file;
pub mod process;
mod ring;
mod sleep;
mod slot_table;
mod wait;
mod worker_end;
mod worker_link;

pub use clock::monotonic_ns;
pub use core_end::{ChannelConfig, CoreEnd, ResponseLayout, ResponseMemory, WorkerState};
pub use descriptor::{Completion, CompletionKind, NO_SLOT, Resubmission, Submission, SubmissionKind};
pub use doorbell::Doorbell;
pub use error::{FileRole, ProtocolViolation, RingError};
pub use inspect::{Inspection, RingInspection, SideInspection, inspect};
pub use wait::Wait;
pub use worker_end::{MappingGuard, WorkerEnd};

#[cfg(test)]
mod death_tests;
#[cfg(test)]
mod loom_tests;
