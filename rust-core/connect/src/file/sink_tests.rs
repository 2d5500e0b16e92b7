//! File sinks: what a run writes at once, what epochs show, and what a recovery refuses.

use std::{
    fs::{self, File},
    path::Path,
};

use serde_json::{Value, json};

use crate::{
    ConnectError, FileSink, Format, OutputFormat, Promise, Transactions, Writer,
    disk::faults,
    schema_of,
    testing::{
        self, fields,
        rows::{encoded, numbers},
    },
};

fn open(
    path: impl AsRef<Path>,
    format: Format,
    transactions: Option<&Transactions<'_>>,
) -> Result<Box<dyn Writer>, ConnectError> {
    let schema = schema_of(&fields(&["x:int64"])).unwrap();
    FileSink::new(path.as_ref(), format).open(&schema, transactions)
}

/// A staging folder and a target beside it.
struct Place {
    folder: tempfile::TempDir,
    target: String,
}

impl Place {
    fn new(target: &str) -> Place {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("staging")).unwrap();
        let target = format!("{}/{target}", folder.path().display());
        Place { folder, target }
    }

    fn open(&self, recovered: Option<(u64, &Value)>) -> Result<Box<dyn Writer>, ConnectError> {
        let staging = self.folder.path().join("staging");
        open(&self.target, Format::Json, Some(&Transactions { staging: &staging, recovered }))
    }

    fn refusal(&self, epoch: u64, value: &Value) -> String {
        let error = self.open(Some((epoch, value))).err().expect("a refusal");
        assert!(!error.is_configuration() && !error.is_transient(), "{error}");
        error.to_string()
    }

    fn staged(&self) -> Vec<String> {
        testing::names(&self.folder.path().join("staging"))
    }

    fn content(&self) -> String {
        fs::read_to_string(&self.target).unwrap()
    }
}

/// Writes and commits; what `pre_commit` said.
fn epoch(writer: &mut dyn Writer, epoch: u64, bytes: &str) -> Value {
    writer.write(epoch, bytes.as_bytes()).unwrap();
    let value = writer.pre_commit(epoch).unwrap();
    writer.commit(epoch).unwrap();
    value
}

#[test]
fn without_checkpoints_a_file_is_created_anew_and_written_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.csv");
    fs::write(&path, "old and longer").unwrap();
    let mut writer = open(&path, Format::Csv, None).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), "x\n");
    writer.write(1, b"1\n").unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), "x\n1\n");
    writer.finish().unwrap();

    let missing = open(folder.path().join("no/out"), Format::Json, None).err().unwrap();
    assert!(missing.to_string().ends_with("/no does not exist"), "{missing}");
    let directory = open(folder.path(), Format::Json, None).err().unwrap();
    assert!(directory.is_configuration());
    assert!(matches!(directory, ConnectError::Open { .. }));
}

#[test]
fn a_full_disk_is_an_error_after_which_the_same_write_may_be_made_again() {
    let mut writer = open("/dev/full", Format::Json, None).unwrap();
    for _ in 0..2 {
        let error = writer.write(0, b"x").unwrap_err();
        assert!(error.to_string().starts_with("cannot write /dev/full: No space left"), "{error}");
        assert!(error.is_out_of_space() && error.is_transient());
        assert!(!error.is_configuration() && !error.is_broken_pipe());
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out");
    let mut writer = open(&path, Format::Json, None).unwrap();
    writer.write(1, b"first\n").unwrap();
    for (n, repeats, code) in [(1, 0, libc::ENOSPC), (1, 1, libc::EIO), (1, 0, libc::EDQUOT)] {
        let before = fs::read(&path).unwrap();
        faults::order(n, repeats, code);
        let error = writer.write(1, b"some more\n").unwrap_err();
        assert_eq!(error.is_transient(), code != libc::EIO, "{error}");
        assert!(faults::are_spent());
        // Where the cut failed too, the next write goes over the rest.
        assert!(repeats > 0 || fs::read(&path).unwrap() == before);
        writer.write(1, b"more\n").unwrap();
    }
    faults::order(1, 1, libc::EIO);
    writer.write(1, b"never written\n").unwrap_err();
    writer.finish().unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), "first\nmore\nmore\nmore\n");
}

