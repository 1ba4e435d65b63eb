//! The conversations a dispatcher knows: those that wait, in order, and those placed with an agent.
//!
//! Owned by the dispatcher. Bounded by `Limits::conversations_max`: a conversation stands here at most once.

use std::collections::{BTreeMap, BTreeSet};

use crate::digest::Digest;
use crate::ids::{AgentId, ConversationId, Hlc};

/// One conversation of the site that wants or has an agent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Entry {
    /// Since when the visitor waits; kept while it is placed, so that a returned one stands where it stood.
    pub(crate) since: Hlc,
    /// Highest assignment epoch of the conversation.
    pub(crate) epoch: u32,
    /// Whom it is placed with; `None` = it waits.
    pub(crate) agent: Option<AgentId>,
}

/// Entries by conversation, and the order of those that wait.
pub(crate) struct Queue {
    entries: BTreeMap<ConversationId, Entry>,
    waiting: BTreeSet<(Hlc, ConversationId)>,
}

impl Queue {
    pub(crate) const fn new() -> Self {
        Self { entries: BTreeMap::new(), waiting: BTreeSet::new() }
    }

    pub(crate) fn entry(&self, conversation: ConversationId) -> Option<&Entry> {
        self.entries.get(&conversation)
    }

    pub(crate) fn waiting_count(&self) -> usize {
        self.waiting.len()
    }

    /// Those who wait, longest first; ties by id.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = (ConversationId, Hlc)> + use<'_> {
        self.waiting.iter().map(|(since, conversation)| (*conversation, *since))
    }

    pub(crate) fn apply_waiting(&mut self, conversation: ConversationId, since: Hlc, epoch: u32) {
        let before = self.entries.insert(conversation, Entry { since, epoch, agent: None });
        assert!(before.is_none(), "{conversation:?} joins a queue it stands in: {before:?}");
        self.waiting.insert((since, conversation));
    }

    pub(crate) fn apply_placed(&mut self, conversation: ConversationId, agent: AgentId, epoch: u32) {
        let entry = self.entries.get_mut(&conversation).expect("only a known conversation is placed");
        assert!(entry.agent.is_none(), "{conversation:?} is placed twice: {entry:?}");
        assert!(epoch > entry.epoch, "{conversation:?}: epoch {epoch} after {}", entry.epoch);
        entry.agent = Some(agent);
        entry.epoch = epoch;
        assert!(self.waiting.remove(&(entry.since, conversation)), "who is placed has waited");
    }

    pub(crate) fn apply_returned(&mut self, conversation: ConversationId, agent: AgentId, epoch: u32) {
        let entry = self.entries.get_mut(&conversation).expect("only a known conversation is returned");
        assert!(
            entry.agent == Some(agent) && entry.epoch == epoch,
            "{conversation:?} returned from {entry:?}"
        );
        entry.agent = None;
        self.waiting.insert((entry.since, conversation));
    }

    /// Forgets a conversation; gives the agent that had it.
    pub(crate) fn apply_left(&mut self, conversation: ConversationId) -> Option<AgentId> {
        let entry = self.entries.remove(&conversation).expect("only a known conversation leaves");
        if entry.agent.is_none() {
            assert!(self.waiting.remove(&(entry.since, conversation)), "who has no agent waits");
        }
        entry.agent
    }

    pub(crate) fn digest(&self, digest: &mut Digest) {
        digest.count(self.entries.len());
        for (conversation, entry) in &self.entries {
            digest.u64(conversation.0);
            digest.u64(entry.since.0);
            digest.u32(entry.epoch);
            digest.u32(entry.agent.map_or(0, |agent| agent.0));
        }
    }
}
