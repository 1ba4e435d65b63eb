//! The contract: operations in, completions out.
//!
//! Order of a turn: [`Kernel::reap`] carries out what the last look found ready and gives the completions;
//! [`Kernel::submit`] does what can be done at once and starts waits for the rest; [`Kernel::enter`] looks or sleeps.
//!
//! Queues and their bounds: `local` and the tokens (one per operation that is out), parcels (the table's entries).

mod sockets;

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

use monoio::net::TcpStream;
use ringdesk_persist::Pages;
use ringdesk_uring::buffers::{BufferId, Buffers};
use ringdesk_uring::files::{Durability, probe_direct};
use ringdesk_uring::kernel::{Completion, Kernel, KernelFailure, Op, Transfer, WOKEN, Waker};
use rustix::io::Errno;

use crate::descriptor::{Airlock, shut_down, watched};
use crate::files::{Files, Work};
use crate::fleet::{Bell, Fleet};
use crate::watch::{Poller, Token, Wait};

/// How to open the kernel of a shard.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PortableConfig {
    /// The shard.
    pub shard: u16,
    /// The data folder.
    pub data: PathBuf,
    /// Connections at most, at least 1. Each takes a descriptor of the process: the sum over all shards belongs well
    /// below RLIMIT_NOFILE.
    pub entries: u32,
    /// Bytes received with one call, at least 1. One such buffer exists per shard.
    pub receive_bytes: usize,
    /// Ready connections, finished file operations and arrived connections looked at per turn, at least 1 of each.
    pub completions_per_turn: usize,
    /// Whether direct writes are tried; otherwise each write is followed by fdatasync.
    pub direct_io: bool,
    /// How writes become durable, where that is known; otherwise it is found out by writing a file.
    pub durability: Option<Durability>,
}

impl PortableConfig {
    /// The defaults for a shard with its log below `data`.
    pub fn new(shard: u16, data: PathBuf) -> Self {
        Self {
            shard,
            data,
            entries: 4096,
            receive_bytes: 65_536,
            completions_per_turn: 1024,
            direct_io: true,
            durability: None,
        }
    }

    /// How the log's writes become durable, and a line where that is not how they should.
    pub(crate) fn durability(&self) -> Result<(Durability, Vec<String>), OpenError> {
        if let Some(known) = self.durability {
            return Ok((known, Vec::new()));
        }
        if !self.direct_io {
            return Ok((Durability::Buffered, Vec::new()));
        }
        let durability = probe_direct(&self.data, self.shard)
            .map_err(OpenError::step("write a file in the data folder"))?;
        let line = "the data folder's file system refuses direct writes: fdatasync after each";
        let refused = durability == Durability::Buffered;
        Ok((durability, refused.then(|| line.to_owned()).into_iter().collect()))
    }
}

/// Why the kernel of a shard cannot be opened.
#[derive(Debug)]
pub struct OpenError {
    step: &'static str,
    cause: io::Error,
}

impl OpenError {
    pub(crate) fn step(step: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |cause| Self { step, cause }
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {}: {}", self.step, self.cause)
    }
}

impl std::error::Error for OpenError {}

/// A receive, or an accept, that is out.
#[derive(Debug)]
struct Receiving {
    user: u64,
    once: bool,
    wait: Wait,
}

/// A send that waits for room.
#[derive(Debug)]
struct Sending {
    user: u64,
    buffer: BufferId,
    from: u32,
    len: u32,
    wait: Wait,
}

#[derive(Debug)]
struct Connection {
    stream: Rc<TcpStream>,
    receive: Option<Receiving>,
    send: Option<Sending>,
}

struct Listener {
    socket: OwnedFd,
    stream: Rc<TcpStream>,
    accept: Option<Receiving>,
}

/// What a `user` value that can be cancelled stands for.
#[derive(Clone, Copy, Debug)]
enum Target {
    Accept(u16),
    Receive(u32),
    Send(u32),
}

/// One shard's kernel. Opened and used by the same thread, which monoio's types enforce.
pub struct PortableKernel {
    poller: Poller,
    shard: u16,
    entries: u32,
    completions_per_turn: usize,
    fleet: Arc<Fleet>,
    bell: Rc<TcpStream>,
    listeners: Vec<Listener>,
    connections: Vec<Option<Connection>>,
    free: Vec<u32>,
    targets: BTreeMap<u64, Target>,
    airlock: Airlock,
    files: Files,
    notices: Vec<String>,
    /// Completions that are known already.
    local: VecDeque<Completion>,
    scratch: Box<[u8]>,
    failure: Option<String>,
}

