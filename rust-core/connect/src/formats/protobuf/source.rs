//! Types as a registry has them: the text of a `.proto` file, and for each message where in it its type stands.

use std::fmt;

use prost_reflect::{DescriptorPool, FileDescriptor, MessageDescriptor};
use protox::{
    Compiler, Error,
    file::{ChainFileResolver, File, FileResolver, GoogleFileResolver},
};

use super::text;
use crate::formats::{
    binary::{Bytes, write_varint, zigzag},
    registry::Schema,
};

/// A schema and those that it imports are at most so long together: the parser takes the square of the time for some.
const TEXT_BYTES_MAX: usize = 2 << 20;
/// Types of messages lie at most so deep in each other.
const INDEXES_MAX: usize = 64;

/// The schema's own file, with those that it imports.
pub(super) fn parse(schema: &Schema) -> Result<FileDescriptor, String> {
    let texts = || schema.others.iter().map(|other| &other.schema).chain([&schema.schema]);
    if texts().map(String::len).sum::<usize>() > TEXT_BYTES_MAX {
        return Err(format!("with what it imports it is longer than {} MiB", TEXT_BYTES_MAX >> 20));
    }
    // What it imports may be called so, too.
    let mut name = "schema.proto".to_owned();
    while schema.others.iter().any(|other| other.name == name) {
        name.insert(0, '_');
    }
    let mut files = vec![file(&name, &schema.schema)?];
    for other in &schema.others {
        files.push(file(&other.name, &other.schema).map_err(|reason| format!("{}: {reason}", other.name))?);
    }
    let mut resolver = ChainFileResolver::new();
    resolver.add(Texts(files));
    resolver.add(GoogleFileResolver::new());
    let mut compiler = Compiler::with_file_resolver(resolver);
    compiler.open_file(&name).map_err(|error| error.to_string())?;
    let pool: DescriptorPool = compiler.descriptor_pool();
    pool.get_file_by_name(&name).ok_or_else(|| "it has no content".to_owned())
}

fn file(name: &str, text: &str) -> Result<File, String> {
    text::check(text)?;
    File::from_source(name, text).map_err(|error| error.to_string())
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
    /// Where this type stands.
    pub fn of(message: &MessageDescriptor) -> Indexes {
        let (mut indexes, mut message) = (Vec::new(), message.clone());
        while let Some(parent) = message.parent_message() {
            let mut children = parent.child_messages().filter(|child| !child.is_map_entry());
            indexes.push(children.position(|child| child == message).unwrap_or_default());
            drop(children);
            message = parent;
        }
        indexes.push(message.parent_file().messages().position(|other| other == message).unwrap_or_default());
        indexes.reverse();
        Indexes(indexes)
    }

    /// The list as it stands before a message.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut write = |number: usize| write_varint(zigzag(number as i64), &mut bytes);
        match self.0[..] {
            [0] => write(0),
            _ => [self.0.len()].iter().chain(&self.0).for_each(|number| write(*number)),
        }
        bytes
    }

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
