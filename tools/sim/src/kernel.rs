//! The environment behind the kernel seam: it carries operations out in virtual time, late, in another order,
//! shortened, or not at all.
//!
//! This is no second implementation of anything of ours: it knows files, sockets and descriptors, and checks the
//! rules of the seam from outside. Buffers are read when an operation completes, not when it is submitted, so a
//! buffer reused too early shows up as corrupt bytes at a client, or as a write whose content changed in flight.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use ringdesk_persist::Pages;
use ringdesk_uring::buffers::Buffers;
use ringdesk_uring::kernel::{Completion, Kernel, KernelFailure, Op, WOKEN, Waker, arrival};

use crate::disk::{Crash, SimDisk};
use crate::net::{LinkId, Read, SimNet, earliest};
use crate::plan::{ENTRIES, Faults, Sizes};
use crate::rng::{Rng, RunHash};

mod disk_ops;
mod pass;

const EINTR: i32 = 4;
const EIO: i32 = 5;
const EAGAIN: i32 = 11;
const ENFILE: i32 = 23;
const ENOSPC: i32 = 28;
const EPIPE: i32 = 32;
const ECONNRESET: i32 = 104;
const ENOBUFS: i32 = 105;
const ENOTCONN: i32 = 107;
const ECANCELED: i32 = 125;

/// Largest number of bytes one receive brings: one provided buffer.
const RECEIVE_BYTES_MAX: usize = 512;

