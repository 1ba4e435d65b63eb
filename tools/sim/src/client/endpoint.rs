//! One connection of the client side: connects, greets, cuts the stream into messages, and hands each to the device
//! of its channel. A gateway's endpoint has many devices, every other one has one on channel 0.

use std::ops::ControlFlow;

use ringdesk_protocol::limits::{FRAME_BYTES_MAX, VERSION};
use ringdesk_protocol::{Carry, ClientMessage, Code, Header, Role, ServerMessage};

use super::Scene;
use super::device::{Attempt, Device, Whose};
use crate::net::LinkId;
use crate::plan::{MS, S};

/// A connection without an answer to HELLO is given up after this.
const GREETING_NS: u64 = 20 * S;

/// What an endpoint wants of the world after it acted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wish {
    /// Nothing.
    Nothing,
    /// Close in good order and connect again later.
    Close,
    /// Be gone without a word and connect again later.
    Vanish,
}

/// One connection's client side.
#[derive(Debug)]
pub struct Endpoint {
    /// What it asks to be.
    pub role: Role,
    /// Its ticket.
    pub ticket: String,
    /// Its devices, by index in the world.
    pub devices: Vec<usize>,
    /// The connection.
    pub link: Option<LinkId>,
    /// No connection is tried before.
    pub connect_at: u64,
    /// It does not read before.
    pub deaf_until: u64,
    /// It takes part at all.
    pub active: bool,
    greeted: bool,
    connected_at: u64,
    said_at: u64,
    heartbeat_ns: u64,
    names: Vec<String>,
    carry: Carry,
    nonce: u64,
}

impl Endpoint {
    /// An endpoint that has not connected yet. `names`: the external ids of a gateway's visitors.
    pub fn new(role: Role, ticket: String, devices: Vec<usize>, names: Vec<String>) -> Self {
        Self {
            role,
            ticket,
            devices,
            link: None,
            connect_at: 0,
            deaf_until: 0,
            active: true,
            greeted: false,
            connected_at: 0,
            said_at: 0,
            heartbeat_ns: 5 * S,
            names,
            carry: Carry::new(),
            nonce: 0,
        }
    }

    /// The connection is up: greets.
    pub fn connected(&mut self, link: LinkId, devices: &[Device], now: u64) -> Vec<u8> {
        self.link = Some(link);
        self.greeted = false;
        self.carry = Carry::new();
        self.connected_at = now;
        self.said_at = now;
        let (device, cursors) = match self.role {
            Role::Gateway => (1, Vec::new()),
            _ => (devices[self.devices[0]].id, devices[self.devices[0]].cursors()),
        };
        let mut out = Vec::new();
        ClientMessage::Hello {
            version_min: VERSION,
            version_max: VERSION,
            role: self.role,
            device,
            ticket: &self.ticket,
            cursors: &cursors,
        }
        .encode(0, 1, &mut out);
        out
    }

    /// The connection is gone; another is tried after a while.
    pub fn lost(&mut self, devices: &mut [Device], again_at: u64) {
        self.link = None;
        self.connect_at = again_at;
        self.deaf_until = 0;
        self.devices.iter().for_each(|device| devices[*device].down());
    }

    /// When it wants to act without having heard anything.
    pub fn next_act(&self, devices: &[Device]) -> u64 {
        if !self.active {
            return u64::MAX;
        }
        if self.link.is_none() {
            return self.connect_at;
        }
        if !self.greeted {
            return self.connected_at + GREETING_NS;
        }
        let beat = self.said_at + self.heartbeat_ns / 2;
        let acts = self.devices.iter().map(|device| devices[*device].next_act).min().unwrap_or(u64::MAX);
        acts.min(beat)
    }

    /// Acts of its devices, the heartbeat, and now and then an accident.
    pub fn act(&mut self, devices: &mut [Device], scene: &mut Scene<'_>, out: &mut Vec<u8>) -> Wish {
        if !self.greeted {
            return if scene.now >= self.connected_at + GREETING_NS { Wish::Close } else { Wish::Nothing };
        }
        for index in 0..self.devices.len() {
            let device = &mut devices[self.devices[index]];
            if device.next_act > scene.now {
                continue;
            }
            if !scene.healed && !device.auditor && scene.rng.ppm(scene.cast.drop_ppm) {
                let vanish = scene.rng.ppm(scene.cast.vanish_ppm);
                return if vanish { Wish::Vanish } else { Wish::Close };
            }
            if !scene.healed && scene.rng.ppm(scene.cast.slow_reader_ppm) {
                self.deaf_until = scene.now + scene.rng.range(1, 800) * MS;
            }
            device.act(scene, out);
        }
        if out.is_empty() && scene.now >= self.said_at + self.heartbeat_ns / 2 {
            self.nonce += 1;
            let device = &mut devices[self.devices[0]];
            let tag = device.tag(Attempt::Ping(self.nonce));
            ClientMessage::Ping { nonce: self.nonce }.encode(device.channel, tag, out);
        }
        if !out.is_empty() {
            self.said_at = scene.now;
        }
        Wish::Nothing
    }

