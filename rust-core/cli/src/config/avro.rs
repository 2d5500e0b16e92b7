//! The format of a broker's messages: the keys `format` and `avro`, checked with the fields.

use std::path::Path;
use std::time::Duration;

use ringmill_connect::{AvroSchema, AvroSpec, FieldSpec, HttpSink, MessageFormat, RegistrySpec};

use super::mistake::Mistake;
use super::raw::{Raw, Table};
use super::variable::secret;

/// For one request to a registry.
const TIMEOUT: Duration = Duration::from_secs(10);
const TIMEOUT_MAX: Duration = Duration::from_secs(3_600);

/// What a source's messages are; `None` if that cannot be known. `members`: the fields that take what stands beside them.
pub fn message_format(
    table: &Table,
    fields: &[FieldSpec],
    members: &[&str],
    directory: &Path,
    mistakes: &mut Vec<Mistake>,
) -> Option<MessageFormat> {
    let entry = table.entry("avro");
    match (table.text("format"), entry) {
        (Some("avro"), Some(_)) => {}
        (Some("avro"), None) => {
            let mistake = Mistake::at(table.get("format")?.span, "`format` is avro, but there is no table `avro`");
            mistakes.push(mistake.hint("add avro = { schema_file = \"reading.avsc\" }"));
            return None;
        }
        (_, Some(entry)) => {
            let mistake = Mistake::at(entry.key_span, "`avro` has no effect without format = \"avro\"");
            mistakes.push(mistake);
            return Some(MessageFormat::Json);
        }
        (_, None) => return Some(MessageFormat::Json),
    }
    let avro = avro(table.table("avro")?, directory, mistakes)?;
    check(&avro, table, (fields, members), mistakes);
    Some(MessageFormat::Avro(Box::new(avro)))
}

fn avro(table: &Table, directory: &Path, mistakes: &mut Vec<Mistake>) -> Option<AvroSpec> {
    let (file, registry_entry) = (table.get("schema_file"), table.entry("registry"));
    let others = ["user", "password", "ca_file", "timeout"].iter().filter_map(|key| table.entry(key));
    for entry in others.filter(|_| registry_entry.is_none()) {
        mistakes.push(Mistake::at(entry.key_span, format!("`{}` has no effect without `registry`", entry.key)));
    }
    match (file, registry_entry) {
        (_, Some(_)) => {
            if let Some(entry) = table.entry("encoding") {
                mistakes.push(Mistake::at(entry.key_span, "`encoding` has no effect with `registry`"));
            }
        }
        (None, None) => {
            let written = |key: &str| table.written.iter().any(|written| written == key);
            if !written("schema_file") && !written("registry") {
                let mistake = Mistake::at(table.span, "`avro` needs either `schema_file` or `registry`");
                mistakes.push(mistake.hint("add schema_file = \"reading.avsc\""));
            }
            return None;
        }
        (Some(_), None) => {}
    }
    let schema = file.map(|file| schema(file, directory, mistakes));
    if registry_entry.is_some() {
        let registry = registry(table, directory, mistakes);
        // A file that cannot be read is not left out.
        let schema = schema.map_or(Some(None), |schema| schema.map(Some));
        return Some(AvroSpec::Registry(registry?, schema?));
    }
    let encoding = match table.text("encoding") {
        Some("single-object") => AvroSpec::SingleObject,
        _ => AvroSpec::Datum,
    };
    schema?.map(encoding)
}

fn schema(file: &Raw, directory: &Path, mistakes: &mut Vec<Mistake>) -> Option<AvroSchema> {
    let path = directory.join(file.text()?);
    let wrong = |reason| Mistake::at(file.span, format!("`schema_file`: {}: {reason}", path.display()));
    AvroSchema::read(&path).map_err(|reason| mistakes.push(wrong(reason))).ok()
}

/// Mistakes are shown at the table's head: in the lines of the keys there may be a password.
fn registry(table: &Table, directory: &Path, mistakes: &mut Vec<Mistake>) -> Option<RegistrySpec> {
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

/// What of the schema does not fit a field is shown at the field.
fn check(avro: &AvroSpec, table: &Table, (fields, members): (&[FieldSpec], &[&str]), mistakes: &mut Vec<Mistake>) {
    for misfit in avro.misfits(fields, members) {
        let field = misfit.field.as_ref().and_then(|name| table.table("fields")?.entry(name));
        let schema = table.table("avro").and_then(|avro| avro.get("schema_file"));
        let place = field.map(|entry| entry.raw.span).or(schema.map(|file| file.span)).unwrap_or(table.span);
        let mistake = match &misfit.field {
            Some(name) => Mistake::at(place, format!("`{name}` does not fit the schema: {}", misfit.reason)),
            None => Mistake::at(place, format!("`schema_file`: {}", misfit.reason)),
        };
        mistakes.push(mistake.hint_maybe(misfit.hint));
    }
}
