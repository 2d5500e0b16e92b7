//! What can be wrong with a schema, a template, or a region that another process wrote.

/// The outcome of a push that found no room: undo the row, close the batch, start the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// Why a schema, a template or a foreign region was refused. Reads well after "failed to …:".
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// A schema names a column twice.
    #[error("column `{name}` is declared twice; names must be unique")]
    DuplicateColumn {
        /// The name.
        name: String,
    },
    /// A batch must hold at least a row.
    #[error("a batch must have room for at least 1 row, but rows_max is 0")]
    NoRows,
    /// A FlatBuffer must stay below 2 GiB.
    #[error(
        "a batch region of {bytes} bytes exceeds the {limit} bytes of a FlatBuffer; lower rows_max ({rows_max}) or variable_bytes_max ({variable_bytes_max})"
    )]
    RegionTooLarge {
        /// What the region would take.
        bytes: u64,
        /// The most there may be.
        limit: u64,
        /// As asked for.
        rows_max: u32,
        /// As asked for.
        variable_bytes_max: u32,
    },
    /// The batch to copy into was made with another template.
    #[error("copy into a batch of template {found:016x}: expected template {expected:016x}")]
    OtherTemplate {
        /// Hash of the template that reads.
        expected: u64,
        /// Hash of the template of the batch to copy into.
        found: u64,
    },
    /// The bytes are no FlatBuffer of a micro-batch.
    #[error("read a micro-batch: {reason}")]
    NoBatch {
        /// What is wrong with them.
        reason: String,
    },
    /// A batch has fewer or more columns than its schema.
    #[error("read a batch of {found} columns: its schema has {expected}")]
    WrongColumns {
        /// Of the schema.
        expected: usize,
        /// Found.
        found: usize,
    },
    /// The columns of a batch have more bytes than the batch.
    #[error("read a batch of {found} bytes: its columns have {bytes}, and no two may share some")]
    SharedBytes {
        /// Of the batch.
        found: usize,
        /// Of all of its vectors.
        bytes: usize,
    },
    /// The region does not carry this template's schema hash.
    #[error("read a batch of schema {found:016x}: expected schema {expected:016x}")]
    OtherSchema {
        /// Hash of the template's schema.
        expected: u64,
        /// What stands in the region.
        found: u64,
    },
    /// The region claims more rows than it can hold.
    #[error("read a batch of {rows} rows: its region holds at most {rows_max}")]
    TooManyRows {
        /// Claimed.
        rows: u32,
        /// Possible.
        rows_max: u32,
    },
    /// A batch must have as many rows as the one it answers.
    #[error("read a batch of {found} rows: expected {expected}")]
    WrongRows {
        /// Asked for.
        expected: u32,
        /// Found.
        found: u32,
    },
    /// A vector's length does not fit the row count or the region.
    #[error("read column `{column}`: its {part} vector has length {found}, the rule is {rule}")]
    WrongLength {
        /// The column's name.
        column: String,
        /// `values`, `offsets` or `validity`; of a block also `rest`, what follows its last column.
        part: &'static str,
        /// The length found.
        found: u32,
        /// What it should be.
        rule: String,
    },
    /// The null count does not fit the column or its bitmap.
    #[error("read column `{column}`: null count {found}, the rule is {rule}")]
    WrongNullCount {
        /// The column's name.
        column: String,
        /// The count found.
        found: u32,
        /// What it should be.
        rule: String,
    },
    /// Offsets must start at 0, never fall, and end where the values end.
    #[error("read column `{column}`: offset {index} is {found}, the rule is {rule}")]
    WrongOffset {
        /// The column's name.
        column: String,
        /// Which offset.
        index: usize,
        /// Its value.
        found: i32,
        /// What it should be.
        rule: String,
    },
    /// A bool must be 0 or 1.
    #[error("read column `{column}`: row {row} is {found}, a bool is 0 or 1")]
    WrongBool {
        /// The column's name.
        column: String,
        /// Which row.
        row: usize,
        /// The byte found.
        found: u8,
    },
    /// Text must be UTF-8.
    #[error("read column `{column}`: row {row} is not valid UTF-8")]
    WrongUtf8 {
        /// The column's name.
        column: String,
        /// Which row.
        row: usize,
    },
}
