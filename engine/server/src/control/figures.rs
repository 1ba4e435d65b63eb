//! What the process says about itself in numbers: `/v1/status` as JSON, `/metrics` as Prometheus text.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::IntoResponse;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use ringdesk_shard::report::ShardReport;
use serde_json::{Value, json};

use super::Peer;
use super::error::ApiError;
use super::plane::{Phase, Plane};

type Labels = Vec<(&'static str, String)>;

fn phase_name(phase: Phase) -> &'static str {
    match phase {
        Phase::Starting => "starting",
        Phase::Serving => "serving",
        Phase::Draining => "draining",
    }
}

/// Resident memory of the process, bytes; 0 where /proc is not mounted.
pub fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = statm.split_ascii_whitespace().nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
    pages * rustix::param::page_size() as u64
}

fn shard_json(report: &ShardReport) -> Value {
    json!({
        "shard": report.shard,
        "slots": report.slots,
        "connections": report.connections,
        "sessions": report.sessions,
        "conversations": report.conversations,
        "waiting": report.waiting,
        "messages": report.messages,
        "duplicates": report.duplicates,
        "rejects": report.rejects,
        "busy": report.busy,
        "pushes": report.pushes,
        "slow": report.slow,
        "tls": {
            "connections": report.tls_connections,
            "handshakes": report.tls_handshakes,
            "resumed": report.tls_resumed,
            "failed": report.tls_failed,
        },
        "proxy_refused": report.proxy_refused,
        "address_refused": report.address_refused,
        "gate_depth": report.gate_depth,
        "outbox_bytes": report.outbox_bytes,
        "backlog_bytes_max": report.backlog_bytes_max,
        "turns": report.turns,
        "duty": {
            "busy_ns": report.duty.busy_ns,
            "spin_ns": report.duty.spin_ns,
            "sleep_ns": report.duty.sleep_ns,
            "busy_turns": report.duty.busy_turns,
            "sleeps": report.duty.sleeps,
            "turn_ns_max": report.duty.turn_ns_max,
        },
        "log": {
            "batches": report.log.batches,
            "marks": report.log.marks,
            "records": report.log.records,
            "bytes": report.log.bytes,
            "record_bytes": report.log.record_bytes,
            "fills": report.log.fills,
            "segments": report.log.segments,
            "staged_bytes": report.log.staged_bytes,
            "disk_full": report.log.no_space.is_some(),
            "refused": report.log.refused,
        },
    })
}

/// Headers by which a proxy says whom it speaks for: then the caller is not the loopback address it comes from.
const FORWARDED: [&str; 4] = ["forwarded", "x-forwarded-for", "x-real-ip", "via"];

/// Whether the caller is a program of this machine, as far as address and headers tell.
fn local(peer: Peer, headers: &HeaderMap) -> bool {
    peer.0.ip().to_canonical().is_loopback() && FORWARDED.iter().all(|name| !headers.contains_key(*name))
}

/// GET /v1/status. Callers of this machine are told the data folder too, so that operator's tools find the token in
/// it; reading the token still takes the rights of its owner.
pub async fn status(State(plane): State<Arc<Plane>>, peer: Peer, headers: HeaderMap) -> Json<Value> {
    let reports = match plane.shards() {
        Some(shards) => shards.reports().await,
        None => Arc::default(),
    };
    let sum = |field: fn(&ShardReport) -> u64| reports.iter().map(field).sum::<u64>();
    let addresses = plane.addresses();
    let data = local(peer, &headers).then(|| std::path::absolute(&plane.config().fixed.data).ok()).flatten();
    Json(json!({
        "data": data,
        "version": env!("CARGO_PKG_VERSION"),
        "state": phase_name(plane.phase()),
        "uptime_s": plane.started().elapsed().as_secs(),
        "boot_epoch": plane.boot_epoch(),
        "backend": plane.backend(),
        "pid": std::process::id(),
        "upgraded": plane.upgraded(),
        "listen": {
            "binary": addresses.binary.to_string(),
            "websocket": addresses.websocket.to_string(),
            "unix": addresses.unix,
            "tls_binary": addresses.tls_binary.map(|address| address.to_string()),
            "tls_websocket": addresses.tls_websocket.map(|address| address.to_string()),
            "http": addresses.http.to_string(),
        },
        "resident_bytes": resident_bytes(),
        "slots": sum(|report| report.slots.into()),
        "connections": sum(|report| report.connections),
        "sessions": sum(|report| report.sessions),
        "conversations": sum(|report| report.conversations),
        "queues": { "waiting": sum(|report| report.waiting) },
        "messages": sum(|report| report.messages),
        "log_bytes": sum(|report| report.log.bytes),
        "shards_running": plane.shards().map_or(0, |shards| shards.count()),
        "shards": reports.iter().map(shard_json).collect::<Vec<_>>(),
    }))
}

fn gauge(
    registry: &mut Registry,
    reports: &[ShardReport],
    name: &str,
    help: &str,
    of: fn(&ShardReport) -> u64,
) {
    let family = Family::<Labels, Gauge>::default();
    for report in reports {
        let value = i64::try_from(of(report)).unwrap_or(i64::MAX);
        family.get_or_create(&vec![("shard", report.shard.to_string())]).set(value);
    }
    registry.register(name, help, family);
}

fn counter(
    registry: &mut Registry,
    reports: &[ShardReport],
    name: &str,
    help: &str,
    of: fn(&ShardReport) -> u64,
) {
    let family = Family::<Labels, Counter>::default();
    for report in reports {
        family.get_or_create(&vec![("shard", report.shard.to_string())]).inc_by(of(report));
    }
    registry.register(name, help, family);
}

