//! The aggregates that a window step can be asked for, and what they mean for the types of its columns.

use std::str::FromStr;

use ringmill_wire::{DataType, Field, ListItem, Schema};

use super::error::WindowError;
use super::spec::NamedAggregate;

/// A function over a window's rows of one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Function {
    /// Rows, or values that are there (uint64).
    Count,
    /// Integers: int64 or uint64, added exactly and clamped to its range; floats: float64.
    Sum,
    /// float64.
    Mean,
    /// Of the column's type; NaN only if every value is NaN.
    Min,
    /// As `Min`.
    Max,
    /// Sample variance (float64; NaN for a single value), by Welford's method.
    Variance,
    /// Its square root.
    Stddev,
    /// The value that came first, in the order in which rows reach the step.
    First,
    /// The value that came last.
    Last,
    /// All values in the order in which they came, as a list.
    Collect,
}

/// The functions by name.
pub const FUNCTIONS: [(&str, Function); 10] = [
    ("count", Function::Count),
    ("sum", Function::Sum),
    ("mean", Function::Mean),
    ("min", Function::Min),
    ("max", Function::Max),
    ("variance", Function::Variance),
    ("stddev", Function::Stddev),
    ("first", Function::First),
    ("last", Function::Last),
    ("collect", Function::Collect),
];

/// `mean(temperature)`, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Aggregate {
    /// What is computed.
    pub function: Function,
    /// The column it is of; `None`: `count()`.
    pub column: Option<String>,
}

impl FromStr for Aggregate {
    /// Message and hint.
    type Err = (String, Option<String>);

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let shape =
            || (format!("{text:?} is no aggregate"), Some("write it like mean(temperature) or count()".to_owned()));
        let (name, rest) = text.trim().split_once('(').ok_or_else(shape)?;
        let argument = rest.strip_suffix(')').ok_or_else(shape)?.trim();
        let argument = argument.strip_prefix('`').and_then(|inner| inner.strip_suffix('`')).unwrap_or(argument);
        let name = name.trim();
        let Some((_, function)) = FUNCTIONS.iter().find(|(known, _)| *known == name) else {
            let names: Vec<&str> = FUNCTIONS.iter().map(|(name, _)| *name).collect();
            return Err((format!("there is no aggregate {name:?}"), Some(function_hint(name, &names))));
        };
        if argument.is_empty() && *function != Function::Count {
            return Err((format!("{name}() needs a column"), Some(format!("write {name}(COLUMN)"))));
        }
        Ok(Self { function: *function, column: (!argument.is_empty()).then(|| argument.to_owned()) })
    }
}

fn function_hint(name: &str, names: &[&str]) -> String {
    let other = match name {
        "avg" | "average" => Some("mean"),
        "std" | "sd" | "stddev_samp" => Some("stddev"),
        "var" | "var_samp" => Some("variance"),
        "list" | "array_agg" | "collect_list" => Some("collect"),
        _ => nearest(name, names.iter().copied()),
    };
    match other {
        Some(other) => format!("did you mean {other}?"),
        None => format!("there are {}", names.join(", ")),
    }
}

/// The name most like `name`, if one is like it.
pub fn nearest<'a>(name: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let scored = names.map(|known| (strsim::jaro_winkler(known, name), known)).filter(|(score, _)| *score > 0.8);
    scored.max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, known)| known)
}

/// "There is no such column", with the nearest one.
pub fn missing_column(name: &str, input: &Schema) -> (String, Option<String>) {
    let names = || input.fields.iter().map(|field| field.name.as_str());
    let hint = match nearest(name, names()) {
        Some(near) => format!("did you mean {near}?"),
        None => format!("there are {}", names().collect::<Vec<_>>().join(", ")),
    };
    (format!("there is no column {name:?}"), Some(hint))
}

/// An aggregate bound to a schema.
#[derive(Clone, Debug, PartialEq)]
pub struct BoundAggregate {
    /// What is computed.
    pub function: Function,
    /// Index of the column; `None`: `count()`.
    pub input: Option<usize>,
    /// The output column.
    pub output: Field,
}

/// Parses and types an aggregate.
pub fn bind(named: &NamedAggregate, input: &Schema) -> Result<BoundAggregate, WindowError> {
    let wrong = |(message, hint): (String, Option<String>)| {
        WindowError::new(format!("aggregates.{}", named.name), message, hint)
    };
    let Aggregate { function, column } = named.expression.parse().map_err(wrong)?;
    let Some(column) = column else {
        return Ok(BoundAggregate { function, input: None, output: Field::new(&named.name, DataType::UInt64) });
    };
    let index = input.index_of(&column).ok_or_else(|| wrong(missing_column(&column, input)))?;
    let field = input.field(index);
    let data_type = output_type(function, field.data_type).map_err(|(why, hint)| {
        wrong((
            format!("{} cannot be computed: {column} is {}, {why}", named.expression, field.data_type),
            Some(hint.into()),
        ))
    })?;
    let nullable = field.nullable && !matches!(function, Function::Count | Function::Collect);
    let output = Field { name: named.name.clone(), data_type, nullable };
    Ok(BoundAggregate { function, input: Some(index), output })
}

/// The type of an aggregate of a column; else why there is none, and what to do.
fn output_type(function: Function, input: DataType) -> Result<DataType, (&'static str, &'static str)> {
    use DataType as T;
    let numeric = "numbers are needed";
    Ok(match (function, input) {
        (Function::Count, _) => T::UInt64,
        (Function::Sum, T::Int8 | T::Int16 | T::Int32 | T::Int64) => T::Int64,
        (Function::Sum, T::UInt8 | T::UInt16 | T::UInt32 | T::UInt64) => T::UInt64,
        (Function::Sum | Function::Mean | Function::Variance | Function::Stddev, input) => {
            if !is_number(input) {
                return Err((numeric, "use count(), min, max, first or last"));
            }
            T::Float64
        }
        (Function::Min | Function::Max, T::Utf8 | T::Binary | T::List(_)) => {
            return Err(("which has no fixed width", "use first, last or count()"));
        }
        (Function::First | Function::Last, T::List(_)) => {
            return Err(("and lists cannot be kept", "use count()"));
        }
        (Function::Collect, input) => match ListItem::of(input) {
            Some(item) => T::List(item),
            None => return Err(("and a list's items must be numbers or timestamps", "use first, last or count()")),
        },
        (Function::Min | Function::Max | Function::First | Function::Last, input) => input,
    })
}

/// Integers and floats.
pub fn is_number(data_type: DataType) -> bool {
    !data_type.is_variable() && !matches!(data_type, DataType::Bool | DataType::Timestamp(_))
}
