//! What others decode ahead is what the shard would have decoded itself.

use std::{fs, io::Write, path::Path, sync::mpsc, time::Duration};

use proptest::prelude::*;
use ringmill_wire::HeapBatch;

use super::*;
use crate::{
    ConnectError, Format, OutputFormat, Partition, Places, Poll, PollContext, Position, encoder, schema_of,
    testing::{self, Letter, Letters, fields},
    text::{Part, TextOptions, TextPartition},
};

/// Longest record of these tests.
const RECORD_BYTES_MAX: usize = 60;

/// How a partition is read.
#[derive(Debug, Clone, Copy)]
enum How {
    Alone,
    With { threads: usize, block_bytes: usize },
}

/// A partition that a test polls, and everything that came out of it.
struct Reader {
    partition: TextPartition,
    batch: HeapBatch,
    rows_max: u32,
    woken: mpsc::Receiver<()>,
    rows: Vec<u8>,
    letters: Letters,
    tags: Vec<u64>,
}

impl Reader {
    fn open(paths: &[&Path], how: How, rows_max: u32) -> Reader {
        let is_csv = paths[0].extension().is_some_and(|extension| extension == "csv");
        let format = if is_csv { Format::Csv } else { Format::Json };
        let fields = fields(&["x:int64", "t:utf8?"]);
        let schema = schema_of(&fields).unwrap();
        let options = TextOptions { format, fields: fields.into(), rate: None, record_bytes_max: RECORD_BYTES_MAX };
        let part = |path: &&Path| {
            let name = path.file_name().unwrap().to_str().unwrap().into();
            Part { path: path.to_path_buf(), name, regular: true }
        };
        let (wake, woken) = mpsc::channel();
        let wake = Mutex::new(wake);
        let waker: Waker = Arc::new(move || {
            let _ = lock(&wake).send(());
        });
        let parts = paths.iter().map(part).collect();
        let mut partition = TextPartition::of_parts("in".into(), &options, parts, true, waker).unwrap();
        if let How::With { threads, block_bytes } = how {
            partition.decode_with(&Decoders::of_blocks(threads, block_bytes).unwrap());
        }
        // Sometimes rows are what there is no more room for, sometimes bytes.
        let batch = testing::batch(&schema, 7, 80).tagged(true);
        let (rows, letters, tags) = (Vec::new(), Letters::default(), Vec::new());
        Reader { partition, batch, rows_max, woken, rows, letters, tags }
    }

    fn poll(&mut self) -> Result<Poll, ConnectError> {
        let Reader { partition, batch, letters, .. } = self;
        let poll = testing::poll(partition, batch, letters, self.rows_max)?;
        if poll == Poll::Idle {
            self.woken.recv_timeout(Duration::from_secs(20)).expect("the waker is called");
        }
        let view = self.batch.view();
        self.tags.extend((0..view.rows()).map(|row| view.tag(row)));
        let mut encoder = encoder(OutputFormat::from(Format::Json), view_schema(&self.batch)).unwrap();
        encoder.encode(&view, 0..view.rows(), &mut self.rows);
        self.batch.clear();
        Ok(poll)
    }

    fn read(mut self) -> (String, Vec<Letter>) {
        while self.poll().unwrap() != Poll::End {}
        (String::from_utf8(self.rows).unwrap(), self.letters.taken)
    }
}

fn view_schema(batch: &HeapBatch) -> &Arc<ringmill_wire::Schema> {
    batch.template().schema()
}

