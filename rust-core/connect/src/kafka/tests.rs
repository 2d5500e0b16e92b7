//! Real connections to brokers of librdkafka's own, which keep topics in memory.

use std::{
    io::{Read, Write},
    net::TcpStream,
    sync::Arc,
    time::Duration,
};

use rdkafka::{
    ClientConfig,
    message::{Header, OwnedHeaders},
    mocking::MockCluster,
    producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer},
};

use super::{KafkaShare, KafkaSpec, KafkaStart, MessageFields};
use crate::{
    Format, HeaderField, Partition, Partitions, Position, Resume, Secret,
    testing::{Letter, Letters, batch, fields, poll, read_all},
};

/// Brokers, and somebody who writes to them.
pub struct Kafka {
    pub cluster: MockCluster<'static, DefaultProducerContext>,
    producer: BaseProducer,
}

impl Kafka {
    pub fn with_topic(topic: &str, partitions: i32) -> Kafka {
        let cluster = MockCluster::new(1).expect("librdkafka has brokers");
        cluster.create_topic(topic, partitions, 1).expect("a topic");
        let producer = ClientConfig::new()
            .set("bootstrap.servers", cluster.bootstrap_servers())
            .set("linger.ms", "1")
            .create()
            .expect("a producer");
        Kafka { cluster, producer }
    }

    /// Writes values, or tombstones, to a partition, and waits until the brokers have them.
    fn send<'a>(&self, topic: &str, partition: i32, values: impl IntoIterator<Item = Option<&'a [u8]>>) {
        for (index, value) in values.into_iter().enumerate() {
            let mut record = BaseRecord::<[u8], [u8]>::to(topic).partition(partition);
            record.payload = value;
            record.timestamp = Some(1_000 * (index as i64 + 1));
            let key = format!("k{index}");
            self.hand_over(record.key(key.as_bytes()));
        }
        self.producer.flush(Duration::from_secs(20)).expect("the brokers take it");
    }

    fn hand_over(&self, mut record: BaseRecord<'_, [u8], [u8]>) {
        while let Err((_, back)) = self.producer.send(record) {
            record = back;
            self.producer.poll(Duration::from_millis(1));
        }
    }

    /// Appends a batch of one record as no producer of librdkafka's would write it, and waits until the broker has it.
    fn append(&self, topic: &str, partition: i32, attributes: u16, record: &[u8]) {
        let mut rest = [attributes.to_be_bytes().as_slice(), &[0; 4 + 8 + 8], &1_u64.to_be_bytes(), &[0; 2]].concat();
        rest.extend_from_slice(&[[0xff; 4], 1_u32.to_be_bytes()].concat());
        rest.extend_from_slice(record);
        let mut batch = vec![0; 8];
        batch.extend_from_slice(&(4 + 1 + 4 + rest.len() as u32).to_be_bytes());
        batch.extend_from_slice(&[0, 0, 0, 0, 2]);
        batch.extend_from_slice(&crc32c::crc32c(&rest).to_be_bytes());
        batch.append(&mut rest);
        let produce = [0, 0, 0, 7, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0x27, 0x10, 0, 0, 0, 1];
        let mut request = produce.to_vec();
        request.extend_from_slice(&(topic.len() as u16).to_be_bytes());
        request.extend_from_slice(topic.as_bytes());
        for number in [1, partition, batch.len() as i32] {
            request.extend_from_slice(&number.to_be_bytes());
        }
        request.append(&mut batch);
        let mut broker = TcpStream::connect(self.cluster.bootstrap_servers()).expect("a broker");
        broker.write_all(&(request.len() as u32).to_be_bytes()).expect("it listens");
        broker.write_all(&request).expect("it listens");
        // Its length, which request it answers, one topic with its name, one partition with its number, and the error.
        let mut answer = vec![0; 4 + 4 + 4 + 2 + topic.len() + 4 + 4 + 2];
        broker.read_exact(&mut answer).expect("an answer");
        assert_eq!(answer[answer.len() - 2..], [0, 0], "{answer:?}");
    }

    /// Ends a transaction.
    fn mark(&self, topic: &str, partition: i32) {
        const CONTROL: u16 = 0x30;
        // A key of version 0 and type 1, commit; a value of version 0 and epoch 0.
        self.append(topic, partition, CONTROL, &[32, 0, 0, 0, 8, 0, 0, 0, 1, 12, 0, 0, 0, 0, 0, 0, 0]);
    }

    pub fn send_numbers(&self, topic: &str, partition: i32, numbers: std::ops::Range<u64>) {
        let values: Vec<String> = numbers.map(|number| format!("{{\"a\":{number}}}")).collect();
        self.send(topic, partition, values.iter().map(|value| Some(value.as_bytes())));
    }

    pub fn spec(&self, topics: &[&str]) -> KafkaSpec {
        KafkaSpec {
            brokers: vec![self.cluster.bootstrap_servers()],
            topics: topics.iter().map(|topic| (*topic).to_owned()).collect(),
            partitions: Vec::new(),
            share: None,
            start: KafkaStart::Earliest,
            stops_at_end: true,
            group: None,
            options: Vec::new(),
            options_file: None,
            message_fields: MessageFields::default(),
            format: crate::MessageFormat::Json,
            fields: fields(&["a:uint64"]).into(),
            rate: None,
            record_bytes_max: 1 << 20,
        }
    }
}

