//! Rows to a server: what is in requests, and what its answers do.

use std::{
    collections::{BTreeSet, VecDeque},
    fs,
    io::Read,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use flate2::read::GzDecoder;
use proptest::prelude::*;
use serde_json::Value;

use crate::{
    ConnectError, HttpBody, HttpMethod, HttpSink, OnRefused, Promise, Secret, TokenPlace, Transactions, Writer,
    http::{
        Form,
        requests::{Cut, Requests},
    },
    schema_of,
    testing::{
        fields,
        http_sink::sink_to,
        server::{Received, Reply, serve},
    },
};

pub(super) const OK: Reply = Some(("200 OK", String::new()));

/// A server that notes what it receives, and a sink to it.
pub(super) fn noting(
    mut answer: impl FnMut(&Received) -> Reply + Send + 'static,
) -> (HttpSink, Arc<Mutex<Vec<Received>>>) {
    let notes = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&notes);
    let address = serve(move |received| {
        let reply = answer(received);
        let Received { method, path, headers, body } = received;
        let copy =
            Received { method: method.clone(), path: path.clone(), headers: headers.clone(), body: body.clone() };
        noted.lock().unwrap().push(copy);
        reply
    });
    (sink_to(&format!("http://{address}/rows?from=ringmill")), notes)
}

/// One that gives these answers in turn, and then takes everything.
pub(super) fn answering(answers: &[Reply]) -> (HttpSink, Arc<Mutex<Vec<Received>>>) {
    let mut answers: VecDeque<Reply> = answers.iter().cloned().collect();
    noting(move |_| answers.pop_front().unwrap_or(OK))
}

fn open(sink: &HttpSink) -> Result<Box<dyn Writer>, ConnectError> {
    sink.open(&schema_of(&fields(&["x:int64"])).unwrap(), None, None)
}

/// With checkpoints, of which this one is gone on from.
fn open_staged(
    sink: &HttpSink,
    staging: &Path,
    recovered: Option<(u64, &Value)>,
) -> Result<Box<dyn Writer>, ConnectError> {
    sink.open(&schema_of(&fields(&["x:int64"])).unwrap(), Some(&Transactions { staging, recovered }), None)
}

pub(super) fn lines(numbers: impl IntoIterator<Item = u64>) -> String {
    numbers.into_iter().map(|number| format!("{{\"x\":{number}}}\n")).collect()
}

pub(super) fn bodies(notes: &Mutex<Vec<Received>>) -> Vec<String> {
    notes.lock().unwrap().iter().map(|received| String::from_utf8_lossy(&received.body).into_owned()).collect()
}

fn keys(notes: &Mutex<Vec<Received>>) -> Vec<String> {
    notes.lock().unwrap().iter().map(|received| received.headers["idempotency-key"].clone()).collect()
}

proptest! {
    #[test]
    fn lines_are_cut_into_requests_in_their_order(
        lengths in prop::collection::vec(0_usize..40, 0..50), rows_max in 1_usize..8, bytes_max in 1_usize..100
    ) {
        let lines: String = lengths.iter().map(|length| format!("{}\n", "x".repeat(*length))).collect();
        let form = Form::of(&sink_to("http://x/"), &schema_of(&fields(&["x:int64"])).unwrap()).unwrap();
        let mut requests = Requests::new(lines.as_bytes(), Cut { rows_max, bytes_max }, &form);
        let (mut all, mut rows) = (Vec::new(), 0);
        while let Some(request) = requests.next().unwrap() {
            prop_assert_eq!(request.first, rows);
            prop_assert!(request.rows() <= rows_max);
            let body = request.body(0..request.rows());
            prop_assert!(body.len() <= bytes_max || request.rows() == 1);
            // It could not have taken the next row.
            let next = lengths.get(rows as usize + request.rows()).map(|length| length + 1);
            prop_assert!(request.rows() == rows_max || next.is_none_or(|next| body.len() + next > bytes_max));
            all.extend_from_slice(&body);
            rows += request.rows() as u64;
        }
        prop_assert_eq!((all, rows), (lines.into_bytes(), lengths.len() as u64));
    }
}

