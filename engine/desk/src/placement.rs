//! Assignment: the longest-waiting conversation to the least-loaded agent, and back from agents that are lost.
//!
//! A draft is a dispatcher as it will stand once the events decided so far are applied: the dispatcher's own state
//! behind a few changes, since one decision touches few conversations and agents. Order: first lost agents lapse and
//! their conversations return, then those who wait are placed; both stop at the bound of moves per decision or of
//! notes, and the dispatcher's deadline stays due until the rest is done.

use std::collections::{BTreeMap, BTreeSet};

use crate::agent::Standing;
use crate::command::Availability;
use crate::decision::Decision;
use crate::dispatcher::Dispatcher;
use crate::event::{Event, Note};
use crate::ids::{AgentId, ConversationId, Hlc, SiteId};
use crate::queue::Entry;

/// One dispatcher in the middle of a decision.
pub(crate) struct Draft<'d, 'a> {
    decision: &'d mut Decision<'a>,
    dispatcher: &'a Dispatcher,
    site: SiteId,
    /// Agents whose standing differs from the dispatcher's.
    agents: BTreeMap<AgentId, Standing>,
    /// Those who began to wait in this decision, with their epoch.
    waits: BTreeMap<(Hlc, ConversationId), u32>,
    /// Those whose entry in the dispatcher no longer holds.
    moved: BTreeSet<ConversationId>,
}

impl<'d, 'a> Draft<'d, 'a> {
    pub(crate) fn new(decision: &'d mut Decision<'a>, site: SiteId, dispatcher: &'a Dispatcher) -> Self {
        let (agents, waits, moved) = (BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
        Self { decision, dispatcher, site, agents, waits, moved }
    }

    /// Changes an agent as an event just decided does.
    pub(crate) fn change(&mut self, agent: AgentId, change: impl FnOnce(&mut Standing)) {
        let (roster, now) = (&self.dispatcher.roster, self.decision.now);
        let standing = self
            .agents
            .entry(agent)
            .or_insert_with(|| roster.standing(agent).unwrap_or_else(|| Standing::new(now)));
        change(standing);
    }

    /// A conversation was forgotten (`Event::Left`).
    pub(crate) fn leave(&mut self, conversation: ConversationId, entry: &Entry) {
        self.moved.insert(conversation);
        if let Some(agent) = entry.agent {
            self.free(agent);
        }
    }

    /// A conversation waits (`Event::Waiting`, `Event::Returned`).
    pub(crate) fn wait(&mut self, conversation: ConversationId, since: Hlc, epoch: u32) {
        self.waits.insert((since, conversation), epoch);
    }

    fn free(&mut self, agent: AgentId) {
        let now = self.decision.now;
        self.change(agent, |standing| {
            standing.load -= 1;
            standing.touched = now;
        });
    }

    /// Returns and places until nothing is left to do or a bound is reached.
    pub(crate) fn settle(&mut self) {
        for agent in self.lost() {
            if self.decision.moves_left > 0 {
                self.lapse(agent);
                self.take_back(agent);
            }
        }
        while self.may_move() {
            let Some((conversation, since, epoch)) = self.next_waiting() else { break };
            let Some(agent) = self.next_agent() else { break };
            self.place(conversation, since, epoch, agent);
        }
    }

    fn may_move(&self) -> bool {
        self.decision.moves_left > 0 && self.decision.note_room()
    }

    /// Agents that are lost now. No more than there are moves: each lapses or has at least one conversation to give.
    fn lost(&self) -> Vec<AgentId> {
        let (now, limits) = (self.decision.now, self.decision.limits);
        let due = |standing: &Standing| standing.loss_due(limits).is_some_and(|due| due <= now);
        let changed = self.agents.iter().filter(|(_, standing)| due(standing)).map(|(agent, _)| *agent);
        let listed =
            self.dispatcher.roster.graces().take_while(|(due, _)| *due <= now).map(|(_, agent)| *agent);
        let unchanged = listed.filter(|agent| !self.agents.contains_key(agent));
        changed.chain(unchanged).take(self.decision.moves_left as usize).collect()
    }

    /// The word of an agent without a session counts no more.
    fn lapse(&mut self, agent: AgentId) {
        let roster = &self.dispatcher.roster;
        let standing = self.agents.get(&agent).copied().or_else(|| roster.standing(agent));
        if standing.is_none_or(|standing| standing.availability == Availability::Offline) {
            return;
        }
        let (slot, site, at) = (self.decision.slot, self.site, self.decision.now);
        self.decision.moves_left -= 1;
        self.decision.push(Event::AgentLapsed { slot, site, agent, at });
        self.change(agent, Standing::lapse);
    }

    fn take_back(&mut self, agent: AgentId) {
        let dispatcher = self.dispatcher;
        for conversation in dispatcher.roster.placed(agent) {
            if !self.may_move() {
                return;
            }
            if self.moved.contains(&conversation) {
                continue;
            }
            let entry = dispatcher.queue.entry(conversation).expect("what is placed has an entry");
            let (slot, site, epoch, at) = (self.decision.slot, self.site, entry.epoch, self.decision.now);
            self.decision.moves_left -= 1;
            self.decision.push(Event::Returned { slot, site, conversation, agent, epoch, at });
            self.decision.tell(conversation.slot(), Note::Unassign { conversation, epoch });
            self.moved.insert(conversation);
            self.free(agent);
            self.wait(conversation, entry.since, epoch);
        }
    }

    /// Who waits longest: (conversation, since, epoch).
    fn next_waiting(&self) -> Option<(ConversationId, Hlc, u32)> {
        let queue = &self.dispatcher.queue;
        let stayed = queue.waiting().find(|(conversation, _)| !self.moved.contains(conversation));
        let joined = self
            .waits
            .first_key_value()
            .map(|((since, conversation), epoch)| (*since, *conversation, *epoch));
        let stayed = stayed.map(|(conversation, since)| {
            let entry = queue.entry(conversation).expect("who waits has an entry");
            (since, conversation, entry.epoch)
        });
        let (since, conversation, epoch) = [stayed, joined].into_iter().flatten().min()?;
        Some((conversation, since, epoch))
    }

    /// Who takes the next conversation.
    fn next_agent(&self) -> Option<AgentId> {
        let roster = &self.dispatcher.roster;
        let unchanged = roster.available().find(|rank| !self.agents.contains_key(&rank.agent)).copied();
        let changed = self.agents.iter().filter_map(|(agent, standing)| standing.rank(*agent));
        changed.chain(unchanged).min().map(|rank| rank.agent)
    }

    fn place(&mut self, conversation: ConversationId, since: Hlc, epoch: u32, agent: AgentId) {
        let epoch = epoch.checked_add(1).expect("epochs leave room, see EPOCH_MAX");
        let (slot, site, at) = (self.decision.slot, self.site, self.decision.now);
        self.decision.moves_left -= 1;
        self.decision.push(Event::Placed { slot, site, conversation, agent, epoch, at });
        self.decision.tell(conversation.slot(), Note::Assign { conversation, agent, epoch });
        self.waits.remove(&(since, conversation));
        self.moved.insert(conversation);
        self.change(agent, |standing| {
            standing.load += 1;
            standing.touched = at;
        });
    }
}
