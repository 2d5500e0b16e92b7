//! Reading a journal from an offset on, every record checked.
//!
//! The last record of the last segment may be unfinished: nobody has been given its bytes. Anything else that is not as
//! it was written is refused, and named by file and byte.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::Path,
};

use super::record::{Head, Kind, RECORD_HEAD_BYTES, SEGMENT_HEAD_BYTES, segment_head, segment_name, segment_offset};
use crate::{
    ConnectError,
    staging::{read_error, write_error},
};

/// What a walk has found out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Walk {
    /// where each segment begins, oldest first
    pub segments: Vec<u64>,
    /// offset behind the last whole record
    pub end: u64,
    /// so many bytes of the last segment's file count
    pub tail_bytes: u64,
    /// … and behind them are so many that do not
    pub rest_bytes: u64,
    /// the last stream was not read to its end, as far as was seen
    pub is_open: bool,
}

/// The refusal of a journal.
pub(super) fn refuse(path: &Path, reason: String) -> ConnectError {
    ConnectError::Target { name: format!("journal {}", path.display()), reason }
}

/// Where the segments in a folder begin, oldest first; a folder that is not there has none.
fn segments(folder: &Path) -> Result<Vec<u64>, ConnectError> {
    let failed = |source| ConnectError::Open { path: folder.to_owned(), source };
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed)?,
    };
    let mut offsets = Vec::new();
    for entry in entries {
        let name = entry.map_err(failed)?.file_name();
        offsets.extend(name.to_str().and_then(segment_offset));
    }
    offsets.sort_unstable();
    Ok(offsets)
}

/// Opens a segment that is no symbolic link.
pub(super) fn open(path: &Path) -> io::Result<File> {
    File::options().read(true).write(true).custom_flags(libc::O_NOFOLLOW).open(path)
}

/// Hands every record that has something behind `from` over, with its bytes from `from` on, until `visit` says `false`.
pub(super) fn walk(
    folder: &Path,
    from: u64,
    mut visit: impl FnMut(&Head, &[u8]) -> bool,
) -> Result<Walk, ConnectError> {
    let segments = segments(folder)?;
    let mut walk = Walk { is_open: true, ..Walk::default() };
    let Some(first) = segments.iter().rposition(|base| *base <= from) else {
        return match segments.first() {
            None if from == 0 => Ok(Walk::default()),
            None => Err(refuse(folder, format!("it is empty, and byte {from} of the stream is wanted"))),
            Some(base) => {
                Err(refuse(folder, format!("it begins at byte {base} of the stream only, and byte {from} is wanted")))
            }
        };
    };
    walk.end = segments[first];
    let mut bytes = Vec::new();
    for (index, &base) in segments.iter().enumerate().skip(first) {
        let path = folder.join(segment_name(base));
        if base != walk.end {
            let reason = format!("bytes {} to {base} of the stream are missing", walk.end);
            return Err(refuse(&path, reason));
        }
        let is_last = index + 1 == segments.len();
        if !read_segment(&path, &mut walk, is_last, &mut bytes, from, &mut visit)? {
            break;
        }
    }
    if walk.end < from {
        return Err(refuse(folder, format!("it ends at byte {} of the stream, and byte {from} is wanted", walk.end)));
    }
    walk.segments = segments;
    Ok(walk)
}

/// Reads the segment that begins at `walk.end`; `false`: `visit` wants no more.
fn read_segment(
    path: &Path,
    walk: &mut Walk,
    is_last: bool,
    bytes: &mut Vec<u8>,
    from: u64,
    visit: &mut impl FnMut(&Head, &[u8]) -> bool,
) -> Result<bool, ConnectError> {
    let failed = |source| read_error(path, source);
    let file = open(path).map_err(|source| ConnectError::Open { path: path.to_owned(), source })?;
    let length = file.metadata().map_err(failed)?.len();
    let mut at = 0;
    let has_head = length >= SEGMENT_HEAD_BYTES as u64 && {
        let mut head = [0; SEGMENT_HEAD_BYTES];
        file.read_exact_at(&mut head, 0).map_err(failed)?;
        head == segment_head(walk.end)
    };
    if has_head {
        at = SEGMENT_HEAD_BYTES as u64;
        while let Some(head) = read_record(&file, at, length, walk.end, bytes).map_err(failed)? {
            at += (RECORD_HEAD_BYTES + bytes.len()) as u64;
            walk.end = head.end();
            walk.is_open = head.kind != Kind::End;
            let known = from.saturating_sub(head.offset).min(u64::from(head.length));
            let is_new = head.end() > from || head.kind == Kind::End && head.offset >= from;
            if is_new && !visit(&head, &bytes[known as usize..]) {
                return Ok(false);
            }
        }
    }
    (walk.tail_bytes, walk.rest_bytes) = (at, length - at);
    let is_unfinished = walk.rest_bytes > 0 || !has_head;
    if is_unfinished && (!is_last || has_record(&file, at, length, walk.end).map_err(failed)?) {
        return Err(refuse(path, format!("it is damaged at byte {at} of the file")));
    }
    Ok(true)
}

/// The record at byte `at` of the file, if it is whole; its bytes are put into `bytes`.
fn read_record(file: &File, at: u64, length: u64, offset: u64, bytes: &mut Vec<u8>) -> io::Result<Option<Head>> {
    let left = length - at;
    if left < RECORD_HEAD_BYTES as u64 {
        return Ok(None);
    }
    let mut head = [0; RECORD_HEAD_BYTES];
    file.read_exact_at(&mut head, at)?;
    let Some(head) = Head::decode(&head).filter(|head| head.offset == offset) else { return Ok(None) };
    if left - (RECORD_HEAD_BYTES as u64) < u64::from(head.length) {
        return Ok(None);
    }
    bytes.resize(head.length as usize, 0);
    file.read_exact_at(bytes, at + RECORD_HEAD_BYTES as u64)?;
    Ok((crc32c::crc32c(bytes) == head.crc32c).then_some(head))
}

/// Whether somewhere behind byte `at` of the file another record of this stream begins.
fn has_record(file: &File, at: u64, length: u64, offset: u64) -> io::Result<bool> {
    let mut rest = vec![0; (length - at) as usize];
    file.read_exact_at(&mut rest, at)?;
    let is_later = |head: Head| (offset..=offset.saturating_add(length)).contains(&head.offset);
    let starts = rest.windows(RECORD_HEAD_BYTES).enumerate().skip(1);
    // Few places have a kind where a head has it, so checksums are few.
    let mut heads = starts.filter(|(_, window)| matches!(window[12..16], [1..=3, 0, 0, 0]));
    Ok(heads.any(|(_, window)| window.try_into().ok().and_then(Head::decode).is_some_and(is_later)))
}

/// Refuses a folder that is a link, no folder, or somebody else's.
pub(super) fn check_folder(path: &Path) -> Result<(), ConnectError> {
    use std::os::unix::fs::MetadataExt;
    let data = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        data => data.map_err(|source| write_error(path, source))?,
    };
    if !data.is_dir() || data.uid() != nix::unistd::geteuid().as_raw() {
        return Err(refuse(path, "it is not a folder of this user".to_owned()));
    }
    Ok(())
}
