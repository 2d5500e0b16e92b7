//! One of Kafka's partitions as a partition.

use std::{ffi::CString, sync::Arc, time::Duration};

use rdkafka::{Message, consumer::base_consumer::PartitionQueue, error::KafkaError, message::BorrowedMessage};
use ringmill_wire::BatchWriter;

use super::{
    KafkaSpec, MessageFields,
    assignment::{Assigned, Found},
    check_header,
    client::{Reports, is_final, said},
    native::header,
    seat::{Change, Seat, Tenure},
    session::Session,
};
use crate::{
    ConnectError, Fields, Format, Partition, Partitions, Places, Poll, PollContext, Position, Share, Waker,
    formats::{Records, Scratch, Stop, Taken},
    message::{Member, MessageDecoder, Record, Recorder, wait},
    pace::{Pace, Paced},
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
    queue: Option<PartitionQueue<Reports>>,
    waker: Option<Waker>,
    /// where the group says whether it is ours, if it does
    seat: Option<Arc<Seat>>,
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
    /// what is before this offset is consumed, by us or by others of the group
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
    let parts = Parts::new(spec, assigned.len())?;
    let queues = session.assign(&assigned)?;
    let session = Arc::new(session);
    for Assigned { topic, partition, position } in assigned.iter().filter(|assigned| assigned.position.rows > 0) {
        session.commit(topic, *partition, position.offset);
    }
    let open = |(index, (assigned, queue))| {
        let shard = index % shards;
        let mut partition = parts.partition(&session, assigned, wakers.get(shard).cloned(), None);
        partition.read_from(queue);
        (shard, Box::new(partition) as Box<dyn Partition>)
    };
    Ok(assigned.into_iter().zip(queues).enumerate().map(open).collect())
}

/// Joins the group, and deals the partitions that may become ours to the shards.
pub fn open_seats(
    spec: &KafkaSpec,
    mut session: Session,
    found: Vec<Found>,
    shards: usize,
    wakers: &[Waker],
) -> Result<Partitions, ConnectError> {
    let parts = Parts::new(spec, found.len())?;
    let seat = |(index, found): (usize, &Found)| {
        let stands = found.position.as_ref().map_or(0, |position| position.offset);
        let waker = wakers.get(index % shards).cloned();
        Arc::new(Seat::new(found.topic.clone(), found.partition, found.start, stands, waker))
    };
    let seats: Vec<Arc<Seat>> = found.iter().enumerate().map(seat).collect();
    if let Some(group) = &spec.group {
        session.join(group, seats.clone())?;
    }
    let session = Arc::new(session);
    let open = |(index, (found, seat)): (usize, (Found, Arc<Seat>))| {
        let (shard, Found { topic, partition, position, .. }) = (index % shards, found);
        let assigned = Assigned { topic, partition, position: position.unwrap_or_default() };
        let partition = parts.partition(&session, assigned, wakers.get(shard).cloned(), Some(seat));
        (shard, Box::new(partition) as Box<dyn Partition>)
    };
    Ok(found.into_iter().zip(seats).enumerate().map(open).collect())
}

/// What all partitions have in common.
struct Parts {
    options: TextOptions,
    decoder: MessageDecoder,
    lines: Lines,
    stops_at_end: bool,
    share: Option<Share>,
}

impl Parts {
    fn new(spec: &KafkaSpec, partitions: usize) -> Result<Parts, ConnectError> {
        let options = TextOptions {
            format: Format::Json,
            fields: spec.fields.clone(),
            rate: spec.rate.map(|rate| rate / partitions.max(1) as f64),
            record_bytes_max: spec.record_bytes_max,
        };
        options.check()?;
        let members = spec.message_fields.names();
        let decoder = MessageDecoder::new(&spec.format, &options.fields, &members, options.record_bytes_max)?;
        let lines = Lines::new(spec)?;
        Ok(Parts { options, decoder, lines, stops_at_end: spec.stops_at_end, share: spec.noted_share() })
    }

