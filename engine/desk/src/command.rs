//! What may be asked of the desk, and what it answers. Commands are never logged; events are.

use crate::event::Note;
use crate::ids::{AgentId, ConversationId, DeviceId, SiteId, Slot};

/// The authenticated caller of a command: what the ticket proved, never what the payload claims (C10).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Caller<'a> {
    /// A visitor of a site, by its external id (1..=64 bytes of UTF-8).
    Visitor {
        /// The site of the ticket.
        site: SiteId,
        /// The external id of the visitor.
        visitor: &'a str,
    },
    /// An agent or bot of a site.
    Agent {
        /// The site of the ticket.
        site: SiteId,
        /// The agent of the ticket.
        agent: AgentId,
    },
}

/// What an agent declares about itself.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Availability {
    /// Takes no conversations and gives back those it has at once.
    Offline = 0,
    /// Takes conversations up to its capacity.
    Online = 1,
    /// Keeps its conversations, takes no new ones.
    Away = 2,
}

/// One command. `slot` is the slot of the entity that decides: of `{site/visitor}` for conversations, of
/// `{site}` for the dispatcher.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Command<'a> {
    /// Opens the visitor's conversation, or finds the one it has that is not resolved.
    Open {
        /// Slot of `{site/visitor}`.
        slot: Slot,
        /// Slot of `{site}`, kept by the conversation to reach its dispatcher.
        site_slot: Slot,
        /// Site of the ticket.
        site: SiteId,
        /// External id of the visitor.
        visitor: &'a str,
        /// Calling device.
        device: DeviceId,
        /// The device's OPEN sequence, from 1 (key: site, visitor, device, n).
        n: u64,
    },
    /// Appends one message to a conversation.
    Send {
        /// The conversation.
        conversation: ConversationId,
        /// Who writes.
        caller: Caller<'a>,
        /// Calling device.
        device: DeviceId,
        /// The device's sequence in this conversation, from 1, shared with RESOLVE.
        n: u64,
        /// For agents: the assignment epoch it believes to hold. Ignored for visitors.
        owner_epoch: u32,
        /// Message kind, opaque to the desk (0 text, 1 reference, 2 card).
        kind: u8,
        /// UTF-8 body, at most `BODY_BYTES_MAX`.
        body: &'a [u8],
    },
    /// Moves the caller's side's receipts forward. Cumulative and monotonic; `read` implies delivered.
    Receipt {
        /// The conversation.
        conversation: ConversationId,
        /// Who confirms.
        caller: Caller<'a>,
        /// Highest seq stored by a device of the caller; 0 = unchanged.
        delivered: u64,
        /// Highest seq read; 0 = unchanged.
        read: u64,
    },
    /// Ends a conversation. Only its owner (at `owner_epoch`) or its visitor may.
    Resolve {
        /// The conversation.
        conversation: ConversationId,
        /// Who resolves.
        caller: Caller<'a>,
        /// Calling device.
        device: DeviceId,
        /// The device's sequence in this conversation, shared with SEND.
        n: u64,
        /// For agents: the assignment epoch it believes to hold.
        owner_epoch: u32,
    },
    /// An agent states availability and capacity (concurrent conversations, 0..=1000).
    Presence {
        /// Slot of `{site}`.
        slot: Slot,
        /// Site of the ticket.
        site: SiteId,
        /// Agent of the ticket.
        agent: AgentId,
        /// Calling device.
        device: DeviceId,
        /// The device's PRESENCE sequence, from 1. It only has to grow; a repeat is `Duplicate` with seq 0.
        n: u64,
        /// What it declares.
        availability: Availability,
        /// Conversations it takes at once.
        capacity: u16,
    },
    /// A session of the agent came up (stated by the shard that holds the connection).
    AgentLinked {
        /// Slot of `{site}`.
        slot: Slot,
        /// Site.
        site: SiteId,
        /// Agent.
        agent: AgentId,
    },
    /// A session of the agent went away. After the last one the grace period runs; at its end the agent is offline
    /// until it declares again.
    AgentUnlinked {
        /// Slot of `{site}`.
        slot: Slot,
        /// Site.
        site: SiteId,
        /// Agent.
        agent: AgentId,
    },
    /// A note told by entity slot `from` to slot `to`, number `n` of that pair.
    Hear {
        /// Teller.
        from: Slot,
        /// Hearer: decides.
        to: Slot,
        /// Dense from 1 per (from, to).
        n: u64,
        /// What was told.
        note: Note,
    },
    /// The hearer has durably logged all notes of the pair up to `upto`. Decided at `from`.
    Confirm {
        /// Teller: decides.
        from: Slot,
        /// Hearer.
        to: Slot,
        /// Highest number durably heard.
        upto: u64,
    },
    /// A deadline of this slot is due (see `Desk::next_deadline`).
    Tick {
        /// The slot whose deadline is due.
        slot: Slot,
    },
    /// The engine has just replayed this slot: sessions are gone, every timer starts again (C7).
    Boot {
        /// A slot from `Desk::slots_to_boot`.
        slot: Slot,
    },
}

