//! Vectors that are not one good message: refused input, grown bodies, WebSocket bytes, slots; and that the
//! documents say what the code does.

use std::fs;
use std::ops::ControlFlow;

use serde_json::Value as Json;

use super::{check_file, forms, hex, list, quote, read_file, session, unhex};
use crate::code::{Code, Language};
use crate::frame::{Header, decode};
use crate::json::{Document, client};
use crate::limits::{FRAME_BYTES_MAX, HEADER_BYTES, negotiate};
use crate::message::{ClientMessage, ServerMessage, WireError};
use crate::slot::slot_of;
use crate::ws::{Decoder, Event, encode};

/// Kind of HELLO.
const HELLO: u8 = 0x01;

/// A frame with any header and body.
fn frame(kind: u8, body: &[u8]) -> Vec<u8> {
    let header = Header { length: body.len() as u32, kind, channel: 0, tag: 5 };
    [&header.to_bytes(), body].concat()
}

/// Body of a sample, by name.
fn sample(name: &str) -> Vec<u8> {
    let samples = crate::samples::client();
    let (.., message) = samples.iter().find(|sample| sample.0 == name).expect("a sample");
    let mut bytes = Vec::new();
    message.encode(0, 5, &mut bytes);
    bytes.split_off(HEADER_BYTES)
}

/// A sample with one byte of its body changed.
fn changed(name: &str, place: usize, value: u8) -> Vec<u8> {
    let mut body = sample(name);
    body[place] = value;
    body
}

fn refused_frames() -> Vec<(&'static str, Vec<u8>)> {
    let mut flagged = frame(0x0B, &[0; 8]);
    flagged[5] = 1;
    let oversize = Header { length: FRAME_BYTES_MAX as u32 + 1, kind: 0x03, channel: 0, tag: 5 };
    let hello = || sample("hello_visitor");
    let long_body = [&sample("send_text")[..21], &65_537u32.to_le_bytes()].concat();
    let long_topic = [&[0; 8][..], &65u16.to_le_bytes(), &[b'a'; 65]].concat();
    let cursors = hello().len() - 2;
    let many_cursors = [&hello()[..cursors], &257u16.to_le_bytes()].concat();
    vec![
        ("oversize_from_the_header_alone", oversize.to_bytes().to_vec()),
        ("unknown_flag", flagged),
        ("unknown_kind", frame(0x55, b"what")),
        ("kind_of_the_other_direction", frame(0x83, &[0; 64])),
        ("hello_wrong_magic", frame(0x01, &changed("hello_visitor", 3, b'2'))),
        ("hello_newer_version_only", frame(0x01, &[&b"RDK1\x02\x03"[..], &hello()[6..]].concat())),
        ("hello_unknown_role", frame(0x01, &changed("hello_visitor", 6, 4))),
        ("hello_cut", frame(0x01, &hello()[..10])),
        ("hello_too_many_cursors", frame(0x01, &many_cursors)),
        ("open_topic_too_long", frame(0x02, &long_topic)),
        ("send_cut_in_fixed_part", frame(0x03, &sample("send_text")[..12])),
        ("send_cut_in_body", frame(0x03, &sample("send_text")[..26])),
        ("send_unknown_content", frame(0x03, &changed("send_text", 20, 9))),
        ("send_body_too_long", frame(0x03, &long_body)),
        ("send_body_not_utf8", frame(0x03, &changed("send_text", 25, 0xFF))),
        ("typing_flag_of_2", frame(0x05, &changed("typing_on", 8, 2))),
        ("bind_empty_visitor", frame(0x09, &[0; 16])),
        ("empty_body", frame(0x03, b"")),
    ]
}

