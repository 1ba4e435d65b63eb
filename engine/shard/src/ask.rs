//! Requests of a session to the shard that owns the entity they concern: borrowed while they stay on one shard,
//! owned when they cross.

use ringdesk_desk::command::{Availability, Caller};
use ringdesk_desk::ids::{AgentId, ConversationId, DeviceId, SiteId, Slot};

use crate::message::SessionRef;

/// Cursor of a subscription that starts near the end.
pub const FROM_TAIL: u64 = u64::MAX;

/// Items an agent gets at once when a conversation becomes its own; older ones through HISTORY.
pub const TAIL_ITEMS: u64 = 50;

/// What is asked, without its bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Want {
    /// OPEN of the caller's conversation.
    Open {
        /// Slot of `{site/visitor}`.
        slot: Slot,
        /// Slot of `{site}`.
        site_slot: Slot,
        /// The device's OPEN sequence.
        n: u64,
    },
    /// SEND; the body travels beside.
    Send {
        /// The conversation.
        conversation: ConversationId,
        /// Device sequence.
        n: u64,
        /// The epoch an agent believes to hold.
        owner_epoch: u32,
        /// Content kind.
        content: u8,
    },
    /// RECEIPT.
    Receipt {
        /// The conversation.
        conversation: ConversationId,
        /// Highest seq stored.
        delivered: u64,
        /// Highest seq read.
        read: u64,
    },
    /// TYPING.
    Typing {
        /// The conversation.
        conversation: ConversationId,
        /// Started or stopped.
        on: bool,
    },
    /// HISTORY.
    History {
        /// The conversation.
        conversation: ConversationId,
        /// Newest items below this seq; 0 = not used.
        before: u64,
        /// Oldest items above this seq, when `before` is 0.
        after: u64,
        /// Number of items, at most `PAGE_ITEMS_MAX`.
        limit: u16,
    },
    /// RESOLVE.
    Resolve {
        /// The conversation.
        conversation: ConversationId,
        /// Device sequence.
        n: u64,
        /// The epoch an agent believes to hold.
        owner_epoch: u32,
    },
    /// PRESENCE, decided by the dispatcher.
    Presence {
        /// Slot of `{site}`.
        slot: Slot,
        /// The device's PRESENCE sequence.
        n: u64,
        /// Declared availability.
        availability: Availability,
        /// Declared capacity.
        capacity: u16,
    },
    /// Items after a cursor, then live.
    Subscribe {
        /// The conversation.
        conversation: ConversationId,
        /// Last seq the client has; [`FROM_TAIL`] = the newest [`TAIL_ITEMS`], then live.
        after: u64,
        /// Whether an owning agent is told ASSIGNED first (a new subscription, not the next piece of one).
        announce: bool,
    },
    /// No more pushes of this conversation.
    Unsubscribe {
        /// The conversation.
        conversation: ConversationId,
    },
    /// An agent's session came up, decided by the dispatcher.
    Link {
        /// Slot of `{site}`.
        slot: Slot,
    },
    /// An agent's session went away.
    Unlink {
        /// Slot of `{site}`.
        slot: Slot,
    },
}

impl Want {
    /// The slot whose owner answers.
    pub fn slot(&self) -> Slot {
        match *self {
            Self::Open { slot, .. }
            | Self::Presence { slot, .. }
            | Self::Link { slot }
            | Self::Unlink { slot } => slot,
            Self::Send { conversation, .. }
            | Self::Receipt { conversation, .. }
            | Self::Typing { conversation, .. }
            | Self::History { conversation, .. }
            | Self::Resolve { conversation, .. }
            | Self::Subscribe { conversation, .. }
            | Self::Unsubscribe { conversation } => conversation.slot(),
        }
    }
}

impl Want {
    /// The conversation it is about, 0 for none.
    pub fn conversation(&self) -> u64 {
        match *self {
            Self::Send { conversation, .. }
            | Self::Receipt { conversation, .. }
            | Self::Typing { conversation, .. }
            | Self::History { conversation, .. }
            | Self::Resolve { conversation, .. }
            | Self::Subscribe { conversation, .. }
            | Self::Unsubscribe { conversation } => conversation.0,
            Self::Open { .. } | Self::Presence { .. } | Self::Link { .. } | Self::Unlink { .. } => 0,
        }
    }

    /// The n of its key, 0 for none.
    pub fn n(&self) -> u64 {
        match *self {
            Self::Open { n, .. }
            | Self::Send { n, .. }
            | Self::Resolve { n, .. }
            | Self::Presence { n, .. } => n,
            _ => 0,
        }
    }
}

/// One request, borrowed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ask<'a> {
    /// Who asked; answers go there.
    pub from: SessionRef,
    /// Echoed in the answer.
    pub tag: u32,
    /// Kind of the client frame it came from, for REJECT; 0 for what no client sent.
    pub kind: u8,
    /// Device of the session.
    pub device: DeviceId,
    /// What the ticket proved.
    pub caller: Caller<'a>,
    /// What is asked.
    pub want: Want,
    /// Body of a SEND, otherwise empty.
    pub body: &'a [u8],
}

/// One request, owned, for a lane.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OwnedAsk {
    from: SessionRef,
    tag: u32,
    kind: u8,
    device: DeviceId,
    site: SiteId,
    agent: Option<AgentId>,
    visitor: Box<str>,
    want: Want,
    body: Box<[u8]>,
}

impl Ask<'_> {
    /// Copies the request so that it can cross.
    pub fn to_owned(&self) -> Box<OwnedAsk> {
        let (site, agent, visitor) = match self.caller {
            Caller::Visitor { site, visitor } => (site, None, visitor),
            Caller::Agent { site, agent } => (site, Some(agent), ""),
        };
        Box::new(OwnedAsk {
            from: self.from,
            tag: self.tag,
            kind: self.kind,
            device: self.device,
            site,
            agent,
            visitor: visitor.into(),
            want: self.want,
            body: self.body.into(),
        })
    }
}

impl OwnedAsk {
    /// The request as it was.
    pub fn borrow(&self) -> Ask<'_> {
        let caller = match self.agent {
            Some(agent) => Caller::Agent { site: self.site, agent },
            None => Caller::Visitor { site: self.site, visitor: &self.visitor },
        };
        Ask {
            from: self.from,
            tag: self.tag,
            kind: self.kind,
            device: self.device,
            caller,
            want: self.want,
            body: &self.body,
        }
    }
}
