//! Texts that may stand in an environment variable instead.

use ringmill_connect::Secret;

/// The text itself, or the value of the environment variable that `$NAME` names. The error is what is wrong with the key.
pub fn secret(key: &str, text: &str) -> Result<Secret, String> {
    let Some(variable) = text.strip_prefix('$') else { return Ok(Secret::new(text)) };
    let value = std::env::var(variable);
    value.map(Secret::new).map_err(|_| format!("`{key}`: there is no environment variable {variable}"))
}
