//! The thread at which producers knock.
//!
//! It checks who they are, makes their channels (which takes the kernel a while), and hands over the descriptors. It
//! never waits for one of them: sockets do not block, messages are bounded, who says nothing is dropped, and what has to
//! be said to a full socket is overtaken by what comes next.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::EventFd;
use nix::sys::socket::{
    AddressFamily, Backlog, MsgFlags, SockFlag, SockType, UnixAddr, accept4, bind, getsockopt, listen, recv, socket,
    sockopt,
};
use nix::unistd::geteuid;
use ringmill_ring::{ChannelConfig, CoreEnd, Doorbell, RingError, Wait};
use ringmill_wire::Template;

use super::message::{HELLO_BYTES_MAX, Hello, Reply, VERSION};
use super::seat::{Arrival, Replies, Seat};
use crate::rundir::send;
use crate::runtime::worker_feed::slot_bytes;

/// Producers that may wait while others are let in.
const BACKLOG: i32 = 64;
/// Who has not said whom it wants within this time is dropped.
const HELLO_TIME_MAX: Duration = Duration::from_secs(2);
/// Connections that have not said yet whom they want.
const STRANGERS_MAX: usize = 16;
/// After a connection could not be taken (no descriptors are left), others are left alone for so long.
const PAUSE: Duration = Duration::from_millis(100);

/// What producers connect to.
pub struct House {
    /// The pipeline's name.
    pub pipeline: String,
    /// How producers wait for room.
    pub wait: Wait,
    /// Positions are acknowledged.
    pub has_checkpoints: bool,
    /// One for each producer.
    pub places: Vec<Place>,
}

/// Where one producer may connect.
pub struct Place {
    /// The source's name.
    pub source: String,
    /// The producer's name.
    pub producer: String,
    /// The feed's mailbox.
    pub seat: Arc<Seat>,
    /// Layout of its batches.
    pub template: Arc<Template>,
    /// Slots of its channel.
    pub slots: u32,
    /// The shard's.
    pub doorbell: Doorbell,
    /// Positions are kept.
    pub is_replayable: bool,
}

/// Lets producers in until it is dropped.
pub struct Listener {
    is_over: Arc<AtomicBool>,
    bell: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
}

