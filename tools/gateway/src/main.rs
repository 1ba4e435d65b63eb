//! `ringdesk-gateway`: a line-oriented chat channel behind one gateway connection. An example for authors of gateways.
//!
//! The channel is a TCP listener. Each line a peer writes is `<visitor> <text>`; each line it gets is
//! `<visitor> <author> <text>`. There is one peer at a time, and the newest takes over. The connection to ringdeskd is
//! kept only while there is a peer: without one nobody could store what the server delivers, and the server keeps it.
//!
//! Order: `gateway` (all rules of the protocol, no input or output), then this file (sockets, threads and the clock).
//! Threads: one waits for peers, one reads each peer, one reads the server; all of them feed one bounded queue. When
//! it is full they wait, and TCP holds back whoever writes. The main thread owns everything else.

mod gateway;

use std::hash::{BuildHasher, RandomState};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::ExitCode;
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use gateway::{Gateway, Refusal};

const USAGE: &str =
    "usage: ringdesk-gateway [--server ADDRESS:PORT] [--listen ADDRESS:PORT] [--ticket-file FILE]
  --server       ringdeskd's binary address, 127.0.0.1:7801 by default
  --listen       where the chat channel connects, 127.0.0.1:7900 by default
  --ticket-file  a gateway ticket; without it RINGDESK_TICKET is read
";

/// Events that wait for the main thread.
const EVENTS_MAX: usize = 1024;
/// A peer or server that takes nothing for so long is given up.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
const RECONNECT_MS: u64 = 500;
const RECONNECT_MS_MAX: u64 = 30_000;
/// Longest line: a visitor id, a space, a text.
const LINE_BYTES_MAX: u64 = 64 + 1 + 65_536 + 2;

/// What the threads tell. Numbers tell a socket from its predecessors.
enum Event {
    Peer(TcpStream),
    Line(u64, String),
    PeerGone(u64),
    Server(u64, Vec<u8>),
    ServerGone(u64),
}

struct Settings {
    server: SocketAddr,
    listen: SocketAddr,
    ticket: String,
}

fn settings() -> Result<Settings, String> {
    let (mut server, mut listen, mut ticket) =
        ("127.0.0.1:7801".to_owned(), "127.0.0.1:7900".to_owned(), None);
    let mut args = std::env::args().skip(1);
    while let Some(name) = args.next() {
        let value = args.next().ok_or_else(|| USAGE.to_owned())?;
        match name.as_str() {
            "--server" => server = value,
            "--listen" => listen = value,
            "--ticket-file" => {
                let read = std::fs::read_to_string(&value);
                ticket = Some(read.map_err(|error| format!("cannot read {value}: {error}"))?);
            }
            _ => return Err(USAGE.to_owned()),
        }
    }
    let ticket = ticket.or_else(|| std::env::var("RINGDESK_TICKET").ok());
    let ticket =
        ticket.ok_or("a gateway ticket is needed: --ticket-file FILE or RINGDESK_TICKET")?.trim().to_owned();
    if ticket.is_empty() || ticket.len() > ringdesk_protocol::limits::TICKET_BYTES_MAX {
        return Err("the ticket is empty or longer than 4096 bytes".into());
    }
    let address = |text: &str| text.parse().map_err(|_| format!("{text} is not ADDRESS:PORT"));
    Ok(Settings { server: address(&server)?, listen: address(&listen)?, ticket })
}

fn main() -> ExitCode {
    let run = settings().and_then(|settings| {
        let listener = TcpListener::bind(settings.listen)
            .map_err(|error| format!("cannot listen on {}: {error}", settings.listen))?;
        eprintln!("channel on {}, server at {}", settings.listen, settings.server);
        let (tell, events) = sync_channel(EVENTS_MAX);
        let to_main = tell.clone();
        thread::spawn(move || {
            for peer in listener.incoming().flatten() {
                if to_main.send(Event::Peer(peer)).is_err() {
                    return;
                }
            }
        });
        let mut driver = Driver::new(settings, tell);
        loop {
            match events.recv_timeout(driver.wait()) {
                Ok(event) => driver.event(event),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => unreachable!("the driver holds a sender"),
            }
            driver.turn();
        }
    });
    match run {
        Ok(()) => ExitCode::SUCCESS,
        Err(sentence) => {
            eprintln!("{}", sentence.trim_end());
            ExitCode::from(2)
        }
    }
}

/// The main thread's state.
struct Driver {
    server: SocketAddr,
    tell: SyncSender<Event>,
    gateway: Gateway,
    start: Instant,
    sockets: u64,
    peer: Option<(u64, TcpStream)>,
    connection: Option<(u64, TcpStream)>,
    reconnect_ms: u64,
    backoff_ms: u64,
}

