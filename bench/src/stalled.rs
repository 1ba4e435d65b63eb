//! `ringbench stalled`: clients that never read while messages for them flow.
//!
//! Order of a round: everybody reads, others are measured; the readers stop reading, their conversations fill until
//! the server has put them aside, others are measured again and the server's memory is looked at; the readers read on
//! and must get everything. A reader's visitor writes on a second device, which reads: so messages flow to both.

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use serde::Serialize;

use crate::bystanders::{Beside, Pace, drive, measure, p99};
use crate::chat::run_number;
use crate::environment::{self, Machine};
use crate::hold::{Gathering, WINDOW};
use crate::memory;
use crate::stage::{Stage, StageArgs};
use crate::swarm::visitors::Visitors;
use crate::swarm::{Swarm, Transports};

/// How long filling, and reading on, may take.
const PHASE_NS: u64 = 60_000_000_000;
/// Messages for readers without an ACK while they fill.
const FILL_WINDOW: u32 = 64;
/// How much more the others' p99 may be.
const P99_GROWTH_MAX: f64 = 1.10;
/// How much of the caps the allocator may add in blocks it has not given back.
const SLACK: f64 = 1.10;

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
    /// Most messages for each reader after it stopped reading, until the server has put all of them aside: on
    /// loopback the sockets alone hold megabytes.
    #[arg(long, default_value_t = 120)]
    pub fill: u32,
    /// Rounds with and without; each writes several megabytes per reader to the log.
    #[arg(long, default_value_t = 1)]
    pub rounds: u32,
    /// Seconds of one measurement.
    #[arg(long, default_value_t = 3.0)]
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
pub struct StalledReport {
    /// Connections that stopped reading.
    pub readers: u32,
    /// p99 of the others, microseconds: medians.
    pub p99_without_us: f64,
    /// See `p99_without_us`.
    pub p99_with_us: f64,
    /// The second by the first.
    pub p99_ratio: f64,
    /// Every round.
    pub others: Beside,
    /// Largest growth of the server's anonymous memory while nobody of them read, bytes.
    pub memory_growth_bytes: u64,
    /// Growth of slabs and TCP pages of the machine meanwhile, bytes: what the sockets hold.
    pub kernel_growth_bytes: u64,
    /// What the server's may be: `readers` times the cap of one outbox.
    pub caps_bytes: u64,
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
    /// Memory within the caps, others as before, nothing lost.
    pub fn passed(&self) -> bool {
        self.errors == 0
            && self.memory_growth_bytes as f64 <= self.caps_bytes as f64 * SLACK
            && self.p99_ratio <= P99_GROWTH_MAX
    }
}

