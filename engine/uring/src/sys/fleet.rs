//! What the rings of one process know of each other: descriptors to send messages to, and eventfds to wake by.

use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::event::{EventfdFlags, eventfd};

use crate::kernel::Waker;

/// Entries of a ring's table that a sender leaves free: descriptors on their way are not counted yet.
const TABLE_SLACK: u32 = 64;

/// A ring that takes connections of other shards.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) ring: RawFd,
    pub(super) entries: u32,
    pub(super) used: Arc<AtomicU32>,
}

/// One place per shard. Built before the shards' threads start.
pub struct Fleet {
    /// The ring that wakes the shard.
    rings: Vec<AtomicI32>,
    /// All rings of the shard. Locked for a look at a few counters when a connection is handed over.
    targets: Vec<Mutex<Vec<Target>>>,
    bells: Vec<OwnedFd>,
    annex_bells: Vec<OwnedFd>,
}

impl Fleet {
    /// A fleet of `shards` shards, none of their rings open yet. Takes two descriptors per shard.
    pub fn new(shards: u16) -> io::Result<Arc<Self>> {
        // Not EFD_NONBLOCK: io_uring would then fail the read with EAGAIN instead of waiting for the bell.
        let bells = || (0..shards).map(|_| eventfd(0, EventfdFlags::CLOEXEC)).collect::<Result<_, _>>();
        Ok(Arc::new(Self {
            rings: (0..shards).map(|_| AtomicI32::new(-1)).collect(),
            targets: (0..shards).map(|_| Mutex::default()).collect(),
            bells: bells()?,
            annex_bells: bells()?,
        }))
    }

    /// Number of shards.
    pub(super) fn shards(&self) -> usize {
        self.rings.len()
    }

    /// The ring that wakes a shard, if it is open.
    pub(super) fn ring(&self, shard: u16) -> Option<RawFd> {
        let fd = self.rings[usize::from(shard)].load(Ordering::Acquire);
        (fd >= 0).then_some(fd)
    }

    /// Says which rings a shard has from now on, the one that wakes it first; none when it ends.
    pub(super) fn set_rings(&self, shard: u16, targets: Vec<Target>) {
        let first = targets.first().map_or(-1, |target| target.ring);
        self.rings[usize::from(shard)].store(first, Ordering::Release);
        *self.targets[usize::from(shard)].lock().unwrap_or_else(PoisonError::into_inner) = targets;
    }

    /// The ring of a shard that a connection is handed to: the first with room, so that few rings are busy; without
    /// room anywhere the last, whose table then refuses it. `None`: the shard has no ring.
    pub(super) fn target(&self, shard: u16) -> Option<RawFd> {
        let targets = self.targets[usize::from(shard)].lock().unwrap_or_else(PoisonError::into_inner);
        let slack = |target: &Target| TABLE_SLACK.min(target.entries / 16);
        let room = |target: &&Target| target.used.load(Ordering::Relaxed) + slack(target) < target.entries;
        targets.iter().find(room).or(targets.last()).map(|target| target.ring)
    }

    pub(super) fn annex_bell(&self, shard: u16) -> RawFd {
        self.annex_bells[usize::from(shard)].as_raw_fd()
    }

    pub(super) fn bell(&self, shard: u16) -> RawFd {
        self.bells[usize::from(shard)].as_raw_fd()
    }

    /// Wakes a shard through its eventfd, from any thread.
    pub(super) fn ring_bell(&self, shard: u16) {
        // Fails only when the counter is full, and then the shard is being woken already.
        let _ = rustix::io::write(&self.bells[usize::from(shard)], &1u64.to_ne_bytes());
    }
}

impl fmt::Debug for Fleet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fleet({} shards)", self.rings.len())
    }
}

/// Wakes one shard of the fleet.
#[derive(Debug)]
pub(super) struct Bell {
    pub(super) fleet: Arc<Fleet>,
    pub(super) shard: u16,
}

impl Waker for Bell {
    fn wake(&self) {
        self.fleet.ring_bell(self.shard);
    }
}
