//! A process's batches as a partition.

use std::sync::Arc;

use ringmill_wire::{BatchWriter, HeapBatch, Template};

use super::{Fed, FedSpec, Feed, FeedPlace};
use crate::{
    ConnectError, DeadLetter, Encoder, Partition, Places, Poll, PollContext, Position, letter_encoder,
    pace::{Admission, Pace},
    places::{Original, Tagger},
};

/// Why a row is refused whose time is too far ahead.
const TOO_FAR: &str = "its event time lies further ahead of the clock than max_future allows";

pub struct FedPartition {
    name: String,
    feed: Box<dyn Feed>,
    is_seekable: bool,
    batch: HeapBatch,
    /// rows of the batch that went on
    taken: usize,
    /// where the process stood before the batch, and behind it; `None`: it has not said
    before: Option<String>,
    after: Option<String>,
    /// rows behind `after` that an earlier run has taken
    skip: u64,
    /// records consumed
    rows: u64,
    is_last: bool,
    has_ended: bool,
    pace: Pace,
    tagger: Option<Tagger>,
    /// of the batch's rows
    tags: Vec<u64>,
    encoder: Box<dyn Encoder>,
    record: Vec<u8>,
}

impl FedPartition {
    /// Goes on behind `position`.
    pub fn new(spec: &FedSpec, place: FeedPlace, position: Position) -> Result<FedPartition, ConnectError> {
        let schema = spec.schema()?;
        let encoder = letter_encoder(&schema);
        let template =
            Template::new(schema, spec.capacity()).map_err(|error| ConnectError::Schema(error.to_string()))?;
        let FeedPlace { name, mut feed, .. } = place;
        // A class that has lost its `seek()` begins where it likes.
        let (after, skip) = if spec.is_seekable { (position.opaque, position.offset) } else { (None, 0) };
        if let Some(after) = &after {
            feed.seek(after.clone());
        }
        Ok(FedPartition {
            name,
            feed,
            is_seekable: spec.is_seekable,
            batch: HeapBatch::new(Arc::new(template)),
            taken: 0,
            before: None,
            after,
            skip,
            rows: position.rows,
            is_last: false,
            has_ended: false,
            pace: Pace::new(spec.rate),
            tagger: None,
            tags: Vec::new(),
            encoder,
            record: Vec::new(),
        })
    }

    /// A batch has come.
    fn begin(&mut self, before: Option<String>, after: Option<String>, is_last: bool) {
        self.before = std::mem::replace(&mut self.after, after).or(before);
        self.is_last = is_last;
        let rows = u64::from(self.batch.rows());
        let skipped = self.skip.min(rows);
        self.skip -= skipped;
        self.taken = skipped as usize;
        if let Some(tagger) = &mut self.tagger {
            let (first, count) = (self.rows, rows - skipped);
            let tag = tagger.tag(first, first + count, || (self.name.as_str().into(), Original::None));
            self.tags.clear();
            self.tags.resize(self.taken, 0);
            self.tags.extend((0..count).map(|row| if tag == 0 { 0 } else { tag + row }));
        }
    }

    /// There is no batch.
    fn wait(&mut self, fed: Fed) -> Poll {
        match fed {
            Fed::Until(time_ns) => return Poll::Until(time_ns),
            // A checkpoint that is made before anything was taken has to hold it.
            Fed::Stands(position) => self.after = self.after.take().or(Some(position)),
            Fed::Batch { .. } | Fed::Idle => {}
        }
        Poll::Idle
    }

    /// Gives out up to `wanted` rows of the batch.
    fn give(&mut self, out: &mut BatchWriter, context: &mut PollContext<'_>, wanted: u64) -> Poll {
        let view = self.batch.view().with_tags(&self.tags);
        let end = view.rows().min(self.taken.saturating_add(usize::try_from(wanted).unwrap_or(usize::MAX)));
        while self.taken < end {
            let far = context.first_too_far(&view, self.taken..end);
            let until = far.unwrap_or(end);
            let copied = out.copy_rows(&view, self.taken..until);
            self.taken += copied;
            self.rows += copied as u64;
            if self.taken < until {
                return Poll::Full;
            }
            if far.is_some() {
                if !context.dead.has_room() {
                    break;
                }
                self.record.clear();
                self.encoder.encode(&view, until..until + 1, &mut self.record);
                context.dead.push(&DeadLetter {
                    partition: &self.name,
                    offset: self.rows,
                    reason: TOO_FAR,
                    record: self.record.trim_ascii_end(),
                    header: None,
                    attempts: None,
                });
                self.taken += 1;
                self.rows += 1;
            }
        }
        Poll::Rows
    }

    fn is_consumed(&self) -> bool {
        self.taken == self.batch.rows() as usize
    }
}

impl Partition for FedPartition {
    fn name(&self) -> &str {
        &self.name
    }

    fn poll(&mut self, out: &mut BatchWriter, context: &mut PollContext<'_>) -> Result<Poll, ConnectError> {
        if self.has_ended {
            return Ok(Poll::End);
        }
        let wanted = match self.pace.admit(context.now_ns, u64::from(context.rows_max)) {
            Admission::Rows(due) => due,
            Admission::Until(time_ns) => return Ok(Poll::Until(time_ns)),
        };
        if self.is_consumed() && !self.is_last {
            match self.feed.take(&mut self.batch, context.now_ns) {
                Ok(Fed::Batch { before, after, is_last }) => self.begin(before, after, is_last),
                outcome => {
                    self.batch.clear();
                    self.taken = 0;
                    return outcome.map(|fed| self.wait(fed));
                }
            }
        }
        if self.is_consumed() {
            self.has_ended = self.is_last;
            if self.has_ended {
                self.feed.drain();
            }
            // One without rows: what else has to be done comes first.
            return Ok(if self.has_ended { Poll::End } else { Poll::Idle });
        }
        let before = self.rows;
        let poll = self.give(out, context, wanted);
        self.pace.consumed(self.rows - before);
        Ok(poll)
    }

    fn position(&self) -> Position {
        let (opaque, offset) = match (self.is_seekable, self.is_consumed()) {
            (false, _) => (&None, 0),
            (true, true) => (&self.after, self.skip),
            (true, false) => (&self.before, self.taken as u64),
        };
        Position { offset, rows: self.rows, opaque: opaque.clone(), ..Position::default() }
    }

    fn note_places(&mut self, places: &Arc<Places>, source: &str) {
        self.tagger = Some(Tagger::new(places, source));
    }

    fn is_ready(&mut self) -> Result<bool, ConnectError> {
        self.feed.is_ready()
    }

    fn arm_sleep(&mut self) -> bool {
        self.has_ended || self.feed.arm_sleep()
    }

    fn disarm_sleep(&mut self) {
        self.feed.disarm_sleep();
    }

    fn drain(&mut self) {
        self.feed.drain();
    }

    fn covered(&mut self, position: &Position) {
        if let Some(position) = &position.opaque {
            self.feed.covered(position);
        }
    }
}
