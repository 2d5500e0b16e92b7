//! What a checkpoint is made of: the one file that names everything else in it.
//!
//! The file is JSON for people and programs, followed by a line `crc32c XXXXXXXX` over all that precedes it. Whatever is
//! in the file, reading it gives a manifest that was written as it is, or an error.

use std::collections::HashSet;
use std::fs::File;
use std::io::Read;
use std::path::{Component, Path};

use serde::{Deserialize, Serialize};

use crate::error::StateError;
use crate::key::{KEY_GROUPS, NodeId};

/// The manifest's name in a checkpoint's folder.
pub(crate) const MANIFEST: &str = "manifest";
/// The format that this program writes and reads.
pub const FORMAT: u32 = 1;
/// Longest manifest: 100,000 partitions take about 20 MB.
const BYTES_MAX: u64 = 64 << 20;
/// The last line: word, space, eight digits, line feed.
const TRAILER_BYTES: usize = 16;

/// The manifest of one checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of this format.
    pub format: u32,
    /// The epoch that ended with it.
    pub epoch: u64,
    /// When it was written, milliseconds since 1970.
    pub created_ms: u64,
    /// The pipeline's name.
    pub pipeline: String,
    /// Version of the program that wrote it.
    pub ringmill: String,
    /// Shards at that time.
    pub shards: usize,
    /// All input was read and everything that followed from it is in this checkpoint.
    pub is_final: bool,
    /// All nodes that there ever were.
    pub nodes: Vec<NodeRecord>,
    /// Where each source goes on.
    pub sources: Vec<SourceRecord>,
    /// What each sink made durable without showing it.
    pub sinks: Vec<SinkRecord>,
    /// Every other file of the checkpoint.
    pub files: Vec<FileRecord>,
}

/// A node and the state it keeps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeRecord {
    /// Its number in the stores.
    pub id: NodeId,
    /// As in the configuration.
    pub name: String,
    /// `source`, `window`, `udf`, `filter`, `sink`.
    pub kind: String,
    /// What its state has to look like; state with another one does not fit. Empty: it keeps none.
    pub fingerprint: String,
    /// Declared version of a function.
    #[serde(default)]
    pub udf_version: Option<u32>,
    /// Figures since the pipeline's first start: `rows_in`, `rows_out`, `late`, `dead_letters`, `absorbed`.
    #[serde(default)]
    pub counts: std::collections::BTreeMap<String, u64>,
}

/// A source's partitions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SourceRecord {
    /// The node's name.
    pub node: String,
    /// Its partitions, over all shards.
    pub partitions: Vec<PartitionRecord>,
}

/// A partition and where it goes on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PartitionRecord {
    /// Its name within the source.
    pub name: String,
    /// Everything before it is in the checkpoint; the connector's own words.
    pub position: serde_json::Value,
    /// Newest event time read from it, nanoseconds since 1970.
    pub newest_ns: i64,
    /// It was read to its end.
    pub ended: bool,
}

/// A sink's part in the checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SinkRecord {
    /// The node's name.
    pub node: String,
    /// What its writer needs to show the epoch's rows, again if need be; null: nothing.
    pub staged: serde_json::Value,
}

/// A file of the checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FileRecord {
    /// Relative to the checkpoint's folder.
    pub path: String,
    /// Its length.
    pub bytes: u64,
    /// Checksum of its content.
    pub crc32c: u32,
}

/// What every format has in common.
#[derive(Deserialize)]
struct Head {
    format: u64,
}

impl Manifest {
    /// The file's content.
    pub(crate) fn encode(&self) -> Result<Vec<u8>, StateError> {
        let wrong = |reason: String| StateError::Manifest { epoch: self.epoch, reason };
        self.contradiction().map_or(Ok(()), |reason| Err(wrong(reason)))?;
        let mut bytes = serde_json::to_vec_pretty(self).map_err(|error| wrong(error.to_string()))?;
        bytes.push(b'\n');
        let trailer = trailer(&bytes);
        bytes.extend_from_slice(trailer.as_bytes());
        if bytes.len() as u64 > BYTES_MAX {
            return Err(wrong(format!("it would have {} bytes, more than {BYTES_MAX}", bytes.len())));
        }
        Ok(bytes)
    }

    /// Reads what [`Manifest::encode`] made.
    pub(crate) fn decode(epoch: u64, bytes: &[u8]) -> Result<Manifest, StateError> {
        let damaged = |reason: String| StateError::damaged(epoch, MANIFEST, reason);
        let Some((body, last)) = bytes.split_last_chunk::<TRAILER_BYTES>() else {
            return Err(damaged(format!("has {} bytes only", bytes.len())));
        };
        if last != trailer(body).as_bytes() {
            return Err(damaged("does not match its checksum".to_owned()));
        }
        let head: Head = serde_json::from_slice(body).map_err(|error| damaged(error.to_string()))?;
        if head.format != u64::from(FORMAT) {
            return Err(StateError::Format { epoch, found: head.format, known: FORMAT });
        }
        let manifest: Manifest = serde_json::from_slice(body).map_err(|error| damaged(error.to_string()))?;
        if manifest.epoch != epoch {
            return Err(damaged(format!("is that of checkpoint {}", manifest.epoch)));
        }
        manifest.contradiction().map_or(Ok(manifest), |reason| Err(damaged(reason)))
    }

