//! Lines, streams of Arrow and micro-batches over sockets: from many clients at once, garbage among them, and through the death of the core.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Child;
use std::time::Duration;

use ringmill_system_tests::chaos::{Chance, Progress, kill_after, kill_now, rounds};
use ringmill_system_tests::page::Page;
use ringmill_system_tests::{CHECKPOINT, Job, free_address, journaled_bytes, read_until, sinks_of, until};

const SENDERS: usize = 3;

fn pipeline(address: &str) -> String {
    format!(
        r#"
[pipeline]
shards = 2

{CHECKPOINT}
[sources.lines]
kind = "socket"
{address}
record_size_max = "1KiB"
fields = {{ sender = "int64", number = "int64" }}
{}"#,
        sinks_of("lines")
    )
}

const UNIX: &str = "path = \"in.sock\"";

/// Connects as soon as there is somebody.
fn connect<S>(child: &mut Child, connect: impl Fn() -> std::io::Result<S>) -> S {
    let mut stream = None;
    until(child, || {
        stream = connect().ok();
        stream.is_some()
    });
    stream.expect("it was waited for")
}

/// The numbers of each sender, in the order in which they are shown.
fn shown(job: &Job) -> Vec<Vec<u64>> {
    let mut numbers = vec![Vec::new(); SENDERS];
    for row in job.whole_rows("out.ndjson") {
        let value = |name: &str| row[name].as_u64().expect("a number");
        numbers[value("sender") as usize].push(value("number"));
    }
    numbers
}

#[test]
fn every_line_that_was_durable_is_shown_once_and_in_order_however_often_the_core_dies() {
    let mut chance = Chance::from_environment("sockets");
    let job = Job::new(&pipeline(UNIX), "");
    let wanted = rounds("RINGMILL_SOCKET_KILLS", 10);
    let (mut next, mut sent) = ([0; SENDERS], 0);
    for _ in Progress::over("kills", wanted) {
        let mut child = job.start(&[]);
        let mut clients: Vec<UnixStream> =
            (0..SENDERS).map(|_| connect(&mut child, || UnixStream::connect(job.path("in.sock")))).collect();
        let mode = job.path("in.sock").metadata().expect("it is there").permissions().mode();
        assert_eq!(mode & 0o077, 0, "others may connect: {mode:o}");
        for _ in 0..1 + chance.below(6) {
            let sender = chance.below(SENDERS as u64) as usize;
            let lines = 1 + chance.below(3_000);
            let line = |number| format!("{{\"sender\":{sender},\"number\":{number}}}\n");
            let burst: String = (next[sender]..next[sender] + lines).map(line).collect();
            clients[sender].write_all(burst.as_bytes()).expect("the run reads");
            next[sender] += lines;
            sent += burst.len() as u64;
        }
        until(&mut child, || journaled_bytes(&job) == sent);
        kill_now(child.id() as i32);
        child.wait().expect("a child can be waited for");
        for numbers in shown(&job) {
            assert!(numbers.iter().copied().eq(0..numbers.len() as u64), "rows are whole, in order and once");
        }
    }
    let mut child = job.start(&[]);
    until(&mut child, || shown(&job).iter().map(|numbers| numbers.len() as u64).eq(next));
    assert_eq!(job.end(child).figure("/rows/in"), next.iter().sum::<u64>(), "totals go on from the checkpoint");
    for (numbers, next) in shown(&job).into_iter().zip(next) {
        assert!(numbers.into_iter().eq(0..next));
    }
    println!("{wanted} kills, {} lines of {SENDERS} clients", next.iter().sum::<u64>());
}

#[test]
fn garbage_and_endless_lines_hurt_nobody_else_and_sigterm_ends_the_run_in_order() {
    let port = free_address();
    let job = Job::new(&pipeline(&format!("tcp = \"{port}\"\nconnections_max = 2")), "");
    let mut child = job.start(&[]);
    let mut good = connect(&mut child, || TcpStream::connect(port));
    let mut bad = connect(&mut child, || TcpStream::connect(port));
    let waiting = connect(&mut child, || TcpStream::connect(port));
    bad.write_all(b"\x00\xff\n{\"sender\": 1}\n{\"sender\": 1, \"number\": \"x\"}\n").expect("it reads");
    bad.write_all(&vec![b'['; 3 << 20]).expect("it reads");
    good.write_all(b"{\"sender\":0,\"number\":0}\n{\"sender\":0,\"num").expect("it reads");
    until(&mut child, || shown(&job)[0] == [0]);
    drop(bad);
    // There is room for the third now.
    (&waiting).write_all(b"{\"sender\":2,\"number\":0}").expect("it reads");
    drop(waiting);
    good.write_all(b"ber\":1}\r\n").expect("it reads");
    until(&mut child, || shown(&job) == [vec![0, 1], vec![], vec![0]]);
    let ended = job.end(child);
    assert_eq!((ended.figure("/rows/in"), ended.figure("/rows/dead_letters")), (7, 4));
    let reasons: Vec<String> = job.rows("dead.ndjson").iter().map(|row| row["reason"].to_string()).collect();
    assert_eq!(reasons.len(), 4, "{reasons:?}");
    assert!(reasons[3].contains("1024"), "{reasons:?}");
}

