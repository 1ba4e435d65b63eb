//! The configuration: a TOML file whose every key has a default, and command-line overrides on top.
//!
//! Keys are of two kinds. [`Fixed`] ones shape what exists once the process runs (ports, folders, shards) and need a
//! restart; [`Live`] ones are replaced as a whole by a reload. A reload that changes a fixed key is refused for that
//! key, with one sentence, and the old value stays.

mod blame;

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::boot::backend::Wanted;
use crate::journal::Level;
use crate::tls::TlsFiles;
use blame::{placed, plain, wrong_origin};

/// Longest ticket lifetime that may be configured or asked for: 366 days, seconds.
pub const TICKET_LIFETIME_S_MAX: u64 = 366 * 86_400;
/// Most shards of one process: the log number of a position has 10 bits.
pub const SHARDS_MAX: u16 = 1_024;

/// Shortest log segment, MiB: a few batches of the largest size.
pub const SEGMENT_MIB_MIN: u64 = 4;

/// A listener for clients, by its key in `[listen]`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ListenerName {
    /// `binary`
    Binary,
    /// `websocket`
    Websocket,
    /// `unix`
    Unix,
    /// `tls_binary`
    TlsBinary,
    /// `tls_websocket`
    TlsWebsocket,
}

/// What needs a restart.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fixed {
    /// Data folder.
    pub data: PathBuf,
    /// Number of shards; 0 = one per usable core.
    pub shards: u16,
    /// io_uring, the portable kernel, or whichever the host has.
    pub backend: Wanted,
    /// Binary protocol over TCP.
    pub listen_binary: SocketAddr,
    /// WebSocket.
    pub listen_websocket: SocketAddr,
    /// Binary protocol over a Unix socket, if any.
    pub listen_unix: Option<PathBuf>,
    /// Binary protocol inside TLS, if any.
    pub listen_tls_binary: Option<SocketAddr>,
    /// WebSocket inside TLS, if any.
    pub listen_tls_websocket: Option<SocketAddr>,
    /// Listeners whose every connection begins with a PROXY protocol header.
    pub proxy_protocol: Vec<ListenerName>,
    /// Control plane and demo pages.
    pub listen_http: SocketAddr,
    /// Length of a log segment, bytes, a multiple of 1 MiB.
    pub segment_bytes: u64,
    /// How long a shard spins before it sleeps, microseconds. 0 = sleep at once.
    pub spin_us: u32,
    /// How long an agent may be gone before its conversations return to the queue, seconds.
    pub grace_s: u32,
    /// What the kernel may hold of what the client of one TCP connection has not taken, bytes; 0: as it thinks best.
    pub send_buffer_bytes: u32,
}

/// What a reload replaces.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Live {
    /// Silence after which a client is expected to speak, seconds. It is closed after twice that.
    pub heartbeat_s: u16,
    /// Bytes that may wait for one connection before it is served from the log.
    pub outbox_bytes_max: u32,
    /// Connections of the whole process.
    pub connections_max: u32,
    /// Connections of one client address on a shard; 0: no bound.
    pub connections_per_address_max: u32,
    /// Certificate and key of the TLS listeners.
    pub tls: Option<TlsFiles>,
    /// Origins that may open a WebSocket. Empty: only pages of the same host. `*`: any.
    pub origins: Vec<String>,
    /// Whether to agree to permessage-deflate with clients that offer it.
    pub websocket_deflate: bool,
    /// Host names, besides loopback names and IP literals, by which the control plane may be called.
    pub hosts: Vec<String>,
    /// WebSocket address told to browsers, when a proxy stands in front. `None`: the host of the request and our port.
    pub websocket_url: Option<String>,
    /// Lifetime of tickets, seconds.
    pub ticket_lifetime_s: u64,
    /// What is written to standard error.
    pub log_level: Level,
}

/// The whole configuration.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    /// What needs a restart.
    pub fixed: Fixed,
    /// What a reload replaces.
    pub live: Live,
}

