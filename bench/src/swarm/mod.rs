//! The swarm: as many clients as the machine holds, on one thread, over io_uring with direct descriptors.
//!
//! Order of a turn: what is due by the clock (a dial, another try), dials as far as the bound allows, then each ring:
//! submit, take what completed, cut it into frames ([`wire`]), let the [`Crowd`] answer each. Ownership: the swarm owns
//! rings and bytes, the crowd what each client remembers; both live on one thread, so a core each takes a swarm
//! each. Client `who` is slot `who / rings` of ring `who % rings`, and each ring dials addresses of 127.0.0.0/8 of its
//! own, because one destination has only as many source ports as `ip_local_port_range` is wide.

pub mod agents;
pub mod bound;
pub mod secure;
pub mod tickets;
pub mod visitors;
mod wire;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::OwnedFd;
use std::time::Instant;

use ringdesk_protocol::Frame;
use ringdesk_uring::sys::{SLOTS_PER_ADDRESS, SocketEvent, SocketRing, SocketRingConfig};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::time::Timespec;

use self::secure::Secured;
use self::wire::{Heard, Unreadable, Wire};

/// Connections of one ring: a table is also bounded by RLIMIT_NOFILE, which is 20,000 in many places.
pub const PER_RING_MAX: u32 = 20_000;
/// Connections dialled but not yet greeted, so that the server's accept queue (4,096) never overflows: an overflow
/// costs a second each. Full: the next dial waits.
pub const GREETING_MAX: usize = 1024;
/// What [`Swarm::set_greeting_max`] may raise that to.
const GREETING_MAX_MAX: usize = 2 * GREETING_MAX;
/// Receive buffers of a ring, and bytes of each: many small ones for many connections that say little, a few large ones
/// where few connections carry everything.
const BUFFERS_OF_MANY: (u16, u32) = (1024, 2048);
const BUFFERS_OF_FEW: (u16, u32) = (128, 64 * 1024);
/// Up to this many connections are few.
const FEW: u32 = 64;

/// What a client answers to what happened.
#[derive(Default)]
pub struct Reply {
    /// Whole frames to send.
    pub frames: Vec<u8>,
    /// The client is greeted: the next one may be dialled.
    pub settled: bool,
    /// Call [`Crowd::again`] at this time of the swarm's clock.
    pub again_ns: Option<u64>,
    /// Close the connection now.
    pub leave: bool,
}

/// The clients' side of the protocol.
pub trait Crowd {
    /// The connection stands; the first frames go out.
    fn connected(&mut self, who: u32, now_ns: u64, reply: &mut Reply);
    /// A frame arrived.
    fn frame(&mut self, who: u32, now_ns: u64, frame: Frame<'_>, reply: &mut Reply);
    /// The time asked for has come.
    fn again(&mut self, who: u32, now_ns: u64, reply: &mut Reply);
    /// The connection is gone, with an errno (0: closed in order, by either side). `Some` dials again at that time.
    fn gone(&mut self, who: u32, now_ns: u64, errno: i32) -> Option<u64>;
}

/// Who speaks how.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Transports {
    /// Binary TCP for all.
    Binary,
    /// WebSocket for all.
    Websocket,
    /// Every other client on each.
    Mixed,
    /// Binary inside TLS for all.
    Tls,
}

impl Transports {
    /// The name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Binary => "binary",
            Self::Websocket => "websocket",
            Self::Mixed => "mixed",
            Self::Tls => "tls",
        }
    }
}

/// Where the server listens; on all of 127.0.0.0/8.
#[derive(Clone, Copy, Debug)]
pub struct Ports {
    /// Binary TCP.
    pub binary: SocketAddr,
    /// WebSocket.
    pub websocket: SocketAddr,
    /// Binary inside TLS.
    pub tls: SocketAddr,
}

/// One thread's clients.
pub struct Swarm {
    rings: Vec<SocketRing>,
    wires: Vec<Wire>,
    /// One doorbell for all rings of the thread; a single ring needs none.
    bell: Option<OwnedFd>,
    clock: Instant,
    dials: VecDeque<u32>,
    /// Dialled, not yet settled; the flag per client says who.
    greeting: usize,
    /// At most so many of them.
    greeting_max: usize,
    unsettled: Vec<bool>,
    due: BinaryHeap<Reverse<(u64, u32, bool)>>,
    /// Bytes of incomplete frames.
    partial: BTreeMap<u32, Vec<u8>>,
    /// Why connections ended that are being closed.
    ended: BTreeMap<u32, i32>,
    arena: Vec<u8>,
    events: Vec<SocketEvent>,
    reply: Reply,
    /// TLS around the wires of all, where it is spoken.
    secured: Option<Secured>,
    /// Connections that broke the framing or TLS; each is closed.
    pub unreadable: u64,
}

