//! A writer's schema against the columns, made once: what is read, what is passed over, what is missing.
//!
//! The schema may be anybody's and the message anything: what is passed over costs no more than its bytes, and what lies
//! in itself ends at a depth.

use std::collections::{BTreeSet, HashMap};

use apache_avro::{
    schema::{
        InnerDecimalSchema, Name, NamesRef, NamespaceRef, RecordField, RecordSchema, ResolvedSchema, Schema,
        UnionSchema, UuidSchema,
    },
    types::Value,
    writer::datum::GenericDatumWriter,
};

use super::{
    schema::{AvroSchema, name_of},
    value::{self, To, Wire},
};
use crate::formats::{
    FieldMisfit,
    binary::{Broken, Bytes},
    column::{Column, Refusal, Row},
    paths::{Paths, Target},
};

/// Records, arrays and maps lie at most so deep in each other.
const DEPTH_MAX: u32 = 256;
/// A program has not many more nodes and fields: names let a short schema stand for a long one.
const SIZE_MAX: usize = if cfg!(test) { 1 << 12 } else { 1 << 18 };
/// So many misfits are told of one schema, …
const MISFITS_MAX: usize = 100;
/// … each with as many names of fields as there are in so many bytes.
const NAMES_BYTES: usize = 1_000;

/// How messages of one schema become rows.
#[derive(Debug, Clone)]
pub(in crate::formats) struct Program {
    nodes: Vec<Node>,
    root: usize,
    columns: Vec<Column>,
}

/// What is done at a place of the schema. Others are meant by their index.
#[derive(Debug, Clone)]
enum Node {
    /// nothing stands there
    Empty,
    /// passed over: so many bytes
    Bytes(usize),
    /// passed over: a number of variable length
    Number,
    /// passed over: a length and so many bytes
    Prefixed,
    /// passed over: an array, or with keys a map
    Blocks { item: usize, has_keys: bool },
    /// one after the other
    Record(Box<[usize]>),
    /// one of them
    Union(Box<[usize]>),
    /// a value for this column
    Read(usize, (Wire, To)),
    /// there is none for these columns
    Absent(Box<[usize]>, &'static str),
    /// nothing stands there; these bytes are read instead
    Default(Box<[u8]>, usize),
}

/// Why a message became no row.
#[derive(Debug)]
pub(in crate::formats) enum Unread {
    Broken(Broken),
    Refused(Refusal),
}

impl From<Broken> for Unread {
    fn from(broken: Broken) -> Unread {
        Unread::Broken(broken)
    }
}

impl From<Refusal> for Unread {
    fn from(refusal: Refusal) -> Unread {
        Unread::Refused(refusal)
    }
}

impl Program {
    /// For these columns, which stand at these paths; or what of the schema does not fit them. What the schema lacks is looked
    /// for in the reader's: under another name, and a default.
    pub fn new(
        schema: &AvroSchema,
        reader: Option<&AvroSchema>,
        paths: &Paths,
        columns: &[Column],
    ) -> Result<Program, Vec<FieldMisfit>> {
        let resolved = ResolvedSchema::new_with_schemata(schema.all());
        let resolved = resolved.map_err(|error| vec![FieldMisfit::of_schema(error.to_string())])?;
        let reader = reader.map(|schema| ResolvedSchema::new_with_schemata(schema.all()).map(|names| (schema, names)));
        let reader = reader.transpose().map_err(|error| vec![FieldMisfit::of_schema(error.to_string())])?;
        let reader = reader.as_ref().map(|(schema, names)| Reader { schema, names: names.get_names() });
        let mut compiler = Compiler {
            names: resolved.get_names(),
            reader,
            paths,
            columns,
            nodes: Vec::new(),
            known: HashMap::new(),
            depth: 0,
            size: 0,
            misfits: Vec::new(),
        };
        let root = compiler.object(schema.parsed(), 0, None, reader.map(|reader| reader.schema.parsed()));
        match compiler.misfits.is_empty() {
            true => Ok(Program { nodes: compiler.nodes, root, columns: columns.to_vec() }),
            false => Err(compiler.misfits),
        }
    }

