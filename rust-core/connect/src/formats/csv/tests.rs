//! What CSV is accepted, what comes of it, and what is said about the rest.

use proptest::prelude::*;

use crate::{
    ConnectError, Format, RECORD_BYTES_MAX, encoder, schema_of,
    testing::{self, Letter, fields},
};

fn decode(specs: &[&str], text: &str) -> (String, Vec<Letter>) {
    let fields = fields(specs);
    testing::decode(Format::Csv, &fields, text.as_bytes(), usize::MAX, 64, RECORD_BYTES_MAX)
}

#[test]
fn values_fit_their_types_or_the_reason_says_why() {
    let check = |spec: &str, value: &str, expect: Result<&str, &str>| {
        let (rows, letters) = decode(&[spec, "y:int8?"], &format!("y,x\n1,{value}\n"));
        match expect {
            Ok(value) => assert_eq!(rows, format!("{{\"x\":{value},\"y\":1}}\n"), "{letters:?}"),
            Err(reason) => assert_eq!(letters[0].reason, format!("field \"x\"{reason}")),
        }
    };
    check("x:int8", " -128 ", Ok("-128"));
    check("x:int8", "128", Err(": expected int8, got 128 (out of range)"));
    check("x:int64", "1.0", Err(": expected int64, got 1.0"));
    check("x:uint64", "18446744073709551615", Ok("18446744073709551615"));
    check("x:uint8", "-1", Err(": expected uint8, got -1 (out of range)"));
    check("x:float64", "1e3", Ok("1000.0"));
    check("x:float64", "NaN", Ok("null"));
    check("x:float64", "-inf", Ok("null"));
    check("x:float64", "1e999", Err(": expected float64, got 1e999 (out of range)"));
    check("x:float64", "warm", Err(": expected float64, got warm"));
    check("x:float32", "16777217", Ok("16777216.0"));
    check("x:float32", "1e39", Err(": expected float32, got 1e39 (out of range)"));
    check("x:bool", "True", Ok("true"));
    check("x:bool", "0", Ok("false"));
    check("x:bool", "yes", Err(": expected bool, got yes"));
    check("x:utf8", "", Ok("\"\""));
    check("x:utf8?", "", Ok("null"));
    check("x:utf8", " a ", Ok("\" a \""));
    check("x:utf8", "\"a \"\"b\"\", c\"", Ok(r#""a \"b\", c""#));
    check("x:utf8", "\"two\nlines\"", Ok(r#""two\nlines""#));
    check("x:float64", "", Err(" is empty"));
    check("x:float64?", "", Ok("null"));
    check("x:binary", "AAEC/w==", Ok("\"AAEC/w==\""));
    check("x:binary", "?", Err(": expected binary, got ? (binary is written in base64)"));
    check("x:timestamp[s]", "2024-01-01T00:00:00Z", Ok("\"2024-01-01T00:00:00Z\""));
    check("x:timestamp[s]", "1704067200", Ok("\"2024-01-01T00:00:00Z\""));
    check("x:timestamp[s]", "now", Err(": expected timestamp[s], got now (neither RFC 3339 nor an integer)"));
}

#[test]
fn the_header_says_where_the_fields_are() {
    let (rows, letters) = decode(&["a:int8", "b:utf8@B b"], "x,\"B b\",a\r\n1,two,3\r\n\r\n,,4\r\n5,6\r\n7,8,9,10\r\n");
    assert_eq!(rows, "{\"a\":3,\"b\":\"two\"}\n{\"a\":4,\"b\":\"\"}\n");
    let found: Vec<(u64, &str, &[u8])> =
        letters.iter().map(|letter| (letter.offset, letter.reason.as_str(), &letter.record[..])).collect();
    assert_eq!(
        found,
        [
            (27, "the record has 2 values, the header has 3", &b"5,6"[..]),
            (32, "the record has 4 values, the header has 3", b"7,8,9,10"),
        ]
    );
}

#[test]
fn a_header_without_a_declared_field_is_refused() {
    let fields = fields(&["a:int8", "c:int8"]);
    let mut decoder = super::CsvDecoder::new(&fields, RECORD_BYTES_MAX).unwrap();
    let error = decoder.take_header(b"a,b\n1,2\n", true, "file.csv").unwrap_err();
    assert!(error.is_configuration());
    assert_eq!(error.to_string(), r#"file.csv has no column "c"; its header has ["a", "b"]"#);
    assert!(matches!(decoder.take_header(b"a,b\n1,2\n", true, "file.csv"), Err(ConnectError::Header { .. })));
}

#[test]
fn lists_are_refused() {
    let fields = fields(&["a:list[int8]"]);
    let error = super::CsvDecoder::new(&fields, 100).unwrap_err();
    assert_eq!(error.to_string(), r#"column "a" is list[int8], which csv cannot carry"#);
    assert!(encoder(Format::Csv, &schema_of(&fields).unwrap()).is_err());
}

#[test]
fn records_end_where_rfc_4180_says() {
    let text = "x,y\n1,\"a\nb\"\n2,\"c\"\"\r\nd\"\n\"3\",e";
    for chunk in [1, 2, 5, 11, usize::MAX] {
        let (rows, letters) =
            testing::decode(Format::Csv, &fields(&["x:int8", "y:utf8"]), text.as_bytes(), chunk, 64, 100);
        assert_eq!(rows, "{\"x\":1,\"y\":\"a\\nb\"}\n{\"x\":2,\"y\":\"c\\\"\\r\\nd\"}\n{\"x\":3,\"y\":\"e\"}\n");
        assert!(letters.is_empty());
    }
    let (rows, letters) = decode(&["x:int8", "y:utf8"], "x,y\n1,a\n2,\"open\n3,b\n");
    assert_eq!(rows, "{\"x\":1,\"y\":\"a\"}\n");
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].reason, "a quoted value is not closed");
    assert_eq!((letters[0].offset, &letters[0].record[..]), (8, &b"2,\"open\n3,b"[..]));
}

#[test]
fn a_long_record_is_a_dead_letter_with_its_first_bytes() {
    let long = "y".repeat(50) + "\n" + &"z".repeat(50);
    let text = format!("x\na\n\"{long}\"\nb\n\"{long}");
    for chunk in [1, 7, 64, 65, 120, usize::MAX] {
        let (rows, letters) = testing::decode(Format::Csv, &fields(&["x:utf8"]), text.as_bytes(), chunk, 64, 64);
        assert_eq!(rows, "{\"x\":\"a\"}\n{\"x\":\"b\"}\n", "{chunk}");
        let offsets: Vec<u64> = letters.iter().map(|letter| letter.offset).collect();
        assert_eq!(offsets, [4, 4 + long.len() as u64 + 5]);
        for letter in letters {
            assert_eq!(letter.record, format!("\"{long}").as_bytes()[..64]);
            assert_eq!(letter.reason, "the record is longer than record_bytes_max (64 bytes)");
        }
    }
}

#[test]
fn text_is_quoted_where_it_must_be() {
    let check = |value: &str, expect: &str| {
        let schema = schema_of(&fields(&["a:utf8", "b:float64"])).unwrap();
        let mut batch = testing::batch(&schema, 1, 100);
        let out = batch.writer();
        out.push_bytes(0, value.as_bytes()).unwrap();
        out.push(1, f64::NEG_INFINITY);
        out.finish_row();
        let mut text = Vec::new();
        let mut encoder = encoder(Format::Csv, &schema).unwrap();
        encoder.begin(&schema, &mut text);
        encoder.encode(&batch.view(), 0..1, &mut text);
        assert_eq!(String::from_utf8(text).unwrap(), format!("a,b\n{expect},-inf\n"));
    };
    check("plain", "plain");
    check("", "\"\"");
    check("a,b", "\"a,b\"");
    check("say \"hi\"", "\"say \"\"hi\"\"\"");
    check("two\nlines", "\"two\nlines\"");
    check("\r", "\"\r\"");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn what_is_encoded_reads_back_equal(rows in proptest::collection::vec(testing::random_row(), 1..20)) {
        testing::round_trip(Format::Csv, &rows);
    }

    #[test]
    fn garbage_never_panics_and_does_not_depend_on_how_it_is_read(
        text in proptest::collection::vec(prop_oneof![
            Just(b'"'), Just(b','), Just(b'\n'), Just(b'\r'), Just(b'a'), Just(b'1'), any::<u8>(),
        ], 0..300),
        chunk in 1_usize..100,
        rows_max in 1_u32..20,
    ) {
        let text = [b"a,b\n", &text[..]].concat();
        let fields = fields(&["a:utf8?", "b:int8?"]);
        let whole = testing::decode(Format::Csv, &fields, &text, usize::MAX, 50, 64);
        // Where a record is too long, the first bytes are cut alike; what was one record stays one.
        prop_assert_eq!(testing::decode(Format::Csv, &fields, &text, chunk, rows_max, 64), whole);
    }

    #[test]
    fn lines_without_quotes_are_a_row_or_a_dead_letter_each(
        lines in proptest::collection::vec("[a-c0-9,é]{1,20}", 0..40),
        chunk in 1_usize..100,
    ) {
        let text = format!("a,b\n{}", lines.join("\n"));
        let fields = fields(&["a:utf8?", "b:int8?"]);
        let (rows, letters) = testing::decode(Format::Csv, &fields, text.as_bytes(), chunk, 7, 64);
        prop_assert_eq!(rows.lines().count() + letters.len(), lines.len());
    }
}
