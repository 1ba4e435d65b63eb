//! How running shards are led while another process takes over: what they say, and what they are told.
//!
//! Order: `Still` to all, [`Event::Quiet`] until all stand still, `Collect` to all, [`Event::Still`] from each; then each
//! thread waits outside its loop for [`Order`]s, until [`Ropes::release`].

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use ringdesk_persist::Position;
use ringdesk_shard::Shard;
use ringdesk_uring::kernel::Transfer;
use ringdesk_uring::mailbox::{Letter, Mailbox};
use ringdesk_uring::reactor::Reactor;
use ringdesk_uring::still::{Quiet, Stood, StoodCounts};

use crate::upgrade::wire::{BATCH_BYTES, Batch, DESCRIPTORS_MAX};

/// How often a waiting thread looks whether it is to go on.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What happens at a shard.
pub enum Event {
    /// It has nothing left to do.
    Quiet(u16, Quiet),
    /// It stands still: its log ends here, and it has these connections.
    Still(u16, Position, StoodCounts),
    /// The answer to [`Order::Batch`]: the next connections with their descriptors; none are left when it is empty.
    Batch(io::Result<(Batch, Vec<OwnedFd>)>),
    /// It has no connection any more.
    Drained(u16),
}

/// What a thread that stands still is told.
pub enum Order {
    /// Give the next connections.
    Batch,
    /// Look whether to go on.
    Look,
}

/// A thread's end.
pub(super) struct Given {
    pub(super) giving: Arc<AtomicBool>,
    pub(super) orders: mpsc::Receiver<Order>,
    pub(super) happened: mpsc::Sender<Event>,
}

impl Given {
    pub(super) fn happened(&self, event: Event) {
        // Nobody listens any more when the process ends.
        let _ = self.happened.send(event);
    }

    /// Gives connections away as ordered, until released.
    pub(super) fn give<K: Transfer>(&self, shard: u16, reactor: &mut Reactor<K, Shard>, stood: Stood) {
        while self.orders.try_recv().is_ok() {}
        self.happened(Event::Still(shard, reactor.shard().owner().log_end(), stood.counts));
        let mut rest = stood.connections.into_iter().peekable();
        while self.giving.load(Ordering::Acquire) {
            match self.orders.recv_timeout(LOOK_EVERY) {
                Ok(Order::Batch) => {
                    let (mut batch, mut entries) = (Batch { shard, connections: Vec::new() }, Vec::new());
                    let mut bytes = 0;
                    while entries.len() < DESCRIPTORS_MAX && bytes < BATCH_BYTES {
                        let Some((conn, carried)) = rest.next() else { break };
                        let mut encoded = Vec::new();
                        carried.encode(&mut encoded);
                        bytes += encoded.len();
                        batch.connections.push(encoded);
                        entries.push(conn.index);
                    }
                    let exported = reactor.kernel_mut().export(&entries);
                    self.happened(Event::Batch(exported.map(|descriptors| (batch, descriptors))));
                }
                Ok(Order::Look) | Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => return,
            }
        }
    }
}

/// The other end: of all threads.
pub struct Ropes {
    pub(super) mailboxes: Vec<Mailbox>,
    pub(super) orders: Vec<mpsc::Sender<Order>>,
    pub(super) events: mpsc::Receiver<Event>,
    pub(super) giving: Arc<AtomicBool>,
}

impl Ropes {
    /// Number of shards.
    pub fn shards(&self) -> usize {
        self.mailboxes.len()
    }

    /// Posts a letter to every shard. `false`: one has no room for it.
    pub fn post(&self, letter: &Letter) -> bool {
        self.mailboxes.iter().all(|mailbox| mailbox.post(letter.clone()).is_ok())
    }

    /// What happens next, if something does in this time.
    pub fn next(&self, patience: Duration) -> Option<Event> {
        self.events.recv_timeout(patience).ok()
    }

    /// Forgets what happened.
    pub fn forget(&self) {
        while self.events.try_recv().is_ok() {}
    }

    /// From now on threads that stand still wait for orders.
    pub fn hold(&self) {
        self.giving.store(true, Ordering::Release);
    }

    /// Asks a shard that stands still for its next connections.
    pub fn ask(&self, shard: usize) {
        let _ = self.orders[shard].send(Order::Batch);
    }

    /// The threads go back into their loops and read the letters posted before.
    pub fn release(&self) {
        self.giving.store(false, Ordering::Release);
        for orders in &self.orders {
            let _ = orders.send(Order::Look);
        }
    }
}
