//! One client, sans-IO: what a well-behaved visitor or agent remembers and sends by itself.
//!
//! Order: [`Client::hello`] on every (re)connection; on WELCOME the client sends again, with the same n, whatever
//! was not acknowledged (C4); each DELIVER and STATE passes the dedup of its conversation before it becomes an
//! [`Event`] (C5: a client that drops what it knows shows each item exactly once). Ownership: the client owns its
//! counters, cursors and outbox; connections come and go around it.

use std::collections::{BTreeMap, VecDeque};

use ringdesk_protocol::{Availability, ClientMessage, Code, Content, Cursor, Header, Role, ServerMessage};

use crate::body;
use crate::ledger::Seen;

/// What a tag asks; its upper four bits. The lower 28 bits are n, as far as they go.
const TAG_OPEN: u32 = 1 << 28;
const TAG_PRESENCE: u32 = 2 << 28;
const TAG_HISTORY: u32 = 3 << 28;
const TAG_RESOLVE: u32 = 4 << 28;
const TAG_KIND: u32 = 15 << 28;

/// Items asked for in one HISTORY.
const PAGE_ITEMS: u16 = 200;
/// When a refusal names no time, wait this long before sending again.
const RETRY_MS: u32 = 50;

/// What the fleet learns from a frame.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// WELCOME: the connection is usable and everything unacknowledged is on its way again.
    Welcome {
        /// The log epoch.
        epoch: u32,
        /// Seconds between signs of life.
        heartbeat_s: u16,
    },
    /// OPEN was acknowledged.
    Opened {
        /// The conversation.
        conversation: u64,
        /// Its highest seq at that time.
        seq: u64,
    },
    /// PRESENCE was acknowledged.
    Present,
    /// A message was acknowledged.
    Acked {
        /// The conversation.
        conversation: u64,
        /// Its key.
        n: u64,
        /// Its place.
        seq: u64,
    },
    /// RESOLVE was acknowledged.
    Resolved {
        /// The conversation.
        conversation: u64,
    },
    /// A DELIVER or STATE.
    Item {
        /// The conversation.
        conversation: u64,
        /// What it is.
        seen: Seen,
        /// Whether this client wrote it.
        own: bool,
        /// Whether this client knew that seq already.
        repeat: bool,
    },
    /// The conversation is this agent's.
    Assigned {
        /// The conversation.
        conversation: u64,
        /// Live items follow after this seq, unless a cursor was given.
        seq: u64,
    },
    /// A page of history.
    Page {
        /// The conversation.
        conversation: u64,
        /// Its items, oldest first.
        items: Vec<Seen>,
        /// Whether there is more.
        more: bool,
    },
    /// A HISTORY was refused for now; ask again after this many milliseconds.
    HistoryBusy {
        /// The conversation.
        conversation: u64,
        /// When to ask again.
        retry_after_ms: u32,
    },
    /// A command was refused for now (C8); the client sends it again when its time has come.
    Busy,
    /// Something was refused, or went wrong in words.
    Fault(String),
    /// The server closes the connection.
    Goodbye(String),
}

/// What a client remembers of one conversation.
#[derive(Default, Debug)]
struct Talk {
    next_n: u64,
    owner_epoch: u32,
    /// Every item up to here was pushed. Moved by items only, never by an ACK (docs/WIRE.md, order and resume).
    cursor: u64,
    /// Keys not yet acknowledged, oldest first.
    outbox: VecDeque<u64>,
    /// Refused for now: nothing is sent before this time, then the whole outbox is sent again.
    resend_at_ns: Option<u64>,
}

impl Talk {
    /// Moves the cursor to an item; false when it was known. A hole is not this client's to mend: the ledger
    /// sees it.
    fn learn(&mut self, seq: u64) -> bool {
        let new = seq > self.cursor;
        self.cursor = self.cursor.max(seq);
        new
    }
}

/// One visitor or agent on one device.
pub struct Client {
    role: Role,
    device: u64,
    ticket: String,
    body_bytes: usize,
    epoch: u32,
    ready: bool,
    /// OPEN n = 1 is asked for; true once acknowledged.
    opened: Option<bool>,
    /// PRESENCE: n, what is declared, whether acknowledged.
    presence: Option<(u64, Availability, u16, bool)>,
    /// Conversations to resolve that are not acknowledged.
    resolving: BTreeMap<u64, u64>,
    /// OPEN, PRESENCE or RESOLVE was refused for now: sent again at this time.
    ask_again_at_ns: Option<u64>,
    talks: BTreeMap<u64, Talk>,
    scratch: Vec<u8>,
}

