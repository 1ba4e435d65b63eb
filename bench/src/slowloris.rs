//! `ringbench slowloris`: many connections that say one byte of a HELLO in ten seconds, and come back when they are
//! thrown out. What do those notice who behave?

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};
use std::time::Instant;

use clap::Args;
use ringdesk_protocol::{ClientMessage, Frame, Role};
use serde::Serialize;

use crate::bystanders::{Beside, Judged, Pace, drive, measure, p99};
use crate::environment::{self, Machine};
use crate::hold::Gathering;
use crate::stage::{Stage, StageArgs};
use crate::swarm::{Crowd, Ports, Reply, Swarm, Transports};

/// How long connecting everybody may take.
const SETUP_NS: u64 = 60_000_000_000;
/// Between two bytes.
const BYTE_NS: u64 = 10_000_000_000;
/// A thrown-out one comes back after this.
const BACK_NS: u64 = 200_000_000;
/// Bytes of the ticket in a HELLO that never ends; a real one has about as many.
const HELLO_TICKET_BYTES: usize = 300;
/// Between two groups of arrivals.
const BETWEEN_ARRIVALS_NS: u64 = 10_000_000;
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
    /// Rounds: several measurements without, everybody slow arrives, as many with, and all of them leave again.
    #[arg(long, default_value_t = 4)]
    pub rounds: u32,
    /// Measurements in a row, without and with.
    #[arg(long, default_value_t = 3)]
    pub measurements: u32,
    /// Seconds of one measurement.
    #[arg(long, default_value_t = 2.0)]
    pub seconds: f64,
    /// Slow connections that arrive per second: as many are thrown out per second ten seconds later.
    #[arg(long, default_value_t = 1_000)]
    pub arrivals: u32,
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
    /// p99 of the others: medians, and whether they keep the bound.
    #[serde(flatten)]
    pub judged: Judged,
    /// Every measurement.
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
    /// Others as before, nothing that should not have happened to them.
    ///
    /// # Errors
    /// A sentence when noise does not allow to tell.
    pub fn outcome(&self) -> Result<bool, String> {
        self.judged.outcome(self.errors == 0)
    }
}

/// Runs, prints, writes the JSON.
///
/// # Errors
/// A sentence when the run could not be made.
pub fn run(args: &SlowlorisArgs) -> Result<bool, String> {
    let least = [args.connections, args.others, args.rounds, args.measurements, args.arrivals];
    if least.contains(&0) || args.rate == 0 {
        return Err(
            "--connections, --others, --rounds, --measurements, --arrivals and --rate must be at least 1"
                .into(),
        );
    }
    let report = compare(args)?;
    println!("{report}");
    environment::write_json(args.json.as_deref(), &report)?;
    report.outcome()
}

/// What the two threads tell each other.
#[derive(Default)]
struct Tally {
    /// The dawdlers are wanted.
    slow: AtomicBool,
    quit: AtomicBool,
    standing: AtomicU32,
    stood: AtomicU32,
    thrown_out: AtomicU64,
}

/// Those who dawdle.
struct Dawdlers {
    /// A HELLO, of which each has sent so many bytes.
    hello: Vec<u8>,
    sent: Vec<u16>,
    slow: bool,
    standing: u32,
    tally: Arc<Tally>,
}

impl Crowd for Dawdlers {
    fn connected(&mut self, who: u32, now_ns: u64, reply: &mut Reply) {
        self.sent[who as usize] = 0;
        self.standing += 1;
        self.tally.stood.fetch_max(self.standing, Relaxed);
        reply.settled = true;
        self.again(who, now_ns, reply);
    }

