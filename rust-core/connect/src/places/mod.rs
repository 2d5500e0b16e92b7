//! Where rows came from: what the tag beside a row stands for, and the record that the row was made of, read again.
//!
//! A tag is a place (a file, a stream, a generator's partition) and an offset in it. Places are numbered from 1 as they
//! are met, in the upper bits; the offset counts from the place's base, in the lower ones. Partitions tag the rows that
//! they write into a batch whose rows carry tags; nothing is kept for each row but the tag.

mod original;

use std::{
    sync::{Arc, Mutex},
    thread,
};

use crossbeam::channel::{Receiver, Sender, TryRecvError, bounded, unbounded};

use crate::{Waker, lock::lock};
use original::Reader;
pub(crate) use original::{Form, Original};

/// Bits of a tag that count from the place's base.
const OFFSET_BITS: u32 = 40;
/// So many places can be told apart; rows of further ones have no tag.
const PLACES_MAX: usize = (1 << (64 - OFFSET_BITS)) - 1;

/// Part of a source from which offsets are counted.
#[derive(Debug)]
struct Place {
    source: Arc<str>,
    partition: Arc<str>,
    base: u64,
    original: Original,
}

/// Where a row came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// the source's name
    pub source: Arc<str>,
    /// the partition, or of a partition with several files the file
    pub partition: Arc<str>,
    /// where its record starts, in bytes of the decompressed content; for the generator the index of the row
    pub offset: u64,
    /// the record's bytes, without its line end; `None` where there are none; otherwise why they cannot be read
    pub record: Result<Option<Vec<u8>>, String>,
}

/// What is known of a row besides its columns.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trace {
    /// where it came from
    pub origin: Option<Origin>,
    /// of a row that was a dead letter before
    pub tried: Option<Tried>,
}

/// That a function was given a row before it became a dead letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tried {
    /// the function's step
    pub step: Arc<str>,
    /// how often
    pub attempts: u32,
}

/// The places of one run.
#[derive(Debug, Default)]
pub struct Places {
    known: Mutex<Vec<Arc<Place>>>,
    /// the thread that reads records again, started with the first request
    reader: Mutex<Option<Sender<Request>>>,
}

#[derive(Debug)]
struct Request {
    place: Arc<Place>,
    offset: u64,
    answer: Sender<Trace>,
    waker: Wake,
}

/// A [`Waker`] that can be printed.
struct Wake(Waker);

impl std::fmt::Debug for Wake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Waker")
    }
}

impl Places {
    /// Begins to find out what is known of the row with this tag; the waker is called when that is known. `None`: the row
    /// has no tag.
    pub fn look_up(&self, tag: u64, waker: Waker) -> Option<LookUp> {
        let index = usize::try_from(tag >> OFFSET_BITS).ok()?.checked_sub(1)?;
        let place = Arc::clone(lock(&self.known).get(index)?);
        let offset = place.base + (tag & ((1 << OFFSET_BITS) - 1));
        let (answer, answered) = bounded(1);
        let lost = match place.original {
            Original::Letters(_) => Trace::default(),
            _ => trace(&place, offset, Err("the thread that reads it cannot be started".to_owned())),
        };
        let request = Request { place, offset, answer, waker: Wake(waker) };
        if let Some(reader) = self.reader() {
            let _ = reader.send(request);
        }
        Some(LookUp { answered, lost })
    }

    fn reader(&self) -> Option<Sender<Request>> {
        let mut reader = lock(&self.reader);
        if reader.is_none() {
            let (to, requests) = unbounded();
            let name = "ringmill-origins".to_owned();
            thread::Builder::new().name(name).spawn(move || serve(&requests)).ok()?;
            *reader = Some(to);
        }
        reader.clone()
    }

    /// The tag of the first byte of a new place; `None`: there are too many.
    fn add(&self, place: Place) -> Option<u64> {
        let mut known = lock(&self.known);
        known.push(Arc::new(place));
        let number = known.len();
        if number > PLACES_MAX {
            known.pop();
            return None;
        }
        Some((number as u64) << OFFSET_BITS)
    }
}

/// A record that is being read again.
#[derive(Debug)]
pub struct LookUp {
    answered: Receiver<Trace>,
    lost: Trace,
}

impl LookUp {
    /// What was found; `None`: nothing yet.
    pub fn poll(&self) -> Option<Trace> {
        match self.answered.try_recv() {
            Ok(trace) => Some(trace),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => Some(self.lost.clone()),
        }
    }
}

fn serve(requests: &Receiver<Request>) {
    let mut reader = Reader::default();
    for Request { place, offset, answer, waker } in requests {
        let found = match &place.original {
            Original::Letters(book) => book.trace(offset),
            original => trace(&place, offset, reader.read(original, offset)),
        };
        let _ = answer.send(found);
        (waker.0)();
    }
}

fn trace(place: &Place, offset: u64, record: Result<Option<Vec<u8>>, String>) -> Trace {
    let origin = Origin { source: Arc::clone(&place.source), partition: Arc::clone(&place.partition), offset, record };
    Trace { origin: Some(origin), tried: None }
}

/// Makes the tags of one partition's rows.
#[derive(Debug)]
pub(crate) struct Tagger {
    places: Arc<Places>,
    source: Arc<str>,
    /// base and tag of the place that rows come from now
    place: Option<(u64, Option<u64>)>,
}

impl Tagger {
    pub fn new(places: &Arc<Places>, source: &str) -> Tagger {
        Tagger { places: Arc::clone(places), source: source.into(), place: None }
    }

    /// Rows come from another file or stream from now on.
    pub fn leave(&mut self) {
        self.place = None;
    }

    /// The tag for `offset`, from which tags up to `end` may be counted; 0 if there is none.
    pub fn tag(&mut self, offset: u64, end: u64, place: impl FnOnce() -> (Arc<str>, Original)) -> u64 {
        let reaches = |base: u64| base <= offset && end - base < 1 << OFFSET_BITS;
        if !self.place.is_some_and(|(base, _)| reaches(base)) {
            let (partition, original) = place();
            let place = Place { source: Arc::clone(&self.source), partition, base: offset, original };
            self.place = Some((offset, self.places.add(place)));
        }
        self.place.and_then(|(base, tag)| Some(tag? + (offset - base))).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests;
