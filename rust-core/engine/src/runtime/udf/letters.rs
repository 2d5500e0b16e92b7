//! What a dead letter says of a row besides its columns: its key, and where it came from.
//!
//! Rows that come straight from a source carry tags ([`ringmill_connect::Places`]), which are kept beside each batch in
//! flight. Only when a letter is written is the record read again, by a thread of its own; until it is there, the letter
//! waits as it does for room.

use std::sync::Arc;

use ringmill_connect::{Encoder, Format, LookUp, Places, Trace, Waker, encoder};
use ringmill_wire::{BatchView, Capacity, HeapBatch, Schema, Template};

use super::UdfOperator;
use crate::error::EngineError;
use crate::runtime::dead_letters::RowLetter;

/// How rows are traced to their records.
pub struct Tracing {
    /// What tags stand for.
    pub places: Arc<Places>,
    /// Wakes this shard.
    pub waker: Waker,
}

/// See [`Tracing`]; for one step.
pub(super) struct Traces {
    tracing: Tracing,
    /// Records that are being read again, by tag.
    awaited: Vec<(u64, LookUp)>,
    /// Room for the tags of further batches.
    spare: Vec<Vec<u64>>,
}

impl Traces {
    /// With room for the tags of so many batches.
    pub fn new(tracing: Tracing, batches: usize, rows_max: u32) -> Traces {
        let spare = (0..batches).map(|_| Vec::with_capacity(rows_max as usize)).collect();
        Traces { tracing, awaited: Vec::new(), spare }
    }

    pub fn take_room(&mut self) -> Vec<u64> {
        self.spare.pop().unwrap_or_default()
    }

    pub fn give_back(&mut self, room: Vec<u64>) {
        self.spare.push(room);
    }

    /// What is known of the row with this tag; `None`: that is still being found out.
    fn trace(&mut self, tag: u64) -> Option<Trace> {
        let known = self.awaited.iter().position(|(awaited, _)| *awaited == tag);
        let at = match known {
            Some(at) => at,
            None => {
                let Some(look_up) = self.tracing.places.look_up(tag, self.tracing.waker.clone()) else {
                    return Some(Trace::default());
                };
                self.awaited.push((tag, look_up));
                self.awaited.len() - 1
            }
        };
        let trace = self.awaited[at].1.poll()?;
        self.awaited.swap_remove(at);
        Some(trace)
    }
}

/// Writes a row's key as JSON.
pub(super) struct KeyText {
    columns: Vec<usize>,
    row: HeapBatch,
    encoder: Box<dyn Encoder>,
    text: Vec<u8>,
}

impl KeyText {
    /// For these columns of the input; `None`: there is no key.
    pub fn new(columns: Vec<usize>, input: &Schema, variable_bytes_max: u32) -> Result<Option<KeyText>, String> {
        if columns.is_empty() {
            return Ok(None);
        }
        let fields = columns.iter().map(|column| input.fields[*column].clone()).collect();
        let schema = Arc::new(Schema::new(fields).map_err(|error| error.to_string())?);
        let encoder = encoder(Format::Json, &schema).map_err(|error| error.to_string())?;
        let template = Template::new(schema, Capacity { rows_max: 1, variable_bytes_max });
        let row = HeapBatch::new(Arc::new(template.map_err(|error| error.to_string())?));
        Ok(Some(KeyText { columns, row, encoder, text: Vec::new() }))
    }

    /// The row's key; `None`: it is longer than a batch may hold.
    fn of(&mut self, view: &BatchView<'_>, row: usize) -> Option<&str> {
        self.row.clear();
        for (to, from) in self.columns.iter().enumerate() {
            self.row.writer().copy_value(to, &view.column(*from), row).ok()?;
        }
        self.row.writer().finish_row();
        self.text.clear();
        self.encoder.encode(&self.row.view(), 0..1, &mut self.text);
        std::str::from_utf8(self.text.strip_suffix(b"\n").unwrap_or(&self.text)).ok()
    }
}

impl UdfOperator {
    /// Writes the dead letter of a row, whose columns stand as JSON in `text`; `false`: there is no room for it now, or its
    /// record is still being read.
    pub(super) fn push_letter(
        &mut self,
        (view, row): (&BatchView<'_>, usize),
        tag: u64,
        reason: &str,
        detail: Option<&str>,
        attempts: Option<u32>,
    ) -> Result<bool, EngineError> {
        if !self.dead.has_room() {
            return Ok(false);
        }
        let trace = match &mut self.traces {
            Some(traces) => match traces.trace(tag) {
                Some(trace) => trace,
                None => return Ok(false),
            },
            None => Trace::default(),
        };
        // A letter that was replayed and fails again counts on.
        let before = trace.tried.filter(|tried| *tried.step == self.name).map(|tried| tried.attempts);
        let attempts = attempts.map_or(before, |attempts| Some(attempts.saturating_add(before.unwrap_or(0))));
        if self.key_text.is_none()
            && let Some(columns) = self.key_columns.take()
        {
            let room = self.request.capacity().variable_bytes_max.max(view_bytes(view, &columns, row));
            let made = KeyText::new(columns, &self.input, room);
            self.key_text = made.map_err(|error| EngineError::Internal(format!("{}: {error}", self.name)))?;
        }
        let key = self.key_text.as_mut().and_then(|key| key.of(view, row));
        let record = self.text.strip_suffix(b"\n").unwrap_or(&self.text);
        self.dead.push_row(&RowLetter { reason, detail, attempts, record, key, origin: trace.origin.as_ref() });
        Ok(true)
    }
}

/// Room that the key of a row needs that is too large for a micro-batch.
fn view_bytes(view: &BatchView<'_>, columns: &[usize], row: usize) -> u32 {
    let columns = columns.iter().map(|column| view.column(*column));
    let variable = columns.filter(|column| column.data_type().is_variable());
    variable.map(|column| u32::try_from(column.bytes(row).len()).unwrap_or(u32::MAX)).max().unwrap_or(0)
}
