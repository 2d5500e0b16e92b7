//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use crate::bench::events::EventKind;
use crate::config::duration::parse_duration;
use crate::logging::{LogFormat, LogLevel};

/// Runs Python functions over live event streams.
#[derive(Debug, Parser)]
#[command(
    name = "ringmill",
    version,
    max_term_width = 100,
    after_help = "Exit codes: 0 done, 1 failed at run time, 2 bad configuration or command line, 3 measured and INVALID, \
                  75 ended while it waited for space."
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
    /// Measure a pipeline's latency and throughput under an open-loop load; INVALID runs are told apart.
    #[command(after_help = BENCH_EXAMPLES)]
    Bench(BenchArguments),
    /// Look at the channels of a live run without disturbing it.
    #[command(after_help = INSPECT_EXAMPLES)]
    Inspect(InspectArguments),
    /// Look at a pipeline's checkpoints, also while it runs.
    #[command(subcommand)]
    Checkpoints(CheckpointsCommand),
    /// Look at the dead letters that no sink takes, and run them again.
    #[command(subcommand)]
    Dlq(DlqCommand),
    /// Look at the results that a step retains, also while the pipeline runs.
    #[command(subcommand)]
    State(StateCommand),
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
  ringmill run pipeline.toml --fresh

With a [checkpoint] table a run goes on from the newest sound checkpoint, unless --fresh or --from-checkpoint says otherwise.
The first SIGINT or SIGTERM (Ctrl-C) ends the sources and drains what was read; the second ends at once.";

const BENCH_EXAMPLES: &str = "\
Examples:
  ringmill bench pipeline.toml                          up to saturation, then 5 runs at half of what is sustained
  ringmill bench pipeline.toml --quick                  the same in about a minute, for a first look
  ringmill bench pipeline.toml --rate 50k               5 runs at 50,000 rows/s
  ringmill bench pipeline.toml --rate 30M --group 1024  rows come 1,024 at a time
  ringmill bench pipeline.toml --p99 100us              and the highest rate whose p99 is at most that
  ringmill bench pipeline.toml --rate 50k --event checkpoint --event kill-worker

Rows have times at which they are due, whatever the pipeline does, and latency counts from those times, so that a stall makes
rows late instead of rare. Sources are replaced: a generator takes the rate, files and standard input are read into memory and
replayed in a loop. Rows are counted where a sink would get them. Results go to a folder: report.html, result.json, .hgrm, .hlog
and .svg. A run that missed its schedule or lost a row is INVALID: it says so everywhere, and the exit code is 3.";

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

const REPLAY_EXAMPLES: &str = "\
Examples:
  ringmill dlq replay pipeline.toml                         all letters, when what made them has been mended
  ringmill dlq replay pipeline.toml --step scores
  ringmill dlq replay pipeline.toml --id scores/12-3 --id scores/12-7
  ringmill dlq replay pipeline.toml --step scores --into replayed      a trial that changes nothing

Letters go back to where they failed: the row of a function to that function, the record of a source through the source's
decoder, then through everything behind it to the pipeline's sinks, exactly once. It is a run of its own that goes on from the
newest checkpoint, reads nothing but letters, and ends with them; it is refused while the pipeline runs. Letters leave the store
in the checkpoint that holds what became of them. Those that fail again are stored anew, with their attempts counted on; those
that cannot be read back stay. A row comes when it is replayed: one whose window has closed is late and goes to the step's late
rows, and a function that keeps something sees it behind the rows that came since.

With --into, one step and everything behind it run on the rows of its letters, what the sinks would have written goes to FOLDER,
one file for each sink, and so do letters that fail again; the pipeline and its stored letters stay as they are. There, a window
behind the step would lack its other rows, so that is refused.";

const GET_EXAMPLES: &str = "\
Examples:
  ringmill state get pipeline.toml averages --key sensor-00017
  ringmill state get pipeline.toml averages --key sensor-00017 --from 2026-01-31 --to 2026-02-01 --json
  ringmill state get pipeline.toml by_site --key berlin --key 7

What is shown was committed, so it is at most one checkpoint's interval old.";

/// Which configuration.
#[derive(Args, Clone, Debug)]
pub struct ConfigArguments {
    /// The configuration (TOML).
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Lay a value over the file's, for example --set sources.sensors.rows=1000; may be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub overrides: Vec<String>,
}

/// Which log lines, and how they look.
#[derive(Args, Clone, Debug)]
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
    /// Begin at the beginning; the pipeline's checkpoints are deleted.
    #[arg(long, conflicts_with = "from_checkpoint")]
    pub fresh: bool,
    /// Go on from this checkpoint instead of the newest one.
    #[arg(long, value_name = "ID")]
    pub from_checkpoint: Option<u64>,
    /// Show no progress and no closing table.
    #[arg(long, short)]
    pub quiet: bool,
    /// Which log lines, and how they look.
    #[command(flatten)]
    pub log: LogArguments,
}

