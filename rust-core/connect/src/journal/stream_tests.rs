//! Streams through a journal, as a partition: processes die, others go on.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read, Write},
    os::unix::process::ExitStatusExt,
    path::Path,
    process::Command,
    sync::Arc,
};

use super::{Journal, Journaled, record::segment_offset, walk::walk};
use crate::{
    ConnectError, Format, Partition, Poll, Position, schema_of,
    testing::{self, Letters, fields},
    text::{TextOptions, TextPartition, of_stream},
};

fn options(format: Format) -> TextOptions {
    TextOptions { format, fields: fields(&["x:int64"]).into(), rate: None, record_bytes_max: 100 }
}

/// A partition that goes on behind `position` with what the journal has, and then with what `read` gives.
fn open(
    folder: &Path,
    format: Format,
    position: &Position,
    read: impl Read + Send + 'static,
) -> Result<TextPartition, ConnectError> {
    open_with(folder, format, position, || read)
}

fn open_with<R: Read + Send + 'static>(
    folder: &Path,
    format: Format,
    position: &Position,
    read: impl FnOnce() -> R + Send + 'static,
) -> Result<TextPartition, ConnectError> {
    let journal = Journal { folder: folder.to_owned(), is_emptied: false, on_wait: Arc::new(|_, _| {}) };
    let mut journaled = Journaled::new(&journal, 100, || of_stream(read()));
    journaled.segment_bytes = 300;
    let mut partition = TextPartition::of_journal("stdin", &options(format), journaled, Arc::new(|| {}))?;
    partition.resume_journal(position)?;
    Ok(partition)
}

/// A stream that stays open without giving anything more.
struct Open(io::Cursor<Vec<u8>>);

impl Read for Open {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.0.read(buffer)? {
            0 => loop {
                std::thread::park();
            },
            count => Ok(count),
        }
    }
}

fn staying(text: &str) -> Open {
    Open(io::Cursor::new(text.into()))
}

/// Polls until so many records were consumed, or the end.
fn take(partition: &mut TextPartition, records: u64, letters: &mut Letters) -> Vec<i64> {
    let schema = schema_of(&fields(&["x:int64"])).unwrap();
    let mut batch = testing::batch(&schema, 1000, 1 << 10);
    while partition.position().rows < records {
        if testing::poll(partition, &mut batch, letters, 1).unwrap() == Poll::End {
            break;
        }
        std::thread::yield_now();
    }
    batch.view().column(0).values::<i64>().to_vec()
}

#[test]
fn each_run_reads_a_stream_with_its_own_header_and_goes_on_within_the_last_one() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("lines");
    let mut letters = Letters::default();
    let mut first = open(&folder, Format::Csv, &Position::default(), staying("y,x\n0,1\n0,2\n0,3\n")).unwrap();
    assert_eq!(take(&mut first, 2, &mut letters), [1, 2]);
    let position = first.position();
    assert_eq!(position.header.as_deref(), Some("y,x\n"));
    drop(first);
    // In the second run the rest of the first stream comes first, and then one with its columns the other way round.
    let mut second = open(&folder, Format::Csv, &position, io::Cursor::new("\u{feff}x,y\n4,0\n5,0")).unwrap();
    assert_eq!(take(&mut second, 3, &mut letters), [3]);
    assert_eq!(take(&mut second, u64::MAX, &mut letters), [4, 5]);
    let position: Position = serde_json::from_value(serde_json::to_value(second.position()).unwrap()).unwrap();
    drop(second);
    let mut third = open(&folder, Format::Csv, &position, io::Cursor::new("x\n6\n")).unwrap();
    assert_eq!(take(&mut third, u64::MAX, &mut letters), [6]);
    assert_eq!(third.position().rows, 6);
    // From the beginning, and from where the first run stood, everything comes again.
    let mut again = open(&folder, Format::Csv, &Position::default(), io::empty()).unwrap();
    assert_eq!(take(&mut again, u64::MAX, &mut letters), [1, 2, 3, 4, 5, 6]);
    assert!(letters.taken.is_empty());
}

