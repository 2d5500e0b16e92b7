//! Writes one column from whatever Python object holds it.
#![allow(unsafe_code)]

use numpy::{PyArray1, PyArrayDescr, PyArrayMethods, PyUntypedArray, PyUntypedArrayMethods};
use pyo3::IntoPyObjectExt;
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyByteArray, PyBytes, PyList, PyString, PyTuple};
use ringmill_wire::{BatchWriter, DataType, Full, ListItem};

use super::{OutputColumn, OutputPlan, describe, fixed_room};
use crate::arrow::import::{Foreign, Imported, Kind, Layout, Piece, import};
use crate::ndarray::{array_over, as_array, can_cast_safely, copy_values, descriptor};

impl OutputPlan {
    /// Writes column `index` from an array, Arrow data, or a sequence.
    pub(super) fn write_column(
        &self,
        index: usize,
        value: &Bound<'_, PyAny>,
        rows: usize,
        writer: &mut BatchWriter,
    ) -> PyResult<()> {
        let py = value.py();
        let column = &self.columns[index];
        if column.field.data_type.is_variable() {
            return self.write_variable(index, value, rows, writer);
        }
        if let Some(array) = as_array(value) {
            if !array.is_exact_instance_of::<PyUntypedArray>() && is_masked(value)? {
                return self.write_masked(index, value, rows, writer);
            }
            self.write_array(index, array, rows, writer)?;
            return self.finish_fixed(index, rows, writer);
        }
        if let Some(Imported::Column(foreign)) = self.import(index, value)? {
            return self.write_foreign(py, index, &foreign, rows, writer);
        }
        if !is_sequence(value)? {
            return Err(self.wrong_values(column, &describe(value)));
        }
        self.write_sequence(index, value, rows, writer)
    }

    /// A list, a tuple, or whatever NumPy makes an array of. Nones are nulls.
    fn write_sequence(
        &self,
        index: usize,
        value: &Bound<'_, PyAny>,
        rows: usize,
        writer: &mut BatchWriter,
    ) -> PyResult<()> {
        let py = value.py();
        let column = &self.columns[index];
        let name = &column.field.name;
        let (mut nulls, mut present) = (Vec::new(), value.clone());
        if let Ok(list) = value.cast::<PyList>() {
            nulls.extend(list.iter().enumerate().filter(|(_, item)| item.is_none()).map(|(row, _)| row));
            if !nulls.is_empty() {
                // A placeholder that leaves NumPy's choice of type to the others.
                let none = match column.field.data_type {
                    DataType::Bool => false.into_py_any(py)?,
                    DataType::Timestamp(_) => py.import("numpy")?.call_method1("datetime64", ("NaT",))?.unbind(),
                    _ => 0.into_py_any(py)?,
                };
                let zero = |item: Bound<'_, PyAny>| if item.is_none() { none.clone_ref(py) } else { item.unbind() };
                present = PyList::new(py, list.iter().map(zero))?.into_any();
            }
        }
        let array = py.import("numpy")?.call_method1("asarray", (present,));
        let array = array.map_err(|error| self.at(py, name, error))?;
        let Some(array) = as_array(&array) else {
            return Err(self.wrong_values(column, &describe(value)));
        };
        if rows == 0 && array.len() == 0 {
            fixed_room(writer, index, column.field.data_type, 0);
            return Ok(()); // an empty list has no type to check
        }
        if nulls.len() == rows && array.len() == rows {
            fixed_room(writer, index, column.field.data_type, rows); // nor has one of Nones
        } else {
            self.write_array(index, array, rows, writer)?;
        }
        self.set_nulls(index, rows, &nulls, writer)?;
        self.finish_fixed(index, rows, writer)
    }

    fn import(&self, index: usize, value: &Bound<'_, PyAny>) -> PyResult<Option<Imported>> {
        let name = &self.columns[index].field.name;
        import(value).map_err(|error| self.at(value.py(), name, error))
    }

    /// `a column of 5 float64`
    fn wrong_values(&self, column: &OutputColumn, got: &str) -> PyErr {
        self.wrong(&column.field.name, &format!("{} values, one for each row", column.field.data_type), got)
    }

