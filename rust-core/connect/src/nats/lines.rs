//! A message, and what stands beside it, as a record.

use async_nats::HeaderName;

use super::{NatsFields, NatsSpec, queue::Message};
use crate::{
    ConnectError, Fields, MessageFormat,
    message::{Member, Record, Recorder},
};

/// Makes records of messages.
pub struct Lines {
    fields: NatsFields,
    /// the headers' names, and whether their columns are binary
    headers: Vec<(HeaderName, bool)>,
    /// the header that says an event's type
    type_header: Option<HeaderName>,
    recorder: Recorder,
}

impl Lines {
    pub fn new(message_fields: &NatsFields, columns: &Fields, format: &MessageFormat) -> Result<Lines, ConnectError> {
        let fields = message_fields.clone();
        let headers = fields.headers.iter().map(|header| {
            let name = header_name("header_fields", &header.header)?;
            Ok((name, columns.is_binary(&header.field)))
        });
        let type_header = columns.types().and_then(|types| types.header());
        Ok(Lines {
            headers: headers.collect::<Result<_, ConnectError>>()?,
            type_header: type_header.map(|header| header_name("type.header", header)).transpose()?,
            recorder: Recorder::new(format, !fields.names().is_empty()),
            fields,
        })
    }

    /// The message as a record; `None`: there is nothing in it.
    pub fn of<'a>(&'a mut self, message: &'a Message) -> Option<Record<'a>> {
        let Lines { fields, headers, type_header, recorder } = self;
        let members = [
            (&fields.subject, Member::Text(message.subject.as_bytes())),
            (&fields.sequence, Member::Number(i64::try_from(message.sequence).unwrap_or(i64::MAX))),
            (&fields.timestamp, Member::Number(message.taken_ns)),
        ];
        let members = members.into_iter().filter_map(|(name, member)| Some((name.as_deref()?, member)));
        let headers = fields.headers.iter().zip(headers.iter());
        let headers = headers
            .map(|(header, (name, is_binary))| (header.field.as_str(), Member::of(message.header(name), *is_binary)));
        let record = recorder.record(&message.payload, members.chain(headers))?;
        Some(match type_header {
            Some(name) => Record { header: message.header(name).unwrap_or_default(), ..record },
            None => record,
        })
    }
}

/// Refused where no message can have such a header; the client would panic.
pub fn header_name(option: &'static str, name: &str) -> Result<HeaderName, ConnectError> {
    let rule = "names of headers in NATS are ASCII without spaces and colons";
    let refuse = || ConnectError::Spec { option, value: format!("{name:?}"), rule };
    if !NatsSpec::is_header(name) {
        return Err(refuse());
    }
    name.parse().map_err(|_| refuse())
}
