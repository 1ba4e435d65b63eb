//! What a shard tells the control plane about itself, on request.

use ringdesk_persist::AppenderStats;

/// Where the time went since the start of the loop, nanoseconds.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct DutyCycle {
    /// In turns that found or produced something.
    pub busy_ns: u64,
    /// In turns that did not: spinning.
    pub spin_ns: u64,
    /// Asleep in the kernel.
    pub sleep_ns: u64,
    /// Number of turns that found or produced something.
    pub busy_turns: u64,
    /// Number of sleeps.
    pub sleeps: u64,
    /// The longest busy turn.
    pub turn_ns_max: u64,
}

/// Counters since start unless said otherwise.
#[derive(Clone, Default, Debug)]
pub struct ShardReport {
    /// The shard.
    pub shard: u16,
    /// Slots owned now.
    pub slots: u32,
    /// Open connections now.
    pub connections: u64,
    /// Sessions (identities on connections) now.
    pub sessions: u64,
    /// Conversations in memory now.
    pub conversations: u64,
    /// Conversations waiting for an agent now, over the sites whose dispatcher lives here.
    pub waiting: u64,
    /// Messages made durable.
    pub messages: u64,
    /// Duplicates answered.
    pub duplicates: u64,
    /// Commands refused, all codes.
    pub rejects: u64,
    /// Commands refused as BUSY.
    pub busy: u64,
    /// Frames pushed into outboxes.
    pub pushes: u64,
    /// Times a slow session was moved from push to the log.
    pub slow: u64,
    /// Entries held by the gate now.
    pub gate_depth: u64,
    /// Bytes in all outboxes now.
    pub outbox_bytes: u64,
    /// The most that waited for one connection at any time, bytes.
    pub backlog_bytes_max: u64,
    /// Open connections under TLS now.
    pub tls_connections: u64,
    /// TLS handshakes completed.
    pub tls_handshakes: u64,
    /// Of these, resumed from a ticket.
    pub tls_resumed: u64,
    /// Connections whose TLS failed, in the handshake or later.
    pub tls_failed: u64,
    /// Connections closed for their PROXY header.
    pub proxy_refused: u64,
    /// Connections refused because their address has enough.
    pub address_refused: u64,
    /// Turns taken.
    pub turns: u64,
    /// Where the loop's time went; the driver fills it in.
    pub duty: DutyCycle,
    /// The log appender's counters.
    pub log: AppenderStats,
}
