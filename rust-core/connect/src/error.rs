//! What can go wrong with a source, a sink or a format.
//!
//! A record that does not parse or fit is *not* an error: it becomes a dead letter.

use std::{io, path::PathBuf};

use ringmill_wire::DataType;

use crate::FieldMisfit;

/// Why a source, sink or format failed. `Display` is a fragment that fits after "failed to …: ".
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// A spec contradicts itself or is out of range.
    #[error("{option} is {value}, but {rule}")]
    Spec {
        /// name of the option
        option: &'static str,
        /// its value, as text
        value: String,
        /// the rule that it breaks
        rule: &'static str,
    },
    /// This program cannot talk to that system.
    #[error("this program was built without the feature `{0}`")]
    Feature(&'static str),
    /// The declared fields do not make a schema.
    #[error("the fields do not make a schema: {0}")]
    Schema(String),
    /// A field's `path` is not a JSON pointer, or two fields contradict each other.
    #[error("field {field:?} has the path {path:?}, but {rule}")]
    Path {
        /// the field
        field: String,
        /// its path
        path: String,
        /// the rule that it breaks
        rule: &'static str,
    },
    /// A schema registry refuses, or is none.
    #[error("schema registry at {name}: {reason}")]
    Registry {
        /// where it is
        name: String,
        /// what went wrong
        reason: String,
    },
    /// A schema does not fit the declared fields.
    #[error("the schema does not fit the fields: {}", misfits.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Misfit {
        /// what does not fit
        misfits: Vec<FieldMisfit>,
    },
    /// A format cannot carry a column's type.
    #[error("column {column:?} is {data_type}, which {format} cannot carry")]
    Unsupported {
        /// the column
        column: String,
        /// its type
        data_type: DataType,
        /// the format
        format: &'static str,
    },
    /// The path of a file source is not a glob pattern.
    #[error("the path {pattern:?} is not a valid pattern: {reason}")]
    Pattern {
        /// the path as given
        pattern: String,
        /// why
        reason: String,
    },
    /// No file matches.
    #[error("no file matches {pattern:?}")]
    NoMatch {
        /// the path as given
        pattern: String,
    },
    /// A file could not be opened or created.
    #[error("cannot open {}: {source}", path.display())]
    Open {
        /// the file
        path: PathBuf,
        /// the system's reason
        source: io::Error,
    },
    /// An address cannot be listened at.
    #[error("cannot listen at {address}: {source}")]
    Listen {
        /// host and port, or a path
        address: String,
        /// the system's reason
        source: io::Error,
    },
    /// The brokers cannot be reached, refuse, or do not have what is asked for.
    #[error("Kafka at {brokers}: {reason}")]
    Kafka {
        /// where they were looked for
        brokers: String,
        /// what went wrong
        reason: String,
        /// what kind of trouble it is
        fault: Fault,
    },
    /// The servers cannot be reached, refuse, or do not have what is asked for.
    #[error("NATS at {servers}: {reason}")]
    Nats {
        /// where they were looked for
        servers: String,
        /// what went wrong
        reason: String,
    },
    /// A process that makes rows, or takes them, failed.
    #[error("{origin}: {reason}")]
    Process {
        /// what runs in it: `module:Class`
        origin: String,
        /// what went wrong
        reason: String,
        /// its traceback, if it gave one
        detail: Option<String>,
    },
    /// Certificates of an encrypted connection cannot be read or used.
    #[error("the certificates cannot be used: {reason}")]
    Certificates {
        /// what is wrong with them
        reason: String,
    },
    /// A CSV header lacks a declared field.
    #[error("{name} has no column {column:?}; its header has {found:?}")]
    Header {
        /// file or stream
        name: String,
        /// the column that is missing
        column: String,
        /// the columns that are there
        found: Vec<String>,
    },
    /// Reading or decompressing failed.
    #[error("cannot read {name} beyond byte {offset} (of the decompressed content): {source}")]
    Read {
        /// file or stream
        name: String,
        /// bytes of decompressed content read before
        offset: u64,
        /// the system's or decompressor's reason
        source: io::Error,
    },
    /// A file's columns do not fit the declared fields.
    #[error("{name} does not fit the fields: {}", misfits.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Columns {
        /// the file
        name: String,
        /// what does not fit
        misfits: Vec<FieldMisfit>,
    },
    /// A file of counted rows is damaged, or holds what cannot be read.
    #[error("cannot read {name} beyond row {row}: {reason}")]
    Damaged {
        /// the file
        name: String,
        /// the number of the row, from 0, before which everything could be read
        row: u64,
        /// what is wrong
        reason: String,
    },
    /// A line of the store of dead letters is none.
    #[error("{}, line {line}: this is no dead letter: {reason}", path.display())]
    ForeignLetter {
        /// the file
        path: PathBuf,
        /// counted from 1
        line: u64,
        /// what is wrong with it
        reason: String,
    },
    /// Writing failed.
    #[error("cannot write {name}: {source}")]
    Write {
        /// file or stream
        name: String,
        /// the system's reason
        source: io::Error,
    },
    /// A partition cannot continue from a position.
    #[error("partition {partition} cannot continue from byte {offset}: {reason}")]
    Seek {
        /// the partition
        partition: String,
        /// the position's offset
        offset: u64,
        /// why
        reason: String,
    },
    /// A sink's target, or what was staged for it, is not as the checkpoint left it.
    #[error("{name}: {reason}")]
    Target {
        /// the target, or the staged file
        name: String,
        /// what differs
        reason: String,
    },
    /// A sink was asked to show an epoch that it has not made durable.
    #[error("{name} cannot commit epoch {epoch}: it has not been made durable")]
    NotStaged {
        /// the target
        name: String,
        /// the epoch
        epoch: u64,
    },
    /// A database refused, or a server that takes requests.
    #[error("cannot write {name}: {reason}")]
    Database {
        /// the database's file, or where the server is
        name: String,
        /// its words
        reason: String,
        /// what kind of refusal it is
        fault: Fault,
    },
    /// A value that no row of the target can have.
    #[error("{reason}; column {column:?} has {value} (a filter or a function in front of the sink can see to it)")]
    Value {
        /// the column
        column: String,
        /// the value, or its beginning
        value: String,
        /// why it is refused
        reason: &'static str,
    },
    /// A source is not as the checkpoint left it.
    #[error("partition {partition} cannot continue from the checkpoint: {reason}")]
    Resume {
        /// the partition
        partition: String,
        /// what is gone or differs
        reason: String,
    },
    /// A generator's event time ran past what 64 bits of nanoseconds hold.
    #[error(
        "the generator's event time ran past the year 2262 at row {row}: more keys, a shorter period or an earlier start help"
    )]
    EventTime {
        /// first row that has no timestamp
        row: u64,
    },
    /// An input that is to be read again and again has nothing in it.
    #[error("{partition} has no records, so there is nothing to be read again and again")]
    EmptyLap {
        /// what is read
        partition: String,
    },
}