impl Default for Config {
    fn default() -> Self {
        let any = |port| SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
        Self {
            fixed: Fixed {
                data: PathBuf::from("./data"),
                shards: 0,
                backend: Wanted::Auto,
                listen_binary: any(7801),
                listen_websocket: any(7802),
                listen_unix: None,
                listen_tls_binary: None,
                listen_tls_websocket: None,
                proxy_protocol: Vec::new(),
                listen_http: SocketAddr::from((Ipv4Addr::LOCALHOST, 7800)),
                segment_bytes: 64 << 20,
                spin_us: 20,
                grace_s: 30,
                send_buffer_bytes: 256 << 10,
            },
            live: Live {
                heartbeat_s: 25,
                outbox_bytes_max: 256 << 10,
                connections_max: 100_000,
                connections_per_address_max: 0,
                tls: None,
                origins: Vec::new(),
                websocket_deflate: false,
                hosts: Vec::new(),
                websocket_url: None,
                ticket_lifetime_s: 86_400,
                log_level: Level::Info,
            },
        }
    }
}

/// Why a configuration was not taken.
#[derive(Debug)]
pub enum ConfigError {
    /// The file could not be read.
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// A line of the file is wrong: unknown key, wrong type, not TOML.
    Line {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// What stands on that line before `=`, or the line itself.
        key: String,
        /// What is wrong.
        sentence: String,
    },
    /// A value is outside its bounds.
    Value {
        /// The key.
        key: &'static str,
        /// What is wrong.
        sentence: String,
        /// The file and the line, from 1, unless the value is of the command line.
        place: Option<(PathBuf, usize)>,
    },
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable { path, error } => {
                write!(f, "the config file {} cannot be read: {error}", path.display())
            }
            Self::Line { path, line, key, sentence } => {
                write!(f, "the config file {}, line {line}, key `{key}`: {sentence}", path.display())
            }
            Self::Value { key, sentence, place: Some((path, line)) } => {
                write!(f, "the config file {}, line {line}: `{key}` {sentence}", path.display())
            }
            Self::Value { key, sentence, place: None } => write!(f, "the config key `{key}` {sentence}"),
        }
    }
}

impl std::error::Error for ConfigError {}

