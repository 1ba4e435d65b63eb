//! `protocol::ws::Decoder`: frames and fragments in both directions, against a plain reading of RFC 6455.
//!
//! Input: plan of the pieces (4), mode (1), breaks (1), mask (4), then the stream. Mode: bit 0 clear = the server's
//! side (masked), set = a client's; the next two bits choose the bound on a message.

mod plain;

use std::ops::ControlFlow;

use ringdesk_protocol::ws::{Decoder, Event, Opcode, WsError, encode};

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

/// Which side reads, and its bound on a message.
#[derive(Clone, Copy, Debug)]
struct Side {
    client: bool,
    bound: u32,
}

impl Side {
    fn of(mode: u8) -> Self {
        let client = mode & 1 == 1;
        // The server's bound is part of the format.
        let server = ringdesk_protocol::limits::WS_MESSAGE_BYTES_MAX as u32;
        let bound = if client { [10, 200, 70_000, u32::MAX][usize::from(mode >> 1 & 3)] } else { server };
        Self { client, bound }
    }

    fn decoder(self) -> Decoder {
        if self.client { Decoder::client(self.bound) } else { Decoder::server(self.bound, None) }
    }
}

/// Every way of cutting gives the same events and the same error as a plain reading of the standard; no more
/// memory is held than arrived, none between messages; events written again are read again.
///
/// # Panics
/// If not.
pub fn check(input: &[u8]) {
    let Some((pieces, rest)) = Pieces::take(input) else { return };
    let &[mode, breaks, m0, m1, m2, m3, ref stream @ ..] = rest else { return };
    let side = Side::of(mode);
    let expected = plain::read(stream, !side.client, u64::from(side.bound));
    assert_eq!(feed(side, Pieces::WHOLE, 0, stream), expected, "in one piece");
    assert_eq!(feed(side, Pieces::EACH, 0, stream), expected, "byte by byte");
    assert_eq!(feed(side, pieces, breaks, stream), expected, "{pieces:?}, breaks {breaks:#010b}");
    again(side, pieces, [m0, m1, m2, m3], &expected.0);
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
