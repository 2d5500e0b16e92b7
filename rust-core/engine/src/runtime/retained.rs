//! The sink of a step's retained results: rows with their keys into a staging log, and at the commit into the store.
//!
//! The store takes the rows of an epoch block by block and knows, after a crash, how far it has come; so the sink is one
//! of those that show every row exactly once. It begins anew when the output does: at a fresh start, or when
//! the checkpoint knows nothing of it.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use ringmill_connect::{
    Commits, ConnectError, Encoder, Fault, Format, Sealed, StagePoints, StagingLog, Transactions, Writer, encoder,
    new_writer_name,
};
use ringmill_state::{Committed, RetainedRow, RetainedStore, StateError};
use ringmill_wire::{BatchView, DataType, Schema, TimeUnit};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::metrics::Control;
use crate::plan::retained::{RetainedAbout, RetainedSpec, key_columns, key_part, nanoseconds};
use crate::plan::roll_up::RollUpPlan;

const POINTS: StagePoints = StagePoints {
    write: ["sink.retained.stage.write", "sink.retained.stage.written"],
    sync: ["sink.retained.stage.sync", "sink.retained.stage.synced"],
    sync_folder: ["sink.retained.stage.sync_folder", "sink.retained.stage.folder_synced"],
    remove: ["sink.retained.stage.remove", "sink.retained.stage.removed"],
};

/// Rows with their keys and windows, each a JSON object.
pub struct RetainedEncoder {
    json: Box<dyn Encoder>,
    keys: usize,
    unit: TimeUnit,
}

impl RetainedEncoder {
    /// For the results of a window.
    pub fn new(schema: &Schema) -> Result<RetainedEncoder, ConnectError> {
        let keys = key_columns(&schema.fields);
        let DataType::Timestamp(unit) = schema.field(keys).data_type else {
            return Err(ConnectError::Schema("there is no window_start".into()));
        };
        Ok(RetainedEncoder { json: encoder(Format::Json, schema)?, keys, unit })
    }
}

impl Encoder for RetainedEncoder {
    fn begin(&mut self, _schema: &Schema, _out: &mut Vec<u8>) {}

    fn encode(&mut self, view: &BatchView<'_>, rows: Range<usize>, out: &mut Vec<u8>) {
        for row in rows {
            let time = |column| nanoseconds(view, column, row, self.unit);
            let write_key =
                |out: &mut Vec<u8>| (0..self.keys).for_each(|column| key_part(view, column, row).write(out));
            let write_row = |out: &mut Vec<u8>| {
                self.json.encode(view, row..row + 1, out);
                // The end of the line.
                out.pop();
            };
            RetainedRow::write_frame((time(self.keys), time(self.keys + 1)), out, write_key, write_row);
        }
    }
}

/// What the sink puts into a checkpoint's manifest.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Staged {
    #[serde(flatten)]
    rows: Sealed,
    /// Who wrote them.
    writer: String,
    /// The epoch that the store had before.
    before: Option<u64>,
}

struct RetainedWriter {
    store: Arc<RetainedStore>,
    log: StagingLog,
    /// The store's folder.
    name: String,
    /// Who we are in the store; another one for an output that began anew.
    writer: String,
    /// The last epoch with rows that the store has of us.
    newest: Option<u64>,
    commits: Commits,
}

/// Opens a step's store in `folder`, and completes it or begins it anew. Those who look at the run see it from now on.
pub fn open(
    folder: &Path,
    spec: &RetainedSpec,
    roll_up: Option<&RollUpPlan>,
    schema: &Schema,
    transactions: &Transactions<'_>,
    control: &Control,
) -> Result<Box<dyn Writer>, ConnectError> {
    let name = folder.display().to_string();
    let failed = |error: StateError| database(&name, &error);
    let about = serde_json::to_value(RetainedAbout::new(&spec.step, &schema.fields));
    let about = about.map_err(|error| ConnectError::Schema(error.to_string()))?;
    let known = transactions.known();
    let store = match known {
        Some(_) => RetainedStore::open(folder, spec.limits, &about),
        None => RetainedStore::begin(folder, spec.limits, &about),
    };
    let store = store.map_err(failed)?;
    let store = match roll_up {
        Some(plan) => store.rolling_up(super::roll_up::roll_up(plan, schema)),
        None => store,
    };
    let mut writer = RetainedWriter {
        store: Arc::new(store),
        log: StagingLog::new(transactions.staging, "", 0o600, &POINTS),
        name: name.clone(),
        writer: new_writer_name(&spec.step),
        newest: None,
        commits: Commits::after(transactions),
    };
    if let Some((epoch, value)) = known {
        writer.recover(epoch, value)?;
    }
    writer.log.clear()?;
    control.show_retained(&spec.step, &writer.store);
    Ok(Box::new(writer))
}