/// `ringmill bench`
#[derive(Args, Debug)]
pub struct BenchArguments {
    /// Which configuration.
    #[command(flatten)]
    pub config: ConfigArguments,
    /// Rows per second over all sources, for example 50000, 50k, 1.5M; several are measured one after the other. Default: half
    /// of what the pipeline sustains.
    #[arg(long, value_name = "ROWS", value_parser = rate, value_delimiter = ',')]
    pub rate: Vec<f64>,
    /// Also try rates up to saturation; without --rate this is done anyway.
    #[arg(long)]
    pub sweep: bool,
    /// Find the highest rate whose p99, end to end, is at most this; means --sweep.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub p99: Option<Duration>,
    /// Measured time of each run. Default: 10s, with --quick 2s.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub duration: Option<Duration>,
    /// Beginning of each run that is not measured. Default: 2s, with --quick 500ms.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub warmup: Option<Duration>,
    /// Runs of each measurement. Default: 5, with --quick 2.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub runs: Option<u32>,
    /// Measure again while this is done to the pipeline, at the first rate; may be repeated.
    #[arg(long, value_name = "EVENT")]
    pub event: Vec<EventKind>,
    /// Distance of two events.
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "1s")]
    pub every: Duration,
    /// So many rows are due at the same instant.
    #[arg(long, value_name = "ROWS", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub group: u32,
    /// Who looks at the clock: a thread of its own that spins, or the shard's. Default: a thread, if the machine has a CPU more
    /// than the pipeline has shards and workers.
    #[arg(long, value_name = "WHO")]
    pub generator: Option<GeneratorChoice>,
    /// Rows get the times at which they are due as event times; otherwise they keep their own, lap after lap.
    #[arg(long)]
    pub live_times: bool,
    /// Let sinks write what they get.
    #[arg(long)]
    pub keep_sinks: bool,
    /// Share of the rate that a valid run may miss.
    #[arg(long, value_name = "PERCENT", value_parser = percent, default_value = "0.1%")]
    pub tolerance: f64,
    /// Short runs, few of them, for a first look.
    #[arg(long)]
    pub quick: bool,
    /// The folder for the results; it must be empty or not there yet. Default: bench-NAME-TIME.
    #[arg(long, short, value_name = "FOLDER")]
    pub output: Option<PathBuf>,
    /// Words about this configuration, for the report.
    #[arg(long, value_name = "WORDS")]
    pub variant: Option<String>,
    /// Show no progress, only the closing tables.
    #[arg(long, short)]
    pub quiet: bool,
    /// Which log lines, and how they look.
    #[command(flatten)]
    pub log: LogArguments,
}

/// Who looks at the clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum GeneratorChoice {
    /// A thread of its own that spins.
    Thread,
    /// The shard's thread, whenever it polls.
    Shard,
}

/// `ringmill check`
#[derive(Args, Debug)]
pub struct CheckArguments {
    /// Which configuration.
    #[command(flatten)]
    pub config: ConfigArguments,
}

/// `ringmill checkpoints`
#[derive(Debug, Subcommand)]
pub enum CheckpointsCommand {
    /// List the checkpoints, the newest first.
    List(ListArguments),
    /// Read every byte of the checkpoints and compare it with what was written; exit code 1 if any is damaged.
    Verify(VerifyArguments),
}

/// Whose state.
#[derive(Args, Debug)]
pub struct StateArguments {
    /// The configuration (TOML) or the state folder itself.
    #[arg(value_name = "FILE|FOLDER")]
    pub target: PathBuf,
    /// Lay a value over the file's, as for ringmill run; may be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub overrides: Vec<String>,
}

