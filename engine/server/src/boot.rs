//! From a command line to a serving process, in this order: configuration, data folder and its lock, META, kernel
//! probe, addresses, directory, control plane (which answers "not ready" from here on), replay, sync, shards, ready.
//!
//! Each step that fails ends the start with one sentence and its own exit code ([`BootError`]). Nothing is written to a
//! log before the replay is done, and nothing is served before all of it is on the disk.

pub mod backend;
pub mod damage;
pub mod error;
pub mod extents;
pub mod fleet;
pub mod folder;
pub mod follow;
pub mod listeners;
pub mod replay;
pub mod ropes;
pub mod succeed;

use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ringdesk_desk::Limits;
use ringdesk_persist::{Geometry, LogId, Meta};
use ringdesk_shard::OwnerConfig;
use ringdesk_shard::io::Control;
use ringdesk_shard::report::ShardReport;
use ringdesk_shard::router::Router;
use ringdesk_uring::files::Durability;
use ringdesk_uring::host::{available_cores, raise_descriptor_limit};
use ringdesk_uring::listen::local_address;
use ringdesk_uring::mailbox::{Letter, Mailbox};
use sd_notify::NotifyState;
use tokio::sync::mpsc;

use self::backend::Backend;
pub use self::error::BootError;
use self::fleet::Crew;
use self::folder::Lock;
use self::listeners::{Given, Listeners, Name, address_error};
use self::replay::Replayed;
use self::ropes::Ropes;
use crate::config::{Config, ConfigError, Fixed, Overrides, SHARDS_MAX, TICKET_LIFETIME_S_MAX};
use crate::control::plane::{Addresses, Parts, Plane, Secrets, connections_of_one, now_s, settings};
use crate::control::shards::{Post, Shards};
use crate::control::{self, Ended};
use crate::directory::{Directory, RedbDirectory, Seed};
use crate::secrets::{self, hex, random_bytes};
use crate::tls::Certificate;
use crate::upgrade::Summary;
use crate::upgrade::give::{self, Giver};
use crate::upgrade::take::Predecessor;
use crate::upgrade::wire::{PROTOCOL, SOCKET, Welcome};
use crate::{demo, journal, say};

/// Entries of a descriptor table kept free for connections handed over by other shards.
const TABLE_RESERVE: u32 = 256;
/// What the boot leads to.
struct Booted {
    config: Config,
    meta: Meta,
    lock: Lock,
    shards: u16,
    entries: u32,
    table_entries: u32,
    nothing_moved: bool,
    overrides: Overrides,
    listeners: Listeners,
    certificate: Option<Certificate>,
    directory: Arc<dyn Directory>,
    first_start: bool,
    backend: Backend,
}

/// How the shards reach the control plane.
struct Channels {
    reports: mpsc::Sender<Box<ShardReport>>,
    reports_inbox: mpsc::Receiver<Box<ShardReport>>,
    drained: mpsc::Sender<u16>,
    drained_inbox: mpsc::Receiver<u16>,
}

impl Channels {
    fn new(shards: u16) -> Self {
        let (reports, reports_inbox) = mpsc::channel(usize::from(shards) * 2);
        let (drained, drained_inbox) = mpsc::channel(usize::from(shards));
        Self { reports, reports_inbox, drained, drained_inbox }
    }

    fn senders(&self) -> Senders {
        Senders { reports: self.reports.clone(), drained: self.drained.clone() }
    }
}

/// What a start that takes over has done already.
struct Ahead {
    crew: Crew,
    replayed: Vec<Replayed>,
    before: Predecessor,
    summary: Summary,
}

