//! Segment files. Every call may block, so none is made on the shard's thread: reads go through one thread, so that a
//! burst of history pages waits for itself only; writes, syncs and creations through two, so that an append does not
//! wait behind the creation of a file or the zeros ahead of the tail.
//!
//! Order: [`Files::post`] hands a job to a thread; the thread does it, puts [`Done`] into the channel and rings the
//! shard. Pages travel by value, since a buffer of the table never leaves the shard's thread. The queues are bounded
//! by the operation table, which bounds what is out. The threads end with the [`Files`], which waits for them.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, unbounded};
use ringdesk_persist::{LogId, Pages};
use ringdesk_uring::buffers::BufferId;
use ringdesk_uring::files::{Durability, create_segment, open_segment};
use ringdesk_uring::kernel::Waker;
use rustix::io::Errno;

/// Files kept open. History reaches back over segments; the log's tail needs two.
const OPEN_MAX: usize = 256;

/// Log and segment.
pub(crate) type Key = (u16, u32);

/// What to do with a segment.
#[derive(Debug)]
pub(crate) enum Work {
    /// Bring it to life, `bytes` long, starting with the header.
    Create { bytes: u64, header: Vec<u8> },
    /// Write and make durable.
    Write { offset: u64, pages: Pages },
    /// Read for a buffer of the table, from the byte `from` of it on.
    Read { offset: u64, pages: Pages, buffer: BufferId, from: u32 },
    /// Make durable, with the disk's cache.
    Sync,
}

#[derive(Debug)]
struct Job {
    user: u64,
    key: Key,
    file: Option<Arc<File>>,
    work: Work,
}

/// A job's end.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) user: u64,
    /// As the contract has it.
    pub(crate) result: i32,
    /// What was read, and where it belongs.
    pub(crate) read: Option<(BufferId, u32, Pages)>,
    key: Key,
    /// A file that was opened for the job, and whether it was created by it.
    opened: Option<(Arc<File>, bool)>,
}

#[derive(Debug)]
struct Open {
    file: Arc<File>,
    used: u64,
}

/// The threads of one shard and the files they have open.
#[derive(Debug)]
pub(crate) struct Files {
    /// `None` only while dropping: a thread ends when its channel closes.
    reads: Option<Sender<Job>>,
    writes: Option<Sender<Job>>,
    done: Receiver<Done>,
    threads: Vec<JoinHandle<()>>,
    open: BTreeMap<Key, Open>,
    uses: u64,
}

impl Files {
    /// Starts the threads for the data folder `data`. They wake the shard after each job.
    pub(crate) fn start(data: &Path, durability: Durability, waker: &Arc<dyn Waker>) -> io::Result<Self> {
        let (reads, to_read) = unbounded();
        let (writes, to_write) = unbounded();
        let (finished, done) = unbounded();
        let mut threads = Vec::new();
        for (name, todo) in [("rd-read", &to_read), ("rd-write", &to_write), ("rd-write", &to_write)] {
            let hand = Hand { data: data.to_owned(), durability };
            let (todo, finished, waker) = (todo.clone(), finished.clone(), Arc::clone(waker));
            let thread = std::thread::Builder::new().name(name.into()).spawn(move || {
                while let Ok(job) = todo.recv() {
                    if finished.send(hand.carry_out(job)).is_err() {
                        break;
                    }
                    waker.wake();
                }
            })?;
            threads.push(thread);
        }
        let (open, uses) = (BTreeMap::new(), 0);
        Ok(Self { reads: Some(reads), writes: Some(writes), done, threads, open, uses })
    }

    /// Posts a job.
    pub(crate) fn post(&mut self, user: u64, key: Key, work: Work) {
        self.uses += 1;
        let file = self.open.get_mut(&key).map(|open| {
            open.used = self.uses;
            Arc::clone(&open.file)
        });
        let queue = if matches!(work, Work::Read { .. }) { &self.reads } else { &self.writes };
        let queue = queue.as_ref().expect("threads that were not dropped");
        queue.send(Job { user, key, file, work }).expect("the file threads live as long as their shard");
    }

    /// The next finished job, if any.
    pub(crate) fn done(&mut self) -> Option<Done> {
        let mut done = self.done.try_recv().ok()?;
        if let Some((file, created)) = done.opened.take() {
            // Another job may have opened it too; both name the same file, unless this one created it anew.
            if created || !self.open.contains_key(&done.key) {
                self.open.insert(done.key, Open { file, used: self.uses });
            }
            if self.open.len() > OPEN_MAX {
                let oldest = self.open.iter().min_by_key(|(_, open)| open.used).map(|(key, _)| *key);
                self.open.remove(&oldest.expect("more than none are open"));
            }
        }
        Some(done)
    }

    /// Whether a job is finished.
    pub(crate) fn has_done(&self) -> bool {
        !self.done.is_empty()
    }
}

impl Drop for Files {
    /// Waits for the jobs at hand, so that no byte reaches a log after its shard is gone.
    fn drop(&mut self) {
        drop((self.reads.take(), self.writes.take()));
        for thread in self.threads.drain(..) {
            // A panic over there was printed there.
            let _ = thread.join();
        }
    }
}

/// What a thread works with.
struct Hand {
    data: PathBuf,
    durability: Durability,
}

impl Hand {
    fn carry_out(&self, job: Job) -> Done {
        let Job { user, key, file, work } = job;
        let mut done = Done { user, result: 0, read: None, key, opened: None };
        let outcome = match work {
            Work::Create { bytes, header } => create_segment(&self.data, LogId(key.0), key.1, bytes, &header)
                .and_then(|()| self.open(None, true, &mut done))
                .map(|_| 0),
            Work::Write { offset, pages } => {
                self.open(file, false, &mut done).and_then(|file| self.write(&file, pages.as_bytes(), offset))
            }
            Work::Read { offset, mut pages, buffer, from } => {
                let count = self
                    .open(file, false, &mut done)
                    .and_then(|file| uninterrupted(|| file.read_at(pages.as_bytes_mut(), offset)));
                done.read = Some((buffer, from, pages));
                count
            }
            Work::Sync => self.open(file, false, &mut done).and_then(|file| file.sync_data()).map(|()| 0),
        };
        done.result = match outcome {
            Ok(count) => i32::try_from(count).expect("less than 2 GiB in one call"),
            // An error without a number does not come from the kernel; EIO is the nearest.
            Err(error) => -error.raw_os_error().unwrap_or(Errno::IO.raw_os_error()),
        };
        done
    }

    fn open(&self, file: Option<Arc<File>>, created: bool, done: &mut Done) -> io::Result<Arc<File>> {
        if let Some(file) = file {
            return Ok(file);
        }
        let file = Arc::new(open_segment(&self.data, LogId(done.key.0), done.key.1, self.durability)?);
        done.opened = Some((Arc::clone(&file), created));
        Ok(file)
    }

    /// One write. It is synced only if it is whole: a short one is no success yet.
    fn write(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<usize> {
        let count = uninterrupted(|| file.write_at(bytes, offset))?;
        if count == bytes.len() && self.durability == Durability::Buffered {
            file.sync_data()?; // Once, whatever it says: a failed sync is never retried.
        }
        Ok(count)
    }
}

fn uninterrupted(mut call: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            outcome => return outcome,
        }
    }
}
