//! Second stage: typed values become the engine's node specifications, with defaults filled in and what belongs together
//! checked together.

use std::path::{Path, PathBuf};

use ringmill_connect::{
    Address, Compression, FieldSpec, Fields, FileFormat, FileSink, FileSpec, Format, GeneratorSpec, Order,
    OutputFormat, RECORD_BYTES_MAX, Shape, SocketSpec, StdinSpec, raw_misfits,
};
use ringmill_engine::plan::{
    CheckpointSpec, EventTypeSpec, FilterSpec, NodeKind, NodeSpec, OnError, PipelineSpec, RestartSpec, SinkSpec,
    SourceConnector, SourceSpec, StartFrom, Supervision, UdfDescription, UdfSpec,
};
use ringmill_engine::window::{NamedAggregate, Statistic, StatisticsSpec, WindowKind, WindowSpec};
use ringmill_wire::DataType;

use super::avro::schema as avro_schema;
use super::event_types::event_types;
use super::http::{http, http_sink};
use super::kafka::{check_transactions, kafka, kafka_sink};
use super::message_format::show_misfits;
use super::mistake::Mistake;
use super::mqtt::{mqtt, mqtt_sink};
use super::nats::{nats, nats_core, nats_core_sink, nats_sink};
use super::paths;
use super::pipeline::pipeline;
use super::postgres::postgres;
use super::producer::producer_source;
use super::python::{is_reference, python_sink, python_source};
use super::raw::{RawEntry, RawValue, Table};
use super::retained::retained;
use super::rolling::rolling;
use super::stop_early::stop_early;
use super::suggest::did_you_mean;
use crate::machine::Machine;

const HOUR_NS: i64 = 3_600_000_000_000;
/// Event time may run this far ahead of the wall clock (DESIGN.md, soundness rule 7).
const MAX_FUTURE_NS: i64 = 24 * HOUR_NS;
const BATCH_ROWS: i64 = 1024;
const DECODE_THREADS_DEFAULT_MAX: usize = 4;
/// Connections of a source at a time.
pub(super) const CONNECTIONS_MAX: usize = 100;
const SLOTS: i64 = 8;
/// Room for variable-length values, if nothing is configured: an average of this many bytes in each row.
const VARIABLE_BYTES_PER_ROW: u64 = 64;
/// Time between checkpoints (DESIGN.md, exactly once).
const INTERVAL_NS: u64 = 5_000_000_000;
/// A checkpoint makes some ten files durable; on a usual disk that alone takes some milliseconds.
const INTERVAL_NS_MIN: u64 = 10_000_000;
const DAY_NS: u64 = 24 * HOUR_NS.unsigned_abs();
const CHECKPOINTS_KEPT: usize = 3;
const RETRY_BACKOFF_NS: u64 = 100_000_000;
const RESTARTS_MAX: u32 = 10;
/// A scheduler on a busy machine holds a healthy worker up for some milliseconds.
const TIMEOUT_NS_MIN: u64 = 10_000_000;
/// Least `start_timeout`: an interpreter with NumPy takes a good part of it.
const START_NS_MIN: u64 = 1_000_000_000;
/// `replay_memory`.
const REPLAY_BYTES: u64 = 32 << 20;
/// One byte less is refused.
const WORKER_BYTES_MIN: u64 = 64 << 20;
/// 32-bit offsets address no more.
const VARIABLE_BYTES_MAX: u64 = i32::MAX as u64;

/// Where relative paths start and what defaults come from.
struct Surroundings<'a> {
    directory: &'a Path,
    python: PathBuf,
    cores: usize,
    has_checkpoints: bool,
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
    let mut around = Surroundings {
        directory,
        python: python.clone().unwrap_or_default(),
        cores: machine.cores,
        has_checkpoints: root.get("checkpoint").is_some(),
        mistakes,
    };
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
                let types = match &kind {
                    NodeKind::Source(source) => EventTypeSpec::nodes(&entry.key, source),
                    _ => Vec::new(),
                };
                nodes.push(NodeSpec { name: entry.key.clone(), inputs: table.texts("inputs"), kind });
                nodes.extend(types);
                nodes.extend(retained(&entry.key, table, around.mistakes));
            }
        }
    }
    paths::check(root, directory, around.mistakes);
    check_transactions(root, around.mistakes);
    let checkpoint = root.table("checkpoint").and_then(|table| checkpoint(table, &mut around));
    let pipeline = pipeline(root.table("pipeline"), &nodes, checkpoint, (default_name, machine), around.mistakes);
    (pipeline, nodes, python)
}

