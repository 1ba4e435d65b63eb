//! The engine in a run: real shards in real reactors over simulated kernels, joined by real lanes, in one thread.
//!
//! Boot is what the server does: scan every log there is, whoever wrote it; show each shard the records of the other
//! logs first and its own last; sync what was read; start.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use ringdesk_desk::Limits as DeskLimits;
use ringdesk_persist::{Extent, Geometry, LogId, LogReport, Record, RecordRef, ScanPlan, Tail, scan_log};
use ringdesk_protocol::Role;
use ringdesk_ring::mesh;
use ringdesk_shard::carry::Carried;
use ringdesk_shard::io::{ListenerKind, Now};
use ringdesk_shard::router::Router;
use ringdesk_shard::settings::Settings;
use ringdesk_shard::ticket::{Claims, ISSUER, issue};
use ringdesk_shard::{Most, OwnerConfig, Replay, Shard};
use ringdesk_uring::mailbox::Letter;
use ringdesk_uring::reactor::{Limits, Reactor};
use ringdesk_uring::still::{Quiet, Stood};

use crate::kernel::{Env, SimKernel};
use crate::net::earliest;
use crate::plan::{ENTRIES, Sizes, US};
use crate::rng::Rng;
use crate::run::visitor_name;

/// Wall clock at virtual time 0, milliseconds since 1970.
pub const WALL_START_MS: u64 = 1_700_000_000_000;

/// Epoch of clients' cursors: no loss is ever declared here.
const LOG_EPOCH: u32 = 1;

const TICKET_KEY: &[u8] = b"the simulator's ticket key, 32 b";

/// How a turn ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Ran {
    /// The shard goes on.
    On,
    /// The shard gave up.
    Fatal(String),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Wakefulness {
    /// The next turn is due then.
    Awake(u64),
    /// Sleeps in the kernel until a completion or this deadline.
    Asleep(u64),
}

struct Runner {
    reactor: Reactor<SimKernel, Shard>,
    state: Wakefulness,
    /// Paused by a fault until then.
    stalled_until: u64,
}

/// What a shard said in answer to a letter about an upgrade.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Told {
    /// It has nothing left to do.
    Quiet(u16, Quiet),
    /// Its connections.
    Stood(u16, Box<Stood>),
    /// It has let go of them.
    Drained(u16),
}

/// All shards of one run of the process.
pub struct Cluster {
    runners: Vec<Runner>,
    /// What shards said since it was last asked.
    pub told: Vec<Told>,
}

/// One scanned log: its report, and its records with their payloads.
struct Scanned {
    report: LogReport,
    records: Vec<(RecordRef, u16, u32, Vec<u8>)>,
}

/// The time of a turn.
fn time(now: u64) -> Now {
    Now { mono_ns: now, wall_ms: WALL_START_MS + now / 1_000_000 }
}

impl Cluster {
    /// Boots `shards` shards from what the disk has. `boot` counts the starts, from 1.
    pub fn boot(env: &Rc<RefCell<Env>>, sizes: &Sizes, shards: u16, boot: u32) -> Self {
        let now = time(env.borrow().now);
        let logs = scan_all(&env.borrow(), sizes);
        sync_all(&mut env.borrow_mut());
        let settings = Arc::new(settings(sizes));
        let runners = mesh(shards, sizes.lane).into_iter().map(|port| {
            let shard = start(&logs, sizes, (port.shard, shards), boot, settings.clone(), now);
            let kernel = SimKernel::new(port.shard, env.clone());
            let listeners = [ListenerKind::BINARY, ListenerKind::WEBSOCKET];
            let reactor = Reactor::new(kernel, shard, port, &listeners, Limits::default());
            Runner { reactor, state: Wakefulness::Awake(now.mono_ns), stalled_until: 0 }
        });
        Self { runners: runners.collect(), told: Vec::new() }
    }

