//! A hash of the desk's whole state, fed in a fixed order with fixed widths.
//!
//! Two desks that applied the same events have the same digest, on every machine. What is derived (indexes,
//! counters kept for speed) is left out, so that the digest says what the events said and nothing else.

use xxhash_rust::xxh3::Xxh3Default;

use crate::ids::{AgentId, Party};

/// Collects the state: xxh3-64 over little-endian fields.
pub(crate) struct Digest(Xxh3Default);

impl Digest {
    pub(crate) fn new() -> Self {
        Self(Xxh3Default::new())
    }

    pub(crate) fn u64(&mut self, value: u64) {
        self.0.update(&value.to_le_bytes());
    }

    pub(crate) fn u32(&mut self, value: u32) {
        self.u64(u64::from(value));
    }

    /// A count in front of a list, so that two lists cannot run into each other.
    pub(crate) fn count(&mut self, count: usize) {
        self.u64(count as u64);
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.count(bytes.len());
        self.0.update(bytes);
    }

    pub(crate) fn finish(&self) -> u64 {
        self.0.digest()
    }
}

/// A party in one number: 0 the visitor, `u32::MAX` the system, else the agent.
///
/// The agent ids 0 and `u32::MAX` are refused by `decide`, so the three never meet.
pub(crate) fn party_number(party: Party) -> u32 {
    match party {
        Party::Visitor => 0,
        Party::Agent(AgentId(agent)) => {
            assert!(agent != 0 && agent != u32::MAX, "agent id {agent} is reserved");
            agent
        }
        Party::System => u32::MAX,
    }
}