    /// Moves a message's values into the row.
    pub fn run(&self, bytes: &mut Bytes<'_>, row: &mut Row<'_>) -> Result<(), Unread> {
        self.step(self.root, bytes, row, DEPTH_MAX)
    }

    fn step(&self, node: usize, bytes: &mut Bytes<'_>, row: &mut Row<'_>, depth: u32) -> Result<(), Unread> {
        match &self.nodes[node] {
            Node::Empty => {}
            Node::Bytes(count) => {
                bytes.take(*count)?;
            }
            Node::Number => {
                bytes.long()?;
            }
            Node::Prefixed => {
                bytes.prefixed()?;
            }
            Node::Blocks { item, has_keys } => self.blocks(*item, *has_keys, bytes, row, deeper(depth)?)?,
            Node::Record(parts) => {
                let depth = deeper(depth)?;
                for part in parts {
                    self.step(*part, bytes, row, depth)?;
                }
            }
            Node::Union(branches) => {
                let branch = bytes.index(branches.len())?;
                self.step(branches[branch], bytes, row, deeper(depth)?)?;
            }
            Node::Read(column, value) => value::read(value, &self.columns[*column], bytes, row)??,
            Node::Absent(columns, state) => {
                for column in columns {
                    self.columns[*column].push_null(row, state)?;
                }
            }
            Node::Default(default, node) => self.step(*node, &mut Bytes::new(default), row, deeper(depth)?)?,
        }
        Ok(())
    }

    fn blocks(
        &self,
        item: usize,
        has_keys: bool,
        bytes: &mut Bytes<'_>,
        row: &mut Row<'_>,
        depth: u32,
    ) -> Result<(), Unread> {
        loop {
            let (count, length) = bytes.block()?;
            match (count, length) {
                (0, _) => return Ok(()),
                (_, Some(length)) => {
                    bytes.take(length)?;
                }
                (count, None) => {
                    for _ in 0..count {
                        let before = bytes.at();
                        if has_keys {
                            bytes.prefixed()?;
                        }
                        self.step(item, bytes, row, depth)?;
                        if bytes.at() == before {
                            // Items without bytes: as many as one likes are no longer than one.
                            break;
                        }
                    }
                }
            }
        }
    }
}

fn deeper(depth: u32) -> Result<u32, Broken> {
    depth.checked_sub(1).ok_or(Broken::Depth)
}

/// The reader's schema.
#[derive(Clone, Copy)]
struct Reader<'s, 'c> {
    schema: &'s AvroSchema,
    names: &'c NamesRef<'s>,
}

impl<'s> Reader<'s, '_> {
    /// The record that is meant: the schema itself, or a branch of it.
    fn record(&self, schema: &'s Schema) -> Option<&'s RecordSchema> {
        match schema {
            Schema::Record(record) => Some(record),
            Schema::Union(union) => union.variants().iter().find_map(|branch| self.record(branch)),
            Schema::Ref { name } => self.record(self.names.get(name).copied()?),
            _ => None,
        }
    }
}

struct Compiler<'s, 'c> {
    names: &'c NamesRef<'s>,
    reader: Option<Reader<'s, 'c>>,
    paths: &'c Paths,
    columns: &'c [Column],
    nodes: Vec<Node>,
    /// named types that are passed over
    known: HashMap<Name, usize>,
    /// types around the one that is passed over
    depth: u32,
    /// nodes, and fields of records and branches of unions
    size: usize,
    misfits: Vec<FieldMisfit>,
}

impl<'s> Compiler<'s, '_> {
    fn add(&mut self, node: Node) -> usize {
        self.size += 1;
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    /// Of one schema there may be more misfits than memory.
    fn refuse(&mut self, misfit: FieldMisfit) {
        if self.misfits.len() < MISFITS_MAX {
            self.misfits.push(misfit);
        }
    }

    /// Passes over so many bytes.
    fn bytes(count: usize) -> Node {
        if count == 0 { Node::Empty } else { Node::Bytes(count) }
    }

    fn resolve(&self, schema: &'s Schema, namespace: NamespaceRef<'_>) -> &'s Schema {
        let Schema::Ref { name } = schema else { return schema };
        self.names.get(&*name.fully_qualified_name(namespace)).copied().unwrap_or(schema)
    }

