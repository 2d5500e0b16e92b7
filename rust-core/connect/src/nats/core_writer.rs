//! Messages into core NATS, which nobody acknowledges.

use std::{future::Future, time::Duration};

use async_nats::{Client, PublishErrorKind};
use serde_json::Value;
use tokio::{
    sync::mpsc::{UnboundedReceiver, unbounded_channel},
    time::timeout,
};

use super::{
    NatsCoreSink,
    driver::Driver,
    envelope::Envelope,
    options::{connect_noting, refuse, said},
    reader::Trouble,
    subscription::settle,
};
use crate::{
    ConnectError, Fault, Writer,
    message::{Message, messages},
};

/// A call waits so long for servers that take nothing, and then says so.
const PATIENCE: Duration = Duration::from_secs(1);
/// What a message's head may take of the length that the server allows.
const HEAD_BYTES: usize = 1_024;

/// Hands messages to the connection, which is made again when it breaks. What it has not sent by then it sends over the next
/// one, but no more than some thousand messages: with more a call does not come to its end.
pub struct CoreWriter {
    /// used through the driver only
    client: Client,
    driver: Driver,
    /// for people
    name: String,
    envelope: Envelope,
    /// what the servers do not take, in their words
    refused: UnboundedReceiver<String>,
    /// messages of the bytes being written that were handed over already, before a call that failed
    taken: usize,
}

impl CoreWriter {
    pub fn open(sink: &NatsCoreSink) -> Result<CoreWriter, ConnectError> {
        let driver = Driver::start().map_err(|error| refuse(&sink.servers, error.to_string()))?;
        let (said_by_server, refused) = unbounded_channel();
        // Others are of the connection, which is made again.
        let note = move |error: &async_nats::ServerError| {
            let said = error.to_string();
            if said.to_lowercase().contains("permissions violation") {
                let _ = said_by_server.send(said);
            }
        };
        let client = driver.wait(connect_noting(&sink.servers, note))?;
        let envelope = Envelope::new(sink.subject.as_deref(), &sink.headers)?;
        Ok(CoreWriter { client, driver, name: format!("to NATS at {}", sink.servers), envelope, refused, taken: 0 })
    }

    fn failed(&self, reason: impl Into<String>, fault: Fault) -> ConnectError {
        ConnectError::Database { name: self.name.clone(), reason: reason.into(), fault }
    }

    fn lasting(&self, reason: impl Into<String>) -> ConnectError {
        self.failed(reason, Fault::Permanent)
    }

    fn send(&self, message: Message<'_>) -> Result<(), ConnectError> {
        let Message { key, value, headers } = message;
        let subject = self.envelope.subject_of(key).map_err(|reason| self.lasting(reason))?;
        let beside = headers.iter().flatten().map(|value| value.len()).sum::<usize>();
        let headers = self.envelope.headers_of(headers.into_iter()).map_err(|reason| self.lasting(reason))?;
        let bytes_max = self.client.max_payload().saturating_sub(HEAD_BYTES + self.envelope.names_bytes());
        if value.len() + beside > bytes_max {
            let bytes = value.len() + beside;
            let reason =
                format!("a row is a message of {bytes} bytes, and the server's max_payload allows {bytes_max}");
            return Err(self.lasting(reason));
        }
        let payload = value.to_vec().into();
        let sent = if headers.is_empty() {
            self.within(self.client.publish(subject, payload))
        } else {
            self.within(self.client.publish_with_headers(subject, headers, payload))
        };
        sent?.map_err(|error| match error.kind() {
            PublishErrorKind::MaxPayloadExceeded | PublishErrorKind::InvalidSubject => self.lasting(said(&error)),
            _ => self.failed(said(&error), Fault::Transient),
        })
    }

    fn within<T>(&self, sending: impl Future<Output = T>) -> Result<T, ConnectError> {
        let sent = self.driver.wait(async { timeout(PATIENCE, sending).await });
        sent.map_err(|_| self.failed("messages wait to be taken", Fault::Transient))
    }

    /// Waits until the server has read everything that was sent over this connection.
    fn settle(&mut self) -> Result<(), ConnectError> {
        let settled = self.driver.wait(settle(&self.client, &mut self.refused));
        settled.map_err(|trouble| match trouble {
            Trouble::Passing(reason) => self.failed(reason, Fault::Transient),
            Trouble::Lasting(reason) => self.lasting(reason),
        })
    }
}

impl Writer for CoreWriter {
    fn write(&mut self, _epoch: u64, bytes: &[u8]) -> Result<(), ConnectError> {
        for message in messages(bytes, self.envelope.count()).skip(self.taken) {
            let message = message.ok_or_else(|| self.lasting("these bytes are no messages"))?;
            self.send(message)?;
            self.taken += 1;
        }
        self.taken = 0;
        self.refused.try_recv().map_or(Ok(()), |reason| Err(self.lasting(reason)))
    }

    /// The rows are shown already.
    fn pre_commit(&mut self, _epoch: u64) -> Result<Value, ConnectError> {
        self.settle().map(|()| Value::Null)
    }

    fn finish(&mut self) -> Result<(), ConnectError> {
        self.settle()
    }
}