    fn wrong_rows(&self, index: usize, rows: usize, got: usize) -> PyErr {
        self.wrong(&self.columns[index].field.name, &format!("{rows} rows"), &got.to_string())
    }

    fn write_array(
        &self,
        index: usize,
        array: &Bound<'_, PyUntypedArray>,
        rows: usize,
        writer: &mut BatchWriter,
    ) -> PyResult<()> {
        let py = array.py();
        let column = &self.columns[index];
        if array.ndim() != 1 {
            return Err(self.wrong_values(column, &describe(array)));
        }
        if array.len() != rows {
            return Err(self.wrong_rows(index, rows, array.len()));
        }
        self.check_dtype(column, &array.dtype(), column.descriptor.bind(py))?;
        let target = fixed_room(writer, index, column.field.data_type, rows);
        // SAFETY: the room is for `rows` values of the column's type.
        let copied = unsafe { copy_values(array, column.descriptor.bind(py), target) };
        copied.map_err(|error| self.at(py, &column.field.name, error))
    }

    fn check_dtype(
        &self,
        column: &OutputColumn,
        from: &Bound<'_, PyArrayDescr>,
        to: &Bound<'_, PyArrayDescr>,
    ) -> PyResult<()> {
        if from.is(to) || can_cast_safely(from, to) {
            return Ok(());
        }
        let got = if from.to_string() == "object" {
            "Python objects (an array of object)".to_owned()
        } else {
            format!("{from}, which does not convert without loss (if that is meant: .astype({:?}))", to.to_string())
        };
        Err(self.wrong(&column.field.name, &column.field.data_type.to_string(), &got))
    }

    /// What a value array cannot say by its type: bools that are neither 0 nor 1, and NaT.
    pub(super) fn finish_fixed(&self, index: usize, rows: usize, writer: &mut BatchWriter) -> PyResult<()> {
        let field = &self.columns[index].field;
        match field.data_type {
            // An array of bytes seen as bools may hold anything; the core takes only 0 and 1.
            DataType::Bool => writer.fixed_tail::<u8>(index, rows).iter_mut().for_each(|byte| *byte = (*byte).min(1)),
            DataType::Timestamp(_) => {
                let values = writer.fixed_tail::<i64>(index, rows);
                let missing: Vec<_> = (0..rows).filter(|&row| values[row] == i64::MIN).collect();
                return self.set_nulls(index, rows, &missing, writer);
            }
            _ => {}
        }
        Ok(())
    }

    /// Marks rows of a column whose values are all written as null.
    fn set_nulls(&self, index: usize, rows: usize, nulls: &[usize], writer: &mut BatchWriter) -> PyResult<()> {
        let field = &self.columns[index].field;
        let Some(first) = nulls.first() else { return Ok(()) };
        if !field.nullable {
            let expected = format!(
                "{} without nulls (they are allowed by rm.nullable(...), or nullable = true in a pipeline's fields)",
                field.data_type
            );
            return Err(self.wrong(
                &field.name,
                &expected,
                &format!("{} nulls, the first in row {first}", nulls.len()),
            ));
        }
        if let Some(width) = field.data_type.width() {
            let values = fixed_room(writer, index, field.data_type, rows);
            for &row in nulls {
                // SAFETY: the room holds `rows` values of this width, and the row is below.
                unsafe { values.add(row * width).write_bytes(0, width) };
            }
        }
        nulls.iter().for_each(|&row| writer.set_null(index, row));
        Ok(())
    }

    fn write_masked(
        &self,
        index: usize,
        value: &Bound<'_, PyAny>,
        rows: usize,
        writer: &mut BatchWriter,
    ) -> PyResult<()> {
        let py = value.py();
        let values = value.getattr(intern!(py, "data"))?;
        let Some(values) = as_array(&values) else {
            return Err(self.wrong_values(&self.columns[index], &describe(value)));
        };
        self.write_array(index, values, rows, writer)?;
        self.finish_fixed(index, rows, writer)?;
        let mask = py.import("numpy.ma")?.call_method1("getmaskarray", (value,))?;
        let mask = mask.cast_into::<PyArray1<bool>>()?;
        let mask = mask.readonly();
        let mask = mask.as_array();
        let nulls: Vec<_> = (0..rows).filter(|&row| mask[row]).collect();
        self.set_nulls(index, rows, &nulls, writer)
    }

