//! Every exactly-once sink against a model, under random orders of writes, commits, crashes and disk faults.

use std::{cell::Cell, fs, path::PathBuf, sync::Arc, time::Duration};

use proptest::prelude::*;
use ringmill_wire::Schema;
use serde_json::Value;

use crate::{
    ConnectError, FileSink, OutputFormat, Rolling, Transactions, Writer,
    disk::faults,
    encoder, schema_of,
    testing::{
        self, fields,
        rows::{encoded, numbers},
    },
};

#[derive(Debug, Clone, Copy)]
enum Target {
    File(OutputFormat),
    Parts(OutputFormat),
    Rolled(OutputFormat, Rolling),
    #[cfg(feature = "sqlite")]
    Sqlite,
    #[cfg(feature = "http")]
    Http,
}

/// Several parts in an epoch.
const SMALL: Rolling = Rolling { bytes_max: Some(9), interval: None };
/// Several epochs in a part, until the input ends.
const LONG: Rolling = Rolling { bytes_max: None, interval: Some(Duration::MAX) };
/// Until the part is large enough.
const LARGE: Rolling = Rolling { bytes_max: Some(20), interval: Some(Duration::MAX) };

const TARGETS: &[Target] = &[
    Target::File(OutputFormat::Json),
    Target::File(OutputFormat::Csv),
    Target::Parts(OutputFormat::Json),
    Target::Parts(OutputFormat::Csv),
    Target::Rolled(OutputFormat::Json, SMALL),
    Target::Rolled(OutputFormat::Csv, LONG),
    Target::Rolled(OutputFormat::Json, LARGE),
    #[cfg(feature = "arrow")]
    Target::File(OutputFormat::Arrow),
    #[cfg(feature = "arrow")]
    Target::Parts(OutputFormat::Arrow),
    #[cfg(feature = "arrow")]
    Target::Parts(OutputFormat::Parquet(crate::Compression::Snappy)),
    #[cfg(feature = "arrow")]
    Target::Rolled(OutputFormat::Parquet(crate::Compression::Snappy), SMALL),
    #[cfg(feature = "arrow")]
    Target::Rolled(OutputFormat::Parquet(crate::Compression::Snappy), LONG),
    #[cfg(feature = "arrow")]
    Target::Rolled(OutputFormat::Arrow, LARGE),
    #[cfg(feature = "sqlite")]
    Target::Sqlite,
    #[cfg(feature = "http")]
    Target::Http,
];

#[derive(Debug, Clone, Copy)]
enum Step {
    /// so many rows of the epoch that is open
    Write(usize),
    /// … of the one after it
    WriteAhead(usize),
    /// one step further: pre-commit, manifest, commit
    Advance,
    /// nothing follows the epoch that is open
    InputEnds,
    /// the process dies
    Crash,
    /// the n-th change of the disk from now on fails, and some after it
    Fault(u64, u64, i32),
}

fn step() -> impl Strategy<Value = Step> {
    let codes = prop::sample::select(vec![libc::ENOSPC, libc::EIO, libc::EDQUOT]);
    prop_oneof![
        4 => (0_usize..4).prop_map(Step::Write),
        1 => (0_usize..4).prop_map(Step::WriteAhead),
        6 => Just(Step::Advance),
        1 => Just(Step::Crash),
        2 => (1_u64..8, 0_u64..4, codes).prop_map(|(n, repeats, code)| Step::Fault(n, repeats, code)),
    ]
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Phase {
    Open,
    Staged,
    InManifest,
}

/// Rows that were written, and as which bytes.
#[derive(Default)]
struct Rows {
    numbers: Vec<i64>,
    bytes: Vec<u8>,
}

impl Rows {
    fn extend(&mut self, more: Rows) {
        self.numbers.extend(more.numbers);
        self.bytes.extend(more.bytes);
    }

    fn lengths(&self) -> (usize, usize) {
        (self.numbers.len(), self.bytes.len())
    }
}

/// A sink, its world and what must be seen of it.
struct Model {
    target: Target,
    folder: tempfile::TempDir,
    schema: Arc<Schema>,
    writer: Option<Box<dyn Writer>>,
    /// the newest checkpoint
    manifest: Option<(u64, Value)>,
    /// the epoch that ends next
    epoch: u64,
    phase: Phase,
    staged: Value,
    /// rows of the open epoch and the next
    open: Rows,
    ahead: Rows,
    /// rows of all checkpoints, and how many of them (and of their bytes) must be shown
    rows: Rows,
    shown: (usize, usize),
    /// how many rows have been seen, of files that go on
    seen_before: Cell<usize>,
    next: i64,
}

fn is_failing_device(error: &ConnectError) -> bool {
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<std::io::Error>());
    let is_sqlite = matches!(error, ConnectError::Database { reason, .. } if reason.starts_with("disk I/O error"));
    is_sqlite || source.is_some_and(|source| source.raw_os_error() == Some(libc::EIO))
}

