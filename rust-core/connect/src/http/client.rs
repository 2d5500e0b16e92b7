//! One request at a time, and what its answer means.

use std::{
    io::{self, Read, Write},
    path::Path,
    sync::Arc,
    time::Duration,
};

use flate2::{Compression, write::GzEncoder};
use mime::Mime;
use rustls::crypto::ring;
use ureq::{
    Agent, Body, Error,
    http::{
        HeaderName, HeaderValue, Response, StatusCode, Uri,
        header::{
            CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, HOST, LOCATION, RETRY_AFTER, TRANSFER_ENCODING,
        },
    },
    tls::{Certificate, RootCerts, TlsConfig},
};

use super::{HttpMethod, HttpProxy, HttpSink, token::Token};
use crate::{ConnectError, Fault, Secret, backoff::Backoff, tls};

const KEY: &str = "idempotency-key";
/// Shorter values of headers are no secrets, and may stand in a server's words by chance.
const SECRET_BYTES_MIN: usize = 6;
/// What is told of an answer's body.
const TOLD_BYTES: usize = 300;
/// What is read of it, so that the connection can be used again.
const READ_BYTES: u64 = 64 << 10;
/// A server may ask to be left alone that long.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(300);

/// What a server said of a request's rows.
pub enum Answer {
    /// It has them.
    Taken,
    /// It has none of them, and would say so again.
    Refused { status: StatusCode, reason: String },
}

/// A server, and how long it is left alone.
pub struct Client {
    agent: Agent,
    url: Secret,
    /// scheme, host and port, and those of the proxy
    pub name: String,
    method: HttpMethod,
    is_compressed: bool,
    headers: Vec<(HeaderName, HeaderValue)>,
    backoff: Backoff,
}

/// Scheme, host and port of an address that requests can go to.
pub fn origin(url: &Secret) -> Result<String, String> {
    let uri: Uri = url.reveal().parse().map_err(|error| format!("this is no address: {error}"))?;
    let (Some(scheme @ ("http" | "https")), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        return Err("this is no address that begins with http:// or https://".to_owned());
    };
    if authority.as_str().contains('@') {
        return Err("user and password do not belong into it: use token_file, or a header".to_owned());
    }
    if authority.as_str() != authority.host() && authority.port_u16().is_none() {
        return Err("its port must be a number from 1 to 65535".to_owned());
    }
    Ok(format!("{scheme}://{authority}"))
}

/// Whether requests to this address are encrypted.
pub fn is_encrypted(url: &Secret) -> bool {
    origin(url).is_ok_and(|origin| origin.starts_with("https:"))
}

/// A header that requests can have.
pub fn header(name: &str, value: &Secret) -> Result<(HeaderName, HeaderValue), String> {
    let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| "this is no name of a header".to_owned())?;
    if name == CONTENT_TYPE {
        return Err("the sink sets this header itself, to what `content_type` says".to_owned());
    }
    if [CONTENT_ENCODING, CONTENT_LENGTH, HOST, TRANSFER_ENCODING].contains(&name) || name == KEY {
        return Err("the sink sets this header itself".to_owned());
    }
    let mut value = HeaderValue::from_str(value.reveal()).map_err(|_| "no header can have this value".to_owned())?;
    value.set_sensitive(true);
    Ok((name, value))
}

/// Whether this is a media type that a request can have.
pub fn check_content_type(text: &str) -> Result<(), &'static str> {
    let media_type: Mime = text.parse().map_err(|_| "this is no media type")?;
    let is_named = |name: mime::Name<'_>| !name.as_str().is_empty() && name != mime::STAR;
    let is_one = is_named(media_type.type_()) && is_named(media_type.subtype());
    if is_one && HeaderValue::from_str(text).is_ok() { Ok(()) } else { Err("this is no media type of a body") }
}

