//! Results of window steps that are kept to be looked at: `retain` on a step.
//!
//! Such a step gets a sink of its own, which reads its results and keeps them in the pipeline's state folder, in a store
//! of the step's own (see [`ringmill_state::RetainedStore`]). It is committed with everything else of an epoch, so it
//! needs checkpoints. What is in it is read by key and time, while the pipeline runs or stands.
//!
//! A window that fires again replaces its row. A session that a late row made begin earlier is another window: its old row
//! stays too, as in any other sink.

use jiff::Timestamp;
use ringmill_state::{KeyPart, RetainedLimits, RollUpLevel};
use ringmill_wire::{BatchView, DataType, Field, TimeUnit};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{NodeKind, NodeSpec, Plan, PlanError, SinkSpec};

/// Configurations cannot have a name with a colon, so this one is never taken.
const PREFIX: &str = "retained:";
/// The first column of a window's results that is not a key.
const START: &str = "window_start";
/// The key's value for a null, where it cannot be a text.
const NULL: &str = "null";

/// What is kept of a step's results.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetainedSpec {
    /// The step.
    pub step: String,
    /// How long, and how much.
    pub limits: RetainedLimits,
    /// How older results are rolled up, the finest first; empty: they are not.
    pub roll_up: Vec<RollUpLevel>,
}

/// The sink that keeps a step's results; to be added to the pipeline's nodes.
pub fn sink(spec: RetainedSpec) -> NodeSpec {
    let (name, inputs) = (format!("{PREFIX}{}", spec.step), vec![spec.step.clone()]);
    NodeSpec { name, inputs, kind: NodeKind::Sink(SinkSpec::Retained(spec)) }
}

/// The step whose results the sink called `name` keeps, if it is such a sink.
pub fn retained_step(name: &str) -> Option<&str> {
    name.strip_prefix(PREFIX)
}

/// What every step's results are kept of.
pub fn steps(plan: &Plan) -> impl Iterator<Item = &RetainedSpec> {
    plan.nodes.iter().filter_map(|node| match &node.kind {
        NodeKind::Sink(SinkSpec::Retained(spec)) => Some(spec),
        _ => None,
    })
}

/// What a store says about itself to those who read it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetainedAbout {
    /// The step.
    pub step: String,
    /// The key columns.
    pub key: Vec<Field>,
}

impl RetainedAbout {
    /// Of a step with these results.
    pub(crate) fn new(step: &str, results: &[Field]) -> RetainedAbout {
        RetainedAbout { step: step.to_owned(), key: results[..key_columns(results)].to_vec() }
    }

    /// What a store says; `None`: it is not one of a step's.
    pub fn read(about: &Value) -> Option<RetainedAbout> {
        serde_json::from_value(about.clone()).ok()
    }

    /// The key of which `values` are the columns, as text: `null` for a null that cannot be a text, times as in
    /// RFC 3339, everything else as in a configuration.
    ///
    /// # Errors
    /// What is wrong with the values.
    pub fn parse_key<T: AsRef<str>>(&self, values: &[T]) -> Result<Vec<u8>, String> {
        if values.len() != self.key.len() {
            let columns: Vec<&str> = self.key.iter().map(|field| field.name.as_str()).collect();
            let wanted = match columns[..] {
                [] => "no key, as it has one window for all rows".to_owned(),
                [column] => format!("one key, the {column}"),
                _ => format!("{} keys, one for each of {}", columns.len(), columns.join(", ")),
            };
            return Err(format!("{} wants {wanted}; there {}", self.step, count(values.len())));
        }
        let mut bytes = Vec::new();
        for (field, value) in self.key.iter().zip(values) {
            let value = value.as_ref();
            let part = parse(field, value).ok_or_else(|| format!("{value:?} is no {} {}", field.data_type, field.name));
            part?.write(&mut bytes);
        }
        Ok(bytes)
    }
}

fn count(values: usize) -> String {
    match values {
        0 => "is none".to_owned(),
        1 => "is one".to_owned(),
        values => format!("are {values}"),
    }
}

