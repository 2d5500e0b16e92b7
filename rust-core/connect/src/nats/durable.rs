//! A durable consumer, on which is acknowledged what completed checkpoints cover: for tools that show how far we are.
//!
//! Servers take acknowledgements of what this very consumer has delivered. So it is made anew for each delivery, at what no
//! checkpoint covers yet, and read through. Nothing is read from there about where to go on.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard},
    time::Duration,
};

use async_nats::{
    Client, Subject,
    jetstream::{
        Context, ErrorCode,
        consumer::{AckPolicy, PullConsumer, pull},
        stream::ConsumerErrorKind,
    },
};
use bytes::Bytes;
use tokio::sync::Notify;

use super::{options::said, reader::Trouble};
use crate::lock::lock;

/// By which our consumers are told from those of others.
const DESCRIPTION: &str = "what checkpoints of ringmill cover; positions are in them";
/// After which what is not acknowledged would be delivered again: longer than any checkpoint takes.
const PATIENCE: Duration = Duration::from_secs(24 * 60 * 60);
/// So many acknowledgements wait for their checkpoint; of more the last one does.
const WAITING_MAX: usize = 1_000;

/// What is covered, between the partition, the one that reads and the one that tells the servers.
#[derive(Default)]
pub struct Coverage {
    state: Mutex<State>,
    /// something is to be acknowledged, perhaps
    changed: Notify,
}

#[derive(Default)]
struct State {
    /// what is before this number is in a completed checkpoint
    covered: u64,
    /// through which the servers are told
    client: Option<Client>,
    /// numbers of delivered messages, oldest first, and where each is acknowledged together with all before it
    delivered: VecDeque<(u64, Subject)>,
}

impl Coverage {
    pub fn new(covered: u64) -> Coverage {
        Coverage { state: Mutex::new(State { covered, ..State::default() }), ..Coverage::default() }
    }

    /// A checkpoint is complete that covers what is before this number.
    pub fn cover(&self, next: u64) {
        let mut state = self.lock();
        state.covered = state.covered.max(next);
        drop(state);
        self.changed.notify_one();
    }

    /// What is before this number is covered. A consumer begins there, and what another one has delivered counts no more;
    /// the servers are told through this client.
    pub fn begin(&self, client: Client) -> u64 {
        let mut state = self.lock();
        state.delivered.clear();
        state.client = Some(client);
        state.covered
    }

    /// This message was delivered, and is acknowledged there.
    pub fn deliver(&self, sequence: u64, acknowledgement: Subject) {
        let mut state = self.lock();
        if state.delivered.len() == WAITING_MAX {
            state.delivered.pop_back();
        }
        state.delivered.push_back((sequence, acknowledgement));
        drop(state);
        self.changed.notify_one();
    }

    /// Tells the servers, and never comes back.
    pub async fn acknowledge(&self) {
        loop {
            if let Some((client, acknowledgement)) = self.due() {
                // A connection that breaks takes it along; the next one that is due counts for it, too.
                let _ = client.publish(acknowledgement, Bytes::new()).await;
            }
            self.changed.notified().await;
        }
    }

    /// Where the last message that is covered is acknowledged, and through whom.
    fn due(&self) -> Option<(Client, Subject)> {
        let mut state = self.lock();
        let covered = state.covered;
        let mut due = None;
        while let Some((_, acknowledgement)) = state.delivered.pop_front_if(|(sequence, _)| *sequence < covered) {
            due = Some(acknowledgement);
        }
        Some((state.client.clone()?, due?))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

/// Makes the durable consumer of this name what an acknowledgement needs; one that is there must be ours, and goes.
pub async fn configure(
    context: &Context,
    stream: &str,
    name: &str,
    config: pull::Config,
) -> Result<pull::Config, Trouble> {
    match context.get_consumer_from_stream::<pull::Config, _, _>(name, stream).await {
        Ok(earlier) => remove(context, stream, &earlier).await?,
        Err(error) => match error.kind() {
            ConsumerErrorKind::JetStream(answer) if answer.error_code() == ErrorCode::CONSUMER_NOT_FOUND => {}
            ConsumerErrorKind::InvalidConsumerType => return Err(foreign(name)),
            _ => return Err(Trouble::Passing(said(&error))),
        },
    }
    Ok(pull::Config {
        durable_name: Some(name.to_owned()),
        description: Some(DESCRIPTION.to_owned()),
        ack_policy: AckPolicy::All,
        ack_wait: PATIENCE,
        max_ack_pending: -1,
        ..config
    })
}

async fn remove(context: &Context, stream: &str, earlier: &PullConsumer) -> Result<(), Trouble> {
    let info = earlier.cached_info();
    if info.config.description.as_deref() != Some(DESCRIPTION) {
        return Err(foreign(&info.name));
    }
    match context.delete_consumer_from_stream(&info.name, stream).await {
        Ok(_) => Ok(()),
        Err(error) => Err(Trouble::Passing(said(&error))),
    }
}

fn foreign(name: &str) -> Trouble {
    Trouble::Lasting(format!(
        "consumer {name:?} is there and not ours: choose another name for `durable`, or delete it"
    ))
}
