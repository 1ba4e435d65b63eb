//! The agents of one site: presence, sessions, load, who is next, who is lost.
//!
//! Owned by the dispatcher. `available` and `graces` are indexes over the agents' standings, changed only where
//! a standing changes.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use crate::command::Availability;
use crate::digest::Digest;
use crate::ids::{AgentId, ConversationId, DeviceId, Hlc};
use crate::limits::Limits;
use crate::view::AgentView;

/// What decides whether and when an agent gets or loses conversations.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Standing {
    pub(crate) availability: Availability,
    pub(crate) capacity: u16,
    pub(crate) links: u32,
    /// Conversations placed with it.
    pub(crate) load: u32,
    /// When a conversation last came or went; the agent with the earliest is idle longest.
    pub(crate) touched: Hlc,
    /// When the last session ended. Meaningful while `links` is 0.
    pub(crate) lost_since: Hlc,
    /// Offline because it was away for longer than the grace period, not by its own word.
    pub(crate) lapsed: bool,
}

impl Standing {
    pub(crate) fn new(at: Hlc) -> Self {
        Self {
            availability: Availability::Offline,
            capacity: 0,
            links: 0,
            load: 0,
            touched: at,
            lost_since: at,
            lapsed: false,
        }
    }

    /// What it declared counts no more.
    pub(crate) fn lapse(&mut self) {
        self.availability = Availability::Offline;
        self.lapsed = true;
    }

    /// Its place among those who may take a conversation, if it may.
    pub(crate) fn rank(&self, agent: AgentId) -> Option<Rank> {
        let takes = self.availability == Availability::Online
            && self.links > 0
            && self.load < u32::from(self.capacity);
        takes.then_some(Rank { load: self.load, capacity: self.capacity, touched: self.touched, agent })
    }

    /// When it is lost: at once while it is offline and has conversations to give back; after the grace period when it
    /// lost its last session. `None` when nothing is to be done about it.
    pub(crate) fn loss_due(&self, limits: &Limits) -> Option<Hlc> {
        if self.availability == Availability::Offline {
            return (self.load > 0).then_some(Hlc(0));
        }
        (self.links == 0).then(|| Hlc(self.lost_since.0.saturating_add(limits.grace_ms << 16)))
    }
}

/// Order of agents that may take a conversation: least load per capacity, then least load, then longest idle,
/// then lowest id. Capacity is at least 1, so ratios compare by cross multiplication.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Rank {
    load: u32,
    capacity: u16,
    touched: Hlc,
    pub(crate) agent: AgentId,
}

impl Ord for Rank {
    fn cmp(&self, other: &Self) -> Ordering {
        let mine = u64::from(self.load) * u64::from(other.capacity);
        let theirs = u64::from(other.load) * u64::from(self.capacity);
        mine.cmp(&theirs)
            .then(self.load.cmp(&other.load))
            .then(self.touched.cmp(&other.touched))
            .then(self.agent.cmp(&other.agent))
    }
}

impl PartialOrd for Rank {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The last PRESENCE of one device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Declared {
    device: DeviceId,
    pub(crate) n: u64,
    pub(crate) what: (Availability, u16),
}

/// One agent.
struct Agent {
    standing: Standing,
    placed: BTreeSet<ConversationId>,
    /// The device that declared longest ago first.
    declared: Vec<Declared>,
}

/// The agents of one site.
pub(crate) struct Roster {
    agents: BTreeMap<AgentId, Agent>,
    available: BTreeSet<Rank>,
    graces: BTreeSet<(Hlc, AgentId)>,
}

impl Roster {
    pub(crate) const fn new() -> Self {
        Self { agents: BTreeMap::new(), available: BTreeSet::new(), graces: BTreeSet::new() }
    }

    pub(crate) fn count(&self) -> usize {
        self.agents.len()
    }

    pub(crate) fn standing(&self, agent: AgentId) -> Option<Standing> {
        self.agents.get(&agent).map(|agent| agent.standing)
    }

    /// Last PRESENCE of a device.
    pub(crate) fn declared(&self, agent: AgentId, device: DeviceId) -> Option<Declared> {
        self.agents.get(&agent)?.declared.iter().find(|known| known.device == device).copied()
    }

    /// Those who may take a conversation, next first.
    pub(crate) fn available(&self) -> impl Iterator<Item = &Rank> {
        self.available.iter()
    }

    /// Those who lose their conversations: (when due, agent), earliest first.
    pub(crate) fn graces(&self) -> impl Iterator<Item = &(Hlc, AgentId)> {
        self.graces.iter()
    }

    /// Conversations placed with an agent, by id.
    pub(crate) fn placed(&self, agent: AgentId) -> impl Iterator<Item = ConversationId> + use<'_> {
        self.agents.get(&agent).into_iter().flat_map(|agent| agent.placed.iter().copied())
    }

