//! `ringbench upgrade`: a new server process takes over from the running one under load, and no client may notice more
//! than a pause.
//!
//! Order: everybody connected with a conversation and a message; a steady load over some of them; the new process starts
//! with `--take-over` on the same data folder, on a thread of its own, while the load goes on; it says that it is ready and
//! the old one ends by itself; the load goes on a while; everybody says one more message and must get its ACK and every
//! item, none twice, in order, on the connection it has had from the start.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use serde::Serialize;

use crate::bystanders::{Pace, drive, measure};
use crate::environment::{self, Machine};
use crate::hold::Gathering;
use crate::report::{Percentiles, round2};
use crate::server::{Launch, Server};
use crate::stage::{Stage, StageArgs};
use crate::swarm::Transports;
use crate::swarm::visitors::Visitors;

/// How long the load is looked at for the take-over's progress in one go.
const SLICE_NS: u64 = 20_000_000;
/// How long the old process may take to end after the new one is ready.
const END: Duration = Duration::from_secs(60);
/// How long the last answers may take.
const DRAIN_NS: u64 = 60_000_000_000;

/// Options of `upgrade`.
#[derive(Args, Debug)]
pub struct UpgradeArgs {
    /// Connections, one visitor and one conversation each.
    #[arg(long, default_value_t = 20_000)]
    pub connections: u32,
    /// How they connect.
    #[arg(long, value_enum, default_value_t = Transports::Mixed)]
    pub transport: Transports,
    /// How many of them speak while the server is replaced.
    #[arg(long, default_value_t = 2_000)]
    pub speakers: u32,
    /// Messages per second of all speakers together.
    #[arg(long, default_value_t = 2_000)]
    pub rate: u64,
    /// Seconds of that load before and after.
    #[arg(long, default_value_t = 3.0)]
    pub seconds: f64,
    /// Bytes of a message body.
    #[arg(long, default_value_t = 200)]
    pub body_bytes: usize,
    /// The program of the new process; default: the same.
    #[arg(long)]
    pub successor: Option<PathBuf>,
    /// Stop the server and start it again instead: shows what the upgrade spares the clients, and fails for it.
    #[arg(long)]
    pub restart: bool,
    /// Write the figures as JSON.
    #[arg(long)]
    pub json: Option<PathBuf>,
    /// Which server; always one of our own.
    #[command(flatten)]
    pub stage: StageArgs,
}

/// What was measured. The names stay.
#[derive(Debug, Serialize)]
pub struct UpgradeReport {
    /// Connections.
    pub connections: u32,
    /// `binary`, `websocket`, `mixed` or `tls`.
    pub transport: String,
    /// Clients whose first connection stood to the end.
    pub carried: u32,
    /// Times somebody had to connect and be greeted again.
    pub reconnects: u64,
    /// The longest a client waited for an ACK, from the intended start, milliseconds.
    pub longest_pause_ms: f64,
    /// ACKs of the whole load, microseconds from the intended start.
    pub ack_us: Option<Percentiles>,
    /// Messages that the load said.
    pub messages: u64,
    /// From the start of the new process until the old one had ended, seconds.
    pub replaced_s: f64,
    /// Visitors that had every item at the end.
    pub caught_up: u32,
    /// Refusals for now, each tried again.
    pub busy: u64,
    /// Items missing.
    pub lost: u64,
    /// Items that came twice.
    pub repeated: u64,
    /// Own messages altered, out of order or at two places.
    pub wrong: u64,
    /// Cursors that do not stand at the last acknowledged item.
    pub cursors_wrong: u32,
    /// Everything else that should not have happened.
    pub error_detail: BTreeMap<String, u64>,
    /// What the old process said on standard output after it was ready.
    pub old_said: Vec<String>,
    /// Where and how.
    pub environment: Machine,
}

impl UpgradeReport {
    /// Nobody was cut off, nothing lost, nothing twice, nothing out of order.
    pub fn passed(&self) -> bool {
        self.carried == self.connections
            && self.caught_up == self.connections
            && self.reconnects + self.lost + self.repeated + self.wrong + u64::from(self.cursors_wrong) == 0
            && self.error_detail.is_empty()
    }
}

/// Runs, prints, writes the JSON.
///
/// # Errors
/// A sentence when the run could not be made.
pub fn run(args: &UpgradeArgs) -> Result<bool, String> {
    if args.connections == 0 || args.rate == 0 || !(1..=args.connections).contains(&args.speakers) {
        return Err("--connections and --rate must be at least 1, --speakers 1 to --connections".into());
    }
    let report = replace(args)?;
    println!("{report}");
    environment::write_json(args.json.as_deref(), &report)?;
    Ok(report.passed())
}

/// The new process, how long it took, and what the old one said.
type Replaced = (Server, f64, Vec<String>);

/// Starts the new process and waits until the old one has ended by itself.
fn take_over(old: Server, launch: &Launch, restart: bool) -> Result<Replaced, String> {
    let begun = Instant::now();
    let (new, said) = if restart {
        old.stop()?;
        (Server::start(launch)?, Vec::new())
    } else {
        let new = Server::start(launch)?;
        (new, old.await_end(END)?)
    };
    Ok((new, begun.elapsed().as_secs_f64(), said))
}

