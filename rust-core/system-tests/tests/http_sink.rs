//! Rows to a real server that knows keys, through the death of the core and of the server.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ringmill_system_tests::chaos::{Chance, CoreKills, kill_now, newest_checkpoint};
use ringmill_system_tests::{CHECKPOINT, Job, file_source, python, read_until, until};
use serde_json::Value;

const ROWS: u64 = 20_000;

/// Python's own server. It keeps requests in a file, and takes those with the same key once, also after a restart.
/// Rows whose number ends in 99 are refused.
const SERVER: &str = "
import http.server, json, os, sys, threading
log = open('taken', 'a+b')
log.seek(0)
whole = [line for line in log if line.endswith(b'\\n')]
log.truncate(sum(map(len, whole)))
keys = {json.loads(line)[0] for line in whole}
lock = threading.Lock()

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    disable_nagle_algorithm = True

    def do_POST(self):
        length = int(self.headers['content-length'])
        body = self.rfile.read(length).decode()
        if len(body) < length:
            return  # The client was killed, and what came may end with a whole row.
        key = self.headers['idempotency-key']
        rows = [json.loads(line) for line in body.splitlines()]
        is_bad = any(row['number'] % 100 == 99 for row in rows)
        with lock:
            if not is_bad and key not in keys:
                log.write(json.dumps([key, rows]).encode() + b'\\n')
                log.flush()
                keys.add(key)
        self.send_response(422 if is_bad else 200)
        self.send_header('content-length', '0')
        self.end_headers()

    def log_message(self, *_):
        pass

server = http.server.ThreadingHTTPServer(('127.0.0.1', int(sys.argv[1])), Handler)
print(server.server_port, flush=True)
server.serve_forever()
";

/// The server, in the job's folder.
struct Server {
    child: Child,
    port: u16,
}

impl Server {
    /// At this port; 0: at any.
    fn start(job: &Job, port: u16) -> Server {
        let mut command = Command::new(python());
        command.args(["-c", SERVER, &port.to_string()]).current_dir(job.folder());
        command.stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("Python");
        let mut line = String::new();
        let output = child.stdout.as_mut().expect("a pipe");
        BufReader::new(output).read_line(&mut line).expect("a line");
        Server { port: line.trim_end().parse().expect("a port"), child }
    }

    fn kill(&mut self) {
        self.child.kill().expect("it is a child");
        self.child.wait().expect("it is a child");
    }

    /// Kills it and starts another one in its place.
    fn replace(&mut self, job: &Job) {
        self.kill();
        *self = Server::start(job, self.port);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Rows of a file to the server, which has each once; those that it refuses go to `refused.ndjson`.
fn job(keys: &str) -> (Job, Server) {
    job_with(&format!("idempotent = true\n{keys}"))
}

/// Rows of a file to the server.
fn job_with(keys: &str) -> (Job, Server) {
    let job = Job::new("", "");
    let server = Server::start(&job, 0);
    let source = file_source(20_000, "number = \"uint64\"");
    let pipeline = format!(
        r#"
{CHECKPOINT}
{source}
[sinks.out]
kind = "http"
inputs = ["rows"]
url = "http://127.0.0.1:{}/rows"
rows_max = 300
{keys}
"#,
        server.port
    );
    job.write("pipeline.toml", pipeline);
    // Without those that the server refuses.
    let line = |number| format!("{{\"number\":{number}}}\n");
    job.write("in.ndjson", (0..ROWS).filter(|number| number % 100 != 99).map(line).collect::<String>());
    (job, server)
}

/// The numbers that the server has, in their order.
fn taken(job: &Job) -> Vec<u64> {
    let text = job.read("taken");
    let whole = text.rfind('\n').map_or(0, |end| end + 1);
    let numbers = text[..whole].lines().flat_map(|line| {
        let request: Value = serde_json::from_str(line).expect("every line is JSON");
        let rows = request[1].as_array().expect("rows").clone();
        rows.into_iter().map(|row| row["number"].as_u64().expect("a number"))
    });
    numbers.collect()
}

fn expected() -> impl Iterator<Item = u64> {
    (0..ROWS).filter(|number| number % 100 != 99)
}

/// None is left out, and none comes again.
fn check_beginning(taken: &[u64]) {
    let wrong = taken.iter().zip(expected()).position(|(taken, expected)| *taken != expected);
    let around = |index: usize| &taken[index.saturating_sub(2)..taken.len().min(index + 3)];
    assert_eq!(wrong.map(around), None, "of {} rows", taken.len());
}

#[test]
fn every_row_is_taken_once_and_in_order_however_often_core_and_server_die() {
    let mut kills = CoreKills::of("http sink", "RINGMILL_HTTP_SINK_KILLS", 20);
    let mut replaced = 0;
    while kills.are_wanted() {
        let (job, mut server) = job("");
        let (is_over, mut times) = (AtomicBool::new(false), Chance::of(kills.chance.number()));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    std::thread::sleep(times.between(Duration::ZERO, Duration::from_millis(500)));
                    server.replace(&job);
                    replaced += 1;
                }
            });
            kills.behind_checkpoints(&job, |_| check_beginning(&taken(&job)));
            is_over.store(true, Ordering::Relaxed);
        });
        assert!(taken(&job).into_iter().eq(expected()));
    }
    println!("{} kills of the core, {replaced} of the server", kills.done);
}

