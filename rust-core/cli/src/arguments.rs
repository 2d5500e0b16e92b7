//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

use crate::config::duration::parse_duration;
use crate::logging::{LogFormat, LogLevel};

/// Runs Python functions over live event streams.
#[derive(Debug, Parser)]
#[command(
    name = "ringmill",
    version,
    max_term_width = 100,
    after_help = "Exit codes: 0 done, 1 failed at run time, 2 bad configuration or command line."
)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a pipeline until its sources end, a signal comes or the time is up.
    #[command(after_help = RUN_EXAMPLES)]
    Run(RunArguments),
    /// Check a configuration, its functions included, without running it.
    #[command(after_help = CHECK_EXAMPLES)]
    Check(CheckArguments),
    /// Look at the channels of a live run without disturbing it.
    #[command(after_help = INSPECT_EXAMPLES)]
    Inspect(InspectArguments),
    /// Print the JSON Schema of configuration files.
    Schema,
    /// Print the version.
    Version,
    /// Print a completion script for a shell.
    Completions {
        /// The shell.
        shell: Shell,
    },
}

const RUN_EXAMPLES: &str = "\
Examples:
  ringmill run pipeline.toml
  ringmill run pipeline.toml --duration 10s --report report.json
  ringmill run pipeline.toml --set sources.sensors.rows=1000 --set pipeline.shards=2

The first SIGINT or SIGTERM (Ctrl-C) ends the sources and drains what was read; the second ends at once.";

const CHECK_EXAMPLES: &str = "\
Examples:
  ringmill check pipeline.toml
  ringmill check pipeline.toml --set steps.scores.workers=4";

const INSPECT_EXAMPLES: &str = "\
Examples:
  ringmill inspect                 the only live run, or a list of them
  ringmill inspect telemetry       by the pipeline's name
  ringmill inspect 4711 --watch    by the core's process, again and again
  ringmill inspect --json          for programs";

/// Which configuration.
#[derive(Args, Debug)]
pub struct ConfigArguments {
    /// The configuration (TOML).
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Lay a value over the file's, for example --set sources.sensors.rows=1000; may be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub overrides: Vec<String>,
}

/// Which log lines, and how they look.
#[derive(Args, Debug)]
pub struct LogArguments {
    /// How log lines look.
    #[arg(long, value_enum, default_value = "text", value_name = "FORMAT")]
    pub log_format: LogFormat,
    /// The least serious log lines that are shown.
    #[arg(long, value_enum, default_value = "info", value_name = "LEVEL")]
    pub log_level: LogLevel,
}

/// `ringmill run`
#[derive(Args, Debug)]
pub struct RunArguments {
    /// Which configuration.
    #[command(flatten)]
    pub config: ConfigArguments,
    /// End in good order after this long, for example 10s.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub duration: Option<Duration>,
    /// Write the figures of the run as JSON.
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// Write the latencies of every second as an HdrHistogram interval log.
    #[arg(long, value_name = "FILE")]
    pub hlog: Option<PathBuf>,
    /// Show no progress and no closing table.
    #[arg(long, short)]
    pub quiet: bool,
    /// Which log lines, and how they look.
    #[command(flatten)]
    pub log: LogArguments,
}

/// `ringmill check`
#[derive(Args, Debug)]
pub struct CheckArguments {
    /// Which configuration.
    #[command(flatten)]
    pub config: ConfigArguments,
}

/// `ringmill inspect`
#[derive(Args, Debug)]
pub struct InspectArguments {
    /// The pipeline's name or the core's process id.
    #[arg(value_name = "PIPELINE|PID")]
    pub run: Option<String>,
    /// Look again and again until the run ends.
    #[arg(long, short)]
    pub watch: bool,
    /// Print JSON, one line for each look.
    #[arg(long)]
    pub json: bool,
    /// Time between two looks; rates are measured over it.
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "1s")]
    pub interval: Duration,
}

fn duration(text: &str) -> Result<Duration, String> {
    let ns = parse_duration(text).map_err(|error| error.to_string())?;
    if ns == 0 { Err("must be longer than zero".to_owned()) } else { Ok(Duration::from_nanos(ns.unsigned_abs())) }
}
