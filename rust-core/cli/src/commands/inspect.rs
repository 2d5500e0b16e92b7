//! `ringmill inspect`: finds the run and looks at it, once or again and again.

use std::io::IsTerminal;
use std::time::Duration;

use ringmill_engine::rundir::{self, ClientError, RunEntry};

use super::print;
use crate::arguments::InspectArguments;
use crate::failure::{Failure, Hinted};
use crate::inspect::RunView;
use crate::machine::Machine;
use crate::table::TextTable;

/// Moves the cursor home and clears the screen below it.
const HOME_AND_CLEAR: &str = "\x1b[H\x1b[J";

/// Looks at a live run.
///
/// # Errors
/// When there is no such run, or several.
pub fn execute(arguments: &InspectArguments) -> Result<(), Failure> {
    let runs = rundir::list(&Machine::detect().run_base);
    let run = choose(&runs, arguments.run.as_deref())?;
    let look = || RunView::take(&run.path);
    let mut before = look().map_err(|error| gone(&error))?;
    loop {
        pause(arguments.interval);
        let now = match look() {
            Ok(view) => view.rated(&before),
            // The run ended while it was watched, or before the second look.
            Err(_) if arguments.watch => return Ok(()),
            Err(_) => return show(&before, arguments),
        };
        show(&now, arguments)?;
        if !arguments.watch {
            return Ok(());
        }
        before = now;
    }
}

fn pause(interval: Duration) {
    std::thread::sleep(interval);
}

fn gone(error: &ClientError) -> Failure {
    Failure::Run(Hinted::new(format!("failed to {error}")))
}

fn show(view: &RunView, arguments: &InspectArguments) -> Result<(), Failure> {
    if arguments.json {
        let text = serde_json::to_string(view).map_err(|error| Failure::Run(Hinted::new(error.to_string())))?;
        return print(&format!("{text}\n"));
    }
    let clear = if arguments.watch && std::io::stdout().is_terminal() { HOME_AND_CLEAR } else { "" };
    print(&format!("{clear}{}", view.text()))
}

/// The run that is meant.
fn choose<'a>(runs: &'a [RunEntry], wanted: Option<&str>) -> Result<&'a RunEntry, Failure> {
    let fits = |run: &&RunEntry| wanted.is_none_or(|wanted| run.pipeline == wanted || run.pid.to_string() == wanted);
    let fitting: Vec<&RunEntry> = runs.iter().filter(fits).collect();
    match (&fitting[..], wanted) {
        ([run], _) => Ok(run),
        ([], None) => {
            Err(Failure::Run(Hinted::new("no pipeline of yours is running").hint("start one: ringmill run FILE")))
        }
        ([], Some(wanted)) => {
            let message = format!("no pipeline called {wanted:?} and no process {wanted} of yours is running");
            Err(Failure::Run(Hinted { message, hint: None, details: listing(runs) }))
        }
        (several, _) => {
            let several: Vec<RunEntry> = several.iter().map(|run| (*run).clone()).collect();
            let hint = "name one by its process: ringmill inspect PROCESS";
            Err(Failure::Usage(Hinted {
                message: "several pipelines are running".to_owned(),
                hint: Some(hint.to_owned()),
                details: listing(&several),
            }))
        }
    }
}

fn listing(runs: &[RunEntry]) -> Option<String> {
    let mut table = TextTable::new(["pipeline", "process"]);
    runs.iter().for_each(|run| table.push([run.pipeline.clone(), run.pid.to_string()]));
    (!table.is_empty()).then(|| table.lines().join("\n"))
}