    pub(crate) fn views(&self) -> impl Iterator<Item = AgentView> + use<'_> {
        self.agents.iter().map(|(id, agent)| view(*id, &agent.standing))
    }

    pub(crate) fn view(&self, agent: AgentId) -> Option<AgentView> {
        self.agents.get(&agent).map(|known| view(agent, &known.standing))
    }

    /// Changes one agent and moves it in the indexes. Creates an agent that is not known.
    fn change(&mut self, id: AgentId, at: Hlc, limits: &Limits, change: impl FnOnce(&mut Agent)) {
        let agent = self.agents.entry(id).or_insert_with(|| Agent {
            standing: Standing::new(at),
            placed: BTreeSet::new(),
            declared: Vec::new(),
        });
        if let Some(rank) = agent.standing.rank(id) {
            assert!(self.available.remove(&rank), "{id:?} may take a conversation and is not listed");
        }
        if let Some(due) = agent.standing.loss_due(limits) {
            assert!(self.graces.remove(&(due, id)), "{id:?} is lost and has no deadline");
        }
        change(agent);
        assert!(agent.placed.len() == agent.standing.load as usize, "{id:?}: load is not what is placed");
        self.available.extend(agent.standing.rank(id));
        self.graces.extend(agent.standing.loss_due(limits).map(|due| (due, id)));
    }

    pub(crate) fn apply_placed(
        &mut self,
        agent: AgentId,
        conversation: ConversationId,
        at: Hlc,
        limits: &Limits,
    ) {
        assert!(self.agents.contains_key(&agent), "{agent:?} is not known and gets a conversation");
        self.change(agent, at, limits, |agent| {
            assert!(agent.placed.insert(conversation), "{conversation:?} is placed twice");
            agent.standing.load += 1;
            agent.standing.touched = at;
        });
    }

    pub(crate) fn apply_freed(
        &mut self,
        agent: AgentId,
        conversation: ConversationId,
        at: Hlc,
        limits: &Limits,
    ) {
        self.change(agent, at, limits, |agent| {
            assert!(agent.placed.remove(&conversation), "{conversation:?} was not placed with this agent");
            agent.standing.load -= 1;
            agent.standing.touched = at;
        });
    }

    /// `n` is the PRESENCE sequence of `device`.
    pub(crate) fn apply_declared(
        &mut self,
        (id, device, n): (AgentId, DeviceId, u64),
        (availability, capacity): (Availability, u16),
        at: Hlc,
        limits: &Limits,
    ) {
        self.change(id, at, limits, |agent| {
            let lapsed = std::mem::take(&mut agent.standing.lapsed);
            agent.standing.availability = availability;
            agent.standing.capacity = capacity;
            if let Some(known) = agent.declared.iter().position(|known| known.device == device) {
                let before = agent.declared.remove(known).n;
                assert!(n > before || (n == before && lapsed), "{id:?}: PRESENCE {n} after {before}");
            } else if agent.declared.len() == limits.presence_devices_max as usize {
                agent.declared.remove(0);
            }
            agent.declared.push(Declared { device, n, what: (availability, capacity) });
        });
    }

    pub(crate) fn apply_links(&mut self, agent: AgentId, links: u32, at: Hlc, limits: &Limits) {
        self.change(agent, at, limits, |agent| {
            agent.standing.links = links;
            if links == 0 {
                agent.standing.lost_since = at;
            }
        });
    }

    pub(crate) fn apply_lapsed(&mut self, agent: AgentId, at: Hlc, limits: &Limits) {
        assert!(self.agents.contains_key(&agent), "{agent:?} is not known and lapses");
        self.change(agent, at, limits, |agent| agent.standing.lapse());
    }

    /// Sessions are gone. Those who are not offline by their own word get the whole grace period again.
    pub(crate) fn apply_booted(&mut self, at: Hlc, limits: &Limits) {
        let ids: Vec<AgentId> = self.agents.keys().copied().collect();
        for id in ids {
            self.apply_links(id, 0, at, limits);
        }
    }

    pub(crate) fn digest(&self, digest: &mut Digest) {
        digest.count(self.agents.len());
        for (id, agent) in &self.agents {
            let standing = &agent.standing;
            digest.u32(id.0);
            digest.u32(standing.availability as u32);
            digest.u32(u32::from(standing.capacity));
            digest.u32(standing.links);
            digest.u64(standing.touched.0);
            digest.u64(standing.lost_since.0);
            digest.u32(u32::from(standing.lapsed));
            digest.count(agent.placed.len());
            agent.placed.iter().for_each(|conversation| digest.u64(conversation.0));
            digest.count(agent.declared.len());
            for Declared { device, n, what: (availability, capacity) } in &agent.declared {
                digest.u64(device.0);
                digest.u64(*n);
                digest.u32(*availability as u32);
                digest.u32(u32::from(*capacity));
            }
        }
    }
}

fn view(agent: AgentId, standing: &Standing) -> AgentView {
    let Standing { availability, capacity, load, links, .. } = *standing;
    AgentView { agent, availability, capacity, load, links }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rank(load: u32, capacity: u16, touched: u64, agent: u32) -> Rank {
        Rank { load, capacity, touched: Hlc(touched), agent: AgentId(agent) }
    }

    #[test]
    fn rank_is_load_per_capacity_then_load_then_idle_then_id() {
        assert!(rank(1, 4, 9, 9) < rank(1, 3, 1, 1), "a quarter full goes before a third full");
        assert!(rank(1, 2, 9, 9) < rank(2, 4, 1, 1), "same ratio: fewer conversations first");
        assert!(rank(0, 5, 3, 9) < rank(0, 2, 4, 1), "both empty: idle longer first");
        assert!(rank(0, 5, 3, 1) < rank(0, 2, 3, 2), "all equal: lower id first");
    }

    #[test]
    fn loss_is_due_for_who_has_conversations_or_a_word_that_counts() {
        let limits = Limits::default();
        let mut standing = Standing::new(Hlc::from_millis(1000));
        assert_eq!(standing.loss_due(&limits), None);
        standing.load = 1;
        assert_eq!(standing.loss_due(&limits), Some(Hlc(0)), "offline by its own word");
        standing.availability = Availability::Away;
        assert_eq!(standing.loss_due(&limits), Some(Hlc::from_millis(31_000)));
        standing.load = 0;
        assert_eq!(standing.loss_due(&limits), Some(Hlc::from_millis(31_000)), "its word lapses");
        standing.links = 1;
        assert_eq!(standing.loss_due(&limits), None);
        (standing.links, standing.load) = (0, 1);
        standing.lapse();
        assert_eq!(standing.loss_due(&limits), Some(Hlc(0)));
    }
}
