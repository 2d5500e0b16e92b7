//! A Mosquitto broker of a test's own, and `mosquitto_pub` to send to it.
//!
//! Where it is not installed a test fails, unless `RINGMILL_WITHOUT_MOSQUITTO` says that this is known
//! (`scripts/ci/rust-tests` says so, and lists what was left out).

use std::fs::{self, File};
use std::io::Write;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use tempfile::TempDir;

use crate::{free_address, program, terminate};

/// A setting with which no user is asked for.
pub const ANYBODY: &str = "allow_anonymous true\n";

const POLL: Duration = Duration::from_millis(5);

/// A broker in a folder of its own, ended with the test.
pub struct Mosquitto {
    program: PathBuf,
    folder: TempDir,
    port: u16,
    process: Option<Child>,
}

impl Mosquitto {
    /// A new broker that is ready and takes anybody; `None`: there is none on this machine, and whoever started the test
    /// knows.
    pub fn start() -> Option<Mosquitto> {
        let mut broker = Mosquitto::stopped()?;
        broker.configure(ANYBODY);
        broker.go_on();
        Some(broker)
    }

    /// A new broker that does not run yet, and takes nobody.
    pub fn stopped() -> Option<Mosquitto> {
        let Some(program) = program("mosquitto_pub").and_then(|_| program("mosquitto")) else {
            let known = std::env::var_os("RINGMILL_WITHOUT_MOSQUITTO");
            assert!(known.is_some(), "Mosquitto is not installed: apt-get install mosquitto mosquitto-clients");
            println!("skipped: Mosquitto is not installed");
            return None;
        };
        let folder = tempfile::Builder::new().prefix("mq").tempdir().expect("there is room for a folder");
        let port = free_address().port();
        let broker = Mosquitto { program, folder, port, process: None };
        // Root would become another user, who may not write into the folder. What waits for a client is kept on the disk.
        let path = broker.folder.path().display();
        broker.write(
            "conf",
            &format!(
                "user root\npersistence true\npersistence_location {path}/\nlog_dest file {path}/log\nlog_type all\n\
                 max_queued_messages 0\nmax_inflight_messages 500\nlistener {port} 127.0.0.1\n"
            ),
        );
        Some(broker)
    }

    /// Adds settings, for the next start.
    pub fn configure(&self, settings: &str) {
        let mut file = File::options().append(true).open(self.folder.path().join("conf")).expect("it is there");
        file.write_all(settings.as_bytes()).expect("it can be written");
    }

    /// Where its files are.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Puts a file into its folder.
    pub fn write(&self, name: &str, content: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::write(&path, content).expect("the folder can be written");
        path
    }

    /// Starts it, and waits until it answers.
    pub fn go_on(&mut self) {
        let log = File::create(self.folder.path().join("errors")).expect("a log");
        let mut command = Command::new(&self.program);
        let mut process =
            command.arg("-c").arg(self.folder.path().join("conf")).stderr(log).spawn().expect("it is there");
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            let errors = || fs::read_to_string(self.folder.path().join("errors")).unwrap_or_default();
            assert!(process.try_wait().expect("a child").is_none(), "the broker does not start: {}", errors());
            sleep(POLL);
        }
        self.process = Some(process);
    }

    /// Ends it in good order: what it has not delivered is on its disk.
    pub fn stop(&mut self) {
        let Some(mut process) = self.process.take() else { return };
        terminate(&process);
        process.wait().expect("a child");
    }

    /// Its port at 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// What it has written down about its clients.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// A client that sends each line it is given to the topic as a message, until it is dropped.
    pub fn sender(&self, topic: &str) -> Sender {
        let mut command = self.publisher(topic, 1);
        Sender(command.arg("-l").stdin(Stdio::piped()).spawn().expect("it is installed"))
    }

    /// Sends one message, whatever is in it, and waits until the broker has it. With quality of service 2, so that nobody has
    /// it before what came before it.
    pub fn send(&self, topic: &str, payload: &[u8]) {
        let mut command = self.publisher(topic, 2);
        let mut process = command
            .arg(if payload.is_empty() { "-n" } else { "-s" })
            .stdin(Stdio::piped())
            .spawn()
            .expect("it is installed");
        let mut input = process.stdin.take().expect("a pipe");
        input.write_all(payload).expect("it reads");
        drop(input);
        assert!(process.wait().expect("a child").success(), "the message was not taken");
    }

    /// A client that writes each message of the topic to a file, as `topic payload`, until it is dropped. The broker keeps
    /// what comes while they do not reach each other.
    pub fn receiver(&self, topic: &str) -> Receiver {
        self.receiver_of_quality(topic, 1)
    }

    /// The same with this quality of service: with 2 it has each message that the broker has taken once.
    pub fn receiver_of_quality(&self, topic: &str, quality: u8) -> Receiver {
        let path = self.folder.path().join("received");
        let mut command = Command::new("mosquitto_sub");
        command.args(["-h", "127.0.0.1", "-p", &self.port.to_string(), "-c", "-i", "receiver", "-t", topic]);
        command
            .args(["-q", &quality.to_string(), "-F", "%t %p"])
            .stdout(File::create(&path).expect("the folder can be written"));
        let receiver = Receiver { process: command.spawn().expect("it is installed"), path };
        while !self.log().contains("Sending SUBACK to receiver") {
            sleep(POLL);
        }
        receiver
    }

    fn publisher(&self, topic: &str, quality: u8) -> Command {
        let mut command = Command::new("mosquitto_pub");
        command.args(["-h", "127.0.0.1", "-p", &self.port.to_string(), "-q", &quality.to_string(), "-t", topic]);
        command
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        self.stop();
    }
}

/// See [`Mosquitto::receiver`].
pub struct Receiver {
    process: Child,
    path: PathBuf,
}

impl Receiver {
    /// What [`Receiver::catch_up`] sends.
    pub const END: &str = "end";

    /// Topics and payloads in the order in which they came.
    pub fn received(&self) -> Vec<(String, String)> {
        let text = fs::read_to_string(&self.path).expect("the file is there");
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        let message = |line: &str| line.split_once(' ').map(|(topic, payload)| (topic.to_owned(), payload.to_owned()));
        text[..whole].lines().map(|line| message(line).expect("a topic and a payload")).collect()
    }

    /// Waits until everything has come that the broker had for this topic by now, and a last message, [`Receiver::END`].
    pub fn catch_up(&self, broker: &Mosquitto, topic: &str) -> Vec<(String, String)> {
        broker.send(topic, Receiver::END.as_bytes());
        loop {
            let received = self.received();
            if received.last().is_some_and(|(_, payload)| payload == Receiver::END) {
                return received;
            }
            sleep(POLL);
        }
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.process.kill().expect("it is a child");
        self.process.wait().expect("it is a child");
    }
}

/// See [`Mosquitto::sender`].
pub struct Sender(Child);

impl Sender {
    /// Hands some lines over; the broker has them all when the sender was ended.
    pub fn send(&mut self, lines: &str) {
        self.0.stdin.as_mut().expect("a pipe").write_all(lines.as_bytes()).expect("it reads");
    }

    /// Waits until the broker has everything.
    pub fn end(mut self) {
        drop(self.0.stdin.take());
        assert!(self.0.wait().expect("a child").success(), "not everything was taken");
    }
}