#[test]
fn a_request_has_what_is_asked_for() {
    for (body, content, expect) in [
        (HttpBody::Lines, "application/x-ndjson", vec!["{\"x\":0}\n{\"x\":1}\n", "{\"x\":2}\n"]),
        (HttpBody::Array, "application/json", vec!["[{\"x\":0},{\"x\":1}]", "[{\"x\":2}]"]),
        (HttpBody::Row, "application/json", vec!["{\"x\":0}", "{\"x\":1}", "{\"x\":2}"]),
    ] {
        for is_compressed in [false, true] {
            let (mut sink, notes) = answering(&[]);
            let folder = tempfile::tempdir().unwrap();
            let token = folder.path().join("token");
            fs::write(&token, "secret-1\n").unwrap();
            sink.headers = vec![("X-Api-Key".to_owned(), Secret::new("key-2"))];
            sink.token = Some(TokenPlace::File(token));
            (sink.method, sink.body, sink.is_compressed) = (HttpMethod::Put, body, is_compressed);
            sink.rows_max = if body == HttpBody::Row { 1 } else { 2 };
            open(&sink).unwrap().write(1, lines(0..3).as_bytes()).unwrap();
            let notes = notes.lock().unwrap();
            let unpacked = notes.iter().map(|received| {
                assert_eq!((received.method.as_str(), received.path.as_str()), ("PUT", "/rows?from=ringmill"));
                let header = |name: &str| received.headers.get(name).map(String::as_str);
                assert_eq!(header("content-type"), Some(content));
                assert_eq!(header("authorization"), Some("Bearer secret-1"));
                assert_eq!(header("x-api-key"), Some("key-2"));
                assert_eq!(header("content-encoding"), is_compressed.then_some("gzip"));
                let mut text = String::new();
                match is_compressed {
                    true => GzDecoder::new(&received.body[..]).read_to_string(&mut text).unwrap(),
                    false => (&received.body[..]).read_to_string(&mut text).unwrap(),
                };
                text
            });
            assert_eq!(unpacked.collect::<Vec<_>>(), expect);
        }
    }
}

#[test]
fn keys_differ_between_requests_and_runs_and_stay_when_one_is_sent_again() {
    let (mut sink, notes) = answering(&[OK, None]);
    sink.rows_max = 2;
    for _ in 0..2 {
        let mut writer = open(&sink).unwrap();
        writer.write(1, lines(0..3).as_bytes()).unwrap();
        writer.write(1, lines(0..1).as_bytes()).unwrap();
        writer.finish().unwrap();
    }
    let mut keys = keys(&notes);
    // The second request was sent again.
    assert_eq!(keys[1], keys[2]);
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), 6, "{keys:?}");
}

#[test]
fn a_server_that_is_overloaded_or_fails_is_left_alone_for_a_while_and_then_has_every_row_once() {
    for (status, is_long) in [
        ("408 Request Timeout", false),
        ("409 Conflict", false),
        ("429 Too Many Requests\r\nretry-after: 100", true),
        ("500 Internal Server Error", false),
        ("503 Service Unavailable\r\nretry-after: Fri, 31 Dec 1999 23:59:59 GMT", false),
    ] {
        let (mut sink, notes) = answering(&[OK, Some((status, "come back".to_owned()))]);
        sink.rows_max = 1;
        let mut writer = open(&sink).unwrap();
        let rows = lines(0..3);
        let error = writer.write(1, rows.as_bytes()).unwrap_err();
        assert!(error.is_transient() && !error.is_configuration(), "{error}");
        let text = error.to_string();
        assert!(text.contains(&status[..3]) && text.contains("come back") && !text.contains("rows?from"), "{text}");
        if is_long {
            // Not a single request goes out meanwhile.
            let error = writer.write(1, rows.as_bytes()).unwrap_err();
            assert_eq!((error.to_string(), bodies(&notes).len()), (text, 2));
            continue;
        }
        while let Err(error) = writer.write(1, rows.as_bytes()) {
            assert!(error.is_transient(), "{error}");
            std::thread::yield_now();
        }
        assert_eq!(bodies(&notes), ["{\"x\":0}\n", "{\"x\":1}\n", "{\"x\":1}\n", "{\"x\":2}\n"]);
    }
}

