//! How a wrong result is told.

use numpy::{PyUntypedArray, PyUntypedArrayMethods};
use pyo3::create_exception;
use pyo3::exceptions::PyValueError;
use pyo3::intern;
use pyo3::prelude::*;

use super::OutputPlan;

create_exception!(
    ringmill._reader,
    OutputError,
    PyValueError,
    "What a UDF returned does not fit what it declared; the message names UDF, column, expected and got."
);

impl OutputPlan {
    /// `UDF f: output 'score': expected …, got …`; without a column if `column` is empty.
    pub(super) fn wrong(&self, column: &str, expected: &str, got: &str) -> PyErr {
        let at = if column.is_empty() { String::new() } else { format!(" column {column:?}:") };
        OutputError::new_err(format!("{}:{at} expected {expected}, got {got}", self.subject))
    }

    /// The same where a column needs more room than a batch has: `fewer_may_fit` is then true of the error.
    pub(super) fn no_room(&self, column: &str, expected: &str, got: &str) -> PyErr {
        let error = self.wrong(column, expected, got);
        // Without it the rows are refused as a whole, which is what others do anyway.
        let _ = Python::attach(|py| error.value(py).setattr(intern!(py, "fewer_may_fit"), true));
        error
    }

    /// An error of a conversion, with the place where it happened before it.
    pub(super) fn at(&self, py: Python<'_>, column: &str, cause: PyErr) -> PyErr {
        if cause.is_instance_of::<OutputError>(py) {
            return cause;
        }
        let error = OutputError::new_err(format!("{}: column {column:?}: {}", self.subject, cause.value(py)));
        error.set_cause(py, Some(cause));
        error
    }
}

/// What a value is, in few words: `an array of 3 float64`, `None`, `a str`.
pub(crate) fn describe(value: &Bound<'_, PyAny>) -> String {
    if value.is_none() {
        return "None".to_owned();
    }
    if let Ok(array) = value.cast::<PyUntypedArray>() {
        let dtype = array.dtype();
        return match array.shape() {
            [rows] => format!("an array of {rows} {dtype}"),
            [] => format!("one {dtype} for all rows"),
            shape => format!("a {dtype} array of shape {shape:?}"),
        };
    }
    match value.get_type().name() {
        Ok(name) => format!("a {name}"),
        Err(_) => "a value of unknown type".to_owned(),
    }
}
