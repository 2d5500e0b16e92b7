//! Members of a group in one process, and what their checkpoints cover.

use std::{collections::BTreeMap, sync::Arc};

use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    consumer::{BaseConsumer, CommitMode, Consumer},
};

use super::{
    KafkaGroup, KafkaMembership, KafkaSpec, KafkaStart,
    client::{ANSWER_TIMEOUT, Reports},
    seat::{Change, Seat, Tenure},
    tests::{Kafka, open},
};
use crate::{
    Partitions, Position, Resume, Secret, Share,
    testing::{Letters, batch, poll},
};

fn member(kafka: &Kafka) -> KafkaSpec {
    let option = |name: &str, value: &str| (name.to_owned(), Secret::new(value));
    KafkaSpec {
        stops_at_end: false,
        group: Some(KafkaGroup { name: "mill".to_owned(), membership: Some(KafkaMembership::default()) }),
        // In which the brokers wait for nobody.
        options: vec![option("group.protocol", "consumer")],
        ..kafka.spec(&["t"])
    }
}

/// Polls each partition once.
fn read(spec: &KafkaSpec, partitions: &mut Partitions) {
    let schema = spec.schema().expect("a schema");
    for (_, partition) in partitions {
        let mut batch = batch(&schema, 100, 1 << 12);
        poll(&mut **partition, &mut batch, &mut Letters::default(), 100).expect("it can be read");
    }
    std::thread::yield_now();
}

fn positions(partitions: &Partitions) -> BTreeMap<String, Position> {
    let position =
        |(_, partition): &(usize, Box<dyn crate::Partition>)| (partition.name().to_owned(), partition.position());
    partitions.iter().map(position).collect()
}

fn offsets(partitions: &Partitions) -> Vec<u64> {
    positions(partitions).values().map(|position| position.offset).collect()
}

/// How many are ours and read.
fn held(partitions: &Partitions) -> usize {
    partitions.iter().filter(|(_, partition)| partition.lag().is_some()).count()
}

/// A checkpoint of everything that was read so far is complete.
fn cover(partitions: &mut Partitions) {
    for (_, partition) in partitions {
        let position = partition.position();
        partition.covered(&position);
    }
}

fn consumer(kafka: &Kafka) -> BaseConsumer {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", kafka.cluster.bootstrap_servers()).set("group.id", "mill");
    config.create().expect("a consumer")
}

fn committed(kafka: &Kafka, partition: i32) -> Option<i64> {
    let mut list = TopicPartitionList::new();
    list.add_partition("t", partition);
    let committed = consumer(kafka).committed_offsets(list, ANSWER_TIMEOUT).expect("the brokers answer");
    committed.elements()[0].offset().to_raw().filter(|offset| *offset >= 0)
}

fn resume(positions: &[(String, serde_json::Value)]) -> Vec<Resume<'_>> {
    positions.iter().map(|(name, position)| Resume { name, position, ended: false }).collect()
}

#[test]
fn a_partition_begins_where_the_group_stands_or_the_checkpoint_if_that_is_further_or_else_at_the_start() {
    let kafka = Kafka::with_topic("t", 4);
    for partition in 0..4 {
        kafka.send_numbers("t", partition, 0..100);
    }
    let mut list = TopicPartitionList::new();
    for (partition, offset) in [(0, 60), (1, 20)] {
        list.add_partition_offset("t", partition, Offset::Offset(offset)).expect("an offset");
    }
    consumer(&kafka).commit(&list, CommitMode::Sync).expect("the brokers take it");
    let share = Some(Share { index: 0, of: 0, stream: "mill".to_owned() });
    let position = |name: &str, offset| {
        let position = Position { offset, share: share.clone(), ..Position::default() };
        (name.to_owned(), serde_json::to_value(position).expect("JSON"))
    };
    // Of the third nobody knows, and the last one was not there yet.
    let known = [position("t/0", 30), position("t/1", 70), position("t/2", 0)];
    let spec = KafkaSpec { start: KafkaStart::Latest, ..member(&kafka) };
    let mut partitions = open(&spec, Some(&resume(&known)));
    assert_eq!(offsets(&partitions), [30, 70, 0, 0], "until it is assigned");
    let rows =
        |partitions: &Partitions| positions(partitions).values().map(|position| position.rows).collect::<Vec<_>>();
    // The last one is of a topic of which everything is read.
    while rows(&partitions) != [40, 30, 0, 100] {
        read(&spec, &mut partitions);
    }
    assert_eq!(offsets(&partitions)[0..2], [100, 100]);
    // Where the third begins others are to know, too, although nothing was read of it.
    while committed(&kafka, 2) != Some(100) {
        read(&spec, &mut partitions);
    }
    assert_eq!([committed(&kafka, 0), committed(&kafka, 1)], [Some(60), Some(20)], "no checkpoint covers more");
    let lags: Vec<Option<u64>> = partitions.iter().map(|(_, partition)| partition.lag()).collect();
    assert_eq!(lags, [Some(0); 4]);
}

