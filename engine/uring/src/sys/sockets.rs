//! A ring of plain sockets, for load generators: thousands of connections dialled (or accepted) as direct descriptors,
//! received from one pool of buffers, sent from buffers that are recycled. No log, no shard: the server's own driver
//! is `shim`. Needs Linux 6.7 (socket options through the ring).
//!
//! Order of a turn: bytes are appended to [`SocketRing::outbox`]es, [`SocketRing::turn`] submits one send for each
//! that is not empty, takes what completed, and reports it as [`SocketEvent`]s.
//!
//! Ownership: a connection is a slot of the descriptor table, chosen by the caller when it dials. Its outbox
//! belongs to the kernel from the submission of a send to that send's completion; what is written meanwhile goes to the
//! next one. A slot is free again after [`SocketEvent::Closed`], that is when no operation on it is out. An idle
//! connection costs [`IDLE_SLOT_BYTES`] here.

use std::io;
use std::marker::PhantomData;
use std::net::SocketAddrV4;
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

use io_uring::squeue::{Entry, Flags};
use io_uring::types::{CancelBuilder, DestinationSlot, Fd, Fixed, Timespec};
use io_uring::{IoUring, cqueue, opcode};

use super::enter::Gate;
use super::provided::{GROUP, ProvidedBuffers};

const CONNECT: u64 = 1;
const RECEIVE: u64 = 2;
const SEND: u64 = 3;
const CLOSE: u64 = 4;
const ACCEPT: u64 = 5;
/// Links before a connect or close, cancellations: their results say nothing that the last of the chain does not.
const ASIDE: u64 = 15;
const KIND_SHIFT: u32 = 56;

/// Entries that one link chain may take.
const CHAIN_MAX: usize = 4;
/// Most completions taken in one turn, so that what they cause leaves soon.
const COMPLETIONS_MAX: usize = 4096;
/// A recycled send buffer larger than this gives its memory back.
const KEEP_BYTES_MAX: usize = 256 * 1024;

const NONE: u32 = u32::MAX;

static ON: libc::c_int = 1;
/// Close at once with RST: nothing lingers in TIME_WAIT, as when a network drops many clients.
static ABORT: libc::linger = libc::linger { l_onoff: 1, l_linger: 0 };

/// Slots of a ring that are dialled to one destination address.
pub const SLOTS_PER_ADDRESS: u32 = 512;

/// What a ring is opened with.
#[derive(Clone, Copy, Debug)]
pub struct SocketRingConfig {
    /// Slots of the descriptor table; bounded by RLIMIT_NOFILE, although direct descriptors do not count as files.
    pub slots: u32,
    /// Receive buffers, a power of two up to 32,768.
    pub receive_buffers: u16,
    /// Bytes of each.
    pub receive_buffer_bytes: u32,
    /// SO_RCVBUF of dialled connections, bytes, which the kernel doubles; 0: its own choice, which grows.
    pub receive_socket_bytes: u32,
    /// Where slot 0 is dialled to. Every [`SLOTS_PER_ADDRESS`] slots the address is the next one: a destination has only
    /// as many source ports as `ip_local_port_range` is wide, and the kernel's search for a free one gets long well
    /// before they are used up.
    pub to: SocketAddrV4,
}

/// What happened on a slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SocketEvent {
    /// A dialled connection stands and receives.
    Connected {
        /// The slot.
        slot: u32,
    },
    /// A connection was accepted into this slot and receives.
    Accepted {
        /// The slot.
        slot: u32,
    },
    /// Bytes `from..from + len` of the arena arrived.
    Received {
        /// The slot.
        slot: u32,
        /// First byte in the arena.
        from: usize,
        /// Number of bytes, at least 1.
        len: usize,
    },
    /// The peer closed (`errno` 0), or the connection failed. The caller drops the slot.
    Ended {
        /// The slot.
        slot: u32,
        /// Why, as in errno.h.
        errno: i32,
    },
    /// The slot is free. `errno` is not 0 when dialling failed.
    Closed {
        /// The slot.
        slot: u32,
        /// Why, as in errno.h; 0 after [`SocketRing::abort`].
        errno: i32,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Free,
    Dialling,
    Open,
    Closing,
}

