//! What rows look like in requests.

use serde::{Deserialize, Serialize};

use super::HttpBody;
use crate::Format;

/// How rows are written, and what a request makes of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Form {
    /// JSON is staged as its lines, any other text as messages
    pub format: Format,
    /// what is in a request
    pub body: HttpBody,
    /// what it says that this is
    pub content_type: String,
    /// what it begins with, with its line end
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub header: String,
}
