//! One ring: its queues, its part of the shard's descriptor table, its receive buffers.
//!
//! A shard has one ring that does everything and, where a single descriptor table cannot hold its connections,
//! further rings that only carry connections ("annexes"). Entry `n` of the shard's table is entry `n - base` of the
//! ring with `base <= n < base + entries`.
//!
//! Order within a turn: pushes, one [`Ring::enter`] when there is something to do, completions taken, receive buffers
//! published. An annex never sleeps: it rings an eventfd that the first ring reads while the shard sleeps.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use io_uring::squeue::Entry;
use io_uring::types::{CancelBuilder, Timespec};
use io_uring::{IoUring, cqueue};

use super::enter::Gate;
use super::provided::ProvidedBuffers;
use super::registered::Registered;
use super::setup::{self, Features, OpenError, Opened, SysConfig};

/// One ring of a shard. Opened and used by the shard's thread.
pub(super) struct Ring {
    // Before the memory below: operations end before it is unmapped.
    ring: IoUring,
    gate: Gate,
    provided: Option<ProvidedBuffers>,
    /// The log's buffers; none on an annex.
    pub(super) registered: Registered,
    /// First entry of the shard's table that lies here.
    pub(super) base: u32,
    /// Entries of this ring's table.
    pub(super) entries: u32,
    /// Entries that hold a connection; others read it to choose a ring.
    used: Arc<AtomicU32>,
    /// Entries pushed whose last completion has not come.
    out: usize,
}

impl Ring {
    /// Opens a ring whose table begins at `base`. `bell`: the eventfd an annex rings; closed again with the ring.
    pub(super) fn open(
        config: &SysConfig,
        base: u32,
        bell: Option<RawFd>,
    ) -> Result<(Self, Features, Vec<String>), OpenError> {
        let Opened { mut ring, mut features, entries, mut notices } = setup::open(config)?;
        let provided =
            ProvidedBuffers::new(&ring.submitter(), config.receive_buffers, config.receive_buffer_bytes)
                .map_err(OpenError::step("register the receive buffers"))?;
        // Before the restrictions, so that none of them has to allow it.
        let registered = Registered::open(&ring.submitter(), config, &mut features, &mut notices);
        if let Some(bell) = bell {
            ring.submitter().register_eventfd(bell).map_err(OpenError::step("register an eventfd"))?;
            ring.completion().disable_eventfd();
        }
        if features.restricted {
            features.restricted = setup::restrict(&ring, features, &mut notices)?;
        }
        let mut gate = Gate::new(ring.as_raw_fd());
        if features.registered_ring && gate.register().is_err() {
            features.registered_ring = false;
            notices.push("the ring's descriptor cannot be registered: slower without".into());
        }
        let used = Arc::new(AtomicU32::new(0));
        let provided = Some(provided);
        Ok((Self { ring, gate, provided, registered, base, entries, used, out: 0 }, features, notices))
    }

    pub(super) fn descriptor(&self) -> RawFd {
        self.ring.as_raw_fd()
    }

    /// The count of entries in use, shared with those who choose a ring to send a descriptor to.
    pub(super) fn used_count(&self) -> Arc<AtomicU32> {
        Arc::clone(&self.used)
    }

    pub(super) fn used(&self) -> u32 {
        self.used.load(Ordering::Relaxed)
    }