fn single(registry: &mut Registry, name: &str, help: &str, value: u64) {
    let gauge = Gauge::<i64>::default();
    gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
    registry.register(name, help, gauge);
}

/// The text of `/metrics`. A registry is made per scrape: the shards keep the numbers, this only writes them down.
pub fn metrics_text(plane: &Plane, reports: &[ShardReport]) -> Result<String, std::fmt::Error> {
    let mut registry = Registry::with_prefix("ringdesk");
    let r = &mut registry;
    single(r, "up_seconds", "Seconds since the process started", plane.started().elapsed().as_secs());
    single(r, "serving", "1 while clients are served", u64::from(plane.phase() == Phase::Serving));
    single(r, "resident_bytes", "Resident memory of the process", resident_bytes());
    single(r, "boot_epoch", "Boots of this data folder", plane.boot_epoch().into());
    single(r, "shards", "Shards running", plane.shards().map_or(0, |shards| shards.count() as u64));
    if let Some(upgraded) = plane.upgraded() {
        single(
            r,
            "upgrade_pause_ms",
            "Milliseconds nobody served when this process took over",
            upgraded.pause_ms,
        );
        single(r, "upgrade_carried", "Connections taken over", upgraded.carried);
        single(r, "upgrade_drained", "Connections told goodbye at the take-over", upgraded.drained);
        single(r, "upgrade_closed", "Connections closed at the take-over", upgraded.closed);
    }
    gauge(r, reports, "slots", "Slots owned", |report| report.slots.into());
    gauge(r, reports, "connections", "Open connections", |report| report.connections);
    gauge(r, reports, "sessions", "Identities on connections", |report| report.sessions);
    gauge(r, reports, "conversations", "Conversations in memory", |report| report.conversations);
    gauge(r, reports, "waiting", "Conversations waiting for an agent", |report| report.waiting);
    gauge(r, reports, "gate_depth", "Answers waiting for durability", |report| report.gate_depth);
    gauge(r, reports, "outbox_bytes", "Bytes waiting for slow clients", |report| report.outbox_bytes);
    gauge(r, reports, "log_staged_bytes", "Bytes not durable yet", |report| report.log.staged_bytes as u64);
    counter(r, reports, "messages", "Messages made durable", |report| report.messages);
    counter(r, reports, "duplicates", "Duplicates answered", |report| report.duplicates);
    counter(r, reports, "rejects", "Commands refused", |report| report.rejects);
    counter(r, reports, "busy", "Commands refused as BUSY", |report| report.busy);
    counter(r, reports, "pushes", "Frames pushed to clients", |report| report.pushes);
    counter(r, reports, "slow", "Times a slow client was moved to the log", |report| report.slow);
    gauge(r, reports, "tls_connections", "Open connections under TLS", |report| report.tls_connections);
    counter(r, reports, "tls_handshakes", "TLS handshakes completed", |report| report.tls_handshakes);
    counter(r, reports, "tls_resumed", "TLS handshakes resumed from a ticket", |report| report.tls_resumed);
    counter(r, reports, "tls_failed", "Connections whose TLS failed", |report| report.tls_failed);
    counter(r, reports, "proxy_refused", "Connections closed for their PROXY header", |report| {
        report.proxy_refused
    });
    counter(r, reports, "address_refused", "Connections refused as too many of one address", |report| {
        report.address_refused
    });
    counter(r, reports, "turns", "Turns of the shard loop", |report| report.turns);
    counter(r, reports, "busy_turns", "Turns that found work", |report| report.duty.busy_turns);
    counter(r, reports, "busy_nanoseconds", "Time in turns that found work", |report| report.duty.busy_ns);
    counter(r, reports, "spin_nanoseconds", "Time in turns that found none", |report| report.duty.spin_ns);
    counter(r, reports, "sleep_nanoseconds", "Time asleep", |report| report.duty.sleep_ns);
    gauge(r, reports, "turn_nanoseconds_max", "The longest turn", |report| report.duty.turn_ns_max);
    gauge(r, reports, "log_disk_full", "1 while the disk has no space for the next segment", |report| {
        u64::from(report.log.no_space.is_some())
    });
    counter(r, reports, "log_batches", "Batches durable", |report| report.log.batches);
    counter(r, reports, "log_records", "Records durable", |report| report.log.records);
    counter(r, reports, "log_bytes", "Bytes of batches written", |report| report.log.bytes);
    counter(r, reports, "log_segments", "Segments created", |report| report.log.segments);
    let mut text = String::with_capacity(8192);
    encode(&mut text, &registry)?;
    Ok(text)
}

/// GET /metrics.
pub async fn metrics(State(plane): State<Arc<Plane>>) -> Result<impl IntoResponse, ApiError> {
    let reports = match plane.shards() {
        Some(shards) => shards.reports().await,
        None => Arc::default(),
    };
    let text =
        metrics_text(&plane, &reports).map_err(|_| ApiError::internal("the metrics could not be written"))?;
    Ok(([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text))
}

/// GET /healthz: the process is alive.
pub async fn healthz() -> &'static str {
    "ok\n"
}

/// GET /readyz: clients are served.
pub async fn readyz(State(plane): State<Arc<Plane>>) -> Result<&'static str, ApiError> {
    match plane.phase() {
        Phase::Serving => Ok("ready\n"),
        Phase::Starting | Phase::Draining => Err(ApiError::not_serving()),
    }
}
