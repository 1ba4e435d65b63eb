//! Visitors behind a gateway: one connection, a channel each, one message of each in flight.
//!
//! Order: HELLO with the gateway's ticket, BIND per visitor, OPEN on its channel, then messages. Whoever has its ACK
//! and its own DELIVER is idle again, and the longest idle one speaks next. Ownership: as with
//! [`super::visitors`], this is the ledger too: every item of a conversation is its visitor's own next message or a change
//! of state, so a hole is a loss.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

use ringdesk_protocol::{ClientMessage, Code, Content, Frame, Role, ServerMessage};

use super::Reply;
use crate::body;
use crate::report::Latency;

const TAG_BIND: u32 = 1;
const TAG_OPEN: u32 = 2;
const TAG_SEND: u32 = 3;
/// BINDs without an answer at most.
const BINDING_MAX: u32 = 256;
/// When a refusal names no time, wait this long.
const RETRY_MS: u32 = 20;
/// Every body is looked at as far as its length, one in this many byte by byte: the load shares the machine.
const COMPARE_EVERY: u64 = 16;

/// One visitor; its channel is its number plus one.
#[derive(Clone, Copy, Default, Debug)]
struct Bound {
    conversation: u64,
    start_ns: u64,
    said: u32,
    cursor: u32,
    acked: bool,
    shown: bool,
}

/// All visitors of one gateway connection.
pub struct BoundVisitors {
    ticket: String,
    device_base: u64,
    body_bytes: usize,
    all: Vec<Bound>,
    idle: VecDeque<u32>,
    /// Refused for now: when, who, and whether it is a BIND, an OPEN or a SEND.
    retries: VecDeque<(u64, u32, u32)>,
    next_bind: u32,
    scratch: Vec<u8>,
    /// Whether the gateway was greeted.
    pub greeted: bool,
    /// Visitors with a channel and a conversation.
    pub opened: u32,
    /// Messages with ACK and DELIVER.
    pub completed: u64,
    /// Messages without ACK and DELIVER.
    pub in_flight: u32,
    /// An idle visitor speaks as soon as there is one, while fewer than `closed_window` are in flight and the time
    /// lies in `talking`.
    pub closed_window: u32,
    /// See `closed_window`.
    pub talking: Range<u64>,
    /// Messages that started in here are measured.
    pub window: Range<u64>,
    /// From start to ACK.
    pub ack: Latency,
    /// From start to the DELIVER.
    pub deliver: Latency,
    /// ACKs that came within the window.
    pub window_acks: u64,
    /// Messages that started within the window.
    pub offered: u64,
    /// Items missing, items twice, items out of order.
    pub lost: u64,
    /// See `lost`.
    pub repeated: u64,
    /// Refusals for now, each tried again.
    pub busy: u64,
    /// What should not have happened.
    pub faults: BTreeMap<String, u64>,
}

impl BoundVisitors {
    /// `count` visitors behind the gateway of this ticket; device ids count up from `device_base`.
    pub fn new(ticket: String, count: u32, device_base: u64, body_bytes: usize) -> Self {
        Self {
            ticket,
            device_base,
            body_bytes,
            all: vec![Bound::default(); count as usize],
            idle: VecDeque::new(),
            retries: VecDeque::new(),
            next_bind: 0,
            scratch: Vec::new(),
            greeted: false,
            opened: 0,
            completed: 0,
            in_flight: 0,
            closed_window: 0,
            talking: 0..0,
            window: 0..0,
            ack: Latency::new(),
            deliver: Latency::new(),
            window_acks: 0,
            offered: 0,
            lost: 0,
            repeated: 0,
            busy: 0,
            faults: BTreeMap::new(),
        }
    }

    /// How many there are.
    pub fn len(&self) -> u32 {
        self.all.len() as u32
    }

    /// Begins a measurement over `window`.
    pub fn measure(&mut self, window: Range<u64>) {
        self.window = window;
        (self.ack, self.deliver) = (Latency::new(), Latency::new());
        (self.window_acks, self.offered) = (0, 0);
    }