/// Starts, serves until told to stop or replaced, and drains. `take_over`: in place of the process that serves the data
/// folder.
pub fn run(overrides: &Overrides, started: Instant, take_over: bool) -> Result<(), BootError> {
    let mut channels = None;
    let (mut booted, ahead) = if take_over {
        let (booted, ahead) = succeed::succeed(overrides, &mut channels)?;
        (booted, Some(ahead))
    } else {
        (prepare(overrides)?, None)
    };
    let plane = plane(&booted, started)?;
    let channels = channels.unwrap_or_else(|| Channels::new(booted.shards));
    let senders = channels.senders();
    let Channels { reports_inbox, drained_inbox, .. } = channels;
    let http = booted.listeners.http().try_clone().map_err(|error| address_error("listen.http", &error))?;
    let control_plane = plane.clone();
    let control = std::thread::Builder::new()
        .name("rd-control".into())
        .spawn(move || control::run(&control_plane, http, drained_inbox))
        .map_err(|error| BootError::Kernel(format!("the control plane's thread cannot start: {error}")))?;

    let (done, before) = match ahead {
        Some(Ahead { crew, replayed, before, summary }) => (Some((crew, replayed)), Some((before, summary))),
        None => (None, None),
    };
    let (mut running, ropes, exports) = start_shards(&mut booted, &plane, senders, reports_inbox, done)?;
    running.go();
    // A process that took over is not the one that systemd started. It must hear so before that one ends, which it would
    // take for the end of the service.
    let _ = sd_notify::notify(&[NotifyState::MainPid(std::process::id()), NotifyState::Ready]);
    if let Some((before, summary)) = before {
        let summary = before.serving(summary);
        say!(Info, "took over: {summary}");
        plane.note_upgrade(summary);
    }
    announce(&booted, &plane, started);
    offer(&mut booted, &plane, ropes, exports);

    match control.join() {
        Ok(Ok(Ended::Replaced)) => {
            // Nothing is written any more: not even where the logs end.
            running.stop();
            say!(Info, "stopped; another process serves");
            return Ok(());
        }
        Ok(Ok(Ended::Abandoned)) => {
            let sentence = "the process that took over does not serve; start again";
            return Err(BootError::TakeOver(sentence.to_string()));
        }
        Ok(Ok(Ended::Drained)) => {}
        Ok(Ok(Ended::Late)) => {
            say!(Warn, "some clients were not told goodbye in time; what was acknowledged is kept")
        }
        Ok(Err(error)) => say!(Error, "the control plane ended: {error}"),
        Err(_) => say!(Error, "the control plane panicked"),
    }
    extents::close(&booted.config.fixed.data, &running.stop());
    booted.listeners.remove_unix_file();
    let _ = std::fs::remove_file(booted.config.fixed.data.join(SOCKET));
    say!(Info, "stopped");
    Ok(())
}

/// Everything before the control plane.
fn prepare(overrides: &Overrides) -> Result<Booted, BootError> {
    let given = Given::take()?;
    let mut overrides = overrides.clone();
    given.address(&mut overrides);
    let config = Config::load(&overrides)?;
    journal::set_level(config.live.log_level);
    let data = config.fixed.data.clone();
    let lock = folder::claim(&data)?;
    let shards = shard_count(config.fixed.shards)?;
    let nothing_moved = folder::same_layout_always(&data, shards)?;
    let meta = folder::next_boot(&data, shards)?;
    let descriptors = raise_descriptor_limit().unwrap_or(1024);
    let backend = backend::choose(config.fixed.backend, &data, None)?;
    let entries = table_entries(&config, &backend, descriptors, shards);
    let certificate = certificate(&config)?;
    let listeners = Listeners::open(&config, given)?;
    let (directory, first_start) = open_directory(&data, meta.logs)?;
    Ok(Booted {
        config,
        meta,
        lock,
        shards,
        entries,
        table_entries: Backend::table(descriptors),
        nothing_moved,
        overrides,
        listeners,
        certificate,
        directory,
        first_start,
        backend,
    })
}

/// Entries of one shard's descriptor table.
fn table_entries(config: &Config, backend: &Backend, descriptors: u64, shards: u16) -> u32 {
    let most = connections_of_one(&config.live, shards.into());
    let wanted = most.saturating_add(most / 16).saturating_add(TABLE_RESERVE);
    backend.entries(wanted, descriptors, shards)
}