    /// Posts a letter to every shard, and wakes it.
    pub fn post(&mut self, letter: &Letter, now: u64) {
        for runner in &mut self.runners {
            runner.reactor.mailbox().post(letter.clone()).expect("a mailbox with room");
            if let Wakefulness::Asleep(_) = runner.state {
                runner.reactor.rouse();
            }
            runner.state = Wakefulness::Awake(now);
        }
    }

    /// Begins with a connection that another process had. Before the first turn.
    pub fn adopt(&mut self, shard: u16, entry: u32, carried: Carried) {
        self.runners[usize::from(shard)].reactor.adopt(entry, carried);
    }

    /// Number of shards.
    pub fn len(&self) -> usize {
        self.runners.len()
    }

    /// Never: an engine has at least one shard.
    pub fn is_empty(&self) -> bool {
        self.runners.is_empty()
    }

    /// When a shard runs next.
    pub fn due(&self, shard: usize, env: &Env) -> u64 {
        let runner = &self.runners[shard];
        let at = match runner.state {
            Wakefulness::Awake(at) => at,
            Wakefulness::Asleep(deadline) => {
                earliest(env.next_due(shard as u16), Some(deadline)).unwrap_or(u64::MAX)
            }
        };
        at.max(runner.stalled_until)
    }

    /// Turns so far that ended with a message waiting for a place in a lane.
    pub fn lanes_full(&self) -> u64 {
        self.runners.iter().map(|runner| runner.reactor.counts().0.lanes_full).sum()
    }

    /// The most there was of what a shard bounds.
    pub fn most(&self, shard: usize) -> Most {
        self.runners[shard].reactor.shard().most()
    }

    /// Ends all pauses.
    pub fn wake_all(&mut self, now: u64) {
        for runner in &mut self.runners {
            runner.stalled_until = runner.stalled_until.min(now);
        }
    }

    /// One turn of a shard, and what the production loop would do after it: go on, or sleep.
    pub fn run(&mut self, shard: usize, now: u64, rng: &mut Rng, env: &Rc<RefCell<Env>>) -> Ran {
        let runner = &mut self.runners[shard];
        if let Wakefulness::Asleep(_) = runner.state {
            runner.reactor.rouse();
        }
        let outcome = runner.reactor.turn(time(now));
        if let Some(sentence) = outcome.fatal {
            return Ran::Fatal(sentence);
        }
        let from = shard as u16;
        self.told.extend(outcome.quiet.map(|quiet| Told::Quiet(from, quiet)));
        self.told.extend(outcome.stood.map(|stood| Told::Stood(from, stood)));
        self.told.extend(outcome.drained.then_some(Told::Drained(from)));
        runner.state = match outcome.busy {
            true => Wakefulness::Awake(now + rng.range(1, 5) * US),
            false => match runner.reactor.doze(time(now)) {
                Some(deadline) => Wakefulness::Asleep(deadline),
                None => Wakefulness::Awake(now + 10 * US),
            },
        };
        let faults = &env.borrow().faults;
        if rng.ppm(faults.stall_ppm) {
            runner.stalled_until = now + rng.below(faults.stall_ns.max(1));
        }
        Ran::On
    }
}

fn geometry(log: u16, sizes: &Sizes) -> Geometry {
    let geometry = Geometry {
        segment_bytes: sizes.segment_bytes,
        batch_bytes_max: 16 << 10,
        fill_step_bytes: 4 << 10,
        fill_ahead_bytes: 8 << 10,
        staged_bytes_max: 64 << 10,
        ..Geometry::new(LogId(log))
    };
    geometry.check().unwrap_or_else(|error| panic!("{error}"));
    geometry
}

fn settings(sizes: &Sizes) -> Settings {
    Settings {
        ticket_key: TICKET_KEY.to_vec(),
        site_keys: BTreeMap::new(),
        heartbeat_s: sizes.heartbeat_s,
        outbox_bytes_max: sizes.outbox_bytes,
        origins: Vec::new(),
        websocket_deflate: false,
        agent_names: BTreeMap::new(),
        connections_max: ENTRIES,
        address_connections_max: 0,
        tls: None,
    }
}