    /// Reads the manifest in the folder of checkpoint `epoch`.
    pub(crate) fn read(epoch: u64, file: File) -> Result<Manifest, StateError> {
        let mut bytes = Vec::new();
        file.take(BYTES_MAX + 1)
            .read_to_end(&mut bytes)
            .map_err(|error| crate::checkpoint::unreadable(epoch, MANIFEST, error))?;
        if bytes.len() as u64 > BYTES_MAX {
            return Err(StateError::damaged(epoch, MANIFEST, format!("has more than {BYTES_MAX} bytes")));
        }
        Manifest::decode(epoch, &bytes)
    }

    /// What no manifest may say, if it does.
    fn contradiction(&self) -> Option<String> {
        if self.format != FORMAT {
            return Some(format!("format {} is not {FORMAT}", self.format));
        }
        if self.epoch == 0 {
            return Some("epochs are counted from 1".to_owned());
        }
        if self.shards == 0 || self.shards > usize::from(KEY_GROUPS) {
            return Some(format!("{} shards are not 1 to {KEY_GROUPS}", self.shards));
        }
        let mut seen = HashSet::new();
        for file in &self.files {
            let parts = || Path::new(&file.path).components();
            // Compared as text too, because components() passes over `.` and double slashes.
            let is_plain = parts().all(|part| matches!(part, Component::Normal(_)))
                && parts().map(|part| part.as_os_str().to_string_lossy()).collect::<Vec<_>>().join("/") == file.path;
            if !is_plain || file.path.is_empty() || file.path == MANIFEST {
                return Some(format!("{:?} cannot be a checkpoint's file", file.path));
            }
            if !seen.insert(file.path.as_str()) {
                return Some(format!("{:?} is there twice", file.path));
            }
        }
        let (mut ids, mut names) = (HashSet::new(), HashSet::new());
        let twice = self.nodes.iter().find(|node| !ids.insert(node.id) || !names.insert(node.name.as_str()));
        twice.map(|node| format!("node {:?} or its number {} is there twice", node.name, node.id))
    }
}

fn trailer(body: &[u8]) -> String {
    format!("crc32c {:08x}\n", crc32c::crc32c(body))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn example() -> Manifest {
        let position = json!({ "inode": u64::MAX, "offset": 17, "head": "µ" });
        Manifest {
            format: FORMAT,
            epoch: 7,
            created_ms: 1_700_000_000_000,
            pipeline: "orders".to_owned(),
            ringmill: "0.1.0".to_owned(),
            shards: 2,
            is_final: false,
            nodes: vec![NodeRecord {
                id: 3,
                name: "per_minute".to_owned(),
                kind: "window".to_owned(),
                fingerprint: "tumbling 60 s".to_owned(),
                udf_version: None,
                counts: [("rows_in".to_owned(), 5)].into(),
            }],
            sources: vec![SourceRecord {
                node: "orders".to_owned(),
                partitions: vec![PartitionRecord {
                    name: "a.csv".to_owned(),
                    position,
                    newest_ns: i64::MIN,
                    ended: true,
                }],
            }],
            sinks: vec![SinkRecord { node: "out".to_owned(), staged: json!(null) }],
            files: vec![FileRecord { path: "shard-0/CURRENT".to_owned(), bytes: 16, crc32c: 1 }],
        }
    }

    #[test]
    fn a_manifest_is_read_as_it_was_written() {
        let manifest = example();
        assert_eq!(Manifest::decode(7, &manifest.encode().expect("encode")).expect("decode"), manifest);
    }

    #[test]
    fn every_flipped_bit_and_every_missing_byte_is_noticed() {
        let bytes = example().encode().expect("encode");
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(Manifest::decode(7, &damaged).expect_err("damaged").is_damage(), "bit {bit}");
        }
        for length in 0..bytes.len() {
            assert!(Manifest::decode(7, &bytes[..length]).expect_err("cut").is_damage(), "length {length}");
        }
        assert!(Manifest::decode(8, &bytes).expect_err("another epoch").is_damage());
    }

    #[test]
    fn another_format_is_refused_naming_both() {
        let mut body = br#"{"format":2,"what":"is not known yet"}"#.to_vec();
        let end = trailer(&body);
        body.extend_from_slice(end.as_bytes());
        let error = Manifest::decode(7, &body).expect_err("format 2");
        assert_eq!(error.to_string(), "checkpoint 7 has format 2; this program reads format 1");
        assert!(!error.is_damage());
    }

    #[test]
    fn what_contradicts_itself_is_neither_written_nor_read() {
        let file = |path: &str| FileRecord { path: path.to_owned(), bytes: 0, crc32c: 0 };
        let twice = vec![file("shard-0/a"), file("shard-0/a")];
        let mut wrong: Vec<Manifest> = ["", "/etc/passwd", "../x", "a/../b", "a//b", "./a", "a/", "manifest"]
            .iter()
            .map(|path| Manifest { files: vec![file(path)], ..example() })
            .collect();
        wrong.push(Manifest { files: twice, ..example() });
        wrong.push(Manifest { shards: 0, ..example() });
        wrong.push(Manifest { shards: 1025, ..example() });
        wrong.push(Manifest { epoch: 0, ..example() });
        wrong.push(Manifest { nodes: [example().nodes, example().nodes].concat(), ..example() });
        for manifest in wrong {
            assert!(matches!(manifest.encode(), Err(StateError::Manifest { .. })), "{manifest:?}");
            let mut bytes = serde_json::to_vec(&manifest).expect("json");
            let end = trailer(&bytes);
            bytes.extend_from_slice(end.as_bytes());
            assert!(Manifest::decode(manifest.epoch, &bytes).expect_err("wrong").is_damage());
        }
    }
}
