//! Listeners: one socket per shard and address, so that every shard accepts without asking another.
//!
//! TCP uses SO_REUSEPORT. Because that would also let a second instance bind the same port in silence, a first bind
//! without it proves that the port is free.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, getsockname, listen, socket_with, sockopt};

/// Connections the kernel completes ahead of the accept, per socket.
const BACKLOG: i32 = 4096;

/// Where to listen.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Endpoint {
    /// TCP. Port 0: any free port.
    Tcp(SocketAddr),
    /// A Unix socket at this path.
    Unix(PathBuf),
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

/// Why an endpoint cannot be listened on.
#[derive(Debug)]
pub struct ListenError {
    /// The endpoint.
    pub endpoint: Endpoint,
    /// The cause.
    pub cause: io::Error,
}

impl fmt::Display for ListenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let endpoint = &self.endpoint;
        match self.cause.kind() {
            io::ErrorKind::AddrInUse => write!(f, "{endpoint} is in use by another program"),
            io::ErrorKind::PermissionDenied => write!(f, "no permission to listen on {endpoint}"),
            io::ErrorKind::AddrNotAvailable => write!(f, "{endpoint} is not an address of this host"),
            _ => write!(f, "cannot listen on {endpoint}: {}", self.cause),
        }
    }
}

impl std::error::Error for ListenError {}

/// An endpoint being listened on.
#[derive(Debug)]
pub struct Listening {
    /// The endpoint, with the port the kernel chose if 0 was asked for.
    pub endpoint: Endpoint,
    /// One socket per shard.
    pub sockets: Vec<OwnedFd>,
}

/// Bounds what the kernel holds of what a connection's client has not taken, its own bookkeeping included, for all that
/// are accepted from now on: on Linux they inherit it from the listener, and their buffers grow no further. Gives the
/// bytes the kernel agreed to, less than asked for above `net.core.wmem_max`. Nothing to do on a Unix socket, whose
/// connections begin with `net.core.wmem_default` and never grow.
///
/// SO_SNDBUF and not TCP_NOTSENT_LOWAT: the latter leaves out what is sent and not confirmed, which a client that
/// vanishes leaves behind.
///
/// # Errors
/// The kernel's, when the option is refused.
pub fn bound_send_buffers(endpoint: &Endpoint, sockets: &[OwnedFd], bytes: usize) -> io::Result<usize> {
    let mut agreed = bytes;
    if let Endpoint::Tcp(_) = endpoint {
        for socket in sockets {
            // The kernel doubles what it is told, for its bookkeeping (socket(7)).
            sockopt::set_socket_send_buffer_size(socket, bytes / 2)?;
            agreed = agreed.min(sockopt::socket_send_buffer_size(socket)?);
        }
    }
    Ok(agreed)
}

/// Opens an endpoint for `shards` shards (at least 1). Accepted TCP connections have TCP_NODELAY: on Linux they
/// inherit it from the listener.
pub fn open(endpoint: &Endpoint, shards: usize) -> Result<Listening, ListenError> {
    assert!(shards > 0, "a listener for no shard");
    let opened = match endpoint {
        Endpoint::Tcp(address) => open_tcp(*address, shards),
        Endpoint::Unix(path) => open_unix(path, shards),
    };
    opened.map_err(|cause| ListenError { endpoint: endpoint.clone(), cause })
}

/// Listens for `shards` shards on a socket that listens already: one that was handed over at start. All shards share it.
pub fn adopt(endpoint: &Endpoint, socket: OwnedFd, shards: usize) -> Result<Listening, ListenError> {
    assert!(shards > 0, "a listener for no shard");
    let adopted = || {
        let endpoint = match endpoint {
            Endpoint::Tcp(_) => {
                sockopt::set_tcp_nodelay(&socket, true)?;
                Endpoint::Tcp(getsockname(&socket)?.try_into()?)
            }
            Endpoint::Unix(path) => Endpoint::Unix(path.clone()),
        };
        // Raises the backlog where the one it came with is shorter.
        listen(&socket, BACKLOG)?;
        let sockets = (0..shards).map(|_| socket.try_clone()).collect::<io::Result<_>>()?;
        Ok(Listening { endpoint, sockets })
    };
    adopted().map_err(|cause| ListenError { endpoint: endpoint.clone(), cause })
}

/// Keeps a TCP port without listening on it: nobody can connect, the kernel chooses it for no other program, and [`open`]
/// still opens it. A program that asks for this very port may have it: its SO_REUSEADDR and ours let two sockets be bound
/// as long as neither listens.
pub fn hold(address: SocketAddr) -> io::Result<OwnedFd> {
    bind_tcp(address, true)
}

fn open_tcp(address: SocketAddr, shards: usize) -> io::Result<Listening> {
    let probe = bind_tcp(address, false)?;
    // The probe listens too: binding alone succeeds beside a listener that set SO_REUSEADDR.
    listen(&probe, 1)?;
    let local: SocketAddr = getsockname(&probe)?.try_into()?;
    drop(probe);
    let mut sockets = Vec::new();
    for _ in 0..shards {
        let socket = bind_tcp(local, true)?;
        listen(&socket, BACKLOG)?;
        sockets.push(socket);
    }
    Ok(Listening { endpoint: Endpoint::Tcp(local), sockets })
}

