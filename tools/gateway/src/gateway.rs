//! The gateway itself, sans-IO: what it remembers of each visitor, what it sends, and how it answers each frame.
//!
//! Order: [`Gateway::connected`] starts a connection with HELLO. On WELCOME each visitor is bound to its channel with
//! its cursor, opens its conversation if it has none yet, and sends again whatever was not acknowledged, under the
//! same n. [`Gateway::turn`] does what is due; the caller then writes [`Gateway::take_output`] to the server and
//! [`Gateway::take_items`] to the chat channel, and says with [`Gateway::stored`] what arrived there.
//!
//! Ownership: visitors outlive connections. Of a connection only the half frame, the tags and what was sent on it are
//! kept, and all of it goes with the connection.
//!
//! Two rules carry the promise. A message stays in its visitor's outbox until its ACK: so nothing is lost, and the
//! server's memory of n makes sure that nothing is there twice. The cursor given on resume is what the channel has
//! *stored*, not what was received: so what was on the way when a connection broke comes again, and what is there
//! already is dropped by its seq.

mod visitor;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use ringdesk_protocol::limits::{BODY_BYTES_MAX, FRAME_BYTES_MAX, VERSION, VISITOR_BYTES_MAX};
use ringdesk_protocol::{Carry, ClientMessage, Header, Role, ServerMessage};

pub use visitor::{Asked, Item, Visitor};

/// Visitors one gateway knows. Full: a new visitor's line is refused.
pub const VISITORS_MAX: usize = 65_536;

/// Why a line from the channel was not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// No visitor id of 1 to 64 bytes, or no text of 1 to 65,536.
    Malformed,
    /// The visitor has too much unacknowledged, or the gateway too many visitors.
    Full,
}

/// Why a connection to the server ended, and how long to stay away.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct End {
    /// For the log.
    pub sentence: String,
    /// 0: the server named no time.
    pub retry_after_ms: u32,
}

/// See the module.
pub struct Gateway {
    ticket: String,
    /// Random, this run's: device ids are counted from it.
    devices: u64,
    /// Channel c belongs to `visitors[c - 1]`.
    visitors: Vec<Visitor>,
    channels: BTreeMap<String, u32>,
    /// Channels that may have something to send, and channels that wait for a time.
    dirty: BTreeSet<u32>,
    due: BTreeSet<(u64, u32)>,
    carry: Carry,
    welcomed: bool,
    epoch: u32,
    heartbeat_ms: u64,
    sent_ms: u64,
    heard_ms: u64,
    tag: u32,
    asked: BTreeMap<u32, (u32, Asked)>,
    output: Vec<u8>,
    items: Vec<Item>,
}

impl Gateway {
    /// A gateway without visitors. `run` is random: a device id may not be used by two runs, since each counts n from 1.
    pub fn new(ticket: String, run: u64) -> Self {
        Self {
            ticket,
            devices: run,
            visitors: Vec::new(),
            channels: BTreeMap::new(),
            dirty: BTreeSet::new(),
            due: BTreeSet::new(),
            carry: Carry::new(),
            welcomed: false,
            epoch: 0,
            heartbeat_ms: 0,
            sent_ms: 0,
            heard_ms: 0,
            tag: 0,
            asked: BTreeMap::new(),
            output: Vec::new(),
            items: Vec::new(),
        }
    }

    /// A visitor wrote. Taken with or without a connection.
    pub fn line(&mut self, visitor: &str, text: &str) -> Result<(), Refusal> {
        let sizes = (1..=VISITOR_BYTES_MAX).contains(&visitor.len()) && text.len() <= BODY_BYTES_MAX;
        if !sizes || text.is_empty() {
            return Err(Refusal::Malformed);
        }
        let channel = match self.channels.get(visitor) {
            Some(channel) => *channel,
            None if self.visitors.len() == VISITORS_MAX => return Err(Refusal::Full),
            None => {
                let device = self.next_device();
                let channel = self.visitors.len() as u32 + 1;
                self.visitors.push(Visitor::new(visitor, channel, device));
                self.channels.insert(visitor.to_owned(), channel);
                channel
            }
        };
        self.dirty.insert(channel);
        self.visitors[channel as usize - 1].write(text).ok_or(Refusal::Full)
    }

    fn next_device(&mut self) -> u64 {
        self.devices = self.devices.wrapping_add(1).max(1);
        self.devices
    }

    /// A connection to the server is there; HELLO is the first output.
    pub fn connected(&mut self, now_ms: u64) {
        self.disconnected();
        (self.sent_ms, self.heard_ms, self.heartbeat_ms) = (now_ms, now_ms, 30_000);
        let hello = ClientMessage::Hello {
            version_min: VERSION,
            version_max: VERSION,
            role: Role::Gateway,
            device: self.devices.max(1),
            ticket: &self.ticket,
            cursors: &[],
        };
        hello.encode(0, 1, &mut self.output);
    }

    /// The connection is gone, with everything that was on its way.
    pub fn disconnected(&mut self) {
        self.welcomed = false;
        self.carry = Carry::new();
        self.asked.clear();
        self.due.clear();
        self.output.clear();
        self.items.clear();
        for (channel, visitor) in (1..).zip(&mut self.visitors) {
            visitor.disconnected();
            self.dirty.insert(channel);
        }
    }

