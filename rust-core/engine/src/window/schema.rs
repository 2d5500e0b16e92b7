//! Checks a window step's configuration against its input, and says what its results look like.

use ringmill_wire::{DataType, Field, Schema, TimeUnit};

use super::aggregate::{self, BoundAggregate, is_number, missing_column};
use super::error::WindowError;
use super::spec::{Statistic, WindowKind, WindowSpec};

/// Most windows that one row may fall into.
const OVERLAP_MAX: i64 = 1024;

/// A window step whose columns are found and typed.
pub struct Bound {
    /// Indices of the key columns.
    pub keys: Vec<usize>,
    /// The aggregates.
    pub aggregates: Vec<BoundAggregate>,
    /// Index of the aggregate that the statistics are of.
    pub statistics_of: Option<usize>,
    /// What the step gives out.
    pub schema: Schema,
}

/// The columns of a window step's results: the key columns, `window_start` and `window_end` (in the unit of the event
/// time; in arrival time milliseconds), the aggregates in order, and the statistics.
///
/// # Errors
/// Every mistake in `spec`, each with the key that is to be mended.
pub fn output_schema(
    spec: &WindowSpec,
    input: &Schema,
    event_time: Option<TimeUnit>,
) -> Result<Schema, Vec<WindowError>> {
    bind(spec, input, event_time).map(|bound| bound.schema)
}

pub fn bind(spec: &WindowSpec, input: &Schema, event_time: Option<TimeUnit>) -> Result<Bound, Vec<WindowError>> {
    let unit = event_time.unwrap_or(TimeUnit::Millisecond);
    let mut errors = Vec::new();
    let keys = bind_keys(&spec.key, input, &mut errors);
    check_window(spec, unit, &mut errors);
    if spec.aggregates.is_empty() {
        let hint = Some("for example aggregates = { readings = \"count()\" }".to_owned());
        errors.push(WindowError::new("aggregates", "a window needs at least one aggregate", hint));
    }
    let mut aggregates = Vec::new();
    for named in &spec.aggregates {
        match aggregate::bind(named, input) {
            Ok(bound) => aggregates.push(bound),
            Err(error) => errors.push(error),
        }
    }
    let statistics_of = bind_statistics(spec, &aggregates, &mut errors);
    let fields = fields(spec, input, &keys, unit, &aggregates);
    check_names(spec, &fields, &mut errors);
    if !errors.is_empty() {
        return Err(errors);
    }
    let schema = Schema::new(fields).map_err(|error| vec![WindowError::new("aggregates", error.to_string(), None)])?;
    Ok(Bound { keys, aggregates, statistics_of, schema })
}

/// Where the key columns stand; those that cannot be are mistakes.
pub fn bind_keys(key: &[String], input: &Schema, errors: &mut Vec<WindowError>) -> Vec<usize> {
    let mut keys = Vec::new();
    for name in key {
        let Some(index) = input.index_of(name) else {
            let (message, hint) = missing_column(name, input);
            errors.push(WindowError::new("key", message, hint));
            continue;
        };
        let why = match input.field(index).data_type {
            DataType::Float32 | DataType::Float64 => Some("and floats make no keys: equal looking ones may differ"),
            DataType::List(_) => Some("and lists make no keys"),
            _ => None,
        };
        if let Some(why) = why {
            let message = format!("{name} is {}, {why}", input.field(index).data_type);
            errors.push(WindowError::new(
                "key",
                message,
                Some("use a text, integer, bool, timestamp or binary column".into()),
            ));
        }
        if keys.contains(&index) {
            errors.push(WindowError::new("key", format!("{name} is named twice"), None));
        }
        keys.push(index);
    }
    keys
}