fn bind_tcp(address: SocketAddr, shared: bool) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    // Connections of an earlier run in TIME_WAIT must not keep the port.
    sockopt::set_socket_reuseaddr(&socket, true)?;
    sockopt::set_socket_reuseport(&socket, shared)?;
    sockopt::set_tcp_nodelay(&socket, true)?;
    bind(&socket, &address)?;
    Ok(socket)
}

fn open_unix(path: &Path, shards: usize) -> io::Result<Listening> {
    let listener = match UnixListener::bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            // The file outlives the process. Nobody answering means it is a leftover.
            match UnixStream::connect(path) {
                Err(refused) if refused.raw_os_error() == Some(Errno::CONNREFUSED.raw_os_error()) => {
                    std::fs::remove_file(path)?;
                    UnixListener::bind(path)?
                }
                _ => return Err(error),
            }
        }
        other => other?,
    };
    rustix::net::listen(&listener, BACKLOG)?;
    let mut sockets = Vec::new();
    for _ in 1..shards {
        sockets.push(OwnedFd::from(listener.try_clone()?));
    }
    sockets.push(OwnedFd::from(listener));
    Ok(Listening { endpoint: Endpoint::Unix(path.to_owned()), sockets })
}

/// The loopback form of a listening address: what a client on this host connects to.
pub fn local_address(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(v4) if v4.ip().is_unspecified() => (Ipv4Addr::LOCALHOST, v4.port()).into(),
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => (Ipv6Addr::LOCALHOST, v6.port()).into(),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn loopback(port: u16) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, port))
    }

    #[test]
    fn a_taken_port_is_named() {
        let taken = TcpListener::bind(loopback(0)).expect("a free port");
        let address = taken.local_addr().expect("bound");
        let error = open(&Endpoint::Tcp(address), 2).expect_err("the port is taken");
        assert_eq!(error.to_string(), format!("{address} is in use by another program"));
    }

    #[test]
    fn a_second_instance_is_refused() {
        let first = open(&Endpoint::Tcp(loopback(0)), 2).expect("a free port");
        assert_eq!(first.sockets.len(), 2);
        let error = open(&first.endpoint, 1).expect_err("the first instance listens");
        assert!(error.to_string().ends_with("is in use by another program"), "{error}");
    }

    #[test]
    fn accepted_connections_inherit_the_bound_of_the_send_buffer() {
        let listening = open(&Endpoint::Tcp(loopback(0)), 1).expect("a free port");
        let bound = |bytes| bound_send_buffers(&listening.endpoint, &listening.sockets, bytes).expect("set");
        assert_eq!(bound(64 << 10), 64 << 10);
        let Endpoint::Tcp(address) = listening.endpoint else { panic!("it was TCP") };
        let _client = std::net::TcpStream::connect(address).expect("somebody listens");
        let accepted = rustix::net::accept(&listening.sockets[0]).expect("it waits");
        assert_eq!(sockopt::socket_send_buffer_size(&accepted).expect("known"), 64 << 10);
        let agreed = bound(1 << 40 >> 10);
        assert!(agreed < 1 << 30, "the kernel's own bound holds: {agreed}");
    }

    #[test]
    fn a_held_port_is_opened_later() {
        let first = open(&Endpoint::Tcp(loopback(0)), 1).expect("a free port");
        let Endpoint::Tcp(address) = first.endpoint else { panic!("TCP") };
        drop(first);
        let held = hold(address).expect("free");
        std::net::TcpStream::connect(address).expect_err("nobody listens");
        let chosen: Vec<_> = (0..200).map(|_| TcpListener::bind(loopback(0)).expect("a free port")).collect();
        assert!(chosen.iter().all(|other| other.local_addr().expect("bound") != address));
        let opened = open(&Endpoint::Tcp(address), 2).expect("held for this");
        drop(held);
        std::net::TcpStream::connect(address).expect("somebody listens");
        drop(opened);
    }

    #[test]
    fn a_socket_handed_over_serves_all_shards() {
        let given = TcpListener::bind(loopback(0)).expect("a free port");
        let address = given.local_addr().expect("bound");
        let adopted = adopt(&Endpoint::Tcp(loopback(1)), given.into(), 2).expect("adopted");
        assert_eq!((adopted.endpoint, adopted.sockets.len()), (Endpoint::Tcp(address), 2));
        std::net::TcpStream::connect(address).expect("somebody listens");
    }

    #[test]
    fn a_leftover_unix_socket_is_replaced_and_a_live_one_is_not() {
        let path = std::env::temp_dir().join(format!("ringdesk-listen-{}.sock", std::process::id()));
        let endpoint = Endpoint::Unix(path.clone());
        let first = open(&endpoint, 2).expect("a new socket");
        assert!(open(&endpoint, 1).is_err());
        drop(first);
        open(&endpoint, 1).expect("the leftover is replaced");
        std::fs::remove_file(path).expect("the socket file is there");
    }
}
