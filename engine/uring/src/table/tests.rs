//! Each race of the table, by hand: completions in the order that hurts.

mod linger;
mod still;

use std::sync::Arc;

use ringdesk_desk::ids::{DeviceId, SiteId};
use ringdesk_persist::{DiskDone, DiskOp, LogId, OpId, Pages};
use ringdesk_shard::io::{ConnId, Input, ListenerKind};
use ringdesk_shard::message::{HandOver, Identity, Principal, ShardMessage, Transport};

use super::accept::ACCEPT_PAUSE_NS;
use super::disk::READS_OUT_MAX;
use super::{Effects, Table, errno};
use crate::kernel::{Completion, Op, arrival};

const ENOENT: i32 = 2;
const ENFILE: i32 = 23;
const ECONNRESET: i32 = 104;
const ENOTCONN: i32 = 107;
const ECANCELED: i32 = 125;

struct Bench {
    table: Table,
    now_ns: u64,
}

impl Bench {
    fn new() -> Self {
        let mut bench = Self { table: Table::new(0, 8, &[ListenerKind::BINARY]), now_ns: 0 };
        assert!(matches!(bench.ops()[..], [(_, Op::AcceptMulti { listener: 0 })]));
        bench
    }

    fn ops(&mut self) -> Vec<(u64, Op)> {
        self.table.take_ops().0.collect()
    }

    fn op(&mut self) -> (u64, Op) {
        let ops = self.ops();
        assert_eq!(ops.len(), 1, "{ops:?}");
        ops[0]
    }

    fn complete(&mut self, user: u64, result: i32, more: bool) -> Effects {
        let mut effects = Effects::default();
        let bytes = (result > 0).then_some(0);
        self.table.completed(self.now_ns, Completion { user, result, more, bytes }, &mut effects);
        effects
    }

    fn input(&mut self, user: u64, result: i32, more: bool) -> Input {
        let mut effects = self.complete(user, result, more);
        assert_eq!(effects.inputs.len(), 1, "{effects:?}");
        effects.inputs.remove(0)
    }

    fn silent(&mut self, user: u64, result: i32, more: bool) {
        let effects = self.complete(user, result, more);
        assert!(effects.inputs.is_empty() && effects.to_shards.is_empty(), "{effects:?}");
    }

    fn accept(&mut self, entry: i32) -> ConnId {
        match self.input(super::user(super::ACCEPT, 1, 0), entry, true) {
            Input::Accepted { conn, listener: ListenerKind::BINARY, peer: None } => conn,
            other => panic!("{other:?}"),
        }
    }

    /// An accepted connection with a multishot receive armed; gives the receive's `user`.
    fn receiving(&mut self, entry: i32) -> (ConnId, u64) {
        let conn = self.accept(entry);
        self.table.receive(conn, false);
        let (user, op) = self.op();
        assert_eq!(op, Op::Receive { entry: conn.index, once: false });
        (conn, user)
    }

    /// Closes a connection whose peer closes too; gives the `user` of the close, which is out.
    fn close_out(&mut self, conn: ConnId) -> u64 {
        self.table.close(conn);
        for (user, op) in self.ops() {
            let entry = conn.index;
            assert!(op == Op::Shutdown { entry } || op == Op::Receive { entry, once: false }, "{op:?}");
            self.silent(user, 0, false);
        }
        let (close, op) = self.op();
        assert_eq!(op, Op::Close { entry: conn.index });
        close
    }

    fn send(&mut self, conn: ConnId, bytes: &[u8]) -> u64 {
        self.table.send(conn, bytes.to_vec());
        let (user, op) = self.op();
        assert!(
            matches!(op, Op::Send { entry, from: 0, len, .. } if entry == conn.index && len as usize == bytes.len())
        );
        user
    }
}

fn state() -> Box<HandOver> {
    let principal = Principal {
        site: SiteId(1),
        site_name: Arc::from("shop"),
        identity: Identity::Visitor { visitor: Arc::from("v") },
        expires_s: 1,
        issued_s: 0,
    };
    Box::new(HandOver {
        transport: Transport::Stream,
        principal,
        device: DeviceId(1),
        tag: 7,
        cursors: Vec::new(),
        frames: Vec::new(),
        unread: vec![1, 2],
        deflate: None,
        tls: None,
        address: None,
    })
}