#[test]
fn a_server_that_is_away_is_waited_for() {
    let (mut sink, _) = answering(&[]);
    sink.url = Secret::new("http://127.0.0.1:1/rows");
    let error = open(&sink).unwrap().write(1, lines(0..1).as_bytes()).unwrap_err();
    assert!(error.is_transient() && error.to_string().contains("http://127.0.0.1:1: Connection refused"), "{error}");
    // One that takes a request and says nothing.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    sink.url = Secret::new(format!("http://{}/", listener.local_addr().unwrap()));
    sink.timeout = Duration::from_millis(50);
    let error = open(&sink).unwrap().write(1, lines(0..1).as_bytes()).unwrap_err();
    assert!(error.is_transient() && error.to_string().contains("timeout"), "{error}");
}

#[test]
fn what_cannot_get_better_ends_the_run_with_the_servers_words() {
    for (status, body, expect) in [
        ("400 Bad Request", "no x", "it answers 400 Bad Request: no x (rows in the request: 3; on_refused = "),
        ("401 Unauthorized", "", "it answers 401 Unauthorized"),
        ("404 Not Found", "no\n/rows?from=ringmill", "it answers 404 Not Found: no\\n/…"),
        ("301 Moved Permanently\r\nlocation: http://there/rows", "", "it answers 301 Moved Permanently (to there; the"),
        ("501 Not Implemented", "", "it answers 501 Not Implemented"),
    ] {
        let (sink, notes) = answering(&[Some((status, body.to_owned()))]);
        let error = open(&sink).unwrap().write(1, lines(0..3).as_bytes()).unwrap_err();
        assert!(!error.is_transient() && error.to_string().contains(expect), "{error}");
        assert_eq!(bodies(&notes).len(), 1);
    }
}

#[test]
fn a_request_that_is_too_large_is_sent_in_parts() {
    let (sink, notes) = noting(|received| match received.body.len() {
        0..=20 => OK,
        _ => Some(("413 Content Too Large", String::new())),
    });
    open(&sink).unwrap().write(1, lines(0..5).as_bytes()).unwrap();
    let taken: Vec<String> = bodies(&notes).into_iter().filter(|body| body.len() <= 20).collect();
    assert_eq!(taken.concat(), lines(0..5));
    // A row that is too large alone is refused.
    let (sink, _) = noting(|_| Some(("413 Content Too Large", String::new())));
    let error = open(&sink).unwrap().write(1, lines(0..5).as_bytes()).unwrap_err();
    assert!(!error.is_transient() && error.to_string().contains("(rows in the request: 1;"), "{error}");
}

