//! The client's half of RFC 6455, as much as a load generator needs: the upgrade, masked binary messages out,
//! unfragmented or fragmented binary messages in, pings answered, close noticed. Sans-IO; owns only the bytes of
//! one incomplete frame or message.

use std::io::Cursor;

use ringdesk_protocol::limits::{FRAME_BYTES_MAX, HEADER_BYTES, UPGRADE_BYTES_MAX, WS_MESSAGE_BYTES_MAX};
use tungstenite::handshake::client::generate_key;
use tungstenite::handshake::derive_accept_key;
use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{Control, Data, OpCode};

/// Most bytes of a server's message: as many as a client may send, which no frame of the protocol exceeds.
const MESSAGE_BYTES_MAX: usize = WS_MESSAGE_BYTES_MAX;

/// What a stretch of received bytes turned out to be.
#[derive(PartialEq, Eq, Debug)]
pub enum Received {
    /// The server agreed to speak WebSocket.
    Upgraded,
    /// A whole binary message: one or more protocol frames.
    Message(Vec<u8>),
    /// The server closes, with its code (1005 when it gave none).
    Closed(u16),
}

/// One client connection's state.
pub struct Socket {
    accept: String,
    upgraded: bool,
    bytes: Vec<u8>,
    message: Vec<u8>,
    mask: u32,
}

impl Socket {
    /// Starts a connection: appends the upgrade request for `/ws`, subprotocol `ringdesk.v1.bin`, to `out`.
    pub fn start(host: &str, out: &mut Vec<u8>) -> Self {
        let key = generate_key();
        let request = format!(
            "GET /ws HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\
             Sec-WebSocket-Protocol: ringdesk.v1.bin\r\n\r\n"
        );
        out.extend_from_slice(request.as_bytes());
        Self {
            accept: derive_accept_key(key.as_bytes()),
            upgraded: false,
            bytes: Vec::new(),
            message: Vec::new(),
            mask: 0x9E37_79B9,
        }
    }

    /// Whether the upgrade is done and messages may be written.
    pub fn upgraded(&self) -> bool {
        self.upgraded
    }

    /// Wraps `frames` (whole protocol frames) into as few masked binary messages as the message cap allows.
    pub fn wrap(&mut self, frames: &[u8], out: &mut Vec<u8>) {
        let mut rest = frames;
        while !rest.is_empty() {
            let take = whole_frames(rest);
            self.write(OpCode::Data(Data::Binary), &rest[..take], out);
            rest = &rest[take..];
        }
    }

