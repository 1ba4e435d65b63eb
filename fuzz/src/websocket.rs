//! `protocol::ws::Decoder`: frames and fragments in both directions, against a plain reading of RFC 6455.
//!
//! Input: plan of the pieces (4), mode (1), breaks (1), mask (4), then the stream. Mode: bit 0 clear = the server's
//! side (masked), set = a client's; the next two bits choose the bound on a message; bit 3 agrees to compression on
//! the server's side.

mod plain;

use std::ops::ControlFlow;

use ringdesk_protocol::ws::{Decoder, Deflate, Deflater, Event, Opcode, WsError, encode};

use crate::pieces::Pieces;

/// An event that owns its bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Said {
    /// A text message.
    Text(String),
    /// A binary message.
    Binary(Vec<u8>),
    /// A ping.
    Ping(Vec<u8>),
    /// A pong.
    Pong(Vec<u8>),
    /// A close, with its code.
    Close(Option<u16>),
}

impl From<Event<'_>> for Said {
    fn from(event: Event<'_>) -> Self {
        match event {
            Event::Text(text) => Said::Text(text.to_owned()),
            Event::Binary(bytes) => Said::Binary(bytes.to_vec()),
            Event::Ping(bytes) => Said::Ping(bytes.to_vec()),
            Event::Pong(bytes) => Said::Pong(bytes.to_vec()),
            Event::Close(code) => Said::Close(code),
        }
    }
}

/// What a stream says, and how it failed.
type Seen = (Vec<Said>, Option<WsError>);

/// Which side reads, on which terms.
#[derive(Clone, Copy, Debug)]
struct Side {
    client: bool,
    bound: u32,
    deflate: Option<Deflate>,
}

impl Side {
    fn of(mode: u8) -> Self {
        let client = mode & 1 == 1;
        let bound = [10, 200, 70_000, 144 << 10][usize::from(mode >> 1 & 3)];
        let offer = Deflate::of_offer("permessage-deflate").expect("an offer without parameters");
        Self { client, bound, deflate: (mode & 9 == 8).then_some(offer) }
    }

    fn decoder(self) -> Decoder {
        if self.client { Decoder::client(self.bound) } else { Decoder::server(self.bound, self.deflate) }
    }
}

/// Every way of cutting gives the same events and the same error as a plain reading of the standard, up to the first
/// compressed message; no event is longer than the bound, no more memory is held than arrived, none between messages;
/// events written again, compressed or not, are read again.
///
/// # Panics
/// If not.
pub fn check(input: &[u8]) {
    let Some((pieces, rest)) = Pieces::take(input) else { return };
    let &[mode, breaks, m0, m1, m2, m3, ref stream @ ..] = rest else { return };
    let side = Side::of(mode);
    let whole = feed(side, Pieces::WHOLE, 0, stream);
    let plain = plain::read(stream, !side.client, u64::from(side.bound));
    if side.deflate.is_some() && plain.1 == Some(WsError::ReservedBits) {
        assert!(whole.0.starts_with(&plain.0), "{whole:?} instead of {plain:?}");
    } else {
        assert_eq!(whole, plain, "in one piece");
    }
    assert_eq!(feed(side, Pieces::EACH, 0, stream), whole, "byte by byte");
    assert_eq!(feed(side, pieces, breaks, stream), whole, "{pieces:?}, breaks {breaks:#010b}");
    for said in &whole.0 {
        let length = match said {
            Said::Text(text) => text.len(),
            Said::Binary(bytes) => bytes.len(),
            _ => 0,
        };
        assert!(length <= side.bound as usize, "{length} bytes");
    }
    again(side, pieces, [m0, m1, m2, m3], &whole.0);
    if let Some(deflate) = side.deflate {
        again_compressed(side, pieces, deflate, &whole.0);
    }
}