/// The file as written. Every key may be absent; an unknown one is an error.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct File {
    data: Option<PathBuf>,
    shards: Option<u16>,
    backend: Option<Wanted>,
    log_level: Option<Level>,
    listen: ListenFile,
    tls: TlsFile,
    clients: ClientsFile,
    web: WebFile,
    tickets: TicketsFile,
    agents: AgentsFile,
    log: LogFile,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct ListenFile {
    binary: Option<SocketAddr>,
    websocket: Option<SocketAddr>,
    unix: Option<PathBuf>,
    tls_binary: Option<SocketAddr>,
    tls_websocket: Option<SocketAddr>,
    proxy_protocol: Option<Vec<ListenerName>>,
    http: Option<SocketAddr>,
    spin_us: Option<u32>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct TlsFile {
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct ClientsFile {
    heartbeat_s: Option<u16>,
    outbox_kib: Option<u32>,
    send_buffer_kib: Option<u32>,
    connections_max: Option<u32>,
    connections_per_address_max: Option<u32>,
    origins: Option<Vec<String>>,
    websocket_deflate: Option<bool>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct WebFile {
    hosts: Option<Vec<String>>,
    websocket_url: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct TicketsFile {
    lifetime_s: Option<u64>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct AgentsFile {
    grace_s: Option<u32>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct LogFile {
    segment_mib: Option<u32>,
}

/// What the command line sets over the file.
#[derive(Clone, Default, Debug)]
pub struct Overrides {
    /// Config file.
    pub file: Option<PathBuf>,
    /// Data folder.
    pub data: Option<PathBuf>,
    /// Number of shards.
    pub shards: Option<u16>,
    /// Binary protocol over TCP.
    pub listen_binary: Option<SocketAddr>,
    /// WebSocket.
    pub listen_websocket: Option<SocketAddr>,
    /// Unix socket.
    pub listen_unix: Option<PathBuf>,
    /// Binary protocol inside TLS: only by a socket that was handed over.
    pub listen_tls_binary: Option<SocketAddr>,
    /// WebSocket inside TLS: only by a socket that was handed over.
    pub listen_tls_websocket: Option<SocketAddr>,
    /// Control plane.
    pub listen_http: Option<SocketAddr>,
}

/// What a reload did.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Reloaded {
    /// Live keys whose value changed.
    pub changed: Vec<&'static str>,
    /// Fixed keys whose change was refused, each with its sentence.
    pub refused: Vec<(&'static str, String)>,
}

impl Config {
    /// Defaults, then the file if one is named, then the command line. Errors name the key and, for the file, the line.
    pub fn load(overrides: &Overrides) -> Result<Self, ConfigError> {
        let mut config = Self::default();
        if let Some(path) = &overrides.file {
            let text = std::fs::read_to_string(path)
                .map_err(|error| ConfigError::Unreadable { path: path.clone(), error })?;
            config.take_file(parse(path, &text)?).map_err(|error| placed(error, path, &text))?;
            // Checked before the command line, so that each value is blamed on where it stands.
            config.check().map_err(|error| placed(error, path, &text))?;
            // The command line may give the Unix socket its path.
            config.take_overrides(overrides);
            config.check_listeners().map_err(|error| placed(error, path, &text))?;
        }
        config.take_overrides(overrides);
        config.check()?;
        config.check_listeners()?;
        Ok(config)
    }

    fn take_file(&mut self, file: File) -> Result<(), ConfigError> {
        fn set<T>(to: &mut T, from: Option<T>) {
            if let Some(value) = from {
                *to = value;
            }
        }
        set(&mut self.fixed.data, file.data);
        set(&mut self.fixed.shards, file.shards);
        set(&mut self.fixed.backend, file.backend);
        set(&mut self.fixed.listen_binary, file.listen.binary);
        set(&mut self.fixed.listen_websocket, file.listen.websocket);
        set(&mut self.fixed.listen_http, file.listen.http);
        self.fixed.listen_unix = file.listen.unix;
        self.fixed.listen_tls_binary = file.listen.tls_binary;
        self.fixed.listen_tls_websocket = file.listen.tls_websocket;
        set(&mut self.fixed.proxy_protocol, file.listen.proxy_protocol);
        set(&mut self.fixed.spin_us, file.listen.spin_us);
        set(&mut self.fixed.grace_s, file.agents.grace_s);
        set(&mut self.fixed.segment_bytes, file.log.segment_mib.map(|mib| u64::from(mib) << 20));
        set(&mut self.live.heartbeat_s, file.clients.heartbeat_s);
        set(&mut self.live.outbox_bytes_max, file.clients.outbox_kib.map(|kib| kib.saturating_mul(1024)));
        let send_buffer_bytes = file.clients.send_buffer_kib.map(|kib| kib.saturating_mul(1024));
        set(&mut self.fixed.send_buffer_bytes, send_buffer_bytes);
        set(&mut self.live.connections_max, file.clients.connections_max);
        set(&mut self.live.connections_per_address_max, file.clients.connections_per_address_max);
        self.live.tls = match (file.tls.certificate, file.tls.key) {
            (Some(certificate), Some(key)) => Some(TlsFiles { certificate, key }),
            (None, None) => None,
            (Some(_), None) => return Err(missing("tls.key", "beside `tls.certificate`")),
            (None, Some(_)) => return Err(missing("tls.certificate", "beside `tls.key`")),
        };
        set(&mut self.live.origins, file.clients.origins);
        set(&mut self.live.websocket_deflate, file.clients.websocket_deflate);
        set(&mut self.live.hosts, file.web.hosts);
        self.live.websocket_url = file.web.websocket_url;
        set(&mut self.live.ticket_lifetime_s, file.tickets.lifetime_s);
        set(&mut self.live.log_level, file.log_level);
        Ok(())
    }

    fn take_overrides(&mut self, over: &Overrides) {
        let fixed = &mut self.fixed;
        fixed.data = over.data.clone().unwrap_or_else(|| fixed.data.clone());
        fixed.shards = over.shards.unwrap_or(fixed.shards);
        fixed.listen_binary = over.listen_binary.unwrap_or(fixed.listen_binary);
        fixed.listen_websocket = over.listen_websocket.unwrap_or(fixed.listen_websocket);
        fixed.listen_http = over.listen_http.unwrap_or(fixed.listen_http);
        fixed.listen_unix = over.listen_unix.clone().or_else(|| fixed.listen_unix.clone());
        fixed.listen_tls_binary = over.listen_tls_binary.or(fixed.listen_tls_binary);
        fixed.listen_tls_websocket = over.listen_tls_websocket.or(fixed.listen_tls_websocket);
    }

    fn check(&self) -> Result<(), ConfigError> {
        let within = |key, value: u64, low: u64, high: u64| {
            if (low..=high).contains(&value) {
                return Ok(());
            }
            let sentence = format!("is {value}; it must be a whole number from {low} to {high}");
            Err(ConfigError::Value { key, sentence, place: None })
        };
        let (fixed, live) = (&self.fixed, &self.live);
        within("shards", fixed.shards.into(), 0, SHARDS_MAX.into())?;
        within("log.segment_mib", fixed.segment_bytes >> 20, SEGMENT_MIB_MIN, 1024)?;
        within("listen.spin_us", fixed.spin_us.into(), 0, 10_000)?;
        within("agents.grace_s", fixed.grace_s.into(), 1, 86_400)?;
        within("clients.heartbeat_s", live.heartbeat_s.into(), 1, 600)?;
        within("clients.outbox_kib", (live.outbox_bytes_max >> 10).into(), 64, 65_536)?;
        if fixed.send_buffer_bytes != 0 {
            within("clients.send_buffer_kib", (fixed.send_buffer_bytes >> 10).into(), 16, 65_536)?;
        }
        within("clients.connections_max", live.connections_max.into(), 1, 100_000_000)?;
        within("tickets.lifetime_s", live.ticket_lifetime_s, 60, TICKET_LIFETIME_S_MAX)?;
        for origin in &live.origins {
            if let Some(sentence) = wrong_origin(origin) {
                return Err(ConfigError::Value { key: "clients.origins", sentence, place: None });
            }
        }
        for host in &live.hosts {
            let good = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
            if host.is_empty() || !host.bytes().all(good) {
                let sentence =
                    format!("holds `{host}`; a host is a name such as `desk.example.org`, without port");
                return Err(ConfigError::Value { key: "web.hosts", sentence, place: None });
            }
        }
        if let Some(url) = &live.websocket_url
            && (!(url.starts_with("ws://") || url.starts_with("wss://"))
                || url.contains(|c: char| c.is_whitespace() || c.is_control() || c == ';' || c == ','))
        {
            let sentence =
                format!("is `{url}`; it must start with ws:// or wss:// and hold no space, `;` or `,`");
            return Err(ConfigError::Value { key: "web.websocket_url", sentence, place: None });
        }
        Ok(())
    }

    fn check_listeners(&self) -> Result<(), ConfigError> {
        let fixed = &self.fixed;
        let secure = fixed.listen_tls_binary.or(fixed.listen_tls_websocket).is_some();
        if secure && self.live.tls.is_none() {
            return Err(missing("tls.certificate", "with `tls.key` for the TLS listeners"));
        }
        for name in &fixed.proxy_protocol {
            let (listened, key) = match name {
                ListenerName::Binary | ListenerName::Websocket => continue,
                ListenerName::Unix => (fixed.listen_unix.is_some(), "unix"),
                ListenerName::TlsBinary => (fixed.listen_tls_binary.is_some(), "tls_binary"),
                ListenerName::TlsWebsocket => (fixed.listen_tls_websocket.is_some(), "tls_websocket"),
            };
            if !listened {
                let sentence = format!("names `{key}`, but `listen.{key}` has no address");
                return Err(ConfigError::Value { key: "listen.proxy_protocol", sentence, place: None });
            }
        }
        Ok(())
    }

    /// Takes the live keys of `next` and refuses changes of fixed ones.
    pub fn reload(&mut self, next: Self) -> Reloaded {
        let mut done = Reloaded::default();
        let (a, b) = (&self.fixed, &next.fixed);
        let fixed: [(&'static str, bool, String); 14] = [
            ("data", a.data != b.data, a.data.display().to_string()),
            ("shards", a.shards != b.shards, a.shards.to_string()),
            ("backend", a.backend != b.backend, a.backend.name().to_string()),
            ("listen.binary", a.listen_binary != b.listen_binary, a.listen_binary.to_string()),
            ("listen.websocket", a.listen_websocket != b.listen_websocket, a.listen_websocket.to_string()),
            ("listen.unix", a.listen_unix != b.listen_unix, format!("{:?}", a.listen_unix)),
            (
                "listen.tls_binary",
                a.listen_tls_binary != b.listen_tls_binary,
                format!("{:?}", a.listen_tls_binary),
            ),
            (
                "listen.tls_websocket",
                a.listen_tls_websocket != b.listen_tls_websocket,
                format!("{:?}", a.listen_tls_websocket),
            ),
            (
                "listen.proxy_protocol",
                a.proxy_protocol != b.proxy_protocol,
                format!("{:?}", a.proxy_protocol),
            ),
            ("listen.http", a.listen_http != b.listen_http, a.listen_http.to_string()),
            ("log.segment_mib", a.segment_bytes != b.segment_bytes, (a.segment_bytes >> 20).to_string()),
            ("listen.spin_us", a.spin_us != b.spin_us, a.spin_us.to_string()),
            ("agents.grace_s", a.grace_s != b.grace_s, a.grace_s.to_string()),
            (
                "clients.send_buffer_kib",
                a.send_buffer_bytes != b.send_buffer_bytes,
                (a.send_buffer_bytes >> 10).to_string(),
            ),
        ];
        for (key, differs, old) in fixed {
            if differs {
                let sentence =
                    format!("`{key}` cannot change while the server runs; it stays {old} until a restart");
                done.refused.push((key, sentence));
            }
        }
        let (a, b) = (&self.live, &next.live);
        let live: [(&'static str, bool); 10] = [
            ("clients.heartbeat_s", a.heartbeat_s != b.heartbeat_s),
            ("clients.outbox_kib", a.outbox_bytes_max != b.outbox_bytes_max),
            ("clients.connections_max", a.connections_max != b.connections_max),
            (
                "clients.connections_per_address_max",
                a.connections_per_address_max != b.connections_per_address_max,
            ),
            ("clients.origins", a.origins != b.origins),
            ("clients.websocket_deflate", a.websocket_deflate != b.websocket_deflate),
            ("web.hosts", a.hosts != b.hosts),
            ("web.websocket_url", a.websocket_url != b.websocket_url),
            ("tickets.lifetime_s", a.ticket_lifetime_s != b.ticket_lifetime_s),
            ("log_level", a.log_level != b.log_level),
        ];
        done.changed = live.into_iter().filter(|(_, differs)| *differs).map(|(key, _)| key).collect();
        self.live = next.live;
        done
    }
}

fn missing(key: &'static str, why: &str) -> ConfigError {
    ConfigError::Value { key, sentence: format!("is missing; it is needed {why}"), place: None }
}

fn parse(path: &Path, text: &str) -> Result<File, ConfigError> {
    toml::from_str(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start.min(text.len()));
        let line = text.as_bytes()[..at].iter().filter(|&&byte| byte == b'\n').count() + 1;
        let content = text.lines().nth(line - 1).unwrap_or("").trim();
        let key = content.split('=').next().unwrap_or("").trim().to_string();
        ConfigError::Line { path: path.to_path_buf(), line, key, sentence: plain(error.message()) }
    })
}

#[cfg(test)]
mod tests;
