//! Arrow's columns to rows of a batch: which of a file's columns a field takes, and how its values get there.
//!
//! Values are copied column by column and never pass through text. Numbers may become wider, text may come from any of
//! its forms, and instants may become finer; anything else is refused before a row is read ([`accept::accepts`]). A value
//! that does not fit its column after all (a null, a number out of range) makes its row a dead letter: the row as JSON, as
//! it stands in the file.

mod accept;
mod chunk;
mod declared;
mod letter;
mod values;

use arrow_array::{Array, ArrayRef, RecordBatch, cast::AsArray};
use arrow_buffer::NullBuffer;
use arrow_schema::{DataType as ArrowType, Fields};

use super::{
    FieldMisfit,
    column::Column,
    paths::{Paths, Target},
};
use crate::FieldSpec;

pub(crate) use chunk::Chunk;
pub(crate) use declared::Declared;

/// The declared fields, each with the place of its values in the columns of a file.
#[derive(Debug, Clone)]
pub(crate) struct Columns {
    bound: Vec<Bound>,
}

/// A field and where its values stand.
#[derive(Debug, Clone)]
struct Bound {
    column: Column,
    /// the names of the column and of the fields within it; empty: the file has none, and every value is null
    keys: Vec<String>,
}

/// A column of a record batch.
struct Found {
    array: ArrayRef,
    /// its own nulls, and those of the structs around it
    nulls: Option<NullBuffer>,
}

impl Columns {
    /// Finds the columns of these fields in a file that has `found`; or what does not fit.
    pub fn bind(fields: &[FieldSpec], found: &Fields) -> Result<Columns, Vec<FieldMisfit>> {
        let paths = Paths::new(fields.iter().enumerate());
        let paths = paths.map_err(|error| vec![FieldMisfit::of_schema(error.to_string())])?;
        let columns: Vec<Column> = fields.iter().enumerate().map(|(index, field)| Column::new(index, field)).collect();
        let mut binder = Binder {
            paths: &paths,
            keys: Vec::new(),
            bound: columns.iter().map(|column| Bound { column: column.clone(), keys: Vec::new() }).collect(),
            misfits: Vec::new(),
        };
        binder.node(0, found);
        if binder.misfits.is_empty() { Ok(Columns { bound: binder.bound }) } else { Err(binder.misfits) }
    }

    /// Whether a field takes something from the column at this place, or from within it.
    pub fn takes(&self, path: &[String]) -> bool {
        let is_taken = |bound: &Bound| !bound.keys.is_empty() && path.starts_with(&bound.keys);
        self.bound.iter().any(is_taken)
    }

    /// How many bytes the rows of a batch have whose values stand once for any number of rows: dictionaries and views.
    pub fn shared_bytes(&self, batch: &RecordBatch) -> u64 {
        let found = self.bound.iter().filter_map(|bound| bound.find(batch));
        found.map(|found| values::shared_bytes(&found.array, found.nulls.as_ref())).sum()
    }

    /// The columns of the file that are needed, by their names.
    pub fn roots(&self) -> impl Iterator<Item = &str> {
        self.bound.iter().filter_map(|bound| bound.keys.first().map(String::as_str))
    }
}

impl Bound {
    fn find(&self, batch: &RecordBatch) -> Option<Found> {
        let (first, within) = self.keys.split_first()?;
        let mut array = batch.column_by_name(first)?.clone();
        let mut nulls = array.logical_nulls();
        for key in within {
            let child = array.as_struct_opt()?.column_by_name(key)?.clone();
            nulls = NullBuffer::union(nulls.as_ref(), child.logical_nulls().as_ref());
            array = child;
        }
        Some(Found { array, nulls })
    }
}

struct Binder<'a> {
    paths: &'a Paths,
    /// of the columns around the one that is looked at
    keys: Vec<String>,
    bound: Vec<Bound>,
    misfits: Vec<FieldMisfit>,
}

impl Binder<'_> {
    fn node(&mut self, node: usize, found: &Fields) {
        for child in &self.paths.node(node).children {
            let mut same = found.iter().filter(|field| *field.name() == *child.key);
            let (field, other) = (same.next(), same.next());
            self.keys.push(child.key.to_string());
            match (field, child.target) {
                _ if other.is_some() => self.refuse(child.target, "several columns have this name"),
                (None, target) => self.missing(target, found),
                (Some(field), Target::Column(column)) => self.column(column, field.data_type()),
                (Some(field), Target::Node(below)) => match field.data_type() {
                    ArrowType::Struct(fields) => self.node(below, fields),
                    other => {
                        let reason = format!("its path leads into {other}, which has no fields");
                        self.refuse(child.target, &reason);
                    }
                },
            }
            self.keys.pop();
        }
    }

    fn column(&mut self, column: usize, found: &ArrowType) {
        let bound = &mut self.bound[column];
        if accept::accepts(found, bound.column.data_type) {
            bound.keys.clone_from(&self.keys);
            return;
        }
        let reason = format!("{found} does not become {}", bound.column.data_type);
        let hint = accept::natural(found).map(|natural| format!("declare it as {natural}"));
        self.misfits.push(FieldMisfit::new(&bound.column.name, reason).hint_maybe(hint));
    }

    /// Fields that the file lacks are null, if they may be.
    fn missing(&mut self, target: Target, found: &Fields) {
        let key = self.keys.last().map_or("", String::as_str);
        let names: Vec<&str> = found.iter().take(NAMES_MAX).map(|field| field.name().as_str()).collect();
        let more = if found.len() > names.len() { ", …" } else { "" };
        let reason = format!("there is no column {key:?} among {}{more}", names.join(", "));
        for column in self.columns_of(target) {
            let Bound { column, .. } = &self.bound[column];
            if !column.nullable {
                self.misfits.push(FieldMisfit::new(&column.name, reason.clone()));
            }
        }
    }

    fn refuse(&mut self, target: Target, reason: &str) {
        for column in self.columns_of(target) {
            self.misfits.push(FieldMisfit::new(&self.bound[column].column.name, reason.to_owned()));
        }
    }

    fn columns_of(&self, target: Target) -> Vec<usize> {
        let mut columns = Vec::new();
        match target {
            Target::Column(column) => columns.push(column),
            Target::Node(node) => self.paths.columns_below(node, &mut |column| columns.push(column)),
        }
        columns
    }
}

/// So many names of columns are told.
const NAMES_MAX: usize = 30;