#[test]
fn rows_that_are_sent_at_once_wait_for_no_checkpoint_and_come_again_after_a_crash() {
    let (job, _server) = job_with("at_once = true");
    let slowly = ["checkpoint.interval=\"1h\"", "sources.rows.rate=1000"];
    let mut child = job.start(&slowly);
    until(&mut child, || taken(&job).len() > 100);
    kill_now(child.id() as i32);
    child.wait().expect("a child");
    assert_eq!(newest_checkpoint(&job.path("state")), 0);
    let before = taken(&job);
    check_beginning(&before);
    job.run(&["checkpoint.interval=\"1h\""]).report();
    let after = taken(&job).split_off(before.len());
    assert!(after.into_iter().eq(expected()), "a run without a checkpoint before it begins at the first row");
}

#[test]
fn no_row_that_is_sent_at_once_is_left_out_however_often_the_core_dies() {
    let mut kills = CoreKills::of("http sink at once", "RINGMILL_HTTP_SINK_KILLS", 10);
    while kills.are_wanted() {
        let (job, _server) = job_with("at_once = true");
        kills.behind_checkpoints(&job, |_| ());
        let mut next = 0;
        for row in taken(&job) {
            assert!(row <= next, "{row} came and not {next}");
            if row == next {
                next += if next % 100 == 98 { 2 } else { 1 };
            }
        }
        assert_eq!(next, ROWS);
    }
    println!("{} kills of the core", kills.done);
}

#[test]
fn a_server_that_goes_away_is_waited_for() {
    let (job, mut server) = job("");
    let mut child = job.start(&["sources.rows.rate=10000"]);
    for _ in 0..2 {
        let before = newest_checkpoint(&job.path("state"));
        until(&mut child, || newest_checkpoint(&job.path("state")) > before);
        server.kill();
        read_until(&mut child, "paused: sink out");
        server = Server::start(&job, server.port);
        read_until(&mut child, "goes on");
    }
    let ended = job.wait(child);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(taken(&job).into_iter().eq(expected()));
}

#[test]
fn rows_that_the_server_refuses_are_kept_aside_and_all_others_taken() {
    let (job, _server) = job("refused_path = \"refused.ndjson\"");
    job.write("in.ndjson", (0..1_000).map(|number| format!("{{\"number\":{number}}}\n")).collect::<String>());
    let ended = job.run(&[]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(taken(&job).into_iter().eq(expected().take_while(|number| *number < 1_000)));
    let refused: Vec<u64> =
        job.rows("refused.ndjson").iter().map(|line| line["row"]["number"].as_u64().expect("a number")).collect();
    assert!(refused.into_iter().eq((0..10).map(|number| number * 100 + 99)));
}

#[test]
fn a_refusal_ends_the_run_and_the_next_one_sends_the_same_rows() {
    let (job, _server) = job("");
    job.write("in.ndjson", "{\"number\":0}\n{\"number\":99}\n");
    for _ in 0..2 {
        let ended = job.run(&[]);
        assert_ne!(ended.code, Some(0));
        assert!(ended.stderr.contains("it answers 422") && ended.stderr.contains("refused_path"), "{}", ended.stderr);
    }
    let ended = job.run(&["sinks.out.refused_path=\"refused.ndjson\""]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert_eq!((taken(&job), job.rows("refused.ndjson").len()), (vec![0], 1));
}
