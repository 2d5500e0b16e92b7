//! What goes over the socket: packets of JSON, those of channels with two descriptors.
//!
//! The socket is of type SEQPACKET, so a packet is a message: first one [`Greeting`], then `channels` times one
//! [`ChannelMessage`] with the descriptors of request and response file, then the server closes.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use serde::{Deserialize, Serialize};

/// Raised when messages change so that older readers would misread them.
pub(super) const VERSION: u32 = 1;
/// Longest message; names are short.
const MESSAGE_BYTES_MAX: usize = 4096;

/// The first message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Greeting {
    /// Version of these messages.
    pub version: u32,
    /// The pipeline's name.
    pub pipeline: String,
    /// The core process.
    pub pid: u32,
    /// How many channel messages follow.
    pub channels: usize,
}

/// The message that carries a channel's descriptors.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct ChannelMessage {
    pub name: String,
    pub pid: i32,
}

/// Sends one message, never raising SIGPIPE.
pub(crate) fn send<T: Serialize>(socket: BorrowedFd<'_>, message: &T, descriptors: &[RawFd]) -> io::Result<()> {
    let bytes = serde_json::to_vec(message)?;
    let control = [ControlMessage::ScmRights(descriptors)];
    let control = if descriptors.is_empty() { &control[..0] } else { &control[..] };
    let parts = [io::IoSlice::new(&bytes)];
    sendmsg::<()>(socket.as_raw_fd(), &parts, control, MsgFlags::MSG_NOSIGNAL, None)?;
    Ok(())
}

/// Receives one message and its descriptors; an error of kind `UnexpectedEof` when the peer has closed.
pub(super) fn receive<T: for<'a> Deserialize<'a>>(socket: BorrowedFd<'_>) -> io::Result<(T, Vec<OwnedFd>)> {
    let mut bytes = [0; MESSAGE_BYTES_MAX];
    let mut control = nix::cmsg_space!([RawFd; 2]);
    let mut parts = [io::IoSliceMut::new(&mut bytes)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let received = recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut control), flags)?;
    let mut descriptors = Vec::new();
    for message in received.cmsgs()? {
        if let ControlMessageOwned::ScmRights(list) = message {
            // SAFETY: the kernel has just made these descriptors for us; nobody else knows them.
            #[allow(unsafe_code)]
            descriptors.extend(list.into_iter().map(|descriptor| unsafe { OwnedFd::from_raw_fd(descriptor) }));
        }
    }
    let length = received.bytes;
    if length == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let message = serde_json::from_slice(&bytes[..length])?;
    Ok((message, descriptors))
}
