//! The kernel enforces who writes what.

use crate::support::{Worker, create};
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, FcntlArg, OFlag, SealFlag, fallocate, fcntl, open};
use nix::sys::mman::{MapFlags, ProtFlags, mmap};
use nix::sys::stat::Mode;
use nix::sys::uio::pwrite;
use nix::unistd::ftruncate;
use ringmill_ring::{Doorbell, Wait};
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

fn map_writable(file: &impl AsFd) -> Result<(), Errno> {
    let length = NonZeroUsize::new(4096).unwrap();
    let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: a new mapping at an address of the kernel's choice; it is never used.
    unsafe { mmap(None, length, protection, MapFlags::MAP_SHARED, file, 0) }.map(drop)
}

fn reopen(process: u32, file: &OwnedFd) -> Result<OwnedFd, Errno> {
    open(format!("/proc/{process}/fd/{}", file.as_raw_fd()).as_str(), OFlag::O_RDWR, Mode::empty())
}

/// Everything a worker might try against its input, in the worker's process.
pub fn trespass(request: &OwnedFd, response: &OwnedFd) {
    assert_eq!(map_writable(request), Err(Errno::EACCES));
    assert_eq!(pwrite(request, &[1], 4096), Err(Errno::EBADF));
    // Its own descriptor opened anew, and the core's through /proc (both processes are of one user).
    let mine = reopen(std::process::id(), request).unwrap();
    let cores = core_descriptors();
    assert!(!cores.is_empty(), "the core's descriptors can be seen");
    for again in cores.iter().chain([&mine]) {
        assert_eq!(map_writable(again), Err(Errno::EPERM));
        assert_eq!(pwrite(again, &[1], 4096), Err(Errno::EPERM));
        assert_eq!(ftruncate(again, 4096), Err(Errno::EPERM));
        assert_eq!(ftruncate(again, 1 << 20), Err(Errno::EPERM));
        let punch = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        assert_eq!(fallocate(again, punch, 0, 4096), Err(Errno::EPERM));
        let unseal = FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_WRITE);
        assert_eq!(fcntl(again, unseal), Err(Errno::EPERM));
    }
    // Its own file it may write, but not resize: that would be SIGBUS in the core.
    assert_eq!(map_writable(response), Ok(()));
    assert_eq!(ftruncate(response, 4096), Err(Errno::EPERM));
    assert_eq!(ftruncate(response, 1 << 20), Err(Errno::EPERM));
}

/// The parent's writable descriptors of request files.
fn core_descriptors() -> Vec<OwnedFd> {
    let folder = format!("/proc/{}/fd", std::os::unix::process::parent_id());
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let is_request = |path: &std::path::PathBuf| {
        std::fs::read_link(path).is_ok_and(|target| target.to_string_lossy().starts_with("/memfd:ringmill-request"))
    };
    entries.filter(is_request).filter_map(|path| open(&path, OFlag::O_RDWR, Mode::empty()).ok()).collect()
}

#[test]
fn a_worker_can_neither_write_its_input_nor_resize_any_file() {
    let core = create(2, 4096);
    Worker::spawn(&core, &Doorbell::new().unwrap(), "trespass", Wait::Block).join();
}

#[test]
fn the_memory_is_really_allocated() {
    let core = create(8, 1 << 20);
    let (request, response) = core.worker_fds().unwrap();
    for file in [request, response] {
        let status = nix::sys::stat::fstat(&file).unwrap();
        assert!(status.st_blocks * 512 >= status.st_size, "{} of {} bytes", status.st_blocks * 512, status.st_size);
    }
}

#[test]
fn descriptors_are_closed_on_exec_unless_the_spawner_says_otherwise() {
    let core = create(1, 64);
    let (request, response) = core.worker_fds().unwrap();
    let doorbell = Doorbell::new().unwrap();
    for file in [request.as_fd(), response.as_fd(), doorbell.as_fd()] {
        assert_eq!(fcntl(file, FcntlArg::F_GETFD), Ok(libc::FD_CLOEXEC));
    }
}
