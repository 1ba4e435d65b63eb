//! The JSON form: the same messages with the same field names as text, for the subprotocol `ringdesk.v1.json`.
//! Order: WebSocket text -> [`Document::parse`] -> [`client`] or [`server`]; back: `write_json` of a message.
//!
//! Ids and stamps (`conversation`, `device`, `session`, `nonce`, `at`, `since`) are 16 lower-case hex digits,
//! because JavaScript numbers hold 53 bits; counters are numbers, enums lower-case names, codes by name. Unknown
//! fields are ignored; of a field that comes twice the first counts.

#[cfg(test)]
mod tests;
pub(crate) mod value;
pub(crate) mod write;

pub use value::Document;

use crate::message::{ClientMessage, ServerMessage, WireError};

/// A message read from JSON, with what the frame header carries in the binary form.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tagged<M> {
    /// As in the header; 0 if absent.
    pub channel: u32,
    /// As in the header; 0 if absent.
    pub tag: u32,
    /// The message.
    pub message: M,
}

/// Reads a client's message. It borrows from the document.
///
/// # Errors
/// [`WireError`] naming the field.
pub fn client<'a>(document: &'a Document<'_>) -> Result<Tagged<ClientMessage<'a>>, WireError> {
    let (channel, tag, message) = ClientMessage::from_document(document)?;
    Ok(Tagged { channel, tag, message })
}

/// Reads a server's message. It borrows from the document.
///
/// # Errors
/// [`WireError`] naming the field.
pub fn server<'a>(document: &'a Document<'_>) -> Result<Tagged<ServerMessage<'a>>, WireError> {
    let (channel, tag, message) = ServerMessage::from_document(document)?;
    Ok(Tagged { channel, tag, message })
}

/// The `tag` and the kind of a document whose message could not be read, for the REJECT that answers it: each is
/// 0 if it is not there or makes no sense.
pub fn tag_and_kind(document: &Document<'_>) -> (u32, u8) {
    let tag = document.number_or_zero("tag").unwrap_or(0);
    let name = document.field("type").and_then(|value| value.text("type")).unwrap_or("");
    (tag, crate::message::kind_from_name(name).unwrap_or(0))
}
