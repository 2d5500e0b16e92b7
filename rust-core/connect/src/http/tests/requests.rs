//! Real connections to a source that is polled, with a journal and without.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::Path,
    sync::Arc,
    thread,
    time::Duration,
};

use crate::{
    ConnectError, HttpSpec, Journal, Partition, Poll, Position, Resume, Secret, TokenPlace,
    http::partition::HttpPartition,
    schema_of,
    testing::{self, Letters, fields},
};

pub(super) fn spec() -> HttpSpec {
    HttpSpec {
        listen: "127.0.0.1:0".parse().unwrap(),
        path: "/ingest".to_owned(),
        token: None,
        fields: fields(&["x:int64"]).into(),
        rate: None,
        record_bytes_max: 1000,
        request_bytes_max: 10_000,
        request_timeout: Duration::from_secs(30),
        connections_max: 4,
    }
}

pub(super) fn open(spec: &HttpSpec, journal: Option<&Path>, position: &Position) -> HttpPartition {
    let journal =
        journal.map(|folder| Journal { folder: folder.to_owned(), is_emptied: false, on_wait: Arc::new(|_, _| {}) });
    let position = serde_json::to_value(position).unwrap();
    let resume = [Resume { name: "http", position: &position, ended: false }];
    HttpPartition::open(spec, &[], journal.as_ref(), Some(&resume)).unwrap()
}

/// Polls so long that `work` is done, and then until so many records came, dead letters among them; the rows.
pub(super) fn serve<T: Send>(
    partition: &mut HttpPartition,
    records: u64,
    letters: &mut Letters,
    work: impl FnOnce() -> T + Send,
) -> (Vec<i64>, T) {
    let schema = schema_of(&fields(&["x:int64"])).unwrap();
    let mut batch = testing::batch(&schema, 1000, 1 << 16);
    thread::scope(|scope| {
        let work = scope.spawn(work);
        while !work.is_finished() || partition.position().rows < records {
            assert_ne!(testing::poll(partition, &mut batch, letters, 1000).unwrap(), Poll::End);
            thread::yield_now();
        }
        (batch.view().column(0).values::<i64>().to_vec(), work.join().unwrap())
    })
}

/// Status and body of the answer to these bytes.
fn send(address: SocketAddr, request: &[u8]) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(request).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{answer:?}"));
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.trim_end().to_owned())
}

pub(super) fn post(address: SocketAddr, headers: &str, body: &[u8]) -> (u16, String) {
    let head = format!(
        "POST /ingest HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n{headers}\r\n",
        body.len()
    );
    send(address, &[head.as_bytes(), body].concat())
}

const JSON: &str = "content-type: application/json\r\n";
pub(super) const LINES: &str = "content-type: application/x-ndjson; charset=utf-8\r\n";

pub(super) fn accepted(count: u64) -> (u16, String) {
    (202, format!("{{\"accepted\":{count}}}"))
}

