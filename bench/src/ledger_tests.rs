//! Each check passes a sound conversation and catches each planted fault by its own name.

use super::*;

const VISITOR: u64 = 0x11;
const AGENT: u64 = 0x22;

fn message(device: u64, n: u64, seq: u64) -> Seen {
    Seen { seq, device, n, hash: device * 1000 + n }
}

fn state(seq: u64) -> Seen {
    Seen { seq, device: 0, n: 0, hash: 77 + seq }
}

fn entry(device: u64, n: u64, acked: u64) -> Entry {
    Entry { hash: device * 1000 + n, acked, intended_ns: n, owed: [true; 2] }
}

/// seq: 1 visitor n=1, 2 queued, 3 assigned, 4 agent n=1, 5 visitor n=2, 6 agent n=2, 7 resolved by the visitor.
fn sound() -> Conversation {
    let mut c = Conversation::new(VISITOR, AGENT);
    c.id = 9;
    c.sent[0] = vec![entry(VISITOR, 1, 1), entry(VISITOR, 2, 5)];
    c.sent[1] = vec![entry(AGENT, 1, 4), entry(AGENT, 2, 6)];
    c.views[0].seen = history();
    c.views[1].base = 3;
    c.views[1].seen = history().split_off(3);
    c
}

fn history() -> Vec<Seen> {
    vec![
        message(VISITOR, 1, 1),
        state(2),
        state(3),
        message(AGENT, 1, 4),
        message(VISITOR, 2, 5),
        message(AGENT, 2, 6),
        state(7),
    ]
}

#[test]
fn a_sound_conversation_passes_every_check() {
    let c = sound();
    for side in Side::BOTH {
        assert_eq!(check_view(&c, side), Faults::default(), "{side:?}");
    }
    assert_eq!(check_history(&c, &history()), Faults::default());
}

#[test]
fn a_lost_delivery_is_caught() {
    let mut c = sound();
    c.views[0].seen.remove(3);
    assert_eq!(check_view(&c, Side::Visitor), Faults { lost: 1, ..Faults::default() });
}

#[test]
fn a_delivery_lost_at_the_very_end_is_caught() {
    let mut c = sound();
    // The last message was acknowledged to the agent and the state after it was shown there: both are owed.
    c.views[0].seen.truncate(5);
    assert_eq!(check_view(&c, Side::Visitor), Faults { lost: 2, ..Faults::default() });
}

#[test]
fn an_own_message_that_does_not_come_back_is_caught() {
    let mut c = sound();
    c.views[0].seen.remove(4);
    assert_eq!(check_view(&c, Side::Visitor), Faults { lost: 1, ..Faults::default() });
}

#[test]
fn a_lost_state_is_caught() {
    let mut c = sound();
    c.views[0].seen.remove(1);
    assert_eq!(check_view(&c, Side::Visitor).lost, 1);
}

#[test]
fn a_repeated_delivery_is_caught() {
    let mut c = sound();
    c.views[1].seen.push(message(VISITOR, 2, 5));
    assert_eq!(check_view(&c, Side::Agent), Faults { duplicated: 1, ..Faults::default() });
}

#[test]
fn one_message_at_two_seqs_is_caught() {
    let mut c = sound();
    c.views[0].seen.push(message(AGENT, 2, 8));
    assert_eq!(check_view(&c, Side::Visitor), Faults { duplicated: 1, ..Faults::default() });
}

#[test]
fn swapped_arrivals_are_caught() {
    let mut c = sound();
    c.views[0].seen.swap(3, 4);
    assert_eq!(check_view(&c, Side::Visitor), Faults { reordered: 1, ..Faults::default() });
}

#[test]
fn messages_at_each_others_seq_are_caught() {
    let mut c = sound();
    c.views[0].seen[3] = message(AGENT, 2, 4);
    c.views[0].seen[5] = message(AGENT, 1, 6);
    assert_eq!(check_view(&c, Side::Visitor), Faults { reordered: 2, ..Faults::default() });
}

