//! What workers say: batches answered, pieces of snapshots, readiness, and that they have died.

use ringmill_ring::{Completion, CompletionKind, monotonic_ns};

use super::{Outcome, UdfOperator};
use crate::error::EngineError;
use crate::metrics::Stage;
use crate::runtime::operator::ShardContext;

impl UdfOperator {
    /// Hears every worker; says whether there was anything.
    pub(super) fn take_completions(&mut self, context: &mut ShardContext<'_>) -> Result<bool, EngineError> {
        let mut taken = false;
        for index in 0..self.workers.len() {
            let death = self.workers[index].take_death(context.now_ns);
            taken |= self.poll_worker(index, context);
            if let Some(death) = death {
                self.bury(index, death, context)?;
                taken = true;
            }
            self.start_if_due(index, context);
        }
        Ok(taken)
    }

    fn poll_worker(&mut self, index: usize, context: &mut ShardContext<'_>) -> bool {
        let mut taken = false;
        loop {
            let completion = match self.workers[index].poll() {
                Ok(Some(completion)) => completion,
                Ok(None) => return taken,
                Err(violation) => {
                    self.workers[index].distrust(&violation.to_string(), true, false);
                    return true;
                }
            };
            taken = true;
            match completion.kind {
                CompletionKind::Result | CompletionKind::Failed => {
                    if !self.note_kept(index, &completion) {
                        self.note_answer(index, &completion, context);
                    }
                }
                CompletionKind::Ready => self.workers[index].note_ready(),
                CompletionKind::LeaseReleased => {}
            }
        }
    }

    fn note_answer(&mut self, index: usize, completion: &Completion, context: &mut ShardContext<'_>) {
        let failed = (completion.kind == CompletionKind::Failed).then_some(completion.byte_length);
        let now_ns = monotonic_ns();
        let busy_ns = completion.udf_end_ns.saturating_sub(completion.udf_start_ns);
        let (mut is_void, mut is_in_turn) = (false, true);
        if !self.note_trial_answer(index, completion.slot, failed) {
            let place = completion.batch.checked_sub(self.head).and_then(|place| usize::try_from(place).ok());
            let entry = place.and_then(|place| self.flight.get_mut(place)).filter(|entry| {
                let is_asked = entry.worker == index && entry.slot == Some(completion.slot);
                is_asked && matches!(entry.outcome, Outcome::Pending)
            });
            let Some(entry) = entry else {
                let violation = format!("an answer to batch {}, which it was not given", completion.batch);
                return self.workers[index].distrust(&violation, true, false);
            };
            is_void = std::mem::take(&mut entry.is_void);
            entry.outcome = match failed {
                _ if is_void => Outcome::Held,
                Some(byte_length) => Outcome::Failed { byte_length },
                None => Outcome::Result,
            };
            let waited_ns = completion.pickup_ns.saturating_sub(entry.publish_ns);
            context.histograms.record(Stage::RequestRing, waited_ns, u64::from(entry.rows));
        }
        if is_void {
            self.workers[index].hold();
        } else {
            is_in_turn = self.note_learnt(index, completion, failed.is_some());
        }
        let rows = u64::from(completion.row_count);
        context.histograms.record(Stage::Udf, busy_ns, rows);
        context.histograms.record(Stage::ResponseRing, now_ns.saturating_sub(completion.udf_end_ns), rows);
        self.workers[index].note_answer(now_ns, busy_ns);
        if !is_in_turn {
            let violation = format!("batch {} was answered out of turn", completion.batch);
            self.workers[index].distrust(&violation, false, false);
        }
    }
}
