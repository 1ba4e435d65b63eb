//! `ringbench hold`: many connections at once, each greeted, each with a conversation, each answered; and what one of
//! them costs in memory.
//!
//! Order: a server of our own that keeps nothing it has freed (see [`crate::server::Launch::exact_memory`]), tickets for
//! all, a first crowd of a fifth: connected, an OPEN each, a message each, silence, the first look at memory; the other four
//! fifths the same way, the second look. What one of them costs is the difference by their number: both looks have the
//! same buffers, pools and tables of fixed size in them, so these are nobody's, and all that grows with a visitor counts,
//! what the allocator loses between its blocks included.

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use serde::Serialize;

use crate::chat::run_number;
use crate::environment::Machine;
use crate::memory;
use crate::report::round2;
use crate::sign::SiteSigner;
use crate::stage::{Stage, StageArgs};
use crate::swarm::secure::Secured;
use crate::swarm::visitors::Visitors;
use crate::swarm::{GREETING_MAX, Swarm, Transports};

/// The first crowd is one of so many parts of all. They stay, and do not count in the memory of one.
const FIRST_CROWD_OF: u32 = 5;
/// Most commands without an answer while everybody is opened or swept.
pub const WINDOW: u32 = 1_000;
/// The second crowd has fewer commands without an answer by this, and a quarter of the dials. Queues and buffers of the server
/// keep the size of the largest burst they have seen; so they have it at the first look already, and what is measured is
/// connections.
const CALMER: u32 = 4;
/// How long everybody is silent before memory is looked at again.
const SILENCE_NS: u64 = 2_000_000_000;
/// A visitor, its session and its conversation may cost the server this much when idle, bytes; TLS, whose session comes on
/// top, is printed and not judged.
pub const USER_BYTES_MAX: u64 = 400;
/// How long a phase may take: a minute, and a millisecond per connection.
const PHASE_NS: u64 = 60_000_000_000;
const PHASE_NS_EACH: u64 = 1_000_000;

/// Who signs the visitors' tickets.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum TicketKind {
    /// The server, with HMAC-SHA256.
    Hs256,
    /// The site's own system, with Ed25519.
    Eddsa,
}

impl TicketKind {
    /// The name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Hs256 => "hs256",
            Self::Eddsa => "eddsa",
        }
    }
}

/// Options of `hold`.
#[derive(Args, Debug)]
pub struct HoldArgs {
    /// Connections, one visitor and one conversation each.
    #[arg(long, default_value_t = 20_000)]
    pub connections: u32,
    /// How they connect.
    #[arg(long, value_enum, default_value_t = Transports::Binary)]
    pub transport: Transports,
    /// Who signs their tickets.
    #[arg(long, value_enum, default_value_t = TicketKind::Hs256)]
    pub tickets: TicketKind,
    /// Bytes of the message that each sends.
    #[arg(long, default_value_t = 200)]
    pub body_bytes: usize,
    /// Write the figures as JSON.
    #[arg(long)]
    pub json: Option<PathBuf>,
    /// Which server.
    #[command(flatten)]
    pub stage: StageArgs,
}

/// What was measured. The names stay.
#[derive(Debug, Serialize)]
pub struct HoldReport {
    /// Connections asked for.
    pub connections: u32,
    /// `binary`, `websocket`, `mixed` or `tls`.
    pub transport: String,
    /// `hs256` or `eddsa`.
    pub tickets: String,
    /// Growth of the server's anonymous memory per connection after the first crowd.
    pub user_bytes_per_connection: u64,
    /// Growth of slabs and TCP pages of the machine per connection, halved for the two ends.
    pub kernel_bytes_per_connection: u64,
    /// TCP (and upgrade), HELLO with a ticket, until WELCOME.
    pub connects_per_second: f64,
    /// OPEN until its durable ACK.
    pub opens_per_second: f64,
    /// A message each, until its durable ACK.
    pub sweep_per_second: f64,
    /// Connections that got their WELCOME and stood at the end.
    pub greeted: u32,
    /// Connections whose message was acknowledged and delivered.
    pub answered: u32,
    /// Everything that should not have happened.
    pub errors: u64,
    /// What the errors were.
    pub error_detail: std::collections::BTreeMap<String, u64>,
    /// Refusals for now.
    pub busy: u64,
    /// Memory of the server without a connection, with the first crowd, with all, bytes.
    pub user_bytes: [u64; 3],
    /// Where and how.
    pub environment: Machine,
}

impl HoldReport {
    /// All greeted, all answered, no error, and no dearer than it may be.
    pub fn passed(&self) -> bool {
        self.greeted == self.connections
            && self.answered == self.connections
            && self.errors == 0
            && (self.transport == "tls" || self.user_bytes_per_connection <= USER_BYTES_MAX)
    }
}

/// Runs, prints, writes the JSON.
///
/// # Errors
/// A sentence when the run could not be made.
pub fn run(args: &HoldArgs) -> Result<bool, String> {
    let report = measure(args)?;
    println!("{report}");
    crate::environment::write_json(args.json.as_deref(), &report)?;
    Ok(report.passed())
}

/// Seconds since 1970.
fn now_s() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

