//! The contract between a shard and whatever drives it: the reactor in production, the same reactor over a
//! simulated kernel in the simulator.
//!
//! Once per loop turn the driver fills [`Inputs`], calls `Shard::step`, and carries out [`Outputs`] in order.
//! A buffer handed over in an output belongs to the driver until the input that gives it back.

use std::net::SocketAddr;
use std::sync::Arc;

use ringdesk_persist::{DiskDone, DiskOp};

use crate::carry::Carried;
use crate::message::{HandOver, ShardMessage};
use crate::report::ShardReport;
use crate::settings::Settings;

/// The time of a turn, read once by the driver.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Now {
    /// Monotonic nanoseconds; only differences mean anything.
    pub mono_ns: u64,
    /// Wall clock, milliseconds since 1970. May jump; the shard's hybrid clock never goes back.
    pub wall_ms: u64,
}

/// A connection of this shard: an entry of the driver's descriptor table and the entry's generation, so that a
/// late event of an earlier connection in the same entry is never taken for this one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ConnId {
    /// Entry of the descriptor table.
    pub index: u32,
    /// Incremented each time the entry is given to a new connection.
    pub generation: u32,
}

/// What the clients of a listener speak.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Speaks {
    /// The binary protocol, over TCP or a Unix socket.
    Binary,
    /// HTTP upgrade to WebSocket.
    WebSocket,
}

/// What comes through a listener, from the outside in: a PROXY header, TLS, the protocol.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ListenerKind {
    /// The protocol.
    pub speaks: Speaks,
    /// Inside TLS.
    pub tls: bool,
    /// Behind a PROXY protocol header, on every connection.
    pub proxied: bool,
}

impl ListenerKind {
    /// The binary protocol, plain.
    pub const BINARY: Self = Self { speaks: Speaks::Binary, tls: false, proxied: false };
    /// WebSocket, plain.
    pub const WEBSOCKET: Self = Self { speaks: Speaks::WebSocket, tls: false, proxied: false };
}

/// One thing that happened since the last turn.
#[derive(Debug)]
pub enum Input {
    /// A connection was accepted. Nothing is received until the shard asks with [`Output::Receive`].
    Accepted {
        /// The new connection.
        conn: ConnId,
        /// Which listener took it.
        listener: ListenerKind,
        /// The peer's address; `None` for Unix sockets and where the kernel was not asked.
        peer: Option<SocketAddr>,
    },
    /// Bytes arrived: `Inputs::bytes[start..start + len]`, `len > 0`.
    Received {
        /// The connection.
        conn: ConnId,
        /// Offset in the arena.
        start: u32,
        /// Number of bytes.
        len: u32,
    },
    /// An [`Output::Send`] is complete: all its bytes went out. The buffer comes back for reuse.
    Sent {
        /// The connection.
        conn: ConnId,
        /// The buffer of the send.
        buffer: Vec<u8>,
    },
    /// An [`Output::Send`] was taken back while the shard stands still: `buffer[..from]` went out, the rest did not.
    Unsent {
        /// The connection.
        conn: ConnId,
        /// The buffer of the send.
        buffer: Vec<u8>,
        /// Bytes of it that went out.
        from: u32,
    },
    /// The peer closed, or the connection failed (receive or send). The shard answers with [`Output::Close`];
    /// no further input of this connection follows except after that.
    Hangup {
        /// The connection.
        conn: ConnId,
    },
    /// A connection was handed over by another shard, with its state. Nothing is armed.
    HandedOver {
        /// Its identity here.
        conn: ConnId,
        /// What the other shard knew.
        state: Box<HandOver>,
    },
    /// An [`Output::HandOver`] could not be done (the target's table is full): the connection stays.
    HandOverFailed {
        /// The connection, still open and unarmed.
        conn: ConnId,
        /// The state given back.
        state: Box<HandOver>,
    },
    /// A connection that another process had before, with its state. Nothing is armed.
    Adopted {
        /// Its identity here.
        conn: ConnId,
        /// What it was there.
        carried: Box<Carried>,
    },
    /// An order of the driver for an upgrade.
    Stand(Stand),
    /// A disk operation ended.
    Disk(DiskDone),
    /// A message of another shard, in lane order.
    FromShard {
        /// The sending shard.
        from: u16,
        /// The message.
        message: ShardMessage,
    },
    /// A message of the control plane.
    Control(Control),
}