/// How many columns before the windows' bounds there are.
pub(crate) fn key_columns(fields: &[Field]) -> usize {
    fields.iter().position(|field| field.name == START).unwrap_or(0)
}

fn parse<'a>(field: &Field, text: &'a str) -> Option<KeyPart<'a>> {
    let integer = |bits: u32| {
        let value: i64 = text.parse().ok()?;
        let bound = 1i128 << (bits - 1);
        (-bound..bound).contains(&i128::from(value)).then_some(KeyPart::Signed(value))
    };
    let natural = |bits: u32| {
        let value: u64 = text.parse().ok()?;
        (u128::from(value) < 1u128 << bits).then_some(KeyPart::Unsigned(value))
    };
    match field.data_type {
        DataType::Utf8 | DataType::Binary => Some(KeyPart::Bytes(text.as_bytes())),
        _ if field.nullable && text == NULL => Some(KeyPart::Null),
        DataType::Bool => text.parse().ok().map(KeyPart::Bool),
        DataType::Int8 => integer(8),
        DataType::Int16 => integer(16),
        DataType::Int32 => integer(32),
        DataType::Int64 => integer(64),
        DataType::UInt8 => natural(8),
        DataType::UInt16 => natural(16),
        DataType::UInt32 => natural(32),
        DataType::UInt64 => natural(64),
        DataType::Timestamp(unit) => {
            let time: Timestamp = text.parse().ok()?;
            let value = time.as_nanosecond().div_euclid(i128::from(unit.nanoseconds()));
            i64::try_from(value).ok().map(KeyPart::Signed)
        }
        DataType::Float32 | DataType::Float64 | DataType::List(_) => None,
    }
}

/// A row's key column; windows have no keys of other types.
#[inline]
pub(crate) fn key_part<'a>(view: &BatchView<'a>, column: usize, row: usize) -> KeyPart<'a> {
    let column = view.column(column);
    if !column.is_valid(row) {
        return KeyPart::Null;
    }
    match column.data_type() {
        DataType::Bool => KeyPart::Bool(column.values::<u8>()[row] != 0),
        DataType::Int8 => KeyPart::Signed(column.values::<i8>()[row].into()),
        DataType::Int16 => KeyPart::Signed(column.values::<i16>()[row].into()),
        DataType::Int32 => KeyPart::Signed(column.values::<i32>()[row].into()),
        DataType::Int64 | DataType::Timestamp(_) => KeyPart::Signed(column.values::<i64>()[row]),
        DataType::UInt8 => KeyPart::Unsigned(column.values::<u8>()[row].into()),
        DataType::UInt16 => KeyPart::Unsigned(column.values::<u16>()[row].into()),
        DataType::UInt32 => KeyPart::Unsigned(column.values::<u32>()[row].into()),
        DataType::UInt64 => KeyPart::Unsigned(column.values::<u64>()[row]),
        DataType::Utf8 | DataType::Binary => KeyPart::Bytes(column.bytes(row)),
        DataType::Float32 | DataType::Float64 | DataType::List(_) => KeyPart::Null,
    }
}

/// A column's time in nanoseconds.
#[inline]
pub(crate) fn nanoseconds(view: &BatchView<'_>, column: usize, row: usize, unit: TimeUnit) -> i64 {
    view.column(column).values::<i64>()[row].saturating_mul(unit.nanoseconds())
}

/// Where nothing is committed, nothing can be kept.
pub(super) fn without_checkpoints(nodes: &[super::Node]) -> Vec<PlanError> {
    let steps = nodes.iter().filter_map(|node| retained_step(&node.name));
    let mistake = |step: &str| PlanError {
        node: step.to_owned(),
        key: "retain".to_owned(),
        message: "results are kept with checkpoints only".to_owned(),
        hint: Some("add a [checkpoint] table with path = \"state\"".to_owned()),
    };
    steps.map(mistake).collect()
}
