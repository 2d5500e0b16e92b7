//! Rows as text that is no JSON: what is in requests, and what becomes of rows that are refused.

use std::{path::Path, sync::Arc};

use proptest::prelude::*;
use ringmill_wire::Schema;
use serde_json::{Value, json};

use super::sink::{OK, answering, bodies, lines, noting};
use crate::{
    ConnectError, Format, HttpBody, HttpSink, LetterFilter, LetterForm, LetterStore, LettersSpec, OnRefused,
    Transactions, Writer, encoder,
    http::{
        Form,
        requests::{Cut, Requests},
    },
    schema_of,
    testing::{Letters, batch, drain_by, fields, http_sink::sink_to, server::Received},
};

const COLUMNS: [&str; 3] = ["id:int64", "line:binary", "share:float64?"];

/// Rows with these lines, numbered from 0; a share is NaN, or each other one is null.
fn encoded(sink: &HttpSink, columns: &[&str], values: &[&[u8]]) -> Vec<u8> {
    let schema = schema(columns);
    let mut rows = batch(&schema, 64, 4_096 + values.iter().map(|value| value.len() as u32).sum::<u32>());
    for (number, value) in values.iter().enumerate() {
        let out = rows.writer();
        for (column, field) in schema.fields.iter().enumerate() {
            match field.name.as_str() {
                "id" => out.push(column, number as i64),
                "line" => out.push_bytes(column, value).unwrap(),
                _ if field.nullable && number % 2 == 1 => out.push_null(column),
                _ => out.push(column, f64::NAN),
            }
        }
        out.finish_row();
    }
    let mut bytes = Vec::new();
    sink.encoder(&schema).unwrap().encode(&rows.view(), 0..values.len(), &mut bytes);
    bytes
}

fn schema(columns: &[&str]) -> Arc<Schema> {
    schema_of(&fields(columns)).unwrap()
}

/// A sink that sends the values of `line`.
fn raw(mut sink: HttpSink, body: HttpBody) -> HttpSink {
    (sink.format, sink.column, sink.body) = (Format::Raw, Some("line".to_owned()), body);
    if body == HttpBody::Row {
        sink.rows_max = 1;
    }
    sink
}

fn send(sink: &HttpSink, columns: &[&str], values: &[&[u8]]) -> Result<(), ConnectError> {
    sink.open(&schema(columns), None, None)?.write(1, &encoded(sink, columns, values))
}

proptest! {
    #[test]
    fn no_value_is_cut_whatever_is_in_it(
        values in prop::collection::vec(prop::collection::vec(prop::sample::select(&b"\n\r\" x\xff"[..]), 0..20), 0..30),
        rows_max in 1_usize..8, bytes_max in 1_usize..60
    ) {
        let sink = raw(sink_to("http://x/"), HttpBody::Lines);
        let slices: Vec<&[u8]> = values.iter().map(Vec::as_slice).collect();
        let staged = encoded(&sink, &COLUMNS, &slices);
        let form = Form::of(&sink, &schema(&COLUMNS)).unwrap();
        let mut requests = Requests::new(&staged[..], Cut { rows_max, bytes_max }, &form);
        let mut came: Vec<Vec<u8>> = Vec::new();
        while let Some(request) = requests.next().unwrap() {
            prop_assert_eq!(request.first, came.len() as u64);
            prop_assert!(request.rows() <= rows_max);
            let own: Vec<Vec<u8>> = (0..request.rows()).map(|row| request.row(row).to_vec()).collect();
            let body: Vec<u8> = own.iter().flat_map(|value| [value, &b"\n"[..]].concat()).collect();
            prop_assert!(body.len() <= bytes_max || request.rows() == 1);
            prop_assert_eq!(&*request.body(0..request.rows()), &body);
            came.extend(own);
        }
        prop_assert_eq!(came, values);
    }
}

#[test]
fn a_request_has_the_text_that_is_asked_for_and_says_what_it_is() {
    let values: [&[u8]; 3] = [b"a,\"b\"\n", b"", b"c"];
    let (text, csv) = (["line:utf8"], ["id:int64", "line:utf8"]);
    let lines = "a,\"b\"\n\n\n";
    for (columns, format, body, content_type, expect) in [
        (&text[..], Format::Raw, HttpBody::Lines, "text/plain; charset=utf-8", vec![lines, "c\n"]),
        (&text, Format::Raw, HttpBody::Row, "text/plain; charset=utf-8", vec!["a,\"b\"\n", "", "c"]),
        (&COLUMNS, Format::Raw, HttpBody::Lines, "application/octet-stream", vec![lines, "c\n"]),
        (
            &csv,
            Format::Csv,
            HttpBody::Lines,
            "text/csv",
            vec!["id,line\n0,\"a,\"\"b\"\"\n\"\n1,\"\"\n", "id,line\n2,c\n"],
        ),
    ] {
        for own in [None, Some("application/vnd.own+json;v=1")] {
            let (sink, notes) = answering(&[]);
            let mut sink = if format == Format::Raw { raw(sink, body) } else { HttpSink { format, ..sink } };
            (sink.content_type, sink.rows_max) = (own.map(str::to_owned), sink.rows_max.min(2));
            send(&sink, columns, &values).unwrap();
            assert_eq!(bodies(&notes), expect);
            let expect = own.unwrap_or(content_type);
            assert!(notes.lock().unwrap().iter().all(|received| received.headers["content-type"] == expect));
        }
    }
}

