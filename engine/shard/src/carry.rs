//! What a connection is when it goes to another process: everything a client could notice the loss of, as plain bytes.
//!
//! A connection is carried when its shard stands still (see `front/still`): every request it made is answered, what it
//! was owed is in its socket or in `unsent`, and what it had said and nobody decoded is in `undecoded`. So the state is
//! small: who it is, and which conversations it listens to from where. Incomplete frames are not state: they are bytes
//! that say the same, fed again to a new cutter.
//!
//! Form: a version byte, then the fields in their order, little-endian, byte strings and lists with their length or
//! count before them. Another version is refused: the two processes of an upgrade are told before anything moves.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ringdesk_desk::ids::{AgentId, ConversationId, DeviceId, SiteId, Slot};
use ringdesk_protocol::limits::{CURSORS_MAX, NAME_BYTES_MAX, VISITOR_BYTES_MAX};
use ringdesk_protocol::ws::Deflate;

use crate::io::{ListenerKind, Speaks};
use crate::message::{Identity, Principal, Transport};
use crate::router::identity_slot;

mod read;
#[cfg(test)]
mod tests;

/// The version written. Only this one is read.
pub const VERSION: u8 = 1;

/// Bytes of an encoded connection at most; the decoder refuses more. A gateway with all its channels takes some 7 MB,
/// and what waits for a connection is bounded by its outbox.
pub const CARRIED_BYTES_MAX: usize = 256 << 20;

/// Bytes of a name: a visitor's external id, a login, a site's name.
const NAME_MAX: usize = if VISITOR_BYTES_MAX > NAME_BYTES_MAX { VISITOR_BYTES_MAX } else { NAME_BYTES_MAX };

/// One connection between two processes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Carried {
    /// How its bytes are framed.
    pub transport: Transport,
    /// The compression agreed on its WebSocket.
    pub deflate: Option<Deflate>,
    /// The client's address, where it is counted.
    pub address: Option<IpAddr>,
    /// Seconds for which it had not been heard, before HELLO since it was accepted, when its shard stood still.
    pub silent_s: u32,
    /// Bytes it has still to be sent, as they go over the wire, before any other.
    pub unsent: Vec<u8>,
    /// Bytes it had sent that nobody decoded, as they came over the wire or saying the same.
    pub undecoded: Vec<u8>,
    /// Where it stands.
    pub stage: Stage,
}

/// Where a carried connection stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Stage {
    /// Its PROXY header is not complete.
    Proxy(ListenerKind),
    /// Before its HELLO.
    Greeting {
        /// A WebSocket whose upgrade is answered.
        upgraded: bool,
    },
    /// Its HELLO was taken and is not answered.
    Hello(Box<Hello>),
    /// Served.
    Ready(Box<Ready>),
    /// It has been told to go: it closes when `unsent` is through.
    Closing,
}

/// A HELLO that was taken; the fields are those of `message::HandOver`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hello {
    /// What the ticket proved.
    pub principal: Principal,
    /// The device.
    pub device: DeviceId,
    /// Echoed in WELCOME.
    pub tag: u32,
    /// Conversation, epoch, seq; at most `CURSORS_MAX`.
    pub cursors: Vec<(u64, u32, u64)>,
    /// Binary frames that came in the same WebSocket message after it.
    pub frames: Vec<u8>,
}

/// A connection that is served.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ready {
    /// Site number.
    pub site: SiteId,
    /// Site name.
    pub site_name: Arc<str>,
    /// When its ticket was issued, seconds since 1970; for a gateway when it stood still, if that is later: what was
    /// revoked before has ended the sessions it was for.
    pub issued_s: u32,
    /// Epoch of the logs that its cursors are for.
    pub log_epoch: u32,
    /// A gateway's, whose sessions are those it bound to its channels.
    pub gateway: bool,
    /// Its own session on channel 0, or those bound, by channel; none if it has ended.
    pub sessions: Vec<(u32, Session)>,
}

/// One identity on a connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Session {
    /// External id of the visitor, or login of the agent.
    pub name: Arc<str>,
    /// The device.
    pub device: DeviceId,
    /// The agent's number, 0 for a visitor.
    pub agent: u32,
    /// What it listens to, in order of subscription.
    pub listens: Vec<Listen>,
}

/// One subscription. Whatever it was doing, it asks for what comes after `after`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Listen {
    /// The conversation.
    pub conversation: ConversationId,
    /// Highest seq that is in the client's socket or in `unsent`.
    pub after: u32,
    /// Not begun since an invitation: starts near the end, wherever that is then.
    pub from_tail: bool,
    /// It was live, so that an agent has been told what it owns; otherwise it is told when it goes on.
    pub live: bool,
}

/// Why bytes are no carried connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CarryError {
    /// Written by another version; its number.
    Version(u8),
    /// The bytes end early.
    Short,
    /// Bytes are left behind the last field.
    Long,
    /// A field that has no meaning, or is beyond its bound; its name.
    Field(&'static str),
}

