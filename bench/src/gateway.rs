//! `ringbench run gateway`: thousands of visitors through one binary connection, or a few, many messages per segment.
//!
//! Order: connect, bind and open everybody, warm up, measure, drain, report under the names of `run chat`.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use ringdesk_protocol::Frame;

use crate::chat::run_number;
use crate::environment;
use crate::report::{Environment, Latencies, Latency, Report, round2};
use crate::schedule::{Arrivals, Schedule};
use crate::stage::{Stage, StageArgs};
use crate::swarm::agents::Agents;
use crate::swarm::bound::BoundVisitors;
use crate::swarm::{Crowd, Reply, Swarm, Transports};
use crate::toll::{Slices, Toll, Watch};

/// How long binding everybody may take.
const SETUP_NS: u64 = 60_000_000_000;
/// How long the last answers may take.
const DRAIN_NS: u64 = 15_000_000_000;
/// Messages in flight while everybody says its first.
const FIRST_WINDOW: u32 = 100;
/// Most visitors of one gateway connection that the server binds.
const VISITORS_MAX: u32 = 65_536;
/// Most gateways: device numbers of a run are shared out among them and the agents.
const GATEWAYS_MAX: u32 = 60;
/// Device numbers of one gateway.
const DEVICES: u64 = 1 << 17;
const SECOND: u64 = 1_000_000_000;

/// Options of `run gateway`.
#[derive(Args, Debug)]
pub struct GatewayArgs {
    /// Visitors, shared evenly by the gateways.
    #[arg(long, default_value_t = 10_000)]
    pub visitors: u32,
    /// Gateway connections.
    #[arg(long, default_value_t = 1)]
    pub gateways: u32,
    /// Agents who read: each message is then also delivered to another connection. 0: to its author only.
    #[arg(long, default_value_t = 0)]
    pub agents: u32,
    /// Messages in flight, at most one per visitor. With --rate: the most that may be.
    #[arg(long, default_value_t = 2_000)]
    pub in_flight: u32,
    /// Open loop: messages per second, latency from the intended start. Without: closed loop, as fast as answers come.
    #[arg(long)]
    pub rate: Option<u64>,
    /// Gaps between messages of the open loop.
    #[arg(long, value_enum, default_value_t = Arrivals::Poisson)]
    pub arrivals: Arrivals,
    /// Seconds measured.
    #[arg(long, default_value_t = 10)]
    pub seconds: u64,
    /// Seconds of load discarded before.
    #[arg(long, default_value_t = 1)]
    pub warmup: u64,
    /// Bytes of a message body.
    #[arg(long, default_value_t = 200)]
    pub body_bytes: usize,
    /// Seed of the schedule.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Withhold percentiles of the open loop when more than one message in a hundred left later than this.
    #[arg(long, default_value_t = 2000)]
    pub lateness_bound_us: u64,
    /// Write the report as JSON.
    #[arg(long)]
    pub json: Option<PathBuf>,
    /// Which server.
    #[command(flatten)]
    pub stage: StageArgs,
}

/// Gateways are the first clients, agents follow.
struct Front {
    gateways: Vec<BoundVisitors>,
    agents: Agents,
    gone: u64,
}

impl Front {
    fn sum(&self, of: impl Fn(&BoundVisitors) -> u64) -> u64 {
        self.gateways.iter().map(of).sum()
    }

    fn visitors(&self) -> u64 {
        self.sum(|bound| bound.len().into())
    }

    fn in_flight(&self) -> u64 {
        self.sum(|bound| bound.in_flight.into())
    }

    fn set_window(&mut self, in_flight: u32, talking: std::ops::Range<u64>) {
        let each = in_flight.div_ceil(self.gateways.len() as u32);
        for bound in &mut self.gateways {
            (bound.closed_window, bound.talking) = (each, talking.clone());
        }
    }
}

impl Crowd for Front {
    fn connected(&mut self, who: u32, _now_ns: u64, reply: &mut Reply) {
        let gateways = self.gateways.len() as u32;
        match self.gateways.get_mut(who as usize) {
            Some(bound) => bound.connected(reply),
            None => self.agents.connected(who - gateways, reply),
        }
    }

    fn frame(&mut self, who: u32, now_ns: u64, frame: Frame<'_>, reply: &mut Reply) {
        match self.gateways.get_mut(who as usize) {
            Some(bound) => bound.frame(now_ns, frame, reply),
            None => self.agents.frame(now_ns, frame, reply),
        }
    }

    fn again(&mut self, who: u32, now_ns: u64, reply: &mut Reply) {
        match self.gateways.get_mut(who as usize) {
            Some(bound) => bound.carry_on(now_ns, reply),
            None => self.agents.declare(reply),
        }
    }

    fn gone(&mut self, _who: u32, _now_ns: u64, _errno: i32) -> Option<u64> {
        self.gone += 1;
        None
    }
}

struct Load {
    swarm: Swarm,
    front: Front,
    lateness: Latency,
    /// Starts of each gateway that found nobody idle.
    owed: Vec<VecDeque<u64>>,
    /// Whose turn it is.
    turn: usize,
}

