//! A row of a file as a JSON object, for its dead letter: what stands in the file, at the places where the fields look
//! for it, so that the decoder of JSON reads it back.

use arrow_array::{
    Array, RecordBatch,
    cast::AsArray,
    types::{
        Decimal32Type, Decimal64Type, Decimal128Type, Float16Type, Float32Type, Float64Type, Int8Type, Int16Type,
        UInt8Type, UInt16Type, UInt32Type, UInt64Type,
    },
};
use arrow_schema::DataType as ArrowType;
use base64::{Engine, engine::general_purpose::STANDARD};
use ringmill_wire::{DataType, TimeUnit};
use serde_json::{Map, Number, Value};

use super::{
    Bound, Columns,
    accept::{factor, lane},
};
use crate::formats::timestamp;

/// The row of a batch.
#[cold]
pub(super) fn object(columns: &Columns, batch: &RecordBatch, row: usize) -> String {
    let mut object = Map::new();
    for bound in columns.bound.iter().filter(|bound| !bound.keys.is_empty()) {
        put(&mut object, &bound.keys, bound.value(batch, row));
    }
    Value::Object(object).to_string()
}

/// Puts a value where its keys lead.
fn put(object: &mut Map<String, Value>, keys: &[String], value: Value) {
    match keys {
        [] => {}
        [last] => drop(object.insert(last.clone(), value)),
        [first, within @ ..] => {
            let inner = object.entry(first.clone()).or_insert_with(|| Value::Object(Map::new()));
            if let Value::Object(inner) = inner {
                put(inner, within, value);
            }
        }
    }
}

impl Columns {
    /// What a column of a row has, as text.
    pub(super) fn shown(&self, column: usize, batch: &RecordBatch, row: usize) -> String {
        match self.bound[column].value(batch, row) {
            Value::String(text) => text,
            other => other.to_string(),
        }
    }
}

impl Bound {
    fn value(&self, batch: &RecordBatch, row: usize) -> Value {
        match self.find(batch) {
            Some(found) if found.nulls.as_ref().is_none_or(|nulls| nulls.is_valid(row)) => {
                value(&found.array, row, self.column.data_type)
            }
            _ => Value::Null,
        }
    }
}

/// A value that is not null.
fn value(array: &dyn Array, row: usize, to: DataType) -> Value {
    use ArrowType as A;
    if array.is_null(row) {
        return Value::Null;
    }
    let decimal = |text: String| match to {
        DataType::Float64 => text.parse::<f64>().map_or(Value::Null, Value::from),
        _ => Value::String(text),
    };
    match array.data_type() {
        A::Boolean => Value::from(array.as_boolean().value(row)),
        A::UInt64 => Value::from(array.as_primitive::<UInt64Type>().value(row)),
        A::Float16 => float(array.as_primitive::<Float16Type>().value(row).to_f64()),
        A::Float32 => float(array.as_primitive::<Float32Type>().value(row).into()),
        A::Float64 => float(array.as_primitive::<Float64Type>().value(row)),
        A::Utf8 => Value::from(array.as_string::<i32>().value(row)),
        A::LargeUtf8 => Value::from(array.as_string::<i64>().value(row)),
        A::Utf8View => Value::from(array.as_string_view().value(row)),
        A::Binary => bytes(array.as_binary::<i32>().value(row), to),
        A::LargeBinary => bytes(array.as_binary::<i64>().value(row), to),
        A::BinaryView => bytes(array.as_binary_view().value(row), to),
        A::FixedSizeBinary(_) => bytes(array.as_fixed_size_binary().value(row), to),
        A::Decimal32(..) => decimal(array.as_primitive::<Decimal32Type>().value_as_string(row)),
        A::Decimal64(..) => decimal(array.as_primitive::<Decimal64Type>().value_as_string(row)),
        A::Decimal128(..) => decimal(array.as_primitive::<Decimal128Type>().value_as_string(row)),
        A::Dictionary(..) => {
            // Of all rows the keys would be made for each one of them.
            let one = array.slice(row, 1);
            let dictionary = one.as_any_dictionary();
            match dictionary.normalized_keys().first() {
                Some(key) => value(dictionary.values(), *key, to),
                None => Value::Null,
            }
        }
        A::List(_) => items(&array.as_list::<i32>().value(row), to),
        A::LargeList(_) => items(&array.as_list::<i64>().value(row), to),
        A::FixedSizeList(..) => items(&array.as_fixed_size_list().value(row), to),
        other => match integer(array, row) {
            Some(integer) => number(integer, other, to),
            None => Value::Null,
        },
    }
}

/// What no number of JSON stands for is text, as in the letters of functions.
fn float(value: f64) -> Value {
    let not_finite = || match value {
        f64::INFINITY => "inf",
        f64::NEG_INFINITY => "-inf",
        _ => "NaN",
    };
    Number::from_f64(value).map_or_else(|| Value::from(not_finite()), Value::Number)
}

fn bytes(bytes: &[u8], to: DataType) -> Value {
    match to {
        DataType::Utf8 => Value::from(String::from_utf8_lossy(bytes)),
        _ => Value::from(STANDARD.encode(bytes)),
    }
}

fn items(array: &dyn Array, to: DataType) -> Value {
    let item = if let DataType::List(item) = to { item.data_type() } else { to };
    Value::Array((0..array.len()).map(|row| value(array, row, item)).collect())
}

/// An integer, or what is one in memory.
fn integer(array: &dyn Array, row: usize) -> Option<i64> {
    use ArrowType as A;
    lane(array.data_type())?;
    Some(match array.data_type() {
        A::Int8 => array.as_primitive::<Int8Type>().value(row).into(),
        A::Int16 => array.as_primitive::<Int16Type>().value(row).into(),
        A::UInt8 => array.as_primitive::<UInt8Type>().value(row).into(),
        A::UInt16 => array.as_primitive::<UInt16Type>().value(row).into(),
        A::UInt32 => array.as_primitive::<UInt32Type>().value(row).into(),
        A::Int32 | A::Date32 | A::Time32(_) => (*array.to_data().buffer::<i32>(0).get(row)?).into(),
        _ => *array.to_data().buffer::<i64>(0).get(row)?,
    })
}

/// An instant is written as one where its column is one.
fn number(value: i64, from: &ArrowType, to: DataType) -> Value {
    let nanoseconds = match to {
        DataType::Timestamp(_) => factor(from, TimeUnit::Nanosecond),
        _ => None,
    };
    let is_plain = matches!(from, ArrowType::Int32 | ArrowType::Int64);
    match nanoseconds.filter(|_| !is_plain) {
        None => Value::from(value),
        Some(factor) => {
            // In the coarsest unit that it is a whole number of, so that it is in range.
            let (unit, by) = match factor {
                1 => (TimeUnit::Nanosecond, 1),
                1_000 => (TimeUnit::Microsecond, 1),
                1_000_000 => (TimeUnit::Millisecond, 1),
                _ => (TimeUnit::Second, factor / 1_000_000_000),
            };
            let mut text = Vec::new();
            timestamp::write(value.saturating_mul(by), unit, &mut text);
            Value::String(String::from_utf8_lossy(&text).into_owned())
        }
    }
}
