//! What every kernel that talks to a real host has to do, whatever carries it out: the portable backend's tests
//! include this module too.
//!
//! Order: a small shard that echoes, hands over, talks to its neighbour and uses the disk; two threads that run it
//! over a kernel of the caller's; what the clients see.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::ops::ControlFlow;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use ringdesk_desk::ids::{DeviceId, SiteId, Slot};
use ringdesk_persist::{DiskDone, DiskOp, LogId, OpId, Pages};
use ringdesk_ring::mesh;
use ringdesk_shard::io::{ConnId, Input, Inputs, ListenerKind, Now, Output, Outputs, Stand};
use ringdesk_shard::message::{HandOver, Identity, Principal, ShardMessage, Transport};
use ringdesk_uring::clock::HostClock;
use ringdesk_uring::kernel::Kernel;
use ringdesk_uring::listen::{self, Endpoint};
use ringdesk_uring::mailbox::{Letter, Mailbox};
use ringdesk_uring::reactor::{Limits, Reactor, ReactorCounts};
use ringdesk_uring::run::{News, RunEnd};
use ringdesk_uring::still::Settling;
use ringdesk_uring::table::TableCounts;
use ringdesk_uring::turn::Turn;

/// The first byte a client sends says what it wants:
/// `e` echo, and stop receiving after `enough!`; `g` let those go on that stopped; `h` hand over to the other shard, then echo; `m` ask the other shard; `d` create, write, sync, read; `b` say goodbye and close, also after `goodbye`.
#[derive(Default)]
pub struct Echo {
    shard: u16,
    peers: BTreeMap<ConnId, Peer>,
    asking: Option<ConnId>,
    disk: Option<ConnId>,
}

#[derive(Default)]
struct Peer {
    echoing: bool,
    sending: bool,
    stopped: bool,
    leaving: bool,
    waiting: Vec<u8>,
}

const PATTERN: u8 = 0xa5;
const LOG: LogId = LogId(0);
/// Fits into the buffers of a socket whose peer does not read.
const GOODBYE_BYTES: usize = 20_000;

fn state(unread: Vec<u8>) -> Box<HandOver> {
    let principal = Principal {
        site: SiteId(1),
        site_name: Arc::from("shop"),
        identity: Identity::Gateway,
        expires_s: 0,
        issued_s: 0,
    };
    Box::new(HandOver {
        transport: Transport::Stream,
        principal,
        device: DeviceId(1),
        tag: 0,
        cursors: Vec::new(),
        frames: Vec::new(),
        unread,
        deflate: None,
        tls: None,
        address: None,
    })
}

impl Echo {
    pub fn new(shard: u16) -> Self {
        Self { shard, ..Self::default() }
    }

    fn reply(&mut self, conn: ConnId, bytes: &[u8], outputs: &mut Outputs) {
        let Some(peer) = self.peers.get_mut(&conn) else { return };
        peer.waiting.extend_from_slice(bytes);
        if !peer.sending && !peer.waiting.is_empty() {
            peer.sending = true;
            outputs.events.push(Output::Send { conn, buffer: std::mem::take(&mut peer.waiting) });
        }
    }