#[test]
fn close_waits_for_the_receive_and_the_send() {
    let mut bench = Bench::new();
    let (conn, receive) = bench.receiving(3);
    let send = bench.send(conn, b"bye");
    bench.table.close(conn);
    let ops = bench.ops();
    let targets: Vec<Op> = ops.iter().map(|(_, op)| *op).collect();
    assert_eq!(targets, [Op::Cancel { target: receive }, Op::Cancel { target: send }]);
    // The cancellations' own results say nothing, and bytes that raced with them are nobody's.
    bench.silent(ops[0].0, 0, false);
    bench.silent(receive, 10, true);
    bench.silent(send, -ECANCELED, false);
    assert!(bench.ops().is_empty(), "closed while a receive is armed");
    bench.silent(receive, -ECANCELED, false);
    let (close, op) = bench.op();
    assert_eq!(op, Op::Close { entry: 3 });
    assert_eq!(bench.table.open(), 1);
    bench.silent(close, 0, false);
    bench.silent(ops[1].0, -ENOENT, false);
    assert_eq!(bench.table.open(), 0);
    assert_eq!(bench.table.buffers.in_flight(), 0);
}

#[test]
fn close_when_the_send_had_reached_its_end() {
    let mut bench = Bench::new();
    let conn = bench.accept(0);
    let send = bench.send(conn, b"bye");
    bench.table.close(conn);
    let _cancel = bench.op();
    bench.silent(send, 3, false);
    assert_eq!(bench.op().1, Op::Close { entry: 0 });
}

#[test]
fn an_entry_reused_before_its_close_completed_is_a_new_connection() {
    let mut bench = Bench::new();
    let first = bench.accept(2);
    let close = bench.close_out(first);
    let second = bench.accept(2);
    assert_eq!(second, ConnId { index: 2, generation: first.generation + 1 });
    bench.silent(close, 0, false);
    assert_eq!(bench.table.counts().late, 1);
    bench.table.receive(second, false);
    assert_eq!(bench.table.open(), 1);
}

#[test]
fn a_late_completion_of_an_earlier_generation_is_ignored() {
    let mut bench = Bench::new();
    let (first, receive) = bench.receiving(1);
    assert!(matches!(bench.input(receive, 0, false), Input::Hangup { .. }));
    bench.table.close(first);
    let (close, _) = bench.op();
    bench.silent(close, 0, false);
    let (second, _) = bench.receiving(1);
    assert_ne!(first, second);
    bench.silent(receive, 10, true);
    bench.silent(receive, 0, false);
    assert_eq!(bench.table.counts().late, 2);
    assert!(bench.ops().is_empty());
}

#[test]
#[should_panic(expected = "was given away while Open")]
fn an_entry_in_use_is_never_given_away() {
    let mut bench = Bench::new();
    bench.accept(1);
    bench.accept(1);
}

#[test]
#[should_panic(expected = "beyond the table")]
fn an_entry_outside_the_table_is_a_broken_invariant() {
    Bench::new().accept(8);
}

#[test]
fn a_short_send_goes_on_with_the_remainder() {
    let mut bench = Bench::new();
    let conn = bench.accept(0);
    let first = bench.send(conn, b"abcdef");
    bench.silent(first, 2, false);
    let (second, op) = bench.op();
    let Op::Send { entry: 0, buffer, from: 2, len: 4 } = op else { panic!("{op:?}") };
    assert_eq!(bench.table.buffers.lent(buffer), b"abcdef");
    bench.silent(second, -errno::EINTR, false);
    let (third, op) = bench.op();
    assert!(matches!(op, Op::Send { from: 2, len: 4, .. }));
    match bench.input(third, 4, false) {
        Input::Sent { conn: of, buffer } => assert_eq!((of, &buffer[..]), (conn, &b"abcdef"[..])),
        other => panic!("{other:?}"),
    }
    assert_eq!(bench.table.buffers.in_flight(), 0);
}

#[test]
#[should_panic(expected = "second send while one is out")]
fn a_second_send_is_a_broken_invariant() {
    let mut bench = Bench::new();
    let conn = bench.accept(0);
    bench.send(conn, b"a");
    bench.table.send(conn, b"b".to_vec());
}

#[test]
#[should_panic(expected = "receive armed twice")]
fn a_second_receive_is_a_broken_invariant() {
    let mut bench = Bench::new();
    let (conn, _) = bench.receiving(0);
    bench.table.receive(conn, true);
}

#[test]
#[should_panic(expected = "used, but the entry is")]
fn use_after_close_is_a_broken_invariant() {
    let mut bench = Bench::new();
    let conn = bench.accept(0);
    bench.table.close(conn);
    bench.table.receive(conn, true);
}

