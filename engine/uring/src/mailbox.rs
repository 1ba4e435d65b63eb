//! The way from the control plane, or any other thread, to a shard: a bounded mailbox and a wake-up.
//!
//! Full is an answer: the control plane waits or refuses its own caller; a shard never waits for the control plane.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_queue::ArrayQueue;
use ringdesk_ring::Doorbell;
use ringdesk_shard::io::Control;

use crate::kernel::Waker;

/// Letters a shard may have waiting.
pub const MAILBOX_LETTERS_MAX: usize = 1024;

/// One letter.
#[derive(Clone, Debug)]
pub enum Letter {
    /// For the shard.
    Control(Control),
    /// Another process is to take over: accept and receive nothing more, finish what was taken. Answered with
    /// [`crate::run::News::Quiet`], each time this shard has nothing left to do. Letters for the shard wait from here on
    /// until `GoOn`, a report excepted, which waits only after `Collect`.
    Still {
        /// How long a client may take what it is being sent. What it has not taken by then is taken back, and is
        /// carried with the connection.
        patience: Duration,
    },
    /// All shards stand still ([`crate::still::Settling`]): answer with [`crate::run::News::Still`]. Ignored unless
    /// `Still` came before.
    Collect,
    /// The other process does not take over: go on as if nothing had been. At any time before `Gone`.
    GoOn,
    /// The other process has the connections: let go of those that were carried. [`crate::run::News::Drained`] follows
    /// when no connection that was told goodbye lingers.
    Gone,
    /// For the reactor: leave the loop after the current turn.
    Stop,
}

/// The sending side. Clones go to every thread that may write.
#[derive(Clone)]
pub struct Mailbox {
    letters: Arc<ArrayQueue<Letter>>,
    doorbell: Arc<Doorbell>,
    waker: Arc<dyn Waker>,
}

impl Mailbox {
    pub(crate) fn new(doorbell: Arc<Doorbell>, waker: Arc<dyn Waker>) -> Self {
        Self { letters: Arc::new(ArrayQueue::new(MAILBOX_LETTERS_MAX)), doorbell, waker }
    }

    /// Puts a letter in and wakes the shard if it sleeps. Gives the letter back when the mailbox is full.
    pub fn post(&self, letter: Letter) -> Result<(), Letter> {
        self.letters.push(letter)?;
        if self.doorbell.ring() {
            self.waker.wake();
        }
        Ok(())
    }

    pub(crate) fn take(&self) -> Option<Letter> {
        self.letters.pop()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.letters.is_empty()
    }
}

impl std::fmt::Debug for Mailbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Mailbox({} letters)", self.letters.len())
    }
}
