//! What stored state has to be of so that a step can go on from it, in words that a person can compare.

use std::fmt::Write;

use ringmill_wire::Schema;

use super::aggregate::FUNCTIONS;
use super::operator::TimeColumn;
use super::schema::Bound;
use super::spec::{WindowKind, WindowSpec};

/// Windows, times, keys, aggregates and statistics with the types that they are of. Names of output columns do not
/// matter, nor does the allowed lateness: state fits whatever they are.
pub fn fingerprint(spec: &WindowSpec, bound: &Bound, input: &Schema, time: TimeColumn) -> String {
    let column = |index: usize| {
        let field = input.field(index);
        format!("{} {}{}", field.name, field.data_type, if field.nullable { "?" } else { "" })
    };
    let aggregates: Vec<String> = bound
        .aggregates
        .iter()
        .map(|aggregate| {
            let name =
                FUNCTIONS.iter().find(|(_, function)| *function == aggregate.function).map_or("", |known| known.0);
            format!("{name}({})", aggregate.input.map(column).unwrap_or_default())
        })
        .collect();
    let keys: Vec<String> = bound.keys.iter().map(|key| column(*key)).collect();
    let mut text = match spec.window {
        WindowKind::Tumbling { size_ns } => format!("tumbling {}", duration(size_ns)),
        WindowKind::Sliding { size_ns, every_ns } => {
            format!("sliding {} every {}", duration(size_ns), duration(every_ns))
        }
        WindowKind::Session { gap_ns } => format!("session {}", duration(gap_ns)),
    };
    let time = match time {
        TimeColumn::Event { index, .. } => input.field(index).name.as_str(),
        TimeColumn::Arrival => "of arrival",
    };
    let keys = if keys.is_empty() { "none".to_owned() } else { keys.join(", ") };
    let _ = write!(text, "; time {time}; key {keys}; aggregates {}", aggregates.join(", "));
    if let (Some(statistics), Some(of)) = (&spec.statistics, bound.statistics_of) {
        let _ = write!(text, "; statistics of {}", aggregates[of]);
        match statistics.horizon_ns {
            Some(horizon_ns) => {
                let _ = write!(text, " within {}", duration(horizon_ns));
            }
            None => text.push_str(" without horizon"),
        }
    }
    text
}

/// In the largest unit that gives a whole number.
fn duration(nanoseconds: i64) -> String {
    let units = [
        (86_400_000_000_000, "d"),
        (3_600_000_000_000, "h"),
        (60_000_000_000, "m"),
        (1_000_000_000, "s"),
        (1_000_000, "ms"),
        (1_000, "us"),
    ];
    let unit = units.iter().find(|(length, _)| nanoseconds % length == 0);
    unit.map_or_else(|| format!("{nanoseconds}ns"), |(length, name)| format!("{}{name}", nanoseconds / length))
}
