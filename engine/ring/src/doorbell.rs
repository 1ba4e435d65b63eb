//! Sleep and wake without a lost wake-up.
//!
//! The sleeper announces that it is about to sleep, then looks at every lane again, and only then sleeps. A producer
//! publishes into the lane, then asks [`Doorbell::ring`] whether somebody sleeps. Both put a sequentially consistent
//! fence between their store and their load, so at least one of them sees the other: either the sleeper finds the
//! message, or the producer finds the sleeper. One sleep is rung exactly once, however many producers there are.

use crossbeam_utils::CachePadded;

use crate::sync::{AtomicBool, Ordering, fence};

/// The doorbell of one shard, shared with everybody who may wake it.
#[derive(Debug)]
pub struct Doorbell {
    asleep: CachePadded<AtomicBool>,
}

impl Default for Doorbell {
    fn default() -> Self {
        Self::new()
    }
}

impl Doorbell {
    /// A doorbell of a shard that is awake.
    pub fn new() -> Self {
        Self { asleep: CachePadded::new(AtomicBool::new(false)) }
    }

    /// The sleeper, before it sleeps. It must look at all its lanes after this call and before it sleeps.
    pub fn announce(&self) {
        // A swap, not a store: every change of the flag is a read-modify-write, so a late ring for the previous sleep
        // is ordered before this announcement and cannot undo it.
        self.asleep.swap(true, Ordering::AcqRel);
        fence(Ordering::SeqCst);
    }

    /// The sleeper, after it woke for whatever reason, or found work after [`Self::announce`].
    pub fn awake(&self) {
        self.asleep.swap(false, Ordering::AcqRel);
    }

    /// A producer, after it published. `true`: the shard sleeps or is about to, and this caller, nobody else, has to
    /// wake it.
    #[must_use = "a sleeper whose bell was rung is woken by the caller or never"]
    pub fn ring(&self) -> bool {
        fence(Ordering::SeqCst);
        self.asleep.load(Ordering::Relaxed)
            && self.asleep.compare_exchange(true, false, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }
}