fn certificate(config: &Config) -> Result<Option<Certificate>, ConfigError> {
    let certificate = config.live.tls.as_ref().map(Certificate::load).transpose();
    certificate.map_err(|error| {
        let sentence = format!("leads to what cannot be used: {error}");
        ConfigError::Value { key: "tls.certificate", sentence, place: None }
    })
}

fn shard_count(configured: u16) -> Result<u16, BootError> {
    if configured > 0 {
        return Ok(configured);
    }
    let cores = available_cores()
        .map_err(|error| BootError::Kernel(format!("the cores of this process cannot be read: {error}")))?;
    Ok(u16::try_from(cores.len()).unwrap_or(SHARDS_MAX).min(SHARDS_MAX))
}

/// The directory, new in a new folder only: with another ticket key and agents numbered anew, others would get what
/// the logs hold.
fn open_directory(data: &Path, logs: u16) -> Result<(Arc<dyn Directory>, bool), BootError> {
    let path = data.join("directory.redb");
    let refuse_beside_logs = |sentence: &str| {
        let used =
            (0..logs).any(|log| replay::segments(data, LogId(log)).is_ok_and(|found| !found.is_empty()));
        let error = BootError::Folder { path: path.clone(), sentence: sentence.to_string() };
        if used { Err(error) } else { Ok(()) }
    };
    if !path.exists() {
        refuse_beside_logs("it is missing although the folder holds logs; restore it from a backup")?;
    }
    let directory = RedbDirectory::open(&path)?;
    let new = directory.sites()?.is_empty();
    if new {
        refuse_beside_logs("it is empty although the folder holds logs; restore it from a backup")?;
    }
    if new {
        let file = demo::password_file(data);
        demo::write_passwords(data)
            .map_err(BootError::folder(&file, "the demo passwords cannot be written"))?;
        directory.seed(&Seed {
            ticket_key: random_bytes(),
            site: demo::SITE.to_string(),
            agents: demo::AGENTS.map(|(login, name)| (login.to_string(), name.to_string())).to_vec(),
            now_s: now_s(),
        })?;
    }
    Ok((Arc::new(directory), new))
}

fn admin_token(data: &Path) -> Result<String, BootError> {
    let path = data.join("admin.token");
    let known = secrets::read_small(&path).map_err(BootError::folder(&path, "it cannot be read"))?;
    if let Some(token) = known.filter(|token| token.len() >= 32) {
        return Ok(token);
    }
    let token = hex(&random_bytes::<32>());
    secrets::write_private(&path, format!("{token}\n").as_bytes())
        .map_err(BootError::folder(&path, "it cannot be written"))?;
    Ok(token)
}

fn plane(booted: &Booted, started: Instant) -> Result<Arc<Plane>, BootError> {
    let listeners = &booted.listeners;
    let http = listeners.http().local_addr().map_err(|error| address_error("listen.http", &error))?;
    let data = &booted.config.fixed.data;
    booted
        .lock
        .note_address(&local_address(http).to_string())
        .map_err(BootError::folder(&data.join("LOCK"), "the lock file cannot be written"))?;
    Ok(Plane::new(Parts {
        config: booted.config.clone(),
        overrides: booted.overrides.clone(),
        directory: booted.directory.clone(),
        ticket_key: booted.directory.ticket_key()?,
        admin_token: admin_token(data)?,
        addresses: Addresses {
            binary: listeners.tcp(Name::Binary).expect("always listened on"),
            websocket: listeners.tcp(Name::Websocket).expect("always listened on"),
            tls_binary: listeners.tcp(Name::TlsBinary),
            tls_websocket: listeners.tcp(Name::TlsWebsocket),
            unix: listeners.unix(),
            http,
        },
        certificate: booted.certificate.clone(),
        table_connections: booted.entries.saturating_sub(TABLE_RESERVE).max(1),
        backend: booted.backend.name.clone(),
        boot_epoch: booted.meta.boot_epoch,
        started,
    })?)
}

