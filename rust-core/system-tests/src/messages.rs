//! Messages that others write.

use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::python;

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
