//! The configuration's text: the file followed by the `--set` overrides, so that one kind of span can point into both.

use std::ops::Range;

/// A range of bytes in a [`Text`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// First byte.
    pub start: usize,
    /// One past the last byte.
    pub end: usize,
}

impl Span {
    /// The same range, further back.
    pub fn shifted(self, by: usize) -> Span {
        Span { start: self.start + by, end: self.end + by }
    }
}

impl From<Range<usize>> for Span {
    fn from(range: Range<usize>) -> Span {
        Span { start: range.start, end: range.end }
    }
}

/// The file's text and, behind it, one line for each override.
#[derive(Clone, Debug)]
pub struct Text {
    /// Name shown in front of line numbers.
    name: String,
    /// File, then overrides.
    text: String,
    /// Where the overrides begin.
    file_end: usize,
}

/// One side of a [`Text`], as a message shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place<'a> {
    /// The file's name, or `--set`.
    pub name: &'a str,
    /// The text of that side alone.
    pub text: &'a str,
    /// The span within it.
    pub span: Span,
}

impl Text {
    /// Takes the text of the file called `name`.
    pub fn new(name: &str, file: &str) -> Text {
        let mut text = file.to_owned();
        if !text.ends_with('\n') {
            text.push('\n');
        }
        Text { name: name.to_owned(), file_end: text.len(), text }
    }

    /// The file without the overrides.
    pub fn file(&self) -> &str {
        &self.text[..self.file_end]
    }

    /// Name of the file.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Appends one override; returns where it begins.
    pub fn push_override(&mut self, line: &str) -> usize {
        let start = self.text.len();
        self.text.push_str(line);
        self.text.push('\n');
        start
    }

    /// Which side a span lies in.
    pub fn place(&self, span: Span) -> Place<'_> {
        if span.start < self.file_end {
            let end = span.end.min(self.file_end);
            Place { name: &self.name, text: self.file(), span: Span { start: span.start, end } }
        } else {
            let text = &self.text[self.file_end..];
            let start = (span.start - self.file_end).min(text.len());
            let end = (span.end - self.file_end).clamp(start, text.len());
            Place { name: "--set", text, span: Span { start, end } }
        }
    }

    /// Line and column, both from 1, columns counted in characters.
    pub fn line_column(&self, span: Span) -> (usize, usize) {
        let place = self.place(span);
        let before = &place.text[..floor_boundary(place.text, place.span.start)];
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
        (line, column)
    }
}

/// The next smaller index that does not split a character.
fn floor_boundary(text: &str, mut index: usize) -> usize {
    index = index.min(text.len());
    while !text.is_char_boundary(index) {
        index -= 1;
    }
    index
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_know_their_side_line_and_column() {
        let mut text = Text::new("p.toml", "a = 1\nß = 2");
        let start = text.push_override("b = 3");
        assert_eq!(text.line_column(Span { start: 0, end: 1 }), (1, 1));
        assert_eq!(text.line_column(Span { start: 9, end: 10 }), (2, 3));
        let place = text.place(Span { start, end: start + 1 });
        assert_eq!((place.name, place.span), ("--set", Span { start: 0, end: 1 }));
        assert_eq!(text.line_column(Span { start: start + 4, end: start + 5 }), (1, 5));
    }
}
