//! Connections whose last bytes went out, and peers that go on, end, fail or never come to an end.

use super::super::linger::{LINGER_BYTES_MAX, LINGER_NS};
use super::*;

/// A closed connection with a multishot receive armed: `user` of its shutdown and of its receive.
fn lingering(bench: &mut Bench, entry: i32) -> (u64, u64) {
    let (conn, receive) = bench.receiving(entry);
    bench.table.close(conn);
    let (shutdown, op) = bench.op();
    assert_eq!(op, Op::Shutdown { entry: conn.index });
    (shutdown, receive)
}

#[test]
fn a_close_waits_for_the_peers_end_and_drops_what_it_says() {
    for end_first in [false, true] {
        let mut bench = Bench::new();
        let (shutdown, receive) = lingering(&mut bench, 3);
        bench.silent(receive, 4096, true);
        if !end_first {
            bench.silent(shutdown, 0, false);
        }
        bench.silent(receive, 10, true);
        assert!(bench.ops().is_empty() && bench.table.lingering() == 1);
        bench.silent(receive, 0, false);
        if end_first {
            assert!(bench.ops().is_empty(), "closed while a shutdown is out");
            bench.silent(shutdown, 0, false);
        }
        let (close, op) = bench.op();
        assert_eq!(op, Op::Close { entry: 3 });
        bench.silent(close, 0, false);
        assert_eq!((bench.table.open(), bench.table.lingering()), (0, 0));
        assert_eq!(bench.table.counts().lingered, 1);
    }
}

#[test]
fn a_receive_that_is_not_armed_or_ends_is_armed_again() {
    let mut bench = Bench::new();
    let conn = bench.accept(0);
    bench.table.receive(conn, true);
    let (once, _) = bench.op();
    bench.input(once, 5, false);
    bench.table.close(conn);
    let ops = bench.ops();
    assert_eq!(ops[1].1, Op::Receive { entry: 0, once: false });
    for result in [7, -errno::ENOBUFS, -errno::EINTR] {
        bench.silent(ops[1].0, result, false);
        assert_eq!(bench.op(), ops[1]);
    }
    let other = bench.accept(1);
    bench.table.receive(other, true);
    let (once, _) = bench.op();
    bench.table.close(other);
    bench.ops();
    bench.silent(once, 5, false);
    assert_eq!(bench.op().1, Op::Receive { entry: 1, once: false });
}

#[test]
fn a_peer_that_never_ends_is_closed_in_time() {
    let mut bench = Bench::new();
    bench.table.expire(1_000);
    let (shutdown, receive) = lingering(&mut bench, 0);
    bench.silent(shutdown, 0, false);
    assert_eq!(bench.table.next_deadline_ns(), Some(1_000 + LINGER_NS));
    bench.table.expire(999 + LINGER_NS);
    assert!(bench.ops().is_empty());
    bench.table.expire(1_000 + LINGER_NS);
    assert_eq!(bench.op().1, Op::Cancel { target: receive });
    assert_eq!((bench.table.lingering(), bench.table.next_deadline_ns()), (0, None));
    bench.silent(receive, 3, true);
    bench.silent(receive, -ECANCELED, false);
    assert_eq!(bench.op().1, Op::Close { entry: 0 });
}

#[test]
fn a_peer_that_never_stops_is_closed_after_so_many_bytes() {
    let mut bench = Bench::new();
    let (shutdown, receive) = lingering(&mut bench, 0);
    bench.silent(shutdown, 0, false);
    bench.silent(receive, LINGER_BYTES_MAX as i32, true);
    assert!(bench.ops().is_empty());
    bench.silent(receive, 1, true);
    assert_eq!(bench.op().1, Op::Cancel { target: receive });
    bench.silent(receive, -ECANCELED, false);
    assert_eq!(bench.op().1, Op::Close { entry: 0 });
    bench.table.expire(LINGER_NS);
    assert!(bench.ops().is_empty());
}

#[test]
fn a_peer_that_is_gone_is_not_waited_for() {
    let mut bench = Bench::new();
    let (shutdown, receive) = lingering(&mut bench, 0);
    bench.silent(shutdown, -ENOTCONN, false);
    assert_eq!(bench.op().1, Op::Cancel { target: receive });
    bench.silent(receive, -ECONNRESET, false);
    assert_eq!(bench.op().1, Op::Close { entry: 0 });
    let (shutdown, receive) = lingering(&mut bench, 1);
    bench.silent(receive, -ECONNRESET, false);
    bench.silent(shutdown, -ENOTCONN, false);
    assert_eq!(bench.op().1, Op::Close { entry: 1 });
    assert_eq!(bench.table.lingering(), 0);
}

/// The entry serves its next connection while the time of the last one is not over.
#[test]
fn an_entry_that_lingered_before_is_left_alone() {
    let mut bench = Bench::new();
    for _ in 0..100 {
        let conn = bench.accept(0);
        let close = bench.close_out(conn);
        bench.silent(close, 0, false);
    }
    assert!(bench.table.lingering.len() <= 2 * 8 + 1, "{} items", bench.table.lingering.len());
    bench.receiving(0);
    bench.table.expire(LINGER_NS);
    assert!(bench.ops().is_empty());
    assert_eq!((bench.table.open(), bench.table.lingering.len()), (1, 0));
}

#[test]
#[should_panic(expected = "used, but the entry is")]
fn a_lingering_connection_is_not_the_shards_any_more() {
    let mut bench = Bench::new();
    let conn = bench.accept(0);
    bench.table.close(conn);
    bench.table.send(conn, b"late".to_vec());
}
