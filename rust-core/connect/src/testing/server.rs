//! A server that takes requests. Tests in and outside of the crate use it.

use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    io::{self, BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    sync::{Arc, Mutex, OnceLock},
    thread,
};

/// What a client sent.
pub struct Received {
    pub method: String,
    pub path: String,
    /// by names in lower case
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
}

/// Status with further header lines, and a body; `None`: the connection is ended without a word.
pub type Reply = Option<(&'static str, String)>;

/// Answers whoever connects until the process ends, one request at a time.
pub fn serve(answer: impl FnMut(&Received) -> Reply + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let answer = Arc::new(Mutex::new(answer));
    thread::spawn(move || {
        for connection in listener.incoming() {
            let answer = Arc::clone(&answer);
            // A client that is killed ends its connection anywhere.
            thread::spawn(move || converse(connection?, |received| (answer.lock().unwrap())(received)));
        }
        io::Result::Ok(())
    });
    address
}

fn converse(connection: TcpStream, mut answer: impl FnMut(&Received) -> Reply) -> io::Result<()> {
    let mut input = BufReader::new(connection.try_clone()?);
    while let Some(received) = receive(&mut input)? {
        let Some((status, body)) = answer(&received) else { return Ok(()) };
        write!(&connection, "HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len())?;
    }
    Ok(())
}

fn receive(input: &mut impl BufRead) -> io::Result<Option<Received>> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if input.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        match line.trim_end() {
            "" => break,
            line => lines.push(line.to_owned()),
        }
    }
    let mut words = lines[0].split(' ').map(str::to_owned);
    let (method, path) = (words.next().unwrap(), words.next().unwrap());
    let header = |line: &String| {
        let (name, value) = line.split_once(": ").unwrap();
        (name.to_ascii_lowercase(), value.to_owned())
    };
    let headers: BTreeMap<_, _> = lines[1..].iter().map(header).collect();
    let mut body = vec![0; headers.get("content-length").map_or(0, |length| length.parse().unwrap())];
    input.read_exact(&mut body)?;
    Ok(Some(Received { method, path, headers, body }))
}

/// The address of a server that knows keys. The path of a request is a folder: its rows are appended to `out` there unless
/// their key is in `keys`. `silent` there has the number of a request that is taken and gets no answer, and neither
/// does the one after it; a request with a row that ends with what stands in `refuses` is refused.
pub fn keeper() -> SocketAddr {
    static ADDRESS: OnceLock<SocketAddr> = OnceLock::new();
    *ADDRESS.get_or_init(|| serve(keep))
}

fn keep(received: &Received) -> Reply {
    if received.method != "POST" {
        return Some(("405 Method Not Allowed", String::new()));
    }
    let folder = Path::new(&received.path);
    let read = |name: &str| fs::read_to_string(folder.join(name)).unwrap_or_default();
    let append = |name: &str, bytes: &[u8]| {
        let mut file = OpenOptions::new().append(true).create(true).open(folder.join(name)).unwrap();
        file.write_all(bytes).unwrap();
    };
    let refuses = read("refuses");
    let body = String::from_utf8_lossy(&received.body);
    if !refuses.is_empty() && body.lines().any(|row| row.ends_with(&refuses)) {
        return Some(("422 Not These", "none of those".to_owned()));
    }
    let line = format!("{} {:?}\n", received.headers["idempotency-key"], body);
    let key = line.split_inclusive(' ').next().unwrap();
    let keys = read("keys");
    match keys.split_inclusive('\n').find(|known| known.starts_with(key)) {
        Some(known) if known == line => {}
        Some(known) => return Some(("422 Other Rows", format!("{known}, now {line}"))),
        None => {
            append("keys", line.as_bytes());
            append("out", &received.body);
        }
    }
    let silent: u64 = read("silent").parse().unwrap_or(0);
    if silent > 0 {
        fs::write(folder.join("silent"), (silent - 1).to_string()).unwrap();
    }
    (silent != 1 && silent != 2).then(|| ("200 OK", String::new()))
}