/// Runs, prints, writes the JSON.
///
/// # Errors
/// A sentence when the run could not be made.
pub fn run(args: &StalledArgs) -> Result<bool, String> {
    if args.readers == 0 || args.others == 0 || args.rounds == 0 || args.rate == 0 || args.flow == 0 {
        return Err("--readers, --others, --rounds, --rate and --flow must be at least 1".into());
    }
    let report = Stalled::begin(args)?.measure()?;
    println!("{report}");
    environment::write_json(args.json.as_deref(), &report)?;
    Ok(report.passed())
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
        let swarm = Swarm::open(total, stage.ports, Transports::Binary, Instant::now())?;
        let mut crowd = Gathering { swarm, visitors, window: WINDOW };
        crowd.visitors.opening = false;
        crowd.connect(0..total)?;
        // Readers first: their conversations exist when the writers open them.
        crowd.open(0..args.readers)?;
        crowd.open(args.readers..total)?;
        crowd.sweep(args.readers..total)?;
        Ok(Self { args, stage, crowd })
    }

    /// One round; `growth` is that of the server's and of the kernel's memory.
    fn round(&mut self, beside: &mut Beside, growth: &mut [u64; 2]) -> Result<(), String> {
        let readers = self.args.readers;
        beside.without.push(self.others_p99()?);
        // The same burst while all read, so that its buffers are not taken for what the readers cost.
        self.crowd.sweep_acked(readers..2 * readers, FILL_WINDOW)?;
        self.crowd.rest(500_000_000);
        let before = [memory::anonymous_bytes(self.stage.pid)?, memory::kernel_bytes()];
        (0..readers).for_each(|who| self.crowd.swarm.set_deaf(who, true));
        let aside = self.stage.control.status_sum("slow")?;
        for message in 1..=self.args.fill {
            self.crowd.sweep_acked(readers..2 * readers, FILL_WINDOW)?;
            let look = message.is_multiple_of(10);
            if look && self.stage.control.status_sum("slow")? >= aside + u64::from(readers) {
                break;
            }
        }
        self.look(before, growth)?;
        beside.with.push(self.others_p99()?);
        self.look(before, growth)?;
        (0..readers).for_each(|who| self.crowd.swarm.set_deaf(who, false));
        let (end, writers) = (self.crowd.swarm.now_ns() + PHASE_NS, readers..2 * readers);
        let read = |visitors: &Visitors| {
            writers.clone().all(|who| visitors.standing(who - readers).1 >= visitors.standing(who).0)
        };
        while !read(&self.crowd.visitors) {
            if self.crowd.swarm.now_ns() >= end {
                let late = writers.clone().filter(|who| {
                    self.crowd.visitors.standing(who - readers).1 < self.crowd.visitors.standing(*who).0
                });
                return Err(format!("{} readers did not get everything when they read on", late.count()));
            }
            self.crowd.rest(10_000_000);
        }
        Ok(())
    }

    fn look(&self, before: [u64; 2], growth: &mut [u64; 2]) -> Result<(), String> {
        let now = [memory::anonymous_bytes(self.stage.pid)?, memory::kernel_bytes()];
        for at in 0..2 {
            growth[at] = growth[at].max(now[at].saturating_sub(before[at]));
        }
        Ok(())
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
        let aside = self.stage.control.status_sum("slow")?;
        let (mut beside, mut growth) = (Beside::default(), [0; 2]);
        for round in 1..=self.args.rounds {
            self.round(&mut beside, &mut growth)?;
            eprintln!("round {round} of {}", self.args.rounds);
        }
        let put_aside = self.stage.control.status_sum("slow")? - aside;
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
        let (p99_without_us, p99_with_us, p99_ratio) = beside.medians();
        let cap_kib = args.stage.outbox_kib.unwrap_or(OUTBOX_KIB);
        Ok(StalledReport {
            readers: args.readers,
            p99_without_us,
            p99_with_us,
            p99_ratio,
            others: beside,
            memory_growth_bytes: growth[0],
            kernel_growth_bytes: growth[1],
            caps_bytes: u64::from(args.readers) * u64::from(cap_kib) * 1024,
            put_aside,
            errors: error_detail.values().sum(),
            error_detail,
            environment: Machine::new(version),
        })
    }
}

/// The server's default cap of one outbox (docs/OPERATIONS.md, `clients.outbox_kib`).
const OUTBOX_KIB: u32 = 256;

impl std::fmt::Display for StalledReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{} connections that do not read, {} times put aside", self.readers, self.put_aside)?;
        writeln!(
            f,
            "  others' p99: {:.0} us without, {:.0} us with, ratio {:.2}; rounds {:?} and {:?}",
            self.p99_without_us, self.p99_with_us, self.p99_ratio, self.others.without, self.others.with
        )?;
        writeln!(
            f,
            "  server's memory: grew by {} KiB, the caps allow {} KiB; the kernel's by {} KiB",
            self.memory_growth_bytes >> 10,
            self.caps_bytes >> 10,
            self.kernel_growth_bytes >> 10
        )?;
        writeln!(f, "  errors {}", self.errors)?;
        for (what, count) in &self.error_detail {
            writeln!(f, "    {count} x {what}")?;
        }
        write!(f, "  {}", self.environment)
    }
}