impl Driver {
    fn new(settings: Settings, tell: SyncSender<Event>) -> Self {
        Self {
            server: settings.server,
            tell,
            gateway: Gateway::new(settings.ticket, RandomState::new().hash_one("devices")),
            start: Instant::now(),
            sockets: 0,
            peer: None,
            connection: None,
            reconnect_ms: 0,
            backoff_ms: RECONNECT_MS,
        }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).expect("an uptime below 584 million years")
    }

    fn wait(&self) -> Duration {
        let at = match (&self.connection, &self.peer) {
            (Some(_), _) => self.gateway.next_ms(),
            (None, Some(_)) => self.reconnect_ms,
            (None, None) => return Duration::from_secs(3600),
        };
        Duration::from_millis(at.saturating_sub(self.now_ms()))
    }

    fn event(&mut self, event: Event) {
        let now_ms = self.now_ms();
        let of = |socket: &Option<(u64, TcpStream)>| socket.as_ref().map(|(number, _)| *number);
        match event {
            Event::Peer(stream) => self.take_peer(stream),
            Event::Line(number, line) if of(&self.peer) == Some(number) => {
                let (visitor, text) = line.split_once(' ').unwrap_or((&line, ""));
                let answer = match self.gateway.line(visitor, text) {
                    Ok(()) => return,
                    Err(Refusal::Malformed) => format!("{visitor} system expected: <visitor> <text>\n"),
                    Err(Refusal::Full) => format!("{visitor} system too many messages wait, try again\n"),
                };
                self.write_to_peer(answer.as_bytes());
            }
            Event::PeerGone(number) if of(&self.peer) == Some(number) => self.drop_peer(),
            Event::Server(number, bytes) if of(&self.connection) == Some(number) => {
                match self.gateway.received(&bytes, now_ms) {
                    Ok(()) => self.backoff_ms = RECONNECT_MS,
                    Err(end) => self.drop_connection(&end.sentence, end.retry_after_ms),
                }
            }
            Event::ServerGone(number) if of(&self.connection) == Some(number) => {
                self.drop_connection("the server closed the connection", 0);
            }
            // Of a socket that was given up.
            Event::Line(..) | Event::PeerGone(_) | Event::Server(..) | Event::ServerGone(_) => {}
        }
    }

    fn turn(&mut self) {
        let now_ms = self.now_ms();
        if self.peer.is_some() && self.connection.is_none() && now_ms >= self.reconnect_ms {
            self.connect(now_ms);
        }
        if self.connection.is_none() {
            return;
        }
        // Written to the peer's socket counts as stored. A channel that confirms would call `stored` on that.
        for item in self.gateway.take_items() {
            let line = item.line.as_ref().map(|line| format!("{} {line}\n", item.visitor));
            if !line.is_none_or(|line| self.write_to_peer(line.as_bytes())) {
                return;
            }
            self.gateway.stored(&item);
        }
        if let Err(end) = self.gateway.turn(now_ms) {
            return self.drop_connection(&end.sentence, end.retry_after_ms);
        }
        let output = self.gateway.take_output();
        if let Some((_, stream)) = &mut self.connection
            && let Err(error) = stream.write_all(&output)
        {
            self.drop_connection(&error.to_string(), 0);
        }
    }

    fn connect(&mut self, now_ms: u64) {
        match TcpStream::connect_timeout(&self.server, WRITE_TIMEOUT).and_then(prepared) {
            Ok((mut from, stream)) => {
                self.sockets += 1;
                let (number, tell) = (self.sockets, self.tell.clone());
                thread::spawn(move || {
                    let mut bytes = vec![0; 65_536];
                    while let Ok(count @ 1..) = from.read(&mut bytes) {
                        if tell.send(Event::Server(number, bytes[..count].to_vec())).is_err() {
                            return;
                        }
                    }
                    // Nobody listens any more when the process ends.
                    let _ = tell.send(Event::ServerGone(number));
                });
                self.connection = Some((number, stream));
                self.gateway.connected(now_ms);
            }
            Err(error) => self.drop_connection(&error.to_string(), 0),
        }
    }

    fn drop_connection(&mut self, sentence: &str, retry_after_ms: u32) {
        if let Some((_, stream)) = self.connection.take() {
            // Ends its reader too.
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
        self.gateway.disconnected();
        let wait_ms = self.backoff_ms.max(retry_after_ms.into());
        let jitter_ms = RandomState::new().hash_one(self.sockets) % (wait_ms / 2);
        self.reconnect_ms = self.now_ms() + wait_ms + jitter_ms;
        self.backoff_ms = (self.backoff_ms * 2).min(RECONNECT_MS_MAX);
        eprintln!("{sentence}; connecting again in {} ms", wait_ms + jitter_ms);
    }

    fn take_peer(&mut self, stream: TcpStream) {
        self.drop_peer();
        let Ok((from, stream)) = prepared(stream) else { return };
        self.sockets += 1;
        let (number, tell) = (self.sockets, self.tell.clone());
        thread::spawn(move || {
            let mut from = BufReader::new(from);
            let mut line = Vec::new();
            while let Ok(1..) = from.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line) {
                let Some(text) = line.strip_suffix(b"\n") else { break }; // Too long, or the end in the middle.
                let text = String::from_utf8_lossy(text.strip_suffix(b"\r").unwrap_or(text)).into_owned();
                if tell.send(Event::Line(number, text)).is_err() {
                    return;
                }
                line.clear();
            }
            let _ = tell.send(Event::PeerGone(number)); // As above.
        });
        self.peer = Some((number, stream));
        self.reconnect_ms = self.now_ms();
    }

    fn drop_peer(&mut self) {
        if let Some((_, stream)) = self.peer.take() {
            let _ = stream.shutdown(std::net::Shutdown::Both);
            if self.connection.is_some() {
                self.drop_connection("the channel's peer is gone", 0);
            }
        }
    }

    /// `false`: the peer is gone, and with it the connection.
    fn write_to_peer(&mut self, bytes: &[u8]) -> bool {
        let written = self.peer.as_mut().is_some_and(|(_, stream)| stream.write_all(bytes).is_ok());
        if !written {
            self.drop_peer();
        }
        written
    }
}

/// The reading and the writing end.
fn prepared(stream: TcpStream) -> std::io::Result<(TcpStream, TcpStream)> {
    stream.set_nodelay(true)?;
    stream.set_write_timeout(Some(WRITE_TIMEOUT))?;
    Ok((stream.try_clone()?, stream))
}
