//! Rows as text of their own to a real server: row for row through the death of the core, whatever bytes are in them, and
//! what the server refuses as dead letters that can be sent again.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ringmill_system_tests::chaos::{Chance, CoreKills};
use ringmill_system_tests::page::Page;
use ringmill_system_tests::taker::Taker;
use ringmill_system_tests::{CHECKPOINT, Job, file_source, read_until};
use serde_json::{Value, json};

/// Values of a file, with their numbers, to the server.
fn job(values: &[Vec<u8>], keys: &str) -> (Job, Taker) {
    let job = Job::new("", "");
    let server = Taker::start(&job, 0);
    let source = file_source(4_000, "number = \"uint64\", value = \"binary\"");
    let url = format!("http://127.0.0.1:{}/rows", server.port());
    let sink =
        format!("[sinks.out]\nkind = \"http\"\ninputs = [\"rows\"]\nurl = \"{url}\"\nidempotent = true\n{keys}\n");
    job.write("pipeline.toml", format!("{CHECKPOINT}\n{source}\n{sink}"));
    let lines = values.iter().enumerate().map(|(number, value)| {
        let row = json!({ "number": number, "value": STANDARD.encode(value) });
        format!("{row}\n")
    });
    job.write("in.ndjson", lines.collect::<String>());
    (job, server)
}

/// What requests were taken that are no NDJSON: what they said they are, and their bodies.
fn taken(job: &Job) -> Vec<(String, Vec<u8>)> {
    let bodies = job.whole_rows("taken").into_iter().map(|request| {
        let body = STANDARD.decode(request[1]["body"].as_str().expect("a body")).expect("base64");
        (request[1]["kind"].as_str().expect("a type").to_owned(), body)
    });
    bodies.collect()
}

fn bodies(job: &Job) -> Vec<Vec<u8>> {
    taken(job).into_iter().map(|(_, body)| body).collect()
}

/// Values that no line could hold, each with its number in it.
fn values(chance: &mut Chance, count: usize) -> Vec<Vec<u8>> {
    let pieces: [&[u8]; 8] = [b"\n", b"\r\n", b"\"", b"\xff", b"\x00", b",", b"text", "grün".as_bytes()];
    let value = |number: usize, chance: &mut Chance| {
        let mut value = format!("{number}:").into_bytes();
        (0..chance.below(8)).for_each(|_| value.extend(pieces[chance.below(8) as usize]));
        value
    };
    (0..count).map(|number| value(number, chance)).collect()
}

fn line_of(value: &[u8]) -> Vec<u8> {
    [value, b"\n"].concat()
}

#[test]
fn each_value_is_a_body_as_it_is_once_and_in_order_however_often_the_core_dies() {
    let mut kills = CoreKills::of("http raw rows", "RINGMILL_HTTP_FORMAT_KILLS", 6);
    while kills.are_wanted() {
        let values = values(&mut kills.chance, 1_500);
        let (job, _server) = job(&values, "format = \"raw\"\ncolumn = \"value\"\nbody = \"row\"");
        kills.behind_checkpoints(&job, |_| assert!(values.starts_with(&bodies(&job))));
        assert!(bodies(&job) == values);
        assert!(taken(&job).iter().all(|(kind, _)| kind == "application/octet-stream"));
    }
    println!("{} kills of the core", kills.done);
}

#[test]
fn values_are_lines_once_and_in_order_however_often_the_core_dies() {
    let mut kills = CoreKills::of("http raw lines", "RINGMILL_HTTP_FORMAT_KILLS", 6);
    while kills.are_wanted() {
        let values = values(&mut kills.chance, 4_000);
        let expected = values.iter().flat_map(|value| line_of(value)).collect::<Vec<u8>>();
        let keys = "format = \"raw\"\ncolumn = \"value\"\nrows_max = 50\ncontent_type = \"text/x-own\"\ncompression = \"none\"";
        let (job, _server) = job(&values, keys);
        kills.behind_checkpoints(&job, |_| assert!(expected.starts_with(&bodies(&job).concat())));
        assert!(bodies(&job).concat() == expected);
        assert!(taken(&job).iter().all(|(kind, _)| kind == "text/x-own"));
    }
    println!("{} kills of the core", kills.done);
}

#[test]
fn refused_values_are_letters_with_their_rows_and_can_be_sent_again_as_they_were() {
    let mut values = values(&mut Chance::from_environment("http refused values"), 300);
    let bad = |number: usize| format!("bad\n\"{number}\"").into_bytes();
    (0..300).step_by(30).for_each(|number| values[number] = bad(number));
    values[60].push(0xff);
    let (job, _server) = job(&values, "format = \"raw\"\ncolumn = \"value\"\non_refused = \"dead_letter\"");
    let ended = job.run(&[]);
    assert_eq!((ended.figure("/rows/dead_letters"), ended.figure("/rows/out/out")), (10, 290), "{}", ended.stderr);
    let good = values.iter().filter(|value| !value.starts_with(b"bad")).flat_map(|value| line_of(value));
    assert!(bodies(&job).concat() == good.collect::<Vec<u8>>());
    let letters = job.letters(&["--step", "out"]);
    for (letter, number) in letters.iter().zip((0..300).step_by(30)) {
        assert_eq!(letter["header"], json!({ "number": number }).to_string());
        match number {
            60 => assert_eq!(letter["record_bytes"], STANDARD.encode(&values[60])),
            _ => assert_eq!(letter["record"], String::from_utf8(bad(number)).expect("text")),
        }
    }
    // They are whole rows: also a sink that sends JSON by now can send them.
    let id = letters[3]["id"].as_str().expect("an id");
    let before = bodies(&job).len();
    job.write("mended", "");
    let pipeline = job.read("pipeline.toml");
    job.write("pipeline.toml", pipeline.replace("format = \"raw\"\ncolumn = \"value\"", "body = \"array\""));
    assert!(job.dlq(&["replay", "pipeline.toml", "--id", id]).contains("out: 1 of 1 letter replayed"));
    let expected = format!("[{}]", json!({ "number": 90, "value": STANDARD.encode(&values[90]) }));
    assert_eq!(bodies(&job)[before..], [expected.into_bytes()]);
    job.write("pipeline.toml", pipeline);
    assert!(job.dlq(&["replay", "pipeline.toml"]).contains("out: 9 of 9 letters replayed"));
    let again = (0..300).step_by(30).filter(|number| *number != 90).flat_map(|number| line_of(&values[number]));
    assert!(bodies(&job)[before + 1..].concat() == again.collect::<Vec<u8>>());
    assert_eq!(job.letters(&[]), [] as [Value; 0]);
}

