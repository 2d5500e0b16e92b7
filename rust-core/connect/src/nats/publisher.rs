//! Messages into a stream, each of which it acknowledges.

use std::{error::Error, future::IntoFuture, io::BufRead, time::Duration};

use async_nats::{
    HeaderMap,
    connection::State,
    header::{NATS_EXPECTED_STREAM, NATS_MESSAGE_ID},
    jetstream::{
        self, Context, ContextBuilder, ErrorCode,
        context::{PublishError, PublishErrorKind},
    },
};
use ringmill_failpoint::hit;
use tokio::time::timeout;

use super::{
    NatsSink,
    driver::Driver,
    envelope::Envelope,
    extent::config,
    options::{connect, refuse, said},
    reader::Trouble,
    subject::meet,
};
use crate::{
    ConnectError, Fault,
    backoff::Backoff,
    courier::{Courier, Refused},
    headers,
    message::{Message, OwnedMessage, messages, read_message},
    staging::{Sealed, StagePoints, Staged, stage_points},
};

static POINTS: StagePoints = stage_points!("sink.nats");

/// So many messages, and bytes, are sent before the first of them is acknowledged.
const MESSAGES_MAX: usize = 1_000;
const BYTES_MAX: usize = 4 << 20;
/// An acknowledgement is waited for so long.
const PATIENCE: Duration = Duration::from_secs(5);
const SILENT: &str = "it does not answer";
/// What is said where there is no room.
const FULL: [ErrorCode; 2] = [ErrorCode::ACCOUNT_RESOURCES_EXCEEDED, ErrorCode::STORAGE_RESOURCES_EXCEEDED];
/// What a message's head may take of the length that the server allows.
const HEAD_BYTES: usize = 1_024;

/// The way to the stream.
pub struct Publisher {
    /// used through the driver only
    context: Context,
    driver: Driver,
    /// for people
    name: String,
    stream: String,
    envelope: Envelope,
    /// of the headers' names and columns
    terms: u32,
    /// those that the stream takes
    subjects: Vec<String>,
    /// messages that the stream takes are not longer
    bytes_max: Option<usize>,
    backoff: Backoff,
}

struct Outgoing {
    subject: String,
    headers: HeaderMap,
    payload: Vec<u8>,
}

impl Publisher {
    /// Connects, and asks for the stream.
    pub fn open(sink: &NatsSink) -> Result<Publisher, ConnectError> {
        let driver = Driver::start().map_err(|error| refuse(&sink.servers, error.to_string()))?;
        let context = driver.wait(async {
            let client = connect(&sink.servers).await?;
            Ok::<_, ConnectError>(ContextBuilder::new().timeout(PATIENCE).build(client))
        })?;
        let mut publisher = Publisher {
            context,
            driver,
            name: format!("to stream {:?} of NATS at {}", sink.stream, sink.servers),
            stream: sink.stream.clone(),
            envelope: Envelope::new(sink.subject.as_deref(), &sink.headers)?,
            terms: headers::terms(&sink.headers),
            subjects: Vec::new(),
            bytes_max: None,
            backoff: Backoff::default(),
        };
        publisher.look()?;
        if let Some(subject) = &sink.subject {
            publisher.check_subject(subject)?;
        }
        Ok(publisher)
    }

    /// Asks for what the stream takes.
    fn look(&mut self) -> Result<(), ConnectError> {
        let asked = async { timeout(2 * PATIENCE, config(&self.context, &self.stream)).await };
        let found = self.driver.wait(asked).unwrap_or_else(|_| Err(Trouble::Passing(SILENT.to_owned())));
        let config = found.map_err(|trouble| match trouble {
            Trouble::Lasting(reason) => self.failed(reason, Fault::Permanent),
            Trouble::Passing(reason) => self.failed(reason, Fault::Transient),
        })?;
        if config.no_ack {
            return Err(self.failed("the stream acknowledges nothing (no_ack)".to_owned(), Fault::Permanent));
        }
        self.subjects = config.subjects;
        self.bytes_max = usize::try_from(config.max_message_size).ok();
        Ok(())
    }

    /// The stream may have got further subjects meanwhile.
    fn refresh(&mut self, subject: &str) -> Result<(), ConnectError> {
        if !self.takes(subject) {
            self.look()?;
        }
        self.check_subject(subject)
    }

    fn check_subject(&self, subject: &str) -> Result<(), ConnectError> {
        if self.takes(subject) {
            return Ok(());
        }
        let reason = format!("the stream takes no messages of subject {subject:?}, but of {:?}", self.subjects);
        Err(self.failed(reason, Fault::Permanent))
    }

    fn takes(&self, subject: &str) -> bool {
        self.subjects.iter().any(|pattern| meet(subject, pattern))
    }

    /// The subject of a row, if a message can have it.
    fn subject_of(&self, key: Option<&[u8]>) -> Result<String, ConnectError> {
        self.envelope.subject_of(key).map_err(|reason| self.failed(reason, Fault::Permanent))
    }

    /// The headers of a row, if a message can have them.
    fn headers_of<'a>(&self, values: impl Iterator<Item = Option<&'a [u8]>>) -> Result<HeaderMap, ConnectError> {
        self.envelope.headers_of(values).map_err(|reason| self.failed(reason, Fault::Permanent))
    }

    fn failed(&self, reason: String, fault: Fault) -> ConnectError {
        ConnectError::Database { name: self.name.clone(), reason, fault }
    }

    /// What an error of a message means.
    fn judge(&mut self, error: &PublishError) -> ConnectError {
        let answer = error.source().and_then(|source| source.downcast_ref::<jetstream::Error>());
        let fault = match (error.kind(), answer) {
            (PublishErrorKind::MaxPayloadExceeded, _) => Fault::Permanent,
            (_, Some(answer)) if FULL.contains(&answer.error_code()) => Fault::OutOfSpace,
            (_, Some(answer)) if answer.code() == 400 => Fault::Permanent,
            _ => Fault::Transient,
        };
        if error.kind() == PublishErrorKind::StreamNotFound
            && let Err(gone) = self.look()
        {
            return gone;
        }
        self.failed(said(error), fault)
    }
}

