//! The ends of a test graph: partitions whose rows follow from their name and index, and sinks that take rows as they
//! please and remember which epoch each belonged to.

use std::sync::{Arc, Mutex};

use ringmill_connect::{ConnectError, DeadLetter, Encoder, Format, Partition, Poll, PollContext, Position, encoder};
use ringmill_wire::{BatchWriter, DataType, Field, Schema, TimeUnit};

use crate::error::EngineError;
use crate::metrics::NodeCounts;
use crate::random::Random;
use crate::runtime::operator::{Delivery, InputMarks, Mark, Offer, Operator, ShardContext};

/// Milliseconds by which rows may come out of order and are not late.
pub const OUT_OF_ORDER_MS: i64 = 50;

pub fn schema() -> Arc<Schema> {
    let fields = vec![
        Field::new("t", DataType::Timestamp(TimeUnit::Millisecond)),
        Field::new("k", DataType::Int64),
        Field::new("x", DataType::Int64),
    ];
    Arc::new(Schema::new(fields).unwrap())
}

/// Record `index` of the partition `number`: time, key, value; `None`: it does not parse.
pub fn record(number: u64, index: u64, jitter_ms: i64) -> Option<[i64; 3]> {
    let mut random = Random(number << 32 | index);
    let late = random.below(jitter_ms as u64) as i64;
    let key = random.below(7) as i64;
    (!random.one_in(11)).then(|| [1_000_000 + index as i64 * 10 - late, key, (number << 32 | index) as i64])
}

/// One partition.
pub struct TestPartition {
    pub name: String,
    pub number: u64,
    pub next: u64,
    pub records: u64,
    pub jitter_ms: i64,
    pub random: Random,
}

impl Partition for TestPartition {
    fn name(&self) -> &str {
        &self.name
    }

    fn poll(&mut self, out: &mut BatchWriter, context: &mut PollContext<'_>) -> Result<Poll, ConnectError> {
        if self.random.one_in(4) {
            return Ok(Poll::Idle);
        }
        let rows_max = self.random.below(40).min(u64::from(context.rows_max));
        for _ in 0..rows_max {
            if self.next == self.records {
                return Ok(Poll::End);
            }
            match record(self.number, self.next, self.jitter_ms) {
                Some([t, k, x]) => {
                    out.push_timestamp(0, t);
                    out.push(1, k);
                    out.push(2, x);
                    out.finish_row();
                }
                None if !context.dead.has_room() => return Ok(Poll::Rows),
                None => {
                    let (partition, offset) = (self.name.as_str(), self.next);
                    context.dead.push(&DeadLetter {
                        partition,
                        offset,
                        reason: "unlucky",
                        record: b"?",
                        header: None,
                        attempts: None,
                    });
                }
            }
            self.next += 1;
        }
        Ok(Poll::Rows)
    }

    fn position(&self) -> Position {
        Position { offset: self.next, rows: self.next, ..Position::default() }
    }

    fn seek(&mut self, position: &Position) -> Result<(), ConnectError> {
        self.next = position.offset;
        Ok(())
    }
}

/// What a sink has got: the epoch and the row as JSON.
pub type Log = Arc<Mutex<Vec<(u64, String)>>>;

/// Takes as many rows as its dice say, and passes a barrier when they say so.
pub struct TestSink {
    encoder: Box<dyn Encoder>,
    log: Log,
    inputs: InputMarks,
    mark: Mark,
    epoch: u64,
    rows: u64,
    random: Random,
    /// One in so many chances is refused; 0: none.
    refuses: u64,
}

impl TestSink {
    pub fn new(schema: &Schema, log: &Log, inputs: usize, random: Random, refuses: u64) -> Self {
        let encoder = encoder(Format::Json, schema).unwrap();
        let inputs = InputMarks::new(inputs);
        Self { encoder, log: log.clone(), inputs, mark: Mark::START, epoch: 0, rows: 0, random, refuses }
    }

    fn refuses(&mut self) -> bool {
        self.refuses > 0 && self.random.one_in(self.refuses)
    }
}

impl Operator for TestSink {
    fn advance(&mut self, _: &mut ShardContext<'_>) -> Result<bool, EngineError> {
        if self.mark.barrier == self.epoch || self.refuses() {
            return Ok(false);
        }
        self.epoch = self.mark.barrier;
        Ok(true)
    }

    fn accept(&mut self, input: usize, delivery: Delivery<'_>, _: &mut ShardContext<'_>) -> Result<usize, EngineError> {
        if self.mark.barrier > self.epoch || self.inputs.is_blocked(input) || self.refuses() {
            return Ok(0);
        }
        let room = if self.refuses > 0 { self.random.below(30) as usize } else { usize::MAX };
        let taken = delivery.remaining().min(room);
        for row in delivery.first..delivery.first + taken {
            let mut line = Vec::new();
            self.encoder.encode(&delivery.view, row..row + 1, &mut line);
            self.log.lock().unwrap().push((self.epoch + 1, String::from_utf8(line).unwrap()));
        }
        self.rows += taken as u64;
        Ok(taken)
    }

    fn mark(&mut self, input: usize, mark: Mark, _: &mut ShardContext<'_>) -> Result<(), EngineError> {
        self.mark = self.inputs.update(input, mark);
        Ok(())
    }

    fn offer(&self, _: usize) -> Option<Offer<'_>> {
        None
    }

    fn delivered(&mut self, _: usize, _: &mut ShardContext<'_>) -> Result<(), EngineError> {
        Ok(())
    }

    fn is_finished(&self) -> bool {
        self.mark.end && self.mark.barrier == self.epoch
    }

    fn epoch_passed(&self) -> u64 {
        self.epoch
    }

    fn is_aligning(&self) -> bool {
        self.inputs.is_aligning()
    }

    fn restored(&mut self, epoch: u64) -> Result<(), EngineError> {
        (self.mark.barrier, self.epoch) = (epoch, epoch);
        self.inputs.restored(epoch);
        Ok(())
    }

    fn counts(&self, counts: &mut NodeCounts) {
        (counts.rows_in, counts.rows_out) = (self.rows, self.rows);
    }
}
