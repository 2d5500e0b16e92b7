//! Rows to a real server that knows keys, through the death of the core and of the server.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ringmill_system_tests::certificates::Authority;
use ringmill_system_tests::chaos::{Chance, CoreKills, kill_now, newest_checkpoint};
use ringmill_system_tests::taker::Taker;
use ringmill_system_tests::{CHECKPOINT, Job, file_source, read_until, until};
use serde_json::Value;

const ROWS: u64 = 20_000;

/// Rows of a file to the server, which has each once; those that it refuses go to `refused.ndjson`.
fn job(keys: &str) -> (Job, Taker) {
    job_with(&format!("idempotent = true\n{keys}"))
}

/// Rows of a file to the server.
fn job_with(keys: &str) -> (Job, Taker) {
    let job = Job::new("", "");
    let server = Taker::start(&job, 0);
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
        server.port()
    );
    job.write("pipeline.toml", pipeline);
    // Without those that the server refuses.
    job.write("in.ndjson", lines(expected()));
    (job, server)
}

fn lines(numbers: impl Iterator<Item = u64>) -> String {
    numbers.map(|number| format!("{{\"number\":{number}}}\n")).collect()
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
        server = Taker::start(&job, server.port());
        read_until(&mut child, "goes on");
    }
    let ended = job.wait(child);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(taken(&job).into_iter().eq(expected()));
}

