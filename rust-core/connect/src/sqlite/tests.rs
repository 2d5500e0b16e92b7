//! The SQLite sink: types, transactions, locks, and what a recovery refuses.

use std::{fs, path::PathBuf, sync::Arc, time::Duration};

use proptest::prelude::*;
use ringmill_wire::Schema;
use rusqlite::{Connection, types::Value as Cell};
use serde_json::Value;

use super::{table::SqliteTable, writer::ChunkWriter};
use crate::{
    ConnectError, Format, SqliteSink, Transactions, Writer,
    disk::faults,
    encoder, schema_of,
    testing::{self, all_kinds, fields, random_row},
};

struct Place {
    folder: tempfile::TempDir,
    sink: SqliteSink,
    schema: Arc<Schema>,
}

impl Place {
    fn new() -> Place {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("staging")).unwrap();
        let sink = SqliteSink { path: folder.path().join("out.db"), table: "a \"table\"".to_owned() };
        Place { folder, sink, schema: schema_of(&fields(&["x:int64"])).unwrap() }
    }

    fn open(&self, recovered: Option<(u64, &Value)>) -> Result<Box<dyn Writer>, ConnectError> {
        let staging = self.folder.path().join("staging");
        self.sink.open(&self.schema, Some(&Transactions { staging: &staging, recovered }))
    }

    fn refusal(&self, epoch: u64, value: &Value) -> String {
        let error = self.open(Some((epoch, value))).err().expect("a refusal");
        assert!(!error.is_configuration() && !error.is_transient(), "{error}");
        error.to_string()
    }

    fn connection(&self) -> Connection {
        Connection::open(&self.sink.path).unwrap()
    }

    fn rows(&self) -> Vec<i64> {
        let connection = self.connection();
        let mut rows = connection.prepare("SELECT x FROM \"a \"\"table\"\"\" ORDER BY rowid").unwrap();
        rows.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    }

    fn staged(&self, epoch: u64) -> PathBuf {
        self.folder.path().join(format!("staging/{epoch:010}.staged"))
    }
}

fn epoch(writer: &mut dyn Writer, epoch: u64, x: i64) -> Value {
    writer.write(epoch, format!("{{\"x\":{x}}}\n").as_bytes()).unwrap();
    let value = writer.pre_commit(epoch).unwrap();
    writer.commit(epoch).unwrap();
    value
}

/// Writes NDJSON of this schema without checkpoints; the cells of all rows.
fn cells(schema: &Arc<Schema>, text: &[u8]) -> Result<Vec<Vec<Cell>>, ConnectError> {
    let folder = tempfile::tempdir().unwrap();
    let sink = SqliteSink { path: folder.path().join("db"), table: "t".to_owned() };
    let mut writer = sink.open(schema, None)?;
    writer.write(1, text)?;
    writer.finish()?;
    let connection = Connection::open(&sink.path).unwrap();
    let mut select = connection.prepare("SELECT * FROM t ORDER BY rowid").unwrap();
    let count = select.column_count();
    let rows = select.query_map([], |row| (0..count).map(|column| row.get(column)).collect::<Result<Vec<Cell>, _>>());
    Ok(rows.unwrap().map(Result::unwrap).collect())
}

