//! Messages to rows.

use std::{fmt::Write, sync::Arc};

use apache_avro::schema::Schema;

use super::{
    AvroSpec, FieldMisfit,
    program::{Program, Unread},
    wire::Bytes,
};
use crate::{
    ConnectError, FieldSpec,
    formats::{
        Records, Stop, TOO_LONG,
        column::{Column, Refusal, Row},
        json::JsonDecoder,
        paths::Paths,
    },
};

/// Of the single-object encoding.
const MARKER: [u8; 2] = [0xc3, 0x01];

/// Decodes messages, and the JSON object with what the broker says of each.
#[derive(Debug, Clone)]
pub(crate) struct AvroDecoder {
    program: Arc<Program>,
    /// what a message begins with
    prefix: Box<[u8]>,
    /// for the fields that take what stands beside a message
    members: Option<JsonDecoder>,
    record_bytes_max: usize,
}

impl AvroDecoder {
    /// `members`: the fields that take what stands beside a message.
    pub fn new(
        spec: &AvroSpec,
        fields: &[FieldSpec],
        members: &[&str],
        record_bytes_max: usize,
    ) -> Result<AvroDecoder, ConnectError> {
        let program = compile(spec.schema().parsed(), fields, members);
        let program = program.map_err(|misfits| ConnectError::Misfit { misfits })?;
        let beside = fields.iter().enumerate().filter(|(_, field)| members.contains(&field.name.as_str()));
        let prefix = match spec {
            AvroSpec::Datum(_) => Vec::new(),
            AvroSpec::SingleObject(schema) => [&MARKER[..], &schema.fingerprint()].concat(),
        };
        Ok(AvroDecoder {
            program: Arc::new(program),
            prefix: prefix.into(),
            members: if members.is_empty() { None } else { Some(JsonDecoder::of(beside, record_bytes_max)?) },
            record_bytes_max,
        })
    }

    /// Makes a row or a dead letter of a message; `header` is the JSON object with what the broker says of it, or empty.
    pub fn decode(&mut self, header: &[u8], message: &[u8], records: &mut Records<'_, '_>) -> Result<(), Stop> {
        records.admit()?;
        let shown = String::from_utf8_lossy(header);
        let shown = Some(&*shown).filter(|header| !header.is_empty());
        if message.len() > self.record_bytes_max {
            let max = self.record_bytes_max;
            records.refuse(&format!("{TOO_LONG} ({max} bytes)"), &message[..max], shown);
            return Ok(());
        }
        let outcome = self.fill(header, message, &mut records.row);
        records.end_with(outcome, 0, message, shown)
    }

    fn fill(&mut self, header: &[u8], message: &[u8], row: &mut Row<'_>) -> Result<(), Refusal> {
        if let Some(members) = &mut self.members {
            members.fill(header, row)?;
        }
        let Some(datum) = message.strip_prefix(&*self.prefix) else {
            row.reason.clear();
            let _ = match message.strip_prefix(&MARKER).and_then(|rest| rest.first_chunk::<8>()) {
                Some(other) => {
                    let expected = self.prefix.iter().skip(MARKER.len());
                    write!(row.reason, "its schema has the fingerprint {}", Hexadecimal(other.iter()))
                        .and_then(|()| write!(row.reason, ", and the one that is known {}", Hexadecimal(expected)))
                }
                None => write!(row.reason, "it is not in Avro's single-object encoding, which begins with C3 01"),
            };
            return Err(Refusal::Misfit);
        };
        let mut bytes = Bytes::new(datum);
        let before = self.prefix.len();
        match self.program.run(&mut bytes, row) {
            Ok(()) if bytes.left() == 0 => Ok(()),
            Ok(()) => {
                row.reason.clear();
                let _ = write!(row.reason, "{} bytes follow the datum at byte {}", bytes.left(), before + bytes.at());
                Err(Refusal::Misfit)
            }
            Err(Unread::Broken(broken)) => {
                row.reason.clear();
                let at = before + bytes.at();
                let _ = write!(row.reason, "not valid Avro of this schema at byte {at}: {}", broken.what());
                Err(Refusal::Misfit)
            }
            Err(Unread::Refused(refusal)) => Err(refusal),
        }
    }
}

/// A schema's program for these fields, of which `members` are not in messages.
pub(super) fn compile(schema: &Schema, fields: &[FieldSpec], members: &[&str]) -> Result<Program, Vec<FieldMisfit>> {
    let within: Vec<(usize, &FieldSpec)> =
        fields.iter().enumerate().filter(|(_, field)| !members.contains(&field.name.as_str())).collect();
    let columns: Vec<Column> = within.iter().map(|(index, field)| Column::new(*index, field)).collect();
    let places = within.iter().enumerate().map(|(place, (_, field))| (place, *field));
    let paths = Paths::new(places).map_err(|error| vec![FieldMisfit::of_schema(error.to_string())])?;
    Program::new(schema, &paths, &columns)
}

/// Bytes in hexadecimal.
struct Hexadecimal<I>(I);

impl<'a, I: Iterator<Item = &'a u8> + Clone> std::fmt::Display for Hexadecimal<I> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.clone().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}
