//! One sample at least of every message, for the golden vectors and the tests.

use crate::message::{
    Author, Availability, Cause, ClientMessage, Content, Cursor, Items, QueueEntries, QueueEntry, Role,
    ServerMessage, Side, Status,
};
use crate::{Code, Language};

/// A sample: name, channel, tag, message.
pub(crate) type Sample<M> = (&'static str, u32, u32, M);

/// Conversation 1 of slot 41.
pub(crate) const CONVERSATION: u64 = 0x00A4_0000_0000_0001;
pub(crate) const DEVICE: u64 = 0x1122_3344_5566_7788;
pub(crate) const AT: u64 = 0x019A_A3D1_C800_0000;
const NONCE: u64 = 0x0123_4567_89AB_CDEF;
const CURSORS: &[Cursor] =
    &[Cursor::new(CONVERSATION, 1, 42), Cursor::new(u64::MAX, u32::MAX, (1 << 53) - 1)];

fn keep(bytes: Vec<u8>) -> &'static [u8] {
    Vec::leak(bytes)
}

fn hello(role: Role, ticket: &'static str, cursors: &'static [Cursor]) -> ClientMessage<'static> {
    ClientMessage::Hello { version_min: 1, version_max: 1, role, device: DEVICE, ticket, cursors }
}

/// Client messages.
pub(crate) fn client() -> Vec<Sample<ClientMessage<'static>>> {
    use ClientMessage::*;
    let send = |n, owner_epoch, content, body: &'static str| Send {
        conversation: CONVERSATION,
        n,
        owner_epoch,
        content,
        body: body.as_bytes(),
    };
    vec![
        ("hello_visitor", 0, 1, hello(Role::Visitor, "eyJhbGciOiJIUzI1NiJ9.e30.c2ln", &[])),
        ("hello_agent_resuming", 0, 1, hello(Role::Agent, "t", CURSORS)),
        ("hello_gateway", 0, 1, hello(Role::Gateway, "gateway-ticket", &[])),
        ("open", 0, 2, Open { n: 1, topic: "订单 42" }),
        ("open_without_topic", 7, 3, Open { n: 2, topic: "" }),
        ("send_text", 0, 3, send(1, 0, Content::Text, "hi")),
        ("send_text_with_escapes", 7, 4, send(2, 0, Content::Text, "\"quoted\"\n\\ 你好 🦀 \u{1}")),
        ("send_reference_as_agent", 0, 5, send(1, 3, Content::Reference, "file:42")),
        ("send_card", 0, 6, send(300, 3, Content::Card, "{\"title\":\"x\"}")),
        ("send_empty", 0, u32::MAX, send(3, 0, Content::Text, "")),
        ("receipt", 0, 8, Receipt { conversation: CONVERSATION, delivered: 5, read: 3 }),
        ("typing_on", 0, 0, Typing { conversation: CONVERSATION, on: true }),
        ("typing_off", 0, 0, Typing { conversation: CONVERSATION, on: false }),
        ("history_before", 0, 9, History { conversation: CONVERSATION, before: 100, after: 0, limit: 50 }),
        ("history_after", 0, 10, History { conversation: CONVERSATION, before: 0, after: 100, limit: 200 }),
        ("resolve", 0, 11, Resolve { conversation: CONVERSATION, n: 4, owner_epoch: 3 }),
        ("presence_online", 0, 12, Presence { n: 1, availability: Availability::Online, capacity: 5 }),
        ("presence_away", 0, 13, Presence { n: 2, availability: Availability::Away, capacity: 0 }),
        ("presence_offline", 0, 14, Presence { n: 3, availability: Availability::Offline, capacity: 1000 }),
        ("bind", 0, 15, Bind { channel: 7, device: DEVICE, visitor: "wx-openid-42", cursors: CURSORS }),
        ("unbind", 0, 16, Unbind { channel: 7 }),
        ("ping", 0, 17, Ping { nonce: NONCE }),
    ]
}

fn deliver(
    seq: u64,
    author: Author,
    agent: u32,
    content: Content,
    body: &'static str,
) -> ServerMessage<'static> {
    ServerMessage::Deliver {
        conversation: CONVERSATION,
        seq,
        at: AT + seq,
        author,
        agent,
        device: DEVICE,
        n: seq,
        content,
        body: body.as_bytes(),
    }
}

fn state(seq: u64, status: Status, cause: Cause, by: Author, agent: u32) -> ServerMessage<'static> {
    let agent_name = if agent == 0 { "" } else { "小林" };
    ServerMessage::State {
        conversation: CONVERSATION,
        seq,
        at: AT + seq,
        status,
        cause,
        by,
        agent,
        owner_epoch: agent,
        agent_name,
    }
}

/// The reopening message is seq 6; the epoch of the last assignment stays.
fn reopened() -> ServerMessage<'static> {
    ServerMessage::State {
        conversation: CONVERSATION,
        seq: 7,
        at: AT + 6,
        status: Status::Queued,
        cause: Cause::Reopened,
        by: Author::Visitor,
        agent: 0,
        owner_epoch: 9,
        agent_name: "",
    }
}

