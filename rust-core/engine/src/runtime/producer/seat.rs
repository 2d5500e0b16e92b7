//! What the listening thread and a shard's feed hand each other, for one producer's name.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::sys::eventfd::EventFd;
use ringmill_ring::CoreEnd;

use crate::runtime::signal::ShardSignal;

/// A producer that was let in: its channel is the feed's.
pub struct Arrival {
    /// Its connection; a later one has a greater number.
    pub connection: u64,
    /// Its process, for logs.
    pub pid: i32,
    /// Its channel, on which nothing was said yet.
    pub channel: CoreEnd,
}

/// From the listener to the feed.
#[derive(Default)]
pub struct News {
    /// Who came last.
    pub arrival: Option<Arrival>,
    /// The connection that ended last.
    pub departed: Option<u64>,
}

/// From the feed to the listener.
#[derive(Default)]
pub struct Replies {
    /// The connection that may send now, the position behind which it goes on, and the one that is acknowledged.
    pub welcome: Option<(u64, Option<String>, Option<String>)>,
    /// A checkpoint covers what is before it.
    pub acknowledged: Option<String>,
    /// The connection that is sent away, and why.
    pub refusal: Option<(u64, String)>,
    /// Nothing is taken any more; stays so.
    pub is_closed: bool,
}

/// See the module. Neither side waits for the other for longer than it takes to move a value.
pub struct Seat {
    /// Written by the listener, cleared by the feed: `desk` need not be locked to see that there is nothing.
    has_news: AtomicBool,
    desk: Mutex<(News, Replies)>,
    /// Wakes the feed's shard.
    signal: Arc<ShardSignal>,
    /// Wakes the listener.
    bell: Arc<EventFd>,
}

impl Seat {
    /// An empty seat.
    pub fn new(signal: Arc<ShardSignal>, bell: Arc<EventFd>) -> Seat {
        Seat { has_news: AtomicBool::new(false), desk: Mutex::default(), signal, bell }
    }

    fn desk(&self) -> MutexGuard<'_, (News, Replies)> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, write: impl FnOnce(&mut News)) {
        write(&mut self.desk().0);
        // Partner: the load in `has_news`. Forbids that the flag is seen before what it announces.
        self.has_news.store(true, Ordering::Release);
        self.signal.ring();
    }

    fn reply(&self, write: impl FnOnce(&mut Replies)) {
        write(&mut self.desk().1);
        // A counter that is full rings already.
        let _ = self.bell.write(1);
    }

    /// Listener: a producer was let in. One that was not attached yet is forgotten: it is gone.
    pub fn arrive(&self, arrival: Arrival) {
        self.tell(|news| news.arrival = Some(arrival));
    }

    /// Listener: a connection is at its end, and behind all that was published through its channel.
    pub fn depart(&self, connection: u64) {
        self.tell(|news| news.departed = Some(connection));
    }

    /// Listener: what the feed has said since.
    pub fn replies(&self) -> Replies {
        let mut desk = self.desk();
        let is_closed = desk.1.is_closed;
        std::mem::replace(&mut desk.1, Replies { is_closed, ..Replies::default() })
    }

    /// Listener: whether nothing is taken any more.
    pub fn is_closed(&self) -> bool {
        self.desk().1.is_closed
    }

    /// Feed: whether [`Seat::news`] would say anything.
    pub fn has_news(&self) -> bool {
        self.has_news.load(Ordering::Acquire)
    }

    /// Feed: what the listener has said since.
    pub fn news(&self) -> News {
        let mut desk = self.desk();
        self.has_news.store(false, Ordering::Relaxed);
        std::mem::take(&mut desk.0)
    }

    /// Feed: this connection may send.
    pub fn welcome(&self, connection: u64, position: Option<String>, acknowledged: Option<String>) {
        self.reply(|replies| replies.welcome = Some((connection, position, acknowledged)));
    }

    /// Feed: a checkpoint covers what is before `position`.
    pub fn acknowledge(&self, position: String) {
        self.reply(|replies| replies.acknowledged = Some(position));
    }

    /// Feed: this connection is to be sent away.
    pub fn refuse(&self, connection: u64, reason: String) {
        self.reply(|replies| replies.refusal = Some((connection, reason)));
    }

    /// Feed: nothing is taken any more.
    pub fn close(&self) {
        self.reply(|replies| replies.is_closed = true);
    }
}
