//! A server that takes rows by requests and knows keys, and a proxy before it: Python's own.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::{Job, python};

/// It keeps requests in the file `taken`, and takes those with the same key once, also after a restart. Rows whose number
/// ends in 99 are refused until there is a file `mended`, and those whose number ends in 999 also then. Of what is no NDJSON
/// it keeps `kind` and `body` (in base64), and refuses what has `bad` in it until there is that file. While there is a file
/// `busy`, requests are answered with 429 and what stands in it as `Retry-After`, and their keys are noted in `asked`.
const SERVER: &str = "
import base64, http.server, json, os, ssl, sys, threading
log = open('taken', 'a+b')
log.seek(0)
whole = [line for line in log if line.endswith(b'\\n')]
log.truncate(sum(map(len, whole)))
keys = {json.loads(line)[0] for line in whole}
lock = threading.Lock()

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    disable_nagle_algorithm = True

    def do_POST(self):
        length = int(self.headers['content-length'])
        body = self.rfile.read(length)
        if len(body) < length:
            return  # The client was killed, and what came may end with a whole row.
        key = self.headers['idempotency-key']
        kind = self.headers['content-type']
        if kind == 'application/x-ndjson':
            rows = [json.loads(line) for line in body.decode().splitlines()]
            bad = 1000 if os.path.exists('mended') else 100
            is_bad = any(row['number'] % bad == bad - 1 for row in rows)
        else:
            rows = {'kind': kind, 'body': base64.b64encode(body).decode()}
            is_bad = b'bad' in body and not os.path.exists('mended')
        if os.path.exists('busy'):
            with lock, open('asked', 'a') as asked:
                asked.write(key + '\\n')
            self.send_response(429)
            self.send_header('retry-after', open('busy').read())
            self.send_header('content-length', '0')
            self.end_headers()
            return
        with lock:
            if not is_bad and key not in keys:
                log.write(json.dumps([key, rows]).encode() + b'\\n')
                log.flush()
                keys.add(key)
        answer = b'a number of nines' if is_bad else b''
        self.send_response(422 if is_bad else 200)
        self.send_header('content-length', str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        pass

server = http.server.ThreadingHTTPServer(('127.0.0.1', int(sys.argv[1])), Handler)
if len(sys.argv) > 2:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sys.argv[3], sys.argv[2])
    server.socket = context.wrap_socket(server.socket, server_side=True)
print(server.server_port, flush=True)
server.serve_forever()
";

/// Connects whoever shows the right user and password to this machine, whatever its name is said to be, and notes that in
/// the file `connected`.
const PROXY: &str = "
import base64, http.server, select, socket
expected = 'Basic ' + base64.b64encode(b'me:pass-1').decode()

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'

    def do_CONNECT(self):
        self.close_connection = True
        if self.headers['proxy-authorization'] != expected:
            self.send_error(407)
            return
        with open('connected', 'a') as log:
            log.write(self.path + '\\n')
        with socket.create_connection(('127.0.0.1', int(self.path.rsplit(':', 1)[1]))) as server:
            self.send_response(200)
            self.end_headers()
            sides = {self.connection: server, server: self.connection}
            while True:
                for side in select.select(list(sides), [], [])[0]:
                    data = side.recv(65536)
                    if not data:
                        return
                    sides[side].sendall(data)

    def log_message(self, *_):
        pass

server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
";

/// A server, or a proxy, in the job's folder.
pub struct Taker {
    child: Child,
    port: u16,
}

impl Taker {
    /// At this port; 0: at any.
    #[must_use]
    pub fn start(job: &Job, port: u16) -> Taker {
        Taker::run(job, SERVER, &[&port.to_string()])
    }

    /// One that is spoken to with encryption; with files of a key and its certificate.
    #[must_use]
    pub fn encrypted(job: &Job, key: &Path, certificate: &Path) -> Taker {
        Taker::run(job, SERVER, &["0", &key.to_string_lossy(), &certificate.to_string_lossy()])
    }

    /// A proxy for the user `me` with the password `pass-1`.
    #[must_use]
    pub fn proxy(job: &Job) -> Taker {
        Taker::run(job, PROXY, &[])
    }

    fn run(job: &Job, program: &str, arguments: &[&str]) -> Taker {
        let mut command = Command::new(python());
        command.args(["-c", program]).args(arguments).current_dir(job.folder());
        command.stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("Python");
        let mut line = String::new();
        let output = child.stdout.as_mut().expect("a pipe");
        BufReader::new(output).read_line(&mut line).expect("a line");
        Taker { port: line.trim_end().parse().expect("a port"), child }
    }

    /// Where it listens, on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Kills it.
    pub fn kill(&mut self) {
        self.child.kill().expect("it is a child");
        self.child.wait().expect("it is a child");
    }

    /// Kills it and starts another one in its place.
    pub fn replace(&mut self, job: &Job) {
        self.kill();
        *self = Taker::start(job, self.port);
    }
}

impl Drop for Taker {
    fn drop(&mut self) {
        self.kill();
    }
}
