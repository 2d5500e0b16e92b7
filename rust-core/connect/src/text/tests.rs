//! Streams: what arrives late, in pieces, compressed or not at all.

use std::{
    io::{self, Read, Write},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    time::Duration,
};

use super::*;
use crate::{
    RECORD_BYTES_MAX, schema_of,
    testing::{self, Letters, fields},
};

/// A stream that a test feeds.
struct Pipe {
    from: mpsc::Receiver<io::Result<Vec<u8>>>,
    rest: Vec<u8>,
}

impl Read for Pipe {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.rest.is_empty() {
            match self.from.recv() {
                Ok(bytes) => self.rest = bytes?,
                Err(_) => return Ok(0),
            }
        }
        let count = self.rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&self.rest[..count]);
        self.rest.drain(..count);
        Ok(count)
    }
}

fn options(format: Format, specs: &[&str]) -> TextOptions {
    TextOptions { format, fields: fields(specs).into(), rate: None, record_bytes_max: RECORD_BYTES_MAX }
}

struct Stream {
    partition: TextPartition,
    to: Option<mpsc::Sender<io::Result<Vec<u8>>>>,
    woken: mpsc::Receiver<()>,
    batch: ringmill_wire::HeapBatch,
    letters: Letters,
}

impl Stream {
    fn open(options: &TextOptions) -> Stream {
        let (to, from) = mpsc::channel();
        let (wake, woken) = mpsc::channel();
        let waker: Waker = Arc::new(move || {
            let _ = wake.send(());
        });
        let partition =
            TextPartition::of_stream("stdin", options, move || of_stream(Pipe { from, rest: Vec::new() }), waker)
                .unwrap();
        let batch = testing::batch(&schema_of(&options.fields).unwrap(), 100, 1 << 12);
        Stream { partition, to: Some(to), woken, batch, letters: Letters::default() }
    }

    fn send(&self, bytes: &[u8]) {
        self.to.as_ref().unwrap().send(Ok(bytes.to_vec())).unwrap();
    }

    fn poll(&mut self) -> Result<Poll, ConnectError> {
        testing::poll(&mut self.partition, &mut self.batch, &mut self.letters, 100)
    }

    /// Polls, waiting for the waker whenever there is nothing, until there are `rows` rows or the end.
    fn poll_until(&mut self, rows: u32) -> Result<Poll, ConnectError> {
        loop {
            match self.poll()? {
                Poll::Idle if self.batch.rows() < rows => self.woken.recv_timeout(Duration::from_secs(20)).unwrap(),
                Poll::Rows if self.batch.rows() < rows => {}
                poll => return Ok(poll),
            }
        }
    }
}

#[test]
fn a_stream_is_idle_until_its_waker_is_called() {
    let mut stream = Stream::open(&options(Format::Json, &["x:int8"]));
    assert_eq!(stream.poll().unwrap(), Poll::Idle);
    stream.send(b"{\"x\":1}\n{\"x\"");
    stream.poll_until(1).unwrap();
    assert_eq!(stream.batch.rows(), 1);
    assert_eq!(stream.partition.position().offset, 8);
    stream.send(b":2}\n");
    stream.poll_until(2).unwrap();
    assert_eq!(stream.batch.rows(), 2);
    stream.send(b"{\"x\":3}");
    stream.to = None;
    assert_eq!(stream.poll_until(u32::MAX).unwrap(), Poll::End);
    assert_eq!(stream.batch.rows(), 3);
    assert_eq!(stream.poll().unwrap(), Poll::End);
    assert_eq!(stream.partition.position(), Position { offset: 23, rows: 3, ..Position::default() });
}

#[test]
fn a_stream_goes_not_back() {
    let mut stream = Stream::open(&options(Format::Json, &["x:int8"]));
    stream.partition.seek(&Position::default()).unwrap();
    let error = stream.partition.seek(&Position { offset: 5, ..Position::default() }).unwrap_err();
    assert_eq!(error.to_string(), "partition stdin cannot continue from byte 5: a stream cannot be read again");
}

#[test]
fn a_read_error_names_the_stream_and_the_offset() {
    let mut stream = Stream::open(&options(Format::Json, &["x:int8"]));
    stream.send(b"{\"x\":1}\n{\"x\"");
    stream.to.as_ref().unwrap().send(Err(io::Error::other("the cable broke"))).unwrap();
    let error = stream.poll_until(u32::MAX).unwrap_err();
    assert_eq!(error.to_string(), "cannot read stdin beyond byte 12 (of the decompressed content): the cable broke");
    assert!(!error.is_configuration());
    assert_eq!(stream.batch.rows(), 1);
}

