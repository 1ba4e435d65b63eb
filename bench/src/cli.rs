//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::body::BODY_BYTES_MIN;
use crate::fleet::TransportMix;
use crate::gateway::GatewayArgs;
use crate::hold::HoldArgs;
use crate::limit::LimitArgs;
use crate::schedule::Arrivals;
use crate::slowloris::SlowlorisArgs;
use crate::stalled::StalledArgs;
use crate::storm::StormArgs;
use crate::upgrade::UpgradeArgs;

/// Most conversations per agent: all of them must fit into the cursors of one HELLO.
const CONVERSATIONS_PER_AGENT_MAX: usize = ringdesk_protocol::limits::CURSORS_MAX - SPARE;
/// Capacity beyond an even share, so that the last conversation never waits for the last free place.
const SPARE: usize = 4;

/// Open-loop load for Ringdesk, and the kill -9 campaign.
#[derive(Parser, Debug)]
#[command(version)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What ringbench does.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Measure a running server.
    Run {
        /// The workload.
        #[command(subcommand)]
        workload: Workload,
    },
    /// Start a server, load it, kill it with -9, again and again, and compare it with the ledger.
    Crash(CrashArgs),
    /// Hold many idle connections: connect rate, a message each, and what one costs in memory.
    Hold(HoldArgs),
    /// Drop many connections at once and see them resume.
    Storm(StormArgs),
    /// Clients that never read, while messages for them flow: the server's memory, and what others notice.
    Stalled(StalledArgs),
    /// Connections that say one byte in ten seconds: what others notice.
    Slowloris(SlowlorisArgs),
    /// The engine as a share of a raw relay that only moves bytes, in the same run.
    Limit(LimitArgs),
    /// A new server process takes over from the running one under load: nobody may be cut off.
    Upgrade(UpgradeArgs),
}

/// The workloads of `run`.
#[derive(Subcommand, Debug)]
pub enum Workload {
    /// Visitors and agents talk, turn by turn.
    Chat(ChatArgs),
    /// Thousands of visitors through one gateway connection.
    Gateway(GatewayArgs),
}

/// Who takes part and how much they say.
#[derive(Args, Clone, Debug)]
pub struct CrewArgs {
    /// Visitors: one connection and one conversation each.
    #[arg(long, default_value_t = 1000)]
    pub visitors: usize,
    /// Agents: one connection each, conversations shared evenly.
    #[arg(long, default_value_t = 50)]
    pub agents: usize,
    /// Messages per second, both sides of all conversations together.
    #[arg(long, default_value_t = 5000)]
    pub rate: u64,
    /// Who connects how; mixed gives every other member each.
    #[arg(long, value_enum, default_value_t = TransportMix::Mixed)]
    pub transport: TransportMix,
    /// Bytes of a message body.
    #[arg(long, default_value_t = 200)]
    pub body_bytes: usize,
    /// Seed of the schedule and of everything else drawn.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Binary TCP of the server.
    #[arg(long, default_value = "127.0.0.1:7801")]
    pub addr: SocketAddr,
    /// WebSocket of the server.
    #[arg(long, default_value = "127.0.0.1:7802")]
    pub ws: SocketAddr,
}

impl CrewArgs {
    /// Refuses what cannot be run.
    ///
    /// # Errors
    /// A sentence naming the option.
    pub fn check(&self) -> Result<(), String> {
        let body_max = ringdesk_protocol::limits::BODY_BYTES_MAX;
        if self.visitors == 0 || self.agents == 0 || self.rate == 0 {
            return Err("--visitors, --agents and --rate must be at least 1".into());
        }
        if !(BODY_BYTES_MIN..=body_max).contains(&self.body_bytes) {
            return Err(format!("--body-bytes must be between {BODY_BYTES_MIN} and {body_max}"));
        }
        if self.visitors.div_ceil(self.agents) > CONVERSATIONS_PER_AGENT_MAX {
            return Err(format!(
                "at most {CONVERSATIONS_PER_AGENT_MAX} conversations per agent: raise --agents or lower --visitors"
            ));
        }
        Ok(())
    }

    /// Conversations an agent takes at once: an even share and some.
    pub fn capacity(&self) -> u16 {
        let share = self.visitors.div_ceil(self.agents) + SPARE;
        u16::try_from(share).expect("check() bounds the share")
    }
}

