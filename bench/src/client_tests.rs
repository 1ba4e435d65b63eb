//! Resume, outbox and dedup against frames written by hand.

use ringdesk_protocol::limits::FRAME_BYTES_MAX;
use ringdesk_protocol::{Author, frame};

use super::*;

const TALK: u64 = 0x77;

fn give(client: &mut Client, message: &ServerMessage<'_>, tag: u32) -> (Vec<Event>, Vec<u8>) {
    let (mut bytes, mut events, mut out) = (Vec::new(), Vec::new(), Vec::new());
    message.encode(0, tag, &mut bytes);
    let frame = frame::decode(&bytes, FRAME_BYTES_MAX as u32).unwrap().unwrap();
    client.take(1_000, frame.header, frame.body, &mut events, &mut out);
    (events, out)
}

fn welcome(epoch: u32) -> ServerMessage<'static> {
    ServerMessage::Welcome {
        version: 1,
        epoch,
        session: 1,
        at: 1,
        heartbeat_s: 30,
        frame_bytes_max: 131_072,
        agent: 0,
        identity: "v",
        site: "s",
    }
}

fn ack(seq: u64, n: u64) -> ServerMessage<'static> {
    ServerMessage::Ack { conversation: TALK, seq, n, duplicate: false }
}

fn deliver(seq: u64, device: u64, n: u64) -> ServerMessage<'static> {
    ServerMessage::Deliver {
        conversation: TALK,
        seq,
        at: 1,
        author: Author::Agent,
        agent: 1,
        device,
        n,
        content: Content::Text,
        body: b"x",
    }
}

/// The kinds and n of SENDs in written bytes.
fn sends(bytes: &[u8]) -> Vec<u64> {
    frame::frames(bytes, FRAME_BYTES_MAX as u32)
        .filter_map(|f| {
            let f = f.unwrap();
            match ClientMessage::decode(f.header.kind, f.body).unwrap() {
                ClientMessage::Send { n, .. } => Some(n),
                _ => None,
            }
        })
        .collect()
}

fn open_visitor() -> Client {
    let mut client = Client::new(Role::Visitor, 5, "t".into(), 64);
    let mut out = Vec::new();
    client.hello(&mut out);
    client.open(&mut out);
    let (events, out) = give(&mut client, &welcome(3), 0);
    assert_eq!(events, [Event::Welcome { epoch: 3, heartbeat_s: 30 }]);
    assert_eq!(frame::decode_header(&out, 1000).unwrap().unwrap().kind, 0x02, "OPEN follows WELCOME");
    let (events, _) = give(&mut client, &ack(0, 1), TAG_OPEN);
    assert_eq!(events, [Event::Opened { conversation: TALK, seq: 0 }]);
    client
}

