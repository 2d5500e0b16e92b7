//! A process is killed at every hit of every place in the sinks' protocol: the target then shows whole committed epochs,
//! and the next process completes it.
//!
//! The test starts itself again as the process to be killed. That one plays coordinator: after `pre_commit` it writes a
//! manifest and renames it into place (the commit point), then it commits; when it starts it continues behind the
//! manifest.

#[cfg(feature = "http")]
#[path = "../src/testing/http_sink.rs"]
mod testing_http_sink;
#[path = "../src/testing/rows.rs"]
mod testing_rows;
#[cfg(feature = "http")]
#[path = "../src/testing/server.rs"]
mod testing_server;

use std::{
    collections::BTreeMap,
    fs,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

#[cfg(feature = "arrow")]
use ringmill_connect::Compression;
use ringmill_connect::{
    FieldSpec, FileSink, OutputFormat, Rolling, SqliteSink, Transactions, Writer, encoder, schema_of,
};
#[cfg(feature = "http")]
use ringmill_connect::{Format, HttpBody, HttpMethod, HttpSink, LetterStore, OnRefused, Secret};
use ringmill_wire::{DataType, Schema};
use serde_json::Value;
use testing_rows::{encoded, numbers};

/// Epochs of a run; the second has no rows.
const EPOCHS: u64 = 4;
const CHILD: &str = "RINGMILL_TEST_KILL_POINTS";
/// The address of the server, which this process is.
#[cfg(feature = "http")]
const SERVER: &str = "RINGMILL_TEST_SERVER";

#[cfg(feature = "http")]
fn server() -> Option<(&'static str, String)> {
    Some((SERVER, testing_server::keeper().to_string()))
}

#[cfg(not(feature = "http"))]
fn server() -> Option<(&'static str, String)> {
    None
}

/// Rows of one epoch.
fn rows(epoch: u64) -> std::ops::Range<u64> {
    let count = if epoch == 2 { 0 } else { 3 };
    epoch * 10..epoch * 10 + count
}

fn schema() -> Arc<Schema> {
    let field = FieldSpec { name: "x".to_owned(), data_type: DataType::Int64, nullable: false, path: None };
    schema_of(&[field]).unwrap()
}

/// Several parts in an epoch.
const SMALL: Rolling = Rolling { bytes_max: Some(9), interval: None };
/// Several epochs in a part.
const LARGE: Rolling = Rolling { bytes_max: Some(14), interval: Some(Duration::MAX) };

#[derive(Debug, Clone, Copy)]
enum Target {
    File(OutputFormat),
    Parts(OutputFormat),
    Rolled(OutputFormat, Rolling),
    #[cfg_attr(not(feature = "sqlite"), expect(dead_code, reason = "there is none without the feature"))]
    Sqlite,
    #[cfg(feature = "http")]
    Http,
    /// Some rows are refused, and dead letters.
    #[cfg(feature = "http")]
    HttpLetters,
}

impl Target {
    const ALL: &'static [(&'static str, Target)] = &[
        ("file", Target::File(OutputFormat::Csv)),
        ("parts", Target::Parts(OutputFormat::Json)),
        ("parts-csv", Target::Parts(OutputFormat::Csv)),
        ("parts-small", Target::Rolled(OutputFormat::Csv, SMALL)),
        ("parts-large", Target::Rolled(OutputFormat::Csv, LARGE)),
        #[cfg(feature = "arrow")]
        ("parts-small-parquet", Target::Rolled(OutputFormat::Parquet(Compression::Zstd), SMALL)),
        #[cfg(feature = "arrow")]
        ("parts-large-parquet", Target::Rolled(OutputFormat::Parquet(Compression::Zstd), LARGE)),
        #[cfg(feature = "arrow")]
        ("parts-large-arrow", Target::Rolled(OutputFormat::Arrow, LARGE)),
        #[cfg(feature = "arrow")]
        ("parts-arrow", Target::Parts(OutputFormat::Arrow)),
        #[cfg(feature = "arrow")]
        ("parts-parquet", Target::Parts(OutputFormat::Parquet(Compression::Zstd))),
        #[cfg(feature = "sqlite")]
        ("sqlite", Target::Sqlite),
        #[cfg(feature = "http")]
        ("http", Target::Http),
        #[cfg(feature = "http")]
        ("http-letters", Target::HttpLetters),
    ];

    fn format(self) -> OutputFormat {
        match self {
            Target::File(format) | Target::Parts(format) | Target::Rolled(format, _) => format,
            Target::Sqlite => OutputFormat::Json,
            #[cfg(feature = "http")]
            Target::Http | Target::HttpLetters => OutputFormat::Json,
        }
    }

    /// Of an epoch that is being committed, or of all that were.
    fn may_show_the_beginning(self) -> bool {
        match self {
            Target::File(_) | Target::Rolled(..) => true,
            #[cfg(feature = "http")]
            Target::Http | Target::HttpLetters => true,
            _ => false,
        }
    }

    fn path(self, folder: &Path) -> PathBuf {
        let name = match self {
            Target::File(_) => "out",
            Target::Parts(_) | Target::Rolled(..) => "out/",
            Target::Sqlite => "out.db",
            #[cfg(feature = "http")]
            Target::Http | Target::HttpLetters => "out",
        };
        format!("{}/{name}", folder.display()).into()
    }

    fn open(self, folder: &Path, recovered: Option<(u64, &Value)>) -> Box<dyn Writer> {
        let staging = folder.join("staging");
        fs::create_dir_all(&staging).unwrap();
        let schema = schema();
        let transactions = Transactions { staging: &staging, recovered };
        let path = self.path(folder);
        match self {
            Target::Sqlite => SqliteSink { path, table: "out".to_owned() }.open(&schema, Some(&transactions)),
            #[cfg(feature = "http")]
            Target::Http => {
                let server = std::env::var(SERVER).unwrap();
                testing_http_sink::sink_to_keeper(&server, folder).open(&schema, Some(&transactions), None)
            }
            #[cfg(feature = "http")]
            Target::HttpLetters => {
                fs::create_dir_all(folder.join(LETTERS)).unwrap();
                fs::write(folder.join("refuses"), "1}").unwrap();
                let server = std::env::var(SERVER).unwrap();
                let mut sink = testing_http_sink::sink_to_keeper(&server, folder);
                sink.on_refused = OnRefused::DeadLetter;
                let store =
                    LetterStore { folder: folder.join(LETTERS), origin: "out".to_owned(), count: Default::default() };
                sink.open(&schema, Some(&transactions), Some(store))
            }
            Target::Rolled(format, rolling) => FileSink { path, format, rolling }.open(&schema, Some(&transactions)),
            _ => FileSink::new(path, self.format()).open(&schema, Some(&transactions)),
        }
        .unwrap()
    }

    /// The rows that a reader sees, and whether an append was interrupted.
    fn seen(self, folder: &Path) -> (Vec<u64>, bool) {
        let seen = |bytes: &[u8]| -> Vec<u64> {
            numbers(self.format(), bytes).into_iter().map(|number| number as u64).collect()
        };
        match self {
            Target::File(_) => {
                let text = fs::read_to_string(self.path(folder)).unwrap_or_default();
                if text.is_empty() { (Vec::new(), false) } else { (seen(text.as_bytes()), !text.ends_with('\n')) }
            }
            Target::Parts(_) | Target::Rolled(..) => {
                let Ok(entries) = fs::read_dir(self.path(folder)) else { return (Vec::new(), false) };
                let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
                paths.retain(|path| !path.file_name().unwrap().to_str().unwrap().starts_with('.'));
                paths.sort();
                (paths.iter().flat_map(|path| seen(&fs::read(path).unwrap())).collect(), false)
            }
            #[cfg(feature = "http")]
            Target::HttpLetters => {
                let mut all = seen(&fs::read(self.path(folder)).unwrap_or_default());
                assert!(all.iter().all(|number| number % 10 != 1), "{all:?}");
                let letters = letters(folder);
                assert!(letters.iter().all(|number| number % 10 == 1), "{letters:?}");
                all.extend(letters);
                all.sort_unstable();
                (all, false)
            }
            #[cfg(feature = "http")]
            Target::Http => (seen(&fs::read(self.path(folder)).unwrap_or_default()), false),
            Target::Sqlite => {
                let connection = rusqlite::Connection::open(self.path(folder)).unwrap();
                let Ok(mut select) = connection.prepare("SELECT x FROM out ORDER BY rowid") else {
                    return (Vec::new(), false);
                };
                (select.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect(), false)
            }
        }
    }
}

