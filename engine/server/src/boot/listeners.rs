//! What is listened on: addresses of the configuration, and sockets that somebody else opened.
//!
//! A socket comes from three places: systemd opened it before the process ([`Given::take`]), the process this one
//! replaces hands it over, or it is bound here ([`Listeners::open`]). A socket that was given stands for the address of
//! its listener, which is then not bound.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use ringdesk_shard::io::{ListenerKind, Speaks};
use ringdesk_uring::listen::{self, Endpoint, ListenError, Listening};
use ringdesk_uring::sys::inherited;
use rustix::net::{AddressFamily, SocketAddrAny, SocketType, getsockname, sockopt};

use super::error::BootError;
use crate::config::{Config, Fixed, ListenerName, Overrides};

/// How long an address in use is tried again.
const ADDRESS_WAIT: Duration = Duration::from_millis(500);

/// Any listener, by its key in `[listen]`; the same word names its socket in a socket unit (`FileDescriptorName=`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Name {
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
    /// `http`
    Http,
}

/// Name, word and config key of every listener.
const NAMES: [(Name, &str, &str); 6] = [
    (Name::Binary, "binary", "listen.binary"),
    (Name::Websocket, "websocket", "listen.websocket"),
    (Name::Unix, "unix", "listen.unix"),
    (Name::TlsBinary, "tls_binary", "listen.tls_binary"),
    (Name::TlsWebsocket, "tls_websocket", "listen.tls_websocket"),
    (Name::Http, "http", "listen.http"),
];

impl Name {
    /// The listener of this word.
    pub fn parse(word: &str) -> Option<Self> {
        NAMES.iter().find(|(_, known, _)| *known == word).map(|(name, ..)| *name)
    }

    /// Its word.
    pub fn word(self) -> &'static str {
        NAMES.iter().find(|(name, ..)| *name == self).expect("every name is listed").1
    }

    /// Its config key.
    pub fn key(self) -> &'static str {
        NAMES.iter().find(|(name, ..)| *name == self).expect("every name is listed").2
    }

    /// What comes through it; `None` for the control plane.
    fn kind(self, fixed: &Fixed) -> Option<ListenerKind> {
        let (name, speaks, tls) = match self {
            Self::Binary => (ListenerName::Binary, Speaks::Binary, false),
            Self::Websocket => (ListenerName::Websocket, Speaks::WebSocket, false),
            Self::Unix => (ListenerName::Unix, Speaks::Binary, false),
            Self::TlsBinary => (ListenerName::TlsBinary, Speaks::Binary, true),
            Self::TlsWebsocket => (ListenerName::TlsWebsocket, Speaks::WebSocket, true),
            Self::Http => return None,
        };
        Some(ListenerKind { speaks, tls, proxied: fixed.proxy_protocol.contains(&name) })
    }

    /// Where the configuration puts it.
    fn configured(self, fixed: &Fixed) -> Option<Endpoint> {
        match self {
            Self::Binary => Some(Endpoint::Tcp(fixed.listen_binary)),
            Self::Websocket => Some(Endpoint::Tcp(fixed.listen_websocket)),
            Self::Unix => fixed.listen_unix.clone().map(Endpoint::Unix),
            Self::TlsBinary => fixed.listen_tls_binary.map(Endpoint::Tcp),
            Self::TlsWebsocket => fixed.listen_tls_websocket.map(Endpoint::Tcp),
            Self::Http => Some(Endpoint::Tcp(fixed.listen_http)),
        }
    }
}

/// Listening sockets that this process did not open.
#[derive(Default, Debug)]
pub struct Given {
    sockets: BTreeMap<Name, (Endpoint, Vec<OwnedFd>)>,
}

