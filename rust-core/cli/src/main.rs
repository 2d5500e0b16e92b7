//! The `ringmill` command.

use std::process::ExitCode;

use clap::Parser;
use ringmill::arguments::Arguments;
use ringmill::{commands, terminal};

fn main() -> ExitCode {
    match commands::execute(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprint!("{}", failure.render(terminal::is_fancy()));
            ExitCode::from(failure.exit_code())
        }
    }
}
