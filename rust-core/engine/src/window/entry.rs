//! The bytes of stored state: which entries there are and what is in them.
//!
//! The format is of meanings, not of tables: it does not change with the tables' layout, the number of shards or the
//! machine. Every value begins with its version. Integers and floats are little-endian words of 8 bytes where nothing
//! else is said. The key of an entry is the key's bytes as the module [`key`](super::key) lays them out, without the
//! padding of those that fit a word.
//!
//! | section | window | value |
//! |---|---|---|
//! | [`WHOLE`], of the whole shard | 0 | see [`progress`](super::progress) |
//! | [`WINDOWS`] | [`window_number`] | flags `u8`, rank of the key in order of arrival `u32`, cell |
//! | [`SESSIONS`] | number of the session's first row | flags `u8`, first time, last time, cell |
//! | [`HISTORIES`] | 0 | number, mean, sum of squared differences; or, with a horizon, numbers of the first result and of the one behind the last, then end and value of each that is in no full chunk |
//! | [`RESULTS`] | number of the full chunk of 16 results | results missing in front `u8`, then for each its end and value |
//! | [`PARKED`] | 0 | start of the key's span (see [`DUE`]), number of its sessions `u32`, then for each: flags `u8`, number of its first row, length `u32` of the rest, first time, last time, cell |
//! | [`DUE`] | [`window_number`] of when a span of time starts | when in that span the first session of a parked key has to fire or is over, when its last one ends |
//!
//! A cell is what each part of it holds, in the order of the aggregates: its words; for a first or last text the row
//! number, the length (`u32`) and the bytes; for a list the length in bytes (`u32`) and the items. With [`SHOWN`] among
//! the flags the words about what was given out follow.

use ringmill_state::EntryKey;
use ringmill_wire::DataType;

use super::accumulate::{ArenaFull, append, get_bytes, get_list, set_bytes};
use super::arena::Arena;
use super::budget::Budget;
use super::cells::{Action, CellLayout, Kind, Part};
use super::error::{StateFull, WindowError};
use super::key::{KeyColumns, KeyScratch};

/// Version of all values.
pub const VERSION: u8 = 1;
/// How far a shard has come.
pub const WHOLE: u8 = 0;
/// Keys of tumbling and sliding windows.
pub const WINDOWS: u8 = 1;
/// Sessions.
pub const SESSIONS: u8 = 2;
/// Rolling statistics.
pub const HISTORIES: u8 = 3;
/// Earlier results of rolling statistics within a horizon.
pub const RESULTS: u8 = 4;
/// Keys of which all sessions were put away.
pub const PARKED: u8 = 5;
/// The same keys by the time when they have to come back.
pub const DUE: u8 = 6;
/// The session has fired as it is.
pub const OUT: u8 = 2;
/// The result was given out already, and what was shown with it follows.
pub const SHOWN: u8 = 1;

/// Counts and row numbers beyond this are damage.
const COUNT_MAX: u64 = 1 << 62;

/// A window's number as entries have it, in the same order.
pub fn window_number(number: i64) -> u64 {
    (number as u64) ^ (1 << 63)
}

/// The way back.
pub fn number_of_window(window: u64) -> i64 {
    (window ^ (1 << 63)) as i64
}

/// Why an entry was not taken back.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Refused {
    /// It is not what was written; what is wrong with it.
    Damaged(&'static str),
    /// There is no memory for it.
    Full(StateFull),
}

impl From<StateFull> for Refused {
    fn from(full: StateFull) -> Self {
        Self::Full(full)
    }
}

impl From<Refused> for WindowError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Full(full) => Self::new("state", full.to_string(), None),
            Refused::Damaged(what) => Self::new(
                "state",
                format!("a stored entry is damaged: {what}"),
                Some("use an earlier checkpoint".into()),
            ),
        }
    }
}

/// Reads a value from its beginning.
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Behind the version, which must be known.
    pub fn new(value: &'a [u8]) -> Result<Self, Refused> {
        match value.split_first() {
            Some((&VERSION, rest)) => Ok(Self(rest)),
            Some(_) => Err(Refused::Damaged("its version is unknown")),
            None => Err(Refused::Damaged("it is empty")),
        }
    }

    pub fn bytes(&mut self, count: usize) -> Result<&'a [u8], Refused> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(Refused::Damaged("it is too short"))?;
        self.0 = rest;
        Ok(taken)
    }

    /// The next bytes, to be read on their own.
    pub fn part(&mut self, count: usize) -> Result<Reader<'a>, Refused> {
        self.bytes(count).map(Self)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Refused> {
        let (taken, rest) = self.0.split_first_chunk::<N>().ok_or(Refused::Damaged("it is too short"))?;
        self.0 = rest;
        Ok(*taken)
    }

    pub fn byte(&mut self) -> Result<u8, Refused> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub fn half(&mut self) -> Result<u32, Refused> {
        self.array().map(u32::from_le_bytes)
    }

    pub fn group(&mut self) -> Result<u16, Refused> {
        self.array().map(u16::from_le_bytes)
    }

    pub fn word(&mut self) -> Result<u64, Refused> {
        self.array().map(u64::from_le_bytes)
    }

    pub fn count(&mut self) -> Result<u64, Refused> {
        check_count(self.word()?)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Everything was read.
    pub fn finish(&self) -> Result<(), Refused> {
        if self.is_empty() { Ok(()) } else { Err(Refused::Damaged("it is too long")) }
    }
}