impl Given {
    /// The sockets systemd opened for this process (`sd_listen_fds(3)`), usually none.
    ///
    /// # Errors
    /// [`BootError::Inherited`]: the environment contradicts itself, a name is no listener or comes twice, or a socket is
    /// of the wrong kind.
    pub fn take() -> Result<Self, BootError> {
        let mut given = Self::default();
        for found in inherited().map_err(BootError::Inherited)? {
            let Some(name) = Name::parse(&found.name) else {
                let words = NAMES.map(|(_, word, _)| word).join(", ");
                return Err(BootError::Inherited(format!(
                    "the socket `{}` that was handed over is none of this server's listeners ({words}); \
                     FileDescriptorName= in its socket unit says which it is",
                    found.name
                )));
            };
            let endpoint = endpoint_of(name, &found.socket).map_err(BootError::Inherited)?;
            if given.sockets.insert(name, (endpoint, vec![found.socket])).is_some() {
                return Err(BootError::Inherited(format!(
                    "two sockets named `{}` were handed over; a listener has one",
                    found.name
                )));
            }
        }
        Ok(given)
    }

    /// Says in `overrides` where the sockets listen, so that the configuration agrees with them now and at each reload.
    pub fn address(&self, overrides: &mut Overrides) {
        for (name, (endpoint, _)) in &self.sockets {
            match (name, endpoint) {
                (Name::Binary, Endpoint::Tcp(at)) => overrides.listen_binary = Some(*at),
                (Name::Websocket, Endpoint::Tcp(at)) => overrides.listen_websocket = Some(*at),
                (Name::TlsBinary, Endpoint::Tcp(at)) => overrides.listen_tls_binary = Some(*at),
                (Name::TlsWebsocket, Endpoint::Tcp(at)) => overrides.listen_tls_websocket = Some(*at),
                (Name::Http, Endpoint::Tcp(at)) => overrides.listen_http = Some(*at),
                (Name::Unix, Endpoint::Unix(path)) => overrides.listen_unix = Some(path.clone()),
                _ => unreachable!("a socket of the wrong kind was refused"),
            }
        }
    }
}

/// Where a socket listens, if it is of the kind that the listener needs; else a sentence.
fn endpoint_of(name: Name, socket: &OwnedFd) -> Result<Endpoint, String> {
    let word = name.word();
    let wrong = |what: &str| format!("the socket `{word}` that was handed over is {what}");
    let unreadable = |error: rustix::io::Errno| wrong(&format!("not usable: {error}"));
    let stream = sockopt::socket_type(socket).map_err(unreadable)? == SocketType::STREAM;
    if !stream || !sockopt::socket_acceptconn(socket).map_err(unreadable)? {
        return Err(wrong("not a listening stream socket (ListenStream=)"));
    }
    let address = getsockname(socket).map_err(unreadable)?;
    let unix = name == Name::Unix;
    match (unix, address.address_family()) {
        (true, AddressFamily::UNIX) => match unix_path(&address) {
            Some(path) => Ok(Endpoint::Unix(path)),
            None => Err(wrong("a Unix socket without a path")),
        },
        (false, AddressFamily::INET | AddressFamily::INET6) => {
            SocketAddr::try_from(address).map(Endpoint::Tcp).map_err(unreadable)
        }
        (true, _) => Err(wrong("not a Unix socket; this listener needs one")),
        (false, _) => Err(wrong("not a TCP socket; this listener needs one")),
    }
}

fn unix_path(address: &SocketAddrAny) -> Option<PathBuf> {
    use std::os::unix::ffi::OsStrExt;
    let address = rustix::net::SocketAddrUnix::try_from(address.clone()).ok()?;
    address.path().map(|path| PathBuf::from(std::ffi::OsStr::from_bytes(path.to_bytes())))
}

/// One listener for clients.
#[derive(Debug)]
pub struct Door {
    /// Which.
    pub name: Name,
    /// What comes through it.
    pub kind: ListenerKind,
    /// Where; with the port the kernel chose if the configuration says 0.
    pub endpoint: Endpoint,
    /// Sockets that listen already; empty: bound when the shards start.
    given: Vec<OwnedFd>,
}

/// All listeners of the process.
#[derive(Debug)]
pub struct Listeners {
    doors: Vec<Door>,
    /// The control plane's.
    pub http: TcpListener,
    /// The path of the Unix socket is somebody else's to remove.
    unix_is_given: bool,
}

