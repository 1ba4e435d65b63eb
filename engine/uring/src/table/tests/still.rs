//! Before an upgrade: what is cancelled, what comes back, and going on in the middle of it.

use super::*;

/// The cancellation of `target`, and its completion.
fn cancelled(bench: &mut Bench, target: u64) {
    let (user, op) = bench.op();
    assert_eq!(op, Op::Cancel { target });
    bench.silent(user, 0, false);
}

#[test]
fn nobody_is_accepted_after_the_last_completion() {
    let mut bench = Bench::new();
    let accept = crate::table::user(crate::table::ACCEPT, 1, 0);
    bench.table.stand_still();
    cancelled(&mut bench, accept);
    assert!(!bench.table.is_quiet());
    // Who came before the cancellation took effect is passed on.
    let late = bench.accept(2);
    bench.silent(accept, -ECANCELED, false);
    assert!(bench.table.is_quiet() && !bench.table.has_ops());
    assert_eq!(bench.table.counts().accept_errors, 0);
    bench.table.go_on();
    let (again, op) = bench.op();
    assert_eq!(op, Op::AcceptMulti { listener: 0 });
    assert_ne!(again, accept);
    bench.table.receive(late, true);
    assert!(matches!(bench.op().1, Op::Receive { entry: 2, once: true }));
}

#[test]
fn an_accept_whose_cancellation_is_called_off_is_armed_again() {
    let mut bench = Bench::new();
    let accept = crate::table::user(crate::table::ACCEPT, 1, 0);
    bench.table.stand_still();
    cancelled(&mut bench, accept);
    bench.table.go_on();
    assert!(!bench.table.has_ops(), "it is still out");
    bench.silent(accept, -ECANCELED, false);
    assert_eq!(bench.op().1, Op::AcceptMulti { listener: 0 });
}

#[test]
fn a_listener_that_rests_after_an_error_is_armed_by_going_on_only() {
    let mut bench = Bench::new();
    let accept = crate::table::user(crate::table::ACCEPT, 1, 0);
    bench.silent(accept, -ENFILE, false);
    bench.table.stand_still();
    bench.table.expire(10 * ACCEPT_PAUSE_NS);
    assert!(!bench.table.has_ops() && bench.table.is_quiet());
    assert_eq!(bench.table.next_deadline_ns(), None);
    bench.table.go_on();
    assert_eq!(bench.op().1, Op::AcceptMulti { listener: 0 });
}

#[test]
fn a_single_shot_can_be_paused_and_asked_for_again() {
    let mut bench = Bench::new();
    let conn = bench.accept(3);
    bench.table.receive(conn, true);
    let (receive, _) = bench.op();
    bench.table.pause(conn);
    cancelled(&mut bench, receive);
    // Asked for again while the cancelled one is out: armed after its last completion, unless it brought bytes.
    bench.table.receive(conn, true);
    assert!(!bench.table.has_ops());
    bench.silent(receive, -ECANCELED, false);
    let (receive, op) = bench.op();
    assert_eq!(op, Op::Receive { entry: 3, once: true });
    bench.table.pause(conn);
    cancelled(&mut bench, receive);
    bench.table.receive(conn, true);
    assert!(matches!(bench.input(receive, 5, false), Input::Received { .. }));
    assert!(!bench.table.has_ops(), "a single-shot ends with its bytes");
    // A pause finds nothing to stop in the turn in which it completed.
    bench.table.pause(conn);
    assert!(!bench.table.has_ops());
}