#[test]
fn a_receive_without_a_buffer_is_armed_again() {
    let mut bench = Bench::new();
    let (_, receive) = bench.receiving(0);
    bench.silent(receive, -errno::ENOBUFS, false);
    assert_eq!(bench.op(), (receive, Op::Receive { entry: 0, once: false }));
    assert_eq!(bench.table.counts().receive_starved, 1);
    bench.silent(receive, -errno::EINTR, false);
    assert_eq!(bench.op(), (receive, Op::Receive { entry: 0, once: false }));
}

#[test]
fn a_multishot_receive_that_ends_with_bytes_is_armed_again_and_a_single_one_is_not() {
    let mut bench = Bench::new();
    let (conn, receive) = bench.receiving(0);
    assert!(matches!(bench.input(receive, 5, true), Input::Received { len: 5, .. }));
    assert!(bench.ops().is_empty());
    assert!(matches!(bench.input(receive, 5, false), Input::Received { .. }));
    assert_eq!(bench.op().1, Op::Receive { entry: 0, once: false });
    bench.table.close(conn);
    let other = bench.accept(1);
    bench.ops();
    bench.table.receive(other, true);
    let (once, op) = bench.op();
    assert_eq!(op, Op::Receive { entry: 1, once: true });
    assert!(matches!(bench.input(once, 5, false), Input::Received { .. }));
    assert!(bench.ops().is_empty());
    bench.table.receive(other, false);
}

#[test]
fn a_paused_receive_is_cancelled_and_goes_on_when_asked() {
    let mut bench = Bench::new();
    let (conn, receive) = bench.receiving(2);
    bench.table.pause(conn);
    assert_eq!(bench.op().1, Op::Cancel { target: receive });
    // What the kernel had taken before still arrives.
    assert!(matches!(bench.input(receive, 5, true), Input::Received { len: 5, .. }));
    bench.silent(receive, -ECANCELED, false);
    assert!(bench.ops().is_empty());
    bench.table.receive(conn, false);
    assert_eq!(bench.op(), (receive, Op::Receive { entry: 2, once: false }));
}

#[test]
fn a_pause_taken_back_is_armed_again_after_the_last_completion() {
    for last in [-ECANCELED, 7, -errno::ENOBUFS] {
        let mut bench = Bench::new();
        let (conn, receive) = bench.receiving(2);
        bench.table.pause(conn);
        bench.table.receive(conn, false);
        bench.table.pause(conn);
        bench.table.receive(conn, false);
        assert_eq!(bench.op().1, Op::Cancel { target: receive });
        bench.complete(receive, last, false);
        assert_eq!(bench.op().1, Op::Receive { entry: 2, once: false }, "after {last}");
        // The cancellation was late and hit the new one.
        bench.silent(receive, -ECANCELED, false);
        assert_eq!(bench.op().1, Op::Receive { entry: 2, once: false });
    }
}

#[test]
fn a_paused_connection_closes_and_hangs_up_like_others() {
    let mut bench = Bench::new();
    let (conn, receive) = bench.receiving(2);
    bench.table.pause(conn);
    bench.ops();
    assert!(matches!(bench.input(receive, 0, false), Input::Hangup { .. }));
    bench.table.receive(conn, false);
    bench.table.pause(conn);
    bench.table.close(conn);
    assert_eq!(bench.op().1, Op::Close { entry: 2 });
    let (conn, receive) = bench.receiving(3);
    bench.table.pause(conn);
    bench.ops();
    bench.table.close(conn);
    let (shutdown, op) = bench.op();
    assert_eq!(op, Op::Shutdown { entry: 3 });
    bench.silent(receive, -ECANCELED, false);
    assert_eq!(bench.op(), (receive, Op::Receive { entry: 3, once: false }), "it reads on to the end");
    bench.silent(shutdown, 0, false);
    bench.silent(receive, 0, false);
    assert_eq!(bench.op().1, Op::Close { entry: 3 });
}

#[test]
#[should_panic(expected = "pause of a receive")]
fn a_second_pause_is_a_broken_invariant() {
    let mut bench = Bench::new();
    let (conn, _) = bench.receiving(2);
    bench.table.pause(conn);
    bench.table.pause(conn);
}

#[test]
fn a_hang_up_is_said_once_and_what_follows_is_silent() {
    let mut bench = Bench::new();
    let (conn, receive) = bench.receiving(0);
    let send = bench.send(conn, b"x");
    assert!(matches!(bench.input(send, -ECONNRESET, false), Input::Hangup { conn: of } if of == conn));
    bench.silent(receive, 4, true);
    bench.silent(receive, 0, false);
    // Decided by the shard before it saw the hang-up.
    bench.table.receive(conn, false);
    bench.table.send(conn, b"y".to_vec());
    assert!(bench.ops().is_empty());
    bench.table.close(conn);
    assert_eq!(bench.op().1, Op::Close { entry: 0 });
}

