//! What the window tests share: made-up streams, rows as plain values, and a driver for the operator.
#![allow(dead_code)]

pub mod oracle;
pub mod store;
pub mod stream;

use std::sync::Arc;

use ringmill_engine::window::{
    NamedAggregate, RowTime, Statistic, StatisticsSpec, TimeColumn, WindowKind, WindowOperator, WindowSpec,
};
use ringmill_wire::{
    BatchView, BatchWriter, Capacity, ColumnView, DataType, Field, HeapBatch, ListItem, Schema, Template, TimeUnit,
};

use ringmill_state::StoreCall;
use store::{NODE, Store};

const MS: i64 = 1_000_000;

/// SplitMix64 (Steele, Lea, Flood 2014).
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub fn chance(&mut self, one_in: u64) -> bool {
        self.below(one_in) == 0
    }
}

/// A value of any column.
#[derive(Clone, Debug)]
pub enum Value {
    Null,
    Int(i128),
    Float(f64),
    Bytes(Vec<u8>),
    List(Vec<Value>),
}

impl PartialEq for Value {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Value::Null, Value::Null) => true,
            (Value::Int(a), Value::Int(b)) => a == b,
            (Value::Float(a), Value::Float(b)) => {
                a == b || a.is_nan() && b.is_nan() || (a - b).abs() <= 1e-7 * a.abs().max(b.abs()).max(1.0)
            }
            (Value::Bytes(a), Value::Bytes(b)) => a == b,
            (Value::List(a), Value::List(b)) => a == b,
            _ => false,
        }
    }
}

pub type Row = Vec<Value>;

/// Index of the timestamp column.
pub const TIME: usize = 0;

/// Columns: timestamp, four that may be keys, and values of several kinds.
pub fn input_schema() -> Arc<Schema> {
    let schema = Schema::new(vec![
        Field::new("t", DataType::Timestamp(TimeUnit::Millisecond)),
        Field::new("name", DataType::Utf8),
        Field::nullable("site", DataType::Utf8),
        Field::nullable("number", DataType::Int16),
        Field::new("flag", DataType::Bool),
        Field::new("x", DataType::Float64),
        Field::nullable("y", DataType::Float32),
        Field::new("i", DataType::Int64),
        Field::nullable("u", DataType::UInt32),
        Field::nullable("text", DataType::Utf8),
    ]);
    Arc::new(schema.unwrap())
}

/// A row at that time, of one of `keys` keys.
pub fn random_row(random: &mut Random, time: i64, keys: u64) -> Row {
    let key = random.below(keys);
    let name = if key.is_multiple_of(5) {
        format!("a key that is too long for its place in the entry {key}")
    } else {
        format!("k{key}")
    };
    let nullable = |random: &mut Random, value: Value| if random.chance(4) { Value::Null } else { value };
    vec![
        Value::Int(time.into()),
        Value::Bytes(name.into_bytes()),
        if key.is_multiple_of(3) { Value::Null } else { Value::Bytes(format!("s{}", key % 2).into_bytes()) },
        if key % 4 == 1 { Value::Null } else { Value::Int(i128::from(key) - 2) },
        Value::Int(i128::from(key % 2)),
        Value::Float((random.below(2000) as f64 - 1000.0) / 8.0),
        {
            let value = Value::Float(f64::from(random.below(100) as f32 / 4.0));
            nullable(random, value)
        },
        Value::Int(if random.chance(20) { i64::MAX.into() } else { i128::from(random.below(1000)) - 500 }),
        {
            let value = Value::Int(random.below(50).into());
            nullable(random, value)
        },
        {
            let value = Value::Bytes(vec![b'x'; random.below(40) as usize]);
            nullable(random, value)
        },
    ]
}

/// Appends a row; `false`: it does not fit.
pub fn push_row(writer: &mut BatchWriter, row: &Row) -> bool {
    if writer.rows_free() == 0 {
        return false;
    }
    let schema = writer.template().schema().clone();
    for (column, (value, field)) in row.iter().zip(&schema.fields).enumerate() {
        match (value, field.data_type) {
            (Value::Null, _) => writer.push_null(column),
            (Value::Int(value), DataType::Bool) => writer.push(column, *value != 0),
            (Value::Int(value), DataType::Int16) => writer.push(column, *value as i16),
            (Value::Int(value), DataType::UInt32) => writer.push(column, *value as u32),
            (Value::Int(value), _) => writer.push(column, *value as i64),
            (Value::Float(value), DataType::Float32) => writer.push(column, *value as f32),
            (Value::Float(value), _) => writer.push(column, *value),
            (Value::Bytes(value), _) => writer.push_bytes(column, value).unwrap(),
            (Value::List(_), _) => unreachable!("the input has no lists"),
        }
    }
    writer.finish_row();
    true
}

