//! A UDF and how it is called: arguments made from a batch's columns, `out` from the response's.
//!
//! The same code calls it in a worker and in `ringmill.testing`.
#![allow(unsafe_code)]

use std::ptr::NonNull;
use std::sync::Arc;

use numpy::PyArrayDescr;
use pyo3::exceptions::PyValueError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};
use ringmill_wire::{ColumnParts, Field, Schema, Template};

use crate::batch::{Batch, Identity};
use crate::column::Column;
use crate::lease::Lease;
use crate::ndarray::{View, ViewState, descriptor, reference_count};
use crate::output::OutputPlan;

/// What the function takes.
enum Arguments {
    /// These columns of the input, in this order.
    Columns(Vec<Argument>),
    /// The whole batch.
    Batch,
}

/// A column of the input that the function takes.
struct Argument {
    /// Its position in the input.
    index: usize,
    nullable: bool,
    is_variable: bool,
    descriptor: &'static Py<PyArrayDescr>,
}

/// How `out` is passed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Out {
    None,
    Positional,
    Keyword,
}

/// A function (or an instance of a class) and what was declared of it.
pub(crate) struct Udf {
    callable: Py<PyAny>,
    arguments: Arguments,
    out: Out,
    input: Arc<Schema>,
    output: Arc<Template>,
    pub plan: OutputPlan,
}

/// What Python says of a UDF.
pub(crate) struct Binding {
    pub udf: Py<PyAny>,
    pub name: String,
    pub mode: String,
    pub arguments: Vec<String>,
    pub out: String,
}

/// The arrays over one slot pair that may be handed out again, and the lease they all have as base.
pub(crate) struct SlotViews {
    pub lease: Py<Lease>,
    /// Of the rows that they are next over.
    pub identity: Identity,
    arguments: Vec<Option<View>>,
    out: Vec<Option<View>>,
}

/// What a function is called with.
pub(crate) struct Call<'py> {
    positional: Bound<'py, PyTuple>,
    keywords: Option<Bound<'py, PyDict>>,
}

/// The memory of a response, for `out`.
#[derive(Clone, Copy)]
pub(crate) struct ResponseMemory(pub NonNull<u8>);

impl Udf {
    pub(crate) fn new(py: Python<'_>, binding: Binding, input: Arc<Schema>, output: Arc<Template>) -> PyResult<Udf> {
        let arguments = match binding.mode.as_str() {
            "batch" => Arguments::Batch,
            "columns" => Arguments::Columns(argument_columns(py, &binding, &input)?),
            other => return Err(PyValueError::new_err(format!("mode is columns or batch, got {other:?}"))),
        };
        let out = match binding.out.as_str() {
            "none" => Out::None,
            "positional" => Out::Positional,
            "keyword" => Out::Keyword,
            other => return Err(PyValueError::new_err(format!("out is none, positional or keyword, got {other:?}"))),
        };
        if out != Out::None
            && let Some(variable) = output.schema().fields.iter().find(|field| field.data_type.is_variable())
        {
            let Field { name, data_type, .. } = variable;
            return Err(PyValueError::new_err(format!("out needs fixed-width columns, {name:?} is {data_type}")));
        }
        let plan = OutputPlan::new(py, format!("UDF {}", binding.name), output.schema())?;
        Ok(Udf { callable: binding.udf, arguments, out, input, output, plan })
    }

    pub(crate) fn writes_in_place(&self) -> bool {
        self.out != Out::None
    }

