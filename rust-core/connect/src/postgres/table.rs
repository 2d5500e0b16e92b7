//! The table, the table of epochs, and rows into them.

use std::{
    io::{BufReader, Read},
    sync::Arc,
};

use bytes::Bytes;
use ringmill_failpoint::hit;
use ringmill_wire::{DataType, Schema};

use super::{
    PostgresSink, WriteMode,
    convert::{Conversion, Refused, convert_row},
    session::{Session, target_name},
    types::{declared, sql_type},
};
use crate::{ConnectError, Fault};

/// Bytes sent at a time.
const BLOCK_BYTES: usize = 256 << 10;
/// What a binary `COPY` begins with: signature, no flags, no extension; and what it ends with.
const HEADER: &[u8; 19] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
const TRAILER: [u8; 2] = (-1_i16).to_be_bytes();
/// Where the rows of an upsert wait for the end of their `COPY`.
const WAITING: &str = "pg_temp.ringmill_rows";

/// The table, checked, and the statements that fill it.
pub struct Table {
    name: String,
    schema: Arc<Schema>,
    conversions: Vec<Conversion>,
    copy: String,
    merge: Option<String>,
    epochs: String,
}

/// A column of the database's table.
struct Column {
    name: String,
    /// the type as one declares it
    declared: String,
    /// … as `pg_type` has it; of an array that of its items
    catalog: String,
    is_array: bool,
    is_not_null: bool,
    has_default: bool,
    /// its values are always the server's
    is_generated: bool,
}

/// From which epoch to which a transaction goes.
#[derive(Clone, Copy)]
pub struct Step<'a> {
    pub writer: &'a str,
    /// the newest one that the database has of us; 0: none
    pub before: u64,
    pub after: u64,
}

impl Table {
    /// Creates what is missing, and checks the rest.
    pub fn open(session: &Session, sink: &PostgresSink, schema: &Arc<Schema>) -> Result<Table, ConnectError> {
        let (name, table) = (target_name(sink), qualified(&sink.schema, &sink.table));
        let refused = |reason: String| ConnectError::Database { name: name.clone(), reason, fault: Fault::Permanent };
        let mut found = columns(session, &table)?;
        if found.is_empty() {
            if !sink.create {
                let hint = "create it, or let `create = true` do so";
                return Err(refused(format!("there is no such table; {hint}")));
            }
            hit("sink.postgres.create");
            session.create(&create(sink, schema, &table))?;
            hit("sink.postgres.created");
            found = columns(session, &table)?;
        }
        let mut wrong = mismatches(schema, &found);
        if let WriteMode::Upsert(keys) = &sink.mode {
            wrong.extend(wrong_keys(session, schema, keys, &table)?);
        }
        if !wrong.is_empty() {
            return Err(refused(format!("the table does not fit the stream: {}", wrong.join("; "))));
        }
        let epochs = qualified(&sink.schema, "ringmill_epochs");
        if columns(session, &epochs)?.is_empty() {
            session.create(&format!(
                "CREATE TABLE IF NOT EXISTS {epochs} (sink text PRIMARY KEY, epoch bigint NOT NULL, \
                 committed_at timestamptz NOT NULL DEFAULT now())"
            ))?;
        }
        let names = list(schema.fields.iter().map(|field| quoted(&field.name)));
        let (into, merge) = match &sink.mode {
            WriteMode::Insert => (table, None),
            WriteMode::Upsert(keys) => {
                session.batch(&waiting(schema, &found))?;
                (WAITING.to_owned(), Some(merge(schema, keys, &table)))
            }
        };
        Ok(Table {
            name,
            schema: schema.clone(),
            conversions: conversions(schema, &found),
            copy: format!("COPY {into} ({names}) FROM STDIN (FORMAT binary)"),
            merge,
            epochs,
        })
    }

    /// The refusal of what is not as the checkpoint left it.
    pub fn refuse(&self, reason: String) -> ConnectError {
        ConnectError::Target { name: self.name.clone(), reason }
    }

