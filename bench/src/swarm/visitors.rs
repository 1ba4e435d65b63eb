//! Visitors by the hundred thousand: what each remembers, 40 bytes, and what it does with a frame.
//!
//! Order of a visitor's life: HELLO on every connection (with its cursor once it has a conversation), OPEN after the
//! first WELCOME, SEND when [`Visitors::say`] is told to; after a reconnect what has no ACK is sent again with the same
//! n (C4). Ownership: this is the ledger too. A visitor without an agent is the only author of its conversation, so
//! every item is either its own next message or a change of state, and the seqs are dense: a hole is a loss (C5).

use std::collections::BTreeMap;
use std::ops::Range;

use ringdesk_protocol::{ClientMessage, Code, Content, Cursor, Frame, Role, ServerMessage};

use super::tickets::Tickets;
use super::{Crowd, Reply};
use crate::body;
use crate::report::Latency;

/// Tag of OPEN; SENDs carry their n, which stays below.
const TAG_OPEN: u32 = 1 << 31;
/// When a refusal names no time, or a dial failed, wait this long, and up to as much again.
const RETRY_MS: u32 = 100;

/// Where a visitor stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// Not connected.
    Away,
    /// HELLO is out.
    Greeting,
    /// Greeted, without a conversation; OPEN waits for [`Visitors::open`].
    Greeted,
    /// OPEN is out, or refused for now.
    Opening,
    /// Greeted, with a conversation.
    Ready,
}

/// One visitor.
#[derive(Clone, Copy, Debug)]
struct Visitor {
    conversation: u64,
    /// When the newest message was meant to start.
    said_ns: u64,
    /// The newest message's n, the newest acknowledged one, the newest delivered one.
    said: u32,
    acked: u32,
    shown: u32,
    /// Every item up to here was delivered.
    cursor: u32,
    /// Highest seq an ACK named.
    top: u32,
    phase: Phase,
    /// A connection of this visitor has ended.
    broken: bool,
}

impl Visitor {
    const NEW: Self = Self {
        conversation: 0,
        said_ns: 0,
        said: 0,
        acked: 0,
        shown: 0,
        cursor: 0,
        top: 0,
        phase: Phase::Away,
        broken: false,
    };

    /// Nothing is owed: everything said is acknowledged and delivered, and everything acknowledged was shown.
    fn is_caught_up(&self) -> bool {
        self.phase == Phase::Ready
            && self.acked == self.said
            && self.shown == self.said
            && self.cursor >= self.top
    }
}

/// Figures of what the visitors saw.
#[derive(Default, Debug)]
pub struct Seen {
    /// Items whose seq had been shown before on this or an earlier connection.
    pub repeated: u64,
    /// Items missing between two that were shown.
    pub lost: u64,
    /// Own messages shown out of order, twice or altered.
    pub wrong: u64,
    /// Refusals for now; each was tried again when it said.
    pub busy: u64,
    /// Everything else that should not have happened.
    pub faults: BTreeMap<String, u64>,
}

impl Seen {
    fn fault(&mut self, what: String) {
        *self.faults.entry(what).or_default() += 1;
    }

    /// What went wrong, as a number.
    pub fn errors(&self) -> u64 {
        self.lost + self.wrong + self.faults.values().sum::<u64>()
    }
}

