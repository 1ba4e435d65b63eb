//! One visitor on its channel: outbox, cursor, and the step it is at.

use std::collections::VecDeque;

use ringdesk_protocol::{Author, ClientMessage, Code, Content, Cursor, ServerMessage, Status};

use super::End;

/// Messages of one visitor without an ACK. Full: its next line is refused.
pub const OUTBOX_MAX: usize = 64;

/// Messages of one visitor sent ahead of their ACKs.
const WINDOW: usize = 8;

/// How long to wait when a refusal names no time.
const PAUSE_MS: u32 = 500;

/// How long to wait after a refusal that waiting does not change.
const REFUSED_MS: u32 = 30_000;

/// What a tag asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Asked {
    /// BIND.
    Bind,
    /// UNBIND.
    Unbind,
    /// OPEN.
    Open,
    /// SEND of this n, in this attempt.
    Send(u64, u32),
    /// RECEIPT.
    Receipt,
}

/// Something for the channel.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Item {
    /// The visitor's channel.
    pub channel: u32,
    /// The visitor.
    pub visitor: String,
    /// Place in the conversation; 0 for a notice of the gateway's own.
    pub seq: u64,
    /// `<author> <text>`; `None` if there is nothing to show.
    pub line: Option<String>,
}

/// A REJECT.
pub struct Refused<'a> {
    /// Why.
    pub code: Code,
    /// 0: not worth trying again as it is.
    pub retry_after_ms: u32,
    /// What it was about.
    pub conversation: u64,
    /// OUT_OF_ORDER: the n expected.
    pub detail: u64,
    /// For people.
    pub sentence: &'a str,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    Unbound,
    Binding,
    Bound,
    Opening,
    Unbinding,
}

/// See the module.
#[derive(Debug)]
pub struct Visitor {
    id: String,
    channel: u32,
    device: u64,
    step: Step,
    conversation: Option<u64>,
    /// n of the next OPEN that asks for another conversation.
    opens: u64,
    epoch: u32,
    /// Highest seq received on this connection, and highest seq the channel has.
    seen: u64,
    stored: u64,
    confirmed: u64,
    /// Messages without an ACK; the first one's n is `first_n`, the others follow without a gap.
    outbox: VecDeque<String>,
    first_n: u64,
    /// How many of them are on their way, and which attempt that is.
    sent: usize,
    attempt: u32,
    /// Set by a refusal; the gateway makes `resume_ms` of it.
    pub(super) pause_ms: Option<u64>,
    pub(super) resume_ms: u64,
}

impl Visitor {
    pub(super) fn new(id: &str, channel: u32, device: u64) -> Self {
        Self {
            id: id.to_owned(),
            channel,
            device,
            step: Step::Unbound,
            conversation: None,
            opens: 1,
            epoch: 0,
            seen: 0,
            stored: 0,
            confirmed: 0,
            outbox: VecDeque::new(),
            first_n: 1,
            sent: 0,
            attempt: 0,
            pause_ms: None,
            resume_ms: 0,
        }
    }

    pub(super) fn write(&mut self, text: &str) -> Option<()> {
        (self.outbox.len() < OUTBOX_MAX).then(|| self.outbox.push_back(text.to_owned()))
    }

    pub(super) fn disconnected(&mut self) {
        self.step = Step::Unbound;
        // What was received but not stored comes again.
        (self.seen, self.confirmed) = (self.stored, 0);
        self.resume_ms = 0;
        self.send_again();
    }

    /// Everything in the outbox is to be sent (again); refusals of earlier attempts no longer count.
    fn send_again(&mut self) {
        self.sent = 0;
        self.attempt = self.attempt.wrapping_add(1);
    }

    fn pause(&mut self, ms: u32) {
        self.pause_ms = Some(u64::from(if ms == 0 { PAUSE_MS } else { ms }));
    }