/// All rows of a batch.
pub fn read_rows(view: &BatchView<'_>) -> Vec<Row> {
    (0..view.rows()).map(|row| view.columns().map(|column| read_value(&column, row)).collect()).collect()
}

fn read_value(column: &ColumnView<'_>, row: usize) -> Value {
    if !column.is_valid(row) {
        return Value::Null;
    }
    match column.data_type() {
        DataType::Bool | DataType::UInt8 => Value::Int(column.values::<u8>()[row].into()),
        DataType::Int8 => Value::Int(column.values::<i8>()[row].into()),
        DataType::Int16 => Value::Int(column.values::<i16>()[row].into()),
        DataType::UInt16 => Value::Int(column.values::<u16>()[row].into()),
        DataType::Int32 => Value::Int(column.values::<i32>()[row].into()),
        DataType::UInt32 => Value::Int(column.values::<u32>()[row].into()),
        DataType::Int64 | DataType::Timestamp(_) => Value::Int(column.values::<i64>()[row].into()),
        DataType::UInt64 => Value::Int(column.values::<u64>()[row].into()),
        DataType::Float32 => Value::Float(column.values::<f32>()[row].into()),
        DataType::Float64 => Value::Float(column.values::<f64>()[row]),
        DataType::Utf8 | DataType::Binary => Value::Bytes(column.bytes(row).to_vec()),
        DataType::List(ListItem::Float64) => {
            Value::List(column.list::<f64>(row).iter().map(|x| Value::Float(*x)).collect())
        }
        DataType::List(ListItem::Float32) => {
            Value::List(column.list::<f32>(row).iter().map(|x| Value::Float((*x).into())).collect())
        }
        DataType::List(ListItem::UInt32) => {
            Value::List(column.list::<u32>(row).iter().map(|x| Value::Int((*x).into())).collect())
        }
        other => unreachable!("no test has {other}"),
    }
}

/// A batch for that many rows.
pub fn batch(schema: Arc<Schema>, rows: u32) -> HeapBatch {
    HeapBatch::new(Arc::new(Template::new(schema, Capacity { rows_max: rows, variable_bytes_max: 1 << 16 }).unwrap()))
}

pub fn spec(key: &[&str], window: WindowKind, aggregates: &[&str]) -> WindowSpec {
    WindowSpec {
        key: key.iter().map(|name| (*name).to_owned()).collect(),
        window,
        allowed_lateness_ns: 0,
        aggregates: aggregates
            .iter()
            .enumerate()
            .map(|(at, text)| NamedAggregate { name: format!("a{at}"), expression: (*text).to_owned() })
            .collect(),
        statistics: None,
    }
}

pub fn statistics_of(column: &str, horizon_ns: Option<i64>) -> StatisticsSpec {
    let columns = [(Statistic::Mean, "s_mean"), (Statistic::Std, "s_std"), (Statistic::Count, "s_count")];
    let columns = columns.map(|(statistic, name)| (statistic, name.to_owned())).to_vec();
    StatisticsSpec { of: column.to_owned(), columns, horizon_ns }
}

/// One of each.
const AGGREGATES: [&str; 20] = [
    "count()",
    "count(y)",
    "sum(x)",
    "mean(x)",
    "sum(i)",
    "mean(i)",
    "sum(u)",
    "min(x)",
    "max(i)",
    "min(y)",
    "max(u)",
    "variance(x)",
    "stddev(y)",
    "first(x)",
    "last(y)",
    "first(text)",
    "last(text)",
    "last(flag)",
    "collect(x)",
    "collect(u)",
];