/// A page of two messages and the state between them.
fn page() -> ServerMessage<'static> {
    let mut items = Vec::new();
    deliver(1, Author::Visitor, 0, Content::Text, "hi").encode(7, 0, &mut items);
    state(2, Status::Queued, Cause::FirstMessage, Author::Visitor, 0).encode(7, 0, &mut items);
    deliver(3, Author::Agent, 9, Content::Text, "您好").encode(7, 0, &mut items);
    let items = Items::new(keep(items));
    ServerMessage::Page { conversation: CONVERSATION, first: 1, last: 3, more: true, count: 3, items }
}

fn queue() -> ServerMessage<'static> {
    let scratch = Box::leak(Box::default());
    let entry = |conversation, visitor| QueueEntry { conversation, since: AT, visitor };
    let entries = QueueEntries::build([entry(CONVERSATION, "v-1"), entry(u64::MAX, "访客")], scratch);
    ServerMessage::Queue { waiting: 12, oldest_since: AT, entries }
}

fn welcome(agent: u32, identity: &'static str) -> ServerMessage<'static> {
    ServerMessage::Welcome {
        version: 1,
        epoch: 1,
        session: 0x5E55,
        at: AT,
        heartbeat_s: 30,
        frame_bytes_max: 131_072,
        agent,
        identity,
        site: "demo",
    }
}

fn reject(code: Code, of: u8, retry_after_ms: u32, detail: u64) -> ServerMessage<'static> {
    let sentence = code.sentence(Language::English);
    ServerMessage::Reject { code, of, conversation: CONVERSATION, retry_after_ms, detail, sentence }
}

/// Server messages.
pub(crate) fn server() -> Vec<Sample<ServerMessage<'static>>> {
    use ServerMessage::*;
    let conversation = CONVERSATION;
    let shutting_down = Code::ShuttingDown.sentence(Language::Chinese);
    vec![
        ("welcome_visitor", 0, 1, welcome(0, "v-8f3a")),
        ("welcome_agent", 0, 1, welcome(9, "小林")),
        ("ack", 0, 3, Ack { conversation, seq: 1, n: 1, duplicate: false }),
        ("ack_duplicate", 7, 4, Ack { conversation, seq: 1, n: 1, duplicate: true }),
        ("deliver_visitor", 0, 0, deliver(1, Author::Visitor, 0, Content::Text, "hi")),
        ("deliver_agent", 7, 0, deliver(3, Author::Agent, 9, Content::Card, "{\"a\":1}")),
        ("deliver_system", 0, 0, deliver(4, Author::System, 0, Content::Reference, "")),
        (
            "assigned",
            0,
            0,
            Assigned {
                conversation,
                agent: 9,
                owner_epoch: 3,
                status: Status::Assigned,
                seq: 3,
                since: AT,
                visitor_read: 1,
                visitor_delivered: 2,
                staff_read: 0,
                staff_delivered: 3,
                visitor: "v-8f3a",
            },
        ),
        ("state_queued", 0, 0, state(2, Status::Queued, Cause::FirstMessage, Author::Visitor, 0)),
        ("state_assigned", 0, 0, state(3, Status::Assigned, Cause::Assigned, Author::System, 9)),
        ("state_agent_lost", 0, 0, state(4, Status::Queued, Cause::AgentLost, Author::System, 9)),
        ("state_resolved", 0, 0, state(5, Status::Resolved, Cause::Resolved, Author::Agent, 9)),
        ("state_reopened", 0, 0, reopened()),
        ("receipt_visitor", 0, 0, Receipt { conversation, side: Side::Visitor, delivered: 3, read: 2 }),
        ("receipt_staff", 0, 0, Receipt { conversation, side: Side::Staff, delivered: 3, read: 3 }),
        ("typing", 0, 0, Typing { conversation, author: Author::Agent, agent: 9, on: true }),
        ("page", 7, 9, page()),
        (
            "page_empty",
            0,
            9,
            Page { conversation, first: 0, last: 0, more: false, count: 0, items: Items::new(&[]) },
        ),
        ("gap", 0, 0, Gap { conversation, from: 1, to: 17 }),
        ("reject_busy", 0, 3, reject(Code::Busy, 0x03, 250, 0)),
        ("reject_out_of_order", 0, 3, reject(Code::OutOfOrder, 0x03, 0, 8)),
        ("reject_beyond_end", 0, 0, reject(Code::BeyondEnd, 0, 0, 17)),
        ("reject_unknown_kind", 0, 3, reject(Code::UnknownKind, 0, 0, 0)),
        (
            "goodbye",
            0,
            0,
            Goodbye { code: Code::ShuttingDown, retry_after_ms: 1000, sentence: shutting_down },
        ),
        ("pong", 0, 17, Pong { nonce: NONCE }),
        ("queue", 0, 0, queue()),
    ]
}
