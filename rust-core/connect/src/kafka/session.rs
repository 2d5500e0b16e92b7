//! A consumer, and the partitions that are assigned to it.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::CStr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    config::FromClientConfigAndContext,
    consumer::{BaseConsumer, CommitMode, Consumer, base_consumer::PartitionQueue},
    error::{KafkaError, KafkaResult, RDKafkaErrorCode},
};

use super::{
    KafkaGroup, KafkaMembership, KafkaSpec,
    assignment::Assigned,
    client::{ANSWER_TIMEOUT, Reports, Reserved, configuration, is_fatal, is_final, refuse, said, set_defaults},
    group::Group,
    native,
    seat::Seat,
};
use crate::{ConnectError, lock::lock};

pub const RESERVED: Reserved = &[
    ("group.id", "`group`"),
    ("group.instance.id", "`group_instance_id`"),
    ("auto.offset.reset", "`start`"),
    ("enable.auto.commit", "the checkpoints"),
    ("enable.auto.offset.store", "the checkpoints"),
    ("enable.partition.eof", "`stop_at_end`"),
];

/// Between looks at whether the run is over.
const LISTEN: Duration = Duration::from_millis(100);
/// librdkafka is listened to for so long when something did not work.
const HEAR: Duration = Duration::from_millis(100);
/// An assignment needs a group; to this one nothing is committed.
const NO_GROUP: &str = "ringmill";

/// A member that is not heard of for so long is not waited for, unless an option says otherwise; librdkafka's default.
const POLL_INTERVAL: Duration = Duration::from_secs(300);

/// So much of all partitions together is read ahead (KiB), and of one at least and at most so much.
const READ_AHEAD_KIB: usize = 64 << 10;
const READ_AHEAD_KIB_MIN: usize = 256;
const READ_AHEAD_KIB_MAX: usize = 4 << 10;

/// Further messages are not asked for either when those that wait are smaller than so much on average.
const MESSAGE_BYTES: usize = 256;
const MESSAGES_MAX: usize = 100_000;
/// An answer has so much of a partition at most; a message that is larger comes alone.
const ANSWER_BYTES_MAX: usize = 1 << 20;
/// And so much of all partitions together, as librdkafka would have it if it did not confine that to what is read ahead of
/// one: a million messages of 1.2 KB in 256 partitions, in batches of 64 KB, then took 3.7 instead of 2.4 s.
const WHOLE_ANSWER_BYTES_MAX: usize = 50 << 20;

/// A run that ends waits for the brokers at most so long.
const GOODBYE: Duration = Duration::from_secs(15);

/// Offsets that the brokers are to be told, by topic and partition.
pub type Covered = Mutex<BTreeMap<(String, i32), u64>>;

/// A consumer, and the thread that listens to what it says besides messages.
pub struct Session {
    config: ClientConfig,
    brokers: String,
    consumer: Arc<BaseConsumer<Reports>>,
    commits: bool,
    covered: Arc<Covered>,
    /// from when partitions are assigned
    listener: Option<Listener>,
}

impl Session {
    /// Nothing is connected to before something is asked for.
    pub fn new(spec: &KafkaSpec) -> Result<Session, ConnectError> {
        let brokers = spec.brokers.join(",");
        let mut config = configuration(&brokers, &spec.options, spec.options_file.as_deref(), RESERVED)?;
        config
            .set("group.id", spec.group.as_ref().map_or(NO_GROUP, |group| &group.name))
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("enable.partition.eof", "true")
            .set("auto.offset.reset", "error");
        let defaults = [
            // What was damaged on its way ends the run and is asked for again by the next.
            ("check.crcs", "true"),
            // For so long none of a partition is asked for after so much of it was read ahead (ms).
            ("fetch.queue.backoff.ms", "10"),
            // For so long a broker that has nothing of what it is asked for keeps the question (ms); meanwhile it is not
            // asked for partitions of which enough had been read ahead. With the default of 500, 500,000 messages of 1.2 KB in
            // 128 partitions took 2.2 instead of 1.3 s.
            ("fetch.wait.max.ms", "20"),
        ];
        set_defaults(&mut config, &defaults);
        match spec.membership() {
            Some(membership) => set_membership(&mut config, membership),
            // For so long a run that ends waits for the answer to a commit.
            None => set_defaults(&mut config, &[("session.timeout.ms", "6000")]),
        }
        let (consumer, covered) = (connect(&config, &brokers)?, Arc::default());
        Ok(Session { config, brokers, consumer, commits: spec.group.is_some(), covered, listener: None })
    }