impl Client {
    /// A client that has not connected. `device` must be unique and not 0; bodies are `body_bytes` long.
    pub fn new(role: Role, device: u64, ticket: String, body_bytes: usize) -> Self {
        assert!(device != 0, "0 is no device");
        Self {
            role,
            device,
            ticket,
            body_bytes,
            epoch: 0,
            ready: false,
            opened: None,
            presence: None,
            resolving: BTreeMap::new(),
            ask_again_at_ns: None,
            talks: BTreeMap::new(),
            scratch: Vec::new(),
        }
    }

    /// The device.
    pub fn device(&self) -> u64 {
        self.device
    }

    /// Whether WELCOME has come on this connection.
    pub fn ready(&self) -> bool {
        self.ready
    }

    /// Begins a connection: HELLO with a cursor for each conversation (at most `CURSORS_MAX` of them).
    pub fn hello(&mut self, out: &mut Vec<u8>) {
        self.ready = false;
        let limit = ringdesk_protocol::limits::CURSORS_MAX;
        let cursors: Vec<Cursor> = self
            .talks
            .iter()
            .take(limit)
            .map(|(id, talk)| Cursor::new(*id, self.epoch, talk.cursor))
            .collect();
        let version = ringdesk_protocol::limits::VERSION;
        ClientMessage::Hello {
            version_min: version,
            version_max: version,
            role: self.role,
            device: self.device,
            ticket: &self.ticket,
            cursors: &cursors,
        }
        .encode(0, 0, out);
    }

    /// A visitor opens its conversation, now or as soon as the connection is ready.
    pub fn open(&mut self, out: &mut Vec<u8>) {
        self.opened = Some(false);
        if self.ready {
            ClientMessage::Open { n: 1, topic: "" }.encode(0, TAG_OPEN, out);
        }
    }

    /// An agent declares itself, now or as soon as the connection is ready.
    pub fn declare(&mut self, availability: Availability, capacity: u16, out: &mut Vec<u8>) {
        let n = self.presence.map_or(0, |(n, ..)| n) + 1;
        self.presence = Some((n, availability, capacity, false));
        if self.ready {
            ClientMessage::Presence { n, availability, capacity }.encode(0, TAG_PRESENCE, out);
        }
    }

    /// Writes the next message of this device in a conversation it knows; returns its n and body hash. It stays in
    /// the outbox until its ACK.
    pub fn send(&mut self, conversation: u64, out: &mut Vec<u8>) -> (u64, u64) {
        let talk = self.talks.get_mut(&conversation).expect("a client writes where it was let in");
        talk.next_n += 1;
        let n = talk.next_n;
        talk.outbox.push_back(n);
        body::write(self.device, n, self.body_bytes, &mut self.scratch);
        let hash = body::hash(&self.scratch);
        if self.ready && talk.resend_at_ns.is_none() {
            encode_send(conversation, n, talk.owner_epoch, &self.scratch, out);
        }
        (n, hash)
    }

    /// A visitor ends its conversation. Call it last: the key it uses is not in the ledger.
    pub fn resolve(&mut self, conversation: u64, out: &mut Vec<u8>) {
        let talk = self.talks.get_mut(&conversation).expect("a client resolves where it was let in");
        talk.next_n += 1;
        let (n, owner_epoch) = (talk.next_n, talk.owner_epoch);
        self.resolving.insert(conversation, n);
        if self.ready {
            ClientMessage::Resolve { conversation, n, owner_epoch }.encode(0, TAG_RESOLVE, out);
        }
    }

    /// Asks for the oldest items after `after`.
    pub fn history(&mut self, conversation: u64, after: u64, out: &mut Vec<u8>) {
        ClientMessage::History { conversation, before: 0, after, limit: PAGE_ITEMS }.encode(
            0,
            TAG_HISTORY,
            out,
        );
    }

    /// A sign of life.
    pub fn ping(&mut self, nonce: u64, out: &mut Vec<u8>) {
        ClientMessage::Ping { nonce }.encode(0, 0, out);
    }

    /// The connection is gone; what is not acknowledged waits for the next WELCOME.
    pub fn disconnected(&mut self) {
        self.ready = false;
    }

    /// Earliest time at which [`Client::tick`] has something to send again.
    pub fn resend_at_ns(&self) -> Option<u64> {
        self.talks.values().filter_map(|talk| talk.resend_at_ns).chain(self.ask_again_at_ns).min()
    }

