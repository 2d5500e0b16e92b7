//! Parts that are rolled: how large and how old they get, and what a run makes of what another has left.

use std::{fs, path::Path, time::Duration};

use serde_json::Value;

use crate::{
    ConnectError, FileSink, OutputFormat, Rolling, Transactions, Writer, schema_of,
    testing::{
        self, fields,
        rows::{encoded, numbers},
    },
};

const HOUR: Duration = Duration::from_secs(3_600);
const LONG: Rolling = Rolling { bytes_max: None, interval: Some(HOUR) };
const CHECKPOINTS: Rolling = Rolling { bytes_max: None, interval: None };

/// Those whose files grow, and those whose files are made of rows that are kept.
const FORMATS: &[OutputFormat] = &[
    OutputFormat::Json,
    OutputFormat::Csv,
    #[cfg(feature = "arrow")]
    OutputFormat::Arrow,
    #[cfg(feature = "arrow")]
    OutputFormat::Parquet(crate::Compression::Zstd),
];

/// A folder of parts, its staging folder, and the newest checkpoint.
struct Place {
    folder: tempfile::TempDir,
    sink: FileSink,
    column: &'static str,
    checkpoint: Option<(u64, Value)>,
}

impl Place {
    fn new(format: OutputFormat, rolling: Rolling) -> Place {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("staging")).unwrap();
        let sink = FileSink { path: format!("{}/out/", folder.path().display()).into(), format, rolling };
        Place { folder, sink, column: "x:int64", checkpoint: None }
    }

    /// A run that goes on from the checkpoint.
    fn open(&self) -> Result<Box<dyn Writer>, ConnectError> {
        let staging = self.folder.path().join("staging");
        let recovered = self.checkpoint.as_ref().map(|(epoch, value)| (*epoch, value));
        self.sink
            .open(&schema_of(&fields(&[self.column])).unwrap(), Some(&Transactions { staging: &staging, recovered }))
    }

    fn refusal(&self) -> String {
        let error = self.open().err().expect("a refusal");
        assert!(!error.is_transient(), "{error}");
        error.to_string()
    }

    fn write(&self, writer: &mut dyn Writer, epoch: u64, rows: &[i64]) {
        let schema = schema_of(&fields(&[self.column])).unwrap();
        for row in rows {
            writer.write(epoch, &encoded(self.sink.format, &schema, &[*row])).unwrap();
        }
    }

    /// An epoch with these rows, committed.
    fn epoch(&mut self, writer: &mut dyn Writer, rows: &[i64]) {
        let epoch = self.checkpoint.as_ref().map_or(0, |(epoch, _)| *epoch) + 1;
        self.write(writer, epoch, rows);
        self.checkpoint = Some((epoch, writer.pre_commit(epoch).unwrap()));
        writer.commit(epoch).unwrap();
    }

    /// What everybody sees: names, and rows.
    fn shown(&self) -> Vec<(String, Vec<i64>)> {
        let names = testing::names(&self.sink.path).into_iter().filter(|name| !name.starts_with('.'));
        names.map(|name| (name.clone(), self.rows(&name))).collect()
    }

    fn rows(&self, name: &str) -> Vec<i64> {
        let bytes = fs::read(self.sink.path.join(name)).unwrap();
        match bytes.strip_prefix(b"a_longer_name\n") {
            Some(lines) => numbers(self.sink.format, &[b"x\n", lines].concat()),
            None => numbers(self.sink.format, &bytes),
        }
    }

    fn hidden(&self) -> Vec<String> {
        testing::names(&self.sink.path).into_iter().filter(|name| name.starts_with('.')).collect()
    }

    /// The one file in which rows wait.
    fn waiting(&self) -> std::path::PathBuf {
        let name = if matches!(self.sink.format, OutputFormat::Json | OutputFormat::Csv) { ".part-" } else { ".rows-" };
        self.sink.path.join(format!("{name}0000000001.staged"))
    }
}

