//! Tests of the WebSocket layer, with tungstenite as the oracle.

use std::io::{Cursor, Read, Write};
use std::ops::ControlFlow;

use proptest::prelude::*;
use tungstenite::protocol::{Role, WebSocket};

use super::*;
use crate::limits::{UPGRADE_BYTES_MAX, WS_MESSAGE_BYTES_MAX};

/// An event that owns its bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Seen {
    Text(String),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<u16>),
}

impl From<Event<'_>> for Seen {
    fn from(event: Event<'_>) -> Self {
        match event {
            Event::Text(text) => Seen::Text(text.to_owned()),
            Event::Binary(bytes) => Seen::Binary(bytes.to_vec()),
            Event::Ping(bytes) => Seen::Ping(bytes.to_vec()),
            Event::Pong(bytes) => Seen::Pong(bytes.to_vec()),
            Event::Close(code) => Seen::Close(code),
        }
    }
}

fn feed_in_pieces(mut decoder: Decoder, bytes: &[u8], cuts: &[usize]) -> (Vec<Seen>, Option<WsError>) {
    let mut seen = Vec::new();
    let mut start = 0;
    for end in cuts.iter().copied().chain([bytes.len()]) {
        let mut piece = bytes[start..end].to_vec();
        let fed = decoder.feed(&mut piece, |event| {
            seen.push(event.into());
            ControlFlow::Continue(())
        });
        match fed {
            Ok(taken) => assert_eq!(taken, piece.len()),
            Err(error) => {
                assert_eq!(decoder.feed(&mut [0], |_| panic!("an event after an error")), Err(error));
                assert_eq!(decoder.heap_bytes(), 0);
                return (seen, Some(error));
            }
        }
        start = end;
    }
    (seen, None)
}

fn server(bytes: &[u8]) -> (Vec<Seen>, Option<WsError>) {
    feed_in_pieces(Decoder::server(WS_MESSAGE_BYTES_MAX as u32, None), bytes, &[])
}

/// One client frame with any head bits.
fn raw(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode::masked(Opcode::Text, payload, [0x11, 0x22, 0x33, 0x44], &mut bytes);
    bytes[0] = first;
    bytes
}

fn any_frame() -> impl Strategy<Value = Vec<u8>> {
    let opcode = prop_oneof![
        8 => Just(0x81u8), 4 => Just(0x82u8), 3 => Just(0x01u8), 2 => Just(0x02u8), 4 => Just(0x00u8),
        5 => Just(0x80u8), 2 => Just(0x89u8), 2 => Just(0x8Au8), 1 => Just(0x88u8), 1 => any::<u8>(),
    ];
    let payload = prop_oneof![
        4 => "[a-zé汉🦀]{0,40}".prop_map(String::into_bytes),
        1 => proptest::collection::vec(any::<u8>(), 0..140),
        1 => Just(vec![0x03, 0xE8]),
        1 => Just("汉".as_bytes()[..2].to_vec()),
        1 => Just("汉".as_bytes()[2..].to_vec()),
    ];
    (opcode, payload, any::<[u8; 4]>()).prop_map(|(first, payload, mask)| {
        let mut bytes = Vec::new();
        encode::masked(Opcode::Binary, &payload, mask, &mut bytes);
        bytes[0] = first;
        bytes
    })
}

