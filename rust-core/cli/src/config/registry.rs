//! The keys of a schema registry, which stand in the table of a format.

use std::path::Path;
use std::time::Duration;

use ringmill_connect::{HttpSink, RegistrySpec};

use super::mistake::Mistake;
use super::raw::Table;
use super::variable::secret;

/// For one request to a registry.
const TIMEOUT: Duration = Duration::from_secs(10);
const TIMEOUT_MAX: Duration = Duration::from_secs(3_600);

/// Without a registry the other keys say nothing.
pub fn check_unused(table: &Table, mistakes: &mut Vec<Mistake>) {
    let others = ["user", "password", "ca_file", "timeout"].iter().filter_map(|key| table.entry(key));
    for entry in others.filter(|_| table.entry("registry").is_none()) {
        mistakes.push(Mistake::at(entry.key_span, format!("`{}` has no effect without `registry`", entry.key)));
    }
}

/// Where the registry is; `None` if that cannot be known. Mistakes are shown at the table's head: in the lines of the keys there may be a password.
pub fn registry(table: &Table, directory: &Path, mistakes: &mut Vec<Mistake>) -> Option<RegistrySpec> {
    let mut wrong = |message: String| mistakes.push(Mistake::at(table.span, message));
    let url = secret("registry", table.text("registry")?).map_err(&mut wrong).ok()?;
    if let Err(reason) = HttpSink::check_url(&url) {
        wrong(format!("`registry`: {reason}"));
        return None;
    }
    let user = table.text("user").map(|user| secret("user", user));
    let user = user.transpose().map_err(&mut wrong).ok()?.map(|user| user.reveal().to_owned());
    let password = match table.text("password") {
        Some(text) if text.starts_with('$') => Some(secret("password", text).map_err(&mut wrong).ok()?),
        Some(_) => {
            wrong("`password` is no password itself but names the variable in which it stands".to_owned());
            return None;
        }
        None => None,
    };
    if password.is_some() && user.is_none() {
        wrong("`password` has no effect without `user`".to_owned());
    }
    if let Some(entry) = table.entry("ca_file").filter(|_| !HttpSink::is_encrypted(&url)) {
        mistakes.push(Mistake::at(entry.key_span, "`ca_file` has no effect without https"));
    }
    let timeout = table.duration("timeout").map_or(TIMEOUT, |ns| Duration::from_nanos(ns.unsigned_abs()));
    if let Some(raw) = table.get("timeout").filter(|_| timeout > TIMEOUT_MAX) {
        mistakes.push(Mistake::at(raw.span, "`timeout` must be at most 1h"));
    }
    let root_certificates = table.text("ca_file").map(|path| directory.join(path));
    Some(RegistrySpec { url, user, password, root_certificates, timeout })
}