    /// A value with columns in it: a record, or a union with one.
    fn object(
        &mut self,
        schema: &'s Schema,
        path: usize,
        namespace: NamespaceRef<'_>,
        reader: Option<&'s Schema>,
    ) -> usize {
        if self.size > SIZE_MAX {
            self.refuse(FieldMisfit::of_schema(
                "it stands for too many fields, as its names are used over and over".to_owned(),
            ));
            return self.add(Node::Empty);
        }
        match self.resolve(schema, namespace) {
            Schema::Record(record) => self.record(record, path, namespace, reader),
            Schema::Union(union) if !union.variants().is_empty() => {
                self.union(union, |own, branch| own.object(branch, path, namespace, reader))
            }
            Schema::Null => {
                let columns = self.columns_below(path);
                self.add(Node::Absent(columns.into(), "null"))
            }
            other => {
                let reason = if path == 0 {
                    format!("the schema is {}, not a record", name_of(other))
                } else {
                    format!("its path leads into {}, which has no fields", name_of(other))
                };
                for column in self.columns_below(path) {
                    self.refuse(FieldMisfit::new(&self.columns[column].name, reason.clone()));
                }
                self.add(Node::Empty)
            }
        }
    }

    /// One of a union's branches, each made by `branch`.
    fn union(&mut self, union: &'s UnionSchema, mut branch: impl FnMut(&mut Self, &'s Schema) -> usize) -> usize {
        self.size += union.variants().len();
        let branches = union.variants().iter().map(|schema| branch(self, schema)).collect();
        self.add(Node::Union(branches))
    }

    fn columns_below(&self, path: usize) -> Vec<usize> {
        let mut columns = Vec::new();
        self.paths.columns_below(path, &mut |column| columns.push(column));
        columns
    }

    fn record(
        &mut self,
        record: &'s RecordSchema,
        path: usize,
        namespace: NamespaceRef<'_>,
        reader: Option<&'s Schema>,
    ) -> usize {
        let name = record.name.fully_qualified_name(namespace);
        let readers = self.reader.zip(reader).and_then(|(reader, schema)| reader.record(schema));
        let mut missing: BTreeSet<usize> = (0..self.paths.node(path).children.len()).collect();
        let mut parts = Vec::with_capacity(record.fields.len() + 1);
        self.size += record.fields.len();
        for field in &record.fields {
            parts.push(match self.child(field, record, path, readers) {
                Some(child) if missing.remove(&child) => {
                    let child = &self.paths.node(path).children[child];
                    match child.target {
                        Target::Column(column) => self.value(&field.schema, column, name.namespace()),
                        Target::Node(below) => {
                            let reader = field_of(readers, &child.key).map(|field| &field.schema);
                            self.object(&field.schema, below, name.namespace(), reader)
                        }
                    }
                }
                _ => self.passed_over(&field.schema, name.namespace()),
            });
        }
        for child in missing.clone() {
            let default = field_of(readers, &self.paths.node(path).children[child].key);
            if let Some(default) =
                default.and_then(|field| self.default(field, self.paths.node(path).children[child].target))
            {
                parts.push(default);
                missing.remove(&child);
            }
        }
        let absent = self.absent(missing, path, &record.fields);
        if !absent.is_empty() {
            parts.push(self.add(Node::Absent(absent.into(), "missing")));
        }
        // There may be as many rows without bytes as one likes, and no step is taken for what is not there.
        parts.retain(|part| !matches!(self.nodes[*part], Node::Empty));
        self.add(Node::Record(parts.into()))
    }

    /// The key of the path that a field is meant by: its name, or a name that the reader says it had.
    fn child(
        &self,
        field: &RecordField,
        record: &RecordSchema,
        path: usize,
        readers: Option<&RecordSchema>,
    ) -> Option<usize> {
        let node = self.paths.node(path);
        node.position(field.name.as_bytes(), 0).or_else(|| {
            let is_former = |key: &str| {
                let had = field_of(readers, key).is_some_and(|reader| reader.aliases.contains(&field.name));
                had && !record.fields.iter().any(|other| other.name == key)
            };
            node.children.iter().position(|child| is_former(&child.key))
        })
    }

    /// What stands for a field that is not there, if the reader says so.
    fn default(&mut self, field: &'s RecordField, target: Target) -> Option<usize> {
        let reader = self.reader?;
        let bytes = default_bytes(field, reader.schema.all())?;
        // From here on all is the reader's.
        let names = std::mem::replace(&mut self.names, reader.names);
        let known = std::mem::take(&mut self.known);
        let namespace = reader.record(reader.schema.parsed()).and_then(|record| record.name.namespace());
        let node = match target {
            Target::Column(column) => self.value(&field.schema, column, namespace),
            Target::Node(below) => self.object(&field.schema, below, namespace, Some(&field.schema)),
        };
        (self.names, self.known) = (names, known);
        Some(self.add(Node::Default(bytes, node)))
    }

    /// The columns below those keys of a path that the record has no field for; they must take nulls.
    fn absent(&mut self, missing: BTreeSet<usize>, path: usize, fields: &[RecordField]) -> Vec<usize> {
        let (mut absent, columns) = (Vec::new(), self.columns);
        for child in missing {
            let child = &self.paths.node(path).children[child];
            let mut below = Vec::new();
            match child.target {
                Target::Column(column) => below.push(column),
                Target::Node(node) => self.paths.columns_below(node, &mut |column| below.push(column)),
            }
            for column in below.iter().map(|column| &columns[*column]).filter(|column| !column.nullable) {
                let misfit = FieldMisfit::new(&column.name, format!("the schema has no field {:?}", child.key));
                self.refuse(misfit.hint(format!("it has {}; a nullable field may be missing", names_of(fields))));
            }
            absent.extend(below);
        }
        absent
    }

    /// A value for a column.
    fn value(&mut self, schema: &'s Schema, column: usize, namespace: NamespaceRef<'_>) -> usize {
        let schema = self.resolve(schema, namespace);
        match schema {
            Schema::Union(union) if !union.variants().is_empty() => {
                return self.union(union, |own, branch| own.value(branch, column, namespace));
            }
            Schema::Null => return self.add(Node::Absent([column].into(), "null")),
            _ => {}
        }
        let Column { name, data_type, .. } = &self.columns[column];
        match value::conversion(schema, *data_type, &|schema| self.resolve(schema, namespace)) {
            Some(conversion) => self.add(Node::Read(column, conversion)),
            None => {
                let misfit =
                    FieldMisfit::new(name, format!("it is {data_type}, and the schema has {}", name_of(schema)));
                let misfit = misfit.hint_maybe(hint(schema, name));
                self.refuse(misfit);
                self.add(Node::Empty)
            }
        }
    }

    /// A value that no column takes. Types of several schemas may lie in each other as deep as one likes.
    fn passed_over(&mut self, schema: &'s Schema, namespace: NamespaceRef<'_>) -> usize {
        if self.depth == DEPTH_MAX {
            self.refuse(FieldMisfit::of_schema(format!("its types lie more than {DEPTH_MAX} deep in each other")));
            return self.add(Node::Empty);
        }
        self.depth += 1;
        let node = self.passed_over_here(schema, namespace);
        self.depth -= 1;
        node
    }

    fn passed_over_here(&mut self, schema: &'s Schema, namespace: NamespaceRef<'_>) -> usize {
        let node = match schema {
            Schema::Null => Node::Empty,
            Schema::Boolean => Node::Bytes(1),
            Schema::Float => Node::Bytes(4),
            Schema::Double => Node::Bytes(8),
            Schema::Fixed(fixed) | Schema::Duration(fixed) | Schema::Uuid(UuidSchema::Fixed(fixed)) => {
                Self::bytes(fixed.size)
            }
            Schema::Decimal(decimal) => match &decimal.inner {
                InnerDecimalSchema::Fixed(fixed) => Self::bytes(fixed.size),
                InnerDecimalSchema::Bytes => Node::Prefixed,
            },
            Schema::Bytes
            | Schema::String
            | Schema::BigDecimal
            | Schema::Uuid(UuidSchema::String | UuidSchema::Bytes) => Node::Prefixed,
            Schema::Array(array) => Node::Blocks { item: self.passed_over(&array.items, namespace), has_keys: false },
            Schema::Map(map) => Node::Blocks { item: self.passed_over(&map.types, namespace), has_keys: true },
            Schema::Union(union) => return self.union(union, |own, branch| own.passed_over(branch, namespace)),
            Schema::Record(record) => return self.record_passed_over(record, namespace),
            Schema::Ref { name } => {
                let name = name.fully_qualified_name(namespace).into_owned();
                match (self.known.get(&name), self.names.get(&name).copied()) {
                    (Some(known), _) => return *known,
                    (None, Some(meant)) => return self.passed_over(meant, namespace),
                    (None, None) => Node::Empty,
                }
            }
            // Integers of every kind, and the symbols of an enum.
            _ => Node::Number,
        };
        self.add(node)
    }

    /// A record may lie in itself, so that it is known before its fields are.
    fn record_passed_over(&mut self, record: &'s RecordSchema, namespace: NamespaceRef<'_>) -> usize {
        let name = record.name.fully_qualified_name(namespace).into_owned();
        if let Some(known) = self.known.get(&name) {
            return *known;
        }
        // Until its fields are known it counts as one that has some: in itself it ends at a depth.
        let at = self.add(Node::Record(Box::default()));
        self.known.insert(name.clone(), at);
        let parts = record.fields.iter().map(|field| self.passed_over(&field.schema, name.namespace()));
        let mut parts: Vec<usize> = parts.collect();
        // Of records without bytes there may be more in each other than anybody can go through.
        parts.retain(|part| !matches!(self.nodes[*part], Node::Empty));
        self.nodes[at] = if parts.is_empty() { Node::Empty } else { Node::Record(parts.into()) };
        at
    }
}

