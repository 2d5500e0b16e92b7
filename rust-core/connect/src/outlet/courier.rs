//! Staged blocks, cut into batches and handed over one after the other.

use std::{
    io::{self, BufRead, Read},
    sync::Arc,
};

use ringmill_failpoint::hit;
use ringmill_wire::{BlockHead, HeapBatch, Schema, Template};

use super::{Outlet, OutletSink, Rejection};
use crate::{
    ConnectError,
    backoff::Backoff,
    courier::{Courier, Refused},
    formats::letter_encoder,
    letters::{Refusal, Sent},
    staging::{Sealed, StagePoints, Staged, stage_points},
};

static POINTS: StagePoints = stage_points!("sink.python");
/// A reason stands in each of its letters; what is longer is cut.
const REASON_BYTES_MAX: usize = 1 << 10;

/// Hands rows over.
pub struct Deliverer {
    origin: String,
    keeps_rejected: bool,
    outlet: Box<dyn Outlet>,
    /// the next batch
    batch: HeapBatch,
    backoff: Backoff,
    /// key and first row of a batch that was handed over, and what was rejected of it: there was no space to keep that
    unkept: Option<(String, u64, Rejection)>,
}

impl Deliverer {
    pub fn new(sink: &OutletSink, template: Arc<Template>, outlet: Box<dyn Outlet>) -> Deliverer {
        let batch = HeapBatch::new(template);
        let OutletSink { origin, keeps_rejected, .. } = sink.clone();
        Deliverer { origin, keeps_rejected, outlet, batch, backoff: Backoff::default(), unkept: None }
    }

    fn refuse(&self, reason: String) -> ConnectError {
        ConnectError::Target { name: self.origin.clone(), reason }
    }

    /// Hands the batch over.
    fn deliver(&mut self, key: &str, first: u64) -> Result<Option<Rejection>, ConnectError> {
        hit("sink.python.deliver");
        let delivered = self.outlet.deliver(key, first, &self.batch.view());
        hit("sink.python.delivered");
        let rejection = delivered.map_err(|error| self.backoff.failed(error))?;
        self.backoff = Backoff::default();
        Ok(rejection)
    }

    /// Keeps the rows of the batch that were rejected, all or none.
    fn keep(&self, rejection: &Rejection, refused: &mut Refused<'_>) -> Result<(), ConnectError> {
        let Rejection { rows, reason } = rejection;
        let reason = &reason[..reason.floor_char_boundary(REASON_BYTES_MAX)];
        let view = self.batch.view();
        let mut encoder = letter_encoder(view.schema());
        let (mut text, mut ends) = (Vec::new(), Vec::new());
        for row in rows.iter().map(|row| *row as usize) {
            encoder.encode(&view, row..row + 1, &mut text);
            ends.push(text.len());
        }
        let starts = std::iter::once(&0).chain(&ends);
        let refusal = |(start, end): (&usize, &usize)| {
            let row = text[*start..*end].trim_ascii_end();
            Refusal { reason, detail: None, row, sent: Sent::Json }
        };
        let refusals: Vec<Refusal<'_>> = starts.zip(&ends).map(refusal).collect();
        if self.keeps_rejected && refused.push(&refusals)? {
            return Ok(());
        }
        let reason = format!("it rejected {} rows: {reason} (on_refused = \"dead_letter\" keeps those)", rows.len());
        Err(ConnectError::Process { origin: self.origin.clone(), reason, detail: None })
    }

    fn schema_hash(&self) -> u64 {
        self.batch.template().schema_hash()
    }
}

impl Courier for Deliverer {
    /// The hash of the rows' schema.
    type Terms = u64;

