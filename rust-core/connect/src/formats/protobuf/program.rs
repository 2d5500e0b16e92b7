//! A type of messages against the columns, made once: what is read, what is passed over, what is missing.
//!
//! A message is gone through once and what it has for the columns is noted, each value in a slot of its own: the last one
//! wins, messages that come in pieces are one, and of a oneof only the member that came last is there. Then the slots go into the
//! columns.

use std::{borrow::Cow, ops::Range, sync::Arc};

use ringmill_wire::TimeUnit;

use super::{
    value::{self, Constant, Scalar, To},
    wire::WireType,
};
use crate::formats::{
    binary::{Broken, Bytes},
    column::{Column, Refusal, Row},
    message::refuse,
    number::{Datum, Number},
};

/// How messages of one type become rows.
#[derive(Debug, Clone)]
pub(in crate::formats) struct Program {
    /// the message itself is the first one
    pub(super) messages: Vec<Message>,
    pub(super) columns: Vec<(Column, Source)>,
    pub(super) slots: usize,
    pub(super) lists: usize,
}

/// A message with columns in it.
#[derive(Debug, Clone)]
pub(super) struct Message {
    /// the slot in which it is noted that it is there; none: it always is
    pub slot: Option<usize>,
    /// in the order of their numbers
    pub fields: Box<[Field]>,
    /// those that have to be there, by their names
    pub required: Box<[(usize, Box<str>)]>,
}

/// A field that is not just passed over.
#[derive(Debug, Clone)]
pub(super) struct Field {
    pub number: u32,
    pub name: Box<str>,
    pub slot: usize,
    pub action: Action,
    /// the slots of those other members of its oneof that lead to columns
    pub cleared: Arc<[Range<usize>]>,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Action {
    /// it is passed over, and noted that it is there; of another wire type it is not this field
    Pass(WireType),
    Read(WireType),
    /// items of this wire type, one by one or packed, and which list they are of
    Gather(WireType, usize),
    /// a message, and which
    Enter(usize),
}

/// Where a column's value comes from.
#[derive(Debug, Clone)]
pub(super) enum Source {
    /// there is none
    Nothing,
    Value {
        slot: usize,
        scalar: Scalar,
        to: To,
        absent: Absent,
    },
    /// a repeated field
    List {
        slot: usize,
        list: usize,
        scalar: Scalar,
        number: Number,
        /// the slot of the message around it, without which there is no list either
        around: Option<usize>,
    },
    /// the slots of the message, of its seconds and of its nanoseconds
    Time {
        slots: [usize; 3],
        to: Time,
    },
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Time {
    Timestamp(TimeUnit),
    DurationFloat,
    DurationNanoseconds,
}

/// What is there for a value that is not in a message.
#[derive(Debug, Clone)]
pub(super) enum Absent {
    /// null
    Null,
    /// this, where the column takes no null
    Default(Constant),
    /// this, if the message around it, which has this slot, is there: the field knows no absence
    Zero(Constant, Option<usize>),
}

/// What was found in a message.
#[derive(Debug, Clone, Default)]
pub(in crate::formats) struct Findings {
    slots: Vec<Found>,
    /// the items of each list whose slot has something
    lists: Vec<Vec<u64>>,
}

/// The same of one slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    Nothing,
    Something,
    Bits(u64),
    /// these bytes of it
    Bytes {
        at: usize,
        length: usize,
    },
}

/// Why a message cannot be gone through, and where.
#[derive(Debug)]
pub(in crate::formats) struct Unread {
    pub at: usize,
    pub what: Cow<'static, str>,
}

impl Program {
    /// Notes what there is. `found` is as it was left by any other message.
    pub fn find(&self, message: Bytes<'_>, found: &mut Findings) -> Result<(), Unread> {
        found.slots.clear();
        found.slots.resize(self.slots, Found::Nothing);
        found.lists.resize_with(self.lists, Vec::new);
        self.go_through(0, message, found)
    }

    fn go_through(&self, message: usize, mut bytes: Bytes<'_>, found: &mut Findings) -> Result<(), Unread> {
        let fields = &self.messages[message].fields;
        while bytes.left() > 0 {
            let start = bytes;
            let (number, wire_type) = bytes.key().map_err(|broken| at(broken, &bytes))?;
            let place = fields.binary_search_by_key(&number, |field| field.number);
            let field = place.ok().map(|place| &fields[place]);
            let field = field.filter(|field| !matches!(field.action, Action::Pass(own) if own != wire_type));
            let Some(field) = field else {
                bytes.pass_over(number, wire_type).map_err(|broken| at(broken, &bytes))?;
                continue;
            };
            for slots in &*field.cleared {
                found.slots[slots.clone()].fill(Found::Nothing);
            }
            match field.action {
                Action::Pass(_) => {
                    bytes.pass_over(number, wire_type).map_err(|broken| at(broken, &bytes))?;
                    found.slots[field.slot] = Found::Something;
                }
                Action::Read(expected) if wire_type == expected => {
                    found.slots[field.slot] = read(wire_type, &mut bytes).map_err(|broken| at(broken, &bytes))?;
                }
                Action::Gather(item, list) if wire_type == item || wire_type == WireType::Delimited => {
                    gather(item, wire_type, &mut bytes, found.list(list, field.slot))?;
                }
                Action::Enter(below) if wire_type == WireType::Delimited => {
                    let inner = bytes.delimited().map_err(|broken| at(broken, &bytes))?;
                    found.slots[field.slot] = Found::Something;
                    self.go_through(below, inner, found)?;
                }
                Action::Read(expected) | Action::Gather(expected, _) => {
                    return Err(foreign(&field.name, expected, wire_type, start.at()));
                }
                Action::Enter(_) => return Err(foreign(&field.name, WireType::Delimited, wire_type, start.at())),
            }
        }
        Ok(())
    }

