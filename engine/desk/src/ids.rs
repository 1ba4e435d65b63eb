//! Identifiers. Each is a number with a fixed width, so that logs and lanes can carry it without allocation.

/// Number of hash slots; the same as in Redis Cluster, so that front-ends reuse their routing code.
pub const SLOTS: u16 = 16_384;

/// A hash slot, `0..16384`: CRC16/XMODEM of the hash key modulo 16384 (computed outside the desk).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Slot(pub u16);

/// A site (one customer of the operator). Numbered by the directory, from 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SiteId(pub u32);

/// An agent or bot of one site. Numbered by the directory, from 1; 0 is never an agent.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct AgentId(pub u32);

/// One browser tab or one app instance. Chosen at random by the client, unique within its party.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct DeviceId(pub u64);

/// A conversation: its slot in the top 14 bits, a number dense per slot from 1 in the low 50.
/// Any holder of the id therefore finds the owning shard without a look-up.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ConversationId(pub u64);

impl ConversationId {
    /// Bits of the per-slot number.
    pub const NUMBER_BITS: u32 = 50;

    /// Joins a slot and a number. `number` must be in `1..2^50`; anything else is a broken invariant.
    pub fn new(slot: Slot, number: u64) -> Self {
        assert!(slot.0 < SLOTS, "slot {} out of range", slot.0);
        assert!(number > 0 && number < 1 << Self::NUMBER_BITS, "conversation number {number} out of range");
        Self((u64::from(slot.0) << Self::NUMBER_BITS) | number)
    }

    /// The slot that owns this conversation.
    pub fn slot(self) -> Slot {
        Slot((self.0 >> Self::NUMBER_BITS) as u16)
    }

    /// The number within the slot.
    pub fn number(self) -> u64 {
        self.0 & ((1 << Self::NUMBER_BITS) - 1)
    }
}

/// Hybrid logical clock: wall milliseconds since 1970 in the high 48 bits, a counter in the low 16.
/// It informs, it never orders (contract C3).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Hlc(pub u64);

impl Hlc {
    /// A stamp at the given wall time with a zero counter.
    pub fn from_millis(millis: u64) -> Self {
        Self(millis << 16)
    }

    /// Wall milliseconds since 1970.
    pub fn millis(self) -> u64 {
        self.0 >> 16
    }
}

/// Who wrote or did something.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Party {
    /// The one visitor of the conversation.
    Visitor,
    /// An agent or bot of the site.
    Agent(AgentId),
    /// The desk itself.
    System,
}

/// Which of the two reading sides of a conversation. Receipts are kept per side.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Side {
    /// The visitor, on all devices.
    Visitor,
    /// The agents of the site.
    Staff,
}
