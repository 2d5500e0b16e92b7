//! Rows by requests: from many clients at once, wrong ones among them, into a full pipeline, and through the end and the
//! death of the core.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use ringmill_system_tests::bodies::Form;
use ringmill_system_tests::chaos::{Chance, Progress, kill_after, kill_now, rounds};
use ringmill_system_tests::http::{Client, await_answers};
use ringmill_system_tests::page::Page;
use ringmill_system_tests::{CHECKPOINT, Job, free_address, python, sinks_of, terminate, until};

const JSON: &str = "content-type: application/json\r\n";

fn pipeline(address: SocketAddr, keys: &str) -> String {
    format!(
        r#"
[sources.requests]
kind = "http"
listen = "{address}"
{keys}
fields = {{ sender = "int64", request = "int64", row = "int64" }}
{}"#,
        sinks_of("requests")
    )
}

/// How many rows are shown now.
fn lines(job: &Job) -> u64 {
    std::fs::read(job.path("out.ndjson")).unwrap_or_default().iter().filter(|byte| **byte == b'\n').count() as u64
}

/// How often each row of each request is there.
type Shown = BTreeMap<(u64, u64), Vec<u64>>;

fn shown(text: &str) -> Shown {
    let mut shown = Shown::new();
    for line in text.lines() {
        let row: serde_json::Value = serde_json::from_str(line).expect("a whole row");
        let value = |name: &str| row[name].as_u64().expect("a number");
        let rows = shown.entry((value("sender"), value("request"))).or_default();
        let row = value("row") as usize;
        rows.resize(rows.len().max(row + 1), 0);
        rows[row] += 1;
    }
    shown
}

/// What a client knows of a request.
struct Sent {
    sender: u64,
    request: u64,
    rows: u64,
    attempts: u64,
    is_accepted: bool,
}

impl Sent {
    /// All of its rows are there equally often: once if it was sent once and accepted, and never oftener than it was sent.
    fn check(&self, shown: &Shown) {
        let rows = self.rows_of(shown);
        let times = rows.first().copied().unwrap_or(0);
        let name = format!("{} rows of {}, {rows:?}", rows.len(), self.name());
        assert!(rows.is_empty() || rows.len() as u64 == self.rows, "{name}");
        assert!(rows.iter().all(|row| *row == times), "{name}");
        assert!(times <= self.attempts && (!self.is_accepted || times > 0), "{name}");
    }

    /// The same without a journal: of a request that was not accepted the end of the run may have cut something off.
    fn check_unjournaled(&self, shown: &Shown) {
        if self.is_accepted {
            return self.check(shown);
        }
        let rows = self.rows_of(shown);
        assert!(rows.iter().all(|row| *row <= self.attempts), "{}, {rows:?}", self.name());
    }

    fn rows_of<'a>(&self, shown: &'a Shown) -> &'a [u64] {
        shown.get(&(self.sender, self.request)).map_or(&[], Vec::as_slice)
    }

    fn name(&self) -> String {
        format!("request {} of {}, {} rows, sent {} times", self.request, self.sender, self.rows, self.attempts)
    }
}

/// Sends request after request until `stop`, each until it is accepted or `stop`.
fn send_on(address: SocketAddr, sender: u64, mut chance: Chance, accepted: &AtomicU64, stop: &AtomicBool) -> Vec<Sent> {
    let (mut client, mut sent) = (Client::new(address), Vec::new());
    for request in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let rows = 1 + chance.below(if request % 7 == 0 { 20_000 } else { 300 });
        let form = Form::ALL[chance.below(Form::ALL.len() as u64) as usize];
        let body = form.body(sender, request, rows);
        let mut state = Sent { sender, request, rows, attempts: 0, is_accepted: false };
        while !state.is_accepted && (state.attempts == 0 || !stop.load(Ordering::Relaxed)) {
            state.attempts += 1;
            match client.post(form.header(), &body) {
                Ok(answer) if answer.status == 202 => {
                    assert_eq!(answer.body, format!("{{\"accepted\":{rows}}}"));
                    state.is_accepted = true;
                    accepted.fetch_add(1, Ordering::Relaxed);
                }
                Ok(answer) => assert!([429, 503].contains(&answer.status), "{answer:?}"),
                Err(_) => std::thread::sleep(Duration::from_millis(1)),
            }
        }
        sent.push(state);
    }
    sent
}