    pub(super) fn bound(&mut self, epoch: u32) {
        self.step = Step::Bound;
        if epoch != self.epoch {
            // A loss was declared: the conversation comes again from its start.
            (self.epoch, self.seen, self.stored, self.confirmed) = (epoch, 0, 0, 0);
        }
    }

    pub(super) fn acknowledged(&mut self, asked: Option<Asked>, conversation: u64, seq: u64, epoch: u32) {
        match asked {
            Some(Asked::Open) => {
                self.step = Step::Bound;
                self.conversation = Some(conversation);
                // What was said before this gateway knew the conversation is history; the rest is pushed.
                (self.epoch, self.seen, self.stored, self.confirmed) = (epoch, seq, seq, seq);
            }
            Some(Asked::Send(n, _)) => self.accepted_below(n + 1),
            Some(Asked::Unbind) => self.step = Step::Unbound,
            _ => {}
        }
    }

    /// The server has every message below this n.
    fn accepted_below(&mut self, n: u64) {
        let count = usize::try_from(n.saturating_sub(self.first_n)).unwrap_or(usize::MAX);
        let count = count.min(self.outbox.len());
        self.outbox.drain(..count);
        self.first_n += count as u64;
        self.sent = self.sent.saturating_sub(count);
    }

    /// Answers a REJECT; gives a line for the channel if a message is lost to it.
    pub(super) fn refused(&mut self, asked: Option<Asked>, refused: &Refused<'_>) -> Option<String> {
        let code = refused.code;
        if code == Code::NotFound && self.conversation == Some(refused.conversation) {
            // It is gone for us. The messages go into the next one, where n starts again.
            // The same n would give the same conversation.
            (self.conversation, self.opens, self.first_n) = (None, self.opens + 1, 1);
            self.send_again();
            return None;
        }
        match asked {
            Some(Asked::Send(_, attempt)) if attempt != self.attempt => None,
            Some(Asked::Send(n, _)) => self.send_refused(n, refused),
            Some(step @ (Asked::Bind | Asked::Open | Asked::Unbind)) => {
                self.step = if step == Asked::Open { Step::Bound } else { Step::Unbound };
                // What is refused for good may be allowed again by an operator, not by asking often.
                self.pause(if refused.retry_after_ms > 0 { refused.retry_after_ms } else { REFUSED_MS });
                None
            }
            Some(Asked::Receipt) if refused.retry_after_ms > 0 => {
                self.confirmed = 0;
                self.pause(refused.retry_after_ms);
                None
            }
            Some(Asked::Receipt) | None => None,
        }
    }

    fn send_refused(&mut self, n: u64, refused: &Refused<'_>) -> Option<String> {
        self.send_again();
        match refused.code {
            // The number is not used: from this one on again, later, unchanged.
            _ if refused.retry_after_ms > 0 => self.pause(refused.retry_after_ms),
            Code::Busy => self.pause(0),
            Code::OutOfOrder => {
                self.accepted_below(refused.detail);
                self.first_n = refused.detail;
                self.pause(0);
            }
            Code::DeviceExpired => self.device = 0,
            code => {
                self.accepted_below(n);
                self.outbox.pop_front();
                // Only a reused number is used up; any other goes to the next message.
                self.first_n += u64::from(code == Code::IdReused);
                return Some(format!("system not delivered: {}", refused.sentence));
            }
        }
        None
    }

    /// The device was retired: [`Self::take_device`] is next.
    pub(super) fn lacks_device(&self) -> bool {
        self.device == 0
    }

    /// A new device, which has to be bound and counts from 1.
    pub(super) fn take_device(&mut self, device: u64) {
        (self.device, self.opens, self.first_n) = (device, 1, 1);
        (self.step, self.seen) = (Step::Unbinding, self.stored);
    }

    /// The channel ended on the server's side.
    pub(super) fn released(&mut self, retry_after_ms: u32) {
        self.disconnected();
        self.pause(retry_after_ms);
    }

