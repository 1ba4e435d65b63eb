//! `ringbench crash`: load, kill -9, restart, resume, compare with the ledger; again and again on the same data.
//!
//! Order of a cycle: load until the drawn moment; kill; read what was still on its way; restart; everybody
//! resumes with cursors and sends what was not acknowledged with the same n; quiet; then both live views and the
//! stored history are checked. Ownership: the ledger is this process's and survives every kill. What kill -9
//! does not test is the disk: the page cache survives it, see the simulator for power loss.

use std::io::Write as _;

use crate::chat::{hire, run_number};
use crate::cli::CrashArgs;
use crate::control::Control;
use crate::fleet::Fleet;
use crate::ledger::{Faults, Seen, Side, check_history};
use crate::load::Load;
use crate::schedule::{Arrivals, Schedule, between};
use crate::server::{Launch, Server, claim_folder};

/// How long bytes of a killed server may take to be read, and how long the quiet after a resume may take.
const LAST_WORDS_NS_MAX: u64 = 2_000_000_000;
const QUIET_NS_MAX: u64 = 60_000_000_000;

/// A campaign between two cycles.
struct Campaign<'a> {
    args: &'a CrashArgs,
    launch: Launch,
    fleet: Fleet,
    load: Load,
    /// The history of each conversation as read so far; what was stored once must stay.
    kept: Vec<Vec<Seen>>,
    /// Findings of the cycles before: a cycle answers for its own.
    before: Faults,
}

/// What one cycle found.
struct Outcome {
    faults: Faults,
    other: String,
    killed_after_ms: u64,
    restart_ms: u64,
    resent: u64,
    /// Refusals for now. The contract allows them (C8) and each was tried again: no fault, but worth a look.
    busy: u64,
    checked: usize,
}

impl Outcome {
    fn passed(&self) -> bool {
        !self.faults.any() && self.other.is_empty()
    }
}

/// Runs the campaign. Returns whether every cycle passed.
///
/// # Errors
/// A sentence when the campaign could not go on, for instance because the server did not start.
pub fn run(args: &CrashArgs) -> Result<bool, String> {
    if args.cycles == 0 || args.kill_after_ms_min >= args.kill_after_ms_max {
        return Err(
            "--cycles must be at least 1 and --kill-after-ms-min less than --kill-after-ms-max".into()
        );
    }
    claim_folder(&args.data)?;
    let launch = Launch {
        program: args.server.clone(),
        data: args.data.clone(),
        binary: args.crew.addr,
        websocket: args.crew.ws,
        http: args.http,
        shards: args.shards,
        config: None,
        take_over: false,
        log: args.data.with_extension("stderr"),
        exact_memory: false,
    };
    let mut server = Server::start(&launch)?;
    let mut control = Control::open(args.http, Some(&args.data))?;
    let mut fleet = hire(&args.crew, &mut control, run_number())?;
    fleet.begin()?;
    let schedule =
        Schedule::new(args.crew.seed, args.crew.rate, Arrivals::Poisson, args.crew.visitors, fleet.now_ns());
    let load = Load::new(schedule, args.crew.visitors);
    let kept = vec![Vec::new(); args.crew.visitors];
    let mut campaign = Campaign { args, launch, fleet, load, kept, before: Faults::default() };
    let (mut passed, mut failed) = (0, 0);
    for cycle in 1..=args.cycles {
        let (next, outcome) = campaign.cycle(server, cycle)?;
        server = next;
        let verdict = if outcome.passed() { "ok" } else { "FAILED" };
        println!(
            "cycle {cycle:>3} {verdict:<6} killed after {:>4} ms, up again in {:>5} ms, {:>5} sent again, {:>4} busy, {:>7} items checked; {}{}",
            outcome.killed_after_ms,
            outcome.restart_ms,
            outcome.resent,
            outcome.busy,
            outcome.checked,
            outcome.faults,
            outcome.other
        );
        // A campaign is long and often read through a pipe: each line when it is known.
        let _ = std::io::stdout().flush();
        match outcome.passed() {
            true => passed += 1,
            false => failed += 1,
        }
    }
    campaign.fleet.end();
    let stopped = server.stop();
    println!("{passed} passed, {failed} failed");
    stopped.map(|()| failed == 0)
}

impl Campaign<'_> {
    fn cycle(&mut self, server: Server, cycle: u32) -> Result<(Server, Outcome), String> {
        let (low, high) = (self.args.kill_after_ms_min, self.args.kill_after_ms_max);
        let after_ms = between(self.args.crew.seed, u64::from(cycle), low, high);
        let now = self.fleet.now_ns();
        self.load.skip_to(now);
        self.load.drive(&mut self.fleet, now + after_ms * 1_000_000);
        server.kill()?;
        self.fleet.outage = true;
        self.fleet.run_until(LAST_WORDS_NS_MAX, Fleet::all_gone);
        self.fleet.drop_links();
        let resent = self.fleet.pending_acks;

        let down = self.fleet.now_ns();
        let server = Server::start(&self.launch)?;
        let restart_ms = (self.fleet.now_ns() - down) / 1_000_000;
        self.fleet.outage = false;
        self.fleet.connect_all()?;
        let quiet = self.fleet.run_until(QUIET_NS_MAX, Fleet::quiet);

        let total = self.compare(cycle == self.args.cycles)?;
        let mut outcome = Outcome {
            faults: total.since(self.before),
            other: String::new(),
            killed_after_ms: after_ms,
            restart_ms,
            resent,
            busy: std::mem::take(&mut self.fleet.busy),
            checked: self.kept.iter().map(Vec::len).sum(),
        };
        self.before = total;
        if outcome.faults.lost > 0 {
            outcome.other = format!("; {}", self.fleet.missing_list());
        }
        if !quiet {
            outcome.other += &format!(
                "; {} ACKs and {} items did not come",
                self.fleet.pending_acks, self.fleet.pending_items
            );
        }
        if !self.fleet.faults.is_empty() {
            outcome.other += &format!("; {}", self.fleet.fault_list());
            self.fleet.faults.clear();
        }
        Ok((server, outcome))
    }

    /// Checks views and history. Between cycles only what is new is read; at the end everything is read again,
    /// through both sides, and both must show what the visitors were shown before.
    fn compare(&mut self, last: bool) -> Result<Faults, String> {
        let mut faults = self.fleet.check();
        let from: Vec<u64> = self.kept.iter().map(|items| items.last().map_or(0, |item| item.seq)).collect();
        let fresh = self.fleet.read_history(Side::Visitor, &from)?;
        for (items, more) in self.kept.iter_mut().zip(fresh) {
            items.extend(more);
        }
        for (conversation, items) in self.fleet.ledger.iter().zip(&self.kept) {
            let mut found = check_history(conversation, items);
            // The views' check has counted them.
            found.unacked = 0;
            faults.add(found);
        }
        if last {
            let start = vec![0; self.kept.len()];
            for side in Side::BOTH {
                let whole = self.fleet.read_history(side, &start)?;
                let differs = |(kept, read): &(&Vec<Seen>, &Vec<Seen>)| kept != read;
                faults.altered += self.kept.iter().zip(&whole).filter(differs).count() as u64;
            }
        }
        Ok(faults)
    }
}
