//! The `ringmill` command.

use std::process::ExitCode;

use clap::Parser;
use nix::sys::stat::{Mode, umask};
use ringmill::arguments::Arguments;
use ringmill::{commands, terminal};

fn main() -> ExitCode {
    // What the state folder and the libraries beneath it create is nobody else's business.
    ringmill_connect::set_user_mask(umask(Mode::from_bits_truncate(0o077)).bits());
    match commands::execute(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprint!("{}", failure.render(terminal::is_fancy()));
            ExitCode::from(failure.exit_code())
        }
    }
}
