//! What may change while a shard runs: replaced as a whole by the control plane, never edited in place.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::ticket::SiteKeys;
use crate::tls::TlsConfig;

/// Settings of a shard.
#[derive(Clone, Debug)]
pub struct Settings {
    /// HMAC-SHA256 key of tickets, at least 32 bytes.
    pub ticket_key: Vec<u8>,
    /// Public keys that sites sign their visitors' tickets with.
    pub site_keys: SiteKeys,
    /// Silence after which a client is expected to have said something, seconds. Closed after twice that.
    pub heartbeat_s: u16,
    /// Bytes that may wait for one connection before it is served from the log instead of pushed to.
    pub outbox_bytes_max: u32,
    /// Origins that may open a WebSocket. Empty: only same-host origins; `*`: any.
    pub origins: Vec<String>,
    /// Whether to agree to permessage-deflate with clients that offer it.
    pub websocket_deflate: bool,
    /// Display names of agents by (site, agent).
    pub agent_names: BTreeMap<(u32, u32), Arc<str>>,
    /// Connections a shard holds at most.
    pub connections_max: u32,
    /// Connections of one client address on a shard at most; 0: no bound. Counted where the address is known.
    pub address_connections_max: u32,
    /// Certificates; `None` without listeners that need them.
    pub tls: Option<TlsConfig>,
}
