//! Sessions that do not all fit into memory.
//!
//! When the bound is reached all keys are put away, each with all of its sessions as one entry, so a key is either in
//! memory or in the store and sessions merge in memory alone. A key that is not in memory is asked for before its rows
//! are taken. A second entry stands in the *span* of time in which the first of the key's sessions has to fire, or is
//! over. Of these only the spans are known here: one that is due is read, slice by slice, and the keys that are due come
//! back, between what is due in memory before and after that span.
//!
//! Both entries are wrong once the key is back. They are deleted with whatever is written next, before anything is read.

use std::collections::BTreeMap;

use ringmill_state::{EntryKey, NodeCall, StoreCall, group_of};

use super::{Arena, FIRED, NONE, SEQUENCE, SessionWindows};
use crate::window::entry::{DUE, OUT, PARKED, Reader, Refused, VERSION, number_of_window, window_number};
use crate::window::error::StateFull;
use crate::window::key::Keys;
use crate::window::key_table::KeyTable;
use crate::window::spill::{Asked, Dealings, SLICE_BYTES, SLICE_ENTRIES, SLICE_PART};
use crate::window::step::{Rows, Step};

/// What sessions need of the store before they can go on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Need {
    #[default]
    Nothing,
    /// All keys are put away, from this entry of the table on.
    PutAway { next: u32 },
    /// The sessions of the keys that are asked for, of which there are rows.
    Keys,
    /// The next keys of the span that is due.
    Span,
    /// The sessions of the keys that are asked for, of which some are due.
    Due,
}

/// The span that is due.
#[derive(Debug)]
struct Reading {
    start_ns: i64,
    /// The last key that was read, as it is stored.
    after: Vec<u8>,
    is_last: bool,
    /// When the first key of it is due that is not due yet; `i64::MAX`: none is.
    later_ns: i64,
}

/// What sessions that may be put away have to remember.
#[derive(Debug, Default)]
pub struct Spilling {
    pub store: Dealings<Need>,
    /// Keys that are in the store alone.
    keys: u64,
    /// Where spans begin in which such keys are due, and when the first of each is, or earlier.
    spans: BTreeMap<i64, i64>,
    span_ns: i64,
    reading: Option<Reading>,
    /// When the last session ends that was ever put away.
    last_end_ns: Option<i64>,
    /// What a key took when they were put away last.
    key_bytes: u64,
}

impl Spilling {
    /// Bytes of memory taken.
    pub fn bytes(&self) -> u64 {
        let after = self.reading.as_ref().map_or(0, |reading| reading.after.capacity());
        self.store.asked.memory_bytes() + (after + self.spans.len() * 2 * size_of::<(i64, i64)>()) as u64
    }

    /// When the last session ends that may be in the store alone.
    pub fn last_end_ns(&self) -> Option<i64> {
        self.last_end_ns
    }

    fn note_due(&mut self, start_ns: i64, due_ns: i64) {
        let first = self.spans.entry(start_ns).or_insert(due_ns);
        *first = due_ns.min(*first);
    }

    /// The first span with a key that may be due.
    fn first_due(&self, watermark_ns: i64) -> Option<i64> {
        let mut spans = self.spans.range(..=watermark_ns);
        spans.find(|(_, due_ns)| **due_ns <= watermark_ns).map(|(start_ns, _)| *start_ns)
    }

    /// Sessions that are in the store alone have to fire or are over.
    pub fn is_firing(&self, watermark_ns: i64) -> bool {
        self.reading.is_some() || self.first_due(watermark_ns).is_some()
    }

    /// The span that is being read has no keys left.
    fn finish_reading(&mut self) {
        let Some(Reading { start_ns, later_ns, .. }) = self.reading.take() else { return };
        if later_ns < i64::MAX {
            self.note_due(start_ns, later_ns);
        }
    }
}

impl SessionWindows {
    /// From now on sessions are put away when the memory is used up. Changes must be noted.
    pub fn allow_spilling(&mut self, step: &mut Step) {
        self.spilling.store.is_on = true;
        // So few that they can be known here, also where sessions stay for long after they fired.
        let length_ns = self.gap_ns.max(step.lateness_ns / 16);
        self.spilling.span_ns = (length_ns / 256).max(step.unit.nanoseconds());
        step.budget.soften();
    }

    /// What they need of the store, and had.
    pub fn store(&self) -> &Dealings<Need> {
        &self.spilling.store
    }