fn refused_texts() -> Vec<(&'static str, &'static str)> {
    vec![
        ("not_json", "hello"),
        ("not_an_object", "[1,2]"),
        ("cut", "{\"type\":\"ping\""),
        ("no_type", "{\"tag\":1}"),
        ("unknown_type", "{\"type\":\"dance\",\"tag\":1}"),
        ("type_of_the_other_direction", "{\"type\":\"ack\",\"tag\":1}"),
        ("missing_field", "{\"type\":\"open\",\"tag\":1,\"n\":1}"),
        ("number_as_text", "{\"type\":\"open\",\"tag\":1,\"n\":\"1\",\"topic\":\"\"}"),
        ("negative_number", "{\"type\":\"open\",\"tag\":1,\"n\":-1,\"topic\":\"\"}"),
        ("fraction", "{\"type\":\"open\",\"tag\":1,\"n\":1.5,\"topic\":\"\"}"),
        ("fraction_of_nothing", "{\"type\":\"open\",\"tag\":1,\"n\":1.0,\"topic\":\"\"}"),
        ("exponent", "{\"type\":\"open\",\"tag\":1,\"n\":1e0,\"topic\":\"\"}"),
        ("negative_zero", "{\"type\":\"open\",\"tag\":1,\"n\":-0,\"topic\":\"\"}"),
        ("number_beyond_64_bits", "{\"type\":\"open\",\"tag\":1,\"n\":18446744073709551616,\"topic\":\"\"}"),
        ("id_as_number", "{\"type\":\"ping\",\"tag\":1,\"nonce\":7}"),
        ("id_in_upper_case", "{\"type\":\"ping\",\"tag\":1,\"nonce\":\"00000000000000AB\"}"),
        ("id_too_short", "{\"type\":\"ping\",\"tag\":1,\"nonce\":\"ab\"}"),
        (
            "unknown_name",
            "{\"type\":\"presence\",\"tag\":1,\"n\":1,\"availability\":\"busy\",\"capacity\":1}",
        ),
        (
            "number_out_of_range",
            "{\"type\":\"presence\",\"tag\":1,\"n\":1,\"availability\":\"online\",\"capacity\":65536}",
        ),
        ("flag_as_number", "{\"type\":\"typing\",\"tag\":1,\"conversation\":\"00a4000000000001\",\"on\":1}"),
    ]
}

/// What a server finds wrong with one frame from a client.
fn judge_frame(bytes: &[u8]) -> Option<Code> {
    let frame = match decode(bytes, FRAME_BYTES_MAX as u32) {
        Ok(frame) => frame.expect("a whole frame, or one that is refused from its header"),
        Err(error) => return Some(error.code()),
    };
    match ClientMessage::decode(frame.header.kind, frame.body) {
        Ok(ClientMessage::Hello { version_min, version_max, .. })
            if negotiate(version_min, version_max).is_none() =>
        {
            Some(Code::BadVersion)
        }
        Ok(_) => None,
        // There is no session yet that a REJECT could belong to.
        Err(_) if frame.header.kind == HELLO => Some(Code::BadHandshake),
        Err(error) => Some(error.code()),
    }
}

fn judge_text(text: &str) -> Option<Code> {
    Document::parse(text).and_then(|document| client(&document).map(|_| ())).err().map(WireError::code)
}

#[test]
fn refusals_are_as_published_and_each_has_its_code() {
    let entry = |name: &str, form: &str, input: &str, code: Option<Code>| {
        let code = code.expect(name);
        format!(
            " {{\"name\":\"{name}\",\"{form}\":{input},\"code\":\"{}\",\"closes\":{}}}",
            code.name(),
            code.closes()
        )
    };
    let frames = refused_frames();
    let frames =
        frames.iter().map(|(name, bytes)| entry(name, "frame", &quote(&hex(bytes)), judge_frame(bytes)));
    let texts = refused_texts();
    let texts = texts.iter().map(|(name, text)| entry(name, "text", &quote(text), judge_text(text)));
    check_file("refused.json", &list(&frames.chain(texts).collect::<Vec<_>>()));
    for vector in read_file("refused.json") {
        let found = match vector["frame"].as_str() {
            Some(frame) => judge_frame(&unhex(frame)),
            None => judge_text(vector["text"].as_str().expect("a frame or a text")),
        };
        assert_eq!(found.map(Code::name), vector["code"].as_str(), "{}", vector["name"]);
    }
}

