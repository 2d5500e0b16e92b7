//! Second stage: typed values become the engine's node specifications, with defaults filled in and what belongs together
//! checked together.

use std::path::{Path, PathBuf};

use ringmill_connect::{FieldSpec, FileSpec, Format, GeneratorSpec, Order, RECORD_BYTES_MAX, Shape, StdinSpec};
use ringmill_engine::plan::{
    FilterSpec, NodeKind, NodeSpec, OnError, PipelineSpec, SinkSpec, SourceConnector, SourceSpec, UdfDescription,
    UdfSpec,
};
use ringmill_engine::window::{NamedAggregate, Statistic, StatisticsSpec, WindowKind, WindowSpec};
use ringmill_ring::Wait;
use ringmill_wire::DataType;

use super::mistake::Mistake;
use super::raw::{RawEntry, RawValue, Table};
use super::suggest::did_you_mean;
use crate::machine::Machine;

const HOUR_NS: i64 = 3_600_000_000_000;
/// Event time may run this far ahead of the wall clock (DESIGN.md, soundness rule 7).
const MAX_FUTURE_NS: i64 = 24 * HOUR_NS;
const BATCH_ROWS: i64 = 1024;
const SLOTS: i64 = 8;
/// Room for variable-length values, if nothing is configured: an average of this many bytes in each row.
const VARIABLE_BYTES_PER_ROW: u64 = 64;
/// 32-bit offsets address no more.
const VARIABLE_BYTES_MAX: u64 = i32::MAX as u64;

/// Where relative paths start and what defaults come from.
struct Surroundings<'a> {
    directory: &'a Path,
    python: PathBuf,
    mistakes: &'a mut Vec<Mistake>,
}

/// Pipeline, nodes in the order of the file, and the interpreter if a step needs one.
pub type Resolved = (PipelineSpec, Vec<NodeSpec>, Option<PathBuf>);

/// Resolves a checked file. Tables with mistakes are left out; the caller looks at `mistakes` before it uses the result.
pub fn resolve(
    root: &Table,
    directory: &Path,
    default_name: &str,
    machine: &Machine,
    mistakes: &mut Vec<Mistake>,
) -> Resolved {
    let python = find_python(root, directory, machine, mistakes);
    let mut around = Surroundings { directory, python: python.clone().unwrap_or_default(), mistakes };
    let mut nodes = Vec::new();
    for section in ["sources", "steps", "sinks"] {
        if let Some(table) = root.table(section)
            && table.written.is_empty()
            && section != "steps"
        {
            around.mistakes.push(Mistake::at(table.span, format!("`{section}` is empty")));
        }
        for entry in root.children(section) {
            let Some(table) = entry.raw.table() else { continue };
            let kind = match section {
                "sources" => source(table, &mut around).map(NodeKind::Source),
                "steps" => step(table, &mut around),
                _ => sink(table, &mut around).map(NodeKind::Sink),
            };
            if let Some(kind) = kind {
                nodes.push(NodeSpec { name: entry.key.clone(), inputs: table.texts("inputs"), kind });
            }
        }
    }
    check_paths(root, around.mistakes);
    let pipeline = pipeline(root.table("pipeline"), &nodes, default_name, machine);
    (pipeline, nodes, python)
}

fn find_python(root: &Table, directory: &Path, machine: &Machine, mistakes: &mut Vec<Mistake>) -> Option<PathBuf> {
    let first =
        root.children("steps").iter().find(|entry| entry.raw.table().is_some_and(|table| table.kind == "udf"))?;
    let configured = root.table("pipeline").and_then(|table| table.get("python"));
    match machine.find_python(configured.and_then(|raw| raw.text()), directory) {
        Ok(path) => Some(path),
        Err(message) => {
            let hint = "set `python` in [pipeline] or $RINGMILL_PYTHON to an interpreter that has the ringmill package";
            mistakes.push(Mistake::at(configured.map_or(first.key_span, |raw| raw.span), message).hint(hint));
            None
        }
    }
}

