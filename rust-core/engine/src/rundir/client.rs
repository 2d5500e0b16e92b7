//! The side that asks for channels.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect as connect_socket, socket};

use super::ChannelHandle;
use super::folder::SOCKET;
use super::message::{ChannelMessage, Greeting, VERSION, receive};

/// Why a run could not be looked at.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody serves the socket.
    #[error("connect to the run at {path}: {error}")]
    Connect {
        /// The run's folder.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The conversation broke off.
    #[error("receive the channels of the run at {path}: {error}")]
    Receive {
        /// The run's folder.
        path: PathBuf,
        /// What went wrong.
        error: io::Error,
    },
    /// The run was started by another version of ringmill.
    #[error(
        "understand the run at {path}: it speaks version {found} of the hand-over, this ringmill version {VERSION}"
    )]
    Version {
        /// The run's folder.
        path: PathBuf,
        /// The version it speaks.
        found: u32,
    },
}

/// A run as its server tells it.
#[derive(Debug)]
pub struct Run {
    /// What the server said of the run.
    pub greeting: Greeting,
    /// Its channels; the descriptors can only read.
    pub channels: Vec<ChannelHandle>,
}

/// Asks the run in this folder for its channels.
///
/// # Errors
/// See [`ClientError`]; a run of another user refuses by closing.
pub fn connect(folder: &Path) -> Result<Run, ClientError> {
    let path = folder.to_owned();
    let socket = open(&folder.join(SOCKET)).map_err(|error| ClientError::Connect { path: path.clone(), error })?;
    let failed = |error| ClientError::Receive { path: path.clone(), error };
    let (greeting, _) = receive::<Greeting>(socket.as_fd()).map_err(failed)?;
    if greeting.version != VERSION {
        return Err(ClientError::Version { path, found: greeting.version });
    }
    let mut channels = Vec::new();
    for _ in 0..greeting.channels {
        let (message, descriptors) = receive::<ChannelMessage>(socket.as_fd()).map_err(failed)?;
        let mut descriptors = descriptors.into_iter();
        let (Some(request), Some(response)) = (descriptors.next(), descriptors.next()) else {
            return Err(failed(io::Error::other("a channel came without its descriptors")));
        };
        channels.push(ChannelHandle { name: message.name, pid: message.pid, request, response });
    }
    Ok(Run { greeting, channels })
}

/// Whether the socket is there but nobody listens: its run is dead.
pub(super) fn is_refused(path: &Path) -> bool {
    matches!(open(path), Err(error) if error.raw_os_error() == Some(Errno::ECONNREFUSED as i32))
}

fn open(path: &Path) -> io::Result<OwnedFd> {
    let socket = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)?;
    connect_socket(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use ringmill_ring::{ChannelConfig, CoreEnd};

    use super::super::{RunFolder, list, serve};
    use super::*;

    fn handle(core: &CoreEnd, name: &str) -> ChannelHandle {
        let (request, response) = core.worker_fds().expect("descriptors");
        ChannelHandle { name: name.to_owned(), pid: 7, request, response }
    }

    fn channel() -> CoreEnd {
        let config = ChannelConfig {
            slots: 4,
            request_slot_bytes: 4096,
            response_slot_bytes: 4096,
            schema_hash: 1,
            response_schema_hash: 2,
            generation: 1,
        };
        CoreEnd::create(&config).expect("channel")
    }

    #[test]
    fn an_onlooker_gets_channels_that_it_can_read_and_not_write() {
        let base = tempfile::tempdir().expect("temporary folder");
        let core = channel();
        let folder = RunFolder::create(base.path(), "telemetry").expect("folder");
        let server = serve(folder, vec![handle(&core, "scores/0/0")]).expect("server");

        let runs = list(base.path());
        assert_eq!(runs.len(), 1);
        assert_eq!((runs[0].pipeline.as_str(), runs[0].pid), ("telemetry", std::process::id() as i32));
        let run = connect(&runs[0].path).expect("connect");
        assert_eq!(run.greeting.pipeline, "telemetry");
        let [channel] = &run.channels[..] else { panic!("one channel") };
        assert_eq!((channel.name.as_str(), channel.pid), ("scores/0/0", 7));
        let seen = ringmill_ring::inspect(&channel.request, &channel.response).expect("inspect");
        assert_eq!((seen.slots, seen.generation), (4, 1));
        for file in [&channel.request, &channel.response] {
            assert_eq!(nix::unistd::write(file, b"x"), Err(Errno::EBADF));
        }

        server.replace(Vec::new());
        assert!(connect(&runs[0].path).expect("connect").channels.is_empty());
        drop(server);
        assert!(list(base.path()).is_empty());
    }

    #[test]
    fn what_a_killed_run_left_is_swept() {
        let base = tempfile::tempdir().expect("temporary folder");
        let folder = RunFolder::create(base.path(), "dead").expect("folder");
        let left = folder.path().parent().expect("parent").join("dead-1");
        std::fs::create_dir(&left).expect("create");
        let listener = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::empty(), None).expect("socket");
        nix::sys::socket::bind(listener.as_raw_fd(), &UnixAddr::new(&left.join(SOCKET)).expect("address"))
            .expect("bind");
        drop(listener);
        drop(folder);
        let _next = RunFolder::create(base.path(), "next").expect("folder");
        assert!(!left.exists());
    }
}
