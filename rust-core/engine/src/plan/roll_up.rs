//! Rolling up retained results: which aggregates can be made of their own results, and what that needs beside them.
//!
//! A coarser row says what the step would have said for the longer window: counts, sums of integers, minima and maxima
//! exactly; what is computed with floats up to the rounding of another order of additions. Whatever cannot be had from
//! results alone is refused when the plan is built.

use ringmill_state::RollUpLevel;
use ringmill_wire::{DataType, Field, Schema};

use super::retained::{RetainedSpec, key_columns};
use super::{Node, NodeKind, PlanError, SinkSpec};
use crate::window::{Aggregate, Function, WindowKind, WindowSpec};

/// The bounds of the window.
const BOUNDS: usize = 2;

/// How a column of a coarser row comes about; columns are indices into the results.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Merged {
    /// The same in all rows.
    Key,
    /// `window_start`
    Start,
    /// `window_end`
    End,
    /// A sum of integers, clamped to the column's range; a count is one too.
    Integers {
        /// uint64 instead of int64
        is_unsigned: bool,
    },
    /// A sum of floats.
    Floats {
        /// How many values there were; `None`: some in every row.
        count: Option<usize>,
    },
    /// The least or the largest value.
    Extreme {
        /// the largest
        is_max: bool,
        /// How many values there were; `None`: a null says that there were none, or that there are always some.
        count: Option<usize>,
        /// How values compare.
        values: Values,
    },
    /// A mean.
    Mean {
        /// how many values
        count: usize,
    },
    /// A variance or standard deviation.
    Spread {
        /// how many values
        count: usize,
        /// their mean
        mean: usize,
        /// the standard deviation
        is_root: bool,
    },
}

/// How values compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Values {
    /// false is less than true
    Bools,
    /// exactly
    Integers,
    /// a null may also be a NaN or an infinity
    Floats,
    /// as points in time
    Times,
}

/// What is said about one key of the step.
struct Refusal {
    key: String,
    message: String,
    hint: String,
}

/// How each column of a step's results is merged.
///
/// # Errors
/// Each column that cannot be, and why.
fn merged(window: &WindowSpec, results: &Schema) -> Result<Vec<Merged>, Vec<Refusal>> {
    let mut refusals = shape(window);
    let keys = key_columns(&results.fields);
    let mut columns = vec![Merged::Key; keys];
    columns.extend([Merged::Start, Merged::End]);
    let aggregates: Vec<Aggregate> =
        window.aggregates.iter().filter_map(|named| named.expression.parse().ok()).collect();
    let around = Around { aggregates: &aggregates, first: keys + BOUNDS };
    let fields = results.fields.iter().skip(around.first);
    for ((named, aggregate), field) in window.aggregates.iter().zip(&aggregates).zip(fields) {
        match around.merged(aggregate, field) {
            Ok(column) => columns.push(column),
            Err((why, hint)) => refusals.push(Refusal {
                key: format!("aggregates.{}", named.name),
                message: format!("{} cannot be rolled up: {why}", named.expression),
                hint,
            }),
        }
    }
    if refusals.is_empty() { Ok(columns) } else { Err(refusals) }
}

fn shape(window: &WindowSpec) -> Vec<Refusal> {
    let mut refusals = Vec::new();
    let mut refuse = |key: &str, message: &str, hint: &str| {
        refusals.push(Refusal { key: key.to_owned(), message: message.to_owned(), hint: hint.to_owned() });
    };
    match window.window {
        WindowKind::Tumbling { .. } => {}
        WindowKind::Sliding { .. } => refuse(
            "roll_up",
            "sliding windows cannot be rolled up: a row is counted in several of them",
            "take roll_up away, or retain the results of a tumbling window",
        ),
        WindowKind::Session { .. } => refuse(
            "roll_up",
            "sessions cannot be rolled up: they begin and end anywhere",
            "take roll_up away, or retain the results of a tumbling window",
        ),
    }
    if window.statistics.is_some() {
        refuse(
            "roll_up",
            "rolling statistics cannot be rolled up: they are those of the shorter windows",
            "take roll_up or statistics away, or retain the results of a step without them",
        );
    }
    refusals
}

/// The aggregates beside each other.
struct Around<'a> {
    aggregates: &'a [Aggregate],
    /// Column of the first one.
    first: usize,
}

