//! How a command ends that did not do what it was asked, and the exit code for it.

use std::fmt;

use ringmill_connect::ConnectError;
use ringmill_engine::EngineError;
use ringmill_engine::plan::replay::ReplayRefused;
use ringmill_state::StateError;

use crate::config::mistake::Mistakes;

/// Exit code for a run that failed.
pub const FAILED: u8 = 1;
/// Exit code for a bad configuration or command line.
pub const MISUSED: u8 = 2;
/// Exit code for a bench with a run that does not count.
pub const INVALID: u8 = 3;
/// Exit code for a run that was ended before everything could be done, for which the next run has what it needs:
/// `EX_TEMPFAIL` of sysexits.h.
pub const UNFINISHED: u8 = 75;
/// Exit code after a second SIGINT or SIGTERM: 128 + SIGINT, as shells have it.
pub const INTERRUPTED: u8 = 130;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The configuration has mistakes; `details` (tracebacks) are shown below them.
    #[error("{mistakes}")]
    Configuration {
        /// The mistakes.
        mistakes: Mistakes,
        /// Python tracebacks.
        details: Vec<String>,
    },
    /// The command was used wrongly, or Python could not be asked.
    #[error("{0}")]
    Usage(Hinted),
    /// The run failed.
    #[error("{0}")]
    Run(Hinted),
    /// The user wanted an end before everything could be done.
    #[error("{0}")]
    Unfinished(Hinted),
    /// It was measured, and does not count; the reasons were shown already.
    #[error("INVALID: {0}")]
    Invalid(Hinted),
    /// The user wanted an end at once.
    #[error("ended at once; what was under way is lost")]
    Interrupted,
    /// It has gone into the log already; this is the exit code.
    #[error("exit code {0}")]
    Logged(u8),
}

/// A message, what to do about it, and more to read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hinted {
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// A traceback or the output of a program.
    pub details: Option<String>,
}

impl Hinted {
    /// Only a message.
    pub fn new(message: impl Into<String>) -> Hinted {
        Hinted { message: message.into(), ..Hinted::default() }
    }

    /// Adds what to do about it.
    pub fn hint(mut self, hint: impl Into<String>) -> Hinted {
        self.hint = Some(hint.into());
        self
    }
}

/// Message and hint; the details are printed above them.
impl fmt::Display for Hinted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.hint {
            Some(hint) => write!(f, "\nhint: {hint}"),
            None => Ok(()),
        }
    }
}

impl From<EngineError> for Failure {
    fn from(error: EngineError) -> Failure {
        let hinted =
            Hinted { message: error.to_string(), hint: hint(&error), details: error.traceback().map(str::to_owned) };
        match error {
            EngineError::Describe { .. } => Failure::Usage(hinted),
            EngineError::Aborted => Failure::Interrupted,
            EngineError::Unfinished { .. } => Failure::Unfinished(hinted),
            _ => Failure::Run(hinted),
        }
    }
}

impl From<ConnectError> for Failure {
    fn from(error: ConnectError) -> Failure {
        Failure::Run(Hinted::new(error.to_string()))
    }
}

impl From<StateError> for Failure {
    fn from(error: StateError) -> Failure {
        Failure::Run(Hinted::new(error.to_string()))
    }
}

impl From<ReplayRefused> for Failure {
    fn from(ReplayRefused { message, hint }: ReplayRefused) -> Failure {
        Failure::Usage(Hinted { message, hint, details: None })
    }
}

fn hint(error: &EngineError) -> Option<String> {
    if let Some(hint) = error.hint() {
        return Some(hint.to_owned());
    }
    let text = match error {
        EngineError::Describe { stderr, .. } if stderr.contains("No module named") => {
            "install the ringmill package for this interpreter (scripts/ringmill does so in a checkout), or name \
             another interpreter with `python` in [pipeline] or $RINGMILL_PYTHON"
        }
        EngineError::State { .. } => {
            "raise `state_memory` in [pipeline], use shorter windows or fewer keys; with a `path` in [checkpoint], what does \
             not fit spills to the disk"
        }
        EngineError::Unfinished { .. } => {
            "see to what it waited for (room on a disk, a server that is away), then run it again"
        }
        EngineError::KeyedState { .. } => {
            "raise `state_memory` in [pipeline], or use fewer keys; with a `path` in [checkpoint], what does not fit spills to \
             the disk"
        }
        EngineError::Udf { .. } => {
            "to go on without the rows that fail, set on_error = \"dead_letter\" or on_error = \"skip\" for the step"
        }
        EngineError::WorkersFailed { .. } => {
            "mend the function, or raise `restarts_max` for the step; on_error = \"dead_letter\" takes rows that kill \
             their worker out of the way"
        }
        _ => return None,
    };
    Some(text.to_owned())
}

impl Failure {
    /// The process's exit code.
    pub fn exit_code(&self) -> u8 {
        match self {
            Failure::Configuration { .. } | Failure::Usage(_) => MISUSED,
            Failure::Run(_) => FAILED,
            Failure::Unfinished(_) => UNFINISHED,
            Failure::Invalid(_) => INVALID,
            Failure::Interrupted => INTERRUPTED,
            Failure::Logged(code) => *code,
        }
    }

    /// What is printed.
    pub fn render(&self, fancy: bool) -> String {
        match self {
            Failure::Configuration { mistakes, details } => {
                let details: String = details.iter().map(|text| format!("{}\n\n", text.trim_end())).collect();
                format!("{details}{}", mistakes.render(fancy))
            }
            Failure::Usage(hinted) | Failure::Run(hinted) | Failure::Unfinished(hinted) => {
                let details =
                    hinted.details.as_ref().map_or_else(String::new, |text| format!("{}\n\n", text.trim_end()));
                format!("{details}error: {hinted}\n")
            }
            Failure::Invalid(_) | Failure::Interrupted => format!("error: {self}\n"),
            Failure::Logged(_) => String::new(),
        }
    }
}