impl Swarm {
    /// Rings for `clients` clients on the calling thread; nobody is dialled yet. With mixed transports the two halves
    /// have rings of their own.
    ///
    /// # Errors
    /// A sentence when the rings cannot be opened.
    pub fn open(clients: u32, ports: Ports, transports: Transports, clock: Instant) -> Result<Self, String> {
        Self::open_narrow(clients, ports, transports, clock, 0)
    }

    /// As [`Swarm::open`], with receive buffers of so many bytes (SO_RCVBUF); 0: the kernel's own.
    ///
    /// # Errors
    /// As [`Swarm::open`].
    pub fn open_narrow(
        clients: u32,
        ports: Ports,
        transports: Transports,
        clock: Instant,
        receive_socket_bytes: u32,
    ) -> Result<Self, String> {
        let kinds: &[(Wire, SocketAddr)] = match transports {
            Transports::Binary => &[(Wire::Binary, ports.binary)],
            Transports::Tls => &[(Wire::Binary, ports.tls)],
            Transports::Websocket => &[(Wire::Upgrading, ports.websocket)],
            Transports::Mixed => &[(Wire::Binary, ports.binary), (Wire::Upgrading, ports.websocket)],
        };
        let each = clients.div_ceil(kinds.len() as u32).div_ceil(PER_RING_MAX).max(1);
        let count = each * kinds.len() as u32;
        let slots = clients.div_ceil(count);
        let mut rings = Vec::new();
        let (receive_buffers, receive_buffer_bytes) =
            if clients <= FEW { BUFFERS_OF_FEW } else { BUFFERS_OF_MANY };
        for number in 0..count {
            let (_, address) = kinds[number as usize % kinds.len()];
            let config = SocketRingConfig {
                slots,
                receive_buffers,
                receive_buffer_bytes,
                receive_socket_bytes,
                to: SocketAddrV4::new(loopback(number / kinds.len() as u32), address.port()),
            };
            rings.push(
                SocketRing::open(&config)
                    .map_err(|e| format!("cannot open ring {number} for {slots} clients: {e}"))?,
            );
        }
        let mut bell = None;
        if count > 1 {
            let made = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC);
            let made = made.map_err(|e| format!("cannot make an eventfd: {e}"))?;
            for ring in &rings {
                ring.notify(&made).map_err(|e| format!("cannot register an eventfd: {e}"))?;
            }
            bell = Some(made);
        }
        let wires = (0..clients).map(|who| kinds[who as usize % count as usize % kinds.len()].0).collect();
        Ok(Self {
            rings,
            wires,
            bell,
            clock,
            dials: VecDeque::new(),
            greeting: 0,
            greeting_max: GREETING_MAX,
            unsettled: vec![false; clients as usize],
            due: BinaryHeap::new(),
            partial: BTreeMap::new(),
            ended: BTreeMap::new(),
            arena: Vec::new(),
            events: Vec::new(),
            reply: Reply::default(),
            secured: None,
            unreadable: 0,
        })
    }

    /// Speaks TLS on every connection from now on.
    pub fn secure(&mut self, secured: Secured) {
        self.secured = Some(secured);
    }

    /// Nanoseconds of the clock given to [`Swarm::open`].
    pub fn now_ns(&self) -> u64 {
        self.clock.elapsed().as_nanos() as u64
    }

    /// Dials these clients, as fast as they are greeted.
    pub fn dial(&mut self, who: std::ops::Range<u32>) {
        self.dials.extend(who);
    }

    /// From now on at most `max` connections are dialled and not yet greeted, 1 to 2,048; [`GREETING_MAX`] at the start.
    pub fn set_greeting_max(&mut self, max: usize) {
        self.greeting_max = max.clamp(1, GREETING_MAX_MAX);
    }

    /// Lets a client write outside of an event. `false` when it is not connected.
    pub fn write(&mut self, who: u32, act: impl FnOnce(&mut Reply)) -> bool {
        let (ring, slot) = self.place(who);
        let closed = self.secured.as_ref().is_some_and(|secured| !secured.is_open(who));
        let upgrading = self.wires[who as usize] == Wire::Upgrading;
        if self.rings[ring].outbox(slot).is_none() || upgrading || closed {
            return false;
        }
        self.answer(who, act);
        true
    }

    /// Reads nothing more from a client's connection, or reads again.
    pub fn set_deaf(&mut self, who: u32, deaf: bool) {
        let (ring, slot) = self.place(who);
        match deaf {
            true => self.rings[ring].stop_reading(slot),
            false => self.rings[ring].read_again(slot),
        }
    }

    /// Drops a client's connection with RST.
    pub fn abort(&mut self, who: u32) {
        let (ring, slot) = self.place(who);
        self.rings[ring].abort(slot);
    }

    /// Turns until `done` or until `end_ns`; whether it was done.
    pub fn run<C: Crowd>(&mut self, crowd: &mut C, end_ns: u64, done: impl Fn(&C) -> bool) -> bool {
        loop {
            if done(crowd) {
                return true;
            }
            let now = self.now_ns();
            if now >= end_ns {
                return false;
            }
            self.turn(crowd, end_ns);
        }
    }

    /// One turn; sleeps until something happens, but not beyond `until_ns`.
    pub fn turn<C: Crowd>(&mut self, crowd: &mut C, until_ns: u64) {
        let now = self.now_ns();
        self.take_due(crowd, now);
        while self.greeting < self.greeting_max
            && let Some(who) = self.dials.pop_front()
        {
            self.greeting += 1;
            self.unsettled[who as usize] = true;
            let (ring, slot) = self.place(who);
            self.rings[ring].dial(slot);
        }
        let next = self.due.peek().map_or(u64::MAX, |Reverse((at, ..))| *at);
        let sleep_ns = until_ns.min(next).saturating_sub(now).min(50_000_000);
        let single = self.bell.is_none();
        let mut any = false;
        for ring in 0..self.rings.len() {
            any |= self.turn_ring(ring, crowd, (single && sleep_ns > 0).then_some(sleep_ns));
        }
        if let Some(bell) = self.bell.as_ref().filter(|_| !any && sleep_ns > 0) {
            let limit = Timespec { tv_sec: 0, tv_nsec: sleep_ns as i64 };
            // An interruption or a time-out only means another turn.
            let _ = poll(&mut [PollFd::new(bell, PollFlags::IN)], Some(&limit));
            let _ = rustix::io::read(bell, &mut [0; 8]);
        }
    }

    fn place(&self, who: u32) -> (usize, u32) {
        let rings = self.rings.len() as u32;
        ((who % rings) as usize, who / rings)
    }

    fn take_due<C: Crowd>(&mut self, crowd: &mut C, now: u64) {
        while let Some(&Reverse((at, who, dial))) = self.due.peek()
            && at <= now
        {
            self.due.pop();
            if dial {
                self.dials.push_back(who);
            } else {
                self.write(who, |reply| crowd.again(who, now, reply));
            }
        }
    }

    fn turn_ring<C: Crowd>(&mut self, ring: usize, crowd: &mut C, wait_ns: Option<u64>) -> bool {
        let mut events = std::mem::take(&mut self.events);
        let mut arena = std::mem::take(&mut self.arena);
        let any = self.rings[ring].turn(wait_ns, &mut arena, &mut events);
        let now = self.now_ns();
        for event in events.drain(..) {
            let who = |slot: u32| slot * self.rings.len() as u32 + ring as u32;
            match event {
                SocketEvent::Connected { slot } => self.connected(who(slot), now, crowd),
                SocketEvent::Received { slot, from, len } => {
                    self.unwrap(who(slot), now, &arena[from..from + len], crowd);
                }
                SocketEvent::Ended { slot, errno } => {
                    self.ended.insert(who(slot), errno);
                    self.rings[ring].abort(slot);
                }
                SocketEvent::Closed { slot, errno } => self.closed(who(slot), now, errno, crowd),
                SocketEvent::Accepted { slot } => panic!("slot {slot} was accepted by a ring that dials"),
            }
        }
        arena.clear();
        (self.events, self.arena) = (events, arena);
        any
    }

    fn connected<C: Crowd>(&mut self, who: u32, now: u64, crowd: &mut C) {
        let (ring, slot) = self.place(who);
        if let (Some(secured), Some(out)) = (&mut self.secured, self.rings[ring].outbox(slot)) {
            return secured.begin(who, out);
        }
        if self.wires[who as usize] == Wire::Binary {
            return self.answer(who, |reply| crowd.connected(who, now, reply));
        }
        if let Some(out) = self.rings[ring].outbox(slot) {
            wire::request(out);
        }
    }

    /// Takes TLS off, where it is spoken.
    fn unwrap<C: Crowd>(&mut self, who: u32, now: u64, bytes: &[u8], crowd: &mut C) {
        let (ring, slot) = self.place(who);
        let Some(secured) = &mut self.secured else { return self.received(who, now, bytes, crowd) };
        let Some(out) = self.rings[ring].outbox(slot) else { return };
        let open = secured.is_open(who);
        let Ok(plain) = secured.opened(who, bytes, out) else {
            self.unreadable += 1;
            return self.rings[ring].abort(slot);
        };
        if !open && secured.is_open(who) {
            self.answer(who, |reply| crowd.connected(who, now, reply));
        }
        if !plain.is_empty() {
            self.received(who, now, &plain, crowd);
        }
        self.secured.as_mut().expect("it was there").give_back(plain);
    }

    fn received<C: Crowd>(&mut self, who: u32, now: u64, bytes: &[u8], crowd: &mut C) {
        let mut joined = self.partial.remove(&who);
        if let Some(joined) = &mut joined {
            joined.extend_from_slice(bytes);
        }
        let bytes = joined.as_deref().unwrap_or(bytes);
        let mut reply = std::mem::take(&mut self.reply);
        let wire = &mut self.wires[who as usize];
        let taken = wire.take(bytes, &mut |heard| match heard {
            Heard::Upgraded => crowd.connected(who, now, &mut reply),
            Heard::Frame(frame) => crowd.frame(who, now, frame, &mut reply),
        });
        match taken {
            Ok(taken) if taken < bytes.len() => drop(self.partial.insert(who, bytes[taken..].to_vec())),
            Ok(_) => {}
            Err(Unreadable) => {
                self.unreadable += 1;
                reply.leave = true;
            }
        }
        self.carry_out(who, &mut reply);
        self.reply = reply;
    }

    /// The slot is free: only now the client may dial again.
    fn closed<C: Crowd>(&mut self, who: u32, now: u64, errno: i32, crowd: &mut C) {
        self.partial.remove(&who);
        if let Some(secured) = &mut self.secured {
            secured.end(who);
        }
        self.settle(who);
        let wire = &mut self.wires[who as usize];
        if *wire != Wire::Binary {
            *wire = Wire::Upgrading;
        }
        let errno = self.ended.remove(&who).unwrap_or(errno);
        if let Some(at) = crowd.gone(who, now, errno) {
            self.due.push(Reverse((at, who, true)));
        }
    }

    fn answer(&mut self, who: u32, act: impl FnOnce(&mut Reply)) {
        let mut reply = std::mem::take(&mut self.reply);
        act(&mut reply);
        self.carry_out(who, &mut reply);
        self.reply = reply;
    }

    /// Does what a client wants and leaves the reply empty.
    fn carry_out(&mut self, who: u32, reply: &mut Reply) {
        let (ring, slot) = self.place(who);
        if !reply.frames.is_empty() {
            match (&mut self.secured, self.rings[ring].outbox(slot)) {
                (Some(secured), Some(out)) => secured.seal(who, &reply.frames, out),
                (None, Some(out)) => self.wires[who as usize].wrap(&reply.frames, out),
                (_, None) => {}
            }
            reply.frames.clear();
        }
        if std::mem::take(&mut reply.settled) {
            self.settle(who);
        }
        if let Some(at) = reply.again_ns.take() {
            self.due.push(Reverse((at, who, false)));
        }
        if std::mem::take(&mut reply.leave) {
            self.rings[ring].abort(slot);
        }
    }

    fn settle(&mut self, who: u32) {
        self.greeting -= usize::from(std::mem::take(&mut self.unsettled[who as usize]));
    }
}

/// The first of the loopback addresses that ring `number` dials: 64 for each.
fn loopback(number: u32) -> Ipv4Addr {
    const { assert!(PER_RING_MAX.div_ceil(SLOTS_PER_ADDRESS) <= 64) };
    Ipv4Addr::from(0x7f00_0001 + number * 64)
}

#[cfg(test)]
mod tests;
