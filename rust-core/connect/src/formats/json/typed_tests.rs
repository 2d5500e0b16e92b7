//! Events of several types: each is a row of its own type, however it is written, or a dead letter.

use proptest::prelude::*;
use serde_json::Value;

use crate::{
    EventType, EventTypes, Fields, Format, RECORD_BYTES_MAX, TypePlace,
    testing::{self, Letter, fields},
};

const ORDER: [&str; 3] = ["id:int64", "name:utf8", "note:utf8?"];
const TRADE: [&str; 3] = ["name:utf8", "price:float64", "id:int64?"];

fn types(place: TypePlace) -> Fields {
    let of = |name: &str, values: &[&str], specs: &[&str]| EventType {
        name: name.to_owned(),
        values: values.iter().map(|&value| value.to_owned()).collect(),
        fields: fields(specs),
        event_time: None,
    };
    let types = vec![of("order", &["order"], &ORDER), of("trade", &["trade.v1", "7", "sch\"ön"], &TRADE)];
    EventTypes::new(place, types).unwrap().into()
}

fn by_field(field: &str) -> Fields {
    types(TypePlace::Field(field.to_owned()))
}

/// The rows of both types, and the dead letters.
fn decode(fields: &Fields, text: &[u8], chunk: usize) -> ([String; 2], Vec<Letter>) {
    let (rows, letters) = testing::decode_typed(fields, "", text, chunk, RECORD_BYTES_MAX);
    (rows.try_into().unwrap(), letters)
}