    pub(super) fn occupied(&self) {
        self.used.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn vacated(&self) {
        self.used.fetch_sub(1, Ordering::Relaxed);
    }

    pub(super) fn provided(&mut self) -> &mut ProvidedBuffers {
        self.provided.as_mut().expect("receive buffers live until the drop")
    }

    /// Free places in the submission queue.
    pub(super) fn room(&mut self) -> usize {
        let queue = self.ring.submission();
        queue.capacity() - queue.len()
    }

    /// Nothing is queued that the kernel has not seen.
    pub(super) fn queue_is_empty(&mut self) -> bool {
        self.ring.submission().is_empty()
    }

    /// Queues an entry. `completes`: whether a completion will come in any case.
    pub(super) fn push(&mut self, entry: &Entry, completes: bool) {
        if self.ring.submission().is_full() {
            self.flush();
        }
        // SAFETY: what the entry points to stays valid until the operation's last completion: lent buffers are kept
        // by the table, mappings by this struct and the kernel's (their `drop` waits or leaks), descriptors by
        // `listeners`, `segments` and `fleet`.
        let pushed = unsafe { self.ring.submission().push(entry) };
        pushed.expect("room after a flush");
        self.out += usize::from(completes);
    }

    /// Sends what is queued to the kernel without waiting; retried while the kernel is short of memory.
    pub(super) fn flush(&mut self) {
        let started = Instant::now();
        while !self.ring.submission().is_empty() {
            let count = self.ring.submission().len() as u32;
            if let Err(error) = self.gate.enter(count, None) {
                let again = matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EBUSY | libc::EINTR));
                assert!(again && started.elapsed() < Duration::from_secs(5), "io_uring_enter: {error}");
            }
        }
    }

    /// Completions wait, or work does that makes some.
    pub(super) fn has_news(&mut self) -> bool {
        let deferred = {
            let queue = self.ring.submission();
            queue.taskrun() || queue.cq_overflow()
        };
        deferred || !self.ring.completion().is_empty()
    }

    /// Hands over what is queued and runs what the kernel deferred; with `wait_ns`, waits for a completion.
    pub(super) fn enter(&mut self, wait_ns: Option<u64>) -> io::Result<()> {
        let (count, deferred) = {
            let queue = self.ring.submission();
            (queue.len() as u32, queue.taskrun() || queue.cq_overflow())
        };
        if count == 0 && !deferred && wait_ns.is_none() {
            return Ok(());
        }
        match self.gate.enter(count, wait_ns) {
            Ok(()) => Ok(()),
            Err(error) => match error.raw_os_error() {
                // The limit passed, a signal came, or completions have to be taken first: the next turn sees to it.
                Some(libc::ETIME | libc::EINTR | libc::EAGAIN | libc::EBUSY) => Ok(()),
                _ => Err(error),
            },
        }
    }

    /// Moves at most `limit` completions into `batch`.
    pub(super) fn take(&mut self, limit: usize, batch: &mut Vec<cqueue::Entry>) {
        batch.extend(self.ring.completion().take(limit));
    }

    /// The last completion of something pushed as `completes` came.
    pub(super) fn ended(&mut self) {
        self.out -= 1;
    }

    pub(super) fn out(&self) -> usize {
        self.out
    }

    /// Whether completions ring the eventfd from now on.
    pub(super) fn set_bell(&mut self, on: bool) {
        let queue = self.ring.completion();
        if on { queue.enable_eventfd() } else { queue.disable_eventfd() }
    }

    /// Puts a reference to each socket into the entries from `local` on. How many were put.
    pub(super) fn put(&mut self, local: u32, sockets: &[RawFd]) -> io::Result<usize> {
        let put = self.ring.submitter().register_files_update(local, sockets)?;
        self.used.fetch_add(put as u32, Ordering::Relaxed);
        Ok(put)
    }

    /// Asks for the end of everything that is out.
    pub(super) fn cancel_all(&mut self) {
        self.flush();
        let timeout = Timespec::new().sec(1);
        // Fails when there is nothing to cancel or not everything ends in time; the count of what is out decides.
        let _ = self.ring.submitter().register_sync_cancel(Some(timeout), CancelBuilder::any());
    }

    /// Takes completions until nothing is out or the deadline passed; `counts` says which end an operation.
    pub(super) fn drain(&mut self, deadline: Instant, counts: impl Fn(&cqueue::Entry) -> bool) {
        while self.out > 0 && Instant::now() < deadline {
            let _ = self.gate.enter(0, Some(10_000_000));
            let ended = self.ring.completion().filter(|entry| counts(entry));
            self.out = self.out.saturating_sub(ended.count());
        }
        if self.out > 0 {
            // A kernel that writes into freed memory would be worse than a leak.
            std::mem::forget(self.provided.take());
        }
    }
}