    /// Writes column `index` from Arrow data.
    pub(super) fn write_foreign(
        &self,
        py: Python<'_>,
        index: usize,
        foreign: &Foreign,
        rows: usize,
        writer: &mut BatchWriter,
    ) -> PyResult<()> {
        let column = &self.columns[index];
        if foreign.rows() != rows {
            return Err(self.wrong_rows(index, rows, foreign.rows()));
        }
        let result = match (column.field.data_type, foreign.kind) {
            (DataType::Utf8, Kind::Bytes { is_text: true, layout })
            | (DataType::Binary, Kind::Bytes { layout, .. }) => {
                self.write_foreign_bytes(index, foreign, layout, writer)
            }
            (DataType::List(to), Kind::List { item, layout }) => {
                self.write_foreign_lists(py, index, foreign, (item, to, layout), writer)
            }
            (to, Kind::Null) if to.is_variable() => {
                (0..rows).try_for_each(|row| self.push_value(index, row, None, writer))
            }
            (to, Kind::Bool | Kind::Fixed(_) | Kind::Null) if !to.is_variable() => {
                self.write_foreign_fixed(py, index, foreign, rows, writer)
            }
            (_, kind) => {
                let got = kind.data_type().map_or_else(|| foreign.format.clone(), |found| found.to_string());
                return Err(self.wrong(&column.field.name, &column.field.data_type.to_string(), &got));
            }
        };
        result.map_err(|error| self.at(py, &column.field.name, error))
    }

    fn write_foreign_fixed(
        &self,
        py: Python<'_>,
        index: usize,
        foreign: &Foreign,
        rows: usize,
        writer: &mut BatchWriter,
    ) -> PyResult<()> {
        let column = &self.columns[index];
        let to = column.descriptor.bind(py);
        let width = column.field.data_type.item_width();
        let target = fixed_room(writer, index, column.field.data_type, rows);
        let (mut nulls, mut start) = (Vec::new(), 0);
        for piece in &foreign.pieces {
            nulls.extend(
                (0..piece.rows).filter(|&row| foreign.kind == Kind::Null || piece.is_null(row)).map(|row| start + row),
            );
            if let Some(data_type) = foreign.kind.data_type() {
                let from = descriptor(py, data_type)?.bind(py);
                self.check_dtype(column, from, to)?;
                // SAFETY: the room is for `rows` values of this width, the pieces' rows add up to that.
                unsafe { copy_piece(piece, data_type, from, to, target.add(start * width))? };
            } else {
                // SAFETY: as above.
                unsafe { target.add(start * width).write_bytes(0, piece.rows * width) };
            }
            start += piece.rows;
        }
        self.set_nulls(index, rows, &nulls, writer)?;
        self.finish_fixed(index, rows, writer)
    }

    fn write_foreign_bytes(
        &self,
        index: usize,
        foreign: &Foreign,
        layout: Layout,
        writer: &mut BatchWriter,
    ) -> PyResult<()> {
        let is_text = self.columns[index].field.data_type == DataType::Utf8;
        let mut start = 0;
        for piece in &foreign.pieces {
            for row in 0..piece.rows {
                let value = if piece.is_null(row) { None } else { Some(piece.bytes(layout, row)) };
                if is_text && value.is_some_and(|bytes| std::str::from_utf8(bytes).is_err()) {
                    return Err(PyValueError::new_err(format!("row {} is not valid UTF-8", start + row)));
                }
                self.push_value(index, start + row, value, writer)?;
            }
            start += piece.rows;
        }
        Ok(())
    }

