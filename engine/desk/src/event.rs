//! What happened. Events are what the log holds; applying them in order rebuilds the desk exactly.

use crate::command::Availability;
use crate::ids::{AgentId, ConversationId, DeviceId, Hlc, Party, Side, SiteId, Slot};

/// Where a conversation stands.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Status {
    /// Opened; the visitor has not written yet, nobody is wanted.
    Open = 0,
    /// Waits for an agent.
    Queued = 1,
    /// Owned by an agent.
    Assigned = 2,
    /// Ended. A later message of the visitor reopens it.
    Resolved = 3,
}

/// Why a conversation changed its status.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Cause {
    /// The visitor wrote for the first time.
    FirstMessage = 0,
    /// The visitor wrote to a resolved conversation.
    Reopened = 1,
    /// The dispatcher chose an agent.
    Assigned = 2,
    /// The agent was away longer than the grace period, or went offline.
    AgentLost = 3,
    /// Agent or visitor ended it.
    Resolved = 4,
}

/// What one entity tells another, possibly on another shard. Logged by the teller, numbered per pair of slots.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Note {
    /// Conversation to dispatcher: an agent is wanted. `epoch` is the last assignment epoch it has seen.
    Want {
        /// Site of the dispatcher.
        site: SiteId,
        /// The conversation.
        conversation: ConversationId,
        /// Since when the visitor waits.
        since: Hlc,
        /// Last assignment epoch, 0 = never assigned.
        epoch: u32,
    },
    /// Dispatcher to conversation: this agent owns it from `epoch` on.
    Assign {
        /// The conversation.
        conversation: ConversationId,
        /// The owner.
        agent: AgentId,
        /// The new epoch, larger than any before.
        epoch: u32,
    },
    /// Dispatcher to conversation: the assignment of `epoch` is over, it is queued again.
    Unassign {
        /// The conversation.
        conversation: ConversationId,
        /// The epoch that ended.
        epoch: u32,
    },
    /// Conversation to dispatcher: resolved (or an assignment came too late); the agent is free of it.
    Release {
        /// Site of the dispatcher.
        site: SiteId,
        /// The conversation.
        conversation: ConversationId,
        /// The epoch that ended.
        epoch: u32,
    },
}