    /// Bytes from the server.
    pub fn received(&mut self, bytes: &[u8], now_ms: u64) -> Result<(), End> {
        self.heard_ms = now_ms;
        let mut carry = std::mem::take(&mut self.carry);
        let mut end = None;
        let fed = carry.feed(bytes, FRAME_BYTES_MAX as u32, |header, body| {
            match self.frame(header, body, now_ms) {
                Ok(()) => ControlFlow::Continue(()),
                Err(why) => {
                    end = Some(why);
                    ControlFlow::Break(())
                }
            }
        });
        self.carry = carry;
        match (end, fed) {
            (Some(end), _) => Err(end),
            (None, Err(error)) => Err(End { sentence: error.to_string(), retry_after_ms: 0 }),
            (None, Ok(_)) => Ok(()),
        }
    }

    fn frame(&mut self, header: Header, body: &[u8], now_ms: u64) -> Result<(), End> {
        // A message of a later version, or a value this one does not know: not ours to judge.
        let Ok(message) = ServerMessage::decode(header.kind, body) else { return Ok(()) };
        match message {
            ServerMessage::Welcome { epoch, heartbeat_s, .. } if header.channel == 0 => {
                self.welcomed = true;
                self.epoch = epoch;
                self.heartbeat_ms = u64::from(heartbeat_s) * 1000;
                return Ok(());
            }
            ServerMessage::Goodbye { code, retry_after_ms, sentence } if header.channel == 0 => {
                return Err(End { sentence: format!("{}: {sentence}", code.name()), retry_after_ms });
            }
            _ => {}
        }
        let asked = if header.tag == 0 { None } else { self.asked.remove(&header.tag) };
        // A refused BIND is answered on channel 0; its tag says whose it was.
        let channel = asked.map_or(header.channel, |(channel, _)| channel);
        let Some(visitor) = self.visitors.get_mut((channel as usize).wrapping_sub(1)) else { return Ok(()) };
        self.dirty.insert(channel);
        let asked = asked.map(|(_, asked)| asked);
        match message {
            ServerMessage::Welcome { .. } => visitor.bound(self.epoch),
            ServerMessage::Ack { conversation, seq, .. } => {
                visitor.acknowledged(asked, conversation, seq, self.epoch);
            }
            ServerMessage::Reject { code, retry_after_ms, conversation, detail, sentence, .. } => {
                let refused = visitor::Refused { code, retry_after_ms, conversation, detail, sentence };
                self.items.extend(visitor.refused(asked, &refused).map(|line| visitor.notice(line)));
                if self.visitors[channel as usize - 1].lacks_device() {
                    let device = self.next_device();
                    self.visitors[channel as usize - 1].take_device(device);
                }
            }
            ServerMessage::Goodbye { retry_after_ms, .. } => visitor.released(retry_after_ms),
            message => self.items.extend(visitor.item(&message)?),
        }
        let visitor = &mut self.visitors[channel as usize - 1];
        if let Some(wait_ms) = visitor.pause_ms.take() {
            // Spread by channel, so that those refused together do not come back together.
            let jitter = wait_ms * (u64::from(channel) * 37 % 64) / 64;
            visitor.resume_ms = now_ms + wait_ms + jitter;
            self.due.insert((visitor.resume_ms, channel));
        }
        Ok(())
    }

    /// Does what is due. Call it after every other call and when [`Self::next_ms`] is reached.
    pub fn turn(&mut self, now_ms: u64) -> Result<(), End> {
        if self.heartbeat_ms == 0 {
            return Ok(());
        }
        if now_ms >= self.heard_ms + 2 * self.heartbeat_ms {
            return Err(End { sentence: "the server is silent".into(), retry_after_ms: 0 });
        }
        while let Some(&(at, channel)) = self.due.first().filter(|(at, _)| *at <= now_ms) {
            self.due.remove(&(at, channel));
            self.dirty.insert(channel);
        }
        if self.welcomed {
            for channel in std::mem::take(&mut self.dirty) {
                let Self { visitors, asked, tag, output, .. } = self;
                visitors[channel as usize - 1].send_due(now_ms, &mut |what, message| {
                    *tag = tag.wrapping_add(1).max(2);
                    asked.insert(*tag, (channel, what));
                    // BIND and UNBIND are the connection's own; they name their channel themselves.
                    let own = matches!(what, Asked::Bind | Asked::Unbind);
                    message.encode(if own { 0 } else { channel }, *tag, output);
                });
            }
            if self.output.is_empty() && now_ms >= self.sent_ms + self.heartbeat_ms / 2 {
                ClientMessage::Ping { nonce: now_ms }.encode(0, 1, &mut self.output);
            }
        }
        if !self.output.is_empty() {
            self.sent_ms = now_ms;
        }
        Ok(())
    }

    /// When [`Self::turn`] has something to do although nothing happened.
    pub fn next_ms(&self) -> u64 {
        let heartbeat = self.sent_ms + self.heartbeat_ms / 2;
        self.due.first().map_or(heartbeat, |(at, _)| heartbeat.min(*at))
    }

    /// Bytes for the server.
    pub fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.output)
    }

    /// For the channel, in order.
    pub fn take_items(&mut self) -> Vec<Item> {
        std::mem::take(&mut self.items)
    }

    /// The channel has this item. It is confirmed to the server, and asked for no more.
    pub fn stored(&mut self, item: &Item) {
        self.visitors[item.channel as usize - 1].stored(item.seq);
        self.dirty.insert(item.channel);
    }
}