    /// Bytes arrived. Answers go to `out`; `Err` tells when to connect again after a GOODBYE.
    pub fn hear(
        &mut self,
        bytes: &[u8],
        devices: &mut [Device],
        scene: &mut Scene<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), u64> {
        let mut carry = std::mem::take(&mut self.carry);
        let mut end = Ok(());
        let fed = carry.feed(bytes, FRAME_BYTES_MAX as u32, |header, body| {
            let message = ServerMessage::decode(header.kind, body)
                .unwrap_or_else(|error| panic!("the engine sent bytes that are no message: {error}"));
            let first = devices[self.devices[0]].id;
            scene.trace(|| format!("{first:x} <- [{}] {}", header.channel, describe(header.tag, &message)));
            end = self.message(header, &message, devices, scene, out);
            if end.is_err() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        if let Err(error) = fed {
            panic!("the engine sent bytes that are no frame: {error}");
        }
        self.carry = carry;
        end?;
        for device in &self.devices {
            devices[*device].flush(scene, out);
        }
        if !out.is_empty() {
            self.said_at = scene.now;
        }
        Ok(())
    }

    fn message(
        &mut self,
        header: Header,
        message: &ServerMessage<'_>,
        devices: &mut [Device],
        scene: &mut Scene<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), u64> {
        if let ServerMessage::Goodbye { code, retry_after_ms, .. } = *message {
            let fair = matches!(code, Code::Busy | Code::Idle | Code::ShuttingDown);
            assert!(fair, "GOODBYE {code:?} to {:?}", self.role);
            return Err(scene.now + u64::from(retry_after_ms).max(5) * MS);
        }
        if !self.greeted {
            let ServerMessage::Welcome { heartbeat_s, .. } = *message else {
                panic!("{message:?} before WELCOME");
            };
            self.greeted = true;
            self.heartbeat_ns = u64::from(heartbeat_s) * S;
            if self.role == Role::Gateway {
                self.bind(devices, out);
                return Ok(());
            }
        }
        let found = self.devices.iter().find(|device| devices[**device].channel == header.channel);
        let device = *found.unwrap_or_else(|| panic!("{message:?} on channel {}", header.channel));
        let device = &mut devices[device];
        assert!(
            device.up || matches!(message, ServerMessage::Welcome { .. }),
            "{message:?} on channel {} before its WELCOME",
            header.channel
        );
        device.hear(header, message, scene);
        Ok(())
    }

    fn bind(&self, devices: &[Device], out: &mut Vec<u8>) {
        for (index, name) in self.devices.iter().zip(&self.names) {
            let device = &devices[*index];
            assert!(matches!(device.whose, Whose::Visitor(_)), "gateways speak for visitors");
            let cursors = device.cursors();
            ClientMessage::Bind {
                channel: device.channel,
                device: device.id,
                visitor: name,
                cursors: &cursors,
            }
            .encode(0, device.channel, out);
        }
    }
}

/// A line of the trace.
fn describe(tag: u32, message: &ServerMessage<'_>) -> String {
    match *message {
        ServerMessage::Deliver { conversation, seq, author, agent, device, n, body, .. } => {
            let bytes = body.len();
            format!(
                "DELIVER {conversation:016x} {seq}: {author:?} {agent} device {device:x} n {n}, {bytes} bytes"
            )
        }
        ServerMessage::State { conversation, seq, status, cause, agent, owner_epoch, .. } => {
            format!(
                "STATE {conversation:016x} {seq}: {status:?} by {cause:?}, agent {agent}, epoch {owner_epoch}"
            )
        }
        ServerMessage::Ack { conversation, seq, n, duplicate } => {
            let again = if duplicate { " again" } else { "" };
            format!("ACK {conversation:016x} {seq}: n {n}{again} (tag {tag})")
        }
        ServerMessage::Assigned { conversation, agent, owner_epoch, seq, .. } => {
            format!("ASSIGNED {conversation:016x} after {seq}: agent {agent}, epoch {owner_epoch}")
        }
        ServerMessage::Receipt { conversation, side, delivered, read } => {
            format!("RECEIPT {conversation:016x}: {side:?} {delivered}/{read}")
        }
        ServerMessage::Reject { code, conversation, detail, .. } => {
            format!("REJECT {conversation:016x}: {code:?}, detail {detail} (tag {tag})")
        }
        ServerMessage::Page { conversation, first, last, .. } => {
            format!("PAGE {conversation:016x} {first}..={last} (tag {tag})")
        }
        ref other => format!("{other:?}"),
    }
}
