//! The declared fields as columns of Arrow: rows that have exactly these go where rows of Arrow go.

use std::sync::Arc;

use arrow_array::{Array, ArrayRef, RecordBatch, StructArray, new_empty_array};
use arrow_schema::{ArrowError, Field, SchemaRef};
use ringmill_wire::{BatchView, ColumnView};

use crate::{
    ConnectError, FieldSpec,
    formats::{
        arrow::{array, arrow_type, refused},
        paths::{Paths, Target},
    },
};

/// The fields, each at the place where its path looks for it, so that what is read of such a batch, and the JSON in the dead
/// letters of its rows, is as if somebody had sent it so.
pub(crate) struct Declared {
    paths: Paths,
    schema: SchemaRef,
}

impl Declared {
    /// Of these fields.
    pub fn new(fields: &[FieldSpec]) -> Result<Declared, ConnectError> {
        let paths = Paths::new(fields.iter().enumerate())?;
        let empty: Vec<ArrayRef> = fields.iter().map(|field| new_empty_array(&arrow_type(field.data_type))).collect();
        let schema = RecordBatch::from(structure(&paths, 0, &empty, 0).map_err(refused)?).schema();
        Ok(Declared { paths, schema })
    }

    /// The columns.
    pub fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    /// A copy of rows whose columns are the fields, in their order.
    pub fn copy(&self, view: &BatchView<'_>) -> Result<RecordBatch, ArrowError> {
        let rows = 0..view.rows();
        let arrays =
            view.columns().map(|column: ColumnView<'_>| array(&column, &rows)).collect::<Result<Vec<_>, _>>()?;
        structure(&self.paths, 0, &arrays, rows.len()).map(RecordBatch::from)
    }
}

/// The columns below a node.
fn structure(paths: &Paths, node: usize, arrays: &[ArrayRef], rows: usize) -> Result<StructArray, ArrowError> {
    let (mut fields, mut columns) = (Vec::new(), Vec::new());
    for child in &paths.node(node).children {
        let column: ArrayRef = match child.target {
            Target::Column(column) => Arc::clone(&arrays[column]),
            Target::Node(below) => Arc::new(structure(paths, below, arrays, rows)?),
        };
        fields.push(Field::new(&*child.key, column.data_type().clone(), true));
        columns.push(column);
    }
    StructArray::try_new_with_length(fields.into(), columns, None, rows)
}
