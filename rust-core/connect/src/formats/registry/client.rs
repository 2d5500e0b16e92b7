//! Asks a schema registry for a schema, or tells it one, one request at a time.

use std::{collections::HashSet, io::Read};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use ureq::{
    Agent, Body,
    http::{
        HeaderValue, Response, StatusCode,
        header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE},
    },
};

use super::RegistrySpec;
use crate::{ConnectError, http::client};

const CONTENT: &str = "application/vnd.schemaregistry.v1+json, application/json";
const CONTENT_SENT: &str = "application/vnd.schemaregistry.v1+json";
/// A longer answer is none, and what a schema refers to is no longer together.
const ANSWER_BYTES_MAX: u64 = 16 << 20;
/// What is told of an answer's body.
const TOLD_BYTES: usize = 300;
/// A schema refers to no more others, directly or not.
const REFERENCES_MAX: usize = 200;

/// Why there is no schema.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// the registry has none that can be read
    Gone(String),
    /// another attempt may do
    Passing(String),
    /// no attempt will do
    Lasting(String),
}

/// A registry.
pub(super) struct Client {
    agent: Agent,
    url: String,
    /// of its schemas
    kind: &'static str,
    authorization: Option<HeaderValue>,
}

/// A schema, and those from which it takes names, each behind those that it needs.
#[derive(Debug)]
pub(in crate::formats) struct Schema {
    pub schema: String,
    pub others: Vec<Other>,
}

/// A schema that another one refers to.
#[derive(Debug)]
pub(in crate::formats) struct Other {
    /// by which it is referred to
    pub name: String,
    pub schema: String,
}

/// What it says of a schema.
#[derive(Deserialize)]
struct Found {
    schema: String,
    /// Avro if absent
    #[serde(rename = "schemaType")]
    kind: Option<String>,
    #[serde(default)]
    references: Vec<Reference>,
}

/// Another schema, from which one takes names.
#[derive(Deserialize)]
struct Reference {
    #[serde(default)]
    name: String,
    subject: String,
    version: u32,
}

/// The schemas that one refers to, as far as they were asked for.
#[derive(Default)]
struct Gathered {
    asked: HashSet<(String, u32)>,
    others: Vec<Other>,
    /// of their texts
    bytes: u64,
}

/// A schema that it is told.
#[derive(Serialize)]
struct Told<'a> {
    schema: &'a str,
    #[serde(rename = "schemaType", skip_serializing_if = "Option::is_none")]
    kind: Option<&'static str>,
}

/// What it says of a schema that it was told.
#[derive(Deserialize)]
struct Registered {
    id: u32,
}

#[derive(Deserialize)]
struct Refusal {
    error_code: u32,
}

impl Client {
    /// Reads password and certificates; connects to nobody.
    pub fn open(spec: &RegistrySpec, kind: &'static str) -> Result<Client, ConnectError> {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .proxy(None)
            .timeout_global(Some(spec.timeout))
            .user_agent(concat!("ringmill/", env!("CARGO_PKG_VERSION")))
            .tls_config(client::encryption(&spec.url, spec.root_certificates.as_deref())?);
        let url = spec.url.reveal().trim_end_matches('/').to_owned();
        Ok(Client { agent: config.build().new_agent(), url, kind, authorization: authorization(spec)? })
    }

    /// The schema with this number.
    pub fn schema(&self, id: u32) -> Result<Schema, Trouble> {
        let found = self.get(&format!("/schemas/ids/{id}"))?;
        let kind = found.kind.as_deref().unwrap_or("AVRO");
        if kind != self.kind {
            return Err(Trouble::Gone(format!("schema {id} of the registry is of {kind}, not of {}", self.kind)));
        }
        let mut gathered = Gathered::default();
        self.add_others(&found.references, &mut gathered)?;
        Ok(Schema { schema: found.schema, others: gathered.others })
    }

