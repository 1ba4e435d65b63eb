//! WebSocket (RFC 6455), sans-IO: the upgrade request, frames in both directions, close codes.
//!
//! Order: request bytes -> [`Upgrade`] -> 101 -> [`Decoder`] -> [`Event`]s; back: [`encode`] appends frames. A server
//! drives all of it through one [`Socket`].
//! A binary message carries one or more whole protocol frames, a text message one JSON message. Ownership: between
//! messages a [`Decoder`] holds no heap memory; the input is the caller's and is unmasked in place.
//! Absent on purpose: fragmented sending, extensions but permessage-deflate, and of that any context between messages.

pub mod client;
mod close;
mod decoder;
mod deflate;
pub mod encode;
mod head;
mod socket;
mod upgrade;

pub use close::{close_code_of, is_valid_close_code};
pub use decoder::{Decoder, Event};
pub use deflate::{DEFLATE_BYTES_MIN, Deflate, Deflater};
pub use head::{Opcode, WsError};
pub use socket::{Endpoint, Fed, Socket, Stop, Terms};
pub use upgrade::{PATH, Request, Subprotocol, Upgrade, UpgradeError};

#[cfg(test)]
mod deflate_tests;
#[cfg(test)]
mod socket_tests;
#[cfg(test)]
mod tests;