/// Kinds of refusals by a database or a broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// there is no room
    OutOfSpace,
    /// somebody else holds a lock, or the server is away: the same may succeed later
    Transient,
    /// anything else
    Permanent,
}

impl ConnectError {
    /// Whether what was asked for is wrong, rather than something that failed while running.
    pub fn is_configuration(&self) -> bool {
        use ConnectError as E;
        !matches!(
            self,
            E::Kafka { .. }
                | E::Nats { .. }
                | E::Registry { .. }
                | E::Process { .. }
                | E::Read { .. }
                | E::Damaged { .. }
                | E::Write { .. }
                | E::Target { .. }
                | E::NotStaged { .. }
                | E::Database { .. }
                | E::Value { .. }
                | E::EventTime { .. }
        )
    }

    /// Whether the reader of our output went away (`ringmill run … | head`).
    pub fn is_broken_pipe(&self) -> bool {
        matches!(self, ConnectError::Write { source, .. } if source.kind() == io::ErrorKind::BrokenPipe)
    }

    /// Whether a disk or a quota is full: the same call may succeed when there is room again.
    pub fn is_out_of_space(&self) -> bool {
        match self {
            ConnectError::Write { source, .. } | ConnectError::Open { source, .. } => {
                matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
            }
            ConnectError::Database { fault, .. } => *fault == Fault::OutOfSpace,
            _ => false,
        }
    }

    /// Whether the same call is worth making again: no room, a lock that somebody else holds, a server that is away.
    ///
    /// A device that fails to write is not: what the system says of a second try of the same write or fsync is not to be
    /// believed. The run ends, and the next one goes on from what is known to be durable.
    pub fn is_transient(&self) -> bool {
        if self.is_out_of_space() {
            return true;
        }
        match self {
            ConnectError::Write { source, .. } | ConnectError::Open { source, .. } => {
                let kinds = [io::ErrorKind::Interrupted, io::ErrorKind::WouldBlock, io::ErrorKind::TimedOut];
                kinds.contains(&source.kind())
                    || matches!(source.raw_os_error(), Some(libc::ENOMEM | libc::ENFILE | libc::EMFILE))
            }
            ConnectError::Database { fault, .. } | ConnectError::Kafka { fault, .. } => *fault == Fault::Transient,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_is_waited_for_and_a_failing_device_is_not() {
        let cases = [
            (libc::ENOSPC, true, true),
            (libc::EDQUOT, true, true),
            (libc::EIO, false, false),
            (libc::EINTR, false, true),
            (libc::EAGAIN, false, true),
            (libc::ENOMEM, false, true),
            (libc::EMFILE, false, true),
            (libc::ENFILE, false, true),
            (libc::EACCES, false, false),
            (libc::EROFS, false, false),
            (libc::EPIPE, false, false),
        ];
        for (code, is_out_of_space, is_transient) in cases {
            let source = || io::Error::from_raw_os_error(code);
            let write = ConnectError::Write { name: "out".to_owned(), source: source() };
            let open = ConnectError::Open { path: "out".into(), source: source() };
            for error in [write, open] {
                assert_eq!((error.is_out_of_space(), error.is_transient()), (is_out_of_space, is_transient), "{error}");
            }
        }
        let cases = [(Fault::OutOfSpace, true), (Fault::Transient, true), (Fault::Permanent, false)];
        for (fault, is_transient) in cases {
            let error = ConnectError::Database { name: "out".to_owned(), reason: "no".to_owned(), fault };
            assert_eq!(error.is_transient(), is_transient, "{fault:?}");
        }
    }
}
