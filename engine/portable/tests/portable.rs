//! The portable kernel does what the io_uring one does: the same suite over both, and what is its own.

#[path = "../../uring/tests/conformance/mod.rs"]
mod conformance;

use std::sync::Arc;

use conformance::{Ended, Pair, talk};
use ringdesk_portable::{Fleet, PortableConfig, PortableKernel};

fn start(name: &str, adjust: impl Fn(&mut PortableConfig) + Clone + Send + 'static) -> Pair<Vec<String>> {
    let fleet = Fleet::new(2).expect("eventfds");
    Pair::start(&format!("portable-{name}"), move |shard, data, listeners| {
        let mut config = PortableConfig::new(shard, data);
        config.entries = 256;
        adjust(&mut config);
        let kernel = PortableKernel::open(&config, Arc::clone(&fleet), listeners).expect("epoll");
        let notices = kernel.notices().to_vec();
        (kernel, notices)
    })
}

#[test]
fn two_shards_serve_hand_over_wake_and_store() {
    let pair = start("all", |_| {});
    talk(&pair);
    for Ended { found: notices, .. } in pair.stop_well() {
        assert!(notices.is_empty(), "{notices:?}");
    }
}

#[test]
fn small_bounds_and_buffered_writes_serve_the_same() {
    let pair = start("small", |config| {
        config.receive_bytes = 100;
        config.completions_per_turn = 1;
        config.direct_io = false;
    });
    talk(&pair);
    pair.stop_well();
}

#[test]
fn an_idle_pair_sleeps() {
    conformance::an_idle_pair_sleeps(start("idle", |_| {}));
}

#[test]
fn a_full_table_refuses_the_hand_over_and_pauses_the_accept() {
    let pair = start("full", |config| config.entries = if config.shard == 0 { 64 } else { 8 });
    conformance::a_full_table_refuses_the_hand_over_and_pauses_the_accept(pair);
}

#[test]
fn a_reactor_dropped_at_work_leaves_nothing_behind() {
    for _ in 0..3 {
        conformance::a_pair_dropped_at_work_leaves_nothing_behind(start("dropped", |_| {}));
    }
}
