//! What workers print and log, as events of the core's log.

use serde::Deserialize;

/// Longest line kept; the rest of a longer one is a line of its own.
const LINE_BYTES_MAX: usize = 64 << 10;

/// Collects bytes until there is a line.
#[derive(Default)]
pub struct LineBuffer(Vec<u8>);

impl LineBuffer {
    /// Adds bytes and calls `each` with every line that is complete, without its end.
    pub fn push(&mut self, bytes: &[u8], mut each: impl FnMut(&[u8])) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.0.extend_from_slice(piece);
            if piece.ends_with(b"\n") || self.0.len() >= LINE_BYTES_MAX {
                each(self.0.trim_ascii_end());
                self.0.clear();
            }
        }
    }
}

/// Most bytes kept of a worker's last words.
const TAIL_BYTES_MAX: usize = 4 << 10;

/// The last lines that a worker wrote to standard error past Python: where it crashed, if it crashes.
#[derive(Default)]
pub struct Tail(String);

impl Tail {
    /// Adds a line.
    pub fn push(&mut self, line: &[u8]) {
        let line = String::from_utf8_lossy(line);
        self.0.push_str(&line);
        self.0.push('\n');
        if self.0.len() > TAIL_BYTES_MAX {
            let mut start = self.0.len() - TAIL_BYTES_MAX;
            while !self.0.is_char_boundary(start) {
                start += 1;
            }
            self.0.drain(..start);
        }
    }

    /// What `faulthandler` said of the crash; `None` if it said nothing.
    pub fn text(&self) -> Option<String> {
        let start = self.0.find("Fatal Python error")?;
        Some(self.0[start..].trim_end().to_owned())
    }
}

#[derive(Deserialize)]
struct Record {
    level: String,
    message: String,
    traceback: Option<String>,
    logger: Option<String>,
    batch: Option<u64>,
    stream: Option<String>,
}

/// Logs one record of a worker; a fatal one is returned instead: message and traceback.
pub fn log_line(worker: &str, line: &[u8]) -> Option<(String, Option<String>)> {
    let Ok(record) = serde_json::from_slice::<Record>(line) else {
        log_raw(worker, true, line);
        return None;
    };
    if record.level == "fatal" {
        return Some((record.message, record.traceback));
    }
    let (batch, logger, stream) = (record.batch, record.logger.as_deref(), record.stream.as_deref());
    let udf = worker.split('/').next().unwrap_or(worker);
    let message = record.message;
    match record.level.as_str() {
        "debug" => tracing::debug!(worker, udf, batch, logger, stream, "{message}"),
        "warning" => tracing::warn!(worker, udf, batch, logger, stream, "{message}"),
        "error" | "critical" => tracing::error!(worker, udf, batch, logger, stream, "{message}"),
        _ => tracing::info!(worker, udf, batch, logger, stream, "{message}"),
    }
    None
}

/// Logs a line that came straight from a descriptor, past Python.
pub fn log_raw(worker: &str, is_error: bool, line: &[u8]) {
    let text = String::from_utf8_lossy(line);
    if text.is_empty() {
        return;
    }
    let udf = worker.split('/').next().unwrap_or(worker);
    if is_error {
        tracing::warn!(worker, udf, stream = "stderr", "{text}");
    } else {
        tracing::info!(worker, udf, stream = "stdout", "{text}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_put_together_and_very_long_ones_cut() {
        let mut lines = LineBuffer::default();
        let mut seen = Vec::new();
        for piece in [&b"ab"[..], b"c\nde", b"f\r\n\n"] {
            lines.push(piece, |line| seen.push(String::from_utf8_lossy(line).into_owned()));
        }
        assert_eq!(seen, ["abc", "def", ""]);
        let mut longest = 0;
        for _ in 0..200 {
            lines.push(&[b'x'; 1000], |line| longest = longest.max(line.len()));
        }
        assert!((LINE_BYTES_MAX..LINE_BYTES_MAX + 1000).contains(&longest), "{longest}");
    }

    #[test]
    fn of_the_last_words_a_crash_is_kept_and_chatter_is_not() {
        let mut tail = Tail::default();
        tail.push(b"some warning");
        assert_eq!(tail.text(), None);
        tail.push(b"Fatal Python error: Segmentation fault");
        tail.push(b"  File \"functions.py\", line 7");
        assert_eq!(tail.text().unwrap(), "Fatal Python error: Segmentation fault\n  File \"functions.py\", line 7");
        (0..1000).for_each(|_| tail.push("täglich".as_bytes()));
        assert!(tail.0.len() <= TAIL_BYTES_MAX);
    }

    #[test]
    fn a_fatal_record_is_handed_back_and_garbage_is_only_logged() {
        let fatal = br#"{"level":"fatal","message":"no module named x","traceback":"Traceback"}"#;
        assert_eq!(log_line("scores/0/0", fatal), Some(("no module named x".into(), Some("Traceback".into()))));
        assert_eq!(log_line("scores/0/0", b"\xff{not json"), None);
    }
}
