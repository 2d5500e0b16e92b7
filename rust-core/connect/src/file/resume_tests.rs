//! Sources that continue from a checkpoint: what comes back, what is new, what is refused.

use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    path::{Path, PathBuf},
};

use serde_json::Value;

use crate::{
    ConnectError, FileSpec, Format, GeneratorSpec, Journal, Order, Partitions, Poll, RECORD_BYTES_MAX, Replay, Resume,
    schema_of,
    testing::{self, Letters, fields},
};

/// A folder of text files; row `x` of file `name` says so.
struct Place {
    folder: tempfile::TempDir,
    order: Order,
    format: Format,
}

/// A partition as a checkpoint has it.
#[derive(Debug, Clone)]
struct Saved {
    name: String,
    position: Value,
    ended: bool,
}

impl Place {
    fn new(order: Order, format: Format) -> Place {
        Place { folder: tempfile::tempdir().unwrap(), order, format }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn text(&self, name: &str, rows: std::ops::Range<usize>) -> String {
        match self.format {
            Format::Json => rows.map(|x| format!("{{\"x\":{x},\"t\":\"{name}\"}}\n")).collect(),
            Format::Csv | Format::Raw => rows.map(|x| format!("{x},{name}\n")).collect(),
        }
    }

    fn put(&self, name: &str, rows: std::ops::Range<usize>) {
        let header = if self.format == Format::Csv { "x,t\n" } else { "" };
        let text = format!("{header}{}", self.text(name, rows));
        let bytes = match Path::new(name).extension().and_then(|extension| extension.to_str()) {
            Some("gz") => gzip(text.as_bytes()),
            Some("zst") => zstd::encode_all(text.as_bytes(), 1).unwrap(),
            _ => text.into_bytes(),
        };
        fs::write(self.path(name), bytes).unwrap();
    }

    fn spec(&self) -> FileSpec {
        FileSpec {
            path: format!("{}/*", self.folder.path().display()),
            format: self.format.into(),
            fields: fields(&["x:int64", "t:utf8"]).into(),
            rate: None,
            order: self.order,
            record_bytes_max: RECORD_BYTES_MAX,
            decode_threads: 0,
        }
    }

    fn open(&self, shards: usize, saved: Option<&[Saved]>) -> Result<Partitions, ConnectError> {
        open(|resume| self.spec().open(shards, &[], resume), saved)
    }

    fn refusal(&self, saved: &[Saved]) -> String {
        let error = self.open(1, Some(saved)).err().expect("a refusal");
        assert!(error.is_configuration() && !error.is_transient(), "{error}");
        error.to_string()
    }
}

fn open(
    call: impl FnOnce(Option<&[Resume<'_>]>) -> Result<Partitions, ConnectError>,
    saved: Option<&[Saved]>,
) -> Result<Partitions, ConnectError> {
    let resume = |saved: &Saved| -> (String, Value, bool) { (saved.name.clone(), saved.position.clone(), saved.ended) };
    let owned: Option<Vec<_>> = saved.map(|saved| saved.iter().map(resume).collect());
    let resume: Option<Vec<Resume<'_>>> = owned
        .as_ref()
        .map(|owned| owned.iter().map(|(name, position, ended)| Resume { name, position, ended: *ended }).collect());
    call(resume.as_deref())
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(bytes).unwrap();
    gzip.finish().unwrap()
}

/// Polls every partition so often; rows by partition go to `rows`, and the checkpoint is what comes back.
fn run(
    partitions: &mut Partitions,
    polls: usize,
    schema: &FieldsOf,
    rows: &mut BTreeMap<String, String>,
) -> Vec<Saved> {
    let mut saved = Vec::new();
    for (_, partition) in partitions {
        let mut batch = testing::batch(&schema.0, 100, 1 << 16);
        let mut encoder = crate::encoder(Format::Json, &schema.0).unwrap();
        let mut ended = false;
        let mut out = Vec::new();
        for _ in 0..polls {
            batch.clear();
            let poll = testing::poll(&mut **partition, &mut batch, &mut Letters::default(), 100).unwrap();
            encoder.encode(&batch.view(), 0..batch.rows() as usize, &mut out);
            ended = poll == Poll::End;
            if ended {
                break;
            }
        }
        *rows.entry(partition.name().to_owned()).or_default() += std::str::from_utf8(&out).unwrap();
        let position = serde_json::to_value(partition.position()).unwrap();
        saved.push(Saved { name: partition.name().to_owned(), position, ended });
    }
    saved
}

struct FieldsOf(std::sync::Arc<ringmill_wire::Schema>);

fn columns() -> FieldsOf {
    FieldsOf(schema_of(&fields(&["x:int64", "t:utf8"])).unwrap())
}

#[test]
fn files_continue_exactly_where_they_were_whatever_the_shards() {
    for (order, format) in [
        (Order::Parallel, Format::Json),
        (Order::Sequential, Format::Json),
        (Order::Parallel, Format::Csv),
        (Order::Sequential, Format::Csv),
    ] {
        let place = Place::new(order, format);
        let names = ["a", "b.gz", "c.zst", "d", "e.gz", "f"];
        for (at, name) in names.iter().enumerate() {
            place.put(name, 0..at * 700);
        }
        let mut whole = BTreeMap::new();
        run(&mut place.open(3, None).unwrap(), usize::MAX, &columns(), &mut whole);
        assert_eq!(whole.values().map(|text| text.lines().count()).sum::<usize>(), 15 * 700);
        for polls in [0, 1, 2, 9, 13] {
            let mut rows = BTreeMap::new();
            let mut saved = run(&mut place.open(3, None).unwrap(), polls, &columns(), &mut rows);
            for shards in [1, 5, 2] {
                let mut partitions = place.open(shards, Some(&saved)).unwrap();
                assert!(partitions.iter().all(|(shard, _)| *shard < shards));
                saved = run(&mut partitions, polls, &columns(), &mut rows);
            }
            let mut partitions = place.open(4, Some(&saved)).unwrap();
            run(&mut partitions, usize::MAX, &columns(), &mut rows);
            assert!(rows == whole, "{order:?} {format:?} {polls}");
        }
    }
}

#[test]
fn files_that_are_new_are_partitions_of_their_own() {
    for order in [Order::Parallel, Order::Sequential] {
        let place = Place::new(order, Format::Json);
        place.put("b", 0..300);
        place.put("d", 0..300);
        let mut rows = BTreeMap::new();
        let saved = run(&mut place.open(1, None).unwrap(), 2, &columns(), &mut rows);
        for name in ["a", "c", "e"] {
            place.put(name, 0..50);
        }
        let mut partitions = place.open(2, Some(&saved)).unwrap();
        let saved = run(&mut partitions, 2, &columns(), &mut rows);
        let mut names: Vec<&str> = rows.keys().map(|name| name.rsplit('/').next().unwrap()).collect();
        names.sort_unstable();
        let expect: &[&str] = if order == Order::Parallel { &["a", "b", "c", "d", "e"] } else { &["*#0", "*#1"] };
        assert_eq!(names, expect);
        place.put("f", 0..50);
        run(&mut place.open(2, Some(&saved)).unwrap(), usize::MAX, &columns(), &mut rows);
        assert_eq!(rows.values().map(|text| text.lines().count()).sum::<usize>(), 600 + 4 * 50);
        assert_eq!(rows.len(), if order == Order::Parallel { 6 } else { 3 });
    }
}

#[test]
fn a_file_that_has_grown_is_read_on() {
    for name in ["grown", "grown.gz"] {
        let place = Place::new(Order::Parallel, Format::Json);
        place.put(name, 0..250);
        for polls in [1, usize::MAX] {
            let mut rows = BTreeMap::new();
            place.put(name, 0..250);
            let saved = run(&mut place.open(1, None).unwrap(), polls, &columns(), &mut rows);
            let more = place.text(name, 250..300);
            let more = if name == "grown" { more.into_bytes() } else { gzip(more.as_bytes()) };
            fs::File::options().append(true).open(place.path(name)).unwrap().write_all(&more).unwrap();
            run(&mut place.open(1, Some(&saved)).unwrap(), usize::MAX, &columns(), &mut rows);
            assert_eq!(rows.into_values().collect::<String>(), place.text(name, 0..300));
        }
    }
}

#[test]
fn a_file_that_is_gone_changed_or_replaced_is_refused_by_name() {
    type Change = fn(&Place);
    let cases: &[(&str, Change, &str)] = &[
        (
            "a",
            |place| fs::remove_file(place.path("a")).unwrap(),
            "/a was not read to its end, and no file of this name",
        ),
        ("a", |place| fs::rename(place.path("a"), place.path("z")).unwrap(), "/z now"),
        (
            "a",
            |place| {
                fs::rename(place.path("a"), place.path("z")).unwrap();
                place.put("a", 0..1000);
            },
            "/a: it is another file (inode ",
        ),
        (
            "a",
            |place| fs::File::options().write(true).open(place.path("a")).unwrap().set_len(100).unwrap(),
            "/a: it has only 100 bytes, and ",
        ),
        (
            "a",
            |place| {
                let mut bytes = fs::read(place.path("a")).unwrap();
                bytes[5] = b'7';
                fs::write(place.path("a"), bytes).unwrap();
            },
            " bytes are others than those that were read before",
        ),
        ("a.gz", |place| place.put("a.gz", 5..2000), "are others than those that were read before"),
        (
            "a.zst",
            |place| fs::File::options().write(true).open(place.path("a.zst")).unwrap().set_len(10).unwrap(),
            "/a.zst: it has only 10 bytes, and ",
        ),
    ];
    for (name, change, expect) in cases {
        for order in [Order::Parallel, Order::Sequential] {
            let place = Place::new(order, Format::Json);
            place.put(name, 0..1000);
            let saved = run(&mut place.open(1, None).unwrap(), 2, &columns(), &mut BTreeMap::new());
            change(&place);
            let reason = place.refusal(&saved);
            assert!(reason.contains(expect), "{reason}");
            assert!(reason.contains("cannot continue from the checkpoint: "), "{reason}");
        }
    }
    // Replaced by rotation: it is said where the file of the checkpoint is.
    let place = Place::new(Order::Parallel, Format::Json);
    place.put("a", 0..1000);
    let saved = run(&mut place.open(1, None).unwrap(), 2, &columns(), &mut BTreeMap::new());
    fs::rename(place.path("a"), place.path("a.1")).unwrap();
    place.put("a", 0..1000);
    assert!(place.refusal(&saved).ends_with("/a.1 now"));
    // A file that is still to be read.
    let place = Place::new(Order::Sequential, Format::Json);
    place.put("a", 0..1000);
    place.put("b", 0..1000);
    let saved = run(&mut place.open(1, None).unwrap(), 2, &columns(), &mut BTreeMap::new());
    fs::remove_file(place.path("b")).unwrap();
    assert!(place.refusal(&saved).contains("/b was still to be read, and no file of this name matches "));
}

#[test]
fn a_file_that_was_read_to_its_end_may_go() {
    for order in [Order::Parallel, Order::Sequential] {
        let place = Place::new(order, Format::Json);
        place.put("a", 0..50);
        place.put("b", 0..450);
        let mut rows = BTreeMap::new();
        let saved = run(&mut place.open(1, None).unwrap(), 2, &columns(), &mut rows);
        fs::remove_file(place.path("a")).unwrap();
        let saved = run(&mut place.open(1, Some(&saved)).unwrap(), usize::MAX, &columns(), &mut rows);
        assert!(saved.iter().all(|saved| saved.ended));
        fs::remove_file(place.path("b")).unwrap();
        let again = run(&mut place.open(1, Some(&saved)).unwrap(), usize::MAX, &columns(), &mut rows);
        let positions = |saved: &[Saved]| saved.iter().map(|saved| saved.position.clone()).collect::<Vec<_>>();
        assert_eq!(positions(&again), positions(&saved));
        assert_eq!(rows.values().map(|text| text.lines().count()).sum::<usize>(), 500);
    }
}

#[test]
fn a_last_line_that_goes_on_after_it_was_taken_for_whole_is_refused() {
    let place = Place::new(Order::Parallel, Format::Csv);
    fs::write(place.path("a"), "x,t\n1,a\n2,b").unwrap();
    let saved = run(&mut place.open(1, None).unwrap(), usize::MAX, &columns(), &mut BTreeMap::new());
    place.open(1, Some(&saved)).unwrap();
    fs::write(place.path("a"), "x,t\n1,a\n2,bcd\n3,c\n").unwrap();
    assert!(place.refusal(&saved).contains("it ended with a line without its end, at byte 11, and goes on there now"));
}

#[test]
fn a_checkpoint_that_makes_no_sense_is_refused() {
    let place = Place::new(Order::Parallel, Format::Json);
    place.put("a", 0..10);
    let saved = run(&mut place.open(1, None).unwrap(), 1, &columns(), &mut BTreeMap::new());
    let twice = [saved[0].clone(), saved[0].clone()];
    assert!(place.refusal(&twice).ends_with("the checkpoint has it twice"));
    let nonsense = [Saved { position: Value::from(7), ..saved[0].clone() }];
    assert!(place.refusal(&nonsense).contains("its position 7 is not understood"));
}

#[test]
fn a_fifo_without_a_journal_begins_anew() {
    let place = Place::new(Order::Parallel, Format::Json);
    place.put("a", 0..10);
    assert_eq!(place.spec().replay(), Replay::Seekable);
    let made = std::process::Command::new("mkfifo").arg(place.path("fifo")).status().unwrap();
    assert!(made.success());
    assert_eq!(place.spec().replay(), Replay::Journaled);
    let saved = run(&mut place.open(1, None).unwrap(), 1, &columns(), &mut BTreeMap::new());
    let saved: Vec<Saved> = saved.into_iter().filter(|saved| saved.name.ends_with("fifo")).collect();
    let partitions = place.open(1, Some(&saved)).unwrap();
    assert_eq!(partitions.len(), 2);
}

#[test]
fn a_generator_continues_exactly_where_it_was_whatever_the_shards() {
    let spec = GeneratorSpec { keys: 7, rows: Some(5_000), seed: 3, ..GeneratorSpec::default() };
    let schema = FieldsOf(spec.schema().unwrap());
    let mut whole = BTreeMap::new();
    let ended = run(&mut spec.open(3, &[], None).unwrap(), usize::MAX, &schema, &mut whole);
    for polls in [0, 1, 5] {
        let mut rows = BTreeMap::new();
        let mut saved = run(&mut spec.open(3, &[], None).unwrap(), polls, &schema, &mut rows);
        for shards in [1, 8] {
            let mut partitions = open(|resume| spec.open(shards, &[], resume), Some(&saved)).unwrap();
            assert_eq!(partitions.len(), 3);
            saved = run(&mut partitions, polls, &schema, &mut rows);
        }
        let mut partitions = open(|resume| spec.open(2, &[], resume), Some(&saved)).unwrap();
        assert_eq!(partitions.iter().map(|(shard, _)| *shard).collect::<Vec<_>>(), [0, 1, 0]);
        run(&mut partitions, usize::MAX, &schema, &mut rows);
        assert!(rows == whole);
    }
    // More rows may be asked for later, fewer or other ones not.
    let more = GeneratorSpec { rows: Some(5_001), ..spec.clone() };
    let mut rows = BTreeMap::new();
    run(&mut open(|resume| more.open(1, &[], resume), Some(&ended)).unwrap(), usize::MAX, &schema, &mut rows);
    assert_eq!(rows.values().map(|text| text.lines().count()).sum::<usize>(), 1);
    let refuse = |other: GeneratorSpec, expect: &str| {
        let error = open(|resume| other.open(1, &[], resume), Some(&ended)).err().expect("a refusal").to_string();
        assert!(error.contains(expect), "{error}");
    };
    refuse(GeneratorSpec { rows: Some(10), ..spec.clone() }, "the whole stream has only 10 rows now");
    refuse(GeneratorSpec { keys: 8, ..spec.clone() }, "Sensors of 7 keys");
    refuse(GeneratorSpec { seed: 4, ..spec.clone() }, "seed 4");
    let mut alien = ended.clone();
    alien[0].position["share"]["of"] = 9.into();
    let error = open(|resume| spec.open(1, &[], resume), Some(&alien)).err().unwrap().to_string();
    assert!(error.contains("there is no partition 0 of 9"), "{error}");
    alien[0].position = serde_json::json!({"offset": 1, "rows": 1});
    let error = open(|resume| spec.open(1, &[], resume), Some(&alien)).err().unwrap().to_string();
    assert!(error.contains("its position is not one of a generator"), "{error}");
}

#[test]
fn a_file_is_gone_on_with_within_a_record_that_is_too_long() {
    for (format, filling) in [(Format::Json, "a,\"b\" "), (Format::Csv, "a,\n\"\"b")] {
        let place = Place::new(Order::Parallel, format);
        let long = filling.repeat(3 << 20 >> 2);
        let header = if format == Format::Csv { "x,t\n" } else { "" };
        let text = format!("{header}{}\"{long}\"\n{}", place.text("a", 0..3), place.text("a", 3..6));
        fs::write(place.path("a"), text).unwrap();
        let (mut rows, mut letters, mut saved) = (Vec::new(), Letters::default(), None::<Saved>);
        let schema = place.spec().schema().unwrap();
        let mut within = 0;
        loop {
            let resume = saved.take().map(|saved| vec![saved]);
            let mut partition = place.open(1, resume.as_deref()).unwrap().remove(0).1;
            let mut batch = testing::batch(&schema, 2, 1 << 10);
            let poll = testing::poll(&mut *partition, &mut batch, &mut letters, 2).unwrap();
            rows.extend_from_slice(batch.view().column(0).values::<i64>());
            if poll == Poll::End {
                break;
            }
            within += u64::from(partition.position().within.is_some());
            let position = serde_json::to_value(partition.position()).unwrap();
            saved = Some(Saved { name: partition.name().to_owned(), position, ended: false });
        }
        assert_eq!(rows, [0, 1, 2, 3, 4, 5], "{format:?}");
        assert_eq!(letters.taken.len(), 1);
        assert!(letters.taken[0].reason.contains("longer than record_bytes_max"));
        assert!(within >= 2, "{within}");
    }
}

#[test]
fn a_journaled_fifo_is_gone_on_with_and_is_no_regular_file() {
    let place = Place::new(Order::Sequential, Format::Json);
    place.put("a", 0..2);
    assert!(std::process::Command::new("mkfifo").arg(place.path("pipe")).status().unwrap().success());
    let folder = place.folder.path().with_extension("journal");
    let journal = Journal { folder: folder.join("in"), is_emptied: false, on_wait: std::sync::Arc::new(|_, _| {}) };
    let reopen =
        |saved: Option<&[Saved]>| open(|resume| place.spec().open_journaled(1, &[], Some(&journal), resume), saved);
    let write = |rows: std::ops::Range<usize>| {
        let (path, text) = (place.path("pipe"), place.text("pipe", rows));
        std::thread::spawn(move || fs::write(path, text).unwrap())
    };
    let read = |partition: &mut dyn crate::Partition| {
        let (text, letters) = testing::read_all(partition, &columns().0, Format::Json, 100).unwrap();
        assert!(letters.is_empty());
        text
    };
    let mut partitions = reopen(None).unwrap();
    assert_eq!(partitions.len(), 2);
    let writer = write(0..5);
    let mut pipe = partitions.remove(1).1;
    assert_eq!(read(&mut *pipe), place.text("pipe", 0..5));
    writer.join().unwrap();
    let name = pipe.name().to_owned();
    drop((pipe, partitions));
    // Nothing of it was in a checkpoint: it comes again, and then what comes in.
    let beginning = serde_json::json!({"offset": 0, "rows": 0});
    let saved = [Saved { name: name.clone(), position: beginning, ended: false }];
    let writer = write(5..7);
    let mut partitions = reopen(Some(&saved)).unwrap();
    let mut pipe = partitions.remove(0).1;
    assert_eq!(read(&mut *pipe), place.text("pipe", 0..7));
    writer.join().unwrap();
    let position = serde_json::to_value(pipe.position()).unwrap();
    drop((pipe, partitions));
    fs::remove_file(place.path("pipe")).unwrap();
    place.put("pipe", 0..100);
    let saved = [Saved { name, position, ended: false }];
    let refusal = reopen(Some(&saved)).err().unwrap().to_string();
    assert!(refusal.ends_with("it was a pipe, and is a regular file now"), "{refusal}");
    fs::remove_dir_all(folder).unwrap();
}