/// One event. Those with a `seq` are the items of the conversation's total order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// A conversation came to be.
    Opened {
        /// Its id.
        conversation: ConversationId,
        /// Its site.
        site: SiteId,
        /// Slot of the site's dispatcher.
        site_slot: Slot,
        /// External id of its visitor.
        visitor: String,
        /// Device that opened it.
        device: DeviceId,
        /// OPEN sequence of that device.
        n: u64,
        /// When.
        at: Hlc,
    },
    /// OPEN found an existing conversation; recorded so that its key is answered the same for ever.
    Found {
        /// The conversation found.
        conversation: ConversationId,
        /// Device that asked.
        device: DeviceId,
        /// OPEN sequence of that device.
        n: u64,
        /// When.
        at: Hlc,
    },
    /// A message: item `seq`.
    Sent {
        /// The conversation.
        conversation: ConversationId,
        /// Dense from 1.
        seq: u64,
        /// Author.
        party: Party,
        /// Author's device.
        device: DeviceId,
        /// Author's device sequence.
        n: u64,
        /// When.
        at: Hlc,
        /// Message kind.
        kind: u8,
        /// UTF-8 body.
        body: Vec<u8>,
    },
    /// A change of status: item `seq`.
    Changed {
        /// The conversation.
        conversation: ConversationId,
        /// Dense from 1, shared with messages.
        seq: u64,
        /// New status.
        status: Status,
        /// Why.
        cause: Cause,
        /// The owner while `Assigned`.
        agent: Option<AgentId>,
        /// Current assignment epoch.
        epoch: u32,
        /// Who caused it: of `AgentLost` the agent that was lost (the system in records of version 0.1.0).
        by: Party,
        /// The key of a RESOLVE: device and n. `None` for changes nobody keyed.
        key: Option<(DeviceId, u64)>,
        /// When.
        at: Hlc,
    },
    /// Receipts of one side moved. `read <= delivered <= highest seq`.
    ReceiptMoved {
        /// The conversation.
        conversation: ConversationId,
        /// Whose receipts.
        side: Side,
        /// Highest seq stored.
        delivered: u64,
        /// Highest seq read.
        read: u64,
        /// When.
        at: Hlc,
    },
    /// The least recently used device of a full conversation was retired.
    DeviceRetired {
        /// The conversation.
        conversation: ConversationId,
        /// Whose device.
        party: Party,
        /// Which device.
        device: DeviceId,
    },
    /// The least recently used OPEN device of a visitor was retired. Stands before the `Opened` or `Found` of the
    /// device that took its place.
    OpenerRetired {
        /// Latest conversation of the visitor, which names the visitor.
        conversation: ConversationId,
        /// Which device.
        device: DeviceId,
    },
    /// Dispatcher: a conversation waits.
    Waiting {
        /// Slot of `{site}`: the deciding one.
        slot: Slot,
        /// Site.
        site: SiteId,
        /// Conversation.
        conversation: ConversationId,
        /// Since when.
        since: Hlc,
        /// Last assignment epoch.
        epoch: u32,
    },
    /// Dispatcher: a conversation was given to an agent.
    Placed {
        /// Slot of `{site}`: the deciding one.
        slot: Slot,
        /// Site.
        site: SiteId,
        /// Conversation.
        conversation: ConversationId,
        /// Agent.
        agent: AgentId,
        /// New assignment epoch.
        epoch: u32,
        /// When.
        at: Hlc,
    },
    /// Dispatcher: an assignment ended without being resolved; the conversation waits again, `since` unchanged.
    Returned {
        /// Slot of `{site}`: the deciding one.
        slot: Slot,
        /// Site.
        site: SiteId,
        /// Conversation.
        conversation: ConversationId,
        /// Agent that lost it.
        agent: AgentId,
        /// Epoch that ended.
        epoch: u32,
        /// When.
        at: Hlc,
    },
    /// Dispatcher: a conversation needs nobody any more.
    Left {
        /// Slot of `{site}`: the deciding one.
        slot: Slot,
        /// Site.
        site: SiteId,
        /// Conversation.
        conversation: ConversationId,
        /// Epoch that ended.
        epoch: u32,
        /// When.
        at: Hlc,
    },
    /// Dispatcher: an agent declared itself.
    AgentDeclared {
        /// Slot of `{site}`: the deciding one.
        slot: Slot,
        /// Site.
        site: SiteId,
        /// Agent.
        agent: AgentId,
        /// Device that declared.
        device: DeviceId,
        /// Its PRESENCE sequence.
        n: u64,
        /// What it declared.
        availability: Availability,
        /// Conversations it takes at once.
        capacity: u16,
        /// When.
        at: Hlc,
    },
    /// Dispatcher: number of live sessions of an agent changed. `links` is the new number.
    AgentLinks {
        /// Slot of `{site}`: the deciding one.
        slot: Slot,
        /// Site.
        site: SiteId,
        /// Agent.
        agent: AgentId,
        /// Live sessions now.
        links: u32,
        /// When; with `links == 0` the grace period runs from here. So it is logged without a change too, when an agent
        /// without a session declares itself.
        at: Hlc,
    },
    /// Dispatcher: an agent was without a session for longer than the grace period. What it declared counts no more:
    /// it is offline until it declares again.
    AgentLapsed {
        /// Slot of `{site}`: the deciding one.
        slot: Slot,
        /// Site.
        site: SiteId,
        /// Agent.
        agent: AgentId,
        /// When.
        at: Hlc,
    },
    /// A note was told: number `n` of the pair.
    Told {
        /// Teller.
        from: Slot,
        /// Hearer.
        to: Slot,
        /// Dense from 1 per pair.
        n: u64,
        /// What.
        note: Note,
    },
    /// Number `n` of the pair was heard; its effects stand beside it in the same record.
    Heard {
        /// Teller.
        from: Slot,
        /// Hearer.
        to: Slot,
        /// Number heard.
        n: u64,
    },
    /// The hearer confirmed all up to `upto`; the teller forgets them.
    Confirmed {
        /// Teller.
        from: Slot,
        /// Hearer.
        to: Slot,
        /// Highest number confirmed.
        upto: u64,
    },
    /// The engine started: links of this slot's agents are zero, timers run from `at`.
    Booted {
        /// The slot.
        slot: Slot,
        /// When.
        at: Hlc,
    },
}

impl Event {
    /// The slot that decided it, whose state it changes and under which it is logged.
    pub fn slot(&self) -> Slot {
        match *self {
            Event::Opened { conversation, .. }
            | Event::Found { conversation, .. }
            | Event::OpenerRetired { conversation, .. }
            | Event::Sent { conversation, .. }
            | Event::Changed { conversation, .. }
            | Event::ReceiptMoved { conversation, .. }
            | Event::DeviceRetired { conversation, .. } => conversation.slot(),
            Event::Waiting { slot, .. }
            | Event::Placed { slot, .. }
            | Event::Returned { slot, .. }
            | Event::Left { slot, .. }
            | Event::AgentDeclared { slot, .. }
            | Event::AgentLinks { slot, .. }
            | Event::AgentLapsed { slot, .. }
            | Event::Booted { slot, .. } => slot,
            Event::Told { from, .. } | Event::Confirmed { from, .. } => from,
            Event::Heard { to, .. } => to,
        }
    }
}
