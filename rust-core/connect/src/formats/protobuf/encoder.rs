//! Rows to messages: each column to the field of its name, or at its path.
//!
//! What fits is found out once. Every column needs a field, and every required field a column; numbers may become wider.
//! What can be null needs a field that knows absence. What a value alone can break, such as a name that an enum does not
//! have, is asked before it is written.

use std::{
    collections::{BTreeMap, HashSet},
    ops::Range,
};

use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};
use ringmill_wire::{BatchView, Schema};

use super::{
    form::{Form, write_delimited},
    schema::{field_names, name_of},
    value::is_wrapper,
    wire::WireType,
};
use crate::{
    ConnectError, FieldSpec,
    formats::{
        FieldMisfit,
        binary::write_varint,
        paths::{Paths, Target},
    },
};

/// Writes messages of one type.
pub(super) struct ProtobufEncoder {
    parts: Vec<Part>,
}

/// A field that is written.
enum Part {
    Value(FieldWriter),
    /// a message with fields in it; it is there if one of its columns is not null, or always
    Message {
        key: u32,
        parts: Vec<Part>,
        is_required: bool,
    },
}

struct FieldWriter {
    /// the field's number, and how long its values are
    key: u32,
    column: usize,
    form: Form,
    /// zero is what is read where there is nothing
    leaves_out_zero: bool,
}

impl ProtobufEncoder {
    /// For rows of this schema, those of whose columns that have a path at that field; or what does not fit.
    pub fn new(
        message: &MessageDescriptor,
        rows: &Schema,
        paths: &BTreeMap<String, String>,
    ) -> Result<ProtobufEncoder, ConnectError> {
        if let Some(name) = paths.keys().find(|name| rows.index_of(name).is_none()) {
            let rule = "the rows have no such column";
            return Err(ConnectError::Spec { option: "paths", value: name.clone(), rule });
        }
        let place = |field: &ringmill_wire::Field| FieldSpec {
            name: field.name.clone(),
            data_type: field.data_type,
            nullable: field.nullable,
            path: paths.get(&field.name).cloned(),
        };
        let places: Vec<FieldSpec> = rows.fields.iter().map(place).collect();
        let paths = Paths::new(places.iter().enumerate())?;
        let mut compiler = Compiler { paths: &paths, rows, misfits: Vec::new() };
        let parts = compiler.message(message, 0);
        match compiler.misfits.is_empty() {
            true => Ok(ProtobufEncoder { parts }),
            false => Err(ConnectError::Misfit { misfits: compiler.misfits }),
        }
    }

    /// Appends a row.
    pub fn write(&self, view: &BatchView<'_>, row: usize, out: &mut Vec<u8>) {
        write_parts(&self.parts, view, row, out);
    }

    /// Whether all values of these rows can be written.
    pub fn check(&self, view: &BatchView<'_>, rows: Range<usize>) -> Result<(), ConnectError> {
        check_parts(&self.parts, view, &rows)
    }
}

impl Part {
    fn key(&self) -> u32 {
        match self {
            Part::Value(FieldWriter { key, .. }) | Part::Message { key, .. } => *key,
        }
    }

    fn is_there(&self, view: &BatchView<'_>, row: usize) -> bool {
        match self {
            Part::Value(field) => view.column(field.column).is_valid(row),
            Part::Message { parts, .. } => parts.iter().any(|part| part.is_there(view, row)),
        }
    }
}

fn write_parts(parts: &[Part], view: &BatchView<'_>, row: usize, out: &mut Vec<u8>) {
    for part in parts {
        match part {
            Part::Value(FieldWriter { key, column, form, leaves_out_zero }) => {
                let column = view.column(*column);
                if column.is_valid(row) {
                    form.write(*key, *leaves_out_zero, &column, row, out);
                }
            }
            Part::Message { key, parts, is_required } if *is_required || part.is_there(view, row) => {
                write_varint((*key).into(), out);
                write_delimited(out, |out| write_parts(parts, view, row, out));
            }
            Part::Message { .. } => {}
        }
    }
}

fn check_parts(parts: &[Part], view: &BatchView<'_>, rows: &Range<usize>) -> Result<(), ConnectError> {
    for part in parts {
        match part {
            Part::Value(field) if field.form.may_refuse() => {
                let column = view.column(field.column);
                let mut valid = rows.clone().filter(|row| column.is_valid(*row));
                if let Some((value, reason)) = valid.find_map(|row| field.form.refusal(&column, row)) {
                    let column = view.schema().field(field.column).name.clone();
                    return Err(ConnectError::Value { column, value, reason });
                }
            }
            Part::Value(_) => {}
            Part::Message { parts, .. } => check_parts(parts, view, rows)?,
        }
    }
    Ok(())
}

struct Compiler<'c> {
    paths: &'c Paths,
    rows: &'c Schema,
    misfits: Vec<FieldMisfit>,
}

