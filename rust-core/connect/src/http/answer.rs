//! Requests and their answers, all of them JSON: `{"accepted": 2}` or `{"error": "…"}`.

use std::{convert::Infallible, mem, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode,
    body::Incoming,
    header::{self, HeaderName, HeaderValue},
};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{
    body::{self, Coding, Failed},
    intake::{Intake, Refusal},
    records,
    token::Token,
};
use crate::{
    FieldMisfit, Fields,
    file::rows::Trouble,
    parcel::{self, Kind},
};

/// What is read of a refused request, at most, takes so long.
const DISCARD_TIME_MAX: Duration = Duration::from_secs(2);

/// Types of bodies.
const ACCEPTED: &str = "application/x-ndjson, application/json, application/vnd.apache.arrow.stream, application/avro, \
                        application/vnd.ringmill.micro-batch";
const ACCEPTED_TYPED: &str = "application/x-ndjson, application/json";

/// What is served, and within which limits.
pub struct Served {
    pub path: String,
    pub token: Option<Token>,
    /// into which rows must fit
    pub fields: Fields,
    pub request_bytes_max: usize,
    pub request_timeout: Duration,
    pub intake: Arc<Intake>,
}

/// A status, what is wrong, and a header that says more.
type Wrong = (StatusCode, String, Option<(HeaderName, &'static str)>);

/// How a body is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Lines,
    Json,
    Arrow,
    Avro,
    MicroBatch,
}

/// Answers one request.
pub async fn answer(served: Arc<Served>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, mut body) = request.into_parts();
    let taken = match served.check(&head.method, head.uri.path(), &head.headers) {
        Ok((form, coding)) => served.take(&mut body, form, coding).await,
        Err(wrong) => Err(wrong),
    };
    let (status, content, header) = match taken {
        Ok(count) => (StatusCode::ACCEPTED, json!({ "accepted": count }), None),
        Err((status, reason, header)) => {
            body::discard(&mut body, 2 * served.request_bytes_max, Instant::now() + DISCARD_TIME_MAX).await;
            (status, json!({ "error": reason }), header)
        }
    };
    Ok(response(status, &content, header))
}

impl Served {
    /// Whether rows are of several types.
    fn is_typed(&self) -> bool {
        self.fields.types().is_some()
    }

    fn form(&self, headers: &HeaderMap) -> Result<Form, String> {
        let form = form(headers).map_err(|other| {
            format!(
                "content-type is {other}; lines of JSON are sent as application/x-ndjson, an array as application/json, \
                 Arrow as application/vnd.apache.arrow.stream, Avro as application/avro, micro-batches as \
                 application/vnd.ringmill.micro-batch"
            )
        })?;
        match form {
            Form::Arrow | Form::Avro | Form::MicroBatch if self.is_typed() => {
                Err("rows of several types are sent as JSON, in which each says its own".to_owned())
            }
            form => Ok(form),
        }
    }

    /// What can be said before the body has come.
    fn check(&self, method: &Method, path: &str, headers: &HeaderMap) -> Result<(Form, Coding), Wrong> {
        if path != self.path {
            return Err(wrong(StatusCode::NOT_FOUND, format!("there is {} only", self.path)));
        }
        if method != Method::POST {
            let allowed = Some((header::ALLOW, "POST"));
            return Err((StatusCode::METHOD_NOT_ALLOWED, "only POST is answered".to_owned(), allowed));
        }
        match &self.token {
            Some(token) if !token.is_in(headers) => {
                let reason = "a header `authorization: Bearer …` with the token of this source is needed";
                let scheme = Some((header::WWW_AUTHENTICATE, "Bearer"));
                return Err((StatusCode::UNAUTHORIZED, reason.to_owned(), scheme));
            }
            // A page of a stranger's, in a browser that can reach this address, may send what it likes, but not hide this.
            None if headers.contains_key(header::ORIGIN) => {
                let reason = "web pages are answered only where a token is needed";
                return Err(wrong(StatusCode::FORBIDDEN, reason.to_owned()));
            }
            _ => {}
        }
        let accepted = if self.is_typed() { ACCEPTED_TYPED } else { ACCEPTED };
        let accepted = Some((header::ACCEPT, accepted));
        let form = self.form(headers).map_err(|reason| (StatusCode::UNSUPPORTED_MEDIA_TYPE, reason, accepted))?;
        let accepted = Some((header::ACCEPT_ENCODING, "gzip, zstd"));
        let coding = coding(headers).map_err(|reason| (StatusCode::UNSUPPORTED_MEDIA_TYPE, reason, accepted))?;
        if self.intake.is_ending() {
            return Err(self.refused(Refusal::Ending));
        }
        Ok((form, coding))
    }