/// What was durable and not shown when a run ended is shown by the next one: all of it before a request that comes later.
fn run_until_all_is_shown(job: &Job, address: SocketAddr) {
    let mut child = job.start(&[]);
    let (mut client, last) = (Client::new(address), Form::Lines.body(LAST_SENDER, 0, 1));
    until(&mut child, || client.post("", &last).is_ok_and(|answer| answer.status == 202));
    let line = format!("\"sender\":{LAST_SENDER},");
    until(&mut child, || std::fs::read_to_string(job.path("out.ndjson")).is_ok_and(|text| text.contains(&line)));
    job.end(child).report();
}

/// None of those that are checked.
const LAST_SENDER: u64 = 99;

#[test]
fn every_request_that_was_accepted_is_there_as_a_whole_however_often_the_core_dies() {
    let mut chance = Chance::from_environment("requests");
    let address = free_address();
    let job = Job::new(&(CHECKPOINT.to_owned() + &pipeline(address, "")), "");
    let wanted = rounds("RINGMILL_HTTP_KILLS", 3);
    let (accepted, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let (sent, ended) = std::thread::scope(|scope| {
        let (accepted, stop) = (&accepted, &stop);
        let senders: Vec<_> = (0..3)
            .map(|sender| {
                let chance = Chance::of(chance.number());
                scope.spawn(move || send_on(address, sender, chance, accepted, stop))
            })
            .collect();
        for _ in Progress::over("kills", wanted) {
            let mut child = job.start(&[]);
            let before = accepted.load(Ordering::Relaxed);
            let time = chance.between(Duration::ZERO, Duration::from_millis(200));
            let is_time = || accepted.load(Ordering::Relaxed) > before;
            assert!(kill_after(&mut child, is_time, time), "the run ended: {}", job.wait(child).stderr);
        }
        let mut child = job.start(&[]);
        await_answers(&mut child, address);
        stop.store(true, Ordering::Relaxed);
        let sent: Vec<Sent> = senders.into_iter().flat_map(|sender| sender.join().expect("it checks only")).collect();
        (sent, job.end(child))
    });
    assert_eq!(ended.report().pointer("/rows/dead_letters").and_then(serde_json::Value::as_u64), Some(0));
    run_until_all_is_shown(&job, address);
    let shown = shown(&job.read("out.ndjson"));
    sent.iter().for_each(|sent| sent.check(&shown));
    let repeated = sent.iter().filter(|sent| sent.attempts > 1).count();
    println!("{wanted} kills, {} requests, {repeated} of them sent again", sent.len());
}

#[test]
fn what_is_not_on_the_disk_yet_is_not_accepted() {
    let address = free_address();
    let job = Job::new(&(CHECKPOINT.to_owned() + &pipeline(address, "request_timeout = \"300ms\"")), "");
    let mut hanging = job.command(&[]);
    let mut child = hanging.env("RINGMILL_FAILPOINT", "hang:journal.write:1").spawn().expect("it is built");
    await_answers(&mut child, address);
    let answer = Client::new(address).post("", &Form::Lines.body(0, 0, 1)).expect("an answer");
    assert_eq!(answer.status, 503, "{}", answer.body);
    kill_now(child.id() as i32);
    child.wait().expect("a child");
}

#[test]
fn requests_that_come_while_a_run_ends_are_answered_and_what_was_accepted_is_there() {
    let functions = "import time\n\n@rm.udf(outputs={'y': rm.int64})\ndef slow(row: np.ndarray):\n    time.sleep(0.05)\n    return row\n";
    let steps = "[steps.slow]\nkind = \"udf\"\ninputs = [\"requests\"]\nfunction = \"functions:slow\"\nslots = 4\nbatch_rows = 8192\n";
    for checkpoint in ["", CHECKPOINT] {
        let address = free_address();
        let text = pipeline(address, "").replace("inputs = [\"requests\"]", "inputs = [\"slow\"]") + steps;
        let job = Job::new(&(checkpoint.to_owned() + &text), functions);
        let mut child = job.start(&[]);
        await_answers(&mut child, address);
        let (accepted, stop) = (AtomicU64::new(0), AtomicBool::new(false));
        let (sent, ended) = std::thread::scope(|scope| {
            let (accepted, stop) = (&accepted, &stop);
            let senders: Vec<_> = (0..3)
                .map(|sender| scope.spawn(move || send_on(address, sender, Chance::of(sender), accepted, stop)))
                .collect();
            until(&mut child, || accepted.load(Ordering::Relaxed) > 10);
            terminate(&child);
            // New connections too are answered, until there is nobody any more.
            let mut statuses = Vec::new();
            while let Ok(answer) = Client::new(address).post("", b"") {
                if answer.status == 503 {
                    assert_eq!(answer.header("retry-after"), Some("1"));
                }
                statuses.push(answer.status);
            }
            assert!(statuses.contains(&503), "{statuses:?}");
            stop.store(true, Ordering::Relaxed);
            let sent = senders.into_iter().flat_map(|sender| sender.join().expect("it checks only"));
            (sent.collect::<Vec<Sent>>(), job.wait(child))
        });
        ended.report();
        if checkpoint.is_empty() {
            let shown = shown(&job.read("out.ndjson"));
            sent.iter().for_each(|sent| sent.check_unjournaled(&shown));
        } else {
            run_until_all_is_shown(&job, address);
            let shown = shown(&job.read("out.ndjson"));
            sent.iter().for_each(|sent| sent.check(&shown));
        }
    }
}

#[test]
fn a_full_pipeline_says_so_and_takes_no_more_memory() {
    let address = free_address();
    let job = Job::new(&pipeline(address, "request_size_max = \"1MiB\"\nrequest_timeout = \"2s\""), "");
    let fifo = job.path("out.ndjson");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
    // Opened for both directions the pipe has a reader and a writer from the start, so neither side waits for it.
    let both = std::fs::File::options().read(true).write(true).open(&fifo).expect("it is there");
    let mut child = job.start(&[]);
    await_answers(&mut child, address);
    let before = resident_bytes(&child);
    let (accepted, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let mut refused = 0;
    let (sent, text) = std::thread::scope(|scope| {
        let (accepted, stop) = (&accepted, &stop);
        let senders: Vec<_> = (0..8)
            .map(|sender| scope.spawn(move || send_on(address, sender, Chance::of(sender), accepted, stop)))
            .collect();
        let mut client = Client::new(address);
        while refused < 3 {
            let answer = client.post("", &Form::Lines.body(LAST_SENDER, 0, 1)).expect("it is answered");
            if answer.status == 429 {
                assert_eq!(answer.header("retry-after"), Some("1"));
                refused += 1;
            }
        }
        let after = resident_bytes(&child);
        assert!(after < before + (192 << 20), "{before} bytes became {after}");
        let reader = scope.spawn(|| {
            let mut text = String::new();
            let mut reader = std::fs::File::open(&fifo).expect("it is there");
            drop(both);
            reader.read_to_string(&mut text).expect("it is text");
            text
        });
        stop.store(true, Ordering::Relaxed);
        let sent: Vec<Sent> = senders.into_iter().flat_map(|sender| sender.join().expect("it checks only")).collect();
        job.end(child).report();
        (sent, reader.join().expect("it reads"))
    });
    let shown = shown(&text);
    sent.iter().for_each(|sent| sent.check(&shown));
}

fn resident_bytes(child: &Child) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("it says so");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
}

#[test]
fn wrong_slow_and_endless_requests_hurt_nobody_else() {
    let address = free_address();
    let keys = "token_file = \"token\"\nrequest_timeout = \"2s\"\nconnections_max = 12\nrecord_size_max = \"1KiB\"";
    let job = Job::new(&(CHECKPOINT.to_owned() + &pipeline(address, keys)), "");
    job.write("token", "s3cret\n");
    let mut child = job.start(&[]);
    await_answers(&mut child, address);
    let bearer = "authorization: Bearer s3cret\r\n";
    let head = format!("POST /ingest HTTP/1.1\r\nhost: test\r\n{bearer}");
    std::thread::scope(|scope| {
        for _ in 0..2 {
            // A body that does not come, and a head.
            scope.spawn(|| {
                let answer = Client::new(address).send(format!("{head}content-length: 9\r\n\r\n{{").as_bytes());
                assert_eq!(answer.expect("it is answered").status, 408);
            });
            scope.spawn(|| assert!(Client::new(address).send(head.as_bytes()).is_err()));
        }
        scope.spawn(|| {
            let mut stream = TcpStream::connect(address).expect("it listens");
            // Endless headers: it gives up before we do.
            while stream.write_all(b"x-more: and more\r\n").is_ok() {}
        });
        scope.spawn(|| {
            let mut stream = TcpStream::connect(address).expect("it listens");
            stream.write_all(b"\x00\xff\x16\x03\x01garbage\r\n\r\n").expect("it reads");
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer);
            assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 400"), "{answer:?}");
        });
        for sender in 0..8 {
            scope.spawn(move || {
                let mut client = Client::new(address);
                for request in 0..20 {
                    let wrong = client.post("authorization: Bearer secret\r\n", b"{}").expect("it is answered");
                    assert_eq!((wrong.status, wrong.header("www-authenticate")), (401, Some("Bearer")));
                    let form = Form::ALL[request as usize % Form::ALL.len()];
                    let rows = form.body(sender, request, 100);
                    // Half a line is a dead letter, half of anything else nothing.
                    let headers = if form == Form::Lines { JSON } else { form.header() };
                    let cut = client.post(&format!("{bearer}{headers}"), &rows[..rows.len() / 2]);
                    assert_eq!(cut.expect("it is answered").status, 400);
                    let answer = client.post(&format!("{bearer}{}", form.header()), &rows).expect("it is answered");
                    assert_eq!((answer.status, answer.body.as_str()), (202, "{\"accepted\":100}"));
                }
            });
        }
    });
    let long = format!("[{{\"sender\":\"{}\"}}, {{\"sender\": }}]", "y".repeat(10_000_000));
    let answer = Client::new(address).post(&format!("{bearer}{JSON}"), long.as_bytes()).expect("it is answered");
    assert_eq!((answer.status, answer.body.as_str()), (202, "{\"accepted\":2}"));
    let answer = Client::new(address).post(bearer, &vec![b'\n'; (16 << 20) + 1]).expect("it is answered");
    assert_eq!(answer.status, 413);
    until(&mut child, || lines(&job) == 16_000);
    let ended = job.end(child);
    assert_eq!((ended.figure("/rows/in"), ended.figure("/rows/dead_letters")), (16_002, 2));
    assert!(shown(&job.read("out.ndjson")).values().all(|rows| *rows == [1; 100]));
    let reasons: Vec<String> = job.rows("dead.ndjson").iter().map(|row| row["reason"].to_string()).collect();
    assert!(reasons.len() == 2 && reasons[0].contains("1024"), "{reasons:?}");
}

