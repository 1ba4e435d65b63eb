//! The control plane: one thread, a small HTTP server on loopback, signals.
//!
//! It reaches shards only through their mailboxes ([`shards`]); the data path runs on without it. Ownership: the
//! runtime and everything in it live and die on the thread that calls [`run`].

pub mod admin;
pub mod error;
pub mod figures;
pub mod guard;
pub mod keys;
pub mod limiter;
pub mod pages;
pub mod plane;
pub mod shards;
pub mod socket;
pub mod tickets;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware::from_fn_with_state;
use axum::routing::{get, post};
use ringdesk_shard::io::Control;
use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use self::plane::{Phase, Plane};
pub use self::socket::Peer;
use crate::demo;
use crate::say;
use crate::upgrade::Standing;

/// Largest request body, bytes: a ticket and a password fit many times.
const REQUEST_BYTES_MAX: usize = 16 << 10;
/// Longest time for goodbyes and the last sync after a stop was asked for.
const DRAIN_WAIT: Duration = Duration::from_secs(10);
/// Threads for directory calls and password hashes.
const BLOCKING_THREADS: usize = 2;

/// Every route.
pub fn router(plane: &Arc<Plane>) -> Router {
    let admin = Router::new()
        .route("/v1/admin/reload", post(admin::reload))
        .route("/v1/admin/drain", post(admin::drain))
        .route("/v1/admin/upgrade", post(admin::upgrade))
        .route("/v1/admin/revoke", post(admin::revoke))
        .route("/v1/admin/agents", get(admin::agents).post(admin::add_agent))
        .route("/v1/admin/agents/password", post(admin::set_password))
        .route("/v1/admin/sites", get(admin::sites).post(admin::add_site))
        .route("/v1/admin/sites/keys", get(keys::list).post(keys::add))
        .route("/v1/admin/sites/keys/remove", post(keys::remove))
        .route("/v1/admin/tickets/{role}", post(admin::ticket))
        .layer(from_fn_with_state(plane.clone(), guard::admin_only));
    Router::new()
        .route("/healthz", get(figures::healthz))
        .route("/readyz", get(figures::readyz))
        .route("/metrics", get(figures::metrics))
        .route("/v1/status", get(figures::status))
        .route("/v1/tickets/visitor", post(tickets::visitor))
        .route("/v1/login", post(tickets::login))
        .merge(admin)
        .fallback_service(get(pages::page).with_state(plane.clone()))
        .layer(DefaultBodyLimit::max(REQUEST_BYTES_MAX))
        .layer(from_fn_with_state(plane.clone(), guard::same_host))
        .with_state(plane.clone())
}

/// Why [`run`] came back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended {
    /// All shards said goodbye and flushed.
    Drained,
    /// Some shard did not in [`DRAIN_WAIT`].
    Late,
    /// Another process serves in this one's place.
    Replaced,
    /// Another process took the data over and did not serve.
    Abandoned,
}

/// Runs the control plane on this thread until the process was told to stop and the shards are drained. `drained`
/// brings the number of each shard that is.
pub fn run(
    plane: &Arc<Plane>,
    listener: std::net::TcpListener,
    drained: mpsc::Receiver<u16>,
) -> io::Result<Ended> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS)
        .thread_name("ringdesk-block")
        .build()?;
    let ended = runtime.block_on(async {
        listener.set_nonblocking(true)?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let serving = plane.clone();
        tokio::spawn(async move { socket::serve(listener, router(&serving), &serving.gate).await });
        tokio::spawn(demo::set_passwords(plane.clone()));
        wait_for_the_end(plane, drained).await
    });
    runtime.shutdown_timeout(Duration::from_millis(200));
    ended
}

async fn wait_for_the_end(plane: &Plane, mut drained: mpsc::Receiver<u16>) -> io::Result<Ended> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut replace = signal(SignalKind::user_defined2())?;
    loop {
        let stop = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
            () = plane.drain.notified() => "the operator",
            () = plane.replacement.ended() => {
                return Ok(if plane.replacement.stands() == Standing::Replaced {
                    Ended::Replaced
                } else {
                    Ended::Abandoned
                });
            }
            _ = replace.recv() => {
                crate::upgrade::spawn::start();
                continue;
            }
            _ = hangup.recv() => {
                reload_for_systemd(plane).await;
                continue;
            }
        };
        say!(Info, "told to stop by {stop}");
        break;
    }
    let _ = sd_notify::notify(&[NotifyState::Stopping]);
    if plane.phase() == Phase::Starting {
        // Nothing was served or promised yet; the boot thread may be deep in a replay.
        std::process::exit(0);
    }
    match plane.replacement.refuse().await {
        Standing::Replaced => return Ok(Ended::Replaced),
        Standing::Abandoned => return Ok(Ended::Abandoned),
        Standing::Serving | Standing::Still | Standing::Refusing => {}
    }
    plane.set_draining();
    let Some(shards) = plane.shards() else { return Ok(Ended::Drained) };
    if let Err(full) = shards.post(&Control::Drain).await {
        say!(Error, "shard {} does not take the order to drain", full.shard);
        return Ok(Ended::Late);
    }
    let all = async {
        for _ in 0..shards.count() {
            if drained.recv().await.is_none() {
                return;
            }
        }
    };
    tokio::select! {
        () = all => Ok(Ended::Drained),
        () = tokio::time::sleep(DRAIN_WAIT) => Ok(Ended::Late),
        _ = terminate.recv() => Ok(Ended::Late),
    }
}

async fn reload_for_systemd(plane: &Plane) {
    let mut state = vec![NotifyState::Reloading];
    state.extend(NotifyState::monotonic_usec_now().ok());
    let _ = sd_notify::notify(&state);
    match plane.reload().await {
        Ok(_) => {}
        Err(plane::ReloadError::Config(error)) => say!(Error, "reload: {error}; everything stays as it was"),
        Err(plane::ReloadError::Push(error)) => say!(Error, "reload: {error:?}"),
    }
    let _ = sd_notify::notify(&[NotifyState::Ready]);
}
