//! A broker's message as a line of NDJSON.

use base64::{Engine, engine::general_purpose::STANDARD};

use crate::formats::write_string;

/// What a broker says of a message besides its payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Member<'a> {
    Null,
    Number(i64),
    /// is UTF-8, or makes the line one that is not valid JSON
    Text(&'a [u8]),
    /// written in base64
    Bytes(&'a [u8]),
}

impl<'a> Member<'a> {
    /// What may not be there, for a column that is binary or of text.
    #[cfg(any(feature = "kafka", feature = "mqtt", feature = "nats"))]
    pub fn of(value: Option<&'a [u8]>, is_binary: bool) -> Member<'a> {
        match value {
            None => Member::Null,
            Some(value) if is_binary => Member::Bytes(value),
            Some(value) => Member::Text(value),
        }
    }
}

/// Appends a message's payload as one line, with these as the last members. A payload that is no object gets none: it
/// becomes a dead letter as it is.
pub(crate) fn write_line<'a>(
    payload: &[u8],
    members: impl IntoIterator<Item = (&'a str, Member<'a>)>,
    out: &mut Vec<u8>,
) {
    let from = out.len();
    let payload = payload.trim_ascii();
    out.extend_from_slice(payload);
    if let [b'{', inner @ .., b'}'] = payload {
        let mut is_first = inner.trim_ascii().is_empty();
        out.pop();
        for (name, member) in members {
            if !is_first {
                out.push(b',');
            }
            is_first = false;
            write_string(name.as_bytes(), out);
            out.push(b':');
            write_member(member, out);
        }
        out.push(b'}');
    }
    // Between values a carriage return is white space as a line feed is; within a text JSON allows neither.
    out[from..].iter_mut().filter(|byte| **byte == b'\n').for_each(|byte| *byte = b'\r');
    out.push(b'\n');
}

fn write_member(member: Member<'_>, out: &mut Vec<u8>) {
    match member {
        Member::Null => out.extend_from_slice(b"null"),
        Member::Number(value) => out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes()),
        Member::Text(text) => write_string(text, out),
        Member::Bytes(bytes) => write_string(STANDARD.encode(bytes).as_bytes(), out),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(payload: &str, members: &[(&str, Member<'_>)]) -> String {
        let mut out = b"before\n".to_vec();
        write_line(payload.as_bytes(), members.iter().copied(), &mut out);
        String::from_utf8(out).unwrap().strip_prefix("before\n").unwrap().to_owned()
    }

    #[test]
    fn a_message_is_one_line_whatever_is_in_it() {
        assert_eq!(written("{\"a\":1}", &[]), "{\"a\":1}\n");
        assert_eq!(written(" {\n  \"a\": 1\n}\n", &[]), "{\r  \"a\": 1\r}\n");
        let line = written("{\n \"a\": \"x\n\"}", &[]);
        assert_eq!(line, "{\r \"a\": \"x\r\"}\n");
        assert!(serde_json::from_str::<serde_json::Value>(&line).is_err(), "a line end within a text stays forbidden");
    }

    #[test]
    fn what_a_broker_says_becomes_the_last_members_of_an_object() {
        let topic = [("topic", Member::Text(b"plant/\"7\"/x"))];
        for (payload, expected) in [
            ("{\"a\":1}", "{\"a\":1,\"topic\":\"plant/\\\"7\\\"/x\"}\n"),
            ("{ }", "{ \"topic\":\"plant/\\\"7\\\"/x\"}\n"),
            ("[1]", "[1]\n"),
            ("7", "7\n"),
            ("{", "{\n"),
            ("}", "}\n"),
        ] {
            assert_eq!(written(payload, &topic), expected);
        }
        let all = [("a", Member::Null), ("b", Member::Number(-7)), ("c", Member::Bytes(b"\xff\x00"))];
        assert_eq!(written("{}", &all), "{\"a\":null,\"b\":-7,\"c\":\"/wA=\"}\n");
    }

    #[test]
    fn what_is_no_object_does_not_become_one_by_its_members() {
        for payload in
            ["{\"a\":1,}", "{,}", "{\"a\":{\"b\":1}", "{\"a\":\"x}", "{\"a\":{\"b\":\"}", "{}{}", "{\"a\"}", "{\"a\":}"]
        {
            assert!(serde_json::from_str::<serde_json::Value>(payload).is_err());
            let line = written(payload, &[("topic", Member::Text(b"t"))]);
            assert!(serde_json::from_str::<serde_json::Value>(&line).is_err(), "{line}");
        }
    }
}
