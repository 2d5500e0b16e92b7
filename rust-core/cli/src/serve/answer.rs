//! Requests and their answers.
//!
//! `GET /v1/` lists the steps; `GET /v1/STEP?key=…&from=…&to=…&limit=…` gives a key's rows as a JSON array. Everything
//! else is an error, as `{"error": "…"}`.

use std::net::IpAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use ringmill_engine::Control;
use ringmill_engine::plan::retained::RetainedAbout;
use ringmill_state::{Amount, RetainedRange, RetainedReader};
use serde_json::{Value, json};

use crate::config::suggest::did_you_mean;
use crate::window_range::window_range;

/// Rows in an answer, unless it is asked for less or more.
const ROWS: u64 = 1_000;
/// Most rows in an answer.
const ROWS_MAX: u64 = 10_000;
/// Most bytes of rows in an answer.
const BYTES_MAX: u64 = 4 << 20;
/// Says whether older rows were left out.
const MORE: &str = "ringmill-more";

/// What is served.
struct Served {
    steps: Vec<String>,
    control: Arc<Control>,
    is_local: bool,
}

/// Status and what is wrong.
type Refusal = (StatusCode, String);

/// Serves the results of `steps`; `is_local`: only to who asks this machine by its own name.
pub fn router(steps: Vec<String>, control: Arc<Control>, is_local: bool) -> Router {
    let list = get(list);
    Router::new()
        .route("/v1", list.clone())
        .route("/v1/", list)
        .route("/v1/{step}", get(rows))
        .fallback(|| async { refuse((StatusCode::NOT_FOUND, "there is /v1/ and /v1/STEP".to_owned())) })
        .method_not_allowed_fallback(|| async {
            let mut response = refuse((StatusCode::METHOD_NOT_ALLOWED, "only GET is answered".to_owned()));
            response.headers_mut().insert(header::ALLOW, header::HeaderValue::from_static("GET,HEAD"));
            response
        })
        .with_state(Arc::new(Served { steps, control, is_local }))
}

async fn list(State(served): State<Arc<Served>>, headers: HeaderMap) -> Response {
    if let Err(refusal) = served.check_host(&headers) {
        return refuse(refusal);
    }
    let about = |step: &String| {
        let reader = served.control.retained(step)?.ok()?;
        RetainedAbout::read(reader.about()).map(|about| about.key)
    };
    let steps: Vec<Value> =
        served.steps.iter().map(|step| json!({ "step": step, "key": about(step).unwrap_or_default() })).collect();
    answer(StatusCode::OK, json!(steps).to_string())
}

async fn rows(
    State(served): State<Arc<Served>>,
    Path(step): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    if let Err(refusal) = served.check_host(&headers) {
        return refuse(refusal);
    }
    // A read may wait for the disk, and the runtime must not.
    let read = tokio::task::spawn_blocking(move || served.read(&step, query.as_deref().unwrap_or_default()));
    match read.await {
        Ok(Ok((rows, is_more))) => {
            let mut response = answer(StatusCode::OK, array(&rows));
            let more = if is_more { "true" } else { "false" };
            response.headers_mut().insert(MORE, header::HeaderValue::from_static(more));
            response
        }
        Ok(Err(refusal)) => refuse(refusal),
        Err(error) => refuse((StatusCode::INTERNAL_SERVER_ERROR, error.to_string())),
    }
}

impl Served {
    /// A page of a stranger's, in a browser on this machine, can ask a local server under a name of its own.
    fn check_host(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let Some(host) = headers.get(header::HOST).filter(|_| self.is_local) else { return Ok(()) };
        let host = host.to_str().unwrap_or_default();
        let name = match host.strip_prefix('[') {
            Some(rest) => rest.split(']').next().unwrap_or_default(),
            None => host.rsplit_once(':').map_or(host, |(name, _)| name),
        };
        if name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok() {
            return Ok(());
        }
        Err((StatusCode::FORBIDDEN, "ask for localhost or an address".to_owned()))
    }

