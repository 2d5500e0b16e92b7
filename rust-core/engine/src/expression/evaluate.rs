//! Evaluation, a column at a time: each part of the tree fills its own buffers for the rows asked for.

use std::cmp::Ordering;
use std::ops::Range;

use ringmill_wire::{BatchView, ColumnView, DataType};

use super::bind::Kind;
use super::parse::Operator;

/// A part of a bound expression and its values for the rows last asked for.
#[derive(Clone, Debug)]
pub struct Bound {
    kind: Kind,
    operation: Operation,
    lanes: Lanes,
}

/// How a part gets its values.
#[derive(Clone, Debug)]
pub enum Operation {
    /// From a column.
    Column(usize),
    /// The same for every row.
    Integer(i128),
    /// The same for every row.
    Float(f64),
    /// The same for every row.
    Text(Box<[u8]>),
    /// The same for every row.
    Boolean(bool),
    /// Null for every row.
    Null,
    /// `not`.
    Not(Box<Bound>),
    /// `-x`, or `abs(x)`.
    Sign {
        /// x
        inner: Box<Bound>,
        /// abs
        is_absolute: bool,
    },
    /// `is null`, or `is not null` if the flag is set.
    IsNull(Box<Bound>, bool),
    /// `x in (…)`.
    In {
        /// x
        inner: Box<Bound>,
        /// What it may be.
        items: Vec<Bound>,
        /// Room for whether it is one of them.
        equal: Box<Bound>,
    },
    /// `and`, `or`.
    Logic(Operator, Box<Bound>, Box<Bound>),
    /// `+ - * / %`.
    Arithmetic(Operator, Box<Bound>, Box<Bound>),
    /// `== != < <= > >=`.
    Compare(Operator, Box<Bound>, Box<Bound>),
}

/// Values and whether they are there; only the vector that belongs to the kind is filled, and none for text, which is
/// read where it lies.
#[derive(Clone, Debug, Default)]
struct Lanes {
    valid: Vec<bool>,
    truth: Vec<bool>,
    integers: Vec<i128>,
    floats: Vec<f64>,
}

impl Bound {
    /// A part that has not been evaluated yet.
    pub fn new(kind: Kind, operation: Operation) -> Bound {
        Bound { kind, operation, lanes: Lanes::default() }
    }

    /// What it yields.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// For each row of the last evaluation, whether a condition is true.
    pub fn truth(&self) -> impl Iterator<Item = bool> {
        self.lanes.truth.iter().zip(&self.lanes.valid).map(|(truth, valid)| *truth && *valid)
    }

    /// Fills the buffers for these rows.
    pub fn evaluate(&mut self, view: &BatchView<'_>, rows: Range<usize>) {
        let count = rows.len();
        let lanes = &mut self.lanes;
        match &mut self.operation {
            Operation::Column(index) => lanes.read(&view.column(*index), self.kind, rows),
            Operation::Integer(value) => lanes.fill(count, |lanes| lanes.integers.resize(count, *value)),
            Operation::Float(value) => lanes.fill(count, |lanes| lanes.floats.resize(count, *value)),
            Operation::Boolean(value) => lanes.fill(count, |lanes| lanes.truth.resize(count, *value)),
            Operation::Text(_) => lanes.fill(count, |_| {}),
            Operation::Null => {
                lanes.clear();
                lanes.valid.resize(count, false);
                lanes.truth.resize(count, false);
            }
            Operation::Not(inner) => {
                inner.evaluate(view, rows);
                lanes.clear();
                lanes.valid.extend_from_slice(&inner.lanes.valid);
                lanes.truth.extend(inner.lanes.truth.iter().map(|truth| !truth));
            }
            Operation::Sign { inner, is_absolute } => {
                inner.evaluate(view, rows);
                lanes.sign(&inner.lanes, *is_absolute);
            }
            Operation::IsNull(inner, negated) => {
                inner.evaluate(view, rows);
                lanes.fill(count, |lanes| lanes.truth.extend(inner.lanes.valid.iter().map(|valid| *valid == *negated)));
            }
            Operation::In { inner, items, equal } => {
                inner.evaluate(view, rows.clone());
                lanes.fill(count, |lanes| lanes.truth.resize(count, false));
                for item in items {
                    item.evaluate(view, rows.clone());
                    equal.lanes.compare(Operator::Equal, inner, item, view, rows.clone());
                    lanes.or(&equal.lanes);
                }
            }
            Operation::Logic(operator, a, b) => {
                a.evaluate(view, rows.clone());
                b.evaluate(view, rows);
                lanes.logic(*operator, &a.lanes, &b.lanes);
            }
            Operation::Arithmetic(operator, a, b) => {
                a.evaluate(view, rows.clone());
                b.evaluate(view, rows);
                lanes.arithmetic(*operator, self.kind, a, b);
            }
            Operation::Compare(operator, a, b) => {
                a.evaluate(view, rows.clone());
                b.evaluate(view, rows.clone());
                lanes.compare(*operator, a, b, view, rows);
            }
        }
    }

