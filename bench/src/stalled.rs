//! `ringbench stalled`: clients that never read while messages for them flow.
//!
//! Order of a round: everybody reads, others are measured a few times; the readers stop reading, their conversations fill
//! until the server has put them aside, others are measured as often again, and the server's memory is looked at all
//! the while and once more when all is at rest; the readers read on and must get everything. A reader's visitor writes on
//! a second device, which reads: so messages flow to both.

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use serde::Serialize;

use crate::bystanders::{Beside, Judged, Pace, drive, measure, p99};
use crate::chat::run_number;
use crate::environment::{self, Machine};
use crate::hold::{Gathering, WINDOW};
use crate::memory;
use crate::stage::{Stage, StageArgs};
use crate::swarm::visitors::Visitors;
use crate::swarm::{Swarm, Transports};

/// How long reading on may take.
const PHASE_NS: u64 = 60_000_000_000;
/// Messages for readers without an ACK while they fill.
const FILL_WINDOW: u32 = 64;
/// How long nothing flows before memory is looked at, so that what was freed has gone back to the kernel.
const REST_NS: u64 = 1_000_000_000;
/// How much more the others' p99 may be.
const P99_GROWTH_MAX: f64 = 1.10;

/// Options of `stalled`.
#[derive(Args, Debug)]
pub struct StalledArgs {
    /// Connections that stop reading.
    #[arg(long, default_value_t = 1000)]
    pub readers: u32,
    /// Others, measured.
    #[arg(long, default_value_t = 200)]
    pub others: u32,
    /// Messages per second of the others.
    #[arg(long, default_value_t = 2000)]
    pub rate: u64,
    /// Messages per second for the readers while others are measured.
    #[arg(long, default_value_t = 200)]
    pub flow: u64,
    /// Bytes of each of those.
    #[arg(long, default_value_t = 65_536)]
    pub flow_bytes: usize,
    /// Most messages for each reader after it stopped reading, until the server has put all of them aside. Bounds what
    /// a round writes to the log.
    #[arg(long, default_value_t = 30)]
    pub fill: u32,
    /// Rounds with and without.
    #[arg(long, default_value_t = 3)]
    pub rounds: u32,
    /// Measurements in a row, without and with.
    #[arg(long, default_value_t = 3)]
    pub measurements: u32,
    /// Seconds of one measurement.
    #[arg(long, default_value_t = 2.0)]
    pub seconds: f64,
    /// No further round begins after so many seconds.
    #[arg(long, default_value_t = 240)]
    pub limit_s: u64,
    /// KiB of the clients' own receive buffers (SO_RCVBUF, which the kernel doubles): on loopback they lie in the
    /// same kernel as the server's send buffers. Few phones have more.
    #[arg(long, default_value_t = 64)]
    pub receive_kib: u32,
    /// Write the figures as JSON.
    #[arg(long)]
    pub json: Option<PathBuf>,
    /// Which server.
    #[command(flatten)]
    pub stage: StageArgs,
}

/// What was measured. The names stay.
#[derive(Debug, Serialize)]
pub struct StalledReport {
    /// Connections that stopped reading.
    pub readers: u32,
    /// p99 of the others: medians, and whether they keep the bound.
    #[serde(flatten)]
    pub judged: Judged,
    /// Every measurement.
    pub others: Beside,
    /// Largest growth of the server's anonymous memory while nobody of them read, bytes.
    pub memory_growth_bytes: u64,
    /// The same when nothing flows any more: what they hold, without what passes by.
    pub memory_at_rest_bytes: u64,
    /// What either may be: `readers` times the cap of one outbox.
    pub caps_bytes: u64,
    /// Largest growth of what TCP holds in the kernel, both ends, bytes.
    pub kernel_growth_bytes: u64,
    /// What it may be: `readers` times the server's send buffer, the client's receive buffer, and a segment that the kernel
    /// takes while the bound is not reached.
    pub kernel_caps_bytes: u64,
    /// Bytes of messages for the readers, which the log took.
    pub flow_bytes: u64,
    /// Times the server put a slow client aside, to serve it from the log.
    pub put_aside: u64,
    /// Items missing or wrong, refusals and whatever else should not have happened.
    pub errors: u64,
    /// What they were.
    pub error_detail: std::collections::BTreeMap<String, u64>,
    /// Where and how.
    pub environment: Machine,
}

