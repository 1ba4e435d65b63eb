//! The conversations a dispatcher knows: those that wait, in order, and those placed with an agent.
//!
//! Owned by the dispatcher. Bounded by `Limits::conversations_max`: a conversation stands here at most once.

use crate::digest::Digest;
use crate::ids::{AgentId, ConversationId, Hlc};
use crate::sorted::Sorted;

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

/// An entry in 16 bytes: somebody waits at every one.
#[derive(Clone, Copy)]
struct Kept {
    since: Hlc,
    epoch: u32,
    /// 0 = it waits.
    agent: u32,
}

impl Kept {
    fn entry(self) -> Entry {
        let agent = (self.agent != 0).then_some(AgentId(self.agent));
        Entry { since: self.since, epoch: self.epoch, agent }
    }
}

/// Entries by conversation, and the order of those that wait.
pub(crate) struct Queue {
    entries: Sorted<ConversationId, Kept>,
    waiting: Sorted<(Hlc, ConversationId), ()>,
}

impl Queue {
    pub(crate) const fn new() -> Self {
        Self { entries: Sorted::new(), waiting: Sorted::new() }
    }

    pub(crate) fn entry(&self, conversation: ConversationId) -> Option<Entry> {
        self.entries.get(&conversation).map(|kept| kept.entry())
    }

    pub(crate) fn waiting_count(&self) -> usize {
        self.waiting.len()
    }

    /// Those who wait, longest first; ties by id.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = (ConversationId, Hlc)> + use<'_> {
        self.waiting.iter().map(|((since, conversation), ())| (*conversation, *since))
    }

    pub(crate) fn apply_waiting(&mut self, conversation: ConversationId, since: Hlc, epoch: u32) {
        let new = self.entries.insert(conversation, Kept { since, epoch, agent: 0 });
        assert!(new, "{conversation:?} joins a queue it stands in");
        self.waiting.insert((since, conversation), ());
    }

    pub(crate) fn apply_placed(&mut self, conversation: ConversationId, agent: AgentId, epoch: u32) {
        let entry = self.entries.get_mut(&conversation).expect("only a known conversation is placed");
        assert!(entry.agent == 0, "{conversation:?} is placed twice: {:?}", entry.entry());
        assert!(epoch > entry.epoch, "{conversation:?}: epoch {epoch} after {}", entry.epoch);
        entry.agent = agent.0;
        entry.epoch = epoch;
        let key = (entry.since, conversation);
        assert!(self.waiting.remove(&key).is_some(), "who is placed has waited");
    }

    pub(crate) fn apply_returned(&mut self, conversation: ConversationId, agent: AgentId, epoch: u32) {
        let entry = self.entries.get_mut(&conversation).expect("only a known conversation is returned");
        assert!(
            entry.agent == agent.0 && entry.epoch == epoch,
            "{conversation:?} returned from {:?}",
            entry.entry()
        );
        entry.agent = 0;
        let key = (entry.since, conversation);
        self.waiting.insert(key, ());
    }

    /// Forgets a conversation; gives the agent that had it.
    pub(crate) fn apply_left(&mut self, conversation: ConversationId) -> Option<AgentId> {
        let entry = self.entries.remove(&conversation).expect("only a known conversation leaves").entry();
        if entry.agent.is_none() {
            assert!(self.waiting.remove(&(entry.since, conversation)).is_some(), "who has no agent waits");
        }
        entry.agent
    }

    pub(crate) fn digest(&self, digest: &mut Digest) {
        digest.count(self.entries.len());
        for (conversation, entry) in self.entries.iter() {
            digest.u64(conversation.0);
            digest.u64(entry.since.0);
            digest.u32(entry.epoch);
            digest.u32(entry.agent);
        }
    }
}
