//! Nanoseconds per row of the parts of this crate, on one core:
//! `cargo run --release -p ringmill-connect --example connect_bench`.

use std::{hint::black_box, sync::Arc, time::Instant};

use ringmill_connect::{
    Checksum, DeadLetter, DeadLetters, FieldSpec, FileSpec, Format, GeneratorSpec, Order, Partition, Poll, PollContext,
    RECORD_BYTES_MAX, Shape, encoder,
};
use ringmill_wire::{Capacity, DataType, HeapBatch, Schema, Template, TimeUnit};

const ROWS: u64 = 4_000_000;
const RUNS: usize = 5;

struct NoLetters;

impl DeadLetters for NoLetters {
    fn has_room(&self) -> bool {
        true
    }
    fn push(&mut self, letter: &DeadLetter<'_>) {
        panic!("{letter:?}");
    }
}

fn batch(schema: &Arc<Schema>, rows_max: u32) -> HeapBatch {
    let capacity = Capacity { rows_max, variable_bytes_max: rows_max * 64 };
    HeapBatch::new(Arc::new(Template::new(Arc::clone(schema), capacity).unwrap()))
}

/// Polls to the end; `each` sees every batch.
fn drain(partition: &mut dyn Partition, batch: &mut HeapBatch, mut each: impl FnMut(&HeapBatch)) {
    loop {
        let mut context = PollContext {
            now_ns: 0,
            event_time: Some(1),
            event_time_max_ns: i64::MAX,
            dead: &mut NoLetters,
            rows_max: u32::MAX,
        };
        let poll = partition.poll(batch.writer(), &mut context).unwrap();
        if poll == Poll::Rows && batch.writer().rows_free() > 0 {
            continue;
        }
        each(batch);
        batch.clear();
        if poll == Poll::End {
            return;
        }
    }
}

/// The best of some runs.
fn measure(what: &str, rows: u64, bytes: u64, mut run: impl FnMut()) {
    let mut best = f64::INFINITY;
    for _ in 0..RUNS {
        let start = Instant::now();
        run();
        best = best.min(start.elapsed().as_secs_f64());
    }
    let ns = best * 1e9 / rows as f64;
    let rate = 1e3 / ns;
    let throughput = bytes as f64 / best / 1e9;
    println!("{what:<44} {ns:7.1} ns/row {rate:7.1} M rows/s {throughput:6.2} GB/s");
}

fn field(name: &str, data_type: DataType) -> FieldSpec {
    FieldSpec { name: name.to_owned(), data_type, nullable: false, path: None }
}

fn sensors(rows: u64, columns: Option<&[&str]>) -> GeneratorSpec {
    GeneratorSpec {
        keys: 500_000,
        rows: Some(rows),
        anomaly_rate: 1e-4,
        columns: columns.map(|names| names.iter().map(|name| name.to_string()).collect()),
        ..GeneratorSpec::default()
    }
}

fn generators() {
    let ticks = GeneratorSpec { shape: Shape::Ticks, ..sensors(ROWS, None) };
    let few_keys = GeneratorSpec { keys: 1, ..sensors(ROWS, None) };
    let cases = [
        ("generator, sensors, 5 columns", sensors(ROWS, None)),
        ("generator, 1 key", few_keys),
        (
            "generator, numbers and timestamp",
            sensors(ROWS, Some(&["timestamp", "temperature", "humidity", "air_quality"])),
        ),
        ("generator, temperature", sensors(ROWS, Some(&["temperature"]))),
        ("generator, device_id", sensors(ROWS, Some(&["device_id"]))),
        ("generator, timestamp", sensors(ROWS, Some(&["timestamp"]))),
        ("generator, ticks", ticks),
    ];
    for (what, spec) in cases {
        let mut batch = batch(&spec.schema().unwrap(), 4096);
        let mut partition = spec.open(1, &[], None).unwrap().remove(0).1;
        let start = partition.position();
        measure(what, ROWS, 0, || {
            partition.seek(&start).unwrap();
            drain(&mut *partition, &mut batch, |batch| {
                black_box(batch.rows());
            });
        });
    }
}

fn encoders_and_checksum() {
    let spec = sensors(4096, None);
    let schema = spec.schema().unwrap();
    let mut filled = batch(&schema, 8192);
    let mut partition = spec.open(1, &[], None).unwrap().remove(0).1;
    let mut context = PollContext {
        now_ns: 0,
        event_time: None,
        event_time_max_ns: i64::MAX,
        dead: &mut NoLetters,
        rows_max: u32::MAX,
    };
    partition.poll(filled.writer(), &mut context).unwrap();
    let view = filled.view();
    let rounds = 100;
    let rows = rounds * view.rows() as u64;
    for format in [Format::Json, Format::Csv] {
        let mut encoder = encoder(format, &schema).unwrap();
        let mut out = Vec::new();
        encoder.encode(&view, 0..view.rows(), &mut out);
        let bytes = rounds * out.len() as u64;
        measure(&format!("encode {format:?}, 5 columns"), rows, bytes, || {
            for _ in 0..rounds {
                out.clear();
                encoder.encode(&view, 0..view.rows(), &mut out);
                black_box(&out);
            }
        });
    }
    let bytes = rows * (4 * 8 + 13 + 4);
    measure("checksum, 5 columns", rows, bytes, || {
        for _ in 0..rounds {
            let mut sum = Checksum::new();
            sum.update(&view, 0..view.rows());
            black_box(sum.value());
        }
    });
}

