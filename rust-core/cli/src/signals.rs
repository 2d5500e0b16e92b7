//! SIGINT and SIGTERM: the first asks for a drain, the second for an end at once.

use std::io;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// Calls `on_signal` from a thread of its own for every SIGINT and SIGTERM that arrives from now on.
///
/// # Errors
/// What the system says to the handler or the thread.
pub fn watch(mut on_signal: impl FnMut() + Send + 'static) -> io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    std::thread::Builder::new().name("ringmill-signals".to_owned()).spawn(move || {
        for _ in signals.forever() {
            on_signal();
        }
    })?;
    Ok(())
}
