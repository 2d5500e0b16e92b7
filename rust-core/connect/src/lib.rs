//! Sources, sinks and formats.
//!
//! A *source* is a spec ([`GeneratorSpec`], [`FileSpec`], [`StdinSpec`], [`SocketSpec`], [`HttpSpec`], [`MqttSpec`],
//! [`KafkaSpec`], [`NatsSpec`], [`NatsCoreSpec`], [`FedSpec`], [`LettersSpec`]) that opens into [`Partition`]s: each is polled by the one shard thread that owns it and writes rows
//! straight into that shard's open micro-batch. A *sink* is an [`Encoder`] (rows to bytes) and a
//! [`Writer`] (bytes to the target, on the sink's own thread); the null sink is a [`Checksum`], and an [`OutletSink`] hands rows
//! to a process.
//!
//! A source says by [`Replay`] whether it can continue from a checkpoint, a sink by [`Promise`] what a recovery does to
//! its output; one that comes only once is read through a [`Journal`]. How rows are shown exactly once stands in [`Writer`]'s module.
//!
//! Rows that are written into batches whose rows carry tags can be traced to their records ([`Places`]).
//!
//! Guarantees: no call blocks the thread that polls (FIFOs, standard input, sockets and requests are read by threads of their own);
//! steady-state polling and encoding allocate nothing; no input can cause a panic; every record of the input becomes
//! exactly one row or one [`DeadLetter`].
//!
//! It does not know windows, rings or configuration files.

mod backoff;
mod courier;
mod dead_letter;
mod disk;
mod error;
mod event_types;
mod fed;
mod field;
mod fields;
mod file;
mod formats;
mod generator;
mod headers;
mod host;
mod http;
mod journal;
mod kafka;
mod letters;
mod lock;
#[cfg(any(feature = "http", feature = "kafka", feature = "mqtt", feature = "nats"))]
mod message;
#[cfg(test)]
mod model_tests;
mod mqtt;
mod nats;
mod null;
pub mod open_loop;
mod outlet;
mod pace;
#[cfg(any(feature = "http", feature = "mqtt"))]
mod parcel;
mod partition;
mod places;
mod postgres;
mod secret;
mod socket;
mod sqlite;
mod staging;
mod stdin;
mod stdout;
#[cfg(test)]
mod testing;
mod text;
#[cfg(any(feature = "http", feature = "mqtt", feature = "nats", feature = "postgres"))]
mod tls;
mod user_mask;
mod writer;

pub use dead_letter::{DeadLetter, DeadLetters, dead_letter_schema};
pub use error::{ConnectError, Fault};
pub use event_types::{EventType, EventTypes, TypePlace};
pub use fed::{Fed, FedSpec, Feed, FeedPlace, POSITION_BYTES_MAX};
pub use field::{FieldSpec, schema_of};
pub use fields::Fields;
pub use file::{FileSink, FileSpec, Order, Rolling};
pub use formats::{
    AvroOutput, AvroSchema, AvroSpec, BinaryFormat, Compression, Encoder, FieldMisfit, FileFormat, Format,
    MessageFormat, MessageOutput, OutputFormat, ProtobufOutput, ProtobufSchema, ProtobufSpec, ProtobufTarget,
    ProtobufTypes, RegistrySpec, Within, encoder, letter_encoder, raw_misfits, write_timestamp,
};
pub use generator::{GeneratorSpec, Shape};
pub use headers::{HeaderColumn, HeaderField};
pub use http::{HttpBody, HttpMethod, HttpProxy, HttpSink, HttpSpec, OnRefused, TokenPlace};
pub use journal::{Journal, OnWait};
pub use kafka::{KafkaGroup, KafkaMembership, KafkaShare, KafkaSink, KafkaSpec, KafkaStart, MessageFields};
pub use letters::{
    Letter, LetterFilter, LetterForm, LetterId, LetterStore, LettersSpec, TakenLetters, for_each_letter,
    staged_without_letters, take_out,
};
pub use mqtt::{Broker, MqttQuality, MqttSink, MqttSpec, MqttVersion};
pub use nats::{NatsCoreSink, NatsCoreSpec, NatsFields, NatsLogin, NatsServers, NatsSink, NatsSpec, NatsStart};
pub use null::Checksum;
pub use outlet::{Outlet, OutletSink, Rejection};
pub use partition::{FileIdentity, Partition, Partitions, Poll, PollContext, Position, Replay, Resume, Share, Waker};
pub use places::{LookUp, Origin, Places, Trace, Tried};
pub use postgres::{PostgresSink, Tls, WriteMode};
pub use secret::Secret;
pub use socket::{Address, SocketSpec};
pub use sqlite::SqliteSink;
pub use staging::{Commits, Sealed, StagePoints, StagingLog, new_writer_name};
pub use stdin::StdinSpec;
pub use stdout::StdoutSink;
pub use user_mask::{create_output, create_output_folder, set_user_mask, user_mask};
pub use writer::{Promise, Transactions, Writer};

/// Longest record that a text source takes, unless its spec says otherwise.
pub const RECORD_BYTES_MAX: usize = 1 << 20;