#[test]
fn rows_that_the_server_refuses_are_kept_aside_and_all_others_taken() {
    let (job, _server) = job("refused_path = \"refused.ndjson\"");
    job.write("in.ndjson", lines(0..1_000));
    let ended = job.run(&[]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(taken(&job).into_iter().eq(expected().take_while(|number| *number < 1_000)));
    let refused: Vec<u64> =
        job.rows("refused.ndjson").iter().map(|line| line["row"]["number"].as_u64().expect("a number")).collect();
    assert!(refused.into_iter().eq((0..10).map(|number| number * 100 + 99)));
}

/// The rows of the sink's stored letters, in their order.
fn refused(job: &Job) -> Vec<u64> {
    let numbers = job.letters(&["--step", "out"]).into_iter().map(|letter| {
        assert_eq!(letter["reason"], "it answers 422 Unprocessable Entity: a number of nines");
        let row: Value = serde_json::from_str(letter["record"].as_str().expect("a row")).expect("JSON");
        let number = row["number"].as_u64().expect("a number");
        let detail = letter["detail"].as_str().expect("a request");
        assert!(detail.starts_with("Idempotency-Key: ringmill-"), "{detail}");
        number
    });
    numbers.collect()
}

#[test]
fn each_row_is_taken_or_a_dead_letter_once_however_often_the_core_dies() {
    let mut kills = CoreKills::of("http sink with letters", "RINGMILL_HTTP_SINK_KILLS", 10);
    while kills.are_wanted() {
        let (job, _server) = job("on_refused = \"dead_letter\"");
        job.write("in.ndjson", lines(0..ROWS));
        kills.behind_checkpoints(&job, |_| check_beginning(&taken(&job)));
        assert!(taken(&job).into_iter().eq(expected()));
        assert!(refused(&job).into_iter().eq((0..ROWS).filter(|number| number % 100 == 99)));
    }
    println!("{} kills of the core", kills.done);
}

#[test]
fn refused_rows_are_letters_that_can_be_replayed_and_those_refused_again_are_letters_again() {
    let (job, _server) = job("on_refused = \"dead_letter\"");
    job.write("in.ndjson", lines(0..2_000));
    let ended = job.run(&[]);
    let nines = |nines: u64| (0..2_000).filter(move |number| number % nines == nines - 1);
    assert_eq!(refused(&job), nines(100).collect::<Vec<_>>());
    assert_eq!((ended.figure("/rows/dead_letters"), ended.figure("/rows/out/out")), (20, 1_980));
    assert!(ended.stderr.contains("reconciled: 2,000 rows in, 1,980 out, 0 late, 20 dead letters"), "{}", ended.stderr);

    // One by its id, while the server refuses it as before; then all, and it has been mended for most.
    let before = job.letters(&[]);
    let id = before[3]["id"].as_str().expect("an id");
    assert!(
        job.dlq(&["replay", "pipeline.toml", "--id", id]).contains("out: 1 of 1 letter replayed; 1 failed again\n")
    );
    job.write("mended", "");
    let told = job.dlq(&["replay", "pipeline.toml"]);
    assert!(told.contains("out: 20 of 20 letters replayed; 2 failed again\n"), "{told}");
    assert_eq!(refused(&job), [999, 1_999]);
    let mut all = taken(&job);
    all.sort_unstable();
    assert!(all.into_iter().eq((0..2_000).filter(|number| number % 1_000 != 999)));
    // A run that begins anew begins its letters anew, too.
    job.write("in.ndjson", lines(0..100));
    let fresh = job.command(&[]).arg("--fresh").output().expect("the command is built");
    assert!(fresh.status.success(), "{}", String::from_utf8_lossy(&fresh.stderr));
    assert_eq!(refused(&job), [] as [u64; 0]);
}

#[test]
fn a_run_that_is_to_end_does_not_wait_for_a_busy_server_and_the_next_one_sends_the_same_requests() {
    let (job, _server) = job("");
    job.write("busy", "86400");
    let mut child = job.start(&["sources.rows.rate=1000"]);
    read_until(&mut child, "paused: sink out");
    // It asks for a day, of which it is given five minutes.
    let ended = job.end(child);
    assert_eq!(ended.code, Some(75), "{}", ended.stderr);
    assert!(ended.stderr.contains("what came after the last checkpoint is left to the next run"), "{}", ended.stderr);
    let asked = job.read("asked");
    assert_eq!(asked.lines().count(), 1, "it is left alone as long as it asks for");
    std::fs::remove_file(job.path("busy")).expect("it is there");
    job.run(&[]).report();
    assert!(taken(&job).into_iter().eq(expected()));
    let first: Value = serde_json::from_str(job.read("taken").lines().next().expect("a request")).expect("JSON");
    assert_eq!(first[0], asked.trim_end());
}

#[test]
fn an_encrypted_server_is_believed_if_its_root_is_and_under_its_own_name_only() {
    let (ours, other) = (Authority::new("ours"), Authority::new("another"));
    let (job, _) = job("");
    job.write("in.ndjson", lines(0..50));
    let (key, certificate) = ours.localhost();
    let server = Taker::encrypted(&job, &key, &certificate);
    let run = |host: &str, root: Option<&Authority>| {
        let url = format!("sinks.out.url=\"https://{host}:{}/rows\"", server.port());
        let root = root.map(|root| format!("sinks.out.ca_file={:?}", root.root()));
        job.run(&[Some(url), root].iter().flatten().map(String::as_str).collect::<Vec<_>>())
    };
    for (host, root, reason) in [
        (
            "localhost",
            Some(&other),
            "invalid peer certificate: UnknownIssuer (ca_file names a file with the certificates",
        ),
        ("localhost", None, "certificate"),
        ("127.0.0.1", Some(&ours), "certificate not valid for name"),
    ] {
        let ended = run(host, root);
        assert!(ended.code != Some(0) && ended.stderr.contains(reason), "{}", ended.stderr);
    }
    assert_eq!(taken(&job), [] as [u64; 0], "nobody was told anything");
    run("localhost", Some(&ours)).report();
    assert!(taken(&job).into_iter().eq(0..50), "also what those runs have left");
}

#[test]
fn requests_go_through_the_proxy_that_is_named_and_through_no_other() {
    let ours = Authority::new("ours");
    let (job, plain) = job("");
    job.write("in.ndjson", lines(0..50));
    job.write("right", "pass-1\n");
    job.write("wrong", "T0KEN\n");
    let (key, certificate) = ours.localhost();
    let (encrypted, proxy) = (Taker::encrypted(&job, &key, &certificate), Taker::proxy(&job));
    // A name that nobody knows but the proxy.
    let hosts = [format!("nobody.invalid:{}", plain.port()), format!("localhost:{}", encrypted.port())];
    let settings = |url: String, file: &str| {
        let proxied = format!("sinks.out.proxy=\"http://127.0.0.1:{}\"", proxy.port());
        let file = format!("sinks.out.proxy_password_file={file:?}");
        let url = format!("sinks.out.url={url:?}");
        [url, proxied, "sinks.out.proxy_user=\"me\"".to_owned(), file]
    };
    let run = |settings: &[String]| job.run(&settings.iter().map(String::as_str).collect::<Vec<_>>());
    let ended = run(&settings(format!("http://{}/", hosts[0]), "wrong"));
    let reason = "the proxy answers 407 Proxy Authentication Required: look at proxy_user and proxy_password_file";
    assert!(ended.code != Some(0) && ended.stderr.contains(reason), "{}", ended.stderr);
    assert!(!ended.stderr.contains("T0KEN"), "{}", ended.stderr);
    run(&settings(format!("http://{}/", hosts[0]), "right")).report();
    assert!(taken(&job).into_iter().eq(0..50));
    job.write("in.ndjson", lines(0..80));
    let mut secretly = settings(format!("https://{}/", hosts[1]), "right").to_vec();
    secretly.push(format!("sinks.out.ca_file={:?}", ours.root()));
    run(&secretly).report();
    // The two servers do not know of each other, and write one file.
    assert!(taken(&job).into_iter().eq(0..80));
    assert_eq!(job.read("connected").lines().collect::<Vec<_>>(), hosts);
    // The environment says nothing to us.
    job.write("in.ndjson", lines(0..90));
    let mut command = job.command(&[]);
    ["http_proxy", "HTTP_PROXY", "ALL_PROXY"].iter().for_each(|name| _ = command.env(name, "http://127.0.0.1:1"));
    job.wait(command.spawn().expect("the command is built")).report();
    assert!(taken(&job).into_iter().eq(0..90));
}

#[test]
fn a_refusal_ends_the_run_and_the_next_one_sends_the_same_rows() {
    let (job, _server) = job("");
    job.write("in.ndjson", "{\"number\":0}\n{\"number\":99}\n");
    for _ in 0..2 {
        let ended = job.run(&[]);
        assert_ne!(ended.code, Some(0));
        assert!(ended.stderr.contains("it answers 422") && ended.stderr.contains("on_refused"), "{}", ended.stderr);
    }
    let ended = job.run(&["sinks.out.refused_path=\"refused.ndjson\""]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert_eq!((taken(&job), job.rows("refused.ndjson").len()), (vec![0], 1));
}