#[test]
fn a_header_counts_for_the_length_of_a_request() {
    let (mut sink, notes) = answering(&[]);
    (sink.format, sink.bytes_max) = (Format::Csv, "line\na\nb\n".len());
    send(&sink, &["line:utf8"], &[b"a", b"b", b"c", b"long-one", b"d"]).unwrap();
    assert_eq!(bodies(&notes), ["line\na\nb\n", "line\nc\n", "line\nlong-one\n", "line\nd\n"]);
}

#[test]
fn columns_and_bodies_that_no_request_can_be_are_refused() {
    let refusal = |sink: &HttpSink, columns: &[&str]| sink.encoder(&schema(columns)).err().unwrap().to_string();
    let sink = raw(sink_to("http://x/"), HttpBody::Lines);
    assert_eq!(refusal(&sink, &["id:int64"]), "column is line, but the rows have no such column");
    assert_eq!(refusal(&sink, &["id:int64", "line:int64"]), "column \"line\" is int64, which raw cannot carry");
    assert!(refusal(&sink, &["line:utf8?"]).contains("may be null"));
    let only = HttpSink { column: None, ..sink.clone() };
    assert!(refusal(&only, &COLUMNS).contains("more than one column"));
    let array = HttpSink { body: HttpBody::Array, ..sink.clone() };
    assert!(refusal(&array, &COLUMNS).starts_with("body is array, but raw values are lines"));
    let csv = HttpSink { format: Format::Csv, body: HttpBody::Row, ..sink };
    assert!(refusal(&csv, &COLUMNS).starts_with("body is row, but rows of CSV are lines"));
    for (text, is_one) in [
        ("text/plain", true),
        ("application/vnd.elasticsearch+json;compatible-with=8", true),
        ("text/plain; charset=utf-8", true),
        ("", false),
        ("json", false),
        ("text/", false),
        ("text/*", false),
        ("*/*", false),
        ("text/plain\r\nx-a: b", false),
        ("text/pl\u{e4}in", false),
    ] {
        assert_eq!(HttpSink::check_content_type(text).is_ok(), is_one, "{text:?}");
    }
}

/// With checkpoints, of which this one is gone on from.
fn open(sink: &HttpSink, staging: &Path, recovered: Option<(u64, &Value)>) -> Box<dyn Writer> {
    sink.open(&schema(&COLUMNS), Some(&Transactions { staging, recovered }), None).unwrap()
}

#[test]
fn what_is_staged_is_sent_as_it_was_written_whatever_the_configuration_says_then() {
    let (json, notes) = answering(&[]);
    let values: [&[u8]; 2] = [b"\n{}\n", b"b"];
    let forms = [
        (raw(json.clone(), HttpBody::Row), vec!["\n{}\n".to_owned(), "b".to_owned()]),
        (raw(json.clone(), HttpBody::Lines), vec!["\n{}\n\nb\n".to_owned()]),
        (HttpSink { format: Format::Csv, ..json.clone() }, vec!["id,line,share\n0,Cnt9Cg==,NaN\n1,Yg==,\n".to_owned()]),
        (
            HttpSink { body: HttpBody::Array, ..json },
            vec![
                "[{\"id\":0,\"line\":\"Cnt9Cg==\",\"share\":null},{\"id\":1,\"line\":\"Yg==\",\"share\":null}]"
                    .to_owned(),
            ],
        ),
    ];
    for (before, expect) in &forms {
        for (after, _) in &forms {
            let folder = tempfile::tempdir().unwrap();
            notes.lock().unwrap().clear();
            let mut writer = open(before, folder.path(), None);
            writer.write(1, &encoded(before, &COLUMNS, &values)).unwrap();
            let staged = writer.pre_commit(1).unwrap();
            drop(writer);
            drop(open(
                &HttpSink { content_type: Some("a/b".to_owned()), ..after.clone() },
                folder.path(),
                Some((1, &staged)),
            ));
            assert_eq!(bodies(&notes), *expect);
            let usual = Form::of(before, &schema(&COLUMNS)).unwrap().content_type;
            let is_same = (before.format, before.body) == (after.format, after.body);
            let expect = if is_same { "a/b" } else { &usual };
            assert!(notes.lock().unwrap().iter().all(|received| received.headers["content-type"] == expect));
        }
    }
}

