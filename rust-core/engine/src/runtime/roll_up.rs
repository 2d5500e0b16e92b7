//! Makes one JSON row of those of a coarser window, column by column as [`Merged`] says.
//!
//! Rows are those that the sink of retained results wrote: flat objects with the columns in their order. Numbers are read
//! from their text and not through a general parser, which may be off in the last bit. NaN and infinities are null in
//! JSON: a value that is null although there were values makes the coarser one null too, but a variance of a single value.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;
use ringmill_connect::write_timestamp;
use ringmill_state::{Merge, RollUp};
use ringmill_wire::{DataType, Schema, TimeUnit};
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::plan::roll_up::{Merged, RollUpPlan, Values};

const NULL: &str = "null";

/// What all rows of a step have in common.
struct Shape {
    /// Names as JSON.
    names: Vec<String>,
    columns: Vec<Merged>,
    unit: TimeUnit,
}

/// How a step's results are rolled up.
pub fn roll_up(plan: &RollUpPlan, schema: &Schema) -> RollUp {
    let unit = plan.columns.iter().position(|column| *column == Merged::Start);
    let unit = unit.map_or(TimeUnit::Millisecond, |column| match schema.field(column).data_type {
        DataType::Timestamp(unit) => unit,
        _ => TimeUnit::Millisecond,
    });
    let names = schema.fields.iter().map(|field| serde_json::Value::from(field.name.as_str()).to_string());
    let shape = Arc::new(Shape { names: names.collect(), columns: plan.columns.clone(), unit });
    RollUp { levels: plan.levels.clone(), merge: Box::new(move || Box::new(Row::new(Arc::clone(&shape)))) }
}

/// What is known of a column.
#[derive(Clone, Debug)]
enum Cell {
    /// No value yet.
    Empty,
    /// A value that is no finite number.
    NotFinite,
    Text(String),
    Integer(i128),
    Float(f64),
    /// The best value, as it compares and as it is written.
    Best(Comparable, String),
    Moments(Moments),
}

#[derive(Clone, Copy, Debug)]
enum Comparable {
    Exact(i128),
    Float(f64),
}

impl Comparable {
    fn compare(&self, other: &Comparable) -> Ordering {
        match (self, other) {
            (Comparable::Exact(one), Comparable::Exact(other)) => one.cmp(other),
            (Comparable::Float(one), Comparable::Float(other)) => one.total_cmp(other),
            // A column has one kind.
            _ => Ordering::Equal,
        }
    }
}

/// Number, mean and squared deviations from it.
#[derive(Clone, Copy, Debug)]
struct Moments {
    count: f64,
    mean: f64,
    squares: f64,
}

impl Moments {
    /// Chan, Golub and LeVeque 1979.
    fn add(self, other: Moments) -> Moments {
        let count = self.count + other.count;
        let delta = other.mean - self.mean;
        Moments {
            count,
            mean: self.mean + delta * other.count / count,
            squares: self.squares + other.squares + delta * delta * self.count * other.count / count,
        }
    }
}

/// A coarser row that is being made.
struct Row {
    shape: Arc<Shape>,
    cells: Vec<Cell>,
}

impl Row {
    fn new(shape: Arc<Shape>) -> Row {
        let cells = vec![Cell::Empty; shape.columns.len()];
        Row { shape, cells }
    }

    fn try_add(&mut self, row: &[u8]) -> Option<()> {
        let mut parser = serde_json::Deserializer::from_slice(row);
        let Members(members) = parser.deserialize_map(Members(Vec::new())).ok()?;
        parser.end().ok()?;
        let is_shaped = members.len() == self.cells.len()
            && members.iter().zip(&self.shape.names).all(|((name, _), wanted)| *name == *wanted);
        if !is_shaped {
            return None;
        }
        let values: Vec<&str> = members.iter().map(|(_, value)| value.get()).collect();
        for (index, column) in self.shape.columns.iter().enumerate() {
            let cell = std::mem::replace(&mut self.cells[index], Cell::Empty);
            self.cells[index] = added(column, cell, index, &values)?;
        }
        Some(())
    }

    fn write(&self, start_ns: i64, end_ns: i64) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        for (index, ((name, column), cell)) in
            self.shape.names.iter().zip(&self.shape.columns).zip(&self.cells).enumerate()
        {
            out.push(if index == 0 { b'{' } else { b',' });
            out.extend_from_slice(name.as_bytes());
            out.push(b':');
            match column {
                Merged::Start => self.write_time(start_ns, &mut out),
                Merged::End => self.write_time(end_ns, &mut out),
                _ => write(column, cell, &mut out)?,
            }
        }
        out.push(b'}');
        Some(out)
    }

    fn write_time(&self, time_ns: i64, out: &mut Vec<u8>) {
        out.push(b'"');
        write_timestamp(time_ns.div_euclid(self.shape.unit.nanoseconds()), self.shape.unit, out);
        out.push(b'"');
    }
}

impl Merge for Row {
    fn add(&mut self, row: &[u8]) -> bool {
        self.try_add(row).is_some()
    }

    fn finish(self: Box<Self>, start_ns: i64, end_ns: i64) -> Option<Vec<u8>> {
        self.write(start_ns, end_ns)
    }
}