#[test]
fn grown_bodies_are_as_published_and_read_as_before() {
    let mut entries = Vec::new();
    for (name, channel, tag, message) in crate::samples::server() {
        if ["ack", "welcome_visitor", "page", "queue"].contains(&name) {
            let (plain, ..) = forms(&session::Message::Server(message), channel, tag);
            let body = [&plain[HEADER_BYTES..], b"\x01\x02\xFF"].concat();
            let header = Header { length: body.len() as u32, kind: message.kind(), channel, tag };
            let grown = [&header.to_bytes()[..], &body].concat();
            assert_eq!(ServerMessage::decode(message.kind(), &body), Ok(message));
            let grown = hex(&grown);
            entries.push(format!(
                " {{\"name\":\"server_{name}\",\"frame\":\"{grown}\",\"same_as\":\"{}\"}}",
                hex(&plain)
            ));
        }
    }
    assert_eq!(entries.len(), 4);
    check_file("grown.json", &list(&entries));
}

fn websocket_streams() -> Vec<(&'static str, Vec<u8>)> {
    const MASK: [u8; 4] = [0x37, 0xFA, 0x21, 0x3D];
    let masked = |first: u8, payload: &[u8]| {
        let mut bytes = Vec::new();
        encode::masked(crate::ws::Opcode::Binary, payload, MASK, &mut bytes);
        bytes[0] = first;
        bytes
    };
    vec![
        ("text_of_rfc_6455", masked(0x81, b"Hello")),
        ("binary_with_one_frame", masked(0x82, &frame(0x0B, &[1, 2, 3, 4, 5, 6, 7, 8]))),
        ("binary_with_two_frames", masked(0x82, &[frame(0x0B, &[1; 8]), frame(0x0B, &[2; 8])].concat())),
        (
            "fragments_with_a_ping_between",
            [masked(0x01, b"Hel"), masked(0x89, b"?"), masked(0x80, b"lo")].concat(),
        ),
        ("close", masked(0x88, &1000u16.to_be_bytes())),
        ("close_without_a_code", masked(0x88, b"")),
        ("length_in_two_bytes", masked(0x82, &[7; 126])),
        ("unmasked", vec![0x81, 0x02, b'h', b'i']),
        ("reserved_bit", masked(0xC1, b"hi")),
        ("reserved_opcode", masked(0x83, b"hi")),
        ("long_control", masked(0x89, &[0; 126])),
        ("length_not_minimal", vec![0x82, 0xFE, 0x00, 0x05]),
        ("continuation_of_nothing", masked(0x80, b"hi")),
        ("text_not_utf8", masked(0x81, &[0xC3, 0x28])),
        ("close_code_that_never_travels", masked(0x88, &1006u16.to_be_bytes())),
        ("too_long_from_the_head_alone", vec![0x82, 0xFF, 0, 0, 0, 0, 0, 2, 0, 0x11, 0x37, 0xFA, 0x21, 0x3D]),
    ]
}

/// The events of a client's stream as JSON, and the close code of the error that ends it.
fn judge_stream(bytes: &[u8]) -> (String, String) {
    let mut events = Vec::new();
    let outcome = Decoder::server(crate::limits::WS_MESSAGE_BYTES_MAX as u32, None).feed(
        &mut bytes.to_vec(),
        |event| {
            events.push(match event {
                Event::Text(text) => format!("{{\"text\":{}}}", quote(text)),
                Event::Binary(bytes) => format!("{{\"binary\":\"{}\"}}", hex(bytes)),
                Event::Ping(bytes) => format!("{{\"ping\":\"{}\"}}", hex(bytes)),
                Event::Pong(bytes) => format!("{{\"pong\":\"{}\"}}", hex(bytes)),
                Event::Close(code) => {
                    format!("{{\"close\":{}}}", code.map_or("null".to_owned(), |code| code.to_string()))
                }
            });
            ControlFlow::Continue(())
        },
    );
    let error = outcome.err().map_or("null".to_owned(), |error| error.close_code().to_string());
    (format!("[{}]", events.join(",")), error)
}