proptest! {
    #[test]
    fn every_cut_gives_the_same_events(
        frames in proptest::collection::vec(any_frame(), 0..8),
        cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..10),
    ) {
        let bytes = frames.concat();
        let mut places: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        places.sort_unstable();
        let whole = server(&bytes);
        prop_assert_eq!(&feed_in_pieces(Decoder::server(WS_MESSAGE_BYTES_MAX as u32, None), &bytes, &places), &whole);
        let each: Vec<usize> = (0..bytes.len()).collect();
        prop_assert_eq!(&feed_in_pieces(Decoder::server(WS_MESSAGE_BYTES_MAX as u32, None), &bytes, &each), &whole);
    }

    /// At every place a stream can be taken on by another decoder, which is fed what the first one holds.
    #[test]
    fn another_decoder_goes_on_where_one_was(
        frames in proptest::collection::vec(any_frame(), 0..6),
        compressed in any::<bool>(),
        place in any::<prop::sample::Index>(),
    ) {
        let mut bytes = frames.concat();
        // Compressed from the first frame on: what it says is no deflate stream, but that shows at its end only.
        let deflate = if compressed { Deflate::of_window(15) } else { None };
        if let Some(first) = bytes.first_mut().filter(|first| compressed && matches!(**first & 0x0F, 1 | 2)) {
            *first |= 0x40;
        }
        let place = place.index(bytes.len() + 1);
        let new = || Decoder::server(WS_MESSAGE_BYTES_MAX as u32, deflate);
        let whole = feed_in_pieces(new(), &bytes, &[]);
        let mut first = new();
        let mut seen = Vec::new();
        let fed = first.feed(&mut bytes[..place].to_vec(), |event| {
            seen.push(Seen::from(event));
            ControlFlow::Continue(())
        });
        prop_assume!(fed.is_ok() && !seen.iter().any(|seen| matches!(seen, Seen::Close(_))));
        let mut held = Vec::new();
        first.put_held(&mut held);
        prop_assert_eq!(held.is_empty(), first.is_between_messages());
        let mut second = new();
        second.feed(&mut held, |event| panic!("{event:?} was held")).expect("what is held is in order");
        let rest = feed_in_pieces(second, &bytes[place..], &[]);
        seen.extend(rest.0);
        prop_assert_eq!((seen, rest.1), whole);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        server(&bytes);
        feed_in_pieces(Decoder::client(1000), &bytes, &[]);
        let _ = Upgrade::new().feed(&bytes);
    }

    #[test]
    fn arbitrary_requests_never_panic_and_do_not_depend_on_the_cut(
        lines in proptest::collection::vec(
            prop_oneof![
                Just("Host: a".to_owned()), Just("Upgrade: websocket".to_owned()),
                Just("Connection: keep-alive, Upgrade".to_owned()), Just("Sec-WebSocket-Version: 13".to_owned()),
                Just("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==".to_owned()),
                Just("Sec-WebSocket-Protocol: chat, ringdesk.v1.bin".to_owned()), "[ -~]{0,20}",
            ], 0..9),
        cut in any::<prop::sample::Index>(),
    ) {
        let text = format!("GET /ws HTTP/1.1\r\n{}\r\n\r\n", lines.join("\r\n"));
        let whole = Upgrade::new().feed(text.as_bytes());
        let cut = cut.index(text.len());
        let mut upgrade = Upgrade::new();
        let parts = upgrade
            .feed(&text.as_bytes()[..cut])
            .and_then(|first| match first {
                Some(request) => Ok(Some(request)),
                None => upgrade.feed(&text.as_bytes()[cut..]).map(|request| {
                    request.map(|mut request| {
 request.taken += cut;
 request
 })
                }),
            });
        prop_assert_eq!(parts, whole);
    }

    /// Valid streams: our decoder sees what tungstenite's server sees.
    #[test]
    fn tungstenite_reads_the_same(
        messages in proptest::collection::vec(("[a-z汉]{0,60}", any::<bool>(), 1usize..5, any::<[u8; 4]>()), 1..6),
    ) {
        let mut bytes = Vec::new();
        for (text, is_text, parts, mask) in &messages {
            let size = text.len().div_ceil(*parts).max(1);
            let chunks: Vec<&[u8]> = if text.is_empty() { vec![b""] } else { text.as_bytes().chunks(size).collect() };
            for (place, chunk) in chunks.iter().enumerate() {
                let start = bytes.len();
                encode::masked(Opcode::Binary, chunk, *mask, &mut bytes);
                let opcode = if place > 0 { 0 } else if *is_text { 1 } else { 2 };
                bytes[start] = opcode | if place + 1 == chunks.len() { 0x80 } else { 0 };
                if place == 0 {
                    encode::masked(Opcode::Ping, b"between", *mask, &mut bytes);
                }
            }
        }
        let (ours, error) = server(&bytes);
        prop_assert_eq!(error, None);
        prop_assert_eq!(ours, tungstenite_sees(Role::Server, bytes));
    }

    #[test]
    fn tungstenite_reads_what_the_server_sends(payload in "[a-z汉]{0,200}", close in 3000u16..4999) {
        let mut bytes = Vec::new();
        encode::message(Opcode::Text, payload.as_bytes(), &mut bytes);
        let start = bytes.len();
        bytes.extend_from_slice(payload.as_bytes());
        encode::wrap(Opcode::Binary, start, &mut bytes);
        encode::message(Opcode::Pong, b"x", &mut bytes);
        encode::close(close, "gone", &mut bytes);
        let theirs = tungstenite_sees(Role::Client, bytes.clone());
        let (ours, error) = feed_in_pieces(Decoder::client(1_000), &bytes, &[]);
        prop_assert_eq!(error, None);
        prop_assert_eq!(&ours, &theirs);
        prop_assert_eq!(ours.len(), 4);
    }
}

