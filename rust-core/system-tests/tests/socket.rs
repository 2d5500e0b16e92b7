//! Lines over sockets: from many clients at once, garbage among them, and through the death of the core.

use std::io::Write;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::process::Child;

use ringmill_system_tests::chaos::{Chance, Progress, kill_now, rounds};
use ringmill_system_tests::page::Page;
use ringmill_system_tests::{CHECKPOINT, Job, free_address, journaled_bytes, sinks_of, until};

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
    until(&mut child, || journaled_bytes(&job) > 0);
    assert_eq!(job.end(child).figure("/rows/in"), 1);
    assert_eq!(job.read("readings.ndjson"), "{\"sensor\":\"s-1\",\"celsius\":21.5}\n");
}