impl Model {
    fn new(target: Target) -> Model {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("staging")).unwrap();
        let mut model = Model {
            target,
            folder,
            schema: schema_of(&fields(&["x:int64"])).unwrap(),
            writer: None,
            manifest: None,
            epoch: 1,
            phase: Phase::Open,
            staged: Value::Null,
            open: Rows::default(),
            ahead: Rows::default(),
            rows: Rows::default(),
            shown: (0, 0),
            seen_before: Cell::new(0),
            next: 0,
        };
        model.reopen();
        model
    }

    fn path(&self) -> PathBuf {
        let name = match self.target {
            Target::File(_) => "out",
            Target::Parts(_) | Target::Rolled(..) => "out/",
            #[cfg(feature = "sqlite")]
            Target::Sqlite => "out.db",
            #[cfg(feature = "http")]
            Target::Http => "out",
        };
        format!("{}/{name}", self.folder.path().display()).into()
    }

    fn open(&self) -> Result<Box<dyn Writer>, ConnectError> {
        let staging = self.folder.path().join("staging");
        let recovered = self.manifest.as_ref().map(|(epoch, value)| (*epoch, value));
        let transactions = Transactions { staging: &staging, recovered };
        match self.target {
            Target::File(format) | Target::Parts(format) => {
                FileSink::new(self.path(), format).open(&self.schema, Some(&transactions))
            }
            Target::Rolled(format, rolling) => {
                FileSink { path: self.path(), format, rolling }.open(&self.schema, Some(&transactions))
            }
            #[cfg(feature = "sqlite")]
            Target::Sqlite => {
                let sink = crate::SqliteSink { path: self.path(), table: "out".to_owned() };
                sink.open(&self.schema, Some(&transactions))
            }
            #[cfg(feature = "http")]
            Target::Http => {
                let sink =
                    testing::http_sink::sink_to_keeper(&testing::server::keeper().to_string(), self.folder.path());
                sink.open(&self.schema, Some(&transactions), None)
            }
        }
    }

    /// The process died and starts again: whatever fails is tried again, like a supervisor does.
    fn reopen(&mut self) {
        self.writer = None;
        let writer = loop {
            match self.open() {
                Ok(writer) => break writer,
                Err(error) => assert!(error.is_transient() || is_failing_device(&error), "{error}"),
            }
        };
        self.writer = Some(writer);
        self.epoch = self.manifest.as_ref().map_or(0, |(epoch, _)| *epoch) + 1;
        #[cfg(feature = "http")]
        if matches!(self.target, Target::Http) {
            // A server that does not answer at the start is waited for when there are rows.
            let epoch = self.epoch;
            while let Err(error) = self.writer().write(epoch, b"") {
                if !error.is_transient() {
                    assert!(is_failing_device(&error), "{error}");
                    return self.reopen();
                }
            }
        }
        (self.phase, self.shown) = (Phase::Open, self.rows.lengths());
        (self.open, self.ahead) = Default::default();
    }

    fn writer(&mut self) -> &mut dyn Writer {
        &mut **self.writer.as_mut().unwrap()
    }

    /// Repeats a call until it succeeds; after every failure only what was committed is seen. `None`: the device failed,
    /// which ends the run, and another one has begun.
    fn insist<T>(&mut self, mut call: impl FnMut(&mut dyn Writer) -> Result<T, ConnectError>) -> Option<T> {
        loop {
            match call(self.writer()) {
                Ok(done) => return Some(done),
                Err(error) if error.is_transient() => self.look(),
                Err(error) => {
                    assert!(is_failing_device(&error), "{error}");
                    self.look();
                    self.reopen();
                    return None;
                }
            }
        }
    }

    fn write(&mut self, is_ahead: bool, count: usize) {
        let rows: Vec<i64> = (self.next..).take(count).collect();
        self.next += count as i64;
        let format = match self.target {
            Target::File(format) | Target::Parts(format) | Target::Rolled(format, _) => format,
            #[cfg(feature = "sqlite")]
            Target::Sqlite => OutputFormat::Json,
            #[cfg(feature = "http")]
            Target::Http => OutputFormat::Json,
        };
        let bytes = encoded(format, &self.schema, &rows);
        let epoch = self.epoch + u64::from(is_ahead);
        if self.insist(|writer| writer.write(epoch, &bytes)).is_some() {
            let open = if is_ahead { &mut self.ahead } else { &mut self.open };
            open.extend(Rows { numbers: rows, bytes });
        }
    }

    fn advance(&mut self) {
        let epoch = self.epoch;
        match self.phase {
            Phase::Open => {
                let Some(staged) = self.insist(|writer| writer.pre_commit(epoch)) else { return };
                (self.staged, self.phase) = (staged, Phase::Staged);
            }
            Phase::Staged => {
                self.manifest = Some((epoch, self.staged.clone()));
                let rows = std::mem::take(&mut self.open);
                self.rows.extend(rows);
                self.phase = Phase::InManifest;
            }
            Phase::InManifest => {
                for _ in 0..2 {
                    // A run that ended here has shown the epoch when it began again.
                    if self.insist(|writer| writer.commit(epoch)).is_none() {
                        return;
                    }
                }
                self.shown = self.rows.lengths();
                self.open = std::mem::take(&mut self.ahead);
                self.epoch += 1;
                self.phase = Phase::Open;
            }
        }
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Write(count) if self.phase == Phase::Open => self.write(false, count),
            Step::Write(count) | Step::WriteAhead(count) => self.write(true, count),
            Step::Advance => self.advance(),
            Step::InputEnds => self.writer().input_ends(),
            Step::Crash => self.reopen(),
            Step::Fault(n, repeats, code) => {
                faults::order(n, repeats, code);
                // The server does its part.
                fs::write(self.folder.path().join("silent"), n.to_string()).unwrap();
            }
        }
        self.look();
    }

    /// What a reader sees now: the rows of all committed epochs in order; of the one in the manifest all or none, or in a
    /// file the beginning if an append failed and what was appended could not be cut off. A server has the beginning.
    fn look(&self) {
        if let (Target::File(format), Phase::InManifest) = (self.target, self.phase) {
            let seen = fs::read(self.path()).unwrap();
            let mut most = Vec::new();
            encoder(format, &self.schema).unwrap().begin(&self.schema, &mut most);
            let least = most.len() + self.shown.1;
            most.extend(&self.rows.bytes);
            assert!(seen.len() >= least && most.starts_with(&seen), "{seen:?}: not {least} bytes or more of {most:?}");
            return;
        }
        let seen = self.seen();
        let rows = &self.rows.numbers;
        #[cfg(feature = "http")]
        if let (Target::Http, Phase::InManifest) = (self.target, self.phase) {
            assert!(
                seen.len() >= self.shown.0 && rows.starts_with(&seen),
                "{seen:?}, not {:?} of {rows:?}",
                self.shown.0
            );
            return;
        }
        if matches!(self.target, Target::Rolled(..)) {
            let most = if self.phase == Phase::InManifest { rows.len() } else { self.shown.0 };
            assert!(seen.len() >= self.seen_before.replace(seen.len()), "{seen:?} is less than there was");
            assert!(rows[..most].starts_with(&seen), "{seen:?}, and not the beginning of {:?}", &rows[..most]);
            return;
        }
        let may_be_more = self.phase == Phase::InManifest && seen == *rows;
        assert!(seen == rows[..self.shown.0] || may_be_more, "{seen:?}, not {:?} of {rows:?}", self.shown.0);
    }

    fn seen(&self) -> Vec<i64> {
        match self.target {
            Target::File(format) => numbers(format, &fs::read(self.path()).unwrap()),
            Target::Parts(format) | Target::Rolled(format, _) => {
                let parts = testing::names(&self.path()).into_iter().filter(|name| !name.starts_with('.'));
                let read = |name: String| fs::read(self.path().join(name)).unwrap();
                parts.flat_map(|name| numbers(format, &read(name))).collect()
            }
            #[cfg(feature = "sqlite")]
            Target::Sqlite => faults::spare(|| {
                let connection = rusqlite::Connection::open(self.path()).unwrap();
                let mut rows = connection.prepare("SELECT x FROM out ORDER BY rowid").unwrap();
                rows.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
            }),
            #[cfg(feature = "http")]
            Target::Http => numbers(OutputFormat::Json, &fs::read(self.path()).unwrap_or_default()),
        }
    }

    /// What is staged; a server's sink also knows what it has sent.
    fn left(&self) -> Vec<String> {
        let mut names = testing::names(&self.folder.path().join("staging"));
        names.retain(|name| name != "sent");
        if matches!(self.target, Target::Parts(_) | Target::Rolled(..)) {
            names.extend(testing::names(&self.path()).into_iter().filter(|name| name.starts_with('.')));
        }
        names
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn whatever_fails_and_whenever_it_dies_a_reader_sees_the_committed_epochs(
        steps in prop::collection::vec(step(), 1..60)
    ) {
        for target in TARGETS {
            let mut model = Model::new(*target);
            for step in &steps {
                model.take(*step);
            }
            faults::order(0, 0, 0);
            // An undisturbed end: everything that was written and not lost in a crash is shown.
            model.reopen();
            model.take(Step::Write(3));
            model.take(Step::InputEnds);
            for _ in 0..3 {
                model.take(Step::Advance);
            }
            model.writer().finish().unwrap();
            assert_eq!(model.seen(), model.rows.numbers);
            assert!(model.left().is_empty());
        }
    }
}

/// Every single change of the disk fails once, and with it what would repair it.
#[test]
fn any_one_change_of_the_disk_may_fail() {
    let script = [
        Step::Write(3),
        Step::Write(2),
        Step::WriteAhead(1),
        Step::Advance,
        Step::Advance,
        Step::Advance,
        Step::Write(2),
        Step::Advance,
        Step::Advance,
        Step::Crash,
        Step::Write(1),
        Step::Crash,
        Step::Write(1),
        Step::InputEnds,
        Step::Advance,
        Step::Advance,
        Step::Advance,
    ];
    for target in TARGETS {
        for repeats in [0, 1, 5] {
            for n in 1.. {
                let mut model = Model::new(*target);
                faults::order(n, repeats, libc::ENOSPC);
                script.iter().for_each(|step| model.take(*step));
                let is_over = !faults::are_spent();
                faults::order(0, 0, 0);
                assert_eq!(model.seen(), model.rows.numbers);
                assert_eq!(model.rows.numbers, [0, 1, 2, 3, 4, 5, 6, 7, 9]);
                if is_over {
                    assert!(n > 10, "only {n} changes");
                    break;
                }
            }
        }
    }
}
