//! `ringbench limit`: the engine as a share of a raw relay, in the same run, on the same cores, driven by the same swarm.
//!
//! Order: relay and server are both up, each with its connections; then they take turns, a few seconds each, so that a
//! drift of the machine falls on both. One core is the server's (or relay's), another the load's; where there is only
//! one, they share it and the report says so.

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use ringdesk_protocol::limits::HEADER_BYTES;
use ringdesk_protocol::{ClientMessage, Content, Frame, Header};
use serde::Serialize;

use crate::chat::run_number;
use crate::cores;
use crate::environment::{self, Machine, median};
use crate::relay::{LISTENER, Relay};
use crate::report::{Latency, Percentiles, round2};
use crate::stage::{Stage, StageArgs};
use crate::swarm::agents::Agents;
use crate::swarm::visitors::Visitors;
use crate::swarm::{Crowd, Ports, Reply, Swarm, Transports};

/// How long connecting and assigning may take.
const SETUP_NS: u64 = 60_000_000_000;
/// Load before each measurement.
const WARM_UP_NS: u64 = 300_000_000;
/// How long the last answers may take.
const DRAIN_NS: u64 = 5_000_000_000;

/// Options of `limit`.
#[derive(Args, Debug)]
pub struct LimitArgs {
    /// Connections with one message in flight each.
    #[arg(long, default_value_t = 1000)]
    pub connections: u32,
    /// The second receivers: agents, or connections of the relay that only listen.
    #[arg(long, default_value_t = 50)]
    pub agents: u32,
    /// Bytes of a message body.
    #[arg(long, default_value_t = 200)]
    pub body_bytes: usize,
    /// Measurements of each, alternating.
    #[arg(long, default_value_t = 5)]
    pub rounds: usize,
    /// Milliseconds of one measurement.
    #[arg(long, default_value_t = 2000)]
    pub round_ms: u64,
    /// Write the figures as JSON.
    #[arg(long)]
    pub json: Option<PathBuf>,
    /// Which server.
    #[command(flatten)]
    pub stage: StageArgs,
}

/// One measurement.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Round {
    /// Messages answered per second.
    pub per_second: f64,
    /// From send to answer, microseconds.
    pub latency_us: Option<Percentiles>,
    /// Share of its core the load generator used, 1.0 = all of it: it was the bottleneck then.
    pub generator_cpu: f64,
}

/// What was measured. The names stay.
#[derive(Debug, Serialize)]
pub struct LimitReport {
    /// Connections with one message in flight each.
    pub connections: u32,
    /// `engine_per_second / relay_per_second`.
    pub share_of_relay: f64,
    /// Median of the relay's measurements.
    pub relay_per_second: f64,
    /// Median of the engine's: durable, delivered to sender and agent, acknowledged.
    pub engine_per_second: f64,
    /// Every measurement, in order.
    pub relay: Vec<Round>,
    /// Every measurement, in order.
    pub engine: Vec<Round>,
    /// Cores of server (and relay) and of the load.
    pub cores: [usize; 2],
    /// Shards of the server.
    pub shards: u16,
    /// Bytes of a message body.
    pub body_bytes: usize,
    /// Everything that should not have happened.
    pub errors: u64,
    /// Where and how.
    pub environment: Machine,
}

/// Runs, prints, writes the JSON.
///
/// # Errors
/// A sentence when the run could not be made.
pub fn run(args: &LimitArgs) -> Result<bool, String> {
    if args.connections == 0 || args.agents == 0 || args.rounds == 0 {
        return Err("--connections, --agents and --rounds must be at least 1".into());
    }
    let report = measure(args)?;
    println!("{report}");
    environment::write_json(args.json.as_deref(), &report)?;
    Ok(report.errors == 0)
}