fn pipeline(table: Option<&Table>, nodes: &[NodeSpec], default_name: &str, machine: &Machine) -> PipelineSpec {
    let cpus: Vec<usize> = table.map_or(&[][..], |table| table.list("cpus")).iter().filter_map(index).collect();
    let cores = if cpus.is_empty() { machine.cores } else { cpus.len() };
    let wait = match table.and_then(|table| table.text("wait")) {
        Some("spin") => Wait::Spin,
        Some("block") => Wait::Block,
        _ => Wait::Adaptive,
    };
    PipelineSpec {
        name: table.and_then(|table| table.text("name")).unwrap_or(default_name).to_owned(),
        shards: table.and_then(|table| table.integer("shards")).map_or_else(|| shards_default(nodes, cores), count),
        wait,
        cpus,
        state_bytes_max: table.and_then(|table| table.size("state_memory")).unwrap_or(machine.memory_bytes / 4),
        run_base: Some(machine.run_base.clone()),
        worker_environment: machine.worker_environment.clone(),
    }
}

fn index(raw: &super::raw::Raw) -> Option<usize> {
    match raw.value {
        RawValue::Integer(integer) => usize::try_from(integer).ok(),
        _ => None,
    }
}

/// Bounds were checked by the first stage, so nothing is lost here.
fn count(integer: i64) -> usize {
    usize::try_from(integer).unwrap_or(0)
}

/// As many shards as there are cores for a shard thread and its workers: 1 on 2 cores and 32 on 64 with one worker each.
fn shards_default(nodes: &[NodeSpec], cores: usize) -> usize {
    let workers: usize = nodes
        .iter()
        .map(|node| match &node.kind {
            NodeKind::Udf(udf) => udf.workers,
            _ => 0,
        })
        .sum();
    (cores / (1 + workers)).clamp(1, 1024)
}

fn source(table: &Table, around: &mut Surroundings<'_>) -> Option<SourceSpec> {
    let connector = match table.kind {
        "generator" => SourceConnector::Generator(generator(table)),
        "file" => SourceConnector::File(file_source(table, around)?),
        _ => {
            let format = format_of(table).unwrap_or(Format::Json);
            let fields = fields(table, format, around)?;
            let rate = table.number("rate");
            SourceConnector::Stdin(StdinSpec { format, fields, rate, record_bytes_max: record_bytes_max(table) })
        }
    };
    Some(SourceSpec {
        connector,
        event_time: table.text("event_time").map(str::to_owned),
        out_of_orderness_ns: table.duration("out_of_orderness").unwrap_or(0),
        idle_timeout_ns: table.duration("idle_timeout").map(i64::unsigned_abs),
        max_future_ns: table.duration("max_future").unwrap_or(MAX_FUTURE_NS),
    })
}

fn generator(table: &Table) -> GeneratorSpec {
    let default = GeneratorSpec::default();
    let natural = |key: &str| table.integer(key).map(i64::unsigned_abs);
    GeneratorSpec {
        shape: if table.text("shape") == Some("ticks") { Shape::Ticks } else { Shape::Sensors },
        keys: natural("keys").unwrap_or(default.keys),
        rows: natural("rows"),
        rate: table.number("rate"),
        seed: natural("seed").unwrap_or(default.seed),
        anomaly_rate: table.number("anomaly_rate").unwrap_or(default.anomaly_rate),
        anomaly_sigmas: table.number("anomaly_sigmas").unwrap_or(default.anomaly_sigmas),
        start_ns: table.timestamp("start").unwrap_or(default.start_ns),
        period_ns: table.duration("interval").map_or(default.period_ns, i64::unsigned_abs),
        columns: table.get("columns").map(|_| table.texts("columns")),
    }
}