/// The first of these names, for people.
fn names_of(fields: &[RecordField]) -> String {
    let mut names = String::new();
    for (index, field) in fields.iter().enumerate() {
        if names.len() + field.name.len() > NAMES_BYTES {
            return names + ", …";
        }
        if index > 0 {
            names.push_str(", ");
        }
        names.push_str(&field.name);
    }
    names
}

fn field_of<'s>(record: Option<&'s RecordSchema>, name: &str) -> Option<&'s RecordField> {
    record?.fields.iter().find(|field| field.name == name)
}

/// A field's default, as it would be written.
fn default_bytes(field: &RecordField, all: Vec<&Schema>) -> Option<Box<[u8]>> {
    let default = field.default.clone()?;
    let value = match (&default, &field.schema) {
        // In JSON a byte is the character with its number.
        (serde_json::Value::String(text), Schema::Bytes | Schema::Fixed(_)) => {
            let bytes: Option<Vec<u8>> = text.chars().map(|character| u8::try_from(character).ok()).collect();
            match &field.schema {
                Schema::Fixed(fixed) => Value::Fixed(fixed.size, bytes?),
                _ => Value::Bytes(bytes?),
            }
        }
        _ => Value::try_from(default).ok()?.resolve_schemata(&field.schema, all.clone()).ok()?,
    };
    let writer = GenericDatumWriter::builder(&field.schema).schemata(all).ok()?.build().ok()?;
    writer.write_value_to_vec(value).ok().map(Into::into)
}

fn hint(schema: &Schema, name: &str) -> Option<String> {
    match schema {
        Schema::Record(record) => {
            let field = record.fields.first()?;
            Some(format!("{name} = {{ type = …, path = \"/…/{}\" }} is a field of the record", field.name))
        }
        schema => value::natural(schema).map(|natural| format!("declare {name} = \"{natural}\"")),
    }
}
