//! A message as a record.

use crate::formats::{Decoder, Records, Stop};

/// Makes a row or a dead letter of a message; `None`: there is nothing in it. `false`: it does not fit into what is left of
/// the batch.
pub(crate) fn take_message(
    line: Option<&[u8]>,
    record_bytes_max: usize,
    decoder: &mut Decoder,
    records: &mut Records<'_, '_>,
) -> bool {
    let before = records.consumed;
    let stop = match line {
        None => Stop::NeedMore,
        Some(line) if line.len() > record_bytes_max => {
            records.too_long(0, line, record_bytes_max);
            Stop::NeedMore
        }
        Some(line) => decoder.decode(line, true, records).stop,
    };
    if records.consumed == before {
        if stop == Stop::Full {
            return false;
        }
        records.row.reason.clear();
        records.row.reason.push_str("the message is empty");
        records.bury(0, b"");
    }
    true
}