    /// A pushed frame. Items at or below the cursor are there already.
    pub(super) fn item(&mut self, message: &ServerMessage<'_>) -> Result<Option<Item>, End> {
        let (conversation, seq, line) = match *message {
            ServerMessage::Deliver { conversation, seq, author, device, body, .. } => {
                let own = author == Author::Visitor && device == self.device;
                let text = String::from_utf8_lossy(body).replace('\n', "\\n");
                (conversation, seq, (!own).then(|| format!("{} {text}", author.name())))
            }
            ServerMessage::State { conversation, seq, status, agent_name, .. } => {
                let line = match status {
                    Status::Assigned => Some(format!("system {agent_name} is here")),
                    Status::Resolved => Some("system resolved".to_owned()),
                    Status::Open | Status::Queued => None,
                };
                (conversation, seq, line)
            }
            ServerMessage::Gap { conversation, from, to } if self.conversation == Some(conversation) => {
                if to <= self.seen {
                    return Ok(None);
                }
                self.seen = to;
                let line = Some(format!("system messages {from} to {to} are not available"));
                return Ok(Some(Item { channel: self.channel, visitor: self.id.clone(), seq: to, line }));
            }
            _ => return Ok(None),
        };
        if self.conversation != Some(conversation) || seq <= self.seen {
            return Ok(None);
        }
        if seq > self.seen + 1 {
            let sentence = format!("{} got seq {seq} after {}", self.id, self.seen);
            return Err(End { sentence, retry_after_ms: 0 });
        }
        self.seen = seq;
        Ok(Some(Item { channel: self.channel, visitor: self.id.clone(), seq, line }))
    }

    pub(super) fn notice(&self, line: String) -> Item {
        Item { channel: self.channel, visitor: self.id.clone(), seq: 0, line: Some(line) }
    }

    pub(super) fn stored(&mut self, seq: u64) {
        self.stored = self.stored.max(seq);
    }

    /// Sends what the step allows. `send` gets what is asked and makes the frame for a channel.
    pub(super) fn send_due(&mut self, now_ms: u64, send: &mut dyn FnMut(Asked, &ClientMessage<'_>)) {
        if now_ms < self.resume_ms {
            return;
        }
        match (self.step, self.conversation) {
            (Step::Binding | Step::Opening, _) => {}
            (Step::Unbinding, _) => {
                // Once; the ACK or the refusal moves on.
                self.step = Step::Binding;
                send(Asked::Unbind, &ClientMessage::Unbind { channel: self.channel });
            }
            (Step::Unbound, known) => {
                self.step = Step::Binding;
                let cursor = known.map(|conversation| Cursor::new(conversation, self.epoch, self.stored));
                let (channel, device, visitor) = (self.channel, self.device, self.id.as_str());
                let cursors = cursor.as_slice();
                send(Asked::Bind, &ClientMessage::Bind { channel, device, visitor, cursors });
            }
            (Step::Bound, None) => {
                self.step = Step::Opening;
                send(Asked::Open, &ClientMessage::Open { n: self.opens, topic: "" });
            }
            (Step::Bound, Some(conversation)) => self.send_messages(conversation, send),
        }
    }

    fn send_messages(&mut self, conversation: u64, send: &mut dyn FnMut(Asked, &ClientMessage<'_>)) {
        while self.sent < self.outbox.len().min(WINDOW) {
            let (n, body) = (self.first_n + self.sent as u64, self.outbox[self.sent].as_bytes());
            let content = Content::Text;
            send(
                Asked::Send(n, self.attempt),
                &ClientMessage::Send { conversation, n, owner_epoch: 0, content, body },
            );
            self.sent += 1;
        }
        if self.confirmed < self.stored {
            self.confirmed = self.stored;
            let delivered = self.stored;
            send(Asked::Receipt, &ClientMessage::Receipt { conversation, delivered, read: 0 });
        }
    }
}