impl Command<'_> {
    /// The slot that decides it, and under which its events are logged.
    pub fn slot(&self) -> Slot {
        match *self {
            Command::Open { slot, .. }
            | Command::Presence { slot, .. }
            | Command::AgentLinked { slot, .. }
            | Command::AgentUnlinked { slot, .. }
            | Command::Tick { slot }
            | Command::Boot { slot } => slot,
            Command::Send { conversation, .. }
            | Command::Receipt { conversation, .. }
            | Command::Resolve { conversation, .. } => conversation.slot(),
            Command::Hear { to, .. } => to,
            Command::Confirm { from, .. } => from,
        }
    }
}

/// The desk's answer to a command it took.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    /// OPEN: the conversation and its highest seq so far.
    Opened {
        /// The new or found conversation.
        conversation: ConversationId,
        /// Its highest seq, 0 when new.
        seq: u64,
        /// Whether this key had been answered before (DUP).
        duplicate: bool,
    },
    /// SEND or RESOLVE: recorded at this seq.
    Accepted {
        /// The seq it got.
        seq: u64,
    },
    /// The same key was recorded before at this seq; nothing was written (DUP).
    Duplicate {
        /// The original seq.
        seq: u64,
    },
    /// A duplicate older than the kept window: the caller finds (party, device, n) in the log and answers DUP
    /// with its seq, or ID_REUSED when the stored body hash differs from `body_hash`.
    OldDuplicate {
        /// xxh3-64 of kind and body as sent now.
        body_hash: u64,
    },
    /// HEAR: confirm up to this number to the teller (also for one seen before).
    Heard {
        /// Highest number of the pair heard.
        upto: u64,
    },
    /// Taken; nothing to tell the caller.
    Done,
}

/// Why the desk refused a command. Nothing was recorded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// Unknown or foreign: the same answer for both (C10).
    NotFound,
    /// The caller's role may not do this.
    Forbidden,
    /// `n` is larger than last + 1; `expected` is last + 1.
    OutOfOrder {
        /// The next n the desk takes from this device.
        expected: u64,
    },
    /// The same key was recorded with another body.
    IdReused,
    /// The device was retired from this conversation.
    DeviceExpired,
    /// The conversation has retired as many devices as it may; no new device is taken.
    DeviceLimit,
    /// The caller does not own the conversation at this epoch; `epoch` is the current one.
    StaleOwner {
        /// The current assignment epoch.
        epoch: u32,
    },
    /// The conversation is resolved and this command does not reopen it.
    Resolved,
    /// A receipt beyond the highest seq.
    BeyondEnd {
        /// The highest seq.
        seq: u64,
    },
    /// Body, id or number outside its bounds.
    Invalid,
    /// A bound of the desk is reached; try again later.
    Busy,
}
