//! Messages: what the body of a frame means. Each is declared once in the `messages!` tables of `client` and
//! `server`; the binary form, the JSON form and the kinds follow from the declaration. Fixed fields come first,
//! in the order declared, little-endian and without padding; variable fields follow. What comes after the last
//! field is ignored, so that later versions can append.

mod client;
mod error;
mod lists;
pub(crate) mod macros;
mod named;
mod server;
#[cfg(test)]
mod tests;

pub use client::ClientMessage;
pub use error::WireError;
pub use lists::{Cursor, Items, QueueEntries, QueueEntry};
pub use named::{Author, Availability, Cause, Content, Role, Side, Status};
pub use server::ServerMessage;

/// Name of a client kind for the field `of` of a REJECT; `unknown` for 0 and for kinds this version does not have.
pub(crate) fn kind_name(kind: u8) -> &'static str {
    ClientMessage::KINDS.iter().find(|(number, _)| *number == kind).map_or("unknown", |(_, name)| name)
}

/// The kind with this name; `unknown` is 0.
pub(crate) fn kind_from_name(name: &str) -> Option<u8> {
    match name {
        "unknown" => Some(0),
        _ => ClientMessage::KINDS.iter().find(|(_, known)| *known == name).map(|(number, _)| *number),
    }
}
