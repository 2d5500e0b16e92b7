//! Where a pipeline's state lies, from its configuration or named directly.

use std::path::PathBuf;

use crate::arguments::StateArguments;
use crate::config;
use crate::failure::{Failure, Hinted};
use crate::machine::Machine;

/// The state folder that is meant; it need not be there yet. No function is imported and nothing is made.
///
/// # Errors
/// The mistakes of the configuration, or that it has no checkpoints.
pub fn state_path(arguments: &StateArguments) -> Result<PathBuf, Failure> {
    let target = &arguments.target;
    if target.is_dir() {
        return Ok(target.clone());
    }
    let refused = |mistakes| Failure::Configuration { mistakes, details: Vec::new() };
    let config = config::load(target, &arguments.overrides, &Machine::detect()).map_err(refused)?;
    match config.pipeline.checkpoint {
        Some(checkpoint) => Ok(checkpoint.path),
        None => {
            let message = format!("{} has no [checkpoint] table, so its runs keep nothing", target.display());
            Err(Failure::Usage(Hinted::new(message).hint("add one: [checkpoint] with path = \"state\"")))
        }
    }
}
