//! Tests of permessage-deflate: offers, round trips, bounds, hostile streams.

use std::ops::ControlFlow;

use proptest::prelude::*;

use super::deflate::inflate;
use super::*;

fn agreed(offer: &str) -> Deflate {
    Deflate::of_offer(offer).expect("a good offer")
}

/// The payload of a frame from [`Deflater::message`] with its reserved bit, and whether it was compressed.
fn sent(agreed: Deflate, payload: &[u8]) -> (Vec<u8>, bool) {
    let mut frame = Vec::new();
    Deflater::new().message(agreed, Opcode::Binary, payload, &mut frame);
    let head = match frame[1] {
        126 => 4,
        127 => 10,
        _ => 2,
    };
    (frame[head..].to_vec(), frame[0] & 0x40 != 0)
}

/// The events of a client's compressed message, in one frame per part.
fn feed(parts: &[&[u8]], limit: u32) -> Result<Vec<Vec<u8>>, WsError> {
    let mut decoder = Decoder::server(limit, Some(agreed("permessage-deflate")));
    let mut seen = Vec::new();
    for (place, part) in parts.iter().enumerate() {
        let mut frame = Vec::new();
        encode::masked(Opcode::Binary, part, [9, 8, 7, 6], &mut frame);
        let last = if place + 1 == parts.len() { 0x80 } else { 0 };
        frame[0] = last | if place == 0 { 0x42 } else { 0 };
        decoder.feed(&mut frame, |event| {
            let Event::Binary(bytes) = event else { panic!("{event:?}") };
            seen.push(bytes.to_vec());
            ControlFlow::Continue(())
        })?;
    }
    assert_eq!(decoder.heap_bytes(), 0);
    Ok(seen)
}

#[test]
fn offers_are_read_as_rfc_7692_says() {
    let plain = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";
    let good = [
        ("permessage-deflate", plain.to_owned()),
        ("Permessage-Deflate ; client_max_window_bits", plain.to_owned()),
        ("permessage-deflate; client_max_window_bits=8; server_no_context_takeover", plain.to_owned()),
        ("permessage-deflate; server_max_window_bits=\"9\"", format!("{plain}; server_max_window_bits=9")),
    ];
    for (offer, answer) in good {
        assert_eq!(agreed(offer).answer(), answer, "{offer}");
    }
    for offer in [
        "",
        "x-webkit-deflate-frame",
        "permessage-deflate; server_max_window_bits",
        "permessage-deflate; server_max_window_bits=7",
        "permessage-deflate; server_max_window_bits=08",
        "permessage-deflate; server_max_window_bits=+9",
        "permessage-deflate; client_max_window_bits=16",
        "permessage-deflate; client_no_context_takeover=1",
        "permessage-deflate; client_no_context_takeover; client_no_context_takeover",
        "permessage-deflate; colour=blue",
    ] {
        assert_eq!(Deflate::of_offer(offer), None, "{offer}");
    }
}

#[test]
fn a_narrow_window_is_never_reached_beyond() {
    let narrow = agreed("permessage-deflate; server_max_window_bits=9");
    assert!(sent(narrow, &[7; 512]).1);
    assert!(!sent(narrow, &[7; 513]).1);
    assert!(sent(agreed("permessage-deflate"), &[7; 100_000]).1);
}

#[test]
fn the_bound_holds_for_what_is_inflated() {
    let bomb = sent(agreed("permessage-deflate"), &vec![0; 1 << 20]).0;
    assert!(bomb.len() < 2_000);
    assert_eq!(inflate(bomb.clone(), 1 << 20).map(|bytes| bytes.len()), Ok(1 << 20));
    assert_eq!(inflate(bomb.clone(), (1 << 20) - 1), Err(WsError::TooLarge));
    assert_eq!(feed(&[&bomb], 100_000), Err(WsError::TooLarge));
    assert_eq!(WsError::TooLarge.close_code(), 1009);
}

#[test]
fn streams_of_other_senders_and_of_none() {
    // RFC 7692 section 7.2.3: fixed block, stored block, final block with its padding, two blocks; then the empty one.
    let hello: &[&[u8]] = &[
        &[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00],
        &[0x00, 0x05, 0x00, 0xfa, 0xff, 0x48, 0x65, 0x6c, 0x6c, 0x6f, 0x00],
        &[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00],
        &[0xf2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xff, 0xff, 0xca, 0xc9, 0xc9, 0x07, 0x00],
    ];
    for bytes in hello {
        assert_eq!(feed(&[bytes], 20), Ok(vec![b"Hello".to_vec()]), "{bytes:02x?}");
    }
    assert_eq!(feed(&[&[0x00]], 5), Ok(vec![Vec::new()]));
    assert_eq!(feed(&[&[0x07]], 5), Err(WsError::BadDeflate));
    assert_eq!(WsError::BadDeflate.close_code(), 1007);
}

#[test]
fn the_reserved_bit_marks_first_frames_of_messages_only() {
    let mut decoder = Decoder::server(100, Some(agreed("permessage-deflate")));
    for first in [0xC9, 0xC0, 0xE1, 0xA1] {
        let mut frame = Vec::new();
        encode::masked(Opcode::Text, b"x", [0; 4], &mut frame);
        frame[0] = first;
        assert_eq!(decoder.feed(&mut frame, |_| panic!("an event")), Err(WsError::ReservedBits), "{first:x}");
        decoder = Decoder::server(100, Some(agreed("permessage-deflate")));
    }
}

#[test]
fn an_outbox_is_compressed_frame_by_frame() {
    let (agreed, mut deflater) = (agreed("permessage-deflate"), Deflater::new());
    for response in [&b""[..], b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"] {
        let (mut plain, mut expected) = (response.to_vec(), response.to_vec());
        for (opcode, size) in
            [(Opcode::Text, 10), (Opcode::Pong, 125), (Opcode::Binary, 70_000), (Opcode::Text, 300)]
        {
            encode::message(opcode, &vec![b'a'; size], &mut plain);
            match opcode {
                Opcode::Pong => encode::message(opcode, &vec![b'a'; size], &mut expected),
                _ => deflater.message(agreed, opcode, &vec![b'a'; size], &mut expected),
            }
        }
        encode::close(1000, "", &mut plain);
        encode::close(1000, "", &mut expected);
        deflater.outbox(agreed, &mut plain);
        assert!(plain.len() < 600 && plain == expected);
    }
    let mut small = Vec::new();
    encode::message(Opcode::Text, b"small", &mut small);
    deflater.outbox(agreed, &mut small);
    assert_eq!(small, b"\x81\x05small");
}

proptest! {
    #[test]
    fn what_is_deflated_inflates_to_the_same(
        seed in proptest::collection::vec(any::<u8>(), 0..300), times in 1usize..60, cut in any::<prop::sample::Index>(),
    ) {
        let payload = seed.repeat(times);
        let (bytes, compressed) = sent(agreed("permessage-deflate"), &payload);
        if compressed {
            prop_assert!(bytes.len() < payload.len());
            let (first, second) = bytes.split_at(cut.index(bytes.len()));
            prop_assert_eq!(feed(&[first, second], payload.len() as u32), Ok(vec![payload]));
        } else {
            prop_assert_eq!(bytes, payload);
        }
    }

    #[test]
    fn arbitrary_streams_end_within_the_bound(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        if let Ok(inflated) = inflate(bytes, 5_000) {
            prop_assert!(inflated.len() <= 5_000);
        }
    }
}
