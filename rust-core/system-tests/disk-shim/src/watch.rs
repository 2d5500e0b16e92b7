//! What is known of the watched process: which descriptors stand for files in the folder, and the log.

use std::ffi::{CStr, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use libc::{
    AT_FDCWD, O_APPEND, O_CLOEXEC, O_CREAT, O_EXCL, O_RDWR, SEEK_END, SYS_close, SYS_lseek, SYS_openat, SYS_pread64,
    SYS_write, c_char, c_int,
};

use crate::fault::{Fault, Site, Verdict};
use crate::record::{Kind, Record};
use crate::system;

/// Descriptors beyond these are not followed; no process of ours has as many.
const DESCRIPTORS: usize = 1 << 16;

/// Which handle a descriptor stands for, 0 for none. Written by the thread that opens or closes the descriptor, read
/// by those that use it, which have learnt of it from that thread: their own synchronisation orders it.
static HANDLES: [AtomicU32; DESCRIPTORS] = [const { AtomicU32::new(0) }; DESCRIPTORS];

static WATCH: OnceLock<Option<Watch>> = OnceLock::new();

/// The folder and what happens in it.
pub(crate) struct Watch {
    root: PathBuf,
    /// A fork of the process is not the process.
    pid: u32,
    pub(crate) mode: Mode,
    /// The ending of the paths whose fsync is not carried out.
    lies_about: Option<Vec<u8>>,
    state: Mutex<State>,
}

/// What is done with a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Record,
    Fail,
}

/// Held during each watched call, so that the log has the calls in the order of their effects.
pub(crate) struct State {
    log: c_int,
    handles: u32,
    fault: Option<Fault>,
    buffer: Vec<u8>,
}

/// The watch, if there is one over this process.
pub(crate) fn watch() -> Option<&'static Watch> {
    WATCH.get_or_init(Watch::begin).as_ref().filter(|watch| watch.pid == std::process::id())
}

/// The handle that a descriptor stands for.
pub(crate) fn handle(fd: c_int) -> Option<u32> {
    let handle = HANDLES.get(usize::try_from(fd).ok()?)?.load(Ordering::Relaxed);
    (handle != 0).then_some(handle)
}

/// From now on the descriptor stands for this handle, or for none.
pub(crate) fn set_handle(fd: c_int, handle: u32) {
    if let Some(slot) = usize::try_from(fd).ok().and_then(|fd| HANDLES.get(fd)) {
        slot.store(handle, Ordering::Relaxed);
    }
}

