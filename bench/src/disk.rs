//! The disk's own price of one durable append, measured in the run it is compared with.
//!
//! Order: fill a file with zeros, sync it, then write it once more from the front in equal steps with
//! O_DIRECT | O_DSYNC, one write at a time. Filling first matters: on a file whose blocks are not yet written,
//! each synchronous write also journals the extent conversion and costs about twice as much.
//! Ownership: an [`AppendProbe`] owns its file and removes it when dropped.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use rustix::fs::OFlags;

/// Bytes of the append that every report compares with.
pub const APPEND_BYTES: usize = 4096;
/// How the file was opened; part of the report, because it decides what the figure means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AppendMode {
    /// O_DIRECT | O_DSYNC: past the page cache, durable when the write returns.
    Direct,
    /// O_DSYNC only: the file system refused O_DIRECT.
    Buffered,
}

impl AppendMode {
    /// The name used in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Direct => "O_DIRECT|O_DSYNC",
            Self::Buffered => "O_DSYNC",
        }
    }
}

/// A zero-filled file on the disk under test and the place of the next append.
pub struct AppendProbe {
    path: PathBuf,
    file: File,
    /// Holds one append, from the first address that O_DIRECT takes: it refuses what is not aligned to the device's block.
    bytes: Vec<u8>,
    append_bytes: usize,
    next: usize,
    appends_max: usize,
    mode: AppendMode,
}

impl AppendProbe {
    /// Creates the file in `dir` with room for `appends_max` appends of `append_bytes` (whole sectors) each, filled
    /// with zeros and synced.
    ///
    /// # Errors
    /// One sentence naming the path when the folder cannot be written.
    pub fn create(dir: &Path, append_bytes: usize, appends_max: usize) -> Result<Self, String> {
        assert!(appends_max > 0, "a probe without appends measures nothing");
        assert!(append_bytes > 0 && append_bytes.is_multiple_of(512), "O_DIRECT wants whole sectors");
        let path = dir.join(format!("ringbench-append-{}.tmp", std::process::id()));
        let fail = |what: &str, error: std::io::Error| format!("cannot {what} {}: {error}", path.display());
        let mut filled = File::create_new(&path).map_err(|e| fail("create", e))?;
        let zeros = vec![0u8; APPEND_BYTES * 64];
        let mut left = appends_max * append_bytes;
        while left > 0 {
            let step = left.min(zeros.len());
            filled.write_all(&zeros[..step]).map_err(|e| fail("fill", e))?;
            left -= step;
        }
        filled.sync_all().map_err(|e| fail("sync", e))?;
        let open =
            |flags: OFlags| OpenOptions::new().write(true).custom_flags(flags.bits() as i32).open(&path);
        let (file, mode) = match open(OFlags::DIRECT | OFlags::DSYNC) {
            Ok(file) => (file, AppendMode::Direct),
            Err(_) => (open(OFlags::DSYNC).map_err(|e| fail("open", e))?, AppendMode::Buffered),
        };
        let bytes = vec![0xA5; append_bytes + APPEND_BYTES];
        Ok(Self { path, file, bytes, append_bytes, next: 0, appends_max, mode })
    }

    /// How the file was opened.
    pub fn mode(&self) -> AppendMode {
        self.mode
    }

    /// Does one durable append and returns its duration in nanoseconds.
    ///
    /// # Errors
    /// One sentence when the write fails or is short.
    pub fn append(&mut self) -> Result<u64, String> {
        assert!(self.next < self.appends_max, "more appends than the file was filled for");
        let offset = (self.next * self.append_bytes) as u64;
        let first = self.bytes.as_ptr().align_offset(APPEND_BYTES);
        let page = &mut self.bytes[first..first + self.append_bytes];
        page[0] = self.next as u8;
        let start = Instant::now();
        let written = rustix::io::pwrite(&self.file, page, offset)
            .map_err(|e| format!("append to {} failed: {e}", self.path.display()))?;
        let took = start.elapsed();
        if written != self.append_bytes {
            let (path, wanted) = (self.path.display(), self.append_bytes);
            return Err(format!("append to {path} wrote {written} of {wanted} bytes"));
        }
        self.next += 1;
        Ok(took.as_nanos() as u64)
    }
}

impl Drop for AppendProbe {
    fn drop(&mut self) {
        // Nothing to say when this fails: the folder was writable when the probe began.
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn appends_land_in_order_and_the_file_goes_away() {
        let dir = std::env::temp_dir().join(format!("ringbench-disk-test-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let mut probe = AppendProbe::create(&dir, APPEND_BYTES, 3).unwrap();
        let path = probe.path.clone();
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 3 * APPEND_BYTES as u64);
        for _ in 0..3 {
            assert!(probe.append().unwrap() > 0);
        }
        let bytes = std::fs::read(&path).unwrap();
        for i in 0..3 {
            assert_eq!(bytes[i * APPEND_BYTES], i as u8, "append {i} is in its place");
            assert_eq!(bytes[i * APPEND_BYTES + 1], 0xA5);
        }
        drop(probe);
        assert!(!path.exists(), "the probe removes its file");
        std::fs::remove_dir(&dir).unwrap();
    }

    #[test]
    fn a_folder_that_is_not_there_is_a_sentence() {
        let error = AppendProbe::create(Path::new("/nonexistent/ringbench"), APPEND_BYTES, 1).err().unwrap();
        assert!(error.contains("cannot create /nonexistent/ringbench"), "{error}");
    }
}
