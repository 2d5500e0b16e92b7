//! Messages between the session's thread and the one that reads them.

use std::{
    collections::VecDeque,
    mem,
    sync::{Mutex, MutexGuard},
};

use async_nats::{HeaderMap, HeaderName};
use bytes::Bytes;
use tokio::sync::Notify;

use super::stored;
use crate::{Waker, lock::lock};

/// Further ones wait for room when so much is there.
const BYTES_MAX: usize = 16 << 20;
/// What a message takes besides that, about.
const ITEM_BYTES: usize = 256;

/// What comes.
pub enum Item {
    Message(Message),
    /// There is nothing for us before this number.
    Reached(u64),
    /// There will be no more.
    End,
}

/// A message of the stream.
pub struct Message {
    pub sequence: u64,
    pub subject: String,
    pub payload: Bytes,
    pub headers: Headers,
    /// what it takes on its way
    pub bytes: usize,
    /// when the server took it, nanoseconds since 1970
    pub taken_ns: i64,
}

/// What stands beside a message.
pub enum Headers {
    None,
    Named(HeaderMap),
    /// lines that the client cannot read, or not all of them
    Bytes(Vec<u8>),
}

impl From<Option<HeaderMap>> for Headers {
    fn from(headers: Option<HeaderMap>) -> Headers {
        headers.map_or(Headers::None, Headers::Named)
    }
}

impl Message {
    /// The value of the last header of that name.
    pub fn header(&self, name: &HeaderName) -> Option<&[u8]> {
        match &self.headers {
            Headers::None => None,
            Headers::Named(headers) => Some(headers.get_last(name.clone())?.as_str().as_bytes()),
            Headers::Bytes(head) => stored::header(head, name),
        }
    }
}

impl Item {
    pub fn bytes(&self) -> usize {
        match self {
            Item::Message(message) => ITEM_BYTES + message.bytes,
            Item::Reached(_) | Item::End => 0,
        }
    }
}

#[derive(Default)]
pub struct Queue {
    state: Mutex<State>,
    /// there is room, perhaps
    taken: Notify,
    /// nobody reads any more
    ended: Notify,
    /// calls the one that reads
    waker: Option<Waker>,
}

#[derive(Default)]
struct State {
    items: VecDeque<Item>,
    bytes: usize,
    /// how many of the items are messages
    messages: u64,
    /// how many were in the stream behind the last one that came; `None`: nobody has said yet
    pending: Option<u64>,
    /// why no more will come
    failed: Option<String>,
}

impl Queue {
    pub fn new(waker: Option<Waker>) -> Queue {
        Queue { waker, ..Queue::default() }
    }

    /// Adds items when there is room, behind which the stream has so many messages. Whoever waits for room when nobody reads
    /// any more waits for ever.
    pub async fn push(&self, items: impl IntoIterator<Item = Item>, pending: Option<u64>) {
        while self.lock().bytes > BYTES_MAX {
            self.taken.notified().await;
        }
        let mut state = self.lock();
        for item in items {
            state.bytes += item.bytes();
            state.messages += u64::from(matches!(item, Item::Message(_)));
            state.items.push_back(item);
        }
        state.pending = pending.or(state.pending);
        drop(state);
        self.wake();
    }

    /// The stream has so many messages behind those that came.
    pub fn note_pending(&self, pending: u64) {
        self.lock().pending = Some(pending);
    }

    /// How many messages nobody has taken, here and in the stream, as far as that is known.
    pub fn behind(&self) -> Option<u64> {
        let state = self.lock();
        Some(state.pending? + state.messages)
    }

    /// Moves everything that is there into `taken`, which is empty, and says how many messages that is. Or why nothing will
    /// come any more.
    pub fn take(&self, taken: &mut VecDeque<Item>) -> Result<u64, String> {
        let mut state = self.lock();
        mem::swap(&mut state.items, taken);
        if taken.is_empty() {
            return state.failed.clone().map_or(Ok(0), Err);
        }
        state.bytes = 0;
        let messages = mem::take(&mut state.messages);
        drop(state);
        self.taken.notify_one();
        Ok(messages)
    }

    /// No more will come, after what is there.
    pub fn fail(&self, reason: String) {
        self.lock().failed = Some(reason);
        self.wake();
    }

    /// Nobody reads any more.
    pub fn end(&self) {
        self.ended.notify_one();
    }

    /// Comes back when nobody reads any more.
    pub async fn ended(&self) {
        self.ended.notified().await;
    }

    fn wake(&self) {
        if let Some(waker) = &self.waker {
            waker();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}
