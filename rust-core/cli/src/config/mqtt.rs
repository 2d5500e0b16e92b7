//! The keys of an `mqtt` source and of an `mqtt` sink, checked together.

use std::path::Path;

use ringmill_connect::{Broker, Fields, MqttQuality, MqttSink, MqttSpec, MqttVersion};
use ringmill_wire::DataType;

use super::duration::format_duration;
use super::message_fields::{header_columns, header_fields, message_field};
use super::message_format::{message_format, message_output};
use super::mistake::Mistake;
use super::raw::Table;
use super::text::Span;

/// Keys of what MQTT 3.1.1 does not know.
const NEWER: [&str; 5] = ["session_expiry", "header_fields", "headers", "content_type", "message_expiry"];

/// Reads the table of a source; `None` if it lacks what every such source needs.
pub fn mqtt(
    table: &Table,
    fields: Fields,
    record_bytes_max: usize,
    directory: &Path,
    mistakes: &mut Vec<Mistake>,
) -> Option<MqttSpec> {
    let broker = broker(table, mistakes);
    check_topics(table, mistakes);
    check_connection(table, broker.as_ref(), mistakes);
    let topic_field = message_field(table, "topic_field", (&[DataType::Utf8], "utf8"), &fields, mistakes);
    let header_fields = header_fields(table, (&["topic_field"], check_text), &fields, mistakes);
    let headers = header_fields.iter().map(|header| header.field.as_str());
    let members: Vec<&str> = topic_field.as_deref().into_iter().chain(headers).collect();
    let format = message_format(table, &fields, &members, directory, mistakes);
    let file = |key: &str| table.text(key).map(|path| directory.join(path));
    Some(MqttSpec {
        broker: broker?,
        version: version(table, mistakes),
        session_expiry_s: seconds(table, "session_expiry", mistakes),
        header_fields,
        topics: table.texts("topics"),
        client_id: table.text("client_id")?.to_owned(),
        is_acknowledged: table.integer("qos") != Some(0),
        user: table.text("user").map(str::to_owned),
        password_file: file("password_file"),
        root_certificates: file("ca_file"),
        topic_field,
        format: format?,
        fields,
        rate: table.number("rate"),
        record_bytes_max,
    })
}

/// Reads the table of a sink; `None` if it lacks what every such sink needs.
pub fn mqtt_sink(table: &Table, directory: &Path, mistakes: &mut Vec<Mistake>) -> Option<MqttSink> {
    let broker = broker(table, mistakes);
    check_connection(table, broker.as_ref(), mistakes);
    if let Some(entry) =
        table.entry("topic").filter(|_| table.text("topic").is_some_and(|topic| !MqttSink::is_topic(topic)))
    {
        let mistake = Mistake::at(entry.raw.span, "`topic`: no message can have it");
        mistakes.push(mistake.hint("`+` and `#` are for those who subscribe"));
    }
    if table.entry("topic").is_none() && table.entry("topic_column").is_none() {
        mistakes.push(Mistake::at(table.span, "`topic` or `topic_column` is needed").hint("add topic = \"scores\""));
    }
    let text = |key: &str| table.text(key).map(str::to_owned);
    let file = |key: &str| table.text(key).map(|path| directory.join(path));
    let subject = table.text("topic").map(|topic| format!("{topic}-value"));
    let format = message_output(table, subject, directory, mistakes);
    if let Some(entry) = table.entry("content_type") {
        check_text(table.text("content_type").unwrap_or_default(), entry.raw.span, mistakes);
    }
    let quality = match table.integer("qos") {
        Some(0) => MqttQuality::AtMostOnce,
        Some(2) => MqttQuality::ExactlyOnce,
        _ => MqttQuality::AtLeastOnce,
    };
    if let Some(entry) =
        table.entry("qos").filter(|_| quality == MqttQuality::ExactlyOnce && table.entry("client_id").is_none())
    {
        let mistake = Mistake::at(entry.raw.span, "`qos = 2` needs `client_id`");
        mistakes.push(mistake.hint("the broker keeps a session under it"));
    }
    Some(MqttSink {
        format: format?,
        broker: broker?,
        version: version(table, mistakes),
        quality,
        headers: header_columns(table, check_text, mistakes),
        content_type: text("content_type"),
        message_expiry_s: seconds(table, "message_expiry", mistakes),
        topic: text("topic"),
        topic_column: text("topic_column"),
        is_retained: table.boolean("retain").unwrap_or(false),
        client_id: text("client_id"),
        user: text("user"),
        password_file: file("password_file"),
        root_certificates: file("ca_file"),
    })
}