#[test]
fn a_partition_is_given_up_when_what_was_read_of_it_is_covered_and_goes_on_there() {
    let kafka = Kafka::with_topic("t", 2);
    kafka.send_numbers("t", 0, 0..500);
    kafka.send_numbers("t", 1, 0..500);
    let spec = member(&kafka);
    let mut first = open(&spec, None);
    while offsets(&first) != [500, 500] {
        read(&spec, &mut first);
    }
    let mut second = open(&spec, None);
    // It stops reading at once.
    while held(&first) == 2 {
        read(&spec, &mut first);
        read(&spec, &mut second);
    }
    kafka.send_numbers("t", 0, 500..600);
    kafka.send_numbers("t", 1, 500..600);
    for _ in 0..100 {
        read(&spec, &mut first);
        read(&spec, &mut second);
    }
    assert_eq!(held(&second), 0, "it is not handed over yet");
    while held(&second) == 0 || offsets(&first).iter().chain(&offsets(&second)).sum::<u64>() < 500 + 600 + 600 {
        cover(&mut first);
        read(&spec, &mut first);
        read(&spec, &mut second);
    }
    let rows: Vec<u64> = positions(&second).values().map(|position| position.rows).collect();
    assert_eq!(rows.iter().sum::<u64>(), 100, "{rows:?}: what the first has read does not come again");
    // It ends in good order: the last checkpoint is told before the group takes everything.
    for (_, partition) in &mut first {
        partition.drain();
    }
    cover(&mut first);
    drop(first);
    while held(&second) < 2 {
        read(&spec, &mut second);
    }
    kafka.send_numbers("t", 0, 600..650);
    kafka.send_numbers("t", 1, 600..650);
    while offsets(&second) != [650, 650] {
        read(&spec, &mut second);
    }
    let rows: Vec<u64> = positions(&second).values().map(|position| position.rows).collect();
    assert_eq!(rows.iter().sum::<u64>(), 200, "{rows:?}");
}

#[test]
fn a_partition_that_is_not_polled_is_given_up_when_a_checkpoint_covers_it() {
    let kafka = Kafka::with_topic("t", 2);
    kafka.send_numbers("t", 0, 0..10);
    kafka.send_numbers("t", 1, 0..10);
    let spec = member(&kafka);
    let mut first = open(&spec, None);
    while offsets(&first) != [10, 10] {
        read(&spec, &mut first);
    }
    let mut second = open(&spec, None);
    while held(&second) == 0 {
        cover(&mut first);
        read(&spec, &mut second);
    }
    assert_eq!(held(&first), 1, "it was not taken without having been left");
}

#[test]
fn what_another_group_or_nobody_has_dealt_is_not_gone_on_from() {
    let kafka = Kafka::with_topic("t", 1);
    let refused = |spec: &KafkaSpec, share: Option<Share>| {
        let position = Position { offset: 0, share, ..Position::default() };
        let known = [("t/0".to_owned(), serde_json::to_value(position).expect("JSON"))];
        spec.open(1, &[Arc::new(|| {})], Some(&resume(&known))).map(drop).expect_err("it is refused").to_string()
    };
    let dealt = |stream: &str| Some(Share { index: 0, of: 0, stream: stream.to_owned() });
    for (spec, share, before, now) in [
        (member(&kafka), None, "every partition", "what the group \"mill\" deals"),
        (member(&kafka), dealt("other"), "what the group \"other\" deals", "what the group \"mill\" deals"),
        (kafka.spec(&["t"]), dealt("mill"), "what the group \"mill\" deals", "every partition"),
    ] {
        let error = refused(&spec, share);
        let expected = format!("before, {before} was read, and now it would be {now}; --fresh begins anew");
        assert!(error.contains(&expected), "{error}");
    }
}

#[test]
fn a_seat_is_settled_when_the_brokers_are_to_be_told_of_all_that_was_read() {
    let mut config = ClientConfig::new();
    config.set("group.id", "mill").set("bootstrap.servers", "127.0.0.1:1");
    let consumer: BaseConsumer<Reports> = config.create_with_context(Reports::new("nobody")).expect("a consumer");
    let consumer = Arc::new(consumer);
    let tenure = |offset| Tenure { queue: consumer.split_partition_queue("t", 0).expect("a queue"), offset };
    let seat = || Seat::new("t".to_owned(), 0, KafkaStart::Earliest, 0, None);
    let told = |seat: &Seat, offset| {
        let mut is_told = false;
        seat.cover(offset, || is_told = true);
        is_told
    };
    let held = seat();
    assert!(held.is_settled() && !told(&held, 5), "it is not ours");
    held.offer(tenure(10), 10);
    assert!(matches!(held.attend(0), Change::Begins(Tenure { offset: 10, .. })));
    assert!(matches!(held.attend(10), Change::Stays));
    assert!(!told(&held, 10) && told(&held, 12) && !told(&held, 12) && !told(&held, 11), "only what is news");
    held.recall();
    assert!(!held.is_settled(), "the shard has not come by");
    assert!(matches!(held.attend(15), Change::Ends) && matches!(held.attend(15), Change::Ends));
    assert!(!held.is_settled());
    assert!(told(&held, 15) && held.is_settled());
    held.dismiss();
    assert!(!told(&held, 20), "others say where it stands");
    assert_eq!(held.stands(), 15);

    let untouched = seat();
    untouched.offer(tenure(10), 7);
    untouched.recall();
    assert!(!untouched.is_settled(), "the brokers know less than a checkpoint");
    assert!(told(&untouched, 10) && untouched.is_settled());
    assert!(matches!(untouched.attend(0), Change::Ends), "it was never begun");

    let drained = seat();
    drained.offer(tenure(10), 10);
    drained.drain(12);
    assert!(!drained.is_settled() && told(&drained, 12) && drained.is_settled());
    drained.dismiss();
    drained.offer(tenure(20), 20);
    assert!(matches!(drained.attend(12), Change::Ends), "a run that ends takes nothing up");
    drained.recall();
    assert!(drained.is_settled());
}