/// Options of `run chat`.
#[derive(Args, Debug)]
pub struct ChatArgs {
    /// Who takes part.
    #[command(flatten)]
    pub crew: CrewArgs,
    /// Seconds measured.
    #[arg(long, default_value_t = 10)]
    pub seconds: u64,
    /// Seconds of load discarded before.
    #[arg(long, default_value_t = 1)]
    pub warmup: u64,
    /// Gaps between messages.
    #[arg(long, value_enum, default_value_t = Arrivals::Poisson)]
    pub arrivals: Arrivals,
    /// Control plane of the server.
    #[arg(long, default_value = "127.0.0.1:7800")]
    pub http: SocketAddr,
    /// Data folder of the server: its admin.token lets the run add a site and agents. Default: what the server names.
    #[arg(long)]
    pub data: Option<PathBuf>,
    /// Folder on the disk whose bare append is measured; default: the data folder.
    #[arg(long)]
    pub disk: Option<PathBuf>,
    /// Messages sent one at a time before the load, and bare appends; 0 leaves both out.
    #[arg(long, default_value_t = 500)]
    pub unloaded_samples: usize,
    /// Withhold percentiles when more than one message in a hundred left later than this, microseconds.
    #[arg(long, default_value_t = 2000)]
    pub lateness_bound_us: u64,
    /// Write the report as JSON.
    #[arg(long)]
    pub json: Option<PathBuf>,
}

/// Options of `crash`.
#[derive(Args, Debug)]
pub struct CrashArgs {
    /// Who takes part. The addresses are those the server is told to listen on.
    #[command(flatten)]
    pub crew: CrewArgs,
    /// The server's program.
    #[arg(long, default_value = "target/release/ringdeskd")]
    pub server: PathBuf,
    /// Data folder of the campaign; must not exist or be empty.
    #[arg(long)]
    pub data: PathBuf,
    /// How often the server is killed.
    #[arg(long, default_value_t = 20)]
    pub cycles: u32,
    /// Control plane the server is told to listen on.
    #[arg(long, default_value = "127.0.0.1:7800")]
    pub http: SocketAddr,
    /// Shards, passed on to the server; default: its own.
    #[arg(long)]
    pub shards: Option<u16>,
    /// Earliest moment of the kill, milliseconds of load.
    #[arg(long, default_value_t = 500)]
    pub kill_after_ms_min: u64,
    /// Latest moment of the kill.
    #[arg(long, default_value_t = 2000)]
    pub kill_after_ms_max: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_command_lines_parse() {
        let line = "ringbench run chat --visitors 1000 --agents 50 --seconds 10 --json out.json";
        let Command::Run { workload: Workload::Chat(chat) } = Cli::parse_from(line.split(' ')).command else {
            panic!("not a chat run");
        };
        assert_eq!((chat.crew.visitors, chat.crew.agents, chat.seconds), (1000, 50, 10));
        assert_eq!(chat.crew.capacity(), 24);
        assert!(chat.crew.check().is_ok());
        let line = "ringbench crash --server x --data d --cycles 20";
        let Command::Crash(crash) = Cli::parse_from(line.split(' ')).command else {
            panic!("not a crash campaign");
        };
        assert_eq!(crash.cycles, 20);
        let line = "ringbench run gateway --visitors 10000 --gateways 4 --rate 200000 --json open.json";
        let Command::Run { workload: Workload::Gateway(gateway) } = Cli::parse_from(line.split(' ')).command
        else {
            panic!("not a gateway run");
        };
        assert_eq!((gateway.gateways, gateway.rate), (4, Some(200_000)));
        let line = "ringbench hold --connections 20000 --transport tls --tickets eddsa";
        let Command::Hold(hold) = Cli::parse_from(line.split(' ')).command else { panic!("not a hold") };
        assert_eq!((hold.transport.name(), hold.tickets.name()), ("tls", "eddsa"));
        let line = "ringbench upgrade --connections 20000 --json upgrade.json";
        let Command::Upgrade(upgrade) = Cli::parse_from(line.split(' ')).command else {
            panic!("no upgrade")
        };
        assert_eq!(
            (upgrade.connections, upgrade.transport.name(), upgrade.restart),
            (20_000, "mixed", false)
        );
    }

    #[test]
    fn what_cannot_be_run_is_refused_with_the_option() {
        let parse = |more: &str| {
            let line = format!("ringbench crash --data d {more}");
            match Cli::parse_from(line.trim().split(' ')).command {
                Command::Crash(crash) => crash.crew.check(),
                _ => panic!("not a crash campaign"),
            }
        };
        assert!(parse("--agents 0").unwrap_err().contains("--agents"));
        assert!(parse("--body-bytes 8").unwrap_err().contains("--body-bytes"));
        assert!(parse("--visitors 1000 --agents 3").unwrap_err().contains("at most 252"));
    }
}
