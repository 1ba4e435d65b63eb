//! Every bound of the desk, by name, related to the others by assertion.
//!
//! What happens at each bound is written beside it. A bound may be raised between two runs; lowering one below
//! what a log already holds is a broken invariant and ends the replay.

/// Largest assignment epoch a note may carry. An epoch grows by one per placement, so this is never reached by
/// work; it leaves room so that adding one cannot overflow.
pub const EPOCH_MAX: u32 = u32::MAX - (1 << 16);

/// Bounds of one desk. `Limits::default()` gives the values of the contract.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Live devices per conversation, and live OPEN devices per visitor. At the bound the least recently used
    /// one is retired.
    pub devices_live_max: u32,
    /// Retired devices remembered per conversation, and per visitor. At the bound a new device gets
    /// `DeviceLimit`; known devices go on.
    pub devices_retired_max: u32,
    /// Newest keys of SEND and RESOLVE kept per device with seq and body hash. Older duplicates get `OldDuplicate`.
    pub window: u32,
    /// Items (messages and changes) of one conversation after which clients get `Invalid`. Changes that no
    /// client asked for may still follow, up to `u32::MAX`.
    pub items_max: u32,
    /// Notes told by one slot and not yet confirmed, over all its pairs. At the bound, client commands that
    /// would tell another get `Busy` and the dispatcher moves nobody until a confirmation arrives.
    pub notes_outstanding_max: u32,
    /// Conversations in one desk. At the bound an OPEN that would create one gets `Busy`. This also bounds
    /// the waiting queues: a conversation stands at most once in its site's queue, and a note that asks for an
    /// agent is never refused, because refusing it would hold back the releases behind it.
    pub conversations_max: u64,
    /// Agents known per site. At the bound a new agent gets `Busy`.
    pub agents_per_site_max: u32,
    /// Devices per agent whose last PRESENCE sequence is kept. At the bound the one that declared longest ago
    /// is forgotten.
    pub presence_devices_max: u32,
    /// Largest capacity an agent may declare; more is `Invalid`.
    pub capacity_max: u16,
    /// Conversations placed or returned and agents lapsed in one decision. The rest is due at once (see `Desk::next_deadline`).
    pub moves_per_decision: u32,
    /// Events of one decision.
    pub decision_events_max: u32,
    /// How long an agent may be without a session before it loses its conversations, milliseconds.
    pub grace_ms: u64,
    /// Bytes of a message body; more is `Invalid`.
    pub body_bytes_max: u32,
    /// Bytes of a visitor's external id; more, or none, is `Invalid`.
    pub visitor_bytes_max: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            devices_live_max: 32,
            devices_retired_max: 4096,
            window: 16,
            items_max: u32::MAX - (1 << 24),
            notes_outstanding_max: 16_384,
            conversations_max: 64 << 20,
            agents_per_site_max: 65_536,
            presence_devices_max: 32,
            capacity_max: 1000,
            moves_per_decision: 32,
            decision_events_max: 128,
            grace_ms: 30_000,
            body_bytes_max: 65_536,
            visitor_bytes_max: 64,
        }
    }
}

impl Limits {
    /// Checks how the bounds relate. Panics when they contradict each other.
    pub fn check(&self) {
        assert!(self.devices_live_max >= 1, "a conversation needs room for one device");
        assert!(self.window >= 1, "without a window a retry could not be answered");
        assert!(self.presence_devices_max >= 1, "an agent needs room for one device");
        assert!(self.moves_per_decision >= 1, "without a move per decision a queue would never drain");
        assert!(
            self.items_max <= u32::MAX - (1 << 20),
            "seq is kept in 32 bits and changes nobody asked for need room above items_max"
        );
        assert!(
            self.notes_outstanding_max >= self.moves_per_decision,
            "one decision's notes must fit the outstanding bound"
        );
        // A move is two events, a lapse one; a heard note, its effects and a declaration are at most six.
        assert!(
            u64::from(self.decision_events_max) >= 2 * u64::from(self.moves_per_decision) + 6,
            "the events of one decision must hold its moves"
        );
        assert!(self.decision_events_max <= u32::from(u16::MAX), "a record counts its events in 16 bits");
        assert!(
            (1..=u32::from(u16::MAX)).contains(&self.visitor_bytes_max),
            "a record counts a visitor id's bytes in 16 bits"
        );
        assert!(self.grace_ms < 1 << 40, "the grace period must fit the clock");
        assert!(
            (1..=u64::from(u32::MAX)).contains(&self.conversations_max),
            "a visitor keeps the number of a conversation in 32 bits"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::Limits;

    #[test]
    fn default_limits_agree() {
        Limits::default().check();
    }

    #[test]
    #[should_panic(expected = "must hold its moves")]
    fn events_must_hold_moves() {
        Limits { moves_per_decision: 100, ..Limits::default() }.check();
    }
}
