//! Asks Python what the pipeline's functions are called with and return, without running them on anything.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

use crate::error::EngineError;
use crate::plan::UdfDescription;
use crate::user_mask::give_umask_back;

/// A function named in a configuration.
#[derive(Clone, Debug, Serialize)]
pub struct FunctionRef {
    /// The step that names it.
    pub step: String,
    /// `module:attribute`.
    pub function: String,
    /// Folder that is put first on the module search path.
    pub directory: PathBuf,
}

/// Why a function cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DescribeError {
    /// One line.
    pub message: String,
    /// The Python traceback, if there is one.
    pub traceback: Option<String>,
}

#[derive(Serialize)]
struct Request<'a> {
    functions: &'a [FunctionRef],
}

#[derive(Deserialize)]
struct Response {
    functions: Vec<Answer>,
}

#[derive(Deserialize)]
struct Answer {
    step: String,
    ok: bool,
    error: Option<String>,
    traceback: Option<String>,
    #[serde(flatten)]
    rest: serde_json::Value,
}

/// A step's name with the description of its function, or what is wrong with it.
pub type Described = (String, Result<UdfDescription, DescribeError>);

/// Imports the functions in one short-lived interpreter (`python -m ringmill.describe`) and returns, for each step,
/// its description or what is wrong with it. Fails when the interpreter or the `ringmill` package cannot be used.
pub fn describe(python: &Path, functions: &[FunctionRef]) -> Result<Vec<Described>, EngineError> {
    if functions.is_empty() {
        return Ok(Vec::new());
    }
    let failed = |message: String, stderr: &[u8]| {
        let stderr = String::from_utf8_lossy(stderr).trim_end().to_owned();
        EngineError::Describe { message, stderr }
    };
    let request = serde_json::to_vec(&Request { functions }).map_err(|error| failed(error.to_string(), b""))?;
    let mut command = Command::new(python);
    command.args(["-m", "ringmill.describe"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    give_umask_back(&mut command);
    let mut child =
        command.spawn().map_err(|error| failed(format!("cannot start {}: {error}", python.display()), b""))?;
    if let Some(mut stdin) = child.stdin.take() {
        // An interpreter that ends before it has read its input says why on stderr.
        let _ = stdin.write_all(&request);
    }
    let output = child.wait_with_output().map_err(|error| failed(error.to_string(), b""))?;
    if !output.status.success() {
        let missing = String::from_utf8_lossy(&output.stderr).contains("No module named");
        let hint = if missing { " (is the ringmill package installed for this interpreter?)" } else { "" };
        return Err(failed(format!("{} ended with {}{hint}", python.display(), output.status), &output.stderr));
    }
    let response: Response = serde_json::from_slice(&output.stdout).map_err(|error| {
        failed(format!("{} gave an answer that is not understood: {error}", python.display()), &output.stderr)
    })?;
    Ok(response.functions.into_iter().map(|answer| (answer.step.clone(), read_answer(answer))).collect())
}

fn read_answer(answer: Answer) -> Result<UdfDescription, DescribeError> {
    if !answer.ok {
        let message = answer.error.unwrap_or_else(|| "it cannot be imported".into());
        return Err(DescribeError { message, traceback: answer.traceback });
    }
    serde_json::from_value(answer.rest).map_err(|error| DescribeError {
        message: format!("its description is not understood: {error}"),
        traceback: None,
    })
}