fn file_source(format: Format, text: &[u8], fields: Vec<FieldSpec>, rows: u64, what: &str) {
    let path = std::env::temp_dir().join(format!("ringmill-connect-bench-{}.txt", std::process::id()));
    std::fs::write(&path, text).unwrap();
    let spec = FileSpec {
        path: path.to_str().unwrap().to_owned(),
        format: format.into(),
        fields: fields.into(),
        rate: None,
        order: Order::Parallel,
        record_bytes_max: RECORD_BYTES_MAX,
        decode_threads: 0,
    };
    let schema = spec.schema().unwrap();
    let mut batch = batch(&schema, 1024);
    measure(what, rows, text.len() as u64, || {
        let mut partition = spec.open(1, &[], None).unwrap().remove(0).1;
        let mut seen = 0;
        drain(&mut *partition, &mut batch, |batch| seen += u64::from(batch.rows()));
        assert_eq!(seen, rows);
    });
    std::fs::remove_file(&path).unwrap();
}

fn parsers() {
    let rows = 500_000_u64;
    let (mut json, mut iso, mut csv) =
        (String::new(), String::new(), String::from("device_id,timestamp,temperature,site\n"));
    for row in 0..rows {
        let device = row * 7919 % 500_000;
        let temperature = 20.0 + (row % 1000) as f64 / 97.0;
        let (time, site) = (1_700_000_000_000 + row, row % 7);
        json += &format!(
            "{{\"device_id\":\"sensor-{device:06}\",\"timestamp\":{time},\"temperature\":{temperature},\"site\":\"hall-{site}\"}}\n"
        );
        let second = row / 60 % 60;
        iso += &format!(
            "{{\"device_id\":\"sensor-{device:06}\",\"timestamp\":\"2026-01-02T03:{second:02}:{:02}.123Z\",\"temperature\":{temperature},\"site\":\"hall-{site}\"}}\n",
            row % 60
        );
        csv += &format!("sensor-{device:06},{time},{temperature},hall-{site}\n");
    }
    let fields = vec![
        field("device_id", DataType::Utf8),
        field("timestamp", DataType::Timestamp(TimeUnit::Millisecond)),
        field("temperature", DataType::Float64),
        field("site", DataType::Utf8),
    ];
    let per_row = json.len() as u64 / rows;
    file_source(Format::Json, json.as_bytes(), fields.clone(), rows, &format!("json file, 4 fields, {per_row} bytes"));
    let per_row = iso.len() as u64 / rows;
    file_source(Format::Json, iso.as_bytes(), fields.clone(), rows, &format!("json file, RFC 3339, {per_row} bytes"));
    let two = fields[..3].to_vec();
    file_source(Format::Json, json.as_bytes(), two, rows, "json file, 3 of 4 fields");
    let per_row = csv.len() as u64 / rows;
    file_source(Format::Csv, csv.as_bytes(), fields, rows, &format!("csv file, 4 fields, {per_row} bytes"));
}

/// Events of which little is wanted: the rest is checked and passed over.
fn large_events() {
    let rows = 50_000_u64;
    let at = |name: &str, data_type, path: &str| FieldSpec { path: Some(path.to_owned()), ..field(name, data_type) };
    let fields = vec![
        at("device", DataType::Utf8, "/device/id"),
        field("timestamp", DataType::Timestamp(TimeUnit::Millisecond)),
        at("temperature", DataType::Float64, "/readings/temperature"),
        at("humidity", DataType::Float64, "/readings/humidity"),
    ];
    let message = "Lorem ipsum dolor sit amet, consectetur adipiscing elit, sed do eiusmod tempor. ".repeat(6);
    let mut text = String::new();
    for row in 0..rows {
        text += &format!(
            "{{\"id\":\"{row:016x}\",\"schema\":\"telemetry/3\",\"device\":{{\"id\":\"sensor-{row:06}\",\"model\":\"TX-7\",\
             \"firmware\":\"4.2.1\",\"owner\":{{\"team\":\"plant\",\"contact\":\"ops@example.com\"}}}},\"site\":{{\"name\":\"hall 7\",\
             \"country\":\"NO\",\"floor\":3,\"position\":[7.5,7.25]}},\"timestamp\":{},\"sequence\":{row},\"quality\":{{\"signal\":-71,\
             \"lost\":2,\"flags\":[\"calibrated\",\"indoor\",\"mains\"]}},\"readings\":{{\"temperature\":{}.5,\"humidity\":{}.25,\
             \"pressure\":1013.25,\"co2\":412,\"voc\":0.03,\"noise\":31.5,\"light\":870,\"battery\":3.712}},\"network\":{{\
             \"gateway\":\"gw-033\",\"protocol\":\"lora\",\"channel\":3,\"hops\":[1,4,9],\"retries\":0,\"encrypted\":true,\
             \"vlan\":null}},\"message\":\"{message}\",\"history\":[1.5,2.25,3.125,4.5,5.0],\"checksum\":\"{row:016x}\"}}\n",
            1_700_000_000_000 + row,
            row % 40,
            row % 100,
        );
    }
    let per_row = text.len() as u64 / rows;
    file_source(Format::Json, text.as_bytes(), fields, rows, &format!("json file, 4 of 45 fields, {per_row} bytes"));
}

fn main() {
    generators();
    parsers();
    large_events();
    encoders_and_checksum();
}
