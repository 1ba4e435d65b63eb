//! Messages between shards: one closed enum. What crosses is either a request that follows from nothing
//! durable, or has passed the sender's gate.

use std::net::IpAddr;
use std::sync::Arc;

use ringdesk_desk::event::Note;
use ringdesk_desk::ids::{AgentId, ConversationId, DeviceId, SiteId, Slot};
use ringdesk_protocol::ws::Deflate;

use crate::ask::OwnedAsk;
use crate::tls::Tls;

/// A session on some shard: a connection there and a channel on it (0 unless the connection is a gateway).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SessionRef {
    /// The shard that holds the connection.
    pub shard: u16,
    /// Its descriptor table entry there.
    pub index: u32,
    /// The entry's generation; a stale one is dropped by the holder.
    pub generation: u32,
    /// The channel on the connection.
    pub channel: u32,
}

/// `Caught::upto` of a refused subscription.
pub const NO_SUCH: u64 = u64::MAX;

/// One message in a lane.
#[derive(Debug)]
pub enum ShardMessage {
    /// A request of a session to the shard that owns an entity.
    Ask(Box<OwnedAsk>),
    /// A complete binary frame for one session. The holder patches the channel and, for JSON, translates.
    Push {
        /// The session.
        to: SessionRef,
        /// For items of a conversation: which, and its seq; otherwise seq 0.
        conversation: ConversationId,
        /// Item number, or 0 for frames outside the order (answers, receipts, typing).
        seq: u64,
        /// The frame with header, channel 0.
        frame: Arc<[u8]>,
    },
    /// Answer to a subscription: the items after its cursor, in order, as concatenated frames.
    Caught {
        /// The session.
        to: SessionRef,
        /// The conversation.
        conversation: ConversationId,
        /// Seq of the last item in `frames`, or the cursor if there are none. [`NO_SUCH`]: the session may not
        /// read it, the subscription is over.
        upto: u64,
        /// Whether pushes follow from `upto + 1` on; otherwise the session asks again when it has room.
        live: bool,
        /// Complete binary frames, channel 0.
        frames: Arc<[u8]>,
    },
    /// A session shall subscribe: the visitor's own after OPEN, an agent's when one was placed with it.
    Invite {
        /// The session.
        to: SessionRef,
        /// The conversation.
        conversation: ConversationId,
        /// Cursor to subscribe from; see `ask::FROM_TAIL`.
        after: u64,
    },
    /// A logged, numbered note between entities (C2).
    Note {
        /// Teller.
        from: Slot,
        /// Hearer.
        to: Slot,
        /// Number within the pair.
        n: u64,
        /// What.
        note: Note,
    },
    /// The hearer has durably logged the pair's notes up to `upto`.
    Confirm {
        /// Teller.
        from: Slot,
        /// Hearer.
        to: Slot,
        /// Highest number.
        upto: u64,
    },
    /// A connection's state, sent by the driver after its descriptor went to the receiver's table.
    HandOver {
        /// Joins the state with the descriptor: sender's shard in the high 16 bits, a counter below.
        token: u64,
        /// The state.
        state: Box<HandOver>,
    },
}

/// A lane slot is one cache line; a larger message would halve the mesh.
const _: () = assert!(std::mem::size_of::<ShardMessage>() <= 64);

/// Who a connection proved to be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Identity {
    /// A visitor.
    Visitor {
        /// External id.
        visitor: Arc<str>,
    },
    /// An agent.
    Agent {
        /// Number in the directory.
        agent: AgentId,
        /// Login, part of the hash key `{site/agent}`.
        login: Arc<str>,
    },
    /// A gateway: speaks for visitors it binds to channels.
    Gateway,
}

/// What a ticket proved.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Principal {
    /// Site number.
    pub site: SiteId,
    /// Site name, part of the hash keys.
    pub site_name: Arc<str>,
    /// Who.
    pub identity: Identity,
    /// Ticket expiry, seconds since 1970.
    pub expires_s: u64,
    /// Ticket issue time, seconds since 1970.
    pub issued_s: u64,
}

/// How bytes of a connection are framed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transport {
    /// Binary frames directly on the stream.
    Stream,
    /// WebSocket, binary subprotocol.
    WsBinary,
    /// WebSocket, JSON subprotocol.
    WsJson,
}

/// The state of a connection that is handed to the shard owning its identity: everything after HELLO, nothing in
/// flight.
#[derive(PartialEq, Debug)]
pub struct HandOver {
    /// How bytes are framed.
    pub transport: Transport,
    /// What the ticket proved.
    pub principal: Principal,
    /// The compression agreed on its WebSocket.
    pub deflate: Option<Deflate>,
    /// The device of the HELLO.
    pub device: DeviceId,
    /// Tag of the HELLO, echoed in WELCOME.
    pub tag: u32,
    /// Resume cursors of the HELLO: conversation, epoch, seq.
    pub cursors: Vec<(u64, u32, u64)>,
    /// Complete binary frames that came in the same WebSocket message after the HELLO.
    pub frames: Vec<u8>,
    /// Bytes of the stream that arrived after the HELLO and were not decoded yet; plaintext under TLS.
    pub unread: Vec<u8>,
    /// TLS between the socket and `unread`, with what it holds of an incomplete record.
    pub tls: Option<Box<Tls>>,
    /// The client's address, where it is counted.
    pub address: Option<IpAddr>,
}