impl Client {
    /// Reads token, passwords and certificates; connects to nobody.
    pub fn open(sink: &HttpSink) -> Result<Client, ConnectError> {
        let wrong = |reason: String| ConnectError::Target { name: "url and headers".to_owned(), reason };
        let token = sink.token.as_ref().map(Token::read).transpose()?;
        let authorization = token.map(|token| ("authorization".to_owned(), token.shown()));
        let mut headers = Vec::with_capacity(sink.headers.len() + 3);
        for (name, value) in sink.headers.iter().chain(&authorization) {
            headers.push(header(name, value).map_err(|reason| wrong(format!("header {name}: {reason}")))?);
        }
        if sink.is_compressed {
            headers.push((CONTENT_ENCODING, HeaderValue::from_static("gzip")));
        }
        let mut name = origin(&sink.url).map_err(wrong)?;
        let mut encrypted = &sink.url;
        if let Some(proxy) = &sink.proxy {
            name = format!("{name} (through {})", proxy.name()?);
            if is_encrypted(&proxy.url) {
                encrypted = &proxy.url;
            }
        }
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            // One of the environment (HTTP_PROXY) is none of ours.
            .proxy(sink.proxy.as_ref().map(HttpProxy::open).transpose()?)
            .timeout_global(Some(sink.timeout))
            .user_agent(concat!("ringmill/", env!("CARGO_PKG_VERSION")))
            .tls_config(encryption(encrypted, sink.root_certificates.as_deref())?);
        Ok(Client {
            agent: config.build().new_agent(),
            name,
            url: sink.url.clone(),
            method: sink.method,
            is_compressed: sink.is_compressed,
            headers,
            backoff: Backoff::default(),
        })
    }

    /// Whether the server is not left alone; the error says why it is.
    pub fn ready(&self) -> Result<(), ConnectError> {
        self.backoff.check()
    }

    /// Sends a body of this type. While the server is left alone nothing is sent, and the error says why.
    pub fn send(&mut self, key: &str, content_type: &str, body: &[u8]) -> Result<Answer, ConnectError> {
        self.ready()?;
        let packed;
        let body = if self.is_compressed {
            packed = compress(body).map_err(|source| ConnectError::Write { name: self.name.clone(), source })?;
            &packed
        } else {
            body
        };
        let mut sent = self.try_send(key, content_type, body, false);
        if matches!(sent, Err(Error::Io(_))) {
            // As a rule the server has ended a connection that nobody used; or it has refused the request before it had
            // all of it, which is heard only by those who wait for it.
            sent = self.try_send(key, content_type, body, true);
        }
        match sent {
            Ok(response) => self.judge(response),
            Err(error) => {
                let fault = if may_pass(&error) { Fault::Transient } else { Fault::Permanent };
                Err(self.failed(said(&error), fault, Duration::ZERO))
            }
        }
    }

    fn try_send(&self, key: &str, content_type: &str, body: &[u8], is_patient: bool) -> Result<Response<Body>, Error> {
        let mut request = match self.method {
            HttpMethod::Post => self.agent.post(self.url.reveal()),
            HttpMethod::Put => self.agent.put(self.url.reveal()),
        };
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        if is_patient {
            request = request.header(EXPECT, "100-continue");
        }
        request.header(CONTENT_TYPE, content_type).header(KEY, key).send(body)
    }

    fn judge(&mut self, mut response: Response<Body>) -> Result<Answer, ConnectError> {
        let status = response.status();
        let wait = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        let place = response.headers().get(LOCATION).and_then(|value| value.to_str().ok()?.parse::<Uri>().ok());
        let mut body = Vec::new();
        // What is lacking is told to nobody.
        let _ = response.body_mut().as_reader().take(READ_BYTES).read_to_end(&mut body);
        if status.is_success() {
            self.backoff = Backoff::default();
            return Ok(Answer::Taken);
        }
        let mut reason = format!("it answers {status}");
        if let Some(place) = place.filter(|_| status.is_redirection()) {
            let host = place.authority().map_or("another path", |authority| authority.as_str());
            reason.push_str(&format!(" (to {host}; the right address belongs into url)"));
        }
        let told = self.without_secrets(&String::from_utf8_lossy(&body));
        let told = told[..told.floor_char_boundary(TOLD_BYTES)].trim();
        if !told.is_empty() {
            reason.push_str(&format!(": {}", told.escape_debug()));
        }
        match status.as_u16() {
            400 | 413 | 422 => {
                self.backoff = Backoff::default();
                Ok(Answer::Refused { status, reason })
            }
            // 409: the same request is still being worked on; 417: it need not have waited.
            408 | 409 | 417 | 425 | 429 | 500 | 502..=504 | 507 | 520..=599 => {
                let wait = wait.map_or(Duration::ZERO, Duration::from_secs).min(RETRY_AFTER_MAX);
                Err(self.failed(reason, Fault::Transient, wait))
            }
            _ => Err(self.failed(reason, Fault::Permanent, Duration::ZERO)),
        }
    }