/// All visitors of a swarm.
pub struct Visitors {
    all: Vec<Visitor>,
    tickets: Tickets,
    device_base: u64,
    body_bytes: usize,
    epoch: u32,
    scratch: Vec<u8>,
    expected: Vec<u8>,
    goodbyes: BTreeMap<u32, u64>,
    /// Whether OPEN follows the first WELCOME by itself.
    pub opening: bool,
    /// Visitors that are connected and greeted.
    pub greeted: u32,
    /// Of these, with a conversation.
    pub ready: u32,
    /// Visitors that are owed nothing.
    pub caught_up: u32,
    /// ACKs so far.
    pub acks: u64,
    /// Connections that ended so far.
    pub ended: u64,
    /// Visitors with a connection among these.
    pub broken: u32,
    /// WELCOMEs of visitors that had one before.
    pub returned: u64,
    /// Whether a lost connection is dialled again.
    pub returning: bool,
    /// Connections end on purpose: no fault.
    pub outage: bool,
    /// After an ACK the next message is said at once, while the time lies in here.
    pub talking: Range<u64>,
    /// Messages said in here are measured,
    pub window: Range<u64>,
    /// if said by one of these.
    pub measured: Range<u32>,
    /// Whose bodies have how many bytes instead of the usual.
    pub loud: (Range<u32>, usize),
    /// From start to ACK of measured messages.
    pub ack: Latency,
    /// ACKs that came within the window.
    pub window_acks: u64,
    /// What they saw.
    pub seen: Seen,
}

impl Visitors {
    /// One visitor per ticket; device ids count up from `device_base` (not 0).
    pub fn new(tickets: Tickets, device_base: u64, body_bytes: usize) -> Self {
        assert!(device_base != 0, "0 is no device");
        Self {
            all: vec![Visitor::NEW; tickets.len()],
            tickets,
            device_base,
            body_bytes,
            epoch: 0,
            scratch: Vec::new(),
            expected: Vec::new(),
            goodbyes: BTreeMap::new(),
            opening: true,
            greeted: 0,
            ready: 0,
            caught_up: 0,
            acks: 0,
            ended: 0,
            broken: 0,
            returned: 0,
            returning: true,
            outage: false,
            talking: 0..0,
            window: 0..0,
            measured: 0..u32::MAX,
            loud: (0..0, 0),
            ack: Latency::new(),
            window_acks: 0,
            seen: Seen::default(),
        }
    }

    /// How many there are.
    pub fn len(&self) -> u32 {
        self.all.len() as u32
    }

    /// Highest seq that was acknowledged to a visitor and its cursor: equal when nothing is missing.
    pub fn standing(&self, who: u32) -> (u32, u32) {
        let visitor = &self.all[who as usize];
        (visitor.top, visitor.cursor)
    }

    /// Sends OPEN for a visitor that was greeted and has no conversation.
    pub fn open(&mut self, who: u32, reply: &mut Reply) {
        let visitor = &mut self.all[who as usize];
        if visitor.phase == Phase::Greeted {
            visitor.phase = Phase::Opening;
            ClientMessage::Open { n: 1, topic: "" }.encode(0, TAG_OPEN, &mut reply.frames);
        }
    }

    /// Writes the next message of a visitor that is ready and waits for no ACK; false otherwise.
    pub fn say(&mut self, who: u32, at_ns: u64, reply: &mut Reply) -> bool {
        let visitor = &mut self.all[who as usize];
        if visitor.phase != Phase::Ready || visitor.acked != visitor.said {
            return false;
        }
        self.caught_up -= u32::from(visitor.is_caught_up());
        visitor.said += 1;
        visitor.said_ns = at_ns;
        self.write(who, &mut reply.frames);
        true
    }

    /// The newest message, for the first time or again.
    fn write(&mut self, who: u32, out: &mut Vec<u8>) {
        let bytes = self.body_bytes_of(who);
        let visitor = &self.all[who as usize];
        let n = u64::from(visitor.said);
        body::write(self.device_base + u64::from(who), n, bytes, &mut self.scratch);
        let (conversation, body) = (visitor.conversation, &self.scratch);
        ClientMessage::Send { conversation, n, owner_epoch: 0, content: Content::Text, body }.encode(
            0,
            visitor.said,
            out,
        );
    }

    fn body_bytes_of(&self, who: u32) -> usize {
        if self.loud.0.contains(&who) { self.loud.1 } else { self.body_bytes }
    }

