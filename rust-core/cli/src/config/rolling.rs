//! When the files of a folder are complete.

use std::time::Duration;

use ringmill_connect::Rolling;

use super::mistake::Mistake;
use super::raw::{RawValue, Table};

/// Of a sink that writes to `path`.
pub fn rolling(table: &Table, path: &str, mistakes: &mut Vec<Mistake>) -> Rolling {
    for key in ["file_size_max", "roll_interval"] {
        let Some(raw) = table.get(key) else { continue };
        if !path.ends_with('/') {
            let message = format!("`{key}` belongs to a folder of files, and this is one file");
            let hint = format!("end the path with a slash: path = \"{path}/\"");
            mistakes.push(Mistake::at(raw.span, message).hint(hint));
        }
        if matches!(raw.value, RawValue::Size(0) | RawValue::Duration(0)) {
            mistakes.push(Mistake::at(raw.span, format!("`{key}` must be more than 0")).hint("leave it out"));
        }
    }
    Rolling {
        bytes_max: table.size("file_size_max"),
        interval: table.duration("roll_interval").map(|ns| Duration::from_nanos(ns.unsigned_abs())),
    }
}
