//! Messages as a broker would hand them out.

use crate::{
    ConnectError, FieldSpec, Format, PollContext, encoder,
    formats::{BinaryDecoder, Records, Scratch, Taken},
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
