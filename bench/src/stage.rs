//! The server a workload runs against: one of its own on a temporary folder, or one that runs already.
//!
//! Ownership: a stage with a server of its own stops it and removes its folder when dropped.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use clap::Args;

use crate::control::Control;
use crate::server::{Launch, Server, claim_folder};
use crate::swarm::Ports;

/// Which server.
#[derive(Args, Clone, Debug)]
pub struct StageArgs {
    /// The server's program: started on a temporary folder, with a config that has room for the run.
    #[arg(long, default_value = "target/release/ringdeskd")]
    pub server: PathBuf,
    /// Use the server that runs on this data folder instead.
    #[arg(long)]
    pub data: Option<PathBuf>,
    /// Folder below which the temporary one is made: its disk is the one that is written to.
    #[arg(long, default_value = "/var/tmp")]
    pub scratch: PathBuf,
    /// Binary TCP of the server; below 32768, because clients take the ports above.
    #[arg(long, default_value_t = 7801)]
    pub binary_port: u16,
    /// WebSocket of the server.
    #[arg(long, default_value_t = 7802)]
    pub ws_port: u16,
    /// Control plane of the server.
    #[arg(long, default_value_t = 7800)]
    pub http_port: u16,
    /// Shards, passed on to a server of our own; default: its own.
    #[arg(long)]
    pub shards: Option<u16>,
    /// `clients.outbox_kib` of a server of our own: what may wait for one connection; default: its own.
    #[arg(long)]
    pub outbox_kib: Option<u32>,
}

/// A server that is ready.
pub struct Stage {
    server: Option<Server>,
    folder: Option<PathBuf>,
    /// Its control plane.
    pub control: Control,
    /// Where it listens.
    pub ports: Ports,
    /// Its process.
    pub pid: u32,
}

impl Stage {
    /// Starts a server, or finds the running one. `connections` it must have room for.
    ///
    /// # Errors
    /// A sentence when the server cannot be started or reached.
    pub fn open(args: &StageArgs, connections: u32) -> Result<Self, String> {
        Self::start(args, connections, false)
    }

    /// [`Self::open`] for a look at memory: a server of our own has [`Launch::exact_memory`].
    ///
    /// # Errors
    /// A sentence when the server cannot be started or reached.
    pub fn open_exact(args: &StageArgs, connections: u32) -> Result<Self, String> {
        Self::start(args, connections, true)
    }

    fn start(args: &StageArgs, connections: u32, exact_memory: bool) -> Result<Self, String> {
        let at = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let ports = Ports { binary: at(args.binary_port), websocket: at(args.ws_port) };
        if let Some(data) = &args.data {
            let control = Control::open(at(args.http_port), Some(data))?;
            let pid = control.server_pid()?;
            return Ok(Self { server: None, folder: None, control, ports, pid });
        }
        let folder = args.scratch.join(format!("ringbench-{}", std::process::id()));
        let data = folder.join("data");
        claim_folder(&data)?;
        let launch = Launch {
            program: args.server.clone(),
            data: data.clone(),
            // All of 127.0.0.0/8: each ring of the swarm dials an address of its own.
            binary: SocketAddr::from((Ipv4Addr::UNSPECIFIED, args.binary_port)),
            websocket: SocketAddr::from((Ipv4Addr::UNSPECIFIED, args.ws_port)),
            http: at(args.http_port),
            shards: args.shards,
            config: Some(folder.join("ringdesk.toml")),
            log: folder.join("stderr"),
            exact_memory,
        };
        let written = std::fs::write(folder.join("ringdesk.toml"), config(connections, args.outbox_kib));
        let opened =
            written.map_err(|e| format!("cannot write below {}: {e}", folder.display())).and_then(|()| {
                let server = Server::start(&launch)?;
                Ok((server, Control::open(launch.http, Some(&data))?))
            });
        match opened {
            Ok((server, control)) => {
                let pid = server.pid();
                Ok(Self { server: Some(server), folder: Some(folder), control, ports, pid })
            }
            // The folder stays: the server's own words are in it.
            Err(sentence) => Err(sentence),
        }
    }

    /// Stops a server of our own and removes its folder.
    ///
    /// # Errors
    /// A sentence when it did not end its drain well; then the folder stays.
    pub fn close(mut self) -> Result<(), String> {
        if let Some(server) = self.server.take() {
            let folder = self.folder.take();
            server.stop()?;
            if let Some(folder) = folder {
                let _ = std::fs::remove_dir_all(folder);
            }
        }
        Ok(())
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // A failed run: the server ends with its handle, its log folder is of no more use, its words are.
        drop(self.server.take());
        if let Some(folder) = &self.folder {
            let _ = std::fs::remove_dir_all(folder.join("data"));
        }
    }
}

/// A config with room for `connections`, and heartbeats so long that idle clients stay silent.
fn config(connections: u32, outbox_kib: Option<u32>) -> String {
    let outbox = outbox_kib.map(|kib| format!("outbox_kib = {kib}\n")).unwrap_or_default();
    // A shard gets an even part, but owners are spread by hash: room for the uneven rest.
    let room = u64::from(connections) + u64::from(connections) / 10 + 1_000;
    format!("[clients]\nconnections_max = {room}\nheartbeat_s = 600\n{outbox}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_config_has_room_and_names_the_cap_only_when_asked() {
        let plain = config(20_000, None);
        assert!(plain.contains("connections_max = 23000") && !plain.contains("outbox_kib"), "{plain}");
        assert!(config(10, Some(64)).contains("outbox_kib = 64"));
    }
}
