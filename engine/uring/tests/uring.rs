//! The reactor over a real ring: loopback connections, a hand-over between rings, wake-ups from sleep, log files,
//! and every degraded combination of features.
#![cfg(feature = "sys")]

mod conformance;

use std::sync::Arc;

use conformance::{Ended, Pair, talk};
use ringdesk_persist::Pages;
use ringdesk_uring::buffers::{BufferId, Buffers};
use ringdesk_uring::kernel::{Completion, Kernel as _, Op};
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

/// A kernel driven by hand.
struct Lone {
    kernel: SysKernel,
    buffers: Buffers,
}

impl Lone {
    fn open(name: &str, features: Features) -> Self {
        let config = SysConfig { features, ..SysConfig::new(0, conformance::folder(name)) };
        let fleet = Fleet::new(1).expect("an eventfd");
        let kernel = SysKernel::open(&config, fleet, Vec::new()).expect("a ring");
        assert_eq!((kernel.features(), kernel.notices()), (features, [].as_slice()));
        Self { kernel, buffers: Buffers::new() }
    }

    /// Carries out one operation on a buffer. Its result.
    fn carry_out(&mut self, op: Op, buffer: BufferId) -> i32 {
        self.buffers.lend(buffer);
        self.kernel.submit(1, op, &mut self.buffers);
        let mut out = Vec::new();
        while !out.iter().any(|completion: &Completion| completion.user == 1) {
            self.kernel.enter(Some(u64::MAX)).expect("a ring");
            self.kernel.reap(&mut self.buffers, &mut Vec::new(), &mut out);
        }
        self.buffers.give_back(buffer);
        out.iter().find(|completion| completion.user == 1).expect("it is there").result
    }

    fn transfer(&mut self, pages: Pages, op: impl FnOnce(BufferId) -> Op) -> Pages {
        let buffer = self.buffers.insert_pages(pages);
        let op = op(buffer);
        let (Op::Write { len, .. } | Op::Read { len, .. }) = op else { panic!("{op:?}") };
        assert_eq!(self.carry_out(op, buffer), len as i32);
        self.buffers.take_pages(buffer)
    }
}

#[test]
fn two_shards_serve_hand_over_wake_and_store() {
    let pair = start("all", |_| {});
    talk(&pair);
    expect(pair.stop_well(), Features::default());
}

/// One shard alone, without a reactor: what its log writes, and what that cost.
#[test]
fn the_log_writes_out_of_registered_memory_where_the_ring_has_it() {
    for (registered_buffers, direct_io) in [(true, true), (true, false), (false, true)] {
        let features = Features { registered_buffers, direct_io, ..Features::default() };
        let mut lone = Lone::open("registered", features);
        let mut supplied = lone.kernel.log_pages();
        assert_eq!(supplied.len(), if registered_buffers { 3 } else { 0 });
        assert!(lone.kernel.log_pages().is_empty(), "handed out once");
        let mut pages = supplied.pop().unwrap_or_else(|| Pages::zeroed(1 << 20));
        assert_eq!(pages.capacity(), 1 << 20);
        let header = lone.buffers.insert_pages(Pages::zeroed(512));
        lone.carry_out(Op::Create { log: 0, segment: 1, bytes: 4 << 20, header }, header);
        for (round, len) in [(1u8, 512usize), (2, 4096), (3, 1 << 20)] {
            pages.set_len(len);
            pages.as_bytes_mut().fill(round);
            pages = lone.transfer(pages, |buffer| Op::Write {
                log: 0,
                segment: 1,
                offset: 4096,
                buffer,
                from: 0,
                len: len as u32,
            });
            let read = lone.transfer(Pages::zeroed(len), |buffer| Op::Read {
                log: 0,
                segment: 1,
                offset: 4096,
                buffer,
                from: 0,
                len: len as u32,
            });
            assert!(read.as_bytes().iter().all(|byte| *byte == round), "{features:?}");
        }
        // Memory of anybody else is written as well, the ordinary way.
        lone.transfer(Pages::zeroed(512), |buffer| Op::Write {
            log: 0,
            segment: 1,
            offset: 4096,
            buffer,
            from: 0,
            len: 512,
        });
        // What remains of a short write starts inside the buffer.
        pages.set_len(8192);
        lone.transfer(pages, |buffer| Op::Write {
            log: 0,
            segment: 1,
            offset: 4096,
            buffer,
            from: 4096,
            len: 4096,
        });
        assert_eq!(lone.kernel.registered_writes(), if registered_buffers { 4 } else { 0 });
    }
}

#[test]
fn without_lockable_memory_for_them_the_logs_buffers_are_ordinary() {
    let fleet = Fleet::new(1).expect("an eventfd");
    let mut config = SysConfig::new(0, conformance::folder("unlockable"));
    // Larger than the kernel takes for one buffer: 1 GiB.
    (config.log_buffers, config.log_buffer_bytes) = (1, (1 << 30) + 4096);
    let mut kernel = SysKernel::open(&config, fleet, Vec::new()).expect("a ring all the same");
    assert!(kernel.log_pages().is_empty());
    assert_eq!(kernel.features(), Features { registered_buffers: false, ..Features::default() });
    assert_eq!(kernel.notices().len(), 1, "{:?}", kernel.notices());
    assert!(kernel.notices()[0].contains("pins the memory of each write"), "{:?}", kernel.notices());
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
        registered_buffers: false,
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
        Features { registered_buffers: false, ..all },
        Features { direct_io: false, registered_buffers: false, ..all },
        Features { registered_buffers: true, ..plain },
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
