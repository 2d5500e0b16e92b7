//! Finds the value of each column in what was returned.

use numpy::{PyUntypedArray, PyUntypedArrayMethods};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};
use ringmill_wire::BatchWriter;

use super::{OutputPlan, describe, fixed_room};
use crate::arrow::import::{Imported, import};
use crate::ndarray::{as_array, data};

/// What a UDF returned, and where it may have written before.
pub(crate) enum Returned<'a, 'py> {
    /// A value, of a UDF that has no `out`.
    Value(&'a Bound<'py, PyAny>),
    /// A value of a UDF that had the response's columns as `out`; None means that they hold the result.
    InPlace(&'a Bound<'py, PyAny>),
}

impl OutputPlan {
    pub(super) fn distribute(
        &self,
        returned: &Returned<'_, '_>,
        rows: usize,
        writer: &mut BatchWriter,
    ) -> PyResult<()> {
        match returned {
            Returned::Value(value) => self.spread(value, rows, writer, None),
            Returned::InPlace(value) if value.is_none() => (0..self.columns.len()).try_for_each(|column| {
                let data_type = self.columns[column].field.data_type;
                fixed_room(writer, column, data_type, rows);
                self.finish_fixed(column, rows, writer)
            }),
            Returned::InPlace(value) => {
                let places: Vec<_> = (0..self.columns.len())
                    .map(|column| fixed_room(writer, column, self.columns[column].field.data_type, rows).cast_const())
                    .collect();
                self.spread(value, rows, writer, Some(&places))
            }
        }
    }

    fn spread(
        &self,
        value: &Bound<'_, PyAny>,
        rows: usize,
        writer: &mut BatchWriter,
        places: Option<&[*const u8]>,
    ) -> PyResult<()> {
        if let [_] = self.columns[..]
            && as_array(value).is_some()
        {
            return self.write_column(0, value, rows, writer);
        }
        if let Ok(columns) = value.cast::<PyDict>() {
            let values = self.by_name(columns)?;
            return self.write_all(values, rows, writer, places);
        }
        if let Ok(columns) = value.cast::<PyTuple>() {
            if columns.len() != self.columns.len() {
                let expected = format!("{} columns ({})", self.columns.len(), self.names());
                return Err(self.wrong("", &expected, &format!("a tuple of {}", columns.len())));
            }
            return self.write_all(columns.iter().collect(), rows, writer, places);
        }
        match import(value).map_err(|error| self.at(value.py(), "", error))? {
            Some(Imported::Table { columns, rows: found }) => {
                if found != rows {
                    return Err(self.wrong("", &format!("{rows} rows"), &found.to_string()));
                }
                let names: Vec<_> = columns.iter().map(|(name, _)| name.as_str()).collect();
                self.check_names(&names)?;
                for (name, column) in &columns {
                    if let Some(index) = self.columns.iter().position(|column| column.field.name == *name) {
                        self.write_foreign(value.py(), index, column, rows, writer)?;
                    }
                }
                Ok(())
            }
            Some(Imported::Column(column)) if self.columns.len() == 1 => {
                self.write_foreign(value.py(), 0, &column, rows, writer)
            }
            _ if self.columns.len() == 1 => self.write_column(0, value, rows, writer),
            _ => Err(self.wrong("", &format!("columns {}", self.names()), &describe(value))),
        }
    }

    fn write_all(
        &self,
        mut values: Vec<Bound<'_, PyAny>>,
        rows: usize,
        writer: &mut BatchWriter,
        places: Option<&[*const u8]>,
    ) -> PyResult<()> {
        if let Some(places) = places {
            for (index, value) in values.iter_mut().enumerate() {
                if let Some(array) = as_array(value)
                    && lies_in_another(array, index, places)
                {
                    // `{"a": out["b"], "b": out["a"]}`: writing one column must not change what the other reads.
                    *value = value.call_method0("copy")?;
                }
            }
        }
        values.iter().enumerate().try_for_each(|(index, value)| self.write_column(index, value, rows, writer))
    }

    fn by_name<'py>(&self, columns: &Bound<'py, PyDict>) -> PyResult<Vec<Bound<'py, PyAny>>> {
        let mut values = Vec::with_capacity(self.columns.len());
        for column in &self.columns {
            match columns.get_item(&column.name)? {
                Some(value) => values.push(value),
                None => {
                    let got = columns.keys().iter().map(|key| key.to_string()).collect::<Vec<_>>().join(", ");
                    return Err(self.wrong(&column.field.name, "a column of that name", &format!("columns {got}")));
                }
            }
        }
        if columns.len() != self.columns.len() {
            let names: Vec<_> = columns.keys().iter().map(|key| key.to_string()).collect();
            self.check_names(&names.iter().map(String::as_str).collect::<Vec<_>>())?;
        }
        Ok(values)
    }

    /// Exactly the declared names, in any order.
    fn check_names(&self, names: &[&str]) -> PyResult<()> {
        let unknown = names.iter().find(|name| self.columns.iter().all(|column| column.field.name != **name));
        if let Some(unknown) = unknown {
            return Err(self.wrong("", &format!("columns {}", self.names()), &format!("also {unknown:?}")));
        }
        let missing = self.columns.iter().find(|column| !names.contains(&column.field.name.as_str()));
        if let Some(missing) = missing {
            let got = format!("columns {}", names.join(", "));
            return Err(self.wrong(&missing.field.name, "a column of that name", &got));
        }
        Ok(())
    }

    fn names(&self) -> String {
        self.columns.iter().map(|column| column.field.name.as_str()).collect::<Vec<_>>().join(", ")
    }
}

/// Whether an array starts in the response, but not where its own column does.
fn lies_in_another(array: &Bound<'_, PyUntypedArray>, index: usize, places: &[*const u8]) -> bool {
    let start = data(array);
    let first = places.iter().min().copied().unwrap_or(start);
    let last = places.iter().max().copied().unwrap_or(start);
    // No value is wider than 8 bytes, so this covers the last column too.
    let end = last.wrapping_add(array.len().max(1) * 8);
    start != places[index] && (first..end).contains(&start)
}
