//! The seam between the operation table and what carries operations out: io_uring (`sys`), epoll (the portable
//! backend) or the simulator.
//!
//! Ownership: a descriptor and a buffer belong to an operation from [`Kernel::submit`] until that operation's last
//! completion (`more == false`) came out of [`Kernel::reap`]. In between nobody else may read, write, reuse or free
//! them; dropping interest in an operation does not cancel it.
//!
//! Order: completions of different operations may come in any order. Completions of one multishot operation come
//! in the order in which the bytes or connections arrived. A descriptor entry is given to a new connection only
//! after the close of the earlier one was carried out.

#[cfg(feature = "host")]
use std::os::fd::OwnedFd;
use std::sync::Arc;

use ringdesk_persist::Pages;

use crate::buffers::{BufferId, Buffers};

/// `user` of the completion that a [`Op::Wake`] of another shard, or a [`Waker`], causes here. It says nothing but
/// "look at your lanes and your mailbox".
pub const WOKEN: u64 = 1 << KIND_SHIFT;

/// Bits of a `user` value below its kind.
pub const KIND_SHIFT: u32 = 60;

/// Kind of an [`arrival`].
pub(crate) const KIND_ARRIVED: u64 = 2;

/// Kind of the operations that accept connections: a result that is not negative is an entry.
pub(crate) const KIND_ACCEPT: u64 = 3;

/// Kind of the operations that close an entry.
pub(crate) const KIND_CLOSE: u64 = 6;

/// The kind the table never uses: a kernel may mark its own internal operations with it.
pub const KIND_KERNEL: u64 = 15;

/// Bits of a hand-over token's counter.
pub const TOKEN_COUNTER_BITS: u32 = 44;

/// The `user` value under which a descriptor handed over with `token` shows up at the receiving shard; the
/// completion's `result` is the entry it was given there.
///
/// A token is the sender's shard in the high 16 bits and a counter below `2^44`; a larger counter is a broken
/// invariant (at a million hand-overs a second it takes half a year).
pub fn arrival(token: u64) -> u64 {
    let (shard, counter) = (token >> 48, token & ((1 << 48) - 1));
    assert!(counter < 1 << TOKEN_COUNTER_BITS, "hand-over counter {counter} out of range");
    (KIND_ARRIVED << KIND_SHIFT) | (shard << TOKEN_COUNTER_BITS) | counter
}

/// One operation. All of them refer to things by number, so the value is plain data.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Op {
    /// Accepts on a listener until it ends (`more == false`). `result`: the entry of the new connection, or an
    /// errno. Fails with `ENFILE` or `EMFILE` when the table is full.
    AcceptMulti {
        /// Number of the listener, in the order in which the kernel was given them.
        listener: u16,
    },
    /// Receives on a connection, once or until it ends. `result`: bytes in [`Completion::bytes`], 0 at the end of
    /// the stream, or an errno. `ENOBUFS` ends a multishot receive; the bytes stay in the socket.
    Receive {
        /// The connection's entry.
        entry: u32,
        /// Single-shot.
        once: bool,
    },
    /// Sends `len` bytes of a buffer, starting at `from`. `result`: bytes sent, maybe fewer, or an errno.
    Send {
        /// The connection's entry.
        entry: u32,
        /// The buffer, lent to the operation.
        buffer: BufferId,
        /// First byte to send.
        from: u32,
        /// Number of bytes, at least 1.
        len: u32,
    },
    /// Shuts the sending side of a connection down: the peer sees the end of the stream after all bytes sent before.
    /// Receives go on. Submitted only when no send on the entry is out. `result`: 0 or an errno.
    Shutdown {
        /// The connection's entry.
        entry: u32,
    },
    /// Asks for the end of the operation with this `user` value. The operation's own last completion still comes
    /// (`ECANCELED`, or what it had reached); the result of the cancellation itself says nothing.
    Cancel {
        /// `user` of the operation to end.
        target: u64,
    },
    /// Closes an entry. Submitted only when no operation on the entry is out. `result` is 0.
    Close {
        /// The connection's entry.
        entry: u32,
    },
    /// Puts the descriptor into the table of another shard, where it shows up as [`arrival`]`(token)`; then
    /// completes here with 0, or an errno if the target's table is full. The entry here stays open: the table
    /// closes it after success. Submitted only when no other operation on the entry is out.
    SendDescriptor {
        /// The connection's entry here.
        entry: u32,
        /// The receiving shard.
        to: u16,
        /// Joins descriptor and state.
        token: u64,
    },
    /// Wakes another shard, which may sleep in [`Kernel::enter`]: it sees [`WOKEN`]. No completion here on success.
    Wake {
        /// The shard.
        shard: u16,
    },
    /// Brings a segment file to life as [`ringdesk_persist::DiskOp::Create`] says: full length, header, sync, rename,
    /// sync of the directory; completes with 0 when all of that is durable, or with an errno. Never blocks the
    /// caller of `enter`.
    Create {
        /// The log.
        log: u16,
        /// The segment.
        segment: u32,
        /// Length of the file, bytes.
        bytes: u64,
        /// The first bytes of the file, lent to the operation.
        header: BufferId,
    },
    /// Syncs a segment file and the disk's cache (fdatasync); completes with 0 or an errno.
    Sync {
        /// The log.
        log: u16,
        /// The segment.
        segment: u32,
    },
    /// Writes `len` bytes of a buffer from `from` on at `offset` of a segment. `result`: bytes written, maybe
    /// fewer, or an errno. Everything written is durable when an operation completes with its full `len`: a shorter
    /// result promises durability only together with a later full one.
    Write {
        /// The log.
        log: u16,
        /// The segment.
        segment: u32,
        /// Byte offset in the file, a multiple of 512.
        offset: u64,
        /// The buffer, lent to the operation.
        buffer: BufferId,
        /// First byte in the buffer, a multiple of 512.
        from: u32,
        /// Number of bytes, a multiple of 512.
        len: u32,
    },
    /// Reads `len` bytes at `offset` of a segment into a buffer from `from` on. `result`: bytes read, maybe fewer,
    /// 0 at the end of the file, or an errno.
    Read {
        /// The log.
        log: u16,
        /// The segment.
        segment: u32,
        /// Byte offset in the file, a multiple of 512.
        offset: u64,
        /// The buffer, lent to the operation.
        buffer: BufferId,
        /// First byte in the buffer, a multiple of 512.
        from: u32,
        /// Number of bytes, a multiple of 512.
        len: u32,
    },
}