#[test]
fn a_wrong_header_of_a_stream_is_an_error_when_it_comes() {
    let mut stream = Stream::open(&options(Format::Csv, &["x:int8"]));
    stream.send(b"y,");
    assert_eq!(stream.poll().unwrap(), Poll::Idle);
    stream.send(b"z\n");
    let error = stream.poll_until(u32::MAX).unwrap_err();
    assert_eq!(error.to_string(), r#"stdin has no column "x"; its header has ["y", "z"]"#);
}

#[test]
fn streams_may_be_compressed_and_have_a_byte_order_mark() {
    let text = b"\xef\xbb\xbf{\"x\":1}\r\n{\"x\":2}\n";
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(text).unwrap();
    for bytes in [text.to_vec(), gzip.finish().unwrap(), zstd::encode_all(&text[..], 1).unwrap()] {
        let mut stream = Stream::open(&options(Format::Json, &["x:int8"]));
        for piece in bytes.chunks(3) {
            stream.send(piece);
        }
        stream.to = None;
        assert_eq!(stream.poll_until(u32::MAX).unwrap(), Poll::End);
        assert_eq!((stream.batch.rows(), stream.letters.taken.len()), (2, 0));
        assert_eq!(stream.partition.position().offset, text.len() as u64);
    }
}

#[test]
fn an_empty_stream_ends() {
    for format in [Format::Json, Format::Csv] {
        let mut stream = Stream::open(&options(format, &["x:int8"]));
        stream.to = None;
        assert_eq!(stream.poll_until(u32::MAX).unwrap(), Poll::End);
    }
}

#[test]
fn a_reader_waits_for_the_shard_and_not_the_other_way_round() {
    let read = Arc::new(AtomicU64::new(0));
    struct Endless(Arc<AtomicU64>);
    impl Read for Endless {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let line = b"{\"x\":1}\n";
            let count = buffer.len() / line.len() * line.len();
            for (at, byte) in buffer[..count].iter_mut().enumerate() {
                *byte = line[at % line.len()];
            }
            if count == 0 {
                buffer.copy_from_slice(&line[..buffer.len()]);
                return Ok(buffer.len());
            }
            self.0.fetch_add(count as u64, Ordering::Relaxed);
            Ok(count)
        }
    }
    let options = options(Format::Json, &["y:int8?"]);
    let (wake, woken) = mpsc::channel();
    let waker: Waker = Arc::new(move || {
        let _ = wake.send(());
    });
    let endless = Endless(Arc::clone(&read));
    let mut partition = TextPartition::of_stream("endless", &options, move || of_stream(endless), waker).unwrap();
    // It wakes us once per chunk of its queue, and then waits.
    for _ in 0..8 {
        woken.recv_timeout(Duration::from_secs(20)).unwrap();
    }
    assert!(read.load(Ordering::Relaxed) <= 10 * (64 << 10));
    let mut batch = testing::batch(&schema_of(&options.fields).unwrap(), 100, 1 << 12);
    let poll = testing::poll(&mut partition, &mut batch, &mut Letters::default(), 1_000).unwrap();
    assert_eq!((poll, batch.rows()), (Poll::Full, 100));
}

#[test]
fn nothing_is_consumed_while_dead_letters_have_no_room() {
    let mut stream = Stream::open(&options(Format::Json, &["x:int8"]));
    stream.letters.room = 1;
    stream.send(b"no\nno\n{\"x\":1}\n");
    stream.to = None;
    while stream.letters.taken.is_empty() {
        let _ = stream.poll().unwrap();
    }
    for _ in 0..10 {
        assert_eq!(stream.poll().unwrap(), Poll::Rows);
    }
    assert_eq!(stream.partition.position(), Position { offset: 3, rows: 1, ..Position::default() });
    stream.letters.room = 3;
    stream.poll_until(u32::MAX).unwrap();
    assert_eq!((stream.batch.rows(), stream.letters.taken.len()), (1, 2));
}

#[test]
fn a_rate_paces_a_stream() {
    let options = TextOptions { rate: Some(10.0), ..options(Format::Json, &["x:int8"]) };
    let mut stream = Stream::open(&options);
    stream.send(b"{\"x\":1}\n{\"x\":2}\n");
    let mut at = |now_ns| {
        let mut context =
            PollContext { now_ns, event_time: None, event_time_max_ns: 0, dead: &mut stream.letters, rows_max: 100 };
        stream.partition.poll(stream.batch.writer(), &mut context).unwrap()
    };
    while at(0) == Poll::Idle {
        stream.woken.recv_timeout(Duration::from_secs(20)).unwrap();
    }
    assert_eq!(at(0), Poll::Until(100_000_000));
    assert_eq!(at(100_000_000), Poll::Rows);
    assert_eq!(stream.batch.rows(), 2);
}

#[test]
fn an_event_too_far_in_the_future_is_a_dead_letter() {
    let options = options(Format::Json, &["x:int8?", "at:timestamp[s]?"]);
    let mut stream = Stream::open(&options);
    stream.send(b"{\"at\":100}\n{\"at\":101}\n{\"at\":\"1970-01-01T00:01:42Z\"}\n{\"at\":null}\n{}\n");
    stream.to = None;
    loop {
        let mut context = PollContext {
            now_ns: 0,
            event_time: Some(1),
            event_time_max_ns: 100_999_999_999,
            dead: &mut stream.letters,
            rows_max: 100,
        };
        match stream.partition.poll(stream.batch.writer(), &mut context).unwrap() {
            Poll::End => break,
            _ => std::thread::yield_now(),
        }
    }
    assert_eq!(stream.batch.rows(), 1);
    let reasons: Vec<&str> = stream.letters.taken.iter().map(|letter| letter.reason.as_str()).collect();
    assert_eq!(
        reasons,
        [
            "field \"at\": expected timestamp[s], got 101, which lies too far in the future",
            "field \"at\": expected timestamp[s], got \"1970-01-01T00:01:42Z\", which lies too far in the future",
            "field \"at\" is null, but it is the event time",
            "field \"at\" is missing, but it is the event time",
        ]
    );
}

#[test]
fn options_out_of_range_are_refused() {
    let check = |options: TextOptions, expect: &str| {
        let opened = TextPartition::of_stream("stdin", &options, || of_stream(io::empty()), Arc::new(|| {}));
        let error = opened.err().unwrap();
        assert!(error.is_configuration());
        assert!(error.to_string().starts_with(expect), "{error}");
    };
    let base = || options(Format::Json, &["x:int8"]);
    check(TextOptions { rate: Some(-1.0), ..base() }, "rate is -1");
    check(TextOptions { record_bytes_max: 0, ..base() }, "record_bytes_max is 0");
    check(options(Format::Json, &["x:int8@no-pointer"]), "field \"x\" has the path");
}