/// A record of NDJSON, with its line's end.
fn line() -> impl Strategy<Value = String> {
    let record = prop_oneof![
        6 => (0_i64..1000, "[a-zé]{0,12}").prop_map(|(x, text)| format!("{{\"x\":{x},\"t\":\"{text}\"}}")),
        1 => (0_i64..1000).prop_map(|x| format!("{{\"x\":{x}}}")),
        1 => Just("{\"x\":\"text\"}".to_owned()),
        1 => Just("nonsense".to_owned()),
        1 => Just(String::new()),
        1 => (1_usize..2 * RECORD_BYTES_MAX).prop_map(|length| " ".repeat(length)),
        1 => (1_usize..2 * RECORD_BYTES_MAX).prop_map(|length| format!("{}{{\"x\":7}}  ", " ".repeat(length))),
        1 => (RECORD_BYTES_MAX + 1..400).prop_map(|length| "y".repeat(length)),
        1 => Just(format!("{{\"x\":1,\"t\":\"{}\"}}", "z".repeat(RECORD_BYTES_MAX - 14))),
    ];
    (record, prop::sample::select(vec!["\n", "\n", "\r\n"])).prop_map(|(record, end)| record + end)
}

/// A record of CSV, with its line's end; some have quotes, some line ends in them, some quotes where none should be.
fn csv_record() -> impl Strategy<Value = String> {
    let record = prop_oneof![
        6 => (0_i64..1000, "[a-zé]{0,12}").prop_map(|(x, text)| format!("{x},{text}")),
        2 => (0_i64..1000, "[a-z,\n\r]{0,12}").prop_map(|(x, text)| format!("{x},\"{text}\"")),
        1 => (0_i64..1000, "[a-z]{0,6}").prop_map(|(x, text)| format!("{x},\"{text}\"\"{text}\n\"")),
        1 => (0_i64..1000).prop_map(|x| format!("{x},a\"b")),
        1 => Just("nonsense,a".to_owned()),
        1 => Just("1,2,3".to_owned()),
        1 => Just(String::new()),
        1 => (RECORD_BYTES_MAX + 1..400).prop_map(|length| "y".repeat(length)),
        1 => (RECORD_BYTES_MAX + 1..400).prop_map(|length| format!("1,\"{}\"", "y,\n".repeat(length / 3))),
        1 => Just(format!("1,{}", "z".repeat(RECORD_BYTES_MAX - 2))),
    ];
    (record, prop::sample::select(vec!["\n", "\n", "\r\n", "\r"])).prop_map(|(record, end)| record + end)
}

/// The content of a file, the last record perhaps without its end, or with quotes that nothing closes.
fn content(
    header: &'static str,
    record: impl Strategy<Value = String>,
    last: &'static str,
) -> impl Strategy<Value = String> {
    let parts = (any::<bool>(), prop::collection::vec(record, 20..80), prop::sample::select(vec!["", "", last]));
    parts.prop_map(move |(has_mark, records, last)| {
        let mark = if has_mark { "\u{feff}" } else { "" };
        format!("{mark}{header}{}{last}", records.concat())
    })
}

/// Contents of several files, and what their names end in.
fn files() -> impl Strategy<Value = (&'static str, Vec<String>)> {
    let json = prop::collection::vec(content("", line(), "{\"x\":5}"), 1..3);
    let csv = prop::collection::vec(content("x,t\n", csv_record(), "5,\"open"), 1..3);
    prop_oneof![json.prop_map(|contents| ("ndjson", contents)), csv.prop_map(|contents| ("csv", contents))]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(800))]

    #[test]
    fn rows_letters_and_positions_are_those_of_the_shard_alone(
        (extension, contents) in files(),
        threads in 0_usize..3,
        block_bytes in 1_usize..90,
        rows_max in 1_u32..12,
        polls in 0_usize..60,
        goes_on_alone: bool,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let paths: Vec<_> = (0..contents.len()).map(|index| folder.path().join(format!("{index}.{extension}"))).collect();
        for (path, content) in paths.iter().zip(&contents) {
            fs::write(path, content).unwrap();
        }
        let paths: Vec<&Path> = paths.iter().map(|path| &**path).collect();
        let with = How::With { threads, block_bytes };
        let expected = Reader::open(&paths, How::Alone, 1000).read();
        prop_assert_eq!(Reader::open(&paths, with, rows_max).read(), expected.clone());

        // Stopped somewhere, and gone on from there.
        let mut first = Reader::open(&paths, with, rows_max);
        let ended = (0..polls).any(|_| first.poll().unwrap() == Poll::End);
        let position: Position = first.partition.position();
        let (mut rows, mut letters) = (String::from_utf8(first.rows).unwrap(), first.letters.taken);
        prop_assert_eq!(position.rows as usize, rows.lines().count() + letters.len());
        if !ended {
            let mut second = Reader::open(&paths, if goes_on_alone { How::Alone } else { with }, rows_max);
            second.partition.resume(&position).unwrap();
            let (more_rows, more_letters) = second.read();
            rows += &more_rows;
            letters.extend(more_letters);
        }
        prop_assert_eq!((rows, letters), expected);
    }
}