/// One slot. What is out on it decides when it may be closed.
#[derive(Clone, Copy, Debug)]
struct Slot {
    /// The flight that gathers bytes, or [`NONE`].
    gathering: u32,
    /// The flight the kernel sends, or [`NONE`].
    flying: u32,
    state: State,
    receiving: bool,
    deaf: bool,
    ended: bool,
}

/// User memory of a connection with nothing in flight, bytes.
pub const IDLE_SLOT_BYTES: usize = size_of::<Slot>();

const FREE: Slot =
    Slot { gathering: NONE, flying: NONE, state: State::Free, receiving: false, deaf: false, ended: false };

/// Sets an option of a slot's socket. The kernel reads the value when it carries the entry out.
fn option<T>(slot: u32, level: libc::c_int, name: libc::c_int, value: &T) -> Entry {
    let (value, bytes) = (std::ptr::from_ref(value).cast(), size_of::<T>() as u32);
    opcode::SetSockOpt::new(Fixed(slot), level as u32, name as u32, value, bytes).build()
}

/// Bytes on their way out.
#[derive(Debug)]
struct Flight {
    bytes: Vec<u8>,
    slot: u32,
    sent: usize,
}

/// The ring. Used by the thread that opened it.
pub struct SocketRing {
    // Before the memory below: operations end before it is unmapped.
    ring: IoUring,
    gate: Gate,
    provided: Option<ProvidedBuffers>,
    /// Copied by the kernel when a connect is submitted, so one for all serves.
    to: Box<[libc::sockaddr_in]>,
    /// See [`SocketRingConfig::receive_socket_bytes`]; read by the kernel when the option is carried out.
    receive_socket_bytes: Box<libc::c_int>,
    listener: Option<OwnedFd>,
    slots: Vec<Slot>,
    flights: Vec<Flight>,
    flights_free: Vec<u32>,
    /// Slots with gathered bytes.
    dirty: Vec<u32>,
    /// Slots whose dialling failed, and how, until they are closed.
    failed: Vec<(u32, i32)>,
    batch: Vec<cqueue::Entry>,
    /// Entries pushed whose last completion has not come; chain links and cancellations are not counted.
    out: usize,
    one_thread: PhantomData<Rc<()>>,
}

