//! A message as a line of NDJSON.

use crate::formats::write_string;

/// Appends a message's payload as one line, with its topic as a last member if a field takes it. A payload that is no
/// object gets none: it becomes a dead letter as it is.
pub fn write(payload: &[u8], topic: Option<(&str, &str)>, out: &mut Vec<u8>) {
    let from = out.len();
    let payload = payload.trim_ascii();
    match (topic, payload) {
        (Some((field, topic)), [b'{', members @ .., b'}']) => {
            out.extend_from_slice(&payload[..payload.len() - 1]);
            if !members.trim_ascii().is_empty() {
                out.push(b',');
            }
            write_string(field.as_bytes(), out);
            out.push(b':');
            write_string(topic.as_bytes(), out);
            out.push(b'}');
        }
        _ => out.extend_from_slice(payload),
    }
    // Between values a carriage return is white space as a line feed is; within a text JSON allows neither.
    out[from..].iter_mut().filter(|byte| **byte == b'\n').for_each(|byte| *byte = b'\r');
    out.push(b'\n');
}