    fn hello(&self, who: u32, out: &mut Vec<u8>) {
        let visitor = &self.all[who as usize];
        let cursor = Cursor::new(visitor.conversation, self.epoch, u64::from(visitor.cursor));
        let cursors = if visitor.conversation == 0 { &[][..] } else { std::slice::from_ref(&cursor) };
        let version = ringdesk_protocol::limits::VERSION;
        ClientMessage::Hello {
            version_min: version,
            version_max: version,
            role: Role::Visitor,
            device: self.device_base + u64::from(who),
            ticket: self.tickets.get(who as usize),
            cursors,
        }
        .encode(0, 0, out);
    }

    /// Runs `act` on a visitor and keeps the counts of those ready and caught up.
    fn counted<R>(&mut self, who: u32, act: impl FnOnce(&mut Self) -> R) -> R {
        let standing = |all: &Self| {
            let visitor = &all.all[who as usize];
            let greeted = !matches!(visitor.phase, Phase::Away | Phase::Greeting);
            [greeted, visitor.phase == Phase::Ready, visitor.is_caught_up()].map(u32::from)
        };
        let before = standing(self);
        let result = act(self);
        let after = standing(self);
        self.greeted = self.greeted - before[0] + after[0];
        self.ready = self.ready - before[1] + after[1];
        self.caught_up = self.caught_up - before[2] + after[2];
        result
    }

    fn take(&mut self, who: u32, now_ns: u64, tag: u32, message: &ServerMessage<'_>, reply: &mut Reply) {
        match *message {
            ServerMessage::Welcome { epoch, .. } => self.welcome(who, epoch, reply),
            ServerMessage::Ack { conversation, seq, n, .. } if tag & TAG_OPEN != 0 => {
                let visitor = &mut self.all[who as usize];
                if n != 1 || seq > u64::from(u32::MAX) {
                    return self.seen.fault("an OPEN got another one's ACK".into());
                }
                (visitor.conversation, visitor.phase) = (conversation, Phase::Ready);
                visitor.cursor = seq as u32;
                reply.settled = true;
            }
            ServerMessage::Ack { conversation, seq, n, .. } => {
                self.acked(who, now_ns, (conversation, seq, n), reply)
            }
            ServerMessage::Deliver { seq, device, n, body, .. } => {
                let new = self.item(who, seq);
                if new {
                    self.own(who, device, n, body);
                }
            }
            ServerMessage::State { seq, .. } => {
                self.item(who, seq);
            }
            ServerMessage::Gap { from, to, .. } => self.seen.fault(format!("GAP {from}..={to}")),
            ServerMessage::Reject { code: Code::Busy, retry_after_ms, .. } => {
                self.seen.busy += 1;
                reply.again_ns = Some(now_ns + wait_ns(who, retry_after_ms));
                reply.settled = true;
            }
            ServerMessage::Reject { code, detail, .. } => {
                self.seen.fault(format!("refused: {} (detail {detail})", code.name()));
            }
            ServerMessage::Goodbye { code, retry_after_ms, .. } => {
                match code {
                    Code::Busy => self.seen.busy += 1,
                    _ if self.outage => {}
                    _ => self.seen.fault(format!("goodbye: {}", code.name())),
                }
                self.goodbyes.insert(who, now_ns + wait_ns(who, retry_after_ms));
                reply.leave = true;
            }
            _ => {}
        }
    }

    fn welcome(&mut self, who: u32, epoch: u32, reply: &mut Reply) {
        if self.epoch != 0 && self.epoch != epoch {
            self.seen.fault("the server declared a loss: the log epoch changed".into());
        }
        self.epoch = epoch;
        let opening = self.opening;
        let visitor = &mut self.all[who as usize];
        if visitor.conversation == 0 {
            visitor.phase = Phase::Greeted;
            reply.settled = !opening;
            if opening {
                self.open(who, reply);
            }
            return;
        }
        visitor.phase = Phase::Ready;
        self.returned += 1;
        reply.settled = true;
        if visitor.acked != visitor.said {
            self.write(who, &mut reply.frames);
        }
    }

