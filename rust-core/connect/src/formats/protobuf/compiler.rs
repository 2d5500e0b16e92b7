//! Makes a program of a type and the columns.

use std::{collections::BTreeMap, ops::Range, sync::Arc};

use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor, OneofDescriptor};
use ringmill_wire::DataType;

use super::{
    program::{Absent, Action, Field, Message, Program, Source, Time},
    schema::{field_names, name_of},
    value::{self, Constant, Scalar, To},
    wire::WireType,
};
use crate::formats::{
    FieldMisfit,
    column::Column,
    paths::{Paths, Target},
};

/// The program of a type for these columns, which stand at these paths; or what of the type does not fit them.
pub(super) fn compile(
    message: &MessageDescriptor,
    paths: &Paths,
    columns: &[Column],
) -> Result<Program, Vec<FieldMisfit>> {
    let sources = vec![Source::Nothing; columns.len()];
    let mut compiler =
        Compiler { paths, columns, sources, messages: Vec::new(), slots: 0, lists: 0, misfits: Vec::new() };
    compiler.message(message, 0, None);
    if !compiler.misfits.is_empty() {
        return Err(compiler.misfits);
    }
    let columns = columns.iter().cloned().zip(compiler.sources).collect();
    let Compiler { messages, slots, lists, .. } = compiler;
    Ok(Program { messages, columns, slots, lists })
}

struct Compiler<'c> {
    paths: &'c Paths,
    columns: &'c [Column],
    sources: Vec<Source>,
    messages: Vec<Message>,
    slots: usize,
    lists: usize,
    misfits: Vec<FieldMisfit>,
}

/// The fields of a message that are not just passed over, by their numbers, each with its slots.
type Fields = BTreeMap<u32, (Field, Range<usize>)>;

