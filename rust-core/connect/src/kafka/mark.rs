//! The mark of an epoch: what a transaction leaves at the brokers beside its rows, and what the next run reads there.
//!
//! It is the offset of the topic's first partition in a group of consumers to which nobody belongs. It is committed within the
//! transaction, so it is there exactly if the rows are. The offset is the epoch's number, for people; what counts is the text
//! beside it, the key of the rows. Before the first epoch it is `NAME/0`.

use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer, ConsumerGroupMetadata},
    error::{KafkaError, KafkaResult},
};

use super::{
    client::{ANSWER_TIMEOUT, Reports},
    native,
    session::offset,
};

const PARTITION: i32 = 0;

/// Where the marks of a sink are.
pub struct Marks {
    topic: String,
    group: ConsumerGroupMetadata,
}

/// The group of a `transactional.id`; nobody else commits there.
fn group_of(transactional_id: &str) -> String {
    format!("{transactional_id}-epochs")
}

impl Marks {
    /// Asks the brokers for the newest mark; `None`: there is none. Those of a transaction whose end is not decided yet are
    /// waited for.
    pub fn read(
        mut config: ClientConfig,
        brokers: &str,
        topic: &str,
        transactional_id: &str,
    ) -> KafkaResult<(Marks, Option<String>)> {
        config
            .set("group.id", group_of(transactional_id))
            .set("enable.auto.commit", "false")
            .set("isolation.level", "read_committed")
            // What of `options` is for producers would be warned of.
            .set("log_level", "3");
        let consumer: BaseConsumer<Reports> =
            rdkafka::config::FromClientConfigAndContext::from_config_and_context(&config, Reports::new(brokers))?;
        let mut list = TopicPartitionList::with_capacity(1);
        list.add_partition(topic, PARTITION);
        let list = consumer.committed_offsets(list, ANSWER_TIMEOUT)?;
        let elements = list.elements();
        let found = elements.first().ok_or(KafkaError::Canceled)?;
        found.error()?;
        let is_there = matches!(found.offset(), Offset::Offset(_));
        let newest = is_there.then(|| String::from_utf8_lossy(native::note(&list)).into_owned());
        let group = consumer.group_metadata().ok_or(KafkaError::Canceled)?;
        Ok((Marks { topic: topic.to_owned(), group }, newest))
    }

    /// The group that a mark goes to.
    pub fn group(&self) -> &ConsumerGroupMetadata {
        &self.group
    }

    /// The mark of the rows with this key.
    pub fn of(&self, key: &str) -> KafkaResult<TopicPartitionList> {
        let mut list = TopicPartitionList::with_capacity(1);
        let mut element = list.add_partition(&self.topic, PARTITION);
        element.set_offset(offset(epoch_of(key)))?;
        element.set_metadata(key);
        Ok(list)
    }
}

/// The number of the epoch in a key, which is `NAME/EPOCH-CHECKSUM`.
fn epoch_of(key: &str) -> u64 {
    let epoch = key.rsplit_once('/').and_then(|(_, rest)| rest.split('-').next()?.parse().ok());
    epoch.unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_says_to_people_which_epoch_it_is_of() {
        for (key, epoch) in [("ringmill-1.2-3/7-00ff00ff", 7), ("a/b/12-1", 12), ("a/b", 0), ("", 0), ("7", 0)] {
            assert_eq!(epoch_of(key), epoch, "{key:?}");
        }
    }
}