    fn acked(&mut self, who: u32, now_ns: u64, (conversation, seq, n): (u64, u64, u64), reply: &mut Reply) {
        let visitor = &mut self.all[who as usize];
        if conversation != visitor.conversation || n != u64::from(visitor.said) {
            return self.seen.fault("an ACK for what this visitor did not just send".into());
        }
        if visitor.acked == visitor.said {
            return self.seen.fault("an ACK came twice".into());
        }
        visitor.acked = visitor.said;
        visitor.top = visitor.top.max(seq as u32);
        self.acks += 1;
        if self.window.contains(&visitor.said_ns) && self.measured.contains(&who) {
            self.ack.record_ns(now_ns.saturating_sub(visitor.said_ns));
        }
        self.window_acks += u64::from(self.window.contains(&now_ns));
        if self.talking.contains(&now_ns) {
            visitor.said += 1;
            visitor.said_ns = now_ns;
            self.write(who, &mut reply.frames);
        }
    }

    /// Moves the cursor; false for an item that was shown before.
    fn item(&mut self, who: u32, seq: u64) -> bool {
        let visitor = &mut self.all[who as usize];
        let next = u64::from(visitor.cursor) + 1;
        if seq < next {
            self.seen.repeated += 1;
            return false;
        }
        self.seen.lost += seq - next;
        visitor.cursor = seq as u32;
        true
    }

    /// A DELIVER in a conversation without an agent: the visitor's own next message, as it sent it.
    fn own(&mut self, who: u32, device: u64, n: u64, text: &[u8]) {
        if device != self.device_base + u64::from(who) {
            return;
        }
        let bytes = self.body_bytes_of(who);
        let visitor = &mut self.all[who as usize];
        body::write(device, n, bytes, &mut self.expected);
        self.seen.wrong += u64::from(n != u64::from(visitor.shown) + 1 || self.expected != text);
        visitor.shown = visitor.shown.max(n as u32);
    }
}

impl Crowd for Visitors {
    fn connected(&mut self, who: u32, _now_ns: u64, reply: &mut Reply) {
        self.counted(who, |all| {
            all.all[who as usize].phase = Phase::Greeting;
            all.hello(who, &mut reply.frames);
        });
    }

    fn frame(&mut self, who: u32, now_ns: u64, frame: Frame<'_>, reply: &mut Reply) {
        match ServerMessage::decode(frame.header.kind, frame.body) {
            Ok(message) => self.counted(who, |all| all.take(who, now_ns, frame.header.tag, &message, reply)),
            Err(error) => self.seen.fault(format!("unreadable frame: {error}")),
        }
    }

    fn again(&mut self, who: u32, _now_ns: u64, reply: &mut Reply) {
        let visitor = &self.all[who as usize];
        match visitor.phase {
            Phase::Opening => ClientMessage::Open { n: 1, topic: "" }.encode(0, TAG_OPEN, &mut reply.frames),
            Phase::Ready if visitor.acked != visitor.said => self.write(who, &mut reply.frames),
            _ => {}
        }
    }

    fn gone(&mut self, who: u32, now_ns: u64, errno: i32) -> Option<u64> {
        self.ended += 1;
        self.broken += u32::from(!std::mem::replace(&mut self.all[who as usize].broken, true));
        self.counted(who, |all| all.all[who as usize].phase = Phase::Away);
        let goodbye = self.goodbyes.remove(&who);
        if goodbye.is_none() && !self.outage {
            self.seen.fault(match errno {
                0 => "the server closed a connection".into(),
                _ => format!("a connection failed: {}", std::io::Error::from_raw_os_error(errno)),
            });
        }
        self.returning.then(|| goodbye.unwrap_or(now_ns + wait_ns(who, RETRY_MS)))
    }
}

/// A pause of `ms` milliseconds and up to as much again, spread by who waits, so that all do not come at once.
fn wait_ns(who: u32, ms: u32) -> u64 {
    let ms = u64::from(if ms == 0 { RETRY_MS } else { ms });
    let spread = u64::from(who.wrapping_mul(0x9E37_79B9) >> 16);
    ms * 1_000_000 + ms * 1_000_000 * spread / 65_536
}