#[test]
fn a_send_outlives_a_hang_up_until_the_close() {
    let mut bench = Bench::new();
    let (conn, receive) = bench.receiving(0);
    let send = bench.send(conn, b"xyz");
    assert!(matches!(bench.input(receive, 0, false), Input::Hangup { .. }));
    bench.silent(send, 1, false);
    assert!(bench.ops().is_empty(), "nobody waits for the rest");
    bench.table.close(conn);
    assert_eq!(bench.op().1, Op::Close { entry: 0 });
}

#[test]
fn accept_pauses_when_the_table_is_full() {
    let mut bench = Bench::new();
    bench.now_ns = 1000;
    let accept = super::user(super::ACCEPT, 1, 0);
    bench.silent(accept, -ENFILE, false);
    assert!(bench.ops().is_empty());
    let resume = bench.table.next_deadline_ns().expect("a pause has an end");
    assert_eq!(resume, 1000 + ACCEPT_PAUSE_NS);
    bench.table.expire(resume - 1);
    assert!(bench.ops().is_empty());
    bench.table.expire(resume);
    assert!(matches!(bench.op().1, Op::AcceptMulti { listener: 0 }));
    assert_eq!(bench.table.next_deadline_ns(), None);
}

#[test]
fn accept_goes_on_after_a_connection_that_was_lost_and_after_an_end() {
    let mut bench = Bench::new();
    bench.silent(super::user(super::ACCEPT, 1, 0), -errno::ECONNABORTED, false);
    let (user, op) = bench.op();
    assert_eq!(op, Op::AcceptMulti { listener: 0 });
    assert!(matches!(bench.input(user, 5, false), Input::Accepted { .. }));
    assert_eq!(bench.op().1, Op::AcceptMulti { listener: 0 });
    assert_eq!(bench.table.next_deadline_ns(), None);
}