#[test]
fn without_checkpoints_a_folder_gets_one_part_at_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = format!("{}/deep/out/", folder.path().display());
    fs::create_dir_all(&path).unwrap();
    for name in ["part-0000000007.json", ".part-0000000008.staged", "part-1.csv", "notes.txt"] {
        fs::write(format!("{path}{name}"), "earlier").unwrap();
    }
    let mut writer = open(&path, Format::Csv, None).unwrap();
    writer.write(1, b"1\n").unwrap();
    writer.write(1, b"2\n").unwrap();
    let visible = |names: Vec<String>| names.into_iter().filter(|name| !name.starts_with('.')).collect::<Vec<_>>();
    assert_eq!(visible(testing::names(Path::new(&path))), ["notes.txt", "part-1.csv"]);
    writer.finish().unwrap();
    assert_eq!(testing::names(Path::new(&path)), ["notes.txt", "part-0000000001.csv", "part-1.csv"]);
    assert_eq!(fs::read_to_string(format!("{path}part-0000000001.csv")).unwrap(), "x\n1\n2\n");

    open(&path, Format::Csv, None).unwrap().finish().unwrap();
    assert_eq!(testing::names(Path::new(&path)), ["notes.txt", "part-1.csv"]);
}

#[test]
fn a_file_that_goes_on_has_to_have_the_columns_that_it_had() {
    let other = schema_of(&fields(&["y:float64"])).unwrap();
    let same = schema_of(&fields(&["x:int64"])).unwrap();
    for format in [
        OutputFormat::Csv,
        #[cfg(feature = "arrow")]
        OutputFormat::Arrow,
    ] {
        let place = Place::new("out");
        let staging = place.folder.path().join("staging");
        let sink = FileSink::new(&place.target, format);
        let mut writer = sink.open(&same, Some(&Transactions { staging: &staging, recovered: None })).unwrap();
        writer.write(1, &encoded(format, &same, &[1, 2])).unwrap();
        let value = writer.pre_commit(1).unwrap();
        drop(writer);
        let transactions = Transactions { staging: &staging, recovered: Some((1, &value)) };
        drop(sink.open(&same, Some(&transactions)).unwrap());
        let refused = sink.open(&other, Some(&transactions)).err().expect("a refusal");
        assert!(refused.to_string().contains("its columns are others"), "{refused}");
        assert_eq!(numbers(format, &fs::read(&place.target).unwrap()), [1, 2]);
    }
}

#[test]
fn a_header_stands_once_in_a_file_and_once_in_each_part() {
    for (target, expect) in [("out", vec!["x\n1\n2\n4\n"]), ("out/", vec!["x\n1\n2\n", "x\n4\n"])] {
        let place = Place::new(target);
        let staging = place.folder.path().join("staging");
        let mut recovered: Option<(u64, Value)> = None;
        for (number, rows) in [(1, "1\n2\n"), (2, ""), (3, "4\n")] {
            let recovered_ref = recovered.as_ref().map(|(epoch, value)| (*epoch, value));
            let transactions = Transactions { staging: &staging, recovered: recovered_ref };
            let mut writer = open(&place.target, Format::Csv, Some(&transactions)).unwrap();
            recovered = Some((number, epoch(&mut *writer, number, rows)));
        }
        let found: Vec<String> = if target.ends_with('/') {
            let parts = testing::names(Path::new(&place.target));
            assert_eq!(parts, ["part-0000000001.csv", "part-0000000003.csv"]);
            parts.iter().map(|name| fs::read_to_string(format!("{}{name}", place.target)).unwrap()).collect()
        } else {
            vec![place.content()]
        };
        assert_eq!(found, expect);
        assert!(place.staged().is_empty());
    }
}

#[test]
fn a_sink_that_is_new_since_the_checkpoint_begins_anew() {
    for target in ["out", "out/"] {
        let place = Place::new(target);
        let mut writer = place.open(Some((4, &Value::Null))).unwrap();
        writer.commit(4).unwrap();
        epoch(&mut *writer, 5, "5\n");
        let path = if target == "out" { place.target } else { format!("{}part-0000000005.json", place.target) };
        assert_eq!(fs::read_to_string(path).unwrap(), "5\n");
    }
}