impl Around<'_> {
    /// Message and hint where it cannot be.
    fn merged(&self, aggregate: &Aggregate, field: &Field) -> Result<Merged, (String, String)> {
        let column = aggregate.column.as_deref();
        let is_max = aggregate.function == Function::Max;
        Ok(match (aggregate.function, field.data_type) {
            (Function::Count, _) => Merged::Integers { is_unsigned: true },
            (Function::Sum, DataType::Float64) => Merged::Floats { count: self.count_of_floats(column, field)? },
            (Function::Sum, data_type) => Merged::Integers { is_unsigned: data_type == DataType::UInt64 },
            (Function::Min | Function::Max, data_type) => {
                let values = match data_type {
                    DataType::Bool => Values::Bools,
                    DataType::Float32 | DataType::Float64 => Values::Floats,
                    DataType::Timestamp(_) => Values::Times,
                    _ => Values::Integers,
                };
                let count = if values == Values::Floats { self.count_of_floats(column, field)? } else { None };
                Merged::Extreme { is_max, count, values }
            }
            (Function::Mean, _) => Merged::Mean { count: self.count(column, field)? },
            (Function::Variance | Function::Stddev, _) => {
                let is_root = aggregate.function == Function::Stddev;
                Merged::Spread { count: self.count(column, field)?, mean: self.mean(column)?, is_root }
            }
            (Function::First | Function::Last, _) => {
                let why = "which window's rows came first is not in the results";
                return Err((why.to_owned(), "take it away, or retain the results of a step without it".to_owned()));
            }
            (Function::Collect, _) => {
                let why = "lists would only grow";
                return Err((why.to_owned(), "take it away, or retain the results of a step without it".to_owned()));
            }
        })
    }

    /// Where the number of a column's values stands.
    fn count(&self, column: Option<&str>, field: &Field) -> Result<usize, (String, String)> {
        let is_counted = |aggregate: &Aggregate| {
            aggregate.function == Function::Count
                && (aggregate.column.as_deref() == column || aggregate.column.is_none() && !field.nullable)
        };
        if let Some(index) = self.aggregates.iter().position(is_counted) {
            return Ok(self.first + index);
        }
        let count =
            if field.nullable { format!("count({})", column.unwrap_or_default()) } else { "count()".to_owned() };
        let hint = format!("add rows = \"{count}\" to the aggregates, for example");
        Err((format!("it needs {count} beside it"), hint))
    }

    /// The same for floats, of which a null may say that there is none, or that it is not finite.
    fn count_of_floats(&self, column: Option<&str>, field: &Field) -> Result<Option<usize>, (String, String)> {
        if field.nullable { self.count(column, field).map(Some) } else { Ok(None) }
    }

    fn mean(&self, column: Option<&str>) -> Result<usize, (String, String)> {
        let is_mean =
            |aggregate: &Aggregate| aggregate.function == Function::Mean && aggregate.column.as_deref() == column;
        match self.aggregates.iter().position(is_mean) {
            Some(index) => Ok(self.first + index),
            None => {
                let mean = format!("mean({})", column.unwrap_or_default());
                let hint = format!("add average = \"{mean}\" to the aggregates, for example");
                Err((format!("it needs {mean} beside it"), hint))
            }
        }
    }
}

/// What is to be rolled up: the levels, and how each column is merged.
#[derive(Clone, Debug)]
pub(crate) struct RollUpPlan {
    /// The finest first.
    pub levels: Vec<RollUpLevel>,
    /// For each column of the results.
    pub columns: Vec<Merged>,
}

/// How the results of `node`, which are kept as `spec` says, are rolled up; `None`: they are not.
pub(crate) fn roll_up(spec: &RetainedSpec, nodes: &[Node], node: &Node) -> Option<RollUpPlan> {
    let window = window(nodes, node)?;
    let columns = merged(window, &node.schema).ok().filter(|_| !spec.roll_up.is_empty())?;
    Some(RollUpPlan { levels: spec.roll_up.clone(), columns })
}

/// The window whose results a sink takes.
fn window<'a>(nodes: &'a [Node], sink: &Node) -> Option<&'a WindowSpec> {
    match &nodes.get(sink.inputs.first()?.node)?.kind {
        NodeKind::Window(window) => Some(window),
        _ => None,
    }
}

/// What is to be rolled up and cannot be.
pub(super) fn mistakes(nodes: &[Node]) -> Vec<PlanError> {
    let mut errors = Vec::new();
    for node in nodes {
        let NodeKind::Sink(SinkSpec::Retained(spec)) = &node.kind else { continue };
        let Some(window) = window(nodes, node).filter(|_| !spec.roll_up.is_empty()) else { continue };
        let refusals = merged(window, &node.schema).err().unwrap_or_default();
        errors.extend(refusals.into_iter().map(|Refusal { key, message, hint }| PlanError {
            node: spec.step.clone(),
            key,
            message,
            hint: Some(hint),
        }));
    }
    errors
}
