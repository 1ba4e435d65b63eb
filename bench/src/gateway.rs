//! `ringbench run gateway`: thousands of visitors through one binary connection, many messages per segment.
//!
//! Order: connect, bind and open everybody, warm up, measure, drain, report under the names of `run chat`.

use std::path::PathBuf;
use std::time::Instant;

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

/// How long binding everybody may take.
const SETUP_NS: u64 = 60_000_000_000;
/// How long the last answers may take.
const DRAIN_NS: u64 = 15_000_000_000;
/// Messages in flight while everybody says its first.
const FIRST_WINDOW: u32 = 100;
/// Most visitors of one gateway connection that the server binds.
const VISITORS_MAX: u32 = 65_536;
const SECOND: u64 = 1_000_000_000;

/// Options of `run gateway`.
#[derive(Args, Debug)]
pub struct GatewayArgs {
    /// Visitors bound to the one connection.
    #[arg(long, default_value_t = 10_000)]
    pub visitors: u32,
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

/// The gateway is client 0, agents follow.
struct Front {
    bound: BoundVisitors,
    agents: Agents,
    gone: u64,
}

impl Crowd for Front {
    fn connected(&mut self, who: u32, _now_ns: u64, reply: &mut Reply) {
        match who.checked_sub(1) {
            None => self.bound.connected(reply),
            Some(agent) => self.agents.connected(agent, reply),
        }
    }

    fn frame(&mut self, who: u32, now_ns: u64, frame: Frame<'_>, reply: &mut Reply) {
        match who {
            0 => self.bound.frame(now_ns, frame, reply),
            _ => self.agents.frame(now_ns, frame, reply),
        }
    }