#[test]
fn a_row_is_traced_to_its_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("in.ndjson");
    let lines: Vec<String> = (0..300).map(|x| format!("{{\"x\":{x}}}")).collect();
    fs::write(&path, format!("\u{feff}{}\n", lines.join("\n"))).unwrap();
    let mut reader = Reader::open(&[&path], How::With { threads: 2, block_bytes: 100 }, 5);
    let places = Arc::new(Places::default());
    reader.partition.note_places(&places, "in");
    while reader.poll().unwrap() != Poll::End {}
    assert_eq!(reader.tags.len(), lines.len());
    for (tag, line) in reader.tags.iter().zip(&lines) {
        let (found, wait) = mpsc::channel();
        let found = Mutex::new(found);
        let look_up = places.look_up(
            *tag,
            Arc::new(move || {
                let _ = lock(&found).send(());
            }),
        );
        wait.recv_timeout(Duration::from_secs(20)).expect("it is looked up");
        let origin = look_up.unwrap().poll().unwrap().origin.unwrap();
        assert_eq!(origin.record, Ok(Some(line.clone().into_bytes())));
    }
}

#[test]
fn letters_wait_for_room_and_nothing_overtakes_them() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("in.ndjson");
    fs::write(&path, "{\"x\":1}\nnonsense\n{\"x\":2}\n".repeat(100)).unwrap();
    let mut reader = Reader::open(&[&path], How::With { threads: 1, block_bytes: 50 }, 1000);
    reader.letters.room = 0;
    for _ in 0..10 {
        assert_eq!(reader.poll().unwrap(), Poll::Rows);
    }
    assert_eq!(String::from_utf8(reader.rows.clone()).unwrap(), "{\"x\":1,\"t\":null}\n");
    assert_eq!(reader.partition.position().offset, 8);
    reader.letters.room = usize::MAX;
    let (rows, letters) = reader.read();
    assert_eq!((rows.lines().count(), letters.len()), (200, 100));
}

#[test]
fn a_file_that_cannot_be_read_on_says_so_behind_its_rows() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("in.ndjson.gz");
    let mut zipped = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::none());
    (0..20_000).for_each(|x| writeln!(zipped, "{{\"x\":{x}}}").unwrap());
    let whole = zipped.finish().unwrap();
    let read = |how| {
        let mut reader = Reader::open(&[&path], how, 1000);
        let error = loop {
            match reader.poll() {
                Ok(poll) => assert_ne!(poll, Poll::End),
                Err(error) => break error.to_string(),
            }
        };
        (String::from_utf8(reader.rows).unwrap(), error)
    };
    // Seven rows fill a batch: with each of these another number of them is in it when the fault comes.
    for missing in 0..7 {
        fs::write(&path, &whole[..whole.len() / 2 - 12 * missing]).unwrap();
        let alone = read(How::Alone);
        assert!(alone.0.lines().count() > 8_000);
        for threads in [0, 2] {
            assert_eq!(read(How::With { threads, block_bytes: 10_000 }), alone);
        }
    }
}

