//! Operations in, completions out.
//!
//! `user` values of the table pass through, except where one operation takes two entries of the ring (a buffered
//! write and its sync), or an entry is nobody's business but ours (the eventfd's read, wake-ups). Those carry
//! `KIND_KERNEL`.

use std::collections::VecDeque;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use io_uring::squeue::Flags;
use io_uring::types::{DestinationSlot, Fd, Fixed, FsyncFlags};
use io_uring::{cqueue, opcode};
use ringdesk_persist::Pages;

use super::fleet::{Bell, Fleet, Target};
use super::provided::{GROUP, Mapping};
use super::registered;
use super::ring::Ring;
use super::segments::{Key, Landed, Segments};
use super::setup::{Features, OpenError, SysConfig};
use crate::buffers::Buffers;
use crate::files::{Durability, FileThread, probe_direct};
use crate::kernel::{
    Completion, KIND_ACCEPT, KIND_ARRIVED, KIND_CLOSE, KIND_KERNEL, KIND_SHIFT, Kernel, KernelFailure, Op,
    WOKEN, Waker, arrival,
};

const STAGE_SHIFT: u32 = 56;
const BELL: u64 = 1;
const FILE: u64 = 2;
const SYNC: u64 = 3;
/// Completes, and nobody wants to know.
const QUIET: u64 = 4;
/// Completes only if it fails, and nobody wants to know.
const SILENT: u64 = 5;
const ANNEX: u64 = 6;
/// A descriptor of the process for an entry of the table; see `transfer`.
pub(super) const INSTALL: u64 = 7;

pub(super) fn internal(stage: u64, index: u32) -> u64 {
    (KIND_KERNEL << KIND_SHIFT) | (stage << STAGE_SHIFT) | u64::from(index)
}

/// A file operation in the ring: one entry, or two for a buffered write.
#[derive(Clone, Copy, Debug)]
struct FileFlight {
    user: u64,
    key: Key,
    parts_left: u8,
    result: i32,
    sync_result: i32,
}

/// One shard's rings. Opened and used by the same thread, which `PhantomData<Rc<()>>` enforces.
pub struct SysKernel {
    /// The first does everything; the others carry connections. Before the memory below: operations end before it is
    /// unmapped.
    pub(super) rings: Vec<Ring>,
    shard: u16,
    pub(super) features: Features,
    durability: Durability,
    notices: Vec<String>,
    completions_per_turn: usize,
    fleet: Arc<Fleet>,
    pub(super) listeners: Vec<OwnedFd>,
    /// The ring each listener's accept was armed on last, and the `user` value of that operation.
    pub(super) accepting: Vec<(usize, u64)>,
    bell_memory: Option<Mapping>,
    /// A read of the annexes' eventfd is out.
    annex_bell_read: bool,
    segments: Segments,
    flights: Vec<Option<FileFlight>>,
    flights_free: Vec<u32>,
    /// Completions that did not come from the ring.
    pub(super) local: VecDeque<Completion>,
    /// Results of installs that are out, by place; `None` until the kernel says.
    pub(super) installs: Vec<Option<i32>>,
    batch: Vec<cqueue::Entry>,
    one_thread: PhantomData<Rc<()>>,
}

impl SysKernel {
    /// Opens the rings of a shard on the calling thread. `listeners` are numbered in order by
    /// [`Op::AcceptMulti`]. Also starts the shard's file thread and tries a direct write in the data folder.
    pub fn open(config: &SysConfig, fleet: Arc<Fleet>, listeners: Vec<OwnedFd>) -> Result<Self, OpenError> {
        let (rings, mut features, mut notices) = open_rings(config, &fleet)?;
        let mut durability = Durability::Buffered;
        if let Some(known) = config.durability {
            durability = known;
            features.direct_io &= known == Durability::Direct;
        } else if features.direct_io {
            durability = probe_direct(&config.data, config.shard)
                .map_err(OpenError::step("write a file in the data folder"))?;
            if durability == Durability::Buffered {
                features.direct_io = false;
                notices
                    .push("the data folder's file system refuses direct writes: fdatasync after each".into());
            }
        }
        let bell = Arc::new(Bell { fleet: Arc::clone(&fleet), shard: config.shard });
        let thread = FileThread::start(&config.data, durability, bell)
            .map_err(OpenError::step("start the file thread"))?;
        let bell_memory = Mapping::new(16).map_err(OpenError::step("map the wake-up counter"))?;
        let target =
            |ring: &Ring| Target { ring: ring.descriptor(), entries: ring.entries, used: ring.used_count() };
        fleet.set_rings(config.shard, rings.iter().map(target).collect());
        let mut kernel = Self {
            rings,
            shard: config.shard,
            features,
            durability,
            notices,
            completions_per_turn: config.completions_per_turn,
            fleet,
            accepting: vec![(0, 0); listeners.len()],
            listeners,
            bell_memory: Some(bell_memory),
            annex_bell_read: false,
            segments: Segments::new(thread),
            flights: Vec::new(),
            flights_free: Vec::new(),
            local: VecDeque::new(),
            installs: Vec::new(),
            batch: Vec::new(),
            one_thread: PhantomData,
        };
        kernel.listen_for_bell();
        Ok(kernel)
    }