#[test]
fn an_address_in_use_is_refused_by_name() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = taken.local_addr().expect("an address");
    let job = Job::new(&pipeline(&format!("tcp = \"{port}\"")), "");
    let ended = job.run(&[]);
    assert_ne!(ended.code, Some(0));
    assert!(
        ended.stderr.contains(&format!("lines: cannot listen at {port}: Address already in use")),
        "{}",
        ended.stderr
    );
}

#[test]
fn the_pipeline_of_the_documentation_takes_lines() {
    let address = free_address();
    let job = Page::read("connect/socket").job(&[("127.0.0.1:7000", &address.to_string())]);
    let mut child = job.start(&[]);
    let mut client = connect(&mut child, || TcpStream::connect(address));
    client.write_all(b"{\"sensor\": \"s-1\", \"celsius\": 21.5}\n").expect("it reads");
    drop(client);
    until(&mut child, || job.whole_rows("readings.ndjson").len() == 1);
    assert_eq!(job.end(child).figure("/rows/in"), 1);
    assert_eq!(job.read("readings.ndjson"), "{\"sensor\":\"s-1\",\"celsius\":21.5}\n");
}

/// A pipeline of streams of Arrow.
fn of_arrow(address: &str) -> String {
    let text = pipeline(address).replace("\"1KiB\"", "\"64KiB\"\nformat = \"arrow\"");
    text.replace("number = \"int64\"", "number = \"int64\", word = \"utf8\"")
}

/// Writes the files 0.arrows, 1.arrows and so on, each a stream of so many rows in batches of ten, with words of a dictionary that
/// grows and is replaced.
const STREAMS: &str = r#"
import sys
import pyarrow as pa
from pyarrow import ipc