    fn float(&self, row: usize) -> f64 {
        match self.kind {
            Kind::Integer => self.lanes.integers[row] as f64,
            Kind::Null => f64::NAN,
            _ => self.lanes.floats[row],
        }
    }

    fn integer(&self, row: usize) -> i128 {
        if self.kind == Kind::Null { 0 } else { self.lanes.integers[row] }
    }

    fn text<'a>(&'a self, view: &BatchView<'a>, row: usize) -> &'a [u8] {
        match &self.operation {
            Operation::Column(index) => view.column(*index).bytes(row),
            Operation::Text(text) => text,
            _ => &[],
        }
    }
}

impl Lanes {
    fn clear(&mut self) {
        self.valid.clear();
        self.truth.clear();
        self.integers.clear();
        self.floats.clear();
    }

    /// Values that are all there.
    fn fill(&mut self, count: usize, values: impl FnOnce(&mut Lanes)) {
        self.clear();
        self.valid.resize(count, true);
        values(self);
    }

    fn read(&mut self, column: &ColumnView<'_>, kind: Kind, rows: Range<usize>) {
        self.clear();
        match column.validity() {
            None => self.valid.resize(rows.len(), true),
            Some(_) => self.valid.extend(rows.clone().map(|row| column.is_valid(row))),
        }
        if kind == Kind::Null {
            return;
        }
        let integers = &mut self.integers;
        match column.data_type() {
            DataType::Bool => self.truth.extend(column.values::<u8>()[rows].iter().map(|byte| *byte != 0)),
            DataType::Int8 => integers.extend(column.values::<i8>()[rows].iter().map(|value| i128::from(*value))),
            DataType::Int16 => integers.extend(column.values::<i16>()[rows].iter().map(|value| i128::from(*value))),
            DataType::Int32 => integers.extend(column.values::<i32>()[rows].iter().map(|value| i128::from(*value))),
            DataType::Int64 => integers.extend(column.values::<i64>()[rows].iter().map(|value| i128::from(*value))),
            DataType::UInt8 => integers.extend(column.values::<u8>()[rows].iter().map(|value| i128::from(*value))),
            DataType::UInt16 => integers.extend(column.values::<u16>()[rows].iter().map(|value| i128::from(*value))),
            DataType::UInt32 => integers.extend(column.values::<u32>()[rows].iter().map(|value| i128::from(*value))),
            DataType::UInt64 => integers.extend(column.values::<u64>()[rows].iter().map(|value| i128::from(*value))),
            DataType::Timestamp(unit) => {
                integers.extend(
                    column.values::<i64>()[rows]
                        .iter()
                        .map(|value| i128::from(*value) * i128::from(unit.nanoseconds())),
                );
            }
            DataType::Float32 => self.floats.extend(column.values::<f32>()[rows].iter().map(|value| f64::from(*value))),
            DataType::Float64 => self.floats.extend_from_slice(&column.values::<f64>()[rows]),
            DataType::Utf8 | DataType::Binary | DataType::List(_) => {}
        }
    }

    fn sign(&mut self, inner: &Lanes, is_absolute: bool) {
        self.clear();
        self.valid.extend_from_slice(&inner.valid);
        self.floats.extend(inner.floats.iter().map(|value| if is_absolute { value.abs() } else { -value }));
        for (row, value) in inner.integers.iter().enumerate() {
            let result = if is_absolute { value.checked_abs() } else { value.checked_neg() };
            self.valid[row] &= result.is_some();
            self.integers.push(result.unwrap_or(0));
        }
    }

    /// Kleene's logic: what decides counts even beside null.
    fn logic(&mut self, operator: Operator, a: &Lanes, b: &Lanes) {
        self.clear();
        let decisive = operator == Operator::Or;
        let sides = a.valid.iter().zip(&a.truth).zip(b.valid.iter().zip(&b.truth));
        for ((&a_valid, &a), (&b_valid, &b)) in sides {
            let decided = (a_valid && a == decisive) || (b_valid && b == decisive);
            self.truth.push(if decided { decisive } else { !decisive });
            self.valid.push(decided || (a_valid && b_valid));
        }
    }

