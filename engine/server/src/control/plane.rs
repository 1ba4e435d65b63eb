//! The state of the control plane: one value, shared by its routes, owned by its thread.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use arc_swap::{ArcSwap, ArcSwapOption};
use parking_lot::Mutex;
use ringdesk_shard::io::Control;
use ringdesk_shard::settings::Settings;
use ringdesk_shard::ticket::{SiteKey, SiteKeys};
use ringdesk_shard::tls::TlsConfig;
use tokio::sync::{Notify, Semaphore};

use super::error::ApiError;
use super::guard::host_name;
use super::limiter::LoginLimiter;
use super::shards::Shards;
use super::socket::Gate;
use crate::config::{Config, ConfigError, Live, Overrides, Reloaded};
use crate::directory::{Directory, DirectoryError};
use crate::tls::Certificate;
use crate::upgrade::{Replacement, Summary};
use crate::{journal, say};

/// Password checks that may wait for their turn; one runs at a time so that shards keep their cores. Full: 503.
pub const LOGINS_WAITING_MAX: usize = 32;

/// Where the process stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Phase {
    /// Replaying.
    Starting = 0,
    /// Serving.
    Serving = 1,
    /// Told to stop.
    Draining = 2,
}

/// The addresses really bound.
#[derive(Clone, Debug)]
pub struct Addresses {
    /// Binary protocol over TCP.
    pub binary: SocketAddr,
    /// WebSocket.
    pub websocket: SocketAddr,
    /// Binary protocol over a Unix socket.
    pub unix: Option<PathBuf>,
    /// Binary protocol inside TLS.
    pub tls_binary: Option<SocketAddr>,
    /// WebSocket inside TLS.
    pub tls_websocket: Option<SocketAddr>,
    /// Control plane.
    pub http: SocketAddr,
}

/// What the control plane is built from.
pub struct Parts {
    /// The configuration in force.
    pub config: Config,
    /// The command line, applied again at each reload.
    pub overrides: Overrides,
    /// The directory.
    pub directory: Arc<dyn Directory>,
    /// HMAC key of tickets.
    pub ticket_key: Vec<u8>,
    /// Bearer token of the admin routes.
    pub admin_token: String,
    /// Bound addresses.
    pub addresses: Addresses,
    /// Certificate of the TLS listeners.
    pub certificate: Option<Certificate>,
    /// Connections that one shard's descriptor table has room for.
    pub table_connections: u32,
    /// How sockets and disk are driven, for people.
    pub backend: String,
    /// Boots of this data folder.
    pub boot_epoch: u32,
    /// When the process started.
    pub started: Instant,
}

/// The state.
pub struct Plane {
    config: ArcSwap<Config>,
    overrides: Overrides,
    /// One reload at a time: two would race on which file wins.
    reloading: tokio::sync::Mutex<()>,
    directory: Arc<dyn Directory>,
    ticket_key: Vec<u8>,
    admin_token: String,
    addresses: Addresses,
    certificate: ArcSwapOption<Certificate>,
    table_connections: u32,
    backend: String,
    boot_epoch: u32,
    started: Instant,
    phase: AtomicU8,
    shards: OnceLock<Shards>,
    sites: Mutex<BTreeMap<String, u32>>,
    pub(super) logins: Mutex<LoginLimiter>,
    pub(super) login_queue: Semaphore,
    pub(crate) hashing: Semaphore,
    pub(super) drain: Notify,
    /// Who is let in, while the listener stays here.
    pub(crate) gate: Gate,
    /// Where a replacement by another process stands.
    pub(crate) replacement: Replacement,
    upgraded: OnceLock<Summary>,
}

/// Seconds since 1970.
pub fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

impl Plane {
    /// The state at boot: [`Phase::Starting`], no shards. Reads the sites (blocking).
    pub fn new(parts: Parts) -> Result<Arc<Self>, DirectoryError> {
        let sites = parts.directory.sites()?.into_iter().map(|site| (site.name, site.id)).collect();
        Ok(Arc::new(Self {
            config: ArcSwap::from_pointee(parts.config),
            overrides: parts.overrides,
            reloading: tokio::sync::Mutex::new(()),
            directory: parts.directory,
            ticket_key: parts.ticket_key,
            admin_token: parts.admin_token,
            addresses: parts.addresses,
            certificate: ArcSwapOption::from_pointee(parts.certificate),
            table_connections: parts.table_connections,
            backend: parts.backend,
            boot_epoch: parts.boot_epoch,
            started: parts.started,
            phase: AtomicU8::new(Phase::Starting as u8),
            shards: OnceLock::new(),
            sites: Mutex::new(sites),
            logins: Mutex::default(),
            login_queue: Semaphore::new(LOGINS_WAITING_MAX),
            hashing: Semaphore::new(1),
            drain: Notify::new(),
            gate: Gate::default(),
            replacement: Replacement::default(),
            upgraded: OnceLock::new(),
        }))
    }

    /// The configuration in force.
    pub fn config(&self) -> Arc<Config> {
        self.config.load_full()
    }

