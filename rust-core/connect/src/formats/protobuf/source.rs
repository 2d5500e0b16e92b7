//! Types as a registry has them: the text of a `.proto` file, and for each message where in it its type stands.

use std::fmt;

use prost_reflect::{DescriptorPool, FileDescriptor, MessageDescriptor};
use protox::{
    Compiler, Error,
    file::{ChainFileResolver, File, FileResolver, GoogleFileResolver},
};

use crate::formats::{binary::Bytes, registry::Schema};

/// What the schema itself is called; no other one can refer to it.
const NAME: &str = "schema.proto";
/// Messages and options lie at most so deep in each other: the parser goes into them by recursion.
const DEPTH_MAX: usize = 200;
/// Types of messages lie at most so deep in each other.
const INDEXES_MAX: usize = 64;

/// The schema's own file, with those that it imports.
pub(super) fn parse(schema: &Schema) -> Result<FileDescriptor, String> {
    let own = File::from_source(NAME, checked(&schema.schema)?).map_err(|error| error.to_string())?;
    let mut files = Vec::new();
    for other in &schema.others {
        let file = File::from_source(&other.name, checked(&other.schema)?);
        files.push(file.map_err(|error| format!("{}: {error}", other.name))?);
    }
    let mut resolver = ChainFileResolver::new();
    files.insert(0, own);
    resolver.add(Texts(files));
    resolver.add(GoogleFileResolver::new());
    let mut compiler = Compiler::with_file_resolver(resolver);
    compiler.open_file(NAME).map_err(|error| error.to_string())?;
    let pool: DescriptorPool = compiler.descriptor_pool();
    pool.get_file_by_name(NAME).ok_or_else(|| "it has no content".to_owned())
}

/// The text, if nothing in it lies too deep.
fn checked(text: &str) -> Result<&str, String> {
    let mut depth = 0_usize;
    for byte in text.bytes() {
        match byte {
            b'{' | b'[' | b'<' => depth += 1,
            b'}' | b']' | b'>' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > DEPTH_MAX {
            return Err(format!("its parts lie more than {DEPTH_MAX} deep in each other"));
        }
    }
    Ok(text)
}

/// Files that are there already.
struct Texts(Vec<File>);

impl FileResolver for Texts {
    fn open_file(&self, name: &str) -> Result<File, Error> {
        let found = self.0.iter().find(|file| file.name() == name).ok_or_else(|| Error::file_not_found(name))?;
        Ok(File::from_file_descriptor_proto(found.file_descriptor_proto().clone()))
    }
}

/// Where a type stands: the how-manieth of its file, of its types, and so on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct Indexes(Vec<usize>);

impl Indexes {
    /// Reads the list that stands before a message; `None`: there is no valid one.
    pub fn read(&mut self, bytes: &mut Bytes<'_>) -> Option<()> {
        self.0.clear();
        let count = usize::try_from(bytes.zigzag().ok()?).ok().filter(|count| *count <= INDEXES_MAX)?;
        // The first one is by far the most frequent.
        if count == 0 {
            self.0.push(0);
        }
        for _ in 0..count {
            self.0.push(usize::try_from(bytes.zigzag().ok()?).ok()?);
        }
        Some(())
    }

    /// The type; the entries of maps are none in the text, and do not count.
    pub fn find(&self, file: &FileDescriptor) -> Option<MessageDescriptor> {
        let (first, others) = self.0.split_first()?;
        let mut message = file.messages().nth(*first)?;
        for index in others {
            let child = message.child_messages().filter(|child| !child.is_map_entry()).nth(*index);
            message = child?;
        }
        Some(message)
    }
}

impl fmt::Display for Indexes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.0).finish()
    }
}