impl PortableKernel {
    /// Opens the kernel of a shard on the calling thread. `listeners` are numbered in order by [`Op::AcceptMulti`]
    /// and made non-blocking. Also starts the shard's file threads and tries a direct write in the data folder.
    ///
    /// # Errors
    /// [`OpenError`] says which step failed.
    ///
    /// # Panics
    /// If a bound of `config` is 0, or the fleet has no place for the shard.
    pub fn open(
        config: &PortableConfig,
        fleet: Arc<Fleet>,
        listeners: Vec<OwnedFd>,
    ) -> Result<Self, OpenError> {
        assert!(config.entries > 0 && config.receive_bytes > 0 && config.completions_per_turn > 0);
        let (durability, notices) = config.durability()?;
        let waker: Arc<dyn Waker> = Arc::new(Bell { fleet: Arc::clone(&fleet), shard: config.shard });
        let files = Files::start(&config.data, durability, &waker)
            .map_err(OpenError::step("start the file threads"))?;
        let mut poller = Poller::new().map_err(OpenError::step("open an epoll instance"))?;
        let bell = watch_over(&mut poller, &fleet.berth(config.shard).bell)
            .map_err(OpenError::step("watch the bell"))?;
        let listeners =
            watch_listeners(&mut poller, listeners).map_err(OpenError::step("watch a listener"))?;
        let airlock = Airlock::new().map_err(OpenError::step("make a socket pair"))?;
        // The bell's wait is never stopped.
        poller.watch(&bell, false, |_| Token::Bell);
        fleet.berth(config.shard).open(config.entries);
        Ok(Self {
            poller,
            shard: config.shard,
            entries: config.entries,
            completions_per_turn: config.completions_per_turn,
            fleet,
            bell,
            listeners,
            connections: Vec::new(),
            free: Vec::new(),
            targets: BTreeMap::new(),
            airlock,
            files,
            notices,
            local: VecDeque::new(),
            scratch: vec![0; config.receive_bytes].into_boxed_slice(),
            failure: None,
        })
    }

    /// A sentence for each thing that had to be done without.
    pub fn notices(&self) -> &[String] {
        &self.notices
    }

    fn complete(&mut self, user: u64, result: i32) {
        self.local.push_back(Completion { user, result, more: false, bytes: None });
    }

    /// Ends the operation with this `user`, if it is one that waits. A file operation ends by itself.
    fn cancel(&mut self, target: u64) {
        let wait = match self.targets.remove(&target) {
            Some(Target::Accept(listener)) => {
                self.listeners[usize::from(listener)].accept.take().map(|accept| accept.wait)
            }
            Some(Target::Receive(entry)) => self.connection(entry).receive.take().map(|receive| receive.wait),
            Some(Target::Send(entry)) => self.connection(entry).send.take().map(|send| send.wait),
            None => return,
        };
        self.poller.stop(&wait);
        assert!(wait.is_some(), "the operation {target:#x} is out but does not wait");
        self.complete(target, -Errno::CANCELED.raw_os_error());
    }

    /// The bell rang: whatever it was for, the shard looks at its lanes and its mailbox.
    fn rung(&mut self, out: &mut Vec<Completion>) {
        // Empty if another ring was read with an earlier one.
        let _ = rustix::io::read(&self.fleet.berth(self.shard).bell, &mut [0; 8]);
        self.poller.watch(&self.bell, false, |_| Token::Bell);
        out.push(Completion { user: WOKEN, result: 0, more: false, bytes: None });
    }

    fn file_op(&mut self, user: u64, op: Op, buffers: &Buffers) {
        let (key, work) = match op {
            Op::Create { log, segment, bytes, header } => {
                ((log, segment), Work::Create { bytes, header: buffers.lent(header).to_vec() })
            }
            Op::Write { log, segment, offset, buffer, from, len } => {
                let mut pages = Pages::zeroed(len as usize);
                pages.as_bytes_mut().copy_from_slice(&buffers.lent(buffer)[from as usize..][..len as usize]);
                ((log, segment), Work::Write { offset, pages })
            }
            Op::Read { log, segment, offset, buffer, from, len } => {
                ((log, segment), Work::Read { offset, pages: Pages::zeroed(len as usize), buffer, from })
            }
            Op::Sync { log, segment } => ((log, segment), Work::Sync),
            other => panic!("{other:?} is not an operation on a file"),
        };
        self.files.post(user, key, work);
    }

    fn take_files(&mut self, buffers: &mut Buffers, out: &mut Vec<Completion>) {
        for _ in 0..self.completions_per_turn {
            let Some(done) = self.files.done() else { return };
            if let (Some((buffer, from, pages)), Ok(count)) = (done.read, usize::try_from(done.result)) {
                let into = &mut buffers.lent_mut(buffer)[from as usize..][..count];
                into.copy_from_slice(&pages.as_bytes()[..count]);
            }
            out.push(Completion { user: done.user, result: done.result, more: false, bytes: None });
        }
    }

    fn take_tokens(&mut self, buffers: &mut Buffers, arena: &mut Vec<u8>, out: &mut Vec<Completion>) {
        for _ in 0..self.completions_per_turn {
            let Some(token) = self.poller.take() else { return };
            match token {
                Token::Bell => self.rung(out),
                Token::Listener { listener, wait } => self.accept_some(listener, wait, out),
                Token::Readable { entry, wait } => self.receive_some(entry, wait, arena, out),
                Token::Writable { entry, wait } => self.send_on(entry, wait, buffers, out),
            }
        }
    }
}

