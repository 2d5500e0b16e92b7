//! What goes over a producer's socket: packets of JSON, one a message.
//!
//! The producer says one [`Hello`] and is answered with a [`Reply::Welcome`], which carries three descriptors (request
//! file, response file, doorbell), or a [`Reply::Refused`], behind which the socket is closed. Later come
//! [`Reply::Acknowledged`], and perhaps a `Refused`; the producer says nothing more.

use ringmill_wire::{Capacity, Schema};
use serde::{Deserialize, Serialize};

/// Raised when messages change so that older readers would misread them.
pub const VERSION: u32 = 1;
/// Longest message of a producer: names are short.
pub const HELLO_BYTES_MAX: usize = 4096;

/// A producer's message.
#[derive(Debug, Deserialize)]
pub struct Hello {
    /// Version of these messages.
    pub version: u32,
    /// The pipeline that it means, by its whole name.
    pub pipeline: String,
    /// The source; `None`: the only one.
    pub source: Option<String>,
    /// Which of the source's producers it is.
    pub producer: String,
}

/// A message to a producer.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Reply<'a> {
    /// It may send.
    Welcome {
        /// The source's name.
        source: &'a str,
        /// The columns.
        schema: &'a Schema,
        /// How large a batch may be.
        capacity: Capacity,
        /// How to wait for room: `spin`, `adaptive` or `block`.
        wait: &'a str,
        /// Positions are kept.
        replayable: bool,
        /// There are checkpoints, so positions are acknowledged.
        checkpoints: bool,
        /// Behind the last batch that was taken: what the producer of then said; `None`: nothing was taken.
        position: Option<&'a str>,
        /// Behind what the newest checkpoint covers.
        acknowledged: Option<&'a str>,
    },
    /// It may not, or no more.
    Refused {
        /// Why, a sentence without a full stop.
        reason: &'a str,
        /// Whether the same may be granted later: the run comes to its end, and another may follow.
        is_passing: bool,
    },
    /// A checkpoint covers what was sent up to here.
    Acknowledged {
        /// What the producer said of where it stood.
        position: &'a str,
    },
}
