//! A tree of names into a tree of columns, with every type checked.

use ringmill_wire::{DataType, Schema};

use super::ExpressionError;
use super::evaluate::{Bound, Operation};
use super::parse::{Form, Node, Operator};
use crate::nearest::nearest;

/// What a part of an expression yields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// True, false or null.
    Boolean,
    /// A whole number, or a timestamp in nanoseconds.
    Integer,
    /// A double.
    Float,
    /// Nanoseconds since 1970.
    Timestamp,
    /// Text.
    Text,
    /// Only `null`.
    Null,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Boolean => "a condition",
            Kind::Integer => "a whole number",
            Kind::Float => "a number",
            Kind::Timestamp => "a timestamp",
            Kind::Text => "text",
            Kind::Null => "null",
        }
    }

    fn is_number(self) -> bool {
        matches!(self, Kind::Integer | Kind::Float | Kind::Null)
    }
}

/// Binds a whole expression, which must be a condition.
pub fn condition(node: &Node, schema: &Schema) -> Result<Bound, ExpressionError> {
    let bound = bind(node, schema)?;
    expect(&bound, Kind::Boolean, node.offset)?;
    Ok(bound)
}

fn expect(bound: &Bound, kind: Kind, offset: usize) -> Result<(), ExpressionError> {
    if bound.kind() == kind || bound.kind() == Kind::Null {
        return Ok(());
    }
    Err(ExpressionError::new(offset, format!("expected {}, got {}", kind.name(), bound.kind().name())))
}

fn bind(node: &Node, schema: &Schema) -> Result<Bound, ExpressionError> {
    let offset = node.offset;
    Ok(match &node.form {
        Form::Column(name) => column(name, offset, schema)?,
        Form::Integer(value) => Bound::new(Kind::Integer, Operation::Integer(*value)),
        Form::Float(value) => Bound::new(Kind::Float, Operation::Float(*value)),
        Form::Text(text) => Bound::new(Kind::Text, Operation::Text(text.as_bytes().into())),
        Form::Boolean(value) => Bound::new(Kind::Boolean, Operation::Boolean(*value)),
        Form::Null => Bound::new(Kind::Null, Operation::Null),
        Form::Not(inner) => {
            let bound = bind(inner, schema)?;
            expect(&bound, Kind::Boolean, inner.offset)?;
            Bound::new(Kind::Boolean, Operation::Not(Box::new(bound)))
        }
        Form::Negate(inner) | Form::Absolute(inner) => {
            let bound = bind(inner, schema)?;
            if !bound.kind().is_number() {
                return Err(ExpressionError::new(
                    inner.offset,
                    format!("expected a number, got {}", bound.kind().name()),
                ));
            }
            let kind = bound.kind();
            let is_absolute = matches!(node.form, Form::Absolute(_));
            Bound::new(kind, Operation::Sign { inner: Box::new(bound), is_absolute })
        }
        Form::IsNull(inner, negated) => {
            let inner = if let Form::Column(name) = &inner.form {
                any_column(name, inner.offset, schema)?
            } else {
                bind(inner, schema)?
            };
            Bound::new(Kind::Boolean, Operation::IsNull(Box::new(inner), *negated))
        }
        Form::In(inner, items, negated) => member(inner, items, *negated, schema)?,
        Form::Binary(operator, left, right) => binary(*operator, left, right, offset, schema)?,
    })
}

/// `x in (a, b)` is `x == a or x == b`.
fn member(inner: &Node, items: &[Node], negated: bool, schema: &Schema) -> Result<Bound, ExpressionError> {
    let mut bound = bind(inner, schema)?;
    let mut bound_items = Vec::with_capacity(items.len());
    for item in items {
        let mut bound_item = bind(item, schema)?;
        comparable((&mut bound, inner), (&mut bound_item, item), item.offset)?;
        bound_items.push(bound_item);
    }
    let equal = Bound::new(Kind::Boolean, Operation::Null);
    let any =
        Bound::new(Kind::Boolean, Operation::In { inner: Box::new(bound), items: bound_items, equal: Box::new(equal) });
    Ok(if negated { Bound::new(Kind::Boolean, Operation::Not(Box::new(any))) } else { any })
}