    /// What these rings have.
    pub fn features(&self) -> Features {
        self.features
    }

    /// Number of rings.
    pub fn rings(&self) -> usize {
        self.rings.len()
    }

    /// A sentence for each thing that had to be done without.
    pub fn notices(&self) -> &[String] {
        &self.notices
    }

    /// Writes to the log that went out of registered memory.
    pub fn registered_writes(&self) -> u64 {
        self.rings[0].registered.writes()
    }

    fn first(&mut self) -> &mut Ring {
        &mut self.rings[0]
    }

    /// The ring that holds an entry of the shard's table, and the entry's number there.
    pub(super) fn place(&mut self, entry: u32) -> (&mut Ring, u32) {
        let each = self.rings[0].entries;
        let ring = &mut self.rings[(entry / each) as usize];
        (ring, entry % each)
    }

    /// The first ring with room for what a listener may bring in one go, so that few rings are busy; else the one
    /// with most room.
    fn ring_for_accepts(&self) -> usize {
        let roomy = self.rings.iter().position(|ring| ring.used() + accept_reserve(ring) < ring.entries);
        let most = || {
            (0..self.rings.len())
                .max_by_key(|at| self.rings[*at].entries.saturating_sub(self.rings[*at].used()))
        };
        roomy.or_else(most).expect("a shard has a ring")
    }

    fn accept(&mut self, user: u64, listener: u16) {
        let number = usize::from(listener);
        let at = self.ring_for_accepts();
        self.accepting[number] = (at, user);
        let socket = Fd(self.listeners[number].as_raw_fd());
        let entry = opcode::AcceptMulti::new(socket).allocate_file_index(true).build();
        self.rings[at].push(&entry.user_data(user), true);
    }

    /// A ring is filling up: its accepts end, and the table arms them again, on another ring.
    fn move_accepts(&mut self, from: usize) {
        if self.ring_for_accepts() == from {
            return;
        }
        for listener in 0..self.accepting.len() {
            let (at, user) = self.accepting[listener];
            if at == from {
                let cancel = opcode::AsyncCancel::new(user).build();
                self.rings[from].push(&cancel.user_data(internal(QUIET, 0)), true);
            }
        }
    }

    fn listen_for_bell(&mut self) {
        let at = self.bell_memory.as_ref().expect("the counter lives until the drop").start();
        let read = opcode::Read::new(Fd(self.fleet.bell(self.shard)), at, 8).build();
        self.first().push(&read.user_data(internal(BELL, 0)), true);
    }

    /// Before a sleep: completions of the annexes shall end it. `false`: there are some already.
    fn listen_for_annexes(&mut self) -> bool {
        if self.rings.len() == 1 {
            return true;
        }
        if !self.annex_bell_read {
            self.annex_bell_read = true;
            let memory = self.bell_memory.as_ref().expect("the counters live until the drop");
            // The second half of the mapping.
            let at = memory.start().wrapping_add(8);
            let read = opcode::Read::new(Fd(self.fleet.annex_bell(self.shard)), at, 8).build();
            self.first().push(&read.user_data(internal(ANNEX, 0)), true);
        }
        for annex in &mut self.rings[1..] {
            annex.set_bell(true);
        }
        // After the bells are on, so that nothing falls between.
        !self.rings[1..].iter_mut().any(Ring::has_news)
    }

    fn wake(&mut self, shard: u16) {
        match self.fleet.ring(shard) {
            Some(ring) if self.features.msg_ring_wake => {
                let message = opcode::MsgRingData::new(Fd(ring), 0, WOKEN, None).build();
                // A completion comes only if it fails: the shard is gone, and nobody waits for it.
                let message = message.flags(Flags::SKIP_SUCCESS).user_data(internal(SILENT, 0));
                self.first().push(&message, false);
            }
            // Not open yet: it looks at its lanes before it first sleeps. The bell does no harm.
            _ => self.fleet.ring_bell(shard),
        }
    }

