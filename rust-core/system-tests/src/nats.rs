//! A NATS server of a test's own, with JetStream, and somebody who writes to its streams and looks at them.
//!
//! Where it is not installed a test fails, unless `RINGMILL_WITHOUT_NATS` says that this is known (`scripts/ci/rust-tests`
//! says so, and lists what was left out).

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::future::{Future, IntoFuture};
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::thread::sleep;
use std::time::Duration;

use async_nats::RequestErrorKind;
use async_nats::jetstream::{Context, ContextBuilder, consumer, stream};
use futures_util::StreamExt;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};

use crate::{free_address, program, terminate};

const POLL: Duration = Duration::from_millis(5);
/// Messages that are sent before the first of them is known to be taken.
const AHEAD: usize = 500;

/// A server in a folder of its own, ended with the test.
pub struct Nats {
    program: PathBuf,
    folder: TempDir,
    port: u16,
    process: Option<Child>,
    runtime: Runtime,
}

/// A message in a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// its subject
    pub subject: String,
    /// what is in it
    pub payload: String,
    /// by name; of several with the same one the last
    pub headers: BTreeMap<String, String>,
}

impl Stored {
    /// By which the server drops another one like it.
    pub fn id(&self) -> Option<&str> {
        self.headers.get("Nats-Msg-Id").map(String::as_str)
    }
}

impl Nats {
    /// A new server that is ready and takes anybody; `None`: there is none on this machine, and whoever started the test
    /// knows.
    pub fn start() -> Option<Nats> {
        let mut server = Nats::stopped()?;
        server.go_on("");
        Some(server)
    }

    /// Beginnings of headers that a client may send and others cannot read.
    pub const UNREADABLE: [&[u8]; 4] = [
        b"NATS/1.0\r\ntrace-id: \xff\r\n\r\n",
        b"NATS/1.0\r\ntrace-id: a\rb\r\n\r\n",
        b"NATS/1.0 503\r\n\r\n",
        b"NATS/1.0\r\nno header\r\n\r\n",
    ];

    /// Three servers that keep streams together, as soon as they can create one; each with the settings that make it one of
    /// them.
    pub fn cluster() -> Option<Vec<(Nats, String)>> {
        let routes: Vec<String> = (0..3).map(|_| free_address().to_string()).collect();
        let all = routes.iter().map(|route| format!("nats://{route}")).collect::<Vec<_>>().join(", ");
        let server = |(index, route): (usize, &String)| {
            let mut server = Nats::stopped()?;
            let settings =
                format!("server_name: n{index}\ncluster {{ name: mill, listen: {route:?}, routes: [{all}] }}");
            server.go_on(&settings);
            Some((server, settings))
        };
        routes.iter().enumerate().map(server).collect()
    }

    /// A new server that does not run yet.
    pub fn stopped() -> Option<Nats> {
        let Some(program) = program("nats-server") else {
            let known = std::env::var_os("RINGMILL_WITHOUT_NATS");
            assert!(known.is_some(), "nats-server is not installed: apt-get install nats-server");
            println!("skipped: nats-server is not installed");
            return None;
        };
        let folder = tempfile::Builder::new().prefix("nats").tempdir().expect("there is room for a folder");
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        Some(Nats { program, folder, port: free_address().port(), process: None, runtime })
    }

    /// Starts it with these settings besides its own, and waits until it answers.
    pub fn go_on(&mut self, settings: &str) {
        let store = self.folder.path().join("store");
        self.go_on_without_streams(&format!("jetstream {{ store_dir: {store:?} }}\n{settings}"));
    }

