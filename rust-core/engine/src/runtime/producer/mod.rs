//! Producers: processes that are not ours, and write batches straight into shared memory (`rm.connect`).
//!
//! A [`Listener`] thread waits at a Unix socket in the run's folder. Whoever connects, is of the same user, and names a
//! source and a producer of it, gets a channel of its own: the two memory files and the shard's doorbell, through the
//! socket. From there on it is asked as a source's worker is: requests to fill a slot lie in its ring, and it answers
//! each when it has rows ([`ProducerFeed`], in the shard's thread). The socket then carries only the positions that
//! checkpoints cover, and, by its end, the news that the producer is gone: the kernel closes it behind the last write.
//!
//! Nobody waits for a producer, and none can do more harm than fall silent: what it says is checked as a worker's words
//! are, and who breaks the rules is sent away with the reason. Its process is not ours to kill.

mod feed;
mod listener;
mod message;
mod seat;

use std::collections::HashMap;
use std::sync::Arc;

use nix::sys::eventfd::{EfdFlags, EventFd};
use ringmill_connect::FeedPlace;
use ringmill_wire::{Template, WireError};

use self::feed::{FeedParts, ProducerFeed};
use self::listener::{House, Listener, Place};
use self::seat::Seat;
use super::signal::ShardSignal;
use super::worker_feed::slot_bytes;
use crate::error::EngineError;
use crate::plan::{Node, NodeKind, Plan, ProducerSource, SourceConnector, SourceSpec};
use crate::rundir::RunFolder;

/// What a plan's producers connect to.
pub struct Producers {
    /// Hands channels out as long as it lives; `None`: there are no such sources.
    pub listener: Option<Listener>,
    /// The partitions, by plan node.
    pub feeds: HashMap<usize, Vec<FeedPlace>>,
}

/// Lets producers connect through the run's folder.
pub fn listen(plan: &Plan, signals: &[Arc<ShardSignal>], folder: Option<&RunFolder>) -> Result<Producers, EngineError> {
    let mut producers = Producers { listener: None, feeds: HashMap::new() };
    let failed = |error| EngineError::system("make a bell for producers", std::io::Error::from(error));
    let bell = Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK).map_err(failed)?);
    let mut places = Vec::new();
    for (index, node) in plan.nodes.iter().enumerate() {
        let Some(source) = source_of(plan, node) else { continue };
        let template = template(node, source)?;
        for (number, name) in source.names.iter().enumerate() {
            let shard = number % plan.shards;
            let seat = Arc::new(Seat::new(signals[shard].clone(), bell.clone()));
            let doorbell = signals[shard].doorbell().try_clone();
            places.push(Place {
                source: node.name.clone(),
                producer: name.clone(),
                seat: seat.clone(),
                template: template.clone(),
                slots: source.slots,
                doorbell: doorbell.map_err(|error| EngineError::Channel { worker: name.clone(), error })?,
                is_replayable: source.feed.is_seekable,
            });
            let feed = ProducerFeed::new(FeedParts {
                seat,
                name: format!("{}/{name}", node.name),
                template: template.clone(),
                is_replayable: source.feed.is_seekable,
                is_ended_by_closing: source.is_ended_by_closing,
            });
            let place = FeedPlace { name: name.clone(), shard, feed: Box::new(feed) };
            producers.feeds.entry(index).or_default().push(place);
        }
    }
    if !places.is_empty() {
        let folder = folder.ok_or_else(|| {
            let none = std::io::Error::other("it has none, or none that this user alone can enter");
            EngineError::system("listen to producers in the run's folder", none)
        })?;
        let path = folder.producers_socket();
        let failed = |error| EngineError::system(format!("listen to producers at {}", path.display()), error);
        let house = House {
            pipeline: plan.name.clone(),
            wait: plan.worker_wait(),
            has_checkpoints: plan.checkpoint.is_some(),
            places,
        };
        producers.listener = Some(Listener::start(&path, house, bell).map_err(failed)?);
    }
    Ok(producers)
}

/// The node's source, if its rows are sent by producers and it is read.
fn source_of<'a>(plan: &Plan, node: &'a Node) -> Option<&'a ProducerSource> {
    match &node.kind {
        NodeKind::Source(SourceSpec { connector: SourceConnector::Producer(source), .. }) if !plan.is_replay() => {
            Some(source)
        }
        _ => None,
    }
}

fn template(node: &Node, source: &ProducerSource) -> Result<Arc<Template>, EngineError> {
    let layout = |error: WireError| EngineError::Layout { node: node.name.clone(), error };
    Ok(Arc::new(Template::new(node.schema.clone(), source.feed.capacity()).map_err(layout)?))
}

/// Bytes of shared memory of one producer's channel, and of the batch that is being taken.
pub fn memory_bytes(node: &Node, source: &ProducerSource) -> u64 {
    template(node, source).map_or(0, |template| {
        let (request, response) = slot_bytes(&template);
        u64::from(source.slots) * (request + response) as u64 + template.bytes() as u64
    })
}
