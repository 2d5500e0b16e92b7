//! One of Kafka's partitions as a partition.

use std::{ffi::CString, sync::Arc, time::Duration};

use rdkafka::{Message, consumer::base_consumer::PartitionQueue, error::KafkaError, message::BorrowedMessage};
use ringmill_wire::{BatchWriter, DataType};

use super::{
    KafkaShare, KafkaSpec, MessageFields,
    assignment::Assigned,
    check_header,
    client::{Reports, is_final, said},
    native::header,
    session::Session,
};
use crate::{
    ConnectError, Fields, Format, Partition, Partitions, Places, Poll, PollContext, Position, Share, Waker,
    formats::{Records, Scratch, Stop, Taken},
    message::{Member, MessageDecoder, Record, Recorder, wait},
    pace::{Admission, Pace},
    places::{Original, Tagger},
    text::TextOptions,
};

/// A partition's messages, in the order of their offsets.
pub struct KafkaPartition {
    name: String,
    topic: String,
    /// the same for librdkafka
    native_topic: CString,
    partition: i32,
    /// dropped before the session
    queue: PartitionQueue<Reports>,
    session: Arc<Session>,
    fields: Fields,
    lines: Lines,
    decoder: MessageDecoder,
    scratch: Scratch,
    pace: Pace,
    tagger: Option<Tagger>,
    stops_at_end: bool,
    has_ended: bool,
    /// of all partitions
    share: Option<Share>,
    /// a message that did not fit into the last batch, or cannot be read yet
    held: Option<Held>,
    /// what is before this offset is consumed
    offset: u64,
    /// records consumed
    rows: u64,
    /// what the brokers are told
    covered: u64,
}

struct Held {
    offset: u64,
    header: Vec<u8>,
    content: Vec<u8>,
}

/// Assigns the partitions and deals them to the shards.
pub fn open(
    spec: &KafkaSpec,
    mut session: Session,
    assigned: Vec<Assigned>,
    shards: usize,
    wakers: &[Waker],
) -> Result<Partitions, ConnectError> {
    let options = TextOptions {
        format: Format::Json,
        fields: spec.fields.clone(),
        rate: spec.rate.map(|rate| rate / assigned.len().max(1) as f64),
        record_bytes_max: spec.record_bytes_max,
    };
    options.check()?;
    let members = spec.message_fields.names();
    let decoder = MessageDecoder::new(&spec.format, &options.fields, &members, options.record_bytes_max)?;
    let queues = session.assign(&assigned)?;
    let session = Arc::new(session);
    for Assigned { topic, partition, position } in assigned.iter().filter(|assigned| assigned.position.rows > 0) {
        session.commit(topic, *partition, position.offset);
    }
    let lines = Lines::new(spec)?;
    let open = |(index, (assigned, mut queue)): (usize, (Assigned, PartitionQueue<Reports>))| {
        let shard = index % shards;
        if let Some(waker) = wakers.get(shard).cloned() {
            queue.set_nonempty_callback(move || waker());
        }
        let partition = KafkaPartition {
            name: assigned.name(),
            lines: lines.clone(),
            // Kafka's names are made of letters, digits, '.', '_' and '-'.
            native_topic: CString::new(assigned.topic.as_str()).unwrap_or_default(),
            topic: assigned.topic,
            partition: assigned.partition,
            queue,
            session: Arc::clone(&session),
            fields: options.fields.clone(),
            decoder: decoder.clone(),
            scratch: Scratch::default(),
            pace: Pace::new(options.rate),
            tagger: None,
            stops_at_end: spec.stops_at_end,
            has_ended: false,
            share: spec.share.map(KafkaShare::noted),
            held: None,
            offset: assigned.position.offset,
            rows: assigned.position.rows,
            covered: assigned.position.offset,
        };
        (shard, Box::new(partition) as Box<dyn Partition>)
    };
    Ok(assigned.into_iter().zip(queues).enumerate().map(open).collect())
}

impl KafkaPartition {
    fn read(
        &mut self,
        out: &mut BatchWriter,
        context: &mut PollContext<'_>,
        wanted: u32,
    ) -> Result<Poll, ConnectError> {
        let now_ns = context.now_ns;
        let mut records = Records::new(out, context, &self.name, &self.fields, &mut self.scratch, wanted);
        loop {
            match records.admit() {
                Ok(()) => {}
                Err(Stop::Full) => return Ok(Poll::Full),
                Err(Stop::Budget | Stop::NeedMore) => return Ok(Poll::Rows),
            }
            let (held, message);
            let (offset, record) = match self.held.take() {
                Some(earlier) => {
                    held = earlier;
                    (held.offset, Some(Record { header: &held.header, content: &held.content }))
                }
                None => match self.queue.poll(Duration::ZERO) {
                    None => return Ok(if records.consumed > 0 { Poll::Rows } else { Poll::Idle }),
                    Some(Ok(next)) => {
                        message = next;
                        (message.offset().max(0) as u64, self.lines.of(&self.topic, &message))
                    }
                    Some(Err(KafkaError::PartitionEOF(_))) => {
                        // Marks that end transactions may stand behind the last message.
                        let given_out = self.session.given_out(&self.native_topic, self.partition);
                        self.offset = self.offset.max(given_out.unwrap_or(0));
                        if self.stops_at_end {
                            self.has_ended = true;
                            return Ok(Poll::End);
                        }
                        continue;
                    }
                    Some(Err(error)) if is_final(&error) => {
                        return Err(self.session.refuse(format!("{}: {}", self.name, said(&error))));
                    }
                    Some(Err(_)) => continue,
                },
            };
            records.offset = offset;
            if let Some(tagger) = &mut self.tagger {
                records.tag = tagger.tag(offset, offset + 1, || (self.name.as_str().into(), Original::None));
            }
            let taken = self.decoder.take(record, &mut records)?;
            if taken != Taken::Whole {
                let hold = |Record { header, content }: Record<'_>| (header.to_vec(), content.to_vec());
                self.held = record.map(hold).map(|(header, content)| Held { offset, header, content });
                return Ok(if taken == Taken::Full { Poll::Full } else { wait(&records, now_ns) });
            }
            self.offset = offset + 1;
            self.rows += 1;
        }
    }
}