    fn received(&mut self, conn: ConnId, bytes: &[u8], outputs: &mut Outputs) {
        if self.peers[&conn].leaving {
            return;
        }
        // On a busy machine what the peer sends next has arrived with the wish.
        let echoing = self.peers[&conn].echoing;
        if bytes.starts_with(if echoing { b"goodbye" } else { b"b" }) {
            self.peers.entry(conn).or_default().leaving = true;
            return self.reply(conn, &[PATTERN; GOODBYE_BYTES], outputs);
        }
        if self.peers[&conn].echoing {
            if bytes == b"enough!" {
                self.peers.entry(conn).or_default().stopped = true;
                outputs.events.push(Output::Pause { conn });
            }
            return self.reply(conn, bytes, outputs);
        }
        let other = 1 - self.shard;
        match bytes[0] {
            b'e' => {
                self.peers.entry(conn).or_default().echoing = true;
                outputs.events.push(Output::Receive { conn, once: false });
                self.reply(conn, &bytes[1..], outputs);
            }
            b'g' => {
                outputs.events.push(Output::Receive { conn, once: true });
                for (conn, peer) in self.peers.iter_mut().filter(|(_, peer)| peer.stopped) {
                    peer.stopped = false;
                    outputs.events.push(Output::Receive { conn: *conn, once: false });
                }
                self.reply(conn, b"gone on", outputs);
            }
            b'h' => {
                self.peers.remove(&conn);
                let state = state(bytes[1..].to_vec());
                outputs.events.push(Output::HandOver { conn, to: other, state });
            }
            b'm' => {
                outputs.events.push(Output::Receive { conn, once: true });
                self.asking = Some(conn);
                let message = ShardMessage::Confirm { from: Slot(0), to: Slot(1), upto: 7 };
                outputs.events.push(Output::ToShard { to: other, message });
            }
            b'd' => {
                outputs.events.push(Output::Receive { conn, once: true });
                self.disk = Some(conn);
                let header = Pages::zeroed(512);
                let create = DiskOp::Create { op: OpId(1), log: LOG, segment: 1, bytes: 1 << 20, header };
                outputs.events.push(Output::Disk(create));
            }
            other => panic!("unknown wish {other}"),
        }
    }

    fn stand(&mut self, stand: Stand, outputs: &mut Outputs) {
        let conns: Vec<ConnId> = self.peers.keys().copied().collect();
        match stand {
            Stand::Still => outputs.events.extend(conns.into_iter().map(|conn| Output::Pause { conn })),
            Stand::Collect => outputs.events.push(Output::Stood(Box::default())),
            Stand::GoOn => {
                for conn in conns {
                    let peer = self.peers.get_mut(&conn).expect("an open connection");
                    peer.sending = false;
                    let once = !peer.echoing;
                    outputs.events.push(Output::Receive { conn, once });
                    self.reply(conn, &[], outputs);
                }
            }
        }
    }

    fn disk_done(&mut self, done: DiskDone, outputs: &mut Outputs) {
        let conn = self.disk.expect("somebody asked");
        if let Err(errno) = done.result {
            return self.reply(conn, format!("errno {errno}").as_bytes(), outputs);
        }
        let (log, segment, offset) = (LOG, 1, 4096);
        let next = match done.op.0 {
            1 => {
                let mut pages = Pages::zeroed(8192);
                pages.as_bytes_mut().fill(PATTERN);
                DiskOp::Write { op: OpId(2), log, segment, offset, pages }
            }
            2 => DiskOp::Sync { op: OpId(3), log, segment },
            3 => DiskOp::Read { op: OpId(4), log, segment, offset, pages: Pages::zeroed(8192) },
            _ => {
                let pages = done.pages.expect("the buffer comes back");
                assert_eq!(done.result, Ok(8192));
                assert!(pages.as_bytes().iter().all(|byte| *byte == PATTERN));
                return self.reply(conn, b"stored", outputs);
            }
        };
        outputs.events.push(Output::Disk(next));
    }
}