fn measure(args: &LimitArgs) -> Result<LimitReport, String> {
    let all = cores::allowed();
    let (load, serving) = (all[0], *all.last().expect("this runs somewhere"));
    let shards = args.stage.shards.unwrap_or(1);
    // What is started from here on stays on the server's core.
    cores::pin(serving)?;
    let stage_args = StageArgs { shards: Some(shards), ..args.stage.clone() };
    let mut stage = Stage::open(&stage_args, args.connections + args.agents)?;
    let relay = Relay::start(args.connections + args.agents, serving)?;
    cores::pin(load)?;
    let mut engine = EngineLoad::begin(&mut stage, args)?;
    let mut raw = RelayLoad::begin(&relay, args)?;
    let (mut relayed, mut served) = (Vec::new(), Vec::new());
    for _ in 0..args.rounds {
        relayed.push(raw.round(args.round_ms * 1_000_000)?);
        served.push(engine.round(args.round_ms * 1_000_000)?);
    }
    let errors = engine.errors();
    let version = stage.control.server_version()?;
    drop((engine, raw));
    relay.stop()?;
    stage.close()?;
    cores::keep(&all)?;
    let middle = |rounds: &[Round]| median(rounds.iter().map(|round| round.per_second).collect());
    let (relay_per_second, engine_per_second) = (middle(&relayed), middle(&served));
    Ok(LimitReport {
        connections: args.connections,
        share_of_relay: (engine_per_second / relay_per_second * 1000.0).round() / 1000.0,
        relay_per_second: round2(relay_per_second),
        engine_per_second: round2(engine_per_second),
        relay: relayed,
        engine: served,
        cores: [serving, load],
        shards,
        body_bytes: args.body_bytes,
        errors,
        environment: Machine::new(version),
    })
}

/// Counts over one measurement.
struct Span {
    begin_ns: u64,
    cpu_ns: u64,
}

impl Span {
    fn begin(swarm: &Swarm) -> Self {
        Self { begin_ns: swarm.now_ns(), cpu_ns: environment::thread_cpu_ns() }
    }

    fn end(&self, swarm: &Swarm, count: u64, latency: &Latency) -> Round {
        let wall = (swarm.now_ns() - self.begin_ns).max(1) as f64;
        Round {
            per_second: round2(count as f64 * 1e9 / wall),
            latency_us: latency.percentiles(),
            generator_cpu: round2((environment::thread_cpu_ns() - self.cpu_ns) as f64 / wall),
        }
    }
}

/// Visitors who talk, agents who listen.
struct Chat {
    visitors: Visitors,
    agents: Agents,
}

impl Crowd for Chat {
    fn connected(&mut self, who: u32, now_ns: u64, reply: &mut Reply) {
        match who.checked_sub(self.visitors.len()) {
            None => self.visitors.connected(who, now_ns, reply),
            Some(agent) => self.agents.connected(agent, reply),
        }
    }

    fn frame(&mut self, who: u32, now_ns: u64, frame: Frame<'_>, reply: &mut Reply) {
        match who < self.visitors.len() {
            true => self.visitors.frame(who, now_ns, frame, reply),
            false => self.agents.frame(now_ns, frame, reply),
        }
    }

    fn again(&mut self, who: u32, now_ns: u64, reply: &mut Reply) {
        match who < self.visitors.len() {
            true => self.visitors.again(who, now_ns, reply),
            false => self.agents.declare(reply),
        }
    }

    fn gone(&mut self, who: u32, now_ns: u64, errno: i32) -> Option<u64> {
        // A chat that breaks is not mended here: it is counted, and the run fails.
        self.visitors.gone(who.min(self.visitors.len() - 1), now_ns, errno).filter(|_| false)
    }
}

/// The engine's connections.
struct EngineLoad {
    swarm: Swarm,
    chat: Chat,
}