impl Compiler<'_> {
    fn slot(&mut self) -> usize {
        self.slots += 1;
        self.slots - 1
    }

    /// A message with columns in it, which is noted in this slot.
    fn message(&mut self, message: &MessageDescriptor, path: usize, slot: Option<usize>) -> usize {
        let index = self.begin(slot);
        let mut fields = Fields::new();
        for child in &self.paths.node(path).children {
            let Some(field) = message.get_field_by_name(&child.key) else {
                self.absent(message, &child.key, child.target);
                continue;
            };
            let own = self.slot();
            if let Some(action) = self.field(&field, child.target, own, slot) {
                add(&mut fields, &field, action, own..self.slots);
            }
        }
        self.end(index, message, fields);
        index
    }

    /// Messages are in the order in which they are entered.
    fn begin(&mut self, slot: Option<usize>) -> usize {
        self.messages.push(Message { slot, fields: Box::default(), required: Box::default() });
        self.messages.len() - 1
    }

    /// Adds what nobody declared and yet matters: required fields, and other members of oneofs.
    fn end(&mut self, index: usize, message: &MessageDescriptor, mut fields: Fields) {
        let required: Vec<FieldDescriptor> = message.fields().filter(FieldDescriptor::is_required).collect();
        for field in &required {
            if !fields.contains_key(&field.number()) {
                let own = self.slot();
                add(&mut fields, field, pass(field), own..self.slots);
            }
        }
        let required = required.iter().map(|field| (fields[&field.number()].1.start, field.full_name().into()));
        self.messages[index].required = required.collect();
        message.oneofs().for_each(|oneof| self.oneof(&oneof, &mut fields));
        self.messages[index].fields = fields.into_values().map(|(field, _)| field).collect();
    }

    /// Each member takes the place of all others. There may be very many, of which few lead to columns.
    fn oneof(&mut self, oneof: &OneofDescriptor, fields: &mut Fields) {
        let declared: Vec<(u32, Range<usize>)> =
            oneof.fields().filter_map(|field| Some((field.number(), fields.get(&field.number())?.1.clone()))).collect();
        if declared.is_empty() || oneof.fields().len() < 2 {
            return;
        }
        for (number, _) in &declared {
            let others = declared.iter().filter(|(other, _)| other != number).map(|(_, slots)| slots.clone());
            if let Some((field, _)) = fields.get_mut(number) {
                field.cleared = others.collect();
            }
        }
        let all: Arc<[Range<usize>]> = declared.into_iter().map(|(_, slots)| slots).collect();
        // Whether one of the others is there nobody asks.
        let shared = self.slot();
        for member in oneof.fields() {
            if !fields.contains_key(&member.number()) {
                add(fields, &member, pass(&member), shared..shared + 1);
                if let Some((field, _)) = fields.get_mut(&member.number()) {
                    field.cleared = Arc::clone(&all);
                }
            }
        }
    }

    /// What is done with a field that leads to columns, which is noted in `own`; `around` is the slot of its message.
    fn field(&mut self, field: &FieldDescriptor, target: Target, own: usize, around: Option<usize>) -> Option<Action> {
        let kind = field.kind();
        let is_single = !field.is_map() && !field.is_list() && !field.is_group();
        match (target, &kind) {
            (Target::Column(column), Kind::Message(message)) if is_single => {
                self.well_known(field, message, column, own)
            }
            (Target::Column(column), _) if is_single => self.scalar(field, column, own, around),
            (Target::Column(column), _) if field.is_list() => self.list(field, column, own, around),
            (Target::Node(below), Kind::Message(message)) if is_single => {
                Some(Action::Enter(self.message(message, below, Some(own))))
            }
            (Target::Column(column), _) => {
                self.refuse(field, column);
                None
            }
            (Target::Node(below), _) => {
                let reason = match is_single {
                    true => format!("its path leads into {}, which has no fields", name_of(field)),
                    false => format!("its path leads into {}, which is not one message", name_of(field)),
                };
                let misfits = &mut self.misfits;
                self.paths.columns_below(below, &mut |column| {
                    misfits.push(FieldMisfit::new(&self.columns[column].name, reason.clone()));
                });
                None
            }
        }
    }

    fn scalar(&mut self, field: &FieldDescriptor, column: usize, slot: usize, around: Option<usize>) -> Option<Action> {
        let Some((scalar, to)) = value::conversion(&field.kind(), self.columns[column].data_type) else {
            self.refuse(field, column);
            return None;
        };
        let absent = match Constant::of(field.default_value()) {
            Some(zero) if !field.supports_presence() && !field.is_required() => Absent::Zero(zero, around),
            Some(default) if field.field_descriptor_proto().default_value.is_some() => Absent::Default(default),
            _ => Absent::Null,
        };
        self.sources[column] = Source::Value { slot, scalar, to, absent };
        Some(Action::Read(scalar.wire_type()))
    }

    /// A repeated field, whose items are numbers.
    fn list(&mut self, field: &FieldDescriptor, column: usize, slot: usize, around: Option<usize>) -> Option<Action> {
        let item = match self.columns[column].data_type {
            DataType::List(item) => value::conversion(&field.kind(), item.data_type()),
            _ => None,
        };
        let Some((scalar, To::Number(number))) = item else {
            self.refuse(field, column);
            return None;
        };
        let list = self.lists;
        self.lists += 1;
        self.sources[column] = Source::List { slot, list, scalar, number, around };
        Some(Action::Gather(scalar.wire_type(), list))
    }

    /// A message of Google's that is one value.
    fn well_known(
        &mut self,
        field: &FieldDescriptor,
        message: &MessageDescriptor,
        column: usize,
        own: usize,
    ) -> Option<Action> {
        let data_type = self.columns[column].data_type;
        if value::is_wrapper(message.full_name()) {
            return self.wrapper(field, message, column, own);
        }
        let is = |name| value::is_time(message, name);
        let to = match data_type {
            DataType::Timestamp(unit) if is("google.protobuf.Timestamp") => Time::Timestamp(unit),
            DataType::Int64 if is("google.protobuf.Duration") => Time::DurationNanoseconds,
            DataType::Float64 if is("google.protobuf.Duration") => Time::DurationFloat,
            _ => {
                self.refuse(field, column);
                return None;
            }
        };
        let [seconds, nanoseconds] = [message.get_field(1)?, message.get_field(2)?];
        let index = self.begin(Some(own));
        let slots = [own, self.slot(), self.slot()];
        let mut fields = Fields::new();
        add(&mut fields, &seconds, Action::Read(WireType::Varint), slots[1]..slots[2]);
        add(&mut fields, &nanoseconds, Action::Read(WireType::Varint), slots[2]..self.slots);
        self.end(index, message, fields);
        self.sources[column] = Source::Time { slots, to };
        Some(Action::Enter(index))
    }

    fn wrapper(
        &mut self,
        field: &FieldDescriptor,
        message: &MessageDescriptor,
        column: usize,
        own: usize,
    ) -> Option<Action> {
        let inner = message.get_field(1).filter(|inner| {
            !inner.is_list() && value::conversion(&inner.kind(), self.columns[column].data_type).is_some()
        });
        let Some(inner) = inner else {
            self.refuse(field, column);
            return None;
        };
        let index = self.begin(Some(own));
        let slot = self.slot();
        let action = self.scalar(&inner, column, slot, Some(own))?;
        let mut fields = Fields::new();
        add(&mut fields, &inner, action, slot..self.slots);
        self.end(index, message, fields);
        Some(Action::Enter(index))
    }

    /// The columns below a key that the message has no field for; they must take nulls.
    fn absent(&mut self, message: &MessageDescriptor, key: &str, target: Target) {
        let mut below = Vec::new();
        match target {
            Target::Column(column) => below.push(column),
            Target::Node(node) => self.paths.columns_below(node, &mut |column| below.push(column)),
        }
        for column in below.into_iter().map(|column| &self.columns[column]).filter(|column| !column.nullable) {
            let reason = format!("the message {} has no field {key:?}", message.full_name());
            let misfit = FieldMisfit::new(&column.name, reason);
            let hint = format!("it has {}; a nullable field may be missing", field_names(message));
            self.misfits.push(misfit.hint(hint));
        }
    }

    fn refuse(&mut self, field: &FieldDescriptor, column: usize) {
        let Column { name, data_type, .. } = &self.columns[column];
        let natural = value::natural(field);
        let reason = match natural.is_none() && (field.is_map() || field.is_list()) {
            true => format!("the schema has {}, which cannot be a column", name_of(field)),
            false => format!("it is {data_type}, and the schema has {}", name_of(field)),
        };
        let hint = match (natural, field.kind()) {
            (Some(natural), _) => Some(format!("declare {name} = \"{natural}\"")),
            (None, Kind::Message(message)) if !field.is_map() && !field.is_list() && !field.is_group() => {
                let inner = message.fields().next();
                inner.map(|inner| format!("{name} = {{ type = …, path = \"/…/{}\" }} is a field of it", inner.name()))
            }
            _ => None,
        };
        self.misfits.push(FieldMisfit::new(name, reason).hint_maybe(hint));
    }
}

fn add(fields: &mut Fields, field: &FieldDescriptor, action: Action, slots: Range<usize>) {
    let number = field.number();
    let name = field.full_name().into();
    fields.insert(number, (Field { number, name, slot: slots.start, action, cleared: Arc::new([]) }, slots));
}

/// One that nobody declared.
fn pass(field: &FieldDescriptor) -> Action {
    Action::Pass(match Scalar::of(&field.kind()) {
        Some(scalar) => scalar.wire_type(),
        None if field.is_group() => WireType::GroupStart,
        None => WireType::Delimited,
    })
}
