//! NumPy arrays over memory that is not NumPy's, through NumPy's C interface.
//!
//! Guarantees: an array made here keeps its base alive; a read-only one can never be made writable (its base offers no
//! buffer, so NumPy refuses `setflags(write=True)`); [`View::state`] tells whether anybody else could still see it.
//! What the memory holds, and for how long, is the business of `lease.rs`.
#![allow(unsafe_code)]

use std::collections::HashMap;
use std::os::raw::c_int;
use std::ptr::{self, NonNull};

use numpy::npyffi::flags::{NPY_ARRAY_CARRAY, NPY_ARRAY_CARRAY_RO};
use numpy::npyffi::{NPY_CASTING, NpyTypes, PY_ARRAY_API, PyArrayObject, get_type_object, npy_intp};
use numpy::{PyArrayDescr, PyArrayDescrMethods, PyUntypedArray, PyUntypedArrayMethods};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use ringmill_wire::{DataType, TimeUnit};

static DESCRIPTORS: PyOnceLock<HashMap<DataType, Py<PyArrayDescr>>> = PyOnceLock::new();

/// The NumPy dtype of a column's values, or of its items: `uint8` for the bytes of utf8 and binary.
pub(crate) fn descriptor(py: Python<'_>, data_type: DataType) -> PyResult<&'static Py<PyArrayDescr>> {
    let descriptors = DESCRIPTORS.get_or_try_init(py, || {
        DataType::all()
            .into_iter()
            .map(|data_type| Ok((data_type, PyArrayDescr::new(py, numpy_name(data_type))?.unbind())))
            .collect::<PyResult<HashMap<_, _>>>()
    })?;
    Ok(&descriptors[&data_type])
}

fn numpy_name(data_type: DataType) -> String {
    match data_type {
        DataType::Timestamp(unit) => format!("datetime64[{}]", unit_name(unit)),
        DataType::Utf8 | DataType::Binary => "uint8".to_owned(),
        DataType::List(item) => numpy_name(item.data_type()),
        fixed => fixed.to_string(),
    }
}

/// `s`, `ms`, `us` or `ns`.
pub(crate) fn unit_name(unit: TimeUnit) -> &'static str {
    match unit {
        TimeUnit::Second => "s",
        TimeUnit::Millisecond => "ms",
        TimeUnit::Microsecond => "us",
        TimeUnit::Nanosecond => "ns",
    }
}

/// A new one-dimensional array of `length` values at `data`, which keeps `base` alive.
///
/// # Safety
/// While `base` lives, `data` must be valid for reads of `length` values (for writes too if `writable`), aligned for
/// them, and written by nobody but Python code through a writable array.
pub(crate) unsafe fn array_over<'py>(
    descriptor: &Bound<'py, PyArrayDescr>,
    data: *mut u8,
    length: usize,
    base: Option<&Bound<'py, PyAny>>,
    writable: bool,
) -> PyResult<Bound<'py, PyAny>> {
    let py = descriptor.py();
    let mut dimensions = [length as npy_intp];
    let flags = if writable { NPY_ARRAY_CARRAY } else { NPY_ARRAY_CARRAY_RO };
    // SAFETY: the descriptor's reference is given away, as the call wants; dimensions has one entry, for one
    // dimension; null strides mean contiguous; the caller vouches for the data.
    let array = unsafe {
        let object = PY_ARRAY_API.PyArray_NewFromDescr(
            py,
            get_type_object(py, NpyTypes::PyArray_Type),
            descriptor.clone().into_dtype_ptr(),
            1,
            dimensions.as_mut_ptr(),
            ptr::null_mut(),
            data.cast(),
            flags,
            ptr::null_mut(),
        );
        Bound::from_owned_ptr_or_err(py, object)?
    };
    if let Some(base) = base {
        // SAFETY: `array` is a new array without a base; the reference to base is given away, as the call wants.
        let status = unsafe { PY_ARRAY_API.PyArray_SetBaseObject(py, array.as_ptr().cast(), base.clone().into_ptr()) };
        if status < 0 {
            return Err(PyErr::fetch(py));
        }
    }
    Ok(array)
}

/// An array that is handed to user code and, if nobody kept it, handed out again.
pub(crate) struct View {
    array: Py<PyAny>,
    data: *mut u8,
    length: usize,
    flags: c_int,
}

// SAFETY: the pointer is only compared, never followed; the array is reached under the GIL.
unsafe impl Send for View {}
// SAFETY: as above.
unsafe impl Sync for View {}

/// What became of an array that was handed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ViewState {
    /// Nobody else can reach it, and it is as it was made.
    Pristine,
    /// Nobody else holds it, but it was altered, or a weak reference could bring it back.
    Altered,
    /// Somebody holds it.
    Held,
}