    const POINTS: (&'static StagePoints, [&'static str; 2]) = (&POINTS, ["sink.python.mark", "sink.python.marked"]);

    fn name(&self) -> &str {
        &self.origin
    }

    fn terms(&self) -> u64 {
        self.schema_hash()
    }

    fn ready(&self) -> Result<(), ConnectError> {
        self.backoff.check()
    }

    fn send(
        &mut self,
        key: &str,
        rows: impl BufRead,
        schema: u64,
        done: &mut u64,
        refused: &mut Refused<'_>,
    ) -> Result<(), ConnectError> {
        self.ready()?;
        if schema != self.schema_hash() {
            let reason =
                "the checkpoint has rows for it with other columns; run the pipeline once as it was, or with --fresh";
            return Err(self.refuse(reason.to_owned()));
        }
        let template = self.batch.template().clone();
        let mut blocks = Blocks::new(rows, template.schema().clone());
        let mut first = 0;
        loop {
            self.batch.clear();
            blocks.fill(&mut self.batch).map_err(|reason| self.refuse(format!("the rows for {key}: {reason}")))?;
            let end = first + u64::from(self.batch.rows());
            if first == end {
                return Ok(());
            }
            // Batches are cut at the same places each time, so what is done is whole ones.
            if end > *done {
                let unkept = self.unkept.take_if(|(of, row, _)| of == key && *row == first);
                let rejection = match unkept {
                    Some((.., rejection)) => Some(rejection),
                    None => self.deliver(key, first)?,
                };
                if let Some(rejection) = rejection
                    && let Err(error) = self.keep(&rejection, refused)
                {
                    self.unkept = Some((key.to_owned(), first, rejection));
                    return Err(error);
                }
                *done = end;
            }
            first = end;
        }
    }

    fn staged(rows: Sealed, writer: String, schema: u64) -> Staged {
        Staged::Python { rows, writer, schema }
    }

    fn unstaged(staged: Staged) -> Result<(Sealed, String, u64), Staged> {
        match staged {
            Staged::Python { rows, writer, schema } => Ok((rows, writer, schema)),
            other => Err(other),
        }
    }
}

/// Reads blocks, and makes batches of them that are as full as can be.
struct Blocks<R> {
    from: R,
    schema: Arc<Schema>,
    bytes: Vec<u8>,
    /// the last block that was read; `None`: there was none yet
    block: Option<HeapBatch>,
    /// rows of it that went on
    taken: usize,
}

impl<R: BufRead> Blocks<R> {
    fn new(from: R, schema: Arc<Schema>) -> Blocks<R> {
        Blocks { from, schema, bytes: Vec::new(), block: None, taken: 0 }
    }

    /// Puts rows into an empty batch until it is full or there are no more; the error says what is wrong with them.
    fn fill(&mut self, batch: &mut HeapBatch) -> Result<(), String> {
        loop {
            if let Some(block) = &self.block {
                let rows = block.rows() as usize;
                self.taken += batch.writer().copy_rows(&block.view(), self.taken..rows);
                if self.taken < rows {
                    // It was staged by a run with more room.
                    let is_too_large = || "a row is larger than a batch (batch_bytes)".to_owned();
                    return if batch.rows() > 0 { Ok(()) } else { Err(is_too_large()) };
                }
            }
            let is_full = batch.writer().rows_free() == 0;
            if is_full || !self.read()? {
                return Ok(());
            }
        }
    }

    /// The next block; `false`: there is none.
    fn read(&mut self) -> Result<bool, String> {
        if self.from.fill_buf().map_err(said)?.is_empty() {
            return Ok(false);
        }
        let mut head = [0; BlockHead::BYTES];
        self.from.read_exact(&mut head).map_err(said)?;
        let head = BlockHead::read(head);
        self.bytes.clear();
        // As much as there is, whatever the head claims.
        (&mut self.from).take(head.bytes).read_to_end(&mut self.bytes).map_err(said)?;
        let block = room_for(&mut self.block, &self.schema, &head)?;
        block.read_block(&head, &self.bytes).map_err(|error| error.to_string())?;
        self.taken = 0;
        Ok(true)
    }
}

/// A batch that holds such a block, and any that `block` held.
fn room_for<'a>(
    block: &'a mut Option<HeapBatch>,
    schema: &Arc<Schema>,
    head: &BlockHead,
) -> Result<&'a mut HeapBatch, String> {
    let mut needed = head.capacity();
    if let Some(held) = block {
        let has = held.template().capacity();
        needed.rows_max = needed.rows_max.max(has.rows_max);
        needed.variable_bytes_max = needed.variable_bytes_max.max(has.variable_bytes_max);
    }
    let fitting = block.take().filter(|held| held.template().capacity() == needed);
    let held = match fitting {
        Some(held) => held,
        None => {
            let template = Template::new(schema.clone(), needed).map_err(|error| error.to_string())?;
            HeapBatch::new(Arc::new(template))
        }
    };
    Ok(block.insert(held))
}

fn said(error: io::Error) -> String {
    error.to_string()
}
