//! The three C structures, and the capsules in which Python passes them on.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_char, c_int, c_void};

use pyo3::exceptions::PyValueError;
use pyo3::ffi;
use pyo3::prelude::*;

/// `struct ArrowSchema`.
#[repr(C)]
pub(crate) struct ArrowSchema {
    pub format: *const c_char,
    pub name: *const c_char,
    pub metadata: *const c_char,
    pub flags: i64,
    pub n_children: i64,
    pub children: *mut *mut ArrowSchema,
    pub dictionary: *mut ArrowSchema,
    pub release: Option<unsafe extern "C" fn(*mut ArrowSchema)>,
    pub private_data: *mut c_void,
}

/// `struct ArrowArray`.
#[repr(C)]
pub(crate) struct ArrowArray {
    pub length: i64,
    pub null_count: i64,
    pub offset: i64,
    pub n_buffers: i64,
    pub n_children: i64,
    pub buffers: *mut *const c_void,
    pub children: *mut *mut ArrowArray,
    pub dictionary: *mut ArrowArray,
    pub release: Option<unsafe extern "C" fn(*mut ArrowArray)>,
    pub private_data: *mut c_void,
}

/// `struct ArrowArrayStream`.
#[repr(C)]
pub(crate) struct ArrowArrayStream {
    pub get_schema: Option<unsafe extern "C" fn(*mut ArrowArrayStream, *mut ArrowSchema) -> c_int>,
    pub get_next: Option<unsafe extern "C" fn(*mut ArrowArrayStream, *mut ArrowArray) -> c_int>,
    pub get_last_error: Option<unsafe extern "C" fn(*mut ArrowArrayStream) -> *const c_char>,
    pub release: Option<unsafe extern "C" fn(*mut ArrowArrayStream)>,
    pub private_data: *mut c_void,
}

/// `ARROW_FLAG_NULLABLE`.
pub(crate) const FLAG_NULLABLE: i64 = 2;

/// A structure of the interface: owned by whoever holds it unreleased, and moved by copying its bytes.
///
/// # Safety
/// `release` must free everything the value owns, and all-zero bytes must be a released value.
pub(crate) unsafe trait Structure: Sized {
    /// The name of capsules that hold one.
    const NAME: &CStr;

    /// A released value, to be filled by a callee.
    fn released() -> Self {
        // SAFETY: by the contract of the trait.
        unsafe { std::mem::zeroed() }
    }

    /// Frees what the value owns, unless it was moved away or released before.
    fn release(&mut self);

    /// Leaves a released value behind.
    fn take(&mut self) -> Self {
        std::mem::replace(self, Self::released())
    }
}

macro_rules! structure {
    ($type:ident, $name:literal) => {
        // SAFETY: pointers, integers and `Option<fn>` are all valid when zero, and a null `release` means released.
        unsafe impl Structure for $type {
            const NAME: &CStr = $name;

            fn release(&mut self) {
                if let Some(release) = self.release {
                    // SAFETY: the value is not released, and this is how its producer wants to be told.
                    unsafe { release(self) };
                    self.release = None;
                }
            }
        }
    };
}
structure!(ArrowSchema, c"arrow_schema");
structure!(ArrowArray, c"arrow_array");
structure!(ArrowArrayStream, c"arrow_array_stream");

/// A structure that releases itself.
pub(crate) struct Owned<T: Structure>(pub T);

impl<T: Structure> Drop for Owned<T> {
    fn drop(&mut self) {
        self.0.release();
    }
}

/// A capsule that owns `value` until a consumer moves it out.
pub(crate) fn into_capsule<T: Structure>(py: Python<'_>, value: T) -> PyResult<Bound<'_, PyAny>> {
    unsafe extern "C" fn destroy<T: Structure>(capsule: *mut ffi::PyObject) {
        // SAFETY: this destructor is given only to capsules made below, so the pointer is a `Box<T>` of ours.
        unsafe {
            let value = ffi::PyCapsule_GetPointer(capsule, T::NAME.as_ptr()).cast::<T>();
            if !value.is_null() {
                drop(Owned(*Box::from_raw(value)));
            }
        }
    }
    let value = Box::into_raw(Box::new(value));
    // SAFETY: the pointer is not null and the name is static; on failure the box is still ours.
    unsafe {
        let capsule = ffi::PyCapsule_New(value.cast(), T::NAME.as_ptr(), Some(destroy::<T>));
        if capsule.is_null() {
            drop(Owned(*Box::from_raw(value)));
        }
        Bound::from_owned_ptr_or_err(py, capsule)
    }
}

/// Moves the structure out of a capsule that some producer made.
pub(crate) fn from_capsule<T: Structure>(capsule: &Bound<'_, PyAny>) -> PyResult<Owned<T>> {
    // SAFETY: the name says what the pointer points at (that is the interface's convention); a foreign type under
    // this name would be the producer's error.
    let value = unsafe {
        let pointer = ffi::PyCapsule_GetPointer(capsule.as_ptr(), T::NAME.as_ptr()).cast::<T>();
        if pointer.is_null() {
            return Err(PyErr::fetch(capsule.py()));
        }
        (*pointer).take()
    };
    Ok(Owned(value))
}

/// What `pointer` says, or an error naming `what`.
///
/// # Safety
/// If not null, it must be a C string that lives as long as `'a`.
pub(crate) unsafe fn text<'a>(pointer: *const c_char, what: &str) -> PyResult<&'a str> {
    if pointer.is_null() {
        return Ok("");
    }
    // SAFETY: passed on to the caller.
    let text = unsafe { CStr::from_ptr(pointer) };
    text.to_str().map_err(|_| PyValueError::new_err(format!("the {what} of an Arrow schema is not UTF-8")))
}
