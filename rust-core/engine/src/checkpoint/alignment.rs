//! Barriers of several lanes that meet in one place.
//!
//! A sink's writer gets rows from every shard, each shard's in order, but one shard may be an epoch ahead of another.
//! An epoch has ended at the writer when its barrier has come from every shard. Pure, so that a simulation drives it, too.

use super::coordinator::{Part, Refusal};

/// Which lane has passed which epoch.
#[derive(Debug)]
pub struct Alignment {
    /// The last barrier that came, by lane.
    arrived: Vec<u64>,
    /// The last epoch that has ended in all lanes.
    passed: u64,
}

impl Alignment {
    /// For that many lanes, all behind the barrier of `epoch` (0: at the beginning).
    #[must_use]
    pub fn new(lanes: usize, epoch: u64) -> Self {
        Self { arrived: vec![epoch; lanes], passed: epoch }
    }

    /// The barrier that ends `epoch` came from `lane`; the epoch, if it was the last lane to bring it.
    ///
    /// # Errors
    /// A barrier that is not the next one of its lane, or that runs ahead of another lane by more than one.
    pub fn arrive(&mut self, lane: usize, epoch: u64) -> Result<Option<u64>, Refusal> {
        let part = Part::Shard(lane);
        let arrived = self.arrived.get_mut(lane).ok_or(Refusal::NoSuchPart { part })?;
        let current = self.passed + 1;
        if epoch != current {
            return Err(Refusal::WrongEpoch { part, told: epoch, current });
        }
        if *arrived == epoch {
            return Err(Refusal::OutOfTurn { part, epoch });
        }
        *arrived = epoch;
        if self.arrived.iter().any(|arrived| *arrived < epoch) {
            return Ok(None);
        }
        self.passed = epoch;
        Ok(Some(epoch))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_ends_with_the_last_lane() {
        let mut alignment = Alignment::new(3, 4);
        assert_eq!(alignment.arrive(1, 5), Ok(None));
        assert_eq!(alignment.arrive(0, 5), Ok(None));
        assert_eq!(alignment.arrive(2, 5), Ok(Some(5)));
        assert_eq!(alignment.arrive(2, 6), Ok(None));
    }

    #[test]
    fn a_lane_that_repeats_itself_or_runs_ahead_is_refused() {
        let mut alignment = Alignment::new(2, 0);
        let part = Part::Shard(0);
        assert_eq!(alignment.arrive(0, 2), Err(Refusal::WrongEpoch { part, told: 2, current: 1 }));
        assert_eq!(alignment.arrive(0, 1), Ok(None));
        assert_eq!(alignment.arrive(0, 1), Err(Refusal::OutOfTurn { part, epoch: 1 }));
        assert_eq!(alignment.arrive(0, 2), Err(Refusal::WrongEpoch { part, told: 2, current: 1 }));
        assert_eq!(alignment.arrive(2, 1), Err(Refusal::NoSuchPart { part: Part::Shard(2) }));
    }
}
