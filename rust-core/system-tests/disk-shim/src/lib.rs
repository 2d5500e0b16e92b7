//! A library for `LD_PRELOAD` that stands between a process and the files below one folder.
//!
//! | environment variable | |
//! |---|---|
//! | `RINGMILL_DISK_ROOT` | the folder; without it every call goes straight through |
//! | `RINGMILL_DISK_LOG` | the log ([`record`]), outside the folder and not there yet; the process that makes it is the one that is watched, those that it starts are not |
//! | `RINGMILL_DISK_MODE` | `record`, `lie`, `lie:ENDING` or `fail:ERRNO:SITE:N[:COUNT\|:forever][:short]` |
//!
//! `record` writes every change and every fsync into the log, in one order for all threads. `lie` does the same, but
//! fsync and fdatasync only say that they succeeded, for all files or those whose path has an ending: whoever tests with
//! a power loss must see that. `fail` lets the
//! N-th call of a kind (`write`, `create`, `allocate`, `resize`, `rename`, `link`, `remove`, `mkdir`, `sync`; `space`
//! for those that need some, `any`) fail with `ENOSPC`, `EDQUOT` or `EIO`; only the faults are in its log.
//!
//! `sync_file_range` is let through and not in the log, because it makes nothing durable.
//!
//! It sees what goes through the C library's functions. What does not, a system call by number or a mapping that is
//! written to, it cannot see: the log says `Blind` where that is noticed, and the reader of a log compares the files
//! that come out of it with those that are there.

mod calls;
mod fault;
#[allow(dead_code, reason = "the readers of the log compile the same file")]
mod record;
mod system;
mod watch;
