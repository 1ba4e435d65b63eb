//! Open log files of one shard's ring. A file is opened by the file thread on its first use; operations that need it
//! are parked meanwhile. At most `OPEN_MAX` files stay open beyond those in use.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsRawFd, RawFd};

use crate::files::{FileThread, Job, JobDone};
use crate::kernel::Op;

/// Idle files kept open. History reaches back over segments; the log's tail needs two.
const OPEN_MAX: usize = 256;

pub(super) type Key = (u16, u32);

#[derive(Debug)]
struct Open {
    file: File,
    out: u32,
    used: u64,
}

#[derive(Debug)]
pub(super) struct Segments {
    thread: FileThread,
    jobs_out: usize,
    open: BTreeMap<Key, Open>,
    parked: BTreeMap<Key, Vec<(u64, Op)>>,
    uses: u64,
    /// Replaced files: operations may be queued that name their descriptors, so they are closed only after the queue
    /// went to the kernel.
    retired: Vec<File>,
}

/// A job's end, for the shim.
#[derive(Debug)]
pub(super) enum Landed {
    /// A creation ended with this result.
    Created { user: u64, result: i32 },
    /// A file was opened (0) or not (negated errno): these operations were waiting for it.
    Opened { result: i32, parked: Vec<(u64, Op)> },
}

impl Segments {
    pub(super) fn new(thread: FileThread) -> Self {
        Self {
            thread,
            jobs_out: 0,
            open: BTreeMap::new(),
            parked: BTreeMap::new(),
            uses: 0,
            retired: Vec::new(),
        }
    }

    pub(super) fn create(&mut self, user: u64, (log, segment): Key, bytes: u64, header: Vec<u8>) {
        self.jobs_out += 1;
        self.thread.post(Job::Create { user, log, segment, bytes, header });
    }

    /// The descriptor of an open file, counted as in use; `None` if the file is not open.
    pub(super) fn take(&mut self, key: Key) -> Option<RawFd> {
        self.uses += 1;
        let open = self.open.get_mut(&key)?;
        open.out += 1;
        open.used = self.uses;
        Some(open.file.as_raw_fd())
    }

    /// An operation that took the file ended.
    pub(super) fn release(&mut self, key: Key) {
        if let Some(open) = self.open.get_mut(&key) {
            // Zero if the file was replaced while the operation was out.
            open.out = open.out.saturating_sub(1);
        }
        if self.open.len() > OPEN_MAX {
            let idle = self.open.iter().filter(|(_, open)| open.out == 0);
            if let Some(oldest) = idle.min_by_key(|(_, open)| open.used).map(|(key, _)| *key) {
                self.open.remove(&oldest);
            }
        }
    }

    /// Keeps an operation until its file is open.
    pub(super) fn park(&mut self, key: Key, user: u64, op: Op) {
        let parked = self.parked.entry(key).or_default();
        if parked.is_empty() {
            self.jobs_out += 1;
            self.thread.post(Job::Open { log: key.0, segment: key.1 });
        }
        parked.push((user, op));
    }

    /// The next job that ended.
    pub(super) fn landed(&mut self) -> Option<Landed> {
        if self.jobs_out == 0 {
            return None;
        }
        let JobDone { created, log, segment, file } = self.thread.done()?;
        self.jobs_out -= 1;
        let key = (log, segment);
        let result = match file {
            Ok(file) => {
                let replaced = self.open.insert(key, Open { file, out: 0, used: self.uses });
                self.retired.extend(replaced.map(|open| open.file));
                0
            }
            Err(errno) => -errno,
        };
        Some(match created {
            Some(user) => Landed::Created { user, result },
            None => Landed::Opened { result, parked: self.parked.remove(&key).unwrap_or_default() },
        })
    }

    /// The submission queue is empty: no queued operation names a replaced file any more.
    pub(super) fn queue_is_empty(&mut self) {
        self.retired.clear();
    }
}
