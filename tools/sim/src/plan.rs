//! What a seed decides before it starts: sizes, speeds, and which faults occur how often.
//!
//! Swarm testing (Groce et al., ISSTA 2012): each seed leaves most fault classes out, so that one class cannot hide
//! what another would show, and the rates of those that stay differ widely between seeds.

use crate::disk::Crash;
use crate::rng::Rng;

/// One microsecond of virtual time, in its unit: nanoseconds.
pub const US: u64 = 1_000;
/// One millisecond.
pub const MS: u64 = 1_000_000;
/// One second.
pub const S: u64 = 1_000_000_000;

/// Rates in parts per million, times in nanoseconds.
#[derive(Clone, Debug)]
pub struct Faults {
    /// Latency of operations that only touch memory: accept, close, cancel, wake, hand-over, send.
    pub op_ns: (u64, u64),
    /// Latency of disk operations.
    pub disk_ns: (u64, u64),
    /// A shard whose disk operations take this many times longer.
    pub slow_disk: Option<(u16, u64)>,
    /// Latency of bytes on the network, each way.
    pub net_ns: (u64, u64),
    /// Completions of one reap come in random order, a few at a time.
    pub reorder_ppm: u32,
    /// A receive takes fewer bytes than there are.
    pub short_receive_ppm: u32,
    /// A send takes fewer bytes than offered.
    pub short_send_ppm: u32,
    /// A disk read or write is shorter than asked.
    pub short_disk_ppm: u32,
    /// A multishot operation ends although all is well.
    pub multishot_end_ppm: u32,
    /// A receive finds no buffer (ENOBUFS).
    pub no_buffers_ppm: u32,
    /// An operation is interrupted (EINTR) or should be tried again (EAGAIN).
    pub interrupt_ppm: u32,
    /// A disk write fails (EIO); a retry would claim success.
    pub eio_ppm: u32,
    /// A file cannot be created (ENOSPC).
    pub enospc_ppm: u32,
    /// From this virtual time on the disk is full: no file can be created.
    pub full_from_ns: u64,
    /// A descriptor cannot be handed over because the target's table is full.
    pub hand_over_full_ppm: u32,
    /// A shard does not run for a while.
    pub stall_ppm: u32,
    /// Longest such pause.
    pub stall_ns: u64,
}

impl Faults {
    /// A healed world: fast, in order, nothing fails.
    pub fn none() -> Self {
        Self {
            op_ns: (2 * US, 5 * US),
            disk_ns: (100 * US, 200 * US),
            slow_disk: None,
            net_ns: (50 * US, 100 * US),
            reorder_ppm: 0,
            short_receive_ppm: 0,
            short_send_ppm: 0,
            short_disk_ppm: 0,
            multishot_end_ppm: 0,
            no_buffers_ppm: 0,
            interrupt_ppm: 0,
            eio_ppm: 0,
            enospc_ppm: 0,
            full_from_ns: u64::MAX,
            hand_over_full_ppm: 0,
            stall_ppm: 0,
            stall_ns: 0,
        }
    }

    fn draw(rng: &mut Rng, shards: u16) -> Self {
        let mut rate = |max: u32| match rng.below(3) {
            0 => rng.below(u64::from(max)) as u32,
            _ => 0,
        };
        let mut faults = Self {
            reorder_ppm: rate(1_000_000) + rate(1_000_000) / 2,
            short_receive_ppm: rate(900_000),
            short_send_ppm: rate(700_000),
            short_disk_ppm: rate(300_000),
            multishot_end_ppm: rate(200_000),
            no_buffers_ppm: rate(200_000),
            interrupt_ppm: rate(100_000),
            eio_ppm: rate(8_000),
            enospc_ppm: rate(100_000),
            hand_over_full_ppm: rate(400_000),
            stall_ppm: rate(30_000),
            ..Self::none()
        };
        faults.stall_ns = rng.range(1, 40) * MS;
        faults.op_ns = (US, rng.range(2, 300) * US);
        faults.disk_ns = (20 * US, rng.range(50, 6_000) * US);
        faults.net_ns = (20 * US, rng.range(50, 8_000) * US);
        if rng.one_in(3) {
            faults.slow_disk = Some((rng.below(u64::from(shards)) as u16, rng.range(3, 30)));
        }
        faults
    }
}