impl Turn for Echo {
    fn step(&mut self, _now: Now, inputs: &mut Inputs, outputs: &mut Outputs) {
        let arena = std::mem::take(&mut inputs.bytes);
        for event in inputs.events.drain(..) {
            match event {
                Input::Accepted { conn, .. } => {
                    self.peers.insert(conn, Peer::default());
                    outputs.events.push(Output::Receive { conn, once: true });
                }
                Input::Received { conn, start, len } => {
                    self.received(conn, &arena[start as usize..][..len as usize], outputs);
                }
                Input::Sent { conn, .. } => {
                    let peer = self.peers.get_mut(&conn).expect("an open connection");
                    peer.sending = false;
                    if peer.leaving && peer.waiting.is_empty() {
                        self.peers.remove(&conn);
                        outputs.events.push(Output::Close { conn });
                    }
                    self.reply(conn, &[], outputs);
                }
                Input::Hangup { conn } => {
                    self.peers.remove(&conn).expect("an open connection");
                    outputs.events.push(Output::Close { conn });
                }
                Input::HandedOver { conn, state } => {
                    self.peers.insert(conn, Peer { echoing: true, ..Peer::default() });
                    outputs.events.push(Output::Receive { conn, once: false });
                    self.reply(conn, &state.unread, outputs);
                }
                Input::Disk(done) => self.disk_done(done, outputs),
                Input::FromShard { from, message: ShardMessage::Confirm { upto, .. } } => {
                    if let Some(conn) = self.asking.take() {
                        self.reply(conn, format!("answer {upto}").as_bytes(), outputs);
                    } else {
                        let message = ShardMessage::Confirm { from: Slot(1), to: Slot(0), upto: upto + 1 };
                        outputs.events.push(Output::ToShard { to: from, message });
                    }
                }
                Input::Stand(stand) => self.stand(stand, outputs),
                Input::Unsent { conn, buffer, from } => {
                    let peer = self.peers.get_mut(&conn).expect("an open connection");
                    // Still `sending`: nothing follows until the rest went out.
                    let rest = buffer[from as usize..].to_vec();
                    peer.waiting.splice(..0, rest);
                }
                Input::HandOverFailed { conn, .. } => outputs.events.push(Output::Close { conn }),
                other => panic!("{other:?}"),
            }
        }
        inputs.bytes = arena;
    }

    fn next_deadline_ns(&self) -> Option<u64> {
        None
    }
}

/// How a shard's thread ended. `found`: what the opener of its kernel wanted to remember.
pub struct Ended<F> {
    pub end: RunEnd,
    pub reactor: ReactorCounts,
    pub table: TableCounts,
    pub found: F,
}

/// Two shards on threads of their own.
pub struct Pair<F> {
    pub addresses: Vec<SocketAddr>,
    mailboxes: Vec<Mailbox>,
    /// What shards said that stand still.
    news: Receiver<(u16, News)>,
    threads: Vec<JoinHandle<Ended<F>>>,
}

/// A fresh folder for a test's logs.
fn folder(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&path);
    std::fs::create_dir_all(&path).expect("a folder");
    path
}

impl<F: Send + 'static> Pair<F> {
    /// `open` is called on the shard's thread with the shard's number, its data folder and its listener.
    pub fn start<K: Kernel>(
        name: &str,
        open: impl Fn(u16, PathBuf, Vec<OwnedFd>) -> (K, F) + Clone + Send + 'static,
    ) -> Self {
        let data = folder(name);
        let (mut addresses, mut mailboxes, mut threads) = (Vec::new(), Vec::new(), Vec::new());
        let (teller, news) = channel();
        for (shard, port) in (0u16..).zip(mesh(2, 64)) {
            let any = Endpoint::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
            let listening = listen::open(&any, 1).expect("a free port");
            let Endpoint::Tcp(address) = listening.endpoint else { unreachable!() };
            addresses.push(address);
            let (open, data) = (open.clone(), data.join(format!("{shard}")));
            let (started, mailbox) = channel();
            let teller = teller.clone();
            threads.push(std::thread::spawn(move || {
                let (kernel, found) = open(shard, data, listening.sockets);
                run(kernel, shard, port, (started, teller), found)
            }));
            mailboxes.push(mailbox.recv().expect("the shard starts"));
        }
        Self { addresses, mailboxes, news, threads }
    }

    pub fn connect(&self, shard: usize) -> TcpStream {
        let stream = TcpStream::connect(self.addresses[shard]).expect("the shard listens");
        stream.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
        stream
    }

    fn post(&self, letter: &Letter) {
        for mailbox in &self.mailboxes {
            mailbox.post(letter.clone()).expect("an empty mailbox");
        }
    }

    /// Until all stand still together, and have written down what they have.
    fn stand_still(&self) {
        self.post(&Letter::Still { patience: Duration::from_millis(20) });
        let mut settling = Settling::new(2);
        while !settling.is_still() {
            match self.news.recv_timeout(Duration::from_secs(10)).expect("they come to stand still") {
                (shard, News::Quiet(quiet)) => settling.tell(shard, quiet),
                other => panic!("{other:?}"),
            }
        }
        self.post(&Letter::Collect);
        for _ in 0..2 {
            let told = self.news.recv_timeout(Duration::from_secs(10)).expect("an answer");
            assert!(matches!(told.1, News::Still(_)), "{told:?}");
        }
    }

    pub fn stop(self) -> Vec<Ended<F>> {
        for mailbox in &self.mailboxes {
            mailbox.post(Letter::Stop).expect("an empty mailbox");
        }
        self.threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    }

    /// Stops a pair that [`talk`]ed, and looks at what it counted.
    pub fn stop_well(self) -> Vec<Ended<F>> {
        std::thread::sleep(Duration::from_millis(20)); // The closes of the clients reach the shards.
        let ended = self.stop();
        for Ended { end, table, .. } in &ended {
            assert_eq!(*end, RunEnd::Stopped);
            assert_eq!((table.handed_out, table.handed_in), (1, 1));
            assert!(table.accepted >= 4, "{table:?}");
        }
        ended
    }
}