#[test]
fn refused_rows_are_kept_aside_and_all_others_taken_once_also_when_the_server_fails_between() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("refused.ndjson");
    let is_bad = |body: &str| body.contains(":3}") || body.contains(":10}");
    let mut requests = 0;
    let (mut sink, notes) = noting(move |received| {
        requests += 1;
        match String::from_utf8_lossy(&received.body) {
            _ if requests == 5 => Some(("503 Service Unavailable", String::new())),
            body if is_bad(&body) => Some(("422 Any Words", "not this one".to_owned())),
            _ => OK,
        }
    });
    sink.rows_max = 8;
    sink.on_refused = OnRefused::Append(path.clone());
    let mut writer = open(&sink).unwrap();
    while let Err(error) = writer.write(1, lines(0..12).as_bytes()) {
        assert!(error.is_transient(), "{error}");
        std::thread::yield_now();
    }
    let taken: Vec<String> = bodies(&notes).into_iter().filter(|body| !is_bad(body)).collect();
    let mut taken: Vec<&str> = taken.iter().flat_map(|body| body.lines()).collect();
    let sent = taken.len();
    taken.dedup();
    assert!(sent - taken.len() <= 2, "only what the server failed at is sent again");
    let expect = lines((0..12).filter(|number| ![3, 10].contains(number)));
    assert_eq!(taken, expect.lines().collect::<Vec<_>>());
    let kept: Vec<Value> =
        fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let rows: Vec<u64> = kept.iter().map(|line| line["row"]["x"].as_u64().unwrap()).collect();
    assert_eq!(rows, [3, 10]);
    assert_eq!(kept[0]["status"], 422);
    assert_eq!(kept[0]["reason"], "it answers 422 Unprocessable Entity: not this one");
    assert!(kept[0]["key"].as_str().unwrap().ends_with("/3-3"), "{kept:?}");
}

#[test]
fn staged_rows_that_are_gone_and_were_not_sent_are_not_passed_over() {
    let (sink, notes) = answering(&[]);
    let folder = tempfile::tempdir().unwrap();
    let open = |recovered| open_staged(&sink, folder.path(), recovered);
    let mut writer = open(None).unwrap();
    writer.write(1, lines(0..2).as_bytes()).unwrap();
    let first = writer.pre_commit(1).unwrap();
    writer.commit(1).unwrap();
    writer.write(2, lines(2..4).as_bytes()).unwrap();
    let second = writer.pre_commit(2).unwrap();
    drop(writer);
    // The first ones were sent, the second ones were not.
    drop(open(Some((1, &first))).unwrap());
    assert_eq!(bodies(&notes), [lines(0..2)]);
    let error = open(Some((2, &second))).err().unwrap();
    assert!(error.to_string().contains("the rows of epoch 2 are to be sent, and the staged rows are gone"), "{error}");
    // An output that begins anew knows nothing of the one before.
    drop(open(None).unwrap());
    fs::remove_file(folder.path().join("sent")).unwrap();
    let error = open(Some((1, &first))).err().unwrap();
    assert!(error.to_string().contains("the rows of epoch 1"), "{error}");
}

#[test]
fn what_was_sent_is_not_sent_again_and_an_older_checkpoint_is_refused() {
    let (mut sink, notes) = answering(&[]);
    let folder = tempfile::tempdir().unwrap();
    let open = |sink: &HttpSink, recovered| open_staged(sink, folder.path(), recovered);
    let mut writer = open(&sink, None).unwrap();
    writer.write(1, lines(0..3).as_bytes()).unwrap();
    let first = writer.pre_commit(1).unwrap();
    drop(writer);
    // Cut as it was when it was staged, whatever the configuration says now.
    sink.rows_max = 1;
    let mut writer = open(&sink, Some((1, &first))).unwrap();
    assert_eq!(bodies(&notes), [lines(0..3)]);
    writer.write(2, lines(3..5).as_bytes()).unwrap();
    let second = writer.pre_commit(2).unwrap();
    let staged = folder.path().join("0000000002.staged");
    let rows = fs::read(&staged).unwrap();
    writer.commit(2).unwrap();
    drop(writer);
    let sent = bodies(&notes);
    assert_eq!(sent, [lines(0..3), lines(3..4), lines(4..5)]);
    // The staged rows are still there, as if the power had failed before they were removed.
    fs::write(&staged, rows).unwrap();
    drop(open(&sink, Some((2, &second))).unwrap());
    assert_eq!(bodies(&notes), sent);
    assert!(!staged.exists());
    let error = open(&sink, Some((1, &first))).err().unwrap();
    assert!(error.to_string().contains("the rows of epoch 2 were sent, and the checkpoint is older"), "{error}");
}

