//! The way of messages to the broker: one session after the other, of one connection or of several.
//!
//! With quality of service 2 the broker keeps the session when a connection breaks, and the next one goes on with what was
//! under way: as long as it does, it takes each message once. Such a session is begun with nothing in it, for what an
//! earlier run had under way may come again from its checkpoint, under other numbers.

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use super::{
    connection::{self, Breakage, Event},
    options::{Options, PAUSE, PAUSE_MAX},
    outbox::Outbox,
};

/// A session is given up when so many connections have brought nothing to an end.
const FRUITLESS_MAX: usize = 5;

/// Brings what is in the outbox to the broker.
pub struct Link {
    options: Options,
    outbox: Arc<Outbox>,
    was_connected: bool,
    pause: Duration,
}

/// How a session ended.
enum Ended {
    /// by us, as it should
    Over,
    /// for ever, because of this
    Failed(String),
    /// and there is to be another one
    Broken,
}

impl Link {
    pub fn new(options: Options, outbox: Arc<Outbox>) -> Link {
        Link { options, outbox, was_connected: false, pause: PAUSE }
    }

    /// Goes on until nothing more comes.
    pub fn run(mut self) {
        let _ending = Ending(Arc::clone(&self.outbox));
        while !self.outbox.is_over() {
            self.outbox.forget();
            let ended = match self.empty() {
                Ended::Over => self.session(),
                ended => ended,
            };
            match ended {
                Ended::Over => return,
                Ended::Failed(fault) => return self.outbox.fail(fault),
                Ended::Broken => self.wait(),
            }
        }
    }

    /// Has the broker throw away what it knows of a session that it is to keep.
    fn empty(&mut self) -> Ended {
        if !self.options.keeps_session {
            return Ended::Over;
        }
        let (client, mut connection) = connection::open(&Options { keeps_session: false, ..self.options.clone() });
        loop {
            match connection.next() {
                Event::Connected { .. } => {
                    self.was_connected = true;
                    client.disconnect();
                }
                Event::Broken(breakage) => return self.broken(breakage),
                Event::Over => return Ended::Over,
                _ => {}
            }
        }
    }

    fn session(&mut self) -> Ended {
        let (client, mut connection) = connection::open(&self.options);
        let (mut is_begun, mut fruitless, mut since) = (false, 0, Instant::now());
        loop {
            match connection.next() {
                Event::Connected { has_session: false } if is_begun => {
                    self.outbox.lost("it has not kept the session".to_owned());
                    return Ended::Broken;
                }
                Event::Connected { .. } => {
                    tracing::info!("connected to MQTT broker {}", self.options.broker);
                    self.outbox.connected(&client);
                    (self.was_connected, is_begun, since) = (true, true, Instant::now());
                    fruitless += 1;
                }
                Event::Sent(number) => self.outbox.sent(number),
                Event::Taken(number) => {
                    self.outbox.acknowledged(number);
                    // Not before: a broker may end each connection because of what it is sent.
                    (self.pause, fruitless) = (PAUSE, 0);
                }
                Event::Refused { number, reason, may_pass } => {
                    let topic = self.outbox.topic(number).unwrap_or_default();
                    let fault = format!("it refuses a message to topic {topic:?}: {reason}");
                    if !may_pass {
                        return Ended::Failed(fault);
                    }
                    self.outbox.lost(fault);
                    return Ended::Broken;
                }
                Event::Broken(breakage) => {
                    if is_begun && since.elapsed() > PAUSE_MAX {
                        self.pause = PAUSE;
                    }
                    let ended = self.broken(breakage);
                    let goes_on = self.options.keeps_session && is_begun && fruitless < FRUITLESS_MAX;
                    if !goes_on || matches!(ended, Ended::Failed(_)) {
                        return ended;
                    }
                    self.wait();
                    if self.outbox.is_over() {
                        return Ended::Over;
                    }
                    if !connection.resume(&self.outbox.interrupted()) {
                        return Ended::Broken;
                    }
                }
                Event::Over => return Ended::Over,
                Event::Message(_) | Event::Subscribed { .. } => {}
            }
        }
    }

    fn broken(&self, breakage: Breakage) -> Ended {
        let Breakage { error, refusal, is_lasting } = breakage;
        if is_lasting {
            return Ended::Failed(error);
        }
        if let Some(reason) = refusal.filter(|_| !self.was_connected) {
            return Ended::Failed(format!("it{reason}"));
        }
        self.outbox.lost(error);
        Ended::Broken
    }

    fn wait(&mut self) {
        if !self.outbox.is_over() {
            thread::sleep(self.pause);
            self.pause = (self.pause * 2).min(PAUSE_MAX);
        }
    }
}

/// Says so when the thread ends, however that comes.
struct Ending(Arc<Outbox>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.fail("its connection's thread has ended".to_owned());
    }
}