    fn send_descriptor(&mut self, user: u64, entry: u32, to: u16, token: u64) {
        let Some(target) = self.fleet.target(to) else {
            self.finish_locally(user, -libc::ENXIO);
            return;
        };
        let (ring, local) = self.place(entry);
        let slot = DestinationSlot::auto_target();
        let message = opcode::MsgRingSendFd::new(Fd(target), Fixed(local), slot, arrival(token)).build();
        ring.push(&message.user_data(user), true);
    }

    fn finish_locally(&mut self, user: u64, result: i32) {
        self.local.push_back(Completion { user, result, more: false, bytes: None });
    }

    fn file_op(&mut self, user: u64, key: Key, op: Op, buffers: &mut Buffers) {
        let Some(fd) = self.segments.take(key) else {
            self.segments.park(key, user, op);
            return;
        };
        let two = matches!(op, Op::Write { .. }) && self.durability == Durability::Buffered;
        let flight = FileFlight { user, key, parts_left: 1 + u8::from(two), result: 0, sync_result: 0 };
        let index = self.insert_flight(flight);
        let sync = opcode::Fsync::new(Fd(fd)).flags(FsyncFlags::DATASYNC).build();
        let entry = match op {
            Op::Write { offset, buffer, from, len, .. } => {
                let bytes = &buffers.lent(buffer)[from as usize..][..len as usize];
                self.rings[0].registered.write(fd, buffers.number(buffer), bytes, offset)
            }
            Op::Read { offset, buffer, from, len, .. } => {
                let bytes = &mut buffers.lent_mut(buffer)[from as usize..][..len as usize];
                opcode::Read::new(Fd(fd), bytes.as_mut_ptr(), len).offset(offset).build()
            }
            Op::Sync { .. } => sync.clone(),
            other => panic!("{other:?} is not an operation on an open file"),
        };
        let entry = entry.user_data(internal(FILE, index));
        if two {
            let ring = self.first();
            if ring.room() < 2 {
                ring.flush(); // A link does not reach over two calls.
            }
            ring.push(&entry.flags(Flags::IO_LINK), true);
            ring.push(&sync.user_data(internal(SYNC, index)), true);
        } else {
            self.first().push(&entry, true);
        }
    }

    fn insert_flight(&mut self, flight: FileFlight) -> u32 {
        match self.flights_free.pop() {
            Some(index) => {
                self.flights[index as usize] = Some(flight);
                index
            }
            None => {
                self.flights.push(Some(flight));
                (self.flights.len() - 1) as u32
            }
        }
    }

    /// One of the entries of a file operation completed; gives the operation's completion after the last.
    fn file_part(&mut self, stage: u64, index: u32, result: i32) -> Option<Completion> {
        let place = &mut self.flights[index as usize];
        let flight = place.as_mut().expect("a file operation that is out");
        flight.parts_left -= 1;
        match stage {
            SYNC => flight.sync_result = result,
            _ => flight.result = result,
        }
        if flight.parts_left > 0 {
            return None;
        }
        let FileFlight { user, key, result, sync_result, .. } = *flight;
        *place = None;
        self.flights_free.push(index);
        self.segments.release(key);
        // A failed or short write cuts its link: the sync was cancelled, and the write's own result tells more.
        let cut = result < 0 || sync_result == -libc::ECANCELED;
        let result = if cut || sync_result == 0 { result } else { sync_result };
        Some(Completion { user, result, more: false, bytes: None })
    }

    /// Ends of file jobs: completions, and operations that can go on.
    fn take_landed(&mut self, buffers: &mut Buffers) {
        while let Some(landed) = self.segments.landed() {
            match landed {
                Landed::Created { user, result } => self.finish_locally(user, result),
                Landed::Opened { result, parked } => {
                    for (user, op) in parked {
                        if result < 0 {
                            self.finish_locally(user, result);
                        } else {
                            self.submit(user, op, buffers);
                        }
                    }
                }
            }
        }
    }