    /// The gateway's connection stands.
    pub fn connected(&mut self, reply: &mut Reply) {
        let version = ringdesk_protocol::limits::VERSION;
        ClientMessage::Hello {
            version_min: version,
            version_max: version,
            role: Role::Gateway,
            device: self.device_base - 1,
            ticket: &self.ticket,
            cursors: &[],
        }
        .encode(0, 0, &mut reply.frames);
    }

    /// The longest idle visitor says its next message, meant to start at `start_ns`; false when nobody is idle.
    pub fn say(&mut self, start_ns: u64, reply: &mut Reply) -> bool {
        let Some(who) = self.idle.pop_front() else { return false };
        let visitor = &mut self.all[who as usize];
        visitor.said += 1;
        (visitor.start_ns, visitor.acked, visitor.shown) = (start_ns, false, false);
        self.in_flight += 1;
        self.offered += u64::from(self.window.contains(&start_ns));
        self.send(who, &mut reply.frames);
        true
    }

    /// Speaks for as many as the closed loop has room for, and tries again what was refused and is due.
    pub fn carry_on(&mut self, now_ns: u64, reply: &mut Reply) {
        while let Some(&(at, who, tag)) = self.retries.front()
            && at <= now_ns
        {
            self.retries.pop_front();
            match tag {
                TAG_BIND => self.bind(who, &mut reply.frames),
                TAG_OPEN => self.open(who, &mut reply.frames),
                _ => self.send(who, &mut reply.frames),
            }
        }
        while self.in_flight < self.closed_window && self.talking.contains(&now_ns) && self.say(now_ns, reply)
        {
        }
    }

    /// When [`BoundVisitors::carry_on`] has something to try again.
    pub fn retry_ns(&self) -> u64 {
        self.retries.front().map_or(u64::MAX, |(at, ..)| *at)
    }

    fn bind(&self, who: u32, out: &mut Vec<u8>) {
        let device = self.device_base + u64::from(who);
        let visitor = format!("b-{device:x}");
        ClientMessage::Bind { channel: who + 1, device, visitor: &visitor, cursors: &[] }
            .encode(0, TAG_BIND, out);
    }

    fn open(&self, who: u32, out: &mut Vec<u8>) {
        ClientMessage::Open { n: 1, topic: "" }.encode(who + 1, TAG_OPEN, out);
    }

    fn send(&mut self, who: u32, out: &mut Vec<u8>) {
        let visitor = &self.all[who as usize];
        let (conversation, n) = (visitor.conversation, u64::from(visitor.said));
        body::write(self.device_base + u64::from(who), n, self.body_bytes, &mut self.scratch);
        let body = &self.scratch;
        ClientMessage::Send { conversation, n, owner_epoch: 0, content: Content::Text, body }.encode(
            who + 1,
            TAG_SEND,
            out,
        );
    }

    /// A frame for the gateway or one of its visitors.
    pub fn frame(&mut self, now_ns: u64, frame: Frame<'_>, reply: &mut Reply) {
        let (channel, tag) = (frame.header.channel, frame.header.tag);
        let message = match ServerMessage::decode(frame.header.kind, frame.body) {
            Ok(message) => message,
            Err(error) => return self.fault(format!("unreadable frame: {error}")),
        };
        if channel == 0 {
            return self.own_frame(now_ns, tag, &message, reply);
        }
        let who = channel - 1;
        if who >= self.len() {
            return self.fault("a frame on a channel that nobody bound".into());
        }
        match message {
            ServerMessage::Welcome { .. } => {
                self.open(who, &mut reply.frames);
                self.bind_next(reply);
            }
            ServerMessage::Ack { conversation, seq, .. } if tag == TAG_OPEN => {
                let visitor = &mut self.all[who as usize];
                (visitor.conversation, visitor.cursor) = (conversation, seq as u32);
                self.opened += 1;
                self.idle.push_back(who);
            }
            ServerMessage::Ack { n, .. } => self.acked(who, now_ns, n),
            ServerMessage::Deliver { seq, n, device, body, .. } => {
                let mine = device == self.device_base + u64::from(who);
                let new = self.item(who, seq);
                if mine && new {
                    self.shown(who, now_ns, n, body);
                }
            }
            ServerMessage::State { seq, .. } => {
                self.item(who, seq);
            }
            ServerMessage::Reject { code: Code::Busy, retry_after_ms, .. } => {
                self.refused(now_ns, who, tag, retry_after_ms);
            }
            ServerMessage::Reject { code, .. } => self.fault(format!("refused: {}", code.name())),
            ServerMessage::Goodbye { code, .. } => {
                self.fault(format!("goodbye to a channel: {}", code.name()))
            }
            _ => {}
        }
        self.carry_on(now_ns, reply);
    }