impl Listener {
    /// Listens at `path`; `bell` is rung by the feeds.
    pub fn start(path: &Path, house: House, bell: Arc<EventFd>) -> io::Result<Listener> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
        bind(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
        listen(&socket, Backlog::new(BACKLOG)?)?;
        let is_over = Arc::new(AtomicBool::new(false));
        let door = Door {
            house,
            socket,
            bell: bell.clone(),
            is_over: is_over.clone(),
            connections: BTreeMap::new(),
            last: 0,
            shut_until: None,
        };
        let thread = std::thread::Builder::new().name("ringmill-producers".to_owned()).spawn(move || door.keep())?;
        Ok(Listener { is_over, bell, thread: Some(thread) })
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Partner: the load in `keep`; the bell's system calls order the two anyway.
        self.is_over.store(true, Ordering::Release);
        let _ = self.bell.write(1);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What the thread has.
struct Door {
    house: House,
    socket: OwnedFd,
    bell: Arc<EventFd>,
    is_over: Arc<AtomicBool>,
    /// By number, in the order in which they came.
    connections: BTreeMap<u64, Connection>,
    /// Number of the last connection.
    last: u64,
    /// Nobody is taken before this moment.
    shut_until: Option<Instant>,
}

struct Connection {
    socket: OwnedFd,
    pid: i32,
    since: Instant,
    /// Its index among the places, once it has one.
    place: Option<usize>,
    /// Descriptors that it is given when it is welcome.
    files: Option<(OwnedFd, OwnedFd)>,
    /// A position that could not be said yet; none before it is welcome.
    acknowledged: Option<String>,
}

/// Why somebody is not let in.
struct Refusal {
    reason: String,
    is_passing: bool,
}

fn refusal(reason: String) -> Refusal {
    Refusal { reason, is_passing: false }
}

impl Door {
    fn keep(mut self) {
        while !self.is_over.load(Ordering::Acquire) {
            let Some((spoke, is_knocking)) = self.wait() else { return };
            self.pass_replies_on();
            // Who has gone makes room for who comes.
            let (seated, strangers): (Vec<u64>, Vec<u64>) =
                spoke.into_iter().partition(|number| self.is_seated(*number));
            seated.into_iter().for_each(|number| self.hear_seated(number));
            strangers.into_iter().for_each(|number| self.hear_stranger(number));
            let is_slow = |connection: &Connection| connection.since.elapsed() > HELLO_TIME_MAX;
            self.connections.retain(|_, connection| connection.place.is_some() || !is_slow(connection));
            if is_knocking {
                self.take_in();
            }
        }
    }

    /// Sleeps until something happens: which connections have something to say or to hear, and whether somebody knocks.
    fn wait(&mut self) -> Option<(Vec<u64>, bool)> {
        self.shut_until = self.shut_until.filter(|until| *until > Instant::now());
        let strangers = self.connections.values().filter(|connection| connection.place.is_none());
        let ends = strangers.clone().map(|stranger| stranger.since + HELLO_TIME_MAX).chain(self.shut_until);
        let left = ends.map(|end| end.saturating_duration_since(Instant::now())).min();
        let is_open = self.shut_until.is_none() && strangers.count() < STRANGERS_MAX;
        let mut polled = vec![PollFd::new(self.bell.as_fd(), PollFlags::POLLIN)];
        polled.push(PollFd::new(self.socket.as_fd(), if is_open { PollFlags::POLLIN } else { PollFlags::empty() }));
        for connection in self.connections.values() {
            let more = if connection.acknowledged.is_some() { PollFlags::POLLOUT } else { PollFlags::empty() };
            polled.push(PollFd::new(connection.socket.as_fd(), PollFlags::POLLIN | more));
        }
        // A millisecond more than is left, so that it is over then.
        let timeout = left
            .map_or(PollTimeout::NONE, |left| PollTimeout::try_from(left.as_millis() + 1).unwrap_or(PollTimeout::MAX));
        match poll(&mut polled, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => {
                tracing::error!("producers are not listened to any more: {error}");
                return None;
            }
        }
        let happened: Vec<bool> = polled.iter().map(|one| one.any().unwrap_or(false)).collect();
        if happened[0] {
            let _ = self.bell.read();
        }
        let spoke = self.connections.keys().zip(&happened[2..]).filter(|(_, happened)| **happened);
        Some((spoke.map(|(number, _)| *number).collect(), is_open && happened[1]))
    }

    fn is_seated(&self, number: u64) -> bool {
        self.connections.get(&number).is_some_and(|connection| connection.place.is_some())
    }

    /// Whether it has its memory.
    fn is_welcomed(&self, number: u64) -> bool {
        self.connections.get(&number).is_some_and(|connection| connection.files.is_none())
    }

    /// The connection that has this place.
    fn seated_at(&self, place: usize) -> Option<u64> {
        self.connections.iter().find(|(_, connection)| connection.place == Some(place)).map(|(number, _)| *number)
    }

    /// Takes in who knocks.
    fn take_in(&mut self) {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let descriptor = match accept4(self.socket.as_raw_fd(), flags) {
            Ok(descriptor) => descriptor,
            Err(Errno::EAGAIN | Errno::EINTR | Errno::ECONNABORTED) => return,
            Err(error) => {
                tracing::warn!("a producer cannot be taken in: {error}");
                self.shut_until = Some(Instant::now() + PAUSE);
                return;
            }
        };
        // SAFETY: accept4 has just made this descriptor for us; nobody else knows it.
        #[allow(unsafe_code)]
        let socket = unsafe { OwnedFd::from_raw_fd(descriptor) };
        let Ok(peer) = getsockopt(&socket, sockopt::PeerCredentials) else { return };
        self.last += 1;
        let (place, files, acknowledged) = (None, None, None);
        let connection = Connection { socket, pid: peer.pid(), since: Instant::now(), place, files, acknowledged };
        self.connections.insert(self.last, connection);
        let own = geteuid().as_raw();
        if peer.uid() != own && peer.uid() != 0 {
            let reason = format!("this run belongs to user {own}, and user {} may not send to it", peer.uid());
            self.send_away(self.last, &refusal(reason));
        }
    }

    /// Hears one that has a place: it has nothing to say, so this is its end.
    fn hear_seated(&mut self, number: u64) {
        self.say_acknowledged(number);
        let Some(connection) = self.connections.get(&number) else { return };
        match recv(connection.socket.as_raw_fd(), &mut [0; 16], MsgFlags::MSG_DONTWAIT) {
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Ok(1..) => self.send_away(number, &refusal("a producer says nothing after its first message".to_owned())),
            Ok(0) | Err(_) => self.forget(number),
        }
    }

    /// Hears one that has no place yet.
    fn hear_stranger(&mut self, number: u64) {
        let Some(connection) = self.connections.get(&number) else { return };
        let mut bytes = [0; HELLO_BYTES_MAX];
        // The whole length of a packet, however much of it there is room for.
        match recv(connection.socket.as_raw_fd(), &mut bytes, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_TRUNC) {
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Ok(0) | Err(_) => self.forget(number),
            Ok(length) => {
                let seated = match bytes.get(..length) {
                    Some(hello) => self.seat(number, hello),
                    None => Err(refusal(format!("a message of {length} bytes, and at most {HELLO_BYTES_MAX} can be"))),
                };
                if let Err(refusal) = seated {
                    self.send_away(number, &refusal);
                }
            }
        }
    }

    /// Gives a place, and a channel, to who has said a hello.
    fn seat(&mut self, number: u64, hello: &[u8]) -> Result<(), Refusal> {
        let hello: Hello = serde_json::from_slice(hello)
            .map_err(|error| refusal(format!("its message is not understood: {error}")))?;
        let index = self.house.find(&hello)?;
        let place = &self.house.places[index];
        if let Some(other) = self.seated_at(index).and_then(|other| self.connections.get(&other)) {
            let (producer, pid) = (&place.producer, other.pid);
            return Err(refusal(format!("producer {producer:?} is connected already, as process {pid}")));
        }
        let failed =
            |error: RingError| Refusal { reason: format!("failed to make its channel: {error}"), is_passing: true };
        let channel = place.channel().map_err(failed)?;
        let files = channel.worker_fds().map_err(failed)?;
        if let Some(connection) = self.connections.get_mut(&number) {
            (connection.place, connection.files) = (Some(index), Some(files));
            place.seat.arrive(Arrival { connection: number, pid: connection.pid, channel });
        }
        self.refuse_if_closed(index, self.house.places[index].seat.is_closed());
        Ok(())
    }

    fn refuse_if_closed(&mut self, place: usize, is_closed: bool) {
        let waiting = self.seated_at(place).filter(|number| is_closed && !self.is_welcomed(*number));
        if let Some(number) = waiting {
            let reason = "the pipeline takes no more rows from this producer".to_owned();
            self.send_away(number, &Refusal { reason, is_passing: true });
        }
    }

    /// Tells the connections what their feeds have said.
    fn pass_replies_on(&mut self) {
        for index in 0..self.house.places.len() {
            let Replies { welcome, acknowledged, refusal: dismissal, is_closed } =
                self.house.places[index].seat.replies();
            if let Some((number, position, covered)) = welcome {
                self.welcome(number, index, position.as_deref(), covered.as_deref());
            }
            // Who is not welcome yet is told then.
            let welcomed = self.seated_at(index).filter(|number| self.is_welcomed(*number));
            if let (Some(position), Some(number)) = (acknowledged, welcomed) {
                if let Some(connection) = self.connections.get_mut(&number) {
                    connection.acknowledged = Some(position);
                }
                self.say_acknowledged(number);
            }
            if let Some((number, reason)) = dismissal {
                self.send_away(number, &refusal(reason));
            }
            self.refuse_if_closed(index, is_closed);
        }
    }

    fn welcome(&mut self, number: u64, place: usize, position: Option<&str>, acknowledged: Option<&str>) {
        let Some(connection) = self.connections.get_mut(&number) else { return };
        let Some((request, response)) = connection.files.take() else { return };
        let place = &self.house.places[place];
        let wait = self.house.wait.to_string();
        let reply = Reply::Welcome {
            source: &place.source,
            schema: place.template.schema(),
            capacity: place.template.capacity(),
            wait: &wait,
            replayable: place.is_replayable,
            checkpoints: self.house.has_checkpoints,
            position,
            acknowledged,
        };
        let descriptors: [RawFd; 3] = [request.as_raw_fd(), response.as_raw_fd(), place.doorbell.fd()];
        if let Err(error) = send(connection.socket.as_fd(), &reply, &descriptors) {
            tracing::warn!(producer = %place.producer, pid = connection.pid, "a producer cannot be welcomed: {error}");
            self.forget(number);
        }
    }

    /// Says what is acknowledged, unless the socket is full: then when it is not.
    fn say_acknowledged(&mut self, number: u64) {
        let Some(connection) = self.connections.get_mut(&number) else { return };
        let Some(position) = connection.acknowledged.take() else { return };
        let reply = Reply::Acknowledged { position: &position };
        if let Err(error) = send(connection.socket.as_fd(), &reply, &[])
            && error.kind() == io::ErrorKind::WouldBlock
        {
            connection.acknowledged = Some(position);
        }
    }

    /// Says why, as far as it is heard, and ends the connection.
    fn send_away(&mut self, number: u64, Refusal { reason, is_passing }: &Refusal) {
        if let Some(connection) = self.connections.get(&number) {
            tracing::warn!(pid = connection.pid, "a producer is refused: {reason}");
            let _ = send(connection.socket.as_fd(), &Reply::Refused { reason, is_passing: *is_passing }, &[]);
        }
        self.forget(number);
    }

    fn forget(&mut self, number: u64) {
        if let Some(place) = self.connections.remove(&number).and_then(|connection| connection.place) {
            self.house.places[place].seat.depart(number);
        }
    }
}

impl House {
    /// The place that is meant.
    fn find(&self, hello: &Hello) -> Result<usize, Refusal> {
        let Hello { version, pipeline, source, producer } = hello;
        if *version != VERSION {
            let reason = format!("it speaks version {version} of the hand-over, and this run version {VERSION}");
            return Err(refusal(reason));
        }
        if *pipeline != self.pipeline {
            return Err(refusal(format!("this run is of the pipeline {:?}, not of {pipeline:?}", self.pipeline)));
        }
        let mut sources: Vec<&str> = self.places.iter().map(|place| place.source.as_str()).collect();
        sources.dedup();
        let source = match (source, &sources[..]) {
            (Some(source), _) if sources.contains(&source.as_str()) => source.as_str(),
            (None, [only]) => *only,
            (Some(source), _) => {
                let reason = format!("there is no source {source:?} for producers, but {}", sources.join(", "));
                return Err(refusal(reason));
            }
            (None, _) => {
                return Err(refusal(format!("there are several sources, {}: name one (source=)", sources.join(", "))));
            }
        };
        let of_source = || self.places.iter().enumerate().filter(|(_, place)| place.source == source);
        let found = of_source().find(|(_, place)| place.producer == *producer);
        found.map(|(index, _)| index).ok_or_else(|| {
            let names: Vec<&str> = of_source().map(|(_, place)| place.producer.as_str()).collect();
            let hint = format!("`producers` of {source} names {}", names.join(", "));
            refusal(format!("there is no producer {producer:?}: {hint}"))
        })
    }
}

impl Place {
    fn channel(&self) -> Result<CoreEnd, RingError> {
        let (request_slot_bytes, response_slot_bytes) = slot_bytes(&self.template);
        let schema_hash = self.template.hash();
        CoreEnd::create(&ChannelConfig {
            slots: self.slots,
            request_slot_bytes,
            response_slot_bytes,
            // Requests have no payload.
            schema_hash,
            response_schema_hash: schema_hash,
            generation: 1,
        })
    }
}