#[test]
fn lines_arrays_and_packed_ones_become_rows_and_dead_letters() {
    for is_journaled in [false, true] {
        let place = tempfile::tempdir().unwrap();
        let mut partition = open(&spec(), is_journaled.then(|| place.path()), &Position::default());
        let address = partition.address().unwrap();
        let mut letters = Letters::default();
        let (rows, ()) = serve(&mut partition, 10, &mut letters, || {
            assert_eq!(post(address, LINES, b"{\"x\":1}\n{\"x\":\n{\"x\":2}"), accepted(3));
            assert_eq!(post(address, "", b"{\"x\":3}\r\n\r\n"), accepted(1));
            assert_eq!(post(address, JSON, b"[\n{\"x\":4},\n{\"y\":1}]"), accepted(2));
            assert_eq!(post(address, JSON, b"{\n\"x\":5\n}"), accepted(1));
            assert_eq!(post(address, JSON, b"[]"), accepted(0));
            let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            gzip.write_all(b"[{\"x\":6}]").unwrap();
            let packed = gzip.finish().unwrap();
            assert_eq!(post(address, &format!("{JSON}content-encoding: gzip\r\n"), &packed), accepted(1));
            let packed = zstd::encode_all(&b"{\"x\":7}\n"[..], 3).unwrap();
            assert_eq!(post(address, &format!("{LINES}content-encoding: zstd\r\n"), &packed), accepted(1));
            let chunked =
                b"POST /ingest HTTP/1.1\r\nhost: x\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n\
                            5\r\n{\"x\":\r\n3\r\n8}\n\r\n0\r\n\r\n";
            assert_eq!(send(address, chunked), accepted(1));
        });
        assert_eq!(rows, [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(letters.taken.len(), 2, "{letters:?}");
    }
}

#[test]
fn what_is_refused_says_why_and_nothing_of_it_is_taken() {
    let spec = HttpSpec { token: Some(TokenPlace::Value(Secret::new("s3cret\n"))), ..spec() };
    let mut partition = open(&spec, None, &Position::default());
    let address = partition.address().unwrap();
    let good = "authorization: bearer s3cret\r\n";
    let bomb = zstd::encode_all(&vec![b' '; 10_000_000][..], 3).unwrap();
    let cases: Vec<(String, &[u8], u16, &str)> = vec![
        (String::new(), b"{\"x\":1}", 401, "Bearer"),
        ("authorization: Bearer s3creT\r\n".to_owned(), b"{\"x\":1}", 401, "Bearer"),
        ("authorization: Basic s3cret\r\n".to_owned(), b"{\"x\":1}", 401, "Bearer"),
        (format!("{good}content-type: text/csv\r\n"), b"x\n1", 415, "content-type is text/csv"),
        (format!("{good}content-encoding: br\r\n"), b"{\"x\":1}", 415, "content-encoding is br"),
        (format!("{good}content-encoding: gzip\r\n"), b"{\"x\":1}", 400, "cannot be unpacked"),
        (format!("{good}content-encoding: zstd\r\n"), &bomb, 413, "longer than 10000 bytes"),
        (format!("{good}{JSON}"), b"[{\"x\":1},{\"x\":2}", 400, "it breaks off at byte 16"),
        (good.to_owned(), &[b' '; 10_001], 413, "longer than 10000 bytes"),
        (good.to_owned(), b"{\"x\":1}", 202, "1"),
    ];
    let other = |method: &str, path: &str| {
        format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{good}\r\n").into_bytes()
    };
    let (rows, ()) = serve(&mut partition, 1, &mut Letters::default(), || {
        for (headers, body, status, reason) in cases {
            let (found, answer) = post(address, &headers, body);
            assert!(found == status && answer.contains(reason), "{headers}: {found} {answer}");
        }
        assert_eq!(send(address, &other("GET", "/ingest")).0, 405);
        assert_eq!(send(address, &other("POST", "/")).0, 404);
        let chunks = "fff\r\n".to_owned() + &"y".repeat(0xfff) + "\r\n";
        let endless = format!("transfer-encoding: chunked\r\n\r\n{}0\r\n\r\n", chunks.repeat(3));
        let head = format!("POST /ingest HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{good}");
        assert_eq!(send(address, (head + &endless).as_bytes()).0, 413);
    });
    assert_eq!(rows, [1]);
}

#[test]
fn web_pages_are_refused_where_no_token_tells_them_from_others() {
    let mut partition = open(&spec(), None, &Position::default());
    let address = partition.address().unwrap();
    let (_, (status, answer)) = serve(&mut partition, 0, &mut Letters::default(), || {
        post(address, "origin: http://example.com\r\ncontent-type: text/plain\r\n", b"{\"x\":1}")
    });
    assert!(status == 403 && answer.contains("token"), "{status} {answer}");
}

#[test]
fn a_body_that_does_not_come_is_waited_for_no_longer_than_said() {
    let spec = HttpSpec { request_timeout: Duration::from_millis(50), ..spec() };
    let mut partition = open(&spec, None, &Position::default());
    let address = partition.address().unwrap();
    let (_, (status, _)) = serve(&mut partition, 0, &mut Letters::default(), || {
        send(address, b"POST /ingest HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{\"x\":1}\n")
    });
    assert_eq!(status, 408);
    // Nor is a head.
    let (_, read) = serve(&mut partition, 0, &mut Letters::default(), || {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(b"POST /ingest HTTP/1.1\r\nhost").unwrap();
        stream.read_to_end(&mut Vec::new())
    });
    assert_eq!(read.unwrap(), 0);
}

#[test]
fn a_pipeline_that_takes_nothing_is_full_and_one_that_ends_says_so() {
    let spec = HttpSpec { connections_max: 200, ..spec() };
    let mut partition = open(&spec, None, &Position::default());
    let address = partition.address().unwrap();
    let schema = schema_of(&fields(&["x:int64"])).unwrap();
    let mut batch = testing::batch(&schema, 1, 100);
    let body = "{\"x\":1}\n".repeat(1200);
    assert_eq!(testing::poll(&mut partition, &mut batch, &mut Letters::default(), 1).unwrap(), Poll::Idle);
    thread::scope(|scope| {
        // So many that what is read ahead of the shard is full, and more wait.
        let senders: Vec<_> = (0..200).map(|_| scope.spawn(|| post(address, "", body.as_bytes()))).collect();
        while !senders.iter().any(|sender| sender.is_finished()) {
            thread::yield_now();
        }
        partition.drain();
        let mut statuses: Vec<u16> = senders.into_iter().map(|sender| sender.join().unwrap().0).collect();
        statuses.sort_unstable();
        statuses.dedup();
        assert_eq!(statuses, [429, 503]);
    });
}

#[test]
fn what_was_accepted_comes_again_after_the_process_died() {
    let place = tempfile::tempdir().unwrap();
    let mut letters = Letters::default();
    let mut first = open(&spec(), Some(place.path()), &Position::default());
    let address = first.address().unwrap();
    let (rows, _) = serve(&mut first, 2, &mut letters, || post(address, LINES, b"{\"x\":1}\n{\"x\":2}\n"));
    assert_eq!(rows, [1, 2]);
    let position = first.position();
    let (rows, _) = serve(&mut first, 3, &mut letters, || post(address, LINES, b"{\"x\":3}"));
    assert_eq!(rows, [3]);
    drop(first);
    let mut second = open(&spec(), Some(place.path()), &position);
    let address = second.address().unwrap();
    let (rows, _) = serve(&mut second, 4, &mut letters, || post(address, LINES, b"{\"x\":4}"));
    assert_eq!(rows, [3, 4]);
    assert!(letters.taken.is_empty(), "{letters:?}");
}

#[test]
fn a_token_that_cannot_be_sent_is_refused_and_not_shown() {
    let open = |token| HttpSpec { token: Some(token), ..spec() }.open(&[], None, None).map(drop).unwrap_err();
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("token");
    assert!(matches!(open(TokenPlace::File(file.clone())), ConnectError::Open { .. }));
    for text in ["", " \n", "two words", "t\u{f6}ken"] {
        std::fs::write(&file, text).unwrap();
        for token in [TokenPlace::File(file.clone()), TokenPlace::Value(Secret::new(text))] {
            let error = open(token).to_string();
            assert!(error.contains("visible ASCII") && !error.contains("words"), "{error}");
        }
    }
}