    /// How many keys can be had back in one go.
    fn at_once(&self, step: &Step) -> usize {
        let least = (self.stride + self.keys.layout().stride) as u64 * 8;
        let key_bytes = self.spilling.key_bytes.max(least);
        (step.budget.comfortable() / SLICE_PART / key_bytes).clamp(1, SLICE_ENTRIES) as usize
    }

    /// How many of the block's first rows can be taken now. The keys of others have to be asked for.
    pub fn ready_rows(&mut self, step: &Step, block: &Rows<'_>) -> usize {
        if self.spilling.keys == 0 {
            return block.count();
        }
        let at_once = self.at_once(step);
        let mut wanted = Asked::default();
        let mut ready = block.count();
        for row in 0..block.count() {
            if self.keys.find(&block.keys, row).is_some() {
                continue;
            }
            let group = group_of(block.keys.hashes[row]);
            block.keys.with_bytes(row, step.keys.word_bytes(), |key| {
                if !self.spilling.store.asked.contains(0, group, key) {
                    wanted.push(0, group, key);
                    ready = ready.min(row);
                }
            });
            if wanted.len() >= at_once {
                break;
            }
        }
        if ready == 0 {
            self.spilling.store.ask(wanted, Need::Keys);
        }
        ready
    }

    /// Bytes that sessions, their keys and timers take.
    fn memory_bytes(&self) -> u64 {
        let lists: usize = self.timers.values().chain(&self.spare_lists).map(|list| list.capacity() * 4).sum();
        self.keys.bytes() + (self.sessions.capacity() * 8 + lists) as u64 + self.arena.bytes()
    }

    /// Has all keys put away, if the memory is used up.
    pub fn make_room(&mut self, step: &mut Step) -> Result<(), StateFull> {
        if !step.budget.is_exceeded() || self.store().wants_any() || step.wants_histories() {
            return Ok(());
        }
        let own = self.memory_bytes();
        if step.put_histories_away(own) {
            return Ok(());
        }
        if self.spilling.store.is_on && step.budget.used().saturating_sub(own) <= step.budget.comfortable() {
            self.begin_to_put_away();
            return Ok(());
        }
        // What goes out first makes room.
        let makes_room = self.pending > 0 || step.put_histories_away(0);
        if makes_room { Ok(()) } else { Err(step.budget.full(1)) }
    }

    pub fn begin_to_put_away(&mut self) {
        self.spilling.store.asked.clear();
        self.spilling.key_bytes = self.memory_bytes() / u64::from(self.keys.entry_count().max(1));
        self.spilling.store.need = Need::PutAway { next: 0 };
    }

    /// Whether the store has to be asked for what is due, given when the next timers in memory are.
    pub fn awaits_span(&mut self, step: &Step, timers_ns: i64) -> bool {
        let spilling = &mut self.spilling;
        let begun = spilling.reading.as_ref().map(|reading| reading.start_ns);
        let Some(start_ns) = begun.or_else(|| spilling.first_due(step.watermark_ns)) else { return false };
        // What has come back goes out before more of its span comes, and before anything is put away.
        if timers_ns < start_ns.saturating_add(spilling.span_ns) {
            return false;
        }
        if begun.is_none() {
            spilling.spans.remove(&start_ns);
            let (after, is_last, later_ns) = (Vec::new(), false, i64::MAX);
            spilling.reading = Some(Reading { start_ns, after, is_last, later_ns });
        }
        if !spilling.store.is_asked && matches!(spilling.store.need, Need::Nothing | Need::Keys) {
            let is_full = step.budget.is_exceeded() && spilling.store.is_on;
            if is_full && self.memory_bytes() >= step.budget.comfortable() / SLICE_PART {
                self.begin_to_put_away();
            } else {
                self.spilling.store.need = Need::Span;
            }
        }
        true
    }

    /// Writes down what is needed of the store; `false`: nothing, or not now.
    pub fn call(&mut self, step: &mut Step, room: &mut (Vec<u32>, Vec<u8>), out: &mut NodeCall<'_>) -> bool {
        loop {
            match self.spilling.store.need {
                Need::Nothing => return false,
                // Sessions that go out stay until they did.
                Need::PutAway { .. } if self.pending > 0 => return false,
                Need::PutAway { next } => {
                    if self.put_away(step, next, &mut room.1, out) {
                        break;
                    }
                    self.drop_tables(step);
                    self.advance(step);
                }
                Need::Keys | Need::Due => {
                    self.spilling.store.asked.iter().for_each(|(_, group, key)| out.get(PARKED, 0, group, key));
                    break;
                }
                Need::Span => {
                    let Some(reading) = &self.spilling.reading else { return false };
                    let (window, entries) = (window_number(reading.start_ns), self.at_once(step));
                    out.scan(DUE, window, &reading.after, entries, SLICE_BYTES);
                    break;
                }
            }
        }
        self.gone.write(&mut out.writes());
        self.spilling.store.is_asked = true;
        true
    }