fn owner_configs(config: &Config, shards: u16, slot_epoch: u32, align: u32) -> Vec<OwnerConfig> {
    let router = Router::even(shards);
    let limits = Limits { grace_ms: u64::from(config.fixed.grace_s) * 1000, ..Limits::default() };
    let segment_bytes = u32::try_from(config.fixed.segment_bytes).expect("at most 1 GiB");
    (0..shards)
        .map(|shard| OwnerConfig {
            shard,
            router: router.clone(),
            slot_epoch,
            limits,
            geometry: Geometry { segment_bytes, align, ..Geometry::new(LogId(shard)) },
        })
        .collect()
}

/// Sending ends of [`Channels`].
struct Senders {
    reports: mpsc::Sender<Box<ShardReport>>,
    drained: mpsc::Sender<u16>,
}

fn common(
    fixed: &Fixed,
    backend: &Backend,
    (entries, table_entries): (u32, u32),
    shards: u16,
    senders: Senders,
) -> fleet::Common {
    let cores = available_cores().unwrap_or_default();
    fleet::Common {
        data: fixed.data.clone(),
        driver: backend.driver,
        durability: Some(backend.disk),
        entries,
        table_entries,
        spin: Duration::from_micros(fixed.spin_us.into()),
        cores: if usize::from(shards) <= cores.len() { cores } else { Vec::new() },
        reports: senders.reports,
        drained: senders.drained,
    }
}

/// The kernels of all shards, and what their logs hold, unless that is `done` already.
fn replay_and_open(
    booted: &Booted,
    senders: Senders,
    done: Option<(Crew, Vec<Replayed>)>,
) -> Result<(Crew, Vec<Replayed>), BootError> {
    if let Some(done) = done {
        return Ok(done);
    }
    let fixed = &booted.config.fixed;
    let shards =
        owner_configs(&booted.config, booted.shards, booted.meta.boot_epoch, booted.lock.alignment());
    let count = shards.len();
    let plan = replay::Plan {
        data: &fixed.data,
        logs: booted.meta.logs,
        boots: booted.meta.boot_epoch - 1,
        segment_bytes: shards[0].geometry.segment_bytes,
        shards,
        nothing_moved: booted.nothing_moved,
    };
    let replayed = replay::replay(plan)?;
    replay::sync_all(&fixed.data, booted.meta.logs, count)?;
    let tables = (booted.entries, booted.table_entries);
    let crew = fleet::open(booted.shards, common(fixed, &booted.backend, tables, booted.shards, senders))?;
    Ok((crew, replayed))
}

fn start_shards(
    booted: &mut Booted,
    plane: &Arc<Plane>,
    senders: Senders,
    reports_inbox: mpsc::Receiver<Box<ShardReport>>,
    done: Option<(Crew, Vec<Replayed>)>,
) -> Result<(fleet::Running, Ropes, bool), BootError> {
    let (crew, replayed) = replay_and_open(booted, senders, done)?;
    let count = usize::from(booted.shards);
    let sockets = booted.listeners.sockets(count, booted.config.fixed.send_buffer_bytes as usize)?;
    let of_one = connections_of_one(&booted.config.live, count)
        .min(booted.entries.saturating_sub(TABLE_RESERVE).max(1));
    let secrets = Secrets { ticket_key: plane.ticket_key().to_vec(), tls: plane.tls() };
    let settings = settings(booted.directory.as_ref(), &booted.config.live, secrets, of_one)?;
    let (settings, kinds, log_epoch) = (Arc::new(settings), booted.listeners.kinds(), booted.meta.log_epoch);
    let beginnings = replayed.into_iter().zip(sockets).map(|(replayed, listeners)| fleet::Beginning {
        replayed,
        settings: settings.clone(),
        log_epoch,
        kinds: kinds.clone(),
        listeners,
    });
    crew.notices.iter().for_each(|notice| say!(Warn, "{notice}"));
    let exports = crew.exports;
    let (running, ropes) = crew.begin(beginnings.collect())?;
    post_revocations(booted.directory.as_ref(), &running.mailboxes)?;
    let posts = running.mailboxes.iter().cloned().map(post).collect();
    plane.serve(Shards::new(posts, reports_inbox));
    Ok((running, ropes, exports))
}