impl RetainedWriter {
    /// Adds the rows of the checkpoint unless the store has them.
    fn recover(&mut self, epoch: u64, value: &Value) -> Result<(), ConnectError> {
        let staged: Staged = serde_json::from_value(value.clone())
            .map_err(|error| self.refuse(format!("what the checkpoint says about it is not understood: {error}")))?;
        if staged.rows.epoch != epoch {
            let found = staged.rows.epoch;
            return Err(self.refuse(format!("the checkpoint of epoch {epoch} says that epoch {found} was staged")));
        }
        self.writer = staged.writer;
        self.newest = staged.before;
        self.apply(&staged.rows)
    }

    /// Adds the rows of an epoch, unless they are there.
    fn apply(&mut self, rows: &Sealed) -> Result<(), ConnectError> {
        let found = self.store.committed();
        let is = |epoch: Option<u64>| match (&found, epoch) {
            (Some(found), Some(epoch)) => found.writer == self.writer && found.epoch == epoch,
            (found, epoch) => found.is_none() && epoch.is_none(),
        };
        let is_applied = rows.bytes > 0 && is(Some(rows.epoch));
        if !is_applied && !is(self.newest) {
            let words = |epoch: Option<u64>| epoch.map_or_else(|| "no epoch".into(), |epoch| format!("epoch {epoch}"));
            return Err(self.refuse(format!(
                "the retained results are those of {} instead of {}; they belong to another checkpoint, so put the right \
                 folder back, or run with --fresh to begin anew",
                words(found.map(|found| found.epoch)),
                words(self.newest)
            )));
        }
        if rows.bytes == 0 {
            return Ok(());
        }
        if !is_applied {
            let Some(file) = self.log.read(rows)? else {
                let reason = format!("it lacks the rows of epoch {}, and the staged rows are gone", rows.epoch);
                return Err(self.refuse(reason));
            };
            let epoch = Committed { writer: self.writer.clone(), epoch: rows.epoch };
            let refused = self.store.figures().refused_rows;
            self.store.apply(&epoch, &file).map_err(|error| database(&self.name, &error))?;
            let refused = self.store.figures().refused_rows - refused;
            if refused > 0 {
                tracing::warn!(
                    "{}: {refused} results came for windows that are rolled up, and are not kept",
                    self.name
                );
            }
        }
        self.newest = Some(rows.epoch);
        Ok(())
    }

    fn refuse(&self, reason: String) -> ConnectError {
        ConnectError::Target { name: self.name.clone(), reason }
    }
}

impl Writer for RetainedWriter {
    fn write(&mut self, epoch: u64, bytes: &[u8]) -> Result<(), ConnectError> {
        if bytes.is_empty() { Ok(()) } else { self.log.append(epoch, &[bytes]) }
    }

    fn pre_commit(&mut self, epoch: u64) -> Result<Value, ConnectError> {
        let rows = self.commits.sealed(self.log.seal(epoch)?);
        let staged = Staged { rows, writer: self.writer.clone(), before: self.newest };
        serde_json::to_value(staged).map_err(|error| ConnectError::Schema(error.to_string()))
    }

    fn commit(&mut self, epoch: u64) -> Result<(), ConnectError> {
        let Some(rows) = self.commits.due(epoch, &self.name)? else { return Ok(()) };
        self.apply(&rows)?;
        if rows.bytes > 0 {
            self.log.remove(epoch)?;
        }
        self.commits.shown(epoch);
        Ok(())
    }

    fn finish(&mut self) -> Result<(), ConnectError> {
        Ok(())
    }
}

fn database(name: &str, error: &StateError) -> ConnectError {
    let fault = match error {
        _ if error.is_out_of_space() => Fault::OutOfSpace,
        // It is opened again at the next try.
        StateError::Broken { .. } => Fault::Transient,
        _ => Fault::Permanent,
    };
    ConnectError::Database { name: name.to_owned(), reason: error.to_string(), fault }
}
