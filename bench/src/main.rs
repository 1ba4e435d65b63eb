//! ringbench: open-loop load over the wire protocol, and the kill -9 campaign.
//!
//! Order, as a message passes: [`schedule`] says when, [`load`] who, [`client`] with which key, [`net`] puts it on
//! the wire; what comes back goes through [`client`] into the [`ledger`], and [`report`] sums up. [`fleet`] owns
//! all of them on one thread. [`swarm`] is the other generator, for connections by the hundred thousand: [`hold`].

mod body;
mod bystanders;
mod chat;
mod cli;
mod client;
mod control;
mod cores;
mod crash;
mod disk;
mod environment;
mod fleet;
mod gateway;
mod hold;
mod http;
mod ledger;
mod limit;
mod load;
mod memory;
mod net;
mod relay;
mod report;
mod schedule;
mod server;
mod sign;
mod slowloris;
mod stage;
mod stalled;
mod storm;
mod swarm;
mod toll;
mod upgrade;
mod websocket;

use std::num::NonZeroU64;
use std::path::Path;
use std::process::ExitCode;

use clap::Parser as _;

use crate::cli::{Cli, Command, Workload};
use crate::report::Report;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // The kernel may round a sleep up by 50 us to save power; a generator must not be that late.
    if let Err(error) = rustix::thread::set_current_timer_slack(NonZeroU64::new(1_000)) {
        eprintln!("ringbench: sleeps stay imprecise: {error}");
    }
    let done = match Cli::parse().command {
        Command::Run { workload: Workload::Chat(args) } => args
            .crew
            .check()
            .and_then(|()| chat::run(&args).and_then(|report| tell(&report, args.json.as_deref()))),
        Command::Run { workload: Workload::Gateway(args) } => {
            gateway::run(&args).and_then(|report| tell(&report, args.json.as_deref()))
        }
        Command::Crash(args) => args.crew.check().and_then(|()| crash::run(&args)),
        Command::Hold(args) => hold::run(&args),
        Command::Storm(args) => storm::run(&args),
        Command::Stalled(args) => stalled::run(&args),
        Command::Slowloris(args) => slowloris::run(&args),
        Command::Limit(args) => limit::run(&args),
        Command::Upgrade(args) => upgrade::run(&args),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(sentence) => {
            eprintln!("ringbench: {sentence}");
            ExitCode::from(2)
        }
    }
}

/// Prints and writes the JSON; whether the run kept every promise.
fn tell(report: &Report, json: Option<&Path>) -> Result<bool, String> {
    println!("{report}");
    if let Some(path) = json {
        std::fs::write(path, report.json()).map_err(|e| format!("cannot write {}: {e}", path.display()))?;
    }
    Ok(report.passed())
}
