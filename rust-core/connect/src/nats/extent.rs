//! Which messages a stream has, and whether the next one that we want is among them.

use async_nats::jetstream::{
    Context, ErrorCode,
    context::GetStreamErrorKind,
    stream::{Config, Info, RetentionPolicy},
};

use super::{options::said, reader::Trouble};

/// A stream, as it is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// nanoseconds since 1970
    pub created_ns: i64,
    /// the number of the oldest message, or of the next one if there is none
    pub first: u64,
    /// the number that the next message will have
    pub end: u64,
}

impl Extent {
    /// Asks for it; refused if the stream is not there, or not one that can be read again.
    pub async fn look(context: &Context, stream: &str) -> Result<Extent, Trouble> {
        let info = info(context, stream).await?;
        if info.config.retention != RetentionPolicy::Limits {
            return Err(Trouble::Lasting(format!(
                "stream {stream:?} keeps a message only until it is acknowledged, so nothing could be read again after a \
                 crash: its retention must be `limits`"
            )));
        }
        Ok(Extent::of(&info))
    }

    fn of(info: &Info) -> Extent {
        let state = &info.state;
        Extent {
            created_ns: i64::try_from(info.created.unix_timestamp_nanos()).unwrap_or(i64::MAX),
            // A stream that never had a message says 0.
            first: state.first_sequence.max(1),
            end: state.last_sequence + 1,
        }
    }

    /// Whether nothing is missing from `next` on, which is a number of the stream that was created at that time.
    pub fn check(&self, next: u64, created_ns: i64) -> Result<(), String> {
        let Extent { first, end, .. } = *self;
        if created_ns != self.created_ns {
            return Err("the stream was deleted and created anew; --fresh begins anew".to_owned());
        }
        if next < first {
            return Err(format!(
                "messages {next} to {} went before they were read: they were purged, or the stream keeps too few or for too \
                 short a time; --fresh begins anew",
                first - 1
            ));
        }
        if next > end {
            return Err(format!(
                "message {next} would be next, and the stream ends before message {end}: was an older state of it put back? \
                 --fresh begins anew"
            ));
        }
        Ok(())
    }
}

/// How a stream is configured.
pub async fn config(context: &Context, stream: &str) -> Result<Config, Trouble> {
    Ok(info(context, stream).await?.config)
}

async fn info(context: &Context, stream: &str) -> Result<Info, Trouble> {
    let found = context.get_stream(stream).await.map_err(|error| match error.kind() {
        GetStreamErrorKind::JetStream(answer) if answer.error_code() == ErrorCode::STREAM_NOT_FOUND => {
            Trouble::Lasting(format!("there is no stream {stream:?}"))
        }
        GetStreamErrorKind::JetStream(answer) => Trouble::Passing(answer.to_string()),
        _ => Trouble::Passing(said(&error)),
    })?;
    Ok(found.cached_info().clone())
}