#[test]
fn a_handed_over_connection_leaves_with_its_state() {
    let mut bench = Bench::new();
    let conn = bench.accept(4);
    bench.table.hand_over(conn, 1, state());
    let (user, op) = bench.op();
    let Op::SendDescriptor { entry: 4, to: 1, token } = op else { panic!("{op:?}") };
    let effects = bench.complete(user, 0, false);
    assert!(effects.inputs.is_empty());
    match &effects.to_shards[..] {
        [(1, ShardMessage::HandOver { token: sent, state: with })] => {
            assert_eq!((*sent, with), (token, &state()));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(bench.op().1, Op::Close { entry: 4 });
}

#[test]
fn a_hand_over_without_room_leaves_the_connection_open() {
    let mut bench = Bench::new();
    let conn = bench.accept(4);
    bench.table.hand_over(conn, 1, state());
    let (user, _) = bench.op();
    match bench.input(user, -ENFILE, false) {
        Input::HandOverFailed { conn: of, state: back } => assert_eq!((of, back), (conn, state())),
        other => panic!("{other:?}"),
    }
    assert!(bench.ops().is_empty());
    bench.table.receive(conn, false);
}

#[test]
#[should_panic(expected = "hand-over with a receive armed")]
fn a_hand_over_with_a_receive_armed_is_a_broken_invariant() {
    let mut bench = Bench::new();
    let (conn, _) = bench.receiving(0);
    bench.table.hand_over(conn, 1, state());
}

#[test]
#[should_panic(expected = "hand-over with a send out")]
fn a_hand_over_with_a_send_out_is_a_broken_invariant() {
    let mut bench = Bench::new();
    let conn = bench.accept(0);
    bench.send(conn, b"x");
    bench.table.hand_over(conn, 1, state());
}

#[test]
fn descriptor_and_state_join_in_either_order() {
    let token = (3 << 48) | 9;
    for descriptor_first in [true, false] {
        let mut bench = Bench::new();
        let mut effects = Effects::default();
        if descriptor_first {
            bench.silent(arrival(token), 6, false);
            bench.table.state_arrived(token, state(), &mut effects);
        } else {
            bench.table.state_arrived(token, state(), &mut effects);
            assert!(effects.inputs.is_empty());
            effects = bench.complete(arrival(token), 6, false);
        }
        match &effects.inputs[..] {
            [Input::HandedOver { conn, state: with }] => {
                assert_eq!((conn.index, with), (6, &state()));
                bench.table.receive(*conn, false);
            }
            other => panic!("{other:?}"),
        }
    }
}

fn write(op: u64, bytes: usize) -> DiskOp {
    let pages = Pages::zeroed(bytes);
    DiskOp::Write { op: OpId(op), log: LogId(2), segment: 5, offset: 4096, pages }
}

fn read(op: u64, bytes: usize) -> DiskOp {
    let pages = Pages::zeroed(bytes);
    DiskOp::Read { op: OpId(op), log: LogId(2), segment: 5, offset: 4096, pages }
}

fn done(input: Input) -> DiskDone {
    match input {
        Input::Disk(done) => done,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_short_write_goes_on_from_a_sector_boundary() {
    let mut bench = Bench::new();
    bench.table.disk(write(1, 4096));
    let (user, op) = bench.op();
    assert!(matches!(op, Op::Write { log: 2, segment: 5, offset: 4096, from: 0, len: 4096, .. }));
    bench.silent(user, 1100, false);
    let (user, op) = bench.op();
    assert!(matches!(op, Op::Write { offset: 5120, from: 1024, len: 3072, .. }), "{op:?}");
    let done = done(bench.input(user, 3072, false));
    assert_eq!((done.op, done.result), (OpId(1), Ok(4096)));
    assert_eq!(done.pages.map(|pages| pages.len()), Some(4096));
    assert_eq!((bench.table.buffers.in_flight(), bench.table.disk_pending()), (0, 0));
}

#[test]
fn a_failed_write_or_sync_is_passed_up_and_never_retried() {
    for error in [errno::EIO, errno::EINTR, errno::EAGAIN, ENOENT] {
        let mut bench = Bench::new();
        bench.table.disk(write(1, 512));
        let (user, _) = bench.op();
        assert_eq!(done(bench.input(user, -error, false)).result, Err(error));
        bench.table.disk(DiskOp::Sync { op: OpId(2), log: LogId(2), segment: 5 });
        let (user, op) = bench.op();
        assert_eq!(op, Op::Sync { log: 2, segment: 5 });
        assert_eq!(done(bench.input(user, -error, false)).result, Err(error));
        assert!(bench.ops().is_empty());
    }
}

#[test]
fn a_write_that_makes_no_progress_is_an_error() {
    let mut bench = Bench::new();
    bench.table.disk(write(1, 4096));
    let (user, _) = bench.op();
    assert_eq!(done(bench.input(user, 0, false)).result, Err(errno::EIO));
}

#[test]
fn reads_end_at_the_end_of_the_file_and_are_asked_again_when_interrupted() {
    let mut bench = Bench::new();
    bench.table.disk(read(1, 4096));
    let (user, _) = bench.op();
    bench.silent(user, -errno::EINTR, false);
    let (user, _) = bench.op();
    bench.silent(user, 1024, false);
    let (user, op) = bench.op();
    assert!(matches!(op, Op::Read { offset: 5120, from: 1024, len: 3072, .. }), "{op:?}");
    assert_eq!(done(bench.input(user, 0, false)).result, Ok(1024));
    bench.table.disk(read(2, 4096));
    let (user, _) = bench.op();
    assert_eq!(done(bench.input(user, 700, false)).result, Ok(700));
}

#[test]
fn reads_wait_their_turn_and_writes_do_not() {
    let mut bench = Bench::new();
    for op in 0..READS_OUT_MAX as u64 + 2 {
        bench.table.disk(read(op, 512));
    }
    let users: Vec<u64> = bench.ops().into_iter().map(|(user, _)| user).collect();
    assert_eq!(users.len(), READS_OUT_MAX);
    bench.table.disk(write(99, 512));
    assert!(matches!(bench.op().1, Op::Write { .. }));
    assert_eq!(done(bench.input(users[0], 512, false)).op, OpId(0));
    assert!(matches!(bench.op().1, Op::Read { .. }));
}

#[test]
fn a_segment_is_created_with_its_header() {
    let mut bench = Bench::new();
    let header = Pages::zeroed(512);
    bench.table.disk(DiskOp::Create { op: OpId(1), log: LogId(2), segment: 6, bytes: 1 << 20, header });
    let (user, op) = bench.op();
    assert!(matches!(op, Op::Create { log: 2, segment: 6, bytes: 1_048_576, .. }));
    let done = done(bench.input(user, 0, false));
    assert!(done.result.is_ok() && done.pages.is_some());
}
