//! What the rings of one process know of each other: descriptors to send messages to, and eventfds to wake by.

use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use rustix::event::{EventfdFlags, eventfd};

use crate::kernel::Waker;

/// One place per shard. Built before the shards' threads start.
pub struct Fleet {
    rings: Vec<AtomicI32>,
    bells: Vec<OwnedFd>,
}

impl Fleet {
    /// A fleet of `shards` rings, none of them open yet. Takes one descriptor per shard.
    pub fn new(shards: u16) -> io::Result<Arc<Self>> {
        // Not EFD_NONBLOCK: io_uring would then fail the read with EAGAIN instead of waiting for the bell.
        let bells = (0..shards).map(|_| eventfd(0, EventfdFlags::CLOEXEC)).collect::<Result<_, _>>()?;
        Ok(Arc::new(Self { rings: (0..shards).map(|_| AtomicI32::new(-1)).collect(), bells }))
    }

    /// The ring of a shard, if it is open.
    pub(super) fn ring(&self, shard: u16) -> Option<RawFd> {
        let fd = self.rings[usize::from(shard)].load(Ordering::Acquire);
        (fd >= 0).then_some(fd)
    }

    pub(super) fn set_ring(&self, shard: u16, ring: Option<RawFd>) {
        self.rings[usize::from(shard)].store(ring.unwrap_or(-1), Ordering::Release);
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
        write!(f, "Fleet({} rings)", self.rings.len())
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
