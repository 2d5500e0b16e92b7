//! The store of dead letters: what is read, taken and left.

use std::path::Path;

use ringmill_wire::DataType;

use super::*;
use crate::{
    FieldSpec, Format, LetterForm, Position,
    disk::faults,
    schema_of,
    testing::{self, names, read_all},
};

/// A store of these parts: epoch and lines.
fn store(parts: &[(u64, &[&str])]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (epoch, lines) in parts {
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        std::fs::write(folder.path().join(format!("part-{epoch:010}.json")), text).unwrap();
    }
    folder
}

fn letter(reason: &str, record: &str) -> String {
    serde_json::json!({ "reason": reason, "record": record }).to_string()
}

fn ids(folder: &Path, taken: &TakenLetters) -> Vec<String> {
    let mut ids = Vec::new();
    for_each_letter(folder, taken, |id, _, _| {
        ids.push(id.to_string());
        Ok::<(), ConnectError>(())
    })
    .unwrap();
    ids
}

fn taken(ids: &[(u64, u64)]) -> TakenLetters {
    let mut taken = TakenLetters::default();
    ids.iter().for_each(|&(epoch, line)| taken.push(LetterId { epoch, line }));
    taken
}

fn field(name: &str, data_type: DataType, nullable: bool) -> FieldSpec {
    FieldSpec { name: name.to_owned(), data_type, nullable, path: None }
}

fn spec(folder: &Path, form: LetterForm, fields: Vec<FieldSpec>) -> LettersSpec {
    let filter = LetterFilter::default();
    LettersSpec {
        folder: folder.to_owned(),
        origin: "scores".into(),
        form,
        fields: fields.into(),
        filter,
        record_bytes_max: 1 << 20,
    }
}

/// Rows, dead letters and the position behind them.
fn read(spec: &LettersSpec) -> (String, Vec<testing::Letter>, Position) {
    let (_, mut partition) = spec.open().unwrap().remove(0);
    let schema = schema_of(&spec.fields).unwrap();
    let (rows, letters) = read_all(&mut *partition, &schema, Format::Csv, 16).unwrap();
    (rows, letters, partition.position())
}

#[test]
fn a_letter_that_is_taken_out_leaves_the_others_their_ids_and_a_part_without_letters_goes() {
    let one = letter("no", "{}");
    let folder = store(&[(3, &[&one, &one, &one]), (12, &[&one, &one])]);
    let all = ids(folder.path(), &TakenLetters::default());
    assert_eq!(all, ["3-1", "3-2", "3-3", "12-1", "12-2"]);
    let some = taken(&[(3, 2), (12, 1), (12, 2), (13, 1)]);
    assert_eq!(ids(folder.path(), &some), ["3-1", "3-3"], "they are not shown any more");
    // Again and again, as after a kill in the middle.
    for _ in 0..2 {
        take_out(folder.path(), &some).unwrap();
        assert_eq!(ids(folder.path(), &TakenLetters::default()), ["3-1", "3-3"]);
        assert_eq!(names(folder.path()), ["part-0000000003.json"]);
    }
    take_out(folder.path(), &taken(&[(3, 1), (3, 2), (3, 3)])).unwrap();
    assert!(names(folder.path()).is_empty());
    take_out(&folder.path().join("nowhere"), &some).unwrap();
}

#[test]
fn whichever_call_of_the_disk_fails_letters_are_taken_out_by_the_next_try() {
    let (one, two) = (letter("no", "{\"x\":1}"), letter("no", "{\"x\":2}"));
    let some = taken(&[(3, 1), (4, 1)]);
    for n in 1.. {
        let folder = store(&[(3, &[&one, &two]), (4, &[&one])]);
        faults::order(n, 0, libc::EIO);
        let outcome = take_out(folder.path(), &some);
        if !faults::are_spent() {
            assert!(n > 5, "only {n} calls can fail");
            faults::order(0, 0, 0);
            outcome.unwrap();
            return;
        }
        assert!(outcome.unwrap_err().to_string().contains("cannot write"), "call {n}");
        // Whatever was done, nothing but what was taken is missing.
        assert_eq!(ids(folder.path(), &some), ["3-2"], "call {n}");
        take_out(folder.path(), &some).unwrap();
        assert_eq!(ids(folder.path(), &TakenLetters::default()), ["3-2"], "call {n}");
        assert_eq!(names(folder.path()), ["part-0000000003.json"], "call {n}");
    }
}