#[test]
fn another_body_and_a_message_of_nobody_are_caught() {
    let mut c = sound();
    c.views[0].seen[3].hash += 1;
    assert_eq!(check_view(&c, Side::Visitor).altered, 1);
    let mut c = sound();
    c.views[1].seen[1].device = 0x33;
    assert_eq!(check_view(&c, Side::Agent).altered, 1);
}

#[test]
fn history_without_an_acked_message_is_caught() {
    let mut lost = history();
    lost.remove(4);
    assert_eq!(check_history(&sound(), &lost), Faults { lost: 1, ..Faults::default() });
    let mut cut = history();
    cut.truncate(5);
    assert_eq!(check_history(&sound(), &cut), Faults { lost: 2, ..Faults::default() });
}

#[test]
fn a_history_that_renumbered_over_a_loss_is_caught() {
    // The visitor's second message vanished and what followed moved down: dense, yet not what was acknowledged.
    let renumbered = vec![
        message(VISITOR, 1, 1),
        state(2),
        state(3),
        message(AGENT, 1, 4),
        message(AGENT, 2, 5),
        state(6),
    ];
    let faults = check_history(&sound(), &renumbered);
    assert!(faults.lost >= 1 && faults.any(), "{faults}");
}

#[test]
fn history_with_a_repeat_is_caught() {
    let mut twice = history();
    twice.push(message(VISITOR, 2, 8));
    assert_eq!(check_history(&sound(), &twice), Faults { duplicated: 1, ..Faults::default() });
    let mut again = history();
    again.insert(5, message(VISITOR, 2, 5));
    assert_eq!(check_history(&sound(), &again), Faults { duplicated: 1, ..Faults::default() });
}

#[test]
fn history_out_of_order_is_caught() {
    let mut swapped = history();
    swapped.swap(3, 4);
    assert_eq!(check_history(&sound(), &swapped).reordered, 1);
    let mut moved = history();
    (moved[3].n, moved[5].n) = (2, 1);
    (moved[3].hash, moved[5].hash) = (moved[5].hash, moved[3].hash);
    assert!(check_history(&sound(), &moved).reordered >= 2);
}

#[test]
fn what_was_seen_live_must_stay_the_same() {
    let mut c = sound();
    c.views[0].seen[1].hash += 1;
    assert_eq!(check_history(&c, &history()), Faults { altered: 1, ..Faults::default() });
}

#[test]
fn a_missing_ack_is_counted() {
    let mut c = sound();
    c.sent[1][1].acked = 0;
    assert_eq!(c.unacked(), 1);
    assert_eq!(check_history(&c, &history()), Faults { unacked: 1, ..Faults::default() });
}

#[test]
fn a_message_is_owed_to_each_side_once() {
    let mut c = sound();
    for viewer in Side::BOTH {
        assert_eq!(c.shown(Side::Agent, viewer, 2), Some(2));
        assert_eq!(c.shown(Side::Agent, viewer, 2), None);
        assert_eq!(c.shown(Side::Agent, viewer, 3), None);
        assert_eq!(c.shown(Side::Agent, viewer, 0), None);
    }
}

#[test]
fn what_is_missing_is_named() {
    let mut c = sound();
    assert!(missing(&c, Side::Visitor, 9).is_empty());
    c.views[0].seen.retain(|item| item.seq != 2 && item.seq != 5);
    assert_eq!(missing(&c, Side::Visitor, 9), [2, 5]);
    assert_eq!(missing(&c, Side::Visitor, 1), [2]);
    assert!(missing(&c, Side::Agent, 9).is_empty());
}

#[test]
fn an_ack_is_taken_once_and_only_for_what_was_sent() {
    let mut c = sound();
    c.sent[1].push(entry(AGENT, 3, 0));
    assert_eq!(c.acked(Side::Agent, 3, 8), Ok(Some(3)));
    assert_eq!(c.acked(Side::Agent, 3, 8), Ok(None));
    assert!(c.acked(Side::Agent, 3, 9).is_err());
    assert!(c.acked(Side::Agent, 4, 9).is_err());
    assert!(c.acked(Side::Agent, 0, 9).is_err());
}
