//! A writer's schema against the columns, made once: what is read, what is passed over, what is missing.
//!
//! The schema may be anybody's and the message anything: what is passed over costs no more than its bytes, and what lies
//! in itself ends at a depth.

use std::collections::{BTreeSet, HashMap};

use apache_avro::schema::{
    InnerDecimalSchema, Name, NamesRef, NamespaceRef, RecordField, RecordSchema, ResolvedSchema, Schema, UuidSchema,
};

use super::{
    schema::{AvroSchema, FieldMisfit, name_of},
    value::{self, To, Wire},
    wire::{Broken, Bytes},
};
use crate::formats::{
    column::{Column, Refusal, Row},
    paths::{Paths, Target},
};

/// Records, arrays and maps lie at most so deep in each other.
const DEPTH_MAX: u32 = 256;

/// How messages of one schema become rows.
#[derive(Debug, Clone)]
pub(super) struct Program {
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
}

/// Why a message became no row.
#[derive(Debug)]
pub(super) enum Unread {
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
    /// For these columns, which stand at these paths; or what of the schema does not fit them.
    pub fn new(schema: &AvroSchema, paths: &Paths, columns: &[Column]) -> Result<Program, Vec<FieldMisfit>> {
        let resolved = ResolvedSchema::new_with_schemata(schema.all());
        let resolved = resolved.map_err(|error| vec![FieldMisfit::of_schema(error.to_string())])?;
        let mut compiler = Compiler {
            names: resolved.get_names(),
            paths,
            columns,
            nodes: Vec::new(),
            known: HashMap::new(),
            misfits: Vec::new(),
        };
        let root = compiler.object(schema.parsed(), 0, None);
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

struct Compiler<'s, 'c> {
    names: &'c NamesRef<'s>,
    paths: &'c Paths,
    columns: &'c [Column],
    nodes: Vec<Node>,
    /// named types that are passed over
    known: HashMap<Name, usize>,
    misfits: Vec<FieldMisfit>,
}

impl<'s> Compiler<'s, '_> {
    fn add(&mut self, node: Node) -> usize {
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    fn resolve(&self, schema: &'s Schema, namespace: NamespaceRef<'_>) -> &'s Schema {
        let Schema::Ref { name } = schema else { return schema };
        self.names.get(&*name.fully_qualified_name(namespace)).copied().unwrap_or(schema)
    }

    /// A value with columns in it: a record, or a union with one.
    fn object(&mut self, schema: &'s Schema, path: usize, namespace: NamespaceRef<'_>) -> usize {
        match self.resolve(schema, namespace) {
            Schema::Record(record) => self.record(record, path, namespace),
            Schema::Union(union) if !union.variants().is_empty() => {
                let branches: Vec<usize> =
                    union.variants().iter().map(|branch| self.object(branch, path, namespace)).collect();
                self.add(Node::Union(branches.into()))
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
                    self.misfits.push(FieldMisfit::new(&self.columns[column].name, reason.clone()));
                }
                self.add(Node::Empty)
            }
        }
    }

    fn columns_below(&self, path: usize) -> Vec<usize> {
        let mut columns = Vec::new();
        self.paths.columns_below(path, &mut |column| columns.push(column));
        columns
    }

    fn record(&mut self, record: &'s RecordSchema, path: usize, namespace: NamespaceRef<'_>) -> usize {
        let name = record.name.fully_qualified_name(namespace);
        let mut missing: BTreeSet<usize> = (0..self.paths.node(path).children.len()).collect();
        let mut parts = Vec::with_capacity(record.fields.len() + 1);
        for field in &record.fields {
            let child = self.paths.node(path).position(field.name.as_bytes(), 0);
            parts.push(match child {
                Some(child) => {
                    missing.remove(&child);
                    match self.paths.node(path).children[child].target {
                        Target::Column(column) => self.value(&field.schema, column, name.namespace()),
                        Target::Node(below) => self.object(&field.schema, below, name.namespace()),
                    }
                }
                None => self.passed_over(&field.schema, name.namespace()),
            });
        }
        let absent = self.absent(missing, path, &record.fields);
        if !absent.is_empty() {
            parts.push(self.add(Node::Absent(absent.into(), "missing")));
        }
        self.add(Node::Record(parts.into()))
    }

    /// The columns below those keys of a path that the record has no field for; they must take nulls.
    fn absent(&mut self, missing: BTreeSet<usize>, path: usize, fields: &[RecordField]) -> Vec<usize> {
        let mut absent = Vec::new();
        for child in missing {
            let child = &self.paths.node(path).children[child];
            let mut below = Vec::new();
            match child.target {
                Target::Column(column) => below.push(column),
                Target::Node(node) => self.paths.columns_below(node, &mut |column| below.push(column)),
            }
            for column in below.iter().map(|column| &self.columns[*column]).filter(|column| !column.nullable) {
                let names = fields.iter().map(|field| field.name.as_str()).collect::<Vec<_>>().join(", ");
                let misfit = FieldMisfit::new(&column.name, format!("the schema has no field {:?}", child.key));
                self.misfits.push(misfit.hint(format!("it has {names}; a nullable field may be missing")));
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
                let branches: Vec<usize> =
                    union.variants().iter().map(|branch| self.value(branch, column, namespace)).collect();
                return self.add(Node::Union(branches.into()));
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
                self.misfits.push(misfit.hint_maybe(hint(schema, name)));
                self.add(Node::Empty)
            }
        }
    }

    /// A value that no column takes.
    fn passed_over(&mut self, schema: &'s Schema, namespace: NamespaceRef<'_>) -> usize {
        let node = match schema {
            Schema::Null => Node::Empty,
            Schema::Boolean => Node::Bytes(1),
            Schema::Float => Node::Bytes(4),
            Schema::Double => Node::Bytes(8),
            Schema::Fixed(fixed) | Schema::Duration(fixed) | Schema::Uuid(UuidSchema::Fixed(fixed)) => {
                Node::Bytes(fixed.size)
            }
            Schema::Decimal(decimal) => match &decimal.inner {
                InnerDecimalSchema::Fixed(fixed) => Node::Bytes(fixed.size),
                InnerDecimalSchema::Bytes => Node::Prefixed,
            },
            Schema::Bytes
            | Schema::String
            | Schema::BigDecimal
            | Schema::Uuid(UuidSchema::String | UuidSchema::Bytes) => Node::Prefixed,
            Schema::Array(array) => Node::Blocks { item: self.passed_over(&array.items, namespace), has_keys: false },
            Schema::Map(map) => Node::Blocks { item: self.passed_over(&map.types, namespace), has_keys: true },
            Schema::Union(union) => {
                let branches: Vec<usize> =
                    union.variants().iter().map(|branch| self.passed_over(branch, namespace)).collect();
                Node::Union(branches.into())
            }
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
        let at = self.add(Node::Empty);
        self.known.insert(name.clone(), at);
        let parts = record.fields.iter().map(|field| self.passed_over(&field.schema, name.namespace()));
        self.nodes[at] = Node::Record(parts.collect());
        at
    }
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
