//! A Unix socket, or two pipes: the child's standard input and output.

use crate::{Client, Outcome, Plan, Server, payload};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{setsockopt, sockopt};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Stdio};

/// Room on the way: the most that the kernel gives an ordinary user.
const BUFFER_BYTES: i32 = 1 << 20;

/// Two descriptors (or the same one twice) and a message.
struct Ends {
    input: OwnedFd,
    output: OwnedFd,
    message: Vec<u64>,
}

pub fn connect(plan: &Plan) -> Outcome<(Box<dyn Client>, Child)> {
    let mut command = plan.child(&[])?;
    if plan.transport == "pipe" {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let output = OwnedFd::from(child.stdin.take().ok_or("the child has an input")?);
        let input = OwnedFd::from(child.stdout.take().ok_or("the child has an output")?);
        for pipe in [&input, &output] {
            let _ = fcntl(pipe, FcntlArg::F_SETPIPE_SZ(BUFFER_BYTES));
        }
        return Ok((Box::new(Ends::new(input, output, plan)?), child));
    }
    let (ours, theirs) = UnixStream::pair()?;
    for socket in [&ours, &theirs] {
        setsockopt(socket, sockopt::SndBuf, &(BUFFER_BYTES as usize))?;
    }
    let theirs = OwnedFd::from(theirs);
    let child = command.stdin(Stdio::from(theirs.try_clone()?)).stdout(Stdio::from(theirs)).spawn()?;
    let ours = OwnedFd::from(ours);
    Ok((Box::new(Ends::new(ours.try_clone()?, ours, plan)?), child))
}

pub fn serve(plan: &Plan) -> Outcome<Box<dyn Server>> {
    let input = std::io::stdin().as_fd().try_clone_to_owned()?;
    let output = std::io::stdout().as_fd().try_clone_to_owned()?;
    Ok(Box::new(Ends::new(input, output, plan)?))
}

impl Ends {
    fn new(input: OwnedFd, output: OwnedFd, plan: &Plan) -> Outcome<Ends> {
        if plan.spin {
            for descriptor in [&input, &output] {
                let flags = OFlag::from_bits_retain(fcntl(descriptor, FcntlArg::F_GETFL)?);
                fcntl(descriptor, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
            }
        }
        Ok(Ends { input, output, message: vec![0; plan.bytes / 8] })
    }

    fn send(&mut self, number: u64) -> Outcome<()> {
        payload::write(&mut self.message, number);
        let bytes = as_bytes(&self.message);
        let mut done = 0;
        while done < bytes.len() {
            match nix::unistd::write(&self.output, &bytes[done..]) {
                Ok(written) => done += written,
                Err(Errno::EAGAIN | Errno::EINTR) => std::hint::spin_loop(),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn get(&mut self) -> Outcome<u64> {
        let mut done = 0;
        let mut bytes = vec_bytes(&mut self.message);
        while done < bytes.len() {
            match nix::unistd::read(&self.input, &mut bytes[done..]) {
                Ok(0) => return Err("the other side has ended".into()),
                Ok(read) => done += read,
                Err(Errno::EAGAIN | Errno::EINTR) => std::hint::spin_loop(),
                Err(error) => return Err(error.into()),
            }
            bytes = vec_bytes(&mut self.message);
        }
        Ok(payload::read(&self.message))
    }
}

#[allow(unsafe_code, reason = "words are bytes")]
fn as_bytes(words: &[u64]) -> &[u8] {
    // SAFETY: every byte of an integer is initialised, and bytes need no alignment.
    unsafe { std::slice::from_raw_parts(words.as_ptr().cast(), words.len() * 8) }
}

#[allow(unsafe_code, reason = "bytes are words")]
fn vec_bytes(words: &mut [u64]) -> &mut [u8] {
    // SAFETY: as above, and every pattern of bytes is an integer.
    unsafe { std::slice::from_raw_parts_mut(words.as_mut_ptr().cast(), words.len() * 8) }
}

impl Client for Ends {
    fn round_trip(&mut self, number: u64) -> Outcome<()> {
        self.send(number)?;
        self.get()?;
        Ok(())
    }

    fn stream(&mut self, count: u64) -> Outcome<()> {
        for number in 0..count {
            self.send(number)?;
        }
        self.get()?; // that all were read
        Ok(())
    }
}

impl Server for Ends {
    fn answer(&mut self, count: u64) -> Outcome<()> {
        for number in 0..count {
            self.get()?;
            self.send(number)?;
        }
        Ok(())
    }

    fn receive(&mut self, count: u64) -> Outcome<()> {
        for _ in 0..count {
            self.get()?;
        }
        self.send(count)
    }
}