#[test]
fn rows_that_are_sent_at_once_wait_for_no_commit_and_come_behind_those_that_were_staged() {
    let (mut sink, notes) = answering(&[]);
    let folder = tempfile::tempdir().unwrap();
    let open = |sink: &HttpSink, recovered| open_staged(sink, folder.path(), recovered);
    let mut writer = open(&sink, None).unwrap();
    writer.write(1, lines(0..3).as_bytes()).unwrap();
    let first = writer.pre_commit(1).unwrap();
    drop(writer);
    sink.is_at_once = true;
    assert_eq!(sink.promise(), Promise::AtLeastOnce);
    let mut writer = open(&sink, Some((1, &first))).unwrap();
    writer.write(2, lines(3..5).as_bytes()).unwrap();
    assert_eq!(bodies(&notes), [lines(0..3), lines(3..5)]);
    let second = writer.pre_commit(2).unwrap();
    writer.commit(2).unwrap();
    // Of the next epoch the core dies.
    writer.write(3, lines(5..6).as_bytes()).unwrap();
    drop(writer);
    let mut writer = open(&sink, Some((2, &second))).unwrap();
    writer.write(3, lines(5..7).as_bytes()).unwrap();
    assert_eq!(bodies(&notes)[2..], [lines(5..6), lines(5..7)]);
    let keys = keys(&notes);
    assert_eq!(keys.iter().collect::<BTreeSet<_>>().len(), 4, "no two requests have the same rows: {keys:?}");
    // And back again.
    let third = writer.pre_commit(3).unwrap();
    drop(writer);
    sink.is_at_once = false;
    let mut writer = open(&sink, Some((3, &third))).unwrap();
    writer.write(4, lines(7..8).as_bytes()).unwrap();
    assert_eq!(bodies(&notes).len(), 4);
    writer.pre_commit(4).unwrap();
    writer.commit(4).unwrap();
    assert_eq!(bodies(&notes)[4..], [lines(7..8)]);
}

#[test]
fn half_a_line_of_refused_rows_is_cut_off_and_the_next_one_stands_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("refused.ndjson");
    fs::write(&path, "{\"row\":{\"x\":1}}\n{\"row\":").unwrap();
    let (mut sink, _) = noting(|_| Some(("400 Bad Request", String::new())));
    sink.on_refused = OnRefused::Append(path.clone());
    open(&sink).unwrap().write(1, lines(2..3).as_bytes()).unwrap();
    let text = fs::read_to_string(path).unwrap();
    let rows: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((rows[0]["row"]["x"].as_u64(), rows[1]["row"]["x"].as_u64(), rows.len()), (Some(1), Some(2), 2));
}

#[test]
fn an_address_or_a_header_that_cannot_be_is_refused() {
    for (url, reason) in [
        ("", "this is no address"),
        ("alerts", "begins with http:// or https://"),
        ("ftp://alerts/", "begins with http:// or https://"),
        ("http://", "this is no address"),
        ("http://alerts:80800/", "its port must be"),
        ("http://me:secret@alerts/", "user and password do not belong into it"),
    ] {
        let refusal = HttpSink::check_url(&Secret::new(url)).unwrap_err();
        assert!(refusal.contains(reason) && !refusal.contains("secret"), "{url}: {refusal}");
    }
    assert_eq!(HttpSink::check_url(&Secret::new("https://alerts:8443/v1?x=1")), Ok(()));
    for (name, value, reason) in [
        ("", "a", "no name of a header"),
        ("a b", "a", "no name of a header"),
        ("x-a", "a\nb", "no header can have this value"),
        ("Content-Type", "text/plain", "the sink sets this header itself, to what `content_type` says"),
        ("Idempotency-Key", "1", "the sink sets this header itself"),
    ] {
        let refusal = HttpSink::check_header(name, &Secret::new(value)).unwrap_err();
        assert!(refusal.contains(reason), "{name}: {refusal}");
    }
}
