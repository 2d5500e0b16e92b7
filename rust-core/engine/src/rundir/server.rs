//! The side that hands channels out.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, accept4, bind, getsockopt, listen, setsockopt, socket,
    sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};
use nix::unistd::geteuid;

use super::ChannelHandle;
use super::folder::RunFolder;
use super::message::{ChannelMessage, Greeting, VERSION, send};

/// Onlookers that may wait while one is served.
const BACKLOG: i32 = 8;
/// An onlooker that does not read for this long is dropped, so that it cannot keep others waiting.
const SEND_SECONDS_MAX: i64 = 2;

/// Serves the channels of a run until it is dropped.
#[derive(Debug)]
pub struct Server {
    channels: Arc<Mutex<Vec<ChannelHandle>>>,
    stop: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
}

/// Starts handing `channels` to onlookers through the folder's socket. The folder is removed when the server ends.
///
/// # Errors
/// What the system says to the socket or the thread.
pub fn serve(folder: RunFolder, channels: Vec<ChannelHandle>) -> io::Result<Server> {
    let listener = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)?;
    bind(listener.as_raw_fd(), &UnixAddr::new(&folder.socket())?)?;
    listen(&listener, Backlog::new(BACKLOG)?)?;
    let channels = Arc::new(Mutex::new(channels));
    let stop = Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?);
    let shared = (Arc::clone(&channels), Arc::clone(&stop));
    let thread = std::thread::Builder::new()
        .name("ringmill-inspect".to_owned())
        .spawn(move || accept_loop(&listener, &folder, &shared.0, &shared.1))?;
    Ok(Server { channels, stop, thread: Some(thread) })
}

impl Server {
    /// Hands out these channels from now on.
    pub fn replace(&self, channels: Vec<ChannelHandle>) {
        *lock(&self.channels) = channels;
    }

    /// The list that is handed out, for whoever starts workers again.
    pub fn directory(&self) -> Directory {
        Directory(Arc::clone(&self.channels))
    }
}

/// The channels that a [`Server`] hands out.
#[derive(Clone, Debug)]
pub struct Directory(Arc<Mutex<Vec<ChannelHandle>>>);

impl Directory {
    /// The worker of this name is another process now, with another response file.
    pub fn replace_worker(&self, name: &str, pid: i32, request: OwnedFd, response: OwnedFd) {
        if let Some(channel) = lock(&self.0).iter_mut().find(|channel| channel.name == name) {
            (channel.pid, channel.request, channel.response) = (pid, request, response);
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // An eventfd at zero always takes a one.
        let _ = self.stop.write(1);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn lock(channels: &Mutex<Vec<ChannelHandle>>) -> MutexGuard<'_, Vec<ChannelHandle>> {
    channels.lock().unwrap_or_else(PoisonError::into_inner)
}

fn accept_loop(listener: &OwnedFd, folder: &RunFolder, channels: &Mutex<Vec<ChannelHandle>>, stop: &EventFd) {
    loop {
        let mut waiting =
            [PollFd::new(listener.as_fd(), PollFlags::POLLIN), PollFd::new(stop.as_fd(), PollFlags::POLLIN)];
        match poll(&mut waiting, PollTimeout::NONE) {
            Err(Errno::EINTR) => continue,
            Err(_) => return,
            Ok(_) => {}
        }
        if waiting[1].any().unwrap_or(true) {
            return;
        }
        let Ok(descriptor) = accept4(listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC) else { continue };
        // SAFETY: accept4 has just made this descriptor for us; nobody else knows it.
        #[allow(unsafe_code)]
        let client = unsafe { OwnedFd::from_raw_fd(descriptor) };
        // A client that went away or was refused is no matter of the run.
        let _ = hand_over(&client, folder, channels);
    }
}

fn hand_over(client: &OwnedFd, folder: &RunFolder, channels: &Mutex<Vec<ChannelHandle>>) -> io::Result<()> {
    let peer = getsockopt(client, sockopt::PeerCredentials)?;
    if peer.uid() != geteuid().as_raw() && peer.uid() != 0 {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    setsockopt(client, sockopt::SendTimeout, &TimeVal::seconds(SEND_SECONDS_MAX))?;
    let channels = lock(channels);
    let greeting = Greeting {
        version: VERSION,
        pipeline: folder.pipeline().to_owned(),
        pid: std::process::id(),
        channels: channels.len(),
    };
    send(client.as_fd(), &greeting, &[])?;
    for channel in channels.iter() {
        let request = read_only(&channel.request)?;
        let response = read_only(&channel.response)?;
        let message = ChannelMessage { name: channel.name.clone(), pid: channel.pid };
        send(client.as_fd(), &message, &[request.as_raw_fd(), response.as_raw_fd()])?;
    }
    Ok(())
}

/// The same memory file through a descriptor that can only read, so that looking cannot disturb.
fn read_only(file: &OwnedFd) -> io::Result<OwnedFd> {
    Ok(std::fs::File::open(format!("/proc/self/fd/{}", file.as_raw_fd()))?.into())
}
