//! A page of the documentation: what it tells a reader to write, and to type.

use std::path::Path;

use crate::Job;

/// A page of `rust-core/docs`.
pub struct Page(String);

impl Page {
    /// Reads it; `name` is its path without `.md`.
    pub fn read(name: &str) -> Page {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name).with_extension("md");
        Page(std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display())))
    }

    /// Its files and their names: each is a block behind a line with nothing but the name.
    pub fn files(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.match_indices("`:\n\n```").filter_map(|(end, mark)| {
            let (_, name) = self.0[..end].rsplit_once('`')?;
            let (_, rest) = self.0[end + mark.len()..].split_once('\n')?;
            let (content, _) = rest.split_once("\n```")?;
            Some((name, content))
        })
    }

    /// The text of one of its files.
    pub fn file(&self, wanted: &str) -> &str {
        let found = self.files().find(|(name, _)| *name == wanted);
        found.unwrap_or_else(|| panic!("the page has no {wanted}")).1
    }

    /// What it tells a reader to type.
    pub fn commands(&self) -> impl Iterator<Item = &str> {
        self.0.lines().filter_map(|line| line.strip_prefix("$ "))
    }

    /// A job with its files, of which `pipeline.toml` is one, after replacing what differs here, such as addresses.
    pub fn job(&self, instead: &[(&str, &str)]) -> Job {
        let job = Job::new(self.file("pipeline.toml"), "");
        for (name, content) in self.files() {
            let content = instead.iter().fold(content.to_owned(), |content, (from, to)| {
                assert!(name != "pipeline.toml" || content.contains(from), "the pipeline has no {from}");
                content.replace(from, to)
            });
            job.write(name, content);
        }
        job
    }
}
