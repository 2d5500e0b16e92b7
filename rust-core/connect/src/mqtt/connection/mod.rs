//! A connection to a broker, whichever version of the protocol it speaks.
//!
//! The client library has all its types twice, once for MQTT 3.1.1 and once for MQTT 5. Nobody else sees them: the modules
//! below translate between them and what sources and sinks have in common.

mod v3;
mod v5;

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use rumqttc::TlsError;

use super::{
    MqttQuality, MqttVersion,
    options::{KEEP_ALIVE, Options},
};

/// A connection to which nothing happens for so long, though it is tried out meanwhile, is given up.
const SILENCE: Duration = KEEP_ALIVE.saturating_mul(2);
/// One that takes so long to be made, or to take what is written, is given up.
const STALLED: Duration = Duration::from_secs(30);

/// What is asked of a connection, by any thread. Nothing of it waits; what cannot be asked of a connection that has just
/// broken is not asked.
pub trait Client: Send + Sync {
    fn publish(&self, message: &Outgoing, quality: MqttQuality);
    fn subscribe(&self, topics: &[String], quality: MqttQuality);
    /// The message that came under this number was taken over.
    fn acknowledge(&self, number: u16);
    fn disconnect(&self);
}

/// What happens on one connection after the other.
pub trait Connection: Send {
    /// Waits for it. After [`Event::Broken`] it connects again.
    fn next(&mut self) -> Event;

    /// What was under way when a connection broke is sent again over the next one, if the broker still has the session: in
    /// the order of these numbers, which is the one in which it was sent first. What was not sent yet is forgotten: the
    /// library would send it without regard to how much is under way. Whether it still has all of these, each once: a
    /// broker that answers out of order makes it forget some.
    fn resume(&mut self, sent: &[u16]) -> bool;
}

/// Connects as soon as it is asked what happens.
pub fn open(options: &Options) -> (Arc<dyn Client>, Box<dyn Connection>) {
    match options.version {
        MqttVersion::V3 => v3::open(options),
        MqttVersion::V5 => v5::open(options),
    }
}

/// What happens.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// The broker takes us, and perhaps goes on with a session that it had.
    Connected { has_session: bool },
    /// A message has come.
    Message(Received),
    /// All topics are subscribed to, but for this one, by its index, and why.
    Subscribed { refused: Option<(usize, Option<String>)> },
    /// The next of our messages went out under this number, if it has one.
    Sent(u16),
    /// The broker has the message of this number.
    Taken(u16),
    /// It does not take it.
    Refused { number: u16, reason: String, may_pass: bool },
    /// There is no connection any more, or still none.
    Broken(Breakage),
    /// We have ended it.
    Over,
}

/// Why there is no connection.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Breakage {
    pub error: String,
    /// what follows the broker's name if it refuses us, or we do not believe it; if it took us before, that may pass
    pub refusal: Option<String>,
    /// what we have to send will never go out
    pub is_lasting: bool,
}

impl Breakage {
    fn passing(error: impl ToString) -> Breakage {
        Breakage { error: error.to_string(), ..Breakage::default() }
    }

    fn silent() -> Breakage {
        Breakage::passing("nothing was heard of it any more")
    }

    /// A handshake that breaks off may be another one's next time; a certificate will not.
    fn tls(error: &TlsError) -> Breakage {
        let is_passing =
            matches!(error, TlsError::Io(error) if !error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>()));
        let refusal = (!is_passing).then(|| format!(": no encrypted connection: {error}"));
        Breakage { refusal, ..Breakage::passing(error) }
    }

    /// It takes us, but does not keep to the protocol.
    fn senseless(fault: &str) -> Breakage {
        Breakage { refusal: Some(format!(" {fault}")), ..Breakage::passing(format!("it {fault}")) }
    }

    fn refused(error: impl ToString, reason: &str) -> Breakage {
        Breakage { refusal: Some(format!(" refuses the connection: {reason}")), ..Breakage::passing(error) }
    }
}

/// A message that has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    /// UTF-8, if the broker keeps to the protocol
    pub topic: Bytes,
    pub payload: Bytes,
    /// names and values
    pub properties: Vec<(String, String)>,
    /// under which it is acknowledged; `None`: nobody waits for that
    pub number: Option<u16>,
}

impl Received {
    /// About what it takes.
    pub fn bytes(&self) -> usize {
        self.topic.len() + self.payload.len() + length(&self.properties)
    }
}

/// A message on its way.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Outgoing {
    pub topic: String,
    pub payload: Vec<u8>,
    pub is_retained: bool,
    /// names and values; MQTT 3.1.1 has none, as it has nothing of what follows
    pub properties: Vec<(String, String)>,
    pub content_type: Option<Arc<str>>,
    pub expiry_s: Option<u32>,
}

impl Outgoing {
    /// About what it takes.
    pub fn bytes(&self) -> usize {
        self.topic.len() + self.payload.len() + length(&self.properties)
    }
}

fn length(properties: &[(String, String)]) -> usize {
    properties.iter().map(|(name, value)| name.len() + value.len()).sum()
}

/// The library's client of one version.
trait Library: Send {
    type Event;
    type Request;

    /// Waits for an event, or for the end of the connection; `None`: we have ended it.
    fn receive(&mut self) -> Option<Result<Self::Event, Breakage>>;
    /// What happened before a connection broke and was not received yet.
    fn rest(&mut self) -> Vec<Self::Event>;
    /// `None`: it is nothing to us.
    fn translate(event: Self::Event) -> Option<Event>;
    /// What was under way when the connection broke, and what was not sent at all, and was asked for since then.
    fn pending(&mut self) -> &mut VecDeque<Self::Request>;
    /// The number under which it was sent; 0: it was not.
    fn number(request: &Self::Request) -> u16;
    /// Says that it is sent again.
    fn mark(request: &mut Self::Request);
}

/// Sees to it that nothing of a connection is told behind its end.
struct Ordered<L> {
    library: L,
    events: VecDeque<Event>,
}

impl<L> Ordered<L> {
    fn new(library: L) -> Ordered<L> {
        Ordered { library, events: VecDeque::new() }
    }
}

impl<L: Library> Connection for Ordered<L> {
    fn next(&mut self) -> Event {
        loop {
            if let Some(event) = self.events.pop_front() {
                return event;
            }
            match self.library.receive() {
                Some(Ok(event)) => self.events.extend(L::translate(event)),
                Some(Err(breakage)) => {
                    self.events.extend(self.library.rest().into_iter().filter_map(L::translate));
                    self.events.push_back(Event::Broken(breakage));
                }
                None => return Event::Over,
            }
        }
    }

    fn resume(&mut self, sent: &[u16]) -> bool {
        let places: HashMap<u16, usize> = sent.iter().enumerate().map(|(place, number)| (*number, place)).collect();
        let pending = self.library.pending();
        pending.retain(|request| places.contains_key(&L::number(request)));
        pending.make_contiguous().sort_by_key(|request| places[&L::number(request)]);
        pending.iter_mut().for_each(L::mark);
        pending.iter().map(L::number).eq(sent.iter().copied())
    }
}
