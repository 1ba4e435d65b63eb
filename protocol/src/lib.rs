//! Ringdesk wire format v1: frames, messages, JSON form, WebSocket, slots. Sans-IO.
//!
//! Order of the layers, as bytes pass through them: socket bytes -> [`proxy`] (behind a front proxy only) -> [`ws`]
//! (browsers only) -> [`frame`] (binary) or [`json`] (text) -> [`message`]. Nothing here owns a connection: every
//! decoder is a plain value that is fed bytes and keeps heap memory only while a message is incomplete. `docs/WIRE.md` is the same for other languages,
//! and `vectors/` holds the bytes both are checked against.

pub mod code;
mod codec;
pub mod frame;
pub mod json;
pub mod limits;
pub mod message;
pub mod proxy;
#[cfg(test)]
mod samples;
pub mod slot;
#[cfg(test)]
mod vectors;
pub mod ws;

pub use code::{Code, Language};
pub use frame::{Carry, Frame, FrameError, Header};
pub use message::{
    Author, Availability, Cause, ClientMessage, Content, Cursor, Items, QueueEntries, QueueEntry, Role,
    ServerMessage, Side, Status, WireError,
};
pub use slot::{SLOTS, slot_of};
