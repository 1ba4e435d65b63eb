//! The oracle passes what is sound and finds what is not.

use super::*;

const ID: u64 = 7;

fn message(device: u64, n: u64, body: u64) -> Item {
    Item::Message { author: Author::Visitor, agent: 0, device, n, body, at: seq_stamp(n) }
}

fn seq_stamp(n: u64) -> u64 {
    n << 16
}

fn queued() -> Item {
    Item::State {
        status: Status::Queued,
        cause: Cause::FirstMessage,
        by: Author::Visitor,
        agent: 0,
        epoch: 0,
        at: 1,
    }
}

fn opened() -> Oracle {
    let mut oracle = Oracle::default();
    oracle.opened(1, 10, 1, ID, 0);
    for n in 1..=3 {
        oracle.asks(ID, 10, n, Asked::Body(n));
    }
    oracle
}

#[test]
fn a_sound_run_passes() {
    let mut oracle = opened();
    oracle.acked(ID, 10, 1, 1, Asked::Body(1));
    oracle.item(99, ID, 1, message(10, 1, 1));
    oracle.item(99, ID, 2, queued());
    oracle.item(99, ID, 3, message(10, 2, 2));
    oracle.close();
}

#[test]
#[should_panic(expected = "C1")]
fn a_lost_ack_is_found() {
    let mut oracle = opened();
    oracle.acked(ID, 10, 1, 1, Asked::Body(1));
    oracle.close();
}

#[test]
#[should_panic(expected = "C3")]
fn a_seq_used_twice_is_found() {
    let mut oracle = opened();
    oracle.item(99, ID, 1, message(10, 1, 1));
    oracle.item(98, ID, 1, message(10, 2, 2));
}

#[test]
#[should_panic(expected = "C4")]
fn a_key_recorded_twice_is_found() {
    let mut oracle = opened();
    oracle.item(99, ID, 1, message(10, 1, 1));
    oracle.item(99, ID, 2, queued());
    oracle.item(99, ID, 3, message(10, 1, 1));
}

#[test]
#[should_panic(expected = "never sent this")]
fn corrupt_bytes_are_found() {
    let mut oracle = opened();
    oracle.item(99, ID, 1, message(10, 1, 77));
}

#[test]
#[should_panic(expected = "C6")]
fn an_invented_receipt_is_found() {
    let mut oracle = opened();
    oracle.confirms(ID, Side::Visitor, Marks { delivered: 1, read: 0 });
    oracle.receipt(99, ID, Side::Visitor, Marks { delivered: 1, read: 1 });
}

#[test]
#[should_panic(expected = "C7")]
fn two_owners_of_one_epoch_are_found() {
    let mut oracle = opened();
    oracle.assigned(ID, 1, 4);
    oracle.assigned(ID, 2, 4);
}

const BOUNDS: Bounds = Bounds { cap: 10, answers: 5, pages: 5, conversations: 3 };

#[test]
fn what_keeps_its_bounds_passes() {
    opened().bounds(10, 20, 3, BOUNDS);
}

#[test]
#[should_panic(expected = "C8: an item was pushed")]
fn a_push_beyond_the_cap_is_found() {
    opened().bounds(11, 11, 0, BOUNDS);
}

#[test]
#[should_panic(expected = "C8: 21 bytes wait")]
fn more_than_cap_pages_and_answers_is_found() {
    opened().bounds(10, 21, 0, BOUNDS);
}

#[test]
#[should_panic(expected = "C8: a subscription waited for 4 turns")]
fn a_subscription_that_others_overtake_is_found() {
    opened().bounds(0, 0, 4, BOUNDS);
}

#[test]
fn an_open_repeated_is_the_same_conversation() {
    let mut oracle = opened();
    oracle.opened(1, 10, 2, ID + 1, 0);
    oracle.opened_again(1, 10, 1, ID, 0);
    oracle.opened_again(1, 10, 2, ID + 1, 0);
}

#[test]
#[should_panic(expected = "C4")]
fn an_old_open_that_names_another_conversation_is_found() {
    let mut oracle = opened();
    oracle.opened(1, 10, 2, ID + 1, 0);
    oracle.opened_again(1, 10, 1, ID + 1, 0);
}

#[test]
#[should_panic(expected = "never answered")]
fn a_duplicate_open_without_an_original_is_found() {
    opened().opened_again(1, 10, 2, ID, 0);
}

#[test]
#[should_panic(expected = "is expected")]
fn a_forgotten_n_is_found() {
    let mut oracle = opened();
    oracle.acked(ID, 10, 2, 3, Asked::Body(2));
    oracle.expected(ID, 10, 1);
}
