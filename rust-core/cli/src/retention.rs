//! What it takes to retain a step's results, as `ringmill check` says it: an estimate, for lack of better.

use ringmill_engine::Plan;
use ringmill_engine::plan::retained::RetainedSpec;
use ringmill_engine::plan::{Node, NodeKind, Port, SinkSpec, SourceConnector};
use ringmill_engine::window::{WindowKind, WindowSpec};
use ringmill_state::RollUpLevel;
use ringmill_wire::DataType;

use crate::config::duration::format_duration;
use crate::units::{bytes, grouped};

/// Keys that are reckoned with where nothing says how many there are.
const KEYS: u64 = 1_000;
/// Each row has the bounds of its window twice, in its key and its value, and a byte before the key.
const AROUND: u64 = 1 + 8 + 8;

/// What a sink of retained results keeps, in words.
pub fn of_sink(plan: &Plan, node: &Node, sink: &SinkSpec) -> Vec<String> {
    let SinkSpec::Retained(spec) = sink else { return Vec::new() };
    let mut lines = vec![format!(
        "kept until windows end {} later; `ringmill state get` reads it",
        format_duration(spec.limits.retain_ns)
    )];
    lines.extend(rolled_up(spec));
    lines.extend(estimate(plan, node, spec));
    lines.extend(spec.limits.bytes_max.map(|max| format!("at most {}: beyond it the oldest go", bytes(max))));
    lines
}

fn rolled_up(spec: &RetainedSpec) -> Option<String> {
    let level = |level: &RollUpLevel| {
        format!("to windows of {} after {}", format_duration(level.size_ns), format_duration(level.after_ns))
    };
    let levels: Vec<String> = spec.roll_up.iter().map(level).collect();
    (!levels.is_empty()).then(|| format!("rolled up {}", levels.join(", ")))
}

/// How many windows of a key there are in the time for which they are kept, with those that became others.
fn windows(spec: &RetainedSpec, distance_ns: i64) -> u64 {
    let (mut windows, mut length_ns, mut from_ns) = (0i64, distance_ns.max(1), 0);
    for level in &spec.roll_up {
        windows = windows.saturating_add((level.after_ns - from_ns) / length_ns);
        (length_ns, from_ns) = (level.size_ns.max(1), level.after_ns);
    }
    windows.saturating_add((spec.limits.retain_ns - from_ns) / length_ns).max(1).unsigned_abs()
}

fn estimate(plan: &Plan, node: &Node, spec: &RetainedSpec) -> Option<String> {
    let step = node.inputs.first().map(|input| input.node)?;
    let NodeKind::Window(window) = &plan.nodes.get(step)?.kind else { return None };
    let (distance_ns, most) = match window.window {
        WindowKind::Tumbling { size_ns } => (size_ns, ""),
        WindowKind::Sliding { every_ns, .. } => (every_ns, ""),
        WindowKind::Session { gap_ns } => (gap_ns, " at most"),
    };
    let windows = windows(spec, distance_ns);
    let known = keys(plan, step, window);
    let count = known.unwrap_or(KEYS);
    let rows = windows.saturating_mul(count);
    let whose = match known {
        _ if window.key.is_empty() => String::new(),
        Some(count) => format!(" for {} keys", grouped(count)),
        None => format!(" for every {} keys", grouped(KEYS)),
    };
    let size = bytes(rows.saturating_mul(row_bytes(node, window)));
    Some(format!("estimate:{most} {} rows, {size} before compression{whose}", grouped(rows)))
}

/// How many keys there are, where a generator says so.
fn keys(plan: &Plan, step: usize, window: &WindowSpec) -> Option<u64> {
    if window.key.is_empty() {
        return Some(1);
    }
    let mut at = step;
    loop {
        let node = plan.nodes.get(at)?;
        if let NodeKind::Source(source) = &node.kind {
            let SourceConnector::Generator(generator) = &source.connector else { return None };
            let is_generated = |column: &String| column == "device_id" || column == "symbol";
            return window.key.iter().all(is_generated).then_some(generator.keys);
        }
        let [input] = node.inputs[..] else { return None };
        at = Some(input.node).filter(|_| input.port == Port::Rows)?;
    }
}

/// A row as JSON with its key: names, punctuation, and values of usual length.
fn row_bytes(node: &Node, window: &WindowSpec) -> u64 {
    let value = |data_type| match data_type {
        DataType::Bool | DataType::Int8 | DataType::UInt8 => 4,
        DataType::Int16 | DataType::UInt16 => 5,
        DataType::Float32 => 9,
        DataType::Float64 => 18,
        DataType::Timestamp(_) => 26,
        DataType::Utf8 | DataType::Binary => 16,
        DataType::List(_) => 64,
        DataType::Int32 | DataType::UInt32 | DataType::Int64 | DataType::UInt64 => 8,
    };
    let columns = node.schema.fields.iter();
    let row: u64 = columns.map(|field| field.name.len() as u64 + 4 + value(field.data_type)).sum();
    row + AROUND + 16 * window.key.len() as u64
}
