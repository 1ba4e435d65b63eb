//! The swarm against a peer that speaks just enough of the protocol: what is tested is the clients' half. The peer is
//! one thread with a ring that accepts; it keeps each device's conversation across connections.

use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ringdesk_protocol::{Author, ClientMessage, Code, Content, ServerMessage};

use super::tickets::Tickets;
use super::visitors::Visitors;
use super::wire::{Heard, Wire};
use super::*;

/// What the peer does to a visitor's SEND.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Habit {
    /// Stores and acknowledges it.
    Good,
    /// Refuses every third one for now.
    Busy,
    /// Forgets to deliver every third one.
    Lossy,
}

/// One connection of the peer.
#[derive(Default)]
struct Line {
    device: u64,
    held: Vec<u8>,
}

struct Peer {
    habit: Habit,
    lines: BTreeMap<u32, Line>,
    /// The bodies of each device's conversation; seq is the place from 1.
    stored: BTreeMap<u64, Vec<Vec<u8>>>,
    asked: u64,
}

impl Peer {
    fn hear(&mut self, slot: u32, frame: Frame<'_>, out: &mut Vec<u8>) {
        self.asked += 1;
        let tag = frame.header.tag;
        match ClientMessage::decode(frame.header.kind, frame.body).expect("a client's frame") {
            ClientMessage::Hello { device, cursors, .. } => {
                self.lines.get_mut(&slot).expect("accepted").device = device;
                ServerMessage::Welcome {
                    version: 1,
                    epoch: 7,
                    session: 1,
                    at: 0,
                    heartbeat_s: 25,
                    frame_bytes_max: 1 << 20,
                    agent: 0,
                    identity: "v",
                    site: "s",
                }
                .encode(0, tag, out);
                for cursor in cursors {
                    assert_eq!((cursor.conversation(), cursor.epoch()), (device, 7));
                    let stored = &self.stored[&device];
                    for seq in cursor.seq() as usize + 1..=stored.len() {
                        deliver(device, seq as u64, &stored[seq - 1], out);
                    }
                }
            }
            ClientMessage::Open { n, .. } => {
                let device = self.lines[&slot].device;
                self.stored.entry(device).or_default();
                ServerMessage::Ack { conversation: device, seq: 0, n, duplicate: false }.encode(0, tag, out);
            }
            ClientMessage::Send { n, body, .. } => self.store(slot, tag, n, body, out),
            other => panic!("unexpected {other:?}"),
        }
    }

    fn store(&mut self, slot: u32, tag: u32, n: u64, body: &[u8], out: &mut Vec<u8>) {
        let device = self.lines[&slot].device;
        let third = self.asked.is_multiple_of(3);
        if self.habit == Habit::Busy && third {
            let sentence = "later";
            return ServerMessage::Reject {
                code: Code::Busy,
                of: 3,
                conversation: device,
                retry_after_ms: 5,
                detail: 0,
                sentence,
            }
            .encode(0, tag, out);
        }
        let stored = self.stored.get_mut(&device).expect("opened");
        let duplicate = n <= stored.len() as u64;
        if !duplicate {
            stored.push(body.to_vec());
        }
        ServerMessage::Ack { conversation: device, seq: n, n, duplicate }.encode(0, tag, out);
        let forgotten = duplicate || (self.habit == Habit::Lossy && third);
        if !forgotten {
            deliver(device, n, body, out);
        }
    }
}

fn deliver(device: u64, seq: u64, body: &[u8], out: &mut Vec<u8>) {
    ServerMessage::Deliver {
        conversation: device,
        seq,
        at: 0,
        author: Author::Visitor,
        agent: 0,
        device,
        n: seq,
        content: Content::Text,
        body,
    }
    .encode(0, 0, out);
}

fn serve(listener: TcpListener, slots: u32, habit: Habit, stop: &AtomicBool) {
    let to = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 1);
    let config = SocketRingConfig {
        slots,
        receive_buffers: 64,
        receive_buffer_bytes: 256,
        receive_socket_bytes: 0,
        to,
    };
    let mut ring = SocketRing::open(&config).expect("a ring");
    ring.accept(listener.into());
    let mut peer = Peer { habit, lines: BTreeMap::new(), stored: BTreeMap::new(), asked: 0 };
    let (mut events, mut arena) = (Vec::new(), Vec::new());
    while !stop.load(Ordering::Relaxed) {
        ring.turn(Some(5_000_000), &mut arena, &mut events);
        for event in std::mem::take(&mut events) {
            match event {
                SocketEvent::Accepted { slot } => drop(peer.lines.insert(slot, Line::default())),
                SocketEvent::Received { slot, from, len } => {
                    let mut held = std::mem::take(&mut peer.lines.get_mut(&slot).expect("accepted").held);
                    held.extend_from_slice(&arena[from..from + len]);
                    let mut out = Vec::new();
                    let taken = Wire::Binary.take(&held, &mut |heard| {
                        if let Heard::Frame(frame) = heard {
                            peer.hear(slot, frame, &mut out);
                        }
                    });
                    peer.lines.get_mut(&slot).expect("accepted").held =
                        held.split_off(taken.expect("frames"));
                    if let Some(outbox) = ring.outbox(slot) {
                        outbox.extend_from_slice(&out);
                    }
                }
                SocketEvent::Ended { slot, .. } => ring.abort(slot),
                SocketEvent::Closed { slot, .. } => drop(peer.lines.remove(&slot)),
                SocketEvent::Connected { .. } => panic!("the peer does not dial"),
            }
        }
        arena.clear();
    }
}

