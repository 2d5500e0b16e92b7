//! Retained results by command and over HTTP, beside the run that makes them and when it is over.

mod folder;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Stdio};

use folder::{Finished, Folder};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

const PIPELINE: &str = r#"
[checkpoint]
path = "state"
interval = "50ms"

[serve]
listen = "127.0.0.1:0"

[sources.sensors]
kind = "generator"
keys = 50
rate = 20000
event_time = "timestamp"

[steps.hot]
kind = "filter"
inputs = ["sensors"]
where = "temperature > -100.0"

[steps.averages]
kind = "window"
inputs = ["hot"]
key = ["device_id"]
window = { tumbling = "7s" }
aggregates = { readings = "count()", mean_temperature = "mean(temperature)" }
retain = "30d"
retain_size = "1GiB"

[sinks.out]
kind = "file"
path = "out.ndjson"
inputs = ["averages"]
"#;

/// `ringmill run`, until it is told to end.
struct Run {
    child: Child,
    log: BufReader<std::process::ChildStderr>,
    address: SocketAddr,
}

impl Run {
    fn start(folder: &Folder) -> Run {
        let mut command = folder.command(&["run", "pipeline.toml", "--quiet", "--log-format", "json"]);
        let mut child = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().expect("ringmill starts");
        let mut log = BufReader::new(child.stderr.take().expect("its log"));
        let (mut all, mut line) = (String::new(), String::new());
        let address = loop {
            line.clear();
            assert!(log.read_line(&mut line).expect("read") > 0, "it ended:\n{all}");
            all.push_str(&line);
            if let Some((_, rest)) = line.split_once("http://") {
                let (address, _) = rest.split_once("/v1/").expect("an address");
                break address.parse().expect("an address");
            }
        };
        Run { child, log, address }
    }

    /// Sends a request as it is, and reads until the other side closes.
    fn send(&self, request: &[u8]) -> String {
        let mut stream = TcpStream::connect(self.address).expect("connect");
        // The server may have answered and closed before it has read everything.
        let _ = stream.write_all(request);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// Status, head and body.
    fn get(&self, path: &str) -> (u16, String, Value) {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.address);
        parse(&self.send(request.as_bytes()))
    }

    /// The rows of a key, once there are at least so many.
    fn rows(&self, key: &str, at_least: usize) -> Vec<Value> {
        loop {
            let (status, head, body) = self.get(&format!("/v1/averages?key={key}"));
            match body.as_array() {
                Some(rows) if rows.len() >= at_least => {
                    assert!(head.contains("ringmill-more: false"), "{head}");
                    return rows.clone();
                }
                Some(_) => assert_eq!(status, 200),
                // The sink is not open yet.
                None => assert_eq!(status, 503, "{body}"),
            }
        }
    }

    /// Lets it end in good order.
    fn end(mut self) {
        kill(Pid::from_raw(self.child.id() as i32), Signal::SIGTERM).expect("signal");
        let mut rest = String::new();
        self.log.read_to_string(&mut rest).expect("read");
        assert!(self.child.wait().expect("wait").success(), "{rest}");
    }
}

fn parse(answer: &str) -> (u16, String, Value) {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {answer:?}"));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    (status, head.to_ascii_lowercase(), serde_json::from_str(body).unwrap_or(Value::Null))
}

