//! The front of a shard: its connections. Bytes become asks; pushes become bytes. Nothing here is durable and
//! nothing here decides about a conversation; all of it can be lost with the connection and is built again by the
//! client's HELLO and its cursors.
//!
//! Order for one connection: accept, (PROXY header), (TLS), (upgrade), HELLO, hand over to the owner of the identity
//! if that is another shard, WELCOME, then commands until it closes.

mod address;
mod admit;
mod adopt;
mod backpressure;
mod bytes;
mod commands;
mod connection;
mod entries;
mod hello;
mod listen;
mod session;
mod still;
mod sweep;
mod waiting;
mod wheel;

use std::collections::BTreeMap;
use std::sync::Arc;

use ringdesk_protocol::Code;
use ringdesk_protocol::ws::Deflater;

use crate::ask::{Ask, Want};
use crate::io::{ConnId, Output};
use crate::mail::Mail;
use crate::message::{SessionRef, ShardMessage};
use crate::owner::Owner;
use crate::planted::{self, Bug};
use crate::report::ShardReport;
use crate::settings::Settings;

use address::Addresses;
use admit::OuterCounts;
pub use commands::CHANNELS_MAX;
use connection::{Connection, Phase, block_bytes};
use entries::Entries;
pub use listen::LISTENS_MAX;
use session::{Sites, caller};
use still::Still;
use wheel::Wheel;

/// Lane places that client requests leave free for answers and notes.
const LANE_RESERVE: u32 = 64;

/// Buffers kept for reuse, and the largest capacity kept. Few: the allocator finds one as quickly, and what stands here is
/// no connection's.
const POOL_BUFFERS: usize = 128;
const POOL_BUFFER_BYTES: usize = 64 << 10;

/// Bytes beyond the outbox cap that answers to a client's own requests may pile up to. What is pushed stops at the
/// cap, and at the cap the client is not read any more, so only answers to what it had asked before come on top:
/// pages of history are the largest. A connection beyond the bound is closed.
const ANSWERS_BYTES_MAX: usize = 4 << 20;

/// Subscriptions of one connection that read the log at once; the others wait paused for their turn.
pub const ASKING_MAX: u8 = 4;

/// HISTORY requests of one connection that are read at once. More: BUSY.
const PAGES_OUT_MAX: u8 = 8;

/// Connections beyond the bound that only those may take who resume a conversation, and agents and gateways: a visitor
/// without a cursor is told BUSY.
pub fn resumes_reserve(connections_max: u64) -> u64 {
    connections_max / 16 + 16
}

/// The most there was of what is bounded, since the shard started.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Most {
    /// Bytes that waited or were being sent on one connection.
    pub backlog_bytes: usize,
    /// The same right after an item was pushed behind something else.
    pub pushed_bytes: usize,
    /// Turns at the log that other subscriptions of a connection had while one waited.
    pub turns_waited: u32,
}

/// All connections of a shard.
pub struct Front {
    shard: u16,
    log_epoch: u32,
    settings: Arc<Settings>,
    connections: Entries<Connection>,
    sites: Sites,
    wheel: Wheel,
    /// What the wheel fires, between turns empty.
    fired: Vec<u32>,
    open: u64,
    sessions: u64,
    sessions_made: u64,
    pushes: u64,
    slow: u64,
    most: Most,
    dirty: Vec<u32>,
    pool: Vec<Vec<u8>>,
    /// Made when a connection agrees to compression.
    deflater: Option<Box<Deflater>>,
    /// Decrypted bytes of the input at hand.
    plain: Vec<u8>,
    addresses: Addresses,
    outer: OuterCounts,
    lane_room: Vec<u32>,
    /// Connections that are not read because a lane is full.
    behind_lanes: Vec<u32>,
    now_ns: u64,
    now_s: u32,
    wall_ms: u64,
    draining_since_s: Option<u32>,
    drained: bool,
    /// Set while the shard stands still for an upgrade.
    still: Option<Still>,
    revoked: BTreeMap<(u32, u32, String), u64>,
}

impl Front {
    /// No connections.
    pub fn new(shard: u16, log_epoch: u32, settings: Arc<Settings>) -> Self {
        Self {
            shard,
            log_epoch,
            settings,
            connections: Entries::new(),
            sites: Sites::default(),
            wheel: Wheel::new(),
            fired: Vec::new(),
            open: 0,
            sessions: 0,
            sessions_made: 0,
            pushes: 0,
            slow: 0,
            most: Most::default(),
            dirty: Vec::new(),
            pool: Vec::new(),
            deflater: None,
            plain: Vec::new(),
            addresses: Addresses::default(),
            outer: OuterCounts::default(),
            lane_room: Vec::new(),
            behind_lanes: Vec::new(),
            now_ns: 0,
            now_s: 0,
            wall_ms: 0,
            draining_since_s: None,
            drained: false,
            still: None,
            revoked: BTreeMap::new(),
        }
    }

    /// Begins a turn.
    pub fn begin(&mut self, now: crate::io::Now, lane_room: &[u32]) {
        self.now_ns = now.mono_ns;
        self.now_s = (now.mono_ns / 1_000_000_000) as u32;
        self.wall_ms = now.wall_ms;
        self.lane_room.clear();
        self.lane_room.extend_from_slice(lane_room);
        self.look_behind_lanes();
    }

