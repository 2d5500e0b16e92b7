//! Sources whose rows are sent by processes that are not ours.

use ringmill_connect::FedSpec;

/// Rows from whoever calls `rm.connect`: a partition for each producer's name.
#[derive(Clone, Debug)]
pub struct ProducerSource {
    /// Its columns and batches. Seekable: a producer goes on from the position that it is told, with the same rows.
    pub feed: FedSpec,
    /// The producers' names, all different.
    pub names: Vec<String>,
    /// Batches that a producer may have sent before they are taken (a power of two).
    pub slots: u32,
    /// A producer that closes ends its partition; otherwise the next of its name is waited for.
    pub is_ended_by_closing: bool,
}
