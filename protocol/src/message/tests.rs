//! Tests of the binary form.

use proptest::prelude::*;

use super::*;
use crate::Code;
use crate::frame::{decode, decode_header};
use crate::limits::*;
use crate::samples;

fn limit() -> u32 {
    FRAME_BYTES_MAX as u32
}

/// For each sample: it comes back as it went, cut anywhere it is refused, and appended bytes change nothing.
macro_rules! check_samples {
    ($samples:expr, $enum:ident) => {
        for (name, channel, tag, message) in $samples {
            let mut bytes = vec![0xEE];
            message.encode(channel, tag, &mut bytes);
            let frame = decode(&bytes[1..], limit()).expect(name).expect(name);
            assert_eq!(frame.wire_bytes(), bytes.len() - 1, "{name}");
            assert_eq!((frame.header.channel, frame.header.tag), (channel, tag), "{name}");
            assert_eq!(frame.header.kind, message.kind(), "{name}");
            assert_eq!($enum::decode(frame.header.kind, frame.body), Ok(message), "{name}");
            for cut in 0..frame.body.len() {
                let error = $enum::decode(frame.header.kind, &frame.body[..cut]).expect_err(name);
                assert_eq!(error.code(), Code::Malformed, "{name} cut at {cut}");
            }
            let grown = [frame.body, b"\xFFfuture"].concat();
            assert_eq!($enum::decode(frame.header.kind, &grown), Ok(message), "{name}");
            let spans: usize = message.spans().iter().map(|span| span.bytes).sum();
            assert_eq!(spans, frame.body.len(), "{name}");
        }
    };
}

#[test]
fn every_message_comes_back_and_every_cut_is_refused() {
    check_samples!(samples::client(), ClientMessage);
    check_samples!(samples::server(), ServerMessage);
}

#[test]
fn the_samples_cover_every_kind() {
    for (kind, name) in ClientMessage::KINDS {
        assert!(samples::client().iter().any(|sample| sample.3.kind() == *kind), "{name}");
        assert_eq!(kind_from_name(kind_name(*kind)), Some(*kind));
    }
    for (kind, name) in ServerMessage::KINDS {
        assert!(samples::server().iter().any(|sample| sample.3.kind() == *kind), "{name}");
    }
    assert_eq!(
        (kind_name(0x55), kind_from_name("unknown"), kind_from_name("ack")),
        ("unknown", Some(0), None)
    );
}

#[test]
fn unknown_kinds_are_refused_in_both_directions() {
    for kind in 0..=255u8 {
        let known = ClientMessage::KINDS.iter().any(|(number, _)| *number == kind);
        assert_eq!(ClientMessage::decode(kind, &[]) == Err(WireError::UnknownKind), !known, "{kind:#04x}");
        let known = ServerMessage::KINDS.iter().any(|(number, _)| *number == kind);
        assert_eq!(ServerMessage::decode(kind, &[]) == Err(WireError::UnknownKind), !known, "{kind:#04x}");
    }
}

fn body_of(message: &ClientMessage<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    message.encode(0, 0, &mut bytes);
    bytes.split_off(HEADER_BYTES)
}

fn send(body: &[u8]) -> ClientMessage<'_> {
    ClientMessage::Send { conversation: 1, n: 1, owner_epoch: 0, content: Content::Text, body }
}

#[test]
fn bounds_are_checked_before_the_bytes_are_looked_for() {
    let too_large = |field, max| Err(WireError::TooLarge { field, max });
    let full = vec![b'a'; BODY_BYTES_MAX];
    let mut body = body_of(&send(&full));
    assert_eq!(ClientMessage::decode(0x03, &body), Ok(send(&full)));
    body[21..25].copy_from_slice(&(BODY_BYTES_MAX as u32 + 1).to_le_bytes());
    assert_eq!(ClientMessage::decode(0x03, &body), too_large("body", BODY_BYTES_MAX));
    body[21..25].copy_from_slice(&u32::MAX.to_le_bytes());
    assert_eq!(ClientMessage::decode(0x03, &body), too_large("body", BODY_BYTES_MAX));

    let open = [&[0; 8][..], &65u16.to_le_bytes()].concat();
    assert_eq!(ClientMessage::decode(0x02, &open), too_large("topic", TOPIC_BYTES_MAX));
    let hello = |ticket: u16, cursors: u16| {
        let mut body = b"RDK1\x01\x01\x01".to_vec();
        body.extend_from_slice(&[1; 8]);
        body.extend_from_slice(&ticket.to_le_bytes());
        body.extend(std::iter::repeat_n(b't', usize::from(ticket).min(TICKET_BYTES_MAX)));
        body.extend_from_slice(&cursors.to_le_bytes());
        body
    };
    assert_eq!(ClientMessage::decode(0x01, &hello(4_097, 0)), too_large("ticket", TICKET_BYTES_MAX));
    assert_eq!(ClientMessage::decode(0x01, &hello(0, 257)), too_large("cursors", CURSORS_MAX));
    assert_eq!(ClientMessage::decode(0x01, &hello(0, 1)), Err(WireError::Missing { field: "cursors" }));
    let bind = |length: u16| [&[0; 12][..], &length.to_le_bytes()].concat();
    assert_eq!(ClientMessage::decode(0x09, &bind(65)), too_large("visitor", VISITOR_BYTES_MAX));
    assert_eq!(ClientMessage::decode(0x09, &bind(0)), Err(WireError::Invalid { field: "visitor" }));
}