    fn write_foreign_lists(
        &self,
        py: Python<'_>,
        index: usize,
        foreign: &Foreign,
        (from, to, layout): (DataType, ListItem, Layout),
        writer: &mut BatchWriter,
    ) -> PyResult<()> {
        let column = &self.columns[index];
        let (from_type, to_type) = (descriptor(py, from)?.bind(py), descriptor(py, to.data_type())?.bind(py));
        self.check_dtype(column, from_type, to_type)?;
        let mut row_start = 0;
        for piece in &foreign.pieces {
            if piece.has_null_items() {
                return Err(self.wrong(&column.field.name, "lists without null items", "nulls in a list"));
            }
            for row in 0..piece.rows {
                if piece.is_null(row) {
                    self.push_value(index, row_start + row, None, writer)?;
                    continue;
                }
                let (data, length) = piece.items(layout, from.item_width(), row);
                // SAFETY: the items are alive as long as the piece, and the array dies at once.
                let items = unsafe { array_over(from_type, data.cast_mut(), length, None, false)? };
                let items = items.cast::<PyUntypedArray>()?;
                self.push_items(index, row_start + row, items, to_type, writer)?;
            }
            row_start += piece.rows;
        }
        Ok(())
    }

    /// Writes a utf8, binary or list column from anything but an Arrow table.
    fn write_variable(
        &self,
        index: usize,
        value: &Bound<'_, PyAny>,
        rows: usize,
        writer: &mut BatchWriter,
    ) -> PyResult<()> {
        let py = value.py();
        let column = &self.columns[index];
        let is_masked = as_array(value).is_some() && is_masked(value)?;
        if as_array(value).is_none()
            && let Some(Imported::Column(foreign)) = self.import(index, value)?
        {
            return self.write_foreign(py, index, &foreign, rows, writer);
        }
        if !is_sequence(value)? {
            return Err(self.wrong_values(column, &describe(value)));
        }
        let found = value.len()?;
        if found != rows {
            return Err(self.wrong_rows(index, rows, found));
        }
        let items = match column.field.data_type {
            // One pass in C instead of a NumPy scalar per row; also turns masked rows into None.
            DataType::Utf8 | DataType::Binary if value.hasattr(intern!(py, "tolist"))? || is_masked => {
                value.call_method0(intern!(py, "tolist"))?
            }
            _ => value.clone(),
        };
        let result = items.try_iter()?.enumerate().try_for_each(|(row, item)| {
            let item = item?;
            match column.field.data_type {
                _ if item.is_none() => self.push_value(index, row, None, writer),
                DataType::Utf8 => self.push_text(index, row, &item, writer),
                DataType::Binary => self.push_blob(index, row, &item, writer),
                _ => self.push_list(py, index, row, &item, writer),
            }
        });
        result.map_err(|error| self.at(py, &column.field.name, error))
    }

    fn push_text(&self, index: usize, row: usize, item: &Bound<'_, PyAny>, writer: &mut BatchWriter) -> PyResult<()> {
        let Ok(text) = item.cast::<PyString>() else {
            let got = format!("{} in row {row}", describe(item));
            return Err(self.wrong(&self.columns[index].field.name, "utf8: a str in each row", &got));
        };
        self.push_value(index, row, Some(text.to_cow()?.as_bytes()), writer)
    }

    fn push_blob(&self, index: usize, row: usize, item: &Bound<'_, PyAny>, writer: &mut BatchWriter) -> PyResult<()> {
        if let Ok(bytes) = item.cast::<PyBytes>() {
            return self.push_value(index, row, Some(bytes.as_bytes()), writer);
        }
        if let Ok(bytes) = item.cast::<PyByteArray>() {
            return self.push_value(index, row, Some(&bytes.to_vec()), writer);
        }
        let got = format!("{} in row {row}", describe(item));
        Err(self.wrong(&self.columns[index].field.name, "binary: bytes in each row", &got))
    }

    fn push_list(
        &self,
        py: Python<'_>,
        index: usize,
        row: usize,
        item: &Bound<'_, PyAny>,
        writer: &mut BatchWriter,
    ) -> PyResult<()> {
        let column = &self.columns[index];
        let DataType::List(to) = column.field.data_type else { unreachable!("called for list columns only") };
        let to = descriptor(py, to.data_type())?.bind(py);
        let array = py.import("numpy")?.call_method1("asarray", (item,))?;
        let array = as_array(&array).filter(|array| array.ndim() == 1);
        let Some(array) = array else {
            let got = format!("{} in row {row}", describe(item));
            return Err(self.wrong(
                &column.field.name,
                &format!("{}: a list in each row", column.field.data_type),
                &got,
            ));
        };
        if array.len() > 0 {
            self.check_dtype(column, &array.dtype(), to)?;
        }
        self.push_items(index, row, array, to, writer)
    }

