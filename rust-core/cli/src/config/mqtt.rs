//! The keys of an `mqtt` source and of an `mqtt` sink, checked together.

use std::path::Path;

use ringmill_connect::{Broker, Fields, MqttSink, MqttSpec};
use ringmill_wire::DataType;

use super::message_fields::message_field;
use super::message_format::{message_format, message_output};
use super::mistake::Mistake;
use super::raw::Table;

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
    let members: Vec<&str> = topic_field.as_deref().into_iter().collect();
    let format = message_format(table, &fields, &members, directory, mistakes);
    let file = |key: &str| table.text(key).map(|path| directory.join(path));
    Some(MqttSpec {
        broker: broker?,
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
    Some(MqttSink {
        format: format?,
        broker: broker?,
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
