//! A small shard that echoes, hands over, talks to its neighbour and uses the disk; and threads that run it.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use ringdesk_desk::ids::{DeviceId, SiteId, Slot};
use ringdesk_persist::{DiskDone, DiskOp, LogId, OpId, Pages};
use ringdesk_ring::mesh;
use ringdesk_shard::io::{ConnId, Input, Inputs, ListenerKind, Now, Output, Outputs};
use ringdesk_shard::message::{HandOver, Identity, Principal, ShardMessage, Transport};
use ringdesk_uring::clock::HostClock;
use ringdesk_uring::listen::{self, Endpoint};
use ringdesk_uring::mailbox::{Letter, Mailbox};
use ringdesk_uring::reactor::{Limits, Reactor, ReactorCounts};
use ringdesk_uring::run::RunEnd;
use ringdesk_uring::sys::{Features, Fleet, SysConfig, SysKernel};
use ringdesk_uring::table::TableCounts;
use ringdesk_uring::turn::Turn;

/// The first byte a client sends says what it wants:
/// `e` echo; `h` hand over to the other shard, then echo; `m` ask the other shard; `d` create, write, sync, read.
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
    waiting: Vec<u8>,
}

const PATTERN: u8 = 0xa5;
const LOG: LogId = LogId(0);

fn state(unread: Vec<u8>) -> Box<HandOver> {
    let principal = Principal {
        site: SiteId(1),
        site_name: Arc::from("shop"),
        identity: Identity::Gateway,
        expires_s: 0,
        issued_s: 0,
    };
    let (transport, device, cursors) = (Transport::Stream, DeviceId(1), Vec::new());
    Box::new(HandOver { transport, principal, device, tag: 0, cursors, frames: Vec::new(), unread })
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
        if self.peers[&conn].echoing {
            return self.reply(conn, bytes, outputs);
        }
        let other = 1 - self.shard;
        match bytes[0] {
            b'e' => {
                self.peers.entry(conn).or_default().echoing = true;
                outputs.events.push(Output::Receive { conn, once: false });
                self.reply(conn, &bytes[1..], outputs);
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
                    self.peers.get_mut(&conn).expect("an open connection").sending = false;
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

/// How a shard's thread ended.
pub struct Ended {
    pub end: RunEnd,
    pub reactor: ReactorCounts,
    pub table: TableCounts,
    pub notices: Vec<String>,
    pub features: Features,
}

/// Two shards on threads of their own.
pub struct Pair {
    pub addresses: Vec<SocketAddr>,
    mailboxes: Vec<Mailbox>,
    threads: Vec<JoinHandle<Ended>>,
}

/// A fresh folder for a test's logs.
pub fn folder(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&path);
    std::fs::create_dir_all(&path).expect("a folder");
    path
}

impl Pair {
    pub fn start(name: &str, adjust: impl Fn(&mut SysConfig)) -> Self {
        let fleet = Fleet::new(2).expect("eventfds");
        let data = folder(name);
        let (mut addresses, mut mailboxes, mut threads) = (Vec::new(), Vec::new(), Vec::new());
        for (shard, port) in (0u16..).zip(mesh(2, 64)) {
            let any = Endpoint::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
            let listening = listen::open(&any, 1).expect("a free port");
            let Endpoint::Tcp(address) = listening.endpoint else { unreachable!() };
            addresses.push(address);
            let mut config = SysConfig::new(shard, data.join(format!("{shard}")));
            config.entries = 256;
            adjust(&mut config);
            let fleet = Arc::clone(&fleet);
            let (started, mailbox) = channel();
            threads.push(std::thread::spawn(move || {
                let kernel = SysKernel::open(&config, fleet, listening.sockets).expect("a ring");
                let (notices, features) = (kernel.notices().to_vec(), kernel.features());
                run(kernel, shard, port, started, notices, features)
            }));
            mailboxes.push(mailbox.recv().expect("the shard starts"));
        }
        Self { addresses, mailboxes, threads }
    }

    pub fn connect(&self, shard: usize) -> TcpStream {
        let stream = TcpStream::connect(self.addresses[shard]).expect("the shard listens");
        stream.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
        stream
    }

    pub fn stop(self) -> Vec<Ended> {
        for mailbox in &self.mailboxes {
            mailbox.post(Letter::Stop).expect("an empty mailbox");
        }
        self.threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    }
}

fn run(
    kernel: SysKernel,
    shard: u16,
    port: ringdesk_ring::Port<ShardMessage>,
    started: Sender<Mailbox>,
    notices: Vec<String>,
    features: Features,
) -> Ended {
    let mut reactor =
        Reactor::new(kernel, Echo::new(shard), port, &[ListenerKind::Binary], Limits::default());
    started.send(reactor.mailbox()).expect("the test waits");
    let mut clock = HostClock::start();
    let end = reactor.run(&mut clock, Duration::ZERO, &mut |_news| ControlFlow::Continue(()));
    let (counts, table) = reactor.counts();
    Ended { end, reactor: counts, table, notices, features }
}
