//! The shards' threads: one per shard, pinned, from the kernel's opening to its end.
//!
//! Order of a thread: pin, open the kernel (which belongs to the thread that opens it), take connections of another
//! process if this one replaces it, build the shard from its replay, report, wait for the word to go, run. A shard that cannot go on ends the process at once: what it did not
//! acknowledge is unknown to its clients, and the next start recovers from the disk.

use std::io;
use std::ops::ControlFlow;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ringdesk_persist::{LogId, Position, log_directory};
use ringdesk_portable::{PortableConfig, PortableKernel};
use ringdesk_ring::{Port, mesh};
use ringdesk_shard::Shard;
use ringdesk_shard::carry::Carried;
use ringdesk_shard::io::{ListenerKind, Space};
use ringdesk_shard::message::ShardMessage;
use ringdesk_shard::report::ShardReport;
use ringdesk_shard::settings::Settings;
use ringdesk_uring::clock::{Clock, HostClock};
use ringdesk_uring::files::Durability;
use ringdesk_uring::host::pin;
use ringdesk_uring::kernel::Transfer;
use ringdesk_uring::mailbox::{Letter, MAILBOX_LETTERS_MAX, Mailbox};
use ringdesk_uring::reactor::{Limits, Reactor};
use ringdesk_uring::run::{News, RunEnd};
use ringdesk_uring::sys::{SysConfig, SysKernel};

use super::backend::{Driver, Fleets};
use super::error::BootError;
use super::replay::Replayed;
use super::ropes::{Event, Given, Order, Ropes};
use crate::say;

/// Messages in one lane between two shards. Full: they wait in the sender's backlog and the sender answers BUSY.
const LANE_MESSAGES: usize = 4_096;

/// How often a full disk is told.
const SPACE_TOLD_EVERY: Duration = Duration::from_secs(60);

/// What all shards have in common when their kernels open.
pub struct Common {
    /// Data folder.
    pub data: PathBuf,
    /// What carries the shards' operations out.
    pub driver: Driver,
    /// How the log is written, where another process found that out.
    pub durability: Option<Durability>,
    /// Entries of each shard's descriptor table.
    pub entries: u32,
    /// Entries of one ring's descriptor table, at most.
    pub table_entries: u32,
    /// How long a shard stays awake without work.
    pub spin: Duration,
    /// Core of each shard, by number; empty: not pinned.
    pub cores: Vec<usize>,
    /// Where reports go; a full channel drops them, the next request asks again.
    pub reports: tokio::sync::mpsc::Sender<Box<ShardReport>>,
    /// Where drained shards tell their number; has a place for each.
    pub drained: tokio::sync::mpsc::Sender<u16>,
}

/// What a shard begins with, once its log was replayed.
pub struct Beginning {
    /// State and tail.
    pub replayed: Replayed,
    /// Settings at start.
    pub settings: Arc<Settings>,
    /// Epoch of clients' cursors.
    pub log_epoch: u32,
    /// What comes through each listener.
    pub kinds: Vec<ListenerKind>,
    /// The listeners.
    pub listeners: Vec<OwnedFd>,
}

/// Threads whose kernels are open and that wait for their shards.
pub struct Crew {
    /// What the kernels had to do without, as the first shard found it.
    pub notices: Vec<String>,
    /// Whether connections can leave these kernels for another process.
    pub exports: bool,
    seats: Vec<mpsc::Sender<Step>>,
    orders: Vec<mpsc::Sender<Order>>,
    told: mpsc::Receiver<Result<Told, BootError>>,
    events: mpsc::Receiver<Event>,
    giving: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Option<(LogId, Position)>>>,
}

/// Running threads.
pub struct Running {
    /// By shard.
    pub mailboxes: Vec<Mailbox>,
    threads: Vec<JoinHandle<Option<(LogId, Position)>>>,
    seats: Vec<mpsc::Sender<Step>>,
}

