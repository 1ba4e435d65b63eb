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
use crate::say;
use crate::upgrade::wire::Address;

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
            address(*name, endpoint, overrides);
        }
    }
}

fn address(name: Name, endpoint: &Endpoint, overrides: &mut Overrides) {
    match (name, endpoint) {
        (Name::Binary, Endpoint::Tcp(at)) => overrides.listen_binary = Some(*at),
        (Name::Websocket, Endpoint::Tcp(at)) => overrides.listen_websocket = Some(*at),
        (Name::TlsBinary, Endpoint::Tcp(at)) => overrides.listen_tls_binary = Some(*at),
        (Name::TlsWebsocket, Endpoint::Tcp(at)) => overrides.listen_tls_websocket = Some(*at),
        (Name::Http, Endpoint::Tcp(at)) => overrides.listen_http = Some(*at),
        (Name::Unix, Endpoint::Unix(path)) => overrides.listen_unix = Some(path.clone()),
        // Refused before: a socket is of the kind that its listener needs.
        _ => {}
    }
}

/// Says in `overrides` where those listeners of the process before are that were opened by a third: their addresses rule.
pub fn keep_given(before: &[Address], overrides: &mut Overrides) {
    for address_before in before.iter().filter(|address| address.given) {
        if let (Some(name), Some(endpoint)) =
            (Name::parse(&address_before.name), endpoint_before(address_before))
        {
            address(name, &endpoint, overrides);
        }
    }
}

fn endpoint_before(address: &Address) -> Option<Endpoint> {
    address.tcp.map(Endpoint::Tcp).or_else(|| address.unix.clone().map(Endpoint::Unix))
}

