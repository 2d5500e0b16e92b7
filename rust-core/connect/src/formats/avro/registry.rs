//! A schema registry with Confluent's interface.
//!
//! Each number stands for one schema for ever, so that it is asked for once in a run. A thread of its own asks and makes the
//! schema a program; meanwhile messages wait. While the registry does not answer it is asked again, later and later, and
//! nothing is lost. Numbers that it does not know become dead letters, and are asked for again after a while.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, unbounded};

use super::{
    AvroSchema, RegistrySpec,
    client::{Client, Trouble},
    decoder::compile,
    program::Program,
};
use crate::{ConnectError, FieldSpec, http::client::origin, lock::lock};

/// Between attempts while the registry does not answer, doubled each time.
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(10);
/// For so long a number is known to be unknown.
const UNKNOWN: Duration = Duration::from_secs(30);
/// So many unknown numbers are remembered.
const UNKNOWN_MAX: usize = 10_000;

/// What is known of a number.
#[derive(Debug, Clone)]
pub(super) enum Known {
    /// it was asked for
    Later,
    Program(Arc<Program>),
    /// no message of this schema becomes a row
    Refused(Arc<str>),
}

#[derive(Debug, Default)]
struct Shared {
    known: Mutex<HashMap<u32, Known>>,
    /// until when they are known to be unknown
    unknown: Mutex<HashMap<u32, Instant>>,
    /// why nothing can go on
    fault: Mutex<Option<String>>,
}

/// What a registry has said. Its thread ends with it.
#[derive(Debug)]
pub(super) struct Registry {
    /// for people: scheme, host and port
    name: String,
    requests: Sender<u32>,
    shared: Arc<Shared>,
}

impl Registry {
    /// For these fields. Nobody is asked yet.
    pub fn open(
        spec: &RegistrySpec,
        reader: Option<&AvroSchema>,
        fields: &[FieldSpec],
        members: &[&str],
    ) -> Result<Registry, ConnectError> {
        let name =
            origin(&spec.url).map_err(|reason| ConnectError::Registry { name: "the registry".to_owned(), reason })?;
        let (requests, asked) = unbounded();
        let shared = Arc::new(Shared::default());
        let asker = Asker {
            name: name.clone(),
            client: Client::open(spec)?,
            shared: Arc::clone(&shared),
            reader: reader.cloned(),
            fields: fields.to_vec(),
            members: members.iter().map(|member| (*member).to_owned()).collect(),
            waiting: VecDeque::new(),
            asked,
        };
        let started = thread::Builder::new().name("registry".to_owned()).spawn(move || asker.run());
        started.map_err(|error| ConnectError::Registry { name: name.clone(), reason: error.to_string() })?;
        Ok(Registry { name, requests, shared })
    }

    /// What is known of this number. Never waits.
    pub fn ask(&self, id: u32) -> Result<Known, ConnectError> {
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

struct Asker {
    name: String,
    client: Client,
    shared: Arc<Shared>,
    reader: Option<AvroSchema>,
    fields: Vec<FieldSpec>,
    members: Vec<String>,
    waiting: VecDeque<u32>,
    asked: Receiver<u32>,
}

impl Asker {
    fn run(mut self) {
        while let Some(id) = self.next() {
            if !self.answer(id) {
                return;
            }
        }
    }

    fn next(&mut self) -> Option<u32> {
        self.waiting.pop_front().or_else(|| self.asked.recv().ok())
    }

    /// Asks until there is an answer; `false`: nobody waits for it any more.
    fn answer(&mut self, id: u32) -> bool {
        let mut wait = Duration::ZERO;
        loop {
            match self.client.schema(id) {
                Ok(schema) => {
                    let members: Vec<&str> = self.members.iter().map(String::as_str).collect();
                    let known = match compile(&schema, self.reader.as_ref(), &self.fields, &members) {
                        Ok(program) => Known::Program(Arc::new(program)),
                        Err(misfits) => {
                            let reasons: Vec<String> = misfits.iter().map(ToString::to_string).collect();
                            let reasons = reasons.join("; ");
                            Known::Refused(format!("schema {id} of the registry does not fit: {reasons}").into())
                        }
                    };
                    lock(&self.shared.known).insert(id, known);
                    break;
                }
                Err(Trouble::Gone(reason)) => {
                    self.forget();
                    lock(&self.shared.unknown).insert(id, Instant::now() + UNKNOWN);
                    lock(&self.shared.known).insert(id, Known::Refused(reason.into()));
                    break;
                }
                Err(Trouble::Lasting(reason)) => {
                    *lock(&self.shared.fault) = Some(reason);
                    return true;
                }
                Err(Trouble::Passing(reason)) => {
                    if wait.is_zero() {
                        let name = &self.name;
                        tracing::warn!(
                            "schema registry at {name}: {reason}; messages of schema {id} wait until it answers"
                        );
                    }
                    wait = (wait * 2).clamp(RETRY_MIN, RETRY_MAX);
                    if !self.pause(wait) {
                        return false;
                    }
                }
            }
        }
        if !wait.is_zero() {
            tracing::info!("schema registry at {}: it answers again", self.name);
        }
        true
    }

    /// Waits, and takes note of what is asked for meanwhile; `false`: nobody is there any more.
    fn pause(&mut self, wait: Duration) -> bool {
        let until = Instant::now() + wait;
        loop {
            match self.asked.recv_deadline(until) {
                Ok(id) => self.waiting.push_back(id),
                Err(RecvTimeoutError::Timeout) => return true,
                Err(RecvTimeoutError::Disconnected) => return false,
            }
        }
    }

    /// Whoever sends ever other numbers does not fill the memory.
    fn forget(&self) {
        let mut known = lock(&self.shared.known);
        let mut unknown = lock(&self.shared.unknown);
        if unknown.len() >= UNKNOWN_MAX {
            unknown.drain().for_each(|(id, _)| drop(known.remove(&id)));
        }
    }
}
