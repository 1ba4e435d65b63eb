//! The notes beside the logs ([`Extent`]) as files. Blocking: called by the thread that creates segments, and by the
//! server at boot and at a clean stop, never while a shard of that log runs elsewhere.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use ringdesk_persist::{EXTENT_BYTES, Extent, LogId, extent_file, log_directory};

/// Reads the note of a log; `None` if it has none, as logs of older versions.
///
/// # Errors
/// What the system says; `InvalidData` with a sentence if the note is damaged or another log's.
pub fn read_extent(data: &Path, log: LogId) -> io::Result<Option<Extent>> {
    let bytes = match fs::read(data.join(extent_file(log))) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    Extent::decode(log, &bytes).map(Some).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// Writes the first note of a log, whose folder exists. Durable when it returns.
///
/// # Errors
/// What the system says; then there is no note.
pub fn make_extent(data: &Path, extent: Extent) -> io::Result<()> {
    let path = data.join(extent_file(extent.log));
    let unborn = path.with_extension("new");
    let mut bytes = vec![0; EXTENT_BYTES];
    let (at, copy) = extent.encode();
    let at = usize::try_from(at).expect("within the file");
    bytes[at..at + copy.len()].copy_from_slice(&copy);
    let made = fs::write(&unborn, bytes).and_then(|()| File::open(&unborn)?.sync_all());
    if let Err(error) = made.and_then(|()| fs::rename(&unborn, &path)) {
        let _ = fs::remove_file(&unborn);
        return Err(error);
    }
    File::open(data.join(log_directory(extent.log)))?.sync_all()
}

/// Overwrites the older copy of a log's note in place. Durable when it returns; needs no new space.
///
/// # Errors
/// What the system says; the newer copy is as it was.
pub fn write_extent(data: &Path, extent: &Extent) -> io::Result<()> {
    let file = OpenOptions::new().write(true).open(data.join(extent_file(extent.log)))?;
    let (at, copy) = extent.encode();
    file.write_all_at(&copy, at)?;
    file.sync_data()
}

/// Makes the note if there is none, so that counting a segment later needs no space.
pub(crate) fn have_extent(data: &Path, log: LogId) -> io::Result<()> {
    match read_extent(data, log)? {
        Some(_) => Ok(()),
        None => make_extent(data, Extent::empty(log)),
    }
}

/// Counts `segment` in, which is durable under its name. There is a note.
pub(crate) fn count_segment(data: &Path, log: LogId, segment: u32) -> io::Result<()> {
    let extent = read_extent(data, log)?.ok_or(io::ErrorKind::NotFound)?;
    if segment < extent.end { Ok(()) } else { write_extent(data, &extent.with(segment)) }
}

#[cfg(test)]
mod tests {
    use ringdesk_persist::Position;

    use super::*;

    #[test]
    fn a_note_is_made_once_and_overwritten_in_place() {
        let data = std::env::temp_dir().join(format!("ringdesk-extents-{}", std::process::id()));
        let log = LogId(2);
        let _ = fs::remove_dir_all(&data);
        fs::create_dir_all(data.join(log_directory(log))).expect("folder");
        assert_eq!(read_extent(&data, log).expect("readable"), None);
        have_extent(&data, log).expect("made");
        for segment in [0, 1, 1, 2] {
            count_segment(&data, log, segment).expect("counted");
        }
        let extent = read_extent(&data, log).expect("readable").expect("there");
        assert_eq!((extent.lowest, extent.end, extent.closed), (0, 3, None));
        let closed = extent.closed_at(Some(Position::new(log, 2, 512)));
        write_extent(&data, &closed).expect("written");
        assert_eq!(read_extent(&data, log).expect("readable"), Some(closed));
        let path = data.join(extent_file(log));
        assert_eq!(fs::metadata(&path).expect("there").len(), EXTENT_BYTES as u64);
        fs::write(&path, b"junk").expect("damaged");
        assert_eq!(read_extent(&data, log).expect_err("junk").kind(), io::ErrorKind::InvalidData);
        fs::remove_dir_all(&data).expect("clean");
    }
}
