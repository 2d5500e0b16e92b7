//! Named places in the protocol at which a test may kill this very process.
//!
//! A place says [`hit`]`("store.manifest.renamed")`. Without a [`configure`]d mode that is one relaxed load, and the
//! places are cold (a few for each checkpoint), so they are always compiled in: what is tested is what is shipped.
//! Nothing here reads the environment; the command does.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

static IS_ON: AtomicBool = AtomicBool::new(false);
static MODE: Mutex<Option<Mode>> = Mutex::new(None);

/// What happens at a hit.
#[derive(Clone, Copy)]
enum Deed {
    Kill,
    Hang,
}

enum Mode {
    End { deed: Deed, name: String, hits_left: u64 },
    Record { file: File, hits: HashMap<String, u64> },
}

/// Turns the places on: `kill:NAME:N` kills the process (SIGKILL) at the N-th hit of NAME, with `hang:NAME:N` the thread
/// that comes there goes no further, and `record:PATH` appends a line `NAME N` to a file at every hit.
///
/// # Errors
/// A text that is neither, or a file that cannot be opened.
pub fn configure(text: &str) -> Result<(), String> {
    let (deed, rest) = match text.split_once(':') {
        Some(("kill", rest)) => (Deed::Kill, rest),
        Some(("hang", rest)) => (Deed::Hang, rest),
        Some(("record", path)) => {
            let opened = OpenOptions::new().create(true).append(true).open(Path::new(path));
            let file = opened.map_err(|error| format!("{path}: {error}"))?;
            turn_on(Mode::Record { file, hits: HashMap::new() });
            return Ok(());
        }
        _ => return Err(format!("`{text}` is neither kill:NAME:N nor hang:NAME:N nor record:PATH")),
    };
    let (name, hits) = rest.rsplit_once(':').ok_or_else(|| format!("`{text}` lacks the number of the hit"))?;
    let hits_left = hits.parse().ok().filter(|hits| *hits > 0);
    let hits_left = hits_left.ok_or_else(|| format!("`{hits}` is not the number of a hit"))?;
    turn_on(Mode::End { deed, name: name.to_owned(), hits_left });
    Ok(())
}

fn turn_on(mode: Mode) {
    *MODE.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(mode);
    IS_ON.store(true, Ordering::Release);
}

/// This place was reached.
#[inline]
pub fn hit(name: &str) {
    // Tests configure before anything else happens, so there is nothing to be ordered.
    if IS_ON.load(Ordering::Relaxed) {
        note(name);
    }
}

#[cold]
fn note(name: &str) {
    match due(name) {
        Some(Deed::Kill) => die(),
        Some(Deed::Hang) => hang(),
        None => {}
    }
}

/// Counts a hit; what is to be done at it.
fn due(name: &str) -> Option<Deed> {
    let mut mode = MODE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    match &mut *mode {
        Some(Mode::End { deed, name: wanted, hits_left }) if wanted == name => {
            *hits_left = hits_left.checked_sub(1)?;
            (*hits_left == 0).then_some(*deed)
        }
        Some(Mode::Record { file, hits }) => {
            let count = hits.entry(name.to_owned()).or_default();
            *count += 1;
            let _ = file.write_all(format!("{name} {count}\n").as_bytes());
            None
        }
        _ => None,
    }
}

fn hang() -> ! {
    loop {
        std::thread::park();
    }
}

#[allow(unsafe_code)]
fn die() -> ! {
    // SAFETY: both calls take plain integers; the signal cannot be caught, so nothing of ours runs afterwards.
    unsafe {
        libc::kill(libc::getpid(), libc::SIGKILL);
    }
    hang()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nonsense_is_refused_with_the_reason() {
        for text in ["", "kill:x", "kill:x:0", "kill:x:many", "pause:x:1", "hang:x"] {
            assert!(configure(text).is_err(), "{text}");
        }
    }
}
