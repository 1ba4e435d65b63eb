//! The control plane's connections: how many, from whom, how long, and how they end.
//!
//! Before the listener goes to another process the [`Gate`] is shut.
//!
//! Order of a connection: a place is taken (of all, and of its address), requests are read and answered, what the
//! caller still sends is read and thrown away for a moment, the place is free again. Nobody holds a place by silence:
//! each step has a longest time.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::poll_fn;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::FromRequestParts;
use axum::extract::connect_info::ConnectInfo;
use axum::http::request::Parts;
use axum::http::{Request, Response};
use axum::response::IntoResponse;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use parking_lot::Mutex;
use tokio::io::AsyncWrite;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::{sleep, timeout};

use super::error::ApiError;

/// Connections to the control plane at once. Full: the next ones wait in the kernel's backlog.
pub const CONTROL_CONNECTIONS_MAX: usize = 1_024;
/// Of these, from one address (one /64 network of IPv6). Beyond: closed at once.
pub const CONNECTIONS_OF_ONE_MAX: usize = 256;

/// Longest time from the first look for a request, or from the answer before it, to the end of its header.
const HEADER_WAIT: Duration = Duration::from_secs(10);
/// Longest time from the header to the answer: the body has to come, and the directory to be asked.
const REQUEST_WAIT: Duration = Duration::from_secs(30);
/// A connection this old takes no further request; what is being answered then has [`REQUEST_WAIT`] to be read.
const CONNECTION_LIFE: Duration = Duration::from_secs(120);
/// Largest header of a request, bytes.
const HEADER_BYTES_MAX: usize = 32 << 10;
/// How long, and how much, is read and thrown away behind an answer that came before the end of its request. Closing
/// at once would reset the connection, and the caller could not read the answer.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES_MAX: usize = 64 << 20;
/// Pause after an accept failed for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The address of the caller.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub SocketAddr);

/// Whether requests are taken, as whoever hands the listener to another process decides, from any thread.
#[derive(Debug)]
pub struct Gate {
    /// `true`: nobody is let in, and connections end after the request they are at.
    shut: watch::Sender<bool>,
    places: Arc<Semaphore>,
}

impl Default for Gate {
    fn default() -> Self {
        Self { shut: watch::Sender::new(false), places: Arc::new(Semaphore::new(CONTROL_CONNECTIONS_MAX)) }
    }
}

impl Gate {
    /// Lets nobody in; who asked already is answered. New connections wait in the listener's backlog.
    pub fn shut(&self) {
        self.shut.send_replace(true);
    }

    /// Takes requests again.
    pub fn open(&self) {
        self.shut.send_replace(false);
    }

    /// Whether no connection is left.
    pub fn is_empty(&self) -> bool {
        // One place is held by the loop, for the connection that comes next.
        self.places.available_permits() + 1 >= CONTROL_CONNECTIONS_MAX
    }
}

/// Answers the requests that come through `listener` with `app`, for ever.
pub async fn serve(listener: TcpListener, app: Router, gate: &Gate) {
    let shares = Arc::<Shares>::default();
    loop {
        let place = gate.places.clone().acquire_owned().await.expect("the semaphore is never closed");
        let mut shut = gate.shut.subscribe();
        let accepted = loop {
            let _ = shut.wait_for(|shut| !shut).await;
            tokio::select! {
                accepted = listener.accept() => break accepted,
                _ = shut.changed() => {}
            }
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(_) => {
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Some(share) = shares.take(address.ip()) else { continue };
        let app = app.clone();
        tokio::spawn(async move {
            live(stream, Peer(address), app, shut).await;
            drop((place, share));
        });
    }
}

async fn live(stream: TcpStream, peer: Peer, app: Router, mut shut: watch::Receiver<bool>) {
    let _ = stream.set_nodelay(true);
    let app = TowerToHyperService::new(app);
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(peer));
        let answer = app.call(request);
        Box::pin(async move {
            let answer = timeout(REQUEST_WAIT, answer).await;
            Ok::<Response<Body>, Infallible>(match answer {
                Ok(Ok(answer)) => answer,
                Err(_) => ApiError::too_slow().into_response(),
            })
        })
    });
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_WAIT)
        .max_buf_size(HEADER_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let ended = tokio::select! {
        biased;
        ended = timeout(CONNECTION_LIFE, poll_fn(|cx| connection.poll_without_shutdown(cx))) => ended.ok(),
        _ = shut.wait_for(|shut| *shut) => None,
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            Pin::new(&mut connection).graceful_shutdown();
            match timeout(REQUEST_WAIT, poll_fn(|cx| connection.poll_without_shutdown(cx))).await {
                Ok(ended) => ended,
                Err(_) => return,
            }
        }
    };
    if ended.is_ok() {
        let _ = timeout(LINGER, linger(connection.into_parts().io.into_inner())).await;
    }
}

/// Says that nothing more comes, and reads what the caller had not finished sending.
async fn linger(mut stream: TcpStream) {
    if poll_fn(|cx| Pin::new(&mut stream).poll_shutdown(cx)).await.is_err() {
        return;
    }
    let (mut chunk, mut read) = (vec![0; 16 << 10], 0);
    while read < LINGER_BYTES_MAX && stream.readable().await.is_ok() {
        match stream.try_read(&mut chunk) {
            Ok(0) => return,
            Ok(count) => read += count,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
}

/// Connections by address.
#[derive(Default)]
struct Shares {
    open: Mutex<BTreeMap<IpAddr, usize>>,
}

/// One connection's part of its address's share.
struct Share {
    shares: Arc<Shares>,
    address: IpAddr,
}

impl Shares {
    fn take(self: &Arc<Self>, address: IpAddr) -> Option<Share> {
        let address = neighbourhood(address);
        let mut open = self.open.lock();
        let count = open.entry(address).or_default();
        if *count == CONNECTIONS_OF_ONE_MAX {
            return None;
        }
        *count += 1;
        Some(Share { shares: self.clone(), address })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut open = self.shares.open.lock();
        let count = open.get_mut(&self.address).expect("a share is counted");
        *count -= 1;
        if *count == 0 {
            open.remove(&self.address);
        }
    }
}

/// What one caller can choose freely among: an IPv4 address, or a /64 network of IPv6.
fn neighbourhood(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64))),
        address => address,
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Peer {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, ApiError> {
        let info = parts.extensions.get::<ConnectInfo<Self>>();
        info.map(|info| info.0).ok_or_else(|| ApiError::internal("the caller's address is not known"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_its_share_and_no_more() {
        let shares = Arc::<Shares>::default();
        let (one, other) = ("2001:db8::1".parse().expect("v6"), "2001:db8::2:1".parse().expect("v6"));
        let held: Vec<Share> = (0..CONNECTIONS_OF_ONE_MAX).map(|_| shares.take(one).expect("room")).collect();
        assert!(shares.take(other).is_none(), "the same network");
        let elsewhere = shares.take("127.0.0.1".parse().expect("v4")).expect("another address");
        drop(held);
        assert!(shares.take(other).is_some());
        drop(elsewhere);
        assert!(shares.open.lock().is_empty(), "an address without connections is forgotten");
    }
}
