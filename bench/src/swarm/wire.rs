//! How a client's bytes are cut and wrapped: frames straight on TCP, or in binary WebSocket messages. One byte of
//! state per connection; bytes of an incomplete frame are the swarm's.

use std::io::Cursor;

use ringdesk_protocol::limits::{FRAME_BYTES_MAX, WS_MESSAGE_BYTES_MAX};
use ringdesk_protocol::ws::{Opcode, Subprotocol, client, encode};
use ringdesk_protocol::{Frame, frame};
use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{Control, Data, OpCode};

/// Base64 of 16 bytes; that they are no secret and the same for all does not matter to a server (RFC 6455 section
/// 10.3 protects caches, of which there is none here).
const KEY: &str = "cmluZ2JlbmNoIHN3YXJtIQ==";
/// As little: the mask protects proxies.
const MASK: [u8; 4] = [0x5b, 0x1d, 0xe3, 0x84];
const LIMIT: u32 = FRAME_BYTES_MAX as u32;

/// What a stretch of received bytes holds.
pub enum Heard<'a> {
    /// The server agreed to speak WebSocket: the connection is usable.
    Upgraded,
    /// A whole frame.
    Frame(Frame<'a>),
}

/// The server broke the framing, refused the upgrade or closed the WebSocket.
#[derive(Debug, PartialEq, Eq)]
pub struct Unreadable;

/// How a connection speaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wire {
    /// Frames straight on TCP.
    Binary,
    /// WebSocket, the upgrade is not answered yet.
    Upgrading,
    /// Frames in binary messages.
    WebSocket,
}

/// Appends the upgrade request.
pub fn request(out: &mut Vec<u8>) {
    client::request("127.0.0.1", None, KEY, Subprotocol::Binary, out);
}