    /// Sends again what was refused for now and is due.
    pub fn tick(&mut self, now_ns: u64, out: &mut Vec<u8>) {
        if !self.ready {
            return;
        }
        if self.ask_again_at_ns.is_some_and(|at| at <= now_ns) {
            self.ask_again(out);
        }
        for (conversation, talk) in &mut self.talks {
            if talk.resend_at_ns.is_some_and(|at| at <= now_ns) {
                talk.resend_at_ns = None;
                for n in &talk.outbox {
                    body::write(self.device, *n, self.body_bytes, &mut self.scratch);
                    encode_send(*conversation, *n, talk.owner_epoch, &self.scratch, out);
                }
            }
        }
    }

    /// Takes one frame of the server. Frames it calls for go to `out`, what it means to `events`.
    pub fn take(
        &mut self,
        now_ns: u64,
        header: Header,
        bytes: &[u8],
        events: &mut Vec<Event>,
        out: &mut Vec<u8>,
    ) {
        let message = match ServerMessage::decode(header.kind, bytes) {
            Ok(message) => message,
            Err(error) => return events.push(Event::Fault(format!("unreadable frame: {error}"))),
        };
        match message {
            ServerMessage::Welcome { epoch, heartbeat_s, .. } => {
                if self.epoch != 0 && self.epoch != epoch {
                    events.push(Event::Fault("the server declared a loss: the log epoch changed".into()));
                }
                self.epoch = epoch;
                self.ready = true;
                self.resend_all(out);
                events.push(Event::Welcome { epoch, heartbeat_s });
            }
            ServerMessage::Ack { conversation, seq, n, .. } => {
                self.take_ack(header.tag, conversation, seq, n, events);
            }
            ServerMessage::Deliver { .. } | ServerMessage::State { .. } => self.take_item(&message, events),
            ServerMessage::Assigned { conversation, owner_epoch, seq, .. } => {
                let talk =
                    self.talks.entry(conversation).or_insert_with(|| Talk { cursor: seq, ..Talk::default() });
                talk.owner_epoch = talk.owner_epoch.max(owner_epoch);
                events.push(Event::Assigned { conversation, seq });
            }
            ServerMessage::Page { conversation, more, items, .. } => {
                let all: Option<Vec<Seen>> =
                    items.iter().map(|item| seen(&item.ok()?.1).map(|(_, item)| item)).collect();
                match all {
                    Some(items) => events.push(Event::Page { conversation, items, more }),
                    None => events.push(Event::Fault("a page holds something that is no item".into())),
                }
            }
            ServerMessage::Gap { conversation, from, to } => {
                events.push(Event::Fault(format!("GAP {from}..={to} in {conversation:016x}")));
            }
            ServerMessage::Reject { code, conversation, retry_after_ms, detail, .. } => {
                self.take_reject(now_ns, header.tag, code, conversation, retry_after_ms, detail, events);
            }
            ServerMessage::Goodbye { code, .. } => {
                self.ready = false;
                events.push(Event::Goodbye(code.name().into()));
            }
            ServerMessage::Receipt { .. }
            | ServerMessage::Typing { .. }
            | ServerMessage::Pong { .. }
            | ServerMessage::Queue { .. } => {}
        }
    }

    /// After WELCOME: everything without an answer, with the keys it had.
    fn resend_all(&mut self, out: &mut Vec<u8>) {
        // An agent is offline on a new connection until it has said otherwise.
        if let Some((.., acked)) = &mut self.presence {
            *acked = false;
        }
        self.ask_again_at_ns = Some(0);
        for talk in self.talks.values_mut() {
            talk.resend_at_ns = Some(0);
        }
        self.tick(0, out);
    }

    /// OPEN, PRESENCE and RESOLVE as far as they have no ACK.
    fn ask_again(&mut self, out: &mut Vec<u8>) {
        self.ask_again_at_ns = None;
        if self.opened == Some(false) {
            ClientMessage::Open { n: 1, topic: "" }.encode(0, TAG_OPEN, out);
        }
        if let Some((n, availability, capacity, false)) = self.presence {
            ClientMessage::Presence { n, availability, capacity }.encode(0, TAG_PRESENCE, out);
        }
        for (conversation, n) in &self.resolving {
            let owner_epoch = self.talks.get(conversation).map_or(0, |talk| talk.owner_epoch);
            ClientMessage::Resolve { conversation: *conversation, n: *n, owner_epoch }.encode(
                0,
                TAG_RESOLVE,
                out,
            );
        }
    }