    /// The newest epoch that `writer` has committed; 0: none.
    pub fn epoch(&self, session: &Session, writer: &str) -> Result<u64, ConnectError> {
        let rows = session.query(&format!("SELECT epoch FROM {} WHERE sink = $1", self.epochs), &[&writer])?;
        Ok(rows.first().map_or(0, |row| row.get::<_, i64>(0).unsigned_abs()))
    }

    /// Forgets a writer.
    pub fn forget(&self, session: &Session, writer: &str) -> Result<(), ConnectError> {
        session.execute(&format!("DELETE FROM {} WHERE sink = $1", self.epochs), &[&writer]).map(drop)
    }

    /// Adds the rows that `open` opens, and notes the step, in one transaction; nothing if the database has made it.
    ///
    /// The note is locked first. If an earlier connection of ours has sent its commit and we have not heard of it, we
    /// wait here for what becomes of it.
    pub fn add<R: Read>(
        &self,
        session: &Session,
        step: Step<'_>,
        open: impl FnOnce() -> Result<R, ConnectError>,
    ) -> Result<(), ConnectError> {
        let Step { writer, before, after } = step;
        if before == 0 {
            // Apart from the transaction, so that there is something to be locked.
            let begin = format!("INSERT INTO {} (sink, epoch) VALUES ($1, 0) ON CONFLICT DO NOTHING", self.epochs);
            session.execute(&begin, &[&writer])?;
        }
        hit("sink.postgres.begin");
        session.batch("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE")?;
        let lock = format!("SELECT epoch FROM {} WHERE sink = $1 FOR UPDATE", self.epochs);
        let found = session.query(&lock, &[&writer])?;
        let found = found.first().map(|row| row.get::<_, i64>(0).unsigned_abs());
        if found == Some(after) {
            return session.batch("ROLLBACK");
        }
        if found != Some(before) {
            return Err(self.refuse_epoch(found.unwrap_or(0), before));
        }
        let mut feed = Feed { rows: BufReader::with_capacity(BLOCK_BYTES, open()?), table: self, stage: Stage::Header };
        session.copy(&self.copy, || feed.next())?;
        hit("sink.postgres.copied");
        if let Some(merge) = &self.merge {
            session.execute(merge, &[])?;
        }
        let note = format!("UPDATE {} SET epoch = $2, committed_at = now() WHERE sink = $1", self.epochs);
        session.execute(&note, &[&writer, &(after as i64)])?;
        hit("sink.postgres.commit");
        session.batch("COMMIT")?;
        hit("sink.postgres.committed");
        Ok(())
    }

    /// The refusal of a database that has another epoch of ours.
    pub fn refuse_epoch(&self, found: u64, expected: u64) -> ConnectError {
        let words = |epoch: u64| if epoch == 0 { "no epoch".to_owned() } else { format!("epoch {epoch}") };
        self.refuse(format!(
            "the database has {} of this sink instead of {}; it is another database or belongs to another checkpoint, \
             so put the right one back, or run with --fresh to begin anew",
            words(found),
            words(expected)
        ))
    }
}

#[derive(PartialEq)]
enum Stage {
    Header,
    Rows,
    Over,
}

/// The messages of a `COPY`.
struct Feed<'a, R> {
    rows: BufReader<R>,
    table: &'a Table,
    stage: Stage,
}

impl<R: Read> Feed<'_, R> {
    fn next(&mut self) -> Result<Option<Bytes>, ConnectError> {
        if self.stage == Stage::Over {
            return Ok(None);
        }
        let mut block = Vec::with_capacity(BLOCK_BYTES + (BLOCK_BYTES >> 3));
        if self.stage == Stage::Header {
            block.extend_from_slice(HEADER);
            self.stage = Stage::Rows;
        }
        while block.len() < BLOCK_BYTES {
            let converted = convert_row(&mut self.rows, &self.table.conversions, &mut block);
            if !converted.map_err(|refused| self.refuse(refused))? {
                block.extend_from_slice(&TRAILER);
                self.stage = Stage::Over;
                break;
            }
        }
        Ok(Some(block.into()))
    }

    fn refuse(&self, refused: Refused) -> ConnectError {
        let name = self.table.name.clone();
        match refused {
            Refused::Read(source) => {
                ConnectError::Read { name: format!("the rows staged for {name}"), offset: 0, source }
            }
            Refused::Damaged => ConnectError::Target { name, reason: "a staged row is damaged".to_owned() },
            Refused::Unfit(index, value) => {
                let column = self.table.schema.fields.get(index).map_or("", |field| &field.name);
                let reason = format!("{value} in column {column:?} does not fit bigint; make it numeric");
                ConnectError::Database { name, reason, fault: Fault::Permanent }
            }
        }
    }
}

