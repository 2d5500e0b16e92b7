//! The Python extension module `ringmill._reader`: a worker's end of a channel, and what its rows look like in Python.
//!
//! Conversions only: what a UDF is given ([`udf`], [`column`], [`batch`]), how long it may look at it ([`lease`]), what
//! it may return ([`output`]) and have stored ([`keeper`]), and the loop that does all that for every batch
//! ([`worker`]); and the ends that are asked for rows, a source's ([`feed`]) and a producer's ([`sender`]). Which function runs, on which columns, is decided
//! in the Python package around it.

mod answers;
mod arrow;
mod attach;
mod batch;
mod column;
mod copied;
mod feed;
mod keeper;
mod lease;
mod local;
mod ndarray;
mod output;
mod schema;
mod sender;
mod udf;
mod worker;

use pyo3::prelude::*;

/// See `_reader.pyi`.
#[pymodule]
mod _reader {
    #[pymodule_export]
    use crate::batch::Batch;
    #[pymodule_export]
    use crate::column::{ColumnIterator, ListColumn, StringColumn};
    #[pymodule_export]
    use crate::feed::Feed;
    #[pymodule_export]
    use crate::lease::Lease;
    #[pymodule_export]
    use crate::local::{LocalChannel, make_batch, run_udf};
    #[pymodule_export]
    use crate::output::OutputError;
    #[pymodule_export]
    use crate::sender::Sender;
    #[pymodule_export]
    use crate::worker::Worker;
}
