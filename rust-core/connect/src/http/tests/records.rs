//! Arrays and lines, against what `serde_json` makes of them.

use proptest::prelude::*;
use serde_json::Value;

use crate::http::records::{elements, lines};

fn split(body: &str) -> Result<(u64, String), String> {
    let mut bytes = body.as_bytes().to_vec();
    let count = elements(&mut bytes).map_err(|error| error.to_string())?;
    Ok((count, String::from_utf8(bytes).unwrap()))
}

#[test]
fn elements_become_lines() {
    for (body, count, text) in [
        ("[]", 0, " \n"),
        (" [ \n ] \r\n", 0, "     \n"),
        ("[1,\"a\"]", 2, " 1\n\"a\"\n"),
        ("[{\"a\":[1,2]},{\"b\":\"],\"}]", 2, " {\"a\":[1,2]}\n{\"b\":\"],\"}\n"),
        ("[\n  {\n    \"a\": 1\n  },\n  {}\n]\n", 2, "    {     \"a\": 1   }\n   {} \n"),
        ("{\"a\":\n1}\n", 1, "{\"a\": 1}\n"),
        ("\u{feff}[{}]", 1, "    {}\n"),
        (r#"["\\","\"",","]"#, 3, " \"\\\\\"\n\"\\\"\"\n\",\"\n"),
        // What is no JSON within an element is the decoder's.
        ("[tru, {a:1}, {\"a\":1], 1 2]", 4, " tru\n {a:1}\n {\"a\":1]\n 1 2\n"),
    ] {
        let (found, lines) = split(body).unwrap_or_else(|error| panic!("{body}: {error}"));
        assert_eq!((found, lines.as_str()), (count, text), "{body:?}");
    }
}

#[test]
fn what_is_no_array_as_a_whole_is_refused() {
    for (body, problem) in [
        ("", "nothing at byte 0"),
        (" \n", "nothing at byte 2"),
        ("5", "another value at byte 0"),
        ("\"[]\"", "another value at byte 0"),
        ("[{\"a\":1}", "it breaks off at byte 8"),
        ("[{\"a\":1},", "it breaks off at byte 9"),
        ("{\"a\":1", "it breaks off at byte 6"),
        ("[{\"a\":\"b", "it breaks off within a string at byte 8"),
        ("[\"a\\", "it breaks off within a string at byte 4"),
        ("[\"a\\\"]", "it breaks off within a string at byte 6"),
        ("[\"a\nb\"]", "a line break in a string at byte 3"),
        ("[\"a\\\nb\"]", "a line break in a string at byte 4"),
        ("[,]", "an element is missing at byte 1"),
        ("[1,,2]", "an element is missing at byte 3"),
        ("[1,]", "an element is missing at byte 3"),
        ("[1}", "a bracket of the other kind at byte 2"),
        ("{\"a\":1]", "a bracket of the other kind at byte 6"),
        ("[1] 2", "something follows it (lines are sent as application/x-ndjson) at byte 4"),
        ("{}\n{}", "something follows it (lines are sent as application/x-ndjson) at byte 3"),
    ] {
        assert_eq!(split(body).unwrap_err(), format!("not a JSON array or object: {problem}"), "{body:?}");
    }
}

#[test]
fn lines_are_counted_as_the_decoder_does() {
    for (body, count) in
        [("", 0), ("\n \t\r\n", 0), ("{}", 1), ("{}\n{}\n", 2), ("{}\r\n\r\n{}", 2), ("\u{feff}{}\n", 1)]
    {
        let mut bytes = body.as_bytes().to_vec();
        assert_eq!(lines(&mut bytes), count, "{body:?}");
        assert!(bytes.is_empty() || bytes.ends_with(b"\n"));
    }
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "[\\[\\]{}\",:\\\\ \n\ra-c\u{e4}]{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 40, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::btree_map("[a-c\"\\\\\n]{0,3}", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn any_array_gives_its_elements_in_order(values in prop::collection::vec(value(), 0..8), is_pretty: bool) {
        let text = if is_pretty { serde_json::to_string_pretty(&values) } else { serde_json::to_string(&values) };
        let (count, lines) = split(&text.unwrap()).unwrap();
        let found = lines.lines().filter(|line| !line.trim().is_empty()).map(serde_json::from_str::<Value>);
        prop_assert_eq!(found.collect::<Result<Vec<_>, _>>().unwrap(), values.clone());
        prop_assert_eq!(count, values.len() as u64);
    }

    #[test]
    fn no_array_that_was_cut_is_taken(values in prop::collection::vec(value(), 0..8), share in 0..100_usize) {
        let text = serde_json::to_string(&values).unwrap();
        let bytes = &text.as_bytes()[..text.len() * share / 100];
        prop_assert!(elements(&mut bytes.to_vec()).is_err());
    }

    #[test]
    fn bytes_of_any_kind_give_as_many_lines_as_they_say(bytes in prop::collection::vec(
        prop_oneof![Just(b'['), Just(b']'), Just(b'{'), Just(b'}'), Just(b'"'), Just(b'\\'), Just(b','), Just(b'\n'), Just(b'1'), any::<u8>()],
        0..60,
    )) {
        let mut body = [b"[", &bytes[..], b"]"].concat();
        if let Ok(count) = elements(&mut body) {
            let records = lines(&mut body.clone());
            prop_assert_eq!(count, records, "{:?}", body.escape_ascii().to_string());
            prop_assert!(body.ends_with(b"\n"));
        }
    }
}