/// What a thread is told before its shard runs.
enum Step {
    /// Put these connections into the kernel's table; answer how many found room.
    Adopt { sockets: Vec<OwnedFd>, carried: Vec<Carried>, reply: mpsc::Sender<io::Result<usize>> },
    /// Build the shard.
    Begin(Box<Beginning>),
    /// Serve.
    Go,
}

/// What a thread tells before its shard runs.
enum Told {
    Open { shard: u16, notices: Vec<String>, exports: bool },
    Built { shard: u16, mailbox: Mailbox },
}

/// Opens the kernels of `count` shards, each on the thread that will use it.
pub fn open(count: u16, common: Common) -> Result<Crew, BootError> {
    let common = Arc::new(common);
    let fleets = Fleets::new(common.driver, count)?;
    let mut ports = mesh::<ShardMessage>(count, LANE_MESSAGES);
    let (tell, told) = mpsc::channel::<Result<Told, BootError>>();
    let (happened, events) = mpsc::channel();
    let giving = Arc::new(AtomicBool::new(false));
    let mut crew = Crew {
        notices: Vec::new(),
        exports: true,
        seats: Vec::new(),
        orders: Vec::new(),
        told,
        events,
        giving: giving.clone(),
        threads: Vec::new(),
    };
    for shard in 0..count {
        let (seat_of, steps) = mpsc::channel();
        let (orders_of, orders) = mpsc::channel();
        crew.seats.push(seat_of);
        crew.orders.push(orders_of);
        let seat = Seat {
            shard,
            common: common.clone(),
            port: ports.remove(0),
            tell: tell.clone(),
            steps,
            given: Given { giving: giving.clone(), orders, happened: happened.clone() },
        };
        let fleets = fleets.clone();
        let thread = std::thread::Builder::new()
            .name(format!("rd-shard-{shard}"))
            .spawn(move || seat.live(fleets))
            .map_err(|error| {
                BootError::Kernel(format!("the thread of shard {shard} cannot start: {error}"))
            })?;
        crew.threads.push(thread);
    }
    drop(tell);
    for _ in 0..count {
        if let Told::Open { shard, notices, exports } = crew.next()? {
            crew.exports &= exports;
            if shard == 0 {
                crew.notices = notices;
            }
        }
    }
    Ok(crew)
}

impl Crew {
    fn next(&self) -> Result<Told, BootError> {
        self.told.recv().map_err(|_| BootError::Kernel("the shards' threads ended".to_string()))?
    }

    /// Puts connections of another process into a shard's table; its shard has them from its first turn on. Gives how
    /// many found room; the others are closed.
    pub fn adopt(&self, shard: u16, sockets: Vec<OwnedFd>, carried: Vec<Carried>) -> io::Result<usize> {
        let (reply, answer) = mpsc::channel();
        let gone = || io::Error::other("the shard's thread ended");
        self.seats[usize::from(shard)].send(Step::Adopt { sockets, carried, reply }).map_err(|_| gone())?;
        answer.recv().map_err(|_| gone())?
    }

    /// Builds the shards, by number, and waits until all stand ready. They serve after [`Running::go`].
    pub fn begin(self, beginnings: Vec<Beginning>) -> Result<(Running, Ropes), BootError> {
        for (seat, beginning) in self.seats.iter().zip(beginnings) {
            // A thread that ended told why, and that is found below.
            let _ = seat.send(Step::Begin(Box::new(beginning)));
        }
        let mut built = Vec::new();
        while built.len() < self.seats.len() {
            if let Told::Built { shard, mailbox } = self.next()? {
                built.push((shard, mailbox));
            }
        }
        built.sort_by_key(|(shard, _)| *shard);
        let mailboxes: Vec<Mailbox> = built.into_iter().map(|(_, mailbox)| mailbox).collect();
        let ropes = Ropes {
            mailboxes: mailboxes.clone(),
            orders: self.orders,
            events: self.events,
            giving: self.giving,
        };
        Ok((Running { mailboxes, threads: self.threads, seats: self.seats }, ropes))
    }
}