    fn again(&mut self, who: u32, now_ns: u64, reply: &mut Reply) {
        match who {
            0 => self.bound.carry_on(now_ns, reply),
            _ => self.agents.declare(reply),
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
}

impl Load {
    fn begin(stage: &mut Stage, args: &GatewayArgs) -> Result<Self, String> {
        let run = run_number();
        let site = format!("bench-{run:016x}");
        stage.control.add_site(&site)?;
        let ticket = stage.control.gateway(&site, "bench")?;
        let tickets = stage.control.agents(&site, args.agents as usize)?;
        let capacity = u16::try_from(args.visitors.div_ceil(args.agents.max(1)) + 4).unwrap_or(u16::MAX);
        let bound = BoundVisitors::new(ticket, args.visitors, (run << 24) | 2, args.body_bytes);
        let agents = Agents::new(tickets, (run << 24) | 1 << 23, capacity);
        let swarm = Swarm::open(1 + args.agents, stage.ports, Transports::Binary, Instant::now())?;
        let mut load = Self { swarm, front: Front { bound, agents, gone: 0 }, lateness: Latency::new() };
        load.swarm.dial(1..1 + args.agents);
        load.until(|front| front.agents.present == front.agents.len(), "not every agent came online")?;
        load.swarm.dial(0..1);
        load.until(|front| front.bound.opened == front.bound.len(), "not every visitor was bound")?;
        // A message each, so that every subscription is live before anything is measured.
        (load.front.bound.closed_window, load.front.bound.talking) = (FIRST_WINDOW, 0..u64::MAX);
        load.carry_on();
        load.until(
            |front| front.bound.completed >= front.bound.len().into(),
            "not every visitor was answered",
        )?;
        load.front.bound.closed_window = 0;
        load.until(|front| front.bound.in_flight == 0, "not every visitor was answered")?;
        Ok(load)
    }

    fn until(&mut self, done: impl Fn(&Front) -> bool, what: &str) -> Result<(), String> {
        let end = self.swarm.now_ns() + SETUP_NS;
        while !done(&self.front) {
            self.turn(end);
            if self.swarm.now_ns() >= end || self.front.gone > 0 {
                let bound = &self.front.bound;
                return Err(format!(
                    "{what}: {} of {} visitors have a conversation, {} messages were delivered, {} BUSY, {} connections lost, \
                     {:?}",
                    bound.opened,
                    bound.len(),
                    bound.completed,
                    bound.busy,
                    self.front.gone,
                    bound.faults
                ));
            }
        }
        Ok(())
    }

    /// A turn that also tries again what was refused for now.
    fn turn(&mut self, end: u64) {
        let retry = self.front.bound.retry_ns();
        self.swarm.turn(&mut self.front, end.min(retry));
        if retry <= self.swarm.now_ns() {
            self.carry_on();
        }
    }

    fn carry_on(&mut self) {
        let (now, bound) = (self.swarm.now_ns(), &mut self.front.bound);
        self.swarm.write(0, |reply| bound.carry_on(now, reply));
    }

    /// As fast as answers come, `in_flight` at a time.
    fn closed(&mut self, in_flight: u32, end: u64) {
        (self.front.bound.closed_window, self.front.bound.talking) = (in_flight, 0..end);
        self.carry_on();
        while self.swarm.now_ns() < end {
            self.turn(end);
        }
    }

    /// At the times of the schedule; a start that finds nobody idle, or too many in flight, waits and is late.
    fn open_loop(&mut self, schedule: &mut Schedule, in_flight: u32, end: u64) {
        let mut owed = None;
        loop {
            let now = self.swarm.now_ns();
            let (front, lateness) = (&mut self.front, &mut self.lateness);
            self.swarm.write(0, |reply| {
                while front.bound.in_flight < in_flight {
                    let Some(at) =
                        owed.take().or_else(|| schedule.due(now.min(end)).map(|start| start.at_ns))
                    else {
                        break;
                    };
                    if !front.bound.say(at, reply) {
                        owed = Some(at);
                        break;
                    }
                    if front.bound.window.contains(&at) {
                        lateness.record_ns(now - at);
                    }
                }
            });
            if now >= end {
                return;
            }
            self.turn(if owed.is_some() { end } else { schedule.next_ns().min(end) });
        }
    }
}

/// Runs the load and returns its report.
///
/// # Errors
/// A sentence when the run could not be made at all; what goes wrong within it is in the report.
pub fn run(args: &GatewayArgs) -> Result<Report, String> {
    if !(1..=VISITORS_MAX).contains(&args.visitors) || args.in_flight == 0 || args.rate == Some(0) {
        return Err(format!("--visitors must be 1 to {VISITORS_MAX}, --in-flight and --rate at least 1"));
    }
    let mut stage = Stage::open(&args.stage, 1 + args.agents)?;
    let mut load = Load::begin(&mut stage, args)?;
    let begin = load.swarm.now_ns();
    let start = begin + args.warmup * SECOND;
    let end = start + args.seconds * SECOND;
    let mut schedule = args.rate.map(|rate| Schedule::new(args.seed, rate, args.arrivals, 1, begin));
    load.front.bound.measure(start..end);
    let mut cpu = [0; 2];
    for (at, until) in [(0, start), (1, end)] {
        cpu[at] = environment::thread_cpu_ns();
        match &mut schedule {
            Some(schedule) => load.open_loop(schedule, args.in_flight, until),
            None => load.closed(args.in_flight, until),
        }
    }
    let generator_cpu = (environment::thread_cpu_ns() - cpu[1]) as f64 / (args.seconds * SECOND) as f64;
    load.front.bound.closed_window = 0;
    let drained = load.swarm.now_ns() + DRAIN_NS;
    while load.front.bound.in_flight > 0 && load.swarm.now_ns() < drained {
        load.turn(drained);
    }
    let server_version = stage.control.server_version()?;
    let Load { front, lateness, swarm } = load;
    drop(swarm);
    stage.close()?;
    Ok(report(args, &front, &lateness, server_version, generator_cpu).judge())
}

fn report(args: &GatewayArgs, front: &Front, lateness: &Latency, server_version: String, cpu: f64) -> Report {
    let bound = &front.bound;
    let mut errors = bound.faults.clone();
    errors.extend(front.agents.faults.clone());
    for (what, count) in [
        ("message without ACK or DELIVER", u64::from(bound.in_flight)),
        ("connection lost", front.gone),
        ("refused for now: BUSY", bound.busy),
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
        messages_per_second: round2(bound.window_acks as f64 / args.seconds as f64),
        latency_us: Latencies {
            send_ack: bound.ack.percentiles(),
            send_deliver: bound.deliver.percentiles(),
        },
        messages: bound.offered,
        unloaded_ack_us: None,
        unloaded_deliver_us: None,
        append_4k_us: None,
        ratio_unloaded_ack_to_append: None,
        refused: None,
        errors: errors.values().sum(),
        lost: bound.lost + front.agents.lost,
        duplicated: bound.repeated,
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