fn part(name: &str, format: OutputFormat, rows: &[i64]) -> (String, Vec<i64>) {
    (format!("part-{name}.{format}"), rows.to_vec())
}

#[test]
fn an_epoch_has_several_files_none_of_them_much_larger_than_was_said() {
    for format in FORMATS {
        let mut place = Place::new(*format, Rolling { bytes_max: Some(1), interval: None });
        let mut writer = place.open().unwrap();
        place.epoch(&mut *writer, &[1, 2]);
        place.epoch(&mut *writer, &[]);
        place.epoch(&mut *writer, &[3]);
        let expect = [("0000000001-000001", [1]), ("0000000001-000002", [2]), ("0000000003-000001", [3])];
        assert_eq!(place.shown(), expect.map(|(name, rows)| part(name, *format, &rows)));
        assert!(place.hidden().is_empty());
    }
    let mut place = Place::new(OutputFormat::Csv, Rolling { bytes_max: Some(8), interval: None });
    let mut writer = place.open().unwrap();
    place.epoch(&mut *writer, &[1, 2, 3, 4, 5]);
    let text = |name| fs::read_to_string(place.sink.path.join(name)).unwrap();
    assert_eq!(text("part-0000000001-000001.csv"), "x\n1\n2\n3\n");
    assert_eq!(text("part-0000000001-000002.csv"), "x\n4\n5\n", "each has the header");
}

#[test]
fn a_file_goes_on_over_epochs_until_the_input_ends() {
    for format in FORMATS {
        let mut place = Place::new(*format, LONG);
        let mut writer = place.open().unwrap();
        place.epoch(&mut *writer, &[1, 2]);
        place.epoch(&mut *writer, &[]);
        place.epoch(&mut *writer, &[3]);
        assert!(place.shown().is_empty());
        writer.input_ends();
        place.epoch(&mut *writer, &[4]);
        assert_eq!(place.shown(), [part("0000000004", *format, &[1, 2, 3, 4])]);
        assert!(place.hidden().is_empty());
    }
}

#[test]
fn a_file_that_is_large_enough_is_shown_with_the_epoch_in_which_it_got_so() {
    let mut place = Place::new(OutputFormat::Json, Rolling { bytes_max: Some(16), interval: Some(HOUR) });
    let mut writer = place.open().unwrap();
    place.epoch(&mut *writer, &[1]);
    assert!(place.shown().is_empty());
    place.epoch(&mut *writer, &[2, 3]);
    assert_eq!(place.shown(), [part("0000000002-000001", OutputFormat::Json, &[1, 2])]);
    place.epoch(&mut *writer, &[4]);
    assert_eq!(place.shown()[1..], [part("0000000003-000001", OutputFormat::Json, &[3, 4])]);
}

#[test]
fn a_file_that_is_old_enough_is_shown_and_the_runs_before_count() {
    for format in FORMATS {
        let mut place = Place::new(*format, LONG);
        place.epoch(&mut *place.open().unwrap(), &[1]);
        // As if that run had taken an hour.
        let (_, value) = place.checkpoint.as_mut().unwrap();
        assert!(value["open"]["age_ms"].as_u64().unwrap() < 3_600_000);
        value["open"]["age_ms"] = 3_600_000.into();
        place.epoch(&mut *place.open().unwrap(), &[]);
        assert_eq!(place.shown(), [part("0000000002", *format, &[1])]);
    }
    let mut place = Place::new(OutputFormat::Json, Rolling { bytes_max: None, interval: Some(Duration::ZERO) });
    place.epoch(&mut *place.open().unwrap(), &[1]);
    assert_eq!(place.shown(), [part("0000000001", OutputFormat::Json, &[1])], "this one's age is no less than 0");
}