/// The example of the documentation, and a client that sends all before it reads anything.
#[test]
fn other_clients_are_understood() {
    let page = Page::read("connect/http");
    let address = free_address();
    let fields = "fields = { sensor = \"utf8\", celsius = \"float64\" }";
    let text = pipeline(address, "request_size_max = \"64KiB\"");
    let text = text.replace("fields = { sender = \"int64\", request = \"int64\", row = \"int64\" }", fields);
    let job = Job::new(&text, "");
    let mut child = job.start(&[]);
    await_answers(&mut child, address);
    let mut rows = 0;
    let has_curl = Command::new("curl").arg("--version").stdout(Stdio::null()).status().is_ok();
    for command in page.commands().filter_map(|line| line.strip_prefix("curl")).filter(|_| has_curl) {
        let command = format!("curl --silent --show-error{}", command.replace("127.0.0.1:8080", &address.to_string()));
        let output = Command::new("sh").args(["-c", &command]).output().expect("there is a shell");
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim_end(), "{\"accepted\":1}", "{command}: {output:?}");
        rows += 1;
    }
    let script = format!(
        r#"
import json, urllib.error, urllib.request

def post(body):
    headers = {{"content-type": "application/json"}}
    return urllib.request.Request("http://{address}/ingest", body, headers)

rows = [{{"sensor": "s-2", "celsius": float(i)}} for i in range(100)]
with urllib.request.urlopen(post(json.dumps(rows, indent=1).encode())) as answer:
    assert (answer.status, json.load(answer)) == (202, {{"accepted": 100}})
try:
    urllib.request.urlopen(post(b" " * 100_000))
except urllib.error.HTTPError as error:
    assert error.code == 413 and "request_size_max" in json.load(error)["error"]
else:
    raise AssertionError("it was accepted")
"#
    );
    let output = Command::new(python()).args(["-c", &script]).output().expect("there is a Python");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(job.end(child).figure("/rows/in"), rows + 100);
}

