//! Messages as a broker would hand them out, and as a sink writes them.

use serde_json::Value;

use super::{RandomRow, all_kinds, batch_of, decode_each};
use crate::{
    ConnectError, Encoder, FieldSpec, Format, MessageOutput, PollContext, encoder,
    formats::{BinaryDecoder, BinaryFormat, Decoder, Records, Scratch, Taken},
    schema_of,
    testing::{Letter, Letters, batch},
};

/// What the broker says of a message, and the message.
pub type Message<'a> = (&'a [u8], &'a [u8]);

/// The rows of these messages as NDJSON, and the dead letters.
pub fn decode(
    mut decoder: BinaryDecoder,
    fields: &[FieldSpec],
    messages: &[Message<'_>],
) -> Result<(String, Vec<Letter>), ConnectError> {
    let schema = schema_of(fields)?;
    let mut encoder = encoder(Format::Json, &schema)?;
    let (mut out, mut letters, mut scratch) = (Vec::new(), Letters::default(), Scratch::default());
    for (header, message) in messages {
        // So small that some messages must wait for the next batch.
        let mut batch = batch(&schema, 2, 1 << 12);
        let mut context =
            PollContext { now_ns: 0, event_time: None, event_time_max_ns: i64::MAX, dead: &mut letters, rows_max: 9 };
        let mut records = Records::new(batch.writer(), &mut context, "t/0", fields, &mut scratch, 9);
        assert_eq!(decoder.decode(header, message, &mut records)?, Taken::Whole);
        assert_eq!(records.consumed, 1, "a message is one row or one dead letter");
        encoder.encode(&batch.view(), 0..batch.rows() as usize, &mut out);
    }
    Ok((String::from_utf8(out).unwrap(), letters.taken))
}

/// A column of every kind, nullable, each with a name that the field of a schema can have.
pub fn columns() -> Vec<FieldSpec> {
    let mut columns = all_kinds(Format::Json);
    columns.iter_mut().for_each(|field| field.name.retain(|letter| letter.is_ascii_alphanumeric()));
    columns
}

/// Rows of these columns as JSON and as messages, without those with a value of `refused` that the format has no number for.
pub fn written(
    output: &MessageOutput,
    columns: &[FieldSpec],
    rows: &[RandomRow],
    refused: &str,
) -> (Vec<Value>, Vec<Vec<u8>>) {
    let schema = schema_of(columns).unwrap();
    let batch = batch_of(&schema, rows);
    let (mut json, mut other) = (encoder(Format::Json, &schema).unwrap(), output.encoder(&schema, &[]).unwrap());
    let (mut values, mut messages) = (Vec::new(), Vec::new());
    for row in 0..rows.len() {
        if let Err(error) = other.check(&batch.view(), row..row + 1) {
            assert!(error.to_string().contains(&format!("column {refused:?} has ")), "{error}");
            continue;
        }
        let encoded = |encoder: &mut Box<dyn Encoder>| {
            let mut out = Vec::new();
            encoder.encode(&batch.view(), row..row + 1, &mut out);
            out
        };
        values.push(serde_json::from_slice(&encoded(&mut json)).unwrap());
        messages.push(encoded(&mut other));
    }
    (values, messages)
}

/// The messages of these lines of JSON, or why a row is refused.
pub fn written_of(output: &MessageOutput, columns: &[FieldSpec], lines: &str) -> Vec<Result<Vec<u8>, String>> {
    let mut encoder = output.encoder(&schema_of(columns).unwrap(), &[]).unwrap();
    let decoder = Decoder::new(Format::Json, &columns.to_vec().into(), 1 << 20).unwrap();
    let mut messages = Vec::new();
    let letters = decode_each(decoder, columns, lines.as_bytes(), usize::MAX, 100, |view| {
        for row in 0..view.rows() {
            let mut message = Vec::new();
            messages.push(encoder.check(view, row..row + 1).map_err(|error| error.to_string()).map(|()| {
                encoder.encode(view, row..row + 1, &mut message);
                message
            }));
        }
    });
    assert_eq!(letters, []);
    messages
}

/// What our own reader makes of messages.
pub fn read_back(format: &BinaryFormat, columns: &[FieldSpec], messages: &[Vec<u8>]) -> Vec<Value> {
    let decoder = BinaryDecoder::new(format, &columns.to_vec().into(), &[], 1 << 20).unwrap();
    let messages: Vec<Message<'_>> = messages.iter().map(|message| (&b""[..], &message[..])).collect();
    let (rows, letters) = decode(decoder, columns, &messages).unwrap();
    assert_eq!(letters, []);
    rows.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}