impl SocketRing {
    /// Opens a ring with its table and buffers.
    ///
    /// # Errors
    /// What the kernel says: io_uring denied, too little lockable memory, RLIMIT_NOFILE below `slots`.
    pub fn open(config: &SocketRingConfig) -> io::Result<Self> {
        let mut builder = IoUring::builder();
        let completions = (config.slots * 2).next_power_of_two().clamp(256, 16_384);
        builder.setup_cqsize(completions).setup_submit_all().setup_coop_taskrun();
        builder.setup_single_issuer().setup_defer_taskrun().setup_taskrun_flag();
        let ring = builder.build((completions / 2).min(1024))?;
        ring.submitter().register_files_sparse(config.slots)?;
        let provided =
            ProvidedBuffers::new(&ring.submitter(), config.receive_buffers, config.receive_buffer_bytes)?;
        let mut gate = Gate::new(ring.as_raw_fd());
        // The kernel keeps few of these per thread; a ring beyond them is entered by its ordinary descriptor.
        let _ = gate.register();
        let to = (0..config.slots.div_ceil(SLOTS_PER_ADDRESS).max(1))
            .map(|number| libc::sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: config.to.port().to_be(),
                sin_addr: libc::in_addr { s_addr: (u32::from(*config.to.ip()) + number).to_be() },
                sin_zero: [0; 8],
            })
            .collect();
        Ok(Self {
            ring,
            gate,
            provided: Some(provided),
            to,
            receive_socket_bytes: Box::new(config.receive_socket_bytes as libc::c_int),
            listener: None,
            slots: vec![FREE; config.slots as usize],
            flights: Vec::new(),
            flights_free: Vec::new(),
            dirty: Vec::new(),
            failed: Vec::new(),
            batch: Vec::with_capacity(COMPLETIONS_MAX),
            out: 0,
            one_thread: PhantomData,
        })
    }

    /// Rings several rings of one thread through one eventfd, which must live as long as the ring.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn notify(&self, eventfd: &OwnedFd) -> io::Result<()> {
        self.ring.submitter().register_eventfd(eventfd.as_raw_fd())
    }

    /// Accepts from now on into slots of the kernel's choice. A ring either accepts or dials.
    pub fn accept(&mut self, listener: OwnedFd) {
        assert!(self.listener.is_none(), "a ring accepts on one listener");
        let accept = opcode::AcceptMulti::new(Fd(listener.as_raw_fd())).allocate_file_index(true).build();
        self.listener = Some(listener);
        self.push(accept.user_data(ACCEPT << KIND_SHIFT), true);
    }

    /// Dials on a free slot: answered by [`SocketEvent::Connected`], or [`SocketEvent::Closed`] with an errno.
    pub fn dial(&mut self, slot: u32) {
        let state = &mut self.slots[slot as usize];
        assert!(state.state == State::Free, "slot {slot} is in use");
        state.state = State::Dialling;
        let place =
            DestinationSlot::try_from_slot_target(slot).expect("a table has fewer slots than 2^32 - 1");
        let socket = opcode::Socket::new(libc::AF_INET, libc::SOCK_STREAM, 0).file_index(Some(place)).build();
        let address = std::ptr::from_ref(&self.to[(slot / SLOTS_PER_ADDRESS) as usize]).cast();
        let bytes = size_of::<libc::sockaddr_in>() as libc::socklen_t;
        let connect = opcode::Connect::new(Fixed(slot), address, bytes).build();
        self.room(CHAIN_MAX);
        self.push_link(socket);
        self.push_link(option(slot, libc::IPPROTO_TCP, libc::TCP_NODELAY, &ON));
        if *self.receive_socket_bytes != 0 {
            let value = &*self.receive_socket_bytes;
            self.push_link(option(slot, libc::SOL_SOCKET, libc::SO_RCVBUF, value));
        }
        self.push(connect.user_data(CONNECT << KIND_SHIFT | u64::from(slot)), true);
    }

    /// Where the next bytes of an open connection are appended; they leave with the next [`SocketRing::turn`]. `None`
    /// when it is not open.
    pub fn outbox(&mut self, slot: u32) -> Option<&mut Vec<u8>> {
        let state = &mut self.slots[slot as usize];
        if state.state != State::Open {
            return None;
        }
        if state.gathering == NONE {
            let flight = self.flights_free.pop().unwrap_or_else(|| {
                self.flights.push(Flight { bytes: Vec::new(), slot: NONE, sent: 0 });
                (self.flights.len() - 1) as u32
            });
            self.flights[flight as usize].slot = slot;
            state.gathering = flight;
            self.dirty.push(slot);
        }
        Some(&mut self.flights[state.gathering as usize].bytes)
    }

    /// Whether the connection has bytes that the peer's window has not taken.
    pub fn is_sending(&self, slot: u32) -> bool {
        self.slots[slot as usize].flying != NONE
    }

    /// Stops receiving: from here on the peer's bytes stay in its and our socket buffers.
    pub fn stop_reading(&mut self, slot: u32) {
        let state = &mut self.slots[slot as usize];
        state.deaf = true;
        if state.receiving {
            self.cancel(RECEIVE << KIND_SHIFT | u64::from(slot));
        }
    }

    /// Receives again after [`SocketRing::stop_reading`].
    pub fn read_again(&mut self, slot: u32) {
        let state = &mut self.slots[slot as usize];
        state.deaf = false;
        if state.state == State::Open && !state.receiving {
            self.receive(slot);
        }
    }

    /// Closes with RST, whatever is unsent: answered by [`SocketEvent::Closed`]. No effect unless open.
    pub fn abort(&mut self, slot: u32) {
        let state = &mut self.slots[slot as usize];
        if state.state != State::Open {
            return;
        }
        state.state = State::Closing;
        let (receiving, flying) = (state.receiving, state.flying);
        if receiving {
            self.cancel(RECEIVE << KIND_SHIFT | u64::from(slot));
        }
        if flying != NONE {
            self.cancel(SEND << KIND_SHIFT | u64::from(flying));
        }
        self.close_if_quiet(slot);
    }

    /// Submits what was written and appends what completed to `events`; received bytes go to `arena`. `wait_ns`: sleeps
    /// at most that long for the first completion; `None`: looks only. Returns whether anything completed.
    pub fn turn(&mut self, wait_ns: Option<u64>, arena: &mut Vec<u8>, events: &mut Vec<SocketEvent>) -> bool {
        self.submit_sends();
        let mut queue = self.ring.submission();
        queue.sync();
        let (count, work) = (queue.len() as u32, queue.taskrun() || queue.cq_overflow());
        drop(queue);
        let nothing_there = self.ring.completion().is_empty();
        let wait_ns = wait_ns.filter(|_| nothing_there);
        if count > 0 || work || wait_ns.is_some() {
            match self.gate.enter(count, wait_ns) {
                Ok(()) => {}
                Err(error) => {
                    let expected = [libc::ETIME, libc::EINTR, libc::EAGAIN, libc::EBUSY];
                    let number = error.raw_os_error().unwrap_or(0);
                    assert!(expected.contains(&number), "io_uring_enter on an own ring: {error}");
                }
            }
        }
        let mut batch = std::mem::take(&mut self.batch);
        batch.extend(self.ring.completion().take(COMPLETIONS_MAX));
        for entry in &batch {
            self.complete(entry, arena, events);
        }
        let any = !batch.is_empty();
        batch.clear();
        self.batch = batch;
        if let Some(provided) = &mut self.provided {
            provided.publish();
        }
        any
    }

    fn submit_sends(&mut self) {
        let mut dirty = std::mem::take(&mut self.dirty);
        for slot in dirty.drain(..) {
            let state = &mut self.slots[slot as usize];
            if state.state != State::Open || state.flying != NONE || state.gathering == NONE {
                continue;
            }
            state.flying = std::mem::replace(&mut state.gathering, NONE);
            let flight = state.flying;
            if self.flights[flight as usize].bytes.is_empty() {
                self.slots[slot as usize].flying = NONE;
                self.land(flight);
            } else {
                self.send(flight);
            }
        }
        self.dirty = dirty;
    }

    fn send(&mut self, flight: u32) {
        let Flight { bytes, slot, sent } = &self.flights[flight as usize];
        let rest = &bytes[*sent..];
        let send = opcode::Send::new(Fixed(*slot), rest.as_ptr(), rest.len() as u32)
            .flags(libc::MSG_NOSIGNAL | libc::MSG_WAITALL)
            .build();
        self.push(send.user_data(SEND << KIND_SHIFT | u64::from(flight)), true);
    }

    fn land(&mut self, flight: u32) {
        let done = &mut self.flights[flight as usize];
        (done.slot, done.sent) = (NONE, 0);
        done.bytes.clear();
        if done.bytes.capacity() > KEEP_BYTES_MAX {
            done.bytes = Vec::new();
        }
        self.flights_free.push(flight);
    }

    fn receive(&mut self, slot: u32) {
        self.slots[slot as usize].receiving = true;
        let receive = opcode::RecvMulti::new(Fixed(slot), GROUP).build();
        self.push(receive.user_data(RECEIVE << KIND_SHIFT | u64::from(slot)), true);
    }

    fn cancel(&mut self, user: u64) {
        let cancel = opcode::AsyncCancel::new(user).build();
        self.push(cancel.flags(Flags::SKIP_SUCCESS).user_data(ASIDE << KIND_SHIFT), false);
    }

    /// Closes a slot that is meant to, once nothing is out on it.
    fn close_if_quiet(&mut self, slot: u32) {
        let state = self.slots[slot as usize];
        if state.state != State::Closing || state.receiving || state.flying != NONE {
            return;
        }
        if state.gathering != NONE {
            self.slots[slot as usize].gathering = NONE;
            self.land(state.gathering);
        }
        let option = option(slot, libc::SOL_SOCKET, libc::SO_LINGER, &ABORT);
        self.room(CHAIN_MAX);
        // A hard link: where the option fails (the socket is gone already), the close still happens.
        self.push(
            option.flags(Flags::IO_HARDLINK | Flags::SKIP_SUCCESS).user_data(ASIDE << KIND_SHIFT),
            false,
        );
        let close = opcode::Close::new(Fixed(slot)).build();
        self.push(close.user_data(CLOSE << KIND_SHIFT | u64::from(slot)), true);
    }

    fn complete(&mut self, entry: &cqueue::Entry, arena: &mut Vec<u8>, events: &mut Vec<SocketEvent>) {
        let (user, result) = (entry.user_data(), entry.result());
        let (kind, index) = (user >> KIND_SHIFT, user as u32);
        let more = cqueue::more(entry.flags());
        if kind != ASIDE {
            self.out -= usize::from(!more);
        }
        match kind {
            CONNECT if result < 0 => {
                self.failed.push((index, -result));
                self.slots[index as usize].state = State::Closing;
                self.close_if_quiet(index);
            }
            CONNECT => {
                self.slots[index as usize].state = State::Open;
                self.receive(index);
                events.push(SocketEvent::Connected { slot: index });
            }
            ACCEPT => self.accepted(result, more, events),
            RECEIVE => self.received(index, entry, arena, events),
            SEND => self.sent(index, result, events),
            CLOSE => {
                let failed = self.failed.iter().position(|(slot, _)| *slot == index);
                let errno = failed.map_or(0, |at| self.failed.swap_remove(at).1);
                self.slots[index as usize] = FREE;
                events.push(SocketEvent::Closed { slot: index, errno });
            }
            _ => {}
        }
    }

    fn accepted(&mut self, result: i32, more: bool, events: &mut Vec<SocketEvent>) {
        if result >= 0 {
            let slot = result as u32;
            self.slots[slot as usize].state = State::Open;
            let option = option(slot, libc::IPPROTO_TCP, libc::TCP_NODELAY, &ON);
            self.push(option.flags(Flags::SKIP_SUCCESS).user_data(ASIDE << KIND_SHIFT), false);
            self.receive(slot);
            events.push(SocketEvent::Accepted { slot });
        }
        if !more && let Some(listener) = &self.listener {
            let again = opcode::AcceptMulti::new(Fd(listener.as_raw_fd())).allocate_file_index(true).build();
            self.push(again.user_data(ACCEPT << KIND_SHIFT), true);
        }
    }

    fn received(
        &mut self,
        slot: u32,
        entry: &cqueue::Entry,
        arena: &mut Vec<u8>,
        events: &mut Vec<SocketEvent>,
    ) {
        let (result, more) = (entry.result(), cqueue::more(entry.flags()));
        if let (Some(id), Some(provided)) = (cqueue::buffer_select(entry.flags()), &mut self.provided) {
            if result > 0 {
                let (from, len) = (arena.len(), result as usize);
                arena.extend_from_slice(provided.bytes(id, len));
                events.push(SocketEvent::Received { slot, from, len });
            }
            provided.give_back(id);
        }
        if more {
            return;
        }
        let state = &mut self.slots[slot as usize];
        state.receiving = false;
        if state.state == State::Closing {
            return self.close_if_quiet(slot);
        }
        if state.deaf {
            return;
        }
        // A multishot ends with bytes now and then, and without a buffer to fill: neither is the end of the stream.
        if result > 0 || result == -libc::ENOBUFS {
            return self.receive(slot);
        }
        self.end(slot, -result, events);
    }

    fn sent(&mut self, flight: u32, result: i32, events: &mut Vec<SocketEvent>) {
        let Flight { bytes, slot, sent } = &mut self.flights[flight as usize];
        let slot = *slot;
        if result > 0 {
            *sent += result as usize;
            if *sent < bytes.len() && self.slots[slot as usize].state == State::Open {
                return self.send(flight);
            }
        }
        self.land(flight);
        let state = &mut self.slots[slot as usize];
        state.flying = NONE;
        if state.state == State::Closing {
            return self.close_if_quiet(slot);
        }
        if state.gathering != NONE {
            self.dirty.push(slot);
        }
        if result < 0 {
            self.end(slot, -result, events);
        }
    }

    /// Tells once that a connection is over.
    fn end(&mut self, slot: u32, errno: i32, events: &mut Vec<SocketEvent>) {
        let state = &mut self.slots[slot as usize];
        if !std::mem::replace(&mut state.ended, true) {
            events.push(SocketEvent::Ended { slot, errno });
        }
    }

    /// Makes room for a chain: a link does not reach over two calls.
    fn room(&mut self, entries: usize) {
        let queue = self.ring.submission();
        let room = queue.capacity() - queue.len();
        drop(queue);
        if room < entries {
            self.flush();
        }
    }

    fn push_link(&mut self, entry: Entry) {
        self.push(entry.flags(Flags::IO_LINK | Flags::SKIP_SUCCESS).user_data(ASIDE << KIND_SHIFT), false);
    }

    fn push(&mut self, entry: Entry, counted: bool) {
        self.room(1);
        // SAFETY: what an entry points to outlives its operation: the option values are statics or live as long as the ring; the address is
        // copied at submission and lives as long as the ring; a send's bytes lie in a flight that nobody touches
        // until its completion lands it (moving the `Vec` does not move its heap); receives name the buffer group,
        // whose memory outlives them (see Drop).
        let pushed = unsafe { self.ring.submission().push(&entry) };
        pushed.expect("room after a flush");
        self.out += usize::from(counted);
    }

    /// Hands what is queued to the kernel without waiting; retried while the kernel is short of memory.
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
}

impl Drop for SocketRing {
    fn drop(&mut self) {
        self.flush();
        // Buffers of sends and receives may be freed only after their operations ended; if that cannot be had in
        // time, they are leaked.
        let timeout = Timespec::new().sec(5);
        let _ = self.ring.submitter().register_sync_cancel(Some(timeout), CancelBuilder::any());
        let deadline = Instant::now() + Duration::from_secs(5);
        while self.out > 0 && Instant::now() < deadline {
            let _ = self.gate.enter(0, Some(10_000_000));
            let ended = self
                .ring
                .completion()
                .filter(|entry| !cqueue::more(entry.flags()) && entry.user_data() >> KIND_SHIFT != ASIDE);
            self.out = self.out.saturating_sub(ended.count());
        }
        // Closes the sockets now; with the ring they would close some time after this.
        let _ = self.ring.submitter().unregister_files();
        if self.out > 0 {
            std::mem::forget(self.provided.take());
            std::mem::forget(std::mem::take(&mut self.flights));
        }
    }
}

impl std::fmt::Debug for SocketRing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let used = self.slots.iter().filter(|slot| slot.state != State::Free).count();
        f.debug_struct("SocketRing").field("out", &self.out).field("used", &used).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