fn json_lines(finished: &Finished) -> Vec<Value> {
    finished.expect(0, &[]);
    finished.stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

#[test]
fn results_are_read_beside_the_run_and_after_it() {
    let folder = Folder::new(PIPELINE);
    folder
        .run(&["state", "get", "pipeline.toml", "averages", "--key", "x"])
        .expect(1, &["averages has retained nothing yet in ", "hint: results are there when the first checkpoint"]);
    let run = Run::start(&folder);
    assert!(run.rows("nobody", 0).is_empty());
    let list = run.get("/v1/").2;
    assert_eq!(list[0]["step"], "averages");
    assert_eq!(list[0]["key"][0]["name"], "device_id");
    // A key that there is.
    let key = loop {
        let scanned = folder.run(&["state", "scan", "pipeline.toml", "averages", "--limit", "1", "--json"]);
        if let Some(row) = scanned.stdout.lines().next().filter(|_| scanned.code == Some(0)) {
            let row: Value = serde_json::from_str(row).expect("JSON");
            break row["device_id"].as_str().expect("a key").to_owned();
        }
    };
    let served = run.rows(&key, 3);
    let beside = json_lines(&folder.run(&["state", "get", "pipeline.toml", "averages", "--key", &key, "--json"]));
    assert_eq!(beside[..served.len()], served, "what was served was committed");
    // A part of it, by time and by number.
    let (from, to) =
        (served[1]["window_start"].as_str().expect("time"), served[2]["window_start"].as_str().expect("time"));
    assert_eq!(run.get(&format!("/v1/averages?key={key}&from={from}&to={to}")).2, Value::from(vec![served[1].clone()]));
    let (_, head, newest) = run.get(&format!("/v1/averages?key={key}&limit=1&to={to}"));
    assert!(head.contains("ringmill-more: true") && head.contains("content-type: application/json"), "{head}");
    assert_eq!(newest, Value::from(vec![served[1].clone()]));
    let some = folder.run(&["state", "get", "state", "averages", "--key", &key, "--from", from, "--to", to, "--json"]);
    assert_eq!(json_lines(&some), [served[1].clone()]);
    run.end();
    // It stands: what the file shows is what is retained.
    let file = std::fs::read_to_string(folder.path("out.ndjson")).expect("read");
    let mut shown: Vec<&str> = file.lines().collect();
    shown.sort_unstable();
    let scanned = folder.run(&["state", "scan", "pipeline.toml", "averages", "--json"]);
    scanned.expect(0, &[]);
    let mut retained: Vec<&str> = scanned.stdout.lines().collect();
    retained.sort_unstable();
    assert!(shown == retained && shown.len() >= 150, "{} {}", shown.len(), retained.len());
    folder
        .run(&["state", "get", "pipeline.toml", "averages", "--key", &key])
        .expect(0, &["device_id", "window_start", "mean_temperature", &key]);
    folder.run(&["state", "scan", "pipeline.toml", "averages", "--limit", "2"]).expect(0, &["there are more rows"]);
    folder.run(&["state", "get", "pipeline.toml", "averages", "--key", "nobody"]).expect(0, &["no rows"]);
}

#[test]
fn what_cannot_be_shown_says_why() {
    let folder = Folder::new(PIPELINE);
    for (arguments, parts) in [
        (&["averges", "--key", "x"][..], &["has no step called \"averges\"", "did you mean `averages`?"][..]),
        (&["hot", "--key", "x"], &["hot retains nothing", "add retain = \"30d\""]),
        (&["averages", "--from", "now"], &["from: \"now\" is no time; write 2026-01-31T10:00:00Z"]),
    ] {
        folder.run(&[&["state", "get", "pipeline.toml"], arguments].concat()).expect(2, parts);
    }
    let mistaken = |from: &str, to: &str, parts: &[&str]| {
        let folder = Folder::new(&PIPELINE.replace(from, to));
        folder.run(&["check", "pipeline.toml"]).expect(2, parts);
    };
    let table = "[checkpoint]\npath = \"state\"\ninterval = \"50ms\"\n";
    mistaken(table, "", &["results are kept with checkpoints only", "pipeline.toml:", "add a [checkpoint] table"]);
    mistaken(
        "retain = \"30d\"\n",
        "",
        &["`retain_size` has no effect without `retain`", "[serve] has nothing to serve"],
    );
    mistaken("127.0.0.1:0", "here", &["`listen`: `here` is no address with a port", "0.0.0.0:8080"]);
    mistaken("\"30d\"", "\"0s\"", &["retain"]);
}

/// The pipeline with `retain` and what stands beside it replaced.
fn rolling_up(roll_up: &str) -> String {
    PIPELINE.replace("retain_size = \"1GiB\"", roll_up)
}

const ROLL_UP: &str = r#"roll_up = [{ after = "7d", size = "70m" }, { after = "14d", size = "1d2h50m" }]"#;

#[test]
fn what_cannot_be_rolled_up_is_refused_where_it_stands() {
    for (roll_up, parts) in [
        (r#"roll_up = [{ after = "7d", size = "1h" }]"#, &["`size`: 1h is no multiple of 7s", "use \"3605s\""][..]),
        (r#"roll_up = [{ after = "7d", size = "7s" }]"#, &["`size`: 7s is no multiple of 7s", "use \"14s\""]),
        (
            r#"roll_up = [{ after = "7d", size = "70000s" }, { after = "8d", size = "105000s" }]"#,
            &["is no multiple of 70000s"],
        ),
        (r#"roll_up = [{ after = "25d", size = "140000s" }]"#, &["20000 windows of 7s would become one"]),
        (
            r#"roll_up = [{ after = "1h", size = "70m" }]"#,
            &["`after`: 1h is less than allowed_lateness + size", "use \"70m\" or more"],
        ),
        (
            r#"roll_up = [{ after = "7d", size = "70m" }, { after = "7d", size = "700m" }]"#,
            &["`after`: 7d is not longer than that of the level before"],
        ),
        (
            r#"roll_up = [{ after = "30d", size = "70m" }]"#,
            &["partly gone, as results are kept for 30d", "or less, or a longer retain"],
        ),
        (r#"roll_up = [{ after = "7d" }]"#, &["`roll_up` needs `size`"]),
        (
            r#"roll_up = [{ after = "7d", sizes = "1h", size = "70m" }]"#,
            &["unknown key `sizes`", "did you mean `size`?"],
        ),
        (r#"roll_up = { after = "7d", size = "70m" }"#, &["`roll_up` is a table, but should be a list"]),
    ] {
        let finished = Folder::new(&rolling_up(roll_up)).run(&["check", "pipeline.toml"]);
        finished.expect(2, parts);
        finished.expect(2, &["pipeline.toml:27:"]);
    }
    let refused = |from: &str, to: &str, parts: &[&str]| {
        let text = rolling_up(ROLL_UP);
        assert!(text.contains(from), "{from}");
        Folder::new(&text.replace(from, to)).run(&["check", "pipeline.toml"]).expect(2, parts);
    };
    refused("retain = \"30d\"\n", "", &["`roll_up` has no effect without `retain`", "[serve] has nothing to serve"]);
    refused(
        "readings = \"count()\", ",
        "",
        &["mean(temperature) cannot be rolled up: it needs count() beside it", "pipeline.toml:25:"],
    );
    refused("mean(temperature)", "variance(temperature)", &["it needs mean(temperature) beside it"]);
    refused("mean(temperature)", "last(temperature)", &["last(temperature) cannot be rolled up: "]);
    refused("mean(temperature)", "collect(temperature)", &["collect(temperature) cannot be rolled up: "]);
    refused("{ tumbling = \"7s\" }", "{ session = \"7s\" }", &["sessions cannot be rolled up", "pipeline.toml:27:"]);
    refused("{ tumbling = \"7s\" }", "{ sliding = \"14s\", every = \"7s\" }", &["sliding windows cannot be rolled up"]);
    let statistics = "statistics = { of = \"mean_temperature\", as = [\"mean\"] }\nretain = ";
    refused("retain = ", statistics, &["rolling statistics cannot be rolled up"]);
}

#[test]
fn check_estimates_what_is_rolled_up() {
    // 7 days of 7 s, 7 days of 70 min and 16 days of 26 h 50 min: 86,400 + 144 + 14 windows.
    Folder::new(&rolling_up(ROLL_UP)).run(&["check", "pipeline.toml"]).expect(
        0,
        &["rolled up to windows of 70m after 7d, to windows of 1610m after 14d", "estimate: 4,327,900 rows, "],
    );
}

#[test]
fn old_results_are_answered_as_results_of_longer_windows() {
    let roll_up = "roll_up = [{ after = \"28s\", size = \"14s\" }, { after = \"70s\", size = \"42s\" }]";
    let folder = Folder::new(&rolling_up(roll_up));
    let run = Run::start(&folder);
    let length = |row: &Value| {
        let time =
            |name: &str| row[name].as_str().and_then(|time| time.parse::<jiff::Timestamp>().ok()).expect("a time");
        time("window_end").duration_since(time("window_start")).as_secs()
    };
    // A key of which the oldest results are of the longest windows.
    let (key, served) = loop {
        let scanned = folder.run(&["state", "scan", "pipeline.toml", "averages", "--limit", "1", "--json"]);
        let Some(row) = scanned.stdout.lines().next().filter(|_| scanned.code == Some(0)) else { continue };
        let row: Value = serde_json::from_str(row).expect("JSON");
        let key = row["device_id"].as_str().expect("a key").to_owned();
        let rows = run.rows(&key, 1);
        if length(&rows[0]) == 42 || length(&rows[1]) == 42 {
            break (key, rows);
        }
    };
    let starts: Vec<&str> = served.iter().filter_map(|row| row["window_start"].as_str()).collect();
    assert!(starts.is_sorted() && starts.len() == served.len(), "{starts:?}");
    run.end();
    // Every result that the file shows is in one row, and its readings with it.
    let retained = json_lines(&folder.run(&["state", "get", "pipeline.toml", "averages", "--key", &key, "--json"]));
    let file = std::fs::read_to_string(folder.path("out.ndjson")).expect("read");
    let shown = file.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    let shown: Vec<Value> = shown.filter(|row| row["device_id"] == key.as_str()).collect();
    let readings = |row: &Value| row["readings"].as_u64().expect("a number");
    let total = |row: &Value| row["mean_temperature"].as_f64().expect("a number") * readings(row) as f64;
    for row in &retained {
        let (start, end) = (row["window_start"].as_str(), row["window_end"].as_str());
        let parts =
            || shown.iter().filter(|part| part["window_start"].as_str() >= start && part["window_end"].as_str() <= end);
        assert_eq!(readings(row), parts().map(readings).sum::<u64>(), "{row}");
        assert!((total(row) - parts().map(total).sum::<f64>()).abs() < 1e-6, "{row}");
    }
    assert_eq!(retained.iter().map(readings).sum::<u64>(), shown.iter().map(readings).sum::<u64>());
    assert!(retained.len() < shown.len());
    folder
        .run(&["state", "get", "pipeline.toml", "averages", "--key", &key])
        .expect(0, &["readings", "mean_temperature"]);
}

#[test]
fn check_estimates_what_is_retained() {
    // A window every 7 s for 30 days is 370,285 windows.
    Folder::new(PIPELINE).run(&["check", "pipeline.toml"]).expect(
        0,
        &["kept until windows end 30d later", "estimate: 18,514,250 rows, ", " for 50 keys", "at most 1.00 GiB"],
    );
    let unknown = PIPELINE.replace("key = [\"device_id\"]", "key = [\"device_id\", \"timestamp\"]");
    Folder::new(&unknown).run(&["check", "pipeline.toml"]).expect(0, &["370,285,000 rows", "for every 1,000 keys"]);
}

#[test]
fn a_port_that_is_taken_ends_the_run_before_it_begins() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("listen");
    let address = taken.local_addr().expect("address").to_string();
    let folder = Folder::new(&PIPELINE.replace("127.0.0.1:0", &address));
    let finished = folder.run(&["run", "pipeline.toml", "--duration", "10s"]);
    finished.expect(1, &["[serve] cannot listen at ", &address, "hint: choose another port"]);
    assert!(!folder.path("state").exists());
}

#[test]
fn no_request_disturbs_the_server_or_the_run() {
    let folder = Folder::new(PIPELINE);
    let run = Run::start(&folder);
    run.rows("anybody", 0);
    let long = format!("/v1/averages?key={}", "x".repeat(100_000));
    for (path, status) in [
        ("/", 404),
        ("/v1/averges?key=x", 404),
        ("/v1/averages/x", 404),
        ("/v1/%FF", 400),
        ("/v1/averages", 400),
        ("/v1/averages?key=a&key=b", 400),
        ("/v1/averages?key=a&limit=-1", 400),
        ("/v1/averages?key=a&from=", 400),
        ("/v1/averages?key=a&what=", 400),
        ("/v1/averages?key=%00%FF%2e%2e", 200),
        ("/v1/..%2f..%2fetc%2fpasswd", 404),
        ("/v1", 200),
        (&long, 414),
    ] {
        let answer = run.get(path);
        assert!(answer.0 == status || answer.0 == 431 && status == 414, "{path:.80}: {answer:?}");
    }
    let host = run.address.to_string();
    for (request, status) in [
        (
            format!(
                "POST /v1/averages?key=a HTTP/1.1\r\nHost: {host}\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc"
            ),
            405,
        ),
        (format!("DELETE /v1/ HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"), 405),
        ("GET /v1/ HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n".to_owned(), 403),
        ("GET /v1/averages?key=a HTTP/1.1\r\nHost: evil.example:80\r\nConnection: close\r\n\r\n".to_owned(), 403),
        ("GET /v1/ HTTP/1.1\r\nHost: localhost:1\r\nConnection: close\r\n\r\n".to_owned(), 200),
        ("GET /v1/ HTTP/1.0\r\n\r\n".to_owned(), 200),
        ("\0\0\0\0 nonsense\r\n\r\n".to_owned(), 400),
    ] {
        assert_eq!(parse(&run.send(request.as_bytes())).0, status, "{request:?}");
    }
    let mut seed = 1u64;
    for _ in 0..300 {
        let mut garbage =
            b"GET /v1/averages?key=a&limit=5 HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".to_vec();
        for _ in 0..4 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let at = (seed >> 33) as usize % garbage.len();
            garbage[at] = (seed >> 25) as u8;
        }
        let mut stream = TcpStream::connect(run.address).expect("connect");
        let _ = stream.write_all(&garbage);
        let _ = stream.shutdown(Shutdown::Write);
        let _ = stream.read_to_end(&mut Vec::new());
    }
    // Those who say nothing hold a connection each, and nobody else's.
    let silent: Vec<TcpStream> = (0..20).map(|_| TcpStream::connect(run.address).expect("connect")).collect();
    assert_eq!(run.get("/v1/").0, 200);
    drop(silent);
    run.end();
}
