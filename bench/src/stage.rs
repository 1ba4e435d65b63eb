//! The server a workload runs against: one of its own on a temporary folder, or one that runs already.
//!
//! Ownership: a stage with a server of its own stops it and removes its folder when dropped.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use clap::Args;
use rustls::pki_types::CertificateDer;

use crate::control::Control;
use crate::server::{Launch, Server, claim_folder};
use crate::swarm::secure::NAME;
use crate::swarm::{Ports, Transports};

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
    /// Binary inside TLS, of a server of our own.
    #[arg(long, default_value_t = 7803)]
    pub tls_port: u16,
    /// Control plane of the server.
    #[arg(long, default_value_t = 7800)]
    pub http_port: u16,
    /// Shards, passed on to a server of our own; default: its own.
    #[arg(long)]
    pub shards: Option<u16>,
    /// `clients.outbox_kib` of a server of our own: what may wait for one connection; default: its own.
    #[arg(long)]
    pub outbox_kib: Option<u32>,
    /// `clients.send_buffer_kib` of a server of our own: what the kernel may hold for one; default: its own.
    #[arg(long)]
    pub send_buffer_kib: Option<u32>,
}

/// A server that is ready.
pub struct Stage {
    server: Option<Server>,
    launch: Option<Launch>,
    folder: Option<PathBuf>,
    /// Its control plane.
    pub control: Control,
    /// Where it listens.
    pub ports: Ports,
    /// Its process.
    pub pid: u32,
    /// What its TLS listener presents, if it has one.
    pub certificate: Option<CertificateDer<'static>>,
}

impl Stage {
    /// Starts a server, or finds the running one. `connections` it must have room for.
    ///
    /// # Errors
    /// A sentence when the server cannot be started or reached.
    pub fn open(args: &StageArgs, connections: u32) -> Result<Self, String> {
        Self::start(args, connections, Transports::Binary, false)
    }

    /// As [`Stage::open`], with a listener for this transport.
    ///
    /// # Errors
    /// As [`Stage::open`], and for TLS on a server that runs already: what it presents is its operator's.
    pub fn open_for(args: &StageArgs, connections: u32, transports: Transports) -> Result<Self, String> {
        Self::start(args, connections, transports, false)
    }

    /// As [`Stage::open_for`], for a look at memory: a server of our own has [`Launch::exact_memory`].
    ///
    /// # Errors
    /// As [`Stage::open_for`].
    pub fn open_exact(args: &StageArgs, connections: u32, transports: Transports) -> Result<Self, String> {
        Self::start(args, connections, transports, true)
    }

    fn start(
        args: &StageArgs,
        connections: u32,
        transports: Transports,
        exact_memory: bool,
    ) -> Result<Self, String> {
        let at = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let (binary, websocket, tls) = (at(args.binary_port), at(args.ws_port), at(args.tls_port));
        let ports = Ports { binary, websocket, tls };
        let secured = transports == Transports::Tls;
        if let Some(data) = args.data.as_ref().filter(|_| secured) {
            return Err(format!(
                "TLS needs a server of our own: leave out --data {}, and name a --server",
                data.display()
            ));
        }
        if let Some(data) = &args.data {
            let control = Control::open(at(args.http_port), Some(data))?;
            let pid = control.server_pid()?;
            return Ok(Self {
                server: None,
                launch: None,
                folder: None,
                control,
                ports,
                pid,
                certificate: None,
            });
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
            take_over: false,
            log: folder.join("stderr"),
            exact_memory,
        };
        let unwritten = |e: std::io::Error| format!("cannot write below {}: {e}", folder.display());
        let mut text = config(connections, args);
        let mut certificate = None;
        if secured {
            let (made, section) = certify(&folder, args.tls_port).map_err(unwritten)?;
            certificate = Some(made);
            text += &section;
        }
        let written = std::fs::write(folder.join("ringdesk.toml"), text);
        let opened = written.map_err(unwritten).and_then(|()| {
            let server = Server::start(&launch)?;
            Ok((server, Control::open(launch.http, Some(&data))?))
        });
        match opened {
            Ok((server, control)) => {
                let pid = server.pid();
                let (server, launch) = (Some(server), Some(launch));
                Ok(Self { server, launch, folder: Some(folder), control, ports, pid, certificate })
            }
            // The folder stays: the server's own words are in it.
            Err(sentence) => Err(sentence),
        }
    }

    /// Hands over the server of our own, and how it was started, to who replaces it.
    ///
    /// # Errors
    /// A sentence when it is not our own.
    pub fn give_up(&mut self) -> Result<(Server, Launch), String> {
        let given = self.server.take().zip(self.launch.clone());
        given.ok_or_else(|| "only a server of our own can be replaced: leave out --data".into())
    }

    /// Takes the server that replaced ours.
    ///
    /// # Errors
    /// A sentence when its control plane cannot be reached.
    pub fn take(&mut self, server: Server) -> Result<(), String> {
        self.pid = server.pid();
        self.control = Control::open(self.control.address(), Some(self.control.data()))?;
        self.server = Some(server);
        Ok(())
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

/// Makes a certificate and its key in `folder`; the first, and the part of a config that names both.
fn certify(folder: &Path, port: u16) -> std::io::Result<(CertificateDer<'static>, String)> {
    let made = rcgen::generate_simple_self_signed([NAME.to_owned()]).map_err(std::io::Error::other)?;
    let (certificate, key) = (folder.join("cert.pem"), folder.join("key.pem"));
    std::fs::write(&certificate, made.cert.pem())?;
    std::fs::write(&key, made.signing_key.serialize_pem())?;
    let tls = format!("[tls]\ncertificate = {certificate:?}\nkey = {key:?}\n");
    Ok((made.cert.der().clone(), format!("{tls}[listen]\ntls_binary = \"0.0.0.0:{port}\"\n")))
}

/// A config with room for `connections`, and heartbeats so long that idle clients stay silent.
fn config(connections: u32, args: &StageArgs) -> String {
    let set = |key: &str, kib: Option<u32>| kib.map(|kib| format!("{key} = {kib}\n")).unwrap_or_default();
    let outbox = set("outbox_kib", args.outbox_kib) + &set("send_buffer_kib", args.send_buffer_kib);
    // A shard gets an even part, but owners are spread by hash: room for the uneven rest.
    let room = u64::from(connections) + u64::from(connections) / 10 + 1_000;
    format!("[clients]\nconnections_max = {room}\nheartbeat_s = 600\n{outbox}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_config_has_room_and_names_the_cap_only_when_asked() {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            stage: StageArgs,
        }
        let line = |words: &[&str]| {
            let words = std::iter::once("ringbench").chain(words.iter().copied());
            <Line as clap::Parser>::parse_from(words).stage
        };
        let plain = config(20_000, &line(&[]));
        assert!(plain.contains("connections_max = 23000") && !plain.contains("_kib"), "{plain}");
        let both = config(10, &line(&["--outbox-kib", "64", "--send-buffer-kib", "32"]));
        assert!(both.contains("outbox_kib = 64\nsend_buffer_kib = 32\n"), "{both}");
    }
}
