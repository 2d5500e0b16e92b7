//! An HTTP endpoint that takes the rows of requests with the same key once.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use super::number;

type Taken = Arc<Mutex<BTreeMap<String, Vec<u64>>>>;

/// It ends with the process.
pub struct Endpoint {
    pub address: SocketAddr,
    taken: Taken,
}

impl Endpoint {
    pub fn start() -> Endpoint {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let (address, taken) = (listener.local_addr().expect("an address"), Taken::default());
        let endpoint = Endpoint { address, taken: Arc::clone(&taken) };
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let taken = Arc::clone(&taken);
                std::thread::spawn(move || while answer(&stream, &taken).is_some() {});
            }
        });
        endpoint
    }

    /// The rows of all requests.
    pub fn numbers(&self) -> Vec<u64> {
        self.taken.lock().expect("no thread has failed").values().flatten().copied().collect()
    }
}

/// Takes one request; `None`: the client is gone, also in its midst.
fn answer(mut stream: &TcpStream, taken: &Taken) -> Option<()> {
    let mut reader = BufReader::new(stream);
    let (mut key, mut length) = (None, 0);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|bytes| *bytes > 0)?;
        let Some((name, value)) = line.split_once(':') else { if line == "\r\n" { break } else { continue } };
        match name.to_ascii_lowercase().as_str() {
            "idempotency-key" => key = Some(value.trim().to_owned()),
            "content-length" => length = value.trim().parse().expect("a length"),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let body = String::from_utf8(body).expect("text");
    let rows = || body.lines().map(number).collect();
    taken.lock().expect("no thread has failed").entry(key.expect("every request has one")).or_insert_with(rows);
    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").ok()
}