impl StalledReport {
    /// Memory within the caps, the kernel's too, everybody put aside, others as before, nothing lost.
    ///
    /// # Errors
    /// A sentence when noise does not allow to tell what others noticed.
    pub fn outcome(&self) -> Result<bool, String> {
        let good = self.errors == 0
            && self.put_aside >= u64::from(self.readers)
            && self.memory_growth_bytes <= self.caps_bytes
            && self.kernel_growth_bytes <= self.kernel_caps_bytes;
        self.judged.outcome(good)
    }
}

/// Runs, prints, writes the JSON.
///
/// # Errors
/// A sentence when the run could not be made.
pub fn run(args: &StalledArgs) -> Result<bool, String> {
    let least = [args.readers, args.others, args.rounds, args.measurements, args.fill];
    if least.contains(&0) || args.rate == 0 || args.flow == 0 {
        return Err(
            "--readers, --others, --rounds, --measurements, --fill, --rate and --flow must be at least 1"
                .into(),
        );
    }
    let report = Stalled::begin(args)?.measure()?;
    println!("{report}");
    environment::write_json(args.json.as_deref(), &report)?;
    report.outcome()
}

/// Readers are the first, their writers the next, others the last visitors.
struct Stalled<'a> {
    args: &'a StalledArgs,
    stage: Stage,
    crowd: Gathering,
}

impl<'a> Stalled<'a> {
    fn begin(args: &'a StalledArgs) -> Result<Self, String> {
        let total = 2 * args.readers + args.others;
        let mut stage = Stage::open(&args.stage, total)?;
        let run = run_number();
        let site = format!("bench-{run:016x}");
        stage.control.add_site(&site)?;
        let mut tickets = stage.control.many_visitors(&site, args.readers)?.twice();
        let others = stage.control.many_visitors(&site, args.others)?;
        (0..others.len()).for_each(|number| tickets.push(others.get(number)));
        let mut visitors = Visitors::new(tickets, (run << 24) | 1, 200);
        visitors.measured = 2 * args.readers..total;
        visitors.loud = (args.readers..2 * args.readers, args.flow_bytes);
        let (ports, receive_bytes) = (stage.ports, args.receive_kib * 1024);
        let swarm = Swarm::open_narrow(total, ports, Transports::Binary, Instant::now(), receive_bytes)?;
        let mut crowd = Gathering { swarm, visitors, window: WINDOW };
        crowd.visitors.opening = false;
        crowd.connect(0..total)?;
        // Readers first: their conversations exist when the writers open them.
        crowd.open(0..args.readers)?;
        crowd.open(args.readers..total)?;
        crowd.sweep(args.readers..total)?;
        Ok(Self { args, stage, crowd })
    }

    fn round(&mut self, found: &mut Found) -> Result<(), String> {
        let readers = self.args.readers;
        // The burst that fills them later, while all read, so that what it leaves behind is not taken for theirs.
        self.fill_once(found)?;
        for _ in 0..self.args.measurements {
            found.beside.without.push(self.others_p99()?);
        }
        self.crowd.rest(REST_NS);
        let before = self.look()?;
        (0..readers).for_each(|who| self.crowd.swarm.set_deaf(who, true));
        let aside = self.stage.control.status_sum("slow")?;
        for _ in 0..self.args.fill {
            self.fill_once(found)?;
            found.grew(before, self.look()?);
            if self.stage.control.status_sum("slow")? >= aside + u64::from(readers) {
                break;
            }
        }
        found.put_aside += self.stage.control.status_sum("slow")? - aside;
        for _ in 0..self.args.measurements {
            found.beside.with.push(self.others_p99()?);
            found.grew(before, self.look()?);
        }
        self.crowd.rest(REST_NS);
        let at_rest = self.look()?[0].saturating_sub(before[0]);
        found.at_rest = found.at_rest.max(at_rest);
        (0..readers).for_each(|who| self.crowd.swarm.set_deaf(who, false));
        self.read_on()
    }

    /// A message for each reader, acknowledged.
    fn fill_once(&mut self, found: &mut Found) -> Result<(), String> {
        let readers = self.args.readers;
        found.flow_bytes += u64::from(readers) * self.args.flow_bytes as u64;
        self.crowd.sweep_acked(readers..2 * readers, FILL_WINDOW)
    }

    /// Waits until the readers have everything their writers said.
    fn read_on(&mut self) -> Result<(), String> {
        let (readers, end) = (self.args.readers, self.crowd.swarm.now_ns() + PHASE_NS);
        loop {
            let visitors = &self.crowd.visitors;
            let behind = |who: &u32| visitors.standing(*who).1 < visitors.standing(readers + who).0;
            match (0..readers).filter(behind).count() {
                0 => return Ok(()),
                late if self.crowd.swarm.now_ns() >= end => {
                    return Err(format!("{late} readers did not get everything when they read on"));
                }
                _ => self.crowd.rest(10_000_000),
            }
        }
    }