impl Watch {
    fn begin() -> Option<Watch> {
        let root = Path::new(&std::env::var_os("RINGMILL_DISK_ROOT")?).canonicalize().ok()?;
        let mode = std::env::var("RINGMILL_DISK_MODE").ok()?;
        let (mode, fault, lies_about) = match mode.as_str() {
            "record" => (Mode::Record, None, None),
            "lie" => (Mode::Record, None, Some("")),
            text => match text.strip_prefix("lie:") {
                Some(ending) => (Mode::Record, None, Some(ending)),
                None => (Mode::Fail, Some(Fault::parse(text.strip_prefix("fail:")?)?), None),
            },
        };
        let lies_about = lies_about.map(|ending| ending.as_bytes().to_vec());
        let pid = std::process::id();
        let log = Log::open(std::env::var_os("RINGMILL_DISK_LOG")?.into_encoded_bytes(), pid)?;
        // What was handed out before the process became this program is not handed out again.
        let mut state = State { log: log.fd, handles: log.length, fault, buffer: Vec::new() };
        if log.length == 0 {
            state.note(Record::of(Kind::Begin, 0, u64::from(pid)));
        }
        Some(Watch { root, pid, mode, lies_about, state: Mutex::new(state) })
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether an fsync of this file is to be a lie.
    pub(crate) fn lies_about(&self, fd: c_int) -> bool {
        let Some(ending) = &self.lies_about else { return false };
        self.location_of(fd).is_some_and(|path| path.ends_with(ending))
    }

    /// Where a path leads, relative to the folder; none if it leads elsewhere. Its last component is not followed.
    pub(crate) fn locate(&self, folder: c_int, path: *const c_char) -> Option<Vec<u8>> {
        let path = base(folder, path)?;
        let name = path.file_name()?;
        let parent = path.parent()?.canonicalize().ok()?;
        self.relative(&parent.join(name))
    }

    /// Where the file of a descriptor is, relative to the folder.
    pub(crate) fn location_of(&self, fd: c_int) -> Option<Vec<u8>> {
        self.relative(&std::fs::read_link(format!("/proc/self/fd/{fd}")).ok()?)
    }

    fn relative(&self, path: &Path) -> Option<Vec<u8>> {
        path.strip_prefix(&self.root).ok().map(|path| path.as_os_str().as_bytes().to_vec())
    }
}

/// The opened log, and how long it was.
struct Log {
    fd: c_int,
    length: u32,
}

impl Log {
    /// Opens the log if it is this process's: not there yet, or made by it before it became another program. Processes
    /// that the watched one starts find another's, and are not watched.
    fn open(mut path: Vec<u8>, pid: u32) -> Option<Log> {
        path.push(0);
        let open = |flags: c_int| {
            let flags = (flags | O_RDWR | O_APPEND | O_CLOEXEC) as usize;
            let fd = system::call(SYS_openat, [system::fd(AT_FDCWD), path.as_ptr() as usize, flags, 0o600, 0, 0]);
            c_int::try_from(fd).ok().filter(|fd| *fd >= 0)
        };
        if let Some(fd) = open(O_CREAT | O_EXCL) {
            return Some(Log { fd, length: 0 });
        }
        let fd = open(0)?;
        let mut begin = Vec::new();
        Record::of(Kind::Begin, 0, u64::from(pid)).encode(&mut begin);
        let mut found = vec![0_u8; begin.len()];
        let arguments = [system::fd(fd), found.as_mut_ptr() as usize, found.len(), 0, 0, 0];
        if system::call(SYS_pread64, arguments) == begin.len() as isize && found == begin {
            let length = system::call(SYS_lseek, [system::fd(fd), 0, SEEK_END as usize, 0, 0, 0]);
            return Some(Log { fd, length: u32::try_from(length).ok()? });
        }
        system::call(SYS_close, [system::fd(fd), 0, 0, 0, 0, 0]);
        None
    }
}

impl State {
    /// Appends to the log. One that cannot be written any more ends the process: half a log proves nothing.
    pub(crate) fn note(&mut self, record: Record<'_>) {
        self.buffer.clear();
        record.encode(&mut self.buffer);
        let (bytes, log) = (&self.buffer, system::fd(self.log));
        let written = system::call(SYS_write, [log, bytes.as_ptr() as usize, bytes.len(), 0, 0, 0]);
        if written != bytes.len() as isize {
            std::process::abort();
        }
    }

    /// A handle that was not used yet.
    pub(crate) fn next_handle(&mut self) -> u32 {
        self.handles += 1;
        self.handles
    }

    /// Whether a call on this file is to fail; if so, that is in the log and in `errno`.
    pub(crate) fn judge(&mut self, site: Site, path: impl FnOnce() -> Vec<u8>) -> Verdict {
        let verdict = self.fault.as_mut().map_or(Verdict::Pass, |fault| fault.judge(site));
        if let Verdict::Fail(code) = verdict {
            self.note(Record::of(Kind::Fault, 0, code as u64).at(&path()).with(site.name().as_bytes()));
            system::set_errno(code);
        }
        verdict
    }
}

/// The path as the process means it, absolute.
#[allow(unsafe_code)]
fn base(folder: c_int, path: *const c_char) -> Option<PathBuf> {
    if path.is_null() {
        return None;
    }
    // SAFETY: the caller of the function that we stand for promises a text that ends with a zero byte.
    let path = Path::new(OsStr::from_bytes(unsafe { CStr::from_ptr(path) }.to_bytes()));
    if path.is_absolute() {
        return Some(path.to_owned());
    }
    let folder = match folder {
        AT_FDCWD => std::env::current_dir().ok()?,
        folder => std::fs::read_link(format!("/proc/self/fd/{folder}")).ok()?,
    };
    Some(folder.join(path))
}