impl Compiler<'_> {
    /// The fields of a message that columns are written to, in the order of their numbers.
    fn message(&mut self, message: &MessageDescriptor, path: usize) -> Vec<Part> {
        let (paths, mut parts, mut oneofs) = (self.paths, Vec::new(), HashSet::new());
        for child in &paths.node(path).children {
            let Some(field) = message.get_field_by_name(&child.key) else {
                let reason = format!("the message {} has no field {:?}", message.full_name(), &*child.key);
                let hint = format!("it has {}", field_names(message));
                self.refuse_all(child.target, &reason, Some(&hint));
                continue;
            };
            if field.containing_oneof().is_some_and(|oneof| !oneofs.insert(oneof.full_name().to_owned())) {
                self.refuse_all(child.target, "of a oneof there is one field, and another column has it", None);
            }
            parts.extend(self.part(&field, child.target));
        }
        for field in message.fields().filter(FieldDescriptor::is_required) {
            if !paths.node(path).children.iter().any(|child| &*child.key == field.name()) {
                let reason = "it is required, and no column is written to it".to_owned();
                self.misfits.push(FieldMisfit::new(field.full_name(), reason));
            }
        }
        parts.sort_by_key(Part::key);
        parts
    }

    fn part(&mut self, field: &FieldDescriptor, target: Target) -> Option<Part> {
        let kind = field.kind();
        let is_single = !field.is_map() && !field.is_list() && !field.is_group();
        match (target, &kind) {
            (Target::Node(below), Kind::Message(message)) if is_single => {
                let parts = self.message(message, below);
                Some(Part::Message { key: key(field, WireType::Delimited), parts, is_required: field.is_required() })
            }
            (Target::Node(_), _) => {
                let reason = format!("its path leads into {}, which is not one message", name_of(field));
                self.refuse_all(target, &reason, None);
                None
            }
            (Target::Column(column), Kind::Message(message)) if is_single && is_wrapper(message.full_name()) => {
                // Null is a wrapper that is not there.
                if field.is_required() && self.rows.field(column).nullable {
                    return self.refuse_null(field, column);
                }
                let inner = message.get_field(1).and_then(|inner| self.value(&inner, column));
                let parts = match inner {
                    Some(inner) => vec![Part::Value(inner)],
                    None => return self.refuse(field, column),
                };
                Some(Part::Message { key: key(field, WireType::Delimited), parts, is_required: false })
            }
            (Target::Column(column), _) => match self.value(field, column) {
                Some(value) if self.can_be_absent(field) || !self.rows.field(column).nullable => {
                    Some(Part::Value(value))
                }
                Some(_) => self.refuse_null(field, column),
                None => self.refuse(field, column),
            },
        }
    }

    fn value(&self, field: &FieldDescriptor, column: usize) -> Option<FieldWriter> {
        let form = Form::of(self.rows.field(column).data_type, field)?;
        let wire_type = match &form {
            Form::Scalar(scalar) => scalar.wire_type(),
            Form::Symbol(_) => WireType::Varint,
            Form::Items { scalar, is_packed: false, .. } => scalar.wire_type(),
            Form::Items { .. } | Form::Bytes | Form::Timestamp(_) | Form::Duration => WireType::Delimited,
        };
        let leaves_out_zero = !field.supports_presence() && !field.is_required();
        Some(FieldWriter { key: key(field, wire_type), column, form, leaves_out_zero })
    }

    fn can_be_absent(&self, field: &FieldDescriptor) -> bool {
        field.supports_presence() && !field.is_required()
    }

    fn refuse_null(&mut self, field: &FieldDescriptor, column: usize) -> Option<Part> {
        let name = &self.rows.field(column).name;
        let misfit = match field.is_list() || field.is_required() {
            true => {
                let word = if field.is_required() { "required" } else { "repeated" };
                FieldMisfit::new(name, format!("the column may be null, and a {word} field cannot"))
            }
            false => FieldMisfit::new(name, format!("the column may be null, and {} reads as zero", name_of(field)))
                .hint("a field that is `optional` can be left out".to_owned()),
        };
        self.misfits.push(misfit);
        None
    }

    fn refuse(&mut self, field: &FieldDescriptor, column: usize) -> Option<Part> {
        let own = self.rows.field(column);
        let reason = format!("{} does not become {}", own.data_type, name_of(field));
        self.misfits.push(FieldMisfit::new(&own.name, reason));
        None
    }

    /// The same of all columns at and below a place.
    fn refuse_all(&mut self, target: Target, reason: &str, hint: Option<&str>) {
        let (rows, misfits) = (self.rows, &mut self.misfits);
        let mut refuse = |column: usize| {
            let misfit = FieldMisfit::new(&rows.field(column).name, reason.to_owned());
            misfits.push(misfit.hint_maybe(hint.map(str::to_owned)));
        };
        match target {
            Target::Column(column) => refuse(column),
            Target::Node(node) => self.paths.columns_below(node, &mut refuse),
        }
    }
}

fn key(field: &FieldDescriptor, wire_type: WireType) -> u32 {
    field.number() << 3 | wire_type.code()
}
