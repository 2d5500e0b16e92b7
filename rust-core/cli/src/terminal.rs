//! Standard error as a person sees it: a live block at the bottom while the run goes on, log lines above it.

use std::io::{self, IsTerminal, Write};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Whether colours and drawing are wanted on standard error (<https://no-color.org>).
pub fn is_fancy() -> bool {
    let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    io::stderr().is_terminal() && !is_set("NO_COLOR") && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Standard error, shared by the live block and the log.
#[derive(Clone, Debug)]
pub struct Screen {
    multi: MultiProgress,
    block: ProgressBar,
    is_live: bool,
}

impl Screen {
    /// A screen; `is_live` says whether it may draw a block that it overwrites.
    pub fn new(is_live: bool) -> Screen {
        let target = if is_live { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let multi = MultiProgress::with_draw_target(target);
        let block = ProgressBar::no_length().with_style(style());
        let block = if is_live { multi.add(block) } else { block };
        Screen { multi, block, is_live }
    }

    /// Whether a live block is drawn.
    pub fn is_live(&self) -> bool {
        self.is_live
    }

    /// Draws the block anew.
    pub fn draw(&self, lines: &[String]) {
        self.block.set_message(lines.join("\n"));
    }

    /// Takes the block away.
    pub fn clear(&self) {
        self.block.finish_and_clear();
    }

    /// Prints above the block.
    pub fn print(&self, text: &str) {
        // Nobody is left to be told when standard error is closed.
        let _ = self.write_all(text);
    }

    fn write_all(&self, text: &str) -> io::Result<()> {
        self.above(|stderr| {
            stderr.write_all(text.as_bytes())?;
            if text.ends_with('\n') { Ok(()) } else { stderr.write_all(b"\n") }
        })
    }

    fn above<R>(&self, write: impl FnOnce(&mut io::StderrLock<'_>) -> R) -> R {
        if self.is_live {
            self.multi.suspend(|| write(&mut io::stderr().lock()))
        } else {
            write(&mut io::stderr().lock())
        }
    }
}

fn style() -> ProgressStyle {
    // The template is a constant; if it were wrong the plain style would be drawn.
    ProgressStyle::with_template("{msg}").unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// Log lines go above the block.
impl Write for Screen {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.above(|stderr| stderr.write_all(bytes)).map(|()| bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
