//! `ringbench slowloris`: many connections that say one byte of a HELLO in ten seconds, and come back when they are
//! thrown out. What do those notice who behave?

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use ringdesk_protocol::{ClientMessage, Frame, Role};
use serde::Serialize;

use crate::bystanders::{Beside, Pace, WithVisitors, drive, measure, p99};
use crate::chat::run_number;
use crate::environment::{self, Machine};
use crate::stage::{Stage, StageArgs};
use crate::swarm::visitors::Visitors;
use crate::swarm::{Crowd, Reply, Swarm, Transports};

/// How long connecting everybody may take.
const SETUP_NS: u64 = 60_000_000_000;
/// Between two bytes.
const BYTE_NS: u64 = 10_000_000_000;
/// A thrown-out one comes back after this.
const BACK_NS: u64 = 200_000_000;
/// How much more the others' p99 may be.
const P99_GROWTH_MAX: f64 = 1.10;

/// Options of `slowloris`.
#[derive(Args, Debug)]
pub struct SlowlorisArgs {
    /// Connections that say one byte in ten seconds.
    #[arg(long, default_value_t = 10_000)]
    pub connections: u32,
    /// Others, measured.
    #[arg(long, default_value_t = 200)]
    pub others: u32,
    /// Messages per second of the others.
    #[arg(long, default_value_t = 2000)]
    pub rate: u64,
    /// Rounds with and without.
    #[arg(long, default_value_t = 3)]
    pub rounds: u32,
    /// Seconds of one measurement.
    #[arg(long, default_value_t = 4.0)]
    pub seconds: f64,
    /// Write the figures as JSON.
    #[arg(long)]
    pub json: Option<PathBuf>,
    /// Which server.
    #[command(flatten)]
    pub stage: StageArgs,
}

/// What was measured. The names stay.
#[derive(Debug, Serialize)]
pub struct SlowlorisReport {
    /// Connections that say one byte in ten seconds.
    pub connections: u32,
    /// p99 of the others, microseconds: medians.
    pub p99_without_us: f64,
    /// See `p99_without_us`.
    pub p99_with_us: f64,
    /// The second by the first.
    pub p99_ratio: f64,
    /// Every round.
    pub others: Beside,
    /// Slow connections that the server ended.
    pub thrown_out: u64,
    /// Most that stood at once.
    pub stood: u32,
    /// Whatever the others met that should not have happened.
    pub errors: u64,
    /// What it was.
    pub error_detail: std::collections::BTreeMap<String, u64>,
    /// Where and how.
    pub environment: Machine,
}

impl SlowlorisReport {
    /// Others as before.
    pub fn passed(&self) -> bool {
        self.errors == 0 && self.p99_ratio <= P99_GROWTH_MAX
    }
}

/// Runs, prints, writes the JSON.
///
/// # Errors
/// A sentence when the run could not be made.
pub fn run(args: &SlowlorisArgs) -> Result<bool, String> {
    if args.connections == 0 || args.others == 0 || args.rounds == 0 || args.rate == 0 {
        return Err("--connections, --others, --rounds and --rate must be at least 1".into());
    }
    let report = compare(args)?;
    println!("{report}");
    environment::write_json(args.json.as_deref(), &report)?;
    Ok(report.passed())
}

/// Visitors first, then those who dawdle.
struct Hall {
    visitors: Visitors,
    /// A HELLO, of which each dawdler has sent so many bytes.
    hello: Vec<u8>,
    sent: Vec<u16>,
    slow: bool,
    standing: u32,
    stood: u32,
    thrown_out: u64,
}

impl Hall {
    fn say_byte(&mut self, dawdler: usize, now_ns: u64, reply: &mut Reply) {
        let at = usize::from(self.sent[dawdler]);
        if at < self.hello.len() - 1 {
            reply.frames.push(self.hello[at]);
            self.sent[dawdler] += 1;
            reply.again_ns = Some(now_ns + BYTE_NS);
        }
    }
}

impl WithVisitors for Hall {
    fn visitors(&mut self) -> &mut Visitors {
        &mut self.visitors
    }
}

impl Crowd for Hall {
    fn connected(&mut self, who: u32, now_ns: u64, reply: &mut Reply) {
        match who.checked_sub(self.visitors.len()) {
            None => self.visitors.connected(who, now_ns, reply),
            Some(dawdler) => {
                self.sent[dawdler as usize] = 0;
                self.standing += 1;
                self.stood = self.stood.max(self.standing);
                reply.settled = true;
                self.say_byte(dawdler as usize, now_ns, reply);
            }
        }
    }

    fn frame(&mut self, who: u32, now_ns: u64, frame: Frame<'_>, reply: &mut Reply) {
        if who < self.visitors.len() {
            self.visitors.frame(who, now_ns, frame, reply);
        }
    }

