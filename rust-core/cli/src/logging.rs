//! Log lines of both languages: `tracing` to standard error, as text or as one JSON object a line.

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::terminal::Screen;

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// The least serious lines that are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs, reason = "the names say it")]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl LogLevel {
    fn filter(self) -> EnvFilter {
        EnvFilter::new(match self {
            // The sources and sinks themselves say what becomes of their connections.
            LogLevel::Error => "error,rdkafka=off",
            LogLevel::Warn => "warn,rdkafka=off",
            LogLevel::Info => "info,async_nats=warn,rdkafka=off",
            LogLevel::Debug => "debug",
            // Its traces tell passwords.
            LogLevel::Trace => "trace,async_nats=debug",
        })
    }
}

struct ScreenWriter(Screen);

impl<'a> MakeWriter<'a> for ScreenWriter {
    type Writer = Screen;

    fn make_writer(&'a self) -> Screen {
        self.0.clone()
    }
}

/// Sends the process's log lines to the screen. Only the first call has an effect.
pub fn start(screen: &Screen, format: LogFormat, level: LogLevel, colours: bool) {
    let builder = tracing_subscriber::fmt().with_env_filter(level.filter()).with_writer(ScreenWriter(screen.clone()));
    // A subscriber that is there already stays; that is so in tests only.
    let _ = match format {
        LogFormat::Text => builder.with_ansi(colours).with_target(false).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
}
