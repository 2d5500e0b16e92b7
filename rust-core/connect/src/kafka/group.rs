//! A member of a group: answers what the group deals, on the thread that listens to the consumer.
//!
//! A partition that is given begins at the offset that the brokers know of it, or further on where we know better. One that is
//! taken away is recalled from its shard, and given up when a checkpoint covers what was read of it and the brokers were
//! told, so that the next member goes on exactly there; or after a while, or at once if it is lost already, and then the
//! next one reads again what was not covered. With the cooperative protocol all other partitions are read on meanwhile.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer, RebalanceProtocol},
    error::{KafkaError, KafkaResult, RDKafkaErrorCode},
};

use super::{
    assignment::{beginning, name},
    client::{ANSWER_TIMEOUT, Dealt, Reports, give_back, said},
    seat::{Seat, Tenure},
    session::{Covered, commit, offset},
};
use crate::lock::lock;

/// What was read of a partition that is taken away has so long to be covered. Checkpoints are seconds apart.
const HANDOVER: Duration = Duration::from_secs(60);
/// The brokers are told what the last checkpoint covers for so long.
const FAREWELL: Duration = Duration::from_secs(10);
/// Between looks, when the run is over.
const LISTEN: Duration = Duration::from_millis(20);

pub struct Group {
    name: String,
    consumer: Arc<BaseConsumer<Reports>>,
    seats: BTreeMap<(String, i32), Arc<Seat>>,
    /// what the brokers are to be told
    covered: Arc<Covered>,
    /// what is being answered, and since when
    answering: Option<(Dealt, Instant)>,
    /// a partition is given up after so long at the latest
    handover: Duration,
    /// it was said that the brokers did not say where partitions stand
    is_unanswered: bool,
    /// the brokers have refused what they were told: the group has gone on without us
    is_left_behind: bool,
}

impl Group {
    /// `poll_interval`: after so long without an answer the group goes on without us.
    pub fn new(
        name: String,
        consumer: Arc<BaseConsumer<Reports>>,
        seats: Vec<Arc<Seat>>,
        covered: Arc<Covered>,
        poll_interval: Duration,
    ) -> Group {
        let key = |seat: Arc<Seat>| ((seat.topic.clone(), seat.partition), seat);
        let seats = seats.into_iter().map(key).collect();
        let handover = HANDOVER.min(poll_interval / 2);
        Group { name, consumer, seats, covered, answering: None, handover, is_unanswered: false, is_left_behind: false }
    }

    /// Does what can be done now; to be called again and again, after the brokers were told what is covered.
    pub fn attend(&mut self, told: &KafkaResult<()>) -> KafkaResult<()> {
        self.is_left_behind = told.as_ref().is_err_and(is_refused);
        loop {
            let Some((dealt, since)) = self.answering.take().or_else(|| self.hear()) else { return Ok(()) };
            let is_answered = match &dealt {
                Dealt::Given(partitions) => self.take_up(partitions)?,
                Dealt::Taken(partitions) => self.give_up(partitions, since)?,
            };
            if !is_answered {
                self.answering = Some((dealt, since));
                return Ok(());
            }
        }
    }

    /// The run is over: tells the brokers what the last checkpoint covers, and answers whatever is asked still.
    pub fn leave(mut self) {
        let deadline = Instant::now() + FAREWELL;
        loop {
            let committed = commit(&self.consumer, &self.covered);
            if committed.is_ok() {
                break;
            }
            if let Err(error) = &committed
                && (Instant::now() > deadline || error.rdkafka_error_code() == Some(RDKafkaErrorCode::UnknownMemberId))
            {
                let (brokers, name) = (&self.consumer.context().brokers, &self.name);
                let error = said(error);
                tracing::warn!(
                    "Kafka at {brokers}: group {name:?} does not know what the last checkpoint covers: {error}; \
                     other members will read it again"
                );
                break;
            }
            self.consumer.poll(LISTEN);
            if self.attend(&committed).is_err() {
                break;
            }
        }
        let reports = self.consumer.context();
        reports.leave();
        let asked = self.answering.take().map(|(dealt, _)| dealt).into_iter();
        for dealt in asked.chain(std::iter::from_fn(|| reports.next_dealt())) {
            let (Dealt::Given(partitions) | Dealt::Taken(partitions)) = dealt;
            // What it says of one that leaves is of no use.
            let _ = give_back(&self.consumer, &partitions);
        }
    }

    /// What is to be answered next.
    fn hear(&mut self) -> Option<(Dealt, Instant)> {
        let dealt = self.consumer.context().next_dealt()?;
        // It was, of what was said before this.
        self.is_left_behind = false;
        if let Dealt::Taken(partitions) = &dealt {
            self.log("takes", partitions);
            self.of(partitions).for_each(Seat::recall);
        }
        Some((dealt, Instant::now()))
    }

