//! Files: a source of NDJSON or CSV, and a sink for bytes.

mod writer;

use std::{io, path::PathBuf, sync::Arc};

use ringmill_wire::Schema;
use serde::{Deserialize, Serialize};

use crate::{
    ConnectError, FieldSpec, Format, Partition, Partitions, Waker, schema_of,
    text::{self, Part, TextOptions, TextPartition},
};

pub use writer::FileWriter;

/// How a shard reads its files.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Order {
    /// all at once, each a partition of its own
    #[default]
    Parallel,
    /// one after the other in the order of their names, as one partition
    Sequential,
}

/// Files as a source. Plain, gzip or zstd is told by their first bytes.
#[derive(Debug, Clone, PartialEq)]
pub struct FileSpec {
    /// a path, or a pattern with `*`, `?`, `[…]`, `**`
    pub path: String,
    /// what is in the files
    pub format: Format,
    /// the columns
    pub fields: Vec<FieldSpec>,
    /// rows per second over all partitions (each has an equal part of it); as fast as they are taken if absent
    pub rate: Option<f64>,
    /// whether a shard reads its files at once or one after the other
    pub order: Order,
    /// longer records become dead letters
    pub record_bytes_max: usize,
}

impl FileSpec {
    /// The columns of the stream.
    pub fn schema(&self) -> Result<Arc<Schema>, ConnectError> {
        schema_of(&self.fields)
    }

    /// Finds the files and gives them, in the order of their names, to one shard after the other. Files that cannot be
    /// opened and CSV headers that lack a field are found here; FIFOs are opened at the first poll.
    pub fn open(&self, shards: usize, wakers: &[Waker]) -> Result<Partitions, ConnectError> {
        let shards = shards.max(1);
        let parts = self.find()?;
        let waker = |shard: usize| wakers.get(shard).cloned().unwrap_or_else(|| Arc::new(|| {}));
        let count = match self.order {
            Order::Parallel => parts.len(),
            Order::Sequential => parts.len().min(shards),
        };
        let options = TextOptions {
            format: self.format,
            fields: self.fields.clone(),
            rate: self.rate.map(|rate| rate / count as f64),
            record_bytes_max: self.record_bytes_max,
        };
        let mut partitions: Partitions = Vec::with_capacity(count);
        let checked = |name: String, parts: Vec<Part>, shard: usize| {
            for part in &parts {
                let alone = vec![part.clone()];
                TextPartition::of_parts(name.clone(), &options, alone, false, waker(shard))?.check()?;
            }
            let names_file = self.order == Order::Sequential;
            let partition = TextPartition::of_parts(name, &options, parts, names_file, waker(shard))?;
            Ok::<_, ConnectError>((shard, Box::new(partition) as Box<dyn Partition>))
        };
        match self.order {
            Order::Parallel => {
                for (index, part) in parts.into_iter().enumerate() {
                    partitions.push(checked(part.name.to_string(), vec![part], index % shards)?);
                }
            }
            Order::Sequential => {
                for shard in 0..count {
                    let own = parts.iter().skip(shard).step_by(shards).cloned().collect();
                    partitions.push(checked(format!("{}#{shard}", self.path), own, shard)?);
                }
            }
        }
        Ok(partitions)
    }

    /// The matching files, sorted by name.
    fn find(&self) -> Result<Vec<Part>, ConnectError> {
        let literal = PathBuf::from(&self.path);
        let mut paths = if literal.is_dir() {
            let source = io::Error::new(
                io::ErrorKind::IsADirectory,
                "it is a directory; a pattern such as `*.ndjson` is missing",
            );
            return Err(ConnectError::Open { path: literal, source });
        } else if literal.exists() {
            vec![literal]
        } else {
            let matches = glob::glob(&self.path)
                .map_err(|error| ConnectError::Pattern { pattern: self.path.clone(), reason: error.to_string() })?;
            let paths: Result<Vec<PathBuf>, glob::GlobError> = matches.collect();
            paths.map_err(|error| ConnectError::Open { path: error.path().to_owned(), source: error.into() })?
        };
        paths.sort();
        let mut parts = Vec::with_capacity(paths.len());
        for path in paths {
            let regular =
                text::is_regular(&path).map_err(|source| ConnectError::Open { path: path.clone(), source })?;
            if let Some(regular) = regular {
                parts.push(Part { name: path.to_string_lossy().into(), path, regular });
            }
        }
        if parts.is_empty() {
            return Err(ConnectError::NoMatch { pattern: self.path.clone() });
        }
        Ok(parts)
    }
}

#[cfg(test)]
mod tests;