/// Reads a partition to its end, in batches of so many rows: the rows as NDJSON, and the dead letters.
fn read(spec: &KafkaSpec, partition: &mut dyn Partition, rows_max: u32) -> (String, Vec<Letter>) {
    read_all(partition, &spec.schema().expect("a schema"), Format::Json, rows_max).expect("it can be read")
}

pub fn open(spec: &KafkaSpec, resume: Option<&[Resume<'_>]>) -> Partitions {
    let waker: crate::Waker = Arc::new(|| {});
    spec.open(2, &[Arc::clone(&waker), waker], resume).unwrap_or_else(|error| panic!("{error}"))
}

fn numbers(rows: &str) -> Vec<u64> {
    let number = |row: &str| row.trim_start_matches("{\"a\":").trim_end_matches('}').parse().expect("a number");
    rows.lines().map(number).collect()
}

#[test]
fn every_message_is_a_row_or_a_dead_letter_and_keeps_its_offset() {
    let kafka = Kafka::with_topic("t", 1);
    let long = format!("{{\"a\":1,\"x\":\"{}\"}}", "x".repeat(2_000));
    let values: [Option<&[u8]>; 9] = [
        Some(b"{\"a\":1}"),
        Some(b"\n {\"a\":\n 2}\n\n"),
        None,
        Some(b""),
        Some(b" \n"),
        Some(b"\xff\x00"),
        Some(long.as_bytes()),
        Some(b"{\"a\":3}{\"a\":4}"),
        Some(b"{\"a\":5}"),
    ];
    kafka.send("t", 0, values);
    let spec = KafkaSpec { record_bytes_max: 1_000, ..kafka.spec(&["t"]) };
    let mut partitions = open(&spec, None);
    let (rows, letters) = read(&spec, &mut *partitions[0].1, 100);
    assert_eq!(numbers(&rows), [1, 2, 5]);
    let told: Vec<(u64, &str)> = letters.iter().map(|letter| (letter.offset, letter.reason.as_str())).collect();
    assert_eq!(told[..3], [2, 3, 4].map(|offset| (offset, "the message is empty")));
    assert_eq!(told[3..].iter().map(|(offset, _)| *offset).collect::<Vec<_>>(), [5, 6, 7]);
    assert!(told[4].1.starts_with("the record is longer than"), "{}", told[4].1);
    assert_eq!(letters[4].record.len(), 1_000);
    assert_eq!((partitions[0].1.name(), partitions[0].1.position().offset), ("t/0", 9));
    assert_eq!(partitions[0].1.position().rows, 9);
}

#[test]
fn batches_end_anywhere_and_a_checkpoint_is_gone_on_from_exactly() {
    let kafka = Kafka::with_topic("t", 3);
    for partition in 0..3 {
        kafka.send_numbers("t", partition, 0..1_000);
    }
    let spec = kafka.spec(&["t"]);
    let mut partitions = open(&spec, None);
    assert_eq!(partitions.iter().map(|(shard, _)| *shard).collect::<Vec<_>>(), [0, 1, 0]);
    let schema = spec.schema().expect("a schema");
    let mut positions = Vec::new();
    for (index, (_, partition)) in partitions.iter_mut().enumerate() {
        let wanted = 100 + 77 * index as u64;
        while partition.position().rows < wanted {
            let mut batch = batch(&schema, 1 + index as u32, 1 << 12);
            poll(&mut **partition, &mut batch, &mut Letters::default(), 10).expect("it can be read");
        }
        positions.push((partition.name().to_owned(), serde_json::to_value(partition.position()).expect("JSON")));
    }
    drop(partitions);
    let resume: Vec<Resume<'_>> =
        positions.iter().map(|(name, position)| Resume { name, position, ended: false }).collect();
    let mut partitions = open(&spec, Some(&resume));
    for ((_, partition), (_, position)) in partitions.iter_mut().zip(&positions) {
        let (rows, letters) = read(&spec, &mut **partition, 7);
        assert!(numbers(&rows).into_iter().eq(position["offset"].as_u64().expect("an offset")..1_000));
        assert!(letters.is_empty());
        assert_eq!(partition.position().rows, 1_000);
    }
}

#[test]
fn no_message_is_lost_between_the_assignment_and_the_first_poll() {
    let kafka = Kafka::with_topic("t", 4);
    for partition in 0..4 {
        kafka.send_numbers("t", partition, 0..50);
    }
    let spec = kafka.spec(&["t"]);
    for _ in 0..50 {
        for (_, partition) in &mut open(&spec, None) {
            let (rows, _) = read(&spec, &mut **partition, 100);
            assert!(numbers(&rows).into_iter().eq(0..50));
        }
    }
}

#[test]
fn a_partition_begins_where_it_is_asked_to() {
    let kafka = Kafka::with_topic("t", 2);
    kafka.send_numbers("t", 0, 0..10);
    kafka.send_numbers("t", 1, 0..10);
    let begins = |start, resume: Option<&[Resume<'_>]>| -> Vec<u64> {
        let spec = KafkaSpec { start, ..kafka.spec(&["t"]) };
        open(&spec, resume).iter().map(|(_, partition)| partition.position().offset).collect()
    };
    assert_eq!(begins(KafkaStart::Earliest, None), [0, 0]);
    assert_eq!(begins(KafkaStart::Latest, None), [10, 10]);
    assert_eq!(begins(KafkaStart::Timestamp(i64::MAX / 2), None), [10, 10]);
    let position = serde_json::to_value(Position { offset: 4, rows: 4, ..Position::default() }).expect("JSON");
    let resume = [Resume { name: "t/1", position: &position, ended: false }];
    assert_eq!(begins(KafkaStart::Latest, Some(&resume)), [0, 4], "a partition that is new is read from its beginning");
    let spec = KafkaSpec { partitions: vec![1], ..kafka.spec(&["[st]"]) };
    let names: Vec<String> = open(&spec, None).iter().map(|(_, partition)| partition.name().to_owned()).collect();
    assert_eq!(names, ["t/1"]);
}

#[test]
fn shares_have_every_partition_once() {
    let kafka = Kafka::with_topic("t", 5);
    let share = |index, count| KafkaSpec { share: Some(KafkaShare { index, count }), ..kafka.spec(&["t"]) };
    let names = |spec: &KafkaSpec| -> Vec<String> {
        open(spec, None).iter().map(|(_, partition)| partition.name().to_owned()).collect()
    };
    assert_eq!(names(&share(0, 3)), ["t/0", "t/3"]);
    assert_eq!(names(&share(1, 3)), ["t/1", "t/4"]);
    assert_eq!(names(&share(2, 3)), ["t/2"]);
    assert_eq!(names(&KafkaSpec { partitions: vec![0, 1], ..share(1, 3) }), ["t/1"]);
    let error = share(5, 6).open(1, &[Arc::new(|| {})], None).map(drop).expect_err("it would read nothing").to_string();
    assert!(error.ends_with("no partition is in share 5 of 6: there are too few"), "{error}");
    let position = serde_json::to_value(open(&share(1, 5), None)[0].1.position()).expect("JSON");
    let resume = [Resume { name: "t/1", position: &position, ended: false }];
    assert_eq!(open(&share(1, 5), Some(&resume)).len(), 1);
    for (other, now) in [(share(1, 3), "share 1 of 3"), (kafka.spec(&["t"]), "every partition")] {
        let error =
            other.open(1, &[Arc::new(|| {})], Some(&resume)).map(drop).expect_err("others read t/4").to_string();
        assert!(error.contains(&format!("before, share 1 of 5 was read, and now it would be {now}")), "{error}");
    }
    let error = share(0, 3).open(1, &[Arc::new(|| {})], Some(&resume)).map(drop).expect_err("another's").to_string();
    assert!(error.contains("it is not among the topics and partitions that are there and asked for"), "{error}");
}

#[test]
fn what_stands_beside_a_message_comes_into_its_fields() {
    let kafka = Kafka::with_topic("t", 2);
    kafka.send("t", 1, [Some(b"{\"a\":1,\"topic\":\"mine\"}".as_slice()), Some(b"{ }")]);
    let name = |name: &str| Some(name.to_owned());
    let message_fields = MessageFields {
        topic: name("topic"),
        key: name("key"),
        partition: name("partition"),
        offset: name("offset"),
        timestamp: name("time"),
        headers: Vec::new(),
    };
    let columns = ["a:int64?", "topic:utf8", "key:utf8", "partition:int32", "offset:int64", "time:timestamp[ms]"]
        .map(str::to_owned);
    let spec = KafkaSpec {
        message_fields,
        fields: fields(&columns.each_ref().map(String::as_str)).into(),
        ..kafka.spec(&["t"])
    };
    let mut partitions = open(&spec, None);
    let (rows, letters) = read(&spec, &mut *partitions[1].1, 100);
    assert!(letters.is_empty());
    let expected = "{\"a\":1,\"topic\":\"t\",\"key\":\"k0\",\"partition\":1,\"offset\":0,\"time\":\"1970-01-01T00:00:01.000Z\"}\n\
                    {\"a\":null,\"topic\":\"t\",\"key\":\"k1\",\"partition\":1,\"offset\":1,\"time\":\"1970-01-01T00:00:02.000Z\"}\n";
    assert_eq!(rows, expected);
}

#[test]
fn a_field_takes_the_last_header_of_its_name_whatever_others_there_are() {
    let kafka = Kafka::with_topic("t", 1);
    let headers = |headers: &[(&str, Option<&[u8]>)]| {
        let headers = headers.iter().map(|(key, value)| Header { key, value: *value });
        Some(headers.fold(OwnedHeaders::new(), OwnedHeaders::insert))
    };
    let messages = [
        None,
        headers(&[("other", Some(b"x"))]),
        headers(&[("id", Some(b"1")), ("id", Some(b"2"))]),
        headers(&[("id", None)]),
        headers(&[("id", Some(b"")), ("Id", Some(b"no"))]),
        headers(&[("raw", Some(b"\xff\x00"))]),
        headers(&[("id", Some(b"\xff"))]),
    ];
    for headers in messages {
        let mut record = BaseRecord::<[u8], [u8]>::to("t").partition(0).payload(b"{}");
        record.headers = headers;
        kafka.hand_over(record);
    }
    kafka.producer.flush(Duration::from_secs(20)).expect("the brokers take it");
    let field = |field: &str, header: &str| HeaderField { field: field.to_owned(), header: header.to_owned() };
    let message_fields =
        MessageFields { headers: vec![field("id", "id"), field("raw", "raw")], ..MessageFields::default() };
    let fields = fields(&["id:utf8?", "raw:binary?"]);
    let spec = KafkaSpec { message_fields, fields: fields.into(), ..kafka.spec(&["t"]) };
    let (rows, letters) = read(&spec, &mut *open(&spec, None)[0].1, 100);
    let ids = ["null", "null", "\"2\"", "null", "\"\""].map(|id| format!("{{\"id\":{id},\"raw\":null}}\n"));
    assert_eq!(rows, ids.concat() + "{\"id\":null,\"raw\":\"/wA=\"}\n");
    assert_eq!(letters.iter().map(|letter| letter.offset).collect::<Vec<_>>(), [6], "what is no text is no utf8");
    let name = MessageFields { headers: vec![field("id", "a\0b")], ..MessageFields::default() };
    let error = KafkaSpec { message_fields: name, ..spec }.open(1, &[Arc::new(|| {})], None).map(drop).unwrap_err();
    assert_eq!(error.to_string(), "header_fields is \"a\\0b\", but a header's name has no zero byte");
}

#[test]
fn how_far_a_partition_is_behind_is_known_as_soon_as_its_broker_has_answered() {
    let kafka = Kafka::with_topic("t", 2);
    kafka.send_numbers("t", 0, 0..100);
    let spec = KafkaSpec { stops_at_end: true, ..kafka.spec(&["t"]) };
    let mut partitions = open(&spec, None);
    let schema = spec.schema().expect("a schema");
    let partition = &mut partitions[0].1;
    let mut read_rows = 0;
    while read_rows < 40 {
        let mut batch = batch(&schema, 10, 1 << 12);
        poll(&mut **partition, &mut batch, &mut Letters::default(), 10).expect("it can be read");
        read_rows = partition.position().rows;
        let expected = (read_rows > 0).then_some(100 - read_rows);
        assert!(expected.is_none() || partition.lag() == expected, "{:?} after {read_rows}", partition.lag());
    }
    read(&spec, &mut **partition, 100);
    assert_eq!(partition.lag(), Some(0));
    read(&spec, &mut *partitions[1].1, 100);
    assert_eq!(partitions[1].1.lag(), Some(0), "one in which there never was anything is not behind");
}

#[test]
fn the_marks_of_transactions_are_passed_and_leave_nothing_behind() {
    let kafka = Kafka::with_topic("t", 2);
    kafka.send_numbers("t", 0, 0..3);
    kafka.mark("t", 0);
    kafka.mark("t", 0);
    kafka.mark("t", 1);
    let spec = kafka.spec(&["t"]);
    let mut partitions = open(&spec, None);
    let mut positions = Vec::new();
    for ((_, partition), (rows, offset)) in partitions.iter_mut().zip([(3, 5), (0, 1)]) {
        assert_eq!(numbers(&read(&spec, &mut **partition, 100).0).len(), rows);
        assert_eq!((partition.position().offset, partition.lag()), (offset, Some(0)));
        positions.push((partition.name().to_owned(), serde_json::to_value(partition.position()).expect("JSON")));
    }
    drop(partitions);
    kafka.send_numbers("t", 0, 3..5);
    let resume: Vec<Resume<'_>> =
        positions.iter().map(|(name, position)| Resume { name, position, ended: false }).collect();
    let mut partitions = open(&spec, Some(&resume));
    assert_eq!(numbers(&read(&spec, &mut *partitions[0].1, 1).0), [3, 4]);
    assert_eq!((partitions[0].1.position().rows, partitions[0].1.lag()), (5, Some(0)));
}

#[test]
fn headers_with_names_that_are_no_text_do_no_harm() {
    let kafka = Kafka::with_topic("t", 1);
    // Without a key, {} as value, and four headers: \xff\xfe = a, id = 7, one without a name, \xff without a value.
    let record = b"\x28\x00\x00\x00\x01\x04{}\x08\x04\xff\xfe\x02a\x04id\x027\x00\x02b\x02\xff\x01";
    let mut record = record.to_vec();
    record[0] = 2 * (record.len() as u8 - 1);
    kafka.append("t", 0, 0, &record);
    let id = HeaderField { field: "id".to_owned(), header: "id".to_owned() };
    let nothing = HeaderField { field: "none".to_owned(), header: String::new() };
    let message_fields = MessageFields { headers: vec![id, nothing], ..MessageFields::default() };
    let fields = fields(&["id:utf8", "none:binary"]);
    let spec = KafkaSpec { message_fields, fields: fields.into(), ..kafka.spec(&["t"]) };
    let (rows, letters) = read(&spec, &mut *open(&spec, None)[0].1, 100);
    assert_eq!((rows.as_str(), letters.len()), ("{\"id\":\"7\",\"none\":\"Yg==\"}\n", 0));
}

#[test]
fn what_cannot_be_gone_on_from_is_refused() {
    let kafka = Kafka::with_topic("t", 1);
    kafka.send_numbers("t", 0, 0..10);
    let refused = |spec: &KafkaSpec, name: &str, offset: u64| {
        let position = serde_json::to_value(Position { offset, ..Position::default() }).expect("JSON");
        let resume = [Resume { name, position: &position, ended: false }];
        spec.open(1, &[Arc::new(|| {})], Some(&resume)).map(drop).expect_err("it is refused").to_string()
    };
    let spec = kafka.spec(&["t"]);
    assert!(refused(&spec, "t/0", 11).contains("it stands at offset 11, and the topic ends at 10 now"));
    assert!(refused(&spec, "t/1", 0).contains("it is not among the topics and partitions"));
    // These brokers keep 5 MiB.
    let value = format!("{{\"a\":7,\"x\":\"{}\"}}", "x".repeat(500_000));
    kafka.send("t", 0, (0..15).map(|_| Some(value.as_bytes())));
    let error = refused(&spec, "t/0", 1);
    assert!(error.contains("messages 1 to ") && error.contains("are gone"), "{error}");
}

#[test]
fn what_is_not_there_or_not_understood_is_refused() {
    let kafka = Kafka::with_topic("t", 1);
    let refused =
        |spec: KafkaSpec| spec.open(1, &[Arc::new(|| {})], None).map(drop).expect_err("it is refused").to_string();
    assert!(refused(kafka.spec(&["u"])).contains("there is no topic \"u\""));
    assert!(refused(kafka.spec(&["u*"])).contains("there is no topic \"u*\""));
    assert!(refused(kafka.spec(&["t["])).contains("not a valid pattern"));
    assert!(refused(KafkaSpec { partitions: vec![3], ..kafka.spec(&["t"]) }).contains("has no partition 3; it has 1"));
    let option = |name: &str, value: &str| {
        let reason = KafkaSpec::check_option(name, &Secret::new(value)).expect_err("it is refused");
        assert!(!reason.contains(value), "{reason}");
        reason
    };
    assert_eq!(option("sasl.pasword", "hunter2"), "librdkafka has no property \"sasl.pasword\"");
    assert_eq!(option("security.protocol", "tsl"), "librdkafka takes no such value for \"security.protocol\"");
    assert_eq!(option("group.id", "mine"), "\"group.id\" follows from `group`");
    for (name, value) in
        [("security.protocol", "sasl_ssl"), ("sasl.mechanism", "SCRAM-SHA-256"), ("compression.type", "zstd")]
    {
        KafkaSpec::check_option(name, &Secret::new(value)).unwrap_or_else(|reason| panic!("{reason}"));
    }
}