#[test]
fn what_an_earlier_version_has_staged_is_sent_as_json_and_no_row_is_left_out() {
    let (json, notes) = answering(&[]);
    let alone = HttpSink { body: HttpBody::Row, rows_max: 1, ..json.clone() };
    for (before, after, expect) in [
        (&json, json.clone(), vec![lines(0..2)]),
        (&json, HttpSink { format: Format::Csv, ..json.clone() }, vec![lines(0..2)]),
        (&json, raw(json.clone(), HttpBody::Row), vec![lines(0..2)]),
        // Perhaps they were taken, both with one key.
        (&json, alone.clone(), vec![lines(0..2)]),
        (&alone, alone.clone(), vec!["{\"x\":0}".to_owned(), "{\"x\":1}".to_owned()]),
    ] {
        let folder = tempfile::tempdir().unwrap();
        notes.lock().unwrap().clear();
        let mut writer = open(before, folder.path(), None);
        writer.write(1, lines(0..2).as_bytes()).unwrap();
        let mut staged = writer.pre_commit(1).unwrap();
        drop(writer);
        staged.as_object_mut().unwrap().remove("form").unwrap();
        drop(open(&after, folder.path(), Some((1, &staged))));
        assert_eq!(bodies(&notes), expect);
    }
}

/// The letters of rows that were refused in this form, as they are stored, and as rows that are read back from them.
fn letters_of(sink: &HttpSink, columns: &[&str], values: &[&[u8]]) -> (Vec<Value>, String) {
    let folder = tempfile::tempdir().unwrap();
    let (staging, store) = (folder.path().join("staging"), folder.path().join("letters"));
    [&staging, &store].iter().for_each(|path| std::fs::create_dir(path).unwrap());
    let transactions = Transactions { staging: &staging, recovered: None };
    let letters = LetterStore { folder: store.clone(), origin: "out".to_owned(), count: Arc::default() };
    let mut writer = sink.open(&schema(columns), Some(&transactions), Some(letters)).unwrap();
    writer.write(1, &encoded(sink, columns, values)).unwrap();
    writer.pre_commit(1).unwrap();
    writer.commit(1).unwrap();
    let text = std::fs::read_to_string(store.join("part-0000000001.json")).unwrap();
    let stored = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let spec = LettersSpec {
        folder: store,
        origin: "out".to_owned(),
        form: LetterForm::Sent,
        fields: fields(columns).into(),
        filter: LetterFilter::default(),
        record_bytes_max: 1 << 20,
    };
    let (_, mut partition) = spec.open().unwrap().remove(0);
    let (schema, mut rows, mut again) = (schema(columns), Vec::new(), Letters::default());
    let mut csv = encoder(Format::Csv, &schema).unwrap();
    drain_by(&mut *partition, (batch(&schema, 16, 1 << 22), 16), &mut again, |batch| {
        csv.encode(&batch.view(), 0..batch.rows() as usize, &mut rows);
    })
    .unwrap();
    assert_eq!(again.taken.len(), 0, "{:?}", again.taken);
    (stored, String::from_utf8(rows).unwrap())
}

#[test]
fn refused_text_is_kept_as_it_was_sent_and_can_be_read_back_as_the_whole_row() {
    let is_bad = |received: &Received| memchr::memmem::find(&received.body, b"bad").is_some();
    let (sink, notes) =
        noting(move |received| if is_bad(received) { Some(("422 Any Words", "no".to_owned())) } else { OK });
    let sink = HttpSink { on_refused: OnRefused::DeadLetter, ..sink };
    let values: [&[u8]; 5] = [b"good\n", b"\"bad\"\r\n", b"bad\xff\n", b"good too", b"good"];
    for body in [HttpBody::Lines, HttpBody::Row] {
        let (stored, rows) = letters_of(&raw(sink.clone(), body), &COLUMNS, &values);
        let kept: Vec<_> =
            stored.iter().map(|letter| (&letter["record"], &letter["record_bytes"], &letter["header"])).collect();
        let headers = [json!("{\"id\":1,\"share\":null}"), json!("{\"id\":2,\"share\":\"NaN\"}")];
        let (text, bytes) = (json!("\"bad\"\r\n"), json!("YmFk/wo="));
        assert_eq!(kept, [(&text, &Value::Null, &headers[0]), (&Value::Null, &bytes, &headers[1])]);
        assert_eq!(rows, "1,ImJhZCINCg==,\n2,YmFk/wo=,NaN\n");
        let sent = bodies(&notes);
        assert!(sent.iter().any(|body| body.starts_with("good too")), "{sent:?}");
    }
    // A single column has nothing beside it.
    let (stored, rows) = letters_of(&raw(sink.clone(), HttpBody::Row), &["line:utf8"], &[b"bad\nline", b"good"]);
    assert_eq!((&stored[0]["record"], &stored[0]["header"]), (&json!("bad\nline"), &json!("{}")));
    assert_eq!(rows, "\"bad\nline\"\n");

    notes.lock().unwrap().clear();
    let csv = HttpSink { format: Format::Csv, ..sink };
    let values: [&[u8]; 4] = [b"good", b"bad, \"a\"\n", b"bad  ", b"good"];
    let (stored, rows) = letters_of(&csv, &["id:int64", "line:utf8", "share:float64"], &values);
    let kept: Vec<_> = stored.iter().map(|letter| (&letter["record"], &letter["header"])).collect();
    let header = json!("id,line,share\n");
    let (first, second) = (json!("1,\"bad, \"\"a\"\"\n\",NaN"), json!("2,bad  ,NaN"));
    assert_eq!(kept, [(&first, &header), (&second, &header)]);
    assert_eq!(rows, "1,\"bad, \"\"a\"\"\n\",NaN\n2,bad  ,NaN\n");
    assert!(bodies(&notes).iter().all(|body| body.starts_with("id,line,share\n")));
}

