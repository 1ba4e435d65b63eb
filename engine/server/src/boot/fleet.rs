//! The shards' threads: one per shard, pinned, from the kernel's opening to its end.
//!
//! Order of a thread: pin, open the kernel (which belongs to the thread that opens it), build the shard from its
//! replay, report, wait for the word to go, run. A shard that cannot go on ends the process at once: what it did not
//! acknowledge is unknown to its clients, and the next start recovers from the disk.

use std::ops::ControlFlow;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ringdesk_persist::{LogId, Position, log_directory};
use ringdesk_portable::{PortableConfig, PortableKernel};
use ringdesk_ring::{Port, mesh};
use ringdesk_shard::Shard;
use ringdesk_shard::io::{ListenerKind, Space};
use ringdesk_shard::message::ShardMessage;
use ringdesk_shard::report::ShardReport;
use ringdesk_shard::settings::Settings;
use ringdesk_uring::clock::{Clock, HostClock};
use ringdesk_uring::host::pin;
use ringdesk_uring::kernel::Kernel;
use ringdesk_uring::mailbox::{Letter, MAILBOX_LETTERS_MAX, Mailbox};
use ringdesk_uring::reactor::{Limits, Reactor};
use ringdesk_uring::run::{News, RunEnd};
use ringdesk_uring::sys::{SysConfig, SysKernel};

use super::backend::Fleets;
use super::error::BootError;
use super::replay::Replayed;
use crate::say;

/// Messages in one lane between two shards. Full: they wait in the sender's backlog and the sender answers BUSY.
const LANE_MESSAGES: usize = 4_096;

/// How often a full disk is told.
const SPACE_TOLD_EVERY: Duration = Duration::from_secs(60);

/// What all shards have in common.
pub struct Common {
    /// Data folder.
    pub data: PathBuf,
    /// Whether the portable kernel runs instead of io_uring.
    pub portable: bool,
    /// Entries of each shard's descriptor table.
    pub entries: u32,
    /// Entries of one ring's descriptor table, at most.
    pub table_entries: u32,
    /// How long a shard stays awake without work.
    pub spin: Duration,
    /// Settings at start.
    pub settings: Arc<Settings>,
    /// Epoch of clients' cursors.
    pub log_epoch: u32,
    /// Core of each shard, by number; empty: not pinned.
    pub cores: Vec<usize>,
    /// Where reports go; a full channel drops them, the next request asks again.
    pub reports: tokio::sync::mpsc::Sender<Box<ShardReport>>,
    /// Where drained shards tell their number; has a place for each.
    pub drained: tokio::sync::mpsc::Sender<u16>,
}

/// Running threads.
pub struct Running {
    /// By shard.
    pub mailboxes: Vec<Mailbox>,
    /// What the kernels had to do without, as the first shard found it.
    pub notices: Vec<String>,
    threads: Vec<JoinHandle<Option<(LogId, Position)>>>,
    go: Vec<mpsc::SyncSender<()>>,
}

struct Started {
    shard: u16,
    mailbox: Mailbox,
    notices: Vec<String>,
}

/// Starts the threads and waits until all shards stand ready. They serve after [`Running::go`].
pub fn start(
    replayed: Vec<Replayed>,
    common: &Arc<Common>,
    kinds: &[ListenerKind],
    mut listeners: Vec<Vec<OwnedFd>>,
) -> Result<Running, BootError> {
    let count = u16::try_from(replayed.len()).expect("at most 1024 shards");
    let fleets = Fleets::new(common.portable, count)?;
    let mut ports = mesh::<ShardMessage>(count, LANE_MESSAGES);
    let (tell, told) = mpsc::channel::<Result<Started, BootError>>();
    let mut running =
        Running { mailboxes: Vec::new(), notices: Vec::new(), threads: Vec::new(), go: Vec::new() };
    for (shard, replayed) in (0..count).zip(replayed) {
        let (go, gone) = mpsc::sync_channel(1);
        running.go.push(go);
        let seat = Seat {
            shard,
            common: common.clone(),
            replayed,
            port: ports.remove(0),
            kinds: kinds.to_vec(),
            listeners: listeners.remove(0),
        };
        let (tell, fleets) = (tell.clone(), fleets.clone());
        let thread = std::thread::Builder::new()
            .name(format!("rd-shard-{shard}"))
            .spawn(move || seat.live(fleets, &tell, &gone))
            .map_err(|error| {
                BootError::Kernel(format!("the thread of shard {shard} cannot start: {error}"))
            })?;
        running.threads.push(thread);
    }
    drop(tell);
    let mut started: Vec<Started> = Vec::new();
    for outcome in told.iter().take(usize::from(count)) {
        started.push(outcome?);
    }
    assert_eq!(started.len(), usize::from(count), "every shard reports once");
    started.sort_by_key(|started| started.shard);
    running.notices = std::mem::take(&mut started[0].notices);
    running.mailboxes = started.into_iter().map(|started| started.mailbox).collect();
    Ok(running)
}

