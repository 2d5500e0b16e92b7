//! What can go wrong: with the memory ([`RingError`]) and with a peer that breaks the rules ([`ProtocolViolation`]).
//!
//! An empty ring or a channel without a free slot is an outcome (`None`), never an error.

use std::fmt;

/// Which of the two memory files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[repr(u32)]
pub enum FileRole {
    /// Written by the core.
    Request = 1,
    /// Written by the worker.
    Response = 2,
}

impl fmt::Display for FileRole {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            FileRole::Request => "request",
            FileRole::Response => "response",
        })
    }
}

/// Why a channel could not be created, attached or inspected. Reads well after "failed to create/attach channel: ".
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RingError {
    /// A size in the configuration is outside its range.
    #[error("{field} is {value}, but must be {rule}")]
    BadConfig {
        /// Name of the field of `ChannelConfig`.
        field: &'static str,
        /// What it was.
        value: u64,
        /// What it has to be.
        rule: &'static str,
    },
    /// The machine has not enough free memory for the file.
    #[error(
        "{file} memory needs {bytes} bytes, but only {available} are available (hint: fewer slots or smaller batches)"
    )]
    OutOfMemory {
        /// The file.
        file: FileRole,
        /// Bytes it needs.
        bytes: u64,
        /// Bytes the kernel could still give.
        available: u64,
    },
    /// A system call failed.
    #[error("{call} of {bytes} bytes for {what}: {source}")]
    System {
        /// The call.
        call: &'static str,
        /// What it was for.
        what: &'static str,
        /// Size in bytes it was asked for, 0 where none applies.
        bytes: u64,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// The file is shorter than its header or than its header says.
    #[error("{file} memory is truncated: {bytes} bytes, but {needed} are needed")]
    Truncated {
        /// The file.
        file: FileRole,
        /// Its size.
        bytes: u64,
        /// The size it should have.
        needed: u64,
    },
    /// Not a Ringmill memory file.
    #[error("{file} memory is no Ringmill channel: magic is {found:#018x}, expected {expected:#018x}")]
    WrongMagic {
        /// The file.
        file: FileRole,
        /// What stands there.
        found: u64,
        /// What should.
        expected: u64,
    },
    /// Written by a build with another major version of the protocol.
    #[error(
        "{file} memory has protocol version {found_major}.{found_minor}, this build speaks {major}.{minor} (hint: core and workers must be of the same Ringmill release)"
    )]
    WrongVersion {
        /// The file.
        file: FileRole,
        /// Major version found.
        found_major: u16,
        /// Minor version found.
        found_minor: u16,
        /// Major version of this build.
        major: u16,
        /// Minor version of this build.
        minor: u16,
    },
    /// The file needs features that this build does not have.
    #[error("{file} memory requires features {unknown:#x} that this build does not know (it knows {known:#x})")]
    UnknownFeatures {
        /// The file.
        file: FileRole,
        /// Required bits unknown here.
        unknown: u64,
        /// Bits known here.
        known: u64,
    },
    /// The static header does not match its own hash.
    #[error("{file} header is corrupt: its hash is {found:#018x}, but its bytes give {computed:#018x}")]
    CorruptHeader {
        /// The file.
        file: FileRole,
        /// Hash stored.
        found: u64,
        /// Hash computed.
        computed: u64,
    },
    /// Request where response was expected, or the other way round.
    #[error("{file} memory has role {found}, expected {expected}")]
    WrongRole {
        /// The file.
        file: FileRole,
        /// Role found.
        found: u32,
        /// Role expected.
        expected: u32,
    },
    /// Same version, but the fields lie elsewhere.
    #[error("{file} memory has layout hash {found:#018x}, this build has {expected:#018x}")]
    WrongLayout {
        /// The file.
        file: FileRole,
        /// Hash found.
        found: u64,
        /// Hash of this build.
        expected: u64,
    },
    /// The payload schema is another one.
    #[error("{file} memory carries schema {found:#018x}, expected {expected:#018x}")]
    WrongSchema {
        /// The file.
        file: FileRole,
        /// Hash found.
        found: u64,
        /// Hash expected.
        expected: u64,
    },
    /// A size or an offset in the header is not what the other sizes imply.
    #[error("{file} header says {field} = {found}, expected {expected}")]
    BadGeometry {
        /// The file.
        file: FileRole,
        /// Field of the header.
        field: &'static str,
        /// Value found.
        found: u64,
        /// Value implied by the rest.
        expected: u64,
    },
    /// The two files do not belong together.
    #[error("request memory is of generation {request}, response memory of generation {response}")]
    GenerationMismatch {
        /// Generation of the request file.
        request: u64,
        /// Generation of the response file.
        response: u64,
    },
    /// Without its seals a file could shrink under a mapping (SIGBUS).
    #[error("{file} memory lacks seals: it has {found:#x}, but {needed:#x} are needed")]
    NotSealed {
        /// The file.
        file: FileRole,
        /// Seals found.
        found: u32,
        /// Seals needed.
        needed: u32,
    },
}

