//! What can be wrong with a window step, and the one thing that can go wrong while it runs.

/// A mistake in a window step's configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {message}{}", hint.as_ref().map(|hint| format!(" ({hint})")).unwrap_or_default())]
pub struct WindowError {
    /// The key under the step that is to be mended, for example `aggregates.readings`.
    pub key: String,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl WindowError {
    pub(super) fn new(key: impl Into<String>, message: impl Into<String>, hint: Option<String>) -> Self {
        Self { key: key.into(), message: message.into(), hint }
    }
}

/// The state would outgrow its bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "window state needs {needed} bytes and may take {allowed} in this shard; raise state_memory, or use shorter \
     windows, a shorter allowed_lateness or fewer distinct keys"
)]
pub struct StateFull {
    /// Bytes that all tables together would take.
    pub needed: u64,
    /// Bytes they may take.
    pub allowed: u64,
}
