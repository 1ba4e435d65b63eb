//! `ringbench storm`: everybody is dropped at once and comes back with its cursor.
//!
//! Order: all connected with a conversation and a message; one more message from everybody, and while those are on
//! their way every connection is broken; all dial again, resume with their cursors, send again what has no ACK, and
//! obey BUSY. The storm is over when the last one has everything: ACK, and every item up to the last, none twice.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use crate::environment::{self, Machine};
use crate::hold::Gathering;
use crate::report::round2;
use crate::stage::{Stage, StageArgs};
use crate::swarm::Transports;

/// How long the storm may take: a minute, and a millisecond per connection.
const STORM_NS: u64 = 60_000_000_000;
const STORM_NS_EACH: u64 = 1_000_000;
/// How long the breaking of all connections may take.
const BREAK_NS: u64 = 30_000_000_000;

/// Options of `storm`.
#[derive(Args, Debug)]
pub struct StormArgs {
    /// Connections, one visitor and one conversation each.
    #[arg(long, default_value_t = 20_000)]
    pub connections: u32,
    /// How they connect.
    #[arg(long, value_enum, default_value_t = Transports::Binary)]
    pub transport: Transports,
    /// Bytes of a message body.
    #[arg(long, default_value_t = 200)]
    pub body_bytes: usize,
    /// Messages of each before the storm.
    #[arg(long, default_value_t = 2)]
    pub messages: u32,
    /// Write the figures as JSON.
    #[arg(long)]
    pub json: Option<PathBuf>,
    /// Which server.
    #[command(flatten)]
    pub stage: StageArgs,
}

/// What was measured. The names stay.
#[derive(Debug, Serialize)]
pub struct StormReport {
    /// Connections dropped at once.
    pub connections: u32,
    /// `binary`, `websocket` or `mixed`.
    pub transport: String,
    /// From the first drop until half, 99 of 100, and the last were greeted and had everything.
    pub half_back_s: f64,
    /// See `half_back_s`.
    pub most_back_s: f64,
    /// See `half_back_s`.
    pub caught_up_s: f64,
    /// Until all connections were broken, part of the above.
    pub broken_s: f64,
    /// Messages that had no ACK when their connection broke.
    pub unacknowledged: u32,
    /// Visitors that had everything at the end.
    pub caught_up: u32,
    /// Refusals for now, each obeyed.
    pub busy: u64,
    /// Items missing.
    pub lost: u64,
    /// Items that came although the cursor was past them.
    pub repeated: u64,
    /// Own messages altered, out of order or at two places.
    pub wrong: u64,
    /// Cursors that do not stand at the last acknowledged item.
    pub cursors_wrong: u32,
    /// Everything else that should not have happened.
    pub error_detail: BTreeMap<String, u64>,
    /// Where and how.
    pub environment: Machine,
}

impl StormReport {
    /// All back, nothing lost, nothing twice.
    pub fn passed(&self) -> bool {
        self.caught_up == self.connections
            && self.lost + self.repeated + self.wrong + u64::from(self.cursors_wrong) == 0
            && self.error_detail.is_empty()
    }
}

/// Runs, prints, writes the JSON.
///
/// # Errors
/// A sentence when the run could not be made.
pub fn run(args: &StormArgs) -> Result<bool, String> {
    if args.connections == 0 {
        return Err("--connections must be at least 1".into());
    }
    let report = measure(args)?;
    println!("{report}");
    environment::write_json(args.json.as_deref(), &report)?;
    Ok(report.passed())
}

fn measure(args: &StormArgs) -> Result<StormReport, String> {
    let all = args.connections;
    let mut stage = Stage::open_for(&args.stage, all, args.transport)?;
    let mut crowd = Gathering::new(&mut stage, all, args.transport, args.body_bytes)?;
    crowd.visitors.opening = false;
    crowd.connect(0..all)?;
    crowd.open(0..all)?;
    for _ in 0..args.messages {
        crowd.sweep(0..all)?;
    }
    eprintln!("{all} connected and quiet");
    // One more from everybody, some of them acknowledged when the connections break, some not.
    for who in 0..all {
        let (visitors, now) = (&mut crowd.visitors, crowd.swarm.now_ns());
        crowd.swarm.write(who, |reply| {
            visitors.say(who, now, reply);
        });
    }
    crowd.swarm.turn(&mut crowd.visitors, 0);
    crowd.visitors.outage = true;
    let unacknowledged = all - crowd.visitors.caught_up;
    let begin = crowd.swarm.now_ns();
    let end = begin + STORM_NS + u64::from(all) * STORM_NS_EACH;
    let ended = crowd.visitors.ended + u64::from(all);
    for who in 0..all {
        crowd.swarm.abort(who);
    }
    if !crowd.swarm.run(&mut crowd.visitors, begin + BREAK_NS, |visitors| visitors.ended >= ended) {
        return Err("not every connection could be broken".into());
    }
    let broken_s = crowd.seconds_since(begin);
    let mut back = [0.0; 3];
    for (at, share) in [all.div_ceil(2), all - all / 100, all].into_iter().enumerate() {
        crowd.swarm.run(&mut crowd.visitors, end, |visitors| visitors.caught_up >= share);
        back[at] = round2(crowd.seconds_since(begin));
    }
    let version = stage.control.server_version()?;
    let Gathering { swarm, visitors, .. } = crowd;
    let cursors_wrong = (0..all).filter(|who| visitors.standing(*who).0 != visitors.standing(*who).1).count();
    let mut error_detail = visitors.seen.faults.clone();
    if swarm.unreadable > 0 {
        error_detail.insert("connection with broken framing".into(), swarm.unreadable);
    }
    drop(swarm);
    stage.close()?;
    Ok(StormReport {
        connections: all,
        transport: args.transport.name().into(),
        half_back_s: back[0],
        most_back_s: back[1],
        caught_up_s: back[2],
        broken_s: round2(broken_s),
        unacknowledged,
        caught_up: visitors.caught_up,
        busy: visitors.seen.busy,
        lost: visitors.seen.lost,
        repeated: visitors.seen.repeated,
        wrong: visitors.seen.wrong,
        cursors_wrong: cursors_wrong as u32,
        error_detail,
        environment: Machine::new(version),
    })
}

impl std::fmt::Display for StormReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(
            f,
            "{} {} connections dropped at once, {} with a message under way",
            self.connections, self.transport, self.unacknowledged
        )?;
        for (name, seconds) in [
            ("all broken after", self.broken_s),
            ("half caught up after", self.half_back_s),
            ("99 of 100 caught up after", self.most_back_s),
            ("the last caught up after", self.caught_up_s),
        ] {
            writeln!(f, "  {name:<28}{seconds:>10.2} s")?;
        }
        writeln!(
            f,
            "  caught up {} of {}, BUSY {}, lost {}, repeated {}, wrong {}, wrong cursors {}",
            self.caught_up,
            self.connections,
            self.busy,
            self.lost,
            self.repeated,
            self.wrong,
            self.cursors_wrong
        )?;
        for (what, count) in &self.error_detail {
            writeln!(f, "    {count} x {what}")?;
        }
        write!(f, "  {}", self.environment)
    }
}
