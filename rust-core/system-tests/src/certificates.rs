//! Certificates of a root that nobody else knows, made by the command `openssl`.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// A root and what it has signed.
pub struct Authority {
    folder: TempDir,
}

const KEY: &str = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2";

impl Authority {
    /// A new one of this name.
    #[must_use]
    pub fn new(name: &str) -> Authority {
        let authority = Authority { folder: tempfile::tempdir().expect("a folder") };
        authority.openssl(&format!("req -x509 {KEY} -keyout root.key -out root.pem -subj /CN={name}"));
        authority
    }

    /// The file with its own certificate.
    #[must_use]
    pub fn root(&self) -> PathBuf {
        self.folder.path().join("root.pem")
    }

    /// Files with a key and a certificate for `localhost`.
    #[must_use]
    pub fn localhost(&self) -> (PathBuf, PathBuf) {
        self.openssl(&format!(
            "req -x509 -CA root.pem -CAkey root.key {KEY} -keyout key.pem -out certificate.pem -subj /CN=localhost \
             -addext subjectAltName=DNS:localhost -addext basicConstraints=critical,CA:FALSE"
        ));
        (self.folder.path().join("key.pem"), self.folder.path().join("certificate.pem"))
    }

    fn openssl(&self, words: &str) {
        let folder: &Path = self.folder.path();
        let done = Command::new("openssl").args(words.split_whitespace()).current_dir(folder).output();
        let done = done.expect("openssl is installed");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }
}
