//! The keys of an `http` source and of an `http` sink, checked together.

use std::path::Path;
use std::time::Duration;

use ringmill_connect::{
    Fields, Format, HttpBody, HttpMethod, HttpProxy, HttpSink, HttpSpec, OnRefused, Secret, TokenPlace,
};

use super::listen;
use super::mistake::Mistake;
use super::raw::Table;
use super::resolve::{CONNECTIONS_MAX, count, format_of, record_bytes_max};
use super::url::url;
use super::variable::secret;

const PATH: &str = "/ingest";
const REQUEST_BYTES: u64 = 16 << 20;
/// A request lies in memory, some of them several times.
const REQUEST_BYTES_MAX: u64 = 256 << 20;
const TIMEOUT: Duration = Duration::from_secs(30);
const TIMEOUT_MAX: Duration = Duration::from_secs(3_600);

/// Reads the table of a source with these columns; `None` if its address or token cannot be known.
pub fn http(table: &Table, fields: Fields, directory: &Path, mistakes: &mut Vec<Mistake>) -> Option<HttpSpec> {
    let path = table.text("path").unwrap_or(PATH);
    let is_path = path.starts_with('/') && path.bytes().all(|byte| byte.is_ascii_graphic() && !b"?#".contains(&byte));
    if let Some(raw) = table.get("path").filter(|_| !is_path) {
        let mistake = Mistake::at(raw.span, format!("`path`: `{path}` is no path of an address"));
        mistakes.push(mistake.hint("write path = \"/ingest\", for example"));
    }
    let request_bytes_max = body_bytes(table, "request_size_max", REQUEST_BYTES, mistakes);
    let request_timeout = timeout(table, "request_timeout", mistakes);
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
        request_timeout,
        connections_max: table.integer("connections_max").map_or(CONNECTIONS_MAX, count),
    })
}

const ROWS: i64 = 1_000;
const BODY_BYTES: u64 = 1 << 20;

/// Reads the table of a sink; `None` if its address or token cannot be known.
pub fn http_sink(table: &Table, directory: &Path, mistakes: &mut Vec<Mistake>) -> Option<HttpSink> {
    const EXAMPLE: &str = "for example url = \"https://alerts.example.com/v1/rows\"";
    let url = url(table, HttpSink::check_url, EXAMPLE, mistakes);
    let file = |key: &str| table.text(key).map(|path| directory.join(path));
    let proxy = proxy(table, directory, mistakes);
    let proxy_url = proxy.as_ref().map(|proxy| &proxy.url);
    let is_encrypted = url.as_ref().into_iter().chain(proxy_url).any(HttpSink::is_encrypted);
    if let Some(entry) = table.entry("ca_file").filter(|_| url.is_some() && !is_encrypted) {
        mistakes.push(Mistake::at(entry.key_span, "`ca_file` has no effect without https"));
    }
    let (format, body) = format_and_body(table, mistakes);
    let unused = ["rows_max", "bytes_max"].iter().filter_map(|key| table.entry(key));
    for entry in unused.filter(|_| body == HttpBody::Row) {
        let mistake = Mistake::at(entry.key_span, format!("`{}` has no effect with body = \"row\"", entry.key));
        mistakes.push(mistake);
    }
    let rows_max = if body == HttpBody::Row { 1 } else { table.integer("rows_max").unwrap_or(ROWS) };
    let bytes_max = body_bytes(table, "bytes_max", BODY_BYTES, mistakes);
    let timeout = timeout(table, "timeout", mistakes);
    let headers = headers(table, mistakes);
    let token = token(table, directory, mistakes);
    let is_set = |key: &str| table.boolean(key).unwrap_or(false);
    if let Some(entry) = table.entry("idempotent").filter(|_| is_set("idempotent") && is_set("at_once")) {
        let message = "`idempotent` has no effect with `at_once`: after a crash other requests have the same rows";
        mistakes.push(Mistake::at(entry.key_span, message).hint("leave either of them out"));
    }
    Some(HttpSink {
        url: url?,
        method: if table.text("method") == Some("PUT") { HttpMethod::Put } else { HttpMethod::Post },
        format,
        column: table.text("column").map(str::to_owned),
        body,
        content_type: table.text("content_type").map(str::to_owned),
        rows_max: count(rows_max),
        bytes_max: usize::try_from(bytes_max).ok()?,
        headers,
        token: token.ok()?,
        root_certificates: file("ca_file"),
        proxy,
        is_compressed: table.text("compression") == Some("gzip"),
        timeout,
        is_idempotent: is_set("idempotent"),
        is_at_once: is_set("at_once"),
        on_refused: on_refused(table, directory, mistakes),
    })
}

/// What rows are written as, and what a request has of them; both, and what requests say that this is, are checked.
fn format_and_body(table: &Table, mistakes: &mut Vec<Mistake>) -> (Format, HttpBody) {
    let format = format_of(table);
    let body = match table.text("body") {
        Some("array") => HttpBody::Array,
        Some("row") => HttpBody::Row,
        _ => HttpBody::Lines,
    };
    if let (Some(raw), Err(rule)) = (table.get("body"), HttpSink::check_body(format, body)) {
        let message = format!("`body`: `{}` does not go with format = \"{}\"", body.name(), format.name());
        mistakes.push(Mistake::at(raw.span, message).hint(rule));
    }
    if let Some(entry) = table.entry("column").filter(|_| format != Format::Raw) {
        mistakes.push(Mistake::at(entry.key_span, "`column` has no effect without format = \"raw\""));
    }
    let content_type = table.get("content_type").zip(table.text("content_type"));
    if let Some((raw, text)) = content_type
        && let Err(reason) = HttpSink::check_content_type(text)
    {
        let mistake = Mistake::at(raw.span, format!("`content_type`: `{text}`: {reason}"));
        mistakes.push(mistake.hint("for example content_type = \"text/plain; charset=utf-8\""));
    }
    (format, body)
}