impl Wire {
    /// Visits what is whole in `bytes` and returns how many of them that was; the rest comes again with more behind it.
    ///
    /// # Errors
    /// [`Unreadable`]: the connection is of no use any more.
    pub fn take(&mut self, bytes: &[u8], hear: &mut dyn FnMut(Heard<'_>)) -> Result<usize, Unreadable> {
        let mut taken = 0;
        if *self == Self::Upgrading {
            match client::response(bytes, KEY, Subprotocol::Binary) {
                Ok(Some(end)) => taken = end,
                Ok(None) => return Ok(0),
                Err(_) => return Err(Unreadable),
            }
            *self = Self::WebSocket;
            hear(Heard::Upgraded);
        }
        loop {
            let step = match self {
                Self::Binary => binary(&bytes[taken..], hear)?,
                _ => message(&bytes[taken..], hear)?,
            };
            if step == 0 {
                return Ok(taken);
            }
            taken += step;
        }
    }

    /// Appends whole frames as this connection carries them.
    pub fn wrap(self, frames: &[u8], out: &mut Vec<u8>) {
        match self {
            Self::Binary => out.extend_from_slice(frames),
            _ => {
                assert!(frames.len() <= WS_MESSAGE_BYTES_MAX, "a turn's frames of one client fit a message");
                encode::masked(Opcode::Binary, frames, MASK, out);
            }
        }
    }
}

/// Takes one frame; 0 while it is not whole.
fn binary(bytes: &[u8], hear: &mut dyn FnMut(Heard<'_>)) -> Result<usize, Unreadable> {
    match frame::decode(bytes, LIMIT) {
        Ok(Some(frame)) => {
            let taken = frame.wire_bytes();
            hear(Heard::Frame(frame));
            Ok(taken)
        }
        Ok(None) => Ok(0),
        Err(_) => Err(Unreadable),
    }
}

/// Takes one WebSocket message (the server never fragments); 0 while it is not whole.
fn message(bytes: &[u8], hear: &mut dyn FnMut(Heard<'_>)) -> Result<usize, Unreadable> {
    let mut cursor = Cursor::new(bytes);
    let Some((header, length)) = FrameHeader::parse(&mut cursor).map_err(|_| Unreadable)? else {
        return Ok(0);
    };
    if header.mask.is_some() || length > WS_MESSAGE_BYTES_MAX as u64 {
        return Err(Unreadable);
    }
    let start = cursor.position() as usize;
    let end = start + length as usize;
    let Some(payload) = bytes.get(start..end) else {
        return Ok(0);
    };
    match header.opcode {
        OpCode::Data(Data::Binary) if header.is_final => {
            for frame in frame::frames(payload, LIMIT) {
                hear(Heard::Frame(frame.map_err(|_| Unreadable)?));
            }
        }
        // Unasked pongs may be ignored; a ping is a sign of life that needs no answer from a load generator.
        OpCode::Control(Control::Ping | Control::Pong) => {}
        _ => return Err(Unreadable),
    }
    Ok(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is heard when `bytes` arrive in pieces of `step`, with what is not taken offered again.
    fn hear(mut wire: Wire, bytes: &[u8], step: usize) -> Result<Vec<String>, Unreadable> {
        let (mut heard, mut held) = (Vec::new(), Vec::new());
        for piece in bytes.chunks(step) {
            held.extend_from_slice(piece);
            let taken = wire.take(&held, &mut |one| {
                heard.push(match one {
                    Heard::Upgraded => "upgraded".into(),
                    Heard::Frame(frame) => format!("{}:{}", frame.header.kind, frame.body.len()),
                });
            })?;
            held.drain(..taken);
        }
        assert!(held.is_empty(), "{} bytes were never taken", held.len());
        Ok(heard)
    }

    fn frames() -> Vec<u8> {
        let mut out = Vec::new();
        for nonce in [1, 2] {
            ringdesk_protocol::ServerMessage::Pong { nonce }.encode(0, 0, &mut out);
        }
        out
    }

    /// The server's side of an upgrade, then both frames in one message, between two control frames.
    fn socket() -> Vec<u8> {
        let (mut asked, mut out) = (Vec::new(), Vec::new());
        request(&mut asked);
        let request =
            ringdesk_protocol::ws::Upgrade::default().feed(&asked).expect("in order").expect("whole");
        request.response(None, &mut out);
        encode::message(Opcode::Ping, b"are you there", &mut out);
        encode::message(Opcode::Binary, &frames(), &mut out);
        encode::message(Opcode::Pong, b"", &mut out);
        out
    }

    #[test]
    fn every_cut_of_either_transport_gives_the_same_frames() {
        for (wire, bytes) in [(Wire::Binary, frames()), (Wire::Upgrading, socket())] {
            let whole = hear(wire, &bytes, bytes.len()).expect("readable");
            let expected: &[&str] = match wire {
                Wire::Binary => &["140:8", "140:8"],
                _ => &["upgraded", "140:8", "140:8"],
            };
            assert_eq!(whole, expected);
            for step in [1, 3, 7, 40] {
                assert_eq!(hear(wire, &bytes, step).as_ref(), Ok(&whole), "{wire:?} in pieces of {step}");
            }
        }
    }

    #[test]
    fn what_is_wrapped_is_what_a_server_reads() {
        let mut out = Vec::new();
        Wire::WebSocket.wrap(&frames(), &mut out);
        let mut decoder = ringdesk_protocol::ws::Decoder::server(1 << 20, None);
        let mut heard = Vec::new();
        decoder
            .feed(&mut out, |event: ringdesk_protocol::ws::Event<'_>| {
                if let ringdesk_protocol::ws::Event::Binary(bytes) = event {
                    heard.extend_from_slice(bytes);
                }
                std::ops::ControlFlow::Continue(())
            })
            .expect("a client's frame");
        assert_eq!(heard, frames());
    }

    #[test]
    fn refusals_and_broken_framing_end_the_connection() {
        let refused = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n";
        assert_eq!(hear(Wire::Upgrading, refused, 9), Err(Unreadable));
        assert_eq!(hear(Wire::Binary, &[0xff; 16], 16), Err(Unreadable));
        let mut masked = Vec::new();
        encode::masked(Opcode::Binary, &frames(), MASK, &mut masked);
        assert_eq!(hear(Wire::WebSocket, &masked, 5), Err(Unreadable));
        let mut closed = Vec::new();
        encode::close(1000, "", &mut closed);
        assert_eq!(hear(Wire::WebSocket, &closed, 64), Err(Unreadable));
    }
}
