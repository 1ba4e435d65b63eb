//! The portable kernel does what the io_uring one does: the same suite over both, and what is its own.

#[path = "../../uring/tests/conformance/mod.rs"]
mod conformance;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use conformance::{Ended, Pair, talk};
use ringdesk_portable::{Fleet, PortableConfig, PortableKernel};
use ringdesk_uring::buffers::Buffers;
use ringdesk_uring::kernel::{Completion, Kernel, Op, WOKEN};

const ENOENT: i32 = 2;
const ENXIO: i32 = 6;
const ECANCELED: i32 = 125;

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
fn a_reactor_dropped_at_work_leaves_nothing_behind() {
    for _ in 0..3 {
        conformance::a_pair_dropped_at_work_leaves_nothing_behind(start("dropped", |_| {}));
    }
}

/// A kernel without a reactor around it.
struct Bare {
    kernel: PortableKernel,
    buffers: Buffers,
    arena: Vec<u8>,
    got: Vec<Completion>,
}

impl Bare {
    fn open(name: &str, listener: TcpListener) -> Self {
        let data = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("bare-{name}"));
        let fleet = Fleet::new(2).expect("eventfds");
        let config = PortableConfig::new(0, data);
        let kernel = PortableKernel::open(&config, fleet, vec![listener.into()]).expect("epoll");
        Self { kernel, buffers: Buffers::new(), arena: Vec::new(), got: Vec::new() }
    }

    fn submit(&mut self, user: u64, op: Op) {
        self.kernel.submit(user, op, &mut self.buffers);
    }

    /// The first completion of an operation from now on; others are kept for their own turn.
    fn wait(&mut self, user: u64) -> Completion {
        let until = Instant::now() + Duration::from_secs(5);
        loop {
            if let Some(at) = self.got.iter().position(|completion| completion.user == user) {
                return self.got.remove(at);
            }
            assert!(Instant::now() < until, "no completion of {user}");
            self.kernel.enter(Some(50_000_000)).expect("a kernel that can go on");
            self.kernel.reap(&mut self.buffers, &mut self.arena, &mut self.got);
        }
    }
}

#[test]
fn a_cancelled_operation_ends_once_and_a_late_wait_belongs_to_nobody() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    let mut bare = Bare::open("cancel", listener);
    bare.submit(1, Op::AcceptMulti { listener: 0 });
    let mut client = TcpStream::connect(address).expect("it listens");
    let accepted = bare.wait(1);
    assert!(accepted.more && accepted.result == 0, "{accepted:?}");
    bare.submit(2, Op::Receive { entry: 0, once: false });
    client.write_all(b"first").expect("room");
    let first = bare.wait(2);
    assert_eq!((first.result, first.more, &bare.arena[..]), (5, true, &b"first"[..]));
    // Bytes arrive, the wait is over, and then the receive is cancelled: the bytes stay in the socket.
    client.write_all(b"second").expect("room");
    std::thread::sleep(Duration::from_millis(20));
    bare.kernel.enter(None).expect("a look");
    bare.submit(3, Op::Cancel { target: 2 });
    let ended = bare.wait(2);
    assert_eq!((ended.result, ended.more), (-ECANCELED, false));
    bare.submit(4, Op::Receive { entry: 0, once: true });
    let second = bare.wait(4);
    assert_eq!((second.result, second.more), (6, false));
    bare.submit(5, Op::Cancel { target: 1 });
    assert_eq!(bare.wait(1).result, -ECANCELED);
    bare.submit(6, Op::Cancel { target: 999 });
    assert_eq!(bare.wait(6).result, 0, "nothing to cancel is no error");
    bare.submit(7, Op::Close { entry: 0 });
    assert_eq!(bare.wait(7).result, 0);
    assert_eq!(client.read(&mut [0; 1]).expect("closed"), 0);
    assert!(bare.got.iter().all(|completion| ![1, 2, 4].contains(&completion.user)), "{:?}", bare.got);
}

#[test]
fn errors_are_the_hosts_own_and_a_waker_works_from_anywhere() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    let mut bare = Bare::open("errors", listener);
    bare.submit(1, Op::Sync { log: 0, segment: 77 });
    assert_eq!(bare.wait(1).result, -ENOENT);
    bare.submit(2, Op::AcceptMulti { listener: 0 });
    let _client = TcpStream::connect(address).expect("it listens");
    let entry = bare.wait(2).result as u32;
    bare.submit(3, Op::SendDescriptor { entry, to: 1, token: 5 });
    assert_eq!(bare.wait(3).result, -ENXIO, "shard 1 is not open");
    let waker = bare.kernel.waker();
    std::thread::spawn(move || waker.wake()).join().expect("no panic");
    assert!(!bare.wait(WOKEN).more);
    // The bell of the finished sync may ring on its own.
    std::thread::sleep(Duration::from_millis(20));
    for _ in 0..3 {
        bare.kernel.enter(None).expect("a look");
        bare.kernel.reap(&mut bare.buffers, &mut bare.arena, &mut bare.got);
    }
    let slept = Instant::now();
    bare.kernel.enter(Some(30_000_000)).expect("a sleep");
    assert!(slept.elapsed() >= Duration::from_millis(25), "{:?}", slept.elapsed());
}
