//! Columns as user code sees them: NumPy arrays where a row has one fixed-width value, [`StringColumn`] and
//! [`ListColumn`] where rows differ in length.
//!
//! Nothing is decoded or copied before it is asked for. Every object holds the lease of the memory it looks into.
#![allow(unsafe_code)]

use std::sync::Arc;

use numpy::PyArray1;
use pyo3::exceptions::{PyIndexError, PyTypeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyDict, PyList, PySlice, PyString};
use ringmill_wire::{ColumnParts, DataType};

use crate::arrow::abi::into_capsule;
use crate::arrow::export;
use crate::lease::{Hold, Lease};
use crate::ndarray::{array_over, descriptor};

/// A column of a batch, and the right to look at it.
pub(crate) struct Column {
    lease: Py<Lease>,
    parts: ColumnParts,
    nullable: bool,
}

// SAFETY: the pointers lead into memory that the lease keeps valid and that nobody writes while it is held.
unsafe impl Send for Column {}
// SAFETY: as above; all access is reading.
unsafe impl Sync for Column {}

impl Column {
    /// # Safety
    /// While `lease` lives, what `parts` points to must be valid, unchanged, and a column of its type by the rules of
    /// the wire crate (lengths, offsets).
    pub(crate) unsafe fn new(lease: Py<Lease>, parts: ColumnParts, nullable: bool) -> Column {
        Column { lease, parts, nullable }
    }

    /// What a UDF is given: an array, a masked array, or one of the classes below.
    pub(crate) fn into_object(self, py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
        match self.parts.data_type {
            DataType::Utf8 | DataType::Binary => Ok(Bound::new(py, StringColumn { column: self })?.into_any()),
            DataType::List(_) => Ok(Bound::new(py, ListColumn { column: self })?.into_any()),
            _ if self.nullable => self.masked_array(py),
            _ => self.values(py),
        }
    }

    fn rows(&self) -> usize {
        self.parts.rows as usize
    }

    /// The values, or the items of all rows, as one array.
    fn values<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let length = self.parts.values_bytes as usize / self.parts.data_type.item_width();
        self.items(py, 0, length)
    }

    fn items<'py>(&self, py: Python<'py>, start: usize, end: usize) -> PyResult<Bound<'py, PyAny>> {
        let data_type = self.parts.data_type;
        let descriptor = descriptor(py, data_type)?.bind(py);
        let base = self.lease.bind(py).as_any();
        // SAFETY: `start..end` lies within the values by the contract of `new`, which also covers the lease.
        unsafe {
            let data = self.parts.values.add(start * data_type.item_width()).cast_mut();
            array_over(descriptor, data, end - start, Some(base), false)
        }
    }

    fn offsets<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let descriptor = descriptor(py, DataType::Int32)?.bind(py);
        let base = self.lease.bind(py).as_any();
        // SAFETY: a variable column has rows + 1 offsets.
        unsafe { array_over(descriptor, self.parts.offsets.cast_mut().cast(), self.rows() + 1, Some(base), false) }
    }

    fn is_null(&self, row: usize) -> bool {
        // SAFETY: a validity bitmap has a bit for every row.
        self.parts.null_count > 0 && unsafe { *self.parts.validity.add(row / 8) } >> (row % 8) & 1 == 0
    }

    /// True where a row is null.
    fn mask<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<bool>> {
        PyArray1::from_vec(py, (0..self.rows()).map(|row| self.is_null(row)).collect())
    }

    fn masked_array<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        static CLASS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        static NOMASK: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        let import = |name| PyResult::Ok(py.import("numpy.ma")?.getattr(name)?.unbind());
        let class = CLASS.get_or_try_init(py, || import("MaskedArray"))?;
        let mask = match self.parts.null_count {
            0 => NOMASK.get_or_try_init(py, || import("nomask"))?.bind(py).clone(),
            _ => self.mask(py).into_any(),
        };
        let keywords = PyDict::new(py);
        keywords.set_item(intern!(py, "mask"), mask)?;
        class.bind(py).call((self.values(py)?,), Some(&keywords))
    }

    /// Where row `row` starts and ends in the values, in items.
    fn range(&self, row: usize) -> (usize, usize) {
        debug_assert!(row < self.rows());
        // SAFETY: a variable column has rows + 1 offsets.
        unsafe { (*self.parts.offsets.add(row) as usize, *self.parts.offsets.add(row + 1) as usize) }
    }

    fn bytes(&self, row: usize) -> &[u8] {
        let (start, end) = self.range(row);
        // SAFETY: offsets never fall and end within the values, by the contract of `new`.
        unsafe { std::slice::from_raw_parts(self.parts.values.add(start), end - start) }
    }

    /// A row number from a Python index.
    fn row(&self, index: isize) -> PyResult<usize> {
        let from_start = if index < 0 { index + self.rows() as isize } else { index };
        match usize::try_from(from_start) {
            Ok(row) if row < self.rows() => Ok(row),
            _ => Err(PyIndexError::new_err(format!("row {index} of a column of {} rows", self.rows()))),
        }
    }

    /// `column[index]` for a number or a slice, with `item` reading one row.
    fn get<'py>(
        &self,
        index: &Bound<'py, PyAny>,
        item: impl Fn(usize) -> PyResult<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        if let Ok(slice) = index.cast::<PySlice>() {
            let indices = slice.indices(self.rows() as isize)?;
            let rows = (0..indices.slicelength).map(|n| (indices.start + n as isize * indices.step) as usize);
            let items = rows.map(item).collect::<PyResult<Vec<_>>>()?;
            return Ok(PyList::new(index.py(), items)?.into_any());
        }
        let number: isize = index.extract().map_err(|_| {
            PyTypeError::new_err("a column is indexed by a row number or a slice; use to_numpy() for masks")
        })?;
        item(self.row(number)?)
    }

    fn hold(&self) -> Arc<Hold> {
        self.lease.get().hold()
    }

    fn arrow_schema<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        into_capsule(py, export::column_schema("", self.parts.data_type, self.nullable))
    }

    fn arrow_array<'py>(&self, py: Python<'py>) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyAny>)> {
        // SAFETY: the hold belongs to the lease that keeps these parts valid, by the contract of `new`.
        let array = unsafe { export::column_array(&self.parts, &self.hold()) };
        let array = into_capsule(py, array)?;
        Ok((self.arrow_schema(py)?, array))
    }
}

