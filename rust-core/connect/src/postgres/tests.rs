//! What needs no server; the rest is in the system tests.

use std::time::Duration;

use proptest::prelude::*;

use super::{
    PostgresSink, Secret, Tls, WriteMode,
    convert::{Conversion, Refused, convert_row},
    encode::put_numeric,
    session::{fault_of, parse_url, target_name},
};
use crate::{
    Fault, Format, Transactions, schema_of,
    testing::{self, all_kinds, fields, random_row},
};

fn sink(url: &str) -> PostgresSink {
    PostgresSink {
        url: Secret::new(url),
        password_file: None,
        tls: Tls::Prefer,
        root_certificates: None,
        schema: "public".to_owned(),
        table: "out".to_owned(),
        mode: WriteMode::Insert,
        create: false,
        connect_timeout: Duration::from_secs(1),
        statement_timeout: Duration::from_secs(1),
        application_name: "test".to_owned(),
    }
}

#[test]
fn addresses_are_checked_and_no_password_is_ever_shown() {
    let good = "postgres://me:s3cret@db.example:5433/events";
    let sink = sink(good);
    assert!(parse_url(&sink.url).is_ok());
    assert_eq!(target_name(&sink), "table public.out of postgres://db.example:5433/events");
    assert!(!format!("{sink:?}").contains("s3cret"));
    let cases = [
        ("mysql://me:s3cret@h/d", "it does not begin with postgres://"),
        ("host=h password=s3cret", "it does not begin with postgres://"),
        ("postgres://me:s3cret@h", "it names no database"),
        ("postgres://me:s3cret@/d", "it names no host"),
        ("postgres://me:s3cret@h:x/d", "invalid connection string: invalid value for option `port`"),
        ("postgres://me:s3cret@h/d?x=y", "invalid connection string: unknown option `x`"),
    ];
    for (url, expected) in cases {
        assert_eq!(parse_url(&Secret::new(url)).unwrap_err(), expected, "{url}");
    }
}

#[test]
fn what_a_server_refuses_is_waited_for_where_it_may_pass() {
    let cases = [
        ("53100", Fault::OutOfSpace),
        ("53300", Fault::Transient),
        ("40001", Fault::Transient),
        ("40P01", Fault::Transient),
        ("57P01", Fault::Transient),
        ("57P03", Fault::Transient),
        ("57014", Fault::Transient),
        ("08006", Fault::Transient),
        ("25006", Fault::Transient),
        ("28P01", Fault::Permanent),
        ("3D000", Fault::Permanent),
        ("57P04", Fault::Permanent),
        ("58030", Fault::Permanent),
        ("23505", Fault::Permanent),
        ("22021", Fault::Permanent),
    ];
    for (code, fault) in cases {
        assert_eq!(fault_of(code), fault, "{code}");
    }
}

