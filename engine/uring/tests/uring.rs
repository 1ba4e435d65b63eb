//! The reactor over a real ring: loopback connections, a hand-over between rings, wake-ups from sleep, log files,
//! and every degraded combination of features.
#![cfg(feature = "sys")]

mod conformance;

use std::sync::Arc;

use conformance::{Ended, Pair, talk};
use ringdesk_uring::kernel::Kernel as _;
use ringdesk_uring::sys::{Features, Fleet, SysConfig, SysKernel};

/// What a ring had to do without, and what it has.
type Found = (Vec<String>, Features);

fn start(name: &str, adjust: impl Fn(&mut SysConfig) + Clone + Send + 'static) -> Pair<Found> {
    let fleet = Fleet::new(2).expect("eventfds");
    Pair::start(name, move |shard, data, listeners| {
        let mut config = SysConfig::new(shard, data);
        config.entries = 256;
        adjust(&mut config);
        let kernel = SysKernel::open(&config, Arc::clone(&fleet), listeners).expect("a ring");
        let found = (kernel.notices().to_vec(), kernel.features());
        (kernel, found)
    })
}

fn expect(ended: Vec<Ended<Found>>, features: Features) {
    for Ended { found: (notices, found), .. } in ended {
        assert_eq!(found, features, "{notices:?}");
    }
}

#[test]
fn two_shards_serve_hand_over_wake_and_store() {
    let pair = start("all", |_| {});
    talk(&pair);
    expect(pair.stop_well(), Features::default());
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
        restricted: false,
        fd_install: false,
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
        Features { restricted: false, ..all },
    ];
    for (number, features) in combinations.into_iter().enumerate() {
        let pair = start(&format!("degraded-{number}"), move |config| {
            config.features = features;
            config.receive_buffers = 16;
            config.receive_buffer_bytes = 512;
            config.submission_entries = 4;
            config.completion_entries = 256;
        });
        talk(&pair);
        expect(pair.stop_well(), features);
    }
}

#[test]
fn an_idle_pair_sleeps() {
    conformance::an_idle_pair_sleeps(start("idle", |_| {}));
}

#[test]
fn connections_spread_over_several_rings() {
    for features in [Features::default(), Features { defer_taskrun: false, ..Features::default() }] {
        let fleet = Fleet::new(2).expect("eventfds");
        let pair = Pair::start("rings", move |shard, data, listeners| {
            let mut config = SysConfig::new(shard, data);
            (config.entries, config.table_entries, config.features) = (80, 16, features);
            let kernel = SysKernel::open(&config, Arc::clone(&fleet), listeners).expect("rings");
            assert_eq!((kernel.rings(), kernel.entries()), (5, 80));
            (kernel, ())
        });
        conformance::many_connections_speak_move_and_go(pair);
    }
}

#[test]
fn rings_sleep_together() {
    conformance::an_idle_pair_sleeps(start("idle-rings", |config| config.table_entries = 64));
}

#[test]
fn a_full_table_refuses_the_hand_over_and_pauses_the_accept() {
    let pair = start("full", |config| config.entries = if config.shard == 0 { 64 } else { 8 });
    conformance::a_full_table_refuses_the_hand_over_and_pauses_the_accept(pair);
}

#[test]
fn a_peer_that_is_still_sending_reads_the_whole_goodbye() {
    conformance::a_peer_that_is_still_sending_reads_the_whole_goodbye(start("goodbye", |_| {}));
}

#[test]
fn a_pair_that_stands_still_goes_on_where_it_was() {
    conformance::a_pair_that_stands_still_goes_on_where_it_was(start("still", |_| {}));
    // The accept has moved to another ring than its number says.
    let small = |config: &mut SysConfig| (config.entries, config.table_entries) = (16, 2);
    conformance::a_pair_that_stands_still_goes_on_where_it_was(start("still-rings", small));
}

#[test]
fn a_reactor_dropped_at_work_leaves_nothing_behind() {
    for _ in 0..3 {
        conformance::a_pair_dropped_at_work_leaves_nothing_behind(start("dropped", |_| {}));
    }
}
