//! What a window remembers of its rows for one key: a run of words, the *cell*, that each aggregate has its part in.
//!
//! A cell is laid out once for a step ([`CellLayout`]); aggregates that need the same part share it (the sum of a mean
//! and of a sum, say). Which part a result is read from is its [`Reading`].

use ringmill_wire::{DataType, Field, Schema};

use super::aggregate::{BoundAggregate, Function};
use super::arena::NONE;

/// How a column's values are brought to one word each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// As `i64`: int8 … int64, timestamps.
    Signed,
    /// As `u64`: bool, uint8 … uint64.
    Unsigned,
    /// As the bits of an `f64`.
    Float,
    /// Not at all: utf8, binary.
    Bytes,
}

impl Kind {
    /// Of a column type.
    pub fn of(data_type: DataType) -> Self {
        use DataType as T;
        match data_type {
            T::Int8 | T::Int16 | T::Int32 | T::Int64 | T::Timestamp(_) => Self::Signed,
            T::Bool | T::UInt8 | T::UInt16 | T::UInt32 | T::UInt64 => Self::Unsigned,
            T::Float32 | T::Float64 => Self::Float,
            T::Utf8 | T::Binary | T::List(_) => Self::Bytes,
        }
    }
}

/// A column that some aggregate looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InputColumn {
    /// Index in the input schema.
    pub index: usize,
    /// Its type.
    pub data_type: DataType,
    /// How its values are brought to words.
    pub kind: Kind,
}

/// What is done to a cell with a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// `[rows]`
    Rows,
    /// `[values that are there]`
    Present,
    /// `[i64 or u64]`: of at most 32 bits, so 2^32 rows do not overflow it.
    SumNarrow,
    /// `[i128]`
    SumWide,
    /// `[f64]`
    SumFloat,
    /// `[value]`
    Min,
    /// `[value]`
    Max,
    /// `[number, mean, sum of squared differences]` (Welford 1962)
    Spread,
    /// `[row number + 1, value]`
    First,
    /// As `First`.
    Last,
    /// `[first block << 32 | last block, items << 32 | bytes used in the last block]`
    Collect,
}

/// An action on a part of the cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// What is done.
    pub action: Action,
    /// Index into [`CellLayout::inputs`]; any for [`Action::Rows`].
    pub input: usize,
    /// How its values come.
    pub kind: Kind,
    /// First word in the cell.
    pub word: usize,
}

/// Where a result is read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// A count.
    Count(usize),
    /// A sum, by its action.
    Sum(Action, Kind, usize),
    /// A sum by its action, divided by a count.
    Mean(Action, Kind, usize, usize),
    /// A value in a word.
    Value(Kind, usize),
    /// Variance.
    Variance(usize),
    /// Standard deviation.
    Stddev(usize),
    /// Bytes in the arena, with the row number before.
    Bytes(usize),
    /// A list in the arena.
    List(usize),
}

/// An output column and how it is read from a cell.
#[derive(Clone, Debug)]
pub struct Output {
    /// The column.
    pub field: Field,
    /// Where the result is.
    pub reading: Reading,
    /// The word that is 0 if there is no result; `None`: there always is.
    pub present: Option<usize>,
}

/// The words of a cell.
#[derive(Clone, Debug, Default)]
pub struct CellLayout {
    /// Columns that are looked at.
    pub inputs: Vec<InputColumn>,
    /// What is done for each row.
    pub parts: Vec<Part>,
    /// Results.
    pub outputs: Vec<Output>,
    /// A cell without rows.
    pub initial: Vec<u64>,
}

impl CellLayout {
    /// For those aggregates.
    pub fn new(aggregates: &[BoundAggregate], schema: &Schema) -> Self {
        let mut layout = Self::default();
        for aggregate in aggregates {
            let output = layout.output(aggregate, schema);
            layout.outputs.push(output);
        }
        layout
    }

    /// Adds words that are no aggregate's.
    pub fn add_words(&mut self, words: &[u64]) -> usize {
        let word = self.initial.len();
        self.initial.extend_from_slice(words);
        word
    }