/// Whether the address in the configuration is the one where the process before listens; port 0 means any.
fn same_place(configured: &Endpoint, before: &Endpoint) -> bool {
    match (configured, before) {
        (Endpoint::Tcp(configured), Endpoint::Tcp(before)) => {
            configured == before || (configured.port() == 0 && configured.ip() == before.ip())
        }
        (configured, before) => configured == before,
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
    /// Somebody else opened it first.
    given: bool,
    /// The process before sends its sockets.
    awaited: bool,
    /// Sockets that listen already; empty: bound when the shards start.
    sockets: Vec<OwnedFd>,
    /// Keeps the port that the kernel chose, until the shards open it.
    held: Option<OwnedFd>,
    /// A second descriptor for each shard's socket, for the process after this one.
    kept: Vec<OwnedFd>,
}

impl Door {
    fn new(name: Name, kind: ListenerKind, endpoint: Endpoint) -> Self {
        let (sockets, kept) = (Vec::new(), Vec::new());
        Self { name, kind, endpoint, given: false, awaited: false, sockets, held: None, kept }
    }

    /// A door whose address was found to be free.
    fn tried(name: Name, kind: ListenerKind, endpoint: &Endpoint) -> Result<Self, BootError> {
        let found = listen_on(name.key(), endpoint, 1)?.endpoint;
        let held = match (endpoint, &found) {
            (Endpoint::Tcp(any), Endpoint::Tcp(chosen)) if any.port() == 0 => listen::hold(*chosen).ok(),
            _ => None,
        };
        Ok(Self { held, ..Self::new(name, kind, found) })
    }
}

/// All listeners of the process.
#[derive(Debug)]
pub struct Listeners {
    doors: Vec<Door>,
    http: Option<TcpListener>,
    http_is_given: bool,
    http_address: Option<SocketAddr>,
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
        let mut doors = Vec::new();
        for (name, ..) in NAMES {
            let Some(kind) = name.kind(fixed) else { continue };
            if let Some((endpoint, sockets)) = given.sockets.remove(&name) {
                doors.push(Door { given: true, sockets, ..Door::new(name, kind, endpoint) });
            } else if let Some(endpoint) = name.configured(fixed) {
                doors.push(Door::tried(name, kind, &endpoint)?);
            }
        }
        let given = given.sockets.remove(&Name::Http).map(|(_, mut sockets)| sockets.remove(0));
        let http_is_given = given.is_some();
        let http = match given {
            Some(socket) => TcpListener::from(socket),
            None => bind_http(fixed.listen_http)?,
        };
        Ok(Self { doors, http: Some(http), http_is_given, http_address: None })
    }

    /// The same beside a process whose listeners are `before`: those whose address did not change wait for its sockets
    /// ([`Self::receive`]), others are opened.
    ///
    /// # Errors
    /// [`BootError::Address`].
    pub fn beside(config: &Config, before: &[Address]) -> Result<Self, BootError> {
        let fixed = &config.fixed;
        let found = |name: Name| {
            let address = before.iter().find(|address| address.name == name.word())?;
            let endpoint = endpoint_before(address)?;
            let same = name.configured(fixed).is_some_and(|configured| same_place(&configured, &endpoint));
            same.then_some((endpoint, address.given))
        };
        let mut doors = Vec::new();
        for (name, ..) in NAMES {
            let Some(kind) = name.kind(fixed) else { continue };
            if let Some((endpoint, given)) = found(name) {
                doors.push(Door { given, awaited: true, ..Door::new(name, kind, endpoint) });
            } else if let Some(endpoint) = name.configured(fixed) {
                doors.push(Door::tried(name, kind, &endpoint)?);
            }
        }
        let (http, http_is_given, http_address) = match found(Name::Http) {
            Some((Endpoint::Tcp(address), given)) => (None, given, Some(address)),
            _ => (Some(bind_http(fixed.listen_http)?), false, None),
        };
        Ok(Self { doors, http, http_is_given, http_address })
    }

    /// Takes sockets that the process before sends. Those of a listener that changed or is gone are closed.
    pub fn receive(&mut self, word: &str, sockets: Vec<OwnedFd>) {
        if word == Name::Http.word() {
            if self.http_address.is_some() {
                self.http = sockets.into_iter().next().map(TcpListener::from);
            }
        } else if let Some(door) = self.doors.iter_mut().find(|door| door.awaited && door.name.word() == word)
        {
            door.sockets.extend(sockets);
        }
    }

    /// Whether every socket that was waited for is there.
    pub fn is_complete(&self) -> bool {
        self.http.is_some() && self.doors.iter().all(|door| !door.awaited || !door.sockets.is_empty())
    }

    /// The control plane's.
    ///
    /// # Panics
    /// While it is waited for.
    pub fn http(&self) -> &TcpListener {
        self.http.as_ref().expect("the control plane's listener is there")
    }

    /// Where everything listens, for the process after this one.
    pub fn addresses(&self) -> Vec<Address> {
        let address = |name: Name, endpoint: &Endpoint, given| {
            let (tcp, unix) = match endpoint {
                Endpoint::Tcp(address) => (Some(*address), None),
                Endpoint::Unix(path) => (None, Some(path.clone())),
            };
            Address { name: name.word().to_string(), tcp, unix, given }
        };
        let clients = self.doors.iter().map(|door| address(door.name, &door.endpoint, door.given));
        let http = self.http.as_ref().and_then(|http| http.local_addr().ok());
        let http = http.map(|at| address(Name::Http, &Endpoint::Tcp(at), self.http_is_given));
        clients.chain(http).collect()
    }

    /// Second descriptors of all sockets, for the process after this one: by the word of the listener.
    ///
    /// # Errors
    /// What the system says.
    pub fn keep(&mut self) -> io::Result<Vec<(&'static str, Vec<OwnedFd>)>> {
        let mut kept: Vec<_> =
            self.doors.iter_mut().map(|door| (door.name.word(), std::mem::take(&mut door.kept))).collect();
        kept.push((Name::Http.word(), vec![OwnedFd::from(self.http().try_clone()?)]));
        Ok(kept)
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
        for door in self.doors.iter().filter(|door| !door.given) {
            if let Endpoint::Unix(path) = &door.endpoint {
                let _ = std::fs::remove_file(path);
            }
        }
    }

    /// The sockets of each of `shards` shards, in the order of [`Self::kinds`]. Called once. Connections accepted on them
    /// have send buffers of `send_buffer_bytes`; 0 leaves that to the kernel.
    ///
    /// # Errors
    /// [`BootError::Address`].
    pub fn sockets(
        &mut self,
        shards: usize,
        send_buffer_bytes: usize,
    ) -> Result<Vec<Vec<OwnedFd>>, BootError> {
        let mut sockets: Vec<Vec<_>> = (0..shards).map(|_| Vec::new()).collect();
        for door in &mut self.doors {
            let failed = |error: io::Error| address_error(door.name.key(), &error);
            let mut given = std::mem::take(&mut door.sockets);
            let opened = match given.len() {
                0 => listen_on(door.name.key(), &door.endpoint, shards)?.sockets,
                all if all == shards => given,
                // Sockets beyond the first would have backlogs that nobody accepts from: there are none.
                _ => {
                    let adopted = listen::adopt(&door.endpoint, given.remove(0), shards);
                    adopted.map_err(|error| address_error(door.name.key(), &error))?.sockets
                }
            };
            bound_send_buffers(door, &opened, send_buffer_bytes)?;
            door.held = None;
            door.kept = opened.iter().map(OwnedFd::try_clone).collect::<io::Result<_>>().map_err(failed)?;
            sockets.iter_mut().zip(opened).for_each(|(of_shard, socket)| of_shard.push(socket));
        }
        Ok(sockets)
    }
}

/// `clients.send_buffer_kib` on the sockets of a door.
fn bound_send_buffers(door: &Door, sockets: &[OwnedFd], bytes: usize) -> Result<(), BootError> {
    if bytes == 0 {
        return Ok(());
    }
    let key = door.name.key();
    let agreed = listen::bound_send_buffers(&door.endpoint, sockets, bytes)
        .map_err(|error| address_error(key, &error))?;
    if agreed < bytes {
        say!(
            Warn,
            "{key}: send buffers of {} KiB are all that net.core.wmem_max allows of clients.send_buffer_kib = {}",
            agreed >> 10,
            bytes >> 10
        );
    }
    Ok(())
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