impl Running {
    /// The shards serve from now on.
    pub fn go(&mut self) {
        for go in self.go.drain(..) {
            // The receiver is there: a shard that ended has ended the process.
            let _ = go.send(());
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
    replayed: Replayed,
    port: Port<ShardMessage>,
    kinds: Vec<ListenerKind>,
    listeners: Vec<OwnedFd>,
}

impl Seat {
    fn live(
        self,
        fleets: Fleets,
        tell: &mpsc::Sender<Result<Started, BootError>>,
        gone: &mpsc::Receiver<()>,
    ) -> Option<(LogId, Position)> {
        match fleets {
            Fleets::Uring(fleet) => self.live_over(tell, gone, |shard, common, listeners| {
                let mut config = SysConfig::new(shard, common.data.clone());
                config.entries = common.entries;
                config.table_entries = common.table_entries;
                let kernel = SysKernel::open(&config, fleet, listeners).map_err(|error| error.to_string())?;
                let notices = kernel.notices().to_vec();
                Ok((kernel, notices))
            }),
            Fleets::Portable(fleet) => self.live_over(tell, gone, |shard, common, listeners| {
                let mut config = PortableConfig::new(shard, common.data.clone());
                config.entries = common.entries;
                let kernel =
                    PortableKernel::open(&config, fleet, listeners).map_err(|error| error.to_string())?;
                let notices = kernel.notices().to_vec();
                Ok((kernel, notices))
            }),
        }
    }

    fn live_over<K: Kernel>(
        self,
        tell: &mpsc::Sender<Result<Started, BootError>>,
        gone: &mpsc::Receiver<()>,
        open: impl FnOnce(u16, &Common, Vec<OwnedFd>) -> Result<(K, Vec<String>), String>,
    ) -> Option<(LogId, Position)> {
        let (shard, common) = (self.shard, self.common.clone());
        let mut clock = HostClock::start();
        let mut reactor = match self.build(&mut clock, open) {
            Ok((reactor, notices)) => {
                let started = Started { shard, mailbox: reactor.mailbox(), notices };
                if tell.send(Ok(started)).is_err() || gone.recv().is_err() {
                    return None;
                }
                reactor
            }
            Err(error) => {
                let _ = tell.send(Err(error));
                return None;
            }
        };
        let mut space_told = None;
        let end = reactor.run(&mut clock, common.spin, &mut |news| {
            match news {
                News::Space(space) => tell_space(&common.data, LogId(shard), space, &mut space_told),
                News::Report(report) => drop(common.reports.try_send(report)),
                News::Drained => drop(common.drained.try_send(shard)),
                // Told only to who asked for a stand-still.
                News::Duty(_) | News::Quiet(_) | News::Still(_) => {}
            }
            ControlFlow::Continue(())
        });
        if let RunEnd::Fatal(sentence) = end {
            say!(Error, "shard {shard} cannot go on: {sentence}");
            std::process::exit(1);
        }
        // What is in flight now is waited for when the kernel is dropped; it can only lie behind this end.
        Some((LogId(shard), reactor.shard().owner().log_end()))
    }

    fn build<K: Kernel>(
        self,
        clock: &mut HostClock,
        open: impl FnOnce(u16, &Common, Vec<OwnedFd>) -> Result<(K, Vec<String>), String>,
    ) -> Result<(Reactor<K, Shard>, Vec<String>), BootError> {
        let (shard, common) = (self.shard, &self.common);
        if let Some(&core) = common.cores.get(usize::from(shard))
            && let Err(error) = pin(core)
        {
            say!(Warn, "shard {shard} cannot be pinned to core {core}: {error}");
        }
        let (kernel, notices) = open(shard, common, self.listeners)
            .map_err(|error| BootError::Kernel(format!("shard {shard}: {error}")))?;
        let Replayed { replay, report } = self.replayed;
        let settings = common.settings.clone();
        let machine = Shard::boot(shard, replay, settings, report.tail, common.log_epoch, clock.now())
            .map_err(|error| BootError::Replay(error.to_string()))?;
        // The first turn reads every letter that waits, so that revocations hold before the first connection does.
        let limits = Limits { letters: MAILBOX_LETTERS_MAX, ..Limits::default() };
        Ok((Reactor::new(kernel, machine, self.port, &self.kinds, limits), notices))
    }
}