impl Partition for KafkaPartition {
    fn name(&self) -> &str {
        &self.name
    }

    fn poll(&mut self, out: &mut BatchWriter, context: &mut PollContext<'_>) -> Result<Poll, ConnectError> {
        if self.has_ended {
            return Ok(Poll::End);
        }
        if let Some(fault) = self.session.fault() {
            return Err(fault);
        }
        let wanted = match self.pace.admit(context.now_ns, u64::from(context.rows_max)) {
            Admission::Rows(due) => due as u32,
            Admission::Until(time_ns) => return Ok(Poll::Until(time_ns)),
        };
        let before = self.rows;
        let poll = self.read(out, context, wanted)?;
        self.pace.consumed(self.rows - before);
        Ok(poll)
    }

    fn position(&self) -> Position {
        Position { offset: self.offset, rows: self.rows, share: self.share.clone(), ..Position::default() }
    }

    fn lag(&self) -> Option<u64> {
        let high = self.session.high_watermark(&self.native_topic, self.partition)?;
        Some(high.saturating_sub(self.offset))
    }

    fn note_places(&mut self, places: &Arc<Places>, source: &str) {
        self.tagger = Some(Tagger::new(places, source));
    }

    fn covered(&mut self, position: &Position) {
        if position.offset > self.covered {
            self.covered = position.offset;
            self.session.commit(&self.topic, self.partition, position.offset);
        }
    }
}

/// Makes records of messages.
#[derive(Clone)]
struct Lines {
    fields: MessageFields,
    /// the key's column is binary
    is_key_binary: bool,
    /// the headers' names, and whether their columns are binary
    headers: Vec<(CString, bool)>,
    /// the header that says an event's type
    type_header: Option<CString>,
    recorder: Recorder,
}

impl Lines {
    fn new(spec: &KafkaSpec) -> Result<Lines, ConnectError> {
        let fields = spec.message_fields.clone();
        let is_binary = |name: &str| {
            let mut named = spec.fields.declared().filter(|field| field.name == name);
            named.any(|field| field.data_type == DataType::Binary)
        };
        let headers = fields.headers.iter().map(|header| {
            let name = check_header("header_fields", &header.header)?;
            Ok((name, is_binary(&header.field)))
        });
        let type_header = spec.fields.types().and_then(|types| types.header());
        Ok(Lines {
            is_key_binary: fields.key.as_deref().is_some_and(is_binary),
            headers: headers.collect::<Result<_, ConnectError>>()?,
            type_header: type_header.map(|header| check_header("type.header", header)).transpose()?,
            recorder: Recorder::new(&spec.format, !fields.names().is_empty()),
            fields,
        })
    }

    /// The message as a record; `None`: there is nothing in it.
    fn of<'a>(&'a mut self, topic: &'a str, message: &'a BorrowedMessage<'_>) -> Option<Record<'a>> {
        let Lines { fields, is_key_binary, headers, type_header, recorder } = self;
        let members = [
            (&fields.topic, Member::Text(topic.as_bytes())),
            (&fields.key, bytes(message.key(), *is_key_binary)),
            (&fields.partition, Member::Number(message.partition().into())),
            (&fields.offset, Member::Number(message.offset())),
            (&fields.timestamp, message.timestamp().to_millis().map_or(Member::Null, Member::Number)),
        ];
        let members = members.into_iter().filter_map(|(name, member)| Some((name.as_deref()?, member)));
        let of_header = |(name, is_binary): &(CString, bool)| bytes(header(message, name), *is_binary);
        let headers = fields.headers.iter().zip(headers.iter());
        let members = members.chain(headers.map(|(header, known)| (header.field.as_str(), of_header(known))));
        // One without a payload says that its key is gone: whatever the format, it is no record.
        let record = recorder.record(message.payload()?, members)?;
        Some(match type_header {
            Some(name) => Record { header: header(message, name).unwrap_or_default(), ..record },
            None => record,
        })
    }
}

fn bytes(value: Option<&[u8]>, is_binary: bool) -> Member<'_> {
    match value {
        None => Member::Null,
        Some(value) if is_binary => Member::Bytes(value),
        Some(value) => Member::Text(value),
    }
}
