//! Python classes that are sources or sinks, in processes of their own.

use std::path::PathBuf;

use ringmill_connect::{FedSpec, OutletSink};
use serde::{Deserialize, Serialize};

use super::Supervision;

/// A class `rm.Source` and how it is run: a process for each of its partitions.
#[derive(Clone, Debug)]
pub struct PythonSource {
    /// Its columns and batches; `origin` is the class, `module:Class`.
    pub feed: FedSpec,
    /// Folder that is put first on the process's module search path.
    pub directory: PathBuf,
    /// The Python interpreter.
    pub python: PathBuf,
    /// Keyword arguments of the class: a JSON object.
    pub options: serde_json::Value,
    /// Batches that a process may have made before they are taken (a power of two).
    pub slots: u32,
    /// How its processes are watched.
    pub supervision: Supervision,
    /// What the class said about itself; see [`crate::describe`].
    pub description: ClassDescription,
}

impl PythonSource {
    /// Takes over what the class said about itself.
    pub fn describe(&mut self, description: ClassDescription) {
        self.feed.is_seekable = description.seek;
        self.description = description;
    }
}

/// A class `rm.Sink` and how it is run: one process, whatever the number of shards.
#[derive(Clone, Debug)]
pub struct PythonSink {
    /// Its batches; `origin` is the class, `module:Class`.
    pub outlet: OutletSink,
    /// Folder that is put first on the process's module search path.
    pub directory: PathBuf,
    /// The Python interpreter.
    pub python: PathBuf,
    /// Keyword arguments of the class: a JSON object.
    pub options: serde_json::Value,
    /// How its process is watched.
    pub supervision: Supervision,
}

/// What a Python class says about itself (`python -m ringmill.describe`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClassDescription {
    /// Its name.
    pub name: String,
    /// Of a source: whether it has `position()` and `seek()`.
    #[serde(default)]
    pub seek: bool,
    /// Of a source: whether it has `partitions()`; one without has a single one, `0`.
    #[serde(default)]
    pub partitions: bool,
}