    /// HMAC key of tickets.
    pub fn ticket_key(&self) -> &[u8] {
        &self.ticket_key
    }

    /// Bearer token of the admin routes.
    pub fn admin_token(&self) -> &str {
        &self.admin_token
    }

    /// Bound addresses.
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// How sockets and disk are driven.
    pub fn backend(&self) -> &str {
        &self.backend
    }

    /// Boots of this data folder.
    pub fn boot_epoch(&self) -> u32 {
        self.boot_epoch
    }

    /// When the process started.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// What was taken over from the process before, if anything was.
    pub fn upgraded(&self) -> Option<&Summary> {
        self.upgraded.get()
    }

    /// Says what was taken over, once.
    pub fn note_upgrade(&self, summary: Summary) {
        let _ = self.upgraded.set(summary);
    }

    /// Milliseconds since the process started, for the login limiter.
    pub fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Where the process stands.
    pub fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Acquire) {
            0 => Phase::Starting,
            1 => Phase::Serving,
            _ => Phase::Draining,
        }
    }

    /// The shards run: from now on `/readyz` says yes. Called once.
    pub fn serve(&self, shards: Shards) {
        assert!(self.shards.set(shards).is_ok(), "the shards start once");
        let started = Phase::Starting as u8;
        let _ =
            self.phase.compare_exchange(started, Phase::Serving as u8, Ordering::AcqRel, Ordering::Acquire);
    }

    /// From now on `/readyz` says no.
    pub fn set_draining(&self) {
        self.phase.store(Phase::Draining as u8, Ordering::Release);
    }

    /// The shards, once they run.
    pub fn shards(&self) -> Option<&Shards> {
        self.shards.get()
    }

    /// The number of a site, from memory.
    pub fn site_id(&self, name: &str) -> Result<u32, ApiError> {
        self.sites.lock().get(name).copied().ok_or_else(|| ApiError::no_site(name))
    }

    /// Remembers a site just added.
    pub fn know_site(&self, name: &str, id: u32) {
        self.sites.lock().insert(name.to_string(), id);
    }

    /// The directory itself, for callers that may block.
    pub fn directory_now(&self) -> &dyn Directory {
        self.directory.as_ref()
    }

    /// Runs a directory call on a blocking thread.
    pub async fn directory<T: Send + 'static>(
        &self,
        call: impl FnOnce(&dyn Directory) -> Result<T, DirectoryError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let directory = self.directory.clone();
        match tokio::task::spawn_blocking(move || call(directory.as_ref())).await {
            Ok(outcome) => Ok(outcome?),
            Err(error) => Err(ApiError::internal(format!("a directory call ended early: {error}"))),
        }
    }

    /// Where a browser reaches the WebSocket, given the Host header of its request.
    pub fn websocket_url(&self, host: &str) -> String {
        match &self.config().live.websocket_url {
            Some(url) => url.clone(),
            None => format!("ws://{}/ws", reach(self.addresses.websocket, host)),
        }
    }

    /// Where a gateway or app reaches the binary protocol, given the Host header of its request.
    pub fn binary_address(&self, host: &str) -> String {
        reach(self.addresses.binary, host)
    }

    /// The settings of each of `shards` shards under the configuration in force.
    pub async fn settings(&self, shards: usize) -> Result<Settings, ApiError> {
        let live = self.config().live.clone();
        let secrets = Secrets { ticket_key: self.ticket_key.clone(), tls: self.tls() };
        let of_one = connections_of_one(&live, shards).min(self.table_connections);
        self.directory(move |directory| settings(directory, &live, secrets, of_one)).await
    }

    /// Tells the shards the settings now in force. Nothing to do before they run.
    pub async fn push_settings(&self) -> Result<(), ApiError> {
        let Some(shards) = self.shards() else { return Ok(()) };
        let settings = self.settings(shards.count()).await?;
        shards.post(&Control::Settings(Arc::new(settings))).await.map_err(|full| {
            ApiError::internal(format!("shard {} does not take the new settings", full.shard))
        })
    }

    /// Reads the config again, takes what may change, tells the shards.
    pub async fn reload(&self) -> Result<Reloaded, ReloadError> {
        let _one = self.reloading.lock().await;
        let mut next = Config::load(&self.overrides).map_err(ReloadError::Config)?;
        let mut config = Config::clone(&self.config());
        let certificate = self.renew_certificate(&config, &mut next);
        let mut done = config.reload(next);
        match certificate {
            Ok(true) => done.changed.push("tls.certificate"),
            Ok(false) => {}
            Err(sentence) => done.refused.push(("tls.certificate", sentence)),
        }
        journal::set_level(config.live.log_level);
        self.config.store(Arc::new(config));
        for (_, sentence) in &done.refused {
            say!(Warn, "reload: {sentence}");
        }
        match done.changed.as_slice() {
            [] => say!(Info, "reload: nothing changed"),
            changed => say!(Info, "reload: changed {}", changed.join(", ")),
        }
        self.push_settings().await.map_err(ReloadError::Push)?;
        Ok(done)
    }

    /// Reads certificate and key again, since renewing puts others into the same files. `true`: they are others. What
    /// cannot be used leaves the old one in force, in `next` too.
    fn renew_certificate(&self, config: &Config, next: &mut Config) -> Result<bool, String> {
        let old = self.certificate.load_full();
        let secure = self.addresses.tls_binary.or(self.addresses.tls_websocket).is_some();
        let renewed = match (&next.live.tls, &old) {
            (Some(files), Some(old)) => old.renew(files).map(Some),
            (Some(files), None) => Certificate::load(files).map(Some),
            (None, _) => Ok(None),
        };
        let outcome = match renewed {
            Ok(None) if secure => {
                Err("`tls.certificate` cannot go while TLS is listened on; it stays".into())
            }
            Ok(renewed) => {
                let same = match (&old, &renewed) {
                    (Some(old), Some(renewed)) => old.same_as(renewed),
                    (old, renewed) => old.is_none() && renewed.is_none(),
                };
                self.certificate.store(renewed.map(Arc::new));
                return Ok(!same);
            }
            Err(error) => Err(format!("{error}; the certificate in use stays")),
        };
        next.live.tls = config.live.tls.clone();
        outcome
    }

    /// What TLS listeners present now.
    pub fn tls(&self) -> Option<TlsConfig> {
        self.certificate.load().as_ref().map(|certificate| certificate.config.clone())
    }

    /// Starts the drain, as SIGTERM does.
    pub fn ask_to_drain(&self) {
        self.drain.notify_one();
    }
}

