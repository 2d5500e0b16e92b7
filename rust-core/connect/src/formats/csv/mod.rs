//! CSV with a header (RFC 4180).
//!
//! The header maps columns to declared fields by name; other columns are ignored. Quoted values may contain line ends.
//! An empty value is null in a nullable column, and empty text in a utf8 or binary column that is not.

mod decode;
mod encode;
#[cfg(test)]
mod tests;

pub(crate) use decode::CsvDecoder;
pub(super) use encode::CsvEncoder;