/// `ringmill checkpoints list`
#[derive(Args, Debug)]
pub struct ListArguments {
    /// Whose checkpoints.
    #[command(flatten)]
    pub state: StateArguments,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// `ringmill checkpoints verify`
#[derive(Args, Debug)]
pub struct VerifyArguments {
    /// Whose checkpoints.
    #[command(flatten)]
    pub state: StateArguments,
    /// Which one; otherwise all.
    #[arg(value_name = "ID")]
    pub id: Option<u64>,
}

/// `ringmill dlq`
#[derive(Debug, Subcommand)]
pub enum DlqCommand {
    /// Show dead letters that no sink takes, the newest last.
    Show(ShowArguments),
    /// Feed dead letters back into the pipeline, when what made them has been mended.
    #[command(after_help = REPLAY_EXAMPLES)]
    Replay(ReplayArguments),
}

/// `ringmill dlq show`
#[derive(Args, Debug)]
pub struct ShowArguments {
    /// Whose letters.
    #[command(flatten)]
    pub state: StateArguments,
    /// Which letters.
    #[command(flatten)]
    pub choice: ChoiceArguments,
    /// At most so many of each, the newest. Default: 20, with --json all.
    #[arg(long, value_name = "N")]
    pub limit: Option<usize>,
    /// Print each letter as one line of JSON, with all that is known.
    #[arg(long)]
    pub json: bool,
}

/// Which letters.
#[derive(Args, Debug)]
pub struct ChoiceArguments {
    /// Only those of this source or step.
    #[arg(long, value_name = "NAME")]
    pub step: Option<String>,
    /// Only this one, as `ringmill dlq show` names it; may be repeated.
    #[arg(long = "id", value_name = "ID")]
    pub ids: Vec<String>,
    /// Only those whose reason contains this.
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
}

/// `ringmill dlq replay`
#[derive(Args, Debug)]
pub struct ReplayArguments {
    /// Which configuration.
    #[command(flatten)]
    pub config: ConfigArguments,
    /// Which letters.
    #[command(flatten)]
    pub choice: ChoiceArguments,
    /// At most so many of each, the oldest.
    #[arg(long, value_name = "N")]
    pub limit: Option<usize>,
    /// Only try one step: rows go to this folder, which is empty or not there yet, and letters stay.
    #[arg(long, value_name = "FOLDER")]
    pub into: Option<PathBuf>,
    /// Write the figures of the run as JSON.
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// Show no progress and no closing table.
    #[arg(long, short)]
    pub quiet: bool,
    /// Which log lines, and how they look.
    #[command(flatten)]
    pub log: LogArguments,
}

/// `ringmill state`
#[derive(Debug, Subcommand)]
pub enum StateCommand {
    /// Show the retained results of one key, the newest last.
    #[command(after_help = GET_EXAMPLES)]
    Get(GetArguments),
    /// Show the retained results of all keys, key by key.
    Scan(ScanArguments),
}

/// Whose retained results, and of which windows.
#[derive(Args, Debug)]
pub struct RetainedArguments {
    /// Whose state.
    #[command(flatten)]
    pub state: StateArguments,
    /// The window step.
    #[arg(value_name = "STEP")]
    pub step: String,
    /// Only windows that start then or later, for example 2026-01-31 or 2026-01-31T10:00:00Z.
    #[arg(long, value_name = "TIME")]
    pub from: Option<String>,
    /// Only windows that start before.
    #[arg(long, value_name = "TIME")]
    pub to: Option<String>,
    /// Print each row as one line of JSON.
    #[arg(long)]
    pub json: bool,
}

/// `ringmill state get`
#[derive(Args, Debug)]
pub struct GetArguments {
    /// Whose results.
    #[command(flatten)]
    pub retained: RetainedArguments,
    /// The key; once for each key column, in their order.
    #[arg(long = "key", value_name = "VALUE", allow_hyphen_values = true)]
    pub keys: Vec<String>,
    /// At most so many rows, the newest.
    #[arg(long, value_name = "N", default_value_t = 1_000)]
    pub limit: u64,
}

/// `ringmill state scan`
#[derive(Args, Debug)]
pub struct ScanArguments {
    /// Whose results.
    #[command(flatten)]
    pub retained: RetainedArguments,
    /// At most so many rows, the first ones. Default: 1000, with --json all.
    #[arg(long, value_name = "N")]
    pub limit: Option<u64>,
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

/// `50000`, `50k`, `1.5M`.
fn rate(text: &str) -> Result<f64, String> {
    let (number, times) = match text.trim_end_matches(['k', 'K', 'M']) {
        number if number.len() + 1 < text.len() => (text, 1.0),
        number if text.ends_with('M') => (number, 1e6),
        number if text.ends_with(['k', 'K']) => (number, 1e3),
        number => (number, 1.0),
    };
    let rate = number.replace('_', "").parse::<f64>().ok().map(|number| number * times);
    let is_rate = |rate: &f64| rate.is_finite() && (1e-3..=1e10).contains(rate);
    rate.filter(is_rate).ok_or_else(|| "write rows per second as 50000, 50k or 1.5M".to_owned())
}

/// `0.1%`, as a part of one.
fn percent(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('%').unwrap_or(text).trim().parse::<f64>().ok();
    let part = number.filter(|number| (0.0..=100.0).contains(number)).map(|number| number / 100.0);
    part.ok_or_else(|| "write a percentage between 0% and 100%, for example 0.1%".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_written_with_or_without_a_prefix() {
        for (text, expected) in [("50000", 5e4), ("50k", 5e4), ("1.5M", 1.5e6), ("30_000", 3e4), ("0.5", 0.5)] {
            assert_eq!(rate(text), Ok(expected), "{text}");
        }
        for text in ["", "k", "0", "-1", "1kk", "fast", "nan", "1e99"] {
            assert!(rate(text).is_err(), "{text}");
        }
        assert_eq!(percent("0.1%"), Ok(0.001));
        assert!(percent("101%").is_err() && percent("x").is_err());
    }
}
