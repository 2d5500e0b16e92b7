//! Inputs that are held in memory, so that an open-loop load depends on no disk and no pipe.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::text::{Content, of_stream};
use crate::{ConnectError, FileFormat, FileSpec, StdinSpec};

/// Decompressed inputs in memory files; they are there for as long as this is.
#[derive(Debug)]
pub struct Held {
    files: Vec<OwnedFd>,
    /// Bytes in all.
    pub bytes: u64,
}

/// Reads the files of a source into memory; the spec that reads them there has `folder` for the links to them.
///
/// # Errors
/// What [`FileSpec::open`] says about files, and what the file system says.
pub fn hold_file(spec: &FileSpec, folder: &Path) -> Result<(FileSpec, Held), ConnectError> {
    let paths = spec.paths()?;
    let is_text = matches!(spec.format, FileFormat::Text(_));
    let mut held = Held { files: Vec::with_capacity(paths.len()), bytes: 0 };
    for (index, path) in paths.iter().enumerate() {
        let opened = File::open(path).and_then(of_stream);
        let content = opened.map_err(|source| ConnectError::Open { path: path.clone(), source })?;
        held.add(content, is_text, &folder.join(format!("{index:06}"))).map_err(|source| read_error(path, source))?;
    }
    if held.files.is_empty() {
        return Err(ConnectError::NoMatch { pattern: spec.path.clone() });
    }
    let path = if held.files.len() == 1 { folder.join("000000") } else { folder.join("*") };
    Ok((FileSpec { path: path.to_string_lossy().into_owned(), rate: None, ..spec.clone() }, held))
}

/// Reads standard input to its end into memory, as a file.
///
/// # Errors
/// What the system says.
pub fn hold_stdin(spec: &StdinSpec, folder: &Path) -> Result<(FileSpec, Held), ConnectError> {
    let path = folder.join("000000");
    let mut held = Held { files: Vec::new(), bytes: 0 };
    let read = of_stream(io::stdin()).and_then(|content| held.add(content, true, &path));
    read.map_err(|source| read_error(Path::new("stdin"), source))?;
    let file = FileSpec {
        path: path.to_string_lossy().into_owned(),
        format: spec.format.into(),
        fields: spec.fields.clone(),
        rate: None,
        order: crate::Order::Parallel,
        record_bytes_max: spec.record_bytes_max,
        decode_threads: 0,
    };
    Ok((file, held))
}

impl Held {
    /// `is_text`: its last line gets an end.
    fn add(&mut self, mut content: Content, is_text: bool, link: &Path) -> io::Result<()> {
        let descriptor = memfd_create(c"ringmill-input", MFdFlags::MFD_CLOEXEC)?;
        let mut file = File::from(descriptor);
        let mut last = [b'\n'];
        let mut block = vec![0; 1 << 20];
        loop {
            let count = match content.read(&mut block) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            file.write_all(&block[..count])?;
            self.bytes += count as u64;
            last[0] = block[count - 1];
        }
        if is_text && last != *b"\n" {
            file.write_all(b"\n")?;
        }
        let target = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
        std::os::unix::fs::symlink(target, link)?;
        self.files.push(file.into());
        Ok(())
    }
}

fn read_error(path: &Path, source: io::Error) -> ConnectError {
    ConnectError::Read { name: path.display().to_string(), offset: 0, source }
}
