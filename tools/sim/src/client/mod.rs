//! Simulated clients: they speak the wire protocol through the real codec and behave as `docs/WIRE.md` asks.
//!
//! Order: [`endpoint`] (one connection, maybe with many channels), [`device`] (one identity on it and what it knows),
//! `incoming` and `acts` (what a device makes of messages, what it does on its own), [`thread`] (its side of one
//! conversation). A device outlives its connections and every crash of the engine.

mod acts;
pub mod device;
pub mod endpoint;
mod incoming;
pub mod thread;

use crate::oracle::Oracle;
use crate::plan::Cast;
use crate::rng::Rng;

/// What a client may use while it acts.
#[derive(Debug)]
pub struct Scene<'a> {
    /// Virtual time, nanoseconds.
    pub now: u64,
    /// Chance of the clients.
    pub rng: &'a mut Rng,
    /// Where facts go.
    pub oracle: &'a mut Oracle,
    /// The workload.
    pub cast: &'a Cast,
    /// Faults are over: clients finish what they began and start nothing new.
    pub healed: bool,
    /// Answers and pushes clients saw since the process started.
    pub seen: &'a mut u64,
    /// BUSY answers clients got.
    pub busy: &'a mut u64,
    /// What to print, for `--trace`.
    pub trace: bool,
}

impl Scene<'_> {
    /// Prints a line of the trace.
    pub fn trace(&self, line: impl FnOnce() -> String) {
        if self.trace {
            println!("{:>12} {}", self.now / 1_000, line());
        }
    }
}
