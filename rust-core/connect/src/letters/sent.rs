//! Rows as a sink has sent them, in its letters.
//!
//! A letter's header says what its record is: JSON has none; that of CSV is the line above it, with its line end; that of a
//! raw value is the object of the columns that stood beside it. So a letter is read as it was written, also when the sink
//! writes something else by now.

use std::collections::BTreeMap;

use serde::de::IgnoredAny;

use super::source::decode_text;
use crate::{
    BinaryFormat, ConnectError, Fields, Format,
    formats::{BinaryDecoder, Decoder, Records, Taken},
};

/// No row that was sent is longer.
const BYTES_MAX: usize = u32::MAX as usize;

/// What a row was sent as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sent<'a> {
    /// an object of its columns
    Json,
    /// a record of CSV, below this header
    Csv(&'a str),
    /// the value of one column, beside this object of the others, if there are any
    Raw(Option<&'a str>),
}

impl<'a> Sent<'a> {
    /// The letter's header.
    pub fn header(self) -> Option<&'a str> {
        match self {
            Sent::Json => None,
            Sent::Csv(header) => Some(header),
            Sent::Raw(beside) => Some(beside.unwrap_or("{}")),
        }
    }

    /// What a letter with this header holds.
    fn of(header: Option<&str>) -> Sent<'_> {
        match header {
            None => Sent::Json,
            Some(header) if header.ends_with('\n') => Sent::Csv(header),
            Some(header) => Sent::Raw(Some(header)),
        }
    }
}

/// Reads such rows.
pub(super) struct SentDecoder {
    fields: Fields,
    decoder: Current,
}

/// The decoder of the last letter.
#[expect(clippy::large_enum_variant, reason = "there is one, and it is not moved about")]
enum Current {
    Text(Format, Decoder),
    /// with the columns that stood beside it
    Raw(Vec<String>, BinaryDecoder),
}

impl SentDecoder {
    pub fn new(fields: &Fields) -> Result<SentDecoder, ConnectError> {
        let decoder = Current::text(Format::Json, fields)?;
        Ok(SentDecoder { fields: fields.clone(), decoder })
    }

    /// Gets ready for a letter with this header, if it has one.
    pub fn begin(&mut self, header: Option<&str>, origin: &str) -> Result<(), ConnectError> {
        match Sent::of(header) {
            Sent::Json => self.text(Format::Json)?.restart(true),
            Sent::Csv(header) => {
                let decoder = self.text(Format::Csv)?;
                decoder.restart(true);
                decoder.take_header(header.as_bytes(), true, origin)?;
            }
            Sent::Raw(beside) => self.raw(beside.unwrap_or("{}"))?,
        }
        Ok(())
    }

    pub fn decode(
        &mut self,
        header: Option<&str>,
        record: &[u8],
        records: &mut Records<'_, '_>,
    ) -> Result<Taken, ConnectError> {
        match &mut self.decoder {
            Current::Text(_, decoder) => Ok(decode_text(decoder, record, records)),
            Current::Raw(_, decoder) => decoder.decode(header.unwrap_or("{}").as_bytes(), record, records),
        }
    }

    fn text(&mut self, wanted: Format) -> Result<&mut Decoder, ConnectError> {
        if !matches!(&self.decoder, Current::Text(format, _) if *format == wanted) {
            self.decoder = Current::text(wanted, &self.fields)?;
        }
        match &mut self.decoder {
            Current::Text(_, decoder) => Ok(decoder),
            Current::Raw(..) => Err(ConnectError::Schema("it is no text".to_owned())),
        }
    }

    fn raw(&mut self, beside: &str) -> Result<(), ConnectError> {
        let members: BTreeMap<String, IgnoredAny> = serde_json::from_str(beside)
            .map_err(|error| ConnectError::Schema(format!("what stood beside it is no JSON object: {error}")))?;
        let members: Vec<String> = members.into_keys().collect();
        if !matches!(&self.decoder, Current::Raw(known, _) if *known == members) {
            let names: Vec<&str> = members.iter().map(String::as_str).collect();
            let mut decoder = BinaryDecoder::new(&BinaryFormat::Raw, &self.fields, &names, BYTES_MAX)?;
            decoder.read_letters();
            self.decoder = Current::Raw(members, decoder);
        }
        Ok(())
    }
}

impl Current {
    fn text(format: Format, fields: &Fields) -> Result<Current, ConnectError> {
        let mut decoder = Decoder::new(format, fields, BYTES_MAX)?;
        decoder.read_sent_letters();
        Ok(Current::Text(format, decoder))
    }
}