fn run<K: Kernel, F>(
    kernel: K,
    shard: u16,
    port: ringdesk_ring::Port<ShardMessage>,
    (started, teller): (Sender<Mailbox>, Sender<(u16, News)>),
    found: F,
) -> Ended<F> {
    let mut reactor =
        Reactor::new(kernel, Echo::new(shard), port, &[ListenerKind::BINARY], Limits::default());
    started.send(reactor.mailbox()).expect("the test waits");
    let mut clock = HostClock::start();
    let end = reactor.run(&mut clock, Duration::ZERO, &mut |news| {
        if matches!(news, News::Quiet(_) | News::Still(_)) {
            // Only a test about standing still listens.
            let _ = teller.send((shard, news));
        }
        ControlFlow::Continue(())
    });
    let (counts, table) = reactor.counts();
    Ended { end, reactor: counts, table, found }
}

fn exchange(stream: &mut TcpStream, send: &[u8], expect: &[u8]) {
    stream.write_all(send).expect("the shard reads");
    let mut got = vec![0; expect.len()];
    stream.read_exact(&mut got).expect("the shard answers");
    assert_eq!(got, expect);
}

/// The other end is closed, as opposed to silent.
fn assert_gone(stream: &mut TcpStream) {
    match stream.read(&mut [0; 1]) {
        Ok(0) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        other => panic!("{other:?} on a connection that should be gone"),
    }
}

