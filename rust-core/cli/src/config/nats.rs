//! The keys of sources and sinks of the kinds `nats` and `nats_core`, checked together.

use std::path::Path;

use ringmill_connect::{
    Fields, NatsCoreSink, NatsCoreSpec, NatsFields, NatsLogin, NatsServers, NatsSink, NatsSpec, NatsStart,
};
use ringmill_wire::{DataType, TimeUnit};

use super::http::token;
use super::message_fields::{check_filled, header_columns, header_fields, message_field};
use super::message_format::{message_format, message_output};
use super::mistake::Mistake;
use super::raw::Table;
use super::text::Span;

/// Keys that name a field for what stands beside a message.
const BESIDE: [&str; 3] = ["subject_field", "sequence_field", "timestamp_field"];

/// Reads the table of a source; `None` if it lacks what every such source needs.
pub fn nats(
    table: &Table,
    fields: Fields,
    record_bytes_max: usize,
    (directory, has_checkpoints): (&Path, bool),
    mistakes: &mut Vec<Mistake>,
) -> Option<NatsSpec> {
    use DataType as T;
    let servers = servers(table, directory, mistakes);
    check_stream(table, mistakes);
    let subjects = subjects(table, mistakes);
    if let Some(entry) =
        table.entry("durable").filter(|_| table.text("durable").is_some_and(|name| !NatsSpec::is_name(name)))
    {
        let mistake = Mistake::at(entry.raw.span, "`durable`: no consumer can have this name");
        mistakes.push(mistake.hint("it has no spaces, and none of . * > / \\"));
    }
    if let Some(entry) = table.entry("durable").filter(|_| !has_checkpoints) {
        mistakes.push(Mistake::at(entry.key_span, "`durable` has no effect without [checkpoint]"));
    }
    if let (Some(entry), Some(_)) = (table.entry("start_time"), table.entry("start")) {
        mistakes.push(Mistake::at(entry.key_span, "`start` and `start_time` contradict each other"));
    }
    let start = match (table.timestamp("start_time"), table.text("start")) {
        (Some(time_ns), _) => NatsStart::Time(time_ns),
        (None, Some("latest")) => NatsStart::Latest,
        (None, _) => NatsStart::Earliest,
    };
    let headers = header_fields(table, (&BESIDE, check_header), &fields, mistakes);
    let mut field = |key: &str, types, words| message_field(table, key, (types, words), &fields, mistakes);
    let message_fields = NatsFields {
        subject: field("subject_field", &[T::Utf8], "utf8"),
        sequence: field("sequence_field", &[T::Int64], "int64"),
        timestamp: field("timestamp_field", &[T::Timestamp(TimeUnit::Nanosecond)], "timestamp[ns]"),
        headers,
    };
    let type_header = table.table("type").and_then(|place| place.get("header"));
    if let Some((name, raw)) = type_header.and_then(|raw| Some((raw.text()?, raw))) {
        check_header(name, raw.span, mistakes);
    }
    let format = message_format(table, &fields, &message_fields.names(), directory, mistakes);
    Some(NatsSpec {
        servers: servers?,
        stream: table.text("stream")?.to_owned(),
        subjects,
        durable: table.text("durable").map(str::to_owned),
        start,
        stops_at_end: table.boolean("stop_at_end").unwrap_or(false),
        message_fields,
        format: format?,
        fields,
        rate: table.number("rate"),
        record_bytes_max,
    })
}

/// Reads the table of a source of core NATS; `None` if it lacks what every such source needs.
pub fn nats_core(
    table: &Table,
    fields: Fields,
    record_bytes_max: usize,
    directory: &Path,
    mistakes: &mut Vec<Mistake>,
) -> Option<NatsCoreSpec> {
    let servers = servers(table, directory, mistakes);
    let subjects = subjects(table, mistakes);
    let group = table.text("queue_group");
    if let Some(entry) = table.entry("queue_group").filter(|_| group.is_some_and(|name| !NatsSink::is_subject(name))) {
        mistakes.push(Mistake::at(entry.raw.span, "`queue_group`: no group can have this name"));
    }
    let message_fields = NatsFields {
        subject: message_field(table, "subject_field", (&[DataType::Utf8], "utf8"), &fields, mistakes),
        headers: header_fields(table, (&BESIDE, check_header), &fields, mistakes),
        ..NatsFields::default()
    };
    Some(NatsCoreSpec {
        servers: servers?,
        subjects,
        queue_group: group.map(str::to_owned),
        message_fields,
        fields,
        rate: table.number("rate"),
        record_bytes_max,
    })
}

/// Reads the table of a sink; `None` if it lacks what every such sink needs.
pub fn nats_sink(table: &Table, directory: &Path, mistakes: &mut Vec<Mistake>) -> Option<NatsSink> {
    let servers = servers(table, directory, mistakes);
    check_stream(table, mistakes);
    let text = |key: &str| table.text(key).map(str::to_owned);
    check_own_subject(table, mistakes);
    let headers = header_columns(table, check_own_header, mistakes);
    let format = message_output(table, text("stream").map(|stream| format!("{stream}-value")), directory, mistakes);
    Some(NatsSink {
        servers: servers?,
        stream: text("stream")?,
        subject: text("subject"),
        subject_column: text("subject_column"),
        headers,
        format: format?,
    })
}