impl RingError {
    pub(crate) fn system(call: &'static str, what: &'static str, source: impl Into<std::io::Error>) -> RingError {
        RingError::System { call, what, bytes: 0, source: source.into() }
    }
}

/// What a peer did that the protocol forbids. The core kills such a worker; a worker that sees one exits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProtocolViolation {
    /// The sequence number is neither the next one nor an older lap's.
    #[error("descriptor {position} has sequence {found}, expected {expected} or an older lap's")]
    BadSequence {
        /// Position being read.
        position: u64,
        /// Sequence found.
        found: u64,
        /// Sequence expected.
        expected: u64,
    },
    /// A kind that no reader knows.
    #[error("descriptor {position} has unknown kind {kind}")]
    UnknownKind {
        /// Position of the descriptor.
        position: u64,
        /// Kind found.
        kind: u16,
    },
    /// A flag bit that has no meaning for this kind.
    #[error("descriptor {position} has unknown flags {flags:#x}")]
    UnknownFlags {
        /// Position of the descriptor.
        position: u64,
        /// Flags found.
        flags: u16,
    },
    /// A slot number beyond the last.
    #[error("descriptor {position} names slot {slot}, but there are {slots}")]
    SlotOutOfRange {
        /// Position of the descriptor.
        position: u64,
        /// Slot found.
        slot: u32,
        /// Slots of the channel.
        slots: u32,
    },
    /// An answer for a slot that is not in flight: answered twice, or never asked.
    #[error("descriptor {position} answers slot {slot}, which is not in flight")]
    NotInFlight {
        /// Position of the descriptor.
        position: u64,
        /// Slot found.
        slot: u32,
    },
    /// A lease ended that was never reported.
    #[error("descriptor {position} ends a lease of slot {slot}, which has none")]
    NotLeased {
        /// Position of the descriptor.
        position: u64,
        /// Slot found.
        slot: u32,
    },
    /// The payload would not fit its slot.
    #[error("descriptor {position} claims {byte_length} payload bytes, but a slot has {slot_bytes}")]
    TooLong {
        /// Position of the descriptor.
        position: u64,
        /// Length found.
        byte_length: u32,
        /// Bytes of a slot.
        slot_bytes: u64,
    },
    /// Another batch than the one in that slot.
    #[error("descriptor {position} answers batch {found} in slot {slot}, which holds batch {expected}")]
    WrongBatch {
        /// Position of the descriptor.
        position: u64,
        /// Slot.
        slot: u32,
        /// Batch found.
        found: u64,
        /// Batch submitted.
        expected: u64,
    },
    /// Another epoch than the batch was submitted with.
    #[error("descriptor {position} answers slot {slot} in epoch {found}, submitted in {expected}")]
    WrongEpoch {
        /// Position of the descriptor.
        position: u64,
        /// Slot.
        slot: u32,
        /// Epoch found.
        found: u64,
        /// Epoch submitted.
        expected: u64,
    },
    /// A result has as many rows as its batch.
    #[error("descriptor {position} returns {found} rows in slot {slot}, submitted were {expected}")]
    WrongRowCount {
        /// Position of the descriptor.
        position: u64,
        /// Slot.
        slot: u32,
        /// Rows found.
        found: u32,
        /// Rows submitted.
        expected: u32,
    },
    /// `ready` is said once.
    #[error("descriptor {position} says ready a second time")]
    ReadyTwice {
        /// Position of the descriptor.
        position: u64,
    },
    /// Nothing follows a drain.
    #[error("descriptor {position} follows a drain")]
    AfterDrain {
        /// Position of the descriptor.
        position: u64,
    },
}