/// A mistake in its address is shown at the table's head, since its own line may have a password in it.
fn proxy(table: &Table, directory: &Path, mistakes: &mut Vec<Mistake>) -> Option<HttpProxy> {
    for (key, needed) in [("proxy_user", "proxy"), ("proxy_password_file", "proxy_user")] {
        if let Some(entry) = table.entry(key).filter(|_| table.entry(needed).is_none()) {
            mistakes.push(Mistake::at(entry.key_span, format!("`{key}` has no effect without `{needed}`")));
        }
    }
    if let Some(entry) =
        table.entry("proxy_user").filter(|_| table.text("proxy_user").is_some_and(|user| user.contains(':')))
    {
        let message = "`proxy_user`: no user of a proxy has a colon in the name";
        mistakes.push(Mistake::at(entry.key_span, message).hint("the password belongs into proxy_password_file"));
    }
    let url = secret("proxy", table.text("proxy")?);
    let checked = url.and_then(|url| match HttpProxy::check_url(&url) {
        Ok(()) => Ok(url),
        Err(reason) => Err(format!("`proxy`: {reason}")),
    });
    match checked {
        Ok(url) => Some(HttpProxy {
            url,
            user: table.text("proxy_user").map(str::to_owned),
            password_file: table.text("proxy_password_file").map(|path| directory.join(path)),
        }),
        Err(message) => {
            mistakes.push(Mistake::at(table.span, message).hint("for example proxy = \"http://proxy:3128\""));
            None
        }
    }
}

fn on_refused(table: &Table, directory: &Path, mistakes: &mut Vec<Mistake>) -> OnRefused {
    match (table.text("on_refused"), table.text("refused_path")) {
        (Some(_), Some(_)) => {
            let place = table.entry("refused_path").map_or(table.span, |entry| entry.key_span);
            let message = "`refused_path` and `on_refused` exclude each other";
            mistakes.push(Mistake::at(place, message).hint("either keeps the rows that the server refuses"));
            OnRefused::Stop
        }
        (None, Some(path)) => OnRefused::Append(directory.join(path)),
        (Some("dead_letter"), None) => OnRefused::DeadLetter,
        (_, None) => OnRefused::Stop,
    }
}

fn body_bytes(table: &Table, key: &str, default: u64, mistakes: &mut Vec<Mistake>) -> u64 {
    let bytes = table.size(key).unwrap_or(default);
    if let Some(raw) = table.get(key).filter(|_| !(1..=REQUEST_BYTES_MAX).contains(&bytes)) {
        mistakes.push(Mistake::at(raw.span, format!("`{key}` must be between 1B and 256MiB")));
    }
    bytes
}

fn timeout(table: &Table, key: &str, mistakes: &mut Vec<Mistake>) -> Duration {
    let timeout = table.duration(key).map_or(TIMEOUT, |ns| Duration::from_nanos(ns.unsigned_abs()));
    if let Some(raw) = table.get(key).filter(|_| timeout > TIMEOUT_MAX) {
        mistakes.push(Mistake::at(raw.span, format!("`{key}` must be at most 1h")));
    }
    timeout
}

fn headers(table: &Table, mistakes: &mut Vec<Mistake>) -> Vec<(String, Secret)> {
    let mut headers = Vec::new();
    for entry in table.children("headers") {
        let Some(text) = entry.raw.text() else { continue };
        let mut wrong = |message: String| mistakes.push(Mistake::at(entry.key_span, message).private());
        let has_token = table.entry("token").or(table.entry("token_file")).is_some();
        if has_token && entry.key.eq_ignore_ascii_case("authorization") {
            wrong("`headers`: authorization is what `token` and `token_file` are for".to_owned());
        }
        match secret("headers", text) {
            Ok(value) => {
                if let Err(reason) = HttpSink::check_header(&entry.key, &value) {
                    wrong(format!("`headers`: {}: {reason}", entry.key));
                }
                headers.push((entry.key.clone(), value));
            }
            Err(message) => wrong(message),
        }
    }
    headers
}

/// It could not be read, and a mistake says so.
#[derive(Debug, PartialEq)]
pub(super) struct Unknown;

/// A mistake is shown at the table's head, since the key's own line may have a token in it.
pub(super) fn token(
    table: &Table,
    directory: &Path,
    mistakes: &mut Vec<Mistake>,
) -> Result<Option<TokenPlace>, Unknown> {
    let mut wrong = |message: String| {
        mistakes.push(Mistake::at(table.span, message).hint("write token = \"$INGEST_TOKEN\", or token_file"));
        Err(Unknown)
    };
    match (table.text("token"), table.text("token_file")) {
        (None, None) => Ok(None),
        (None, Some(file)) => Ok(Some(TokenPlace::File(directory.join(file)))),
        (Some(_), Some(_)) => wrong("`token` and `token_file` exclude each other".to_owned()),
        (Some(text), None) if text.starts_with('$') => {
            secret("token", text).map(TokenPlace::Value).map(Some).or_else(wrong)
        }
        (Some(_), None) => wrong("`token` is no token itself but names the variable in which it stands".to_owned()),
    }
}