/// Bytes to read, and a place for the answers nobody looks at.
struct Tape(Cursor<Vec<u8>>);

impl Read for Tape {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        self.0.read(out)
    }
}

impl Write for Tape {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn tungstenite_sees(role: Role, bytes: Vec<u8>) -> Vec<Seen> {
    use tungstenite::Message;
    let mut socket = WebSocket::from_raw_socket(Tape(Cursor::new(bytes)), role, None);
    let mut seen = Vec::new();
    while let Ok(message) = socket.read() {
        seen.push(match message {
            Message::Text(text) => Seen::Text(text.to_string()),
            Message::Binary(bytes) => Seen::Binary(bytes.to_vec()),
            Message::Ping(bytes) => Seen::Ping(bytes.to_vec()),
            Message::Pong(bytes) => Seen::Pong(bytes.to_vec()),
            Message::Close(frame) => Seen::Close(frame.map(|frame| frame.code.into())),
            Message::Frame(_) => continue,
        });
    }
    seen
}

#[test]
fn each_violation_has_its_error() {
    let cases: &[(&str, Vec<u8>, WsError)] = &[
        ("reserved bit", raw(0xC1, b"a"), WsError::ReservedBits),
        ("reserved opcode", raw(0x83, b"a"), WsError::ReservedOpcode),
        ("unmasked", vec![0x81, 0x01, b'a'], WsError::WrongMask),
        ("long form of 5", vec![0x81, 0xFE, 0, 5], WsError::LengthNotMinimal),
        ("longer form of 126", vec![0x81, 0xFF, 0, 0, 0, 0, 0, 0, 0, 126], WsError::LengthNotMinimal),
        ("fragmented ping", raw(0x09, b"a"), WsError::BadControl),
        ("ping of 126", raw(0x89, &[b'a'; 126]), WsError::BadControl),
        ("continuation of nothing", raw(0x80, b"a"), WsError::BadFragment),
        ("text in text", [raw(0x01, b"a"), raw(0x81, b"b")].concat(), WsError::BadFragment),
        ("bad text", raw(0x81, &[0xFF]), WsError::NotUtf8),
        ("cut text", raw(0x81, &"汉".as_bytes()[..2]), WsError::NotUtf8),
        ("close of 1", raw(0x88, &[3]), WsError::BadClose),
        ("close 1005", raw(0x88, &[0x03, 0xED]), WsError::BadClose),
        ("close reason", raw(0x88, &[0x03, 0xE8, 0xFF]), WsError::NotUtf8),
    ];
    for (name, bytes, expected) in cases {
        assert_eq!(server(bytes).1, Some(*expected), "{name}");
    }
}

#[test]
fn oversize_is_refused_from_the_head() {
    let mut bytes = Vec::new();
    encode::head(Opcode::Binary, WS_MESSAGE_BYTES_MAX + 1, Some([1; 4]), &mut bytes);
    assert_eq!(server(&bytes).1, Some(WsError::TooLarge));
    // Two fragments that fit one by one but not together.
    let mut bytes = raw(0x02, &vec![0; WS_MESSAGE_BYTES_MAX]);
    bytes.extend_from_slice(&raw(0x80, b"a"));
    assert_eq!(server(&bytes).1, Some(WsError::TooLarge));
    assert_eq!(server(&raw(0x82, &vec![0; WS_MESSAGE_BYTES_MAX])).0.len(), 1);
}

#[test]
fn bad_text_is_found_before_the_message_ends() {
    let bytes = raw(0x01, b"good \xFF bad");
    assert_eq!(server(&bytes[..bytes.len() - 3]).1, Some(WsError::NotUtf8));
}

#[test]
fn nothing_is_held_between_messages_nor_read_after_a_close() {
    let mut decoder = Decoder::server(WS_MESSAGE_BYTES_MAX as u32, None);
    let bytes = [raw(0x01, "汉".as_bytes()), raw(0x89, b"p"), raw(0x80, b"b")].concat();
    for byte in &bytes {
        decoder.feed(&mut [*byte], |_| ControlFlow::Continue(())).expect("good frames");
    }
    assert_eq!((decoder.heap_bytes(), decoder.is_between_messages()), (0, true));
    let after_close = [raw(0x88, b""), raw(0xFF, b"junk")].concat();
    assert_eq!(server(&after_close), (vec![Seen::Close(None)], None));
}

#[test]
fn breaking_off_leaves_the_rest_untouched() {
    let first = raw(0x82, b"hello");
    let bytes = [first.clone(), raw(0x82, b"next")].concat();
    for cut in 0..first.len() {
        let mut decoder = Decoder::server(WS_MESSAGE_BYTES_MAX as u32, None);
        let mut head = bytes[..cut].to_vec();
        assert_eq!(decoder.feed(&mut head, |_| ControlFlow::Break(())), Ok(cut));
        let mut rest = bytes[cut..].to_vec();
        let taken = decoder.feed(&mut rest, |_| ControlFlow::Break(())).expect("good frames");
        assert_eq!(cut + taken, first.len());
        assert_eq!(rest[taken..], bytes[first.len()..], "the rest is still masked");
    }
}

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

fn good_request() -> String {
    let mut bytes = Vec::new();
    client::request("chat.example", Some("https://shop.example"), KEY, Subprotocol::Json, &mut bytes);
    String::from_utf8(bytes).expect("a request is text")
}

#[test]
fn a_good_request_is_taken_at_every_cut_and_answered() {
    let text = good_request() + "frames follow";
    for cut in 0..=text.len() - 13 {
        let mut upgrade = Upgrade::new();
        let (mut found, mut before) = (upgrade.feed(&text.as_bytes()[..cut]).expect("no error"), 0);
        if found.is_none() {
            found = upgrade.feed(&text.as_bytes()[cut..]).expect("no error");
            before = cut;
        }
        let request = found.expect("a whole request");
        assert_eq!(request.subprotocol, Some(Subprotocol::Json));
        assert_eq!(request.origin.as_deref(), Some("https://shop.example"));
        assert_eq!(request.host, "chat.example");
        assert_eq!(&text[before + request.taken..], "frames follow");
        let mut answer = Vec::new();
        request.response(None, &mut answer);
        // The accept key is that of RFC 6455 section 1.3.
        assert!(
            String::from_utf8_lossy(&answer)
                .contains("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n")
        );
        assert_eq!(client::response(&answer, KEY, Subprotocol::Json), Ok(Some(answer.len())));
        assert_eq!(client::response(&answer[..40], KEY, Subprotocol::Json), Ok(None));
        assert_eq!(client::response(&answer, KEY, Subprotocol::Binary), Err(client::ResponseError::NotForUs));
    }
}

#[test]
fn each_bad_request_has_its_status() {
    let cases: &[(&str, &str, u16)] = &[
        ("GET /ws", "POST /ws", 405),
        ("GET /ws", "GET /", 404),
        ("HTTP/1.1", "HTTP/1.0", 400),
        ("Host: chat.example\r\n", "", 400),
        ("Upgrade: websocket\r\n", "", 400),
        ("Connection: Upgrade\r\n", "Connection: close\r\n", 400),
        ("Sec-WebSocket-Version: 13", "Sec-WebSocket-Version: 8", 426),
        ("Sec-WebSocket-Version: 13\r\n", "", 426),
        (KEY, "c2hvcnQ=", 400),
        ("Host: chat.example", "Host: a\r\nHost: b", 400),
        ("Host: chat.example", "Host: a\r\nContent-Length: 5", 400),
        ("Host: chat.example", "Host: a\nX: b\n\n", 400),
    ];
    for (from, to, status) in cases {
        let text = good_request().replace(from, to);
        assert_ne!(text, good_request());
        let error = Upgrade::new().feed(text.as_bytes()).expect_err(to);
        assert_eq!(error.status(), *status, "{to}");
        let mut answer = Vec::new();
        error.response(&mut answer);
        assert_eq!(
            client::response(&answer, KEY, Subprotocol::Json),
            Err(client::ResponseError::Status(*status))
        );
        assert!(String::from_utf8_lossy(&answer).contains("\r\n\r\nBAD_HANDSHAKE: "));
    }
    let long = good_request().replace("Host:", &format!("X: {}\r\nHost:", "a".repeat(UPGRADE_BYTES_MAX)));
    assert_eq!(Upgrade::new().feed(long.as_bytes()), Err(UpgradeError::TooLarge));
    assert_eq!(
        (UpgradeError::ForeignOrigin.status(), UpgradeError::ForeignOrigin.code().name()),
        (403, "BAD_ORIGIN")
    );
}

#[test]
fn every_closing_code_has_a_close_code_that_may_be_sent() {
    for &code in crate::Code::ALL {
        assert!(is_valid_close_code(close_code_of(code)), "{code:?}");
    }
    for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000] {
        assert!(!is_valid_close_code(code), "{code}");
    }
}
