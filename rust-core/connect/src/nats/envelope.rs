//! What stands around a row's payload in a message: its subject and its headers.

use async_nats::{HeaderMap, HeaderName, HeaderValue};

use super::{NatsSink, lines::header_name};
use crate::{ConnectError, HeaderColumn};

/// Where rows have it from. What is wrong with a row is said in words.
pub struct Envelope {
    /// of rows for which no column says one
    subject: Option<String>,
    /// names, whose values rows have
    headers: Vec<HeaderName>,
}

impl Envelope {
    pub fn new(subject: Option<&str>, headers: &[HeaderColumn]) -> Result<Envelope, ConnectError> {
        let headers = headers.iter().map(|header| header_name("headers", &header.name));
        Ok(Envelope { subject: subject.map(str::to_owned), headers: headers.collect::<Result<_, _>>()? })
    }

    /// How many headers rows have values of.
    pub fn count(&self) -> usize {
        self.headers.len()
    }

    /// What the names of headers take in a message that has them all.
    pub fn names_bytes(&self) -> usize {
        self.headers.iter().map(|name| AsRef::<[u8]>::as_ref(name).len() + ": \r\n".len()).sum()
    }

    /// The subject of a row, if a message can have it.
    pub fn subject_of(&self, key: Option<&[u8]>) -> Result<String, String> {
        let named = key.and_then(|key| std::str::from_utf8(key).ok()).or(self.subject.as_deref());
        let subject = named.ok_or("a row has no subject; `subject` is for such rows")?;
        if !NatsSink::is_subject(subject) {
            return Err(format!("a row's subject is {subject:?}, and no message can have it"));
        }
        Ok(subject.to_owned())
    }

    /// The headers of a row, if a message can have them; null ones are left out.
    pub fn headers_of<'a>(&self, values: impl Iterator<Item = Option<&'a [u8]>>) -> Result<HeaderMap, String> {
        let mut headers = HeaderMap::new();
        for (name, value) in self.headers.iter().zip(values).filter_map(|(name, value)| Some((name, value?))) {
            let text = String::from_utf8_lossy(value);
            let value = text.parse::<HeaderValue>();
            let value =
                value.map_err(|_| format!("a row's header {name} is {text:?}, and none can have a line end"))?;
            headers.insert(name.clone(), value);
        }
        Ok(headers)
    }
}
