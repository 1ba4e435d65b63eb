//! `protocol::json`: messages as text.
//!
//! Input: the text.

use ringdesk_protocol::json::{self, Document, Tagged};
use ringdesk_protocol::limits::FRAME_BYTES_MAX;
use ringdesk_protocol::{ClientMessage, ServerMessage, WireError, frame};

/// What is read is written and read again as the same message and the same text, and means the same in the binary
/// form; a text that ends early is no JSON; a refusal finds the tag and kind of what it refuses.
///
/// # Panics
/// If not.
pub fn check(input: &[u8]) {
    // Bytes that are no text end at the WebSocket.
    let Ok(text) = std::str::from_utf8(input) else { return };
    if text.len() > FRAME_BYTES_MAX / 2 {
        return;
    }
    let document = match Document::parse(text) {
        Ok(document) => document,
        Err(error) => return assert_eq!(error, WireError::NotJson),
    };
    let object = text.trim_ascii_end();
    let early = Document::parse(&object[..object.len() - 1]).map(|_| ());
    assert_eq!(early, Err(WireError::NotJson), "a text that lacks its last bracket");
    let (tag, kind) = json::tag_and_kind(&document);
    match json::client(&document) {
        Ok(read) => {
            assert_eq!((tag, kind), (read.tag, read.message.kind()));
            client(read);
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    match json::server(&document) {
        Ok(read) => server(read),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// Both directions have the same promises over different types.
macro_rules! both_ways {
    ($name:ident, $enum:ident) => {
        fn $name(read: Tagged<$enum<'_>>) {
            let Tagged { channel, tag, message } = read;
            let mut text = Vec::new();
            message.write_json(channel, tag, &mut text);
            let text = String::from_utf8(text).expect("JSON is UTF-8");
            let document = Document::parse(&text).expect("what we write is JSON");
            assert_eq!(json::$name(&document), Ok(read), "{text}");
            let mut bytes = Vec::new();
            message.encode(channel, tag, &mut bytes);
            let frame = frame::decode(&bytes, FRAME_BYTES_MAX as u32).expect("a good frame");
            let frame = frame.expect("a whole frame");
            assert_eq!((frame.header.channel, frame.header.tag), (channel, tag));
            assert_eq!($enum::decode(frame.header.kind, frame.body), Ok(message));
        }
    };
}

both_ways!(client, ClientMessage);
both_ways!(server, ServerMessage);
