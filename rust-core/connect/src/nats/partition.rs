//! A stream as a partition.

use std::{collections::VecDeque, sync::Arc};

use ringmill_wire::BatchWriter;

use super::{
    NatsSpec, NatsStart,
    durable::Coverage,
    lines::Lines,
    options::refuse,
    queue::{Item, Queue},
    reader::Mark,
    session::Session,
};
use crate::{
    ConnectError, Format, Partition, Partitions, Places, Poll, PollContext, Position, Resume, Waker,
    formats::{Records, Scratch, Stop, Taken},
    message::{MessageDecoder, wait},
    pace::{Pace, Paced},
    places::{Original, Tagger},
    text::TextOptions,
};

/// The stream's messages, in the order of their numbers.
pub struct NatsPartition {
    name: String,
    spec: NatsSpec,
    queue: Arc<Queue>,
    coverage: Arc<Coverage>,
    /// taken from the queue
    items: VecDeque<Item>,
    /// so many of them are messages
    waiting: u64,
    lines: Lines,
    decoder: MessageDecoder,
    scratch: Scratch,
    pace: Pace,
    tagger: Option<Tagger>,
    has_ended: bool,
    /// what is before this number is consumed
    next: u64,
    created_ns: i64,
    /// records consumed
    rows: u64,
}

/// Connects, and begins to read.
pub fn open(spec: &NatsSpec, wakers: &[Waker], resume: Option<&[Resume<'_>]>) -> Result<Partitions, ConnectError> {
    let options = TextOptions {
        format: Format::Json,
        fields: spec.fields.clone(),
        rate: spec.rate,
        record_bytes_max: spec.record_bytes_max,
    };
    options.check()?;
    let members = spec.message_fields.names();
    let decoder = MessageDecoder::new(&spec.format, &options.fields, &members, options.record_bytes_max)?;
    let session = Session::open(spec)?;
    let name = name(spec);
    let (mark, rows) = find(spec, &session, &name, resume)?;
    let queue = Arc::new(Queue::new(wakers.first().cloned()));
    let coverage = Arc::new(Coverage::new(mark.next));
    session.start(mark, &queue, &coverage).map_err(|error| refuse(&spec.servers, error.to_string()))?;
    let partition = NatsPartition {
        name,
        spec: spec.clone(),
        queue,
        coverage,
        items: VecDeque::new(),
        waiting: 0,
        lines: Lines::new(&spec.message_fields, &options.fields, &spec.format)?,
        decoder,
        scratch: Scratch::default(),
        pace: Pace::new(options.rate),
        tagger: None,
        has_ended: false,
        next: mark.next,
        created_ns: mark.created_ns,
        rows,
    };
    Ok(vec![(0, Box::new(partition))])
}

/// The stream, and which of its messages.
fn name(spec: &NatsSpec) -> String {
    if spec.subjects.is_empty() {
        return spec.stream.clone();
    }
    let mut subjects = spec.subjects.clone();
    subjects.sort_unstable();
    format!("{}/{}", spec.stream, subjects.join(","))
}

/// From where reading goes on, and how many records were consumed before.
fn find(
    spec: &NatsSpec,
    session: &Session,
    name: &str,
    resume: Option<&[Resume<'_>]>,
) -> Result<(Mark, u64), ConnectError> {
    let extent = session.extent()?;
    let resume = resume.unwrap_or_default();
    if let Some(other) = resume.iter().find(|earlier| earlier.name != name) {
        return Err(other.refuse(format!("{name} is read now; --fresh begins anew")));
    }
    let is_earliest = spec.start == NatsStart::Earliest;
    let Some(earlier) = resume.first() else {
        let next = session.begin(&extent)?;
        return Ok((Mark { next, created_ns: extent.created_ns, is_beginning: is_earliest }, 0));
    };
    let Position { offset: next, rows, created_ns, .. } = earlier.position()?;
    let created_ns = created_ns.unwrap_or(extent.created_ns);
    let is_beginning = is_earliest && rows == 0;
    let from = if is_beginning { next.max(extent.first) } else { next };
    extent.check(from, created_ns).map_err(|reason| earlier.refuse(reason))?;
    Ok((Mark { next: from, created_ns, is_beginning }, rows))
}

impl NatsPartition {}

impl Paced for NatsPartition {
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
        let NatsSpec { servers, fields, .. } = &self.spec;
        let now_ns = context.now_ns;
        let mut records = Records::new(out, context, &self.name, fields, &mut self.scratch, wanted);
        loop {
            match records.admit() {
                Ok(()) => {}
                Err(Stop::Full) => return Ok(Poll::Full),
                Err(Stop::Budget | Stop::NeedMore) => return Ok(Poll::Rows),
            }
            if self.items.is_empty() {
                self.waiting = self.queue.take(&mut self.items).map_err(|reason| refuse(servers, reason))?;
            }
            let message = match self.items.front() {
                None => return Ok(if records.consumed > 0 { Poll::Rows } else { Poll::Idle }),
                Some(Item::Message(message)) => message,
                Some(Item::Reached(next)) => {
                    self.next = self.next.max(*next);
                    self.items.pop_front();
                    continue;
                }
                Some(Item::End) => {
                    self.has_ended = true;
                    return Ok(Poll::End);
                }
            };
            let sequence = message.sequence;
            records.offset = sequence;
            if let Some(tagger) = &mut self.tagger {
                records.tag = tagger.tag(sequence, sequence + 1, || (self.name.as_str().into(), Original::None));
            }
            match self.decoder.take(self.lines.of(message), &mut records)? {
                Taken::Whole => {}
                Taken::Full => return Ok(Poll::Full),
                Taken::Later => return Ok(wait(&records, now_ns)),
            }
            self.items.pop_front();
            self.waiting -= 1;
            self.next = sequence + 1;
            self.rows += 1;
        }
    }
}

impl Partition for NatsPartition {
    fn name(&self) -> &str {
        &self.name
    }

    fn poll(&mut self, out: &mut BatchWriter, context: &mut PollContext<'_>) -> Result<Poll, ConnectError> {
        if self.has_ended {
            return Ok(Poll::End);
        }
        self.read_at_pace(out, context)
    }

    fn position(&self) -> Position {
        let (offset, created_ns) = (self.next, Some(self.created_ns));
        Position { offset, rows: self.rows, created_ns, ..Position::default() }
    }

    fn lag(&self) -> Option<u64> {
        Some(self.queue.behind()? + self.waiting)
    }

    fn note_places(&mut self, places: &Arc<Places>, source: &str) {
        self.tagger = Some(Tagger::new(places, source));
    }

    fn covered(&mut self, position: &Position) {
        self.coverage.cover(position.offset);
    }
}

impl Drop for NatsPartition {
    fn drop(&mut self) {
        self.queue.end();
    }
}
