//! The dispatcher's floor: which agent sessions of a site are there, which assignments are still on their way to
//! their conversation, and when a site's queue was last shown. Rebuilt from nothing at boot, except the assignments
//! on their way, which are the unconfirmed notes.

use std::collections::BTreeMap;

use ringdesk_desk::ids::{AgentId, ConversationId, SiteId, Slot};

use crate::message::SessionRef;

/// Least time between two QUEUE frames of one site, nanoseconds.
pub const QUEUE_EVERY_NS: u64 = 1_000_000_000;

/// An assignment that its conversation has not confirmed yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OnItsWay {
    /// Site.
    pub site: SiteId,
    /// Agent.
    pub agent: AgentId,
    /// Conversation.
    pub conversation: ConversationId,
}

#[derive(Default, Debug)]
struct SiteFloor {
    sessions: BTreeMap<AgentId, Vec<SessionRef>>,
    shown_ns: Option<u64>,
    dirty: bool,
}

/// All sites whose dispatcher lives on this shard.
#[derive(Default, Debug)]
pub struct Floor {
    sites: BTreeMap<(Slot, SiteId), SiteFloor>,
    on_their_way: BTreeMap<(Slot, Slot, u64), OnItsWay>,
}

impl Floor {
    /// A session of an agent came up.
    pub fn link(&mut self, slot: Slot, site: SiteId, agent: AgentId, session: SessionRef) {
        let floor = self.sites.entry((slot, site)).or_default();
        let sessions = floor.sessions.entry(agent).or_default();
        if !sessions.contains(&session) {
            sessions.push(session);
        }
        floor.dirty = true;
        floor.shown_ns = None;
    }

    /// A session of an agent went away. `false`: it was not known.
    pub fn unlink(&mut self, slot: Slot, site: SiteId, agent: AgentId, session: SessionRef) -> bool {
        let Some(floor) = self.sites.get_mut(&(slot, site)) else { return false };
        let Some(sessions) = floor.sessions.get_mut(&agent) else { return false };
        let before = sessions.len();
        sessions.retain(|known| *known != session);
        let known = sessions.len() < before;
        if sessions.is_empty() {
            floor.sessions.remove(&agent);
        }
        known
    }

    /// Live sessions of an agent.
    pub fn sessions(&self, slot: Slot, site: SiteId, agent: AgentId) -> &[SessionRef] {
        self.sites.get(&(slot, site)).and_then(|floor| floor.sessions.get(&agent)).map_or(&[], Vec::as_slice)
    }

    /// Live sessions of all agents of a site.
    pub fn all_sessions(&self, slot: Slot, site: SiteId) -> impl Iterator<Item = SessionRef> + '_ {
        self.sites.get(&(slot, site)).into_iter().flat_map(|floor| floor.sessions.values().flatten().copied())
    }

    /// An assignment was told to its conversation as note `n` of the pair.
    pub fn told(&mut self, from: Slot, to: Slot, n: u64, what: OnItsWay) {
        self.on_their_way.insert((from, to, n), what);
    }

    /// The conversation's slot confirmed up to `upto`: these assignments have arrived.
    pub fn arrived(&mut self, from: Slot, to: Slot, upto: u64) -> Vec<OnItsWay> {
        let keys: Vec<_> =
            self.on_their_way.range((from, to, 0)..=(from, to, upto)).map(|(key, _)| *key).collect();
        keys.into_iter().filter_map(|key| self.on_their_way.remove(&key)).collect()
    }

    /// Whether an assignment of this conversation is still on its way.
    pub fn is_on_its_way(&self, slot: Slot, conversation: ConversationId) -> bool {
        let to = conversation.slot();
        self.on_their_way
            .range((slot, to, 0)..=(slot, to, u64::MAX))
            .any(|(_, what)| what.conversation == conversation)
    }

    /// The queue of a site changed.
    pub fn touch(&mut self, slot: Slot, site: SiteId) {
        if let Some(floor) = self.sites.get_mut(&(slot, site)) {
            floor.dirty = true;
        }
    }

    /// The next site whose queue is to be shown now; marks it shown.
    pub fn due(&mut self, now_ns: u64) -> Option<(Slot, SiteId)> {
        let (key, floor) =
            self.sites.iter_mut().find(|(_, floor)| floor.due_at().is_some_and(|at| at <= now_ns))?;
        floor.dirty = false;
        floor.shown_ns = Some(now_ns);
        Some(*key)
    }

    /// When a queue is to be shown next.
    pub fn next_deadline_ns(&self) -> Option<u64> {
        self.sites.values().filter_map(SiteFloor::due_at).min()
    }
}

impl SiteFloor {
    fn due_at(&self) -> Option<u64> {
        if !self.dirty || self.sessions.is_empty() {
            return None;
        }
        Some(self.shown_ns.map_or(0, |shown| shown + QUEUE_EVERY_NS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(index: u32) -> SessionRef {
        SessionRef { shard: 0, index, generation: 1, channel: 0 }
    }

    #[test]
    fn a_queue_is_shown_at_most_once_a_second() {
        let mut floor = Floor::default();
        let (slot, site) = (Slot(9), SiteId(1));
        floor.link(slot, site, AgentId(1), session(1));
        assert_eq!(floor.due(5), Some((slot, site)));
        assert_eq!(floor.due(6), None);
        floor.touch(slot, site);
        assert_eq!(floor.due(6), None);
        assert_eq!(floor.next_deadline_ns(), Some(5 + QUEUE_EVERY_NS));
        assert_eq!(floor.due(5 + QUEUE_EVERY_NS), Some((slot, site)));
    }

    #[test]
    fn assignments_arrive_in_order() {
        let mut floor = Floor::default();
        let conversation = ConversationId::new(Slot(4), 1);
        let what = OnItsWay { site: SiteId(1), agent: AgentId(2), conversation };
        floor.told(Slot(9), Slot(4), 3, what);
        assert!(floor.is_on_its_way(Slot(9), conversation));
        assert!(floor.arrived(Slot(9), Slot(4), 2).is_empty());
        assert_eq!(floor.arrived(Slot(9), Slot(4), 3), vec![what]);
        assert!(!floor.is_on_its_way(Slot(9), conversation));
    }

    #[test]
    fn unlinking_a_stranger_says_so() {
        let mut floor = Floor::default();
        floor.link(Slot(9), SiteId(1), AgentId(2), session(1));
        assert!(!floor.unlink(Slot(9), SiteId(1), AgentId(2), session(2)));
        assert!(floor.unlink(Slot(9), SiteId(1), AgentId(2), session(1)));
        assert!(floor.sessions(Slot(9), SiteId(1), AgentId(2)).is_empty());
    }
}