    /// What the function is called with for a batch. The arrays in it stay in `views`.
    ///
    /// # Safety
    /// While `views.lease` lives, `parts` must describe valid, unchanged columns of the input schema with `rows` rows,
    /// and `response` must be a region of the output template that only the function writes.
    pub(crate) unsafe fn prepare<'py>(
        &self,
        py: Python<'py>,
        views: &mut SlotViews,
        parts: &[ColumnParts],
        rows: usize,
        response: ResponseMemory,
    ) -> PyResult<Call<'py>> {
        // SAFETY: passed on to the caller.
        let (mut positional, out) =
            unsafe { (self.inputs(py, views, parts, rows)?, self.out(py, views, rows, response)?) };
        let keywords = match out {
            Some(out) if self.out == Out::Keyword => {
                let keywords = PyDict::new(py);
                keywords.set_item(intern!(py, "out"), out)?;
                Some(keywords)
            }
            out => {
                positional.extend(out);
                None
            }
        };
        Ok(Call { positional: PyTuple::new(py, positional)?, keywords })
    }

    /// Calls the function.
    pub(crate) fn call<'py>(&self, call: Call<'py>) -> PyResult<Bound<'py, PyAny>> {
        let callable = self.callable.bind(call.positional.py());
        match &call.keywords {
            Some(keywords) => callable.call(&call.positional, Some(keywords)),
            None => callable.call1(&call.positional),
        }
    }

    unsafe fn inputs<'py>(
        &self,
        py: Python<'py>,
        views: &mut SlotViews,
        parts: &[ColumnParts],
        rows: usize,
    ) -> PyResult<Vec<Bound<'py, PyAny>>> {
        let Arguments::Columns(columns) = &self.arguments else {
            let lease = views.lease.clone_ref(py);
            // SAFETY: by the contract of `prepare`.
            let batch = unsafe { Batch::new(lease, Arc::clone(&self.input), rows, parts.into()) };
            let batch = batch.identified(std::mem::take(&mut views.identity));
            return Ok(vec![Bound::new(py, batch)?.into_any()]);
        };
        let mut arguments = Vec::with_capacity(columns.len() + 1);
        for (argument, view) in columns.iter().zip(&mut views.arguments) {
            let part = parts[argument.index];
            if argument.nullable || argument.is_variable {
                let lease = views.lease.clone_ref(py);
                // SAFETY: by the contract of `prepare`.
                arguments.push(unsafe { Column::new(lease, part, argument.nullable) }.into_object(py)?);
            } else {
                let data = NonNull::new(part.values.cast_mut()).unwrap_or(NonNull::dangling());
                let place = Place { descriptor: argument.descriptor, data, rows, writable: false };
                // SAFETY: as above.
                arguments.push(unsafe { reused(py, view, &views.lease, place)? });
            }
        }
        Ok(arguments)
    }

    unsafe fn out<'py>(
        &self,
        py: Python<'py>,
        views: &mut SlotViews,
        rows: usize,
        response: ResponseMemory,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        if self.out == Out::None {
            return Ok(None);
        }
        let dict = PyDict::new(py);
        let mut single = None;
        for (index, view) in views.out.iter_mut().enumerate() {
            let layout = self.output.column_layout(index);
            // SAFETY: the offset lies within the response region; by the contract of `prepare` nobody else writes it.
            let array = unsafe {
                let data = response.0.add(layout.values_offset);
                // What an earlier batch left must not turn into a result of this one.
                data.write_bytes(0, rows * layout.data_type.item_width());
                let descriptor = self.plan.columns[index].descriptor;
                reused(py, view, &views.lease, Place { descriptor, data, rows, writable: true })?
            };
            if self.plan.columns.len() == 1 {
                single = Some(array);
            } else {
                dict.set_item(&self.plan.columns[index].name, array)?;
            }
        }
        Ok(Some(single.unwrap_or_else(|| dict.into_any())))
    }

    /// The arrays that were given as `out`, by name.
    pub(crate) fn out_values<'py>(&self, py: Python<'py>, views: &SlotViews) -> PyResult<Bound<'py, PyDict>> {
        let values = PyDict::new(py);
        for (column, view) in self.plan.columns.iter().zip(&views.out) {
            if let Some(view) = view {
                values.set_item(&column.name, view.array())?;
            }
        }
        Ok(values)
    }

    /// Fresh views for a slot pair.
    pub(crate) fn views(&self, lease: Py<Lease>) -> SlotViews {
        let arguments = match &self.arguments {
            Arguments::Columns(columns) => columns.len(),
            Arguments::Batch => 0,
        };
        let out = if self.writes_in_place() { self.plan.columns.len() } else { 0 };
        let none = |count| std::iter::repeat_with(|| None).take(count).collect();
        SlotViews { lease, identity: Identity::default(), arguments: none(arguments), out: none(out) }
    }

    /// After a call: whether user code holds on to anything of the slot pair. Arrays that it altered but let go are
    /// forgotten, the others stay for the next batch.
    pub(crate) fn is_kept(&self, py: Python<'_>, views: &mut SlotViews) -> bool {
        let mut cached = 0;
        let mut held = false;
        let mut look = |view: &mut Option<View>, descriptor| match view.as_ref().map(|view| view.state(py, descriptor))
        {
            Some(ViewState::Pristine) => cached += 1,
            Some(ViewState::Altered) => *view = None,
            Some(ViewState::Held) => held = true,
            None => {}
        };
        if let Arguments::Columns(columns) = &self.arguments {
            columns.iter().zip(&mut views.arguments).for_each(|(argument, view)| look(view, argument.descriptor));
        }
        self.plan.columns.iter().zip(&mut views.out).for_each(|(column, view)| look(view, column.descriptor));
        // Each cached array holds the lease once, as its base; whatever else does is user code.
        held || reference_count(py, &views.lease) != 1 + cached || !views.lease.get().is_unheld()
    }
}

/// What an array is to be over.
struct Place {
    descriptor: &'static Py<PyArrayDescr>,
    data: NonNull<u8>,
    rows: usize,
    writable: bool,
}

/// The cached array if it fits, or else a new one in its place.
///
/// # Safety
/// As for [`View::new`], as long as the lease lives.
unsafe fn reused<'py>(
    py: Python<'py>,
    view: &mut Option<View>,
    lease: &Py<Lease>,
    place: Place,
) -> PyResult<Bound<'py, PyAny>> {
    if let Some(view) = view
        && view.length() == place.rows
    {
        return Ok(view.array().bind(py).clone());
    }
    // SAFETY: passed on to the caller.
    let new = unsafe { View::new(place.descriptor.bind(py), place.data, place.rows, lease.bind(py), place.writable)? };
    Ok(view.insert(new).array().bind(py).clone())
}

fn argument_columns(py: Python<'_>, binding: &Binding, input: &Schema) -> PyResult<Vec<Argument>> {
    let find = |name: &String| {
        let Some(index) = input.index_of(name) else {
            return Err(PyValueError::new_err(format!("UDF {}: its input has no column {name:?}", binding.name)));
        };
        let Field { data_type, nullable, .. } = *input.field(index);
        let descriptor = descriptor(py, data_type)?;
        Ok(Argument { index, nullable, is_variable: data_type.is_variable(), descriptor })
    };
    binding.arguments.iter().map(find).collect()
}