    fn output(&mut self, aggregate: &BoundAggregate, schema: &Schema) -> Output {
        let field = aggregate.output.clone();
        let Some(index) = aggregate.input else {
            let word = self.part(Action::Rows, 0, Kind::Unsigned);
            return Output { field, reading: Reading::Count(word), present: None };
        };
        let nullable = schema.field(index).nullable;
        let (input, kind) = self.input(index, schema);
        let count = |layout: &mut Self| match nullable {
            true => layout.part(Action::Present, input, kind),
            false => layout.part(Action::Rows, 0, Kind::Unsigned),
        };
        let (reading, present) = match aggregate.function {
            Function::Count => (Reading::Count(count(self)), None),
            Function::Sum => {
                let action = self.sum_action(input);
                let word = self.part(action, input, kind);
                (Reading::Sum(action, kind, word), nullable.then(|| count(self)))
            }
            Function::Mean => {
                let action = self.sum_action(input);
                let (word, count) = (self.part(action, input, kind), count(self));
                (Reading::Mean(action, kind, word, count), Some(count))
            }
            Function::Min => (Reading::Value(kind, self.part(Action::Min, input, kind)), nullable.then(|| count(self))),
            Function::Max => (Reading::Value(kind, self.part(Action::Max, input, kind)), nullable.then(|| count(self))),
            Function::Variance => {
                let word = self.part(Action::Spread, input, kind);
                (Reading::Variance(word), Some(word))
            }
            Function::Stddev => {
                let word = self.part(Action::Spread, input, kind);
                (Reading::Stddev(word), Some(word))
            }
            Function::First | Function::Last => {
                let action = if aggregate.function == Function::First { Action::First } else { Action::Last };
                let word = self.part(action, input, kind);
                let reading = if kind == Kind::Bytes { Reading::Bytes(word) } else { Reading::Value(kind, word + 1) };
                (reading, Some(word))
            }
            Function::Collect => (Reading::List(self.part(Action::Collect, input, kind)), None),
        };
        Output { present: present.filter(|_| field.nullable), field, reading }
    }

    fn input(&mut self, index: usize, schema: &Schema) -> (usize, Kind) {
        let data_type = schema.field(index).data_type;
        let column = InputColumn { index, data_type, kind: Kind::of(data_type) };
        let at = self.inputs.iter().position(|input| *input == column).unwrap_or_else(|| {
            self.inputs.push(column);
            self.inputs.len() - 1
        });
        (at, column.kind)
    }

    fn sum_action(&self, input: usize) -> Action {
        match self.inputs[input].data_type {
            DataType::Float32 | DataType::Float64 => Action::SumFloat,
            DataType::Int64 | DataType::UInt64 => Action::SumWide,
            _ => Action::SumNarrow,
        }
    }

    /// The first word of the part, which is added if it is not there yet.
    fn part(&mut self, action: Action, input: usize, kind: Kind) -> usize {
        if let Some(part) = self.parts.iter().find(|part| part.action == action && part.input == input) {
            return part.word;
        }
        let none = u64::from(NONE);
        let word = match (action, kind) {
            (Action::Min, Kind::Signed) => self.add_words(&[i64::MAX as u64]),
            (Action::Max, Kind::Signed) => self.add_words(&[i64::MIN as u64]),
            (Action::Min, Kind::Unsigned) => self.add_words(&[u64::MAX]),
            (Action::Min | Action::Max, Kind::Float) => self.add_words(&[f64::NAN.to_bits()]),
            (Action::SumWide, _) => self.add_words(&[0, 0]),
            (Action::Spread, _) => self.add_words(&[0, 0, 0]),
            (Action::First | Action::Last, _) => self.add_words(&[0, none << 32]),
            (Action::Collect, _) => self.add_words(&[none << 32 | none, 0]),
            _ => self.add_words(&[0]),
        };
        self.parts.push(Part { action, input, kind, word });
        word
    }
}