/// The only row as its type and its text, or why there is none.
fn one(fields: &Fields, header: &str, text: &str) -> Result<(usize, String), String> {
    let (rows, letters) = testing::decode_typed(fields, header, text.as_bytes(), usize::MAX, RECORD_BYTES_MAX);
    match (letters.as_slice(), rows[0].is_empty(), rows[1].is_empty()) {
        ([], false, true) => Ok((0, rows[0].trim_end().to_owned())),
        ([], true, false) => Ok((1, rows[1].trim_end().to_owned())),
        ([letter], true, true) => Err(letter.reason.clone()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_stops_early_reads_no_further_also_where_a_column_takes_the_type() {
    for place in ["kind", "name"] {
        let text = "{\"id\":1,\"note\":null,\"name\":\"order\",\"kind\":\"order\",nonsense}";
        assert!(one(&by_field(place), "", text).is_err());
        let order = (0, "{\"id\":1,\"name\":\"order\",\"note\":null}".to_owned());
        assert_eq!(one(&by_field(place).stop_early(), "", text), Ok(order), "by {place}");
    }
}

#[test]
fn the_type_is_what_the_parser_says_it_is() {
    let fields = by_field("kind");
    let order = Ok((0, "{\"id\":1,\"name\":\"a\",\"note\":null}".to_owned()));
    let trade = Ok((1, "{\"name\":\"a\",\"price\":2.0,\"id\":1}".to_owned()));
    let rest = "\"id\":1,\"name\":\"a\",\"price\":2";
    for (kind, expected) in [
        ("\"kind\":\"order\"", &order),
        ("\"kind\" :\t\"trade.v1\"", &trade),
        ("\"kind\":7", &trade),
        ("\"kind\":\"7\"", &trade),
        ("\"kind\":\"sch\\\"\\u00f6n\"", &trade),
        ("\"k\\u0069nd\":\"order\"", &order),
        ("\"kind\":\"\\u006frder\"", &order),
        // Of a repeated key the last counts.
        ("\"kind\":\"order\",\"kind\":\"trade.v1\"", &trade),
        ("\"kind\":\"order\",\"k\\u0069nd\":\"trade.v1\"", &trade),
        ("\"kind\":null,\"kind\":\"order\"", &order),
        // What only looks like it.
        ("\"text\":\"\\\"kind\\\":\\\"trade.v1\\\"\",\"kind\":\"order\"", &order),
        ("\"inner\":{\"kind\":\"trade.v1\"},\"kind\":\"order\"", &order),
        ("\"kind\":\"order\",\"inner\":[{\"kind\":\"trade.v1\"}]", &order),
    ] {
        assert_eq!(one(&fields, "", &format!("{{{kind},{rest}}}")), *expected, "{kind}");
        assert_eq!(one(&fields, "", &format!("{{{rest},{kind}}}")), *expected, "{kind} at the end");
    }
}

#[test]
fn an_event_of_no_type_that_is_declared_is_a_dead_letter_with_the_reason() {
    let silent = Err("field \"kind\" does not say its type".to_owned());
    for kind in [
        "\"kind\":null",
        "\"kind\":true",
        "\"kind\":{\"order\":1}",
        "\"kind\":1.5",
        "\"kind\":[\"order\"]",
        "\"kinds\":\"order\"",
    ] {
        assert_eq!(one(&by_field("kind"), "", &format!("{{\"id\":1,\"name\":\"a\",{kind}}}")), silent, "{kind}");
    }
    for (value, shown) in
        [("\"refund\"", "refund"), ("\"Order\"", "Order"), ("\"\"", ""), ("8", "8"), ("\"order \"", "order ")]
    {
        let reason = format!("no type is declared for {shown:?} (field \"kind\"); there are order, trade");
        assert_eq!(one(&by_field("kind"), "", &format!("{{\"kind\":{value}}}")), Err(reason));
    }
    let wrong = one(&by_field("kind"), "", "{\"kind\":\"order\",\"id\":\"x\",\"name\":\"a\"}");
    assert_eq!(wrong, Err("field \"id\": expected int64, got \"x\"".to_owned()), "as a source of one type says it");
    let broken = one(&by_field("kind"), "", "{\"kind\":\"refund\",}").unwrap_err();
    assert!(broken.starts_with("not valid JSON at byte"), "{broken}");
}

#[test]
fn the_type_may_stand_deeper_or_be_a_column_too() {
    let deep = by_field("/meta/kind");
    let row = "{\"name\":\"a\",\"price\":1.0,\"id\":null}".to_owned();
    let event = |meta: &str| format!("{{\"meta\":{meta},\"name\":\"a\",\"price\":1}}");
    assert_eq!(one(&deep, "", &event("{\"kind\":\"trade.v1\"}")), Ok((1, row.clone())));
    assert_eq!(
        one(&deep, "", &event("{\"kind\":\"trade.v1\"},\"meta\":{}")),
        Err("field \"/meta/kind\" does not say its type".to_owned())
    );
    assert_eq!(one(&deep, "", &event("{\"kind\":\"order\"},\"meta\":{\"kind\":7}")), Ok((1, row)));
    let named = by_field("name");
    assert_eq!(
        one(&named, "", "{\"name\":\"order\",\"id\":3}"),
        Ok((0, "{\"id\":3,\"name\":\"order\",\"note\":null}".to_owned()))
    );
    let within = testing::typed_refusal(&by_field("/note/kind"));
    assert!(
        within.contains("/note/kind") && within.contains("another field takes a value that contains it"),
        "{within}"
    );
}

#[test]
fn an_integer_tells_the_type_whatever_the_column_makes_of_it() {
    for (data_type, value) in [("float32", "1"), ("float64", "-0"), ("float64", "18446744073709551616")] {
        let event_type = EventType {
            name: "one".to_owned(),
            values: vec![value.to_owned()],
            fields: fields(&[&format!("kind:{data_type}")]),
            event_time: None,
        };
        let types = EventTypes::new(TypePlace::Field("kind".to_owned()), vec![event_type]).unwrap().into();
        let text = format!("{{\"kind\":{value}}}\n{{\"kind\":{value}.0}}\n{{\"kind\":{value}e0}}");
        let (rows, letters) = testing::decode_typed(&types, "", text.as_bytes(), usize::MAX, RECORD_BYTES_MAX);
        assert_eq!((rows[0].lines().count(), letters.len()), (1, 2), "{data_type} {value}: {letters:?}");
    }
}

#[test]
fn a_header_says_the_type_of_what_does_not_say_it_itself() {
    let fields = types(TypePlace::Header("event-type".to_owned()));
    let text = "{\"kind\":\"trade.v1\",\"id\":1,\"name\":\"a\",\"price\":2}";
    assert_eq!(one(&fields, "order", text).unwrap().0, 0);
    assert_eq!(one(&fields, "7", text).unwrap().0, 1);
    assert_eq!(one(&fields, "", text), Err("header \"event-type\" does not say its type".to_owned()));
    let (_, letters) = testing::decode_typed(&fields, "refund", text.as_bytes(), usize::MAX, RECORD_BYTES_MAX);
    assert_eq!(letters[0].reason, "no type is declared for \"refund\" (header \"event-type\"); there are order, trade");
    assert_eq!(letters[0].header.as_deref(), Some("refund"), "a replay finds it there");
    let (_, letters) = testing::decode_typed(&fields, "order", b"{\"id\":", usize::MAX, RECORD_BYTES_MAX);
    assert_eq!(letters[0].header.as_deref(), Some("order"), "also that of what is no JSON");
}

/// A line of any sort.
fn line() -> impl Strategy<Value = String> {
    let member = prop_oneof![
        4 => prop::sample::select(vec!["order", "trade.v1", "7", "refund"]).prop_map(|kind| format!("\"kind\":\"{kind}\"")),
        1 => Just("\"kind\":7".to_owned()),
        1 => Just("\"k\\u0069nd\":\"or\\u0064er\"".to_owned()),
        1 => Just("\"x\":\"\\\"kind\\\":\\\"order\\\"\"".to_owned()),
        2 => (-9_i64..9).prop_map(|id| format!("\"id\":{id}")),
        2 => "[a-zé]{0,5}".prop_map(|name| format!("\"name\":\"{name}\"")),
        2 => (0_i32..9).prop_map(|price| format!("\"price\":{price}.5")),
        1 => Just("\"note\":\"n\"".to_owned()),
    ];
    prop_oneof![
        8 => prop::collection::vec(member, 0..8).prop_map(|members| format!("{{{}}}", members.join(","))),
        1 => "[{}\":,a-z]{0,12}",
    ]
}

proptest! {
    /// Each type's rows are those that a decoder of this type alone makes of the events of this type.
    #[test]
    fn each_row_is_what_a_decoder_of_its_type_alone_makes(lines in prop::collection::vec(line(), 0..30), chunk in 1_usize..200) {
        let of_line = |line: &String| {
            let value: Value = serde_json::from_str(line).ok()?;
            match value.get("kind")? {
                Value::String(kind) if kind == "order" => Some(0),
                Value::String(kind) if ["trade.v1", "7"].contains(&kind.as_str()) => Some(1),
                Value::Number(number) if *number == 7.into() => Some(1),
                _ => None,
            }
        };
        let of_type = |number: usize, specs: &[&str]| {
            let own = lines.iter().filter(|line| of_line(line) == Some(number));
            let text: String = own.map(|line| format!("{line}\n")).collect();
            testing::decode(Format::Json, &fields(specs), text.as_bytes(), usize::MAX, 64, RECORD_BYTES_MAX).0
        };
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        let (rows, letters) = decode(&by_field("kind"), text.as_bytes(), chunk);
        prop_assert_eq!(&rows, &[of_type(0, &ORDER), of_type(1, &TRADE)]);
        let records = lines.iter().filter(|line| !line.is_empty()).count();
        let shown: usize = rows.iter().map(|rows| rows.lines().count()).sum();
        prop_assert_eq!(shown + letters.len(), records, "each line is a row or a dead letter");
    }
}