/// Everything the small shard can do, over both shards.
pub fn talk<F: Send + 'static>(pair: &Pair<F>) {
    for shard in [0, 1] {
        let mut echo = pair.connect(shard);
        exchange(&mut echo, b"ehello", b"hello");
        exchange(&mut echo, b"again", b"again");

        let mut moved = pair.connect(shard);
        exchange(&mut moved, b"hover there", b"over there");
        exchange(&mut moved, b"still here", b"still here");
        exchange(&mut echo, b"both live", b"both live");

        exchange(&mut echo, b"enough!", b"enough!");
        std::thread::sleep(Duration::from_millis(30)); // Both shards sleep now, and the pause has taken effect.
        echo.write_all(b"kept in the socket").expect("the socket has room");
        echo.set_read_timeout(Some(Duration::from_millis(50))).expect("a timeout");
        let early = echo.read(&mut [0; 1]).expect_err("nobody reads it yet");
        assert!(matches!(early.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{early}");
        echo.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
        exchange(&mut pair.connect(shard), b"g", b"gone on");
        exchange(&mut echo, b"", b"kept in the socket");

        exchange(&mut pair.connect(shard), b"m", b"answer 8");
        exchange(&mut pair.connect(shard), b"d", b"stored");
    }
    // Larger than all receive buffers together: starves, arms again, sends in parts.
    let mut echo = pair.connect(0);
    exchange(&mut echo, b"e", b"");
    let big: Vec<u8> = (0..3_000_000u32).map(|at| (at % 251) as u8).collect();
    let mut writer = echo.try_clone().expect("a second handle");
    let sent = big.clone();
    let writing = std::thread::spawn(move || writer.write_all(&sent).expect("the shard reads"));
    let mut got = vec![0; big.len()];
    echo.read_exact(&mut got).expect("the shard answers");
    writing.join().expect("no panic");
    assert!(got == big, "the echo differs");
}

/// A pair without work takes no turns.
pub fn an_idle_pair_sleeps<F: Send + 'static>(pair: Pair<F>) {
    exchange(&mut pair.connect(0), b"ehello", b"hello");
    std::thread::sleep(Duration::from_millis(300));
    for ended in pair.stop() {
        assert!(ended.reactor.turns < 50, "{:?}", ended.reactor);
    }
}

/// Shard 1 of the pair has 8 entries, shard 0 has more.
pub fn a_full_table_refuses_the_hand_over_and_pauses_the_accept<F: Send + 'static>(pair: Pair<F>) {
    let mut held: Vec<TcpStream> = (0..8).map(|_| pair.connect(1)).collect();
    for stream in &mut held {
        exchange(stream, b"ex", b"x");
    }
    // No room at shard 1: the small shard closes what could not be handed over.
    let mut refused = pair.connect(0);
    refused.write_all(b"hx").expect("the shard reads");
    assert_eq!(refused.read(&mut [0; 8]).expect("closed, not stuck"), 0);
    // A ninth connection at shard 1 is lost, and accepting goes on once there is room again.
    let mut lost = pair.connect(1);
    let _ = lost.write_all(b"ex"); // May find the connection gone already.
    assert_gone(&mut lost);
    drop(held);
    std::thread::sleep(Duration::from_millis(120));
    exchange(&mut pair.connect(1), b"eback", b"back");
    let ended = pair.stop();
    assert_eq!(ended[0].table.hand_overs_failed, 1);
    assert!(ended[1].table.accept_errors >= 1);
}

/// Sixty connections, half of them handed to the other shard, speak after a sleep, one at a time and all at once, go,
/// and make room for sixty more.
pub fn many_connections_speak_move_and_go<F: Send + 'static>(pair: Pair<F>) {
    for _ in 0..2 {
        let mut streams: Vec<TcpStream> = Vec::new();
        for at in 0..60 {
            let mut stream = pair.connect(at % 2);
            let wish: &[u8] = if at % 4 < 2 { b"ex" } else { b"hx" };
            exchange(&mut stream, wish, b"x");
            streams.push(stream);
        }
        std::thread::sleep(Duration::from_millis(30)); // Both shards sleep now.
        for (at, stream) in streams.iter_mut().enumerate() {
            let word = format!("word {at}");
            exchange(stream, word.as_bytes(), word.as_bytes());
        }
        std::thread::sleep(Duration::from_millis(30));
        streams.iter_mut().for_each(|stream| stream.write_all(b"all").expect("the shard reads"));
        streams.iter_mut().for_each(|stream| exchange(stream, b"", b"all"));
        drop(streams);
        std::thread::sleep(Duration::from_millis(30)); // The shards see them go.
    }
    for ended in pair.stop() {
        assert_eq!(ended.table.handed_in, 30);
        assert_eq!(ended.table.hand_overs_failed, 0);
        assert_eq!(ended.table.accepted, 60);
    }
}