    /// Writes a slice of the keys and forgets them; `false`: there are no more.
    fn put_away(&mut self, step: &Step, mut next: u32, value: &mut Vec<u8>, out: &mut NodeCall<'_>) -> bool {
        let mut keys = 0;
        while out.bytes() < SLICE_BYTES && next < self.keys.entry_count() {
            let key = next;
            next += 1;
            // A removed key has none.
            if self.head(key) == NONE {
                continue;
            }
            let (due_ns, last_end_ns) = self.due_and_end_ns(step, key);
            let start_ns = due_ns.div_euclid(self.spilling.span_ns).saturating_mul(self.spilling.span_ns);
            self.write_key(step, key, start_ns, value);
            let (group, bytes) = (group_of(self.keys.hash(key)), self.keys.key(key, self.word_bytes));
            out.put(PARKED, 0, group, bytes, value);
            value.clear();
            value.push(VERSION);
            value.extend_from_slice(&due_ns.to_le_bytes());
            value.extend_from_slice(&last_end_ns.to_le_bytes());
            out.put(DUE, window_number(start_ns), group, bytes, value);
            self.note_parked(start_ns, due_ns, last_end_ns);
            keys += 1;
            let mut session = self.head(key);
            while session != NONE {
                let following = self.next(session);
                self.release(step, session);
                session = following;
            }
        }
        self.spilling.store.need = Need::PutAway { next };
        self.spilling.store.note_put_away(keys, out.bytes());
        keys > 0
    }

    fn note_parked(&mut self, start_ns: i64, due_ns: i64, last_end_ns: i64) {
        self.spilling.keys += 1;
        self.spilling.note_due(start_ns, due_ns);
        self.spilling.last_end_ns = self.spilling.last_end_ns.max(Some(last_end_ns));
    }

    /// When a key's first session has to fire or is over, and when its last one ends.
    fn due_and_end_ns(&self, step: &Step, key: u32) -> (i64, i64) {
        let (mut due_ns, mut last_end_ns) = (i64::MAX - 1, i64::MIN);
        let mut session = self.head(key);
        while session != NONE {
            let end_ns = self.end_ns(session);
            due_ns = due_ns.min(self.due_ns(step, session));
            last_end_ns = last_end_ns.max(end_ns);
            session = self.next(session);
        }
        (due_ns, last_end_ns)
    }

    /// When a session that does not go out has to fire or is over.
    fn due_ns(&self, step: &Step, session: u32) -> i64 {
        let end_ns = self.end_ns(session);
        if self.has(session, FIRED) { end_ns.saturating_add(step.lateness_ns) } else { end_ns }
    }

    /// All that was in memory is in the store.
    fn drop_tables(&mut self, step: &mut Step) {
        step.budget.settle(self.memory_bytes(), 0);
        self.keys = KeyTable::new(self.keys.layout());
        self.sessions = Vec::new();
        self.free = NONE;
        self.arena = Arena::new();
        self.timers.clear();
        self.spare_lists.clear();
        self.queue.clear();
        self.changed.clear();
        self.spilling.store.need = Need::Nothing;
    }

    /// Takes what the store answered.
    pub fn answer(&mut self, step: &mut Step, call: &StoreCall) -> Result<(), Refused> {
        self.spilling.store.is_asked = false;
        match self.spilling.store.need {
            Need::Nothing | Need::PutAway { .. } => return Ok(()),
            Need::Span => self.take_span(step, call)?,
            Need::Keys => {
                self.take_keys(step, call)?;
                self.spilling.store.need = Need::Nothing;
            }
            Need::Due => {
                if call.found.len() < call.keys.len() {
                    return Err(Refused::Damaged("sessions that are due are missing"));
                }
                self.take_keys(step, call)?;
                self.spilling.store.asked.clear();
                self.spilling.store.need = Need::Nothing;
            }
        }
        let has_read = self.spilling.store.need == Need::Nothing;
        if has_read && self.spilling.reading.as_ref().is_some_and(|reading| reading.is_last) {
            self.spilling.finish_reading();
        }
        self.advance(step);
        Ok(())
    }

