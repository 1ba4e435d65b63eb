//! Rings against each other and against sockets of the standard library, over loopback.

use std::net::{Ipv4Addr, TcpListener};

use super::*;

fn ring(slots: u32, port: u16) -> SocketRing {
    let to = SocketAddrV4::new(Ipv4Addr::LOCALHOST, port);
    SocketRing::open(&SocketRingConfig {
        slots,
        receive_buffers: 16,
        receive_buffer_bytes: 64,
        receive_socket_bytes: 0,
        to,
    })
    .expect("a ring")
}

/// Turns until `done` says so with the events seen so far; received bytes are joined.
fn until(ring: &mut SocketRing, done: impl Fn(&[SocketEvent], &[u8]) -> bool) -> (Vec<SocketEvent>, Vec<u8>) {
    let (mut events, mut arena) = (Vec::new(), Vec::new());
    let started = Instant::now();
    while !done(&events, &arena) {
        assert!(started.elapsed() < Duration::from_secs(5), "{events:?}");
        ring.turn(Some(50_000_000), &mut arena, &mut events);
    }
    (events, arena)
}

#[test]
fn two_rings_talk_and_a_slot_is_used_again() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let (mut near, mut far) = (ring(4, port), ring(4, port));
    far.accept(listener.into());
    for round in 0..3 {
        near.dial(2);
        let (events, _) = until(&mut near, |events, _| !events.is_empty());
        assert_eq!(events, [SocketEvent::Connected { slot: 2 }], "round {round}");
        let (events, _) = until(&mut far, |events, _| !events.is_empty());
        let SocketEvent::Accepted { slot } = events[0] else { panic!("{events:?}") };
        // More than the pool holds, so that the receive starves and is armed again.
        let text: Vec<u8> = (0..20_000u32).map(|n| n as u8).collect();
        far.outbox(slot).expect("open").extend_from_slice(&text);
        let mut spare = (Vec::new(), Vec::new());
        far.turn(None, &mut spare.0, &mut spare.1);
        let (_, arena) = until(&mut near, |_, arena| arena.len() >= text.len());
        assert_eq!(arena, text);
        near.abort(2);
        assert!(near.outbox(2).is_none(), "a closing slot takes no bytes");
        let (events, _) = until(&mut near, |events, _| !events.is_empty());
        assert_eq!(events, [SocketEvent::Closed { slot: 2, errno: 0 }]);
        let (events, _) = until(&mut far, |events, _| !events.is_empty());
        assert_eq!(events, [SocketEvent::Ended { slot, errno: libc::ECONNRESET }]);
        far.abort(slot);
        until(&mut far, |events, _| !events.is_empty());
    }
    assert_eq!(near.flights.len(), near.flights_free.len(), "every buffer came back");
}

#[test]
fn nobody_there_is_a_closed_slot_with_its_reason() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("bound").port();
    drop(listener);
    let mut near = ring(1, port);
    for _ in 0..2 {
        near.dial(0);
        let (events, _) = until(&mut near, |events, _| !events.is_empty());
        assert_eq!(events, [SocketEvent::Closed { slot: 0, errno: libc::ECONNREFUSED }]);
    }
}

#[test]
fn a_deaf_connection_takes_no_bytes_until_it_listens_again() {
    use std::io::Write as _;
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let mut near = ring(1, port);
    near.dial(0);
    until(&mut near, |events, _| !events.is_empty());
    let (mut peer, _) = listener.accept().expect("dialled");
    near.stop_reading(0);
    let (mut events, mut arena) = (Vec::new(), Vec::new());
    for _ in 0..10 {
        near.turn(Some(1_000_000), &mut arena, &mut events);
    }
    peer.write_all(b"unheard").expect("the window takes it");
    for _ in 0..10 {
        near.turn(Some(1_000_000), &mut arena, &mut events);
    }
    assert!(arena.is_empty() && events.is_empty(), "{events:?}");
    near.read_again(0);
    let (_, arena) = until(&mut near, |_, arena| !arena.is_empty());
    assert_eq!(arena, b"unheard");
    near.abort(0);
    until(&mut near, |events, _| events == [SocketEvent::Closed { slot: 0, errno: 0 }]);
}

#[test]
fn a_ring_may_be_dropped_with_operations_out() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let mut near = ring(8, port);
    for slot in 0..8 {
        near.dial(slot);
    }
    until(&mut near, |events, _| events.len() == 8);
    near.outbox(0).expect("open").extend_from_slice(&vec![0; 8 << 20]);
    let (mut events, mut arena) = (Vec::new(), Vec::new());
    near.turn(None, &mut arena, &mut events);
    assert!(near.is_sending(0));
    let started = Instant::now();
    drop(near);
    assert!(started.elapsed() < Duration::from_secs(4), "the cancellation was not needed to time out");
}
