//! Where sinks write and where the checkpoints lie: nothing may be written twice or into another's folder.

use std::path::{Component, Path, PathBuf};

use super::mistake::Mistake;
use super::raw::Table;
use super::text::Span;

/// Something that is written.
struct Target<'a> {
    /// For messages: `the sink `a``, `[checkpoint]`.
    owner: String,
    path: PathBuf,
    /// Everything in it belongs to the owner.
    is_folder: bool,
    /// Sinks may share a database, but not a table.
    table: Option<&'a str>,
    span: Span,
}

/// Notes sinks that write the same file, folder or table, or into the folder of another one or of the checkpoints.
pub fn check(root: &Table, directory: &Path, mistakes: &mut Vec<Mistake>) {
    let mut seen: Vec<Target<'_>> = Vec::new();
    for target in targets(root, directory) {
        if let Some(mistake) = seen.iter().find_map(|other| clash(&target, other)) {
            mistakes.push(mistake);
        }
        seen.push(target);
    }
    check_state_folder(root, directory, mistakes);
}

fn targets<'a>(root: &'a Table, directory: &Path) -> Vec<Target<'a>> {
    let state = root.table("checkpoint").and_then(|table| table.get("path"));
    let mut targets: Vec<Target<'a>> = state
        .and_then(|raw| {
            let path = normal(&directory.join(raw.text()?));
            Some(Target { owner: "[checkpoint]".to_owned(), path, is_folder: true, table: None, span: raw.span })
        })
        .into_iter()
        .collect();
    for entry in root.children("sinks") {
        let Some(table) = entry.raw.table() else { continue };
        for raw in ["path", "refused_path"].iter().filter_map(|key| table.get(key)) {
            let Some(text) = raw.text() else { continue };
            targets.push(Target {
                owner: format!("the sink `{}`", entry.key),
                path: normal(&directory.join(text)),
                is_folder: text.ends_with('/'),
                table: table.text("table"),
                span: raw.span,
            });
        }
    }
    targets
}

/// What is wrong with `new`, seen from `other`.
fn clash(new: &Target<'_>, other: &Target<'_>) -> Option<Mistake> {
    let owner = &other.owner;
    if new.path == other.path {
        let message = match (new.table, other.table) {
            (Some(mine), Some(theirs)) if !mine.eq_ignore_ascii_case(theirs) => return None,
            (Some(table), Some(_)) => format!("{owner} writes the table `{table}` of this database already"),
            _ if other.is_folder => format!("{owner} writes this folder already"),
            _ => format!("{owner} writes this file already"),
        };
        return Some(Mistake::at(new.span, message));
    }
    if other.is_folder && new.path.starts_with(&other.path) {
        let message = format!("this lies in the folder that {owner} has for itself");
        return Some(Mistake::at(new.span, message));
    }
    if new.is_folder && other.path.starts_with(&new.path) {
        return Some(Mistake::at(new.span, format!("{owner} writes into this folder already")));
    }
    None
}

/// The state folder is emptied, locked and closed to others, so it cannot be one in which other things lie.
fn check_state_folder(root: &Table, directory: &Path, mistakes: &mut Vec<Mistake>) {
    let Some(raw) = root.table("checkpoint").and_then(|table| table.get("path")) else { return };
    let Some(text) = raw.text() else { return };
    if normal(directory).starts_with(normal(&directory.join(text))) {
        let hint = "name a folder of its own, for example path = \"state\"";
        let mistake = Mistake::at(raw.span, "`path`: the pipeline file lies in this folder");
        mistakes.push(mistake.hint(hint));
    }
}

/// Without `.`, and `..` resolved as far as the text allows; links are not followed, nothing is looked at.
fn normal(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => {
                out.pop();
            }
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_compared_by_what_they_mean() {
        let cases = [("/a/b/../c/./d/", "/a/c/d"), ("/../a", "/a"), ("/a//b", "/a/b")];
        for (text, expected) in cases {
            assert_eq!(normal(Path::new(text)), Path::new(expected), "{text}");
        }
    }
}
