//! Against tungstenite's own server side, and cut at every byte.

use super::*;
use tungstenite::protocol::{Message, Role, WebSocket, WebSocketConfig};

/// Bytes one way: what is read was written before.
struct Pipe(std::io::Cursor<Vec<u8>>);

impl std::io::Read for Pipe {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        match self.0.read(into)? {
            0 => Err(std::io::ErrorKind::WouldBlock.into()),
            n => Ok(n),
        }
    }
}

impl std::io::Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn upgraded() -> Socket {
    let mut out = Vec::new();
    let mut socket = Socket::start("localhost", &mut out);
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: {}\r\n\
         Sec-WebSocket-Protocol: ringdesk.v1.bin\r\n\r\n",
        socket.accept
    );
    assert_eq!(socket.feed(answer.as_bytes(), &mut out).unwrap(), [Received::Upgraded]);
    assert!(socket.upgraded());
    socket
}

fn frame(length: usize) -> Vec<u8> {
    let mut bytes = vec![0x55; HEADER_BYTES + length];
    bytes[..4].copy_from_slice(&(length as u32).to_le_bytes());
    bytes
}

#[test]
fn tungstenite_reads_what_is_wrapped() {
    let mut socket = upgraded();
    let frames = [frame(3), frame(70_000), frame(70_001), frame(0)].concat();
    let mut wire = Vec::new();
    socket.wrap(&frames, &mut wire);
    let mut server = WebSocket::from_raw_socket(
        Pipe(std::io::Cursor::new(wire)),
        Role::Server,
        Some(WebSocketConfig::default()),
    );
    let mut messages = Vec::new();
    while let Ok(Message::Binary(bytes)) = server.read() {
        assert!(bytes.len() <= WS_MESSAGE_BYTES_MAX);
        messages.push(bytes.to_vec());
    }
    assert_eq!(messages.len(), 2, "as few messages as the cap allows");
    assert_eq!(messages.concat(), frames);
}

#[test]
fn every_cut_gives_the_same_messages_and_pings_are_answered() {
    let mut wire = vec![0x82, 3, 1, 2, 3, 0x89, 1, 9, 0x02, 1, 4, 0x80, 1, 5, 0x88, 2, 0x03, 0xE8];
    wire.splice(0..0, [0x82, 126, 0, 130].into_iter().chain([7; 130]));
    for cut in 0..=wire.len() {
        let mut socket = upgraded();
        let mut out = Vec::new();
        let mut got = socket.feed(&wire[..cut], &mut out).unwrap();
        got.extend(socket.feed(&wire[cut..], &mut out).unwrap());
        let expected = [
            Received::Message(vec![7; 130]),
            Received::Message(vec![1, 2, 3]),
            Received::Message(vec![4, 5]),
            Received::Closed(1000),
        ];
        assert_eq!(got, expected, "cut at {cut}");
        assert_eq!((out[0], out[1]), (0x8A, 0x81), "one masked pong");
        assert!(socket.bytes.is_empty());
    }
}

#[test]
fn a_refused_upgrade_and_a_masked_frame_are_errors() {
    let mut out = Vec::new();
    let mut socket = Socket::start("localhost", &mut out);
    let error = socket.feed(b"HTTP/1.1 403 Forbidden\r\n\r\n", &mut out).unwrap_err();
    assert!(error.contains("403"), "{error}");
    assert!(upgraded().feed(&[0x82, 0x81, 0, 0, 0, 0, 1], &mut out).is_err());
    assert!(upgraded().feed(&[0x81, 1, b'x'], &mut out).is_err());
}
