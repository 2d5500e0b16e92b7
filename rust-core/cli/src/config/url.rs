//! Addresses that may have a password in them.

use ringmill_connect::Secret;

use super::mistake::Mistake;
use super::raw::Table;
use super::variable::secret;

/// The key `url`: an address that `check` finds good, or the environment variable in which one stands.
///
/// A mistake in it is shown at the table's head, since its own line may have a password in it.
pub fn url(
    table: &Table,
    check: impl Fn(&Secret) -> Result<(), String>,
    example: &str,
    mistakes: &mut Vec<Mistake>,
) -> Option<Secret> {
    let missing = |message: String| mistakes.push(Mistake::at(table.span, message));
    let url = secret("url", table.text("url")?).map_err(missing).ok()?;
    if let Err(reason) = check(&url) {
        mistakes.push(Mistake::at(table.span, format!("`url`: {reason}")).hint(example));
        return None;
    }
    Some(url)
}
