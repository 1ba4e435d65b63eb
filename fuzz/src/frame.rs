//! `protocol::frame`: a byte stream cut into frames.
//!
//! Input: plan of the pieces (4), breaks (1), limit (1), then the stream.

use std::ops::ControlFlow;

use ringdesk_protocol::frame::{self, Carry, FrameError, Header};
use ringdesk_protocol::limits::HEADER_BYTES;

use crate::pieces::Pieces;

type Seen = (Vec<(Header, Vec<u8>)>, Option<FrameError>);

/// Every way of cutting gives the same frames and the same error, also when the visitor breaks off; what was read
/// is what was there, byte for byte; no more memory is held than arrived.
///
/// # Panics
/// If not.
pub fn check(input: &[u8]) {
    let Some((pieces, rest)) = Pieces::take(input) else { return };
    let &[breaks, limit, ref stream @ ..] = rest else { return };
    let limit = [16, 300, 4_096, 131_072][usize::from(limit % 4)];
    let whole = feed(Pieces::WHOLE, 0, limit, stream);
    assert_eq!(feed(Pieces::EACH, 0, limit, stream), whole, "byte by byte");
    assert_eq!(feed(pieces, breaks, limit, stream), whole, "{pieces:?}, breaks {breaks:#010b}");
    same_as_the_iterator(limit, stream, &whole);
    same_bytes(stream, &whole);
}

/// Feeds the stream. After frame k the visitor breaks off if bit k mod 8 of `breaks` is set.
fn feed(pieces: Pieces, breaks: u8, limit: u32, stream: &[u8]) -> Seen {
    let mut carry = Carry::new();
    let mut seen = Vec::new();
    for piece in pieces.of(stream) {
        let mut rest = piece;
        loop {
            let before = seen.len();
            let fed = carry.feed(rest, limit, |header, body| {
                seen.push((header, body.to_vec()));
                match breaks >> (seen.len() % 8) & 1 {
                    0 => ControlFlow::Continue(()),
                    _ => ControlFlow::Break(()),
                }
            });
            let taken = match fed {
                Ok(taken) => taken,
                Err(error) => {
                    let again = carry.feed(b"more", limit, |_, _| panic!("a frame after an error"));
                    assert_eq!(again, Err(error), "an error stays");
                    return (seen, Some(error));
                }
            };
            assert!(carry.heap_bytes() <= 2 * stream.len() + 64, "{} bytes held", carry.heap_bytes());
            assert!(!carry.is_empty() || carry.heap_bytes() == 0, "memory between frames");
            if taken == rest.len() {
                break;
            }
            assert!(carry.is_empty(), "broke off inside a frame");
            assert!(seen.len() > before, "no frame and no progress");
            rest = &rest[taken..];
        }
    }
    (seen, None)
}

/// The iterator over a whole message finds the same frames, and calls an incomplete last one truncated.
fn same_as_the_iterator(limit: u32, stream: &[u8], seen: &Seen) {
    let mut found = Vec::new();
    let mut ended = None;
    for frame in frame::frames(stream, limit) {
        assert_eq!(ended, None, "a frame after an error");
        match frame {
            Ok(frame) => found.push((frame.header, frame.body.to_vec())),
            Err(error) => ended = Some(error),
        }
    }
    let bytes: usize = found.iter().map(|(_, body)| HEADER_BYTES + body.len()).sum();
    let truncated = (bytes < stream.len()).then_some(FrameError::Truncated);
    assert_eq!((found, ended), (seen.0.clone(), seen.1.or(truncated)));
}

/// Header and body written again are the bytes that were read, but for the reserved ones, which are ignored.
fn same_bytes(stream: &[u8], seen: &Seen) {
    let mut rest = stream;
    for (header, body) in &seen.0 {
        let (read, left) = rest.split_at(HEADER_BYTES + body.len());
        let mut expected = read.to_vec();
        expected[6..8].fill(0);
        let written = [&header.to_bytes()[..], body].concat();
        assert_eq!(written, expected);
        rest = left;
    }
}
