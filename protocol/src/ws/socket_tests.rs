//! Tests of a whole server-side connection: what it answers, and what it keeps.

use std::ops::ControlFlow;

use super::*;

/// Echoes; pauses at "pause" and closes with 4000 at "close".
#[derive(Default)]
struct Echo {
    out: Vec<u8>,
    refuse: bool,
}

impl Endpoint for Echo {
    fn outbox(&mut self) -> &mut Vec<u8> {
        &mut self.out
    }

    fn admit(&mut self, request: &Request) -> Result<Terms, UpgradeError> {
        assert_eq!(request.host, "chat.example");
        if self.refuse {
            Err(UpgradeError::ForeignOrigin)
        } else {
            Ok(Terms { message_bytes_max: 10, deflate: None })
        }
    }

    fn ponged(&mut self) -> ControlFlow<Stop> {
        if self.out.len() > 1_000 { ControlFlow::Break(Stop::Pause) } else { ControlFlow::Continue(()) }
    }

    fn text(&mut self, text: &str) -> ControlFlow<Stop> {
        encode::message(Opcode::Text, text.as_bytes(), &mut self.out);
        match text {
            "pause" => ControlFlow::Break(Stop::Pause),
            "close" => ControlFlow::Break(Stop::Close(4000)),
            _ => ControlFlow::Continue(()),
        }
    }

    fn binary(&mut self, bytes: &[u8]) -> ControlFlow<Stop> {
        encode::message(Opcode::Binary, bytes, &mut self.out);
        ControlFlow::Continue(())
    }
}

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

fn request() -> Vec<u8> {
    let mut bytes = Vec::new();
    client::request("chat.example", None, KEY, Subprotocol::Json, &mut bytes);
    bytes
}

fn frame(opcode: Opcode, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode::masked(opcode, payload, [1, 2, 3, 4], &mut bytes);
    bytes
}

fn opened() -> (Socket, Echo) {
    let (mut socket, mut echo) = (Socket::new(), Echo::default());
    let mut request = request();
    let all = request.len();
    assert_eq!(socket.feed(&mut request, &mut echo), Fed::Taken(all));
    assert!(socket.is_open());
    echo.out.clear();
    (socket, echo)
}

fn answer(bytes: &[u8]) -> (Fed, Vec<u8>) {
    let (mut socket, mut echo) = opened();
    let fed = socket.feed(&mut bytes.to_vec(), &mut echo);
    (fed, echo.out)
}

#[test]
fn request_and_frames_in_one_input_or_byte_by_byte() {
    let input = [request(), frame(Opcode::Text, b"hi"), frame(Opcode::Ping, b"p")].concat();
    let (mut socket, mut whole) = (Socket::new(), Echo::default());
    assert_eq!(socket.feed(&mut input.clone(), &mut whole), Fed::Taken(input.len()));
    assert!(whole.out.ends_with(b"\x81\x02hi\x8a\x01p"));
    let (mut socket, mut echo) = (Socket::new(), Echo::default());
    for byte in &input {
        assert_eq!(socket.feed(&mut [*byte], &mut echo), Fed::Taken(1));
    }
    assert_eq!(echo.out, whole.out);
    assert_eq!(socket.heap_bytes(), 0);
}

#[test]
fn an_incomplete_request_is_all_that_a_stranger_keeps() {
    let (mut socket, mut echo) = (Socket::new(), Echo::default());
    assert_eq!(socket.heap_bytes(), 0);
    assert_eq!(socket.feed(&mut b"GET /ws".to_vec(), &mut echo), Fed::Taken(7));
    assert!((7..100).contains(&socket.heap_bytes()) && !socket.is_open());
}

#[test]
fn refusals_are_http() {
    let (mut socket, mut echo) = (Socket::new(), Echo { refuse: true, ..Echo::default() });
    assert_eq!(socket.feed(&mut request(), &mut echo), Fed::Closing);
    assert!(echo.out.starts_with(b"HTTP/1.1 403 "));
    let (mut socket, mut echo) = (Socket::new(), Echo::default());
    assert_eq!(socket.feed(&mut b"PUT ".to_vec(), &mut echo), Fed::Closing);
    assert!(echo.out.starts_with(b"HTTP/1.1 405 "));
}

#[test]
fn closes_are_answered_with_their_code_and_violations_with_theirs() {
    let cases: &[(Vec<u8>, u16)] = &[
        (frame(Opcode::Close, b""), 1000),
        (frame(Opcode::Close, &[0x0B, 0xB9, b'x']), 3001),
        (frame(Opcode::Close, &[3]), 1002),
        (frame(Opcode::Binary, &[0; 11]), 1009),
        (frame(Opcode::Text, &[0xFF]), 1007),
        (frame(Opcode::Continuation, b""), 1002),
    ];
    for (bytes, code) in cases {
        let (fed, out) = answer(bytes);
        assert_eq!(
            (fed, &out[..]),
            (Fed::Closing, &[&[0x88, 2][..], &code.to_be_bytes()].concat()[..]),
            "{bytes:?}"
        );
    }
}

#[test]
fn a_flood_of_pings_is_not_read_beyond_what_the_endpoint_takes() {
    let ping = frame(Opcode::Ping, &[b'p'; 100]);
    let (fed, out) = answer(&ping.repeat(20));
    assert_eq!((fed, out.len()), (Fed::Taken(10 * ping.len()), 10 * 102));
}

#[test]
fn the_endpoint_may_pause_and_close() {
    let pause = frame(Opcode::Text, b"pause");
    let (fed, out) = answer(&[pause.clone(), frame(Opcode::Ping, b"")].concat());
    assert_eq!((fed, &out[..]), (Fed::Taken(pause.len()), &b"\x81\x05pause"[..]));
    let (fed, out) = answer(&[frame(Opcode::Text, b"close"), frame(Opcode::Ping, b"")].concat());
    assert_eq!((fed, &out[..]), (Fed::Closing, &b"\x81\x05close\x88\x02\x0f\xa0"[..]));
}
