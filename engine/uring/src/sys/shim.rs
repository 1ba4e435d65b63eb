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

use io_uring::squeue::{Entry, Flags};
use io_uring::types::{CancelBuilder, DestinationSlot, Fd, Fixed, FsyncFlags, Timespec};
use io_uring::{IoUring, cqueue, opcode};

use super::enter::Gate;
use super::fleet::{Bell, Fleet};
use super::provided::{GROUP, Mapping, ProvidedBuffers};
use super::segments::{Key, Landed, Segments};
use super::setup::{self, Features, OpenError, Opened, SysConfig};
use crate::buffers::Buffers;
use crate::files::{Durability, FileThread, probe_direct};
use crate::kernel::{
    Completion, KIND_ARRIVED, KIND_KERNEL, KIND_SHIFT, Kernel, KernelFailure, Op, WOKEN, Waker, arrival,
};

const STAGE_SHIFT: u32 = 56;
const BELL: u64 = 1;
const FILE: u64 = 2;
const SYNC: u64 = 3;
const QUIET: u64 = 4;

fn internal(stage: u64, index: u32) -> u64 {
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

/// One shard's ring. Opened and used by the same thread, which `PhantomData<Rc<()>>` enforces.
pub struct SysKernel {
    // Before the memory below: operations end before it is unmapped.
    ring: IoUring,
    gate: Gate,
    shard: u16,
    features: Features,
    durability: Durability,
    entries: u32,
    notices: Vec<String>,
    completions_per_turn: usize,
    fleet: Arc<Fleet>,
    listeners: Vec<OwnedFd>,
    provided: Option<ProvidedBuffers>,
    bell_memory: Option<Mapping>,
    segments: Segments,
    flights: Vec<Option<FileFlight>>,
    flights_free: Vec<u32>,
    /// Completions that did not come from the ring.
    local: VecDeque<Completion>,
    batch: Vec<cqueue::Entry>,
    /// Entries pushed whose last completion has not come.
    out: usize,
    one_thread: PhantomData<Rc<()>>,
}

impl SysKernel {
    /// Opens the ring of a shard on the calling thread. `listeners` are numbered in order by
    /// [`Op::AcceptMulti`]. Also starts the shard's file thread and tries a direct write in the data folder.
    pub fn open(config: &SysConfig, fleet: Arc<Fleet>, listeners: Vec<OwnedFd>) -> Result<Self, OpenError> {
        let Opened { ring, mut features, entries, mut notices } = setup::open(config)?;
        let provided =
            ProvidedBuffers::new(&ring.submitter(), config.receive_buffers, config.receive_buffer_bytes)
                .map_err(OpenError::step("register the receive buffers"))?;
        let mut gate = Gate::new(ring.as_raw_fd());
        if features.registered_ring && gate.register().is_err() {
            features.registered_ring = false;
            notices.push("the ring's descriptor cannot be registered: slower without".into());
        }
        let mut durability = Durability::Buffered;
        if features.direct_io {
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
        let bell_memory = Mapping::new(8).map_err(OpenError::step("map the wake-up counter"))?;
        fleet.set_ring(config.shard, Some(ring.as_raw_fd()));
        let mut kernel = Self {
            ring,
            gate,
            shard: config.shard,
            features,
            durability,
            entries,
            notices,
            completions_per_turn: config.completions_per_turn,
            fleet,
            listeners,
            provided: Some(provided),
            bell_memory: Some(bell_memory),
            segments: Segments::new(thread),
            flights: Vec::new(),
            flights_free: Vec::new(),
            local: VecDeque::new(),
            batch: Vec::new(),
            out: 0,
            one_thread: PhantomData,
        };
        kernel.listen_for_bell();
        Ok(kernel)
    }

    /// What this ring has.
    pub fn features(&self) -> Features {
        self.features
    }

    /// A sentence for each thing that had to be done without.
    pub fn notices(&self) -> &[String] {
        &self.notices
    }

    fn provided(&mut self) -> &mut ProvidedBuffers {
        self.provided.as_mut().expect("receive buffers live until the drop")
    }

    /// Queues an entry. `completes`: whether a completion will come in any case.
    fn push(&mut self, entry: &Entry, completes: bool) {
        if self.ring.submission().is_full() {
            self.flush();
        }
        // SAFETY: what the entry points to stays valid until the operation's last completion: lent buffers are kept
        // by the table, mappings by this struct (`drop` waits or leaks), descriptors by `listeners`, `segments` and
        // `fleet`.
        let pushed = unsafe { self.ring.submission().push(entry) };
        pushed.expect("room after a flush");
        self.out += usize::from(completes);
    }

    /// Sends what is queued to the kernel without waiting; retried while the kernel is short of memory.
    fn flush(&mut self) {
        let started = Instant::now();
        while !self.ring.submission().is_empty() {
            let count = self.ring.submission().len() as u32;
            if let Err(error) = self.gate.enter(count, None) {
                let again = matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EBUSY | libc::EINTR));
                assert!(again && started.elapsed() < Duration::from_secs(5), "io_uring_enter: {error}");
            }
        }
    }

    fn listen_for_bell(&mut self) {
        let at = self.bell_memory.as_ref().expect("the counter lives until the drop").start();
        let read = opcode::Read::new(Fd(self.fleet.bell(self.shard)), at, 8).build();
        self.push(&read.user_data(internal(BELL, 0)), true);
    }

    fn wake(&mut self, shard: u16) {
        match self.fleet.ring(shard) {
            Some(ring) if self.features.msg_ring_wake => {
                let message = opcode::MsgRingData::new(Fd(ring), 0, WOKEN, None).build();
                // A completion comes only if it fails: the shard is gone, and nobody waits for it.
                self.push(&message.flags(Flags::SKIP_SUCCESS).user_data(internal(QUIET, 0)), false);
            }
            // Not open yet: it looks at its lanes before it first sleeps. The bell does no harm.
            _ => self.fleet.ring_bell(shard),
        }
    }

    fn send_descriptor(&mut self, user: u64, entry: u32, to: u16, token: u64) {
        let Some(ring) = self.fleet.ring(to) else {
            self.finish_locally(user, -libc::ENXIO);
            return;
        };
        let slot = DestinationSlot::auto_target();
        let message = opcode::MsgRingSendFd::new(Fd(ring), Fixed(entry), slot, arrival(token)).build();
        self.push(&message.user_data(user), true);
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
                opcode::Write::new(Fd(fd), bytes.as_ptr(), len).offset(offset).build()
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
            let queue = self.ring.submission();
            let room = queue.capacity() - queue.len();
            drop(queue);
            if room < 2 {
                self.flush(); // A link does not reach over two calls.
            }
            self.push(&entry.flags(Flags::IO_LINK), true);
            self.push(&sync.user_data(internal(SYNC, index)), true);
        } else {
            self.push(&entry, true);
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

    /// Turns one entry of the completion queue into a completion for the table, if it is one.
    fn translate(&mut self, entry: &cqueue::Entry, arena: &mut Vec<u8>) -> Option<Completion> {
        let (user, result, flags) = (entry.user_data(), entry.result(), entry.flags());
        let more = cqueue::more(flags);
        let kind = user >> KIND_SHIFT;
        let stage = (user >> STAGE_SHIFT) & 0xf;
        let foreign = user == WOKEN || kind == KIND_ARRIVED || (kind == KIND_KERNEL && stage == QUIET);
        self.out -= usize::from(!foreign && !more);
        if kind == KIND_KERNEL {
            match stage {
                BELL => {
                    self.listen_for_bell();
                    return Some(Completion { user: WOKEN, result: 0, more: false, bytes: None });
                }
                FILE | SYNC => return self.file_part(stage, user as u32, result),
                QUIET => return None,
                _ => panic!("completion of an unknown stage: {entry:?}"),
            }
        }
        let mut bytes = None;
        if let Some(id) = cqueue::buffer_select(flags) {
            let provided = self.provided();
            if let Ok(len @ 1..) = usize::try_from(result) {
                bytes = Some(u32::try_from(arena.len()).expect("less than 4 GiB received in a turn"));
                arena.extend_from_slice(provided.bytes(id, len));
            }
            provided.give_back(id);
        }
        Some(Completion { user, result, more, bytes })
    }
}

impl Kernel for SysKernel {
    fn entries(&self) -> u32 {
        self.entries
    }

    fn submit(&mut self, user: u64, op: Op, buffers: &mut Buffers) {
        let entry = match op {
            Op::AcceptMulti { listener } => {
                let listener = Fd(self.listeners[usize::from(listener)].as_raw_fd());
                opcode::AcceptMulti::new(listener).allocate_file_index(true).build()
            }
            Op::Receive { entry, once: false } => opcode::RecvMulti::new(Fixed(entry), GROUP).build(),
            Op::Receive { entry, once: true } => {
                let len = self.provided().bytes_each();
                let receive = opcode::Recv::new(Fixed(entry), std::ptr::null_mut(), len).buf_group(GROUP);
                receive.build().flags(Flags::BUFFER_SELECT)
            }
            Op::Send { entry, buffer, from, len } => {
                let bytes = &buffers.lent(buffer)[from as usize..][..len as usize];
                let flags = libc::MSG_NOSIGNAL | libc::MSG_WAITALL;
                opcode::Send::new(Fixed(entry), bytes.as_ptr(), len).flags(flags).build()
            }
            Op::Cancel { target } => opcode::AsyncCancel::new(target).build(),
            Op::Close { entry } => opcode::Close::new(Fixed(entry)).build(),
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
        self.push(&entry.user_data(user), true);
    }

    fn enter(&mut self, wait_ns: Option<u64>) -> Result<(), KernelFailure> {
        let ready = !self.local.is_empty() || !self.ring.completion().is_empty();
        let wait_ns = wait_ns.filter(|_| !ready);
        let (count, deferred) = {
            let queue = self.ring.submission();
            (queue.len() as u32, queue.taskrun() || queue.cq_overflow())
        };
        if count == 0 && !deferred && wait_ns.is_none() {
            return Ok(());
        }
        let entered = self.gate.enter(count, wait_ns);
        if self.ring.submission().is_empty() {
            self.segments.queue_is_empty();
        }
        match entered {
            Ok(()) => Ok(()),
            Err(error) => match error.raw_os_error() {
                // The limit passed, a signal came, or completions have to be taken first: the next turn sees to it.
                Some(libc::ETIME | libc::EINTR | libc::EAGAIN | libc::EBUSY) => Ok(()),
                _ => Err(KernelFailure(format!("io_uring_enter failed: {error}"))),
            },
        }
    }

    fn reap(&mut self, buffers: &mut Buffers, arena: &mut Vec<u8>, out: &mut Vec<Completion>) {
        self.take_landed(buffers);
        out.extend(self.local.drain(..));
        let mut batch = std::mem::take(&mut self.batch);
        batch.extend(self.ring.completion().take(self.completions_per_turn));
        for entry in &batch {
            out.extend(self.translate(entry, arena));
        }
        batch.clear();
        self.batch = batch;
        self.provided().publish();
    }

    fn waker(&self) -> Arc<dyn Waker> {
        Arc::new(Bell { fleet: Arc::clone(&self.fleet), shard: self.shard })
    }
}

impl Drop for SysKernel {
    /// Ends all operations before their memory goes. What does not end in time keeps its memory for ever: a kernel
    /// that writes into freed memory would be worse than a leak.
    fn drop(&mut self) {
        self.fleet.set_ring(self.shard, None);
        self.flush();
        let timeout = Timespec::new().sec(1);
        // Fails when there is nothing to cancel or not everything ends in time; the count below decides.
        let _ = self.ring.submitter().register_sync_cancel(Some(timeout), CancelBuilder::any());
        let deadline = Instant::now() + Duration::from_secs(2);
        while self.out > 0 && Instant::now() < deadline {
            let _ = self.gate.enter(0, Some(10_000_000));
            let ended = self.ring.completion().filter(|entry| {
                let (user, kind) = (entry.user_data(), entry.user_data() >> KIND_SHIFT);
                let quiet = kind == KIND_KERNEL && (user >> STAGE_SHIFT) & 0xf == QUIET;
                !cqueue::more(entry.flags()) && user != WOKEN && kind != KIND_ARRIVED && !quiet
            });
            self.out = self.out.saturating_sub(ended.count());
        }
        if self.out > 0 {
            std::mem::forget(self.provided.take());
            std::mem::forget(self.bell_memory.take());
        }
    }
}

impl std::fmt::Debug for SysKernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SysKernel")
            .field("shard", &self.shard)
            .field("out", &self.out)
            .finish_non_exhaustive()
    }
}