/// The store of dead letters.
#[cfg(feature = "http")]
const LETTERS: &str = "letters";

/// The rows of the stored letters.
#[cfg(feature = "http")]
fn letters(folder: &Path) -> Vec<u64> {
    let Ok(parts) = fs::read_dir(folder.join(LETTERS)) else { return Vec::new() };
    let lines = parts.map(|part| fs::read_to_string(part.unwrap().path()).unwrap());
    let number = |line: &str| {
        let letter: Value = serde_json::from_str(line).unwrap();
        assert_eq!(letter["reason"], "it answers 422 Unprocessable Entity: none of those");
        let row: Value = serde_json::from_str(letter["record"].as_str().unwrap()).unwrap();
        row["x"].as_u64().unwrap()
    };
    lines.flat_map(|lines| lines.lines().map(number).collect::<Vec<_>>()).collect()
}

fn manifest(folder: &Path) -> Option<(u64, Value)> {
    let text = fs::read_to_string(folder.join("manifest")).ok()?;
    let (epoch, value) = text.split_once(' ').unwrap();
    Some((epoch.parse().unwrap(), serde_json::from_str(value).unwrap()))
}

/// What the process does that is killed.
fn play(target: Target, folder: &Path) {
    let recovered = manifest(folder);
    let mut writer = target.open(folder, recovered.as_ref().map(|(epoch, value)| (*epoch, value)));
    for epoch in recovered.map_or(0, |(epoch, _)| epoch) + 1..=EPOCHS {
        let write = |writer: &mut dyn Writer, epoch: u64, skip: usize, take: usize| {
            for x in rows(epoch).skip(skip).take(take) {
                writer.write(epoch, &encoded(target.format(), &schema(), &[x as i64])).unwrap();
            }
        };
        write(&mut *writer, epoch, usize::from(folder.join("ahead").exists()), usize::MAX);
        let _ = fs::remove_file(folder.join("ahead"));
        if epoch == EPOCHS {
            writer.input_ends();
        }
        // The first row of the next epoch comes early; it is lost with this process if that dies.
        let (is_early, is_very_early) = (epoch < EPOCHS, epoch % 2 == 1);
        if is_early && is_very_early {
            write(&mut *writer, epoch + 1, 0, 1);
        }
        let value = writer.pre_commit(epoch).unwrap();
        if is_early && !is_very_early {
            write(&mut *writer, epoch + 1, 0, 1);
        }
        fs::write(folder.join("manifest.partial"), format!("{epoch} {value}")).unwrap();
        fs::rename(folder.join("manifest.partial"), folder.join("manifest")).unwrap();
        writer.commit(epoch).unwrap();
        fs::write(folder.join("ahead"), "").unwrap();
    }
    let _ = fs::remove_file(folder.join("ahead"));
    writer.finish().unwrap();
}

