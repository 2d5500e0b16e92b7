//! Row predicates: `score > 4.0 and readings >= 3`.
//!
//! Text is parsed into an [`Expression`], bound to a schema (names and types are checked here, once), and the resulting
//! [`Predicate`] picks rows of batches column by column, without allocating once its buffers have grown.
//!
//! Semantics are SQL's: three-valued logic (a comparison with null is null, and a row passes only if the whole is
//! true). Integers are compared and added exactly (as 128-bit numbers; beyond that, null); as soon as a float takes part,
//! and in every division, IEEE 754 double arithmetic is used, where NaN equals nothing. `%` has the sign of its left
//! side. Timestamps compare with timestamps of any unit and with RFC 3339 strings.
//!
//! ```text
//! or  →  and  →  not  →  = comparisons, is [not] null, [not] in (…)  →  + -  →  * / %  →  -x  →  value, (…), abs(…)
//! ```

mod bind;
mod evaluate;
mod parse;
mod token;

use std::ops::Range;

use ringmill_wire::{BatchView, Schema};

use evaluate::Bound;
use parse::Node;

/// What is wrong with an expression, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ExpressionError {
    /// Byte offset in the text.
    pub offset: usize,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl ExpressionError {
    fn new(offset: usize, message: impl Into<String>) -> Self {
        Self { offset, message: message.into(), hint: None }
    }

    fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// A parsed expression, not yet tied to columns.
#[derive(Clone, Debug)]
pub struct Expression(Node);

impl Expression {
    /// Parses the text.
    ///
    /// # Errors
    /// The first place at which it is not an expression.
    pub fn parse(text: &str) -> Result<Expression, ExpressionError> {
        parse::parse(text).map(Expression)
    }

    /// Ties the names to the schema's columns.
    ///
    /// # Errors
    /// An unknown column, operands whose types do not go together, or a result that is not a condition.
    pub fn bind(&self, schema: &Schema) -> Result<Predicate, ExpressionError> {
        bind::condition(&self.0, schema).map(Predicate)
    }
}

/// An expression tied to a schema.
#[derive(Clone, Debug)]
pub struct Predicate(Bound);

impl Predicate {
    /// Appends to `selected` the rows of `rows` for which the expression is true, in order. The view must have the
    /// schema that the expression was bound to.
    pub fn select(&mut self, view: &BatchView<'_>, rows: Range<usize>, selected: &mut Vec<u32>) {
        let first = rows.start;
        self.0.evaluate(view, rows);
        let truth = self.0.truth();
        selected.extend(truth.enumerate().filter(|(_, passes)| *passes).map(|(row, _)| (first + row) as u32));
    }
}
