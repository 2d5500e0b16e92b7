//! Dead letters in the built-in store: a folder for each source, step and sink in the state folder, and in it a file for each
//! epoch that had any, one letter a line.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use ringmill_connect::{ConnectError, Letter, LetterFilter, LetterId, for_each_letter};
use ringmill_engine::plan::dead_letter_store::{folder, root, taken};
use ringmill_state::{Manifest, StateFolder};

use crate::failure::Failure;

/// The dead letters of a pipeline, as they are when it is opened.
pub struct Store {
    state: PathBuf,
    /// Of the newest checkpoint: it says which letters were replayed.
    manifest: Option<Manifest>,
}

impl Store {
    /// The store in a state folder; one that is not there is empty.
    ///
    /// # Errors
    /// What the file system says.
    pub fn open(state: &Path) -> Result<Store, Failure> {
        let mut newest = None;
        if state.exists() {
            newest = StateFolder::open_read_only(state)?.checkpoints()?.into_iter().next();
        }
        Ok(Store { state: state.to_owned(), manifest: newest.and_then(|info| info.manifest.ok()) })
    }

    /// The state folder.
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// The last epoch that the pipeline has committed; 0: none is known.
    pub fn epoch(&self) -> u64 {
        self.manifest.as_ref().map_or(0, |manifest| manifest.epoch)
    }

    /// Sources, steps and sinks that have a folder in the store, sorted by name.
    ///
    /// # Errors
    /// What the file system says.
    pub fn origins(&self) -> Result<Vec<String>, Failure> {
        let path = root(&self.state);
        let unreadable = |source| Failure::from(ConnectError::Open { path: path.clone(), source });
        let entries = match std::fs::read_dir(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(unreadable)?,
        };
        let mut names = Vec::new();
        for entry in entries {
            names.push(entry.map_err(unreadable)?.file_name().to_string_lossy().into_owned());
        }
        names.retain(|name| !name.starts_with('.'));
        names.sort();
        Ok(names)
    }

    /// Hands over the letters of a source, step or sink that the filter lets through, each with its line, in the order in which
    /// they were committed. The filter's limit is not looked at.
    ///
    /// # Errors
    /// What the file system says, and what `visit` says.
    pub fn for_each(
        &self,
        origin: &str,
        filter: &LetterFilter,
        mut visit: impl FnMut(LetterId, Letter, &str) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let taken = self.manifest.as_ref().map(|manifest| taken(manifest, origin)).unwrap_or_default();
        for_each_letter(&folder(&self.state, origin), &taken, |id, letter, line| {
            if filter.matches(id, &letter) { visit(id, letter, line) } else { Ok(()) }
        })
    }
}