const CLIENTS: u32 = 200;

/// Runs `act` with a swarm of 200 visitors that are connected to a peer and have a conversation.
fn with_swarm(habit: Habit, act: impl FnOnce(&mut Swarm, &mut Visitors)) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let binary = listener.local_addr().expect("bound");
    let stop = Arc::new(AtomicBool::new(false));
    let peer = std::thread::spawn({
        let stop = Arc::clone(&stop);
        move || serve(listener, CLIENTS + 8, habit, &stop)
    });
    let mut tickets = Tickets::default();
    (0..CLIENTS).for_each(|_| tickets.push("ticket"));
    let mut visitors = Visitors::new(tickets, 1 << 24, 64);
    let ports = Ports { binary, websocket: binary, tls: binary };
    let mut swarm = Swarm::open(CLIENTS, ports, Transports::Binary, Instant::now()).expect("a ring");
    swarm.dial(0..CLIENTS);
    run(&mut swarm, &mut visitors, |visitors| visitors.ready == CLIENTS);
    act(&mut swarm, &mut visitors);
    drop(swarm);
    stop.store(true, Ordering::Relaxed);
    peer.join().expect("the peer saw nothing odd");
}

fn run(swarm: &mut Swarm, visitors: &mut Visitors, done: impl Fn(&Visitors) -> bool) {
    let end = swarm.now_ns() + Duration::from_secs(10).as_nanos() as u64;
    assert!(swarm.run(visitors, end, done), "not done in time: {:?}", visitors.seen);
}

fn say(swarm: &mut Swarm, visitors: &mut Visitors, who: Range<u32>) {
    for who in who {
        let now = swarm.now_ns();
        swarm.write(who, |reply| assert!(visitors.say(who, now, reply), "visitor {who} is not ready"));
    }
}

#[test]
fn everybody_is_greeted_answered_dropped_and_resumes_with_nothing_lost() {
    with_swarm(Habit::Good, |swarm, visitors| {
        for round in 1..=3 {
            say(swarm, visitors, 0..CLIENTS);
            run(swarm, visitors, |visitors| visitors.caught_up == CLIENTS);
            assert_eq!(visitors.acks, u64::from(round * CLIENTS));
        }
        // One more is on its way when all connections break.
        visitors.outage = true;
        say(swarm, visitors, 0..CLIENTS);
        swarm.turn(visitors, 0);
        (0..CLIENTS).for_each(|who| swarm.abort(who));
        run(swarm, visitors, |visitors| visitors.greeted == 0);
        run(swarm, visitors, |visitors| visitors.caught_up == CLIENTS);
        assert_eq!(visitors.seen.errors(), 0, "{:?}", visitors.seen);
        assert_eq!(visitors.seen.repeated, 0);
        assert_eq!((visitors.broken, visitors.returned), (CLIENTS, CLIENTS.into()));
        assert!((0..CLIENTS).all(|who| visitors.standing(who) == (4, 4)));
    });
}

#[test]
fn a_refusal_for_now_is_obeyed_and_tried_again() {
    with_swarm(Habit::Busy, |swarm, visitors| {
        say(swarm, visitors, 0..CLIENTS);
        run(swarm, visitors, |visitors| visitors.caught_up == CLIENTS);
        assert!(visitors.seen.busy > 0);
        assert_eq!(visitors.seen.errors(), 0, "{:?}", visitors.seen);
    });
}

#[test]
fn what_was_not_shown_is_noticed() {
    with_swarm(Habit::Lossy, |swarm, visitors| {
        for round in 1..=4 {
            say(swarm, visitors, 0..CLIENTS);
            run(swarm, visitors, |visitors| visitors.acks == u64::from(round * CLIENTS));
        }
        let end = swarm.now_ns() + 50_000_000;
        swarm.run(visitors, end, |_| false);
        assert!(visitors.caught_up < CLIENTS, "somebody lacks an item");
        assert!(visitors.seen.lost > 0 && visitors.seen.errors() >= visitors.seen.lost);
    });
}
