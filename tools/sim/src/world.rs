//! One run's world: the engine over its simulated kernel, the clients, the oracle, and virtual time.
//!
//! Time jumps from one event to the next. Of everything due at one moment a random one goes first, one turn of one
//! shard or one endpoint at a time, so shards and clients interleave in every order; nothing runs in parallel.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;

use ringdesk_protocol::Role;
use ringdesk_protocol::limits::PAGE_ITEMS_MAX;
use ringdesk_shard::{ASKING_MAX, CHUNK_BYTES};

use crate::client::Scene;
use crate::client::device::{Device, Whose};
use crate::client::endpoint::{Endpoint, Wish};
use crate::cluster::{Cluster, Ran};
use crate::disk::Crash;
use crate::kernel::Env;
use crate::net::LinkId;
use crate::net::{Read, earliest};
use crate::oracle::{Bounds, Oracle};
use crate::plan::{ENTRIES, Faults, MS, Plan, Stop, Trigger, US, Upgrade};
use crate::rng::Rng;
use crate::upgrade::{Running, Upgraded};

/// Steps of a run: one turn of a shard or one act of an endpoint each. More means that something spins.
pub const STEPS_MAX: u64 = 4_000_000;

/// A page of the log: a chunk of records, each within a frame whose fields take no more than this beside the body.
const PAGE_BYTES_MAX: usize = CHUNK_BYTES as usize + PAGE_ITEMS_MAX * FRAME_FIELDS_BYTES;

/// Bytes of a DELIVER beside its body, generously.
const FRAME_FIELDS_BYTES: usize = 128;

/// Who acts next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Actor {
    Shard(usize),
    Endpoint(usize),
    Stop,
    Boot,
    Upgrade,
}

/// Everything in one run.
pub struct World {
    /// The plan of the seed.
    pub plan: Plan,
    /// Kernel, disk and network.
    pub env: Rc<RefCell<Env>>,
    /// The engine, unless it is down.
    pub cluster: Option<Cluster>,
    /// The model.
    pub oracle: Oracle,
    /// Connections of the clients.
    pub endpoints: Vec<Endpoint>,
    /// Devices of the clients.
    pub devices: Vec<Device>,
    /// Chance of clients and of the order of events.
    pub rng: Rng,
    /// Faults are over.
    pub healed: bool,
    /// Steps taken.
    pub steps: u64,
    /// Times the machine or the process stopped.
    pub crashes: u32,
    /// Times a shard gave up by itself.
    pub fatals: u32,
    /// BUSY answers that clients got.
    pub busy: u64,
    /// Turns of earlier runs of the process that ended with a full lane.
    pub lanes_full: u64,
    /// Print what happens.
    pub trace: bool,
    /// Upgrades begun, and what became of them.
    pub upgraded: Upgraded,
    pub(crate) boots: u32,
    boot_at: u64,
    pub(crate) shards: u16,
    /// The upgrade under way.
    pub(crate) running: Option<Running>,
    /// Those to come, the next one last.
    pub(crate) upgrades: Vec<Upgrade>,
    /// Connections that have been another process's.
    pub(crate) carried: BTreeSet<LinkId>,
    stops: Vec<Stop>,
    stop_at: Option<u64>,
    pub(crate) seen: u64,
    due: Vec<Actor>,
}

impl World {
    /// A world in which nothing has happened; the engine boots at time 0.
    pub fn new(mut rng: Rng, plan: Plan, trace: bool) -> Self {
        let env = Env::new(rng.fork(), plan.faults.clone(), &plan.sizes);
        let mut stops = plan.stops.clone();
        stops.reverse();
        let mut upgrades = plan.upgrades.clone();
        upgrades.reverse();
        Self {
            shards: plan.shards,
            env: Rc::new(RefCell::new(env)),
            cluster: None,
            oracle: Oracle::default(),
            endpoints: Vec::new(),
            devices: Vec::new(),
            rng,
            healed: false,
            steps: 0,
            crashes: 0,
            fatals: 0,
            busy: 0,
            lanes_full: 0,
            trace,
            upgraded: Upgraded::default(),
            boots: 0,
            boot_at: 0,
            running: None,
            upgrades,
            carried: BTreeSet::new(),
            stops,
            stop_at: None,
            seen: 0,
            due: Vec::new(),
            plan,
        }
    }