#[test]
fn values_become_what_the_table_of_types_says() {
    let schema = schema_of(&fields(&[
        "b:bool",
        "i:int64",
        "u:uint64",
        "f:float32",
        "d:float64?",
        "t:utf8",
        "y:binary",
        "at:timestamp[ms]",
        "l:list[int64]",
    ]))
    .unwrap();
    let text = r#"{"b":true,"i":-9223372036854775808,"u":18446744073709551615,"f":0.1,"d":null,"t":"a\"\u0000é","y":"AAEC","at":"2026-01-31T12:34:56.789Z","l":[1,2]}
{"b":false,"i":1,"u":7,"f":3.0,"d":4.9e-324,"t":"7","y":"","at":"-000001-01-01T00:00:00.000Z","l":[]}
"#;
    let text_cell = |text: &str| Cell::Text(text.to_owned());
    let expect = vec![
        vec![
            Cell::Integer(1),
            Cell::Integer(i64::MIN),
            text_cell("18446744073709551615"),
            Cell::Real(0.1),
            Cell::Null,
            text_cell("a\"\0é"),
            Cell::Blob(vec![0, 1, 2]),
            text_cell("2026-01-31T12:34:56.789Z"),
            text_cell("[1,2]"),
        ],
        vec![
            Cell::Integer(0),
            Cell::Integer(1),
            Cell::Integer(7),
            Cell::Real(3.0),
            Cell::Real(4.9e-324),
            text_cell("7"),
            Cell::Blob(Vec::new()),
            text_cell("-000001-01-01T00:00:00.000Z"),
            text_cell("[]"),
        ],
    ];
    assert_eq!(cells(&schema, text.as_bytes()).unwrap(), expect);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn whatever_the_encoder_writes_the_table_takes(rows in prop::collection::vec(random_row(), 1..6)) {
        let schema = schema_of(&all_kinds(Format::Json)).unwrap();
        let batch = testing::batch_of(&schema, &rows);
        let mut text = Vec::new();
        encoder(Format::Json, &schema).unwrap().encode(&batch.view(), 0..rows.len(), &mut text);
        let found = cells(&schema, &text).unwrap();
        prop_assert_eq!(found.len(), rows.len());
        let view = batch.view();
        for (row, cells) in found.iter().enumerate() {
            let is_null = |column: usize| !view.column(column).is_valid(row);
            for (column, cell) in cells.iter().enumerate() {
                prop_assert_eq!(*cell == Cell::Null, is_null(column), "{} {}", row, column);
            }
            if !is_null(4) {
                prop_assert_eq!(&cells[4], &Cell::Integer(view.column(4).values::<i64>()[row]));
            }
            if !is_null(10) {
                prop_assert_eq!(&cells[10], &Cell::Real(view.column(10).values::<f64>()[row]));
            }
            if !is_null(11) {
                let text = String::from_utf8(view.column(11).bytes(row).to_vec()).unwrap();
                prop_assert_eq!(&cells[11], &Cell::Text(text));
            }
            if !is_null(12) {
                prop_assert_eq!(&cells[12], &Cell::Blob(view.column(12).bytes(row).to_vec()));
            }
        }
    }
}

#[test]
fn rows_are_added_to_a_table_that_is_there_if_it_has_the_columns() {
    let place = Place::new();
    place.connection().execute_batch("CREATE TABLE \"a \"\"table\"\"\" (note TEXT DEFAULT 'n', X INTEGER)").unwrap();
    epoch(&mut *place.open(None).unwrap(), 1, 1);
    // An output that begins anew adds to it, also in epochs that an earlier one has committed.
    epoch(&mut *place.open(None).unwrap(), 1, 2);
    assert_eq!(place.rows(), [1, 2]);
    let other = Place { schema: schema_of(&fields(&["x:int64", "y:utf8"])).unwrap(), ..place };
    let error = other.open(None).err().unwrap().to_string();
    assert!(error.ends_with("the table has no column [\"y\"]; it has [\"note\", \"X\"]"), "{error}");
}

#[test]
fn an_epoch_is_added_once_however_often_it_is_recovered() {
    let place = Place::new();
    let mut writer = place.open(None).unwrap();
    epoch(&mut *writer, 1, 1);
    writer.write(2, b"{\"x\":2}\n").unwrap();
    writer.write(3, b"{\"x\":33}\n").unwrap();
    let value = writer.pre_commit(2).unwrap();
    drop(writer);
    let kept = fs::read(place.staged(2)).unwrap();
    for _ in 0..3 {
        drop(place.open(Some((2, &value))).unwrap());
        assert_eq!(place.rows(), [1, 2]);
        assert!(testing::names(&place.folder.path().join("staging")).is_empty());
        // Even with the staged rows back.
        fs::write(place.staged(2), &kept).unwrap();
    }
    let mut writer = place.open(Some((2, &value))).unwrap();
    writer.pre_commit(3).unwrap();
    writer.commit(3).unwrap();
    let value = epoch(&mut *writer, 4, 4);
    drop(place.open(Some((4, &value))).unwrap());
    assert_eq!(place.rows(), [1, 2, 4]);
}

#[test]
fn a_database_that_is_not_as_the_checkpoint_left_it_is_refused() {
    let place = Place::new();
    let mut writer = place.open(None).unwrap();
    let first = epoch(&mut *writer, 1, 1);
    writer.write(2, b"{\"x\":2}\n").unwrap();
    let second = writer.pre_commit(2).unwrap();
    let staged = fs::read(place.staged(2)).unwrap();
    let empty = {
        writer.commit(2).unwrap();
        writer.pre_commit(3).unwrap()
    };
    let reason = place.refusal(1, &first);
    assert!(reason.contains("has epoch 2 of this sink instead of "), "{reason}");
    // Another database in its place.
    fs::remove_file(&place.sink.path).unwrap();
    for (epoch, value) in [(2, &second), (3, &empty)] {
        let reason = place.refusal(epoch, value);
        assert!(reason.contains("has no epoch of this sink instead of epoch "), "{reason}");
    }
    // One that was put back from before epoch 2, whose rows are gone, or damaged.
    place
        .connection()
        .execute("INSERT INTO ringmill_epochs VALUES (?, 1)", [second["writer"].as_str().unwrap()])
        .unwrap();
    assert!(place.refusal(2, &second).contains("it lacks the rows of epoch 2, and the staged rows are gone"));
    for damaged in [&b"{\"x\":3}\n"[..], b"{\"x\":2}\n{\"x\":2}\n", b"", b"{\"y\":2}\n", b"{\"x\":\"2\"}\n", b"\xff"] {
        fs::write(place.staged(2), damaged).unwrap();
        let reason = place.refusal(2, &second);
        assert!(reason.contains("damaged"), "{reason}");
        assert_eq!(place.rows(), [0; 0]);
    }
    fs::write(place.staged(2), staged).unwrap();
    drop(place.open(Some((2, &second))).unwrap());
    assert_eq!(place.rows(), [2]);
}

