//! Tells the command which commit it was built from, for the reports of `ringmill bench`.

use std::path::Path;
use std::process::Command;

fn main() {
    let commit = git(&["rev-parse", "HEAD"]);
    let dirty = git(&["status", "--porcelain", "--untracked-files=no"]).is_some_and(|changes| !changes.is_empty());
    println!("cargo:rustc-env=RINGMILL_COMMIT={}", commit.unwrap_or_default());
    println!("cargo:rustc-env=RINGMILL_DIRTY={dirty}");
    // What this command is made from is compiled again when it changes, so looking there costs nothing more.
    for folder in ["cli", "engine", "connect", "state", "ring", "wire", "failpoint"] {
        println!("cargo:rerun-if-changed=../{folder}/src");
    }
    for name in ["HEAD", "index"] {
        if let Some(path) = git(&["rev-parse", "--git-path", name])
            && Path::new(&path).exists()
        {
            println!("cargo:rerun-if-changed={path}");
        }
    }
}

/// What Git says; `None` outside of a checkout, or without Git.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