    fn own_frame(&mut self, now_ns: u64, tag: u32, message: &ServerMessage<'_>, reply: &mut Reply) {
        match message {
            ServerMessage::Welcome { .. } => {
                self.greeted = true;
                reply.settled = true;
                for _ in 0..BINDING_MAX {
                    self.bind_next(reply);
                }
            }
            // BINDs are answered in order of their channels only when none is refused: try the next ones again.
            ServerMessage::Reject { code: Code::Busy, retry_after_ms, .. } if tag == TAG_BIND => {
                self.next_bind -= 1;
                self.refused(now_ns, self.next_bind, tag, *retry_after_ms);
            }
            ServerMessage::Reject { code, .. } => {
                self.fault(format!("the gateway was refused: {}", code.name()))
            }
            ServerMessage::Goodbye { code, .. } => self.fault(format!("goodbye: {}", code.name())),
            _ => {}
        }
    }

    fn bind_next(&mut self, reply: &mut Reply) {
        if self.next_bind < self.len() {
            self.bind(self.next_bind, &mut reply.frames);
            self.next_bind += 1;
        }
    }

    fn refused(&mut self, now_ns: u64, who: u32, tag: u32, retry_after_ms: u32) {
        self.busy += 1;
        let ms = if retry_after_ms == 0 { RETRY_MS } else { retry_after_ms };
        self.retries.push_back((now_ns + u64::from(ms) * 1_000_000, who, tag));
    }

    fn acked(&mut self, who: u32, now_ns: u64, n: u64) {
        let visitor = &mut self.all[who as usize];
        if n != u64::from(visitor.said) || visitor.acked {
            return self.fault("an ACK for what this visitor did not just send".into());
        }
        visitor.acked = true;
        if self.window.contains(&visitor.start_ns) {
            self.ack.record_ns(now_ns.saturating_sub(visitor.start_ns));
        }
        self.window_acks += u64::from(self.window.contains(&now_ns));
        self.rest(who);
    }

    fn shown(&mut self, who: u32, now_ns: u64, n: u64, text: &[u8]) {
        let visitor = &mut self.all[who as usize];
        let mut good = n == u64::from(visitor.said) && !visitor.shown && text.len() == self.body_bytes;
        visitor.shown = true;
        let start_ns = visitor.start_ns;
        if good && n.is_multiple_of(COMPARE_EVERY) {
            body::write(self.device_base + u64::from(who), n, self.body_bytes, &mut self.scratch);
            good = self.scratch == text;
        }
        if !good {
            return self.fault("a message was shown altered or out of order".into());
        }
        if self.window.contains(&start_ns) {
            self.deliver.record_ns(now_ns.saturating_sub(start_ns));
        }
        self.rest(who);
    }

    /// A visitor with ACK and DELIVER may speak again.
    fn rest(&mut self, who: u32) {
        let visitor = &self.all[who as usize];
        if visitor.acked && visitor.shown {
            self.in_flight -= 1;
            self.completed += 1;
            self.idle.push_back(who);
        }
    }

    fn item(&mut self, who: u32, seq: u64) -> bool {
        let visitor = &mut self.all[who as usize];
        let next = u64::from(visitor.cursor) + 1;
        if seq < next {
            self.repeated += 1;
            return false;
        }
        self.lost += seq - next;
        visitor.cursor = seq as u32;
        true
    }

    fn fault(&mut self, what: String) {
        *self.faults.entry(what).or_default() += 1;
    }
}

#[cfg(test)]
mod tests {
    use ringdesk_protocol::Author;

    use super::*;