    fn partition(
        &self,
        session: &Arc<Session>,
        assigned: Assigned,
        waker: Option<Waker>,
        seat: Option<Arc<Seat>>,
    ) -> KafkaPartition {
        KafkaPartition {
            name: assigned.name(),
            lines: self.lines.clone(),
            // Kafka's names are made of letters, digits, '.', '_' and '-'.
            native_topic: CString::new(assigned.topic.as_str()).unwrap_or_default(),
            topic: assigned.topic,
            partition: assigned.partition,
            queue: None,
            waker,
            seat,
            session: Arc::clone(session),
            fields: self.options.fields.clone(),
            decoder: self.decoder.clone(),
            scratch: Scratch::default(),
            pace: Pace::new(self.options.rate),
            tagger: None,
            stops_at_end: self.stops_at_end,
            has_ended: false,
            share: self.share.clone(),
            held: None,
            offset: assigned.position.offset,
            rows: assigned.position.rows,
            covered: assigned.position.offset,
        }
    }
}

impl KafkaPartition {
    /// The messages come from here.
    fn read_from(&mut self, mut queue: PartitionQueue<Reports>) {
        // An earlier one would take the new one's callback away when it is dropped.
        self.queue = None;
        if let Some(waker) = self.waker.clone() {
            queue.set_nonempty_callback(move || waker());
        }
        self.queue = Some(queue);
    }

    /// Nothing is read any more. What was not consumed comes again.
    fn stop(&mut self) {
        (self.queue, self.held) = (None, None);
    }

    /// Looks whether it is ours.
    fn attend(&mut self) {
        match self.seat.as_ref().map(|seat| seat.attend(self.offset)) {
            None | Some(Change::Stays) => {}
            Some(Change::Begins(Tenure { queue, offset })) => {
                self.stop();
                self.offset = self.offset.max(offset);
                self.read_from(queue);
            }
            Some(Change::Ends) => self.stop(),
        }
    }
}

impl Paced for KafkaPartition {
    fn pace(&mut self) -> &mut Pace {
        &mut self.pace
    }

    fn rows(&self) -> u64 {
        self.rows
    }

    fn read(
        &mut self,
        out: &mut BatchWriter,
        context: &mut PollContext<'_>,
        wanted: u32,
    ) -> Result<Poll, ConnectError> {
        let now_ns = context.now_ns;
        let Some(queue) = &self.queue else { return Ok(Poll::Idle) };
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
                None => match queue.poll(Duration::ZERO) {
                    None => return Ok(if records.consumed > 0 { Poll::Rows } else { Poll::Idle }),
                    // It was read when the partition was ours before.
                    Some(Ok(next)) if next.offset() < self.offset as i64 => continue,
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
        self.attend();
        self.read_at_pace(out, context)
    }

    fn position(&self) -> Position {
        Position { offset: self.offset, rows: self.rows, share: self.share.clone(), ..Position::default() }
    }

    fn lag(&self) -> Option<u64> {
        self.queue.as_ref()?;
        let high = self.session.high_watermark(&self.native_topic, self.partition)?;
        Some(high.saturating_sub(self.offset))
    }

    fn note_places(&mut self, places: &Arc<Places>, source: &str) {
        self.tagger = Some(Tagger::new(places, source));
    }

    fn drain(&mut self) {
        if let Some(seat) = &self.seat {
            seat.drain(self.offset);
        }
    }

    fn covered(&mut self, position: &Position) {
        // One that is ahead of others is not polled while they have rows, and the group may want it.
        self.attend();
        let tell = || self.session.commit(&self.topic, self.partition, position.offset);
        match &self.seat {
            Some(seat) => seat.cover(position.offset, tell),
            None if position.offset > self.covered => {
                tell();
                self.covered = position.offset;
            }
            None => {}
        }
    }

    fn awaits_last_checkpoint(&self) -> bool {
        self.seat.is_some()
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
        let is_binary = |name: &str| spec.fields.is_binary(name);
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
            (&fields.key, Member::of(message.key(), *is_key_binary)),
            (&fields.partition, Member::Number(message.partition().into())),
            (&fields.offset, Member::Number(message.offset())),
            (&fields.timestamp, message.timestamp().to_millis().map_or(Member::Null, Member::Number)),
        ];
        let members = members.into_iter().filter_map(|(name, member)| Some((name.as_deref()?, member)));
        let of_header = |(name, is_binary): &(CString, bool)| Member::of(header(message, name), *is_binary);
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