#[test]
fn websocket_streams_are_as_published() {
    let entries: Vec<String> = websocket_streams()
        .iter()
        .map(|(name, bytes)| {
            let (events, error) = judge_stream(bytes);
            let bytes = hex(bytes);
            format!(" {{\"name\":\"{name}\",\"bytes\":\"{bytes}\",\n  \"events\":{events},\"error_close_code\":{error}}}")
        })
        .collect();
    check_file("websocket.json", &list(&entries));
    for vector in read_file("websocket.json") {
        let (events, error) = judge_stream(&unhex(vector["bytes"].as_str().expect("hex")));
        assert_eq!(serde_json::from_str::<Json>(&events).expect("JSON"), vector["events"]);
        assert_eq!(serde_json::from_str::<Json>(&error).expect("JSON"), vector["error_close_code"]);
    }
}

#[test]
fn slots_are_as_published() {
    let keys = [
        "",
        "foo",
        "123456789",
        "user1000",
        "{user1000}.following",
        "foo{}{bar}",
        "foo{{bar}}zap",
        "foo{bar}{zap}",
    ];
    let names = ["{demo}", "{demo/v-1}", "{demo/访客}", "{demo/a}b}"];
    let entries: Vec<String> = keys
        .iter()
        .chain(&names)
        .map(|key| format!(" {{\"key\":{},\"slot\":{}}}", quote(key), slot_of(key.as_bytes())))
        .collect();
    check_file("slots.json", &list(&entries));
}

fn wire_document() -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/WIRE.md");
    fs::read_to_string(path).expect("docs/WIRE.md")
}

#[test]
fn the_document_lists_every_code() {
    let document = wire_document();
    for &code in Code::ALL {
        let closes = if code.closes() { "closes" } else { "" };
        let (english, chinese) = (code.sentence(Language::English), code.sentence(Language::Chinese));
        let row = format!("| {} | `{}` | {closes} | {english} | {chinese} |", code.number(), code.name());
        assert!(document.contains(&row), "docs/WIRE.md lacks the row\n{row}");
    }
}

#[test]
fn the_document_lists_every_field_in_order() {
    let document = wire_document();
    let check = |name: &str, kind: u8, direction: &str, spans: &[crate::message::macros::Span]| {
        let title = format!("### {} `{kind:#04x}` ({direction})", name.to_uppercase());
        let (_, section) =
            document.split_once(&title).unwrap_or_else(|| panic!("docs/WIRE.md lacks {title}"));
        let section = section.split("\n#").next().unwrap_or("");
        let rows: Vec<&str> = section.lines().filter(|line| line.starts_with("| `")).collect();
        let expected: Vec<String> =
            spans.iter().map(|span| format!("| `{}` | {} |", span.name, super::type_name(span))).collect();
        assert_eq!(rows.len(), expected.len(), "{title}");
        for (row, expected) in rows.iter().zip(&expected) {
            assert!(row.starts_with(expected.as_str()), "{title}: {row} should start with {expected}");
        }
    };
    for (.., message) in crate::samples::client() {
        check(message.name(), message.kind(), "client to server", &message.spans());
    }
    for (.., message) in crate::samples::server() {
        check(message.name(), message.kind(), "server to client", &message.spans());
    }
}

#[test]
fn the_document_shows_the_session() {
    let document = wire_document();
    for line in session::lines() {
        let (frame, json, _) = forms(&line.message, 0, line.tag);
        assert!(document.contains(&hex(&frame)), "docs/WIRE.md lacks the frame of {json}");
        assert!(document.contains(line.note), "docs/WIRE.md lacks the note {}", line.note);
    }
}