/// Sends some messages, the first of which has this number; how many of them, from the first one on, the stream has. An error
/// that is `None`: nobody takes them.
async fn publish(
    context: &Context,
    stream: &str,
    (key, first): (&str, u64),
    group: Vec<Outgoing>,
) -> (u64, Result<(), Option<PublishError>>) {
    let (mut sent, mut error) = (Vec::with_capacity(group.len()), None);
    for (number, Outgoing { subject, mut headers, payload }) in (first..).zip(group) {
        headers.insert(NATS_MESSAGE_ID, format!("{key}/{number}").as_str());
        headers.insert(NATS_EXPECTED_STREAM, stream);
        match timeout(PATIENCE, context.publish_with_headers(subject, headers, payload.into())).await {
            Ok(Ok(acknowledged)) => sent.push(acknowledged.into_future()),
            refused => {
                error = Some(refused.ok().and_then(Result::err));
                break;
            }
        }
    }
    let mut taken = 0;
    for acknowledged in sent {
        if let Err(refused) = acknowledged.await {
            return (taken, Err(Some(refused)));
        }
        taken += 1;
    }
    (taken, error.map_or(Ok(()), Err))
}

impl Courier for Publisher {
    /// Rows have values of these headers.
    type Terms = u32;

    const POINTS: (&'static StagePoints, [&'static str; 2]) = (&POINTS, ["sink.nats.mark", "sink.nats.marked"]);

    fn name(&self) -> &str {
        &self.name
    }

    fn terms(&self) -> u32 {
        self.terms
    }

    fn check(&mut self, rows: &[u8]) -> Result<(), ConnectError> {
        let of_server = self.context.client().max_payload();
        let bytes_max = self.bytes_max.map_or(of_server, |of_stream| of_stream.min(of_server));
        let bytes_max = bytes_max.saturating_sub(HEAD_BYTES + self.envelope.names_bytes());
        for message in messages(rows, self.envelope.count()) {
            let foreign = || self.failed("these bytes are no messages".to_owned(), Fault::Permanent);
            let Message { key, value, headers } = message.ok_or_else(foreign)?;
            let subject = self.subject_of(key)?;
            self.refresh(&subject)?;
            self.headers_of(headers.iter().copied())?;
            let beside = headers.iter().flatten().map(|value| value.len()).sum::<usize>();
            if value.len() + beside > bytes_max {
                let reason = format!(
                    "a row is a message of {} bytes, and {} allows {bytes_max}",
                    value.len() + beside,
                    if self.bytes_max.is_some_and(|of_stream| of_stream < of_server) {
                        "the stream's max_msg_size"
                    } else {
                        "the server's max_payload"
                    }
                );
                return Err(self.failed(reason, Fault::Permanent));
            }
        }
        Ok(())
    }

    fn ready(&self) -> Result<(), ConnectError> {
        self.backoff.check()
    }

    fn send(
        &mut self,
        key: &str,
        mut rows: impl BufRead,
        terms: u32,
        done: &mut u64,
        _: &mut Refused<'_>,
    ) -> Result<(), ConnectError> {
        self.ready()?;
        if terms != self.terms {
            let reason =
                "the checkpoint has rows for it with other `headers`; run the pipeline once as it was, or with --fresh";
            return Err(self.failed(reason.to_owned(), Fault::Permanent));
        }
        let unread = |source| ConnectError::Read { name: format!("the rows for {key}"), offset: 0, source };
        let mut number = 0;
        loop {
            let (mut group, mut bytes) = (Vec::new(), 0);
            while group.len() < MESSAGES_MAX && bytes < BYTES_MAX {
                let message = read_message(&mut rows, self.envelope.count()).map_err(unread)?;
                let Some(OwnedMessage { key, value: payload, headers }) = message else { break };
                if number >= *done {
                    bytes += payload.len();
                    let subject = self.subject_of(key.as_deref())?;
                    let headers = self.headers_of(headers.iter().map(Option::as_deref))?;
                    group.push(Outgoing { subject, headers, payload });
                }
                number += 1;
            }
            if group.is_empty() {
                return Ok(());
            }
            if self.context.client().connection_state() != State::Connected {
                let error = self.failed("there is no connection".to_owned(), Fault::Transient);
                return Err(self.backoff.failed(error));
            }
            hit("sink.nats.send");
            let sending = publish(&self.context, &self.stream, (key, *done), group);
            let (taken, sent) = self.driver.wait(sending);
            *done += taken;
            hit("sink.nats.sent");
            if let Err(error) = sent {
                let error = match error {
                    Some(error) => self.judge(&error),
                    None => self.failed(SILENT.to_owned(), Fault::Transient),
                };
                return Err(self.backoff.failed(error));
            }
            self.backoff = Backoff::default();
        }
    }

    fn staged(rows: Sealed, writer: String, headers: u32) -> Staged {
        Staged::Nats { rows, writer, headers }
    }

    fn unstaged(staged: Staged) -> Result<(Sealed, String, u32), Staged> {
        match staged {
            Staged::Nats { rows, writer, headers } => Ok((rows, writer, headers)),
            other => Err(other),
        }
    }
}