impl Load {
    fn begin(stage: &mut Stage, args: &GatewayArgs) -> Result<Self, String> {
        let run = run_number();
        let site = format!("bench-{run:016x}");
        stage.control.add_site(&site)?;
        let tickets = stage.control.agents(&site, args.agents as usize)?;
        let capacity = u16::try_from(args.visitors.div_ceil(args.agents.max(1)) + 4).unwrap_or(u16::MAX);
        let mut gateways = Vec::new();
        for number in 0..args.gateways {
            let ticket = stage.control.gateway(&site, &format!("bench-{number}"))?;
            let devices = (run << 24) + u64::from(number) * DEVICES + 2;
            let share = args.visitors / args.gateways + u32::from(number < args.visitors % args.gateways);
            gateways.push(BoundVisitors::new(ticket, share, devices, args.body_bytes));
        }
        let agents = Agents::new(tickets, (run << 24) | 1 << 23, capacity);
        let (first, all) = (args.gateways, args.gateways + args.agents);
        let swarm = Swarm::open(all, stage.ports, Transports::Binary, Instant::now())?;
        let owed = vec![VecDeque::new(); gateways.len()];
        let front = Front { gateways, agents, gone: 0 };
        let mut load = Self { swarm, front, lateness: Latency::new(), owed, turn: 0 };
        load.swarm.dial(first..all);
        load.until(|front| front.agents.present == front.agents.len(), "not every agent came online")?;
        load.swarm.dial(0..first);
        let opened = |front: &Front| front.sum(|bound| bound.opened.into()) == front.visitors();
        load.until(opened, "not every visitor was bound")?;
        // A message each, so that every subscription is live before anything is measured.
        load.front.set_window(FIRST_WINDOW, 0..u64::MAX);
        load.carry_on();
        let answered = |front: &Front| front.sum(|bound| bound.completed) >= front.visitors();
        load.until(answered, "not every visitor was answered")?;
        load.front.set_window(0, 0..0);
        load.until(|front| front.in_flight() == 0, "not every visitor was answered")?;
        Ok(load)
    }

    fn until(&mut self, done: impl Fn(&Front) -> bool, what: &str) -> Result<(), String> {
        let end = self.swarm.now_ns() + SETUP_NS;
        while !done(&self.front) {
            self.turn(end);
            if self.swarm.now_ns() >= end || self.front.gone > 0 {
                let front = &self.front;
                let faults: Vec<_> = front.gateways.iter().flat_map(|bound| &bound.faults).collect();
                return Err(format!(
                    "{what}: {} of {} visitors have a conversation, {} messages were delivered, {} BUSY, {} connections lost, \
                     {faults:?}",
                    front.sum(|bound| bound.opened.into()),
                    front.visitors(),
                    front.sum(|bound| bound.completed),
                    front.sum(|bound| bound.busy),
                    front.gone,
                ));
            }
        }
        Ok(())
    }

    /// A turn that also tries again what was refused for now.
    fn turn(&mut self, end: u64) {
        let retry = self.front.gateways.iter().map(BoundVisitors::retry_ns).min().unwrap_or(u64::MAX);
        self.swarm.turn(&mut self.front, end.min(retry));
        if retry <= self.swarm.now_ns() {
            self.carry_on();
        }
    }

    fn carry_on(&mut self) {
        let now = self.swarm.now_ns();
        for (who, bound) in (0..).zip(&mut self.front.gateways) {
            self.swarm.write(who, |reply| bound.carry_on(now, reply));
        }
    }

    /// As fast as answers come, `in_flight` at a time.
    fn closed(&mut self, in_flight: u32, end: u64) {
        self.front.set_window(in_flight, 0..end);
        self.carry_on();
        while self.swarm.now_ns() < end {
            self.turn(end);
        }
    }

    /// At the times of the schedule, gateways in turn; a start that finds nobody idle there, or too many in flight, waits
    /// and is late.
    fn open_loop(&mut self, schedule: &mut Schedule, in_flight: u32, end: u64) {
        loop {
            let now = self.swarm.now_ns();
            let owed: usize = self.owed.iter().map(VecDeque::len).sum();
            let mut room = u64::from(in_flight).saturating_sub(self.front.in_flight() + owed as u64);
            while room > 0
                && let Some(start) = schedule.due(now.min(end))
            {
                room -= 1;
                self.owed[self.turn].push_back(start.at_ns);
                self.turn = (self.turn + 1) % self.owed.len();
            }
            let mut waits = false;
            let lateness = &mut self.lateness;
            for (who, (bound, owed)) in (0..).zip(self.front.gateways.iter_mut().zip(&mut self.owed)) {
                if owed.is_empty() {
                    continue;
                }
                self.swarm.write(who, |reply| {
                    while let Some(&at) = owed.front()
                        && bound.say(at, reply)
                    {
                        owed.pop_front();
                        if bound.window.contains(&at) {
                            lateness.record_ns(now - at);
                        }
                    }
                });
                waits |= !owed.is_empty();
            }
            if now >= end {
                return;
            }
            self.turn(if waits || room == 0 { end } else { schedule.next_ns().min(end) });
        }
    }
}