/// From now on another process may take over. Where that cannot be, this one serves all the same.
fn offer(booted: &mut Booted, plane: &Arc<Plane>, ropes: Ropes, exports: bool) {
    let made = booted.lock.descriptor().and_then(|lock| {
        let welcome = Welcome {
            version: PROTOCOL,
            pid: std::process::id(),
            shards: booted.shards,
            boot_epoch: booted.meta.boot_epoch,
            direct_io: booted.backend.disk == Durability::Direct,
            listeners: booted.listeners.addresses(),
        };
        give::start(Giver {
            data: booted.config.fixed.data.clone(),
            lock,
            ropes,
            plane: plane.clone(),
            directory: booted.directory.clone(),
            doors: booted.listeners.keep()?,
            welcome,
            exports,
        })
    });
    if let Err(error) = made {
        let at = booted.config.fixed.data.join(SOCKET);
        say!(Warn, "{}: no other process can take over from this one: {error}", at.display());
    }
}

fn post(mailbox: Mailbox) -> Post {
    Box::new(move |message| match mailbox.post(Letter::Control(message)) {
        Err(Letter::Control(back)) => Err(back),
        Ok(()) | Err(_) => Ok(()),
    })
}

/// The revocations that some living ticket may still fall under. They lie in the mailboxes before the shards run.
fn post_revocations(directory: &dyn Directory, mailboxes: &[Mailbox]) -> Result<(), BootError> {
    for revocation in directory.revocations(now_s().saturating_sub(TICKET_LIFETIME_S_MAX))? {
        for mailbox in mailboxes {
            let message = Control::Revoke {
                site: revocation.site,
                agent: revocation.agent,
                visitor: revocation.visitor.clone(),
                before_s: revocation.before_s,
            };
            if mailbox.post(Letter::Control(message)).is_err() {
                let sentence =
                    "there are more revocations of living tickets than a shard takes at start".to_string();
                return Err(BootError::Replay(sentence));
            }
        }
    }
    Ok(())
}

/// What a person who started the server reads, and last the line with `ready` that programs wait for.
fn announce(booted: &Booted, plane: &Plane, started: Instant) {
    use std::fmt::Write as _;
    let addresses = plane.addresses();
    let http = local_address(addresses.http);
    let mut text = String::new();
    let _ = writeln!(
        text,
        "ringdeskd {}: {} shards, {}, boot {}",
        env!("CARGO_PKG_VERSION"),
        booted.shards,
        booted.backend.name,
        booted.meta.boot_epoch
    );
    let _ = writeln!(text, "binary     {}", addresses.binary);
    let _ = writeln!(text, "websocket  {}", addresses.websocket);
    for (name, address) in [("tls-binary", addresses.tls_binary), ("tls-ws    ", addresses.tls_websocket)] {
        if let Some(address) = address {
            let _ = writeln!(text, "{name} {address}");
        }
    }
    if let Some(path) = &addresses.unix {
        let _ = writeln!(text, "unix       {}", path.display());
    }
    let _ = writeln!(text, "visitor    http://{http}/visitor");
    let _ = writeln!(text, "agent      http://{http}/agent");
    if booted.first_start {
        let file = demo::password_file(&booted.config.fixed.data);
        for (login, password) in demo::read_passwords(&booted.config.fixed.data).unwrap_or_default() {
            let _ = writeln!(text, "login      site {}, {login}, password {password}", demo::SITE);
        }
        let _ = writeln!(text, "           (kept in {})", file.display());
    }
    let _ = writeln!(text, "ready in {} ms", started.elapsed().as_millis());
    // Nobody may be reading; that is no reason to stop.
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}