fn find_python(root: &Table, directory: &Path, machine: &Machine, mistakes: &mut Vec<Mistake>) -> Option<PathBuf> {
    let entries = ["sources", "steps", "sinks"].into_iter().flat_map(|section| root.children(section));
    let is_python = |kind: &str| matches!(kind, "udf" | "python");
    let first = entries.into_iter().find(|entry| entry.raw.table().is_some_and(|table| is_python(table.kind)))?;
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

fn checkpoint(table: &Table, around: &mut Surroundings<'_>) -> Option<CheckpointSpec> {
    let interval_ns = within(table, "interval", (INTERVAL_NS_MIN, "10ms"), (DAY_NS, "24h"), around);
    Some(CheckpointSpec {
        path: around.directory.join(table.text("path")?),
        interval_ns: interval_ns.unwrap_or(INTERVAL_NS),
        keep: table.integer("keep").map_or(CHECKPOINTS_KEPT, count),
        start: StartFrom::Newest,
    })
}

/// A duration that should not leave its bounds, each given as nanoseconds and as text; `None` when it is absent.
fn within(
    table: &Table,
    key: &str,
    (min, min_text): (u64, &str),
    (max, max_text): (u64, &str),
    around: &mut Surroundings<'_>,
) -> Option<u64> {
    let raw = table.get(key)?;
    let RawValue::Duration(ns) = raw.value else { return None };
    let ns = ns.unsigned_abs();
    if ns < min {
        around.mistakes.push(Mistake::at(raw.span, format!("`{key}` must be at least {min_text}")));
    } else if ns > max {
        around.mistakes.push(Mistake::at(raw.span, format!("`{key}` must be at most {max_text}")));
    }
    Some(ns)
}

/// Bounds were checked by the first stage, so nothing is lost here.
pub(super) fn count(integer: i64) -> usize {
    usize::try_from(integer).unwrap_or(0)
}

/// Bounds were checked by the first stage, so nothing is lost here.
fn natural(integer: i64) -> u32 {
    u32::try_from(integer).unwrap_or(0)
}

fn source(table: &Table, around: &mut Surroundings<'_>) -> Option<SourceSpec> {
    let connector = match table.kind {
        "generator" => SourceConnector::Generator(generator(table)),
        "file" => SourceConnector::File(file_source(table, around)?),
        "socket" => SourceConnector::Socket(socket(table, around)?),
        "http" => SourceConnector::Http(http(
            table,
            fields_or_types(table, Format::Json, around)?,
            around.directory,
            around.mistakes,
        )?),
        "kafka" => {
            let fields = fields_or_types(table, Format::Json, around)?;
            let spec = kafka(table, fields, record_bytes_max(table), around.directory, around.mistakes)?;
            SourceConnector::Kafka(spec)
        }
        "mqtt" => {
            let fields = fields_or_types(table, Format::Json, around)?;
            let spec = mqtt(table, fields, record_bytes_max(table), around.directory, around.mistakes)?;
            SourceConnector::Mqtt(spec)
        }
        "nats" => {
            let fields = fields_or_types(table, Format::Json, around)?;
            let places = (around.directory, around.has_checkpoints);
            let spec = nats(table, fields, record_bytes_max(table), places, around.mistakes)?;
            SourceConnector::Nats(spec)
        }
        "nats_core" => {
            let fields = fields_or_types(table, Format::Json, around)?;
            let spec = nats_core(table, fields, record_bytes_max(table), around.directory, around.mistakes)?;
            SourceConnector::NatsCore(spec)
        }
        "python" => {
            let fields = fields(table, Format::Csv, around)?;
            let supervision = supervision(table, around);
            let places = (around.python.clone(), around.directory);
            let source = python_source(table, fields, supervision, places, around.mistakes)?;
            SourceConnector::Python(Box::new(source))
        }
        "producer" => {
            let fields = fields(table, Format::Csv, around)?;
            SourceConnector::Producer(Box::new(producer_source(table, fields, around.mistakes)))
        }
        _ => {
            let format = format_of(table);
            let fields = fields_or_types(table, format, around)?;
            let rate = table.number("rate");
            SourceConnector::Stdin(StdinSpec { format, fields, rate, record_bytes_max: record_bytes_max(table) })
        }
    };
    let time_of_types = connector.event_types().map(|types| types.time_column().map(str::to_owned));
    Some(SourceSpec {
        event_time: time_of_types.unwrap_or_else(|| table.text("event_time").map(str::to_owned)),
        connector,
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
    let format = file_format(table, path, around)?;
    let of_records = match &format {
        FileFormat::Text(format) => *format,
        _ => {
            check_counted(table, &format, around);
            Format::Json
        }
    };
    Some(FileSpec {
        path: around.directory.join(path).to_string_lossy().into_owned(),
        format,
        fields: fields_or_types(table, of_records, around)?,
        rate: table.number("rate"),
        order: if table.text("order") == Some("sequential") { Order::Sequential } else { Order::Parallel },
        record_bytes_max: record_bytes_max(table),
        decode_threads: table.integer("decode_threads").map_or_else(|| decode_threads_default(around.cores), count),
    })
}

/// They do only what the shards have no time for, so there may be one for each core but one.
fn decode_threads_default(cores: usize) -> usize {
    cores.saturating_sub(1).min(DECODE_THREADS_DEFAULT_MAX)
}

fn socket(table: &Table, around: &mut Surroundings<'_>) -> Option<SocketSpec> {
    let address = match (table.text("tcp"), table.text("path")) {
        (Some(tcp), None) => Address::Tcp(tcp.to_owned()),
        (None, Some(path)) => Address::Unix(around.directory.join(path)),
        _ => {
            let hint = "tcp = \"127.0.0.1:7000\" is a port, path = \"in.sock\" a Unix socket";
            around.mistakes.push(Mistake::at(table.span, "a socket needs either `tcp` or `path`").hint(hint));
            return None;
        }
    };
    let of_lines = format_of(table);
    let format = match table.text("format") {
        Some("arrow") => FileFormat::Arrow,
        Some("micro_batch") => FileFormat::MicroBatch,
        _ => FileFormat::Text(of_lines),
    };
    if !matches!(format, FileFormat::Text(_)) {
        for entry in ["type", "types"].iter().filter_map(|key| table.entry(key)) {
            let message = format!("`{}` belongs to lines, and this is {}", entry.key, format.name());
            around.mistakes.push(Mistake::at(entry.key_span, message).hint("remove it"));
        }
    }
    Some(SocketSpec {
        address,
        format,
        fields: fields_or_types(table, of_lines, around)?,
        rate: table.number("rate"),
        record_bytes_max: record_bytes_max(table),
        connections_max: table.integer("connections_max").map_or(CONNECTIONS_MAX, count),
    })
}

/// Longest record of a source of text.
pub(super) fn record_bytes_max(table: &Table) -> usize {
    table.size("record_size_max").and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or(RECORD_BYTES_MAX)
}

/// Of text: what `format` says, or JSON.
pub(super) fn format_of(table: &Table) -> Format {
    match table.text("format") {
        Some("csv") => Format::Csv,
        Some("raw") => Format::Raw,
        _ => Format::Json,
    }
}

/// What the path's extension says.
fn extension(path: &str) -> Option<&str> {
    let name = path.trim_end_matches('/').trim_end_matches(".gz").trim_end_matches(".zst");
    Some(name.rsplit_once('.')?.1)
}

/// `format`, or what the path's extension says.
fn file_format(table: &Table, path: &str, around: &mut Surroundings<'_>) -> Option<FileFormat> {
    let name = table.text("format").or(extension(path));
    if name == Some("avro") {
        let file = table.table("avro").and_then(|own| own.get("schema_file"));
        let reader = file.map(|file| avro_schema(file, around.directory, around.mistakes));
        // A file that cannot be read is not left out.
        return reader.map_or(Some(None), |reader| reader.map(Some)).map(FileFormat::Avro);
    }
    if let Some(entry) = table.entry("avro") {
        let mistake = Mistake::at(entry.key_span, "`avro` has no effect without format = \"avro\"");
        around.mistakes.push(mistake.hint("remove it"));
    }
    match format_named(table, name) {
        Some(OutputFormat::Json) => Some(FileFormat::Text(Format::Json)),
        Some(OutputFormat::Csv) => Some(FileFormat::Text(Format::Csv)),
        Some(OutputFormat::Raw) => Some(FileFormat::Text(Format::Raw)),
        Some(OutputFormat::Arrow) => Some(FileFormat::Arrow),
        Some(OutputFormat::Parquet(_)) => Some(FileFormat::Parquet),
        None => {
            let hint = "add format = \"json\", \"csv\", \"raw\", \"arrow\", \"parquet\" or \"avro\"";
            unknown_format(table, path, hint, around)
        }
    }
}

/// Files whose rows are counted are not cut into records.
fn check_counted(table: &Table, format: &FileFormat, around: &mut Surroundings<'_>) {
    for key in ["decode_threads", "record_size_max", "stop_early", "type", "types"] {
        if let Some(entry) = table.entry(key) {
            let message = format!("`{key}` belongs to text, and this is {}", format.name());
            around.mistakes.push(Mistake::at(entry.key_span, message).hint("remove it"));
        }
    }
}

/// The same of a sink.
fn output_format(table: &Table, path: &str, around: &mut Surroundings<'_>) -> Option<OutputFormat> {
    let Some(format) = format_named(table, table.text("format").or(extension(path))) else {
        let hint = "add format = \"json\", \"csv\", \"raw\", \"arrow\" or \"parquet\"";
        return unknown_format(table, path, hint, around);
    };
    let is_parquet = matches!(format, OutputFormat::Parquet(_));
    let is_feather = table.text("format").is_none() && extension(path) == Some("feather");
    if (is_parquet || is_feather) && !path.ends_with('/') {
        let what = if is_parquet { "Parquet" } else { "Feather" };
        let message = format!("`path`: a {what} file cannot grow, so rows are written as files of a folder");
        let hint = format!("end the path with a slash: path = \"{path}/\"");
        around.mistakes.push(Mistake::at(path_span(table), message).hint(hint));
    }
    if let Some(entry) = table.entry("compression").filter(|_| !is_parquet) {
        let message = format!("`compression` belongs to format = \"parquet\", and this is {format}");
        around.mistakes.push(Mistake::at(entry.key_span, message).hint("remove it"));
    }
    Some(format)
}

/// What the value of `format` or an extension stands for.
fn format_named(table: &Table, name: Option<&str>) -> Option<OutputFormat> {
    Some(match name? {
        "json" | "ndjson" | "jsonl" => OutputFormat::Json,
        "csv" => OutputFormat::Csv,
        // No extension says so.
        "raw" if table.text("format") == name => OutputFormat::Raw,
        "arrow" | "arrows" | "feather" => OutputFormat::Arrow,
        "parquet" => OutputFormat::Parquet(compression(table)),
        _ => return None,
    })
}

fn path_span(table: &Table) -> super::Span {
    table.get("path").map_or(table.span, |raw| raw.span)
}

fn unknown_format<T>(table: &Table, path: &str, hint: &str, around: &mut Surroundings<'_>) -> Option<T> {
    let message = format!("the format of `{path}` cannot be told from its name");
    around.mistakes.push(Mistake::at(path_span(table), message).hint(hint));
    None
}

fn compression(table: &Table) -> Compression {
    match table.text("compression") {
        Some("none") => Compression::None,
        Some("snappy") => Compression::Snappy,
        _ => Compression::Zstd,
    }
}

/// The columns of a source, or those of each type of its events.
fn fields_or_types(table: &Table, format: Format, around: &mut Surroundings<'_>) -> Option<Fields> {
    let is_written = |key: &str| table.written.iter().any(|written| written == key);
    if is_written("types") {
        let without_lists = without_lists(table, format);
        let fields_of = |own: &Table, mistakes: &mut Vec<Mistake>| {
            let mut around = Surroundings { python: PathBuf::new(), mistakes, ..*around };
            fields_of(own, format, without_lists, &mut around)
        };
        let fields = event_types(table, format, fields_of, around.mistakes)?;
        return Some(stop_early(table, format, fields, around.mistakes));
    }
    if let Some(entry) = table.entry("type") {
        let mistake = Mistake::at(entry.key_span, "`type` has no effect without `types`");
        around.mistakes.push(mistake.hint("declare each type: [sources.NAME.types.order.fields]"));
    }
    if !is_written("fields") {
        let message = format!("a source of kind {} needs `fields`, or `type` and `types`", table.kind);
        around.mistakes.push(Mistake::at(table.span, message).hint("add fields = { id = \"int64\" }, for example"));
        return None;
    }
    let fields = fields(table, format, around)?;
    if format == Format::Raw {
        show_misfits(raw_misfits(&fields, &[]), table, None, around.mistakes);
    }
    Some(stop_early(table, format, fields.into(), around.mistakes))
}

/// What has no lists, if that is what is read.
fn without_lists(table: &Table, format: Format) -> Option<&'static str> {
    match (table.kind, format) {
        ("python" | "producer", _) => Some("rows that come from Python"),
        (_, Format::Csv) => Some("CSV"),
        _ => None,
    }
}

fn fields(table: &Table, format: Format, around: &mut Surroundings<'_>) -> Option<Vec<FieldSpec>> {
    fields_of(table, format, without_lists(table, format), around)
}

/// The columns of a source of one type, or of one of its types.
fn fields_of(
    table: &Table,
    format: Format,
    without_lists: Option<&str>,
    around: &mut Surroundings<'_>,
) -> Option<Vec<FieldSpec>> {
    let entry = table.entry("fields")?;
    let entries = table.children("fields");
    if entry.raw.table().is_some_and(|fields| fields.written.is_empty()) {
        around.mistakes.push(Mistake::at(entry.raw.span, "`fields` is empty").hint("declare at least one column"));
        return None;
    }
    let fields: Vec<FieldSpec> =
        entries.iter().filter_map(|entry| field(entry, format, without_lists, around)).collect();
    check_event_time(table, &fields, around);
    Some(fields)
}

fn field(
    entry: &RawEntry,
    format: Format,
    without_lists: Option<&str>,
    around: &mut Surroundings<'_>,
) -> Option<FieldSpec> {
    let (data_type, nullable, path) = match &entry.raw.value {
        RawValue::DataType(data_type) => (*data_type, false, None),
        RawValue::Table(table) => {
            (table.data_type("type")?, table.boolean("nullable").unwrap_or(false), table.get("path"))
        }
        _ => return None,
    };
    if let Some(what) = without_lists.filter(|_| matches!(data_type, DataType::List(_))) {
        let message = format!("`{}`: there are no lists in {what}", entry.key);
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
    if !is_reference(text) {
        let hint = "write module:function, for example \"anomaly:anomaly_score\" for anomaly_score in anomaly.py";
        around.mistakes.push(Mistake::at(function.span, format!("`function`: `{text}` names no function")).hint(hint));
    }
    let (batch_rows, variable_bytes) = batch_room(table, around.mistakes);
    Some(UdfSpec {
        function: text.to_owned(),
        directory: around.directory.to_owned(),
        python: around.python.clone(),
        workers: count(table.integer("workers").unwrap_or(1)),
        batch_rows,
        variable_bytes,
        slots: u32::try_from(table.integer("slots").unwrap_or(SLOTS)).unwrap_or(0),
        on_error: match table.text("on_error") {
            Some("skip") => OnError::Skip,
            Some("dead_letter") => OnError::DeadLetter,
            _ => OnError::Stop,
        },
        supervision: supervision(table, around),
        key: table.texts("key"),
        description: UdfDescription::default(),
    })
}

/// Rows of a micro-batch, and its room for each column of variable length.
pub(super) fn batch_room(table: &Table, mistakes: &mut Vec<Mistake>) -> (u32, u32) {
    batch_room_of(table, BATCH_ROWS, mistakes)
}

/// The same with another number of rows, if nothing is configured.
pub(super) fn batch_room_of(table: &Table, rows_default: i64, mistakes: &mut Vec<Mistake>) -> (u32, u32) {
    let batch_rows = table.integer("batch_rows").unwrap_or(rows_default);
    let variable_default = (batch_rows.unsigned_abs() * VARIABLE_BYTES_PER_ROW).min(VARIABLE_BYTES_MAX);
    let variable_bytes = table.size("batch_bytes").unwrap_or(variable_default);
    if variable_bytes > VARIABLE_BYTES_MAX {
        let span = table.get("batch_bytes").map_or(table.span, |raw| raw.span);
        mistakes.push(Mistake::at(span, "`batch_bytes` must be less than 2GiB"));
    }
    (u32::try_from(batch_rows).unwrap_or(u32::MAX), u32::try_from(variable_bytes).unwrap_or(0))
}

/// How the workers of a step or source are watched.
fn supervision(table: &Table, around: &mut Surroundings<'_>) -> Supervision {
    let retries = table.integer("retries");
    // A number of retries that was wrong is a mistake of its own.
    let has_none = retries.map_or_else(|| !table.written.iter().any(|key| key == "retries"), |retries| retries == 0);
    if let Some(entry) = table.entry("retry_backoff").filter(|_| has_none) {
        let mistake = Mistake::at(entry.key_span, "`retry_backoff` has no effect without `retries`");
        around.mistakes.push(mistake.hint("add retries = 3, for example"));
    }
    let memory = table.get("memory_limit");
    let memory_bytes_max = table.size("memory_limit");
    if let (Some(raw), Some(..WORKER_BYTES_MIN)) = (memory, memory_bytes_max) {
        let hint = "an interpreter with NumPy takes nearly that much before it has seen a row";
        around.mistakes.push(Mistake::at(raw.span, "`memory_limit` must be at least 64MiB").hint(hint));
    }
    let default = RestartSpec::default();
    let none = (0, "0s");
    let hour = (HOUR_NS.unsigned_abs(), "1h");
    let backoff_ns = within(table, "restart_backoff", none, hour, around).unwrap_or(default.backoff_ns);
    let start_ns_max =
        within(table, "start_timeout", (START_NS_MIN, "1s"), (DAY_NS, "24h"), around).unwrap_or(default.start_ns_max);
    let restarts = table.integer("restarts_max").map_or(RESTARTS_MAX, natural);
    Supervision {
        retries: retries.map_or(0, natural),
        retry_backoff_ns: within(table, "retry_backoff", none, hour, around).unwrap_or(RETRY_BACKOFF_NS),
        timeout_ns: within(table, "timeout", (TIMEOUT_NS_MIN, "10ms"), (DAY_NS, "24h"), around),
        memory_bytes_max,
        replay_bytes_max: table.size("replay_memory").unwrap_or(REPLAY_BYTES),
        restart: RestartSpec {
            backoff_ns,
            backoff_ns_max: default.backoff_ns_max.max(backoff_ns),
            // The death that follows the last restart is the one too many.
            deaths_max: restarts + 1,
            start_ns_max,
            ..default
        },
    }
}

fn sink(table: &Table, around: &mut Surroundings<'_>) -> Option<SinkSpec> {
    match table.kind {
        "file" => {
            let path = table.text("path")?;
            let format = output_format(table, path, around)?;
            let rolling = rolling(table, path, around.mistakes);
            Some(SinkSpec::File(FileSink { path: around.directory.join(path), format, rolling }))
        }
        "sqlite" => {
            let path = around.directory.join(table.text("path")?);
            let name = table.get("table")?;
            let text = name.text()?;
            let lower = text.to_ascii_lowercase();
            if lower.starts_with("sqlite_") || lower.starts_with("ringmill_") {
                let message = format!("`table`: `{text}` is reserved: names that begin with sqlite_ or ringmill_ are");
                around.mistakes.push(Mistake::at(name.span, message));
            }
            Some(SinkSpec::Sqlite { path, table: text.to_owned() })
        }
        "postgres" => postgres(table, around.directory, around.mistakes).map(SinkSpec::Postgres),
        "kafka" => {
            let places = (around.directory, around.has_checkpoints);
            kafka_sink(table, places, around.mistakes).map(SinkSpec::Kafka)
        }
        "mqtt" => mqtt_sink(table, around.directory, around.mistakes).map(SinkSpec::Mqtt),
        "nats" => nats_sink(table, around.directory, around.mistakes).map(SinkSpec::Nats),
        "nats_core" => nats_core_sink(table, around.directory, around.mistakes).map(SinkSpec::NatsCore),
        "python" => {
            let supervision = supervision(table, around);
            let places = (around.python.clone(), around.directory);
            python_sink(table, supervision, places, around.mistakes).map(|sink| SinkSpec::Python(Box::new(sink)))
        }
        "http" => http_sink(table, around.directory, around.mistakes).map(SinkSpec::Http),
        "stdout" => {
            Some(SinkSpec::Stdout { format: format_named(table, table.text("format")).unwrap_or(OutputFormat::Json) })
        }
        _ => Some(SinkSpec::Null),
    }
}