impl Running {
    /// The shards serve from now on.
    pub fn go(&mut self) {
        for seat in self.seats.drain(..) {
            // The receiver is there: a shard that ended has ended the process.
            let _ = seat.send(Step::Go);
        }
    }

    /// Tells the threads to leave their loops, and waits for them. Where their logs end now.
    pub fn stop(self) -> Vec<(LogId, Position)> {
        for mailbox in &self.mailboxes {
            // Full only if the shard stopped reading; then the process exits under it.
            let _ = mailbox.post(Letter::Stop);
        }
        self.threads.into_iter().filter_map(|thread| thread.join().ok().flatten()).collect()
    }
}

/// Says that the disk is full, at most once in [`SPACE_TOLD_EVERY`], and that it is not any more.
fn tell_space(data: &Path, log: LogId, space: Space, told: &mut Option<Instant>) {
    let folder = data.join(log_directory(log));
    match space {
        Space::Short(errno) if told.is_none_or(|at| at.elapsed() >= SPACE_TOLD_EVERY) => {
            *told = Some(Instant::now());
            let error = std::io::Error::from_raw_os_error(errno);
            say!(
                Error,
                "{}: no space for the log's next segment: {error}; new messages are refused once the prepared space is \
                 used up, all else goes on; tried again every few seconds",
                folder.display()
            );
        }
        Space::Short(_) => {}
        Space::Back => {
            *told = None;
            say!(Info, "{}: there is space for the log again", folder.display());
        }
    }
}

/// What one thread starts with.
struct Seat {
    shard: u16,
    common: Arc<Common>,
    port: Port<ShardMessage>,
    tell: mpsc::Sender<Result<Told, BootError>>,
    steps: mpsc::Receiver<Step>,
    given: Given,
}

impl Seat {
    fn live(self, fleets: Fleets) -> Option<(LogId, Position)> {
        match fleets {
            Fleets::Uring(fleet) => self.live_over(|shard, common| {
                let mut config = SysConfig::new(shard, common.data.clone());
                config.entries = common.entries;
                config.table_entries = common.table_entries;
                config.durability = common.durability;
                let kernel =
                    SysKernel::open(&config, fleet, Vec::new()).map_err(|error| error.to_string())?;
                let notices = kernel.notices().to_vec();
                Ok((kernel, notices))
            }),
            Fleets::Portable(fleet) => self.live_over(|shard, common| {
                let mut config = PortableConfig::new(shard, common.data.clone());
                config.entries = common.entries;
                config.durability = common.durability;
                let kernel =
                    PortableKernel::open(&config, fleet, Vec::new()).map_err(|error| error.to_string())?;
                let notices = kernel.notices().to_vec();
                Ok((kernel, notices))
            }),
            #[cfg(feature = "glommio")]
            Fleets::Glommio(fleet) => self.live_over(|shard, common| {
                let mut config = PortableConfig::new(shard, common.data.clone());
                config.entries = common.entries;
                config.durability = common.durability;
                let kernel = ringdesk_portable::GlommioKernel::open(&config, fleet, Vec::new())
                    .map_err(|error| error.to_string())?;
                let notices = kernel.notices().to_vec();
                Ok((kernel, notices))
            }),
        }
    }