#[test]
fn a_record_in_which_a_stream_broke_off_is_a_dead_letter_and_what_a_stream_ends_with_is_a_record() {
    for (format, torn, rest) in [(Format::Json, "{\"x\":1}\n{\"x\":2}", "{\"x\":3}"), (Format::Csv, "x\n1\n2", "x\n3")]
    {
        let place = tempfile::tempdir().unwrap();
        let mut letters = Letters::default();
        let mut first = open(place.path(), format, &Position::default(), staying(torn)).unwrap();
        assert_eq!(take(&mut first, 1, &mut letters), [1]);
        drop(first);
        let mut second = open(place.path(), format, &Position::default(), io::Cursor::new(rest)).unwrap();
        assert_eq!(take(&mut second, u64::MAX, &mut letters), [1, 3]);
        assert_eq!(letters.taken.len(), 1);
        assert_eq!(letters.taken[0].reason, "the stream broke off within this record");
        assert!(torn.as_bytes().ends_with(&letters.taken[0].record));
        assert_eq!(letters.taken[0].offset as usize, torn.len() - letters.taken[0].record.len());
        let end = second.position();
        assert_eq!((end.rows, end.offset), (3, (torn.len() + rest.len()) as u64));
    }
}

#[test]
fn a_header_that_broke_off_does_not_stop_the_next_stream() {
    let place = tempfile::tempdir().unwrap();
    let mut letters = Letters::default();
    let mut first = open(place.path(), Format::Csv, &Position::default(), staying("a_header_without_")).unwrap();
    let schema = schema_of(&fields(&["x:int64"])).unwrap();
    let mut batch = testing::batch(&schema, 10, 100);
    while walk(place.path(), 0, |_, _| true).unwrap().end < 17 {
        assert!(testing::poll(&mut first, &mut batch, &mut letters, 1).is_ok());
    }
    drop(first);
    let mut second = open(place.path(), Format::Csv, &Position::default(), io::Cursor::new("x\n1\n")).unwrap();
    assert_eq!(take(&mut second, u64::MAX, &mut letters), [1]);
    assert_eq!(letters.taken[0].record, b"a_header_without_");
}

#[test]
fn compressed_streams_are_gone_on_with_in_their_middle() {
    let text: String = (0..200).map(|x| format!("{{\"x\":{x}}}\n")).collect();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(text.as_bytes()).unwrap();
    for bytes in [gzip.finish().unwrap(), zstd::encode_all(text.as_bytes(), 1).unwrap()] {
        let place = tempfile::tempdir().unwrap();
        let mut letters = Letters::default();
        let mut first = open(place.path(), Format::Json, &Position::default(), io::Cursor::new(bytes)).unwrap();
        assert_eq!(take(&mut first, 50, &mut letters).len(), 50);
        let position = first.position();
        // All of it is durable when the first row was seen: it came in one read.
        drop(first);
        let mut second = open(place.path(), Format::Json, &position, io::empty()).unwrap();
        let expect: Vec<i64> = (50..200).collect();
        assert_eq!(take(&mut second, u64::MAX, &mut letters), expect);
    }
}

#[test]
fn a_checkpoint_that_the_journal_does_not_reach_is_refused_with_a_way_out() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("lines");
    let beyond = Position { offset: 5, ..Position::default() };
    let error = open(&folder, Format::Json, &beyond, io::empty()).map(drop).unwrap_err();
    let text = format!(
        "partition stdin cannot continue from the checkpoint: journal {}: it is empty, and byte 5 of the stream is \
         wanted; --fresh begins anew",
        folder.display()
    );
    assert_eq!(error.to_string(), text);
    let mut partition = open(&folder, Format::Json, &Position::default(), io::Cursor::new("{\"x\":1}\n")).unwrap();
    take(&mut partition, u64::MAX, &mut Letters::default());
    let error = open(&folder, Format::Json, &Position { offset: 9, ..Position::default() }, io::empty());
    assert!(error.map(drop).unwrap_err().to_string().contains("it ends at byte 8 of the stream"));
    assert!(partition.seek(&Position::default()).unwrap_err().to_string().ends_with("it is being read already"));
}

const LINES: i64 = 70;
const CHILD: &str = "RINGMILL_TEST_JOURNAL";

/// Where line `x` begins; every line has the same length.
fn line(x: i64) -> String {
    format!("{{\"x\":{x:3}}}\n")
}

/// A producer that gives the lines that are not durable, in pieces; the one first within which the last stream broke off.
fn producer(folder: &Path, consumed: i64) -> Pieces {
    let names = if folder.exists() { testing::names(folder) } else { Vec::new() };
    let from = names.first().and_then(|name| segment_offset(name)).unwrap_or(0);
    let mut durable = Vec::new();
    walk(folder, from, |_, bytes| {
        durable.extend_from_slice(bytes);
        true
    })
    .unwrap();
    let durable = String::from_utf8(durable).unwrap();
    let known = (0..LINES).rev().find(|x| durable.contains(&line(*x))).map_or(consumed, |x| consumed.max(x + 1));
    let rest: String = (known..LINES).map(line).collect();
    Pieces(io::Cursor::new(rest.into_bytes()))
}