fn file_source(table: &Table, around: &mut Surroundings<'_>) -> Option<FileSpec> {
    let path = table.text("path")?;
    let format = format_or_extension(table, path, around)?;
    Some(FileSpec {
        path: around.directory.join(path).to_string_lossy().into_owned(),
        format,
        fields: fields(table, format, around)?,
        rate: table.number("rate"),
        order: if table.text("order") == Some("sequential") { Order::Sequential } else { Order::Parallel },
        record_bytes_max: record_bytes_max(table),
    })
}

fn record_bytes_max(table: &Table) -> usize {
    table.size("record_size_max").and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or(RECORD_BYTES_MAX)
}

fn format_of(table: &Table) -> Option<Format> {
    table.text("format").map(|name| if name == "csv" { Format::Csv } else { Format::Json })
}

/// `format`, or what the path's extension says.
fn format_or_extension(table: &Table, path: &str, around: &mut Surroundings<'_>) -> Option<Format> {
    if table.get("format").is_some() {
        return format_of(table);
    }
    let name = path.trim_end_matches(".gz").trim_end_matches(".zst");
    match name.rsplit_once('.').map(|(_, extension)| extension) {
        Some("json" | "ndjson" | "jsonl") => Some(Format::Json),
        Some("csv") => Some(Format::Csv),
        _ => {
            let span = table.get("path").map_or(table.span, |raw| raw.span);
            let message = format!("the format of `{path}` cannot be told from its name");
            around.mistakes.push(Mistake::at(span, message).hint("add format = \"json\" or format = \"csv\""));
            None
        }
    }
}

fn fields(table: &Table, format: Format, around: &mut Surroundings<'_>) -> Option<Vec<FieldSpec>> {
    let entry = table.entry("fields")?;
    let entries = table.children("fields");
    if entry.raw.table().is_some_and(|fields| fields.written.is_empty()) {
        around.mistakes.push(Mistake::at(entry.raw.span, "`fields` is empty").hint("declare at least one column"));
        return None;
    }
    let fields: Vec<FieldSpec> = entries.iter().filter_map(|entry| field(entry, format, around)).collect();
    check_event_time(table, &fields, around);
    Some(fields)
}

fn field(entry: &RawEntry, format: Format, around: &mut Surroundings<'_>) -> Option<FieldSpec> {
    let (data_type, nullable, path) = match &entry.raw.value {
        RawValue::DataType(data_type) => (*data_type, false, None),
        RawValue::Table(table) => {
            (table.data_type("type")?, table.boolean("nullable").unwrap_or(false), table.get("path"))
        }
        _ => return None,
    };
    if matches!(data_type, DataType::List(_)) {
        let message = format!("`{}`: sources cannot read lists yet", entry.key);
        around.mistakes.push(Mistake::at(entry.raw.span, message));
        return None;
    }
    if let Some(raw) = path
        && let Some(text) = raw.text()
        && matches!(format, Format::Json)
        && !text.starts_with('/')
    {
        let message = format!("`{text}` is not a JSON pointer");
        around.mistakes.push(Mistake::at(raw.span, message).hint(format!("write \"/{}\"", text.replace('.', "/"))));
    }
    let path = path.and_then(|raw| raw.text()).map(str::to_owned);
    Some(FieldSpec { name: entry.key.clone(), data_type, nullable, path })
}