#[test]
fn a_lock_of_somebody_else_is_a_transient_error_and_nothing_is_written_twice() {
    let place = Place::new();
    let table = SqliteTable::open(&place.sink, &place.schema, Duration::from_millis(1)).unwrap();
    let mut writer = ChunkWriter::new(table);
    let other = place.connection();
    for lock in ["BEGIN IMMEDIATE", "BEGIN EXCLUSIVE"] {
        other.execute_batch(lock).unwrap();
        let error = writer.write(1, b"{\"x\":1}\n{\"x\":2}\n").unwrap_err();
        assert!(error.is_transient() && !error.is_out_of_space(), "{error}");
        assert!(error.to_string().contains("out.db: database is locked"), "{error}");
        other.execute_batch("ROLLBACK").unwrap();
    }
    // A reader holds up the commit.
    other.execute_batch("BEGIN; SELECT count(*) FROM sqlite_master").unwrap();
    let is_held_up = writer.write(1, b"{\"x\":1}\n{\"x\":2}\n").is_err_and(|error| error.is_transient());
    other.execute_batch("COMMIT").unwrap();
    assert!(is_held_up);
    assert_eq!(place.rows(), [0; 0]);
    writer.write(1, b"{\"x\":1}\n{\"x\":2}\n").unwrap();
    assert_eq!(place.rows(), [1, 2]);
}

#[test]
fn a_full_database_is_out_of_space_and_goes_on_when_there_is_room() {
    let place = Place::new();
    let table = SqliteTable::open(&place.sink, &place.schema, Duration::from_millis(1)).unwrap();
    let pages: i64 = table.connection.query_row("PRAGMA page_count", [], |row| row.get(0)).unwrap();
    table.connection.pragma_update(None, "max_page_count", pages).unwrap();
    let mut writer = ChunkWriter::new(table);
    let rows: String = (0..10_000).map(|x| format!("{{\"x\":{x}}}\n")).collect();
    let error = writer.write(1, rows.as_bytes()).unwrap_err();
    assert!(error.is_out_of_space() && error.is_transient(), "{error}");
    assert_eq!(place.rows(), [0; 0]);
    writer.table.connection.pragma_update(None, "max_page_count", 1_000_000).unwrap();
    writer.write(1, rows.as_bytes()).unwrap();
    assert_eq!(place.rows().len(), 10_000);
}

#[test]
fn a_write_that_fails_for_lack_of_room_is_out_of_space_whichever_it_is() {
    for (code, is_out_of_space) in [(libc::ENOSPC, true), (libc::EDQUOT, true), (libc::EIO, false)] {
        for (n, repeats) in (1..).flat_map(|n| [(n, 0), (n, 3)]) {
            let place = Place::new();
            let table = SqliteTable::open(&place.sink, &place.schema, Duration::from_millis(1)).unwrap();
            let mut writer = ChunkWriter::new(table);
            writer.write(1, b"{\"x\":1}\n").unwrap();
            faults::order(n, repeats, code);
            let written = writer.write(1, b"{\"x\":2}\n");
            let is_over = repeats == 0 && !faults::are_spent();
            faults::order(0, 0, 0);
            if is_over {
                assert!(n > 3, "SQLite writes to its journal and its database");
                break;
            }
            let error = written.unwrap_err();
            assert_eq!(error.is_out_of_space(), is_out_of_space, "write {n} and {repeats} more: {error}");
            writer.write(1, b"{\"x\":3}\n").unwrap();
            assert_eq!(place.rows(), [1, 3]);
        }
    }
}

#[test]
fn what_is_no_database_is_refused() {
    let place = Place::new();
    fs::write(&place.sink.path, "this is not a database, and long enough to be looked at").unwrap();
    let error = place.open(None).err().unwrap();
    assert!(matches!(error, ConnectError::Database { .. }) && !error.is_transient(), "{error}");
}
