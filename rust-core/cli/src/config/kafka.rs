//! The keys of a `kafka` source and of a `kafka` sink, checked together.

use std::path::Path;

use ringmill_connect::{
    Fields, KafkaGroup, KafkaMembership, KafkaShare, KafkaSink, KafkaSpec, KafkaStart, MessageFields, Secret,
};
use ringmill_wire::{DataType, TimeUnit};

use super::message_fields::{check_filled, header_columns, header_fields, message_field};
use super::message_format::{message_format, message_output};
use super::mistake::Mistake;
use super::raw::{Raw, Table};
use super::text::Span;

/// Keys that name a field for what stands beside a message.
const BESIDE: [&str; 5] = ["topic_field", "key_field", "partition_field", "offset_field", "timestamp_field"];

/// Nanoseconds in a millisecond.
const MILLISECOND_NS: i64 = 1_000_000;

/// Reads the table of a source; `None` if it lacks what every such source needs.
pub fn kafka(
    table: &Table,
    fields: Fields,
    record_bytes_max: usize,
    directory: &Path,
    mistakes: &mut Vec<Mistake>,
) -> Option<KafkaSpec> {
    check_filled(table, "brokers", mistakes);
    check_filled(table, "topics", mistakes);
    if let (Some(entry), Some(_)) = (table.entry("start_time"), table.entry("start")) {
        mistakes.push(Mistake::at(entry.key_span, "`start` and `start_time` contradict each other"));
    }
    let start = match (table.timestamp("start_time"), table.text("start")) {
        (Some(time_ns), _) => KafkaStart::Timestamp(time_ns.div_euclid(MILLISECOND_NS)),
        (None, Some("latest")) => KafkaStart::Latest,
        (None, _) => KafkaStart::Earliest,
    };
    let message_fields = message_fields(table, &fields, mistakes);
    let format = message_format(table, &fields, &message_fields.names(), directory, mistakes);
    Some(KafkaSpec {
        brokers: table.texts("brokers"),
        topics: table.texts("topics"),
        partitions: table
            .list("partitions")
            .iter()
            .filter_map(Raw::integer)
            .filter_map(|number| i32::try_from(number).ok())
            .collect(),
        share: share(table, mistakes),
        start,
        stops_at_end: table.boolean("stop_at_end").unwrap_or(false),
        group: group(table, mistakes),
        options: options(table, KafkaSpec::check_option, mistakes),
        options_file: table.text("options_file").map(|path| directory.join(path)),
        message_fields,
        format: format?,
        fields,
        rate: table.number("rate"),
        record_bytes_max,
    })
}

/// Reads the table of a sink; `None` if it lacks what every such sink needs.
pub fn kafka_sink(
    table: &Table,
    (directory, has_checkpoints): (&Path, bool),
    mistakes: &mut Vec<Mistake>,
) -> Option<KafkaSink> {
    check_filled(table, "brokers", mistakes);
    let subject = table.text("topic").map(|topic| format!("{topic}-value"));
    let format = message_output(table, subject, directory, mistakes);
    if let Some(entry) = table.entry("transactional_id").filter(|_| !has_checkpoints) {
        let message = "`transactional_id`: what is committed in a transaction is a checkpoint's, and there are none";
        mistakes.push(Mistake::at(entry.key_span, message).hint("add [checkpoint] with path = \"state\""));
    }
    Some(KafkaSink {
        format: format?,
        brokers: table.texts("brokers"),
        topic: table.text("topic")?.to_owned(),
        key: table.text("key").map(str::to_owned),
        timestamp: table.text("timestamp").map(str::to_owned),
        headers: header_columns(table, check_header, mistakes),
        transactional_id: table.text("transactional_id").map(str::to_owned),
        options: options(table, KafkaSink::check_option, mistakes),
        options_file: table.text("options_file").map(|path| directory.join(path)),
    })
}

