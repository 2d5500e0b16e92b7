//! Asks Python what the pipeline's functions and classes are called with and return, without running them on anything.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::EngineError;
use crate::plan::{ClassDescription, PythonSource, UdfDescription};
use crate::user_mask::give_umask_back;

/// What a function or class named in a configuration is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// `@rm.udf`
    Udf,
    /// `rm.Source`
    Source,
    /// `rm.Sink`
    Sink,
}

/// A function or class named in a configuration.
#[derive(Clone, Debug, Serialize)]
pub struct FunctionRef {
    /// The node that names it.
    pub step: String,
    /// What it is to be.
    pub role: Role,
    /// `module:attribute`.
    pub function: String,
    /// Folder that is put first on the module search path.
    pub directory: PathBuf,
    /// Keyword arguments of a class, a JSON object; null for a function.
    pub options: serde_json::Value,
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
    ok: bool,
    error: Option<String>,
    traceback: Option<String>,
    #[serde(flatten)]
    rest: serde_json::Value,
}

/// What a function or class says about itself.
#[derive(Clone, Debug)]
pub enum Description {
    /// Of a UDF.
    Udf(UdfDescription),
    /// Of a source or a sink.
    Class(ClassDescription),
}

/// A node's name with the description of its function or class, or what is wrong with it.
pub type Described = (String, Result<Description, DescribeError>);

/// Imports the functions in one short-lived interpreter (`python -m ringmill.describe`) and returns, for each step,
/// its description or what is wrong with it. Fails when the interpreter or the `ringmill` package cannot be used.
pub fn describe(python: &Path, functions: &[FunctionRef]) -> Result<Vec<Described>, EngineError> {
    if functions.is_empty() {
        return Ok(Vec::new());
    }
    let response: Response = ask(python, &Request { functions })?;
    let answers = response.functions.into_iter().zip(functions);
    Ok(answers.map(|(answer, function)| (function.step.clone(), read_answer(answer, function.role))).collect())
}

/// Asks a source's class for its partitions, in one short-lived interpreter: there is an instance of it for a moment.
/// Fails when it raises, or takes longer than it may take to get ready.
pub fn partitions(source: &PythonSource) -> Result<Result<Vec<String>, DescribeError>, EngineError> {
    let seconds_max = source.supervision.restart.start_ns_max.div_ceil(1_000_000_000);
    let partitions = PartitionsOf {
        class: &source.feed.origin,
        directory: &source.directory,
        options: &source.options,
        seconds_max,
    };
    let answer: PartitionsAnswer = ask(&source.python, &PartitionsRequest { partitions })?;
    Ok(match answer.error {
        None => Ok(answer.partitions),
        Some(message) => Err(DescribeError { message, traceback: answer.traceback }),
    })
}

#[derive(Serialize)]
struct PartitionsRequest<'a> {
    partitions: PartitionsOf<'a>,
}

#[derive(Serialize)]
struct PartitionsOf<'a> {
    class: &'a str,
    directory: &'a Path,
    options: &'a serde_json::Value,
    seconds_max: u64,
}

#[derive(Deserialize)]
struct PartitionsAnswer {
    #[serde(default)]
    partitions: Vec<String>,
    error: Option<String>,
    traceback: Option<String>,
}

/// Puts a request to `python -m ringmill.describe`.
fn ask<T: DeserializeOwned>(python: &Path, request: &impl Serialize) -> Result<T, EngineError> {
    let failed = |message: String, stderr: &[u8]| {
        let stderr = String::from_utf8_lossy(stderr).trim_end().to_owned();
        EngineError::Describe { message, stderr }
    };
    let request = serde_json::to_vec(request).map_err(|error| failed(error.to_string(), b""))?;
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
    serde_json::from_slice(&output.stdout).map_err(|error| {
        failed(format!("{} gave an answer that is not understood: {error}", python.display()), &output.stderr)
    })
}

fn read_answer(answer: Answer, role: Role) -> Result<Description, DescribeError> {
    if !answer.ok {
        let message = answer.error.unwrap_or_else(|| "it cannot be imported".into());
        return Err(DescribeError { message, traceback: answer.traceback });
    }
    let description = match role {
        Role::Udf => serde_json::from_value(answer.rest).map(Description::Udf),
        Role::Source | Role::Sink => serde_json::from_value(answer.rest).map(Description::Class),
    };
    description.map_err(|error| DescribeError {
        message: format!("its description is not understood: {error}"),
        traceback: None,
    })
}