    /// Asks the brokers something.
    pub fn ask<T>(
        &self,
        ask: impl FnOnce(&BaseConsumer<Reports>, Duration) -> KafkaResult<T>,
    ) -> Result<T, ConnectError> {
        ask(&self.consumer, ANSWER_TIMEOUT).map_err(|error| {
            // What is known of the reason waits to be heard.
            let deadline = Instant::now() + HEAR;
            while Instant::now() < deadline {
                let _ = self.consumer.poll(HEAR / 10);
            }
            self.refuse(self.reports().why(&error))
        })
    }

    pub fn refuse(&self, reason: impl Into<String>) -> ConnectError {
        refuse(&self.reports().brokers, reason)
    }

    /// Assigns these partitions; each one's messages come through its own queue from then on, from its position on.
    pub fn assign(&mut self, assigned: &[Assigned]) -> Result<Vec<PartitionQueue<Reports>>, ConnectError> {
        set_read_ahead(&mut self.config, assigned.len());
        self.consumer = connect(&self.config, &self.brokers)?;
        let mut list = TopicPartitionList::with_capacity(assigned.len());
        for Assigned { topic, partition, position } in assigned {
            list.add_partition_offset(topic, *partition, offset(position.offset))
                .map_err(|error| self.refuse(said(&error)))?;
        }
        // A queue that was split off before its partition is assigned gets its messages from the first one on.
        let queues = assigned.iter().map(|Assigned { topic, partition, .. }| {
            let queue = self.consumer.split_partition_queue(topic, *partition);
            queue.ok_or_else(|| self.refuse(format!("partition {partition} of {topic:?} has no queue")))
        });
        let queues = queues.collect::<Result<Vec<_>, _>>()?;
        self.consumer.assign(&list).map_err(|error| self.refuse(said(&error)))?;
        self.listen(None)?;
        Ok(queues)
    }

    /// Joins the group, which deals partitions of these topics to the seats from then on.
    pub fn join(&mut self, group: &KafkaGroup, seats: Vec<Arc<Seat>>) -> Result<(), ConnectError> {
        set_read_ahead(&mut self.config, seats.len());
        self.consumer = connect(&self.config, &self.brokers)?;
        let topics: BTreeSet<String> = seats.iter().map(|seat| seat.topic.clone()).collect();
        let topics: Vec<&str> = topics.iter().map(String::as_str).collect();
        let (consumer, covered) = (Arc::clone(&self.consumer), Arc::clone(&self.covered));
        let poll_interval = self.config.get("max.poll.interval.ms").and_then(|wanted| wanted.parse().ok());
        let poll_interval = poll_interval.map_or(POLL_INTERVAL, Duration::from_millis);
        let group = Group::new(group.name.clone(), consumer, seats, covered, poll_interval);
        self.consumer.subscribe(&topics).map_err(|error| self.refuse(said(&error)))?;
        self.listen(Some(group))
    }

    fn listen(&mut self, group: Option<Group>) -> Result<(), ConnectError> {
        let listener = Listener::start(Arc::clone(&self.consumer), Arc::clone(&self.covered), group);
        self.listener = Some(listener.map_err(|error| self.refuse(error.to_string()))?);
        Ok(())
    }

    /// Why nothing can go on.
    pub fn fault(&self) -> Option<ConnectError> {
        self.reports().fault()
    }

    /// The offset behind a partition's newest message, as its broker said last. Never waits.
    pub fn high_watermark(&self, topic: &CStr, partition: i32) -> Option<u64> {
        native::high_watermark(&self.consumer, topic, partition)
    }

    /// The offset behind what a partition's queue has given out last, messages or not. Never waits.
    pub fn given_out(&self, topic: &CStr, partition: i32) -> Option<u64> {
        native::position(&self.consumer, topic, partition)
    }

    /// Has the brokers told that a checkpoint covers what is before `offset`. Never waits for them.
    pub fn commit(&self, topic: &str, partition: i32, offset: u64) {
        if self.commits {
            lock(&self.covered).insert((topic.to_owned(), partition), offset);
        }
    }

    fn reports(&self) -> &Reports {
        self.consumer.context()
    }
}