impl Listeners {
    /// Checks every address of the configuration that no socket was given for: one that is taken is told before the
    /// replay. The sockets that serve clients are opened after it ([`Self::sockets`]), so that no client hangs in their
    /// backlogs meanwhile.
    ///
    /// # Errors
    /// [`BootError::Address`].
    pub fn open(config: &Config, mut given: Given) -> Result<Self, BootError> {
        let fixed = &config.fixed;
        let unix_is_given = given.sockets.contains_key(&Name::Unix);
        let mut doors = Vec::new();
        for (name, _, key) in NAMES {
            let Some(kind) = name.kind(fixed) else { continue };
            if let Some((endpoint, given)) = given.sockets.remove(&name) {
                doors.push(Door { name, kind, endpoint, given });
            } else if let Some(endpoint) = name.configured(fixed) {
                let endpoint = listen_on(key, &endpoint, 1)?.endpoint;
                doors.push(Door { name, kind, endpoint, given: Vec::new() });
            }
        }
        let http = match given.sockets.remove(&Name::Http) {
            Some((_, mut sockets)) => TcpListener::from(sockets.remove(0)),
            None => bind_http(fixed.listen_http)?,
        };
        Ok(Self { doors, http, unix_is_given })
    }

    /// What comes through each listener, in the order of [`Self::sockets`].
    pub fn kinds(&self) -> Vec<ListenerKind> {
        self.doors.iter().map(|door| door.kind).collect()
    }

    /// Where a listener is bound, if it is a TCP one that exists.
    pub fn tcp(&self, wanted: Name) -> Option<SocketAddr> {
        self.doors.iter().find_map(|door| match &door.endpoint {
            Endpoint::Tcp(address) if door.name == wanted => Some(*address),
            Endpoint::Tcp(_) | Endpoint::Unix(_) => None,
        })
    }

    /// The path of the Unix listener.
    pub fn unix(&self) -> Option<PathBuf> {
        self.doors.iter().find_map(|door| match &door.endpoint {
            Endpoint::Unix(path) => Some(path.clone()),
            Endpoint::Tcp(_) => None,
        })
    }

    /// Removes the file of a Unix socket that was bound here.
    pub fn remove_unix_file(&self) {
        if let Some(path) = self.unix().filter(|_| !self.unix_is_given) {
            let _ = std::fs::remove_file(path);
        }
    }

    /// The sockets of each of `shards` shards, in the order of [`Self::kinds`]. Called once.
    ///
    /// # Errors
    /// [`BootError::Address`].
    pub fn sockets(&mut self, shards: usize) -> Result<Vec<Vec<OwnedFd>>, BootError> {
        let mut sockets: Vec<Vec<_>> = (0..shards).map(|_| Vec::new()).collect();
        for door in &mut self.doors {
            let mut given = std::mem::take(&mut door.given);
            let opened = match given.pop() {
                None => listen_on(door.name.key(), &door.endpoint, shards)?,
                Some(socket) => listen::adopt(&door.endpoint, socket, shards)
                    .map_err(|error| address_error(door.name.key(), &error))?,
            };
            sockets.iter_mut().zip(opened.sockets).for_each(|(of_shard, socket)| of_shard.push(socket));
        }
        Ok(sockets)
    }
}

fn bind_http(address: SocketAddr) -> Result<TcpListener, BootError> {
    patiently(|| TcpListener::bind(address), io::Error::kind).map_err(|cause| {
        address_error(Name::Http.key(), &ListenError { endpoint: Endpoint::Tcp(address), cause })
    })
}

/// The address under `key` cannot be listened on.
pub fn address_error(key: &'static str, error: &dyn Display) -> BootError {
    BootError::Address { key, sentence: error.to_string() }
}

fn listen_on(key: &'static str, endpoint: &Endpoint, shards: usize) -> Result<Listening, BootError> {
    patiently(|| listen::open(endpoint, shards), |error| error.cause.kind())
        .map_err(|error| address_error(key, &error))
}

/// Tries again for [`ADDRESS_WAIT`] while an address is in use: the kernel takes the ring of a killed process down
/// behind its exit, and the ring holds the listeners.
fn patiently<T, E>(open: impl Fn() -> Result<T, E>, kind: impl Fn(&E) -> io::ErrorKind) -> Result<T, E> {
    let began = Instant::now();
    loop {
        match open() {
            Err(error) if kind(&error) == io::ErrorKind::AddrInUse && began.elapsed() < ADDRESS_WAIT => {
                std::thread::sleep(Duration::from_millis(10));
            }
            outcome => return outcome,
        }
    }
}