/// Why a reload did not happen or did not reach the shards.
#[derive(Debug)]
pub enum ReloadError {
    /// The file is wrong; everything stays as it was.
    Config(ConfigError),
    /// Taken, but a shard did not hear of it.
    Push(ApiError),
}

/// A shard's part of the connections of the process. Connections lie where their identity hashes to, so parts are
/// not quite even: with several shards each takes a sixteenth and 64 more than its share.
pub fn connections_of_one(live: &Live, shards: usize) -> u32 {
    let shards = u32::try_from(shards.max(1)).unwrap_or(u32::MAX);
    let share = live.connections_max.div_ceil(shards);
    if shards == 1 { share } else { share.saturating_add(share / 16 + 64).min(live.connections_max) }
}

/// The name of a site's public key in tickets, their `kid`.
pub fn key_name(site: &str, number: u32) -> String {
    format!("{site}:{number}")
}

/// What of a shard's settings is secret.
pub struct Secrets {
    /// HMAC key of tickets.
    pub ticket_key: Vec<u8>,
    /// Certificates and their keys.
    pub tls: Option<TlsConfig>,
}

/// The settings of a shard that may hold `connections_max` connections. Blocking: reads the agents.
pub fn settings(
    directory: &dyn Directory,
    live: &Live,
    secrets: Secrets,
    connections_max: u32,
) -> Result<Settings, DirectoryError> {
    let mut agent_names = BTreeMap::new();
    let sites = directory.sites()?;
    for site in &sites {
        for agent in directory.agents(site.id)? {
            agent_names.insert((agent.site, agent.id), Arc::from(agent.name));
        }
    }
    let mut site_keys = SiteKeys::new();
    for found in directory.site_keys(0)? {
        let Some(site) = sites.iter().find(|site| site.id == found.site) else { continue };
        let kid = key_name(&site.name, found.number);
        let key = SiteKey { site: site.id, site_name: Arc::from(site.name.as_str()), key: found.key };
        site_keys.insert(kid, key);
    }
    Ok(Settings {
        ticket_key: secrets.ticket_key,
        site_keys,
        heartbeat_s: live.heartbeat_s,
        outbox_bytes_max: live.outbox_bytes_max,
        origins: live.origins.clone(),
        websocket_deflate: live.websocket_deflate,
        agent_names,
        connections_max,
        address_connections_max: live.connections_per_address_max,
        tls: secrets.tls,
    })
}

/// `HOST:PORT` for a client that called us as `host`: our own address when it is a certain one, else the name it used.
fn reach(bound: SocketAddr, host: &str) -> String {
    if !bound.ip().is_unspecified() && !bound.ip().is_loopback() {
        return bound.to_string();
    }
    let name = host_name(host).unwrap_or_else(|| "127.0.0.1".to_string());
    match name.parse::<IpAddr>() {
        Ok(IpAddr::V6(address)) => format!("[{address}]:{}", bound.port()),
        _ => format!("{name}:{}", bound.port()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_sent_where_they_came_from() {
        let any: SocketAddr = "0.0.0.0:7802".parse().expect("address");
        let one: SocketAddr = "10.1.2.3:7802".parse().expect("address");
        assert_eq!(reach(any, "localhost:7800"), "localhost:7802");
        assert_eq!(reach(any, "[::1]:7800"), "[::1]:7802");
        assert_eq!(reach(one, "localhost:7800"), "10.1.2.3:7802");
    }
}