count, rows = int(sys.argv[1]), int(sys.argv[2])
schema = pa.schema({"sender": pa.int64(), "number": pa.int64(), "word": pa.dictionary(pa.int32(), pa.utf8())})
for stream in range(count):
    options = ipc.IpcWriteOptions(emit_dictionary_deltas=stream % 2 == 0, compression=[None, "lz4", "zstd"][stream % 3])
    with ipc.new_stream(f"{stream}.arrows", schema, options=options) as writer:
        for first in range(0, rows, 10):
            numbers = list(range(stream * rows + first, stream * rows + first + 10))
            words = [str(number % (first // 100 + 1)) for number in numbers]
            columns = [[stream % 3] * 10, numbers, words]
            arrays = [pa.array(column).cast(field.type) for column, field in zip(columns, schema)]
            writer.write_batch(pa.record_batch(arrays, schema=schema))
"#;

/// Sends the files 0, 1 and so on with this extension, of so many rows each, while the core dies again and again: of each, a beginning is
/// shown, each row once and in order, and of the last all. What was shown, for further looks.
fn shown_once_through_kills(job: &Job, what: &str, extension: &str, wanted: u64, rows: u64) -> Vec<serde_json::Value> {
    let mut chance = Chance::from_environment(what);
    let bytes = |round| std::fs::read(job.path(&format!("{round}.{extension}"))).expect("it was written");
    let numbers = || -> Vec<u64> {
        job.whole_rows("out.ndjson").iter().map(|row| row["number"].as_u64().expect("a number")).collect()
    };
    for round in Progress::over("kills", wanted) {
        let mut child = job.start(&[]);
        let mut client = connect(&mut child, || UnixStream::connect(job.path("in.sock")));
        let stream = bytes(round);
        // It may die before it has read all of it.
        let sender = std::thread::spawn(move || client.write_all(&stream));
        let first = round * rows;
        let mut has_begun = || numbers().contains(&first);
        kill_after(&mut child, &mut has_begun, chance.between(Duration::ZERO, Duration::from_millis(40)));
        let _ = sender.join().expect("no panic");
    }
    let mut child = job.start(&[]);
    let mut client = connect(&mut child, || UnixStream::connect(job.path("in.sock")));
    client.write_all(&bytes(wanted)).expect("it reads");
    drop(client);
    until(&mut child, || numbers().last() == Some(&(wanted * rows + rows - 1)));
    assert_eq!(job.end(child).figure("/rows/dead_letters"), 0);
    let shown = numbers();
    for round in 0..=wanted {
        let own: Vec<u64> = shown.iter().copied().filter(|number| number / rows == round).collect();
        assert!(own.iter().copied().eq((round * rows..).take(own.len())), "a beginning of it, each row once, in order");
    }
    job.whole_rows("out.ndjson")
}

#[test]
fn record_batches_of_a_stream_are_shown_once_and_in_order_however_often_the_core_dies() {
    const ROWS: u64 = 4_000;
    let job = Job::new(&of_arrow(UNIX), "");
    let wanted = rounds("RINGMILL_SOCKET_KILLS", 6);
    job.script(STREAMS, &[&(wanted + 1).to_string(), &ROWS.to_string()]);
    for row in shown_once_through_kills(&job, "streams of Arrow", "arrows", wanted, ROWS) {
        let number = row["number"].as_u64().expect("a number");
        let expected = (number % (number % ROWS / 100 + 1)).to_string();
        assert_eq!((row["word"].as_str(), row["sender"].as_u64()), (Some(expected.as_str()), Some(number / ROWS % 3)));
    }
}

/// Sends this over a connection of its own, and waits for its end.
fn send_until_it_is_ended(port: SocketAddr, bytes: &[u8]) {
    let mut connection = TcpStream::connect(port).expect("somebody listens");
    // It may be ended before it has sent all, by a reset.
    let _ = connection.write_all(bytes).and_then(|()| connection.shutdown(Shutdown::Write));
    let _ = connection.read(&mut [0]);
}

#[test]
fn streams_that_are_none_are_ended_with_a_reason_and_hurt_nobody_else() {
    let port = free_address();
    let job = Job::new(&of_arrow(&format!("tcp = \"{port}\"")), "");
    job.script(STREAMS, &["1", "1000"]);
    let stream = std::fs::read(job.path("0.arrows")).expect("it was written");
    let (begin, rest) = stream.split_at(stream.len() / 2);
    let mut child = job.start(&[]);
    let mut good = connect(&mut child, || TcpStream::connect(port));
    good.write_all(begin).expect("it reads");
    let ended = |bytes: &[u8]| send_until_it_is_ended(port, bytes);
    ended(b"GET / HTTP/1.1\r\n\r\n");
    read_until(&mut child, "is ended: a message has 542393671 bytes, and record_size_max is 65536");
    let mut broken = stream.clone();
    broken[600..700].fill(0xff);
    ended(&[&stream[..600], &[0xff; 300]].concat());
    ended(&broken);
    ended(&[&stream[..], b"ARROW1\0\0"].concat());
    good.write_all(rest).expect("it reads");
    drop(good);
    let sent_twice = || job.whole_rows("out.ndjson").iter().filter(|row| row["number"] == 999).count() >= 2;
    until(&mut child, sent_twice);
    assert_eq!(job.end(child).figure("/rows/dead_letters"), 0);
}

#[test]
fn the_pipeline_of_the_documentation_takes_streams_of_arrow() {
    let address = free_address();
    let page = Page::read("connect/socket");
    let job = page.job(&[]);
    let replaced = |name: &str, from: &str, to: &str| page.file(name).replace(from, to);
    job.write("pipeline.toml", replaced("columns.toml", "127.0.0.1:7001", &address.to_string()));
    let script = replaced("send.py", "7001", &address.port().to_string());
    let mut child = job.start(&[]);
    drop(connect(&mut child, || TcpStream::connect(address)));
    job.script(&script, &[]);
    until(&mut child, || job.whole_rows("readings.ndjson").len() == 2);
    assert_eq!(job.end(child).figure("/rows/in"), 2);
    assert_eq!(job.rows("readings.ndjson")[1]["sensor"], "s-2");
}

/// A pipeline of micro-batches, in a folder with the module of the documentation that writes them.
fn of_micro_batches(address: &str) -> Job {
    let text = pipeline(address).replace("\"1KiB\"", "\"64KiB\"\nformat = \"micro_batch\"");
    let word = "number = \"int64\", word = { type = \"utf8\", nullable = true }";
    let job = Job::new(&text.replace("number = \"int64\"", word), "");
    job.write("batches.py", Page::read("formats/micro-batch").file("batches.py"));
    write_generated(&job);
    job
}

/// What `flatc` makes of the schema, which the module of the documentation asks for.
fn write_generated(job: &Job) {
    let code = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../schemas/python/micro_batch_generated.py");
    job.write("micro_batch_generated.py", std::fs::read(code).expect("it is committed"));
}

/// Writes the files 0.batches, 1.batches and so on, of so many rows each in micro-batches of 1 to 900.
const BATCHES: &str = r#"
import sys
from pathlib import Path

from batches import micro_batch

count, rows = int(sys.argv[1]), int(sys.argv[2])
schema = {"sender": "int64", "number": "int64", "word": "utf8?"}
for stream in range(count):
    body, first = b"", 0
    while first < rows:
        until = min(rows, first + 1 + first * 7 % 900)
        numbers = range(stream * rows + first, stream * rows + until)
        body += micro_batch(schema, [(stream % 3, number, None if number % 5 == 0 else f"€{number}") for number in numbers])
        first = until
    Path(f"{stream}.batches").write_bytes(body)
"#;

#[test]
fn micro_batches_are_shown_once_and_in_order_however_often_the_core_dies() {
    const ROWS: u64 = 4_000;
    let job = of_micro_batches(UNIX);
    let wanted = rounds("RINGMILL_SOCKET_KILLS", 6);
    job.script(BATCHES, &[&(wanted + 1).to_string(), &ROWS.to_string()]);
    for row in shown_once_through_kills(&job, "micro-batches", "batches", wanted, ROWS) {
        let number = row["number"].as_u64().expect("a number");
        let expected = (!number.is_multiple_of(5)).then(|| format!("€{number}"));
        assert_eq!((row["word"].as_str(), row["sender"].as_u64()), (expected.as_deref(), Some(number / ROWS % 3)));
    }
}

#[test]
fn what_is_no_micro_batch_ends_its_connection_with_a_reason_and_hurts_nobody_else() {
    let port = free_address();
    let job = of_micro_batches(&format!("tcp = \"{port}\""));
    job.script(BATCHES, &["1", "1000"]);
    let other = "from batches import micro_batch; open('other', 'wb').write(micro_batch({'sender': 'int32'}, [(1,)]))";
    job.script(other, &[]);
    let read = |name: &str| std::fs::read(job.path(name)).expect("it was written");
    let (batches, other) = (read("0.batches"), read("other"));
    let (begin, rest) = batches.split_at(batches.len() / 2);
    let mut child = job.start(&[]);
    let mut good = connect(&mut child, || TcpStream::connect(port));
    good.write_all(begin).expect("it reads");
    let ended = |bytes: &[u8]| send_until_it_is_ended(port, bytes);
    ended(&other);
    read_until(&mut child, "of \"ringmill.wire.schema/1\\n6:sender int64\\n6:number int64\\n4:word utf8?\\n\"");
    ended(b"GET / HTTP/1.1\r\n\r\n");
    ended(&[0xFF; 300]);
    ended(&[&batches[..100], &[0xFF; 300]].concat());
    // The batches before what breaks off are taken.
    ended(&batches[..batches.len() - 1]);
    good.write_all(rest).expect("it reads");
    drop(good);
    let rows_of = |number: u64| job.whole_rows("out.ndjson").iter().filter(|row| row["number"] == number).count();
    until(&mut child, || rows_of(0) == 2 && rows_of(999) == 1);
    assert_eq!(job.end(child).figure("/rows/dead_letters"), 0);
}

/// The pipeline, the module and the client of the documentation.
#[test]
fn micro_batches_of_the_documentation_are_taken_in_a_request() {
    let address = free_address();
    let page = Page::read("formats/micro-batch");
    let job = page.job(&[]);
    write_generated(&job);
    let addressed = "kind = \"http\"\nlisten = \"127.0.0.1:8080\"".replace("127.0.0.1:8080", &address.to_string());
    job.write("pipeline.toml", page.file("pipeline.toml").replace("kind = \"http\"", &addressed));
    let send = page.file("send.py").replace("127.0.0.1:8080", &address.to_string());
    let mut child = job.start(&[]);
    drop(connect(&mut child, || TcpStream::connect(address)));
    job.script(&send, &[]);
    assert_eq!(job.end(child).figure("/rows/in"), 3);
    let line = |sensor: &str, at: &str, celsius: &str| {
        format!("{{\"sensor\":\"{sensor}\",\"at\":\"{at}\",\"celsius\":{celsius}}}\n")
    };
    let expected = [
        line("s-1", "2023-11-14T22:13:20.000Z", "21.5"),
        line("s-2", "2023-11-14T22:13:20.500Z", "null"),
        line("s-1", "2023-11-14T22:13:21.000Z", "22.0"),
    ];
    assert_eq!(job.read("readings.ndjson"), expected.concat());
}