/// Compresses the messages as the shard does, masks them as a client would, and reads them again.
fn again_compressed(side: Side, pieces: Pieces, deflate: Deflate, said: &[Said]) {
    let messages = said.iter().filter(|said| matches!(said, Said::Text(_) | Said::Binary(_)));
    let mut stream = Vec::new();
    let mut deflater = Deflater::new();
    let mut expected = Vec::new();
    for message in messages {
        // Nothing is compressed that is short, so each message comes several times over.
        let (opcode, payload, repeated) = match message {
            Said::Text(text) => {
                let text = text.repeat((300 / text.len().max(1)).min(300));
                (Opcode::Text, text.clone().into_bytes(), Said::Text(text))
            }
            Said::Binary(bytes) => {
                let bytes = bytes.repeat((300 / bytes.len().max(1)).min(300));
                (Opcode::Binary, bytes.clone(), Said::Binary(bytes))
            }
            _ => unreachable!("filtered"),
        };
        if payload.len() > side.bound as usize {
            continue;
        }
        let mut frame = Vec::new();
        deflater.message(deflate, opcode, &payload, &mut frame);
        assert!(
            frame.len() <= payload.len() + encode::head_bytes(payload.len()),
            "compressing made it longer"
        );
        let head = match frame[1] {
            126 => 4,
            127 => 10,
            _ => 2,
        };
        let start = stream.len();
        encode::masked(opcode, &frame[head..], [1, 2, 3, 4], &mut stream);
        stream[start] = frame[0];
        expected.push(repeated);
    }
    assert_eq!(feed(side, pieces, 0, &stream), (expected, None), "through compression");
}

/// Feeds the stream. After event k the visitor breaks off if bit k mod 8 of `breaks` is set.
fn feed(side: Side, pieces: Pieces, breaks: u8, stream: &[u8]) -> Seen {
    let mut decoder = side.decoder();
    let mut seen = Vec::new();
    for piece in pieces.of(stream) {
        let mut bytes = piece.to_vec();
        let mut start = 0;
        while start < bytes.len() {
            let before = seen.len();
            let fed = decoder.feed(&mut bytes[start..], |event| {
                seen.push(event.into());
                match breaks >> (seen.len() % 8) & 1 {
                    0 => ControlFlow::Continue(()),
                    _ => ControlFlow::Break(()),
                }
            });
            let taken = match fed {
                Ok(taken) => taken,
                Err(error) => {
                    let again = decoder.feed(&mut [0], |_| panic!("an event after an error"));
                    assert_eq!((again, decoder.heap_bytes()), (Err(error), 0));
                    return (seen, Some(error));
                }
            };
            assert!(decoder.heap_bytes() <= 2 * stream.len() + 1_024, "{} bytes held", decoder.heap_bytes());
            assert!(!decoder.is_between_messages() || decoder.heap_bytes() == 0, "memory between messages");
            start += taken;
            assert!(start == bytes.len() || seen.len() > before, "no event and no progress");
            assert_eq!(bytes[start..], piece[start..], "what was not taken was changed");
        }
    }
    (seen, None)
}

/// Writes the events as the other side would, and reads them again.
fn again(side: Side, pieces: Pieces, mask: [u8; 4], said: &[Said]) {
    let mut stream = Vec::new();
    let mut put = |opcode, payload: &[u8]| {
        if side.client {
            let start = stream.len();
            encode::message(opcode, payload, &mut stream);
            let mut wrapped = payload.to_vec();
            encode::wrap(opcode, 0, &mut wrapped);
            assert_eq!(wrapped, stream[start..], "two ways to write one frame");
            assert_eq!(wrapped.len(), encode::head_bytes(payload.len()) + payload.len());
        } else {
            encode::masked(opcode, payload, mask, &mut stream);
        }
    };
    for event in said {
        match event {
            Said::Text(text) => put(Opcode::Text, text.as_bytes()),
            Said::Binary(bytes) => put(Opcode::Binary, bytes),
            Said::Ping(bytes) => put(Opcode::Ping, bytes),
            Said::Pong(bytes) => put(Opcode::Pong, bytes),
            Said::Close(None) => put(Opcode::Close, &[]),
            Said::Close(Some(code)) => put(Opcode::Close, &code.to_be_bytes()),
        }
    }
    assert_eq!(feed(side, pieces, 0, &stream), (said.to_vec(), None));
}
