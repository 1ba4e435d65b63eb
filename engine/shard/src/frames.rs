//! From the desk's words to the wire's: events, answers and refusals as complete binary frames on channel 0.

use std::collections::BTreeMap;
use std::sync::Arc;

use ringdesk_desk::command::Refusal;
use ringdesk_desk::event::{Cause, Event, Status};
use ringdesk_desk::ids::{ConversationId, Hlc, Party, Side, SiteId};
use ringdesk_desk::view::ConversationView;
use ringdesk_protocol as wire;
use ringdesk_protocol::{Code, ServerMessage};

/// Display names of agents by (site, agent).
pub type AgentNames = BTreeMap<(u32, u32), Arc<str>>;

/// One message as a frame of its own.
pub fn frame(message: &ServerMessage<'_>, tag: u32) -> Arc<[u8]> {
    let mut out = Vec::with_capacity(128);
    message.encode(0, tag, &mut out);
    out.into()
}

fn author(party: Party) -> (wire::Author, u32) {
    match party {
        Party::Visitor => (wire::Author::Visitor, 0),
        Party::Agent(agent) => (wire::Author::Agent, agent.0),
        Party::System => (wire::Author::System, 0),
    }
}

fn status(status: Status) -> wire::Status {
    match status {
        Status::Open => wire::Status::Open,
        Status::Queued => wire::Status::Queued,
        Status::Assigned => wire::Status::Assigned,
        Status::Resolved => wire::Status::Resolved,
    }
}

fn cause(cause: Cause) -> wire::Cause {
    match cause {
        Cause::FirstMessage => wire::Cause::FirstMessage,
        Cause::Reopened => wire::Cause::Reopened,
        Cause::Assigned => wire::Cause::Assigned,
        Cause::AgentLost => wire::Cause::AgentLost,
        Cause::Resolved => wire::Cause::Resolved,
    }
}

/// The item of the order that an event is, appended to `out`. `false`: the event is no item, nothing was appended.
pub fn put_item(event: &Event, site: SiteId, names: &AgentNames, out: &mut Vec<u8>) -> bool {
    match event {
        Event::Sent { conversation, seq, party, device, n, at, kind, body } => {
            let (author, agent) = author(*party);
            let content = wire::Content::from_number(*kind).expect("the desk took only known contents");
            ServerMessage::Deliver {
                conversation: conversation.0,
                seq: *seq,
                at: at.0,
                author,
                agent,
                device: device.0,
                n: *n,
                content,
                body,
            }
            .encode(0, 0, out);
            true
        }
        Event::Changed { conversation, seq, status: to, cause: why, agent, epoch, by, at, .. } => {
            // The agent concerned: the new owner, else who resolved it or lost it. It is the system that takes back.
            let (by, causer) = author(*by);
            let by = if *why == Cause::AgentLost { wire::Author::System } else { by };
            let agent = agent.map_or(causer, |agent| agent.0);
            let name = names.get(&(site.0, agent)).map_or("", |name| name);
            ServerMessage::State {
                conversation: conversation.0,
                seq: *seq,
                at: at.0,
                status: status(*to),
                cause: cause(*why),
                by,
                agent,
                owner_epoch: *epoch,
                agent_name: name,
            }
            .encode(0, 0, out);
            true
        }
        _ => false,
    }
}

/// RECEIPT of one side.
pub fn receipt(conversation: ConversationId, side: Side, delivered: u64, read: u64) -> Arc<[u8]> {
    let side = match side {
        Side::Visitor => wire::Side::Visitor,
        Side::Staff => wire::Side::Staff,
    };
    frame(&ServerMessage::Receipt { conversation: conversation.0, side, delivered, read }, 0)
}

/// TYPING.
pub fn typing(conversation: ConversationId, party: Party, on: bool) -> Arc<[u8]> {
    let (author, agent) = author(party);
    frame(&ServerMessage::Typing { conversation: conversation.0, author, agent, on }, 0)
}

/// ACK.
pub fn ack(tag: u32, conversation: u64, seq: u64, n: u64, duplicate: bool) -> Arc<[u8]> {
    frame(&ServerMessage::Ack { conversation, seq, n, duplicate }, tag)
}

/// ASSIGNED: pushes go on after `seq`.
pub fn assigned(view: &ConversationView<'_>, seq: u64) -> Arc<[u8]> {
    let message = ServerMessage::Assigned {
        conversation: view.conversation.0,
        agent: view.agent.map_or(0, |agent| agent.0),
        owner_epoch: view.epoch,
        status: status(view.status),
        seq,
        since: view.since.0,
        visitor_read: view.visitor_receipts.read,
        visitor_delivered: view.visitor_receipts.delivered,
        staff_read: view.staff_receipts.read,
        staff_delivered: view.staff_receipts.delivered,
        visitor: view.visitor,
    };
    frame(&message, 0)
}

/// Milliseconds a client told BUSY waits before it tries again.
pub const BUSY_RETRY_MS: u32 = 200;

/// A refusal of one request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rejection {
    /// Why.
    pub code: Code,
    /// Kind of the refused frame.
    pub of: u8,
    /// The conversation it was about, or 0.
    pub conversation: u64,
    /// As the wire has it.
    pub detail: u64,
}

impl Rejection {
    /// The REJECT frame.
    pub fn frame(&self, tag: u32) -> Arc<[u8]> {
        let retry_after_ms = if self.code == Code::Busy { BUSY_RETRY_MS } else { 0 };
        let message = ServerMessage::Reject {
            code: self.code,
            of: self.of,
            conversation: self.conversation,
            retry_after_ms,
            detail: self.detail,
            sentence: self.code.sentence(ringdesk_protocol::Language::English),
        };
        frame(&message, tag)
    }
}

/// The code and detail of a desk's refusal.
pub fn refusal(refusal: Refusal) -> (Code, u64) {
    match refusal {
        Refusal::NotFound => (Code::NotFound, 0),
        Refusal::Forbidden => (Code::Forbidden, 0),
        Refusal::OutOfOrder { expected } => (Code::OutOfOrder, expected),
        Refusal::IdReused => (Code::IdReused, 0),
        Refusal::DeviceExpired => (Code::DeviceExpired, 0),
        Refusal::DeviceLimit => (Code::DeviceLimit, 0),
        Refusal::StaleOwner { epoch } => (Code::StaleOwner, u64::from(epoch)),
        Refusal::Resolved => (Code::Resolved, 0),
        Refusal::BeyondEnd { seq } => (Code::BeyondEnd, seq),
        Refusal::Invalid => (Code::Invalid, 0),
        Refusal::Busy => (Code::Busy, 0),
    }
}

/// QUEUE: everybody who waits at a site, the first entries by name.
pub fn queue<'a>(
    waiting: usize,
    oldest: Option<Hlc>,
    entries: impl Iterator<Item = (ConversationId, Hlc, &'a str)>,
) -> Arc<[u8]> {
    let mut scratch = Vec::new();
    let entries = entries.map(|(conversation, since, visitor)| wire::QueueEntry {
        conversation: conversation.0,
        since: since.0,
        visitor,
    });
    let entries = wire::QueueEntries::build(entries, &mut scratch);
    let waiting = u32::try_from(waiting).unwrap_or(u32::MAX);
    frame(&ServerMessage::Queue { waiting, oldest_since: oldest.map_or(0, |at| at.0), entries }, 0)
}
