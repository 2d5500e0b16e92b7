//! Files: found, told apart, split over shards, read again from the middle.

use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    path::{Path, PathBuf},
};

use super::*;
use crate::{
    Format, Poll, Position, RECORD_BYTES_MAX,
    testing::{self, Letters, fields},
};

fn spec(folder: &Path, pattern: &str, format: Format) -> FileSpec {
    FileSpec {
        path: folder.join(pattern).to_str().unwrap().to_owned(),
        format: format.into(),
        fields: fields(&["x:int64", "t:utf8?"]).into(),
        rate: None,
        order: Order::Parallel,
        record_bytes_max: RECORD_BYTES_MAX,
        decode_threads: 0,
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(bytes).unwrap();
    gzip.finish().unwrap()
}

fn ndjson(range: std::ops::Range<usize>) -> String {
    range.map(|x| format!("{{\"x\":{x},\"t\":\"text {x}\"}}\n")).collect()
}

/// Rows of each partition, by shard and name.
fn read(spec: &FileSpec, shards: usize) -> BTreeMap<(usize, String), String> {
    let schema = spec.schema().unwrap();
    let mut found = BTreeMap::new();
    for (shard, mut partition) in spec.open(shards, &[], None).unwrap() {
        let (rows, letters) = testing::read_all(&mut *partition, &schema, Format::Json, 50).unwrap();
        assert!(letters.is_empty(), "{letters:?}");
        let name = PathBuf::from(partition.name()).file_name().unwrap().to_str().unwrap().to_owned();
        found.insert((shard, name), rows);
    }
    found
}

#[test]
fn files_are_sorted_told_apart_by_their_bytes_and_dealt_to_the_shards() {
    let folder = tempfile::tempdir().unwrap();
    let put = |name: &str, bytes: &[u8]| fs::write(folder.path().join(name), bytes).unwrap();
    let members = [gzip(ndjson(0..500).as_bytes()), gzip(ndjson(500..10_000).as_bytes())].concat();
    put("a-2.gz", &members);
    put("a-1.txt", ndjson(10_000..20_000).as_bytes());
    put("a-3", &zstd::encode_all(ndjson(20_000..30_000).as_bytes(), 1).unwrap());
    put("a-4", b"");
    put("b-5", b"not matched");
    fs::create_dir(folder.path().join("a-folder")).unwrap();
    let found = read(&spec(folder.path(), "a-*", Format::Json), 3);
    let expect = BTreeMap::from([
        ((0, "a-1.txt".to_owned()), ndjson(10_000..20_000)),
        ((1, "a-2.gz".to_owned()), ndjson(0..10_000)),
        ((2, "a-3".to_owned()), ndjson(20_000..30_000)),
        ((0, "a-4".to_owned()), String::new()),
    ]);
    assert_eq!(found, expect);

    let sequential = FileSpec { order: Order::Sequential, ..spec(folder.path(), "a-*", Format::Json) };
    let found = read(&sequential, 2);
    let expect = BTreeMap::from([
        ((0, "a-*#0".to_owned()), ndjson(10_000..30_000)),
        ((1, "a-*#1".to_owned()), ndjson(0..10_000)),
    ]);
    assert_eq!(found, expect);
}

#[test]
fn seeking_into_the_middle_continues_as_if_it_had_never_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let text = ndjson(0..40_000);
    let csv: String =
        "\u{feff}t,x\r\n".to_owned() + &(0..40_000).map(|x| format!("\"a\n{x}\",{x}\r\n")).collect::<String>();
    let put = |name: &str, bytes: &[u8]| fs::write(folder.path().join(name), bytes).unwrap();
    put("plain-1", &text.as_bytes()[..20_000 * 8]);
    put("plain-2", &text.as_bytes()[20_000 * 8..]);
    put("one", text.as_bytes());
    put("gz", &gzip(text.as_bytes()));
    put("zst", &zstd::encode_all(text.as_bytes(), 1).unwrap());
    put("csv", csv.as_bytes());
    put("csv.gz", &gzip(csv.as_bytes()));
    for (pattern, format) in [
        ("plain-*", Format::Json),
        ("one", Format::Json),
        ("gz", Format::Json),
        ("zst", Format::Json),
        ("csv", Format::Csv),
        ("csv.gz", Format::Csv),
    ] {
        let spec = FileSpec { order: Order::Sequential, ..spec(folder.path(), pattern, format) };
        let schema = spec.schema().unwrap();
        let open = || spec.open(1, &[], None).unwrap().remove(0).1;
        for polls in [0, 1, 3, 30, 330] {
            let mut partition = open();
            let mut batch = testing::batch(&schema, 100, 1 << 16);
            let mut letters = Letters::default();
            for _ in 0..polls {
                batch.clear();
                assert_ne!(testing::poll(&mut *partition, &mut batch, &mut letters, 100).unwrap(), Poll::End);
            }
            let position = partition.position();
            assert!(position.file.is_some());
            let text = serde_json::to_string(&position).unwrap();
            let position: Position = serde_json::from_str(&text).unwrap();
            let rest = testing::read_all(&mut *partition, &schema, Format::Json, 64).unwrap();
            let mut again = open();
            again.seek(&position).unwrap();
            let seen = testing::read_all(&mut *again, &schema, Format::Json, 100).unwrap();
            assert_eq!(seen, rest, "{pattern} after {polls}");
            assert_eq!(again.position(), partition.position());
        }
    }
}