#[test]
fn the_next_run_goes_on_with_the_file_and_rows_of_no_epoch_are_not_in_it() {
    for format in FORMATS {
        let mut place = Place::new(*format, LONG);
        let mut writer = place.open().unwrap();
        place.epoch(&mut *writer, &[1, 2]);
        place.write(&mut *writer, 2, &[7]);
        place.write(&mut *writer, 3, &[8]);
        let mut writer = place.open().unwrap();
        // Those of the next epoch come early, and stay behind.
        place.write(&mut *writer, 3, &[4, 5]);
        place.epoch(&mut *writer, &[3]);
        writer.finish().unwrap();
        assert!(place.shown().is_empty());
        let mut writer = place.open().unwrap();
        writer.input_ends();
        place.epoch(&mut *writer, &[6]);
        assert_eq!(place.shown(), [part("0000000003", *format, &[1, 2, 3, 6])]);
        assert!(place.hidden().is_empty());
    }
}

#[cfg(feature = "arrow")]
#[test]
fn rows_do_not_wait_until_the_file_of_an_earlier_run_is_made_again() {
    for format in &FORMATS[2..] {
        let mut place = Place::new(*format, LONG);
        let rows: Vec<i64> = (0..=1_500).collect();
        let hidden = place.sink.path.join(".part-0000000001.staged");
        let made = || fs::metadata(&hidden).map_or(0, |file| file.len());
        place.epoch(&mut *place.open().unwrap(), &rows[..1_000]);
        let all = made();
        let mut writer = place.open().unwrap();
        place.epoch(&mut *writer, &rows[1_000..1_001]);
        assert!(made() < all / 10, "{} of {all} bytes are made for one row", made());
        place.epoch(&mut *writer, &rows[1_001..1_500]);
        assert!(made() > all, "{} of {all} bytes: those that come never catch up", made());
        // This one ends with its file in the middle.
        place.epoch(&mut *place.open().unwrap(), &rows[1_500..]);
        let mut writer = place.open().unwrap();
        writer.input_ends();
        place.epoch(&mut *writer, &[]);
        assert_eq!(place.shown(), [part("0000000005", *format, &rows)]);
        assert!(place.hidden().is_empty());
    }
}

#[test]
fn rows_that_come_early_follow_in_the_same_file() {
    for format in FORMATS {
        let mut place = Place::new(*format, LONG);
        let mut writer = place.open().unwrap();
        place.write(&mut *writer, 2, &[2, 3]);
        place.epoch(&mut *writer, &[1]);
        writer.input_ends();
        place.epoch(&mut *writer, &[4]);
        assert_eq!(place.shown(), [part("0000000002", *format, &[1, 2, 3, 4])]);
        assert!(testing::names(&place.folder.path().join("staging")).is_empty());
    }
}

#[test]
fn where_rolling_was_turned_off_the_next_checkpoint_shows_what_waited() {
    for format in FORMATS {
        let mut place = Place::new(*format, LONG);
        place.epoch(&mut *place.open().unwrap(), &[1]);
        place.sink.rolling = CHECKPOINTS;
        let mut writer = place.open().unwrap();
        place.epoch(&mut *writer, &[2]);
        place.epoch(&mut *writer, &[3]);
        assert_eq!(place.shown(), [part("0000000002", *format, &[1, 2]), part("0000000003", *format, &[3])]);
        assert!(place.hidden().is_empty());
    }
}

#[test]
fn rows_of_other_columns_begin_another_file_and_those_that_waited_keep_theirs() {
    // An object of JSON says by itself what it has.
    for format in &FORMATS[1..] {
        let mut place = Place::new(*format, LONG);
        place.epoch(&mut *place.open().unwrap(), &[1, 2]);
        place.column = "a_longer_name:int64";
        let mut writer = place.open().unwrap();
        place.epoch(&mut *writer, &[3]);
        assert_eq!(place.shown(), [part("0000000002", *format, &[1, 2])]);
        writer.input_ends();
        place.epoch(&mut *writer, &[]);
        assert_eq!(place.shown()[1..], [part("0000000003", *format, &[3])]);
    }
}