/// A step of any shape, with some of the aggregates.
pub fn random_spec(random: &mut Random) -> WindowSpec {
    let keys: [&[&str]; 7] =
        [&["name"], &["number"], &["name", "number"], &["site"], &["flag", "number"], &[], &["name", "site"]];
    let window = match random.below(3) {
        0 => WindowKind::Tumbling { size_ns: (1 + random.below(40) as i64) * MS },
        1 => {
            let every_ns = (1 + random.below(10) as i64) * MS;
            WindowKind::Sliding { size_ns: every_ns + random.below(30) as i64 * MS, every_ns }
        }
        _ => WindowKind::Session { gap_ns: (1 + random.below(15) as i64) * MS },
    };
    let aggregates: Vec<&str> = AGGREGATES.iter().copied().filter(|_| random.chance(3)).collect();
    let aggregates = if aggregates.is_empty() { vec!["count()"] } else { aggregates };
    let mut spec = spec(keys[random.below(7) as usize], window, &aggregates);
    if random.chance(2) {
        spec.allowed_lateness_ns = random.below(30) as i64 * MS;
    }
    let numeric = aggregates.iter().position(|text| ["mean(x)", "sum(u)", "min(y)", "count()"].contains(text));
    if let (Some(at), true) = (numeric, random.chance(2)) {
        let horizon_ns = random.chance(2).then(|| (1 + random.below(60) as i64) * MS);
        spec.statistics = Some(statistics_of(&format!("a{at}"), horizon_ns));
    }
    spec
}

/// A number from the environment.
pub fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// The operator with batches around it.
pub struct Driver {
    pub operator: WindowOperator,
    schema: Arc<Schema>,
    output: Arc<Schema>,
    pub results: Vec<Row>,
    pub late: Vec<Row>,
    /// The shard's store, if state may be put away in it.
    pub store: Option<Store>,
    /// Most bytes of state that were seen.
    pub bytes_max: u64,
}

impl Driver {
    pub fn new(spec: &WindowSpec, state_bytes_max: u64) -> Self {
        let schema = input_schema();
        let time = TimeColumn::Event { index: TIME, unit: TimeUnit::Millisecond };
        let operator = WindowOperator::new(spec, schema.clone(), time, state_bytes_max).unwrap();
        let output = ringmill_engine::window::output_schema(spec, &schema, Some(TimeUnit::Millisecond)).unwrap();
        Self {
            operator,
            schema,
            output: Arc::new(output),
            results: Vec::new(),
            late: Vec::new(),
            store: None,
            bytes_max: 0,
        }
    }

    /// Pushes rows as one batch, with a batch for late rows of `late_rows` rows.
    pub fn push(&mut self, rows: &[Row], late_rows: u32) {
        let mut input = batch(self.schema.clone(), rows.len().max(1) as u32);
        rows.iter().for_each(|row| assert!(push_row(input.writer(), row)));
        let mut late = batch(self.schema.clone(), late_rows);
        let mut next = 0;
        while next < rows.len() {
            let taken =
                self.operator.push(&input.view(), next..rows.len(), RowTime::Column(TIME), 7, late.writer()).unwrap();
            assert!(
                taken > 0 || late.rows() > 0 || self.operator.wants_store(),
                "nothing was taken though late rows had room"
            );
            next += taken;
            self.bytes_max = self.bytes_max.max(self.operator.state_bytes());
            self.late.extend(read_rows(&late.view()));
            late.clear();
            while self.operator.wants_store() {
                // Keys come back only when nothing is pending.
                if !self.serve() && self.operator.has_output() {
                    self.emit(3);
                }
            }
        }
    }

    /// Emits one batch of at most `rows` rows.
    pub fn emit(&mut self, rows: u32) {
        let mut out = batch(self.output.clone(), rows);
        let emitted = self.operator.emit(out.writer());
        assert_eq!(emitted.rows, out.rows());
        self.results.extend(read_rows(&out.view()));
        assert!(emitted.rows > 0 || self.operator.wants_store(), "has_output promised rows");
        if emitted.rows == 0 {
            self.serve();
        }
    }

    /// Serves what the operator wants of its store; `false`: it wants nothing now.
    pub fn serve(&mut self) -> bool {
        let mut call = StoreCall::default();
        if !self.operator.call(&mut call.node(NODE)) {
            return false;
        }
        self.store.as_mut().expect("it has a store").serve(&mut call);
        self.operator.answer(&call).unwrap();
        true
    }

    pub fn drain(&mut self, rows: u32) {
        while self.operator.has_output() {
            self.emit(rows);
        }
    }
}