#[test]
fn an_address_in_use_is_refused_by_name() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("an address");
    let ended = Job::new(&pipeline(address, ""), "").run(&[]);
    assert_ne!(ended.code, Some(0));
    let expected = format!("requests: cannot listen at {address}: Address already in use");
    assert!(ended.stderr.contains(&expected), "{}", ended.stderr);
}

/// The pipeline and the client of the documentation, with another pipeline behind it.
#[test]
fn what_one_run_sends_another_takes() {
    let (first, second) = (free_address(), free_address());
    let taking = pipeline(second, "").replace(
        "fields = { sender = \"int64\", request = \"int64\", row = \"int64\" }",
        "fields = { sensor = \"utf8\", celsius = \"float64\" }",
    );
    let taking = Job::new(&taking, "");
    let mut taker = taking.start(&[]);
    await_answers(&mut taker, second);
    let url = format!("http://{second}/ingest");
    let sending = Page::read("connect/http").job(&[("127.0.0.1:8080", &first.to_string()), ("$ALERTS_URL", &url)]);
    let mut sender = sending.start(&[]);
    await_answers(&mut sender, first);
    let rows = br#"[{"sensor": "s-1", "celsius": 21.5}, {"sensor": "s-2", "celsius": 48.0}]"#;
    let answer = Client::new(first).post(JSON, rows).expect("it is answered");
    assert_eq!((answer.status, answer.body.as_str()), (202, "{\"accepted\":2}"));
    until(&mut taker, || taking.whole_rows("out.ndjson").len() == 1);
    let output = Command::new(python()).arg(sending.path("send.py")).output().expect("there is a Python");
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(printed, "2\n2\n", "Arrow and Avro: {}", String::from_utf8_lossy(&output.stderr));
    until(&mut taker, || taking.whole_rows("out.ndjson").len() == 3);
    assert_eq!(sending.end(sender).figure("/rows/in"), 6);
    assert_eq!(taking.end(taker).figure("/rows/in"), 3);
    assert_eq!(taking.read("out.ndjson"), "{\"sensor\":\"s-2\",\"celsius\":48.0}\n".repeat(3));
}