    /// Virtual time.
    pub fn now(&self) -> u64 {
        self.env.borrow().now
    }

    /// Runs until `until`, or until `done` says so; it is asked about every 20 ms of virtual time. Returns whether
    /// it said so.
    pub fn run(&mut self, until: u64, mut done: impl FnMut(&mut Self) -> bool) -> bool {
        let mut ask_at = self.now();
        loop {
            if self.now() >= ask_at {
                if done(self) {
                    return true;
                }
                ask_at = self.now() + 20 * MS;
            }
            let Some((at, actor)) = self.next() else { return done(self) };
            if at >= until {
                self.env.borrow_mut().now = until;
                return done(self);
            }
            // A wait longer than the interval of questions is cut, so that virtual time does not run past the end.
            let mut env = self.env.borrow_mut();
            env.now = env.now.max(at);
            drop(env);
            self.steps += 1;
            assert!(self.steps < STEPS_MAX, "no end after {STEPS_MAX} steps: something spins");
            self.go(actor);
        }
    }

    /// No more faults: a fast, faultless world in which everybody is up or comes back.
    pub fn heal(&mut self) {
        self.trace(|| "-- healed".into());
        self.healed = true;
        self.stops.clear();
        self.upgrades.clear();
        self.stop_at = None;
        let mut env = self.env.borrow_mut();
        env.faults = Faults::none();
        env.entries_usable = ENTRIES;
        drop(env);
        let now = self.now();
        self.endpoints.iter_mut().for_each(|endpoint| endpoint.deaf_until = now);
        if let Some(cluster) = &mut self.cluster {
            cluster.wake_all(now);
        }
    }

    pub(crate) fn trace(&self, line: impl FnOnce() -> String) {
        if self.trace {
            println!("{:>12} {}", self.now() / 1_000, line());
        }
    }

    /// The next event: when, and whose.
    fn next(&mut self) -> Option<(u64, Actor)> {
        let mut due = std::mem::take(&mut self.due);
        due.clear();
        let now = self.now();
        let mut first = u64::MAX;
        let mut offer = |at: u64, actor: Actor| {
            let at = at.max(now);
            if at < first {
                first = at;
                due.clear();
            }
            if at == first && at != u64::MAX {
                due.push(actor);
            }
        };
        match &self.cluster {
            Some(cluster) => {
                for shard in 0..cluster.len() {
                    offer(cluster.due(shard, &self.env.borrow()), Actor::Shard(shard));
                }
                offer(self.stop_at.unwrap_or(u64::MAX), Actor::Stop);
                offer(self.upgrade_due(), Actor::Upgrade);
            }
            None => offer(self.boot_at, Actor::Boot),
        }
        let env = self.env.borrow();
        for (index, endpoint) in self.endpoints.iter().enumerate() {
            let readable = endpoint.link.and_then(|link| env.net.client_readable_at(link));
            let readable = readable.map(|at| at.max(endpoint.deaf_until));
            let at = earliest(readable, Some(endpoint.next_act(&self.devices)));
            offer(at.unwrap_or(u64::MAX), Actor::Endpoint(index));
        }
        drop(env);
        let actor = (!due.is_empty()).then(|| due[self.rng.index(due.len())]);
        self.due = due;
        actor.map(|actor| (first, actor))
    }

    fn go(&mut self, actor: Actor) {
        match actor {
            Actor::Shard(shard) => self.run_shard(shard),
            Actor::Endpoint(index) => self.run_endpoint(index),
            Actor::Stop => {
                let stop = self.stops.pop().expect("a stop was armed");
                self.crash(stop.crash, stop.shards, stop.down_ns);
            }
            Actor::Boot => self.boot(),
            Actor::Upgrade => self.go_upgrade(),
        }
        self.arm_stop();
    }

    /// Whether what a plan waits for has come.
    pub(crate) fn reached(&self, trigger: Trigger) -> bool {
        match trigger {
            Trigger::At(at) => self.now() >= at,
            Trigger::Seen(seen) => self.seen >= seen,
            Trigger::Write(writes) => self.env.borrow().writes_begun >= writes,
        }
    }

