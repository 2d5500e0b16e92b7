//! A schema registry with Confluent's interface.
//!
//! Each number stands for one schema for ever, so that it is asked for once in a run. A thread of its own asks and makes of
//! the schema what its format needs; meanwhile messages wait. While the registry does not answer it is asked again, later and later, and
//! nothing is lost. Numbers that it does not know become dead letters, and are asked for again after a while.

mod asker;
mod client;
#[cfg(test)]
pub(super) mod testing;
#[cfg(test)]
mod tests;

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    sync::{Arc, Mutex},
    thread,
    time::Instant,
};

use crossbeam::channel::{Sender, unbounded};

pub(super) use self::client::Schema;
use self::{
    asker::Asker,
    client::{Client, Trouble},
};
use super::RegistrySpec;
use crate::{ConnectError, http::client::origin, lock::lock};

/// A message in the registry's wire format begins with 00 and the number of its schema.
pub(super) const HEAD_BYTES: usize = 5;
/// Why a message has none.
pub(super) const FOREIGN: &str =
    "it is not in the wire format of a schema registry, which begins with 00 and four bytes";

/// The number of a message's schema.
#[inline]
pub(super) fn id(message: &[u8]) -> Option<u32> {
    match message.first_chunk::<HEAD_BYTES>()? {
        [0, number @ ..] => Some(u32::from_be_bytes(*number)),
        _ => None,
    }
}

/// Makes a schema of this kind that of a subject, if it is not already, and says its number. Waits for the answer; fails if
/// there is none, and if the registry does not take it, as when it does not fit the subject's other versions.
pub(super) fn register(
    spec: &RegistrySpec,
    kind: &'static str,
    subject: &str,
    schema: &str,
) -> Result<u32, ConnectError> {
    let name =
        origin(&spec.url).map_err(|reason| ConnectError::Registry { name: "the registry".to_owned(), reason })?;
    Client::open(spec, kind)?.register(subject, schema).map_err(|trouble| {
        let (Trouble::Gone(reason) | Trouble::Passing(reason) | Trouble::Lasting(reason)) = trouble;
        ConnectError::Registry { name, reason: format!("the schema of {subject}: {reason}") }
    })
}

/// Of the thread that reads schemas, which may lie deep in themselves.
const STACK_BYTES: usize = 16 << 20;

/// What is known of a number.
#[derive(Debug)]
pub(super) enum Known<T> {
    /// it was asked for
    Later,
    /// what was made of the schema
    Found(Arc<T>),
    /// no message of this schema becomes a row
    Refused(Arc<str>),
}

impl<T> Clone for Known<T> {
    fn clone(&self) -> Known<T> {
        match self {
            Known::Later => Known::Later,
            Known::Found(found) => Known::Found(Arc::clone(found)),
            Known::Refused(reason) => Known::Refused(Arc::clone(reason)),
        }
    }
}

struct Shared<T> {
    known: Mutex<HashMap<u32, Known<T>>>,
    /// until when they are known to be unknown
    unknown: Mutex<HashMap<u32, Instant>>,
    /// why nothing can go on
    fault: Mutex<Option<String>>,
}

/// What a registry has said. Its thread ends with it.
pub(super) struct Registry<T> {
    /// for people: scheme, host and port
    name: String,
    requests: Sender<u32>,
    shared: Arc<Shared<T>>,
}

impl<T> fmt::Debug for Registry<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry").field("name", &self.name).finish_non_exhaustive()
    }
}

impl<T: Send + Sync + 'static> Registry<T> {
    /// For schemas of this kind. `make` makes something of one, or says what is wrong with it, behind "schema N of the
    /// registry". Nobody is asked yet.
    pub fn open(
        spec: &RegistrySpec,
        kind: &'static str,
        make: impl Fn(Schema) -> Result<T, String> + Send + 'static,
    ) -> Result<Registry<T>, ConnectError> {
        let name =
            origin(&spec.url).map_err(|reason| ConnectError::Registry { name: "the registry".to_owned(), reason })?;
        let (requests, asked) = unbounded();
        let shared = Arc::new(Shared { known: Mutex::default(), unknown: Mutex::default(), fault: Mutex::default() });
        let asker = Asker {
            name: name.clone(),
            client: Client::open(spec, kind)?,
            shared: Arc::clone(&shared),
            make: Box::new(make),
            waiting: VecDeque::new(),
            asked,
        };
        let thread = thread::Builder::new().name("registry".to_owned()).stack_size(STACK_BYTES);
        let started = thread.spawn(move || asker.run());
        started.map_err(|error| ConnectError::Registry { name: name.clone(), reason: error.to_string() })?;
        Ok(Registry { name, requests, shared })
    }

    /// What is known of this number. Never waits.
    pub fn ask(&self, id: u32) -> Result<Known<T>, ConnectError> {
        if let Some(reason) = lock(&self.shared.fault).clone() {
            return Err(ConnectError::Registry { name: self.name.clone(), reason });
        }
        let mut known = lock(&self.shared.known);
        if let Some(found) = known.get(&id) {
            let is_stale = || lock(&self.shared.unknown).get(&id).is_some_and(|until| *until <= Instant::now());
            if !matches!(found, Known::Refused(_)) || !is_stale() {
                return Ok(found.clone());
            }
            lock(&self.shared.unknown).remove(&id);
        }
        known.insert(id, Known::Later);
        let _ = self.requests.send(id);
        Ok(Known::Later)
    }
}
