//! The keys of an `http` source, checked together.

use std::path::Path;
use std::time::Duration;

use ringmill_connect::{FieldSpec, HttpSpec, Secret, TokenPlace};

use super::listen;
use super::mistake::Mistake;
use super::raw::Table;
use super::resolve::{CONNECTIONS_MAX, count, record_bytes_max};

const PATH: &str = "/ingest";
const REQUEST_BYTES: u64 = 16 << 20;
/// A request lies in memory, some of them several times.
const REQUEST_BYTES_MAX: u64 = 256 << 20;
const TIMEOUT: Duration = Duration::from_secs(30);
const TIMEOUT_MAX: Duration = Duration::from_secs(3_600);

/// Reads the table of a source with these columns; `None` if its address or token cannot be known.
pub fn http(table: &Table, fields: Vec<FieldSpec>, directory: &Path, mistakes: &mut Vec<Mistake>) -> Option<HttpSpec> {
    let path = table.text("path").unwrap_or(PATH);
    let is_path = path.starts_with('/') && path.bytes().all(|byte| byte.is_ascii_graphic() && !b"?#".contains(&byte));
    if let Some(raw) = table.get("path").filter(|_| !is_path) {
        let mistake = Mistake::at(raw.span, format!("`path`: `{path}` is no path of an address"));
        mistakes.push(mistake.hint("write path = \"/ingest\", for example"));
    }
    let request_bytes_max = table.size("request_size_max").unwrap_or(REQUEST_BYTES);
    if let Some(raw) = table.get("request_size_max").filter(|_| !(1..=REQUEST_BYTES_MAX).contains(&request_bytes_max)) {
        mistakes.push(Mistake::at(raw.span, "`request_size_max` must be between 1B and 256MiB"));
    }
    let timeout = table.duration("request_timeout").map(|ns| Duration::from_nanos(ns.unsigned_abs()));
    if let Some(raw) = table.get("request_timeout").filter(|_| timeout.is_some_and(|timeout| timeout > TIMEOUT_MAX)) {
        mistakes.push(Mistake::at(raw.span, "`request_timeout` must be at most 1h"));
    }
    let listen = listen::address(table, mistakes);
    let token = token(table, directory, mistakes);
    let is_open = token == Ok(None) && !table.boolean("allow_remote").unwrap_or(false);
    if let Some(listen) = listen.filter(|listen| is_open && !listen.ip().is_loopback()) {
        let place = table.get("listen").map_or(table.span, |raw| raw.span);
        let mistake = Mistake::at(place, format!("`listen`: whoever can reach {listen} could send rows"));
        mistakes.push(mistake.hint("add token_file = \"token\", or allow_remote = true"));
    }
    Some(HttpSpec {
        listen: listen?,
        path: path.to_owned(),
        token: token.ok()?,
        fields,
        rate: table.number("rate"),
        record_bytes_max: record_bytes_max(table),
        request_bytes_max: usize::try_from(request_bytes_max).ok()?,
        request_timeout: timeout.unwrap_or(TIMEOUT),
        connections_max: table.integer("connections_max").map_or(CONNECTIONS_MAX, count),
    })
}

/// It could not be read, and a mistake says so.
#[derive(Debug, PartialEq)]
struct Unknown;

/// A mistake is shown at the table's head, since the key's own line may have a token in it.
fn token(table: &Table, directory: &Path, mistakes: &mut Vec<Mistake>) -> Result<Option<TokenPlace>, Unknown> {
    let mut wrong = |message: String| {
        mistakes.push(Mistake::at(table.span, message).hint("write token = \"$INGEST_TOKEN\", or token_file"));
        Err(Unknown)
    };
    match (table.text("token"), table.text("token_file")) {
        (None, None) => Ok(None),
        (None, Some(file)) => Ok(Some(TokenPlace::File(directory.join(file)))),
        (Some(_), Some(_)) => wrong("`token` and `token_file` exclude each other".to_owned()),
        (Some(text), None) => match text.strip_prefix('$').map(|variable| (variable, std::env::var(variable))) {
            None => wrong("`token` is no token itself but names the variable in which it stands".to_owned()),
            Some((variable, Err(_))) => wrong(format!("`token`: there is no environment variable {variable}")),
            Some((_, Ok(value))) => Ok(Some(TokenPlace::Value(Secret::new(value)))),
        },
    }
}