impl EngineLoad {
    fn begin(stage: &mut Stage, args: &LimitArgs) -> Result<Self, String> {
        let run = run_number();
        let site = format!("bench-{run:016x}");
        stage.control.add_site(&site)?;
        let tickets = stage.control.many_visitors(&site, args.connections)?;
        let agent_tickets = stage.control.agents(&site, args.agents as usize)?;
        let capacity = args.connections.div_ceil(args.agents) + 4;
        let capacity =
            u16::try_from(capacity).map_err(|_| "too many connections per agent: raise --agents")?;
        let visitors = Visitors::new(tickets, (run << 24) | 1, args.body_bytes);
        let agents = Agents::new(agent_tickets, (run << 24) | 1 << 23, capacity);
        let total = args.connections + args.agents;
        let swarm = Swarm::open(total, stage.ports, Transports::Binary, Instant::now())?;
        let mut load = Self { swarm, chat: Chat { visitors, agents } };
        let end = load.swarm.now_ns() + SETUP_NS;
        load.swarm.dial(args.connections..total);
        load.until(end, |chat| chat.agents.present == chat.agents.len(), "not every agent came online")?;
        load.swarm.dial(0..args.connections);
        load.until(end, |chat| chat.visitors.ready == chat.visitors.len(), "not every visitor was greeted")?;
        load.speak();
        let settled = |chat: &Chat| {
            chat.visitors.caught_up == chat.visitors.len() && chat.agents.assigned == chat.visitors.len()
        };
        load.until(end, settled, "not every conversation was assigned")?;
        Ok(load)
    }

    fn until(&mut self, end: u64, done: impl Fn(&Chat) -> bool, what: &str) -> Result<(), String> {
        if self.swarm.run(&mut self.chat, end, done) {
            return Ok(());
        }
        let Chat { visitors, agents } = &self.chat;
        Err(format!("{what}: {:?}, {:?}, {} assigned", visitors.seen, agents.faults, agents.assigned))
    }

    /// Everybody says something.
    fn speak(&mut self) {
        for who in 0..self.chat.visitors.len() {
            let (visitors, now) = (&mut self.chat.visitors, self.swarm.now_ns());
            self.swarm.write(who, |reply| {
                visitors.say(who, now, reply);
            });
        }
    }

    fn round(&mut self, ns: u64) -> Result<Round, String> {
        let begin = self.swarm.now_ns() + WARM_UP_NS;
        let visitors = &mut self.chat.visitors;
        (visitors.talking, visitors.window) = (0..begin + ns, begin..begin + ns);
        (visitors.ack, visitors.window_acks) = (Latency::new(), 0);
        self.speak();
        self.swarm.run(&mut self.chat, begin, |_| false);
        let span = Span::begin(&self.swarm);
        self.swarm.run(&mut self.chat, begin + ns, |_| false);
        let round = span.end(&self.swarm, self.chat.visitors.window_acks, &self.chat.visitors.ack);
        let end = self.swarm.now_ns() + DRAIN_NS;
        let quiet = |chat: &Chat| chat.visitors.caught_up == chat.visitors.len();
        self.until(end, quiet, "the last messages were not answered")?;
        Ok(round)
    }

    fn errors(&self) -> u64 {
        let Chat { visitors, agents } = &self.chat;
        visitors.seen.errors() + agents.lost + agents.faults.values().sum::<u64>()
    }
}

/// Senders and listeners of the relay.
struct RelayCrowd {
    senders: u32,
    message: Vec<u8>,
    sent_ns: Vec<u64>,
    connected: u32,
    listening: u32,
    talking: std::ops::Range<u64>,
    window: std::ops::Range<u64>,
    in_flight: u32,
    answers: u64,
    latency: Latency,
    gone: u32,
}

impl Crowd for RelayCrowd {
    fn connected(&mut self, who: u32, _now_ns: u64, reply: &mut Reply) {
        self.connected += 1;
        reply.settled = true;
        if who >= self.senders {
            let header = Header { length: 0, kind: LISTENER, channel: 0, tag: 0 };
            reply.frames.extend_from_slice(&header.to_bytes());
        }
    }

    fn frame(&mut self, who: u32, now_ns: u64, frame: Frame<'_>, reply: &mut Reply) {
        if who >= self.senders {
            self.listening += u32::from(frame.header.kind == LISTENER);
            return;
        }
        if self.window.contains(&now_ns) {
            self.answers += 1;
            self.latency.record_ns(now_ns - self.sent_ns[who as usize]);
        }
        self.in_flight -= 1;
        if self.talking.contains(&now_ns) {
            self.say(who, now_ns, reply);
        }
    }

    fn again(&mut self, _who: u32, _now_ns: u64, _reply: &mut Reply) {}