/// A count or row number that leaves room for all that will ever follow.
pub fn check_count(count: u64) -> Result<u64, Refused> {
    if count < COUNT_MAX { Ok(count) } else { Err(Refused::Damaged("a count is out of range")) }
}

fn put_words(words: &[u64], out: &mut Vec<u8>) {
    words.iter().for_each(|word| out.extend_from_slice(&word.to_le_bytes()));
}

fn put_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    out.extend_from_slice(bytes);
}

/// Words of a part that are written as they are.
fn plain_words(action: Action) -> usize {
    match action {
        Action::SumWide | Action::First | Action::Last => 2,
        Action::Spread => 3,
        Action::Collect => 0,
        _ => 1,
    }
}

/// Appends a cell; `shown` is the first of its words about what was given out. The flags go to `out[flags_at]`.
pub fn write_cell(
    layout: &CellLayout,
    shown: Option<usize>,
    words: &[u64],
    arena: &Arena,
    flags_at: usize,
    out: &mut Vec<u8>,
) {
    for part in &layout.parts {
        match (part.action, part.kind) {
            (Action::First | Action::Last, Kind::Bytes) => {
                put_words(&words[part.word..=part.word], out);
                put_bytes(get_bytes(words[part.word + 1], arena), out);
            }
            (Action::Collect, _) => {
                let start = out.len();
                out.extend_from_slice(&[0; 4]);
                get_list(&words[part.word..part.word + 2], arena, out);
                let bytes = (out.len() - start - 4) as u32;
                out[start..start + 4].copy_from_slice(&bytes.to_le_bytes());
            }
            (action, _) => put_words(&words[part.word..part.word + plain_words(action)], out),
        }
    }
    if let Some(shown) = shown
        && words[shown] != 0
    {
        out[flags_at] |= SHOWN;
        put_words(&words[shown..shown + SHOWN_WORDS], out);
    }
}

/// Words of a cell about the result that was given out: whether there was one (1), and whether it entered the
/// history (2); count, mean and deviation that were shown; end and value that entered.
pub const SHOWN_WORDS: usize = 6;

/// Reads what [`write_cell`] wrote, behind which nothing must follow, into a cell without rows.
pub fn read_cell(
    layout: &CellLayout,
    shown: Option<usize>,
    flags: u8,
    (words, arena): (&mut [u64], &mut Arena),
    budget: &mut Budget,
    from: &mut Reader<'_>,
) -> Result<(), Refused> {
    let before = arena.bytes();
    arena.limit_growth(budget);
    let read = layout.parts.iter().try_for_each(|part| read_part(layout, part, &mut words[part.word..], arena, from));
    budget.settle(before, arena.bytes());
    match read {
        Ok(()) => {}
        Err(PartRefused::Damaged(refused)) => return Err(refused),
        Err(PartRefused::ArenaFull) => return Err(budget.full(1).into()),
    }
    if flags & SHOWN != 0 {
        let mut read = [0; SHOWN_WORDS];
        for word in &mut read {
            *word = from.word()?;
        }
        // Without allowed lateness nothing is given out again, so that nobody asks what was shown.
        if let Some(shown) = shown {
            words[shown..shown + SHOWN_WORDS].copy_from_slice(&read);
        }
    }
    from.finish()
}

enum PartRefused {
    Damaged(Refused),
    ArenaFull,
}

impl From<Refused> for PartRefused {
    fn from(refused: Refused) -> Self {
        Self::Damaged(refused)
    }
}

impl From<ArenaFull> for PartRefused {
    fn from(_: ArenaFull) -> Self {
        Self::ArenaFull
    }
}

fn read_part(
    layout: &CellLayout,
    part: &Part,
    words: &mut [u64],
    arena: &mut Arena,
    from: &mut Reader<'_>,
) -> Result<(), PartRefused> {
    let data_type = layout.inputs.get(part.input).map(|input| input.data_type);
    match (part.action, part.kind) {
        (Action::First | Action::Last, Kind::Bytes) => {
            words[0] = from.count()?;
            let length = from.half()?;
            let bytes = from.bytes(length as usize)?;
            if data_type == Some(DataType::Utf8) && std::str::from_utf8(bytes).is_err() {
                return Err(Refused::Damaged("a text is no UTF-8").into());
            }
            if !bytes.is_empty() {
                set_bytes(&mut words[1], bytes, arena)?;
            }
        }
        (Action::Collect, _) => {
            let length = from.half()?;
            let items = from.bytes(length as usize)?.chunks_exact(data_type.and_then(DataType::width).unwrap_or(8));
            if !items.remainder().is_empty() {
                return Err(Refused::Damaged("a list ends within an item").into());
            }
            for item in items {
                append(&mut words[..2], item, arena)?;
            }
        }
        (action, _) => {
            for word in &mut words[..plain_words(action)] {
                *word = from.word()?;
            }
            if matches!(action, Action::Rows | Action::Present | Action::Spread | Action::First | Action::Last) {
                check_count(words[0])?;
            }
        }
    }
    Ok(())
}

/// Puts the key of a stored entry into the scratch room.
pub fn load_entry<'a>(columns: &KeyColumns, key: &'a [u8], scratch: &mut KeyScratch) -> Result<EntryKey<'a>, Refused> {
    let entry = EntryKey::parse(key).ok_or(Refused::Damaged("its key is too short"))?;
    columns.load(entry.key, scratch).map_err(Refused::Damaged)?;
    Ok(entry)
}