    /// Partitions that are given begin; `false`: the brokers did not say where they stand.
    fn take_up(&mut self, given: &TopicPartitionList) -> KafkaResult<bool> {
        let mut known = TopicPartitionList::new();
        for element in given.elements() {
            let (topic, partition) = (element.topic(), element.partition());
            match self.seats.contains_key(&(topic.to_owned(), partition)) {
                true => drop(known.add_partition(topic, partition)),
                false => tracing::warn!(
                    "Kafka at {}: group {:?} gives partition {}, which was not there at the start; it is read after the \
                     next start",
                    self.consumer.context().brokers,
                    self.name,
                    name(topic, partition)
                ),
            }
        }
        // Of one that is lost already nobody needs to know where it stands, and it is taken next.
        if self.consumer.assignment_lost() {
            known = TopicPartitionList::new();
        }
        let begins = match self.begins(known) {
            Ok(begins) => begins,
            Err(error) => {
                if !std::mem::replace(&mut self.is_unanswered, true) {
                    let brokers = &self.consumer.context().brokers;
                    tracing::warn!(
                        "Kafka at {brokers}: where partitions of group {:?} stand is not known: {}; it is asked again",
                        self.name,
                        said(&error)
                    );
                }
                return Ok(false);
            }
        };
        self.is_unanswered = false;
        let mut assigned = TopicPartitionList::with_capacity(begins.len());
        let mut tenures = Vec::with_capacity(begins.len());
        for Begin { seat, at, told } in begins {
            assigned.add_partition_offset(&seat.topic, seat.partition, offset(at))?;
            // Before it is assigned, so that its messages come through this queue from the first one on.
            if let Some(queue) = self.consumer.split_partition_queue(&seat.topic, seat.partition) {
                tenures.push((seat, Tenure { queue, offset: at }, told));
            }
        }
        match self.consumer.rebalance_protocol() {
            RebalanceProtocol::Cooperative => self.consumer.incremental_assign(&assigned)?,
            RebalanceProtocol::Eager | RebalanceProtocol::None => self.consumer.assign(&assigned)?,
        }
        self.log("gives", &assigned);
        for (seat, tenure, told) in tenures {
            seat.offer(tenure, told);
        }
        Ok(true)
    }

    /// Where partitions begin: where the brokers know that they stand, or further on where we know better. If nobody
    /// knows, the brokers are to be told at once, so that the next one begins there, too.
    fn begins(&self, partitions: TopicPartitionList) -> KafkaResult<Vec<Begin>> {
        if partitions.count() == 0 {
            return Ok(Vec::new());
        }
        let committed = self.consumer.committed_offsets(partitions, ANSWER_TIMEOUT)?;
        let mut begins = Vec::with_capacity(committed.count());
        for element in committed.elements() {
            element.error()?;
            let Some(seat) = self.seats.get(&(element.topic().to_owned(), element.partition())) else { continue };
            let known = match element.offset() {
                Offset::Offset(at) => Some(at.max(0) as u64),
                _ => None,
            };
            let (at, told) = match (known, seat.stands()) {
                (None, 0) => {
                    let at = beginning(&self.consumer, seat.start, &seat.topic, seat.partition)?;
                    lock(&self.covered).insert((seat.topic.clone(), seat.partition), at);
                    (at, at)
                }
                (known, stands) => (stands.max(known.unwrap_or(0)), known.unwrap_or(0)),
            };
            begins.push(Begin { seat: Arc::clone(seat), at, told });
        }
        Ok(begins)
    }

    /// Gives partitions up that are taken away; `false`: not yet.
    fn give_up(&self, taken: &TopicPartitionList, since: Instant) -> KafkaResult<bool> {
        let is_lost = self.is_left_behind || self.consumer.assignment_lost();
        let are_told = || {
            let covered = lock(&self.covered);
            self.of(taken).all(|seat| !covered.contains_key(&(seat.topic.clone(), seat.partition)))
        };
        // Settled first: what a shard adds to `covered` it has added by then.
        let is_due = is_lost || (self.of(taken).all(Seat::is_settled) && are_told());
        if !is_due {
            if since.elapsed() < self.handover {
                return Ok(false);
            }
            self.warn("no checkpoint has covered in time what was read of them", taken);
        }
        self.of(taken).for_each(Seat::dismiss);
        let mut covered = lock(&self.covered);
        for seat in self.of(taken) {
            // Others say from now on where it stands.
            covered.remove(&(seat.topic.clone(), seat.partition));
        }
        drop(covered);
        if is_lost {
            self.warn("the group has gone on without this member, of which it had not heard in time", taken);
        }
        give_back(&self.consumer, taken)?;
        Ok(true)
    }

    fn of<'a>(&'a self, partitions: &TopicPartitionList) -> impl Iterator<Item = &'a Seat> {
        let keys: Vec<(String, i32)> =
            partitions.elements().iter().map(|at| (at.topic().to_owned(), at.partition())).collect();
        keys.into_iter().filter_map(|key| self.seats.get(&key).map(Arc::as_ref))
    }

    fn log(&self, verb: &str, partitions: &TopicPartitionList) {
        if partitions.count() > 0 {
            let brokers = &self.consumer.context().brokers;
            tracing::info!("Kafka at {brokers}: group {:?} {verb} {}", self.name, names(partitions));
        }
    }

    fn warn(&self, why: &str, partitions: &TopicPartitionList) {
        let brokers = &self.consumer.context().brokers;
        tracing::warn!(
            "Kafka at {brokers}: other members of group {:?} may read rows again of {}: {why}",
            self.name,
            names(partitions)
        );
    }
}

/// Whether the brokers take nothing more from a member like this one, as a group that waits for it still would.
fn is_refused(error: &KafkaError) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(error.rdkafka_error_code(), Some(Code::UnknownMemberId | Code::IllegalGeneration | Code::FencedInstanceId))
}

/// A partition that begins.
struct Begin {
    seat: Arc<Seat>,
    at: u64,
    /// what the brokers know, or are about to be told
    told: u64,
}

fn names(partitions: &TopicPartitionList) -> String {
    let elements = partitions.elements();
    let names: Vec<String> = elements.iter().map(|element| name(element.topic(), element.partition())).collect();
    names.join(", ")
}
