//! What JSON is accepted, what comes of it, and what is said about the rest.

use proptest::prelude::*;
use serde_json::Value;

use crate::{
    Fields, Format, RECORD_BYTES_MAX,
    formats::Decoder,
    testing::{self, Letter, fields},
};

fn decode(specs: &[&str], text: &[u8]) -> (String, Vec<Letter>) {
    testing::decode(Format::Json, &fields(specs), text, usize::MAX, 64, RECORD_BYTES_MAX)
}

/// The one row that `text` gives, or the reason why it gives none.
fn one(spec: &str, text: &str) -> Result<String, String> {
    let (rows, letters) = decode(&[spec], text.as_bytes());
    match letters.as_slice() {
        [] => Ok(rows.trim_end().to_owned()),
        [letter] => {
            assert_eq!(rows, "");
            assert_eq!(letter.record, text.as_bytes());
            Err(letter.reason.clone())
        }
        more => panic!("{more:?}"),
    }
}

#[test]
fn values_fit_their_types_or_the_reason_says_why() {
    let check = |spec: &str, value: &str, expect: Result<&str, &str>| {
        let found = one(spec, &format!("{{\"x\":{value}}}"));
        let expect = expect.map(|value| format!("{{\"x\":{value}}}")).map_err(|reason| format!("field \"x\"{reason}"));
        assert_eq!(found, expect, "{spec} {value}");
    };
    check("x:int8", "-128", Ok("-128"));
    check("x:int8", "128", Err(": expected int8, got 128 (out of range)"));
    check("x:uint8", "-1", Err(": expected uint8, got -1 (out of range)"));
    check("x:uint8", "-0", Ok("0"));
    check("x:int16", "32767", Ok("32767"));
    check("x:uint16", "65536", Err(": expected uint16, got 65536 (out of range)"));
    check("x:int32", "1.0", Err(": expected int32, got 1.0"));
    check("x:int32", "1e3", Err(": expected int32, got 1e3"));
    check("x:uint32", "4294967295", Ok("4294967295"));
    check("x:int64", "-9223372036854775808", Ok("-9223372036854775808"));
    check("x:int64", "9223372036854775808", Err(": expected int64, got 9223372036854775808 (out of range)"));
    check("x:int64", "-9223372036854775809", Err(": expected int64, got -9223372036854775809 (out of range)"));
    check("x:uint64", "18446744073709551615", Ok("18446744073709551615"));
    check("x:uint64", "18446744073709551616", Err(": expected uint64, got 18446744073709551616 (out of range)"));
    check("x:int64", "\"1\"", Err(": expected int64, got \"1\""));
    check("x:int64", "true", Err(": expected int64, got true"));
    check("x:int64", "[1]", Err(": expected int64, got [1]"));
    check("x:float64", "1", Ok("1.0"));
    check("x:float64", "-0.0", Ok("-0.0"));
    check("x:float64", "-0", Ok("-0.0"));
    check("x:float64", "0.1", Ok("0.1"));
    check("x:float64", "5e-324", Ok("5e-324"));
    check("x:float64", "1e-400", Ok("0.0"));
    check("x:float64", "123456789012345678901234567890", Ok("1.2345678901234568e+29"));
    check("x:float64", "9007199254740993", Ok("9007199254740992.0"));
    check("x:float64", "1e400", Err(": expected float64, got 1e400 (out of range)"));
    check("x:float64", "-1e400", Err(": expected float64, got -1e400 (out of range)"));
    check("x:float64", "{\"y\":1}", Err(": expected float64, got {\"y\":1}"));
    // A float32 is rounded once, not by way of a double.
    check("x:float32", "17005001.000000000000130", Ok("17005002.0"));
    check("x:float32", "16777217", Ok("16777216.0"));
    check("x:float32", "1e39", Err(": expected float32, got 1e39 (out of range)"));
    check("x:bool", "true", Ok("true"));
    check("x:bool", "1", Err(": expected bool, got 1"));
    check("x:utf8", "\"\"", Ok("\"\""));
    check("x:utf8", r#""a\u00e9\ud83d\ude00\n\/""#, Ok("\"aé😀\\n/\""));
    check("x:utf8", "1", Err(": expected utf8, got 1"));
    check("x:utf8", "null", Err(" is null"));
    check("x:utf8?", "null", Ok("null"));
    check("x:binary", "\"AAEC/w==\"", Ok("\"AAEC/w==\""));
    check("x:binary", "\"AAE\"", Err(": expected binary, got \"AAE\" (binary is written in base64)"));
    check("x:timestamp[ms]", "\"2024-02-29T12:00:00.5Z\"", Ok("\"2024-02-29T12:00:00.500Z\""));
    check("x:timestamp[ms]", "1709208000500", Ok("\"2024-02-29T12:00:00.500Z\""));
    check("x:timestamp[ns]", "\"1970-01-01T01:00:00.000000001+01:00\"", Ok("\"1970-01-01T00:00:00.000000001Z\""));
    check(
        "x:timestamp[ns]",
        "\"2300-01-01T00:00:00Z\"",
        Err(": expected timestamp[ns], got \"2300-01-01T00:00:00Z\" (out of range)"),
    );
    check(
        "x:timestamp[ms]",
        "\"noon\"",
        Err(": expected timestamp[ms], got \"noon\" (neither RFC 3339 nor an integer)"),
    );
    check("x:timestamp[ms]", "1.5", Err(": expected timestamp[ms], got 1.5"));
    check("x:list[int16]", "[]", Ok("[]"));
    check("x:list[int16]", "[ 1 , -2 ]", Ok("[1,-2]"));
    check("x:list[int16]", "[1,70000]", Err(": expected list[int16], got 70000 in its array"));
    check("x:list[int16]", "[1,null,\"a\"]", Err(": expected list[int16], got null in its array"));
    check("x:list[float64]", "[1,2.5,1e300]", Ok("[1.0,2.5,1e+300]"));
    check("x:list[float32]", "[16777217]", Ok("[16777216.0]"));
    check(
        "x:list[timestamp[s]]",
        "[0,\"1970-01-01T00:00:01Z\"]",
        Ok("[\"1970-01-01T00:00:00Z\",\"1970-01-01T00:00:01Z\"]"),
    );
    check("x:list[timestamp[s]]", "[\"2026\\u002d01-05T08:00:00Z\"]", Ok("[\"2026-01-05T08:00:00Z\"]"));
    check("x:list[float64]", "1", Err(": expected list[float64], got 1"));
}

#[test]
fn long_values_are_cut_in_reasons_at_a_character() {
    let reason = one("x:int8", &format!("{{\"x\":\"{}\"}}", "é".repeat(100))).unwrap_err();
    assert_eq!(reason, format!("field \"x\": expected int8, got \"{}…", "é".repeat(31)));
}

#[test]
fn only_declared_fields_are_taken_from_where_their_paths_lead() {
    let specs = ["id:utf8", "site:utf8?@/meta/site", "second:int64?@/values/1", "odd:int8?@/a~1b"];
    let check = |text: &str, expect: Result<&str, &str>| {
        let (rows, letters) = decode(&specs, text.as_bytes());
        match expect {
            Ok(row) => assert_eq!((rows.trim_end(), letters.len()), (row, 0), "{text}"),
            Err(reason) => assert_eq!(letters[0].reason, reason, "{text}"),
        }
    };
    check(
        r#"{"x":[{"id":"no"}],"meta":{"y":{},"site":"hall"},"id":"a","values":[5,6,7],"a/b":1}"#,
        Ok(r#"{"id":"a","site":"hall","second":6,"odd":1}"#),
    );
    check(r#"{"id":"a"}"#, Ok(r#"{"id":"a","site":null,"second":null,"odd":null}"#));
    check(r#"{"id":"a","meta":null,"values":[]}"#, Ok(r#"{"id":"a","site":null,"second":null,"odd":null}"#));
    check(r#"{"id":"a","meta":[1],"values":{"1":2}}"#, Ok(r#"{"id":"a","site":null,"second":2,"odd":null}"#));
    check(r#"{"meta":{"site":"hall"}}"#, Err("field \"id\" is missing"));
    check(r#"{"i\u0064":"escaped key"}"#, Ok(r#"{"id":"escaped key","site":null,"second":null,"odd":null}"#));
}

#[test]
fn of_a_repeated_key_the_last_counts() {
    assert_eq!(one("x:int8", r#"{"x":"wrong","x":2}"#), Ok(r#"{"x":2}"#.to_owned()));
    assert_eq!(one("x:int8?@/m/x", r#"{"m":{"x":1},"m":{"y":2}}"#), Ok(r#"{"x":null}"#.to_owned()));
    assert_eq!(one("x:int8", r#"{"x":2,"x":null}"#), Err("field \"x\" is null".to_owned()));
}

#[test]
fn what_stops_early_reads_no_further_than_to_the_last_declared_value() {
    let check = |specs: &[&str], text: &[u8], expected: &str, reasons: &[&str]| {
        let decoder = Decoder::new(Format::Json, &Fields::from(fields(specs)).stop_early(), RECORD_BYTES_MAX).unwrap();
        let (rows, letters) = testing::decode_by(decoder, &fields(specs), text, usize::MAX, 64);
        let letters: Vec<&str> = letters.iter().map(|letter| letter.reason.as_str()).collect();
        assert_eq!((rows.as_str(), letters.as_slice()), (expected, reasons), "{}", String::from_utf8_lossy(text));
    };
    let x = &["x:int8"];
    // Whatever stands behind it: no JSON, no text, an earlier value of the same key that counts, the end.
    check(x, b"{\"x\":1,!\n{\"x\":2 \xff\n{\"x\":3,\"x\":4}\n{\"x\":5\n{\"x\":6}", &numbers([1, 2, 3, 5, 6]), &[]);
    // What stands before it is read as ever.
    check(x, b"{\"y\":01,\"x\":1}\n{\"x\":2}", &numbers([2]), &["not valid JSON at byte 5: Invalid number"]);
    check(
        x,
        b"{\"y\":\"\xff\",\"x\":1}\n{\"x\":2}",
        &numbers([2]),
        &["not valid JSON at byte 7: Invalid UTF-8 characters in json"],
    );
    check(
        x,
        b"{\"x\":\n1}\n{\"x\":2}",
        &numbers([2]),
        &[
            "not valid JSON at byte 5: the record ends too early",
            "not valid JSON at byte 0: a record must be an object",
        ],
    );
    check(x, b"{\"x\":1000,!\n", "", &["field \"x\": expected int8, got 1000 (out of range)"]);
    // Without a value that is declared the object is read to its end.
    let two = &["x:int8", "y:int8?@/m/y"];
    check(
        two,
        b"{\"x\":1,\"m\":{\"y\":2,!\n{\"x\":3,!\n{\"x\":4}",
        "{\"x\":1,\"y\":2}\n{\"x\":4,\"y\":null}\n",
        &["not valid JSON at byte 7: expected a key in quotes"],
    );
    // It may be left within an array, and within an object in one.
    for rest in ["2}],\"b\":3}", "!", ""] {
        let text = format!("{{\"a\":[{{\"x\":1,\"y\":{rest}\n");
        check(&["x:int8@/a/0/x"], text.as_bytes(), &numbers([1]), &[]);
        check(&["x:int8@/a/0"], format!("{{\"a\":[1,{rest}\n").as_bytes(), &numbers([1]), &[]);
    }
    // A repeated object takes back what an earlier one said.
    check(two, b"{\"m\":{\"y\":2},\"m\":{},\"x\":1,!\n", "", &["not valid JSON at byte 26: expected a key in quotes"]);
}

fn numbers<const N: usize>(numbers: [i8; N]) -> String {
    numbers.iter().map(|number| format!("{{\"x\":{number}}}\n")).collect()
}

/// In the spirit of JSONTestSuite: each as a value of an unknown field, and of a known one.
#[test]
fn grammar_is_kept_to_the_letter() {
    let valid = [
        "0",
        "-0",
        "0e1",
        "0E+1",
        "1e-2",
        "-1",
        "1.5",
        "1E5",
        "0.5e-5",
        "true",
        "null",
        "\"\"",
        r#""\"\\\/\b\f\n\r\t""#,
        r#""\u0000""#,
        r#""\uD834\uDD1E""#,
        "\"\u{7f}\"",
        "\"\u{2028}\"",
        "[]",
        "{}",
        "[ ]",
        "{ }",
        "[1 , 2]",
        "{ \"a\" : 1 }",
        "[[[]]]",
        "\t1\t",
        r#"{"a":1,"a":2}"#,
        "1e-999",
        "100000000000000000000",
    ];
    let invalid = [
        "",
        "01",
        "-01",
        "1.",
        ".5",
        "+1",
        "-",
        "--1",
        "1e",
        "1e+",
        "1.e1",
        "0x1",
        "1_000",
        "NaN",
        "Infinity",
        "-Infinity",
        "nul",
        "nulll",
        "True",
        "tru",
        "falsee",
        "'a'",
        "\"",
        "\"a",
        "a",
        "\"\\x\"",
        "\"\\u12\"",
        "\"\\u12G4\"",
        "\"\\uZZZZ\"",
        "\"\\u 123\"",
        "\"\\\"",
        "\"\t\"",
        "\"\u{0}\"",
        "[1,]",
        "[,1]",
        "[1 2]",
        "[",
        "]",
        "[1",
        "{",
        "}",
        "{\"a\"}",
        "{\"a\":}",
        "{\"a\":1,}",
        "{,\"a\":1}",
        "{a:1}",
        "{'a':1}",
        "{1:1}",
        "{\"a\":1 \"b\":2}",
        "{\"a\" 1}",
        "{\"a\"::1}",
        "1 2",
        "//c 1",
        "1/**/",
        "[1}",
        "{\"a\":[}",
        "\u{feff}1",
        "\u{a0}1",
        "\u{c}1",
        "-a",
        "1a",
        "1.2.3",
        "\\u0031",
        "[\"\\u00A\"]",
    ];
    for (documents, fine) in [(&valid[..], true), (&invalid[..], false)] {
        for value in documents {
            for key in ["x", "y"] {
                let text = format!("{{\"{key}\":{value}}}");
                let expect = serde_json::from_str::<serde::de::IgnoredAny>(&text).is_ok();
                assert_eq!(expect, fine, "serde_json on {text}");
                let syntax = one("x:utf8?", &text).err().is_some_and(|reason| reason.starts_with("not valid JSON"));
                assert_eq!(!syntax, fine, "{text}");
            }
        }
    }
}

/// Strings are looked at in blocks: whatever may stand in one is found at every place of it.
#[test]
fn what_stands_in_a_string_is_seen_wherever_it_stands() {
    let pieces: [&[u8]; 11] =
        [b"", b"\\\"", b"\\\\", b"\\u00e9", b"\\x", b"\\", b"\x1f", b"\x7f", "é".as_bytes(), b"\xff", b"\",\"b\":\""];
    for piece in pieces {
        for (before, behind) in (0..36).flat_map(|before| [0, 1, 15, 16, 17, 31].map(|behind| (before, behind))) {
            for key in ["a", "z", "\\u0061"] {
                let string = [&b"x".repeat(before), piece, &b"y".repeat(behind)].concat();
                let line = [b"{\"", key.as_bytes(), b"\":\"", &string, b"\"}"].concat();
                agrees_with_serde(&line).unwrap();
                agrees_with_serde(&[b"{\"z\":[{\"", &string[..], b"\":1}]}"].concat()).unwrap();
            }
        }
    }
}

/// A lone surrogate is within RFC 8259's grammar but is no text.
#[test]
fn what_is_no_unicode_is_refused() {
    for value in [r#""\ud800""#, r#""\udc00""#, r#""\ud800\ud800""#, r#""\ud800a""#, r#""\ud800\n""#] {
        for key in ["x", "y"] {
            let reason = one("x:utf8?", &format!("{{\"{key}\":{value}}}")).unwrap_err();
            assert!(reason.starts_with("not valid JSON"), "{reason}");
        }
    }
    for bytes in [&b"\xff"[..], b"\xc3", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf5\x80\x80\x80"] {
        for prefix in [&b"{\"x\":\""[..], b"{\"y\":\""] {
            let text = [prefix, bytes, b"\"}\n{\"x\":\"fine\"}\n"].concat();
            let (rows, letters) = decode(&["x:utf8?"], &text);
            assert_eq!(rows, "{\"x\":\"fine\"}\n");
            assert_eq!(letters.len(), 1);
            assert!(letters[0].reason.contains("UTF-8"), "{}", letters[0].reason);
        }
    }
}

#[test]
fn a_record_is_an_object_on_a_line_of_its_own() {
    let check = |text: &str, expect: &str| {
        let (rows, letters) = decode(&["x:int8?"], text.as_bytes());
        assert_eq!((rows.as_str(), letters.len()), ("", 1), "{text}");
        assert_eq!(letters[0].reason, expect, "{text}");
    };
    check("[1]", "not valid JSON at byte 0: a record must be an object");
    check("5", "not valid JSON at byte 0: a record must be an object");
    check("{} {}", "not valid JSON at byte 2: something follows the object");
    check("{}x", "not valid JSON at byte 2: something follows the object");
    check("{\"x\":1", "not valid JSON at byte 6: the record ends too early");
    let (rows, letters) = decode(&["x:int8?"], b"{\"x\":\n1}\n{\"x\":2}");
    assert_eq!(rows, "{\"x\":2}\n");
    let offsets: Vec<u64> = letters.iter().map(|letter| letter.offset).collect();
    assert_eq!(offsets, [0, 6]);
    assert!(letters[0].reason.ends_with("the record ends too early"), "{}", letters[0].reason);
}

#[test]
fn what_is_wrong_is_said_with_its_place() {
    let check = |value: &str, expect: &str| {
        for key in ["x", "y"] {
            let reason = one("x:utf8?", &format!("{{\"{key}\":{value}}}")).unwrap_err();
            assert_eq!(reason, format!("not valid JSON at byte {expect}"), "{value}");
        }
    };
    check(r#""a\x""#, "8: Invalid escape chars");
    check(r#""a\u12G4""#, "12: Invalid unicode code point");
    check(r#""\ud800a\n1234""#, "17: Invalid surrogate Unicode code point");
    check("\"a\tb\"", "6: Control character found while parsing a string");
    check("\"abc", "9: EOF while parsing");
    check("-a", "6: Invalid number");
    check("1.", "7: Invalid number");
    check("tru", "8: expected null, true or false");
    check("+1", "5: expected a value");
    check("1 2", "7: expected `,` or `}`");
    check("[1 2]", "8: expected `,` or `]`");
    check("[1,]", "8: expected a value");
    check("{\"a\":{1:2}}", "11: expected a key in quotes");
    check("{\"a\" 1}", "10: expected `:`");
    check("[1", "7: expected `,` or `]`");
}

#[test]
fn nesting_is_bounded() {
    for (depth, fine) in [(127, true), (128, false), (1_000_000, false)] {
        for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
            let inner = if open == "[" { "" } else { "1" };
            let value = open.repeat(depth) + inner + &close.repeat(depth);
            for key in ["x", "y"] {
                let text = format!("{{\"{key}\":{value}}}\n");
                let (_, letters) =
                    testing::decode(Format::Json, &fields(&["x:utf8?"]), text.as_bytes(), usize::MAX, 64, 1 << 24);
                let syntax = letters.first().is_some_and(|l| l.reason.ends_with("nested deeper than 128"));
                assert_eq!(!syntax, fine, "{depth} {key}");
            }
        }
    }
}

#[test]
fn lines_may_end_as_they_like_and_empty_ones_are_nothing() {
    let text = b"\r\n{\"x\":1}\r\n\n  \t\n {\"x\":2} \n{\"x\":3}";
    let (rows, letters) = decode(&["x:int8"], text);
    assert_eq!(rows, "{\"x\":1}\n{\"x\":2}\n{\"x\":3}\n");
    assert!(letters.is_empty());
}

#[test]
fn a_long_record_is_a_dead_letter_with_its_first_bytes() {
    let long = format!("{{\"x\":\"{}\"}}", "é".repeat(100));
    let text = format!("{{\"x\":\"a\"}}\n{long}\n{{\"x\":\"b\"}}\n{long}");
    for chunk in [1, 7, 64, 65, 150, usize::MAX] {
        let (rows, letters) = testing::decode(Format::Json, &fields(&["x:utf8"]), text.as_bytes(), chunk, 64, 64);
        assert_eq!(rows, "{\"x\":\"a\"}\n{\"x\":\"b\"}\n", "{chunk}");
        let offsets: Vec<u64> = letters.iter().map(|letter| letter.offset).collect();
        assert_eq!(offsets, [10, 10 + long.len() as u64 + 11]);
        for letter in letters {
            assert_eq!(letter.record, &long.as_bytes()[..64]);
            assert_eq!(letter.reason, "the record is longer than record_bytes_max (64 bytes)");
        }
    }
}

#[test]
fn a_record_that_no_batch_can_hold_is_a_dead_letter() {
    let text = format!("{{\"x\":\"a\"}}\n{{\"x\":\"{}\"}}\n{{\"x\":\"b\"}}\n", "y".repeat(9_000));
    let (rows, letters) = decode(&["x:utf8"], text.as_bytes());
    assert_eq!(rows, "{\"x\":\"a\"}\n{\"x\":\"b\"}\n");
    assert_eq!(letters.len(), 1);
    assert!(letters[0].reason.contains("exceed the room of a whole batch"));
}

fn document() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_filter("finite", |x| x.is_finite()).prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        "[ -~]{0,40}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            proptest::collection::hash_map("[a-e]{0,2}", inner, 0..6)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// What serde_json takes as a record; it does not look into strings that it skips, so the whole value is made.
fn serde_accepts(line: &[u8]) -> bool {
    serde_json::from_slice::<Value>(line).is_ok_and(|value| value.is_object())
}

fn agrees_with_serde(text: &[u8]) -> Result<(), TestCaseError> {
    // Line ends split records, and serde_json refuses numbers that only overflow.
    let line: Vec<u8> = text.iter().copied().filter(|byte| *byte != b'\n').collect();
    let blank = line.iter().all(|byte| matches!(byte, b' ' | b'\t' | b'\r'));
    let (rows, letters) = decode(&["a:utf8?", "b:float64?@/c/d"], &line);
    prop_assert_eq!(rows.lines().count() + letters.len(), usize::from(!blank));
    let ours = !letters.iter().any(|letter| letter.reason.starts_with("not valid JSON"));
    let theirs = serde_json::from_slice::<Value>(&line);
    let overflow = theirs.as_ref().is_err_and(|error| error.to_string().starts_with("number out of range"));
    if !blank && !overflow {
        prop_assert_eq!(ours, serde_accepts(&line), "{:?}", String::from_utf8_lossy(&line));
    }
    if let (Ok(theirs), Ok(row)) = (theirs, serde_json::from_str::<Value>(&rows)) {
        prop_assert_eq!(&row["a"], &theirs["a"]);
        prop_assert_eq!(row["b"].is_null(), theirs["c"]["d"].is_null());
    }
    Ok(())
}

/// Text of which much is taken as it stands, and some is not.
fn text() -> impl Strategy<Value = String> {
    prop_oneof!["[ -~]{0,70}", "[ -~é\u{2028}😀]{0,40}", "[a\"\\\\\u{0}-\u{1f}\u{7f}]{0,40}", any::<String>()]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn whatever_serde_json_takes_or_refuses_so_do_we(
        value in document(),
        text in text(),
        number in any::<Option<i64>>(),
        pretty in any::<bool>(),
        edits in proptest::collection::vec((any::<prop::sample::Index>(), 0..4_u8, any::<u8>(), 0..28_usize), 0..4),
    ) {
        let key = text.clone();
        let value = serde_json::json!({"y": value.clone(), "a": text.clone(), "c": {"d": number, key: value}, "z": text});
        let mut text = if pretty { serde_json::to_vec_pretty(&value) } else { serde_json::to_vec(&value) }.unwrap();
        agrees_with_serde(&text)?;
        let alphabet = b"{}[]\",:\\u0019.eE+-truefalsn \t8dc";
        for (at, kind, byte, pick) in edits {
            let at = at.index(text.len());
            match kind {
                0 => text[at] = byte,
                1 => text[at] = alphabet[pick],
                2 => text.insert(at, alphabet[pick]),
                _ => { text.remove(at); }
            }
            agrees_with_serde(&text)?;
        }
    }

    #[test]
    fn floats_are_read_exactly(bits in any::<u64>(), digits in "-?[0-9]{1,20}\\.[0-9]{1,25}(e-?[0-9]{1,2})?") {
        for text in [f64::from_bits(bits).to_string(), digits] {
            let Ok(value) = text.parse::<f64>() else { continue };
            if !value.is_finite() || serde_json::from_str::<Value>(&text).is_err() { continue; }
            let (rows, _) = decode(&["x:float64"], format!("{{\"x\":{text}}}").as_bytes());
            let back: Value = serde_json::from_str(&rows).unwrap();
            // zmij writes the shortest text that std reads back as the same double.
            let written = rows.trim_end().trim_start_matches("{\"x\":").trim_end_matches('}');
            prop_assert_eq!(written.parse::<f64>().unwrap().to_bits(), value.to_bits(), "{} {}", text, back);
        }
    }

    #[test]
    fn garbage_never_panics_and_every_line_is_a_row_or_a_dead_letter(
        lines in proptest::collection::vec(prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..60),
            "[{}\\[\\]\",:0-9a-e .\\\\-]{0,40}".prop_map(String::into_bytes),
            "\\{\"a\":\"[a-z\\\\]{0,90}\"\\}".prop_map(String::into_bytes),
            Just(b"{\"a\":\"ok\"}".to_vec()),
        ], 0..40),
        chunk in 1_usize..300,
        rows_max in 1_u32..20,
    ) {
        let text = lines.join(&b'\n');
        let count = text.split(|byte| *byte == b'\n')
            .filter(|line| !line.iter().all(|byte| matches!(byte, b' ' | b'\t' | b'\r')))
            .count();
        let fields = fields(&["a:utf8?", "b:int8?"]);
        let (rows, letters) = testing::decode(Format::Json, &fields, &text, chunk, rows_max, 64);
        prop_assert_eq!(rows.lines().count() + letters.len(), count);
        let whole = testing::decode(Format::Json, &fields, &text, usize::MAX, 50, 64);
        prop_assert_eq!((rows, letters), whole);
    }

    #[test]
    fn what_is_encoded_reads_back_equal(rows in proptest::collection::vec(testing::random_row(), 1..20)) {
        let text = testing::round_trip(Format::Json, &rows);
        for line in text.lines() {
            prop_assert!(serde_accepts(line.as_bytes()), "{}", line);
        }
    }
}
