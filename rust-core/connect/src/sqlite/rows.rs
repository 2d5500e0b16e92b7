//! NDJSON, as our encoder writes it, to SQL values.

use base64::{Engine, engine::general_purpose::STANDARD};
use ringmill_wire::{DataType, Field, Schema};
use rusqlite::{Statement, types::Value};
use sonic_rs::{JsonValueTrait, LazyValue};

/// The declared type of a column; see [`SqliteSink`](crate::SqliteSink).
pub fn declared_type(data_type: DataType) -> &'static str {
    match data_type {
        DataType::Bool => "BOOLEAN",
        DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::Int64 => "INTEGER",
        DataType::UInt8 | DataType::UInt16 | DataType::UInt32 => "INTEGER",
        // With any numeric affinity SQLite would turn digits beyond 2^63 into a float.
        DataType::UInt64 => "",
        DataType::Float32 | DataType::Float64 => "REAL",
        DataType::Utf8 | DataType::Timestamp(_) | DataType::List(_) => "TEXT",
        DataType::Binary => "BLOB",
    }
}

/// Binds the values of one row, in the schema's order; says what is wrong with a line that is none of ours.
pub fn bind(line: &[u8], schema: &Schema, statement: &mut Statement<'_>) -> Result<(), String> {
    let text = std::str::from_utf8(line).map_err(|error| error.to_string())?;
    let mut count = 0;
    for member in sonic_rs::to_object_iter(text) {
        let (key, value) = member.map_err(|error| error.to_string())?;
        let field = schema.fields.get(count).filter(|field| field.name == *key);
        let field = field.ok_or_else(|| format!("column {count} is {key:?}"))?;
        let value = convert(&value, field).ok_or_else(|| {
            let raw = value.as_raw_str();
            format!("{raw} in column {key:?} is no {}", field.data_type)
        })?;
        count += 1;
        statement.raw_bind_parameter(count, value).map_err(|error| error.to_string())?;
    }
    if count == schema.len() { Ok(()) } else { Err(format!("it has {count} columns instead of {}", schema.len())) }
}

fn convert(value: &LazyValue<'_>, field: &Field) -> Option<Value> {
    if value.is_null() {
        return Some(Value::Null);
    }
    Some(match field.data_type {
        DataType::Bool => Value::Integer(value.as_bool()?.into()),
        DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::Int64 => Value::Integer(value.as_i64()?),
        DataType::UInt8 | DataType::UInt16 | DataType::UInt32 | DataType::UInt64 => {
            let value = value.as_u64()?;
            i64::try_from(value).map_or_else(|_| Value::Text(value.to_string()), Value::Integer)
        }
        DataType::Float32 | DataType::Float64 => Value::Real(value.as_f64()?),
        DataType::Utf8 | DataType::Timestamp(_) => Value::Text(value.as_str()?.to_owned()),
        DataType::Binary => Value::Blob(STANDARD.decode(value.as_str()?).ok()?),
        DataType::List(_) => Value::Text(value.as_raw_str().to_owned()),
    })
}
