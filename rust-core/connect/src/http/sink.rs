//! Rows as requests to a server.

use std::{path::PathBuf, sync::Arc, time::Duration};

use ringmill_wire::Schema;

use serde::{Deserialize, Serialize};

use super::{HttpProxy, TokenPlace};
use crate::{ConnectError, Encoder, Format, LetterStore, Promise, Secret, Transactions, Writer};

/// A server that takes requests as a sink.
///
/// With checkpoints, the rows of an epoch are sent when the epoch is committed, in the same requests and each with the same
/// `Idempotency-Key` however often they have to be sent. Without, they are sent as they come, and the key only says that a
/// request is sent again by the same run.
///
/// A server that cannot be reached, is busy (408, 409, 425, 429) or fails (5xx) is waited for, longer each time and as
/// long as it asks for (`Retry-After`). Rows that it refuses (400, 413, 422) end the run, or are kept ([`OnRefused`]); any
/// other answer but 2xx ends the run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpSink {
    /// where requests go
    pub url: Secret,
    /// what they ask for
    pub method: HttpMethod,
    /// what rows are written as; raw: the values of one column
    pub format: Format,
    /// this column, of type utf8 or binary, of raw values; the only one if absent
    pub column: Option<String>,
    /// what is in a request
    pub body: HttpBody,
    /// what requests say that this is; what is usual for it if absent
    pub content_type: Option<String>,
    /// rows in a request, at most
    pub rows_max: usize,
    /// bytes in a request, at most, before compression; a longer row goes alone
    pub bytes_max: usize,
    /// headers of every request
    pub headers: Vec<(String, Secret)>,
    /// what every request shows in `Authorization: Bearer`
    pub token: Option<TokenPlace>,
    /// with https: certificates to trust instead of the system's
    pub root_certificates: Option<PathBuf>,
    /// through which requests go; the environment is not asked for one
    pub proxy: Option<HttpProxy>,
    /// whether bodies are compressed (gzip)
    pub is_compressed: bool,
    /// for a request and its answer
    pub timeout: Duration,
    /// The server takes requests with the same key once.
    pub is_idempotent: bool,
    /// Rows are sent as they come, and not when their checkpoint is complete.
    pub is_at_once: bool,
    /// what becomes of rows that the server refuses
    pub on_refused: OnRefused,
}

/// What becomes of rows that a server refuses for good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OnRefused {
    /// They end the run.
    Stop,
    /// They are appended to this file.
    Append(PathBuf),
    /// With checkpoints they are dead letters of the sink, each once; without, they end the run.
    DeadLetter,
}

/// What a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HttpMethod {
    /// `POST`
    Post,
    /// `PUT`
    Put,
}

/// What is in a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HttpBody {
    /// rows with a line end behind each, below the header if the format has one
    Lines,
    /// an array of JSON objects
    Array,
    /// one row as it is; a request for each
    Row,
}

impl HttpBody {
    /// The name used in configurations.
    pub fn name(self) -> &'static str {
        match self {
            HttpBody::Lines => "lines",
            HttpBody::Array => "array",
            HttpBody::Row => "row",
        }
    }
}

impl HttpSink {
    /// What it promises with checkpoints.
    pub fn promise(&self) -> Promise {
        if self.is_idempotent && !self.is_at_once { Promise::ExactlyOnce } else { Promise::AtLeastOnce }
    }

    /// Whether rows of this format can be in such a body.
    pub fn check_body(format: Format, body: HttpBody) -> Result<(), &'static str> {
        match (format, body) {
            (Format::Raw, HttpBody::Array) => Err("raw values are lines, or each is a body as it is"),
            (Format::Csv, HttpBody::Array | HttpBody::Row) => Err("rows of CSV are lines below their header"),
            (Format::Json | Format::Raw | Format::Csv, _) => Ok(()),
        }
    }

    /// Whether this is a media type, such as `text/plain; charset=utf-8`.
    #[cfg(feature = "http")]
    pub fn check_content_type(text: &str) -> Result<(), &'static str> {
        super::client::check_content_type(text)
    }

    /// What writes rows of this schema; refused if the format cannot carry a column.
    #[cfg(feature = "http")]
    pub fn encoder(&self, schema: &Schema) -> Result<Box<dyn Encoder>, ConnectError> {
        super::terms::row_encoder(self, schema)
    }

    /// Whether `url` is one; the reason never repeats it, as there may be a password in it.
    #[cfg(feature = "http")]
    pub fn check_url(url: &Secret) -> Result<(), String> {
        super::client::origin(url).map(drop)
    }

    /// Whether requests to this address are encrypted.
    #[cfg(feature = "http")]
    pub fn is_encrypted(url: &Secret) -> bool {
        super::client::is_encrypted(url)
    }

    /// Whether requests can have this header, and whether it is not one of ours.
    #[cfg(feature = "http")]
    pub fn check_header(name: &str, value: &Secret) -> Result<(), String> {
        super::client::header(name, value).map(drop)
    }

    /// Sends what a checkpoint has left to be sent. A server that cannot be reached is waited for later. `letters` is where the
    /// sink's dead letters go.
    #[cfg(feature = "http")]
    pub fn open(
        &self,
        schema: &Arc<Schema>,
        transactions: Option<&Transactions<'_>>,
        letters: Option<LetterStore>,
    ) -> Result<Box<dyn Writer>, ConnectError> {
        use crate::courier::{AtOnceWriter, ChunkWriter, EpochWriter};
        let sender = super::writer::Sender::open(self, schema)?;
        Ok(match transactions {
            Some(transactions) if self.is_at_once => Box::new(AtOnceWriter::open(sender, transactions, letters)?),
            Some(transactions) => Box::new(EpochWriter::open(sender, transactions, letters)?),
            None => Box::new(ChunkWriter::new(sender)),
        })
    }

    /// This program was built without HTTP.
    #[cfg(not(feature = "http"))]
    pub fn check_content_type(_text: &str) -> Result<(), &'static str> {
        Ok(())
    }

    /// This program was built without HTTP.
    #[cfg(not(feature = "http"))]
    pub fn encoder(&self, _schema: &Schema) -> Result<Box<dyn Encoder>, ConnectError> {
        Err(ConnectError::Feature("http"))
    }

    /// This program was built without HTTP.
    #[cfg(not(feature = "http"))]
    pub fn check_url(_url: &Secret) -> Result<(), String> {
        Ok(())
    }

    /// This program was built without HTTP.
    #[cfg(not(feature = "http"))]
    pub fn is_encrypted(_url: &Secret) -> bool {
        true
    }

    /// This program was built without HTTP.
    #[cfg(not(feature = "http"))]
    pub fn check_header(_name: &str, _value: &Secret) -> Result<(), String> {
        Ok(())
    }

    /// This program was built without HTTP.
    #[cfg(not(feature = "http"))]
    pub fn open(
        &self,
        _schema: &Arc<Schema>,
        _transactions: Option<&Transactions<'_>>,
        _letters: Option<LetterStore>,
    ) -> Result<Box<dyn Writer>, ConnectError> {
        Err(ConnectError::Feature("http"))
    }
}