/// What a driver may order when another process is to take over. In this order; `GoOn` may come at any time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stand {
    /// Read nobody any more, begin nothing, finish what was begun. `Shard::is_settled` says when that is done here.
    Still,
    /// Answer [`Output::Stood`]. Given once every shard is settled and nothing is under way between them. From here on
    /// the shard takes no turn but for `GoOn`.
    Collect,
    /// The upgrade is called off.
    GoOn,
}

/// The connections of a shard that stands still.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct StoodConnections {
    /// What each was. The entries are still the driver's.
    pub carried: Vec<(ConnId, Carried)>,
    /// Connections in TLS, which cannot be carried: they were told GOODBYE.
    pub tls: u32,
}

/// All that happened since the last turn. The driver reuses one value for ever.
#[derive(Default, Debug)]
pub struct Inputs {
    /// In order of arrival; drained by the shard.
    pub events: Vec<Input>,
    /// The arena that `Received` points into; cleared by the driver after the turn.
    pub bytes: Vec<u8>,
    /// Free places in the lane to each shard (own entry unused). The shard answers BUSY before it fills one.
    pub lane_room: Vec<u32>,
}

/// One thing the driver has to do.
#[derive(Debug)]
pub enum Output {
    /// Arms the receive of a connection: once, or until it is closed. `once` leaves nothing armed after its
    /// completion, so the connection can be handed over.
    Receive {
        /// The connection.
        conn: ConnId,
        /// `true`: single-shot.
        once: bool,
    },
    /// Stops a receive, so that the peer's bytes wait in its socket: for a connection whose queues are full, or when
    /// the shard is to stand still. Bytes the kernel had taken before may still arrive. [`Output::Receive`] goes on,
    /// also before the stop has taken effect. Nothing, if a single-shot receive had just completed.
    Pause {
        /// The connection.
        conn: ConnId,
    },
    /// Sends the whole buffer. At most one send per connection is out; [`Input::Sent`] gives the buffer back.
    Send {
        /// The connection.
        conn: ConnId,
        /// The bytes, owned by the driver until the last completion.
        buffer: Vec<u8>,
    },
    /// Closes; no input of this connection follows. With a send out, or after a hang-up, the driver cancels what is
    /// out, waits for the last completion and frees the entry. Otherwise it lingers first, so that the peer can read
    /// to the end: it ends the stream and drops what still comes, for a bounded time.
    Close {
        /// The connection.
        conn: ConnId,
    },
    /// Hands the connection to another shard. Only with no send out and no receive armed: a violation is a
    /// broken invariant and stops the driver.
    HandOver {
        /// The connection; gone from this shard unless `HandOverFailed` comes back.
        conn: ConnId,
        /// The receiving shard.
        to: u16,
        /// Its state.
        state: Box<HandOver>,
    },
    /// A disk operation.
    Disk(DiskOp),
    /// A message into the lane of another shard. The gate has passed it: what it follows from is durable.
    ToShard {
        /// The receiving shard.
        to: u16,
        /// The message.
        message: ShardMessage,
    },
    /// The answer to [`Control::Report`].
    Report(Box<ShardReport>),
    /// The answer to [`Stand::Collect`].
    Stood(Box<StoodConnections>),
    /// The last connection was told goodbye and flushed after [`Control::Drain`].
    Drained,
    /// The log's disk has no space for what comes next, told at each attempt to prepare it; or it has again.
    Space(Space),
    /// The shard cannot go on (a sync failed, the log is damaged). The driver stops at once and reports it.
    Fatal(String),
}

/// Whether the log's disk has space for what comes next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Space {
    /// An attempt found none: errno. What was prepared before is used up meanwhile.
    Short(i32),
    /// There is again.
    Back,
}

/// What the control plane may ask of a shard, through its mailbox.
#[derive(Clone, Debug)]
pub enum Control {
    /// Produce a [`ShardReport`].
    Report,
    /// Use these settings from now on.
    Settings(Arc<Settings>),
    /// Close the live sessions of this identity and refuse tickets issued before `before_s` (C10).
    Revoke {
        /// Site number.
        site: u32,
        /// Agent number, or 0 for the visitor in `visitor`.
        agent: u32,
        /// External visitor id, empty for agents.
        visitor: String,
        /// Seconds since 1970: tickets issued earlier are refused.
        before_s: u64,
    },
    /// Say goodbye to every connection, take no new ones, answer [`Output::Drained`] when flushed.
    Drain,
}

/// All that a turn asks of the driver. The driver reuses one value for ever.
#[derive(Default, Debug)]
pub struct Outputs {
    /// In order.
    pub events: Vec<Output>,
}
