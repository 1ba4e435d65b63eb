//! What a kernel of this crate does beside the suite that it shares with io_uring's. The file that includes this says
//! which one is meant.

use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ringdesk_persist::Pages;
use ringdesk_portable::{Fleet, PortableConfig};
use ringdesk_uring::buffers::Buffers;
use ringdesk_uring::kernel::{Completion, Kernel, Op, WOKEN};

use crate::conformance::{self, Ended, Pair, talk};
use crate::{NAME, Under};

const ENOENT: i32 = 2;
const ENXIO: i32 = 6;
pub const ECANCELED: i32 = 125;

fn start(name: &str, adjust: impl Fn(&mut PortableConfig) + Clone + Send + 'static) -> Pair<Vec<String>> {
    let fleet = Fleet::new(2).expect("eventfds");
    Pair::start(&format!("{NAME}-{name}"), move |shard, data, listeners| {
        let mut config = PortableConfig::new(shard, data);
        config.entries = 256;
        adjust(&mut config);
        let kernel = Under::open(&config, Arc::clone(&fleet), listeners).expect("a kernel");
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
        (config.receive_bytes, config.completions_per_turn, config.direct_io) = (100, 1, false);
    });
    talk(&pair);
    pair.stop_well();
}

#[test]
fn an_idle_pair_sleeps() {
    conformance::an_idle_pair_sleeps(start("idle", |_| {}));
}

#[test]
fn many_connections_speak_move_and_go() {
    conformance::many_connections_speak_move_and_go(start("many", |_| {}));
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
}

#[test]
fn a_kernel_dropped_at_work_leaves_nothing_behind() {
    for _ in 0..3 {
        conformance::a_pair_dropped_at_work_leaves_nothing_behind(start("dropped", |_| {}));
    }
}

/// A kernel driven by hand.
pub struct Bare {
    pub kernel: Under,
    pub buffers: Buffers,
    pub arena: Vec<u8>,
    pub got: Vec<Completion>,
}

impl Bare {
    pub fn open(name: &str, listener: Option<TcpListener>) -> Self {
        let data = conformance::folder(&format!("{NAME}-{name}"));
        let fleet = Fleet::new(2).expect("eventfds");
        let listeners = listener.map(OwnedFd::from).into_iter().collect();
        let kernel = Under::open(&PortableConfig::new(0, data), fleet, listeners);
        let kernel = kernel.expect("a kernel");
        Self { kernel, buffers: Buffers::new(), arena: Vec::new(), got: Vec::new() }
    }

    pub fn submit(&mut self, user: u64, op: Op) {
        self.kernel.submit(user, op, &mut self.buffers);
    }

    pub fn look(&mut self) {
        self.kernel.enter(None).expect("a look");
        self.kernel.reap(&mut self.buffers, &mut self.arena, &mut self.got);
    }

    pub fn wait(&mut self, user: u64) -> Completion {
        let started = Instant::now();
        loop {
            if let Some(at) = self.got.iter().position(|completion| completion.user == user) {
                return self.got.remove(at);
            }
            assert!(started.elapsed() < Duration::from_secs(5), "nothing of {user:#x}: {:?}", self.got);
            self.kernel.enter(Some(50_000_000)).expect("a sleep");
            self.kernel.reap(&mut self.buffers, &mut self.arena, &mut self.got);
        }
    }
}

/// A send larger than the socket waits without a turn of its own, and a cancelled one ends.
#[test]
fn a_send_waits_for_room_and_can_be_cancelled() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    let mut bare = Bare::open("room", Some(listener));
    bare.submit(1, Op::AcceptMulti { listener: 0 });
    let mut client = TcpStream::connect(address).expect("it listens");
    let entry = bare.wait(1).result as u32;
    let buffer = bare.buffers.insert_bytes(vec![7; 16 << 20]);
    bare.buffers.lend(buffer);
    let (mut from, mut user) = (0, 2);
    let left = loop {
        bare.submit(user, Op::Send { entry, buffer, from, len: (16 << 20) - from });
        for _ in 0..5 {
            bare.look();
        }
        match bare.got.iter().position(|completion| completion.user == user) {
            Some(at) => from += bare.got.remove(at).result as u32,
            None => break (16 << 20) - from,
        }
        user += 1;
    };
    assert!(left > 0 && from > 0, "{from} bytes went, {left} wait");
    bare.submit(100, Op::Cancel { target: user });
    assert_eq!(bare.wait(user).result, -ECANCELED);
    bare.submit(101, Op::Send { entry, buffer, from, len: 1 });
    let reading = std::thread::spawn(move || {
        let mut got = vec![0; from as usize + 1];
        client.read_exact(&mut got).expect("all that was sent");
        got
    });
    assert_eq!(bare.wait(101).result, 1);
    assert!(reading.join().expect("no panic").iter().all(|byte| *byte == 7));
}

#[test]
fn files_tell_errors_short_reads_and_ends() {
    let mut bare = Bare::open("files", None);
    let pages = bare.buffers.insert_pages(Pages::zeroed(8192));
    bare.buffers.lend(pages);
    let read = |offset| Op::Read { log: 0, segment: 9, offset, buffer: pages, from: 0, len: 8192 };
    bare.submit(1, read(0));
    assert_eq!(bare.wait(1).result, -ENOENT);
    bare.submit(2, Op::Create { log: 0, segment: 9, bytes: 12_288, header: pages });
    assert_eq!(bare.wait(2).result, 0);
    bare.submit(3, read(8192));
    assert_eq!(bare.wait(3).result, 4096, "the file ends");
    bare.submit(4, read(12_288));
    assert_eq!(bare.wait(4).result, 0);
    bare.submit(5, Op::Sync { log: 0, segment: 9 });
    assert_eq!(bare.wait(5).result, 0);
}

#[test]
fn descriptors_for_nobody_come_back_and_sleeps_end_in_time() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    let mut bare = Bare::open("alone", Some(listener));
    bare.submit(1, Op::AcceptMulti { listener: 0 });
    let _client = TcpStream::connect(address).expect("it listens");
    let entry = bare.wait(1).result as u32;
    bare.submit(2, Op::SendDescriptor { entry, to: 1, token: 5 });
    assert_eq!(bare.wait(2).result, -ENXIO, "shard 1 is not open");
    let waker = bare.kernel.waker();
    std::thread::spawn(move || waker.wake()).join().expect("no panic");
    assert_eq!(bare.wait(WOKEN).result, 0);
    for _ in 0..3 {
        bare.look();
    }
    let slept = Instant::now();
    bare.kernel.enter(Some(30_000_000)).expect("a sleep");
    assert!(slept.elapsed() >= Duration::from_millis(25), "{:?}", slept.elapsed());
}
