//! The process `ringdeskd`: its command line, its allocator, its exit code.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use ringdesk_server::boot;
use ringdesk_server::config::Overrides;
use ringdesk_server::say;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Self-hosted customer-service messaging engine.
///
/// Everything has a default: without options it keeps its data in ./data and prints two links.
#[derive(Parser)]
#[command(name = "ringdeskd", version)]
struct Args {
    /// TOML configuration file (docs/OPERATIONS.md)
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Data folder [default: ./data]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Shards [default: one per core]
    #[arg(long, value_name = "N")]
    shards: Option<u16>,
    /// Binary protocol over TCP [default: 0.0.0.0:7801]
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen_binary: Option<SocketAddr>,
    /// WebSocket [default: 0.0.0.0:7802]
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen_ws: Option<SocketAddr>,
    /// Control plane and demo pages [default: 127.0.0.1:7800]
    #[arg(long, value_name = "ADDRESS:PORT")]
    http: Option<SocketAddr>,
    /// Binary protocol over a Unix socket
    #[arg(long, value_name = "PATH")]
    unix: Option<PathBuf>,
    /// Take over from the server that runs on the data folder: its clients wait a moment and stay connected
    #[arg(long)]
    take_over: bool,
}

fn main() -> ExitCode {
    let started = Instant::now();
    let args = Args::parse();
    // A broken invariant in any thread ends the process: half a server would promise what it cannot keep.
    let tell = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        tell(panic);
        std::process::abort();
    }));
    let overrides = Overrides {
        file: args.config,
        data: args.data,
        shards: args.shards,
        listen_binary: args.listen_binary,
        listen_websocket: args.listen_ws,
        listen_unix: args.unix,
        listen_http: args.http,
        ..Overrides::default()
    };
    match boot::run(&overrides, started, args.take_over) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say!(Error, "{error}");
            ExitCode::from(error.exit_code())
        }
    }
}