    /// A server's words without our path and query and the values of our headers, in which a secret may stand.
    fn without_secrets(&self, words: &str) -> String {
        let uri: Option<Uri> = self.url.reveal().parse().ok();
        let mut words = words.to_owned();
        for part in uri.iter().flat_map(|uri| [uri.path_and_query().map(|both| both.as_str()), Some(uri.path())]) {
            if let Some(part) = part.filter(|part| part.len() > 1) {
                words = words.replace(part, "/…");
            }
        }
        let values = self.headers.iter().map(|(_, value)| value).filter(|value| value.is_sensitive());
        for value in values.filter_map(|value| value.to_str().ok()) {
            // Of a token also what follows its scheme.
            let last = value.rsplit(' ').next().unwrap_or(value);
            for part in [value, last].into_iter().filter(|part| part.len() >= SECRET_BYTES_MIN) {
                words = words.replace(part, "…");
            }
        }
        words
    }

    fn failed(&mut self, reason: String, fault: Fault, wait: Duration) -> ConnectError {
        let error = ConnectError::Database { name: self.name.clone(), reason, fault };
        self.backoff.failed_until(error, wait)
    }
}

/// How a server at this address is known; `file` has the certificates to trust instead of the system's.
pub fn encryption(url: &Secret, file: Option<&Path>) -> Result<TlsConfig, ConnectError> {
    let certificates = if is_encrypted(url) {
        tls::certificates(file).map_err(|reason| ConnectError::Certificates { reason })?
    } else {
        Vec::new()
    };
    let certificates: Vec<_> = certificates.iter().map(|one| Certificate::from_der(one).to_owned()).collect();
    Ok(TlsConfig::builder()
        .root_certs(RootCerts::new_with_certs(&certificates))
        .unversioned_rustls_crypto_provider(Arc::new(ring::default_provider()))
        .build())
}

fn compress(body: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 4), Compression::fast());
    encoder.write_all(body)?;
    encoder.finish()
}

/// Whether the same request may come through later.
pub fn may_pass(error: &Error) -> bool {
    match error {
        // A certificate that is not believed comes as an error of the stream.
        Error::Io(source) => !source.get_ref().is_some_and(|inner| inner.is::<rustls::Error>()),
        Error::Timeout(_) | Error::HostNotFound | Error::ConnectionFailed | Error::Protocol(_) => true,
        Error::ConnectProxyFailed(reason) => {
            let status = proxy_status(reason);
            !status.is_some_and(|status| status.is_client_error() && !matches!(status.as_u16(), 408 | 425 | 429))
        }
        _ => false,
    }
}

/// What a proxy answers that does not connect us, as the library words it.
fn proxy_status(reason: &str) -> Option<StatusCode> {
    reason.strip_prefix("proxy server responded ")?.get(..3)?.parse().ok()
}

/// What went wrong, in words.
pub fn said(error: &Error) -> String {
    match error {
        Error::Io(source) => {
            let encryption = source.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
            match encryption {
                Some(rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer)) => {
                    format!("{source} (ca_file names a file with the certificates to trust)")
                }
                _ => source.to_string(),
            }
        }
        Error::ConnectProxyFailed(reason) => match proxy_status(reason) {
            Some(StatusCode::PROXY_AUTHENTICATION_REQUIRED) => {
                "the proxy answers 407 Proxy Authentication Required: look at proxy_user and proxy_password_file"
                    .to_owned()
            }
            Some(status) => format!("the proxy answers {status}"),
            None => format!("the proxy: {reason}"),
        },
        error => error.to_string(),
    }
}
