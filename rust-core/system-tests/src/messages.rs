//! Messages that others write, and what is read of them.

use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::kafka::Kafka;
use crate::{CHECKPOINT, Job, python, sinks_of};

/// What a Python script makes of these rows, which it reads as JSON, one a line: it writes each message behind its length (four
/// bytes, little-endian).
pub fn written_by_python(script: &str, arguments: &[&str], rows: &[Value]) -> Vec<Vec<u8>> {
    let mut command = Command::new(python());
    command.args(["-c", script]).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().expect("there is a Python");
    let lines: String = rows.iter().map(|row| format!("{row}\n")).collect();
    let mut input = child.stdin.take().expect("a pipe");
    let feeder = std::thread::spawn(move || input.write_all(lines.as_bytes()));
    let output = child.wait_with_output().expect("it ends");
    feeder.join().expect("no panic").expect("it reads everything");
    let (mut messages, mut rest) = (Vec::new(), &output.stdout[..]);
    while let Some((length, behind)) = rest.split_first_chunk::<4>() {
        let (message, behind) = behind.split_at(u32::from_le_bytes(*length) as usize);
        messages.push(message.to_vec());
        rest = behind;
    }
    assert_eq!(messages.len(), rows.len(), "the packages are installed (scripts/setup)");
    messages
}

/// What a Python script makes of these messages, which it reads in hexadecimal, one a line: it writes an object of JSON for each.
pub fn read_by_python(script: &str, arguments: &[&str], messages: &[Vec<u8>]) -> Vec<Value> {
    let mut command = Command::new(python());
    command.args(["-c", script]).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().expect("there is a Python");
    let hexadecimal = |bytes: &Vec<u8>| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>() + "\n";
    let lines: String = messages.iter().map(hexadecimal).collect();
    let mut input = child.stdin.take().expect("a pipe");
    let feeder = std::thread::spawn(move || input.write_all(lines.as_bytes()));
    let output = child.wait_with_output().expect("it ends");
    feeder.join().expect("no panic").expect("it reads everything");
    let text = String::from_utf8(output.stdout).expect("text");
    text.lines().map(|line| serde_json::from_str(line).expect("an object")).collect()
}

/// Compiles this text of a `.proto` file into the file `types.pb` of the job, by Google's compiler.
pub fn compile_types(job: &Job, text: &str) {
    job.write("types.proto", text);
    let mut command = Command::new(python());
    command.args(["-m", "grpc_tools.protoc", "-I.", "--include_imports"]);
    command.args(["--descriptor_set_out=types.pb", "types.proto"]);
    assert!(command.current_dir(job.folder()).status().expect("there is a Python").success(), "protoc compiles it");
}

/// A pipeline that shows these fields of the messages in the topic `numbers`, in a format of which `keys` says more.
pub fn numbers_of(kafka: &Kafka, format: &str, keys: &str, fields: &str) -> String {
    format!(
        r#"
{CHECKPOINT}
[sources.messages]
kind = "kafka"
brokers = {}
topics = ["numbers"]
format = "{format}"
{keys}
fields = {{ {fields} }}
{}"#,
        kafka.brokers(),
        sinks_of("messages")
    )
}

/// The numbers that are shown.
pub fn shown_numbers(job: &Job) -> Vec<u64> {
    job.whole_rows("out.ndjson").iter().map(|row| row["number"].as_u64().expect("a number")).collect()
}