    fn again(&mut self, who: u32, now_ns: u64, reply: &mut Reply) {
        match who.checked_sub(self.visitors.len()) {
            None => self.visitors.again(who, now_ns, reply),
            // A byte asked for by an earlier connection of the same one may come early: no harm.
            Some(dawdler) => self.say_byte(dawdler as usize, now_ns, reply),
        }
    }

    fn gone(&mut self, who: u32, now_ns: u64, errno: i32) -> Option<u64> {
        match who.checked_sub(self.visitors.len()) {
            None => self.visitors.gone(who, now_ns, errno),
            Some(_) => {
                self.standing = self.standing.saturating_sub(1);
                self.thrown_out += u64::from(self.slow);
                self.slow.then_some(now_ns + BACK_NS)
            }
        }
    }
}

fn compare(args: &SlowlorisArgs) -> Result<SlowlorisReport, String> {
    let total = args.others + args.connections;
    let mut stage = Stage::open(&args.stage, total)?;
    let run = run_number();
    let site = format!("bench-{run:016x}");
    stage.control.add_site(&site)?;
    let tickets = stage.control.many_visitors(&site, args.others)?;
    let mut hello = Vec::new();
    let ticket = tickets.get(0);
    ClientMessage::Hello {
        version_min: 1,
        version_max: 1,
        role: Role::Visitor,
        device: 1,
        ticket,
        cursors: &[],
    }
    .encode(0, 0, &mut hello);
    let mut hall = Hall {
        visitors: Visitors::new(tickets, (run << 24) | 1, 200),
        hello,
        sent: vec![0; args.connections as usize],
        slow: false,
        standing: 0,
        stood: 0,
        thrown_out: 0,
    };
    let mut swarm = Swarm::open(total, stage.ports, Transports::Binary, Instant::now())?;
    let end = swarm.now_ns() + SETUP_NS;
    swarm.dial(0..args.others);
    if !swarm.run(&mut hall, end, |hall| hall.visitors.ready == args.others) {
        return Err(format!(
            "{} of {} were greeted: {:?}",
            hall.visitors.ready, args.others, hall.visitors.seen
        ));
    }
    let mut beside = Beside::default();
    for round in 1..=args.rounds {
        beside.without.push(others_p99(&mut swarm, &mut hall, args)?);
        hall.slow = true;
        swarm.dial(args.others..total);
        let end = swarm.now_ns() + SETUP_NS;
        // All but a few: those that the server throws out are on their way back.
        if !swarm.run(&mut hall, end, |hall| hall.standing >= args.connections - args.connections / 100) {
            return Err(format!("only {} slow connections stood at once", hall.stood));
        }
        beside.with.push(others_p99(&mut swarm, &mut hall, args)?);
        send_home(&mut swarm, &mut hall, args.others..total);
        eprintln!("round {round} of {}", args.rounds);
    }
    let version = stage.control.server_version()?;
    drop(swarm);
    stage.close()?;
    let (p99_without_us, p99_with_us, p99_ratio) = beside.medians();
    Ok(SlowlorisReport {
        connections: args.connections,
        p99_without_us,
        p99_with_us,
        p99_ratio,
        others: beside,
        thrown_out: hall.thrown_out,
        stood: hall.stood,
        errors: hall.visitors.seen.errors(),
        error_detail: hall.visitors.seen.faults,
        environment: Machine::new(version),
    })
}

/// Drops the slow ones. Whoever was about to come back does so once more and is dropped too; then all is quiet.
fn send_home(swarm: &mut Swarm, hall: &mut Hall, slow: std::ops::Range<u32>) {
    hall.slow = false;
    for pause_ns in [SETUP_NS, 2 * BACK_NS, BACK_NS] {
        slow.clone().for_each(|who| swarm.abort(who));
        let end = swarm.now_ns() + pause_ns;
        swarm.run(hall, end, |hall| pause_ns == SETUP_NS && hall.standing == 0);
    }
}

fn others_p99(swarm: &mut Swarm, hall: &mut Hall, args: &SlowlorisArgs) -> Result<u64, String> {
    let now = swarm.now_ns();
    let end = measure(&mut hall.visitors, now, args.seconds);
    drive(swarm, hall, &mut [Pace::new(0..args.others, args.rate, now)], end);
    let end = swarm.now_ns() + 200_000_000;
    swarm.run(hall, end, |_| false);
    p99(&hall.visitors)
}

impl std::fmt::Display for SlowlorisReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(
            f,
            "{} connections at one byte in 10 s: {} stood at once, {} were thrown out",
            self.connections, self.stood, self.thrown_out
        )?;
        writeln!(
            f,
            "  others' p99: {:.0} us without, {:.0} us with, ratio {:.2}; rounds {:?} and {:?}",
            self.p99_without_us, self.p99_with_us, self.p99_ratio, self.others.without, self.others.with
        )?;
        writeln!(f, "  errors {}", self.errors)?;
        for (what, count) in &self.error_detail {
            writeln!(f, "    {count} x {what}")?;
        }
        write!(f, "  {}", self.environment)
    }
}