fn check_event_time(table: &Table, fields: &[FieldSpec], around: &mut Surroundings<'_>) {
    let Some(raw) = table.get("event_time") else { return };
    let Some(name) = raw.text() else { return };
    let written = table.table("fields").is_some_and(|fields| fields.written.iter().any(|field| field == name));
    let mistake = match fields.iter().find(|field| field.name == name) {
        // The field is there, but something else is wrong with it.
        None if written => return,
        None => {
            let times = fields.iter().filter(|field| matches!(field.data_type, DataType::Timestamp(_)));
            let names: Vec<&str> = times.map(|field| field.name.as_str()).collect();
            let hint = did_you_mean(name, &names)
                .unwrap_or_else(|| "name one of the timestamp columns in `fields`".to_owned());
            Mistake::at(raw.span, format!("`event_time`: there is no field `{name}`")).hint(hint)
        }
        Some(field) if !matches!(field.data_type, DataType::Timestamp(_)) => {
            let message = format!("`event_time`: the field `{name}` is {}, not a timestamp", field.data_type);
            Mistake::at(raw.span, message).hint(format!("declare {name} = \"timestamp[ms]\" (or s, us, ns)"))
        }
        Some(field) if field.nullable => Mistake::at(raw.span, format!("`event_time`: the field `{name}` may be null"))
            .hint("event time needs a value in every row"),
        Some(_) => return,
    };
    around.mistakes.push(mistake);
}

fn step(table: &Table, around: &mut Surroundings<'_>) -> Option<NodeKind> {
    match table.kind {
        "window" => window(table, around).map(NodeKind::Window),
        "udf" => udf(table, around).map(NodeKind::Udf),
        _ => Some(NodeKind::Filter(FilterSpec { expression: table.text("where")?.to_owned() })),
    }
}

fn window(table: &Table, around: &mut Surroundings<'_>) -> Option<WindowSpec> {
    let names = table.table("aggregates").map_or(&[][..], |aggregates| &aggregates.written);
    let named = table
        .children("aggregates")
        .iter()
        .filter_map(|entry| Some(NamedAggregate { name: entry.key.clone(), expression: entry.raw.text()?.to_owned() }));
    let statistics = table.table("statistics").and_then(|statistics| statistics_spec(statistics, names, around));
    Some(WindowSpec {
        key: table.texts("key"),
        window: window_kind(table.table("window")?, around)?,
        allowed_lateness_ns: table.duration("allowed_lateness").unwrap_or(0),
        aggregates: named.collect(),
        statistics,
    })
}

fn window_kind(table: &Table, around: &mut Surroundings<'_>) -> Option<WindowKind> {
    const FORMS: &str = "write { tumbling = \"10s\" }, { sliding = \"10s\", every = \"2s\" } or { session = \"20s\" }";
    let shapes: Vec<&String> = table.written.iter().filter(|key| *key != "every").collect();
    let [shape] = shapes[..] else {
        let problem = if shapes.is_empty() { "says no length" } else { "has several shapes" };
        around.mistakes.push(Mistake::at(table.span, format!("the window {problem}")).hint(FORMS));
        return None;
    };
    let length = table.duration(shape)?;
    let every = table.get("every");
    match (shape.as_str(), every) {
        ("sliding", None) if table.written.iter().any(|key| key == "every") => None,
        ("sliding", None) => {
            around.mistakes.push(Mistake::at(table.span, "a sliding window needs `every`").hint(FORMS));
            None
        }
        ("sliding", Some(raw)) => {
            let RawValue::Duration(every_ns) = raw.value else { return None };
            if every_ns > length {
                let hint = "rows between two windows would be in none; use at most the window's length";
                around.mistakes.push(Mistake::at(raw.span, "`every` is longer than the window").hint(hint));
                return None;
            }
            Some(WindowKind::Sliding { size_ns: length, every_ns })
        }
        (name, Some(raw)) => {
            around.mistakes.push(Mistake::at(raw.span, format!("a {name} window has no `every`")).hint(FORMS));
            None
        }
        ("tumbling", None) => Some(WindowKind::Tumbling { size_ns: length }),
        (_, None) => Some(WindowKind::Session { gap_ns: length }),
    }
}

