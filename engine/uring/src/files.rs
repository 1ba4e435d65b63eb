//! Segment files: creation and opening, the blocking part of the disk's work, on a thread of its own.
//!
//! Order: a shard's kernel posts a [`Job`], the thread does it, puts the [`JobDone`] into the channel and wakes the
//! shard. Reads and writes of open files do not come here. The thread ends with the [`FileThread`], which waits for it.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use ringdesk_persist::{LogId, Pages, log_directory, segment_file, unborn_file};
use rustix::fs::{FallocateFlags, OFlags, fallocate};
use rustix::io::Errno;

use crate::extents::{count_segment, have_extent};
use crate::kernel::Waker;

/// How writes become durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Durability {
    /// O_DIRECT and O_DSYNC: a write is durable when it completes.
    Direct,
    /// Buffered: each write is followed by fdatasync.
    Buffered,
}

/// Work for the thread.
#[derive(Debug)]
pub enum Job {
    /// Creates a segment as [`ringdesk_persist::DiskOp::Create`] says, and opens it.
    Create {
        /// Echoed.
        user: u64,
        /// The log.
        log: u16,
        /// The segment.
        segment: u32,
        /// Length of the file.
        bytes: u64,
        /// Its first bytes.
        header: Vec<u8>,
    },
    /// Opens an existing segment.
    Open {
        /// The log.
        log: u16,
        /// The segment.
        segment: u32,
    },
}

/// A job's end.
#[derive(Debug)]
pub struct JobDone {
    /// `user` of a `Create`, `None` for an `Open`.
    pub created: Option<u64>,
    /// The log.
    pub log: u16,
    /// The segment.
    pub segment: u32,
    /// The open file, or an errno.
    pub file: Result<File, i32>,
}

/// The thread of one shard.
#[derive(Debug)]
pub struct FileThread {
    /// `None` only while dropping: the thread ends when its channel closes.
    jobs: Option<Sender<Job>>,
    done: Receiver<JobDone>,
    thread: Option<JoinHandle<()>>,
}

impl FileThread {
    /// Starts the thread for the data folder `data`. It wakes the shard after each job.
    pub fn start(data: &Path, durability: Durability, waker: Arc<dyn Waker>) -> io::Result<Self> {
        // Unbounded channels: the operation table bounds what is out.
        let (jobs, todo) = channel();
        let (finished, done) = channel();
        let data = data.to_owned();
        let thread = std::thread::Builder::new().name("rd-files".into()).spawn(move || {
            while let Ok(job) = todo.recv() {
                if finished.send(carry_out(&data, durability, job)).is_err() {
                    break;
                }
                waker.wake();
            }
        })?;
        Ok(Self { jobs: Some(jobs), done, thread: Some(thread) })
    }

    /// Posts a job.
    pub fn post(&self, job: Job) {
        let jobs = self.jobs.as_ref().expect("a thread that was not dropped");
        jobs.send(job).expect("the file thread lives as long as its shard");
    }

    /// The next finished job, if any.
    pub fn done(&self) -> Option<JobDone> {
        self.done.try_recv().ok()
    }
}

impl Drop for FileThread {
    /// Waits for the job at hand, so that no file appears after its shard is gone.
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            // A panic over there was printed there.
            let _ = thread.join();
        }
    }
}

fn carry_out(data: &Path, durability: Durability, job: Job) -> JobDone {
    let (created, log, segment, file) = match job {
        Job::Create { user, log, segment, bytes, header } => {
            let file = create_segment(data, LogId(log), segment, bytes, &header)
                .and_then(|()| open_segment(data, LogId(log), segment, durability));
            (Some(user), log, segment, file)
        }
        Job::Open { log, segment } => {
            (None, log, segment, open_segment(data, LogId(log), segment, durability))
        }
    };
    // An error without a number does not come from the kernel; EIO is the nearest.
    let file = file.map_err(|error| error.raw_os_error().unwrap_or(Errno::IO.raw_os_error()));
    JobDone { created, log, segment, file }
}

/// Creates a segment file: prepared under another name, full length, header, synced, renamed, directory synced; then
/// counted in the note of its log. Blocks for as long as the disk takes. What a failure leaves of the preparation is
/// deleted, so that a full disk has its space back.
pub fn create_segment(data: &Path, log: LogId, segment: u32, bytes: u64, header: &[u8]) -> io::Result<()> {
    let folder = data.join(log_directory(log));
    make_folder(data, &folder)?;
    have_extent(data, log)?;
    let unborn = data.join(unborn_file(log, segment));
    let prepared = prepare(&unborn, bytes, header)
        .and_then(|()| fs::rename(&unborn, data.join(segment_file(log, segment))));
    if let Err(error) = prepared {
        // Also after an open that failed: a file without an inode is not there.
        let _ = fs::remove_file(&unborn);
        return Err(error);
    }
    File::open(folder)?.sync_all()?;
    count_segment(data, log, segment)
}

fn prepare(unborn: &Path, bytes: u64, header: &[u8]) -> io::Result<()> {
    let file = OpenOptions::new().write(true).create(true).truncate(true).open(unborn)?;
    match fallocate(&file, FallocateFlags::empty(), 0, bytes) {
        // A file system without preallocation: the length alone. Writes may then fail with ENOSPC later.
        Err(Errno::OPNOTSUPP) => file.set_len(bytes)?,
        other => other?,
    }
    file.write_all_at(header, 0)?;
    file.sync_all()
}

/// Makes the log's folder durable, together with the entries that lead to it.
fn make_folder(data: &Path, folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(folder)?;
    let mut at: PathBuf = folder.to_owned();
    while at != data && at.pop() {
        File::open(&at)?.sync_all()?;
    }
    Ok(())
}

/// Opens a segment file for reading and writing.
pub fn open_segment(data: &Path, log: LogId, segment: u32, durability: Durability) -> io::Result<File> {
    let flags = match durability {
        Durability::Direct => OFlags::DIRECT | OFlags::DSYNC,
        Durability::Buffered => OFlags::empty(),
    };
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(flags.bits() as i32)
        .open(data.join(segment_file(log, segment)))
}

/// Whether the file system of `data` takes direct writes, found by doing one of 4096 bytes to a file that is removed
/// again. A full disk took the file and not its bytes, which is no refusal. Other errors (read-only) are passed on.
pub fn probe_direct(data: &Path, shard: u16) -> io::Result<Durability> {
    fs::create_dir_all(data)?;
    let path = data.join(format!("probe-{shard:04}.tmp"));
    let flags = (OFlags::DIRECT | OFlags::DSYNC).bits() as i32;
    let wrote = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .custom_flags(flags)
        .open(&path)
        .and_then(|file| file.write_all_at(Pages::zeroed(4096).as_bytes(), 0));
    let full = [Errno::NOSPC, Errno::DQUOT].map(|errno| Some(errno.raw_os_error()));
    let refused = [Errno::INVAL, Errno::OPNOTSUPP].map(|errno| Some(errno.raw_os_error()));
    let removed = fs::remove_file(&path);
    match wrote {
        Ok(()) => removed.map(|()| Durability::Direct),
        // A refused open may have created the file or not; both are fine.
        Err(error) if full.contains(&error.raw_os_error()) && removed.is_ok() => Ok(Durability::Direct),
        Err(error) if refused.contains(&error.raw_os_error()) => Ok(Durability::Buffered),
        Err(error) => Err(error),
    }
}