#[test]
fn an_epoch_that_is_not_durable_cannot_be_committed() {
    for target in ["out", "out/"] {
        let place = Place::new(target);
        let mut writer = place.open(None).unwrap();
        epoch(&mut *writer, 1, "1\n");
        writer.commit(1).unwrap();
        writer.write(2, b"2\n").unwrap();
        let error = writer.commit(2).unwrap_err();
        assert!(error.to_string().ends_with("cannot commit epoch 2: it has not been made durable"), "{error}");
    }
}

/// A target that is not as the checkpoint left it, and the words of the refusal.
#[test]
fn a_file_that_somebody_else_changed_is_refused_with_the_numbers() {
    type Change = fn(&str);
    let cases: [(Change, &str); 5] = [
        (|path| fs::write(path, "1\n").unwrap(), "is shorter than the sink left it: 2 bytes instead of 4 to 6"),
        (|path| fs::write(path, "1\n2\n3\n4\n").unwrap(), "is longer than the sink left it: 8 bytes instead of 4 to 6"),
        (
            |path| {
                fs::rename(path, format!("{path}.1")).unwrap();
                fs::write(path, "1\n2\n").unwrap();
            },
            "has been replaced by another file (inode ",
        ),
        (|path| fs::remove_file(path).unwrap(), "has been removed or renamed"),
        (|path| fs::write(path, "1\n2\n4\n").unwrap(), "lacks rows of epoch 2: behind byte 4 it has 2 bytes"),
    ];
    for (change, expect) in cases {
        // After the commit: nothing is staged any more.
        let place = Place::new("out");
        let mut writer = place.open(None).unwrap();
        epoch(&mut *writer, 1, "1\n2\n");
        let value = epoch(&mut *writer, 2, "3\n");
        change(&place.target);
        let reason = place.refusal(2, &value);
        assert!(reason.contains(expect), "{reason}");
        // While running: before the next epoch is made durable.
        if !expect.starts_with("lacks") {
            let error = writer.pre_commit(3).unwrap_err().to_string();
            assert!(error.contains(expect.split(':').next().unwrap()), "{error}");
        }
    }
    let place = Place::new("out");
    let mut writer = place.open(None).unwrap();
    epoch(&mut *writer, 1, "1\n");
    writer.write(2, b"2\n").unwrap();
    let value = writer.pre_commit(2).unwrap();
    fs::write(&place.target, "").unwrap();
    assert!(place.refusal(2, &value).contains("is shorter than the sink left it: 0 bytes instead of 2 to 4"));
    let other = Place { target: place.target.clone() + ".2", ..place };
    fs::write(&other.target, "").unwrap();
    let reason = other.refusal(2, &value);
    assert!(reason.contains("in the checkpoint the file is "), "{reason}");
}

#[test]
fn damaged_staged_rows_are_refused_and_never_shown() {
    type Change = fn(&Path);
    let changes: [Change; 4] = [
        |path| {
            let mut bytes = fs::read(path).unwrap();
            bytes[1] ^= 4;
            fs::write(path, bytes).unwrap();
        },
        |path| File::options().write(true).open(path).unwrap().set_len(3).unwrap(),
        |path| fs::write(path, "1\n2\n3\n").unwrap(),
        |path| fs::write(path, "").unwrap(),
    ];
    for (at, change) in changes.into_iter().enumerate() {
        for target in ["out", "out/"] {
            let place = Place::new(target);
            let mut writer = place.open(None).unwrap();
            writer.write(1, b"1\n2\n").unwrap();
            let value = writer.pre_commit(1).unwrap();
            let staged = match target {
                "out" => place.folder.path().join("staging/0000000001.staged"),
                _ => Path::new(&place.target).join(".part-0000000001.staged"),
            };
            change(&staged);
            let reason = place.refusal(1, &value);
            assert!(reason.contains("staged rows are damaged: "), "{at}: {reason}");
            assert!(target == "out/" || place.content().is_empty());
            if target == "out" {
                fs::remove_file(&staged).unwrap();
                assert!(place.refusal(1, &value).contains("and the staged rows are gone"));
            }
        }
    }
}