    fn push_items(
        &self,
        index: usize,
        row: usize,
        items: &Bound<'_, PyUntypedArray>,
        to: &Bound<'_, PyArrayDescr>,
        writer: &mut BatchWriter,
    ) -> PyResult<()> {
        use numpy::PyArrayDescrMethods;
        let bytes = items.len() * to.itemsize();
        // Words, so that the items are aligned.
        let mut copy = vec![0_u64; bytes.div_ceil(8)];
        if items.len() > 0 {
            // SAFETY: the copy has room for all items, aligned to 8.
            unsafe { copy_values(items, to, copy.as_mut_ptr().cast())? };
        }
        // SAFETY: the vector holds at least so many initialised bytes.
        let copy = unsafe { std::slice::from_raw_parts(copy.as_ptr().cast::<u8>(), bytes) };
        self.push_value(index, row, Some(copy), writer)
    }

    /// Appends one row to a variable column.
    fn push_value(&self, index: usize, row: usize, value: Option<&[u8]>, writer: &mut BatchWriter) -> PyResult<()> {
        let field = &self.columns[index].field;
        let Some(value) = value else {
            if !field.nullable {
                let expected = format!(
                    "{} without nulls (they are allowed by rm.nullable(...), or nullable = true in a pipeline's fields)",
                    field.data_type
                );
                return Err(self.wrong(&field.name, &expected, &format!("a null in row {row}")));
            }
            writer.push_null(index);
            return Ok(());
        };
        writer.push_bytes(index, value).map_err(|Full| {
            let room = writer.template().capacity().variable_bytes_max;
            let expected = format!("at most {room} bytes of {} in a batch", field.data_type);
            self.no_room(&field.name, &expected, &format!("more, in row {row}"))
        })
    }
}

/// # Safety
/// `target` must have room for the piece's rows, aligned.
unsafe fn copy_piece(
    piece: &Piece,
    data_type: DataType,
    from: &Bound<'_, PyArrayDescr>,
    to: &Bound<'_, PyArrayDescr>,
    target: *mut u8,
) -> PyResult<()> {
    let width = data_type.item_width();
    let bytes = piece.rows * width;
    let mut aligned = Vec::<u64>::new();
    let bools;
    let source = if data_type == DataType::Bool {
        bools = piece.bools();
        bools.as_ptr()
    } else if piece.rows > 0 && !(piece.values(width) as usize).is_multiple_of(width) {
        // Arrow only recommends alignment; NumPy needs it.
        aligned.resize(bytes.div_ceil(8), 0);
        // SAFETY: the piece has so many bytes of values, and the vector room for them.
        unsafe { aligned.as_mut_ptr().cast::<u8>().copy_from_nonoverlapping(piece.values(width), bytes) };
        aligned.as_ptr().cast()
    } else {
        piece.values(width)
    };
    if piece.rows == 0 {
        return Ok(());
    }
    // SAFETY: the source has the piece's rows, aligned, and outlives the array; the caller vouches for the target.
    unsafe {
        let array = array_over(from, source.cast_mut(), piece.rows, None, false)?;
        copy_values(array.cast::<PyUntypedArray>()?, to, target)
    }
}

/// Whether a NumPy array (of a subclass) has a mask.
fn is_masked(value: &Bound<'_, PyAny>) -> PyResult<bool> {
    static CLASS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let py = value.py();
    let class = CLASS.get_or_try_init(py, || PyResult::Ok(py.import("numpy.ma")?.getattr("MaskedArray")?.unbind()))?;
    value.is_instance(class.bind(py))
}

/// Whether rows can be taken out of the value: not text, not a number, not a dict.
fn is_sequence(value: &Bound<'_, PyAny>) -> PyResult<bool> {
    if value.is_instance_of::<PyList>() || value.is_instance_of::<PyTuple>() {
        return Ok(true);
    }
    if let Some(array) = as_array(value) {
        return Ok(array.ndim() > 0);
    }
    if value.is_instance_of::<PyString>() || value.is_instance_of::<PyBytes>() {
        return Ok(false);
    }
    value.hasattr(intern!(value.py(), "__array__")).map_err(|error| PyTypeError::new_err(error.to_string()))
}
