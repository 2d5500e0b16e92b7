//! Which partitions are read, and from where.

use std::collections::{BTreeMap, BTreeSet};

use glob::Pattern;
use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    error::{KafkaError, KafkaResult},
    metadata::MetadataTopic,
    types::RDKafkaRespErr,
};

use super::{
    KafkaShare, KafkaSpec, KafkaStart,
    client::{ANSWER_TIMEOUT, Reports, said},
    session::Session,
};
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

/// What a partition is called.
pub fn name(topic: &str, partition: i32) -> String {
    format!("{topic}/{partition}")
}

/// A partition that is there.
pub struct Found {
    pub topic: String,
    pub partition: i32,
    /// of the checkpoint that is gone on from
    pub position: Option<Position>,
    /// where it begins if nothing says where it stands
    pub start: KafkaStart,
}

/// Looks for the partitions, in the order of their topics' names.
pub fn find(spec: &KafkaSpec, session: &Session, resume: Option<&[Resume<'_>]>) -> Result<Vec<Found>, ConnectError> {
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
    let share = spec.noted_share();
    let look = |(topic, partition): (String, i32)| {
        let name = name(&topic, partition);
        let earlier = resume.and_then(|resume| resume.iter().find(|earlier| earlier.name == name));
        let position = earlier.map(|earlier| {
            let position = earlier.position()?;
            check_share(share.as_ref(), &position).map_err(|reason| earlier.refuse(reason))?;
            Ok(position)
        });
        // It was added to a topic of which everything is read.
        let is_added = earlier.is_none() && is_known(&topic);
        let start = if is_added { KafkaStart::Earliest } else { spec.start };
        Ok(Found { position: position.transpose()?, topic, partition, start })
    };
    partitions.into_iter().map(look).collect()
}

/// Says where each of them begins.
pub fn settle(spec: &KafkaSpec, session: &Session, found: Vec<Found>) -> Result<Vec<Assigned>, ConnectError> {
    let mut ends = Vec::with_capacity(found.len());
    for Found { topic, partition, .. } in &found {
        ends.push(session.ask(|consumer, _| self::ends(consumer, topic, *partition))?);
    }
    // Asked for after the ends: what comes in between lies behind them.
    let timed = match spec.start {
        KafkaStart::Timestamp(time_ms) => {
            let partitions = found.iter().map(|Found { topic, partition, .. }| (topic.as_str(), *partition));
            session.ask(|consumer, _| timed(consumer, time_ms, partitions))?
        }
        KafkaStart::Earliest | KafkaStart::Latest => BTreeMap::new(),
    };
    let mut assigned = Vec::with_capacity(found.len());
    for (Found { topic, partition, position, start }, (low, high)) in found.into_iter().zip(ends) {
        if let Some(position) = &position {
            let refuse = |reason| ConnectError::Resume { partition: name(&topic, partition), reason };
            check(position, low, high).map_err(refuse)?;
        }
        let position = position.unwrap_or_else(|| {
            let offset = match start {
                KafkaStart::Earliest => low,
                KafkaStart::Latest => high,
                KafkaStart::Timestamp(_) => timed.get(&(topic.clone(), partition)).copied().unwrap_or(high),
            };
            Position { offset, ..Position::default() }
        });
        assigned.push(Assigned { topic, partition, position });
    }
    Ok(assigned)
}

/// Where a partition begins of which nobody knows where it stands.
pub fn beginning(consumer: &BaseConsumer<Reports>, start: KafkaStart, topic: &str, partition: i32) -> KafkaResult<u64> {
    let (low, high) = ends(consumer, topic, partition)?;
    Ok(match start {
        KafkaStart::Earliest => low,
        KafkaStart::Latest => high,
        KafkaStart::Timestamp(time_ms) => {
            timed(consumer, time_ms, [(topic, partition)])?.into_values().next().unwrap_or(high)
        }
    })
}

/// The offsets of a partition's oldest message and behind its newest.
fn ends(consumer: &BaseConsumer<Reports>, topic: &str, partition: i32) -> KafkaResult<(u64, u64)> {
    let (low, high) = consumer.fetch_watermarks(topic, partition, ANSWER_TIMEOUT)?;
    Ok((low.max(0) as u64, high.max(0) as u64))
}

/// Whether it is still the same share: of the others' partitions somebody else has read what a new one would begin with.
fn check_share(now: Option<&Share>, position: &Position) -> Result<(), String> {
    let said = |share: Option<&Share>| match share {
        None => "every partition".to_owned(),
        Some(Share { of: 0, stream, .. }) => format!("what the group {stream:?} deals"),
        Some(Share { index, of, .. }) => format!("share {index} of {of}"),
    };
    let before = position.share.as_ref();
    if now != before {
        let (before, now) = (said(before), said(now));
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

/// Where the first messages are that are not older than that; absent: there is none yet.
fn timed<'a>(
    consumer: &BaseConsumer<Reports>,
    time_ms: i64,
    partitions: impl IntoIterator<Item = (&'a str, i32)>,
) -> KafkaResult<BTreeMap<(String, i32), u64>> {
    let mut list = TopicPartitionList::new();
    for (topic, partition) in partitions {
        list.add_partition_offset(topic, partition, Offset::Offset(time_ms))?;
    }
    let mut offsets = BTreeMap::new();
    for element in consumer.offsets_for_times(list, ANSWER_TIMEOUT)?.elements() {
        element.error()?;
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
