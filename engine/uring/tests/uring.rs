//! The reactor over a real ring: loopback connections, a hand-over between rings, wake-ups from sleep, log files,
//! and every degraded combination of features.
#![cfg(feature = "sys")]

mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use common::Pair;
use ringdesk_uring::run::RunEnd;
use ringdesk_uring::sys::Features;

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

/// Everything the small shard can do, over both rings.
fn talk(pair: &Pair) {
    for shard in [0, 1] {
        let mut echo = pair.connect(shard);
        exchange(&mut echo, b"ehello", b"hello");
        exchange(&mut echo, b"again", b"again");

        let mut moved = pair.connect(shard);
        exchange(&mut moved, b"hover there", b"over there");
        exchange(&mut moved, b"still here", b"still here");
        exchange(&mut echo, b"both live", b"both live");

        std::thread::sleep(Duration::from_millis(30)); // Both shards sleep now.
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

fn stop_well(pair: Pair, expect: Features) {
    std::thread::sleep(Duration::from_millis(20)); // The closes of the clients reach the shards.
    for ended in pair.stop() {
        assert_eq!(ended.end, RunEnd::Stopped);
        assert_eq!((ended.table.handed_out, ended.table.handed_in), (1, 1));
        assert!(ended.table.accepted >= 4, "{:?}", ended.table);
        assert_eq!(ended.features, expect, "{:?}", ended.notices);
    }
}

#[test]
fn two_shards_serve_hand_over_wake_and_store() {
    let pair = Pair::start("all", |_| {});
    talk(&pair);
    stop_well(pair, Features::default());
}

#[test]
fn every_degraded_combination_serves_the_same() {
    let all = Features::default();
    let plain = Features {
        no_sqarray: false,
        defer_taskrun: false,
        single_issuer: false,
        coop_taskrun: false,
        registered_ring: false,
        msg_ring_wake: false,
        direct_io: false,
    };
    let combinations = [
        plain,
        Features { no_sqarray: false, ..all },
        Features { defer_taskrun: false, ..all },
        Features { defer_taskrun: false, single_issuer: false, ..all },
        Features { coop_taskrun: false, ..all },
        Features { coop_taskrun: true, ..plain },
        Features { registered_ring: false, ..all },
        Features { msg_ring_wake: false, ..all },
        Features { direct_io: false, ..all },
    ];
    for (number, features) in combinations.into_iter().enumerate() {
        let pair = Pair::start(&format!("degraded-{number}"), |config| {
            config.features = features;
            config.receive_buffers = 16;
            config.receive_buffer_bytes = 512;
            config.submission_entries = 4;
            config.completion_entries = 256;
        });
        talk(&pair);
        stop_well(pair, features);
    }
}

#[test]
fn an_idle_pair_sleeps() {
    let pair = Pair::start("idle", |_| {});
    exchange(&mut pair.connect(0), b"ehello", b"hello");
    std::thread::sleep(Duration::from_millis(300));
    for ended in pair.stop() {
        assert!(ended.reactor.turns < 50, "{:?}", ended.reactor);
    }
}

#[test]
fn a_full_table_refuses_the_hand_over_and_pauses_the_accept() {
    let pair = Pair::start("full", |config| config.entries = if config.shard == 0 { 64 } else { 8 });
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

#[test]
fn a_reactor_dropped_at_work_leaves_nothing_behind() {
    for _ in 0..3 {
        let pair = Pair::start("dropped", |_| {});
        let mut streams: Vec<TcpStream> = (0..20).map(|at| pair.connect(at % 2)).collect();
        for stream in &mut streams {
            exchange(stream, b"ex", b"x");
        }
        pair.stop();
        for stream in &mut streams {
            assert_gone(stream);
        }
    }
}
