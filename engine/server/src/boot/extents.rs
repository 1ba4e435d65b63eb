//! The notes beside the logs: which segments must exist, and where each log ended at the last clean stop.
//!
//! Order: [`read`] before a log is replayed, [`begin`] after the replay and before anything is appended, [`close`]
//! after the last write of a clean stop. Between the last two, the creation of each segment counts it
//! (`ringdesk_uring::files`).

use std::io;
use std::path::Path;

use ringdesk_persist::{Extent, LogId, Position, extent_file, log_directory};
use ringdesk_uring::extents::{make_extent, read_extent, write_extent};

use super::error::BootError;
use crate::say;

/// Makes the note of a log whose folder was just made.
pub fn make(data: &Path, log: LogId) -> Result<(), BootError> {
    let path = data.join(extent_file(log));
    let made = read_extent(data, log).and_then(|known| match known {
        Some(_) => Ok(()),
        None => make_extent(data, Extent::empty(log)),
    });
    made.map_err(BootError::folder(&path, "it cannot be written"))
}

/// The note of a log of which segment files were found or not (`found`), in a folder that was started `boots` times
/// before. A folder of an older version has none; then at least one segment must be there.
pub fn read(data: &Path, log: LogId, found: bool, boots: u32) -> Result<Option<Extent>, BootError> {
    let path = data.join(extent_file(log));
    let extent = read_extent(data, log).map_err(|error| {
        let restore = "restore it from a backup, or remove it to go on without its knowledge";
        BootError::Replay(format!("{}: it cannot be read: {error}; {restore}", path.display()))
    })?;
    if extent.is_none() && !found && boots > 0 {
        let folder = data.join(log_directory(log));
        let sentence = "no segment file is there although the folder was started before; restore them from a \
                        backup. If this server never served from it, start with another folder";
        return Err(BootError::Replay(format!("{}: {sentence}", folder.display())));
    }
    Ok(extent)
}

/// Counts the segments that are there, and takes back the end of a log that will be `appended` to.
pub fn begin(data: &Path, log: LogId, last: Option<u32>, appended: bool) -> Result<(), BootError> {
    let path = data.join(extent_file(log));
    let failed = |error| BootError::folder(&path, "it cannot be written")(error);
    let Some(extent) = read_extent(data, log).map_err(failed)? else {
        let extent = last.map_or(Extent::empty(log), |last| Extent::empty(log).with(last));
        return match make_extent(data, extent) {
            // A folder of an older version on a full disk: it is served, as the older version did.
            Err(error) if error.kind() == io::ErrorKind::StorageFull => {
                say!(Warn, "{}: it cannot be written yet: {error}", path.display());
                Ok(())
            }
            other => other.map_err(failed),
        };
    };
    let mut next = extent;
    if let Some(last) = last.filter(|last| *last >= next.end) {
        next = next.with(last);
    }
    if appended && next.closed.is_some() {
        next = Extent { number: extent.number + 1, ..next.closed_at(None) };
    }
    if next == extent { Ok(()) } else { write_extent(data, &next).map_err(failed) }
}

/// Notes where each log ended. A note that cannot be written leaves the next start as after a crash.
pub fn close(data: &Path, ends: &[(LogId, Position)]) {
    for (log, end) in ends {
        let noted = read_extent(data, *log).and_then(|extent| match extent {
            Some(extent) => write_extent(data, &extent.closed_at(Some(*end))),
            None => Ok(()),
        });
        if let Err(error) = noted {
            say!(Warn, "{}: the log's end cannot be noted: {error}", data.join(extent_file(*log)).display());
        }
    }
}
