//! The operation table: which descriptor and which buffer belong to which operation, and what each completion means.
//!
//! Pure: it submits nothing, sleeps nowhere and reads no clock. Fed with outputs of the shard and completions of the
//! kernel, it produces inputs for the shard and operations for the kernel. Completions may come in any order, short,
//! late or failed; the table answers each of these the same way over io_uring and in the simulator.
//!
//! Order: `completed` and `expire` at the start of a turn, the output methods after the shard's step, then
//! [`Table::take_ops`]. Parts: `connection` (sockets), `linger` (their end), `accept` (listeners), `handover`
//! (descriptors between shards), `still` (before an upgrade), `disk` (log files).
//!
//! | What happens | Answer |
//! |---|---|
//! | short send, short write, short read | the remainder is submitted; the shard sees one end |
//! | receive ends with ENOBUFS, EINTR, EAGAIN, or a multishot ends | armed again |
//! | accept fails for want of entries or memory | paused, armed again later; other listeners go on |
//! | a pause | the receive is cancelled; armed again after its last completion if the shard wants to go on |
//! | close with all sent | our side is shut down; what the peer still sends is dropped until it ends, within bounds |
//! | close with a send out, or after a hang-up | what is out is cancelled; the entry is closed after its last completion |
//! | completion of an earlier connection in an entry | ignored, counted |
//! | standing still | accepts are cancelled; once patience is over, sends too, and what is left of them goes back |
//! | failed write or sync | passed up as an error; never retried |
//! | hand-over with a receive armed or a send out, a second send, a second receive, use after close | panic |

mod accept;
mod connection;
mod disk;
mod handover;
mod linger;
mod still;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};

use ringdesk_shard::chunks::Chunks;
use ringdesk_shard::io::{ConnId, Input, ListenerKind};
use ringdesk_shard::message::{HandOver, ShardMessage};

use crate::buffers::Buffers;
use crate::kernel::{Completion, KIND_ACCEPT, KIND_ARRIVED, KIND_CLOSE, KIND_SHIFT, Op, WOKEN};
use accept::Listener;
use connection::Connection;
use disk::Disk;
use handover::Parcel;

/// errno values the table acts on (asm-generic/errno-base.h, errno.h); the same on every Linux architecture we run on.
pub(crate) mod errno {
    pub const EINTR: i32 = 4;
    pub const EIO: i32 = 5;
    pub const EAGAIN: i32 = 11;
    pub const ECONNABORTED: i32 = 103;
    pub const ENOBUFS: i32 = 105;
    pub const ECANCELED: i32 = 125;

    /// A receive that ended so has lost nothing and may be armed again.
    pub const PASSING: [i32; 4] = [EINTR, EAGAIN, ENOBUFS, ECANCELED];
}

const ACCEPT: u64 = KIND_ACCEPT;
const RECEIVE: u64 = 4;
const SEND: u64 = 5;
const CLOSE: u64 = KIND_CLOSE;
const CANCEL: u64 = 7;
const HAND_OVER: u64 = 8;
const DISK: u64 = 9;
const WAKE: u64 = 10;
const SHUTDOWN: u64 = 11;

const GENERATION_BITS: u32 = 28;

/// `user` of an operation: kind (4 bits), low 28 bits of a generation, index (32 bits).
fn user(kind: u64, generation: u32, index: u32) -> u64 {
    let generation = u64::from(generation) & ((1 << GENERATION_BITS) - 1);
    (kind << KIND_SHIFT) | (generation << 32) | u64::from(index)
}

fn same_generation(generation: u32, user: u64) -> bool {
    (u64::from(generation) ^ (user >> 32)) & ((1 << GENERATION_BITS) - 1) == 0
}

/// What the table counted since start.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct TableCounts {
    /// Connections accepted.
    pub accepted: u64,
    /// Accepts that failed.
    pub accept_errors: u64,
    /// Receives armed again because the kernel had no receive buffer.
    pub receive_starved: u64,
    /// Closes that waited for the peer's end.
    pub lingered: u64,
    /// Sends that went out in more than one part.
    pub short_sends: u64,
    /// Completions of connections that were gone.
    pub late: u64,
    /// Connections handed to other shards.
    pub handed_out: u64,
    /// Connections taken over from other shards.
    pub handed_in: u64,
    /// Hand-overs the other shard's table had no room for.
    pub hand_overs_failed: u64,
}

/// What completions and outputs of a turn lead to.
#[derive(Default, Debug)]
pub struct Effects {
    /// For the shard.
    pub inputs: Vec<Input>,
    /// For other shards' lanes, in order: states of connections whose descriptor went ahead.
    pub to_shards: Vec<(u16, ShardMessage)>,
}