/// A column with one more row; `None`: that is none of its rows.
fn added(column: &Merged, cell: Cell, index: usize, values: &[&str]) -> Option<Cell> {
    let text = values[index];
    // How many values are behind a null of floats.
    let some = |count: Option<usize>| count.map_or(Some(true), |count| Some(number(values[count])? > 0));
    if matches!(cell, Cell::NotFinite) {
        return Some(cell);
    }
    Some(match (*column, cell) {
        (Merged::Key, Cell::Empty) => Cell::Text(text.to_owned()),
        (Merged::Key | Merged::Start | Merged::End, cell) => cell,
        (Merged::Integers { .. }, cell) if text == NULL => cell,
        (Merged::Integers { .. }, Cell::Integer(sum)) => Cell::Integer(sum.checked_add(number(text)?)?),
        (Merged::Integers { .. }, _) => Cell::Integer(number(text)?),
        (Merged::Floats { count }, cell) if text == NULL => {
            if some(count)? {
                Cell::NotFinite
            } else {
                cell
            }
        }
        (Merged::Floats { .. }, Cell::Float(sum)) => Cell::Float(sum + float(text)?),
        (Merged::Floats { .. }, _) => Cell::Float(float(text)?),
        (Merged::Extreme { count, values: Values::Floats, .. }, cell) if text == NULL => {
            if some(count)? {
                Cell::NotFinite
            } else {
                cell
            }
        }
        (Merged::Extreme { .. }, cell) if text == NULL => cell,
        (Merged::Extreme { is_max, values, .. }, cell) => {
            let value = comparable(values, text)?;
            let wanted = if is_max { Ordering::Greater } else { Ordering::Less };
            match cell {
                Cell::Best(best, _) if value.compare(&best) != wanted => cell,
                _ => Cell::Best(value, text.to_owned()),
            }
        }
        (Merged::Mean { count }, cell) => with_moments(cell, moments(values[count], text, None)?),
        (Merged::Spread { count, mean, is_root }, cell) => {
            with_moments(cell, moments(values[count], values[mean], Some((text, is_root)))?)
        }
    })
}

fn with_moments(cell: Cell, more: Cell) -> Cell {
    match (cell, more) {
        (Cell::Moments(one), Cell::Moments(other)) => Cell::Moments(one.add(other)),
        (cell, Cell::Empty) => cell,
        (_, more) => more,
    }
}

/// What a row says of its values: count, mean, and perhaps variance, or its root.
fn moments(count: &str, mean: &str, spread: Option<(&str, bool)>) -> Option<Cell> {
    let count = number(count)?;
    if count == 0 {
        return Some(Cell::Empty);
    }
    if mean == NULL {
        return Some(Cell::NotFinite);
    }
    let (count, mean) = (count as f64, float(mean)?);
    let squares = match spread {
        None => 0.0,
        // A single value has no variance, and does not deviate.
        Some(_) if count == 1.0 => 0.0,
        Some((NULL, _)) => return Some(Cell::NotFinite),
        Some((text, is_root)) => {
            let value = float(text)?;
            (count - 1.0) * if is_root { value * value } else { value }
        }
    };
    Some(Cell::Moments(Moments { count, mean, squares }))
}

fn number(text: &str) -> Option<i128> {
    text.parse().ok()
}

fn float(text: &str) -> Option<f64> {
    text.parse().ok().filter(|value: &f64| value.is_finite())
}

fn comparable(values: Values, text: &str) -> Option<Comparable> {
    Some(match values {
        Values::Bools => Comparable::Exact(i128::from(text.parse::<bool>().ok()?)),
        Values::Integers => Comparable::Exact(number(text)?),
        Values::Floats => Comparable::Float(float(text)?),
        Values::Times => {
            let time: Timestamp = text.strip_prefix('"')?.strip_suffix('"')?.parse().ok()?;
            Comparable::Exact(time.as_nanosecond())
        }
    })
}

/// `None`: that cannot be.
fn write(column: &Merged, cell: &Cell, out: &mut Vec<u8>) -> Option<()> {
    match (cell, *column) {
        (Cell::Text(text) | Cell::Best(_, text), _) => out.extend_from_slice(text.as_bytes()),
        (Cell::Integer(sum), Merged::Integers { is_unsigned }) => {
            let (least, most) =
                if is_unsigned { (0, u64::MAX.into()) } else { (i64::MIN.into(), i128::from(i64::MAX)) };
            out.extend_from_slice(sum.clamp(&least, &most).to_string().as_bytes());
        }
        (Cell::Float(sum), _) => write_float(*sum, out),
        (Cell::Moments(moments), Merged::Mean { .. }) => write_float(moments.mean, out),
        (Cell::Moments(moments), Merged::Spread { is_root, .. }) => {
            // 0 / 0 for a single value, which is NaN as it should be.
            let variance = moments.squares / (moments.count - 1.0);
            write_float(if is_root { variance.sqrt() } else { variance }, out);
        }
        (Cell::Empty | Cell::NotFinite, _) => out.extend_from_slice(NULL.as_bytes()),
        _ => return None,
    }
    Some(())
}

fn write_float(value: f64, out: &mut Vec<u8>) {
    // Null for what is not finite; writing into memory does not fail.
    let _ = serde_json::to_writer(out, &value);
}

/// The members of an object in their order, with their names as JSON.
struct Members<'de>(Vec<(String, &'de RawValue)>);

impl<'de> Visitor<'de> for Members<'de> {
    type Value = Members<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<Members<'de>, A::Error> {
        while let Some((name, value)) = map.next_entry::<String, &RawValue>()? {
            self.0.push((serde_json::Value::from(name).to_string(), value));
        }
        Ok(self)
    }
}

#[cfg(test)]
#[path = "roll_up_tests.rs"]
mod tests;