    /// What the gateway answers to a message on a channel: kinds and channels of its frames.
    fn take(
        bound: &mut BoundVisitors,
        channel: u32,
        tag: u32,
        message: &ServerMessage<'_>,
    ) -> Vec<(u8, u32)> {
        let (mut bytes, mut reply) = (Vec::new(), Reply::default());
        message.encode(channel, tag, &mut bytes);
        let frame = ringdesk_protocol::frame::decode(&bytes, 1 << 20).expect("in order").expect("whole");
        bound.frame(5_000, frame, &mut reply);
        let frames = ringdesk_protocol::frame::frames(&reply.frames, 1 << 20);
        frames.map(|frame| frame.expect("whole").header).map(|header| (header.kind, header.channel)).collect()
    }

    fn welcome() -> ServerMessage<'static> {
        let (version, epoch, session, at, heartbeat_s) = (1, 1, 1, 0, 25);
        let (frame_bytes_max, agent, identity, site) = (1 << 20, 0, "", "s");
        ServerMessage::Welcome {
            version,
            epoch,
            session,
            at,
            heartbeat_s,
            frame_bytes_max,
            agent,
            identity,
            site,
        }
    }

    fn ack(conversation: u64, seq: u64, n: u64) -> ServerMessage<'static> {
        ServerMessage::Ack { conversation, seq, n, duplicate: false }
    }

    #[test]
    fn visitors_are_bound_opened_and_take_turns() {
        let mut bound = BoundVisitors::new("t".into(), 2, 100, 40);
        (bound.closed_window, bound.talking, bound.window) = (1, 0..u64::MAX, 0..u64::MAX);
        assert_eq!(take(&mut bound, 0, 0, &welcome()), [(0x09, 0), (0x09, 0)], "a BIND for each");
        assert_eq!(take(&mut bound, 1, TAG_BIND, &welcome()), [(0x02, 1)], "OPEN on its channel");
        assert_eq!(take(&mut bound, 2, TAG_BIND, &welcome()), [(0x02, 2)]);
        assert_eq!(take(&mut bound, 2, TAG_OPEN, &ack(8, 0, 1)), [(0x03, 2)], "the first idle one speaks");
        assert_eq!(take(&mut bound, 1, TAG_OPEN, &ack(7, 0, 1)), [], "one in flight is the window");
        assert_eq!(take(&mut bound, 2, TAG_SEND, &ack(8, 1, 1)), [], "an ACK alone does not free a visitor");
        let mut text = Vec::new();
        body::write(101, 1, 40, &mut text);
        let deliver = |seq, n| ServerMessage::Deliver {
            conversation: 8,
            seq,
            at: 0,
            author: Author::Visitor,
            agent: 0,
            device: 101,
            n,
            content: Content::Text,
            body: &text,
        };
        assert_eq!(take(&mut bound, 2, 0, &deliver(1, 1)), [(0x03, 1)], "then the longest idle one");
        assert_eq!((bound.window_acks, bound.ack.count(), bound.deliver.count()), (1, 1, 1));
        take(&mut bound, 2, 0, &deliver(1, 1));
        take(&mut bound, 2, 0, &deliver(4, 2));
        assert_eq!((bound.repeated, bound.lost, bound.faults.len()), (1, 2, 1), "{:?}", bound.faults);
    }

    #[test]
    fn a_refusal_for_now_is_tried_again_when_it_is_due() {
        let mut bound = BoundVisitors::new("t".into(), 1, 100, 40);
        take(&mut bound, 0, 0, &welcome());
        let busy = ServerMessage::Reject {
            code: Code::Busy,
            of: 2,
            conversation: 0,
            retry_after_ms: 7,
            detail: 0,
            sentence: "",
        };
        assert_eq!(take(&mut bound, 1, TAG_OPEN, &busy), []);
        assert_eq!((bound.busy, bound.retry_ns()), (1, 7_005_000));
        let mut reply = Reply::default();
        bound.carry_on(7_004_999, &mut reply);
        assert!(reply.frames.is_empty());
        bound.carry_on(7_005_000, &mut reply);
        assert_eq!(reply.frames[4], 0x02, "OPEN again");
    }
}
