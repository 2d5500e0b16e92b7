//! A message as the stream has it, asked for by itself.
//!
//! Nobody checks the headers of what is sent to a stream, and a connection on which the client meets some that it cannot read
//! (they are no UTF-8, or lines of their own kind) breaks. Here they come as bytes, in an answer.

use async_nats::{
    HeaderName,
    jetstream::{Context, ErrorCode, message::StreamMessage, response::Response, stream::RawMessage},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    options::said,
    queue::{Headers, Message},
    reader::Trouble,
};

#[derive(Deserialize)]
struct Answer {
    message: RawMessage,
}

/// Whether there is a message of these subjects, or of any, from that number on. The server that leads the stream is asked: a
/// consumer may be at one that lags behind.
pub async fn has_more(context: &Context, stream: &str, subjects: &[String], next: u64) -> Result<bool, Trouble> {
    for subject in wanted(subjects) {
        let newest = ask(context, stream, &json!({ "last_by_subj": subject })).await?;
        if newest.is_some_and(|newest| newest.sequence >= next) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The first message of these subjects, or of any, from that number on.
pub async fn first(
    context: &Context,
    stream: &str,
    subjects: &[String],
    next: u64,
) -> Result<Option<Message>, Trouble> {
    let mut first: Option<RawMessage> = None;
    for subject in wanted(subjects) {
        let found = ask(context, stream, &json!({ "seq": next, "next_by_subj": subject })).await?;
        first = first.into_iter().chain(found).min_by_key(|message| message.sequence);
    }
    first.map(message).transpose()
}

fn wanted(subjects: &[String]) -> impl Iterator<Item = &str> {
    let any = subjects.is_empty().then_some(">");
    any.into_iter().chain(subjects.iter().map(String::as_str))
}

async fn ask(context: &Context, stream: &str, wanted: &Value) -> Result<Option<RawMessage>, Trouble> {
    match context.request(format!("STREAM.MSG.GET.{stream}"), wanted).await {
        Ok(Response::Ok(Answer { message })) => Ok(Some(message)),
        Ok(Response::Err { error }) if error.error_code() == ErrorCode::NO_MESSAGE_FOUND => Ok(None),
        Ok(Response::Err { error }) => Err(Trouble::Passing(error.to_string())),
        Err(error) => Err(Trouble::Passing(said(&error))),
    }
}

fn message(stored: RawMessage) -> Result<Message, Trouble> {
    let decoded = |text: &str| STANDARD.decode(text).map_err(|error| Trouble::Passing(error.to_string()));
    let payload = decoded(&stored.payload)?;
    let head = stored.headers.as_deref().map(decoded).transpose()?;
    let (sequence, subject) = (stored.sequence, stored.subject.clone());
    let taken_ns = i64::try_from(stored.time.unix_timestamp_nanos()).unwrap_or(i64::MAX);
    let bytes = payload.len() + head.as_ref().map_or(0, Vec::len);
    let headers = match (head, StreamMessage::try_from(stored)) {
        (None, _) => Headers::None,
        (Some(_), Ok(readable)) => Headers::Named(readable.headers),
        (Some(head), Err(_)) => Headers::Bytes(head),
    };
    Ok(Message { sequence, subject, payload: payload.into(), headers, bytes, taken_ns })
}

/// The value of the last header of that name, among lines behind the first one.
pub fn header<'a>(head: &'a [u8], name: &HeaderName) -> Option<&'a [u8]> {
    let name: &[u8] = name.as_ref();
    let lines = head.split(|byte| *byte == b'\n').skip(1);
    let values = lines.filter_map(|line| line.strip_prefix(name)?.strip_prefix(b":"));
    values.last().map(<[u8]>::trim_ascii)
}