    /// Takes received bytes; answers to pings are appended to `out`.
    ///
    /// # Errors
    /// A sentence when the server refuses the upgrade or breaks RFC 6455.
    pub fn feed(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<Vec<Received>, String> {
        self.bytes.extend_from_slice(input);
        let mut received = Vec::new();
        if !self.upgraded {
            if !self.upgrade()? {
                return Ok(received);
            }
            received.push(Received::Upgraded);
        }
        let bytes = std::mem::take(&mut self.bytes);
        let mut at = 0;
        while let Some((header, start, end)) = frame_at(&bytes, at)? {
            self.frame(&header, &bytes[start..end], &mut received, out)?;
            at = end;
        }
        if at < bytes.len() {
            self.bytes = bytes[at..].to_vec();
        }
        Ok(received)
    }

    fn frame(
        &mut self,
        header: &FrameHeader,
        payload: &[u8],
        received: &mut Vec<Received>,
        out: &mut Vec<u8>,
    ) -> Result<(), String> {
        match header.opcode {
            OpCode::Data(Data::Binary | Data::Continue) => {
                if self.message.len() + payload.len() > MESSAGE_BYTES_MAX {
                    return Err(format!("the server's message is longer than {MESSAGE_BYTES_MAX} bytes"));
                }
                self.message.extend_from_slice(payload);
                if header.is_final {
                    received.push(Received::Message(std::mem::take(&mut self.message)));
                }
            }
            OpCode::Control(Control::Ping) => self.write(OpCode::Control(Control::Pong), payload, out),
            OpCode::Control(Control::Pong) => {}
            OpCode::Control(Control::Close) => {
                let code = payload.first_chunk::<2>().map_or(1005, |two| u16::from_be_bytes(*two));
                received.push(Received::Closed(code));
            }
            other => return Err(format!("the server sent a {other:?} frame in a binary conversation")),
        }
        Ok(())
    }

    fn write(&mut self, opcode: OpCode, payload: &[u8], out: &mut Vec<u8>) {
        // Masks only keep confused proxies from reading a payload as HTTP; a plain xorshift is enough for that.
        self.mask ^= self.mask << 13;
        self.mask ^= self.mask >> 17;
        self.mask ^= self.mask << 5;
        let mask = self.mask.to_le_bytes();
        let header = FrameHeader { is_final: true, opcode, mask: Some(mask), ..FrameHeader::default() };
        header.format(payload.len() as u64, out).expect("writing to memory does not fail");
        let repeated = u64::from_le_bytes([mask, mask].concat().try_into().expect("4 + 4 bytes are 8"));
        let start = out.len();
        out.extend_from_slice(payload);
        let (words, tail) = out[start..].as_chunks_mut::<8>();
        for word in words {
            *word = (u64::from_le_bytes(*word) ^ repeated).to_le_bytes();
        }
        for (byte, key) in tail.iter_mut().zip(mask.iter().cycle()) {
            *byte ^= key;
        }
    }

    /// Reads the answer to the upgrade; true when it is whole and agrees.
    fn upgrade(&mut self) -> Result<bool, String> {
        let mut headers = [httparse::EMPTY_HEADER; 32];
        let mut response = httparse::Response::new(&mut headers);
        let parsed =
            response.parse(&self.bytes).map_err(|e| format!("no HTTP answer to the upgrade: {e}"))?;
        let httparse::Status::Complete(length) = parsed else {
            return if self.bytes.len() > UPGRADE_BYTES_MAX {
                Err("the answer to the upgrade does not end".into())
            } else {
                Ok(false)
            };
        };
        let field = |name: &str| {
            let found = response.headers.iter().find(|h| h.name.eq_ignore_ascii_case(name));
            found.map_or(String::new(), |h| String::from_utf8_lossy(h.value).trim().to_owned())
        };
        if response.code != Some(101) {
            return Err(format!("the server refused the upgrade with status {:?}", response.code));
        }
        if field("sec-websocket-accept") != self.accept
            || field("sec-websocket-protocol") != "ringdesk.v1.bin"
        {
            return Err("the server's upgrade has the wrong accept key or subprotocol".into());
        }
        self.upgraded = true;
        self.bytes.drain(..length);
        Ok(true)
    }
}

/// The frame at `at`: its header and where its payload lies; `None` while it is incomplete.
fn frame_at(bytes: &[u8], at: usize) -> Result<Option<(FrameHeader, usize, usize)>, String> {
    let mut cursor = Cursor::new(&bytes[at..]);
    let parsed = FrameHeader::parse(&mut cursor).map_err(|e| format!("bad WebSocket frame: {e}"))?;
    let Some((header, length)) = parsed else {
        return Ok(None);
    };
    if header.mask.is_some() {
        return Err("the server masked a frame".into());
    }
    if length > MESSAGE_BYTES_MAX as u64 {
        return Err(format!("the server's frame of {length} bytes is longer than {MESSAGE_BYTES_MAX}"));
    }
    let start = at + cursor.position() as usize;
    let end = start + length as usize;
    Ok((end <= bytes.len()).then_some((header, start, end)))
}

/// Length of the longest run of whole frames at the start of `frames` that fits one message; at least one frame.
fn whole_frames(frames: &[u8]) -> usize {
    let mut end = 0;
    while end < frames.len() {
        let length: &[u8; 4] = frames[end..].first_chunk().expect("only whole frames are queued");
        let next = end + HEADER_BYTES + u32::from_le_bytes(*length) as usize;
        assert!(next <= frames.len(), "only whole frames are queued");
        if end > 0 && next > WS_MESSAGE_BYTES_MAX {
            break;
        }
        end = next;
    }
    assert!(end <= HEADER_BYTES + FRAME_BYTES_MAX, "a single frame is never longer than a message");
    end
}

#[cfg(test)]
#[path = "websocket_tests.rs"]
mod tests;
