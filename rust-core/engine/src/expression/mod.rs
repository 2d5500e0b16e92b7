//! Row predicates: `score > 4.0 and readings >= 3`. (Placeholder with the final signatures.)
#![allow(missing_docs, unused_variables)]
use std::ops::Range;

use ringmill_wire::{BatchView, Schema};

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ExpressionError {
    pub offset: usize,
    pub message: String,
    pub hint: Option<String>,
}
pub struct Expression;
impl Expression {
    pub fn parse(text: &str) -> Result<Expression, ExpressionError> {
        unimplemented!()
    }
    pub fn bind(&self, schema: &Schema) -> Result<Predicate, ExpressionError> {
        unimplemented!()
    }
}
pub struct Predicate;
impl Predicate {
    pub fn select(&mut self, view: &BatchView<'_>, rows: Range<usize>, selected: &mut Vec<u32>) {}
}
