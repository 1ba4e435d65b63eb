//! The contract on glommio: one executor per shard, one task per operation, all of them driven from
//! [`Kernel::enter`]. Built only with the feature of that name, to compare with.
//!
//! Order of a turn: [`Kernel::reap`] gives what tasks left behind; [`Kernel::submit`] keeps orders, with a copy of the
//! bytes they send or write; [`Kernel::enter`] runs the executor, which takes the orders, lets every task go on that
//! can, and returns at once or when one of them has something to tell. Parts: `tasks` (sockets), `segments` (log
//! files).
//!
//! Ownership: glommio's operations own what the kernel touches. A receive or send waits for readiness without any
//! memory, so that its task can be dropped at any time; file operations own a buffer of glommio's and are waited for,
//! also in the drop. Table and tasks share a connection's descriptor; the last of them closes it.
//!
//! What is not glommio's: accepting (its own accept switches O_NONBLOCK of the listener off and on, which blocks a shard
//! for good where two share a listener), creating segments (its blocking calls can panic when they end), waking between
//! threads (its channels are unsound).
//!
//! Queues and their bounds: orders and completions (the table's operations), parcels (the table's entries). A task that
//! told something goes on in the next turn only, so that no connection takes more than one receive of a turn.

mod segments;
mod tasks;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker as TaskWaker};
use std::time::Duration;

use ::glommio::net::TcpStream;
use ::glommio::timer::Timer;
use ::glommio::{LocalExecutor, LocalExecutorBuilder, Placement};
use ringdesk_uring::buffers::Buffers;
use ringdesk_uring::files::{FileThread, Job, JobDone};
use ringdesk_uring::kernel::{Completion, Kernel, KernelFailure, Op, Transfer, Waker, arrival};
use rustix::io::Errno;

use crate::descriptor::{Airlock, shut_down};
use crate::fleet::{Bell, Fleet, Parcel};
use crate::kernel::{OpenError, PortableConfig};
use segments::{Portion, Segments};

/// Memory that each executor registers for reads, bytes: a few pages of history at once. More comes from the heap.
const IO_MEMORY: usize = 256 << 10;

/// The longest a sleep is asked for at a time; who wanted more finds nothing to do and sleeps again.
const SLEEP_MAX: Duration = Duration::from_secs(3600);

fn negated(errno: Errno) -> i32 {
    -errno.raw_os_error()
}

/// A connection, shared by the table's entry and the tasks that work on it.
type Stream = Rc<RefCell<TcpStream>>;

/// What can end an operation before its time.
#[derive(Default)]
struct Stop {
    stopped: Cell<bool>,
    waker: RefCell<Option<TaskWaker>>,
}

impl Stop {
    /// Whether the task shall end; if not, it is woken when it shall.
    fn is_set(&self, context: &Context<'_>) -> bool {
        if !self.stopped.get() {
            *self.waker.borrow_mut() = Some(context.waker().clone());
        }
        self.stopped.get()
    }