    /// As `logic`, in place.
    fn or(&mut self, other: &Lanes) {
        let sides = self.valid.iter_mut().zip(&mut self.truth).zip(other.valid.iter().zip(&other.truth));
        for ((valid, truth), (&other_valid, &other)) in sides {
            let decided = (*valid && *truth) || (other_valid && other);
            *truth = decided;
            *valid = decided || (*valid && other_valid);
        }
    }

    fn arithmetic(&mut self, operator: Operator, kind: Kind, a: &Bound, b: &Bound) {
        self.clear();
        self.valid.extend(a.lanes.valid.iter().zip(&b.lanes.valid).map(|(a, b)| *a && *b));
        for row in 0..self.valid.len() {
            if kind == Kind::Float {
                let (a, b) = (a.float(row), b.float(row));
                self.floats.push(match operator {
                    Operator::Add => a + b,
                    Operator::Subtract => a - b,
                    Operator::Multiply => a * b,
                    Operator::Divide => a / b,
                    _ => a % b,
                });
            } else {
                let (a, b) = (a.integer(row), b.integer(row));
                let result = match operator {
                    Operator::Add => a.checked_add(b),
                    Operator::Subtract => a.checked_sub(b),
                    Operator::Multiply => a.checked_mul(b),
                    _ => a.checked_rem(b),
                };
                self.valid[row] &= result.is_some();
                self.integers.push(result.unwrap_or(0));
            }
        }
    }

    fn compare(&mut self, operator: Operator, a: &Bound, b: &Bound, view: &BatchView<'_>, rows: Range<usize>) {
        self.clear();
        self.valid.extend(a.lanes.valid.iter().zip(&b.lanes.valid).map(|(a, b)| *a && *b));
        let count = rows.len();
        let is = |ordering: Option<Ordering>| holds(operator, ordering);
        let kinds = (a.kind, b.kind);
        match kinds {
            (Kind::Null, _) | (_, Kind::Null) => self.truth.resize(count, false),
            (Kind::Text, _) => {
                self.truth.extend(rows.map(|row| is(Some(a.text(view, row).cmp(b.text(view, row))))));
            }
            (Kind::Boolean, _) => {
                self.truth.extend(a.lanes.truth.iter().zip(&b.lanes.truth).map(|(a, b)| is(Some(a.cmp(b)))));
            }
            (Kind::Float, Kind::Float) => {
                self.truth.extend(a.lanes.floats.iter().zip(&b.lanes.floats).map(|(a, b)| is(a.partial_cmp(b))));
            }
            (Kind::Float, _) => {
                self.truth.extend(
                    (0..count).map(|row| is(compare_mixed(b.integer(row), a.float(row)).map(Ordering::reverse))),
                );
            }
            (_, Kind::Float) => {
                self.truth.extend((0..count).map(|row| is(compare_mixed(a.integer(row), b.float(row)))));
            }
            _ => self.truth.extend(a.lanes.integers.iter().zip(&b.lanes.integers).map(|(a, b)| is(Some(a.cmp(b))))),
        }
    }
}

/// Compares exactly, without rounding the integer to a double.
fn compare_mixed(integer: i128, float: f64) -> Option<Ordering> {
    if float.is_nan() {
        return None;
    }
    // 2^127: the least double beyond every integer. `as` would clamp it to one.
    const BEYOND: f64 = -(i128::MIN as f64);
    if float >= BEYOND {
        return Some(Ordering::Less);
    }
    if float < -BEYOND {
        return Some(Ordering::Greater);
    }
    let whole = float.floor();
    let ordering = integer.cmp(&(whole as i128));
    Some(if ordering == Ordering::Equal && float > whole { Ordering::Less } else { ordering })
}

fn holds(operator: Operator, ordering: Option<Ordering>) -> bool {
    match (operator, ordering) {
        (Operator::NotEqual, None) => true,
        (_, None) => false,
        (Operator::Equal, Some(ordering)) => ordering.is_eq(),
        (Operator::NotEqual, Some(ordering)) => ordering.is_ne(),
        (Operator::Less, Some(ordering)) => ordering.is_lt(),
        (Operator::LessEqual, Some(ordering)) => ordering.is_le(),
        (Operator::Greater, Some(ordering)) => ordering.is_gt(),
        (_, Some(ordering)) => ordering.is_ge(),
    }
}