    /// Turns one entry of the completion queue of ring `at` into a completion for the table, if it is one.
    pub(super) fn translate(
        &mut self,
        at: usize,
        entry: &cqueue::Entry,
        arena: &mut Vec<u8>,
    ) -> Option<Completion> {
        let (user, mut result, flags) = (entry.user_data(), entry.result(), entry.flags());
        let more = cqueue::more(flags);
        if ends_operation(entry) {
            self.rings[at].ended();
        }
        let kind = user >> KIND_SHIFT;
        if kind == KIND_KERNEL {
            match (user >> STAGE_SHIFT) & 0xf {
                BELL => {
                    self.listen_for_bell();
                    return Some(Completion { user: WOKEN, result: 0, more: false, bytes: None });
                }
                stage @ (FILE | SYNC) => return self.file_part(stage, user as u32, result),
                ANNEX => {
                    self.annex_bell_read = false;
                    return None;
                }
                QUIET | SILENT => return None,
                INSTALL => {
                    self.installs[user as u32 as usize] = Some(result);
                    return None;
                }
                _ => panic!("completion of an unknown stage: {entry:?}"),
            }
        }
        let mut bytes = None;
        if let Some(id) = cqueue::buffer_select(flags) {
            let provided = self.rings[at].provided();
            if let Ok(len @ 1..) = usize::try_from(result) {
                bytes = Some(u32::try_from(arena.len()).expect("less than 4 GiB received in a turn"));
                arena.extend_from_slice(provided.bytes(id, len));
            }
            provided.give_back(id);
        }
        if kind == KIND_ARRIVED || kind == KIND_ACCEPT {
            result = self.place_taken(at, kind, result);
        }
        if kind == KIND_CLOSE {
            self.rings[at].vacated();
        }
        Some(Completion { user, result, more, bytes })
    }

    /// A connection came into ring `at`, or the accept there ended: the result as the shard's table counts.
    fn place_taken(&mut self, at: usize, kind: u64, result: i32) -> i32 {
        let Ok(local) = u32::try_from(result) else {
            // An accept that `move_accepts` ended has lost nothing; the table arms it again at once.
            return if kind == KIND_ACCEPT && result == -libc::ECANCELED { -libc::EAGAIN } else { result };
        };
        let ring = &self.rings[at];
        ring.occupied();
        let (entry, filled) = (ring.base + local, ring.used() + accept_reserve(ring) == ring.entries);
        if filled {
            self.move_accepts(at);
        }
        i32::try_from(entry).expect("fewer than 2^31 connections")
    }
}

/// Entries of a ring's table that accepts leave to connections handed over from other shards; also what one go of a
/// listener may bring before its accept is moved.
pub(super) fn accept_reserve(ring: &Ring) -> u32 {
    (ring.entries / 4).min(4096)
}

/// Whether a completion is the last of something that was pushed as completing.
fn ends_operation(entry: &cqueue::Entry) -> bool {
    let user = entry.user_data();
    let kind = user >> KIND_SHIFT;
    let silent = kind == KIND_KERNEL && (user >> STAGE_SHIFT) & 0xf == SILENT;
    !cqueue::more(entry.flags()) && user != WOKEN && kind != KIND_ARRIVED && !silent
}

/// The ring that does everything, and as many annexes as the connections need.
fn open_rings(config: &SysConfig, fleet: &Fleet) -> Result<(Vec<Ring>, Features, Vec<String>), OpenError> {
    let mut wanted = config.clone();
    let mut notices = Vec::new();
    if config.features.registered_buffers {
        registered::bound(&mut wanted, fleet.shards(), &mut notices);
    }
    let (first, features, of_first) = Ring::open(&wanted, 0, None)?;
    notices.extend(of_first);
    let each = first.entries;
    let mut rings = vec![first];
    // What the kernel took for the first ring is what the others ask for: no second round of giving up.
    let mut annex = SysConfig { features, table_entries: each, entries: each, ..config.annex() };
    annex.features.direct_io = config.features.direct_io;
    while (rings.len() as u32 * each) < config.entries {
        let base = rings.len() as u32 * each;
        match Ring::open(&annex, base, Some(fleet.annex_bell(config.shard))) {
            Ok((ring, ..)) if ring.entries == each => rings.push(ring),
            Ok(_) | Err(OpenError::Memory(_)) => {
                notices.push(format!("not enough memory for more rings: the shard holds {base} connections"));
                break;
            }
            Err(error) => return Err(error),
        }
    }
    Ok((rings, features, notices))
}

impl Kernel for SysKernel {
    fn entries(&self) -> u32 {
        self.rings.iter().map(|ring| ring.entries).sum()
    }

    fn log_pages(&mut self) -> Vec<Pages> {
        self.first().registered.take()
    }