/// A crowd that is connected step by step.
pub struct Gathering {
    /// The rings.
    pub swarm: Swarm,
    /// The visitors.
    pub visitors: Visitors,
    /// Most commands without an answer while all are opened or swept.
    pub window: u32,
}

impl Gathering {
    /// Tickets for `count` visitors of a new site, and rings for them.
    ///
    /// # Errors
    /// A sentence when the server refuses or rings cannot be opened.
    pub fn new(
        stage: &mut Stage,
        count: u32,
        transports: Transports,
        body_bytes: usize,
    ) -> Result<Self, String> {
        Self::with_tickets(stage, count, (transports, TicketKind::Hs256), body_bytes)
    }

    /// As [`Gathering::new`], with tickets of this kind.
    ///
    /// # Errors
    /// As [`Gathering::new`].
    pub fn with_tickets(
        stage: &mut Stage,
        count: u32,
        (transports, kind): (Transports, TicketKind),
        body_bytes: usize,
    ) -> Result<Self, String> {
        let run = run_number();
        let site = format!("bench-{run:016x}");
        stage.control.add_site(&site)?;
        let tickets = match kind {
            TicketKind::Hs256 => stage.control.many_visitors(&site, count)?,
            TicketKind::Eddsa => {
                let signer = SiteSigner::new(run);
                let kid = stage.control.add_site_key(&site, &signer.public_hex())?;
                signer.tickets(&kid, count, now_s())
            }
        };
        let visitors = Visitors::new(tickets, (run << 24) | 1, body_bytes);
        let mut swarm = Swarm::open(count, stage.ports, transports, Instant::now())?;
        if let Some(certificate) = stage.certificate.clone().filter(|_| transports == Transports::Tls) {
            swarm.secure(Secured::new(count, certificate)?);
        }
        Ok(Self { swarm, visitors, window: WINDOW })
    }

    /// Connects `who`, an OPEN each, a message each, and silence. Gives the seconds of the three.
    ///
    /// # Errors
    /// A sentence when somebody was left out.
    fn live_through(&mut self, who: std::ops::Range<u32>) -> Result<[f64; 3], String> {
        let seconds = [self.connect(who.clone())?, self.open(who.clone())?, self.sweep(who)?];
        self.rest(SILENCE_NS);
        Ok(seconds)
    }

    /// From now on everything comes in smaller bursts.
    fn calm_down(&mut self) {
        self.window = WINDOW / CALMER;
        self.swarm.set_greeting_max(GREETING_MAX / 2);
    }

    /// When a phase over everybody must be done.
    pub fn deadline_ns(&self) -> u64 {
        self.swarm.now_ns() + PHASE_NS + u64::from(self.visitors.len()) * PHASE_NS_EACH
    }

    /// Connects `who` and waits until each is greeted; seconds it took. All before `who` are connected already.
    ///
    /// # Errors
    /// A sentence when somebody was not.
    pub fn connect(&mut self, who: std::ops::Range<u32>) -> Result<f64, String> {
        let (begin, end, all) = (self.swarm.now_ns(), self.deadline_ns(), who.end);
        self.swarm.dial(who);
        if self.swarm.run(&mut self.visitors, end, |visitors| visitors.greeted == all) {
            return Ok(self.seconds_since(begin));
        }
        Err(format!("{} of {all} connections were greeted; {}", self.visitors.greeted, self.fault_list()))
    }

    /// OPENs for `who`, and waits until each has its conversation.
    ///
    /// # Errors
    /// A sentence when somebody has none.
    pub fn open(&mut self, who: std::ops::Range<u32>) -> Result<f64, String> {
        let (begin, end, all) = (self.swarm.now_ns(), self.deadline_ns(), who.end);
        let mut next = who.start;
        while self.visitors.ready < all {
            while next < all && next < self.visitors.ready + self.window {
                let visitors = &mut self.visitors;
                self.swarm.write(next, |reply| visitors.open(next, reply));
                next += 1;
            }
            self.swarm.turn(&mut self.visitors, end);
            if self.swarm.now_ns() >= end {
                return Err(format!(
                    "{} of {all} OPENs were acknowledged; {}",
                    self.visitors.ready,
                    self.fault_list()
                ));
            }
        }
        Ok(self.seconds_since(begin))
    }

    /// A message from each of `who`, and waits until each is acknowledged and delivered to its author.
    ///
    /// # Errors
    /// A sentence when somebody got no answer.
    pub fn sweep(&mut self, who: std::ops::Range<u32>) -> Result<f64, String> {
        let begin = self.swarm.now_ns();
        self.sweep_acked(who, self.window)?;
        let end = self.deadline_ns();
        match self.swarm.run(&mut self.visitors, end, |visitors| visitors.caught_up == visitors.ready) {
            true => Ok(self.seconds_since(begin)),
            false => Err(format!("{} have everything; {}", self.visitors.caught_up, self.fault_list())),
        }
    }