    fn take_ack(&mut self, tag: u32, conversation: u64, seq: u64, n: u64, events: &mut Vec<Event>) {
        match tag & TAG_KIND {
            TAG_OPEN => {
                self.opened = Some(true);
                self.talks.entry(conversation).or_insert_with(|| Talk { cursor: seq, ..Talk::default() });
                events.push(Event::Opened { conversation, seq });
            }
            TAG_PRESENCE => {
                let mine = self.presence.as_mut().filter(|(mine, .., acked)| *mine == n && !acked);
                if let Some((.., acked)) = mine {
                    *acked = true;
                    events.push(Event::Present);
                }
            }
            TAG_RESOLVE => {
                if self.resolving.remove(&conversation).is_some() {
                    events.push(Event::Resolved { conversation });
                }
            }
            0 => {
                let Some(talk) = self.talks.get_mut(&conversation) else {
                    return events.push(Event::Fault("an ACK named a conversation of somebody else".into()));
                };
                // ACKs of one device come in order; a search keeps the check independent of that.
                if let Ok(at) = talk.outbox.binary_search(&n) {
                    talk.outbox.remove(at);
                }
                events.push(Event::Acked { conversation, n, seq });
            }
            _ => events.push(Event::Fault(format!("an ACK with tag {tag:#x}, which asked for none"))),
        }
    }

    fn take_item(&mut self, message: &ServerMessage<'_>, events: &mut Vec<Event>) {
        let (conversation, seen) = seen(message).expect("the caller passes DELIVER and STATE only");
        let Some(talk) = self.talks.get_mut(&conversation) else {
            return events.push(Event::Fault("an item of a conversation this client is not part of".into()));
        };
        if let ServerMessage::State { owner_epoch, .. } = message {
            talk.owner_epoch = talk.owner_epoch.max(*owner_epoch);
        }
        let repeat = !talk.learn(seen.seq);
        events.push(Event::Item { conversation, seen, own: seen.device == self.device, repeat });
    }

    #[allow(clippy::too_many_arguments, reason = "the fields of one REJECT, taken apart where it is matched")]
    fn take_reject(
        &mut self,
        now_ns: u64,
        tag: u32,
        code: Code,
        conversation: u64,
        retry_after_ms: u32,
        detail: u64,
        events: &mut Vec<Event>,
    ) {
        let wait_ms = if retry_after_ms == 0 { RETRY_MS } else { retry_after_ms };
        let again_ns = now_ns + u64::from(wait_ms) * 1_000_000;
        match (tag & TAG_KIND, code) {
            (TAG_HISTORY, Code::Busy) => {
                events.push(Event::HistoryBusy { conversation, retry_after_ms: wait_ms });
            }
            (0, Code::Busy | Code::OutOfOrder) => {
                let Some(talk) = self.talks.get_mut(&conversation) else {
                    return events.push(Event::Fault("a refusal named somebody else's conversation".into()));
                };
                if talk.resend_at_ns.is_some() {
                    // Pipelined behind a refused message and therefore out of order: one refusal, told once.
                    return;
                }
                talk.resend_at_ns = Some(again_ns);
                events.push(match code {
                    Code::Busy => Event::Busy,
                    _ => Event::Fault("refused: OUT_OF_ORDER, and nothing before it was".into()),
                });
            }
            (TAG_OPEN | TAG_PRESENCE | TAG_RESOLVE, Code::Busy) => {
                self.ask_again_at_ns = Some(again_ns);
                events.push(Event::Busy);
            }
            _ => events.push(Event::Fault(format!("refused: {} (detail {detail})", code.name()))),
        }
    }
}

fn encode_send(conversation: u64, n: u64, owner_epoch: u32, text: &[u8], out: &mut Vec<u8>) {
    let tag = n as u32 & !TAG_KIND;
    ClientMessage::Send { conversation, n, owner_epoch, content: Content::Text, body: text }
        .encode(0, tag, out);
}

/// The ledger's form of a DELIVER or STATE; `None` for anything else.
fn seen(message: &ServerMessage<'_>) -> Option<(u64, Seen)> {
    match *message {
        ServerMessage::Deliver { conversation, seq, device, n, body: text, .. } => {
            Some((conversation, Seen { seq, device, n, hash: body::hash(text) }))
        }
        ServerMessage::State { conversation, seq, status, cause, by, agent, owner_epoch, .. } => {
            let mut fields = [0; 11];
            fields[..3].copy_from_slice(&[status.number(), cause.number(), by.number()]);
            fields[3..7].copy_from_slice(&agent.to_le_bytes());
            fields[7..].copy_from_slice(&owner_epoch.to_le_bytes());
            Some((conversation, Seen { seq, device: 0, n: 0, hash: body::hash(&fields) }))
        }
        _ => None,
    }
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;
