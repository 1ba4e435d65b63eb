//! What leaves the gate once the record before it is durable.

use std::sync::Arc;

use ringdesk_desk::event::Note;
use ringdesk_desk::ids::{AgentId, ConversationId, SiteId, Slot};

use crate::index::Subscriber;
use crate::message::SessionRef;

/// One effect, held by the gate.
#[derive(Clone, Debug)]
pub enum Effect {
    /// An item of a conversation's order: into the index, then to its listeners.
    Item {
        /// The conversation.
        conversation: ConversationId,
        /// Its number.
        seq: u64,
        /// DELIVER or STATE, complete.
        frame: Arc<[u8]>,
        /// The new owner, when this item assigns one: its sessions get this ASSIGNED after it.
        owner: Option<(AgentId, Arc<[u8]>)>,
    },
    /// A frame beside the order for all listeners of a conversation (receipts).
    Beside {
        /// The conversation.
        conversation: ConversationId,
        /// The frame, complete.
        frame: Arc<[u8]>,
    },
    /// A complete frame for one session: a REJECT, or a frame built when it was decided.
    Answer {
        /// The session.
        to: SessionRef,
        /// The frame.
        frame: Arc<[u8]>,
    },
    /// ACK.
    Ack {
        /// The session.
        to: SessionRef,
        /// Tag of the request.
        tag: u32,
        /// The conversation, 0 where there is none.
        conversation: u64,
        /// Its seq.
        seq: u64,
        /// The request's n.
        n: u64,
        /// DUP.
        duplicate: bool,
    },
    /// A session starts or goes on listening.
    Subscribe {
        /// The session.
        listener: Subscriber,
        /// The conversation.
        conversation: ConversationId,
        /// Cursor.
        after: u64,
        /// ASSIGNED to send first, and the epoch it tells.
        assigned: Option<(u32, Arc<[u8]>)>,
    },
    /// The asking session shall listen to its conversation from `after` on.
    Invite {
        /// The session.
        to: SessionRef,
        /// The conversation.
        conversation: ConversationId,
        /// Cursor.
        after: u64,
    },
    /// An assignment reached its conversation durably: the agent's sessions are invited.
    Placed {
        /// Slot of the dispatcher.
        slot: Slot,
        /// Site.
        site: SiteId,
        /// Agent.
        agent: AgentId,
        /// Conversation.
        conversation: ConversationId,
    },
    /// An agent's session is known to the dispatcher: it is invited to what the agent owns, and shown the queue.
    Linked {
        /// The session.
        to: SessionRef,
        /// Slot of the dispatcher.
        slot: Slot,
        /// Site.
        site: SiteId,
        /// Agent.
        agent: AgentId,
    },
    /// A logged note on its way.
    Tell {
        /// Teller.
        from: Slot,
        /// Hearer.
        to: Slot,
        /// Number of the pair.
        n: u64,
        /// What.
        note: Note,
    },
    /// A note was heard durably.
    Confirm {
        /// Teller.
        from: Slot,
        /// Hearer.
        to: Slot,
        /// Highest number.
        upto: u64,
    },
    /// The queue of a site changed.
    QueueChanged {
        /// Slot of the dispatcher.
        slot: Slot,
        /// Site.
        site: SiteId,
    },
}
