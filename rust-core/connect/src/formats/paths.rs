//! Where the declared fields stand in a document: a small trie of keys.

use crate::{ConnectError, FieldSpec};

/// All declared paths. Node 0 is the document itself.
#[derive(Debug, Clone)]
pub(in crate::formats) struct Paths {
    nodes: Vec<Node>,
}

/// An object or array with declared fields in it.
#[derive(Debug, Clone, Default)]
pub(in crate::formats) struct Node {
    pub children: Vec<Child>,
}

/// One key of an object, or one index of an array, that leads to a declared field.
#[derive(Debug, Clone)]
pub(in crate::formats) struct Child {
    pub key: Box<str>,
    pub target: Target,
}

/// What a key leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::formats) enum Target {
    Column(usize),
    Node(usize),
}

impl Paths {
    /// Those of these fields, each with its column.
    pub fn new<'f>(fields: impl IntoIterator<Item = (usize, &'f FieldSpec)>) -> Result<Paths, ConnectError> {
        let mut paths = Paths { nodes: vec![Node::default()] };
        for (column, field) in fields {
            let keys = keys_of_field(field)?;
            paths.insert(&keys, column).map_err(|rule| refuse(field, rule))?;
        }
        Ok(paths)
    }

    /// Adds a field, unless there is one already that takes the same value: the column of whichever it is.
    pub fn share(&mut self, field: &FieldSpec, column: usize) -> Result<usize, ConnectError> {
        let keys = keys_of_field(field)?;
        match self.target(&keys) {
            Some(Target::Column(other)) => Ok(other),
            _ => self.insert(&keys, column).map(|()| column).map_err(|rule| refuse(field, rule)),
        }
    }

    fn target(&self, keys: &[String]) -> Option<Target> {
        let (last, parents) = keys.split_last()?;
        let mut node = &self.nodes[0];
        for key in parents {
            let Target::Node(next) = node.find(key)?.target else { return None };
            node = &self.nodes[next];
        }
        node.find(last).map(|child| child.target)
    }

    pub fn node(&self, index: usize) -> &Node {
        &self.nodes[index]
    }

    /// Calls `each` for every column below a node.
    pub fn columns_below(&self, node: usize, each: &mut impl FnMut(usize)) {
        for child in &self.nodes[node].children {
            match child.target {
                Target::Column(column) => each(column),
                Target::Node(node) => self.columns_below(node, each),
            }
        }
    }

    fn insert(&mut self, keys: &[String], column: usize) -> Result<(), &'static str> {
        let mut node = 0;
        let (last, parents) = keys.split_last().ok_or("it must name a value")?;
        for key in parents {
            let existing = self.nodes[node].find(key).map(|child| child.target);
            node = match existing {
                Some(Target::Node(next)) => next,
                Some(Target::Column(_)) => return Err("another field takes a value that contains it"),
                None => {
                    let next = self.nodes.len();
                    self.nodes.push(Node::default());
                    self.nodes[node].add(key, Target::Node(next));
                    next
                }
            };
        }
        match self.nodes[node].find(last).map(|child| child.target) {
            Some(Target::Column(_)) => Err("another field takes the same value"),
            Some(Target::Node(_)) => Err("another field takes a value within it"),
            None => {
                self.nodes[node].add(last, Target::Column(column));
                Ok(())
            }
        }
    }
}

impl Node {
    fn find(&self, key: &str) -> Option<&Child> {
        self.children.iter().find(|child| *child.key == *key)
    }

    fn add(&mut self, key: &str, target: Target) {
        self.children.push(Child { key: key.into(), target });
    }

    /// Index of the child with this key. `guess` is looked at first: keys mostly come in the declared order.
    #[inline(always)]
    pub fn position(&self, key: &[u8], guess: usize) -> Option<usize> {
        match self.children.get(guess) {
            Some(child) if child.key.as_bytes() == key => Some(guess),
            _ => self.children.iter().position(|child| child.key.as_bytes() == key),
        }
    }

    /// Index of the child that stands for this index of an array.
    pub fn position_of_index(&self, index: usize) -> Option<usize> {
        let mut digits = itoa::Buffer::new();
        self.position(digits.format(index).as_bytes(), 0)
    }
}

fn refuse(field: &FieldSpec, rule: &'static str) -> ConnectError {
    ConnectError::Path {
        field: field.name.clone(),
        path: field.path.clone().unwrap_or_else(|| field.name.clone()),
        rule,
    }
}

/// The keys that lead to a field's value.
pub(in crate::formats) fn keys_of_field(field: &FieldSpec) -> Result<Vec<String>, ConnectError> {
    match &field.path {
        None => Ok(vec![field.name.clone()]),
        Some(path) => keys_of(path).map_err(|rule| refuse(field, rule)),
    }
}

/// The keys of a JSON pointer (RFC 6901).
fn keys_of(pointer: &str) -> Result<Vec<String>, &'static str> {
    let Some(keys) = pointer.strip_prefix('/') else {
        return Err("a JSON pointer begins with `/`");
    };
    let unescape = |key: &str| {
        let mut out = String::with_capacity(key.len());
        let mut characters = key.chars();
        while let Some(character) = characters.next() {
            out.push(match character {
                '~' => match characters.next() {
                    Some('0') => '~',
                    Some('1') => '/',
                    _ => return Err("in a JSON pointer `~` is followed by 0 or 1"),
                },
                other => other,
            });
        }
        Ok(out)
    };
    keys.split('/').map(unescape).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringmill_wire::DataType;

    fn field(name: &str, path: Option<&str>) -> FieldSpec {
        FieldSpec {
            name: name.to_owned(),
            data_type: DataType::Float64,
            nullable: false,
            path: path.map(str::to_owned),
        }
    }

    #[test]
    fn pointers_are_read_as_rfc_6901_says() {
        let check = |pointer: &str, expect: Result<&[&str], ()>| {
            let keys = keys_of(pointer).map_err(drop);
            let expect = expect.map(|keys| keys.iter().map(|key| key.to_string()).collect());
            assert_eq!(keys, expect, "{pointer}");
        };
        check("/meta/site", Ok(&["meta", "site"]));
        check("/a~1b/~0~01", Ok(&["a/b", "~~1"]));
        check("/", Ok(&[""]));
        check("//x", Ok(&["", "x"]));
        check("", Err(()));
        check("meta", Err(()));
        check("/a~2", Err(()));
        check("/a~", Err(()));
    }

    #[test]
    fn fields_that_contain_each_other_are_refused() {
        let check = |first: Option<&str>, second: Option<&str>, fine: bool| {
            let fields = [field("a", first), field("b", second)];
            assert_eq!(Paths::new(fields.iter().enumerate()).is_ok(), fine, "{first:?} {second:?}");
        };
        check(None, None, true);
        check(None, Some("/b"), true);
        check(None, Some("/a"), false);
        check(Some("/x"), Some("/x/y"), false);
        check(Some("/x/y"), Some("/x"), false);
        check(Some("/x/y"), Some("/x/z"), true);
    }
}