/// Notes sinks that would take a `transactional_id` from each other.
pub fn check_transactions(root: &Table, mistakes: &mut Vec<Mistake>) {
    let mut seen: Vec<(&str, &str, Vec<String>)> = Vec::new();
    for entry in root.children("sinks") {
        let Some(table) = entry.raw.table() else { continue };
        let Some(raw) = table.get("transactional_id") else { continue };
        let Some(id) = raw.text() else { continue };
        let brokers = table.texts("brokers");
        if let Some((other, ..)) = seen.iter().find(|(_, theirs, at)| *theirs == id && *at == brokers) {
            let message = format!("`transactional_id`: the sink `{other}` has this one already");
            mistakes.push(Mistake::at(raw.span, message).hint("each sink of each pipeline has one of its own"));
        }
        seen.push((&entry.key, id, brokers));
    }
}

fn share(table: &Table, mistakes: &mut Vec<Mistake>) -> Option<KafkaShare> {
    let written = table.table("share")?;
    let number = |key: &str| u32::try_from(written.integer(key)?).ok();
    let (index, count) = (number("index")?, number("count")?);
    if index >= count {
        let message = format!("`index` is {index}, but of {count} shares the last is {}", count - 1);
        mistakes.push(Mistake::at(written.get("index")?.span, message));
    }
    Some(KafkaShare { index, count })
}

/// The group, and what is not for its members.
fn group(table: &Table, mistakes: &mut Vec<Mistake>) -> Option<KafkaGroup> {
    let name = table.text("group").map(str::to_owned);
    let instance = table.text("group_instance_id").map(str::to_owned);
    let dealt = table.entry("assignment").filter(|entry| entry.raw.text() == Some("group"));
    let Some(assignment) = dealt else {
        if let Some(entry) = table.entry("group_instance_id") {
            let message = "`group_instance_id` is for a member of a group";
            mistakes.push(Mistake::at(entry.key_span, message).hint("add assignment = \"group\""));
        }
        return Some(KafkaGroup { name: name?, membership: None });
    };
    if name.is_none() {
        let message = "`assignment` = \"group\" needs `group`, the name of the group";
        mistakes.push(Mistake::at(assignment.raw.span, message));
    }
    for key in ["partitions", "share"] {
        if let Some(entry) = table.entry(key) {
            let message = format!("`{key}` fixes what `assignment` = \"group\" leaves to the group");
            mistakes.push(Mistake::at(entry.key_span, message));
        }
    }
    if let Some(entry) = table.entry("stop_at_end").filter(|_| table.boolean("stop_at_end") == Some(true)) {
        let message = "`stop_at_end`: with `assignment` = \"group\" a partition that was read to its end may come back";
        mistakes.push(Mistake::at(entry.key_span, message));
    }
    Some(KafkaGroup { name: name?, membership: Some(KafkaMembership { instance }) })
}

fn options(
    table: &Table,
    check: impl Fn(&str, &Secret) -> Result<(), String>,
    mistakes: &mut Vec<Mistake>,
) -> Vec<(String, Secret)> {
    let mut options = Vec::new();
    for entry in table.children("options") {
        let Some(value) = entry.raw.text() else { continue };
        let value = Secret::new(value);
        if let Err(reason) = check(&entry.key, &value) {
            let hint = "they are listed at https://github.com/confluentinc/librdkafka/blob/master/CONFIGURATION.md";
            mistakes.push(Mistake::at(entry.key_span, format!("`options`: {reason}")).hint(hint).private());
        }
        options.push((entry.key.clone(), value));
    }
    options
}

fn message_fields(table: &Table, fields: &Fields, mistakes: &mut Vec<Mistake>) -> MessageFields {
    use DataType as T;
    let headers = header_fields(table, (&BESIDE, check_header), fields, mistakes);
    let mut field = |key: &str, types, words| message_field(table, key, (types, words), fields, mistakes);
    MessageFields {
        topic: field("topic_field", &[T::Utf8], "utf8"),
        key: field("key_field", &[T::Utf8, T::Binary], "utf8 or binary"),
        partition: field("partition_field", &[T::Int32, T::Int64], "int32 or int64"),
        offset: field("offset_field", &[T::Int64], "int64"),
        timestamp: field("timestamp_field", &[T::Timestamp(TimeUnit::Millisecond)], "timestamp[ms]"),
        headers,
    }
}

/// Refuses what librdkafka would take for another name.
pub fn check_header(name: &str, span: Span, mistakes: &mut Vec<Mistake>) {
    if name.contains('\0') {
        mistakes.push(Mistake::at(span, format!("{name:?} is no header's name: it has a zero byte")));
    }
}