#[test]
fn letters_of_rows_that_were_staged_before_there_were_any_are_whole() {
    let (sink, _) = noting(|_| Some(("422 Any Words", String::new())));
    let before = raw(sink, HttpBody::Lines);
    let folder = tempfile::tempdir().unwrap();
    let mut writer = open(&before, folder.path(), None);
    writer.write(1, &encoded(&before, &COLUMNS, &[b"a"])).unwrap();
    let staged = writer.pre_commit(1).unwrap();
    drop(writer);
    let store = tempfile::tempdir().unwrap();
    let letters = LetterStore { folder: store.path().to_owned(), origin: "out".to_owned(), count: Arc::default() };
    let transactions = Transactions { staging: folder.path(), recovered: Some((1, &staged)) };
    let after = HttpSink { on_refused: OnRefused::DeadLetter, ..before };
    drop(after.open(&schema(&COLUMNS), Some(&transactions), Some(letters)).unwrap());
    let text = std::fs::read_to_string(store.path().join("part-0000000001.json")).unwrap();
    let letter: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&letter["record"], &letter["header"]), (&json!("a"), &json!("{\"id\":0,\"share\":\"NaN\"}")));
}

#[test]
fn a_refused_row_can_be_read_back_however_long_it_is() {
    let (sink, _) = noting(|_| Some(("422 Any Words", String::new())));
    let sink = HttpSink { on_refused: OnRefused::DeadLetter, ..sink };
    let value = "x".repeat(3 << 19);
    for sink in [raw(sink.clone(), HttpBody::Lines), HttpSink { format: Format::Csv, ..sink.clone() }, sink] {
        let (_, rows) = letters_of(&sink, &["line:utf8"], &[value.as_bytes()]);
        assert_eq!(rows.trim_end().len(), value.len());
    }
}

/// A value as it is staged, with what stands beside it.
fn staged_beside(value: &[u8], beside: &[u8]) -> Vec<u8> {
    [beside, value].iter().flat_map(|part| [&(part.len() as u32 + 1).to_le_bytes(), *part].concat()).collect()
}

#[test]
fn what_stands_beside_values_does_not_fill_the_memory() {
    let sink = raw(sink_to("http://x/"), HttpBody::Lines);
    let long = "x".repeat(1 << 20);
    let staged: Vec<u8> = (0..10).flat_map(|_| staged_beside(b"a", long.as_bytes())).collect();
    let form = Form::of(&sink, &schema(&COLUMNS)).unwrap();
    let mut requests = Requests::new(&staged[..], Cut { rows_max: 1000, bytes_max: 1 << 20 }, &form);
    let rows: Vec<usize> = std::iter::from_fn(|| requests.next().unwrap()).map(|request| request.rows()).collect();
    assert_eq!(rows, [4, 4, 2]);
}

#[test]
fn refused_text_goes_to_a_file_as_text_or_in_base64() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("refused.ndjson");
    let (sink, _) = noting(|_| Some(("422 Any Words", String::new())));
    let sink = HttpSink { on_refused: OnRefused::Append(path.clone()), ..raw(sink, HttpBody::Lines) };
    send(&sink, &COLUMNS, &[b"a\n", b"\xff"]).unwrap();
    let text = std::fs::read_to_string(path).unwrap();
    let kept: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((&kept[0]["row"], kept[0].get("row_bytes")), (&json!("a\n"), None));
    assert_eq!((kept[1].get("row"), &kept[1]["row_bytes"]), (None, &json!("/w==")));
}
