//! What the shards of one process know of each other: a bell to wake by, a box for descriptors, and how many places
//! of the descriptor table are taken.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crossbeam_queue::SegQueue;
use ringdesk_uring::kernel::Waker;
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;

/// A descriptor on its way to another shard.
#[derive(Debug)]
pub(crate) struct Parcel {
    pub(crate) token: u64,
    pub(crate) descriptor: OwnedFd,
}

/// One shard's place.
#[derive(Debug)]
pub(crate) struct Berth {
    pub(crate) bell: OwnedFd,
    /// Never fuller than the table it leads to: whoever puts a parcel in has reserved an entry for it.
    pub(crate) parcels: SegQueue<Parcel>,
    taken: AtomicU32,
    /// 0 while the shard is not open.
    capacity: AtomicU32,
}

/// Why a place in a table cannot be had.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum NoPlace {
    /// The shard has not opened its kernel yet, or is gone.
    NotOpen,
    /// All entries are taken or promised.
    Full,
}

impl Berth {
    /// Takes one entry of the shard's table, from any thread. Whoever gets it either fills it or gives it back.
    pub(crate) fn reserve(&self) -> Result<(), NoPlace> {
        let capacity = self.capacity.load(Ordering::Acquire);
        if capacity == 0 {
            return Err(NoPlace::NotOpen);
        }
        let take = |taken: u32| (taken < capacity).then_some(taken + 1);
        let taken = self.taken.fetch_update(Ordering::AcqRel, Ordering::Acquire, take);
        taken.map(|_| ()).map_err(|_| NoPlace::Full)
    }

    /// Gives one entry back.
    pub(crate) fn release(&self) {
        let before = self.taken.fetch_sub(1, Ordering::AcqRel);
        assert!(before > 0, "an entry was given back that nobody had");
    }

    pub(crate) fn open(&self, capacity: u32) {
        self.capacity.store(capacity, Ordering::Release);
    }

    pub(crate) fn close(&self) {
        self.capacity.store(0, Ordering::Release);
        // A sender that reserved just before may still put a parcel in; it is closed with the fleet.
        while self.parcels.pop().is_some() {}
    }
}

/// One place per shard. Built before the shards' threads start, dropped after the last of them.
pub struct Fleet {
    berths: Vec<Berth>,
}

impl Fleet {
    /// A fleet of `shards` shards, none of them open yet. Takes one descriptor per shard.
    pub fn new(shards: u16) -> io::Result<Arc<Self>> {
        let berth = |_| {
            Ok(Berth {
                bell: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
                parcels: SegQueue::new(),
                taken: AtomicU32::new(0),
                capacity: AtomicU32::new(0),
            })
        };
        Ok(Arc::new(Self { berths: (0..shards).map(berth).collect::<io::Result<_>>()? }))
    }

    pub(crate) fn berth(&self, shard: u16) -> &Berth {
        &self.berths[usize::from(shard)]
    }

    /// Reserves an entry of another shard's table and sends it what `descriptor` makes. 0 or a negated errno; without an
    /// entry nothing is made.
    pub(crate) fn hand_over(
        &self,
        to: u16,
        token: u64,
        descriptor: impl FnOnce() -> Result<OwnedFd, i32>,
    ) -> i32 {
        let berth = self.berth(to);
        match berth.reserve() {
            Err(NoPlace::NotOpen) => return -Errno::NXIO.raw_os_error(),
            Err(NoPlace::Full) => return -Errno::NFILE.raw_os_error(),
            Ok(()) => {}
        }
        match descriptor() {
            Ok(descriptor) => {
                berth.parcels.push(Parcel { token, descriptor });
                self.ring(to);
                0
            }
            Err(errno) => {
                berth.release();
                errno
            }
        }
    }

    /// Wakes a shard, from any thread.
    pub(crate) fn ring(&self, shard: u16) {
        // Fails only when the counter is full, and then the shard is being woken already.
        let _ = rustix::io::write(&self.berth(shard).bell, &1u64.to_ne_bytes());
    }
}

impl fmt::Debug for Fleet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fleet({} shards)", self.berths.len())
    }
}

/// Wakes one shard of the fleet.
#[derive(Debug)]
pub(crate) struct Bell {
    pub(crate) fleet: Arc<Fleet>,
    pub(crate) shard: u16,
}

impl Waker for Bell {
    fn wake(&self) {
        self.fleet.ring(self.shard);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_never_promised_twice() {
        let fleet = Fleet::new(1).expect("an eventfd");
        let berth = fleet.berth(0);
        assert_eq!(berth.reserve(), Err(NoPlace::NotOpen));
        berth.open(2);
        assert_eq!((berth.reserve(), berth.reserve(), berth.reserve()), (Ok(()), Ok(()), Err(NoPlace::Full)));
        berth.release();
        assert_eq!((berth.reserve(), berth.reserve()), (Ok(()), Err(NoPlace::Full)));
        berth.close();
        assert_eq!(berth.reserve(), Err(NoPlace::NotOpen));
    }
}