    fn set(&self) {
        self.stopped.set(true);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// What a task tells.
#[derive(Default)]
struct Told {
    user: u64,
    result: i32,
    more: bool,
    /// Received bytes.
    bytes: Option<Vec<u8>>,
    /// Bytes of a file for a lent buffer.
    portion: Option<Portion>,
}

/// What the tasks of one shard and its kernel share. All on one thread; never borrowed across an await.
struct Shared {
    told: RefCell<VecDeque<Told>>,
    /// Tasks that told something and go on in the next turn.
    parked: RefCell<Vec<TaskWaker>>,
    sleeper: RefCell<Option<TaskWaker>>,
    /// Operations that can be cancelled, by `user`.
    waiting: RefCell<BTreeMap<u64, Rc<Stop>>>,
    connections: RefCell<Vec<Option<Stream>>>,
    free: RefCell<Vec<u32>>,
    scratch: RefCell<Box<[u8]>>,
    failure: RefCell<Option<String>>,
    entries: u32,
    shard: u16,
    fleet: Arc<Fleet>,
}

impl Shared {
    fn tell(&self, told: Told) {
        self.told.borrow_mut().push_back(told);
        if let Some(waker) = self.sleeper.take() {
            waker.wake();
        }
    }

    fn complete(&self, user: u64, result: i32) {
        self.tell(Told { user, result, ..Told::default() });
    }

    /// Registers an operation that can be cancelled.
    fn began(&self, user: u64) -> Rc<Stop> {
        let stop = Rc::<Stop>::default();
        let earlier = self.waiting.borrow_mut().insert(user, Rc::clone(&stop));
        assert!(earlier.is_none(), "the operation {user:#x} is out already");
        stop
    }

    /// Ends the operation with this `user`, if it is one that waits. A file operation ends by itself.
    fn cancel(&self, target: u64) {
        let Some(stop) = self.waiting.borrow_mut().remove(&target) else { return };
        stop.set();
        self.complete(target, negated(Errno::CANCELED));
    }

    /// The last that a cancellable operation tells.
    fn ended(&self, told: Told) {
        self.waiting.borrow_mut().remove(&told.user);
        self.tell(told);
    }

    /// Waits for the next turn. `false`: the operation was stopped.
    async fn next_turn(&self, stop: &Stop) -> bool {
        let mut parked = false;
        poll_fn(|context| {
            if stop.is_set(context) {
                return Poll::Ready(false);
            }
            if std::mem::replace(&mut parked, true) {
                return Poll::Ready(true);
            }
            self.parked.borrow_mut().push(context.waker().clone());
            Poll::Pending
        })
        .await
    }

    fn stream(&self, entry: u32) -> Stream {
        let connections = self.connections.borrow();
        let stream = connections.get(entry as usize).and_then(Option::as_ref);
        Rc::clone(stream.unwrap_or_else(|| panic!("entry {entry} holds no connection")))
    }

    /// Puts a descriptor into an entry that was reserved for it. Inside the executor only.
    fn adopt(&self, descriptor: OwnedFd) -> u32 {
        let stream = Rc::new(RefCell::new(tasks::watched(descriptor)));
        let mut connections = self.connections.borrow_mut();
        let entry = self.free.borrow_mut().pop().unwrap_or_else(|| {
            connections.push(None);
            (connections.len() - 1) as u32
        });
        assert!(entry < self.entries, "entry {entry} beyond the reserved {}", self.entries);
        connections[entry as usize] = Some(stream);
        entry
    }

    fn take_parcels(&self) {
        while let Some(Parcel { token, descriptor }) = self.fleet.berth(self.shard).parcels.pop() {
            let entry = self.adopt(descriptor);
            self.complete(arrival(token), entry as i32);
        }
    }

    fn has_news(&self) -> bool {
        !self.told.borrow().is_empty() || self.failure.borrow().is_some()
    }
}

/// An operation and what it takes along.
struct Order {
    user: u64,
    op: Op,
    /// What it sends or writes.
    bytes: Vec<u8>,
}

/// One shard's kernel. Opened and used by the same thread, which glommio's types enforce.
pub struct GlommioKernel {
    executor: LocalExecutor,
    shared: Rc<Shared>,
    listeners: Vec<Rc<OwnedFd>>,
    orders: Vec<Order>,
    airlock: Rc<Airlock>,
    segments: Rc<Segments>,
    thread: FileThread,
    notices: Vec<String>,
}

impl GlommioKernel {
    /// Opens the kernel of a shard on the calling thread. `listeners` are numbered in order by [`Op::AcceptMulti`]
    /// and made non-blocking. `receive_bytes` is the most a receive brings; `completions_per_turn` bounds nothing here.
    ///
    /// # Errors
    /// [`OpenError`] says which step failed.
    ///
    /// # Panics
    /// If a bound of `config` is 0, or the fleet has no place for the shard. glommio panics where io_uring is denied:
    /// probe that before.
    pub fn open(
        config: &PortableConfig,
        fleet: Arc<Fleet>,
        listeners: Vec<OwnedFd>,
    ) -> Result<Self, OpenError> {
        assert!(config.entries > 0 && config.receive_bytes > 0);
        let (durability, notices) = config.durability()?;
        let listeners = set_up(listeners).map_err(OpenError::step("set up a listener"))?;
        let executor = LocalExecutorBuilder::new(Placement::Unbound)
            .io_memory(IO_MEMORY)
            .make()
            .map_err(|error| io::Error::other(error.to_string()))
            .map_err(OpenError::step("start a glommio executor"))?;
        let waker = Arc::new(Bell { fleet: Arc::clone(&fleet), shard: config.shard });
        let thread = FileThread::start(&config.data, durability, waker)
            .map_err(OpenError::step("start the file thread"))?;
        let airlock = Rc::new(Airlock::new().map_err(OpenError::step("make a socket pair"))?);
        let bell = fleet.berth(config.shard).bell.try_clone().map_err(OpenError::step("watch the bell"))?;
        fleet.berth(config.shard).open(config.entries);
        let shared = Rc::new(Shared {
            told: RefCell::default(),
            parked: RefCell::default(),
            sleeper: RefCell::default(),
            waiting: RefCell::default(),
            connections: RefCell::default(),
            free: RefCell::default(),
            scratch: RefCell::new(vec![0; config.receive_bytes].into_boxed_slice()),
            failure: RefCell::default(),
            entries: config.entries,
            shard: config.shard,
            fleet,
        });
        executor.run(async {
            ::glommio::spawn_local(tasks::hear(Rc::clone(&shared), bell)).detach();
        });
        let segments = Rc::new(Segments::new(&config.data, durability));
        Ok(Self { executor, shared, listeners, orders: Vec::new(), airlock, segments, thread, notices })
    }

    /// A sentence for each thing that had to be done without.
    pub fn notices(&self) -> &[String] {
        &self.notices
    }

    fn take_files(&mut self) {
        while let Some(JobDone { created, log, segment, file }) = self.thread.done() {
            let user = created.expect("nothing but creations is asked of the thread");
            self.segments.forget((log, segment));
            self.shared.complete(user, file.map_or_else(|errno| -errno, |_| 0));
        }
    }
}

/// Carries an order out, or spawns the task that does. Inside the executor only.
fn carry_out(
    order: Order,
    shared: &Rc<Shared>,
    listeners: &[Rc<OwnedFd>],
    airlock: &Airlock,
    segments: &Rc<Segments>,
) {
    let Order { user, op, bytes } = order;
    let shared = Rc::clone(shared);
    match op {
        Op::AcceptMulti { listener } => {
            let (listener, stop) = (Rc::clone(&listeners[usize::from(listener)]), shared.began(user));
            ::glommio::spawn_local(tasks::accept(shared, listener, user, stop)).detach();
        }
        Op::Receive { entry, once } => {
            let (stream, stop) = (shared.stream(entry), shared.began(user));
            ::glommio::spawn_local(tasks::receive(shared, stream, user, once, stop)).detach();
        }
        Op::Send { entry, .. } => {
            let (stream, stop) = (shared.stream(entry), shared.began(user));
            ::glommio::spawn_local(tasks::send(shared, stream, user, bytes, stop)).detach();
        }
        Op::Shutdown { entry } => shared.complete(user, shut_down(&*shared.stream(entry).borrow())),
        Op::Cancel { target } => {
            shared.cancel(target);
            shared.complete(user, 0);
        }
        Op::Close { entry } => {
            ::glommio::spawn_local(tasks::close(shared, entry, user)).detach();
        }
        Op::SendDescriptor { entry, to, token } => {
            // The entry here keeps its own descriptor until the table closes it.
            let second = || airlock.second(&*shared.stream(entry).borrow());
            let result = shared.fleet.hand_over(to, token, second);
            shared.complete(user, result);
        }
        Op::Wake { shard } => shared.fleet.ring(shard),
        Op::Write { .. } | Op::Read { .. } | Op::Sync { .. } => {
            let segments = Rc::clone(segments);
            segments.began();
            let work = async move {
                let (result, portion) = segments.carry_out(op, bytes).await;
                segments.ended();
                shared.tell(Told { user, result, portion, ..Told::default() });
            };
            ::glommio::spawn_local(work).detach();
        }
        Op::Create { .. } => unreachable!("posted to the file thread at once"),
    }
}

/// Waits until there is something to tell, or for `ns` nanoseconds (`u64::MAX`: no limit).
async fn sleep(shared: &Shared, ns: u64) {
    let limit = (ns != u64::MAX).then(|| Duration::from_nanos(ns).min(SLEEP_MAX));
    let mut timer = pin!(async {
        match limit {
            Some(limit) => drop(Timer::new(limit).await),
            None => std::future::pending().await,
        }
    });
    poll_fn(|context| {
        if shared.has_news() {
            return Poll::Ready(());
        }
        *shared.sleeper.borrow_mut() = Some(context.waker().clone());
        timer.as_mut().poll(context)
    })
    .await;
    shared.sleeper.take();
}

/// Listeners that this driver accepts from.
fn set_up(listeners: Vec<OwnedFd>) -> io::Result<Vec<Rc<OwnedFd>>> {
    for listener in &listeners {
        rustix::io::ioctl_fionbio(listener, true)?;
    }
    Ok(listeners.into_iter().map(Rc::new).collect())
}

/// Connections stay: a descriptor that glommio watches cannot be taken from it while its tasks may hold it.
impl Transfer for GlommioKernel {
    fn listen(&mut self, listeners: Vec<OwnedFd>) -> io::Result<()> {
        assert!(self.listeners.is_empty(), "a kernel takes its listeners once");
        self.listeners = set_up(listeners)?;
        Ok(())
    }

    fn exports(&self) -> bool {
        false
    }

    fn export(&mut self, _entries: &[u32]) -> io::Result<Vec<OwnedFd>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn import(&mut self, sockets: Vec<OwnedFd>) -> io::Result<Vec<u32>> {
        // The sender finds no room for them here, tells how many, and closes them.
        drop(sockets);
        Ok(Vec::new())
    }
}

impl Kernel for GlommioKernel {
    fn entries(&self) -> u32 {
        self.shared.entries
    }

    fn submit(&mut self, user: u64, op: Op, buffers: &mut Buffers) {
        let lent =
            |buffer, from: u32, len: u32| buffers.lent(buffer)[from as usize..][..len as usize].to_vec();
        let bytes = match op {
            Op::Send { buffer, from, len, .. } | Op::Write { buffer, from, len, .. } => {
                lent(buffer, from, len)
            }
            Op::Create { log, segment, bytes, header } => {
                let header = buffers.lent(header).to_vec();
                return self.thread.post(Job::Create { user, log, segment, bytes, header });
            }
            _ => Vec::new(),
        };
        self.orders.push(Order { user, op, bytes });
    }

    fn enter(&mut self, wait_ns: Option<u64>) -> Result<(), KernelFailure> {
        self.take_files();
        let Self { executor, shared, listeners, orders, airlock, segments, .. } = self;
        executor.run(async {
            for waker in shared.parked.take() {
                waker.wake();
            }
            for order in orders.drain(..) {
                carry_out(order, shared, listeners, airlock, segments);
            }
            shared.take_parcels();
            if let Some(ns) = wait_ns {
                sleep(shared, ns).await;
                shared.take_parcels();
            }
        });
        match shared.failure.take() {
            Some(sentence) => Err(KernelFailure(sentence)),
            None => Ok(()),
        }
    }

    fn reap(&mut self, buffers: &mut Buffers, arena: &mut Vec<u8>, out: &mut Vec<Completion>) {
        self.take_files();
        for Told { user, result, more, bytes, portion } in self.shared.told.borrow_mut().drain(..) {
            let bytes = bytes.map(|bytes| {
                let start = u32::try_from(arena.len()).expect("less than 4 GiB received in a turn");
                arena.extend_from_slice(&bytes);
                start
            });
            if let Some(Portion { buffer, from, read }) = portion {
                buffers.lent_mut(buffer)[from as usize..][..read.len()].copy_from_slice(&read);
            }
            out.push(Completion { user, result, more, bytes });
        }
    }

    fn waker(&self) -> Arc<dyn Waker> {
        Arc::new(Bell { fleet: Arc::clone(&self.shared.fleet), shard: self.shared.shard })
    }
}

impl Drop for GlommioKernel {
    /// Ends the waits, closes the connections, and waits for what the log still has under way, however long: no byte
    /// reaches it after its shard is gone, and its memory is glommio's, which goes with the executor.
    fn drop(&mut self) {
        let Self { executor, shared, segments, .. } = self;
        shared.fleet.berth(shared.shard).close();
        executor.run(async {
            for stop in std::mem::take(&mut *shared.waiting.borrow_mut()).into_values() {
                stop.set();
            }
            shared.connections.borrow_mut().clear();
            // A turn in any case, so that glommio sees its own cancellations through.
            Timer::new(Duration::from_millis(1)).await;
            while segments.out() > 0 {
                Timer::new(Duration::from_millis(1)).await;
            }
            segments.close().await;
        });
    }
}

impl fmt::Debug for GlommioKernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GlommioKernel")
            .field("shard", &self.shared.shard)
            .field("waiting", &self.shared.waiting.borrow().len())
            .finish_non_exhaustive()
    }
}