fn statistics_spec(table: &Table, aggregates: &[String], around: &mut Surroundings<'_>) -> Option<StatisticsSpec> {
    let of = table.get("of")?;
    let name = of.text()?;
    if !aggregates.iter().any(|aggregate| aggregate == name) {
        let hint =
            did_you_mean(name, aggregates).unwrap_or_else(|| format!("aggregates are {}", aggregates.join(", ")));
        around.mistakes.push(Mistake::at(of.span, format!("`of`: there is no aggregate `{name}`")).hint(hint));
    }
    let statistic = |word: &str| match word {
        "count" => Statistic::Count,
        "mean" => Statistic::Mean,
        _ => Statistic::Std,
    };
    let columns = match &table.get("as")?.value {
        RawValue::List(items) => {
            items.iter().filter_map(|item| item.text().map(|word| (statistic(word), word.to_owned()))).collect()
        }
        RawValue::Table(names) => {
            let entries = names.entries.iter();
            entries.filter_map(|entry| Some((statistic(&entry.key), entry.raw.text()?.to_owned()))).collect()
        }
        _ => return None,
    };
    Some(StatisticsSpec { of: name.to_owned(), columns, horizon_ns: table.duration("horizon") })
}

fn udf(table: &Table, around: &mut Surroundings<'_>) -> Option<UdfSpec> {
    let function = table.get("function")?;
    let text = function.text()?;
    let is_pair = text.split_once(':').is_some_and(|(module, name)| {
        !module.is_empty() && !name.is_empty() && !module.ends_with(".py") && !module.contains('/')
    });
    if !is_pair {
        let hint = "write module:function, for example \"anomaly:anomaly_score\" for anomaly_score in anomaly.py";
        around.mistakes.push(Mistake::at(function.span, format!("`function`: `{text}` names no function")).hint(hint));
    }
    let batch_rows = table.integer("batch_rows").unwrap_or(BATCH_ROWS);
    let variable_default = (batch_rows.unsigned_abs() * VARIABLE_BYTES_PER_ROW).min(VARIABLE_BYTES_MAX);
    let variable_bytes = table.size("batch_bytes").unwrap_or(variable_default);
    if variable_bytes > VARIABLE_BYTES_MAX {
        let span = table.get("batch_bytes").map_or(table.span, |raw| raw.span);
        around.mistakes.push(Mistake::at(span, "`batch_bytes` must be less than 2GiB"));
    }
    Some(UdfSpec {
        function: text.to_owned(),
        directory: around.directory.to_owned(),
        python: around.python.clone(),
        workers: count(table.integer("workers").unwrap_or(1)),
        batch_rows: u32::try_from(batch_rows).unwrap_or(u32::MAX),
        variable_bytes: u32::try_from(variable_bytes).unwrap_or(0),
        slots: u32::try_from(table.integer("slots").unwrap_or(SLOTS)).unwrap_or(0),
        on_error: match table.text("on_error") {
            Some("skip") => OnError::Skip,
            Some("dead_letter") => OnError::DeadLetter,
            _ => OnError::Stop,
        },
        description: UdfDescription::default(),
    })
}

/// Two sinks that write one file would destroy each other's rows.
fn check_paths(root: &Table, mistakes: &mut Vec<Mistake>) {
    let mut seen: Vec<(&str, &str)> = Vec::new();
    for entry in root.children("sinks") {
        let Some(raw) = entry.raw.table().and_then(|table| table.get("path")) else { continue };
        let Some(path) = raw.text() else { continue };
        match seen.iter().find(|(known, _)| *known == path) {
            Some((_, first)) => {
                mistakes.push(Mistake::at(raw.span, format!("the sink `{first}` writes this file already")));
            }
            None => seen.push((path, &entry.key)),
        }
    }
}

fn sink(table: &Table, around: &mut Surroundings<'_>) -> Option<SinkSpec> {
    match table.kind {
        "file" => {
            let path = table.text("path")?;
            let format = format_or_extension(table, path, around)?;
            Some(SinkSpec::File { path: around.directory.join(path), format })
        }
        "stdout" => Some(SinkSpec::Stdout { format: format_of(table).unwrap_or(Format::Json) }),
        _ => Some(SinkSpec::Null),
    }
}
