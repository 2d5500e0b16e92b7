//! Sessions as entries: one for each, by the number of the row that came first, which no other session of its key has.
//! Those of keys that were put away are in entries of their own ([`spill`](super::spill)).

use ringmill_state::{NodeDelta, group_of};

use super::{CELL, FIRED, GONE, IDLE, LAST, LINK, NONE, SEQUENCE, START, STATE, STORED, SessionWindows};
use crate::window::entry::{Reader, Refused, SESSIONS, VERSION, check_count, read_cell, write_cell};
use crate::window::error::StateFull;
use crate::window::key::Keys;
use crate::window::key_table::prefetch;
use crate::window::step::Step;

/// Sessions that are brought near ahead of their turn.
const AHEAD: usize = 8;

/// Entries that were written out and are wrong by now.
#[derive(Debug, Default)]
pub struct Gone {
    /// Section, window, key group, end of the key.
    entries: Vec<(u8, u64, u16, usize)>,
    keys: Vec<u8>,
}

impl Gone {
    pub fn push(&mut self, section: u8, window: u64, group: u16, key: &[u8]) {
        self.keys.extend_from_slice(key);
        self.entries.push((section, window, group, self.keys.len()));
    }

    /// Bytes of memory taken.
    pub fn bytes(&self) -> u64 {
        (self.entries.capacity() * size_of::<(u8, u64, u16, usize)>() + self.keys.capacity()) as u64
    }

    /// Deletes them.
    pub fn write(&mut self, out: &mut NodeDelta<'_>) {
        let mut start = 0;
        for (section, window, group, end) in self.entries.drain(..) {
            out.delete(section, window, group, &self.keys[start..end]);
            start = end;
        }
        self.keys.clear();
    }
}

impl SessionWindows {
    /// What was written of a session is wrong from now on.
    pub fn forget_stored(&mut self, session: u32) {
        if self.has(session, STORED) {
            let key = self.get(session, LINK) as u32;
            let group = group_of(self.keys.hash(key));
            self.gone.push(SESSIONS, self.get(session, SEQUENCE), group, self.keys.key(key, self.word_bytes));
            *self.word(session, STATE) &= !STORED;
        }
    }

    /// Writes what has changed.
    pub fn snapshot(&mut self, step: &Step, room: &mut (Vec<u32>, Vec<u8>), out: &mut NodeDelta<'_>) {
        self.gone.write(out);
        let (sessions, value) = room;
        self.changed.take(sessions);
        for (at, &session) in sessions.iter().enumerate() {
            if let Some(next) = sessions.get(at + 2 * AHEAD) {
                prefetch(&self.sessions, *next as usize * self.stride);
                prefetch(&self.sessions, *next as usize * self.stride + CELL);
            }
            if let Some(next) = sessions.get(at + AHEAD) {
                self.keys.prefetch(self.get(*next, LINK) as u32);
            }
            if self.has(session, GONE) {
                continue;
            }
            value.clear();
            value.extend([VERSION, 0]);
            self.write_session(step, session, 1, value);
            let key = self.get(session, LINK) as u32;
            let group = group_of(self.keys.hash(key));
            out.put(SESSIONS, self.get(session, SEQUENCE), group, self.keys.key(key, self.word_bytes), value);
            *self.word(session, STATE) |= STORED;
        }
    }

    /// Appends a session's times and its cell, whose flags go to `value[flags_at]`.
    pub fn write_session(&self, step: &Step, session: u32, flags_at: usize, value: &mut Vec<u8>) {
        value.extend_from_slice(&self.get(session, START).to_le_bytes());
        value.extend_from_slice(&self.get(session, LAST).to_le_bytes());
        let cell = &self.sessions[session as usize * self.stride + CELL..];
        write_cell(&step.layout, step.shown(), cell, &self.arena, flags_at, value);
    }

    /// Takes a session of the first of the keys back.
    pub fn restore(
        &mut self,
        step: &mut Step,
        sequence: u64,
        keys: &Keys<'_>,
        from: &mut Reader<'_>,
    ) -> Result<(), Refused> {
        let flags = from.byte()?;
        self.restore_session(step, (sequence, flags, STORED), keys, from).map(|_| ())
    }

    /// Makes a session of the first of the keys from what [`SessionWindows::write_session`] wrote of it, with the number of
    /// its first row, the value's flags and its state.
    pub fn restore_session(
        &mut self,
        step: &mut Step,
        (sequence, flags, state): (u64, u8, u64),
        keys: &Keys<'_>,
        from: &mut Reader<'_>,
    ) -> Result<u32, Refused> {
        let (start, last) = (from.word()?, from.word()?);
        if start as i64 > last as i64 {
            return Err(Refused::Damaged("a session ends before it starts"));
        }
        self.keys.resolve(keys, &[0], &[u64::from(NONE)], &mut step.budget, &mut self.found)?;
        let key = self.found[0];
        let session = self.new_slot(&mut step.budget)?;
        let link = u64::from(self.head(key)) << 32 | u64::from(key);
        let at = session as usize * self.stride;
        let words = &mut self.sessions[at..at + self.stride];
        words[..CELL].copy_from_slice(&[start, last, check_count(sequence)?, link, state, IDLE, 0]);
        words[CELL..].copy_from_slice(&step.layout.initial);
        let cell = (&mut words[CELL..], &mut self.arena);
        read_cell(&step.layout, step.shown(), flags, cell, &mut step.budget, from)?;
        self.set_head(key, session);
        Ok(session)
    }

    /// All sessions were taken back: notes what went out already and sets the timers.
    pub fn restored(&mut self, step: &mut Step) -> Result<(), StateFull> {
        for session in 0..(self.sessions.len() / self.stride) as u32 {
            let end = self.end_ns(session);
            let group = group_of(self.keys.hash(self.get(session, LINK) as u32));
            if end <= step.progress.reached_ns(group, step.watermark_ns) {
                *self.word(session, STATE) |= FIRED;
                self.set_timer(step, session, end.saturating_add(step.lateness_ns))?;
            } else {
                self.set_timer(step, session, end)?;
            }
        }
        self.make_room_after_start(step);
        Ok(())
    }
}
