//! What others may read of the desk: borrowed, never owned, so that nothing can be changed past `apply`.

use crate::command::Availability;
use crate::dispatcher::Dispatcher;
use crate::event::Status;
use crate::ids::{AgentId, ConversationId, Hlc, SiteId, Slot};

/// Receipts of one side: `read <= delivered <= highest seq`. 0 = none yet.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Receipts {
    /// Highest seq a device of the side confirmed storing.
    pub delivered: u64,
    /// Highest seq the side read.
    pub read: u64,
}

/// One conversation as it stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ConversationView<'a> {
    /// Its id.
    pub conversation: ConversationId,
    /// Its site.
    pub site: SiteId,
    /// Slot of the site's dispatcher.
    pub site_slot: Slot,
    /// External id of its visitor.
    pub visitor: &'a str,
    /// Where it stands.
    pub status: Status,
    /// Highest seq, 0 = no item yet.
    pub seq: u64,
    /// Highest assignment epoch seen, 0 = never assigned. While `Assigned` it is the owner's.
    pub epoch: u32,
    /// The owner while `Assigned`.
    pub agent: Option<AgentId>,
    /// Receipts of the visitor.
    pub visitor_receipts: Receipts,
    /// Receipts of the staff.
    pub staff_receipts: Receipts,
    /// When it was opened, or since when its visitor waits or waited: set by the first message and by each
    /// reopening, unchanged by assignment, loss of an agent and resolution.
    pub since: Hlc,
}

/// One agent as its site's dispatcher sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AgentView {
    /// The agent.
    pub agent: AgentId,
    /// What it declared last; `Offline` before it declared anything.
    pub availability: Availability,
    /// Conversations it takes at once.
    pub capacity: u16,
    /// Conversations it has.
    pub load: u32,
    /// Live sessions.
    pub links: u32,
}

/// One site's dispatcher as it stands.
#[derive(Clone, Copy)]
pub struct SiteView<'a> {
    pub(crate) dispatcher: &'a Dispatcher,
}

impl<'a> SiteView<'a> {
    /// Number of conversations that wait.
    pub fn waiting_count(&self) -> usize {
        self.dispatcher.queue.waiting_count()
    }

    /// Since when the first in the queue waits.
    pub fn oldest_since(&self) -> Option<Hlc> {
        self.waiting().next().map(|(_, since)| since)
    }

    /// Those who wait, longest first: (conversation, since). Take as many as are needed.
    pub fn waiting(&self) -> impl Iterator<Item = (ConversationId, Hlc)> + use<'a> {
        self.dispatcher.queue.waiting()
    }

    /// All known agents, by id.
    pub fn agents(&self) -> impl Iterator<Item = AgentView> + use<'a> {
        self.dispatcher.roster.views()
    }

    /// One agent, `None` when the site's dispatcher has never heard of it.
    pub fn agent(&self, agent: AgentId) -> Option<AgentView> {
        self.dispatcher.roster.view(agent)
    }

    /// Conversations placed with an agent, by id: (conversation, assignment epoch).
    pub fn placed(&self, agent: AgentId) -> impl Iterator<Item = (ConversationId, u32)> + use<'a> {
        self.dispatcher.placed(agent)
    }
}