    /// Replaces the settings.
    pub fn set_settings(&mut self, settings: Arc<Settings>) {
        self.settings = settings;
    }

    /// Fills the front's part of a report.
    pub fn report(&self, report: &mut ShardReport) {
        report.connections = self.open;
        report.sessions = self.sessions;
        report.pushes = self.pushes;
        report.slow = self.slow;
        report.backlog_bytes_max = self.most.backlog_bytes as u64;
        report.outbox_bytes =
            self.connections.iter().map(|connection| connection.backlog_bytes() as u64).sum();
        let secured = self.connections.iter().filter(|connection| connection.tls.is_some());
        report.tls_connections = secured.count() as u64;
        report.tls_handshakes = self.outer.tls_handshakes;
        report.tls_resumed = self.outer.tls_resumed;
        report.tls_failed = self.outer.tls_failed;
        report.proxy_refused = self.outer.proxy_refused;
        report.address_refused = self.outer.address_refused;
    }

    /// The most there was of what is bounded.
    pub fn most(&self) -> Most {
        self.most
    }

    fn connections_max(&self) -> u64 {
        u64::from(self.settings.connections_max)
    }

    fn insert(&mut self, connection: Connection) {
        let index = connection.id.index;
        self.connections.insert(index, connection);
        self.open += 1;
        self.set_deadline(index);
    }

    fn get(&mut self, id: ConnId) -> Option<&mut Connection> {
        self.connections.get_mut(id.index).filter(|connection| connection.id == id)
    }

    fn at(&mut self, index: u32) -> &mut Connection {
        self.connections.get_mut(index).expect("an open connection")
    }

    fn vacate(&mut self, index: u32) -> Connection {
        let connection = self.connections.remove(index).expect("an open connection");
        self.wheel.clear(index);
        self.addresses.leave(connection.address);
        self.open -= 1;
        connection
    }

    fn by_ref(&mut self, session: SessionRef) -> Option<&mut Connection> {
        self.get(ConnId { index: session.index, generation: session.generation })
            .filter(|connection| !connection.closing)
    }

    /// Notes that a connection has something to send.
    fn touch(&mut self, index: u32) {
        let connection = self.at(index);
        if !connection.dirty {
            connection.dirty = true;
            self.dirty.push(index);
        }
    }

    /// Says goodbye and closes when that is flushed.
    fn goodbye(&mut self, index: u32, code: Code) {
        let retry = match code {
            // Spread the return of everybody over two seconds.
            Code::ShuttingDown => 500 + index.wrapping_mul(7_919) % 2_000,
            Code::Busy => 1_000 + index.wrapping_mul(7_919) % 2_000,
            _ => 0,
        };
        self.at(index).goodbye(code, retry);
        self.touch(index);
    }

    /// Keeps a buffer for reuse, if it is one and there is room.
    fn keep_buffer(&mut self, mut buffer: Vec<u8>) {
        if (1..=POOL_BUFFER_BYTES).contains(&buffer.capacity()) && self.pool.len() < POOL_BUFFERS {
            buffer.clear();
            self.pool.push(buffer);
        }
    }

    /// A send is complete.
    pub fn sent(&mut self, id: ConnId, buffer: Vec<u8>, owner: &mut Owner, mail: &mut Mail<'_>) {
        self.keep_buffer(buffer);
        let cap = self.settings.outbox_bytes_max as usize;
        let now_s = self.now_s;
        let Some(connection) = self.get(id) else { return };
        connection.sending_bytes = 0;
        // Who is not read cannot be heard; that it takes its bytes shows that it is there.
        if connection.stopped.is_some() {
            connection.heard_s = now_s;
        }
        let resume = connection.may_resume(cap);
        self.touch(id.index);
        if resume && !self.is_still() {
            self.resume_paused(id.index, owner, mail);
        }
    }

    /// The peer is gone.
    pub fn hangup(&mut self, id: ConnId, owner: &mut Owner, mail: &mut Mail<'_>) {
        if self.get(id).is_some() {
            self.close(id.index, owner, mail);
        }
    }

    /// Closes at once; its sessions end.
    fn close(&mut self, index: u32, owner: &mut Owner, mail: &mut Mail<'_>) {
        self.end_sessions(index, owner, mail);
        let connection = self.vacate(index);
        if !matches!(connection.phase, Phase::Gone) {
            mail.output(Output::Close { conn: connection.id });
        }
    }

