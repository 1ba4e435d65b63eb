//! A whole session, frame by frame, for `docs/WIRE.md` and `vectors/session.json`.

use crate::message::{
    Author, Availability, Cause, ClientMessage, Content, Cursor, Role, ServerMessage, Side, Status,
};
use crate::samples::{AT, CONVERSATION};
use crate::{Code, Language};

/// Who sends a frame.
pub(super) enum Message {
    Client(ClientMessage<'static>),
    Server(ServerMessage<'static>),
}

/// One frame: the connection it is on, what happens, the tag, the message.
pub(super) struct Line {
    pub(super) connection: &'static str,
    pub(super) note: &'static str,
    pub(super) tag: u32,
    pub(super) message: Message,
}

const VISITOR_DEVICE: u64 = 0x1111_1111_1111_1111;
const AGENT_DEVICE: u64 = 0x2222_2222_2222_2222;
const RESUME: &[Cursor] = &[Cursor::new(CONVERSATION, 1, 4)];

/// A stamp `millis` after the start of the session.
fn at(millis: u64) -> u64 {
    AT + (millis << 16)
}

fn deliver(seq: u64, agent: u32, device: u64, body: &'static str) -> ServerMessage<'static> {
    ServerMessage::Deliver {
        conversation: CONVERSATION,
        seq,
        at: at(seq * 1000),
        author: if agent == 0 { Author::Visitor } else { Author::Agent },
        agent,
        device,
        n: 1,
        content: Content::Text,
        body: body.as_bytes(),
    }
}

fn state(seq: u64, status: Status, cause: Cause, by: Author, agent: u32) -> ServerMessage<'static> {
    ServerMessage::State {
        conversation: CONVERSATION,
        seq,
        at: at(seq * 1000),
        status,
        cause,
        by,
        agent,
        owner_epoch: u32::from(agent != 0),
        agent_name: if agent == 0 { "" } else { "Lin" },
    }
}

fn queued() -> ServerMessage<'static> {
    state(2, Status::Queued, Cause::FirstMessage, Author::Visitor, 0)
}

fn assigned() -> ServerMessage<'static> {
    state(3, Status::Assigned, Cause::Assigned, Author::System, 9)
}

fn resolved() -> ServerMessage<'static> {
    state(5, Status::Resolved, Cause::Resolved, Author::Agent, 9)
}

fn hello(role: Role, device: u64, ticket: &'static str, cursors: &'static [Cursor]) -> Message {
    Message::Client(ClientMessage::Hello { version_min: 1, version_max: 1, role, device, ticket, cursors })
}

fn welcome(session: u64, millis: u64, agent: u32, identity: &'static str) -> Message {
    Message::Server(ServerMessage::Welcome {
        version: 1,
        epoch: 1,
        session,
        at: at(millis),
        heartbeat_s: 30,
        frame_bytes_max: 131_072,
        agent,
        identity,
        site: "demo",
    })
}

fn ack(conversation: u64, seq: u64, n: u64) -> Message {
    Message::Server(ServerMessage::Ack { conversation, seq, n, duplicate: false })
}

fn send(owner_epoch: u32, body: &'static str) -> Message {
    let (conversation, content) = (CONVERSATION, Content::Text);
    Message::Client(ClientMessage::Send { conversation, n: 1, owner_epoch, content, body: body.as_bytes() })
}

/// ASSIGNED as the agent gets it.
fn ownership() -> Message {
    Message::Server(ServerMessage::Assigned {
        conversation: CONVERSATION,
        agent: 9,
        owner_epoch: 1,
        status: Status::Assigned,
        seq: 0,
        since: at(2000),
        visitor_read: 0,
        visitor_delivered: 0,
        staff_read: 0,
        staff_delivered: 0,
        visitor: "v-1",
    })
}

/// The session.
pub(super) fn lines() -> Vec<Line> {
    use Message::{Client, Server};
    let conversation = CONVERSATION;
    let line = |connection, note, tag, message| Line { connection, note, tag, message };
    let shutting_down = Code::ShuttingDown.sentence(Language::English);
    let presence = ClientMessage::Presence { n: 1, availability: Availability::Online, capacity: 5 };
    let receipt = ClientMessage::Receipt { conversation, delivered: 4, read: 4 };
    let seen = ServerMessage::Receipt { conversation, side: Side::Visitor, delivered: 4, read: 4 };
    let resolve = ClientMessage::Resolve { conversation, n: 2, owner_epoch: 1 };
    let goodbye =
        ServerMessage::Goodbye { code: Code::ShuttingDown, retry_after_ms: 1000, sentence: shutting_down };
    let own = |seq, agent, device, body| Server(deliver(seq, agent, device, body));
    let returning = hello(Role::Visitor, VISITOR_DEVICE, "visitor-ticket", RESUME);
    vec![
        line(
            "visitor",
            "The visitor says who it is",
            1,
            hello(Role::Visitor, VISITOR_DEVICE, "visitor-ticket", &[]),
        ),
        line("visitor", "and is known as v-1", 1, welcome(1, 0, 0, "v-1")),
        line("visitor", "It opens its conversation", 2, Client(ClientMessage::Open { n: 1, topic: "" })),
        line("visitor", "which is empty", 2, ack(conversation, 0, 1)),
        line("visitor", "It writes", 3, send(0, "hi")),
        line("visitor", "Its own message comes back in order, as seq 1", 0, own(1, 0, VISITOR_DEVICE, "hi")),
        line("visitor", "The conversation waits", 0, Server(queued())),
        line("visitor", "and the message is durable", 3, ack(conversation, 1, 1)),
        line("agent", "An agent comes", 1, hello(Role::Agent, AGENT_DEVICE, "agent-ticket", &[])),
        line("agent", "and is agent 9", 1, welcome(2, 2500, 9, "Lin")),
        line("agent", "It takes up to five conversations", 2, Client(presence)),
        line("agent", "which is noted", 2, ack(0, 0, 1)),
        line("agent", "It owns the conversation under epoch 1", 0, ownership()),
        line("visitor", "The visitor learns of it", 0, Server(assigned())),
        line("agent", "and is sent what was said: seq 1", 0, own(1, 0, VISITOR_DEVICE, "hi")),
        line("agent", "seq 2", 0, Server(queued())),
        line("agent", "and seq 3", 0, Server(assigned())),
        line("agent", "It answers", 3, send(1, "hello")),
        line("agent", "which comes back to it as well, as seq 4", 0, own(4, 9, AGENT_DEVICE, "hello")),
        line("agent", "and is durable", 3, ack(conversation, 4, 1)),
        line("visitor", "The visitor gets the answer", 0, own(4, 9, AGENT_DEVICE, "hello")),
        line("visitor", "and has read it", 4, Client(receipt)),
        line("visitor", "which all its devices see", 0, Server(seen)),
        line("visitor", "and which is noted", 4, ack(conversation, 0, 0)),
        line("agent", "The agent sees that it was read", 0, Server(seen)),
        line("visitor", "The server shuts this connection", 0, Server(goodbye)),
        line("agent", "The agent ends the conversation", 4, Client(resolve)),
        line("agent", "which is an item like any other, seq 5", 0, Server(resolved())),
        line("agent", "and is durable", 4, ack(conversation, 5, 2)),
        line("visitor", "The visitor comes back and has everything up to seq 4", 1, returning),
        line("visitor", "It is welcome", 1, welcome(3, 9000, 0, "v-1")),
        line("visitor", "and gets what it missed", 0, Server(resolved())),
    ]
}
