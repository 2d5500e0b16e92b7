//! The keys of a `postgres` sink, checked together.

use std::path::Path;
use std::time::Duration;

use ringmill_connect::{PostgresSink, Tls, WriteMode};

use super::mistake::Mistake;
use super::raw::Table;
use super::url::url;

const EXAMPLE: &str = "for example url = \"postgres://user@localhost:5432/database\", with password_file";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(300);

/// Reads the table of a sink; `None` if it lacks what every such sink needs.
pub fn postgres(table: &Table, directory: &Path, mistakes: &mut Vec<Mistake>) -> Option<PostgresSink> {
    let url = url(table, PostgresSink::check_url, EXAMPLE, mistakes);
    let tls = match table.text("sslmode") {
        Some("disable") => Tls::Disable,
        Some("require") => Tls::Require,
        Some("verify-full") => Tls::VerifyFull,
        _ => Tls::Prefer,
    };
    if let Some(entry) = table.entry("sslrootcert").filter(|_| tls != Tls::VerifyFull) {
        let mistake = Mistake::at(entry.key_span, "`sslrootcert` has no effect without sslmode = \"verify-full\"");
        mistakes.push(mistake);
    }
    let name = table.get("table")?;
    if name.text()?.to_ascii_lowercase().starts_with("ringmill_") {
        let message = format!("`table`: `{}` is reserved: names that begin with ringmill_ are", name.text()?);
        mistakes.push(Mistake::at(name.span, message));
    }
    let duration = |key: &str, default| table.duration(key).map_or(default, |ns| Duration::from_nanos(ns as u64));
    let file = |key: &str| table.text(key).map(|path| directory.join(path));
    let text = |key: &str, default: &str| table.text(key).unwrap_or(default).to_owned();
    Some(PostgresSink {
        url: url?,
        password_file: file("password_file"),
        tls,
        root_certificates: file("sslrootcert"),
        schema: text("schema", "public"),
        table: name.text()?.to_owned(),
        mode: mode(table, mistakes),
        create: table.boolean("create").unwrap_or(false),
        connect_timeout: duration("connect_timeout", CONNECT_TIMEOUT),
        statement_timeout: duration("statement_timeout", STATEMENT_TIMEOUT),
        application_name: text("application_name", "ringmill"),
    })
}

fn mode(table: &Table, mistakes: &mut Vec<Mistake>) -> WriteMode {
    let keys = table.texts("conflict");
    let entry = table.entry("conflict");
    if table.text("mode") == Some("upsert") {
        if keys.is_empty() {
            let mistake =
                Mistake::at(entry.map_or(table.span, |entry| entry.raw.span), "mode `upsert` needs `conflict`");
            mistakes.push(mistake.hint("name the key's columns: conflict = [\"device_id\"]"));
        }
        return WriteMode::Upsert(keys);
    }
    if let Some(entry) = entry {
        let mistake = Mistake::at(entry.key_span, "`conflict` has no effect without mode = \"upsert\"");
        mistakes.push(mistake);
    }
    WriteMode::Insert
}