impl View {
    /// See [`array_over`].
    ///
    /// # Safety
    /// As for [`array_over`].
    pub(crate) unsafe fn new(
        descriptor: &Bound<'_, PyArrayDescr>,
        data: NonNull<u8>,
        length: usize,
        base: &Bound<'_, PyAny>,
        writable: bool,
    ) -> PyResult<View> {
        // SAFETY: passed on to the caller.
        let array = unsafe { array_over(descriptor, data.as_ptr(), length, Some(base), writable)? };
        // SAFETY: `array` is a NumPy array.
        let flags = unsafe { (*array.as_ptr().cast::<PyArrayObject>()).fields.flags };
        Ok(View { array: array.unbind(), data: data.as_ptr(), length, flags })
    }

    pub(crate) fn array(&self) -> &Py<PyAny> {
        &self.array
    }

    pub(crate) fn length(&self) -> usize {
        self.length
    }

    /// What user code has made of the array. Only the reference of this `View` is expected.
    pub(crate) fn state(&self, py: Python<'_>, descriptor: &Py<PyArrayDescr>) -> ViewState {
        if reference_count(py, &self.array) != 1 {
            return ViewState::Held;
        }
        // SAFETY: it was made by NumPy as an array, and its type cannot change to one of another layout. For one
        // dimension, dimensions and strides have an entry each.
        let pristine = unsafe {
            let fields = &(*self.array.as_ptr().cast::<PyArrayObject>()).fields;
            fields.nd == 1
                && fields.data.cast::<u8>() == self.data
                && *fields.dimensions == self.length as npy_intp
                && fields.descr.cast() == descriptor.as_ptr()
                && fields.flags == self.flags
                && fields.weakreflist.is_null()
        };
        // The stride follows from the flags: an array of other strides is not contiguous, unless it has at most one
        // item, when its stride means nothing.
        if pristine { ViewState::Pristine } else { ViewState::Altered }
    }
}

/// References to an object, counted under the GIL.
pub(crate) fn reference_count<T>(_py: Python<'_>, object: &Py<T>) -> isize {
    // SAFETY: the object is alive, since it is referred to.
    unsafe { ffi::Py_REFCNT(object.as_ptr()) }
}

/// `object` as a NumPy array, if it is one (or of a subclass).
pub(crate) fn as_array<'a, 'py>(object: &'a Bound<'py, PyAny>) -> Option<&'a Bound<'py, PyUntypedArray>> {
    object.cast::<PyUntypedArray>().ok()
}

/// Where an array's first value stands.
pub(crate) fn data(array: &Bound<'_, PyUntypedArray>) -> *const u8 {
    // SAFETY: it is an array.
    unsafe { (*array.as_array_ptr()).fields.data.cast::<u8>() }
}

/// Whether NumPy calls the conversion of every `from` to `to` safe: nothing is lost.
pub(crate) fn can_cast_safely(from: &Bound<'_, PyArrayDescr>, to: &Bound<'_, PyArrayDescr>) -> bool {
    let py = from.py();
    // SAFETY: both are descriptors.
    unsafe {
        PY_ARRAY_API.PyArray_CanCastTypeTo(py, from.as_dtype_ptr(), to.as_dtype_ptr(), NPY_CASTING::NPY_SAFE_CASTING)
            != 0
    }
}

/// Copies an array's values to `target`, converting them to `descriptor`.
///
/// # Safety
/// `target` must be valid for writes of `array.len()` values of `descriptor`, aligned, and not overlap the array.
pub(crate) unsafe fn copy_values(
    array: &Bound<'_, PyUntypedArray>,
    descriptor: &Bound<'_, PyArrayDescr>,
    target: *mut u8,
) -> PyResult<()> {
    let py = array.py();
    let dtype = array.dtype();
    let is_same = dtype.as_ptr() == descriptor.as_ptr() || dtype.is_equiv_to(descriptor);
    if is_same && array.is_c_contiguous() {
        // SAFETY: a contiguous array has its values in one piece; the caller vouches for the target.
        unsafe { target.copy_from_nonoverlapping(data(array), array.len() * descriptor.itemsize()) };
        return Ok(());
    }
    // SAFETY: the view without a base dies at the end of this function, before the target does.
    let view = unsafe { array_over(descriptor, target, array.len(), None, true)? };
    // SAFETY: both are arrays of the same length.
    let status = unsafe { PY_ARRAY_API.PyArray_CopyInto(py, view.as_ptr().cast(), array.as_array_ptr()) };
    if status < 0 { Err(PyErr::fetch(py)) } else { Ok(()) }
}