    /// Takes keys of a span, and asks for the sessions of those that are due.
    fn take_span(&mut self, step: &Step, call: &StoreCall) -> Result<(), Refused> {
        let Spilling { reading, store: Dealings { asked, need, .. }, .. } = &mut self.spilling;
        (*need, _) = (Need::Nothing, asked.clear());
        let Some(reading) = reading else { return Ok(()) };
        reading.is_last = call.is_end;
        reading.after.clear();
        reading.after.extend_from_slice(call.found.last_key().unwrap_or_default());
        for (key, value) in call.found.iter() {
            let entry = EntryKey::parse(key).ok_or(Refused::Damaged("its key is too short"))?;
            let (due_ns, _) = read_due(&mut Reader::new(value)?)?;
            if due_ns <= step.watermark_ns {
                asked.push(0, entry.group, entry.key);
                *need = Need::Due;
            } else {
                reading.later_ns = reading.later_ns.min(due_ns);
            }
        }
        Ok(())
    }

    fn take_keys(&mut self, step: &mut Step, call: &StoreCall) -> Result<(), Refused> {
        self.spilling.store.figures.read_back += call.found.len() as u64;
        step.each_found(call, |step, entry, keys, from| self.take_key(step, entry, keys, from))
    }

    /// Brings a key's sessions back.
    fn take_key(
        &mut self,
        step: &mut Step,
        entry: &EntryKey<'_>,
        keys: &Keys<'_>,
        from: &mut Reader<'_>,
    ) -> Result<(), Refused> {
        if self.keys.find(keys, 0).is_some() {
            return Err(Refused::Damaged("its key is there twice"));
        }
        let (start_ns, sessions) = (from.word()? as i64, from.half()?);
        for _ in 0..sessions {
            let flags = from.byte()?;
            let number = from.word()?;
            let bytes = from.half()? as usize;
            let state = if flags & OUT != 0 { FIRED } else { 0 };
            let session = self.restore_session(step, (number, flags, state), keys, &mut from.part(bytes)?)?;
            self.changed.mark(session);
            let due_ns = self.due_ns(step, session);
            self.set_timer(step, session, due_ns)?;
        }
        from.finish()?;
        self.spilling.keys = self.spilling.keys.saturating_sub(1);
        self.gone.push(PARKED, 0, entry.group, entry.key);
        self.gone.push(DUE, window_number(start_ns), entry.group, entry.key);
        Ok(())
    }

    /// Writes the value of a key that is put away, which is due in the span that starts then.
    fn write_key(&self, step: &Step, key: u32, start_ns: i64, value: &mut Vec<u8>) {
        value.clear();
        value.push(VERSION);
        value.extend_from_slice(&start_ns.to_le_bytes());
        let count_at = value.len();
        value.extend_from_slice(&[0; 4]);
        let mut count = 0u32;
        let mut session = self.head(key);
        while session != NONE {
            let flags_at = value.len();
            value.push(if self.has(session, FIRED) { OUT } else { 0 });
            value.extend_from_slice(&self.get(session, SEQUENCE).to_le_bytes());
            let length_at = value.len();
            value.extend_from_slice(&[0; 4]);
            self.write_session(step, session, flags_at, value);
            let length = (value.len() - length_at - 4) as u32;
            value[length_at..length_at + 4].copy_from_slice(&length.to_le_bytes());
            count += 1;
            session = self.next(session);
        }
        value[count_at..count_at + 4].copy_from_slice(&count.to_le_bytes());
    }

    /// After a start: a key whose sessions are in the store alone, in which span it is due, and when.
    pub fn restore_parked(&mut self, window: u64, from: &mut Reader<'_>) -> Result<(), Refused> {
        let (due_ns, last_end_ns) = read_due(from)?;
        self.note_parked(number_of_window(window), due_ns, last_end_ns);
        Ok(())
    }

    /// After a start: what was in memory at the checkpoint may be more than there is room for now.
    pub fn make_room_after_start(&mut self, step: &Step) {
        if self.spilling.store.is_on && step.budget.is_exceeded() {
            self.begin_to_put_away();
        }
    }
}

/// When a key's first session is due, and when its last one ends.
fn read_due(from: &mut Reader<'_>) -> Result<(i64, i64), Refused> {
    let read = (from.word()? as i64, from.word()? as i64);
    from.finish()?;
    Ok(read)
}