fn replace(args: &UpgradeArgs) -> Result<UpgradeReport, String> {
    let all = args.connections;
    let mut stage = Stage::open_for(&args.stage, all, args.transport)?;
    let mut crowd = Gathering::new(&mut stage, all, args.transport, args.body_bytes)?;
    crowd.visitors.opening = false;
    crowd.connect(0..all)?;
    crowd.open(0..all)?;
    crowd.sweep(0..all)?;
    eprintln!("{all} connected and quiet");
    let (old, mut launch) = stage.give_up()?;
    launch.take_over = !args.restart;
    launch.program = args.successor.clone().unwrap_or(launch.program);

    let Gathering { swarm, visitors, .. } = &mut crowd;
    measure(visitors, swarm.now_ns(), 1e9);
    let mut paces = [Pace::new(0..args.speakers, args.rate, swarm.now_ns())];
    let load_ns = (args.seconds * 1e9) as u64;
    let end = swarm.now_ns() + load_ns;
    drive(swarm, visitors, &mut paces, end);
    let restart = args.restart;
    let thread = std::thread::spawn(move || take_over(old, &launch, restart));
    while !thread.is_finished() {
        let end = swarm.now_ns() + SLICE_NS;
        drive(swarm, visitors, &mut paces, end);
    }
    let (new, replaced_s, old_said) = thread.join().expect("replacing does not panic")?;
    stage.take(new)?;
    let end = swarm.now_ns() + load_ns;
    drive(swarm, visitors, &mut paces, end);
    let messages = visitors.acks - u64::from(all);
    let end = swarm.now_ns() + DRAIN_NS;
    swarm.run(visitors, end, |visitors| visitors.caught_up == all);
    visitors.window = 0..0;
    // What is missing now is told by the figures; who is back may still speak.
    let last = crowd.sweep(0..all);
    finish(args, stage, crowd, (messages, round2(replaced_s), old_said), last.err())
}

fn finish(
    args: &UpgradeArgs,
    mut stage: Stage,
    crowd: Gathering,
    (messages, replaced_s, old_said): (u64, f64, Vec<String>),
    unfinished: Option<String>,
) -> Result<UpgradeReport, String> {
    let version = stage.control.server_version()?;
    let Gathering { swarm, visitors, .. } = crowd;
    let all = args.connections;
    let apart = |who: &u32| visitors.standing(*who).0 != visitors.standing(*who).1;
    let cursors_wrong = (0..all).filter(apart).count() as u32;
    let mut error_detail = visitors.seen.faults.clone();
    if swarm.unreadable > 0 {
        error_detail.insert("connection with broken framing".into(), swarm.unreadable);
    }
    if let Some(sentence) = unfinished {
        error_detail.insert(sentence, 1);
    }
    drop(swarm);
    stage.close()?;
    let Visitors { seen, ack, .. } = &visitors;
    let ack_us = ack.percentiles();
    Ok(UpgradeReport {
        connections: all,
        transport: args.transport.name().into(),
        carried: all - visitors.broken,
        reconnects: visitors.returned,
        longest_pause_ms: ack_us.map_or(0.0, |ack| round2(ack.max as f64 / 1e3)),
        ack_us,
        messages,
        replaced_s,
        caught_up: visitors.caught_up,
        busy: seen.busy,
        lost: seen.lost,
        repeated: seen.repeated,
        wrong: seen.wrong,
        cursors_wrong,
        error_detail,
        old_said,
        environment: Machine::new(version),
    })
}

impl std::fmt::Display for UpgradeReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(
            f,
            "{} {} connections, the server replaced under load within {:.2} s",
            self.connections, self.transport, self.replaced_s
        )?;
        for said in &self.old_said {
            writeln!(f, "  the old one said: {said}")?;
        }
        writeln!(f, "  carried over {}, reconnects {}", self.carried, self.reconnects)?;
        writeln!(
            f,
            "  longest pause of a client {:.1} ms, of {} messages",
            self.longest_pause_ms, self.messages
        )?;
        if let Some(ack) = self.ack_us {
            writeln!(f, "  ack p50 {} us, p99 {} us, p99.9 {} us", ack.p50, ack.p99, ack.p999)?;
        }
        writeln!(
            f,
            "  caught up {}, BUSY {}, lost {}, repeated {}, wrong {}, wrong cursors {}",
            self.caught_up, self.busy, self.lost, self.repeated, self.wrong, self.cursors_wrong
        )?;
        for (what, count) in &self.error_detail {
            writeln!(f, "    {count} x {what}")?;
        }
        write!(f, "  {}", self.environment)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A change of a report.
    type Spoil = fn(&mut UpgradeReport);

    #[test]
    fn each_fault_alone_fails_the_run() {
        let good = || UpgradeReport {
            connections: 10,
            transport: "mixed".into(),
            carried: 10,
            reconnects: 0,
            longest_pause_ms: 80.0,
            ack_us: None,
            messages: 100,
            replaced_s: 1.0,
            caught_up: 10,
            busy: 3,
            lost: 0,
            repeated: 0,
            wrong: 0,
            cursors_wrong: 0,
            error_detail: BTreeMap::new(),
            old_said: Vec::new(),
            environment: Machine::new("1".into()),
        };
        assert!(good().passed());
        let spoil: [Spoil; 8] = [
            |report| report.carried = 9,
            |report| report.caught_up = 9,
            |report| report.reconnects = 1,
            |report| report.lost = 1,
            |report| report.repeated = 1,
            |report| report.wrong = 1,
            |report| report.cursors_wrong = 1,
            |report| report.error_detail.extend([("goodbye".to_owned(), 1)]),
        ];
        for (number, spoil) in spoil.into_iter().enumerate() {
            let mut report = good();
            spoil(&mut report);
            assert!(!report.passed(), "fault {number} was not seen");
        }
    }
}