/// What makes the machine stop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trigger {
    /// A point in time.
    At(u64),
    /// Shortly after the n-th answer or push that a client saw, counted from the start of the run of the process.
    Seen(u64),
    /// Shortly after the n-th disk write was begun.
    Write(u64),
}

/// One planned stop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stop {
    /// When.
    pub trigger: Trigger,
    /// Delay from the trigger.
    pub after_ns: u64,
    /// How.
    pub crash: Crash,
    /// Shards of the run that follows.
    pub shards: u16,
    /// Time until the engine is up again.
    pub down_ns: u64,
}

/// How a planned upgrade ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum UpgradeEnd {
    /// Another process takes over this long after all stand still.
    After(u64),
    /// It is called off so long after it began, whatever has been reached by then, unless the other process has
    /// everything already.
    CalledOff(u64),
}

/// One planned upgrade in place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Upgrade {
    /// When.
    pub trigger: Trigger,
    /// How long a slow client may take what it is being sent.
    pub patience_ns: u64,
    /// Shards of the process that takes over.
    pub shards: u16,
    /// How it ends.
    pub end: UpgradeEnd,
}

/// Entries of each descriptor table: room for every client of the largest cast on one shard.
pub const ENTRIES: u32 = 64;

/// Sizes of the engine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sizes {
    /// Messages a lane between two shards holds; a power of two.
    pub lane: usize,
    /// Entries of each descriptor table that can be used before everything heals.
    pub entries: u32,
    /// Bytes that may wait for one connection before it is served from the log.
    pub outbox_bytes: u32,
    /// Bytes of a segment file.
    pub segment_bytes: u32,
    /// Bytes the kernel takes for one client that does not read.
    pub socket_bytes: usize,
    /// Grace period of agents, milliseconds.
    pub grace_ms: u64,
    /// Heartbeat, seconds.
    pub heartbeat_s: u16,
    /// Number in the site's name: decides which shard owns its dispatcher.
    pub site: u32,
}

/// Who takes part, and what they do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cast {
    /// Visitors on connections of their own.
    pub visitors: u32,
    /// Devices per visitor, at most.
    pub devices: u32,
    /// Agents.
    pub agents: u32,
    /// Channels of the gateway; 0 = no gateway.
    pub channels: u32,
    /// Messages per device, at most.
    pub messages: u32,
    /// OPENs per visitor's device, at most. Every new conversation is a cursor in its HELLO, and so in an auditor's.
    pub opens: u32,
    /// A visitor's device resolves, or opens when that is done, instead of what it would do; parts per million.
    pub churn_ppm: u32,
    /// Requests one device keeps in flight, at most.
    pub window: u32,
    /// Longest body, bytes.
    pub body_bytes: u32,
    /// Mean pause between two acts of one device.
    pub pause_ns: u64,
    /// A device loses its connection at an act, parts per million.
    pub drop_ppm: u32,
    /// Of those: it vanishes without a word instead of closing.
    pub vanish_ppm: u32,
    /// An agent stays away longer than the grace period.
    pub long_away_ppm: u32,
    /// A device stops reading for a while.
    pub slow_reader_ppm: u32,
}

/// All that a seed decides beforehand.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Shards of the first run.
    pub shards: u16,
    /// Faults of the first phase.
    pub faults: Faults,
    /// Stops of the first phase, in order.
    pub stops: Vec<Stop>,
    /// Upgrades of the first phase, in order.
    pub upgrades: Vec<Upgrade>,
    /// Sizes.
    pub sizes: Sizes,
    /// Workload.
    pub cast: Cast,
    /// Length of the first phase.
    pub safety_ns: u64,
}

impl Plan {
    /// The plan of a seed.
    pub fn draw(rng: &mut Rng) -> Self {
        let shards = rng.range(1, 4) as u16;
        let safety_ns = rng.range(200, 4_000) * MS;
        let mut stops = Vec::new();
        for _ in 0..rng.below(4) {
            stops.push(Stop::draw(rng, safety_ns, shards));
        }
        let quiet = rng.one_in(8);
        let mut faults = if quiet { Faults::none() } else { Faults::draw(rng, shards) };
        if rng.one_in(6) {
            faults.full_from_ns = rng.below(safety_ns);
        }
        let (sizes, cast) = (Sizes::draw(rng), Cast::draw(rng));
        // Drawn beside the rest, so that a seed without upgrades is what it was before there were any.
        let mut own = rng.clone();
        let count = if own.one_in(3) { own.range(1, 3) } else { 0 };
        let upgrades = (0..count).map(|_| Upgrade::draw(&mut own, safety_ns, shards)).collect();
        Self { shards, faults, stops, upgrades, sizes, cast, safety_ns }
    }
}