/// Runs `play` in a process of its own; whether it was killed.
fn run(name: &str, folder: &Path, failpoint: &str) -> bool {
    let _ = fs::remove_file(folder.join("ahead"));
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "the_process_that_is_killed", "--nocapture"])
        .env(CHILD, format!("{name} {} {failpoint}", folder.display()))
        .envs(server())
        .output()
        .unwrap();
    let is_killed = output.status.signal() == Some(9);
    assert!(is_killed || output.status.success(), "{failpoint}: {}", String::from_utf8_lossy(&output.stderr));
    is_killed
}

#[test]
fn the_process_that_is_killed() {
    let Ok(task) = std::env::var(CHILD) else { return };
    let mut words = task.splitn(3, ' ');
    let (name, folder, failpoint) = (words.next().unwrap(), words.next().unwrap(), words.next().unwrap());
    let target = target_of(name);
    ringmill_failpoint::configure(failpoint).unwrap();
    play(target, Path::new(folder));
}

/// After a kill: the epochs before the manifest's are there, its own all or not at all (of a file its beginning), and
/// nothing else.
fn check_killed(target: Target, folder: &Path, place: &str) {
    let (seen, is_torn) = target.seen(folder);
    let epoch = manifest(folder).map_or(0, |(epoch, _)| epoch);
    let before: Vec<u64> = (1..epoch).flat_map(rows).collect();
    let all: Vec<u64> = (1..=epoch).flat_map(rows).collect();
    let least = if matches!(target, Target::Rolled(..)) { &[][..] } else { &before[..] };
    let is_prefix = match target {
        // Letters are shown behind the rows that were taken.
        #[cfg(feature = "http")]
        Target::HttpLetters => {
            seen.is_sorted_by(|one, other| one < other)
                && seen.starts_with(least)
                && seen.iter().all(|row| all.contains(row))
        }
        _ => target.may_show_the_beginning() && seen.starts_with(least) && all.starts_with(&seen),
    };
    assert!(!is_torn && (seen == before || seen == all || is_prefix), "{place}: {seen:?} at epoch {epoch}");
}

fn target_of(name: &str) -> Target {
    Target::ALL.iter().find(|(other, _)| *other == name).expect("a target").1
}