#[test]
fn positions_that_a_file_does_not_have_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("plain"), "{}\n").unwrap();
    fs::write(folder.path().join("gz"), gzip(b"{}\n")).unwrap();
    for name in ["plain", "gz"] {
        let spec = spec(folder.path(), name, Format::Json);
        let mut partition = spec.open(1, &[], None).unwrap().remove(0).1;
        let beyond = Position { offset: 4, ..Position::default() };
        let error = partition.seek(&beyond).unwrap_err().to_string();
        assert!(error.ends_with("it has only 3 bytes"), "{error}");
        let elsewhere = Position { file: Some("other".into()), ..Position::default() };
        let error = partition.seek(&elsewhere).unwrap_err().to_string();
        assert!(error.ends_with("its file other is not among the files"), "{error}");
    }
}

#[test]
fn a_truncated_or_damaged_archive_is_an_error_that_names_file_and_offset() {
    let folder = tempfile::tempdir().unwrap();
    let text = ndjson(0..1_000);
    let zst = zstd::encode_all(text.as_bytes(), 1).unwrap();
    let gz = gzip(text.as_bytes());
    let mut damaged = gz.clone();
    let middle = damaged.len() - 6;
    damaged[middle] ^= 1;
    for bytes in [&gz[..gz.len() / 2], &gz[..gz.len() - 3], &zst[..zst.len() / 2], &damaged] {
        fs::write(folder.path().join("file"), bytes).unwrap();
        let spec = spec(folder.path(), "file", Format::Json);
        let mut partition = spec.open(1, &[], None).unwrap().remove(0).1;
        let schema = spec.schema().unwrap();
        let error = testing::read_all(&mut *partition, &schema, Format::Json, 50).unwrap_err();
        assert!(matches!(error, ConnectError::Read { .. }), "{error}");
        assert!(!error.is_configuration());
        assert!(error.to_string().contains("/file beyond byte "), "{error}");
    }
}

#[test]
fn what_cannot_be_opened_is_refused_before_anything_runs() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a.csv"), "x,t\n1,a\n").unwrap();
    fs::write(folder.path().join("b.csv"), "x,u\n1,a\n").unwrap();
    let fail = |pattern: &str, format| {
        let error = spec(folder.path(), pattern, format).open(1, &[], None).err().unwrap();
        assert!(error.is_configuration());
        error.to_string()
    };
    assert!(fail("c*", Format::Json).starts_with("no file matches "));
    assert!(fail("", Format::Json).contains("it is a directory"));
    assert!(fail("[", Format::Json).contains("is not a valid pattern"));
    assert!(fail("*.csv", Format::Csv).ends_with(r#"/b.csv has no column "t"; its header has ["x", "u"]"#));
    assert!(spec(folder.path(), "a.csv", Format::Csv).open(1, &[], None).is_ok());
    assert!(spec(folder.path(), "*", Format::Json).open(4, &[], None).is_ok());
}

#[test]
fn a_name_with_brackets_is_found_as_it_stands() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("day[1].ndjson"), "{\"x\":1}\n").unwrap();
    let found = read(&spec(folder.path(), "day[1].ndjson", Format::Json), 1);
    assert_eq!(found.len(), 1);
}

#[test]
fn a_fifo_is_read_without_holding_anybody_up() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("fifo");
    let made = std::process::Command::new("mkfifo").arg(&path).status().unwrap();
    assert!(made.success());
    let spec = spec(folder.path(), "fifo", Format::Json);
    let mut partition = spec.open(1, &[], None).unwrap().remove(0).1;
    let schema = spec.schema().unwrap();
    let mut batch = testing::batch(&schema, 10, 100);
    let mut letters = Letters::default();
    // Nobody writes yet: opening it for reading would wait.
    assert_eq!(testing::poll(&mut *partition, &mut batch, &mut letters, 10).unwrap(), Poll::Idle);
    let writer = std::thread::spawn(move || fs::write(path, ndjson(0..1_000)).unwrap());
    let (rows, _) = testing::read_all(&mut *partition, &schema, Format::Json, 64).unwrap();
    assert_eq!(rows, ndjson(0..1_000));
    writer.join().unwrap();
}

#[test]
fn a_rate_is_shared_by_the_partitions() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["a", "b"] {
        fs::write(folder.path().join(name), ndjson(0..10)).unwrap();
    }
    let spec = FileSpec { rate: Some(20.0), ..spec(folder.path(), "*", Format::Json) };
    let mut partition = spec.open(1, &[], None).unwrap().remove(0).1;
    let mut batch = testing::batch(&spec.schema().unwrap(), 10, 100);
    let mut letters = Letters::default();
    assert_eq!(testing::poll(&mut *partition, &mut batch, &mut letters, 10).unwrap(), Poll::Rows);
    assert_eq!(batch.rows(), 1);
    assert_eq!(testing::poll(&mut *partition, &mut batch, &mut letters, 10).unwrap(), Poll::Until(100_000_000));
}