fn check_connection(table: &Table, broker: Option<&Broker>, mistakes: &mut Vec<Mistake>) {
    if let Some(entry) = table.entry("password_file").filter(|_| table.entry("user").is_none()) {
        mistakes.push(Mistake::at(entry.key_span, "`password_file` has no effect without `user`"));
    }
    let is_plain = broker.is_some_and(|broker| !broker.is_encrypted);
    if let Some(entry) = table.entry("ca_file").filter(|_| is_plain) {
        mistakes.push(Mistake::at(entry.key_span, "`ca_file` has no effect without mqtts://"));
    }
}

/// The version of the protocol; refuses keys that mean nothing in it.
fn version(table: &Table, mistakes: &mut Vec<Mistake>) -> MqttVersion {
    if table.text("protocol") == Some("5") {
        return MqttVersion::V5;
    }
    for entry in NEWER.iter().filter_map(|key| table.entry(key)) {
        let mistake = Mistake::at(entry.key_span, format!("`{}` is not known to MQTT 3.1.1", entry.key));
        mistakes.push(mistake.hint("add protocol = \"5\""));
    }
    MqttVersion::V3
}

/// A time in whole seconds, as many as the protocol can say.
fn seconds(table: &Table, key: &str, mistakes: &mut Vec<Mistake>) -> Option<u32> {
    let (entry, ns) = (table.entry(key)?, table.duration(key)?);
    let seconds = (ns % 1_000_000_000 == 0).then(|| u32::try_from(ns / 1_000_000_000).ok()).flatten();
    if seconds.is_none() {
        let message = format!("`{key}`: {} is no number of whole seconds up to 4294967295s", format_duration(ns));
        mistakes.push(Mistake::at(entry.raw.span, message).hint("MQTT counts them"));
    }
    seconds
}

/// Refuses what the protocol cannot carry as a text.
fn check_text(text: &str, span: Span, mistakes: &mut Vec<Mistake>) {
    if !MqttSink::is_text(text) {
        let mistake = Mistake::at(span, "a text of MQTT has no null characters, and 65,535 bytes at most");
        mistakes.push(mistake);
    }
}

/// A mistake in the address is shown at the table's head, since its own line may have a password in it.
fn broker(table: &Table, mistakes: &mut Vec<Mistake>) -> Option<Broker> {
    match Broker::parse(table.text("url")?) {
        Ok(broker) => Some(broker),
        Err(reason) => {
            let mistake = Mistake::at(table.span, format!("`url`: {reason}"));
            mistakes.push(mistake.hint("for example url = \"mqtt://localhost:1883\""));
            None
        }
    }
}

fn check_topics(table: &Table, mistakes: &mut Vec<Mistake>) {
    let Some(entry) = table.entry("topics") else { return };
    let topics = table.texts("topics");
    if topics.is_empty() {
        mistakes.push(Mistake::at(entry.raw.span, "`topics` is empty"));
    }
    for topic in topics.iter().filter(|topic| !MqttSpec::is_topic(topic)) {
        let message = format!("`topics`: {topic:?} is none");
        let hint = "`+` stands for one part between slashes, `#` for all parts at the end: \"plant/+/#\"";
        mistakes.push(Mistake::at(entry.raw.span, message).hint(hint));
    }
}