/// The same of a sink of core NATS.
pub fn nats_core_sink(table: &Table, directory: &Path, mistakes: &mut Vec<Mistake>) -> Option<NatsCoreSink> {
    let servers = servers(table, directory, mistakes);
    let text = |key: &str| table.text(key).map(str::to_owned);
    check_own_subject(table, mistakes);
    let headers = header_columns(table, check_own_header, mistakes);
    let format = message_output(table, text("subject").map(|subject| format!("{subject}-value")), directory, mistakes);
    Some(NatsCoreSink {
        servers: servers?,
        subject: text("subject"),
        subject_column: text("subject_column"),
        headers,
        format: format?,
    })
}

/// What is sent has a subject.
fn check_own_subject(table: &Table, mistakes: &mut Vec<Mistake>) {
    let is_wrong = table.text("subject").is_some_and(|subject| !NatsSink::is_subject(subject));
    if let Some(entry) = table.entry("subject").filter(|_| is_wrong) {
        let mistake = Mistake::at(entry.raw.span, "`subject`: no message can have it");
        mistakes.push(mistake.hint("`*` and `>` are for those who read"));
    }
    if table.entry("subject").is_none() && table.entry("subject_column").is_none() {
        let mistake = Mistake::at(table.span, "`subject` or `subject_column` is needed");
        mistakes.push(mistake.hint("add subject = \"scores\""));
    }
}

/// The subjects that are wanted; none: all are.
fn subjects(table: &Table, mistakes: &mut Vec<Mistake>) -> Vec<String> {
    let mut subjects: Vec<String> = Vec::new();
    if let (Some(entry), Some(_)) = (table.entry("subjects"), table.entry("subject")) {
        mistakes.push(Mistake::at(entry.key_span, "`subject` and `subjects` exclude each other"));
    }
    check_filled(table, "subjects", mistakes);
    let several = table.list("subjects").iter().map(|raw| ("subjects", raw));
    for (key, raw) in table.get("subject").map(|raw| ("subject", raw)).into_iter().chain(several) {
        let Some(subject) = raw.text() else { continue };
        if !NatsSpec::is_subject(subject) {
            let mistake = Mistake::at(raw.span, format!("`{key}`: this is none"));
            let hint = "`*` stands for one part between dots, `>` for all parts at the end: \"plant.*.>\"";
            mistakes.push(mistake.hint(hint));
        } else if let Some(other) = subjects.iter().find(|other| NatsSpec::meet(subject, other)) {
            let message = format!("`{key}`: a message can be of both \"{other}\" and \"{subject}\"");
            mistakes.push(Mistake::at(raw.span, message).hint("servers choose only by subjects that do not overlap"));
        }
        subjects.push(subject.to_owned());
    }
    subjects
}

fn check_header(name: &str, span: Span, mistakes: &mut Vec<Mistake>) {
    if !NatsSpec::is_header(name) {
        let mistake = Mistake::at(span, format!("no message can have a header of the name {name:?}"));
        mistakes.push(mistake.hint("names of headers in NATS are ASCII without spaces and colons"));
    }
}

/// The same for what we write.
fn check_own_header(name: &str, span: Span, mistakes: &mut Vec<Mistake>) {
    check_header(name, span, mistakes);
    if name.get(..5).is_some_and(|head| head.eq_ignore_ascii_case("Nats-")) {
        mistakes.push(Mistake::at(span, format!("{name:?}: headers whose name begins with Nats- are for the servers")));
    }
}

fn check_stream(table: &Table, mistakes: &mut Vec<Mistake>) {
    let is_wrong = table.text("stream").is_some_and(|name| !NatsSpec::is_name(name));
    if let Some(entry) = table.entry("stream").filter(|_| is_wrong) {
        let mistake = Mistake::at(entry.raw.span, "`stream`: no stream can have this name");
        mistakes.push(mistake.hint("the messages of a stream are chosen with `subject`"));
    }
}

/// Where the servers are, and who we are there. A mistake in the address is shown at the table's head, since its own line
/// may have a password in it.
fn servers(table: &Table, directory: &Path, mistakes: &mut Vec<Mistake>) -> Option<NatsServers> {
    let login = login(table, directory, mistakes);
    let mut servers = match NatsServers::parse(table.text("url")?) {
        Ok(servers) => servers,
        Err(reason) => {
            let mistake = Mistake::at(table.span, format!("`url`: {reason}"));
            mistakes.push(mistake.hint("for example url = \"nats://localhost:4222\""));
            return None;
        }
    };
    if let Some(entry) = table.entry("ca_file").filter(|_| !servers.is_encrypted()) {
        mistakes.push(Mistake::at(entry.key_span, "`ca_file` has no effect without tls://"));
    }
    servers.login = login?;
    servers.root_certificates = table.text("ca_file").map(|path| directory.join(path));
    Some(servers)
}

fn login(table: &Table, directory: &Path, mistakes: &mut Vec<Mistake>) -> Option<NatsLogin> {
    if let Some(entry) = table.entry("password_file").filter(|_| table.entry("user").is_none()) {
        mistakes.push(Mistake::at(entry.key_span, "`password_file` has no effect without `user`"));
    }
    let token = token(table, directory, mistakes).ok()?;
    let credentials = table.entry("credentials_file");
    if usize::from(token.is_some()) + usize::from(table.entry("user").is_some()) + usize::from(credentials.is_some())
        > 1
    {
        mistakes.push(Mistake::at(table.span, "`user`, `token` and `credentials_file` exclude each other"));
    }
    let file = |key: &str| table.text(key).map(|path| directory.join(path));
    Some(match (table.text("user"), token, file("credentials_file")) {
        (Some(user), ..) => NatsLogin::User { name: user.to_owned(), password_file: file("password_file") },
        (None, Some(token), _) => NatsLogin::Token(token),
        (None, None, Some(path)) => NatsLogin::Credentials(path),
        (None, None, None) => NatsLogin::Nobody,
    })
}