/// Rows whose times go up and down around what is believed.
fn dated(extension: &str) -> String {
    let time = |x: u64| (x * 7919) % 100;
    let row = |x| match extension {
        "csv" => format!("{x},{},\"a\nb\"\n", time(x)),
        _ => format!("{{\"x\":{x},\"at\":{},\"t\":\"a\"}}\n", time(x)),
    };
    let header = if extension == "csv" { "x,at,t\n" } else { "" };
    header.to_owned() + &(0..500).map(row).collect::<String>()
}

#[test]
fn what_lies_too_far_ahead_is_told_when_it_is_taken() {
    let folder = tempfile::tempdir().unwrap();
    for extension in ["ndjson", "csv"] {
        let path = folder.path().join(format!("in.{extension}"));
        fs::write(&path, dated(extension)).unwrap();
        let read = |threads: Option<usize>| {
            let fields = fields(&["x:int64", "at:timestamp[s]", "t:utf8"]);
            let schema = schema_of(&fields).unwrap();
            let format = if extension == "csv" { Format::Csv } else { Format::Json };
            let options = TextOptions { format, fields: fields.into(), rate: None, record_bytes_max: 100 };
            let parts = vec![Part { path: path.clone(), name: "in".into(), regular: true }];
            let mut partition = TextPartition::of_parts("in".into(), &options, parts, false, Arc::new(|| {})).unwrap();
            if let Some(threads) = threads {
                partition.decode_with(&Decoders::of_blocks(threads, 4000).unwrap());
            }
            let mut batch = testing::batch(&schema, 7, 20);
            let (mut rows, mut letters) = (Vec::new(), Letters::default());
            // The clock goes on while rows are taken, whenever they were decoded.
            for second in 0.. {
                let mut context = PollContext {
                    now_ns: 0,
                    event_time: Some(1),
                    event_time_max_ns: (40 + rows.len() as i64 / 10) * 1_000_000_000,
                    dead: &mut letters,
                    rows_max: 10,
                };
                let poll = partition.poll(batch.writer(), &mut context).unwrap();
                rows.extend_from_slice(batch.view().column(0).values::<i64>());
                batch.clear();
                if poll == Poll::End {
                    return (rows, letters.taken);
                }
                assert!(second < 100_000_000, "it comes to an end");
                std::thread::yield_now();
            }
            unreachable!()
        };
        // Alone, a poll decodes by the clock of its beginning, so the rows of a poll are judged alike in both.
        let (rows, letters) = read(None);
        assert!(rows.len() > 150 && letters.len() > 100, "{} {}", rows.len(), letters.len());
        assert!(letters[0].reason.contains("lies too far in the future"), "{}", letters[0].reason);
        for threads in [0, 2] {
            let (ahead_rows, ahead_letters) = read(Some(threads));
            assert_eq!(ahead_rows.len() + ahead_letters.len(), 500);
            assert_eq!(ahead_letters[0], letters[0]);
            let late = |letters: &[Letter]| letters.iter().map(|letter| letter.offset).collect::<Vec<_>>();
            assert_eq!((ahead_rows, late(&ahead_letters)), (rows.clone(), late(&letters)), "{extension}, {threads}");
        }
    }
}

#[test]
fn a_partition_that_is_left_frees_its_blocks_and_its_threads() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("in.ndjson");
    fs::write(&path, "{\"x\":1}\n".repeat(10_000)).unwrap();
    let mut reader = Reader::open(&[&path], How::With { threads: 2, block_bytes: 100 }, 3);
    reader.poll().unwrap();
    let work = Arc::downgrade(&reader.partition.ahead.as_ref().unwrap().work);
    drop(reader);
    // A thread that has it in hand lets go of it when its block is decoded; none takes another.
    while let Some(work) = work.upgrade() {
        assert!(work.free.is_empty());
        std::thread::yield_now();
    }
}