    /// A message from each of `who`, at most `window` of them without an ACK, and waits until each is acknowledged.
    ///
    /// # Errors
    /// A sentence when somebody got no answer.
    pub fn sweep_acked(&mut self, who: std::ops::Range<u32>, window: u32) -> Result<(), String> {
        let end = self.deadline_ns();
        let (before, count) = (self.visitors.acks, u64::from(who.end - who.start));
        let mut next = who.start;
        loop {
            let answered = self.visitors.acks - before;
            while next < who.end && u64::from(next - who.start) < answered + u64::from(window) {
                let (visitors, now) = (&mut self.visitors, self.swarm.now_ns());
                self.swarm.write(next, |reply| {
                    visitors.say(next, now, reply);
                });
                next += 1;
            }
            if answered == count {
                return Ok(());
            }
            self.swarm.turn(&mut self.visitors, end);
            if self.swarm.now_ns() >= end {
                return Err(format!(
                    "{answered} of {count} messages were acknowledged; {}",
                    self.fault_list()
                ));
            }
        }
    }

    /// Waits, reading what comes.
    pub fn rest(&mut self, ns: u64) {
        let end = self.swarm.now_ns() + ns;
        self.swarm.run(&mut self.visitors, end, |_| false);
    }

    /// Seconds since `begin_ns` of the swarm's clock.
    pub fn seconds_since(&self, begin_ns: u64) -> f64 {
        ((self.swarm.now_ns() - begin_ns) as f64 / 1e9).max(1e-9)
    }

    /// What went wrong so far, in one line.
    pub fn fault_list(&self) -> String {
        let seen = &self.visitors.seen;
        let mut list: Vec<_> = seen.faults.iter().map(|(what, count)| format!("{count} x {what}")).collect();
        for (count, what) in [(seen.busy, "BUSY"), (seen.lost, "lost"), (seen.wrong, "wrong")] {
            if count > 0 {
                list.push(format!("{count} x {what}"));
            }
        }
        if list.is_empty() { "no refusals were seen".into() } else { list.join(", ") }
    }
}

fn measure(args: &HoldArgs) -> Result<HoldReport, String> {
    let all = args.connections;
    if all == 0 {
        return Err("--connections must be at least 1".into());
    }
    let mut stage = Stage::open_exact(&args.stage, all, args.transport)?;
    let kind = (args.transport, args.tickets);
    let mut gathering = Gathering::with_tickets(&mut stage, all, kind, args.body_bytes)?;
    gathering.visitors.opening = false;
    gathering.swarm.set_greeting_max(2 * GREETING_MAX);
    let first = all / FIRST_CROWD_OF;
    let empty = memory::anonymous_bytes(stage.pid)?;
    gathering.live_through(0..first)?;
    let before = (memory::anonymous_bytes(stage.pid)?, memory::kernel_bytes());
    eprintln!("{first} answered");
    gathering.calm_down();
    let [connect_s, open_s, sweep_s] = gathering.live_through(first..all)?;
    let after = (memory::anonymous_bytes(stage.pid)?, memory::kernel_bytes());
    eprintln!("{all} answered");
    let added = all - first;
    let version = stage.control.server_version()?;
    let Gathering { swarm, visitors, .. } = gathering;
    let mut errors = visitors.seen.faults.clone();
    for (count, what) in [
        (visitors.seen.lost, "lost item"),
        (visitors.seen.wrong, "item out of order, twice or altered"),
        (swarm.unreadable, "connection with broken framing"),
    ] {
        if count > 0 {
            errors.insert(what.into(), count);
        }
    }
    drop(swarm);
    stage.close()?;
    Ok(HoldReport {
        connections: all,
        transport: args.transport.name().into(),
        tickets: args.tickets.name().into(),
        user_bytes_per_connection: memory::each(before.0, after.0, added),
        kernel_bytes_per_connection: memory::each(before.1, after.1, added) / 2,
        connects_per_second: round2(f64::from(added) / connect_s),
        opens_per_second: round2(f64::from(added) / open_s),
        sweep_per_second: round2(f64::from(added) / sweep_s),
        greeted: visitors.greeted,
        answered: visitors.caught_up,
        errors: errors.values().sum(),
        error_detail: errors,
        busy: visitors.seen.busy,
        user_bytes: [empty, before.0, after.0],
        environment: Machine::new(version),
    })
}

impl std::fmt::Display for HoldReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut line = |name: &str, value: String| writeln!(f, "  {name:<32}{value:>12}");
        line("connections", format!("{} {} {}", self.connections, self.transport, self.tickets))?;
        line("greeted", self.greeted.to_string())?;
        line("answered", self.answered.to_string())?;
        line("user bytes per connection", self.user_bytes_per_connection.to_string())?;
        line("kernel bytes per connection", self.kernel_bytes_per_connection.to_string())?;
        line("connects/s (to WELCOME)", format!("{:.0}", self.connects_per_second))?;
        line("OPENs/s (durable)", format!("{:.0}", self.opens_per_second))?;
        line("sweep, messages/s (durable)", format!("{:.0}", self.sweep_per_second))?;
        line("refused for now (BUSY)", self.busy.to_string())?;
        line("errors", self.errors.to_string())?;
        for (what, count) in &self.error_detail {
            writeln!(f, "    {count} x {what}")?;
        }
        write!(f, "  {}", self.environment)
    }
}