    fn gone(&mut self, _who: u32, _now_ns: u64, _errno: i32) -> Option<u64> {
        self.gone += 1;
        None
    }
}

impl RelayCrowd {
    fn say(&mut self, who: u32, now_ns: u64, reply: &mut Reply) {
        self.sent_ns[who as usize] = now_ns;
        self.in_flight += 1;
        reply.frames.extend_from_slice(&self.message);
    }
}

/// The relay's connections.
struct RelayLoad {
    swarm: Swarm,
    crowd: RelayCrowd,
}

impl RelayLoad {
    fn begin(relay: &Relay, args: &LimitArgs) -> Result<Self, String> {
        let mut message = Vec::new();
        let body = vec![b'x'; args.body_bytes];
        ClientMessage::Send { conversation: 1, n: 1, owner_epoch: 0, content: Content::Text, body: &body }
            .encode(0, 0, &mut message);
        assert!(message.len() > HEADER_BYTES, "a message has a body");
        let total = args.connections + args.agents;
        let ports = Ports { binary: relay.address, websocket: relay.address, tls: relay.address };
        let swarm = Swarm::open(total, ports, Transports::Binary, Instant::now())?;
        let crowd = RelayCrowd {
            senders: args.connections,
            message,
            sent_ns: vec![0; args.connections as usize],
            connected: 0,
            listening: 0,
            talking: 0..0,
            window: 0..0,
            in_flight: 0,
            answers: 0,
            latency: Latency::new(),
            gone: 0,
        };
        let mut load = Self { swarm, crowd };
        load.swarm.dial(0..total);
        let (end, agents) = (load.swarm.now_ns() + SETUP_NS, args.agents);
        let up = |crowd: &RelayCrowd| crowd.connected == total && crowd.listening == agents;
        if load.swarm.run(&mut load.crowd, end, up) {
            return Ok(load);
        }
        Err(format!("{} of {total} connections to the relay stand", load.crowd.connected))
    }

    fn round(&mut self, ns: u64) -> Result<Round, String> {
        let begin = self.swarm.now_ns() + WARM_UP_NS;
        let crowd = &mut self.crowd;
        (crowd.talking, crowd.window) = (0..begin + ns, begin..begin + ns);
        (crowd.latency, crowd.answers) = (Latency::new(), 0);
        for who in 0..crowd.senders {
            let now = self.swarm.now_ns();
            let crowd = &mut self.crowd;
            self.swarm.write(who, |reply| crowd.say(who, now, reply));
        }
        self.swarm.run(&mut self.crowd, begin, |_| false);
        let span = Span::begin(&self.swarm);
        self.swarm.run(&mut self.crowd, begin + ns, |_| false);
        let round = span.end(&self.swarm, self.crowd.answers, &self.crowd.latency);
        let end = self.swarm.now_ns() + DRAIN_NS;
        if self.swarm.run(&mut self.crowd, end, |crowd| crowd.in_flight == 0) && self.crowd.gone == 0 {
            return Ok(round);
        }
        Err(format!("the relay lost {} messages and {} connections", self.crowd.in_flight, self.crowd.gone))
    }
}

impl std::fmt::Display for LimitReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [serving, load] = self.cores;
        writeln!(
            f,
            "{} connections, one message of {} B in flight each; {} shard(s) on core {serving}, load on core {load}",
            self.connections, self.body_bytes, self.shards
        )?;
        for (name, rounds) in [("relay", &self.relay), ("engine", &self.engine)] {
            for round in rounds {
                let (p50, p99) = round.latency_us.map_or((0, 0), |p| (p.p50, p.p99));
                writeln!(
                    f,
                    "  {name:<8}{:>10.0}/s  p50 {p50:>6} us  p99 {p99:>6} us  generator {:.2}",
                    round.per_second, round.generator_cpu
                )?;
            }
        }
        writeln!(
            f,
            "  share of relay {:.3}: engine {:.0}/s, relay {:.0}/s (medians), errors {}",
            self.share_of_relay, self.engine_per_second, self.relay_per_second, self.errors
        )?;
        write!(f, "  {}", self.environment)
    }
}