fn set_membership(config: &mut ClientConfig, membership: &KafkaMembership) {
    if let Some(instance) = &membership.instance {
        config.set("group.instance.id", instance);
    }
    // With the newer protocol the brokers decide.
    if config.get("group.protocol").is_none_or(|protocol| protocol == "classic") {
        set_defaults(config, &[("partition.assignment.strategy", "cooperative-sticky")]);
    }
}

/// How much is read ahead of a partition follows from how many there are, and cannot be changed later.
fn set_read_ahead(config: &mut ClientConfig, partitions: usize) {
    const READ_AHEAD: &str = "queued.max.messages.kbytes";
    let number = |config: &ClientConfig, name| config.get(name).and_then(|wanted| wanted.parse::<usize>().ok());
    let share = (READ_AHEAD_KIB / partitions.max(1)).clamp(READ_AHEAD_KIB_MIN, READ_AHEAD_KIB_MAX);
    set_defaults(config, &[(READ_AHEAD, &share.to_string())]);
    let bytes = number(config, READ_AHEAD).unwrap_or(share).saturating_mul(1024);
    // Only values count there; besides them librdkafka keeps some 300 bytes for each message.
    let messages = (bytes / MESSAGE_BYTES).clamp(1, MESSAGES_MAX);
    set_defaults(config, &[("queued.min.messages", &messages.to_string())]);
    if config.get("max.partition.fetch.bytes").is_none() {
        let answer = (bytes / 2).min(ANSWER_BYTES_MAX);
        set_defaults(config, &[("fetch.message.max.bytes", &answer.to_string())]);
    }
    // What may be received bounds it, too, and a message has to fit.
    if config.get("receive.message.max.bytes").is_none() {
        let answer = WHOLE_ANSWER_BYTES_MAX.max(number(config, "message.max.bytes").unwrap_or(0));
        set_defaults(config, &[("fetch.max.bytes", &answer.to_string())]);
    }
}

fn connect(config: &ClientConfig, brokers: &str) -> Result<Arc<BaseConsumer<Reports>>, ConnectError> {
    let consumer = BaseConsumer::from_config_and_context(config, Reports::new(brokers));
    consumer.map(Arc::new).map_err(|error| refuse(brokers, error.to_string()))
}

/// Serves the consumer's own queue, and tells the brokers what checkpoints cover, until it is dropped.
struct Listener {
    consumer: Arc<BaseConsumer<Reports>>,
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Listener {
    fn start(
        consumer: Arc<BaseConsumer<Reports>>,
        covered: Arc<Covered>,
        mut group: Option<Group>,
    ) -> std::io::Result<Listener> {
        let is_over = Arc::new(AtomicBool::new(false));
        let over = Arc::clone(&is_over);
        let owned = Arc::clone(&consumer);
        let listen = move || {
            let mut is_committed = true;
            while !over.load(Ordering::Acquire) {
                match consumer.poll(LISTEN) {
                    Some(Err(error)) if is_fatal(&error) => consumer.context().fail(consumer.context().why(&error)),
                    Some(Err(error)) if is_final(&error) => consumer.context().fail(said(&error)),
                    // It would be lost to its partition.
                    Some(Ok(_)) => consumer.context().fail("a message came through the wrong queue".to_owned()),
                    Some(Err(_)) | None => {}
                }
                let committed = commit(&consumer, &covered);
                let is_news = |error: &&KafkaError| is_committed && !is_between(error);
                if let Some(error) = committed.as_ref().err().filter(is_news) {
                    let brokers = &consumer.context().brokers;
                    tracing::warn!("Kafka at {brokers}: progress is not committed: {}; it is tried again", said(error));
                }
                is_committed = committed.as_ref().err().is_none_or(is_between);
                if let Some(group) = &mut group
                    && let Err(error) = group.attend(&committed)
                {
                    consumer.context().fail(said(&error));
                }
            }
            if let Some(group) = group {
                group.leave();
            }
            // Where the consumer is dropped it would be waited for without an end.
            if consumer.close_queue().is_ok() {
                while !consumer.closed() {
                    consumer.poll(LISTEN);
                }
            }
        };
        let thread = thread::Builder::new().name("kafka".to_owned()).spawn(listen)?;
        Ok(Listener { consumer: owned, is_over, thread: Some(thread) })
    }
}

/// Whether a commit came while the group was dealing anew, as happens each time.
fn is_between(error: &KafkaError) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(error.rdkafka_error_code(), Some(Code::RebalanceInProgress | Code::IllegalGeneration))
}

