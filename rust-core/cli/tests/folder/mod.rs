//! A folder in which the real command is run, and what came of it.

use std::path::PathBuf;
use std::process::{Command, Output};

/// A folder with a pipeline in it, in which ringmill is run. Runs show themselves below it, too.
pub struct Folder(tempfile::TempDir);

impl Folder {
    pub fn new(pipeline: &str) -> Folder {
        let folder = Folder(tempfile::tempdir().expect("temporary folder"));
        std::fs::write(folder.path("pipeline.toml"), pipeline).expect("write");
        folder
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ringmill"));
        command.current_dir(self.0.path()).args(arguments).env("XDG_RUNTIME_DIR", self.0.path());
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Finished {
        Finished::new(self.command(arguments).output().expect("ringmill starts"))
    }
}

/// A command that has ended.
pub struct Finished {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Finished {
    pub fn new(output: Output) -> Finished {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
        Finished { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    /// The exit code, and every part somewhere in the output.
    pub fn expect(&self, code: i32, parts: &[&str]) {
        let all = format!("{}{}", self.stdout, self.stderr);
        assert_eq!(self.code, Some(code), "{all}");
        for part in parts {
            assert!(all.contains(part), "`{part}` is not in:\n{all}");
        }
    }
}