    /// The same without JetStream.
    pub fn go_on_without_streams(&mut self, settings: &str) {
        let (path, port) = (self.folder.path(), self.port);
        let conf = path.join("conf");
        let text = format!("listen: 127.0.0.1:{port}\nlog_file: {:?}\n{settings}\n", path.join("log"));
        fs::write(&conf, text).expect("the folder can be written");
        let log = File::create(path.join("errors")).expect("a log");
        let mut process = Command::new(&self.program).arg("-c").arg(conf).stderr(log).spawn().expect("it is there");
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            let errors = || fs::read_to_string(path.join("errors")).unwrap_or_default();
            assert!(process.try_wait().expect("a child").is_none(), "the server does not start: {}", errors());
            sleep(POLL);
        }
        self.process = Some(process);
    }

    /// Ends it in good order.
    pub fn stop(&mut self) {
        let Some(mut process) = self.process.take() else { return };
        terminate(&process);
        process.wait().expect("a child");
    }

    /// Kills it.
    pub fn kill(&mut self) {
        let Some(mut process) = self.process.take() else { return };
        process.kill().expect("it is a child");
        process.wait().expect("a child");
    }

    /// Stops it where it stands: connections stay, and nothing is answered.
    pub fn freeze(&self) {
        let process = self.process.as_ref().expect("it runs");
        kill(Pid::from_raw(process.id() as i32), Signal::SIGSTOP).expect("it is there");
    }

    /// Where it is.
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Its port at 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where its files are.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Creates a stream of these subjects.
    pub fn create(&self, name: &str, subjects: &[&str], config: stream::Config) {
        let subjects = subjects.iter().map(|&subject| subject.to_owned()).collect();
        let config = stream::Config { name: name.to_owned(), subjects, ..config };
        self.ask(|context| async move {
            // Servers of a cluster must have found each other.
            while let Err(error) = context.create_stream(config.clone()).await {
                assert!(config.num_replicas > 1, "it is not created: {error}");
                sleep(POLL);
            }
        });
    }

    /// Deletes a stream.
    pub fn delete(&self, name: &str) {
        self.ask(|context| async move { context.delete_stream(name).await.expect("it is deleted") });
    }

    /// Deletes all messages of a stream before this one.
    pub fn purge_before(&self, name: &str, sequence: u64) {
        self.ask(|context| async move {
            let stream = context.get_stream(name).await.expect("it is there");
            stream.purge().sequence(sequence).await.expect("it is purged");
        });
    }

    /// Deletes one message of a stream.
    pub fn delete_message(&self, name: &str, sequence: u64) {
        self.ask(|context| async move {
            let stream = context.get_stream(name).await.expect("it is there");
            stream.delete_message(sequence).await.expect("it is deleted");
        });
    }

    /// Writes a message, and waits until the stream has it.
    pub fn send(&self, subject: &str, payload: &[u8]) {
        self.send_all(subject, std::iter::once(payload.to_vec()));
    }

    /// The same with headers.
    pub fn send_with(&self, subject: &str, named: &[(&str, &str)], payload: &[u8]) {
        let mut headers = async_nats::HeaderMap::new();
        named.iter().for_each(|(name, value)| headers.append(*name, *value));
        let (subject, payload) = (subject.to_owned(), payload.to_vec());
        self.ask(|context| async move {
            let sent = context.publish_with_headers(subject, headers, payload.into()).await;
            sent.expect("it is sent").await.expect("it is taken");
        });
    }

    /// Sends a message that no stream keeps, and waits until the server has it.
    pub fn tell(&self, subject: &str, named: &[(&str, &str)], payload: &[u8]) {
        let mut headers = async_nats::HeaderMap::new();
        named.iter().for_each(|(name, value)| headers.append(*name, *value));
        let (subject, payload) = (subject.to_owned(), payload.to_vec());
        self.ask(|context| async move {
            let client = context.client();
            client.publish_with_headers(subject, headers, payload.into()).await.expect("it is sent");
            answered(&client).await;
        });
    }

    /// Sends `{"number": N}` in the same way.
    pub fn tell_numbers(&self, subject: &str, numbers: Range<u64>) {
        let subject = subject.to_owned();
        self.ask(|context| async move {
            let client = context.client();
            for number in numbers {
                let payload = format!("{{\"number\":{number}}}");
                client.publish(subject.clone(), payload.into()).await.expect("it is sent");
            }
            answered(&client).await;
        });
    }

    /// Sends a message with these bytes as its headers, whatever they are, and waits until the server has it.
    pub fn tell_raw(&self, subject: &str, head: &[u8], payload: &[u8]) {
        let mut server = TcpStream::connect(("127.0.0.1", self.port)).expect("the server is there");
        let (head_length, length) = (head.len(), head.len() + payload.len());
        let before =
            format!("CONNECT {{\"verbose\":false,\"headers\":true}}\r\nHPUB {subject} {head_length} {length}\r\n");
        let sent = [before.as_bytes(), head, payload, b"\r\nPING\r\n"].concat();
        server.write_all(&sent).expect("it is taken");
        let answered = BufReader::new(server).lines().any(|line| line.expect("text").starts_with("PONG"));
        assert!(answered, "the server refuses it");
    }

    /// Writes `{"number": N}`, and waits until the stream has them.
    pub fn send_numbers(&self, subject: &str, numbers: Range<u64>) {
        self.send_all(subject, numbers.map(|number| format!("{{\"number\":{number}}}").into_bytes()));
    }

    fn send_all(&self, subject: &str, payloads: impl Iterator<Item = Vec<u8>>) {
        self.ask(|context| async move {
            let mut payloads = payloads.peekable();
            while payloads.peek().is_some() {
                let mut acknowledged = Vec::new();
                for payload in payloads.by_ref().take(AHEAD) {
                    let sent = context.publish(subject.to_owned(), payload.into()).await;
                    acknowledged.push(sent.expect("it is sent").into_future());
                }
                for acknowledged in acknowledged {
                    acknowledged.await.expect("it is taken");
                }
            }
        });
    }

    /// All messages of a stream, oldest first.
    pub fn read(&self, name: &str) -> Vec<Stored> {
        self.ask(|context| async move {
            let stream = context.get_stream(name).await.expect("it is there");
            let config = consumer::pull::Config { ack_policy: consumer::AckPolicy::None, ..Default::default() };
            let consumer = stream.create_consumer(config).await.expect("a consumer");
            let wanted = consumer.cached_info().num_pending as usize;
            let mut messages = consumer.messages().await.expect("messages").take(wanted);
            let mut stored = Vec::new();
            while let Some(message) = messages.next().await {
                let message = message.expect("a message").message;
                let headers = message.headers.iter().flat_map(|headers| headers.iter());
                let headers = headers.filter_map(|(name, values)| Some((name, values.last()?)));
                stored.push(Stored {
                    subject: message.subject.to_string(),
                    payload: String::from_utf8(message.payload.to_vec()).expect("text"),
                    headers: headers.map(|(name, value)| (name.to_string(), value.to_string())).collect(),
                });
            }
            stored
        })
    }

    /// How many messages that consumer of a stream has still to deliver, and how many it has delivered that are not
    /// acknowledged; `None`: it is not there.
    pub fn consumer(&self, stream: &str, name: &str) -> Option<(u64, u64)> {
        self.ask(|context| async move {
            let found = context.get_consumer_from_stream::<consumer::pull::Config, _, _>(name, stream).await.ok()?;
            let info = found.cached_info();
            Some((info.num_pending, info.num_ack_pending as u64))
        })
    }

    /// Creates a durable consumer as others do.
    pub fn create_consumer(&self, stream: &str, name: &str) {
        let config = consumer::pull::Config { durable_name: Some(name.to_owned()), ..Default::default() };
        self.ask(|context| async move {
            context.create_consumer_on_stream(config, stream).await.expect("it is created");
        });
    }

    /// Waits until every server of a cluster has the whole stream, and says how many messages that are.
    pub fn settled(&self, name: &str) -> u64 {
        self.ask(|context| async move {
            loop {
                if let Ok(mut stream) = context.get_stream(name).await
                    && let Ok(info) = stream.info().await
                    && let Some(cluster) = &info.cluster
                    && cluster.leader.is_some()
                    && cluster.replicas.iter().filter(|replica| replica.current && !replica.offline).count() == 2
                {
                    return info.state.messages;
                }
                sleep(POLL);
            }
        })
    }

    fn ask<F: Future>(&self, ask: impl FnOnce(Context) -> F) -> F::Output {
        self.runtime.block_on(async {
            let client = async_nats::connect(self.url()).await.expect("the server answers");
            // A cluster on a busy machine takes its time.
            ask(ContextBuilder::new().ack_timeout(Duration::from_secs(60)).build(client)).await
        })
    }
}

/// Comes back when the server has answered, and so has taken what was sent before.
async fn answered(client: &async_nats::Client) {
    // Nobody is there, and the server says so.
    let asked = client.request(client.new_inbox(), Vec::new().into()).await;
    assert_eq!(asked.expect_err("nobody is there").kind(), RequestErrorKind::NoResponders);
}

impl Drop for Nats {
    fn drop(&mut self) {
        self.kill();
    }
}
