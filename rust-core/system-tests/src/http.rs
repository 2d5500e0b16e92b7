//! A small HTTP/1.1 client, so that a test decides about every byte.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Child;

use crate::until;

/// What a server has said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Such as 202.
    pub status: u16,
    /// Names in lower case, and values.
    pub headers: Vec<(String, String)>,
    /// As text.
    pub body: String,
}

impl Answer {
    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }
}

/// A client with one connection, made anew when it is lost.
pub struct Client {
    address: SocketAddr,
    stream: Option<BufReader<TcpStream>>,
}

impl Client {
    /// Connects with the first request.
    pub fn new(address: SocketAddr) -> Client {
        Client { address, stream: None }
    }

    /// Posts a body to `/ingest`; `headers` are lines, each with its end.
    pub fn post(&mut self, headers: &str, body: &[u8]) -> io::Result<Answer> {
        let head = format!("POST /ingest HTTP/1.1\r\nhost: test\r\ncontent-length: {}\r\n{headers}\r\n", body.len());
        self.send(&[head.as_bytes(), body].concat())
    }

    /// Sends these bytes and waits for an answer.
    pub fn send(&mut self, request: &[u8]) -> io::Result<Answer> {
        let answer = self.try_send(request);
        if !answer.as_ref().is_ok_and(|answer| answer.header("connection") != Some("close")) {
            self.stream = None;
        }
        answer
    }

    fn try_send(&mut self, request: &[u8]) -> io::Result<Answer> {
        if self.stream.is_none() {
            self.stream = Some(BufReader::new(TcpStream::connect(self.address)?));
        }
        let Some(stream) = &mut self.stream else { return Err(io::ErrorKind::NotConnected.into()) };
        stream.get_mut().write_all(request)?;
        let status = line(stream)?;
        let status = status.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
        let mut headers = Vec::new();
        loop {
            let line = line(stream)?;
            let Some((name, value)) = line.split_once(':') else { break };
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        let mut answer = Answer { status, headers, body: String::new() };
        let length = answer.header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
        let mut body = vec![0; length];
        stream.read_exact(&mut body)?;
        answer.body = String::from_utf8_lossy(&body).trim_end().to_owned();
        Ok(answer)
    }
}

/// A line of a head, without its end.
fn line(stream: &mut BufReader<TcpStream>) -> io::Result<String> {
    let mut line = String::new();
    match stream.read_line(&mut line)? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(line.trim_end().to_owned()),
    }
}

/// Waits until a run answers there.
pub fn await_answers(child: &mut Child, address: SocketAddr) {
    until(child, || Client::new(address).send(b"GET / HTTP/1.1\r\nhost: test\r\n\r\n").is_ok());
}