fn watch_over(poller: &mut Poller, socket: &OwnedFd) -> io::Result<Rc<TcpStream>> {
    let second = socket.try_clone()?;
    poller.inside(|| watched(second)).map(Rc::new)
}

fn watch_listeners(poller: &mut Poller, listeners: Vec<OwnedFd>) -> io::Result<Vec<Listener>> {
    let watch = |socket: OwnedFd| {
        rustix::io::ioctl_fionbio(&socket, true)?;
        Ok(Listener { stream: watch_over(poller, &socket)?, socket, accept: None })
    };
    listeners.into_iter().map(watch).collect()
}

impl Transfer for PortableKernel {
    fn listen(&mut self, listeners: Vec<OwnedFd>) -> io::Result<()> {
        assert!(self.listeners.is_empty(), "a kernel takes its listeners once");
        self.listeners = watch_listeners(&mut self.poller, listeners)?;
        Ok(())
    }

    fn exports(&self) -> bool {
        true
    }

    fn export(&mut self, entries: &[u32]) -> io::Result<Vec<OwnedFd>> {
        let second = |entry: &u32| {
            let stream = Rc::clone(&self.connection(*entry).stream);
            self.airlock.second(&stream).map_err(|errno| io::Error::from_raw_os_error(-errno))
        };
        entries.iter().map(second).collect()
    }

    fn import(&mut self, sockets: Vec<OwnedFd>) -> io::Result<Vec<u32>> {
        let mut entries = Vec::with_capacity(sockets.len());
        for socket in sockets {
            match self.take_in(socket) {
                Ok(entry) => entries.push(entry),
                Err(errno) if errno == -Errno::NFILE.raw_os_error() => break,
                Err(errno) => return Err(io::Error::from_raw_os_error(-errno)),
            }
        }
        Ok(entries)
    }
}

impl Kernel for PortableKernel {
    fn entries(&self) -> u32 {
        self.entries
    }

    fn submit(&mut self, user: u64, op: Op, buffers: &mut Buffers) {
        match op {
            Op::AcceptMulti { listener } => self.accept(user, listener),
            Op::Receive { entry, once } => self.receive(user, entry, once),
            Op::Send { entry, buffer, from, len } => self.send(user, entry, (buffer, from, len), buffers),
            Op::Shutdown { entry } => {
                let result = shut_down(&self.connection(entry).stream);
                self.complete(user, result);
            }
            Op::Cancel { target } => {
                self.cancel(target);
                self.complete(user, 0);
            }
            Op::Close { entry } => {
                self.close(entry);
                self.complete(user, 0);
            }
            Op::SendDescriptor { entry, to, token } => {
                let result = self.send_descriptor(entry, to, token);
                self.complete(user, result);
            }
            Op::Wake { shard } => self.fleet.ring(shard),
            Op::Create { .. } | Op::Write { .. } | Op::Read { .. } | Op::Sync { .. } => {
                self.file_op(user, op, buffers);
            }
        }
    }

    fn enter(&mut self, wait_ns: Option<u64>) -> Result<(), KernelFailure> {
        if let Some(sentence) = &self.failure {
            return Err(KernelFailure(sentence.clone()));
        }
        let parcels = !self.fleet.berth(self.shard).parcels.is_empty();
        let ready = !self.local.is_empty() || self.poller.has_tokens() || self.files.has_done() || parcels;
        match wait_ns.filter(|_| !ready) {
            Some(ns) => self.poller.sleep(ns),
            None => self.poller.look(),
        }
        Ok(())
    }

    fn reap(&mut self, buffers: &mut Buffers, arena: &mut Vec<u8>, out: &mut Vec<Completion>) {
        out.extend(self.local.drain(..));
        self.take_parcels(out);
        self.take_files(buffers, out);
        self.take_tokens(buffers, arena, out);
    }

    fn waker(&self) -> Arc<dyn Waker> {
        Arc::new(Bell { fleet: Arc::clone(&self.fleet), shard: self.shard })
    }
}

impl Drop for PortableKernel {
    /// Ends the waits and closes the connections where monoio can let go of them. The file threads finish what they
    /// have; they work on copies.
    fn drop(&mut self) {
        self.fleet.berth(self.shard).close();
        let (connections, listeners) =
            (std::mem::take(&mut self.connections), std::mem::take(&mut self.listeners));
        let waits = connections.iter().flatten().flat_map(|connection| {
            let receive = connection.receive.as_ref().map(|receive| &receive.wait);
            receive.into_iter().chain(connection.send.as_ref().map(|send| &send.wait))
        });
        let accepts = listeners.iter().filter_map(|listener| listener.accept.as_ref());
        self.poller.stop(waits.chain(accepts.map(|accept| &accept.wait)));
        self.poller.inside(|| drop((connections, listeners)));
    }
}

impl fmt::Debug for PortableKernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PortableKernel")
            .field("shard", &self.shard)
            .field("waiting", &self.targets.len())
            .finish_non_exhaustive()
    }
}
