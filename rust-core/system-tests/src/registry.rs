//! A schema registry.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use crate::{Job, python};

/// A schema registry: number N is what the file N says, in the order of their numbers from 1 on. Who asks is noted in `asked`, and
/// the subjects of schemas that it is told in `told`; where there is a file `refuses` it takes none.
const REGISTRY: &str = r#"
import http.server, json, os, sys

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        name = self.path.removeprefix("/schemas/ids/")
        with open("asked", "a") as asked:
            asked.write(f"{name} {self.headers['authorization']}\n")
        is_known = name.isdigit() and os.path.exists(name)
        answer = {"schema": open(name).read()} if is_known else {"error_code": 40403, "message": "Schema not found"}
        if is_known and answer["schema"].startswith("syntax"):
            answer["schemaType"] = "PROTOBUF"
        self.answer(200 if is_known else 404, answer)

    def do_POST(self):
        told = json.loads(self.rfile.read(int(self.headers["content-length"])))
        schema = told["schema"]
        if told.get("schemaType") != "PROTOBUF":
            json.loads(schema)
        if os.path.exists("refuses"):
            return self.answer(409, {"error_code": 409, "message": "an incompatible schema"})
        with open("told", "a") as told:
            told.write(self.path.removeprefix("/subjects/").removesuffix("/versions") + "\n")
        number = 1
        while os.path.exists(str(number)) and open(str(number)).read() != schema:
            number += 1
        with open(str(number), "w") as file:
            file.write(schema)
        self.answer(200, {"id": number})

    def answer(self, status, answer):
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass

server = http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
print(server.server_port, flush=True)
server.serve_forever()
"#;

/// A registry that ends with the test.
pub struct Registry(Child);

impl Registry {
    /// With the files in the job's folder, at this port.
    pub fn start(job: &Job, port: u16) -> Registry {
        let mut command = Command::new(python());
        command.args(["-c", REGISTRY, &port.to_string()]).current_dir(job.folder()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("there is a Python");
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().expect("a pipe")).read_line(&mut line).expect("a line");
        assert_eq!(line.trim_end(), port.to_string());
        Registry(child)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
