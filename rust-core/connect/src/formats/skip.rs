//! Getting to the end of a record of which only the end matters.

use memchr::{memchr, memchr3};
use serde::{Deserialize, Serialize};

use super::Format;

/// A place within a record: what has to be known of the bytes before it to find the record's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Within {
    /// JSON and raw: within a line
    Line,
    /// CSV: where a value begins
    ValueStart,
    /// CSV: within a value that is not, or no longer, in quotes
    Value,
    /// CSV: within quotes
    Quotes,
    /// CSV: behind a quote that was within quotes
    Quote,
}

impl Within {
    /// The beginning of a record.
    pub(crate) fn start(format: Format) -> Within {
        match format {
            Format::Json | Format::Raw => Within::Line,
            Format::Csv => Within::ValueStart,
        }
    }

    /// Goes through `bytes`: how many of them belong to the record, its line end included; `None`: all, and it goes on.
    pub(crate) fn pass(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut at = 0;
        while at < bytes.len() {
            let rest = &bytes[at..];
            let next = match self {
                Within::Line => memchr(b'\n', rest),
                Within::Quotes => memchr(b'"', rest),
                Within::Value => memchr3(b',', b'\n', b'\r', rest),
                Within::ValueStart | Within::Quote => Some(0),
            };
            at += next? + 1;
            *self = match (*self, bytes[at - 1]) {
                (Within::Line, _) => return Some(at),
                (Within::Quotes, _) => Within::Quote,
                (_, b'\n' | b'\r') => return Some(at),
                (_, b',') => Within::ValueStart,
                (Within::ValueStart | Within::Quote, b'"') => Within::Quotes,
                _ => Within::Value,
            };
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// However the bytes are cut, the end is where csv-core finds it.
        #[test]
        fn a_csv_record_ends_where_the_reader_says(
            bytes in prop::collection::vec(prop::sample::select(b"\",\n\rab".to_vec()), 1..40),
            cut in 0_usize..40,
        ) {
            prop_assume!(!matches!(bytes[0], b'\n' | b'\r'));
            let (mut text, mut ends) = ([0; 64], [0; 64]);
            let mut reader = csv_core::Reader::new();
            let (result, read, _, _) = reader.read_record(&bytes, &mut text, &mut ends);
            let expected = (result == csv_core::ReadRecordResult::Record).then_some(read);
            let (first, second) = bytes.split_at(cut.min(bytes.len()));
            let mut within = Within::start(Format::Csv);
            let found = within.pass(first).or_else(|| within.pass(second).map(|read| first.len() + read));
            assert_eq!(found, expected, "{:?}", String::from_utf8_lossy(&bytes));
        }
    }

    #[test]
    fn a_json_record_is_a_line() {
        let mut within = Within::start(Format::Json);
        assert_eq!(within.pass(b"{\"a\":\",\r"), None);
        assert_eq!(within.pass(b"\"}\n{}\n"), Some(3));
    }
}