/// One completion.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Completion {
    /// The `user` value of the operation, or [`WOKEN`], or an [`arrival`].
    pub user: u64,
    /// As the operation says: not negative on success, otherwise a negated errno.
    pub result: i32,
    /// `true`: the operation lives on and will complete again.
    pub more: bool,
    /// Receives with `result > 0`: offset of the bytes in the arena given to [`Kernel::reap`].
    pub bytes: Option<u32>,
}

/// The kernel can no longer be used; the reactor stops with this sentence.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KernelFailure(pub String);

/// Wakes a shard from any thread: the control plane after it filled the mailbox.
pub trait Waker: Send + Sync {
    /// Makes the shard's next or current [`Kernel::enter`] return. May be called from any thread, never blocks,
    /// works also after the kernel is gone (then it does nothing).
    fn wake(&self);
}

/// Carries operations out. One per shard, used by one thread.
pub trait Kernel {
    /// Entries of the descriptor table: connections this shard can hold.
    fn entries(&self) -> u32;

    /// Gives out, once and before the first operation, the buffers that this kernel prepared for the log's writes:
    /// zeroed, [numbered](Pages::numbered), and like any others but that a write out of them costs the kernel less.
    /// None unless a kernel says otherwise.
    fn log_pages(&mut self) -> Vec<Pages> {
        Vec::new()
    }

    /// Queues one operation; its completions carry `user`. Buffers named by the operation are lent
    /// ([`Buffers::lent`], [`Buffers::lent_mut`]) until the last completion. May start at once.
    fn submit(&mut self, user: u64, op: Op, buffers: &mut Buffers);

    /// Hands over what was queued. `None`: returns at once. `Some(ns)`: sleeps until a completion is there, the
    /// shard is woken, or `ns` nanoseconds passed (`u64::MAX`: no limit).
    fn enter(&mut self, wait_ns: Option<u64>) -> Result<(), KernelFailure>;

    /// Appends completions to `out`, a bounded number at a time, without sleeping. Received bytes are appended to
    /// `arena`, so that the kernel's own receive buffers are free again at once.
    fn reap(&mut self, buffers: &mut Buffers, arena: &mut Vec<u8>, out: &mut Vec<Completion>);

    /// A handle for other threads.
    fn waker(&self) -> Arc<dyn Waker>;
}

/// What a kernel does with connections and listeners that change the process (upgrade in place). Used only while its
/// shard stands still, or before its first turn.
#[cfg(feature = "host")]
pub trait Transfer: Kernel {
    /// Takes the listeners, numbered in order by [`Op::AcceptMulti`], where the kernel was opened without any.
    ///
    /// # Errors
    /// What the system says.
    fn listen(&mut self, listeners: Vec<OwnedFd>) -> std::io::Result<()>;

    /// Whether [`Self::export`] can work here.
    fn exports(&self) -> bool;

    /// A descriptor of the process for each of `entries`, at most 253; the entries stay as they are, and nothing is out on
    /// them. Waits for the kernel.
    ///
    /// # Errors
    /// What the system says, first `EMFILE`; then no descriptor is left over.
    fn export(&mut self, entries: &[u32]) -> std::io::Result<Vec<OwnedFd>>;

    /// Puts connections into free entries, in order; the kernel keeps a reference of its own. Before the first turn only.
    /// Fewer entries than sockets: the table is full.
    ///
    /// # Errors
    /// What the system says.
    fn import(&mut self, sockets: Vec<OwnedFd>) -> std::io::Result<Vec<u32>>;
}