    /// Adds the texts of these schemas and of those that they refer to, each behind what it needs.
    fn add_others(&self, references: &[Reference], gathered: &mut Gathered) -> Result<(), Trouble> {
        for Reference { name, subject, version } in references {
            if !gathered.asked.insert((subject.clone(), *version)) {
                continue;
            }
            if gathered.asked.len() > REFERENCES_MAX {
                return Err(Trouble::Gone(format!("it refers to more than {REFERENCES_MAX} other schemas")));
            }
            let found = self.get(&format!("/subjects/{}/versions/{version}", escaped(subject)))?;
            gathered.bytes += found.schema.len() as u64;
            if gathered.bytes > ANSWER_BYTES_MAX {
                return Err(Trouble::Gone(format!("it refers to more than {} MiB of others", ANSWER_BYTES_MAX >> 20)));
            }
            self.add_others(&found.references, gathered)?;
            gathered.others.push(Other { name: name.clone(), schema: found.schema });
        }
        Ok(())
    }

    /// Makes a schema that of a subject, if it is not already; its number.
    pub fn register(&self, subject: &str, schema: &str) -> Result<u32, Trouble> {
        let path = format!("/subjects/{}/versions", escaped(subject));
        // Without a kind it is one of Avro, which older registries expect to be left out.
        let kind = (self.kind != "AVRO").then_some(self.kind);
        let content =
            serde_json::to_string(&Told { schema, kind }).map_err(|error| Trouble::Lasting(error.to_string()))?;
        let mut request = self.agent.post(format!("{}{path}", self.url)).header(ACCEPT, CONTENT);
        request = request.header(CONTENT_TYPE, CONTENT_SENT);
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        let registered: Registered = judged(request.send(&content), &path)?;
        Ok(registered.id)
    }

    fn get(&self, path: &str) -> Result<Found, Trouble> {
        let mut request = self.agent.get(format!("{}{path}", self.url)).header(ACCEPT, CONTENT);
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        judged(request.call(), path)
    }
}

/// What an answer says, if it is a good one.
fn judged<T: DeserializeOwned>(answer: Result<Response<Body>, ureq::Error>, path: &str) -> Result<T, Trouble> {
    let mut response = answer.map_err(|error| match client::may_pass(&error) {
        true => Trouble::Passing(client::said(&error)),
        false => Trouble::Lasting(client::said(&error)),
    })?;
    let status = response.status();
    let mut body = Vec::new();
    let read = response.body_mut().as_reader().take(ANSWER_BYTES_MAX).read_to_end(&mut body);
    read.map_err(|error| Trouble::Passing(error.to_string()))?;
    match status.is_success() {
        true => serde_json::from_slice(&body)
            .map_err(|error| Trouble::Lasting(format!("its answer to {path} is no schema: {error}"))),
        false => Err(judge(status, path, &body)),
    }
}

fn judge(status: StatusCode, path: &str, body: &[u8]) -> Trouble {
    let told = String::from_utf8_lossy(body);
    let told = told[..told.floor_char_boundary(TOLD_BYTES)].trim();
    let reason = format!("it answers {status} to {path}: {}", told.escape_debug());
    let code = serde_json::from_slice::<Refusal>(body).map_or(0, |refusal| refusal.error_code);
    match status.as_u16() {
        // Not found: subject, version, schema. A bare 404 comes from whoever is no registry.
        404 if (40_401..=40_403).contains(&code) => Trouble::Gone(format!("the registry has nothing at {path}")),
        408 | 425 | 429 | 500..=599 => Trouble::Passing(reason),
        _ => Trouble::Lasting(reason),
    }
}

/// A subject as a part of a path.
fn escaped(subject: &str) -> String {
    let escape = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    };
    subject.bytes().map(escape).collect()
}

/// Basic authentication (RFC 7617).
fn authorization(spec: &RegistrySpec) -> Result<Option<HeaderValue>, ConnectError> {
    let Some(user) = &spec.user else { return Ok(None) };
    let both = format!("{user}:{}", spec.password.as_ref().map_or("", |password| password.reveal()));
    let mut value = HeaderValue::try_from(format!("Basic {}", STANDARD.encode(both)))
        .map_err(|_| ConnectError::Spec { option: "user", value: user.clone(), rule: "no header can have it" })?;
    value.set_sensitive(true);
    Ok(Some(value))
}