macro_rules! bites {
    ($($(#[$meta:meta])* $name:ident,)*) => {
        /// How often each fault was really carried out, so that a plan that never bites is noticed.
        #[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
        pub struct Bites {
            $($(#[$meta])* pub $name: u64,)*
        }

        impl Bites {
            /// Every count with its name.
            pub fn named(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name)),*]
            }
        }

        impl std::ops::AddAssign for Bites {
            fn add_assign(&mut self, other: Self) {
                $(self.$name += other.$name;)*
            }
        }
    };
}

bites! {
    /// Receives cut short.
    short_receives,
    /// Sends cut short.
    short_sends,
    /// Disk operations cut short.
    short_disk,
    /// Multishot operations ended.
    multishot_ends,
    /// ENOBUFS.
    no_buffers,
    /// EINTR and EAGAIN.
    interrupts,
    /// EIO.
    eio,
    /// ENOSPC, once.
    enospc,
    /// ENOSPC, of a disk that stays full.
    disk_full,
    /// Hand-overs refused.
    hand_overs_refused,
    /// Hand-overs done.
    hand_overs,
    /// Accepts refused for want of an entry.
    table_full,
    /// Operations that ended as cancelled.
    cancelled,
    /// Sends that found too little room in the socket.
    blocked_sends,
    /// Writes in flight when the machine stopped.
    writes_torn,
    /// Reaps whose completions were reordered.
    reorders,
}

/// One operation in flight.
#[derive(Debug)]
struct InFlight {
    /// Order of submission.
    number: u64,
    user: u64,
    op: Op,
    /// Not completed before.
    due: u64,
    cancel_at: Option<u64>,
    /// What a disk operation writes, as it was at submission.
    data: Vec<u8>,
}

/// The kernel's side of one shard.
#[derive(Default, Debug)]
struct Side {
    entries: Vec<Option<LinkId>>,
    ops: Vec<InFlight>,
    woken_at: Option<u64>,
    /// Descriptors handed over to this shard: when they show up, token, entry.
    arrivals: Vec<(u64, u64, u32)>,
    submitted: u64,
}

/// Everything outside the shards.
#[derive(Debug)]
pub struct Env {
    /// Virtual time, nanoseconds.
    pub now: u64,
    /// Chance of the kernel, the disk and the network.
    pub rng: Rng,
    /// Faults in force.
    pub faults: Faults,
    /// The disk.
    pub disk: SimDisk,
    /// The network.
    pub net: SimNet,
    /// Digest of the run.
    pub hash: RunHash,
    /// Faults carried out.
    pub bites: Bites,
    /// Disk writes begun, zero fill not counted, since the process started.
    pub writes_begun: u64,
    /// Entries of each descriptor table that can be used now.
    pub entries_usable: u32,
    sides: Vec<Side>,
}

impl Env {
    /// A world without files, connections or shards.
    pub fn new(rng: Rng, faults: Faults, sizes: &Sizes) -> Self {
        Self {
            now: 0,
            rng,
            faults,
            disk: SimDisk::default(),
            net: SimNet::default(),
            hash: RunHash::default(),
            bites: Bites::default(),
            writes_begun: 0,
            entries_usable: sizes.entries,
            sides: Vec::new(),
        }
    }

    /// A process with this many shards starts.
    pub fn start(&mut self, shards: u16) {
        self.sides.clear();
        self.sides.resize_with(usize::from(shards), || Side {
            entries: vec![None; ENTRIES as usize],
            ..Side::default()
        });
        self.writes_begun = 0;
    }

    /// The machine or the process stops. The caller drops the shards without running them again.
    pub fn crash(&mut self, crash: Crash) {
        for side in std::mem::take(&mut self.sides) {
            for flight in side.ops {
                match flight.op {
                    Op::Write { log, segment, offset, .. } => {
                        self.bites.writes_torn += 1;
                        self.disk.crash_write((log, segment), offset, &flight.data, crash, &mut self.rng);
                    }
                    Op::Create { log, segment, bytes, .. } => {
                        self.disk.crash_create((log, segment), bytes as usize, &flight.data, &mut self.rng);
                    }
                    Op::Sync { log, segment } if self.rng.one_in(2) => drop(self.disk.sync((log, segment))),
                    _ => {}
                }
            }
        }
        self.disk.crash(crash, &mut self.rng);
        self.net.engine_crash(self.now, 20_000_000, &mut self.rng);
    }

    /// When something of a shard completes next.
    pub fn next_due(&self, shard: u16) -> Option<u64> {
        let side = &self.sides[usize::from(shard)];
        let mut next = side.woken_at;
        for &(at, ..) in &side.arrivals {
            next = earliest(next, Some(at));
        }
        for flight in &side.ops {
            next = earliest(next, self.due(shard, side, flight));
        }
        next
    }

    fn due(&self, shard: u16, side: &Side, flight: &InFlight) -> Option<u64> {
        let ready = match flight.op {
            Op::AcceptMulti { listener } => self.net.knock_at(shard, listener),
            Op::Receive { entry, .. } => self.net.engine_readable_at(side.link(entry)),
            Op::Send { entry, .. } => match self.net.engine_room(side.link(entry), self.now) {
                Some(0) => None,
                _ => Some(0),
            },
            _ => Some(0),
        };
        earliest(ready.map(|at| at.max(flight.due)), flight.cancel_at)
    }

    fn latency(&mut self, op: &Op, shard: u16) -> u64 {
        let (low, high) = match op {
            Op::Create { .. } | Op::Write { .. } | Op::Read { .. } | Op::Sync { .. } => self.faults.disk_ns,
            _ => self.faults.op_ns,
        };
        let slow = match (op, self.faults.slow_disk) {
            (Op::Write { .. } | Op::Sync { .. }, Some((slow, times))) if slow == shard => times,
            _ => 1,
        };
        self.rng.range(low, high) * slow
    }

    fn submit(&mut self, shard: u16, user: u64, op: Op, buffers: &Buffers) {
        let due = self.now + self.latency(&op, shard);
        match op {
            Op::Wake { shard } => {
                let side = &mut self.sides[usize::from(shard)];
                side.woken_at = earliest(side.woken_at, Some(due));
                return;
            }
            Op::Cancel { target } => {
                let side = &mut self.sides[usize::from(shard)];
                if let Some(flight) = side.ops.iter_mut().find(|flight| flight.user == target) {
                    flight.cancel_at = earliest(flight.cancel_at, Some(due));
                }
            }
            Op::Shutdown { entry } => {
                let side = &self.sides[usize::from(shard)];
                let sending =
                    |flight: &InFlight| matches!(flight.op, Op::Send { entry: on, .. } if on == entry);
                assert!(!side.ops.iter().any(sending), "{op:?} while a send is out on the entry");
            }
            Op::Close { entry } | Op::SendDescriptor { entry, .. } => {
                let side = &self.sides[usize::from(shard)];
                let busy = side.ops.iter().find(|flight| flight.op_entry() == Some(entry));
                assert!(busy.is_none(), "{op:?} while {busy:?} is out on the entry");
            }
            _ => {}
        }
        let data = self.begin_disk(shard, &op, buffers);
        let side = &mut self.sides[usize::from(shard)];
        let twin = side.ops.iter().any(|flight| flight.user == user);
        // Cancellations may share a name: their completion says nothing.
        assert!(!twin || matches!(op, Op::Cancel { .. }), "two operations with user {user:#x}");
        side.submitted += 1;
        side.ops.push(InFlight { number: side.submitted, user, op, due, cancel_at: None, data });
    }

    /// Copies what a disk operation writes, and checks that one append is in flight at most.
    fn begin_disk(&mut self, shard: u16, op: &Op, buffers: &Buffers) -> Vec<u8> {
        match *op {
            Op::Create { header, .. } => buffers.lent(header).to_vec(),
            Op::Write { log, buffer, from, len, .. } => {
                let data = buffers.lent(buffer)[from as usize..(from + len) as usize].to_vec();
                if data.iter().any(|byte| *byte != 0) {
                    self.writes_begun += 1;
                    let other = self.sides.iter().flat_map(|side| &side.ops).find(|flight| {
                        matches!(flight.op, Op::Write { log: other, .. } if other == log)
                            && flight.data.iter().any(|byte| *byte != 0)
                    });
                    assert!(other.is_none(), "shard {shard}: a second append is in flight: {other:?}");
                }
                data
            }
            _ => Vec::new(),
        }
    }

    fn reap(&mut self, shard: u16, buffers: &mut Buffers, arena: &mut Vec<u8>, out: &mut Vec<Completion>) {
        let at = usize::from(shard);
        let mut side = std::mem::take(&mut self.sides[at]);
        if side.woken_at.is_some_and(|due| due <= self.now) {
            side.woken_at = None;
            out.push(Completion { user: WOKEN, result: 0, more: false, bytes: None });
        }
        side.arrivals.retain(|&(due, token, entry)| {
            if due <= self.now {
                let user = arrival(token);
                out.push(Completion { user, result: entry as i32, more: false, bytes: None });
            }
            due > self.now
        });
        let due = |env: &Self, side: &Side, flight: &InFlight| {
            env.due(shard, side, flight).is_some_and(|due| due <= env.now)
        };
        let mut ready: Vec<u64> =
            side.ops.iter().filter(|op| due(self, &side, op)).map(|op| op.number).collect();
        if ready.len() > 1 && self.rng.ppm(self.faults.reorder_ppm) {
            self.bites.reorders += 1;
            for last in (1..ready.len()).rev() {
                ready.swap(last, self.rng.index(last + 1));
            }
            ready.truncate(1 + self.rng.index(ready.len()));
        }
        for number in ready {
            let index =
                side.ops.iter().position(|op| op.number == number).expect("a ready operation is in flight");
            // An earlier completion of this round may have taken what this one was ready for.
            if !due(self, &side, &side.ops[index]) {
                continue;
            }
            let mut flight = side.ops.swap_remove(index);
            let done = self.finish(shard, &mut side, &mut flight, buffers, arena);
            let Some(done) = done else {
                side.ops.push(flight);
                continue;
            };
            if done.more {
                flight.due = self.now;
                side.ops.push(flight);
            }
            out.push(done);
        }
        self.sides[at] = side;
    }

    /// Carries one operation out, or a piece of it. `None`: it turned out that it must wait.
    fn finish(
        &mut self,
        shard: u16,
        side: &mut Side,
        flight: &mut InFlight,
        buffers: &mut Buffers,
        arena: &mut Vec<u8>,
    ) -> Option<Completion> {
        let user = flight.user;
        let plain = |result: i32| Some(Completion { user, result, more: false, bytes: None });
        if flight.cancel_at.is_some_and(|at| at <= self.now) {
            self.bites.cancelled += 1;
            return plain(-ECANCELED);
        }
        match flight.op {
            Op::AcceptMulti { listener } => self.accept(shard, side, user, listener),
            Op::Receive { entry, once } => self.receive(side, user, entry, once, arena),
            Op::Send { entry, .. } => {
                let result = self.send(side.link(entry), flight, buffers)?;
                plain(result)
            }
            Op::Cancel { .. } => plain(0),
            Op::Shutdown { entry } => {
                let arrives = self.now + self.net_latency();
                plain(if self.net.engine_shutdown(side.link(entry), self.now, arrives) {
                    0
                } else {
                    -ENOTCONN
                })
            }
            Op::Close { entry } => {
                let link = side.entries[entry as usize].take().expect("a closed entry was open");
                let arrives = self.now + self.net_latency();
                self.net.engine_close(link, self.now, arrives);
                plain(0)
            }
            Op::SendDescriptor { entry, to, token } => plain(self.hand_over(side, entry, to, token)),
            Op::Wake { .. } => unreachable!("wakes complete on the other side"),
            Op::Create { .. } | Op::Sync { .. } | Op::Write { .. } | Op::Read { .. } => {
                plain(self.disk_op(flight, buffers))
            }
        }
    }

    fn net_latency(&mut self) -> u64 {
        let (low, high) = self.faults.net_ns;
        self.rng.range(low, high)
    }

    fn accept(&mut self, shard: u16, side: &mut Side, user: u64, listener: u16) -> Option<Completion> {
        let Some(entry) = side.free_entry(self.entries_usable) else {
            self.bites.table_full += 1;
            return Some(Completion { user, result: -ENFILE, more: false, bytes: None });
        };
        let link = self.net.accept(self.now, shard, listener)?;
        side.entries[entry] = Some(link);
        let more = !self.bite(self.faults.multishot_end_ppm, |bites| &mut bites.multishot_ends);
        Some(Completion { user, result: entry as i32, more, bytes: None })
    }

    fn receive(
        &mut self,
        side: &Side,
        user: u64,
        entry: u32,
        once: bool,
        arena: &mut Vec<u8>,
    ) -> Option<Completion> {
        let plain = |result: i32| Some(Completion { user, result, more: false, bytes: None });
        if self.bite(self.faults.no_buffers_ppm, |bites| &mut bites.no_buffers) {
            return plain(-ENOBUFS);
        }
        if self.bite(self.faults.interrupt_ppm, |bites| &mut bites.interrupts) {
            return plain(if self.rng.one_in(2) { -EINTR } else { -EAGAIN });
        }
        let mut max = RECEIVE_BYTES_MAX;
        if self.bite(self.faults.short_receive_ppm, |bites| &mut bites.short_receives) {
            let most = if self.rng.one_in(2) { 8 } else { 64 };
            max = 1 + self.rng.index(most);
        }
        match self.net.engine_read(side.link(entry), self.now, max) {
            Read::Nothing => None,
            Read::End => plain(0),
            Read::Reset => plain(-ECONNRESET),
            Read::Bytes(bytes) => {
                let start = arena.len() as u32;
                arena.extend_from_slice(&bytes);
                let end = self.bite(self.faults.multishot_end_ppm, |bites| &mut bites.multishot_ends);
                Some(Completion { user, result: bytes.len() as i32, more: !once && !end, bytes: Some(start) })
            }
        }
    }

    fn send(&mut self, link: LinkId, flight: &InFlight, buffers: &Buffers) -> Option<i32> {
        let Op::Send { buffer, from, len, .. } = flight.op else { unreachable!("only sends are sent") };
        if self.bite(self.faults.interrupt_ppm, |bites| &mut bites.interrupts) {
            return Some(-EINTR);
        }
        let Some(room) = self.net.engine_room(link, self.now) else {
            return Some(if self.rng.one_in(2) { -ECONNRESET } else { -EPIPE });
        };
        if room == 0 {
            return None;
        }
        let mut sent = room.min(len as usize);
        self.bites.blocked_sends += u64::from(sent < len as usize);
        if sent > 1 && self.bite(self.faults.short_send_ppm, |bites| &mut bites.short_sends) {
            sent = 1 + self.rng.index(sent);
        }
        let arrives = self.now + self.net_latency();
        let bytes = &buffers.lent(buffer)[from as usize..from as usize + sent];
        self.net.engine_write(link, bytes, arrives);
        Some(sent as i32)
    }

    fn hand_over(&mut self, source: &Side, entry: u32, to: u16, token: u64) -> i32 {
        let refused = self.bite(self.faults.hand_over_full_ppm, |bites| &mut bites.hand_overs_refused);
        let link = source.link(entry);
        let due = self.now + self.latency(&Op::Wake { shard: to }, to);
        let target = &mut self.sides[usize::from(to)];
        let free = target.free_entry(self.entries_usable);
        let Some(free) = free.filter(|_| !refused) else { return -ENFILE };
        target.entries[free] = Some(link);
        target.arrivals.push((due, token, free as u32));
        self.net.engine_share(link);
        self.bites.hand_overs += 1;
        0
    }

    fn bite(&mut self, ppm: u32, count: impl FnOnce(&mut Bites) -> &mut u64) -> bool {
        let bites = self.rng.ppm(ppm);
        if bites {
            *count(&mut self.bites) += 1;
        }
        bites
    }
}

impl Side {
    fn free_entry(&self, usable: u32) -> Option<usize> {
        self.entries[..usable as usize].iter().position(Option::is_none)
    }

    fn link(&self, entry: u32) -> LinkId {
        self.entries[entry as usize]
            .unwrap_or_else(|| panic!("an operation on entry {entry}, which is closed"))
    }
}

impl InFlight {
    fn op_entry(&self) -> Option<u32> {
        match self.op {
            Op::Receive { entry, .. }
            | Op::Send { entry, .. }
            | Op::Shutdown { entry }
            | Op::Close { entry }
            | Op::SendDescriptor { entry, .. } => Some(entry),
            _ => None,
        }
    }
}

/// One shard's handle on the environment.
#[derive(Debug)]
pub struct SimKernel {
    shard: u16,
    env: Rc<RefCell<Env>>,
}

impl SimKernel {
    /// The kernel of a shard that [`Env::start`] made room for.
    pub fn new(shard: u16, env: Rc<RefCell<Env>>) -> Self {
        Self { shard, env }
    }
}

/// Nobody calls from another thread: there is none.
struct NoWaker;

impl Waker for NoWaker {
    fn wake(&self) {}
}

impl Kernel for SimKernel {
    fn entries(&self) -> u32 {
        ENTRIES
    }

    fn log_pages(&mut self) -> Vec<Pages> {
        (0..3).map(|number| Pages::numbered(16 << 10, number)).collect()
    }

    fn submit(&mut self, user: u64, op: Op, buffers: &mut Buffers) {
        self.env.borrow_mut().submit(self.shard, user, op, buffers);
    }

    fn enter(&mut self, _wait_ns: Option<u64>) -> Result<(), KernelFailure> {
        // Everything was handed over at submission, and sleeping is the world's affair.
        Ok(())
    }

    fn reap(&mut self, buffers: &mut Buffers, arena: &mut Vec<u8>, out: &mut Vec<Completion>) {
        self.env.borrow_mut().reap(self.shard, buffers, arena, out);
    }

    fn waker(&self) -> Arc<dyn Waker> {
        Arc::new(NoWaker)
    }
}