    /// Sends what waits, closes what is flushed and done, hands over what is flushed and leaving.
    pub fn flush(&mut self, owner: &mut Owner, mail: &mut Mail<'_>) {
        let mut dirty = std::mem::take(&mut self.dirty);
        for index in dirty.drain(..) {
            let Some(connection) = self.connections.get_mut(index) else { continue };
            connection.dirty = false;
            if connection.stopped.is_some() {
                self.go_on_if_room(index, owner, mail);
            }
            let Some(connection) = self.connections.get_mut(index) else { continue };
            // What was taken back goes first, and nothing follows it while the shard stands still.
            let behind = connection.stopped.as_ref().is_some_and(|stopped| !stopped.unsent.is_empty());
            let (busy, closing) = (connection.sending_bytes > 0 || behind, connection.closing);
            if closing {
                self.set_deadline(index);
            }
            if busy {
                continue;
            }
            let Some(buffer) = self.next_send(index) else {
                self.flushed(index, owner, mail);
                continue;
            };
            let connection = self.at(index);
            connection.sending_bytes = buffer.len() as u32;
            mail.output(Output::Send { conn: connection.id, buffer });
        }
        dirty.append(&mut self.dirty);
        self.dirty = dirty;
    }

    /// Everything went out: the moment to close or to hand over.
    fn flushed(&mut self, index: u32, owner: &mut Owner, mail: &mut Mail<'_>) {
        let connection = self.at(index);
        // An idle connection owns no buffer, and nothing else that only a busy one needs.
        let spare = if connection.outbox.capacity() > 0 { connection.outbox.take() } else { Vec::new() };
        connection.rest();
        if connection.closing {
            self.close(index, owner, mail);
        } else if matches!(connection.phase, Phase::Leaving { .. }) {
            let phase = std::mem::replace(&mut connection.phase, Phase::Gone);
            let (conn, Phase::Leaving { to, mut state }) = (connection.id, phase) else { return };
            state.deflate = connection.deflate();
            state.tls = connection.tls.take();
            let number = connection.address;
            state.address = self.addresses.of(number);
            if planted::on(Bug::HandOverArmed) {
                mail.output(Output::Receive { conn, once: false });
            }
            mail.output(Output::HandOver { conn, to, state });
            self.vacate(index);
        }
        self.keep_buffer(spare);
    }

    /// Whether the turn left something to flush.
    pub fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// Gives a request to the owner of its slot. Requests of clients are refused when the lane is nearly full.
    fn route(&mut self, ask: Ask<'_>, owner: &mut Owner, mail: &mut Mail<'_>) {
        let to = owner.router().owner(ask.want.slot());
        if to == self.shard {
            self.count_asked(&ask);
            owner.ask(ask, mail);
            return;
        }
        let must = !matches!(
            ask.want,
            Want::Open { .. }
                | Want::Send { .. }
                | Want::Receipt { .. }
                | Want::Typing { .. }
                | Want::History { .. }
                | Want::Resolve { .. }
                | Want::Presence { .. }
        );
        let room = self.lane_room.get(usize::from(to)).copied().unwrap_or(0);
        if !must && room <= LANE_RESERVE {
            if matches!(ask.want, Want::History { .. }) {
                let connection = self.at(ask.from.index);
                connection.pages_out = connection.pages_out.saturating_sub(1);
            }
            self.refuse(ask.from, ask.tag, ask.kind, ask.want.conversation(), Code::Busy);
            return;
        }
        if let Some(room) = self.lane_room.get_mut(usize::from(to)) {
            *room = room.saturating_sub(1);
        }
        if !must {
            self.count_asked(&ask);
            self.stop_at_lane(ask.from.index, room, mail);
        }
        mail.send(to, ShardMessage::Ask(ask.to_owned()));
    }

    /// Refuses a request at the front.
    fn refuse(&mut self, to: SessionRef, tag: u32, of: u8, conversation: u64, code: Code) {
        let rejection = crate::frames::Rejection { code, of, conversation, detail: 0 };
        let frame = rejection.frame(tag);
        self.put(to, &frame);
    }

    /// Puts a frame into a session's outbox, if it is still there.
    fn put(&mut self, to: SessionRef, frame: &[u8]) {
        let cap = self.settings.outbox_bytes_max as usize;
        let hard = cap + ANSWERS_BYTES_MAX;
        let spare = self.pool.pop();
        let Some(connection) = self.by_ref(to) else {
            self.pool.extend(spare);
            return;
        };
        let unused = connection.outbox.lend(spare);
        let room = cap.saturating_sub(block_bytes(connection.sending_bytes as usize));
        connection.outbox.make_room(frame.len(), room);
        connection.put_frames(to.channel, frame);
        let backlog = connection.backlog_bytes();
        if backlog > hard {
            connection.goodbye(Code::Busy, 1_000);
        }
        self.most.backlog_bytes = self.most.backlog_bytes.max(backlog);
        self.pool.extend(unused);
        self.pushes += 1;
        self.touch(to.index);
    }

    /// Asks on behalf of a session, built from what it is.
    fn ask_for(&mut self, index: u32, channel: u32, want: Want, owner: &mut Owner, mail: &mut Mail<'_>) {
        let shard = self.shard;
        let connection = self.at(index);
        let from = connection.session_ref(shard, channel);
        let Some(ready) = connection.ready_mut() else { return };
        let home = ready.site;
        let Some(session) = ready.sessions.get(channel) else { return };
        let (name, device, agent) = (session.name.clone(), session.device, session.agent());
        let caller = caller(self.sites.site(home), agent, &name);
        self.route(Ask { from, tag: 0, kind: 0, device, caller, want, body: &[] }, owner, mail);
    }
}