#[test]
fn a_full_hello_fits_its_bound() {
    let ticket = "t".repeat(TICKET_BYTES_MAX);
    let cursors = [Cursor::new(1, 2, 3); CURSORS_MAX];
    let hello = ClientMessage::Hello {
        version_min: 1,
        version_max: 1,
        role: Role::Visitor,
        device: 1,
        ticket: &ticket,
        cursors: &cursors,
    };
    let mut bytes = Vec::new();
    hello.encode(0, 0, &mut bytes);
    assert!(decode_header(&bytes, HELLO_BYTES_MAX as u32).is_ok());
}

#[test]
fn bad_values_are_named() {
    let mut body = body_of(&send(b"hi"));
    body[20] = 3;
    assert_eq!(ClientMessage::decode(0x03, &body), Err(WireError::Invalid { field: "content" }));
    body[20] = 0;
    body[25] = 0xFF;
    assert_eq!(ClientMessage::decode(0x03, &body), Err(WireError::NotUtf8 { field: "body" }));
    let typing = [&[0; 8][..], &[2]].concat();
    assert_eq!(ClientMessage::decode(0x05, &typing), Err(WireError::Invalid { field: "on" }));
    let hello = [b"RDK2", &[1u8; 16][..]].concat();
    assert_eq!(ClientMessage::decode(0x01, &hello), Err(WireError::Magic));
    assert_eq!(WireError::Magic.code(), Code::BadHandshake);
    assert_eq!(ClientMessage::decode(0x01, b"RDK"), Err(WireError::Missing { field: "magic" }));
    assert_eq!(ClientMessage::decode(0x01, b"RDK1\x01\x01"), Err(WireError::Missing { field: "role" }));
}

#[test]
fn long_sentences_are_clipped_at_a_character() {
    let long = "字".repeat(300);
    let mut bytes = Vec::new();
    ServerMessage::Goodbye { code: Code::Idle, retry_after_ms: 0, sentence: &long }.encode(0, 0, &mut bytes);
    let frame = decode(&bytes, limit()).expect("a good frame").expect("a whole frame");
    let Ok(ServerMessage::Goodbye { sentence, .. }) = ServerMessage::decode(frame.header.kind, frame.body)
    else {
        panic!("a goodbye");
    };
    assert_eq!(sentence, "字".repeat(170));
}

#[test]
fn a_queue_lists_no_more_than_its_bound() {
    let entries = (0..80).map(|number| QueueEntry { conversation: number, since: 0, visitor: "v" });
    let mut scratch = Vec::new();
    let entries = QueueEntries::build(entries, &mut scratch);
    assert_eq!((entries.len(), entries.is_empty()), (QUEUE_ENTRIES_MAX, false));
    assert_eq!(entries.iter().last().map(|entry| entry.conversation), Some(49));
}

#[test]
fn versions_and_page_sizes_are_negotiated() {
    assert_eq!(
        (negotiate(1, 1), negotiate(0, 9), negotiate(2, 3), negotiate(0, 0)),
        (Some(1), Some(1), None, None)
    );
    assert_eq!((page_items(0), page_items(1), page_items(200), page_items(201)), (200, 1, 200, 200));
}

#[test]
#[should_panic(expected = "body of 65537 bytes")]
fn encoding_a_body_beyond_its_bound_is_a_broken_invariant() {
    send(&[b'a'; BODY_BYTES_MAX + 1]).encode(0, 0, &mut Vec::new());
}

proptest! {
    #[test]
    fn any_send_and_deliver_come_back(
        ids in any::<[u64; 5]>(), epoch: u32, channel: u32, tag: u32, content in 0u8..3, body in ".{0,60}",
    ) {
        let content = Content::from_number(content).expect("in range");
        let [conversation, n, seq, at, device] = ids;
        let body = body.as_bytes();
        let send = ClientMessage::Send { conversation, n, owner_epoch: epoch, content, body };
        let author = Author::Agent;
        let deliver = ServerMessage::Deliver { conversation, seq, at, author, agent: epoch, device, n, content, body };
        let mut bytes = Vec::new();
        send.encode(channel, tag, &mut bytes);
        let second = bytes.len();
        deliver.encode(channel, tag, &mut bytes);
        let first = decode(&bytes, limit()).expect("good").expect("whole");
        prop_assert_eq!(ClientMessage::decode(first.header.kind, first.body), Ok(send));
        let next = decode(&bytes[second..], limit()).expect("good").expect("whole");
        prop_assert_eq!((next.header.channel, next.header.tag), (channel, tag));
        prop_assert_eq!(ServerMessage::decode(next.header.kind, next.body), Ok(deliver));
    }

    #[test]
    fn arbitrary_bodies_never_panic(kind: u8, body in proptest::collection::vec(any::<u8>(), 0..120)) {
        let _ = ClientMessage::decode(kind & 0x0F, &body);
        match ServerMessage::decode(0x80 | (kind & 0x0F), &body) {
            Ok(ServerMessage::Page { items, .. }) => { items.iter().count(); }
            Ok(ServerMessage::Queue { entries, .. }) => prop_assert_eq!(entries.iter().count(), entries.len()),
            _ => {}
        }
    }

    /// Whatever is accepted is written back so that it is accepted as the same again.
    #[test]
    fn mutated_samples_never_panic_and_what_is_accepted_is_stable(
        pick in any::<prop::sample::Index>(),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let samples = samples::client();
        let (_, channel, tag, message) = samples[pick.index(samples.len())];
        let mut bytes = Vec::new();
        message.encode(channel, tag, &mut bytes);
        let body = &mut bytes[HEADER_BYTES..];
        for (place, value) in changes {
            let place = place.index(body.len());
            body[place] = value;
        }
        if let Ok(read) = ClientMessage::decode(message.kind(), body) {
            let again = body_of(&read);
            prop_assert_eq!(ClientMessage::decode(message.kind(), &again), Ok(read));
        }
    }
}