    fn arm_stop(&mut self) {
        let (Some(stop), None, Some(_)) = (self.stops.last(), self.stop_at, &self.cluster) else { return };
        if self.reached(stop.trigger) {
            self.stop_at = Some(self.now() + stop.after_ns);
        }
    }

    fn boot(&mut self) {
        self.boots += 1;
        self.seen = 0;
        self.env.borrow_mut().start(self.shards);
        let cluster = Cluster::boot(&self.env, &self.plan.sizes, self.shards, self.boots);
        self.trace(|| format!("-- boot {} with {} shards", self.boots, self.shards));
        self.cluster = Some(cluster);
    }

    fn crash(&mut self, crash: Crash, shards: u16, down_ns: u64) {
        self.trace(|| format!("-- {crash:?}"));
        self.crashes += 1;
        self.running = None;
        self.env.borrow_mut().crash(crash);
        self.lanes_full += self.cluster.take().map_or(0, |cluster| cluster.lanes_full());
        self.shards = shards;
        self.boot_at = self.now() + down_ns;
        self.stop_at = None;
    }

    fn run_shard(&mut self, shard: usize) {
        let now = self.now();
        let cluster = self.cluster.as_mut().expect("a shard that is due runs");
        match cluster.run(shard, now, &mut self.rng, &self.env) {
            Ran::On => {
                self.judge_bounds(shard);
                self.hear_shards();
            }
            Ran::Fatal(sentence) => {
                self.trace(|| format!("-- shard {shard} stops: {sentence}"));
                let env = self.env.borrow();
                assert!(env.bites.eio > 0, "shard {shard} stopped without a reason: {sentence}");
                drop(env);
                self.fatals += 1;
                let down = self.rng.range(1, 100) * MS;
                // A process that ends keeps the caches; a machine that fails next may not.
                let crash = if self.rng.one_in(2) { Crash::Kill } else { Crash::Power };
                self.crash(crash, self.shards, down);
            }
        }
    }

    /// What one connection may cost, and how long a subscription may wait (C8).
    fn judge_bounds(&mut self, shard: usize) {
        let most = self.cluster.as_ref().expect("a shard ran").most(shard);
        let bounds = Bounds {
            cap: self.plan.sizes.outbox_bytes as usize,
            answers: self.plan.cast.answers_bytes_max(),
            pages: usize::from(ASKING_MAX) * PAGE_BYTES_MAX,
            conversations: self.devices.iter().map(|device| device.open_n).sum(),
        };
        self.oracle.bounds(most.pushed_bytes, most.backlog_bytes, u64::from(most.turns_waited), bounds);
    }

    fn latency(&mut self) -> u64 {
        let (low, high) = self.env.borrow().faults.net_ns;
        self.rng.range(low, high)
    }

    fn run_endpoint(&mut self, index: usize) {
        let now = self.now();
        let Some(link) = self.endpoints[index].link else {
            self.connect(index);
            return;
        };
        let mut out = Vec::new();
        if now >= self.endpoints[index].deaf_until && !self.listen(index, &mut out) {
            return;
        }
        let mut wish = Wish::Nothing;
        if self.endpoints[index].next_act(&self.devices) <= now {
            let (endpoint, devices, mut scene) = self.scene(index);
            wish = endpoint.act(devices, &mut scene, &mut out);
        }
        self.write(index, &out);
        match wish {
            Wish::Nothing => {}
            Wish::Close | Wish::Vanish => {
                let arrives = now + self.latency();
                let mut env = self.env.borrow_mut();
                match wish {
                    Wish::Vanish => env.net.vanish(link),
                    // A close that cuts, or one in good order.
                    _ if self.rng.one_in(3) && !self.healed => {
                        env.net.cut(link, arrives);
                        env.net.client_close(link, arrives);
                    }
                    _ => env.net.client_close(link, arrives),
                }
                drop(env);
                self.lose(index);
            }
        }
    }