/// Writes a table with rows that do not fit, as Arrow and as Avro.
const MISFITS: &str = r#"
import fastavro
import pyarrow as pa

rows = [{"sender": 1, "request": None, "row": 0}, {"sender": 1, "request": 2, "row": 0}]
table = pa.table({name: pa.array([row[name] for row in rows], pa.int64()) for name in rows[0]})
with pa.ipc.new_stream("rows.arrows", table.schema) as writer:
    writer.write_table(table)
fields = [{"name": name, "type": ["null", "long"]} for name in rows[0]]
with open("rows.avro", "wb") as file:
    fastavro.writer(file, {"type": "record", "name": "Row", "fields": fields}, rows)
"#;

#[test]
fn rows_of_columns_that_do_not_fit_are_kept_and_fed_back_once_they_do() {
    let address = free_address();
    let text = CHECKPOINT.to_owned() + &pipeline(address, "");
    let text = text.split("\n[sinks.dead]").next().expect("a sink of dead letters").to_owned();
    let job = Job::new(&text, "");
    job.script(MISFITS, &[]);
    let mut child = job.start(&[]);
    await_answers(&mut child, address);
    let mut client = Client::new(address);
    for (form, file) in [(Form::Arrow, "rows.arrows"), (Form::Avro, "rows.avro")] {
        let body = std::fs::read(job.path(file)).expect("it was written");
        let answer = client.post(form.header(), &body).expect("it is answered");
        assert_eq!((answer.status, answer.body.as_str()), (202, "{\"accepted\":2}"));
    }
    let answer = client.post("", b"{\"sender\":1,\"row\":0}").expect("it is answered");
    assert_eq!(answer.status, 202);
    until(&mut child, || lines(&job) == 2);
    let ended = job.end(child);
    assert_eq!((ended.figure("/rows/in"), ended.figure("/rows/dead_letters")), (5, 3), "{}", ended.stderr);
    let letters = job.letters(&[]);
    let records: Vec<&str> = letters.iter().filter_map(|letter| letter["record"].as_str()).collect();
    assert_eq!(records.len(), 3, "{letters:?}");
    assert!(records[0].contains("\"request\":null") && records[2] == "{\"sender\":1,\"row\":0}", "{records:?}");
    job.write("pipeline.toml", text.replace("request = \"int64\"", "request = { type = \"int64\", nullable = true }"));
    job.dlq(&["replay", "pipeline.toml"]);
    assert_eq!(lines(&job), 5, "{}", job.read("out.ndjson"));
    assert_eq!(job.dlq(&["show", "pipeline.toml", "--json"]), "", "none is left");
}
