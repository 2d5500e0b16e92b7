//! Records that could not become rows.

use std::sync::Arc;

use ringmill_wire::{DataType, Field, Schema};

/// One record that did not parse or did not fit the schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeadLetter<'a> {
    /// the partition that it came from
    pub partition: &'a str,
    /// where it starts, in bytes of the decompressed content
    pub offset: u64,
    /// what is wrong with it: field, expected, got
    pub reason: &'a str,
    /// its bytes; of a record that is too long, the first ones
    pub record: &'a [u8],
    /// the header by which it is read, if its format has one
    pub header: Option<&'a str>,
    /// how often it was read, if more than once
    pub attempts: Option<u32>,
}

/// Takes dead letters from a partition. A partition consumes no record while there is no room.
pub trait DeadLetters {
    /// Whether one more letter can be taken.
    fn has_room(&self) -> bool;
    /// Takes a letter; called only after [`has_room`](DeadLetters::has_room) said so.
    fn push(&mut self, letter: &DeadLetter<'_>);
}

/// The columns of every `NAME.dead_letters` stream: `origin`, `reason` (of a function's row the exception, or how the
/// worker died of it), `detail` (the traceback), `partition`, `offset`, `record` (the bytes, if they are valid UTF-8; of a
/// function's row its columns as JSON), `record_bytes` (otherwise), `attempts` (how often the function was given the
/// row, or the record was read if more than once) and `header` (by which a record is read, if its format has one); of a
/// function's row also `key` (its key's columns as JSON), and where it came straight from a source `source`,
/// `original` (the record that it was made of, if it is valid UTF-8), `original_bytes` (otherwise) and `original_missing`
/// (why it cannot be read any more).
pub fn dead_letter_schema() -> Arc<Schema> {
    let field = |name: &str, data_type, nullable| Field { name: name.to_owned(), data_type, nullable };
    let fields = vec![
        field("origin", DataType::Utf8, false),
        field("reason", DataType::Utf8, false),
        field("detail", DataType::Utf8, true),
        field("partition", DataType::Utf8, true),
        field("offset", DataType::UInt64, true),
        field("record", DataType::Utf8, true),
        field("record_bytes", DataType::Binary, true),
        field("attempts", DataType::UInt32, true),
        field("key", DataType::Utf8, true),
        field("source", DataType::Utf8, true),
        field("original", DataType::Utf8, true),
        field("original_bytes", DataType::Binary, true),
        field("original_missing", DataType::Utf8, true),
        field("header", DataType::Utf8, true),
    ];
    Arc::new(Schema::new(fields).expect("the names are distinct"))
}
