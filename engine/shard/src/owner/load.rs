//! How full the shard's bounded queues are, and what is shed at which point (C8): typing and queue views first, then
//! history, then new visitors, and new sends last, when a queue is full. What resumes a conversation is never shed
//! here; it waits for its turn at the disk.

use super::Owner;
use super::reads::JOBS_MAX;
use crate::gate::GATE_ENTRIES_MAX;

/// Load from which typing is not passed on and queue views wait.
pub const SHED_TYPING: usize = 4;

/// Load from which HISTORY is answered BUSY.
pub const SHED_HISTORY: usize = 5;

/// Load from which a visitor that resumes nothing is told BUSY instead of WELCOME.
pub const SHED_NEW_VISITORS: usize = 6;

impl Owner {
    /// The fullest of log staging, gate and read jobs, in eighths of its bound.
    pub fn load_eighths(&self) -> usize {
        let bound = self.appender.geometry().staged_bytes_max;
        let staged = (bound - self.appender.staging_room_bytes().min(bound)) * 8 / bound;
        let held = self.gate.len() * 8 / GATE_ENTRIES_MAX;
        let reading = self.reads.jobs() * 8 / JOBS_MAX;
        staged.max(held).max(reading)
    }
}

const _: () =
    assert!(SHED_TYPING < SHED_HISTORY && SHED_HISTORY < SHED_NEW_VISITORS && SHED_NEW_VISITORS < 8);