/// As librdkafka has it.
pub fn offset(at: u64) -> Offset {
    Offset::Offset(i64::try_from(at).unwrap_or(i64::MAX))
}

/// Tells the brokers what they were not told yet, and waits for their answer; without one it is tried again.
pub fn commit(consumer: &BaseConsumer<Reports>, covered: &Covered) -> KafkaResult<()> {
    let offsets = std::mem::take(&mut *lock(covered));
    if offsets.is_empty() {
        return Ok(());
    }
    let mut list = TopicPartitionList::with_capacity(offsets.len());
    let added = offsets
        .iter()
        .try_for_each(|((topic, partition), at)| list.add_partition_offset(topic, *partition, offset(*at)));
    let committed = added.and_then(|()| consumer.commit(&list, CommitMode::Sync));
    if committed.is_err() {
        let mut covered = lock(covered);
        for (partition, offset) in offsets {
            // Unless there is a newer one by now.
            covered.entry(partition).or_insert(offset);
        }
    }
    committed
}

impl Drop for Listener {
    /// What librdkafka tells the brokers last it tries for as long as a session lasts, be it hours: a run ends without it.
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Release);
        let Some(thread) = self.thread.take() else { return };
        let deadline = Instant::now() + GOODBYE;
        while !thread.is_finished() && Instant::now() < deadline {
            thread::sleep(LISTEN / 10);
        }
        if thread.is_finished() {
            let _ = thread.join();
            return;
        }
        let brokers = &self.consumer.context().brokers;
        tracing::warn!(
            "Kafka at {brokers}: they were not told in time that this run ends, and may not know what it has read"
        );
        // Whoever drops the last reference would wait.
        std::mem::forget(Arc::clone(&self.consumer));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is set for so many partitions beside these options.
    fn reading_ahead(partitions: usize, options: &[(&str, &str)]) -> ClientConfig {
        let mut config = ClientConfig::new();
        for (name, value) in options {
            config.set(*name, *value);
        }
        set_read_ahead(&mut config, partitions);
        config
    }

    #[test]
    fn what_is_read_ahead_is_bounded_by_bytes_and_by_messages_unless_an_option_says_otherwise() {
        let set = |partitions, options: &[(&str, &str)]| {
            let config = reading_ahead(partitions, options);
            let names =
                ["queued.max.messages.kbytes", "queued.min.messages", "fetch.message.max.bytes", "fetch.max.bytes"];
            names.map(|name| config.get(name).map(|value| value.parse::<usize>().expect("a number")))
        };
        const WHOLE: Option<usize> = Some(50 << 20);
        assert_eq!(set(1, &[]), [Some(4096), Some(16_384), Some(1 << 20), WHOLE]);
        assert_eq!(set(128, &[]), [Some(512), Some(2_048), Some(256 << 10), WHOLE]);
        assert_eq!(set(10_000, &[]), [Some(256), Some(1_024), Some(128 << 10), WHOLE]);
        let more = set(128, &[("queued.max.messages.kbytes", "65536")]);
        assert_eq!(more, [Some(65_536), Some(100_000), Some(1 << 20), WHOLE]);
        let wanted = [("queued.min.messages", "7"), ("max.partition.fetch.bytes", "9")];
        assert_eq!(set(128, &wanted), [Some(512), Some(7), None, WHOLE]);
        assert_eq!(set(1, &[("fetch.message.max.bytes", "9")])[2], Some(9));
        assert_eq!(set(1, &[("fetch.max.bytes", "2000000")])[3], Some(2_000_000));
        assert_eq!(set(1, &[("receive.message.max.bytes", "2000000")])[3], None);
        assert_eq!(set(1, &[("message.max.bytes", "60000000")])[3], Some(60_000_000));
    }

    #[test]
    fn librdkafka_takes_what_is_read_ahead_with_the_options_that_bound_it() {
        for options in [
            &[][..],
            &[("message.max.bytes", "60000000")],
            &[("receive.message.max.bytes", "2000000")],
            &[("fetch.max.bytes", "2000000")],
            &[("queued.max.messages.kbytes", "65536")],
        ] {
            let consumer: KafkaResult<BaseConsumer> = reading_ahead(128, options).set("group.id", NO_GROUP).create();
            assert!(consumer.is_ok(), "{options:?}: {:?}", consumer.err());
        }
    }
}