/// A column of text (`utf8`) or bytes (`binary`).
#[pyclass(frozen, sequence, module = "ringmill._reader")]
pub(crate) struct StringColumn {
    column: Column,
}

impl StringColumn {
    fn item<'py>(&self, py: Python<'py>, row: usize) -> PyResult<Bound<'py, PyAny>> {
        if self.column.is_null(row) {
            return Ok(py.None().into_bound(py));
        }
        let bytes = self.column.bytes(row);
        if self.column.parts.data_type == DataType::Binary {
            return Ok(PyBytes::new(py, bytes).into_any());
        }
        let text = std::str::from_utf8(bytes).map_err(|error| PyValueError::new_err(format!("row {row}: {error}")))?;
        Ok(PyString::new(py, text).into_any())
    }
}

#[pymethods]
impl StringColumn {
    /// `"utf8"` or `"binary"`.
    #[getter]
    fn data_type(&self) -> String {
        self.column.parts.data_type.to_string()
    }

    /// Where each row starts in `bytes`; one entry more than rows. Read-only view, `int32`.
    #[getter]
    fn offsets<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.column.offsets(py)
    }

    /// The bytes of all rows, one after another. Read-only view, `uint8`.
    #[getter]
    fn bytes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.column.values(py)
    }

    /// True where a row is null.
    #[getter]
    fn mask<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<bool>> {
        self.column.mask(py)
    }

    #[getter]
    fn null_count(&self) -> u32 {
        self.column.parts.null_count
    }

    /// All rows, decoded.
    fn to_list<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let items = (0..self.column.rows()).map(|row| self.item(py, row)).collect::<PyResult<Vec<_>>>()?;
        PyList::new(py, items)
    }

    /// All rows, decoded, as an array of `dtype` (default `object`; nulls are `None`).
    #[pyo3(signature = (dtype=None))]
    fn to_numpy<'py>(&self, py: Python<'py>, dtype: Option<Bound<'py, PyAny>>) -> PyResult<Bound<'py, PyAny>> {
        let keywords = PyDict::new(py);
        keywords.set_item("dtype", dtype.unwrap_or_else(|| PyString::new(py, "object").into_any()))?;
        py.import("numpy")?.call_method("array", (self.to_list(py)?,), Some(&keywords))
    }

    #[pyo3(signature = (dtype=None, copy=None))]
    fn __array__<'py>(
        &self,
        py: Python<'py>,
        dtype: Option<Bound<'py, PyAny>>,
        copy: Option<bool>,
    ) -> PyResult<Bound<'py, PyAny>> {
        if copy == Some(false) {
            return Err(PyValueError::new_err("text cannot become a NumPy array without a copy"));
        }
        self.to_numpy(py, dtype)
    }

    fn __len__(&self) -> usize {
        self.column.rows()
    }

    fn __getitem__<'py>(&self, py: Python<'py>, index: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        self.column.get(index, |row| self.item(py, row))
    }

    fn __iter__(column: Bound<'_, Self>) -> ColumnIterator {
        ColumnIterator { column: column.into_any().unbind(), row: 0 }
    }

    fn __repr__(&self) -> String {
        format!("<StringColumn {} of {} rows>", self.data_type(), self.column.rows())
    }

    fn __arrow_c_schema__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.column.arrow_schema(py)
    }

    #[pyo3(signature = (requested_schema=None))]
    fn __arrow_c_array__<'py>(
        &self,
        py: Python<'py>,
        requested_schema: Option<Bound<'py, PyAny>>,
    ) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyAny>)> {
        let _ = requested_schema; // the interface lets a producer disregard it
        self.column.arrow_array(py)
    }
}