#[test]
fn letters_that_were_taken_are_few_ranges_in_a_position() {
    let ranges = taken(&[(3, 1), (3, 2), (3, 3), (3, 7), (12, 1)]);
    let position = Position { letters: ranges.clone(), ..Position::default() };
    let text = serde_json::to_string(&position).unwrap();
    assert!(text.contains(r#""letters":{"3":[[1,3],[7,7]],"12":[[1,1]]}"#), "{text}");
    assert_eq!(serde_json::from_str::<Position>(&text).unwrap(), position);
    let has = |epoch, line| ranges.contains(LetterId { epoch, line });
    assert!(has(3, 1) && has(3, 3) && has(3, 7) && has(12, 1));
    assert!(!has(3, 4) && !has(3, 8) && !has(12, 2) && !has(4, 1));
    assert!(!serde_json::to_string(&Position::default()).unwrap().contains("letters"));
}

#[test]
fn a_store_that_a_checkpoint_does_not_know_is_kept_unless_it_is_of_another_life() {
    let folder = store(&[(3, &[&letter("no", "{}")]), (12, &[&letter("no", "{}")])]);
    assert_eq!(staged_without_letters(folder.path(), 11).unwrap(), None);
    let staged = staged_without_letters(folder.path(), 12).unwrap().unwrap();
    let path = format!("{}/", folder.path().display());
    let sink = crate::FileSink::new(path, Format::Json);
    let transactions = crate::Transactions { staging: folder.path(), recovered: Some((12, &staged)) };
    sink.open(&crate::dead_letter_schema(), Some(&transactions)).unwrap();
    assert_eq!(ids(folder.path(), &TakenLetters::default()), ["3-1", "12-1"]);
    assert!(staged_without_letters(&folder.path().join("nowhere"), 1).unwrap().is_some());
}

#[test]
fn an_id_reads_as_it_is_written() {
    let id = LetterId { epoch: 12, line: 3 };
    assert_eq!((id.to_string(), "12-3".parse()), ("12-3".to_owned(), Ok(id)));
    for text in ["", "12", "12-", "-3", "0-1", "1-0", "a-b", "1-2-3"] {
        assert!(text.parse::<LetterId>().is_err(), "{text}");
    }
}

#[test]
fn rows_are_read_back_to_the_last_bit_and_those_that_cannot_be_stay() {
    let (one, nan, inf) =
        (letter("no", "{\"x\":1.5}"), letter("no", "{\"x\":\"NaN\"}"), letter("no", "{\"x\":\"-inf\"}"));
    let null = letter("no", "{\"x\":null}");
    let (foreign, empty) = (letter("no", "{\"y\":1}"), letter("no", ""));
    let folder = store(&[(3, &[&one, &foreign, &nan]), (4, &[&empty, &inf, &null])]);
    let fields = vec![field("x", DataType::Float64, false)];
    let (rows, letters, position) = read(&spec(folder.path(), LetterForm::Rows, fields));
    assert_eq!(rows, "1.5\nNaN\n-inf\n");
    assert!(letters.is_empty(), "{letters:?}");
    assert_eq!((position.rows, position.letters), (6, taken(&[(3, 1), (3, 3), (4, 2)])));
}

#[test]
fn only_letters_that_the_filter_lets_through_are_taken() {
    let (one, other) = (letter("ValueError: no", "{\"x\":1}"), letter("KeyError: 'a'", "{\"x\":2}"));
    let folder = store(&[(3, &[&one, &other, &one]), (4, &[&other, &one])]);
    let check = |filter: LetterFilter, expected: &[(u64, u64)]| {
        let fields = vec![field("x", DataType::Int64, false)];
        let spec = LettersSpec { filter, ..spec(folder.path(), LetterForm::Rows, fields) };
        assert_eq!(read(&spec).2.letters, taken(expected));
    };
    let reason = || Some("Value".to_owned());
    check(LetterFilter { reason: reason(), ..LetterFilter::default() }, &[(3, 1), (3, 3), (4, 2)]);
    check(LetterFilter { reason: reason(), limit: Some(2), ..LetterFilter::default() }, &[(3, 1), (3, 3)]);
    let ids = vec![LetterId { epoch: 4, line: 1 }, LetterId { epoch: 3, line: 2 }];
    check(LetterFilter { ids: ids.clone(), ..LetterFilter::default() }, &[(3, 2), (4, 1)]);
    check(LetterFilter { ids, reason: reason(), limit: None }, &[]);
}

#[test]
fn records_are_read_by_their_own_header_and_fail_again_with_their_place() {
    let letter = |record: &str, header: Option<&str>, reason: &str| {
        serde_json::json!({ "reason": reason, "record": record, "header": header, "partition": "a.csv", "offset": 42 })
            .to_string()
    };
    let lines = [
        letter("1,\"a\nb\"", Some("x,name\n"), "no"),
        letter("c,2", Some("name,x\n"), "no"),
        letter("d,no", Some("name,x\n"), "no"),
        letter("3,e", None, "no"),
        letter("4,f", Some("x,other\n"), "no"),
        letter("5,g", Some("x,name\n"), "the record is longer than record_bytes_max (4 bytes)"),
    ];
    let folder = store(&[(3, &lines.each_ref().map(String::as_str))]);
    let fields = vec![field("x", DataType::Int64, false), field("name", DataType::Utf8, false)];
    let (rows, letters, position) = read(&spec(folder.path(), LetterForm::Records(Format::Csv), fields));
    assert_eq!(rows, "1,\"a\nb\"\n2,c\n");
    assert_eq!(letters.len(), 1);
    assert_eq!((letters[0].partition.as_str(), letters[0].offset, &letters[0].record[..]), ("a.csv", 42, &b"d,no"[..]));
    assert!(letters[0].reason.contains("\"x\""), "{}", letters[0].reason);
    assert_eq!(position.letters, taken(&[(3, 1), (3, 2), (3, 3)]), "those that cannot be read stay");
}

#[test]
fn a_foreign_line_is_refused_with_its_place() {
    let folder = store(&[(3, &[&letter("no", "{}"), "{\"a\":1}"])]);
    let error = spec(folder.path(), LetterForm::Rows, Vec::new()).open().err().unwrap().to_string();
    assert!(error.contains("part-0000000003.json, line 2: this is no dead letter"), "{error}");
}

#[test]
fn what_was_sent_as_null_because_it_is_no_number_is_sent_as_null_again() {
    let folder = store(&[(1, &[&letter("no", r#"{"x":null,"y":null,"z":[1.5,null]}"#)])]);
    let list = DataType::List(ringmill_wire::ListItem::Float64);
    let fields =
        || vec![field("x", DataType::Float64, false), field("y", DataType::Float32, true), field("z", list, false)];
    let schema = schema_of(&fields()).unwrap();
    let (_, mut partition) = spec(folder.path(), LetterForm::Sent, fields()).open().unwrap().remove(0);
    let (rows, letters) = read_all(&mut *partition, &schema, Format::Json, 16).unwrap();
    assert_eq!((rows.as_str(), letters), ("{\"x\":null,\"y\":null,\"z\":[1.5,null]}\n", Vec::new()));
    assert!(!partition.position().letters.is_empty());
    // A function never had it so.
    let (_, mut partition) = spec(folder.path(), LetterForm::Rows, fields()).open().unwrap().remove(0);
    assert_eq!(read_all(&mut *partition, &schema, Format::Json, 16).unwrap(), (String::new(), Vec::new()));
    assert!(partition.position().letters.is_empty());
}
