//! Which partitions are read, and from where.

use std::collections::{BTreeMap, BTreeSet};

use glob::Pattern;
use rdkafka::{
    Offset, TopicPartitionList, consumer::Consumer, error::KafkaError, metadata::MetadataTopic, types::RDKafkaRespErr,
};

use super::{KafkaShare, KafkaSpec, KafkaStart, client::said, session::Session};
use crate::{ConnectError, Position, Resume, Share};

/// A partition, and where it begins.
#[derive(Debug, Clone)]
pub struct Assigned {
    pub topic: String,
    pub partition: i32,
    pub position: Position,
}

impl Assigned {
    pub fn name(&self) -> String {
        name(&self.topic, self.partition)
    }
}

fn name(topic: &str, partition: i32) -> String {
    format!("{topic}/{partition}")
}

/// Looks for the partitions, in the order of their topics' names.
pub fn find(spec: &KafkaSpec, session: &Session, resume: Option<&[Resume<'_>]>) -> Result<Vec<Assigned>, ConnectError> {
    let partitions = partitions(spec, session)?;
    if let Some(gone) = resume.and_then(|resume| {
        resume.iter().find(|earlier| !partitions.iter().any(|(topic, number)| name(topic, *number) == earlier.name))
    }) {
        let reason = "it is not among the topics and partitions that are there and asked for; --fresh begins anew";
        return Err(gone.refuse(reason.to_owned()));
    }
    let is_known = |topic: &str| {
        let of_topic = |earlier: &Resume<'_>| earlier.name.rsplit_once('/').is_some_and(|(name, _)| name == topic);
        resume.is_some_and(|resume| resume.iter().any(of_topic))
    };
    let mut ends = Vec::with_capacity(partitions.len());
    for (topic, partition) in &partitions {
        let (low, high) = session.ask(|consumer, timeout| consumer.fetch_watermarks(topic, *partition, timeout))?;
        ends.push((low.max(0) as u64, high.max(0) as u64));
    }
    // Asked for after the ends: what comes in between lies behind them.
    let timed = timed(spec, session, &partitions)?;
    let mut assigned = Vec::with_capacity(partitions.len());
    for ((topic, partition), (low, high)) in partitions.into_iter().zip(ends) {
        let name = name(&topic, partition);
        let position = match resume.and_then(|resume| resume.iter().find(|earlier| earlier.name == name)) {
            Some(earlier) => {
                let position = earlier.position()?;
                check_share(spec.share, &position).map_err(|reason| earlier.refuse(reason))?;
                check(&position, low, high).map_err(|reason| earlier.refuse(reason))?;
                position
            }
            // It was added to a topic of which everything is read.
            None if is_known(&topic) => Position { offset: low, ..Position::default() },
            None => {
                let offset = match spec.start {
                    KafkaStart::Earliest => low,
                    KafkaStart::Latest => high,
                    KafkaStart::Timestamp(_) => timed.get(&(topic.clone(), partition)).copied().unwrap_or(high),
                };
                Position { offset, ..Position::default() }
            }
        };
        assigned.push(Assigned { topic, partition, position });
    }
    Ok(assigned)
}

/// Whether it is still the same share: of the others' partitions somebody else has read what a new one would begin with.
fn check_share(share: Option<KafkaShare>, position: &Position) -> Result<(), String> {
    let said = |share: Option<&Share>| {
        share.map_or("every partition".to_owned(), |share| format!("share {} of {}", share.index, share.of))
    };
    let (now, before) = (share.map(KafkaShare::noted), position.share.as_ref());
    if now.as_ref() != before {
        let (before, now) = (said(before), said(now.as_ref()));
        return Err(format!("before, {before} was read, and now it would be {now}; --fresh begins anew"));
    }
    Ok(())
}

/// Whether what follows a checkpoint's position is there.
fn check(position: &Position, low: u64, high: u64) -> Result<(), String> {
    let Position { offset, .. } = position;
    if *offset < low {
        return Err(format!(
            "messages {offset} to {} are gone, for the topic keeps them for too short a time; --fresh begins anew",
            low - 1
        ));
    }
    if *offset > high {
        return Err(format!(
            "it stands at offset {offset}, and the topic ends at {high} now: was it created anew? --fresh begins anew"
        ));
    }
    Ok(())
}

/// The topics' partitions.
fn partitions(spec: &KafkaSpec, session: &Session) -> Result<BTreeSet<(String, i32)>, ConnectError> {
    let mut found = BTreeSet::new();
    for wanted in &spec.topics {
        let mut is_there = false;
        let pattern = is_pattern(wanted).then(|| Pattern::new(wanted)).transpose();
        let pattern =
            pattern.map_err(|error| ConnectError::Pattern { pattern: wanted.clone(), reason: error.to_string() })?;
        let name = pattern.is_none().then_some(wanted.as_str());
        let metadata = session.ask(|consumer, timeout| consumer.fetch_metadata(name, timeout))?;
        // The brokers' own topics are read by their names only.
        let matches = |topic: &MetadataTopic| {
            let name = topic.name();
            pattern.as_ref().is_none_or(|pattern| !name.starts_with("__") && pattern.matches(name))
        };
        for topic in metadata.topics().iter().filter(|topic| matches(topic)) {
            is_there = true;
            add(spec, session, topic, &mut found)?;
        }
        if !is_there {
            return Err(session.refuse(format!("there is no topic {wanted:?}")));
        }
    }
    if let Some(KafkaShare { index, count }) = spec.share.filter(|_| found.is_empty()) {
        return Err(session.refuse(format!("no partition is in share {index} of {count}: there are too few")));
    }
    Ok(found)
}

fn add(
    spec: &KafkaSpec,
    session: &Session,
    topic: &MetadataTopic,
    found: &mut BTreeSet<(String, i32)>,
) -> Result<(), ConnectError> {
    let name = topic.name();
    match topic.error() {
        None => {}
        Some(RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART) => {
            return Err(session.refuse(format!("there is no topic {name:?}")));
        }
        Some(error) => {
            let error = KafkaError::MetadataFetch(error.into());
            return Err(session.refuse(format!("topic {name:?}: {}", said(&error))));
        }
    }
    let numbers: Vec<i32> = topic.partitions().iter().map(|partition| partition.id()).collect();
    if let Some(missing) = spec.partitions.iter().find(|number| !numbers.contains(number)) {
        return Err(session.refuse(format!("topic {name:?} has no partition {missing}; it has {}", numbers.len())));
    }
    let is_wanted = |number: &i32| {
        let is_shared = spec.share.is_none_or(|share| share.has(*number));
        is_shared && (spec.partitions.is_empty() || spec.partitions.contains(number))
    };
    found.extend(numbers.into_iter().filter(is_wanted).map(|number| (name.to_owned(), number)));
    Ok(())
}

/// Where the first messages are that are not older than the start asked for; absent: there is none yet.
fn timed(
    spec: &KafkaSpec,
    session: &Session,
    partitions: &BTreeSet<(String, i32)>,
) -> Result<BTreeMap<(String, i32), u64>, ConnectError> {
    let KafkaStart::Timestamp(time_ms) = spec.start else { return Ok(BTreeMap::new()) };
    let mut list = TopicPartitionList::with_capacity(partitions.len());
    for (topic, partition) in partitions {
        let added = list.add_partition_offset(topic, *partition, Offset::Offset(time_ms));
        added.map_err(|error| session.refuse(error.to_string()))?;
    }
    let found = session.ask(|consumer, timeout| consumer.offsets_for_times(list, timeout))?;
    let mut offsets = BTreeMap::new();
    for element in found.elements() {
        element.error().map_err(|error| session.refuse(error.to_string()))?;
        if let Offset::Offset(offset) = element.offset() {
            offsets.insert((element.topic().to_owned(), element.partition()), offset.max(0) as u64);
        }
    }
    Ok(offsets)
}

/// Whether a name stands for several.
fn is_pattern(topic: &str) -> bool {
    topic.contains(['*', '?', '['])
}