/// Kills at every hit of every place that an undisturbed run comes by, and then again while the next one recovers.
fn kill_everywhere(name: &str) {
    let target = target_of(name);
    let expect: Vec<u64> = (1..=EPOCHS).flat_map(rows).collect();
    let base = tempfile::tempdir().unwrap();
    let folder = |what: &str| {
        let folder = base.path().join(what);
        fs::create_dir_all(&folder).unwrap();
        folder
    };
    let record = base.path().join("record");
    assert!(!run(name, &folder("undisturbed"), &format!("record:{}", record.display())));
    assert_eq!(target.seen(&folder("undisturbed")).0, expect);
    let mut places: BTreeMap<String, u64> = BTreeMap::new();
    for hit in fs::read_to_string(&record).unwrap().lines() {
        *places.entry(hit.split_once(' ').unwrap().0.to_owned()).or_default() += 1;
    }
    assert!(places.len() >= 8, "{places:?}");
    for (place, hits) in &places {
        let is_own = place.starts_with(&format!("sink.{}.", name.split('-').next().unwrap()));
        assert!(is_own || place.starts_with("sink.letters."), "{place}");
        for hit in 1..=*hits {
            let failpoint = format!("kill:{place}:{hit}");
            let folder = folder(&format!("{place}-{hit}"));
            assert!(run(name, &folder, &failpoint), "{failpoint} was not reached");
            check_killed(target, &folder, &failpoint);
            // Killed again at the same place while it recovers, as long as recovery comes by.
            for _ in 0..3 {
                if !run(name, &folder, &format!("kill:{place}:1")) {
                    break;
                }
                check_killed(target, &folder, &failpoint);
            }
            run(name, &folder, "kill:none:1");
            assert_eq!(target.seen(&folder).0, expect, "{failpoint}");
            let left = fs::read_dir(folder.join("staging")).unwrap().map(|entry| entry.unwrap().file_name());
            let mut left: Vec<_> = left.filter(|name| name != "sent").collect();
            if target.path(&folder).is_dir() {
                let hidden = fs::read_dir(target.path(&folder)).unwrap().map(|entry| entry.unwrap().file_name());
                left.extend(hidden.filter(|name| name.as_encoded_bytes().starts_with(b".")));
            }
            assert!(left.is_empty(), "{failpoint}: {left:?}");
            fs::remove_dir_all(folder).unwrap();
        }
    }
    println!("{name}: killed at {} hits of {} places: {places:?}", places.values().sum::<u64>(), places.len());
}

#[test]
fn killed_at_every_place_a_file_gets_each_epoch_once() {
    kill_everywhere("file");
}

#[test]
fn killed_at_every_place_a_folder_gets_each_part_once() {
    kill_everywhere("parts");
    kill_everywhere("parts-csv");
}

#[test]
fn killed_at_every_place_a_folder_gets_each_row_once_however_its_files_are_rolled() {
    kill_everywhere("parts-small");
    kill_everywhere("parts-large");
}

#[cfg(feature = "arrow")]
#[test]
fn killed_at_every_place_a_folder_gets_each_file_of_columns_once() {
    kill_everywhere("parts-arrow");
    kill_everywhere("parts-parquet");
}

#[cfg(feature = "arrow")]
#[test]
fn killed_at_every_place_a_folder_gets_each_row_once_however_its_files_of_columns_are_rolled() {
    kill_everywhere("parts-small-parquet");
    kill_everywhere("parts-large-parquet");
    kill_everywhere("parts-large-arrow");
}

#[cfg(feature = "sqlite")]
#[test]
fn killed_at_every_place_a_table_gets_each_row_once() {
    kill_everywhere("sqlite");
}

#[cfg(feature = "http")]
#[test]
fn killed_at_every_place_a_server_that_knows_keys_has_each_row_once() {
    kill_everywhere("http");
}

#[cfg(feature = "http")]
#[test]
fn killed_at_every_place_each_row_is_taken_or_a_dead_letter_once() {
    kill_everywhere("http-letters");
}

/// The canary: a process that forgets what the manifest says of the sink does lose rows, and the checks see it.
#[test]
fn a_recovery_that_forgets_the_staged_rows_is_found_out() {
    let place = [
        ("file", "sink.file.append"),
        ("parts", "sink.parts.rename"),
        ("parts-large", "sink.parts.rename"),
        #[cfg(feature = "sqlite")]
        ("sqlite", "sink.sqlite.begin"),
        #[cfg(feature = "http")]
        ("http", "sink.http.send"),
    ];
    for (name, place) in place {
        let folder = tempfile::tempdir().unwrap();
        assert!(run(name, folder.path(), &format!("kill:{place}:2")));
        let (epoch, _) = manifest(folder.path()).unwrap();
        fs::write(folder.path().join("manifest"), format!("{epoch} null")).unwrap();
        run(name, folder.path(), "kill:none:1");
        let expect: Vec<u64> = (1..=EPOCHS).flat_map(rows).collect();
        assert_ne!(target_of(name).seen(folder.path()).0, expect);
    }
}