#[test]
fn waiting_rows_that_are_damaged_or_gone_are_refused_and_what_no_checkpoint_knows_is_not_shown() {
    type Change = fn(&Path);
    let changes: [(Change, &str); 4] = [
        (|path| fs::write(path, "junk").unwrap(), "staged rows are damaged: 4 bytes"),
        (
            |path| {
                let mut bytes = fs::read(path).unwrap();
                bytes[1] ^= 4;
                fs::write(path, bytes).unwrap();
            },
            "staged rows are damaged: ",
        ),
        (|path| fs::File::options().write(true).open(path).unwrap().set_len(3).unwrap(), "are damaged: 3 bytes"),
        (|path| fs::remove_file(path).unwrap(), "with rows that no file has yet is gone; put it back"),
    ];
    for format in FORMATS {
        for (change, expect) in changes {
            let mut place = Place::new(*format, LONG);
            place.epoch(&mut *place.open().unwrap(), &[1, 2]);
            change(&place.waiting());
            let reason = place.refusal();
            assert!(reason.contains(expect), "{reason}");
            assert!(place.shown().is_empty());
        }
        let mut place = Place::new(*format, LONG);
        place.epoch(&mut *place.open().unwrap(), &[1, 2]);
        let mut bytes = fs::read(place.waiting()).unwrap();
        bytes.extend(b"the rest of an epoch that was never committed");
        fs::write(place.waiting(), bytes).unwrap();
        for name in [".part-0000000009.staged", ".rows-0000000009.staged", "notes.txt"] {
            fs::write(place.sink.path.join(name), "foreign").unwrap();
        }
        let mut writer = place.open().unwrap();
        fs::remove_file(place.sink.path.join("notes.txt")).expect("it is somebody else's");
        writer.input_ends();
        place.epoch(&mut *writer, &[3]);
        assert_eq!(place.shown(), [part("0000000002", *format, &[1, 2, 3])]);
        assert!(place.hidden().is_empty());
    }
}

#[test]
fn a_folder_that_was_moved_without_its_hidden_files_is_refused_with_the_place_that_they_were_in() {
    let mut place = Place::new(OutputFormat::Json, LONG);
    place.epoch(&mut *place.open().unwrap(), &[1]);
    let before = place.sink.path.display().to_string();
    place.sink.path = format!("{}/elsewhere/", place.folder.path().display()).into();
    let reason = place.refusal();
    assert!(reason.contains(&format!("is gone; in the checkpoint the folder is {before}")), "{reason}");
}

#[test]
fn without_checkpoints_a_full_file_is_shown_when_the_next_one_is_begun() {
    for format in FORMATS {
        let place = Place::new(*format, Rolling { bytes_max: Some(1), interval: None });
        let mut writer = place.sink.open(&schema_of(&fields(&["x:int64"])).unwrap(), None).unwrap();
        place.write(&mut *writer, 1, &[1, 2, 3]);
        assert_eq!(place.shown(), [part("0000000001-000001", *format, &[1])]);
        writer.finish().unwrap();
        let names = ["0000000001-000001", "0000000001-000002", "0000000001-000003"];
        assert_eq!(place.shown(), [0, 1, 2].map(|at| part(names[at], *format, &[at as i64 + 1])));
        assert!(place.hidden().is_empty());
    }
}

/// What a folder with many epochs behind it keeps of them does not grow.
#[test]
fn a_checkpoint_says_as_much_of_a_file_of_many_epochs_as_of_one() {
    for format in FORMATS {
        let mut place = Place::new(*format, LONG);
        let mut writer = place.open().unwrap();
        for epoch in 0..100 {
            place.epoch(&mut *writer, &[epoch]);
        }
        let (_, value) = place.checkpoint.as_ref().unwrap();
        assert!(value.to_string().len() < 300, "{value}");
        assert!(place.hidden().len() <= 2, "{:?}", place.hidden());
    }
}
