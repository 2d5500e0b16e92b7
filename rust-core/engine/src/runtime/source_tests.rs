//! When a source whose partitions have something keeps its shard awake.

use std::sync::Arc;

use ringmill_connect::{ConnectError, Partition, Poll, PollContext, Position};
use ringmill_wire::{BatchWriter, Capacity, DataType, Field, HeapBatch, Schema, Template, TimeUnit};

use super::*;
use crate::metrics::StageHistograms;

use crate::runtime::snapshot::{BarrierRequest, ShardSnapshot};

/// A partition that polls to what it is told to, and always has something that was not heard yet.
struct Full(VecDeque<Poll>);

impl Partition for Full {
    fn name(&self) -> &str {
        "0"
    }

    fn poll(&mut self, out: &mut BatchWriter, _: &mut PollContext<'_>) -> Result<Poll, ConnectError> {
        let poll = self.0.pop_front().unwrap_or(Poll::Idle);
        if poll == Poll::Rows {
            out.push(0, 7_i64);
            out.finish_row();
        }
        Ok(poll)
    }

    fn position(&self) -> Position {
        Position::default()
    }

    fn seek(&mut self, _: &Position) -> Result<(), ConnectError> {
        Ok(())
    }

    fn arm_sleep(&mut self) -> bool {
        false
    }
}

/// A partition whose rows have these times, in seconds, or none; nothing follows them.
struct Dated(VecDeque<Option<i64>>);

impl Partition for Dated {
    fn name(&self) -> &str {
        "0"
    }

    fn poll(&mut self, out: &mut BatchWriter, _: &mut PollContext<'_>) -> Result<Poll, ConnectError> {
        let Some(time) = self.0.pop_front() else { return Ok(Poll::Idle) };
        match time {
            Some(time) => out.push_timestamp(0, time),
            None => out.push_null(0),
        }
        out.finish_row();
        Ok(Poll::Rows)
    }

    fn position(&self) -> Position {
        Position::default()
    }

    fn seek(&mut self, _: &Position) -> Result<(), ConnectError> {
        Ok(())
    }
}

fn source(polls: &[Poll]) -> SourceOperator {
    let schema = Arc::new(Schema::new(vec![Field::new("number", DataType::Int64)]).unwrap());
    let template = Template::new(schema, Capacity { rows_max: 8, variable_bytes_max: 0 }).unwrap();
    let time =
        SourceTime { column: None, out_of_orderness_ns: 0, idle_timeout_ns: None, max_future_ns: 0, is_needed: false };
    let dead = DeadLetterBatch::new("source").unwrap();
    let partition = Full(polls.iter().copied().collect());
    SourceOperator::new("source".into(), 0, vec![Box::new(partition)], time, HeapBatch::new(Arc::new(template)), dead)
}

fn context<'a>(
    now_ns: u64,
    wake_ns: &'a mut u64,
    snapshot: &'a mut ShardSnapshot,
    histograms: &'a mut StageHistograms,
) -> ShardContext<'a> {
    ShardContext {
        histograms,
        now_ns,
        wake_ns,
        draining: false,
        has_checkpoints: true,
        barrier: BarrierRequest::default(),
        shipped_epoch: 0,
        snapshot,
    }
}

/// One round; says whether anything moved, and when the source wants to be asked again.
fn advance(source: &mut SourceOperator) -> (bool, u64) {
    let (mut wake_ns, mut snapshot, mut histograms) = (u64::MAX, ShardSnapshot::default(), StageHistograms::default());
    let mut context = context(monotonic_ns(), &mut wake_ns, &mut snapshot, &mut histograms);
    let moved = source.advance(&mut context).unwrap();
    (moved, wake_ns)
}

#[test]
fn what_would_not_be_taken_lets_the_shard_sleep() {
    let later_ns = monotonic_ns() + 3_600_000_000_000;
    let mut paced = source(&[Poll::Until(later_ns)]);
    assert_eq!(advance(&mut paced), (false, later_ns));
    assert!(paced.arm_sleep(), "nothing is due before that");

    let mut held = source(&[Poll::Idle, Poll::Rows]);
    assert_eq!(advance(&mut held), (false, u64::MAX));
    assert!(!held.arm_sleep(), "it would be taken");
    assert!(advance(&mut held).0);
    assert!(!advance(&mut held).0);
    assert!(held.arm_sleep(), "its rows are not passed on yet");
}

#[test]
fn a_partition_that_was_not_watched_and_has_nothing_now_is_looked_after_before_the_shard_sleeps() {
    let mut source = source(&[]);
    source.partitions[0].not_before_ns = u64::MAX;
    assert!(!advance(&mut source).0);
    assert!(source.arm_sleep());
    source.partitions[0].not_before_ns = 0;
    let (_, wake_ns) = advance(&mut source);
    assert!(wake_ns <= monotonic_ns(), "at once");
    source.disarm_sleep();
    assert_eq!(advance(&mut source).1, u64::MAX);
}

#[test]
fn a_partition_whose_rows_tell_no_time_is_as_good_as_silent() {
    let watermark_s = |rows: &[Option<i64>]| {
        let time_type = DataType::Timestamp(TimeUnit::Second);
        let schema = Arc::new(Schema::new(vec![Field::nullable("time", time_type)]).unwrap());
        let template = Template::new(schema, Capacity { rows_max: 8, variable_bytes_max: 0 }).unwrap();
        let time = SourceTime {
            column: Some((0, TimeUnit::Second)),
            out_of_orderness_ns: 0,
            idle_timeout_ns: Some(1_000_000),
            max_future_ns: 0,
            is_needed: true,
        };
        let dead = DeadLetterBatch::new("source").unwrap();
        let partitions: Vec<Box<dyn Partition>> =
            vec![Box::new(Dated(rows.iter().copied().collect())), Box::new(Dated(VecDeque::new()))];
        let batch = HeapBatch::new(Arc::new(template));
        let mut source = SourceOperator::new("source".into(), 0, partitions, time, batch, dead);
        // The other one stands at 9 s and is never silent, and this one has told no time for long.
        let now_ns = monotonic_ns();
        (source.partitions[0].last_time_ns, source.partitions[1].last_time_ns) = (0, u64::MAX);
        source.partitions[1].newest_ns = 9_000_000_000;
        let (mut wake_ns, mut snapshot, mut histograms) =
            (u64::MAX, ShardSnapshot::default(), StageHistograms::default());
        let mut context = context(now_ns, &mut wake_ns, &mut snapshot, &mut histograms);
        assert_eq!(source.poll(0, None, &mut context).unwrap(), (1, false));
        source.cut_into_pieces(0, &context);
        source.refresh_mark(now_ns, &mut context);
        source.mark.watermark_ns / 1_000_000_000
    };
    assert_eq!(watermark_s(&[None]), 9);
    assert_eq!(watermark_s(&[Some(5)]), 5, "one with a time counts");
}