/// The table of one shard.
#[derive(Debug)]
pub struct Table {
    shard: u16,
    entries: u32,
    connections: Chunks<Connection>,
    /// By entry, for the few that have any: bytes of the send that is out which went out in earlier parts; while the
    /// connection lingers, bytes dropped.
    passed: BTreeMap<u32, u32>,
    open: u32,
    listeners: Vec<Listener>,
    parcels: BTreeMap<u32, Parcel>,
    hand_over_counter: u64,
    arrived_descriptors: BTreeMap<u64, ConnId>,
    arrived_states: BTreeMap<u64, Box<HandOver>>,
    disk: Disk,
    /// Until when the peer of a closed connection is waited for; earliest first.
    lingering: VecDeque<(u64, ConnId)>,
    /// Connections that linger.
    lingerers: u32,
    /// The shard stands still: no accepts.
    still: bool,
    /// And its patience is over: sends are taken back.
    late: bool,
    /// Sends that were asked for after that.
    taken_back: Vec<(ConnId, Vec<u8>)>,
    /// Time of this turn.
    now_ns: u64,
    /// Buffers of sends and disk operations; the kernel reaches into it while they are lent.
    pub buffers: Buffers,
    ops: Vec<(u64, Op)>,
    counts: TableCounts,
}

impl Table {
    /// A table of `entries` descriptors for `shard`; every listener's accept is armed with the first operations.
    pub fn new(shard: u16, entries: u32, listeners: &[ListenerKind]) -> Self {
        let mut table = Self {
            shard,
            entries,
            connections: Chunks::new(Connection::FREE),
            passed: BTreeMap::new(),
            open: 0,
            listeners: listeners.iter().map(|kind| Listener::new(*kind)).collect(),
            parcels: BTreeMap::new(),
            hand_over_counter: 0,
            arrived_descriptors: BTreeMap::new(),
            arrived_states: BTreeMap::new(),
            disk: Disk::default(),
            lingering: VecDeque::new(),
            lingerers: 0,
            still: false,
            late: false,
            taken_back: Vec::new(),
            now_ns: 0,
            buffers: Buffers::new(),
            ops: Vec::new(),
            counts: TableCounts::default(),
        };
        for listener in 0..table.listeners.len() {
            table.arm_accept(listener);
        }
        table
    }

    /// Takes one completion.
    pub fn completed(&mut self, now_ns: u64, completion: Completion, effects: &mut Effects) {
        let index = completion.user as u32;
        match completion.user >> KIND_SHIFT {
            KIND_ARRIVED => self.descriptor_arrived(completion, effects),
            ACCEPT => self.accepted(now_ns, index, completion, effects),
            RECEIVE => self.received(index, completion, effects),
            SEND => self.sent(index, completion, effects),
            SHUTDOWN => self.shut_down(index, completion),
            CLOSE => self.closed(index, completion),
            HAND_OVER => self.handed_over(index, completion, effects),
            DISK => self.disk.completed(completion, &mut self.buffers, &mut self.ops, &mut effects.inputs),
            // The target's own completion says what a cancellation reached; a wake-up needs no answer.
            CANCEL | WAKE => {}
            _ if completion.user == WOKEN => {}
            kind => panic!("completion of an unknown kind {kind}: {completion:?}"),
        }
    }

    /// Ends pauses that are over, and closes connections that lingered long enough. Once a turn: connections closed
    /// later in the turn linger from here on.
    pub fn expire(&mut self, now_ns: u64) {
        self.now_ns = now_ns;
        self.expire_lingering(now_ns);
        for listener in 0..self.listeners.len() {
            if self.listeners[listener].resume_ns.is_some_and(|at| at <= now_ns) {
                self.arm_accept(listener);
            }
        }
    }

    /// When [`Self::expire`] has something to do.
    pub fn next_deadline_ns(&self) -> Option<u64> {
        let lingering = self.lingering.front().map(|(until, _)| *until);
        self.listeners.iter().filter_map(|listener| listener.resume_ns).chain(lingering).min()
    }

    /// Queues the wake-up of another shard.
    pub fn wake(&mut self, shard: u16) {
        self.ops.push((user(WAKE, 0, u32::from(shard)), Op::Wake { shard }));
    }

    /// The operations queued so far, in order, with the buffers they name. The caller submits all of them.
    pub fn take_ops(&mut self) -> (std::vec::Drain<'_, (u64, Op)>, &mut Buffers) {
        (self.ops.drain(..), &mut self.buffers)
    }

    /// Whether operations are queued.
    pub fn has_ops(&self) -> bool {
        !self.ops.is_empty()
    }

    /// Entries that hold a connection, in whatever state.
    pub fn open(&self) -> u32 {
        self.open
    }

    /// Disk operations not yet answered, waiting ones included.
    pub fn disk_pending(&self) -> usize {
        self.disk.pending()
    }

    /// Counters since start.
    pub fn counts(&self) -> TableCounts {
        self.counts
    }
}
