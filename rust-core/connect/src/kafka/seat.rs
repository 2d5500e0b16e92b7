//! A partition that the group deals, between the group's thread and the shard that reads it when it is ours.
//!
//! The group's thread offers it and recalls it, the shard takes it up and leaves it, each when it comes by; neither waits for
//! the other. What was read before it was recalled is *settled* when a checkpoint covers it and the brokers are to be told so.
//!
//! Everything before `stands` has gone into a pipeline: ours, as far as our checkpoints reach once they are complete, or
//! that of another member. So the further of it and of what the brokers know is always right to begin at, also after
//! others have had the partition.

use std::sync::Mutex;

use rdkafka::consumer::base_consumer::PartitionQueue;

use super::{KafkaStart, client::Reports};
use crate::{Waker, lock::lock};

/// Its messages, from `offset` on.
pub struct Tenure {
    pub queue: PartitionQueue<Reports>,
    pub offset: u64,
}

/// What the shard is to do.
pub enum Change {
    /// Nothing new.
    Stays,
    /// Read these, and nothing of an earlier queue.
    Begins(Tenure),
    /// Read nothing.
    Ends,
}

pub struct Seat {
    pub topic: String,
    pub partition: i32,
    /// where it begins if nobody knows where it stands
    pub start: KafkaStart,
    waker: Option<Waker>,
    state: Mutex<State>,
}

struct State {
    holding: Holding,
    /// what is before this offset has gone into a pipeline
    stands: u64,
    /// what the brokers know, or are to be told
    told: u64,
    /// the shard takes nothing up any more
    is_draining: bool,
}

enum Holding {
    /// Somebody else's, or nobody's.
    Away,
    /// Ours; the shard has not come by since.
    Offered(Tenure),
    /// The shard reads it.
    Held,
    /// It is to be given up; the shard has not come by since.
    Recalled,
    /// Still ours, and the shard reads it no more.
    Left,
}

impl Seat {
    /// `stands`: where a checkpoint has it; 0 if it does not know.
    pub fn new(topic: String, partition: i32, start: KafkaStart, stands: u64, waker: Option<Waker>) -> Seat {
        let state = State { holding: Holding::Away, stands, told: 0, is_draining: false };
        Seat { topic, partition, start, waker, state: Mutex::new(state) }
    }

    /// Where it stands, as far as the group's thread knows; 0: that is unknown.
    pub fn stands(&self) -> u64 {
        lock(&self.state).stands
    }

    /// It is ours now; the brokers know that it stands at `told`.
    pub fn offer(&self, tenure: Tenure, told: u64) {
        let mut state = lock(&self.state);
        (state.stands, state.told) = (state.stands.max(tenure.offset), told);
        state.holding = if state.is_draining { Holding::Left } else { Holding::Offered(tenure) };
        drop(state);
        self.wake();
    }

    /// It is to be given up when it is settled.
    pub fn recall(&self) {
        let mut state = lock(&self.state);
        match state.holding {
            Holding::Offered(_) => state.holding = Holding::Left,
            Holding::Held => state.holding = Holding::Recalled,
            Holding::Away | Holding::Recalled | Holding::Left => {}
        }
        drop(state);
        self.wake();
    }

    /// Nothing of it is in the pipeline that the brokers are not to be told of.
    pub fn is_settled(&self) -> bool {
        let state = lock(&self.state);
        match state.holding {
            Holding::Away => true,
            Holding::Left => state.told >= state.stands,
            Holding::Offered(_) | Holding::Held | Holding::Recalled => false,
        }
    }

    /// It is not ours any more, whether it is settled or not.
    pub fn dismiss(&self) {
        lock(&self.state).holding = Holding::Away;
        self.wake();
    }

    /// The shard, which has read what is before `offset`, comes by.
    pub fn attend(&self, offset: u64) -> Change {
        let mut state = lock(&self.state);
        match std::mem::replace(&mut state.holding, Holding::Held) {
            Holding::Offered(tenure) => Change::Begins(tenure),
            Holding::Held => Change::Stays,
            Holding::Recalled => {
                state.stands = state.stands.max(offset);
                state.holding = Holding::Left;
                Change::Ends
            }
            gone @ (Holding::Away | Holding::Left) => {
                state.stands = state.stands.max(offset);
                state.holding = gone;
                Change::Ends
            }
        }
    }

    /// The shard, which has read what is before `offset`, reads nothing any more.
    pub fn drain(&self, offset: u64) {
        let mut state = lock(&self.state);
        (state.is_draining, state.stands) = (true, state.stands.max(offset));
        if !matches!(state.holding, Holding::Away) {
            state.holding = Holding::Left;
        }
    }

    /// A checkpoint is complete that covers what is before `offset`: `tell` it if it is news and the partition ours, which
    /// it stays meanwhile.
    pub fn cover(&self, offset: u64, tell: impl FnOnce()) {
        let mut state = lock(&self.state);
        if !matches!(state.holding, Holding::Away) && offset > state.told {
            state.told = offset;
            tell();
        }
    }

    fn wake(&self) {
        if let Some(waker) = &self.waker {
            waker();
        }
    }
}
