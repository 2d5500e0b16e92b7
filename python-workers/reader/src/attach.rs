//! Attaching to a channel whose descriptors a process was given.
#![allow(unsafe_code)]

use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use ringmill_ring::{Doorbell, ProtocolViolation, Wait, WorkerEnd};
use ringmill_wire::Template;

use crate::schema::value_error;

/// The end of a channel whose batches are laid out like `request` and `response`. The descriptors (request file, response
/// file, doorbell) belong to it from now on.
pub(crate) fn attach(
    descriptors: [RawFd; 3],
    wait: &str,
    request: &Template,
    response: &Template,
) -> PyResult<WorkerEnd> {
    let wait: Wait = wait.parse().map_err(value_error)?;
    if descriptors.iter().any(|fd| *fd < 0) {
        return Err(PyValueError::new_err("a descriptor is negative"));
    }
    // SAFETY: the caller gives the descriptors away; one that is not open makes `attach` fail.
    let [request_file, response_file, doorbell] = descriptors.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
    let doorbell = Doorbell::from_fd(doorbell);
    WorkerEnd::attach(request_file, response_file, doorbell, wait, request.hash(), response.hash())
        .map_err(|error| PyRuntimeError::new_err(format!("failed to attach to the channel: {error}")))
}

/// What is raised when the core breaks the protocol.
pub(crate) fn violated(error: ProtocolViolation) -> PyErr {
    PyRuntimeError::new_err(format!("the core broke the protocol: {error}"))
}
