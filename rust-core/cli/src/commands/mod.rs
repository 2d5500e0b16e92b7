//! One file for each command.

pub mod bench;
pub mod check;
pub mod checkpoints;
pub mod dlq;
pub mod inspect;
mod replay;
pub mod run;
pub mod state;

use std::io::Write;

use clap::CommandFactory;

use crate::arguments::{Arguments, Command};
use crate::config::schema::json_schema;
use crate::failure::{Failure, Hinted};

/// Does what the command line asks for.
///
/// # Errors
/// See [`Failure`].
pub fn execute(arguments: Arguments) -> Result<(), Failure> {
    match arguments.command {
        Command::Run(arguments) => run::execute(&arguments),
        Command::Check(arguments) => check::execute(&arguments),
        Command::Bench(arguments) => bench::execute(&arguments),
        Command::Inspect(arguments) => inspect::execute(&arguments),
        Command::Checkpoints(command) => checkpoints::execute(&command),
        Command::Dlq(command) => dlq::execute(&command),
        Command::State(command) => state::execute(&command),
        Command::Schema => print(&json_schema()),
        Command::Version => print(&format!("ringmill {}\n", env!("CARGO_PKG_VERSION"))),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "ringmill", &mut script);
            print(&String::from_utf8_lossy(&script))
        }
    }
}

/// Writes to standard output; a reader that has gone (`| head`) is no failure.
fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::Run(Hinted::new(format!("standard output cannot be written: {error}"))))
        }
        _ => Ok(()),
    }
}