fn binary(
    operator: Operator,
    left: &Node,
    right: &Node,
    offset: usize,
    schema: &Schema,
) -> Result<Bound, ExpressionError> {
    let (mut a, mut b) = (bind(left, schema)?, bind(right, schema)?);
    match operator {
        Operator::And | Operator::Or => {
            expect(&a, Kind::Boolean, left.offset)?;
            expect(&b, Kind::Boolean, right.offset)?;
            Ok(Bound::new(Kind::Boolean, Operation::Logic(operator, Box::new(a), Box::new(b))))
        }
        Operator::Add | Operator::Subtract | Operator::Multiply | Operator::Divide | Operator::Remainder => {
            for (bound, node) in [(&a, left), (&b, right)] {
                if !bound.kind().is_number() {
                    return Err(ExpressionError::new(
                        node.offset,
                        format!("expected a number, got {}", bound.kind().name()),
                    ));
                }
            }
            let is_float = operator == Operator::Divide || a.kind() == Kind::Float || b.kind() == Kind::Float;
            let kind = if is_float { Kind::Float } else { Kind::Integer };
            Ok(Bound::new(kind, Operation::Arithmetic(operator, Box::new(a), Box::new(b))))
        }
        _ => {
            comparable((&mut a, left), (&mut b, right), offset)?;
            Ok(Bound::new(Kind::Boolean, Operation::Compare(operator, Box::new(a), Box::new(b))))
        }
    }
}

/// Two sides that can be compared, once strings beside timestamps are timestamps.
fn comparable(a: (&mut Bound, &Node), b: (&mut Bound, &Node), offset: usize) -> Result<(), ExpressionError> {
    timestamp_literal(a.0, b.0.kind(), a.1)?;
    timestamp_literal(b.0, a.0.kind(), b.1)?;
    let (a, b) = (a.0.kind(), b.0.kind());
    if a == b || (a.is_number() && b.is_number()) || a == Kind::Null || b == Kind::Null {
        return Ok(());
    }
    let message = format!("{} cannot be compared with {}", a.name(), b.name());
    Err(compare_hint(ExpressionError::new(offset, message), a, b))
}

fn compare_hint(error: ExpressionError, a: Kind, b: Kind) -> ExpressionError {
    match (a, b) {
        (Kind::Timestamp, _) | (_, Kind::Timestamp) => {
            error.hint("compare it with a string such as \"2026-01-01T00:00:00Z\"")
        }
        (Kind::Text, Kind::Integer | Kind::Float) | (Kind::Integer | Kind::Float, Kind::Text) => {
            error.hint("numbers are written without quotes")
        }
        _ => error,
    }
}

/// A string that stands beside a timestamp is one.
fn timestamp_literal(bound: &mut Bound, other: Kind, node: &Node) -> Result<(), ExpressionError> {
    let (Form::Text(text), Kind::Timestamp) = (&node.form, other) else { return Ok(()) };
    let parsed: jiff::Timestamp = text.parse().map_err(|_| {
        let error = ExpressionError::new(node.offset, format!("{text:?} is not a timestamp"));
        error.hint("for example \"2026-01-01T00:00:00Z\"")
    })?;
    *bound = Bound::new(Kind::Timestamp, Operation::Integer(parsed.as_nanosecond()));
    Ok(())
}

fn find(name: &str, offset: usize, schema: &Schema) -> Result<usize, ExpressionError> {
    schema.index_of(name).ok_or_else(|| {
        let error = ExpressionError::new(offset, format!("there is no column {name:?}"));
        match nearest(name, schema.fields.iter().map(|field| field.name.as_str())) {
            Some(near) => error.hint(format!("did you mean {near:?}?")),
            None => {
                let names: Vec<&str> = schema.fields.iter().map(|field| field.name.as_str()).collect();
                error.hint(format!("there are {}", names.join(", ")))
            }
        }
    })
}

/// A column of which only the validity is asked for.
fn any_column(name: &str, offset: usize, schema: &Schema) -> Result<Bound, ExpressionError> {
    Ok(Bound::new(Kind::Null, Operation::Column(find(name, offset, schema)?)))
}

fn column(name: &str, offset: usize, schema: &Schema) -> Result<Bound, ExpressionError> {
    let index = find(name, offset, schema)?;
    let data_type = schema.field(index).data_type;
    let kind = match data_type {
        DataType::Bool => Kind::Boolean,
        DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::Int64 => Kind::Integer,
        DataType::UInt8 | DataType::UInt16 | DataType::UInt32 | DataType::UInt64 => Kind::Integer,
        DataType::Float32 | DataType::Float64 => Kind::Float,
        DataType::Timestamp(_) => Kind::Timestamp,
        DataType::Utf8 => Kind::Text,
        DataType::Binary | DataType::List(_) => {
            let message = format!("column {name:?} is {data_type}, which can only be asked whether it is null");
            return Err(ExpressionError::new(offset, message).hint(format!("{name} is null, {name} is not null")));
        }
    };
    Ok(Bound::new(kind, Operation::Column(index)))
}