/// A column of lists.
#[pyclass(frozen, sequence, module = "ringmill._reader")]
pub(crate) struct ListColumn {
    column: Column,
}

impl ListColumn {
    fn item<'py>(&self, py: Python<'py>, row: usize) -> PyResult<Bound<'py, PyAny>> {
        if self.column.is_null(row) {
            return Ok(py.None().into_bound(py));
        }
        let (start, end) = self.column.range(row);
        self.column.items(py, start, end)
    }
}

#[pymethods]
impl ListColumn {
    /// For example `"list[float64]"`.
    #[getter]
    fn data_type(&self) -> String {
        self.column.parts.data_type.to_string()
    }

    /// Where each row starts in `values`; one entry more than rows. Read-only view, `int32`.
    #[getter]
    fn offsets<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.column.offsets(py)
    }

    /// The items of all rows, one after another. Read-only view.
    #[getter]
    fn values<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.column.values(py)
    }

    /// True where a row is null.
    #[getter]
    fn mask<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<bool>> {
        self.column.mask(py)
    }

    #[getter]
    fn null_count(&self) -> u32 {
        self.column.parts.null_count
    }

    /// A view of each row; `None` for nulls.
    fn to_list<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let items = (0..self.column.rows()).map(|row| self.item(py, row)).collect::<PyResult<Vec<_>>>()?;
        PyList::new(py, items)
    }

    fn __len__(&self) -> usize {
        self.column.rows()
    }

    fn __getitem__<'py>(&self, py: Python<'py>, index: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        self.column.get(index, |row| self.item(py, row))
    }

    fn __iter__(column: Bound<'_, Self>) -> ColumnIterator {
        ColumnIterator { column: column.into_any().unbind(), row: 0 }
    }

    fn __repr__(&self) -> String {
        format!("<ListColumn {} of {} rows>", self.data_type(), self.column.rows())
    }

    fn __arrow_c_schema__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.column.arrow_schema(py)
    }

    #[pyo3(signature = (requested_schema=None))]
    fn __arrow_c_array__<'py>(
        &self,
        py: Python<'py>,
        requested_schema: Option<Bound<'py, PyAny>>,
    ) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyAny>)> {
        let _ = requested_schema; // the interface lets a producer disregard it
        self.column.arrow_array(py)
    }
}

/// Reads a column row by row.
#[pyclass(module = "ringmill._reader")]
pub(crate) struct ColumnIterator {
    column: Py<PyAny>,
    row: usize,
}

#[pymethods]
impl ColumnIterator {
    fn __iter__(iterator: PyRef<'_, Self>) -> PyRef<'_, Self> {
        iterator
    }

    fn __next__<'py>(&mut self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let column = self.column.bind(py);
        let row = self.row;
        let next = if let Ok(strings) = column.cast::<StringColumn>() {
            let strings = strings.get();
            (row < strings.column.rows()).then(|| strings.item(py, row))
        } else {
            let lists = column.cast::<ListColumn>()?.get();
            (row < lists.column.rows()).then(|| lists.item(py, row))
        };
        self.row += usize::from(next.is_some());
        next.transpose()
    }
}