fn cursor_in_hello(client: &mut Client) -> Vec<(u64, u32, u64)> {
    let mut out = Vec::new();
    client.hello(&mut out);
    let f = frame::decode(&out, FRAME_BYTES_MAX as u32).unwrap().unwrap();
    match ClientMessage::decode(f.header.kind, f.body).unwrap() {
        ClientMessage::Hello { cursors, .. } => {
            cursors.iter().map(|c| (c.conversation(), c.epoch(), c.seq())).collect()
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn unacknowledged_messages_are_sent_again_with_the_same_n() {
    let mut client = open_visitor();
    let mut out = Vec::new();
    for expected in 1..=3 {
        assert_eq!(client.send(TALK, &mut out).0, expected);
    }
    assert_eq!(sends(&out), [1, 2, 3]);
    give(&mut client, &ack(1, 1), 1);
    client.disconnected();
    out.clear();
    client.send(TALK, &mut out);
    assert!(out.is_empty(), "nothing is written without a connection");
    assert_eq!(cursor_in_hello(&mut client), [(TALK, 3, 0)]);
    let (_, out) = give(&mut client, &welcome(3), 0);
    assert_eq!(sends(&out), [2, 3, 4]);
    let (events, _) = give(&mut client, &ack(4, 2), 2);
    assert_eq!(events, [Event::Acked { conversation: TALK, n: 2, seq: 4 }]);
    let (_, out) = give(&mut client, &welcome(3), 0);
    assert_eq!(sends(&out), [3, 4]);
}

#[test]
fn items_move_the_cursor_acks_do_not_and_repeats_are_known() {
    let mut client = open_visitor();
    let mut out = Vec::new();
    client.send(TALK, &mut out);
    let item = |seq, device, repeat| Event::Item {
        conversation: TALK,
        seen: Seen { seq, device, n: seq, hash: body::hash(b"x") },
        own: device == 5,
        repeat,
    };
    give(&mut client, &ack(1, 1), 1);
    assert_eq!(cursor_in_hello(&mut client), [(TALK, 3, 0)], "the item itself has not come");
    assert_eq!(give(&mut client, &deliver(1, 5, 1), 0).0, [item(1, 5, false)]);
    assert_eq!(give(&mut client, &deliver(2, 9, 2), 0).0, [item(2, 9, false)]);
    assert_eq!(cursor_in_hello(&mut client), [(TALK, 3, 2)]);
    assert_eq!(give(&mut client, &deliver(2, 9, 2), 0).0, [item(2, 9, true)]);
    assert_eq!(give(&mut client, &deliver(1, 5, 1), 0).0, [item(1, 5, true)]);
    assert_eq!(cursor_in_hello(&mut client), [(TALK, 3, 2)]);
}

#[test]
fn presence_is_stated_again_after_every_welcome() {
    let mut client = Client::new(Role::Agent, 5, "t".into(), 64);
    let mut out = Vec::new();
    client.hello(&mut out);
    client.declare(Availability::Online, 7, &mut out);
    let present = ServerMessage::Ack { conversation: 0, seq: 0, n: 1, duplicate: false };
    for _ in 0..2 {
        let (_, out) = give(&mut client, &welcome(3), 0);
        assert_eq!(frame::decode_header(&out, 1000).unwrap().unwrap().kind, 0x08);
        assert_eq!(give(&mut client, &present, TAG_PRESENCE).0, [Event::Present]);
        assert_eq!(give(&mut client, &present, TAG_PRESENCE).0, [], "told once");
    }
    let busy = ServerMessage::Reject {
        code: Code::Busy,
        of: 0x08,
        conversation: 0,
        retry_after_ms: 3,
        detail: 0,
        sentence: "",
    };
    give(&mut client, &welcome(3), 0);
    assert_eq!(give(&mut client, &busy, TAG_PRESENCE).0, [Event::Busy]);
    out.clear();
    client.tick(3_000_999, &mut out);
    assert!(out.is_empty(), "not before its time");
    client.tick(3_001_000, &mut out);
    assert_eq!(frame::decode_header(&out, 1000).unwrap().unwrap().kind, 0x08);
}

#[test]
fn a_busy_refusal_holds_the_conversation_and_then_sends_it_again() {
    let mut client = open_visitor();
    let mut out = Vec::new();
    client.send(TALK, &mut out);
    client.send(TALK, &mut out);
    let reject = |code, retry_after_ms| ServerMessage::Reject {
        code,
        of: 0x03,
        conversation: TALK,
        retry_after_ms,
        detail: 0,
        sentence: "",
    };
    let (events, _) = give(&mut client, &reject(Code::Busy, 2), 1);
    assert_eq!(events, [Event::Busy]);
    assert_eq!(give(&mut client, &reject(Code::OutOfOrder, 0), 2).0, [], "the consequence is not told again");
    out.clear();
    client.send(TALK, &mut out);
    assert!(out.is_empty(), "held back");
    assert_eq!(client.resend_at_ns(), Some(2_001_000));
    client.tick(2_000_999, &mut out);
    assert!(out.is_empty());
    client.tick(2_001_000, &mut out);
    assert_eq!(sends(&out), [1, 2, 3]);
    assert_eq!(client.resend_at_ns(), None);
}

#[test]
fn a_changed_epoch_and_other_refusals_are_faults() {
    let mut client = open_visitor();
    let (events, _) = give(&mut client, &welcome(4), 0);
    assert!(matches!(&events[0], Event::Fault(what) if what.contains("declared a loss")), "{events:?}");
    let gap = ServerMessage::Gap { conversation: TALK, from: 1, to: 2 };
    assert!(matches!(give(&mut client, &gap, 0).0[0], Event::Fault(_)));
    let foreign = ServerMessage::Ack { conversation: 1, seq: 1, n: 1, duplicate: false };
    assert!(matches!(give(&mut client, &foreign, 1).0[0], Event::Fault(_)));
}