    fn frame(&mut self, _who: u32, _now_ns: u64, _frame: Frame<'_>, _reply: &mut Reply) {}

    // A byte asked for by an earlier connection of the same one may come early: no harm.
    fn again(&mut self, who: u32, now_ns: u64, reply: &mut Reply) {
        let sent = &mut self.sent[who as usize];
        if usize::from(*sent) < self.hello.len() - 1 {
            reply.frames.push(self.hello[usize::from(*sent)]);
            *sent += 1;
            reply.again_ns = Some(now_ns + BYTE_NS);
        }
    }

    fn gone(&mut self, _who: u32, now_ns: u64, _errno: i32) -> Option<u64> {
        self.standing = self.standing.saturating_sub(1);
        self.tally.thrown_out.fetch_add(u64::from(self.slow), Relaxed);
        self.slow.then_some(now_ns + BACK_NS)
    }
}

/// The dawdlers' thread, so that nothing they do delays the others' generator: until told to quit, lets them arrive
/// evenly (the server's greeting time then throws them out as evenly) when they are wanted, and drops them when not.
fn dawdle(mut dawdlers: Dawdlers, ports: Ports, arrivals: u32) -> Result<(), String> {
    let total = dawdlers.sent.len() as u32;
    let tally = dawdlers.tally.clone();
    let mut swarm = Swarm::open(total, ports, Transports::Binary, Instant::now())?;
    let (mut begin, mut next) = (0, total);
    while !tally.quit.load(Relaxed) {
        let slow = tally.slow.load(Relaxed);
        if slow && !dawdlers.slow {
            (begin, next) = (swarm.now_ns(), 0);
        }
        dawdlers.slow = slow;
        if slow && next < total {
            let due = (swarm.now_ns() - begin) as f64 / 1e9 * f64::from(arrivals);
            let upto = total.min(due as u32 + 1);
            swarm.dial(next..upto.max(next));
            next = upto.max(next);
        } else if !slow && dawdlers.standing > 0 {
            // Whoever was about to come back does so once more and is dropped too.
            (0..total).for_each(|who| swarm.abort(who));
        }
        let end = swarm.now_ns() + BETWEEN_ARRIVALS_NS;
        swarm.run(&mut dawdlers, end, |_| false);
        tally.standing.store(dawdlers.standing, Relaxed);
    }
    Ok(())
}

fn compare(args: &SlowlorisArgs) -> Result<SlowlorisReport, String> {
    let mut stage = Stage::open(&args.stage, args.others + args.connections)?;
    let mut others = Gathering::new(&mut stage, args.others, Transports::Binary, 200)?;
    others.visitors.opening = false;
    others.connect(0..args.others)?;
    others.open(0..args.others)?;
    others.sweep(0..args.others)?;
    let (version, ports) = (stage.control.server_version()?, stage.ports);
    let tally = Arc::new(Tally::default());
    let mut hello = Vec::new();
    let ticket = "x".repeat(HELLO_TICKET_BYTES);
    let (version_min, version_max) = (1, 1);
    ClientMessage::Hello {
        version_min,
        version_max,
        role: Role::Visitor,
        device: 1,
        ticket: &ticket,
        cursors: &[],
    }
    .encode(0, 0, &mut hello);
    let sent = vec![0; args.connections as usize];
    let dawdlers = Dawdlers { hello, sent, slow: false, standing: 0, tally: tally.clone() };
    let beside = std::thread::scope(|scope| {
        let thread = scope.spawn(|| dawdle(dawdlers, ports, args.arrivals));
        let beside = rounds(args, &mut others, &tally);
        tally.quit.store(true, Relaxed);
        thread.join().expect("dawdling does not panic").and(beside)
    })?;
    let Gathering { swarm, visitors, .. } = others;
    drop(swarm);
    stage.close()?;
    Ok(SlowlorisReport {
        connections: args.connections,
        judged: beside.judge(P99_GROWTH_MAX),
        others: beside,
        thrown_out: tally.thrown_out.load(Relaxed),
        stood: tally.stood.load(Relaxed),
        errors: visitors.seen.errors(),
        error_detail: visitors.seen.faults,
        environment: Machine::new(version),
    })
}

fn rounds(args: &SlowlorisArgs, others: &mut Gathering, tally: &Tally) -> Result<Beside, String> {
    let mut beside = Beside::default();
    let few = args.connections - args.connections / 20;
    let arriving_ns = u64::from(args.connections) * 1_000_000_000 / u64::from(args.arrivals);
    for round in 1..=args.rounds {
        for _ in 0..args.measurements {
            beside.without.push(others_p99(others, args)?);
        }
        tally.slow.store(true, Relaxed);
        // All but a few: those that the server throws out are on their way back.
        if !wait(others, SETUP_NS + arriving_ns, || tally.standing.load(Relaxed) >= few) {
            return Err(format!("only {} slow connections stood at once", tally.stood.load(Relaxed)));
        }
        for _ in 0..args.measurements {
            beside.with.push(others_p99(others, args)?);
        }
        tally.slow.store(false, Relaxed);
        // Twice, because whoever was on the way back stands once more.
        for _ in 0..2 {
            others.rest(2 * BACK_NS);
            wait(others, SETUP_NS, || tally.standing.load(Relaxed) == 0);
        }
        eprintln!("round {round} of {}", args.rounds);
    }
    Ok(beside)
}

/// Rests until `done` or until so much time is over; whether it was done.
fn wait(others: &mut Gathering, limit_ns: u64, done: impl Fn() -> bool) -> bool {
    let end = others.swarm.now_ns() + limit_ns;
    while !done() {
        if others.swarm.now_ns() >= end {
            return false;
        }
        others.rest(BETWEEN_ARRIVALS_NS);
    }
    true
}

fn others_p99(others: &mut Gathering, args: &SlowlorisArgs) -> Result<u64, String> {
    let now = others.swarm.now_ns();
    let Gathering { swarm, visitors, .. } = &mut *others;
    let end = measure(visitors, now, args.seconds);
    drive(swarm, visitors, &mut [Pace::new(0..args.others, args.rate, now)], end);
    others.rest(200_000_000);
    p99(&others.visitors)
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
            "  {}\n  measured without {:?}, with {:?}",
            self.judged, self.others.without, self.others.with
        )?;
        writeln!(f, "  errors {}", self.errors)?;
        for (what, count) in &self.error_detail {
            writeln!(f, "    {count} x {what}")?;
        }
        write!(f, "  {}", self.environment)
    }
}