/// A peer that is still sending when the shard says goodbye and closes reads the whole of it, and then the end, not a
/// reset: whether the shard was receiving or not, and whether the bytes came before the close or after.
pub fn a_peer_that_is_still_sending_reads_the_whole_goodbye<F: Send + 'static>(pair: Pair<F>) {
    let late = vec![0; 100 << 10];
    for (receiving, pause_ms) in [(false, 0), (false, 30), (true, 0), (true, 30)] {
        let mut stream = pair.connect(0);
        if receiving {
            exchange(&mut stream, b"ehello", b"hello");
        }
        stream.write_all(if receiving { b"goodbye" } else { b"b" }).expect("the shard reads");
        // The wish is read alone; after a pause the shard has closed before the rest is there.
        std::thread::sleep(Duration::from_millis(5 + pause_ms));
        for part in late.chunks(10 << 10) {
            stream.write_all(part).expect("the shard takes what is still to come");
        }
        std::thread::sleep(Duration::from_millis(20));
        let mut got = Vec::new();
        stream.read_to_end(&mut got).expect("the end of the stream, no reset");
        assert!(got == [PATTERN; GOODBYE_BYTES], "{} bytes of {GOODBYE_BYTES}", got.len());
    }
    std::thread::sleep(Duration::from_millis(20)); // The clients' ends reach the shard.
    let ended = pair.stop();
    assert_eq!(ended[0].table.lingered, 4);
}

/// Connections that were open when a pair stopped are closed.
pub fn a_pair_dropped_at_work_leaves_nothing_behind<F: Send + 'static>(pair: Pair<F>) {
    let mut streams: Vec<TcpStream> = (0..20).map(|at| pair.connect(at % 2)).collect();
    for stream in &mut streams {
        exchange(stream, b"ex", b"x");
    }
    pair.stop();
    for stream in &mut streams {
        assert_gone(stream);
    }
}

/// Bytes of a long echo: more than the buffers of two sockets hold.
const LONG_BYTES: usize = 12 << 20;

/// A client that does not read has half a send cancelled under it, another one connects meanwhile: when the shards go
/// on, the first reads every byte once and in order, and the second is served.
pub fn a_pair_that_stands_still_goes_on_where_it_was<F: Send + 'static>(pair: Pair<F>) {
    let mut slow = pair.connect(0);
    let bytes: Vec<u8> = (0..LONG_BYTES as u32 / 4).flat_map(u32::to_le_bytes).collect();
    let mut writing = slow.try_clone().expect("a second handle");
    let sent = bytes.clone();
    let writer = std::thread::spawn(move || {
        writing.write_all(b"e").expect("the shard reads");
        writing.write_all(&sent).expect("the shard reads on");
    });
    let mut moved = pair.connect(1);
    exchange(&mut moved, b"hover there", b"over there");
    let mut got = Vec::new();
    for _ in 0..3 {
        // The shard is in the middle of a send that finds no room.
        std::thread::sleep(Duration::from_millis(50));
        pair.stand_still();
        let mut late = pair.connect(0);
        late.write_all(b"ehello").expect("the backlog takes it");
        late.set_read_timeout(Some(Duration::from_millis(50))).expect("a timeout");
        let early = late.read(&mut [0; 1]).expect_err("nobody accepts");
        assert!(matches!(early.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{early}");
        pair.post(&Letter::GoOn);
        late.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
        exchange(&mut late, b"", b"hello");
        exchange(&mut moved, b"still here", b"still here");
        let mut part = vec![0; LONG_BYTES / 8];
        slow.read_exact(&mut part).expect("the echo goes on");
        got.append(&mut part);
    }
    let mut rest = vec![0; LONG_BYTES - got.len()];
    slow.read_exact(&mut rest).expect("the echo ends");
    got.append(&mut rest);
    let differs = got.iter().zip(&bytes).position(|(got, sent)| got != sent);
    assert_eq!(differs, None, "the stream was torn");
    writer.join().expect("the writer ends");
    pair.stop();
}