/// Runs the load and returns its report.
///
/// # Errors
/// A sentence when the run could not be made at all; what goes wrong within it is in the report.
pub fn run(args: &GatewayArgs) -> Result<Report, String> {
    if !(1..=GATEWAYS_MAX).contains(&args.gateways) || args.in_flight == 0 || args.rate == Some(0) {
        return Err(format!("--gateways must be 1 to {GATEWAYS_MAX}, --in-flight and --rate at least 1"));
    }
    if args.visitors < args.gateways || args.visitors.div_ceil(args.gateways) > VISITORS_MAX {
        return Err(format!("--visitors must be 1 to {VISITORS_MAX} for each gateway"));
    }
    let mut stage = Stage::open(&args.stage, args.gateways + args.agents)?;
    let mut load = Load::begin(&mut stage, args)?;
    let begin = load.swarm.now_ns();
    let start = begin + args.warmup * SECOND;
    let end = start + args.seconds * SECOND;
    let mut schedule = args.rate.map(|rate| Schedule::new(args.seed, rate, args.arrivals, 1, begin));
    load.front.gateways.iter_mut().for_each(|bound| bound.measure(start..end));
    let at = |ns: u64| Instant::now() + Duration::from_nanos(ns - begin);
    let watch = Watch::over(stage.control.address(), stage.pid, at(start), at(end));
    let mut looks = [(0, Slices::default()); 2];
    for (look, until) in [(0, start), (1, end)] {
        match &mut schedule {
            Some(schedule) => load.open_loop(schedule, args.in_flight, until),
            None => load.closed(args.in_flight, until),
        }
        looks[look] = (environment::thread_cpu_ns(), Slices::own());
    }
    let generator_cpu = (looks[1].0 - looks[0].0) as f64 / (args.seconds * SECOND) as f64;
    load.front.set_window(0, 0..0);
    let drained = load.swarm.now_ns() + DRAIN_NS;
    while load.front.in_flight() > 0 && load.swarm.now_ns() < drained {
        load.turn(drained);
    }
    let mut toll = Toll::between(&watch.sights()?, [looks[0].1, looks[1].1]);
    let server_version = stage.control.server_version()?;
    let Load { front, lateness, swarm, .. } = load;
    drop(swarm);
    toll.measure_append(stage.control.data())?;
    stage.close()?;
    Ok(report(args, &front, &lateness, server_version, (generator_cpu, toll)).judge())
}

fn report(
    args: &GatewayArgs,
    front: &Front,
    lateness: &Latency,
    server_version: String,
    (cpu, toll): (f64, Toll),
) -> Report {
    let mut errors = front.agents.faults.clone();
    let (mut ack, mut deliver) = (Latency::new(), Latency::new());
    for bound in &front.gateways {
        bound.faults.iter().for_each(|(what, count)| *errors.entry(what.clone()).or_default() += count);
        ack.add(&bound.ack);
        deliver.add(&bound.deliver);
    }
    for (what, count) in [
        ("message without ACK or DELIVER", front.in_flight()),
        ("connection lost", front.gone),
        ("refused for now: BUSY", front.sum(|bound| bound.busy)),
    ] {
        if count > 0 {
            errors.insert(what.into(), count);
        }
    }
    let arrivals = match args.rate {
        Some(_) => format!("{:?}", args.arrivals).to_lowercase(),
        None => format!("closed loop, {} in flight", args.in_flight),
    };
    Report {
        messages_per_second: round2(front.sum(|bound| bound.window_acks) as f64 / args.seconds as f64),
        latency_us: Latencies { send_ack: ack.percentiles(), send_deliver: deliver.percentiles() },
        messages: front.sum(|bound| bound.offered),
        unloaded_ack_us: None,
        unloaded_deliver_us: None,
        append_4k_us: None,
        ratio_unloaded_ack_to_append: None,
        toll: Some(toll),
        refused: None,
        errors: errors.values().sum(),
        lost: front.sum(|bound| bound.lost) + front.agents.lost,
        duplicated: front.sum(|bound| bound.repeated),
        reordered: 0,
        error_detail: errors,
        environment: Environment {
            kernel: environment::kernel(),
            cpu: environment::cpu(),
            cores: environment::cores(),
            commit: environment::commit(),
            command: environment::command(),
            version: env!("CARGO_PKG_VERSION").into(),
            server_version,
            transport: "gateway".into(),
            visitors: args.visitors as usize,
            agents: args.agents as usize,
            rate: args.rate.unwrap_or(0),
            arrivals,
            body_bytes: args.body_bytes,
            seed: args.seed,
            seconds: args.seconds,
            warmup_seconds: args.warmup,
            generator_cpu: round2(cpu),
            lateness_us: lateness.percentiles(),
            lateness_bound_us: args.lateness_bound_us,
            append_mode: "not measured".into(),
        },
    }
}