#[test]
fn what_a_send_did_not_get_rid_of_comes_back() {
    let mut bench = Bench::new();
    let conn = bench.accept(1);
    let send = bench.send(conn, b"abcdef");
    bench.table.stand_still();
    bench.ops();
    bench.silent(send, 2, false);
    let (send, op) = bench.op();
    assert!(matches!(op, Op::Send { from: 2, len: 4, .. }), "patience: {op:?}");
    bench.table.take_back_sends();
    cancelled(&mut bench, send);
    match bench.input(send, -ECANCELED, false) {
        Input::Unsent { conn: back, buffer, from } => {
            assert_eq!((back, &buffer[..], from), (conn, &b"abcdef"[..], 2));
        }
        other => panic!("{other:?}"),
    }
    // From now on nothing is sent at all.
    bench.table.send(conn, b"more".to_vec());
    assert!(!bench.table.has_ops() && !bench.table.is_quiet());
    let mut effects = Effects::default();
    bench.table.give_back_sends(&mut effects);
    assert!(matches!(&effects.inputs[..], [Input::Unsent { buffer, from: 0, .. }] if buffer == b"more"));
}

#[test]
fn a_send_that_was_cancelled_in_part_or_not_at_all_says_so() {
    for (result, from) in [(6, None), (4, Some(4)), (-errno::EINTR, Some(0))] {
        let mut bench = Bench::new();
        let conn = bench.accept(1);
        let send = bench.send(conn, b"abcdef");
        bench.table.stand_still();
        bench.ops();
        bench.table.take_back_sends();
        cancelled(&mut bench, send);
        match (bench.input(send, result, false), from) {
            (Input::Sent { .. }, None) => {}
            (Input::Unsent { from: was, .. }, Some(from)) => assert_eq!(was, from),
            (input, from) => panic!("{input:?} for {from:?}"),
        }
    }
}

#[test]
fn a_send_goes_on_when_its_cancellation_is_called_off() {
    let mut bench = Bench::new();
    let conn = bench.accept(1);
    let send = bench.send(conn, b"abcdef");
    bench.table.stand_still();
    bench.ops();
    bench.table.take_back_sends();
    cancelled(&mut bench, send);
    bench.table.go_on();
    bench.silent(send, -ECANCELED, false);
    let (send, op) = bench.op();
    assert!(matches!(op, Op::Send { from: 0, len: 6, .. }), "{op:?}");
    assert!(matches!(bench.input(send, 6, false), Input::Sent { .. }));
}

#[test]
fn a_hand_over_or_a_disk_operation_is_not_quiet() {
    let mut bench = Bench::new();
    bench.table.stand_still();
    bench.ops();
    bench.silent(crate::table::user(crate::table::ACCEPT, 1, 0), -ECANCELED, false);
    assert!(bench.table.is_quiet());
    let mut effects = Effects::default();
    bench.table.state_arrived(1 << 48, state(), &mut effects);
    assert!(!bench.table.is_quiet(), "its descriptor is on its way");
    let conn = match bench.input(arrival(1 << 48), 4, false) {
        Input::HandedOver { conn, .. } => conn,
        other => panic!("{other:?}"),
    };
    assert!(bench.table.is_quiet());
    bench.table.hand_over(conn, 1, state());
    assert!(!bench.table.is_quiet());
    let (user, _) = bench.op();
    bench.complete(user, 0, false);
    assert!(bench.table.is_quiet(), "what closes does not count");
    bench.table.disk(read(1, 512));
    assert!(!bench.table.is_quiet());
}

#[test]
fn a_connection_of_another_process_is_let_go_without_a_shutdown() {
    let mut bench = Bench::new();
    let conn = bench.table.take_over(5);
    bench.table.receive(conn, false);
    let (receive, op) = bench.op();
    assert_eq!(op, Op::Receive { entry: 5, once: false });
    bench.table.pause(conn);
    cancelled(&mut bench, receive);
    bench.silent(receive, -ECANCELED, false);
    bench.table.forget(conn);
    let (close, op) = bench.op();
    assert_eq!(op, Op::Close { entry: 5 });
    bench.silent(close, 0, false);
    assert_eq!(bench.table.open(), 0);
}

#[test]
#[should_panic(expected = "while something is out on it")]
fn letting_go_of_a_connection_that_is_read_is_a_broken_invariant() {
    let mut bench = Bench::new();
    let (conn, _) = bench.receiving(3);
    bench.table.forget(conn);
}