    /// Moves what was found in a message into the row.
    pub fn put(&self, message: &[u8], found: &Findings, row: &mut Row<'_>) -> Result<(), Refusal> {
        let Findings { slots: found, lists } = found;
        let is_there = |slot: &Option<usize>| slot.is_none_or(|slot| found[slot] != Found::Nothing);
        for message in self.messages.iter().filter(|message| !message.required.is_empty() && is_there(&message.slot)) {
            if let Some((_, name)) = message.required.iter().find(|(slot, _)| found[*slot] == Found::Nothing) {
                return Err(refuse(row, format_args!("the required field {name} is missing")));
            }
        }
        for (column, source) in &self.columns {
            match source {
                Source::Nothing => column.push_null(row, "missing")?,
                Source::Value { slot, scalar, to, absent } => {
                    let datum = match found[*slot] {
                        Found::Bits(bits) => Some(scalar.datum(bits)),
                        Found::Bytes { at, length } => Some(Datum::Bytes(&message[at..at + length])),
                        Found::Nothing | Found::Something => absent.datum(column, is_there),
                    };
                    match datum {
                        Some(datum) => value::put(to, datum, column, row)?,
                        None => column.push_null(row, "missing")?,
                    }
                }
                Source::List { around, .. } if !is_there(around) => column.push_null(row, "missing")?,
                Source::List { slot, list, scalar, number, .. } => {
                    let items = if found[*slot] == Found::Nothing { &[][..] } else { &lists[*list] };
                    value::put_list(items, *scalar, *number, column, row)?;
                }
                Source::Time { slots, to } => put_time(*to, slots.map(|slot| found[slot]), column, row)?,
            }
        }
        Ok(())
    }
}

impl Findings {
    /// Where the items of a list go, which has this slot.
    fn list(&mut self, list: usize, slot: usize) -> &mut Vec<u64> {
        let items = &mut self.lists[list];
        if self.slots[slot] == Found::Nothing {
            items.clear();
            self.slots[slot] = Found::Something;
        }
        items
    }
}

impl Absent {
    fn datum(&self, column: &Column, is_there: impl Fn(&Option<usize>) -> bool) -> Option<Datum<'_>> {
        match self {
            Absent::Null => None,
            Absent::Default(constant) => (!column.nullable).then(|| constant.datum()),
            Absent::Zero(constant, around) => is_there(around).then(|| constant.datum()),
        }
    }
}

#[inline]
fn read(wire_type: WireType, bytes: &mut Bytes<'_>) -> Result<Found, Broken> {
    if wire_type == WireType::Delimited {
        let part = bytes.delimited()?;
        return Ok(Found::Bytes { at: part.at(), length: part.left() });
    }
    bits(wire_type, bytes).map(Found::Bits)
}

#[inline]
fn bits(wire_type: WireType, bytes: &mut Bytes<'_>) -> Result<u64, Broken> {
    match wire_type {
        WireType::Varint => bytes.varint(),
        WireType::Fixed32 => Ok(u32::from_le_bytes(bytes.array()?).into()),
        WireType::Fixed64 => Ok(u64::from_le_bytes(bytes.array()?)),
        WireType::Delimited | WireType::GroupStart | WireType::GroupEnd => Err(Broken::Group),
    }
}

/// Adds an item, or those that are packed. Each has a byte at least.
fn gather(item: WireType, wire_type: WireType, bytes: &mut Bytes<'_>, items: &mut Vec<u64>) -> Result<(), Unread> {
    if wire_type == item {
        items.push(bits(item, bytes).map_err(|broken| at(broken, bytes))?);
        return Ok(());
    }
    let mut packed = bytes.delimited().map_err(|broken| at(broken, bytes))?;
    while packed.left() > 0 {
        items.push(bits(item, &mut packed).map_err(|broken| at(broken, &packed))?);
    }
    Ok(())
}

fn at(broken: Broken, bytes: &Bytes<'_>) -> Unread {
    Unread { at: bytes.at(), what: broken.what().into() }
}

fn put_time(to: Time, found: [Found; 3], column: &Column, row: &mut Row<'_>) -> Result<(), Refusal> {
    let bits = |found| if let Found::Bits(bits) = found { bits } else { 0 };
    let [message, seconds, nanoseconds] = found;
    if message == Found::Nothing {
        return column.push_null(row, "missing");
    }
    let time = (bits(seconds) as i64, bits(nanoseconds) as i32);
    match to {
        Time::Timestamp(unit) => value::put_timestamp(time, unit, column, row),
        Time::DurationFloat => value::put_duration(time, true, column, row),
        Time::DurationNanoseconds => value::put_duration(time, false, column, row),
    }
}

#[cold]
fn foreign(name: &str, expected: WireType, got: WireType, at: usize) -> Unread {
    let (expected, got) = (expected.name(), got.name());
    Unread { at, what: format!("field {name} has {got}, and in the schema {expected}").into() }
}
