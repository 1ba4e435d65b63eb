//! The golden vectors in `vectors/`: written from the samples, compared with the files, and read back from the
//! files as another implementation would. `RINGDESK_VECTORS=write` rewrites the files.

mod checks;
mod session;

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use serde_json::Value as Json;

use crate::frame::decode;
use crate::json::{Document, client, server};
use crate::limits::{FRAME_BYTES_MAX, HEADER_BYTES};
use crate::message::macros::Span;
use crate::message::{ClientMessage, ServerMessage};
use crate::samples;
use session::Message;

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("vectors").join(name)
}

/// Compares with the file, or writes it.
fn check_file(name: &str, content: &str) {
    if std::env::var("RINGDESK_VECTORS").as_deref() == Ok("write") {
        fs::write(path(name), content).expect("vectors/ can be written");
    }
    let found = fs::read_to_string(path(name)).expect("a vector file");
    assert!(
        found == content,
        "{name} differs; if the format was meant to change, set RINGDESK_VECTORS=write"
    );
}

fn read_file(name: &str) -> Vec<Json> {
    let text = fs::read_to_string(path(name)).expect("a vector file");
    serde_json::from_str(&text).expect("a list of vectors")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn unhex(text: &str) -> Vec<u8> {
    assert!(text.len().is_multiple_of(2), "whole bytes");
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).expect("hex")).collect()
}

fn quote(text: &str) -> String {
    Json::from(text).to_string()
}

fn list(entries: &[String]) -> String {
    format!("[\n{}\n]\n", entries.join(",\n"))
}

/// What a field is called in `docs/WIRE.md`.
fn type_name(span: &Span) -> &'static str {
    match (span.codec.split('<').next().unwrap_or(""), span.bytes) {
        ("Number", 1) => "u8",
        ("Number", 2) => "u16",
        ("Number", 4) => "u32",
        ("Number", 8) => "u64",
        ("Id", 8) => "id",
        ("Flag", 1) => "flag",
        ("Named", 1) => "enum",
        ("Named", 2) => "code",
        ("Kind", 1) => "kind",
        ("Text" | "Sentence", _) => "str",
        ("Body", _) => "bytes",
        ("Cursors", _) => "cursors",
        ("PageItems", _) => "frames",
        ("Waiting", _) => "entries",
        ("4 bytes", 4) => "magic",
        _ => panic!("{span:?} has no type name"),
    }
}

/// Both forms of a message, and where its fields lie.
fn forms(message: &Message, channel: u32, tag: u32) -> (Vec<u8>, String, Vec<Span>) {
    let (mut frame, mut json) = (Vec::new(), Vec::new());
    let spans = match message {
        Message::Client(message) => {
            message.encode(channel, tag, &mut frame);
            message.write_json(channel, tag, &mut json);
            message.spans()
        }
        Message::Server(message) => {
            message.encode(channel, tag, &mut frame);
            message.write_json(channel, tag, &mut json);
            message.spans()
        }
    };
    (frame, String::from_utf8(json).expect("UTF-8"), spans)
}

fn direction(message: &Message) -> &'static str {
    match message {
        Message::Client(_) => "client",
        Message::Server(_) => "server",
    }
}

fn message_entry(name: &str, channel: u32, tag: u32, message: &Message) -> String {
    let (frame, json, spans) = forms(message, channel, tag);
    let mut at = HEADER_BYTES;
    let fields: Vec<String> = spans
        .iter()
        .map(|span| {
            let bytes = hex(&frame[at..at + span.bytes]);
            let field = format!(
                "    {{\"name\":\"{}\",\"type\":\"{}\",\"offset\":{at},\"bytes\":{},\"hex\":\"{bytes}\"}}",
                span.name,
                type_name(span),
                span.bytes
            );
            at += span.bytes;
            field
        })
        .collect();
    format!(
        " {{\n  \"name\":\"{name}\",\n  \"direction\":\"{}\",\n  \"kind\":{},\n  \"channel\":{channel},\n  \
         \"tag\":{tag},\n  \"frame\":\"{}\",\n  \"fields\":[\n{}\n  ],\n  \"json\":{json}\n }}",
        direction(message),
        frame[4],
        hex(&frame),
        fields.join(",\n")
    )
}

#[test]
fn messages_are_as_published() {
    let client = samples::client().into_iter().map(|(name, channel, tag, message)| {
        message_entry(&format!("client_{name}"), channel, tag, &Message::Client(message))
    });
    let server = samples::server().into_iter().map(|(name, channel, tag, message)| {
        message_entry(&format!("server_{name}"), channel, tag, &Message::Server(message))
    });
    check_file("messages.json", &list(&client.chain(server).collect::<Vec<_>>()));
}

#[test]
fn the_session_is_as_published() {
    let entries: Vec<String> = session::lines()
        .iter()
        .map(|line| {
            let (frame, json, _) = forms(&line.message, 0, line.tag);
            format!(
                " {{\"connection\":\"{}\",\"from\":\"{}\",\"note\":{},\n  \"frame\":\"{}\",\n  \"json\":{json}}}",
                line.connection,
                direction(&line.message),
                quote(line.note),
                hex(&frame)
            )
        })
        .collect();
    check_file("session.json", &list(&entries));
}

/// Reads one published message in both forms and writes it again: frame -> message -> JSON, JSON -> message ->
/// frame.
macro_rules! read_and_write {
    ($enum:ident, $read:ident, $frame:expr, $json:expr) => {{
        let frame: &[u8] = $frame;
        let found = decode(frame, FRAME_BYTES_MAX as u32).expect("a good frame").expect("a whole frame");
        assert_eq!(found.wire_bytes(), frame.len());
        let message = $enum::decode(found.header.kind, found.body).expect("a good message");
        let mut json = Vec::new();
        message.write_json(found.header.channel, found.header.tag, &mut json);
        assert_eq!(&serde_json::from_slice::<Json>(&json).expect("JSON"), $json);

        let text = $json.to_string();
        let document = Document::parse(&text).expect("JSON");
        let tagged = $read(&document).expect("a good message");
        assert_eq!(tagged.message, message);
        let mut again = Vec::new();
        tagged.message.encode(tagged.channel, tagged.tag, &mut again);
        assert_eq!(hex(&again), hex(frame));
    }};
}

#[test]
fn published_messages_are_read_and_written_the_same() {
    let mut count = 0;
    for (file, side) in [("messages.json", "direction"), ("session.json", "from")] {
        for vector in read_file(file) {
            let frame = unhex(vector["frame"].as_str().expect("hex"));
            match vector[side].as_str() {
                Some("client") => read_and_write!(ClientMessage, client, &frame, &vector["json"]),
                Some("server") => read_and_write!(ServerMessage, server, &frame, &vector["json"]),
                other => panic!("{file}: {other:?}"),
            }
            count += 1;
        }
    }
    assert_eq!(count, samples::client().len() + samples::server().len() + session::lines().len());
}