impl fmt::Display for CarryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Version(version) => {
                write!(f, "a carried connection of version {version}; this is version {VERSION}")
            }
            Self::Short => write!(f, "a carried connection ends early"),
            Self::Long => write!(f, "bytes follow a carried connection"),
            Self::Field(name) => write!(f, "the field `{name}` of a carried connection has no meaning"),
        }
    }
}

impl std::error::Error for CarryError {}

impl Carried {
    /// The slot of the identity: the connection belongs to the shard that owns it. `None`: any shard will do.
    pub fn home(&self) -> Option<Slot> {
        match &self.stage {
            Stage::Ready(ready) if !ready.gateway => {
                let (_, session) = ready.sessions.first()?;
                Some(identity_slot(&ready.site_name, &session.name))
            }
            Stage::Hello(hello) => match &hello.principal.identity {
                Identity::Visitor { visitor: name } | Identity::Agent { login: name, .. } => {
                    Some(identity_slot(&hello.principal.site_name, name))
                }
                Identity::Gateway => None,
            },
            _ => None,
        }
    }

    /// Appends the connection.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(VERSION);
        out.push(match self.transport {
            Transport::Stream => 0,
            Transport::WsBinary => 1,
            Transport::WsJson => 2,
        });
        out.push(self.deflate.map_or(0, Deflate::window_bits));
        match self.address {
            None => out.push(0),
            Some(IpAddr::V4(v4)) => {
                out.push(4);
                out.extend_from_slice(&v4.octets());
            }
            Some(IpAddr::V6(v6)) => {
                out.push(6);
                out.extend_from_slice(&v6.octets());
            }
        }
        out.extend_from_slice(&self.silent_s.to_le_bytes());
        put_bytes(&self.unsent, out);
        put_bytes(&self.undecoded, out);
        self.stage.encode(out);
    }

    /// The connection in all of `bytes`.
    ///
    /// # Errors
    /// [`CarryError`]. Takes no more memory than a small multiple of the bytes, whatever they say.
    pub fn decode(bytes: &[u8]) -> Result<Self, CarryError> {
        read::carried(bytes)
    }
}

impl Stage {
    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Proxy(kind) => {
                let speaks = u8::from(kind.speaks == Speaks::WebSocket);
                out.extend_from_slice(&[0, speaks, u8::from(kind.tls), u8::from(kind.proxied)]);
            }
            Self::Greeting { upgraded } => out.extend_from_slice(&[1, u8::from(*upgraded)]),
            Self::Hello(hello) => {
                out.push(2);
                hello.encode(out);
            }
            Self::Ready(ready) => {
                out.push(3);
                ready.encode(out);
            }
            Self::Closing => out.push(4),
        }
    }
}

impl Hello {
    fn encode(&self, out: &mut Vec<u8>) {
        let Principal { site, site_name, identity, expires_s, issued_s } = &self.principal;
        out.extend_from_slice(&site.0.to_le_bytes());
        put_bytes(site_name.as_bytes(), out);
        match identity {
            Identity::Visitor { visitor } => {
                out.push(0);
                put_bytes(visitor.as_bytes(), out);
            }
            Identity::Agent { agent, login } => {
                out.push(1);
                out.extend_from_slice(&agent.0.to_le_bytes());
                put_bytes(login.as_bytes(), out);
            }
            Identity::Gateway => out.push(2),
        }
        out.extend_from_slice(&expires_s.to_le_bytes());
        out.extend_from_slice(&issued_s.to_le_bytes());
        out.extend_from_slice(&self.device.0.to_le_bytes());
        out.extend_from_slice(&self.tag.to_le_bytes());
        put_count(self.cursors.len(), out);
        for (conversation, epoch, seq) in &self.cursors {
            out.extend_from_slice(&conversation.to_le_bytes());
            out.extend_from_slice(&epoch.to_le_bytes());
            out.extend_from_slice(&seq.to_le_bytes());
        }
        put_bytes(&self.frames, out);
    }
}

impl Ready {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.site.0.to_le_bytes());
        put_bytes(self.site_name.as_bytes(), out);
        out.extend_from_slice(&self.issued_s.to_le_bytes());
        out.extend_from_slice(&self.log_epoch.to_le_bytes());
        out.push(u8::from(self.gateway));
        put_count(self.sessions.len(), out);
        for (channel, session) in &self.sessions {
            out.extend_from_slice(&channel.to_le_bytes());
            put_bytes(session.name.as_bytes(), out);
            out.extend_from_slice(&session.device.0.to_le_bytes());
            out.extend_from_slice(&session.agent.to_le_bytes());
            put_count(session.listens.len(), out);
            for listen in &session.listens {
                out.extend_from_slice(&listen.conversation.0.to_le_bytes());
                out.extend_from_slice(&listen.after.to_le_bytes());
                out.push(u8::from(listen.from_tail) | u8::from(listen.live) << 1);
            }
        }
    }
}

fn put_count(count: usize, out: &mut Vec<u8>) {
    let count = u32::try_from(count).expect("fewer than 4 G of anything on a connection");
    out.extend_from_slice(&count.to_le_bytes());
}

fn put_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    put_count(bytes.len(), out);
    out.extend_from_slice(bytes);
}