    fn submit(&mut self, user: u64, op: Op, buffers: &mut Buffers) {
        let (ring, sqe) = match op {
            Op::AcceptMulti { listener } => return self.accept(user, listener),
            Op::Receive { entry, once: false } => {
                let (ring, local) = self.place(entry);
                (ring, opcode::RecvMulti::new(Fixed(local), GROUP).build())
            }
            Op::Receive { entry, once: true } => {
                let (ring, local) = self.place(entry);
                let len = ring.provided().bytes_each();
                let receive = opcode::Recv::new(Fixed(local), std::ptr::null_mut(), len).buf_group(GROUP);
                (ring, receive.build().flags(Flags::BUFFER_SELECT))
            }
            Op::Send { entry, buffer, from, len } => {
                let bytes = &buffers.lent(buffer)[from as usize..][..len as usize];
                let flags = libc::MSG_NOSIGNAL | libc::MSG_WAITALL;
                let (ring, local) = self.place(entry);
                (ring, opcode::Send::new(Fixed(local), bytes.as_ptr(), len).flags(flags).build())
            }
            Op::Shutdown { entry } => {
                let (ring, local) = self.place(entry);
                (ring, opcode::Shutdown::new(Fixed(local), libc::SHUT_WR).build())
            }
            // The `user` of a receive or send ends in the entry, which says the ring; an accept's in the listener.
            Op::Cancel { target } => {
                let number = target as u32;
                let ring = match target >> KIND_SHIFT {
                    KIND_ACCEPT => &mut self.rings[self.accepting[number as usize].0],
                    _ => self.place(number).0,
                };
                (ring, opcode::AsyncCancel::new(target).build())
            }
            Op::Close { entry } => {
                let (ring, local) = self.place(entry);
                (ring, opcode::Close::new(Fixed(local)).build())
            }
            Op::SendDescriptor { entry, to, token } => return self.send_descriptor(user, entry, to, token),
            Op::Wake { shard } => return self.wake(shard),
            Op::Create { log, segment, bytes, header } => {
                let header = buffers.lent(header).to_vec();
                return self.segments.create(user, (log, segment), bytes, header);
            }
            Op::Write { log, segment, .. } | Op::Read { log, segment, .. } | Op::Sync { log, segment } => {
                return self.file_op(user, (log, segment), op, buffers);
            }
        };
        ring.push(&sqe.user_data(user), true);
    }

    fn enter(&mut self, wait_ns: Option<u64>) -> Result<(), KernelFailure> {
        let failed = |error| KernelFailure(format!("io_uring_enter failed: {error}"));
        for annex in &mut self.rings[1..] {
            annex.enter(None).map_err(failed)?;
        }
        let wait_ns = wait_ns.filter(|_| self.local.is_empty() && !self.first().has_news());
        let wait_ns = wait_ns.filter(|_| self.listen_for_annexes());
        let entered = self.first().enter(wait_ns);
        if wait_ns.is_some() {
            for annex in &mut self.rings[1..] {
                annex.set_bell(false);
            }
        }
        if self.first().queue_is_empty() {
            self.segments.queue_is_empty();
        }
        entered.map_err(failed)
    }

    fn reap(&mut self, buffers: &mut Buffers, arena: &mut Vec<u8>, out: &mut Vec<Completion>) {
        self.take_landed(buffers);
        out.extend(self.local.drain(..));
        let mut batch = std::mem::take(&mut self.batch);
        for at in 0..self.rings.len() {
            self.rings[at].take(self.completions_per_turn, &mut batch);
            if batch.is_empty() {
                continue;
            }
            for entry in &batch {
                out.extend(self.translate(at, entry, arena));
            }
            batch.clear();
            self.rings[at].provided().publish();
        }
        self.batch = batch;
    }

    fn waker(&self) -> Arc<dyn Waker> {
        Arc::new(Bell { fleet: Arc::clone(&self.fleet), shard: self.shard })
    }
}

impl Drop for SysKernel {
    /// Ends all operations before their memory goes. What does not end in time keeps its memory for ever: a kernel
    /// that writes into freed memory would be worse than a leak.
    fn drop(&mut self) {
        self.fleet.set_rings(self.shard, Vec::new());
        for ring in &mut self.rings {
            ring.cancel_all();
        }
        let deadline = Instant::now() + Duration::from_secs(2);
        for ring in &mut self.rings {
            ring.drain(deadline, ends_operation);
        }
        if self.rings[0].out() > 0 {
            std::mem::forget(self.bell_memory.take());
        }
    }
}

impl std::fmt::Debug for SysKernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SysKernel")
            .field("shard", &self.shard)
            .field("rings", &self.rings.len())
            .field("out", &self.rings.iter().map(Ring::out).sum::<usize>())
            .finish_non_exhaustive()
    }
}