    /// How many records were taken.
    async fn take(&self, body: &mut Incoming, form: Form, coding: Coding) -> Result<u64, Wrong> {
        let deadline = Instant::now() + self.request_timeout;
        let packed = body::receive(body, &self.intake, self.request_bytes_max, deadline).await;
        let packed = packed.map_err(|failed| self.failed(failed))?;
        let unpacked = body::unpack(packed, coding, &self.intake, self.request_bytes_max).await;
        let (mut content, room) = unpacked.map_err(|failed| self.failed(failed))?;
        let (kind, count) = match form {
            Form::Lines => (Kind::Lines, records::lines(&mut content)),
            Form::Json => {
                let count = records::elements(&mut content);
                let not_json = |error| wrong(StatusCode::BAD_REQUEST, format!("the body is {error}"));
                (Kind::Lines, count.map_err(not_json)?)
            }
            Form::Arrow => (Kind::Arrow, self.count(Kind::Arrow, &mut content)?),
            Form::Avro => (Kind::Avro, self.count(Kind::Avro, &mut content)?),
            Form::MicroBatch => (Kind::MicroBatch, self.count(Kind::MicroBatch, &mut content)?),
        };
        if count > 0 {
            let deadline = Instant::now() + self.request_timeout;
            self.intake.put(kind, content, room, deadline).await.map_err(|refusal| self.refused(refusal))?;
        }
        Ok(count)
    }

    /// How many rows a body has that has its columns with it. All of it is read before anything of it is taken.
    fn count(&self, kind: Kind, content: &mut Vec<u8>) -> Result<u64, Wrong> {
        let shared = Arc::new(mem::take(content));
        let counted = parcel::count_rows(kind, &shared, &self.fields, self.request_bytes_max as u64);
        *content = Arc::unwrap_or_clone(shared);
        counted.map_err(|trouble| match trouble {
            Trouble::TooLong(_) => self.failed(Failed::TooLong),
            Trouble::Misfits(misfits) => {
                wrong(StatusCode::BAD_REQUEST, format!("the body {}", FieldMisfit::of_many(misfits)))
            }
            Trouble::Broken(reason) => wrong(StatusCode::BAD_REQUEST, format!("the body cannot be read: {reason}")),
            Trouble::Io(error) => wrong(StatusCode::BAD_REQUEST, format!("the body cannot be read: {error}")),
        })
    }

    fn failed(&self, failed: Failed) -> Wrong {
        match failed {
            Failed::TooLong => {
                let reason = format!("the body is longer than {} bytes (request_size_max)", self.request_bytes_max);
                wrong(StatusCode::PAYLOAD_TOO_LARGE, reason)
            }
            Failed::TooSlow => {
                let reason = format!("the body did not come within {:?} (request_timeout)", self.request_timeout);
                wrong(StatusCode::REQUEST_TIMEOUT, reason)
            }
            Failed::Broken(reason) => wrong(StatusCode::BAD_REQUEST, format!("the body is not whole: {reason}")),
            Failed::Refused(refusal) => self.refused(refusal),
        }
    }

    fn refused(&self, refusal: Refusal) -> Wrong {
        let (status, reason) = match refusal {
            Refusal::Full => (StatusCode::TOO_MANY_REQUESTS, "the pipeline is full, and nothing was taken"),
            Refusal::Ending => (StatusCode::SERVICE_UNAVAILABLE, "the run is ending"),
            Refusal::Unknown => {
                (StatusCode::SERVICE_UNAVAILABLE, "the rows are not safe yet, and whether they will be is not known")
            }
        };
        (status, reason.to_owned(), Some((header::RETRY_AFTER, "1")))
    }
}

fn wrong(status: StatusCode, reason: String) -> Wrong {
    (status, reason, None)
}

/// How a body is written; lines, unless it is said otherwise. The error says what it is called.
fn form(headers: &HeaderMap) -> Result<Form, String> {
    let Some(value) = headers.get(header::CONTENT_TYPE) else { return Ok(Form::Lines) };
    let text = String::from_utf8_lossy(value.as_bytes()).to_ascii_lowercase();
    match text.split(';').next().unwrap_or_default().trim() {
        "application/x-ndjson" | "application/ndjson" | "application/jsonl" | "text/plain" => Ok(Form::Lines),
        "application/json" => Ok(Form::Json),
        "application/vnd.apache.arrow.stream" | "application/vnd.apache.arrow.file" => Ok(Form::Arrow),
        "application/avro" | "application/vnd.apache.avro" | "avro/binary" => Ok(Form::Avro),
        "application/vnd.ringmill.micro-batch" => Ok(Form::MicroBatch),
        other => Err(other.to_owned()),
    }
}

fn coding(headers: &HeaderMap) -> Result<Coding, String> {
    let Some(value) = headers.get(header::CONTENT_ENCODING) else { return Ok(Coding::Plain) };
    match &*String::from_utf8_lossy(value.as_bytes()).trim().to_ascii_lowercase() {
        "" | "identity" => Ok(Coding::Plain),
        "gzip" | "x-gzip" => Ok(Coding::Gzip),
        "zstd" => Ok(Coding::Zstd),
        other => Err(format!("content-encoding is {other}; gzip and zstd are unpacked")),
    }
}

fn response(status: StatusCode, content: &Value, header: Option<(HeaderName, &'static str)>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(format!("{content}\n"))));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.extend(header.map(|(name, value)| (name, HeaderValue::from_static(value))));
    response
}
