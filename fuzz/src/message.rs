//! `protocol::message`: the body of a frame in both directions.
//!
//! Input: kind (1), then the body.

use ringdesk_protocol::frame::{self, FrameError};
use ringdesk_protocol::json::{self, Document};
use ringdesk_protocol::limits::{FRAME_BYTES_MAX, HEADER_BYTES, PAGE_ITEMS_MAX};
use ringdesk_protocol::{ClientMessage, Code, Items, ServerMessage, WireError};

const CHANNEL: u32 = 7;
const TAG: u32 = 9;

/// Reading, writing and reading again gives the same message and the bytes that were read; every shorter body is
/// refused as cut; the JSON form of the message is read as the same message.
///
/// # Panics
/// If not.
pub fn check(input: &[u8]) {
    let Some((&kind, body)) = input.split_first() else { return };
    if body.len() > FRAME_BYTES_MAX {
        return;
    }
    match ClientMessage::decode(kind, body) {
        Ok(message) => client(message, body),
        Err(error) => refused(error),
    }
    match ServerMessage::decode(kind, body) {
        Ok(message) => server(message, body),
        Err(error) => refused(error),
    }
}

/// An error has a code and a sentence.
fn refused(error: WireError) {
    assert!(error.to_string().ends_with('.'), "{error:?}");
    assert!(Code::ALL.contains(&error.code()));
}

/// Writes a message and gives its body, after a look at its header.
fn body_of(kind: u8, encode: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode(&mut bytes);
    let read: Result<_, FrameError> = frame::decode(&bytes, FRAME_BYTES_MAX as u32);
    let frame = read.expect("a good frame").expect("a whole frame");
    assert_eq!((frame.header.kind, frame.header.channel, frame.header.tag), (kind, CHANNEL, TAG));
    assert_eq!(frame.wire_bytes(), bytes.len());
    bytes.split_off(HEADER_BYTES)
}

/// A place to cut a body at, spread over it by its own content.
fn cut(body: &[u8]) -> Option<usize> {
    let sum = body.iter().fold(0_usize, |sum, byte| sum * 31 % 65_537 + usize::from(*byte));
    (!body.is_empty()).then(|| sum % body.len())
}

fn client(message: ClientMessage<'_>, body: &[u8]) {
    let written = body_of(message.kind(), |out| message.encode(CHANNEL, TAG, out));
    assert!(body.starts_with(&written), "{message:?} was written otherwise than read");
    assert_eq!(ClientMessage::decode(message.kind(), &written), Ok(message));
    if let Some(cut) = cut(&written) {
        let error = ClientMessage::decode(message.kind(), &written[..cut]).expect_err("a cut body");
        assert_eq!(error.code(), Code::Malformed, "{error:?}");
    }
    let mut text = Vec::new();
    message.write_json(CHANNEL, TAG, &mut text);
    let text = String::from_utf8(text).expect("JSON is UTF-8");
    let document = Document::parse(&text).expect("what we write is JSON");
    let read = json::client(&document).expect("what we write is a message");
    assert_eq!((read.tag, read.message), (TAG, message));
}

fn server(message: ServerMessage<'_>, body: &[u8]) {
    let written = body_of(message.kind(), |out| message.encode(CHANNEL, TAG, out));
    assert!(body.starts_with(&written), "{message:?} was written otherwise than read");
    assert_eq!(ServerMessage::decode(message.kind(), &written), Ok(message));
    if let Some(cut) = cut(&written) {
        let error = ServerMessage::decode(message.kind(), &written[..cut]).expect_err("a cut body");
        assert_eq!(error.code(), Code::Malformed, "{error:?}");
    }
    let mut items = Vec::new();
    let Some(message) = as_a_server_sends_it(message, &mut items) else { return };
    let mut text = Vec::new();
    message.write_json(CHANNEL, TAG, &mut text);
    let text = String::from_utf8(text).expect("JSON is UTF-8");
    let document = Document::parse(&text).expect("what we write is JSON");
    let read = json::server(&document).expect("what we write is a message");
    assert_eq!((read.tag, read.message), (TAG, message));
}

/// The message as our server would send it, which is what the JSON form can say: message bodies are UTF-8, a page
/// has whole items of the two kinds in their own length, a REJECT answers a known kind. `None` if it never would.
fn as_a_server_sends_it<'a>(
    message: ServerMessage<'a>,
    frames: &'a mut Vec<u8>,
) -> Option<ServerMessage<'a>> {
    match message {
        ServerMessage::Deliver { body, .. } => std::str::from_utf8(body).ok().map(|_| message),
        ServerMessage::Reject { code, of, conversation, retry_after_ms, detail, sentence } => {
            let known = ClientMessage::KINDS.iter().any(|(kind, _)| *kind == of);
            let of = if known { of } else { 0 };
            Some(ServerMessage::Reject { code, of, conversation, retry_after_ms, detail, sentence })
        }
        ServerMessage::Page { conversation, first, last, more, count, items } => {
            for (place, item) in items.iter().enumerate() {
                let (header, item) = item.ok().filter(|_| place < PAGE_ITEMS_MAX)?;
                match item {
                    ServerMessage::Deliver { body, .. } if std::str::from_utf8(body).is_ok() => {}
                    ServerMessage::State { .. } => {}
                    _ => return None,
                }
                item.encode(header.channel, header.tag, frames);
            }
            let items = Items::new(frames);
            Some(ServerMessage::Page { conversation, first, last, more, count, items })
        }
        _ => Some(message),
    }
}