    /// Reads what has arrived. `false`: the connection is gone.
    fn listen(&mut self, index: usize, out: &mut Vec<u8>) -> bool {
        let link = self.endpoints[index].link.expect("a listener is connected");
        let now = self.now();
        loop {
            let max = if self.rng.one_in(4) && !self.healed { self.rng.range(1, 64) as usize } else { 4096 };
            let read = self.env.borrow_mut().net.client_read(link, now, max);
            match read {
                Read::Nothing => return true,
                Read::Bytes(bytes) => {
                    let mut env = self.env.borrow_mut();
                    env.hash.number(index as u64 ^ now << 8);
                    env.hash.bytes(&bytes);
                    drop(env);
                    let (endpoint, devices, mut scene) = self.scene(index);
                    if let Err(again_at) = endpoint.hear(&bytes, devices, &mut scene, out) {
                        self.env.borrow_mut().net.client_close(link, now);
                        let (endpoint, devices, _) = self.scene(index);
                        endpoint.lost(devices, again_at);
                        return false;
                    }
                }
                Read::End | Read::Reset => {
                    let broken = self.carried.contains(&link) && !self.env.borrow().net.is_excused(link);
                    assert!(
                        !broken,
                        "upgrade: endpoint {index} lost a connection that was carried: {read:?}"
                    );
                    self.env.borrow_mut().net.client_close(link, now);
                    self.lose(index);
                    return false;
                }
            }
        }
    }

    fn scene(&mut self, index: usize) -> (&mut Endpoint, &mut [Device], Scene<'_>) {
        let now = self.env.borrow().now;
        let scene = Scene {
            now,
            rng: &mut self.rng,
            oracle: &mut self.oracle,
            cast: &self.plan.cast,
            healed: self.healed,
            seen: &mut self.seen,
            busy: &mut self.busy,
            trace: self.trace,
        };
        (&mut self.endpoints[index], &mut self.devices, scene)
    }

    /// Sends bytes, maybe in several pieces.
    fn write(&mut self, index: usize, mut bytes: &[u8]) {
        let Some(link) = self.endpoints[index].link else { return };
        while !bytes.is_empty() {
            let take = match self.healed || self.rng.one_in(2) {
                true => bytes.len(),
                false => 1 + self.rng.index(bytes.len()),
            };
            let arrives = self.now() + self.latency();
            self.env.borrow_mut().net.client_write(link, &bytes[..take], arrives);
            bytes = &bytes[take..];
        }
    }

    fn connect(&mut self, index: usize) {
        let now = self.now();
        if self.cluster.is_none() {
            self.endpoints[index].connect_at = now + self.rng.range(1, 50) * MS;
            return;
        }
        let shard = self.rng.below(u64::from(self.shards)) as u16;
        let arrives = now + self.latency();
        let link = self.env.borrow_mut().net.connect(arrives, shard, 0, self.plan.sizes.socket_bytes);
        let hello = self.endpoints[index].connected(link, &self.devices, now);
        self.trace(|| format!("endpoint {index} connects to shard {shard}"));
        self.write(index, &hello);
    }

    /// The connection of an endpoint is gone; it comes back after a while.
    fn lose(&mut self, index: usize) {
        let agent = self.endpoints[index].role == Role::Agent;
        let long = agent && !self.healed && self.rng.ppm(self.plan.cast.long_away_ppm);
        let away = match long {
            true => self.plan.sizes.grace_ms * MS + self.rng.range(0, 3_000) * MS,
            false => self.rng.range(200, 300_000) * US,
        };
        self.trace(|| format!("endpoint {index} lost its connection, back in {} ms", away / MS));
        let again_at = self.now() + away;
        let (endpoint, devices, _) = self.scene(index);
        endpoint.lost(devices, again_at);
    }

    /// Lets an endpoint go for good.
    pub fn dismiss(&mut self, index: usize) {
        let now = self.now();
        if let Some(link) = self.endpoints[index].link {
            self.env.borrow_mut().net.client_close(link, now);
        }
        let (endpoint, devices, _) = self.scene(index);
        endpoint.lost(devices, u64::MAX);
        endpoint.active = false;
        for device in endpoint.devices.clone() {
            devices[device].dead = true;
        }
    }

    /// Agents that take part, by number.
    pub fn agents(&self) -> Vec<u32> {
        let active = self.endpoints.iter().filter(|endpoint| endpoint.active && endpoint.role == Role::Agent);
        let mut agents: Vec<u32> = active
            .map(|endpoint| match self.devices[endpoint.devices[0]].whose {
                Whose::Agent(agent) => agent,
                Whose::Visitor(visitor) => panic!("visitor {visitor} connects as an agent"),
            })
            .collect();
        agents.sort_unstable();
        agents.dedup();
        agents
    }
}