#[test]
fn a_server_that_is_away_is_waited_for_and_takes_no_rows_meanwhile() {
    let folder = tempfile::tempdir().unwrap();
    let schema = schema_of(&fields(&["x:int64"])).unwrap();
    let sink = sink(&format!("postgres://me@/d?host={}", folder.path().display()));
    let mut writer = sink.open(&schema, None).unwrap();
    writer.write(1, b"").unwrap();
    assert!(writer.write(1, b"row").unwrap_err().is_transient());
    writer.finish().unwrap();
    let transactions = Transactions { staging: folder.path(), recovered: None };
    let mut writer = sink.open(&schema, Some(&transactions)).unwrap();
    for _ in 0..3 {
        assert!(writer.write(1, b"row").unwrap_err().is_transient());
        assert!(writer.pre_commit(1).unwrap_err().is_transient());
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

/// Reads a numeric, its length in front, as what it stands for.
fn numeric(bytes: &[u8]) -> i128 {
    let word = |at: usize| i128::from(u16::from_be_bytes([bytes[at], bytes[at + 1]]));
    assert_eq!(i32::from_be_bytes(bytes[..4].try_into().unwrap()) as usize, bytes.len() - 4);
    let (count, weight, sign) = (word(4) as usize, word(6), word(8));
    assert_eq!((bytes.len(), word(10)), (12 + 2 * count, 0));
    let digits = (0..count).map(|digit| word(12 + 2 * digit));
    let value = digits.fold(0, |value, digit| value * 10_000 + digit);
    assert_eq!(weight, count.saturating_sub(1) as i128);
    if sign == 0 { value } else { -value }
}

proptest! {
    #[test]
    fn integers_become_what_they_are(unsigned in any::<u64>(), signed in any::<i64>(), single in any::<f32>()) {
        let convert = |bytes: &[u8], conversion| {
            let row = [&1_u16.to_be_bytes()[..], &(bytes.len() as i32).to_be_bytes(), bytes].concat();
            let mut out = Vec::new();
            convert_row(&mut &row[..], &[conversion], &mut out).map(|_| out[2..].to_vec())
        };
        let field = |bytes: &[u8]| [&(bytes.len() as i32).to_be_bytes(), bytes].concat();
        let mut out = Vec::new();
        put_numeric(unsigned, false, &mut out);
        prop_assert_eq!(numeric(&out), i128::from(unsigned));
        let words = unsigned.to_be_bytes();
        prop_assert_eq!(numeric(&convert(&words, Conversion::NumericUnsigned).unwrap()), i128::from(unsigned));
        prop_assert_eq!(numeric(&convert(&signed.to_be_bytes(), Conversion::Numeric).unwrap()), i128::from(signed));
        let small = signed as i16;
        let widened = convert(&small.to_be_bytes(), Conversion::Widen(8)).unwrap();
        prop_assert_eq!(widened, field(&i64::from(small).to_be_bytes()));
        let double = convert(&single.to_be_bytes(), Conversion::Double).unwrap();
        prop_assert_eq!(double, field(&f64::from(single).to_be_bytes()));
        match (convert(&words, Conversion::Signed), i64::try_from(unsigned)) {
            (Ok(bytes), Ok(value)) => prop_assert_eq!(bytes, field(&value.to_be_bytes())),
            (Err(Refused::Unfit(0, value)), Err(_)) => prop_assert_eq!(value, unsigned),
            (converted, _) => prop_assert!(false, "{:?}", converted),
        }
    }

    #[test]
    fn whatever_rows_there_are_they_are_read_back_field_by_field(
        rows in prop::collection::vec(random_row(), 1..6),
        cut in any::<prop::sample::Index>(),
    ) {
        let schema = schema_of(&all_kinds(Format::Json)).unwrap();
        let batch = testing::batch_of(&schema, &rows);
        let mut encoder = sink("").encoder(&schema);
        let mut text = Vec::new();
        encoder.encode(&batch.view(), 0..rows.len(), &mut text);
        let conversions = vec![Conversion::Same; schema.len()];
        let (mut rest, mut out) = (&text[..], Vec::new());
        for _ in 0..rows.len() {
            prop_assert!(convert_row(&mut rest, &conversions, &mut out).unwrap());
        }
        prop_assert!(!convert_row(&mut rest, &conversions, &mut out).unwrap());
        prop_assert!(out == text);
        // What is cut off in a row is damaged.
        let (mut rest, mut whole) = (&text[..cut.index(text.len())], Vec::new());
        let outcome = loop {
            match convert_row(&mut rest, &conversions, &mut whole) {
                Ok(true) => {}
                outcome => break outcome,
            }
        };
        prop_assert!(matches!(outcome, Ok(false) | Err(Refused::Damaged)));
    }
}

#[test]
fn a_value_that_no_table_takes_is_named() {
    let schema = schema_of(&fields(&["t:utf8", "at:timestamp[s]"])).unwrap();
    let batch = |text: &str, at: i64| {
        let mut batch = testing::batch(&schema, 4, 64);
        let writer = batch.writer();
        for (text, at) in [("fine", 0), (text, at)] {
            writer.push_bytes(0, text.as_bytes()).unwrap();
            writer.push_timestamp(1, at);
            writer.finish_row();
        }
        batch
    };
    let encoder = sink("").encoder(&schema);
    let check = |text: &str, at: i64| {
        let batch = batch(text, at);
        encoder.check(&batch.view(), 0..1).unwrap();
        encoder.check(&batch.view(), 0..2).map_err(|error| error.to_string())
    };
    assert_eq!(check("é", -62_135_596_800), Ok(()));
    assert_eq!(check("", 9_224_318_015_999), Ok(()));
    let error = check("a\0b", 0).unwrap_err();
    assert!(error.starts_with("PostgreSQL's text cannot hold a NUL character; column \"t\" has \"a\\0b\""), "{error}");
    for at in [9_224_318_016_000, i64::MAX, i64::MIN] {
        let error = check("", at).unwrap_err();
        assert!(error.contains("column \"at\" has a time"), "{error}");
    }
}