/// Gives 37 bytes at a time.
struct Pieces(io::Cursor<Vec<u8>>);

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = buffer.len().min(37);
        self.0.read(&mut buffer[..count])
    }
}

/// What the process does that is killed: it reads to the end, with a checkpoint after every ten records, in which the
/// rows stand too; one checkpoint is kept.
fn play(folder: &Path) {
    let checkpoint = folder.join("checkpoint");
    let (position, mut rows) = saved(folder);
    let journal = folder.join("journal");
    let (known, from) = (rows.last().map_or(0, |x| x + 1), journal.clone());
    let mut partition = open_with(&journal, Format::Json, &position, move || producer(&from, known)).unwrap();
    let mut letters = Letters::default();
    loop {
        let before = partition.position().rows;
        rows.extend(take(&mut partition, before + 10, &mut letters));
        let position = partition.position();
        fs::write(folder.join("partial"), serde_json::to_vec(&(&position, &rows)).unwrap()).unwrap();
        fs::rename(folder.join("partial"), &checkpoint).unwrap();
        partition.acknowledge(&position);
        if position.rows < before + 10 {
            return;
        }
    }
}

fn saved(folder: &Path) -> (Position, Vec<i64>) {
    let saved = fs::read(folder.join("checkpoint"));
    saved.map_or_else(|_| (Position::default(), Vec::new()), |saved| serde_json::from_slice(&saved).unwrap())
}

/// Runs `play` in a process of its own; whether it was killed.
fn run(folder: &Path, failpoint: &str) -> bool {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "journal::stream_tests::the_process_that_is_killed", "--nocapture"])
        .env(CHILD, format!("{} {failpoint}", folder.display()))
        .output()
        .unwrap();
    let is_killed = output.status.signal() == Some(9);
    assert!(is_killed || output.status.success(), "{failpoint}: {}", String::from_utf8_lossy(&output.stderr));
    is_killed
}

#[test]
fn the_process_that_is_killed() {
    let Ok(task) = std::env::var(CHILD) else { return };
    let (folder, failpoint) = task.split_once(' ').unwrap();
    ringmill_failpoint::configure(failpoint).unwrap();
    play(Path::new(folder));
}

#[test]
fn killed_at_every_place_each_line_is_a_row_once() {
    let base = tempfile::tempdir().unwrap();
    let folder = |what: &str| {
        let folder = base.path().join(what);
        fs::create_dir_all(&folder).unwrap();
        folder
    };
    let expect: Vec<i64> = (0..LINES).collect();
    let record = base.path().join("record");
    assert!(!run(&folder("undisturbed"), &format!("record:{}", record.display())));
    assert_eq!(saved(&folder("undisturbed")).1, expect);
    let mut places: BTreeMap<String, u64> = BTreeMap::new();
    let recovery = ["journal.recover.cut", "journal.recover.sync", "journal.recover.synced"];
    places.extend(recovery.map(|place| (place.to_owned(), 0)));
    for hit in fs::read_to_string(&record).unwrap().lines() {
        *places.entry(hit.split_once(' ').unwrap().0.to_owned()).or_default() += 1;
    }
    assert!(places.len() >= 12, "{places:?}");
    let mut kills = 0;
    for (place, hits) in &places {
        for hit in 1..=*hits.max(&1) {
            let failpoint = format!("kill:{place}:{hit}");
            let folder = folder(&format!("{place}-{hit}"));
            if *hits == 0 {
                // A place of recovery: there has to be something to recover.
                assert!(run(&folder, "kill:journal.write:20"));
            }
            // Removal depends on how far the reader is, so the last of its hits may not come.
            let is_killed = run(&folder, &failpoint);
            assert!(is_killed || place.starts_with("journal.remove") && hit > 1, "{failpoint} was not reached");
            kills += u64::from(is_killed);
            let rows = saved(&folder).1;
            assert!(expect.starts_with(&rows), "{failpoint}: {rows:?}");
            kills += u64::from(run(&folder, &failpoint));
            run(&folder, "kill:none:1");
            assert_eq!(saved(&folder).1, expect, "{failpoint}");
            fs::remove_dir_all(folder).unwrap();
        }
    }
    println!("{kills} kills at {} places: {places:?}", places.len());
}

