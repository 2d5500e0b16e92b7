//! A port or a path at which others connect.

use std::{
    fs,
    io::{self, Read},
    net::TcpListener,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::{
            fs::FileTypeExt,
            net::{UnixListener, UnixStream},
        },
    },
    path::Path,
};

use super::Address;
use crate::ConnectError;

/// What is read from a connection, without waiting.
pub trait Connection: Read + AsFd + Send {}

impl<C: Read + AsFd + Send> Connection for C {}

/// Takes connections until it is dropped. The file of a Unix socket stays behind, and the next listener replaces it.
pub enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    /// Refuses an address that is in use. A Unix socket that a former listener left is replaced.
    pub fn bind(address: &Address) -> Result<Listener, ConnectError> {
        let failed = |source| ConnectError::Listen {
            address: match address {
                Address::Tcp(address) => address.clone(),
                Address::Unix(path) => path.display().to_string(),
            },
            source,
        };
        match address {
            Address::Tcp(address) => Listener::bind_tcp(address),
            Address::Unix(path) => Listener::bind_unix(path),
        }
        .map_err(failed)
    }

    fn bind_tcp(address: &str) -> io::Result<Listener> {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        Ok(Listener::Tcp(listener))
    }

    fn bind_unix(path: &Path) -> io::Result<Listener> {
        if is_left_over(path)? {
            fs::remove_file(path)?;
        }
        let listener = UnixListener::bind(path)?;
        listener.set_nonblocking(true)?;
        Ok(Listener::Unix(listener))
    }

    /// The next connection, if one waits, and where it comes from, for people.
    pub fn accept(&self) -> io::Result<(Box<dyn Connection>, String)> {
        match self {
            Listener::Tcp(listener) => {
                let (stream, peer) = listener.accept()?;
                stream.set_nonblocking(true)?;
                Ok((Box::new(stream), format!("from {peer}")))
            }
            Listener::Unix(listener) => {
                let (stream, _) = listener.accept()?;
                stream.set_nonblocking(true)?;
                Ok((Box::new(stream), "to the Unix socket".to_owned()))
            }
        }
    }
}

/// A socket at which nobody listens any more. Anything else that is there is left alone.
fn is_left_over(path: &Path) -> io::Result<bool> {
    let is_socket = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata.file_type().is_socket(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    Ok(is_socket && UnixStream::connect(path).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused))
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Listener::Tcp(listener) => listener.as_fd(),
            Listener::Unix(listener) => listener.as_fd(),
        }
    }
}