/// The columns of a table; none: there is no such table.
fn columns(session: &Session, table: &str) -> Result<Vec<Column>, ConnectError> {
    let select = "SELECT a.attname::text, format_type(a.atttypid, a.atttypmod), coalesce(e.typname, t.typname)::text, \
                  e.oid IS NOT NULL, a.attnotnull, a.atthasdef OR a.attidentity <> '', \
                  a.attgenerated <> '' OR a.attidentity = 'a' \
                  FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid \
                  LEFT JOIN pg_type e ON e.oid = t.typelem AND t.typcategory = 'A' \
                  WHERE a.attrelid = to_regclass($1) AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum";
    let rows = session.query(select, &[&table])?;
    let column = |row: &tokio_postgres::Row| Column {
        name: row.get(0),
        declared: row.get(1),
        catalog: row.get(2),
        is_array: row.get(3),
        is_not_null: row.get(4),
        has_default: row.get(5),
        is_generated: row.get(6),
    };
    Ok(rows.iter().map(column).collect())
}

fn create(sink: &PostgresSink, schema: &Schema, table: &str) -> String {
    let column = |field: &ringmill_wire::Field| {
        let not_null = if field.nullable { "" } else { " NOT NULL" };
        format!("{} {}{not_null}", quoted(&field.name), declared(field.data_type))
    };
    let mut parts: Vec<String> = schema.fields.iter().map(column).collect();
    if let WriteMode::Upsert(keys) = &sink.mode {
        parts.push(format!("PRIMARY KEY ({})", list(keys.iter().map(|key| quoted(key)))));
    }
    format!("CREATE TABLE IF NOT EXISTS {table} ({})", parts.join(", "))
}

/// The table in which the rows of an upsert wait; the last of those with one key is the one that counts.
fn waiting(schema: &Schema, found: &[Column]) -> String {
    let of = |name: &str| found.iter().find(|column| column.name == name).map_or("text", |column| &column.declared);
    let columns = list(schema.fields.iter().map(|field| format!("{} {}", quoted(&field.name), of(&field.name))));
    format!(
        "SET client_min_messages = warning; CREATE TEMPORARY TABLE IF NOT EXISTS {} \
         ({columns}, ringmill_row bigint GENERATED ALWAYS AS IDENTITY) ON COMMIT DELETE ROWS",
        WAITING.trim_start_matches("pg_temp.")
    )
}

fn merge(schema: &Schema, keys: &[String], table: &str) -> String {
    let names = list(schema.fields.iter().map(|field| quoted(&field.name)));
    let others = schema.fields.iter().filter(|field| !keys.contains(&field.name));
    let updates = list(others.map(|field| format!("{0} = EXCLUDED.{0}", quoted(&field.name))));
    let keys = list(keys.iter().map(|key| quoted(key)));
    let action = if updates.is_empty() { "NOTHING".to_owned() } else { format!("UPDATE SET {updates}") };
    format!(
        "INSERT INTO {table} ({names}) SELECT DISTINCT ON ({keys}) {names} FROM {WAITING} \
         ORDER BY {keys}, ringmill_row DESC ON CONFLICT ({keys}) DO {action}"
    )
}