/// Reads every log, as the server does before it starts a shard.
fn scan_all(env: &Env, sizes: &Sizes) -> BTreeMap<u16, Scanned> {
    let mut logs = BTreeMap::new();
    for log in env.disk.logs() {
        let extent = Extent { end: env.disk.end(log), ..Extent::empty(LogId(log)) };
        let plan = ScanPlan::new(LogId(log), sizes.segment_bytes, Some(&extent));
        let segments = env.disk.segments(log).into_iter().map(|segment| {
            let image = env.disk.image((log, segment)).ok_or(2);
            (segment, image)
        });
        let mut records = Vec::new();
        let mut keep = |record: Record<'_>| {
            records.push((record.reference, record.slot, record.slot_epoch, record.payload.to_vec()));
        };
        let report = scan_log(plan, segments, &mut keep).unwrap_or_else(|error| panic!("log {log}: {error}"));
        assert!(
            report.damage.is_empty(),
            "C9: nothing was damaged, yet log {log} reports {:?}",
            report.damage
        );
        logs.insert(log, Scanned { report, records });
    }
    logs
}

/// What replay read may lie in a cache that a power loss would empty (C1).
fn sync_all(env: &mut Env) {
    for log in env.disk.logs() {
        for segment in env.disk.segments(log) {
            env.disk.sync((log, segment)).expect("a file that is there can be synced");
        }
    }
}

fn start(
    logs: &BTreeMap<u16, Scanned>,
    sizes: &Sizes,
    (id, shards): (u16, u16),
    boot: u32,
    settings: Arc<Settings>,
    now: Now,
) -> Shard {
    let config = OwnerConfig {
        shard: id,
        router: Router::even(shards),
        slot_epoch: boot,
        limits: DeskLimits { grace_ms: sizes.grace_ms, ..DeskLimits::default() },
        geometry: geometry(id, sizes),
    };
    let mut replay = Replay::new(config);
    let own = |log: &u16| *log == id;
    let (mine, others): (Vec<_>, Vec<_>) = logs.iter().partition(|(log, _)| own(log));
    for (_, scanned) in others.into_iter().chain(mine) {
        replay.generations(&scanned.report.tail.generations);
        for (reference, slot, slot_epoch, payload) in &scanned.records {
            let (reference, slot, slot_epoch) = (*reference, *slot, *slot_epoch);
            let record = Record { reference, slot, slot_epoch, payload };
            replay.record(&record).unwrap_or_else(|error| panic!("C1: replay of shard {id}: {error}"));
        }
    }
    let tail = logs.get(&id).map_or_else(|| Tail::fresh(LogId(id)), |scanned| scanned.report.tail.clone());
    Shard::boot(id, replay, settings, tail, LOG_EPOCH, now)
        .unwrap_or_else(|error| panic!("C1: boot of shard {id}: {error}"))
}

/// Name of the site; its number decides where the dispatcher lives.
fn site_name(site: u32) -> String {
    format!("site-{site}")
}

/// A ticket for an identity, valid for the whole run.
pub fn ticket(role: Role, number: u32, site: u32) -> String {
    let (role, sub, aid) = match role {
        Role::Visitor => ("visitor", visitor_name(number), 0),
        Role::Agent => ("agent", format!("a-{number}"), number),
        Role::Gateway => ("gateway", format!("g-{number}"), 0),
    };
    let claims = Claims {
        iss: ISSUER.into(),
        site: site_name(site),
        sid: 1,
        role: role.into(),
        sub,
        aid,
        iat: WALL_START_MS / 1000,
        exp: WALL_START_MS / 1000 + 86_400,
    };
    issue(TICKET_KEY, &claims).expect("a good key signs")
}
