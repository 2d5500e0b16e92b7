//! Mistakes in a configuration: collected, sorted, shown with the line they stand in.

use std::fmt;

use miette::{Diagnostic, GraphicalReportHandler, GraphicalTheme, LabeledSpan, NamedSource, Severity};

use super::text::{Span, Text};

/// One mistake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// Where; `None` when it concerns the whole file.
    pub span: Option<Span>,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// Its line is not shown, since a password may stand there.
    pub is_private: bool,
}

impl Mistake {
    /// A mistake at a place.
    pub fn at(span: Span, message: impl Into<String>) -> Mistake {
        Mistake { span: Some(span), message: message.into(), hint: None, is_private: false }
    }

    /// A mistake of the file as a whole.
    pub fn of_file(message: impl Into<String>) -> Mistake {
        Mistake { span: None, message: message.into(), hint: None, is_private: false }
    }

    /// Adds what to do about it.
    pub fn hint(mut self, hint: impl Into<String>) -> Mistake {
        self.hint = Some(hint.into());
        self
    }

    /// Its line is not to be shown.
    pub fn private(mut self) -> Mistake {
        self.is_private = true;
        self
    }

    /// Adds what to do about it, if anything is known.
    pub fn hint_maybe(mut self, hint: Option<String>) -> Mistake {
        self.hint = hint;
        self
    }
}

/// Every mistake of one configuration, with the text they stand in. Never empty when returned as an error.
#[derive(Clone, Debug)]
pub struct Mistakes {
    text: Text,
    list: Vec<Mistake>,
}

impl Mistakes {
    /// Sorts by place and drops repetitions.
    pub fn new(text: Text, mut list: Vec<Mistake>) -> Mistakes {
        list.sort_by_key(|mistake| mistake.span.map_or((0, 0), |span| (span.start, span.end)));
        list.dedup();
        Mistakes { text, list }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.list.len()
    }

    /// The mistakes in the order of their places.
    pub fn iter(&self) -> impl Iterator<Item = &Mistake> {
        self.list.iter()
    }

    fn line(&self, mistake: &Mistake) -> String {
        let place = match mistake.span {
            Some(span) => {
                let (line, column) = self.text.line_column(span);
                format!("{}:{line}:{column}", self.text.place(span).name)
            }
            None => self.text.name().to_owned(),
        };
        let hint = mistake.hint.as_ref().map_or_else(String::new, |hint| format!(" ({hint})"));
        format!("{place}: {}{hint}\n", mistake.message)
    }

    /// The report a person reads: each mistake with its line marked, coloured or in plain ASCII.
    pub fn render(&self, fancy: bool) -> String {
        let theme = if fancy { GraphicalTheme::unicode() } else { GraphicalTheme::none() };
        let handler = GraphicalReportHandler::new_themed(theme)
            .with_width(if fancy { 100 } else { 400 })
            .with_links(false)
            .with_context_lines(1);
        let mut out = String::new();
        for mistake in &self.list {
            let shown = Shown::new(&self.text, mistake);
            if mistake.is_private || shown.is_too_wide() || handler.render_report(&mut out, &shown).is_err() {
                out.push_str(&self.line(mistake));
            }
            out.push('\n');
        }
        let noun = if self.list.len() == 1 { "mistake" } else { "mistakes" };
        out.push_str(&format!("{} {noun} in {}\n", self.list.len(), self.text.name()));
        out
    }
}

/// One line for each mistake: `file:line:column: message (hint)`.
impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.list.iter().try_for_each(|mistake| f.write_str(&self.line(mistake)))
    }
}

impl std::error::Error for Mistakes {}

/// A mistake together with its source, as miette wants it.
#[derive(Debug)]
struct Shown {
    message: String,
    hint: Option<String>,
    source: NamedSource<String>,
    label: Option<LabeledSpan>,
}

/// miette cannot draw lines of 65,536 characters, and nobody can read lines of half that.
const LINE_BYTES_MAX: usize = 8192;

impl Shown {
    fn is_too_wide(&self) -> bool {
        self.source.inner().lines().any(|line| line.len() > LINE_BYTES_MAX)
    }

    fn new(text: &Text, mistake: &Mistake) -> Shown {
        let (name, source, label) = match mistake.span {
            Some(span) => {
                let place = text.place(span);
                let length = place.span.end - place.span.start;
                (place.name, place.text, Some(LabeledSpan::new(None, place.span.start, length)))
            }
            None => (text.name(), text.file(), None),
        };
        // Without a label miette does not name the file, so the message has to.
        let message = match mistake.span {
            Some(_) => mistake.message.clone(),
            None => format!("{name}: {}", mistake.message),
        };
        Shown { message, hint: mistake.hint.clone(), source: NamedSource::new(name, source.to_owned()), label }
    }
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Shown {}

impl Diagnostic for Shown {
    fn severity(&self) -> Option<Severity> {
        Some(Severity::Error)
    }

    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.hint.as_ref().map(|hint| Box::new(hint) as Box<dyn fmt::Display>)
    }

    fn source_code(&self) -> Option<&dyn miette::SourceCode> {
        Some(&self.source)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        self.label.as_ref().map(|label| Box::new(std::iter::once(label.clone())) as Box<dyn Iterator<Item = _>>)
    }
}