/// What of the table does not fit the stream, each in words.
fn mismatches(schema: &Schema, found: &[Column]) -> Vec<String> {
    let mut wrong = Vec::new();
    for field in &schema.fields {
        let name = &field.name;
        let Some(column) = found.iter().find(|column| column.name == *name) else {
            wrong.push(format!("it has no column {name:?} ({})", declared(field.data_type)));
            continue;
        };
        if conversion(field.data_type, column).is_none() {
            let (data_type, needed) = (field.data_type, declared(field.data_type));
            wrong.push(format!("column {name:?} is {}, but {data_type} needs {needed}", column.declared));
        }
        if column.is_generated {
            wrong.push(format!("the values of column {name:?} are made by the server"));
        }
        if column.is_not_null && field.nullable {
            wrong.push(format!("column {name:?} is NOT NULL, but the stream's may be null"));
        }
    }
    let is_known = |column: &&Column| schema.fields.iter().any(|field| field.name == column.name);
    for column in found.iter().filter(|column| !is_known(column)) {
        if column.is_not_null && !column.has_default && !column.is_generated {
            wrong.push(format!("column {:?} is NOT NULL without a default, and the stream has none", column.name));
        }
    }
    wrong
}

/// What of the columns of `conflict` does not fit.
fn wrong_keys(session: &Session, schema: &Schema, keys: &[String], table: &str) -> Result<Vec<String>, ConnectError> {
    let mut wrong = Vec::new();
    for key in keys {
        match schema.fields.iter().find(|field| field.name == *key) {
            None => wrong.push(format!("the stream has no column {key:?} for `conflict`")),
            Some(field) if field.nullable => {
                wrong.push(format!(
                    "column {key:?} may be null, and null equals nothing, so it cannot be in `conflict`"
                ));
            }
            Some(_) => {}
        }
    }
    let select = "SELECT 1 FROM pg_index i WHERE i.indrelid = to_regclass($1) AND i.indisunique AND i.indisvalid \
                  AND i.indimmediate AND i.indpred IS NULL AND i.indexprs IS NULL AND \
                  (SELECT array_agg(a.attname::text ORDER BY a.attname::text COLLATE \"C\") FROM pg_attribute a \
                  WHERE a.attrelid = i.indrelid AND a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1])) = $2";
    let mut sorted = keys.to_vec();
    sorted.sort();
    sorted.dedup();
    if session.query(select, &[&table, &sorted])?.is_empty() {
        let keys = list(keys.iter().map(|key| quoted(key)));
        wrong.push(format!(
            "it has no unique index over ({keys}), which `conflict` needs: CREATE UNIQUE INDEX ON {table} ({keys})"
        ));
    }
    Ok(wrong)
}

fn conversions(schema: &Schema, found: &[Column]) -> Vec<Conversion> {
    let of = |field: &ringmill_wire::Field| {
        let column = found.iter().find(|column| column.name == field.name)?;
        conversion(field.data_type, column)
    };
    schema.fields.iter().map(|field| of(field).unwrap_or(Conversion::Same)).collect()
}

/// How values come into the column; `None`: they do not fit.
fn conversion(data_type: DataType, column: &Column) -> Option<Conversion> {
    let (staged, found) = (sql_type(data_type).catalog, column.catalog.as_str());
    if column.is_array || matches!(data_type, DataType::List(_)) {
        let fits = column.is_array && matches!(data_type, DataType::List(_)) && staged == found;
        return fits.then_some(Conversion::Same);
    }
    Some(match (data_type, staged, found) {
        (DataType::UInt64, _, "int8") => Conversion::Signed,
        (DataType::UInt64, _, "numeric") => Conversion::NumericUnsigned,
        (DataType::UInt64, ..) => return None,
        (_, staged, found) if staged == found => Conversion::Same,
        (_, "int2", "int4") => Conversion::Widen(4),
        (_, "int2" | "int4", "int8") => Conversion::Widen(8),
        (_, "int2" | "int4" | "int8", "numeric") => Conversion::Numeric,
        (_, "float4", "float8") => Conversion::Double,
        (_, "text", "varchar" | "bpchar" | "citext") | (_, "timestamptz", "timestamp") => Conversion::Same,
        _ => return None,
    })
}

fn list(items: impl Iterator<Item = String>) -> String {
    items.collect::<Vec<_>>().join(", ")
}

fn qualified(schema: &str, table: &str) -> String {
    format!("{}.{}", quoted(schema), quoted(table))
}

/// `"name"`, as SQL wants a name that may have any character.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