/// Records of which some are much too long, of quotes and line ends where the format has them.
fn uneven(format: Format, lengths: &[usize]) -> Vec<u8> {
    let mut text = Vec::new();
    if format == Format::Csv {
        text.extend(b"x\n");
    }
    for (x, length) in lengths.iter().enumerate() {
        let mut filling = b"a\"\"b,\n\r".repeat(length / 7);
        match format {
            Format::Json if filling.is_empty() => text.extend(format!("{{\"x\":{x}}}").bytes()),
            Format::Csv | Format::Raw if filling.is_empty() => text.extend(x.to_string().bytes()),
            Format::Json => {
                filling.retain(|byte| *byte != b'\n');
                text.extend(filling);
            }
            Format::Csv | Format::Raw => {
                text.push(b'"');
                text.extend(filling);
                text.push(b'"');
            }
        }
        text.push(b'\n');
    }
    text
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(24))]
    /// Also within a record that is too long, whose end nobody has seen.
    #[test]
    fn gone_on_with_after_any_poll_a_stream_gives_the_same_rows_and_dead_letters(
        lengths in proptest::collection::vec(proptest::prop_oneof![
            3 => proptest::prelude::Just(0_usize),
            1 => 120_usize..900,
        ], 1..12),
        format in proptest::sample::select(vec![Format::Json, Format::Csv]),
        deaths in proptest::collection::vec(proptest::bool::weighted(0.3), 1..60),
    ) {
        let place = tempfile::tempdir().unwrap();
        let text = uneven(format, &lengths);
        let schema = schema_of(&fields(&["x:int64"])).unwrap();
        let read = |deaths: &[bool]| {
            let (mut rows, mut letters) = (Vec::new(), Letters::default());
            let mut position = Position::default();
            let mut deaths = deaths.iter().chain(std::iter::repeat(&false));
            'lives: loop {
                let folder = place.path().join("journal");
                let pieces = Pieces(io::Cursor::new(if folder.exists() { Vec::new() } else { text.clone() }));
                let mut partition = open(&folder, format, &position, pieces).unwrap();
                loop {
                    let mut batch = testing::batch(&schema, 3, 100);
                    let poll = testing::poll(&mut partition, &mut batch, &mut letters, 3).unwrap();
                    rows.extend_from_slice(batch.view().column(0).values::<i64>());
                    if poll == Poll::End {
                        return (rows, letters.taken);
                    }
                    if poll == Poll::Idle {
                        std::thread::yield_now();
                    } else if *deaths.next().unwrap() {
                        let saved = serde_json::to_string(&partition.position()).unwrap();
                        position = serde_json::from_str(&saved).unwrap();
                        continue 'lives;
                    }
                }
            }
        };
        // The first reading makes the journal; the next ones find everything in it.
        let (rows, letters) = read(&[]);
        let short = lengths.iter().enumerate().filter(|(_, length)| **length == 0);
        assert_eq!(rows, short.map(|(x, _)| x as i64).collect::<Vec<_>>());
        assert_eq!(rows.len() + letters.len(), lengths.len());
        assert_eq!(read(&deaths), (rows, letters));
    }
}

#[test]
fn who_watches_is_told_that_reading_waits_for_the_journal_and_when_it_does_no_more() {
    let place = tempfile::tempdir().unwrap();
    let (told, tells) = std::sync::mpsc::channel();
    let on_wait: crate::OnWait = Arc::new(move |folder, reason| {
        let _ = told.send((folder.to_owned(), reason.map(str::to_owned)));
    });
    let journal = Journal { folder: place.path().join("lines"), is_emptied: false, on_wait };
    let lines = b"{\"x\":1}\n".repeat(20);
    let mut journaled = Journaled::new(&journal, 100, || of_stream(Pieces(io::Cursor::new(lines))));
    // Room for one read.
    journaled.bytes_max = super::thread::READ_BYTES as u64;
    let mut partition = TextPartition::of_journal("stdin", &options(Format::Json), journaled, Arc::new(|| {})).unwrap();
    let mut batch = testing::batch(&schema_of(&fields(&["x:int64"])).unwrap(), 10, 100);
    testing::poll(&mut partition, &mut batch, &mut Letters::default(), 1).unwrap();
    let (folder, reason) = tells.recv().unwrap();
    assert_eq!(folder, journal.folder);
    assert!(reason.unwrap().starts_with("reading waits for the next checkpoints: journal "));
    drop(partition);
    assert_eq!(tells.recv().unwrap(), (folder, None));
}