    /// Anonymous memory of the server, and what TCP holds in the kernel, bytes.
    fn look(&self) -> Result<[u64; 2], String> {
        Ok([memory::anonymous_bytes(self.stage.pid)?, memory::tcp_bytes()])
    }

    fn others_p99(&mut self) -> Result<u64, String> {
        let (readers, now) = (self.args.readers, self.crowd.swarm.now_ns());
        let Gathering { swarm, visitors, .. } = &mut self.crowd;
        let end = measure(visitors, now, self.args.seconds);
        let total = visitors.len();
        let others = Pace::new(2 * readers..total, self.args.rate, now);
        let flow = Pace::new(readers..2 * readers, self.args.flow, now);
        drive(swarm, visitors, &mut [others, flow], end);
        self.crowd.rest(200_000_000);
        p99(&self.crowd.visitors)
    }

    fn measure(mut self) -> Result<StalledReport, String> {
        let (mut found, begun) = (Found::default(), Instant::now());
        for round in 1..=self.args.rounds {
            self.round(&mut found)?;
            eprintln!("round {round} of {}", self.args.rounds);
            if begun.elapsed().as_secs() >= self.args.limit_s {
                break;
            }
        }
        let version = self.stage.control.server_version()?;
        let Self { args, stage, crowd } = self;
        let mut error_detail = crowd.visitors.seen.faults.clone();
        for (what, count) in
            [("lost item", crowd.visitors.seen.lost), ("wrong item", crowd.visitors.seen.wrong)]
        {
            if count > 0 {
                error_detail.insert(what.into(), count);
            }
        }
        drop(crowd);
        stage.close()?;
        let readers = u64::from(args.readers);
        let cap_kib = args.stage.outbox_kib.unwrap_or(OUTBOX_KIB);
        let kernel_kib =
            args.stage.send_buffer_kib.unwrap_or(SEND_BUFFER_KIB) + 2 * args.receive_kib + SEGMENT_KIB;
        Ok(StalledReport {
            readers: args.readers,
            judged: found.beside.judge(P99_GROWTH_MAX),
            others: found.beside,
            memory_growth_bytes: found.growth[0],
            memory_at_rest_bytes: found.at_rest,
            caps_bytes: readers * u64::from(cap_kib) * 1024,
            kernel_growth_bytes: found.growth[1],
            kernel_caps_bytes: readers * u64::from(kernel_kib) * 1024,
            flow_bytes: found.flow_bytes,
            put_aside: found.put_aside,
            errors: error_detail.values().sum(),
            error_detail,
            environment: Machine::new(version),
        })
    }
}

/// What the rounds found.
#[derive(Default)]
struct Found {
    beside: Beside,
    growth: [u64; 2],
    at_rest: u64,
    put_aside: u64,
    flow_bytes: u64,
}

impl Found {
    fn grew(&mut self, before: [u64; 2], now: [u64; 2]) {
        for (growth, (now, before)) in self.growth.iter_mut().zip(now.into_iter().zip(before)) {
            *growth = (*growth).max(now.saturating_sub(before));
        }
    }
}

/// The server's default cap of one outbox (docs/OPERATIONS.md, `clients.outbox_kib`).
const OUTBOX_KIB: u32 = 256;
/// The server's default bound of what the kernel holds for one connection (`clients.send_buffer_kib`).
const SEND_BUFFER_KIB: u32 = 256;
/// The largest segment of loopback.
const SEGMENT_KIB: u32 = 64;

impl std::fmt::Display for StalledReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{} connections that do not read, {} times put aside", self.readers, self.put_aside)?;
        writeln!(
            f,
            "  {}\n  measured without {:?}, with {:?}",
            self.judged, self.others.without, self.others.with
        )?;
        writeln!(
            f,
            "  server's memory: grew by {} KiB, {} KiB at rest; the caps allow {} KiB",
            self.memory_growth_bytes >> 10,
            self.memory_at_rest_bytes >> 10,
            self.caps_bytes >> 10,
        )?;
        writeln!(
            f,
            "  TCP in the kernel: grew by {} KiB, both ends; the buffers allow {} KiB",
            self.kernel_growth_bytes >> 10,
            self.kernel_caps_bytes >> 10
        )?;
        writeln!(f, "  {} MiB of messages for them", self.flow_bytes >> 20)?;
        writeln!(f, "  errors {}", self.errors)?;
        for (what, count) in &self.error_detail {
            writeln!(f, "    {count} x {what}")?;
        }
        write!(f, "  {}", self.environment)
    }
}