#[test]
fn csv_has_its_header_in_every_request_also_in_halves_and_its_refused_rows_can_be_sent_again() {
    const HEADER: &str = "number,value\n";
    let values: Vec<Vec<u8>> = (0..400).map(|number| number.to_string().into_bytes()).collect();
    let (job, _server) = job(&values, "format = \"csv\"\nrows_max = 64\non_refused = \"dead_letter\"");
    // A note is text here, with what CSV has to quote; the server refuses some.
    let note =
        |number: usize| if number % 50 == 7 { format!("bad, \"{number}\"\n") } else { format!("a, \"{number}\"\n") };
    let lines = (0..400).map(|number| format!("{}\n", json!({ "number": number, "value": note(number) })));
    job.write("in.ndjson", lines.collect::<String>());
    let pipeline = job.read("pipeline.toml").replace("value = \"binary\"", "value = \"utf8\"");
    job.write("pipeline.toml", pipeline);
    let line = |number: usize| format!("{number},\"{}\"\n", note(number).replace('"', "\"\""));
    let rows = || {
        let bodies = taken(&job).into_iter().map(|(kind, body)| {
            assert_eq!(kind, "text/csv");
            let text = String::from_utf8(body).expect("text");
            text.strip_prefix(HEADER).expect("a header").to_owned()
        });
        bodies.collect::<Vec<_>>().concat()
    };
    job.run(&[]).report();
    let good: String = (0..400).filter(|number| number % 50 != 7).map(line).collect();
    assert!(rows() == good);
    let letters = job.letters(&[]);
    assert_eq!(letters.len(), 8);
    for (letter, number) in letters.iter().zip((7..400).step_by(50)) {
        assert_eq!(
            (letter["header"].as_str(), letter["record"].as_str()),
            (Some(HEADER), line(number).strip_suffix('\n'))
        );
    }
    job.write("mended", "");
    assert!(job.dlq(&["replay", "pipeline.toml"]).contains("out: 8 of 8 letters replayed"));
    assert!(rows() == good + &(7..400).step_by(50).map(line).collect::<String>());
}

#[test]
fn what_was_staged_in_another_format_is_sent_as_it_was_staged() {
    let values: Vec<Vec<u8>> = (0..20_000).map(|number| format!("{number}\n").into_bytes()).collect();
    let (job, _server) = job(&values, "format = \"raw\"\ncolumn = \"value\"");
    job.write("busy", "86400");
    let mut child = job.start(&["sources.rows.rate=1000"]);
    read_until(&mut child, "paused: sink out");
    assert_eq!(job.end(child).code, Some(75));
    std::fs::remove_file(job.path("busy")).expect("it is there");
    let pipeline = job.read("pipeline.toml");
    job.write("pipeline.toml", pipeline.replace("format = \"raw\"\ncolumn = \"value\"", "format = \"csv\""));
    job.run(&["sources.rows.rate=1000000"]).report();
    let (raw, csv): (Vec<_>, Vec<_>) =
        taken(&job).into_iter().partition(|(kind, _)| kind == "application/octet-stream");
    let raw: Vec<u8> = raw.into_iter().flat_map(|(_, body)| body).collect();
    assert!(!raw.is_empty() && !csv.is_empty());
    let mut expected = values.iter().map(|value| line_of(value));
    let mut came = Vec::new();
    while came.len() < raw.len() {
        came.extend(expected.next().expect("a value"));
    }
    assert!(came == raw);
    let lines =
        csv.iter().flat_map(|(_, body)| body.split(|byte| *byte == b'\n').skip(1)).filter(|line| !line.is_empty());
    assert_eq!(lines.count(), expected.count());
}

#[test]
fn the_page_shows_how_a_function_makes_what_a_database_reads() {
    let page = Page::read("connect/http");
    let job = Job::new("", "");
    let server = Taker::start(&job, 0);
    let pipeline = page.file("metrics.toml");
    let url = format!("\"http://127.0.0.1:{}/write\"", server.port());
    assert!(pipeline.contains("\"http://localhost:8428/write\""));
    job.write("pipeline.toml", pipeline.replace("\"http://localhost:8428/write\"", &url));
    for name in ["points.py", "readings.ndjson"] {
        job.write(name, page.file(name));
    }
    job.run(&[]).report();
    let [(kind, body)] = &taken(&job)[..] else { panic!("one request") };
    assert_eq!(kind, "text/plain; charset=utf-8");
    assert_eq!(String::from_utf8_lossy(body).trim_end(), page.file("body.txt").trim_end());
}