    fn read(&self, step: &str, query: &str) -> Result<(Vec<Vec<u8>>, bool), Refusal> {
        if !self.steps.iter().any(|known| known == step) {
            let hint = did_you_mean(step, &self.steps).map_or_else(String::new, |hint| format!("; {hint}"));
            return Err((StatusCode::NOT_FOUND, format!("no step called {step:?} retains its results{hint}")));
        }
        let wanted = Wanted::parse(query).map_err(|reason| (StatusCode::BAD_REQUEST, reason))?;
        let unavailable = |reason: String| (StatusCode::SERVICE_UNAVAILABLE, reason);
        let reader: RetainedReader = match self.control.retained(step) {
            Some(reader) => reader.map_err(|error| unavailable(error.to_string()))?,
            None => return Err(unavailable("the pipeline is starting or has ended".to_owned())),
        };
        let about = RetainedAbout::read(reader.about());
        let about = about.ok_or_else(|| unavailable("the store does not say what its keys are".to_owned()))?;
        let key = about.parse_key(&wanted.key).map_err(|reason| (StatusCode::BAD_REQUEST, reason))?;
        let max = Amount { rows: wanted.rows_max, bytes: BYTES_MAX };
        let found = reader.get(&key, wanted.range, max);
        found.map_err(|error| (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))
    }
}

/// What is asked for.
#[derive(Debug, PartialEq)]
struct Wanted {
    key: Vec<String>,
    range: RetainedRange,
    rows_max: u64,
}

impl Wanted {
    fn parse(query: &str) -> Result<Wanted, String> {
        let (mut key, mut from, mut to, mut limit) = (Vec::new(), None, None, None);
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let place = match &*name {
                "key" => {
                    key.push(value.into_owned());
                    continue;
                }
                "from" => &mut from,
                "to" => &mut to,
                "limit" => &mut limit,
                _ => return Err(format!("{name:?} is unknown; there are key, from, to and limit")),
            };
            if place.replace(value.into_owned()).is_some() {
                return Err(format!("{name} is there twice"));
            }
        }
        let range = window_range(from.as_deref(), to.as_deref())?;
        let rows_max = match limit {
            None => ROWS,
            Some(text) => {
                let number = text.parse().ok().filter(|number| (1..=ROWS_MAX).contains(number));
                number.ok_or_else(|| format!("limit: {text:?} is no number from 1 to {ROWS_MAX}"))?
            }
        };
        Ok(Wanted { key, range, rows_max })
    }
}

/// Rows, each an object, as one array.
fn array(rows: &[Vec<u8>]) -> Vec<u8> {
    let mut text = Vec::with_capacity(rows.iter().map(|row| row.len() + 2).sum::<usize>() + 2);
    text.push(b'[');
    for (index, row) in rows.iter().enumerate() {
        if index > 0 {
            text.extend_from_slice(b",\n");
        }
        text.extend_from_slice(row);
    }
    text.extend_from_slice(b"]\n");
    text
}

fn refuse((status, reason): Refusal) -> Response {
    answer(status, json!({ "error": reason }).to_string())
}

fn answer(status: StatusCode, body: impl Into<Body>) -> Response {
    let headers = [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")];
    (status, headers, body.into()).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_says_what_is_wanted_or_what_is_wrong_with_it() {
        let wanted = Wanted::parse("key=a+b&key=%C3%A9&from=1970-01-02&limit=5").expect("right");
        let range = RetainedRange { from_ns: 86_400_000_000_000, ..RetainedRange::default() };
        assert_eq!(wanted, Wanted { key: vec!["a b".into(), "é".into()], range, rows_max: 5 });
        for (query, problem) in [
            ("keys=a", "\"keys\" is unknown; there are key, from, to and limit"),
            ("from=now", "from: \"now\" is no time; write 2026-01-31T10:00:00Z, or 2026-01-31"),
            ("limit=0", "limit: \"0\" is no number from 1 to 10000"),
            ("limit=10001", "limit: \"10001\" is no number from 1 to 10000"),
            ("limit=1&limit=2", "limit is there twice"),
        ] {
            assert_eq!(Wanted::parse(query).unwrap_err(), problem);
        }
    }

    #[test]
    fn rows_become_one_array() {
        assert_eq!(array(&[]), b"[]\n");
        assert_eq!(array(&[b"{}".to_vec(), b"{\"a\":1}".to_vec()]), b"[{},\n{\"a\":1}]\n");
    }
}