fn check_window(spec: &WindowSpec, unit: TimeUnit, errors: &mut Vec<WindowError>) {
    let mut wrong =
        |message: String, hint: Option<&str>| errors.push(WindowError::new("window", message, hint.map(str::to_owned)));
    let lengths = match spec.window {
        WindowKind::Tumbling { size_ns } => vec![("window's length", size_ns)],
        WindowKind::Sliding { size_ns, every_ns } => vec![("window's length", size_ns), ("window's step", every_ns)],
        WindowKind::Session { gap_ns } => vec![("session's gap", gap_ns)],
    };
    for (what, length) in &lengths {
        if *length <= 0 {
            wrong(format!("the {what} must be longer than nothing"), None);
        } else if length % unit.nanoseconds() != 0 {
            let message = format!(
                "the {what} of {length} ns is no whole number of the event time's steps ({} ns)",
                unit.nanoseconds()
            );
            wrong(message, Some("use a rounder length or a finer timestamp type"));
        }
    }
    if let WindowKind::Sliding { size_ns, every_ns } = spec.window
        && every_ns > 0
    {
        if every_ns > size_ns {
            wrong(
                "windows further apart than they are long would leave rows out".into(),
                Some("make `every` at most as long as `sliding`"),
            );
        } else if size_ns / every_ns > OVERLAP_MAX {
            wrong(
                format!("each row would fall into {} windows; {OVERLAP_MAX} is the most", size_ns / every_ns),
                Some("make `every` longer"),
            );
        }
    }
    if spec.allowed_lateness_ns < 0 {
        errors.push(WindowError::new("allowed_lateness", "it must not be negative", None));
    }
}

fn bind_statistics(spec: &WindowSpec, aggregates: &[BoundAggregate], errors: &mut Vec<WindowError>) -> Option<usize> {
    let statistics = spec.statistics.as_ref()?;
    if statistics.columns.is_empty() {
        let hint = Some("for example as = [\"mean\", \"std\", \"count\"]".to_owned());
        errors.push(WindowError::new("statistics.as", "no statistic is named", hint));
    }
    if statistics.horizon_ns.is_some_and(|horizon| horizon <= 0) {
        errors.push(WindowError::new("statistics.horizon", "it must be longer than nothing", None));
    }
    let found = aggregates.iter().position(|aggregate| aggregate.output.name == statistics.of);
    match found.map(|at| aggregates[at].output.data_type) {
        None if spec.aggregates.iter().any(|named| named.name == statistics.of) => {}
        None => {
            let names = spec.aggregates.iter().map(|named| named.name.as_str());
            let hint = match aggregate::nearest(&statistics.of, names.clone()) {
                Some(near) => format!("did you mean {near}?"),
                None => format!("there are {}", names.collect::<Vec<_>>().join(", ")),
            };
            let message = format!("there is no aggregate named {:?}", statistics.of);
            errors.push(WindowError::new("statistics.of", message, Some(hint)));
        }
        Some(data_type) if !is_number(data_type) => {
            let message = format!("{} is {data_type}, and statistics need numbers", statistics.of);
            errors.push(WindowError::new("statistics.of", message, None));
        }
        Some(_) => {}
    }
    found
}

fn fields(
    spec: &WindowSpec,
    input: &Schema,
    keys: &[usize],
    unit: TimeUnit,
    aggregates: &[BoundAggregate],
) -> Vec<Field> {
    let mut fields: Vec<Field> = keys.iter().map(|key| input.field(*key).clone()).collect();
    fields.push(Field::new("window_start", DataType::Timestamp(unit)));
    fields.push(Field::new("window_end", DataType::Timestamp(unit)));
    fields.extend(aggregates.iter().map(|aggregate| aggregate.output.clone()));
    for (statistic, name) in spec.statistics.iter().flat_map(|statistics| &statistics.columns) {
        let data_type = if *statistic == Statistic::Count { DataType::UInt64 } else { DataType::Float64 };
        fields.push(Field::new(name, data_type));
    }
    fields
}

fn check_names(spec: &WindowSpec, fields: &[Field], errors: &mut Vec<WindowError>) {
    for (at, field) in fields.iter().enumerate() {
        let name = &field.name;
        if !fields[..at].iter().any(|earlier| earlier.name == *name) || spec.key.contains(name) && at < spec.key.len() {
            continue;
        }
        let is_statistic =
            spec.statistics.iter().flat_map(|statistics| &statistics.columns).any(|(_, column)| column == name);
        let key = if is_statistic { "statistics.as".to_owned() } else { format!("aggregates.{name}") };
        let message = format!("two output columns would be named {name:?}");
        errors.push(WindowError::new(key, message, Some("give one of them another name".into())));
    }
}