impl Upgrade {
    fn draw(rng: &mut Rng, safety_ns: u64, shards: u16) -> Self {
        let trigger = match rng.below(3) {
            0 => Trigger::At(rng.below(safety_ns)),
            1 => Trigger::Write(rng.range(1, 60)),
            _ => Trigger::Seen(rng.range(1, 80)),
        };
        Self {
            trigger,
            patience_ns: if rng.one_in(4) { 0 } else { rng.below(60 * MS) },
            shards: if rng.one_in(2) { shards } else { rng.range(1, 4) as u16 },
            end: match rng.below(3) {
                0 => UpgradeEnd::CalledOff(rng.below(60 * MS)),
                _ => UpgradeEnd::After(rng.below(50 * MS)),
            },
        }
    }
}

impl Stop {
    fn draw(rng: &mut Rng, safety_ns: u64, shards: u16) -> Self {
        let trigger = match rng.below(5) {
            0 => Trigger::At(rng.below(safety_ns)),
            1 | 2 => Trigger::Write(rng.range(1, 60)),
            _ => Trigger::Seen(rng.range(1, 80)),
        };
        Self {
            trigger,
            after_ns: if rng.one_in(2) { 0 } else { rng.below(2 * MS) },
            crash: if rng.one_in(3) { Crash::Kill } else { Crash::Power },
            shards: if rng.one_in(2) { shards } else { rng.range(1, 4) as u16 },
            down_ns: rng.range(1, 400) * MS,
        }
    }
}

impl Sizes {
    fn draw(rng: &mut Rng) -> Self {
        Self {
            lane: 1 << rng.range(7, 9),
            entries: if rng.one_in(3) { rng.range(4, 16) as u32 } else { ENTRIES },
            outbox_bytes: if rng.one_in(3) { 1024 } else { rng.range(4, 32) as u32 * 1024 },
            segment_bytes: 32_768 << rng.below(3),
            socket_bytes: rng.range(256, 8_192) as usize,
            grace_ms: rng.range(2, 30) * 1_000,
            heartbeat_s: rng.range(5, 30) as u16,
            site: rng.below(16) as u32,
        }
    }
}

impl Cast {
    /// What the answers to all that one connection's devices may have asked at once can take, bytes: a window of requests
    /// with an ACK or a REJECT, what is confirmed and repeated beside it, and a page of four items for each device.
    pub fn answers_bytes_max(&self) -> usize {
        let (requests, answer_bytes, fields_bytes) = (self.window as usize + 32, 256, 128);
        let device = requests * answer_bytes + 4 * (self.body_bytes as usize + fields_bytes);
        device * self.channels.max(1) as usize
    }

    fn draw(rng: &mut Rng) -> Self {
        let rate = |rng: &mut Rng, max: u64| if rng.one_in(2) { rng.below(max) as u32 } else { 0 };
        // Few seeds offer more than lanes, staging and a gateway's credits take, so that BUSY and full lanes occur.
        let burst = rng.one_in(12);
        // Some visitors have many conversations one after the other, more than any window of keys.
        let churn = rng.one_in(6);
        Self {
            visitors: rng.range(1, 6) as u32,
            devices: rng.range(1, 3) as u32,
            agents: rng.range(1, 3) as u32,
            channels: if burst { 8 } else { rng.below(6).saturating_sub(2) as u32 },
            messages: if burst { 90 } else { rng.range(1, 10) as u32 },
            opens: if churn { 40 } else { 8 },
            churn_ppm: if churn { rng.range(300_000, 900_000) as u32 } else { 0 },
            window: if burst { 90 } else { 4 },
            body_bytes: rng.range(1, 900) as u32,
            pause_ns: if burst { MS / 64 } else { rng.range(1, 120) * MS },
            drop_ppm: rate(rng, 200_000),
            vanish_ppm: rate(rng, 600_000),
            long_away_ppm: rate(rng, 300_000),
            slow_reader_ppm: rate(rng, 150_000),
        }
    }
}
