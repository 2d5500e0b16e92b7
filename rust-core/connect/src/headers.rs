//! Headers of messages, by their names.

/// A field that takes the value of a message's last header of this name; null where there is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderField {
    /// the field
    pub field: String,
    /// the header's name
    pub header: String,
}

/// A header of a sink's messages; a message has it where the column is not null.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderColumn {
    /// its name
    pub name: String,
    /// the column with its values
    pub column: String,
}

/// By which the headers of staged rows are told from others; 0: there are none.
#[cfg(any(feature = "kafka", feature = "nats"))]
pub(crate) fn terms(headers: &[HeaderColumn]) -> u32 {
    let add = |terms, text: &str| crc32c::crc32c_append(crc32c::crc32c_append(terms, text.as_bytes()), b"\0");
    headers.iter().fold(0, |terms, HeaderColumn { name, column }| add(add(terms, name), column))
}