    fn live_over<K: Transfer>(
        self,
        open: impl FnOnce(u16, &Common) -> Result<(K, Vec<String>), String>,
    ) -> Option<(LogId, Position)> {
        let (shard, common) = (self.shard, self.common.clone());
        if let Some(&core) = common.cores.get(usize::from(shard))
            && let Err(error) = pin(core)
        {
            say!(Warn, "shard {shard} cannot be pinned to core {core}: {error}");
        }
        let tell = self.tell.clone();
        let kernel = match open(shard, &common) {
            Ok((kernel, notices)) => {
                tell.send(Ok(Told::Open { shard, notices, exports: kernel.exports() })).ok()?;
                kernel
            }
            Err(sentence) => {
                let _ = tell.send(Err(BootError::Kernel(format!("shard {shard}: {sentence}"))));
                return None;
            }
        };
        let mut clock = HostClock::start();
        let built = self.build(kernel, &mut clock)?;
        let (mut reactor, steps, given) = match built {
            Ok(built) => built,
            Err(error) => {
                let _ = tell.send(Err(error));
                return None;
            }
        };
        tell.send(Ok(Told::Built { shard, mailbox: reactor.mailbox() })).ok()?;
        drop(tell);
        matches!(steps.recv(), Ok(Step::Go)).then_some(())?;
        serve(shard, &common, &mut reactor, &mut clock, &given);
        // What is in flight now is waited for when the kernel is dropped; it can only lie behind this end.
        Some((LogId(shard), reactor.shard().owner().log_end()))
    }

    /// Takes connections of another process, then builds the shard. `None`: the process gave up.
    #[expect(clippy::type_complexity, reason = "what is left of the seat, in the place it is taken apart")]
    fn build<K: Transfer>(
        self,
        mut kernel: K,
        clock: &mut HostClock,
    ) -> Option<Result<(Reactor<K, Shard>, mpsc::Receiver<Step>, Given), BootError>> {
        let shard = self.shard;
        let mut adopted = Vec::new();
        let beginning = loop {
            match self.steps.recv().ok()? {
                Step::Adopt { sockets, carried, reply } => {
                    let entries = kernel.import(sockets);
                    let count = entries.map(|entries| {
                        let count = entries.len();
                        adopted.extend(entries.into_iter().zip(carried));
                        count
                    });
                    let _ = reply.send(count);
                }
                Step::Begin(beginning) => break *beginning,
                Step::Go => return None,
            }
        };
        let Beginning { replayed: Replayed { replay, report }, settings, log_epoch, kinds, listeners } =
            beginning;
        if let Err(error) = kernel.listen(listeners) {
            return Some(Err(BootError::Kernel(format!("shard {shard} cannot listen: {error}"))));
        }
        let machine = Shard::boot(shard, replay, settings, report.tail, log_epoch, clock.now());
        let machine = match machine {
            Ok(machine) => machine,
            Err(error) => return Some(Err(BootError::Replay(error.to_string()))),
        };
        // The first turn reads every letter that waits, so that revocations hold before the first connection does.
        let limits = Limits { letters: MAILBOX_LETTERS_MAX, ..Limits::default() };
        let mut reactor = Reactor::new(kernel, machine, self.port, &kinds, limits);
        for (entry, carried) in adopted {
            reactor.adopt(entry, carried);
        }
        Some(Ok((reactor, self.steps, self.given)))
    }
}

/// Serves until told to stop; in between perhaps stands still and gives connections away.
fn serve<K: Transfer>(
    shard: u16,
    common: &Common,
    reactor: &mut Reactor<K, Shard>,
    clock: &mut HostClock,
    given: &Given,
) {
    let mut space_told = None;
    loop {
        let mut stood = None;
        let end = reactor.run(clock, common.spin, &mut |news| {
            match news {
                News::Space(space) => tell_space(&common.data, LogId(shard), space, &mut space_told),
                News::Report(report) => drop(common.reports.try_send(report)),
                News::Drained => {
                    let _ = common.drained.try_send(shard);
                    given.happened(Event::Drained(shard));
                }
                News::Quiet(quiet) => given.happened(Event::Quiet(shard, quiet)),
                News::Still(found) => {
                    stood = Some(found);
                    return ControlFlow::Break(());
                }
                News::Duty(_) => {}
            }
            ControlFlow::Continue(())
        });
        if let RunEnd::Fatal(sentence) = end {
            say!(Error, "shard {shard} cannot go on: {sentence}");
            std::process::exit(1);
        }
        match stood {
            Some(stood) => given.give(shard, reactor, *stood),
            None => return,
        }
    }
}
