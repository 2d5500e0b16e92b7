//! Sinks to servers. Tests in and outside of the crate use them.

use std::{path::Path, time::Duration};

use super::{Format, HttpBody, HttpMethod, HttpSink, OnRefused, Secret};

/// A sink to the keeper of folders, with two rows in a request.
pub fn sink_to_keeper(address: &str, folder: &Path) -> HttpSink {
    let mut sink = sink_to(&format!("http://{address}{}", folder.display()));
    (sink.rows_max, sink.is_idempotent) = (2, true);
    sink
}

/// A sink with everything as it is by default.
pub fn sink_to(url: &str) -> HttpSink {
    HttpSink {
        url: Secret::new(url),
        method: HttpMethod::Post,
        format: Format::Json,
        column: None,
        body: HttpBody::Lines,
        content_type: None,
        rows_max: 1_000,
        bytes_max: 1 << 20,
        headers: Vec::new(),
        token: None,
        root_certificates: None,
        proxy: None,
        is_compressed: false,
        timeout: Duration::from_secs(30),
        is_idempotent: false,
        is_at_once: false,
        on_refused: OnRefused::Stop,
    }
}