#[test]
fn parts_that_do_not_fit_the_checkpoint_are_refused_and_those_taken_away_are_not() {
    let place = Place::new("out/");
    let part = |epoch: u64| format!("{}part-{epoch:010}.json", place.target);
    let mut writer = place.open(None).unwrap();
    epoch(&mut *writer, 1, "1\n");
    let value = epoch(&mut *writer, 2, "2\n");
    fs::write(part(3), "3\n").unwrap();
    let reason = place.refusal(2, &value);
    assert!(reason.contains("is of epoch 3, beyond the checkpoint of epoch 2"), "{reason}");
    fs::remove_file(part(3)).unwrap();
    fs::write(part(2), "?\n").unwrap();
    assert!(place.refusal(2, &value).contains("are damaged"));
    fs::remove_file(part(2)).unwrap();
    fs::remove_file(part(1)).unwrap();
    let mut writer = place.open(Some((2, &value))).unwrap();
    writer.write(3, b"3\n").unwrap();
    let value = writer.pre_commit(3).unwrap();
    fs::write(part(3), "foreign").unwrap();
    assert!(writer.commit(3).unwrap_err().to_string().contains("somebody else has put part-0000000003.json there"));
    assert!(place.refusal(3, &value).contains("somebody else has put"));
    fs::remove_file(part(3)).unwrap();
    writer.commit(3).unwrap();
    assert_eq!(fs::read_to_string(part(3)).unwrap(), "3\n");
}

#[test]
fn a_checkpoint_of_another_sink_or_epoch_is_refused() {
    for target in ["out", "out/"] {
        let place = Place::new(target);
        let value = epoch(&mut *place.open(None).unwrap(), 1, "1\n");
        let reason = place.refusal(2, &value);
        assert!(reason.contains("the checkpoint of epoch 2 says that the sink staged epoch 1"), "{reason}");
        assert!(place.refusal(1, &json!({"kind": "kafka"})).contains("is not understood"));
        let (other, expect) =
            if target == "out" { ("other/", "the sink is a file") } else { ("other", "the sink is a folder of parts") };
        let reason = Place { target: format!("{}/{other}", place.folder.path().display()), ..place }.refusal(1, &value);
        assert!(reason.contains(expect), "{reason}");
    }
}

#[test]
fn what_is_no_regular_file_cannot_show_rows_exactly_once() {
    let place = Place { target: "/dev/null".to_owned(), ..Place::new("out") };
    let error = place.open(None).err().unwrap().to_string();
    assert!(error.contains("it is not a regular file"), "{error}");
    let sink = FileSink::new(place.target, Format::Json);
    assert_eq!(sink.promise(), Promise::ExactlyOnce);
    assert_eq!(sink.promise().to_string(), "exactly once");
}

#[test]
fn an_epoch_of_many_megabytes_is_appended_in_whole_lines() {
    let place = Place::new("out");
    let mut writer = place.open(None).unwrap();
    let rows: String = (0..1_500_000).map(|x| format!("{{\"x\":{x}}}\n")).collect();
    assert!(rows.len() > 3 * (4 << 20));
    for chunk in rows.as_bytes().chunks(100_001) {
        writer.write(1, chunk).unwrap();
    }
    writer.pre_commit(1).unwrap();
    // The third of its writes fails: what was appended before is cut off again.
    faults::order(3, 0, libc::ENOSPC);
    assert!(writer.commit(1).unwrap_err().is_out_of_space());
    assert!(place.content().is_empty());
    writer.commit(1).unwrap();
    assert!(place.content() == rows);
    assert!(place.staged().is_empty());
}

#[test]
fn staged_files_are_private_and_parts_are_not() {
    use std::os::unix::fs::PermissionsExt;
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let place = Place::new("out");
    place.open(None).unwrap().write(1, b"1\n").unwrap();
    assert_eq!(mode(&place.folder.path().join("staging/0000000001.staged")), 0o600);
    let place = Place::new("out/");
    epoch(&mut *place.open(None).unwrap(), 1, "1\n");
    assert_eq!(mode(&Path::new(&place.target).join("part-0000000001.json")) & 0o600, 0o600);
    // Nothing is written through a link that somebody put in the way.
    let elsewhere = place.folder.path().join("elsewhere");
    let mut writer = place.open(None).unwrap();
    std::os::unix::fs::symlink(&elsewhere, Path::new(&place.target).join(".part-0000000001.staged")).unwrap();
    writer.write(1, b"1\n").unwrap_err();
    assert!(!elsewhere.exists());
}
