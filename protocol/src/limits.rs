//! Bounds of the wire format. Each is part of the format: a client may rely on it, `docs/WIRE.md` lists it.

/// The one protocol version this crate speaks.
pub const VERSION: u8 = 1;
/// First four bytes of a HELLO body. They tell a Ringdesk client from anything else that connects by mistake.
pub const MAGIC: [u8; 4] = *b"RDK1";
/// Bytes of a frame header.
pub const HEADER_BYTES: usize = 16;
/// Most bytes in the body of one frame (header not counted).
pub const FRAME_BYTES_MAX: usize = 131_072;
/// Most bytes in the body of one SEND or DELIVER.
pub const BODY_BYTES_MAX: usize = 65_536;
/// Most bytes of a visitor's external id; at least 1.
pub const VISITOR_BYTES_MAX: usize = 64;
/// Most bytes of a ticket.
pub const TICKET_BYTES_MAX: usize = 4_096;
/// Most resume cursors in one HELLO or BIND.
pub const CURSORS_MAX: usize = 256;
/// Most items in one PAGE.
pub const PAGE_ITEMS_MAX: usize = 200;
/// Most bytes of an OPEN topic.
pub const TOPIC_BYTES_MAX: usize = 64;
/// Most bytes of a site name, an agent's name or an identity.
pub const NAME_BYTES_MAX: usize = 64;
/// Most bytes of the sentence in REJECT and GOODBYE; the encoder clips a longer one at a character boundary.
pub const SENTENCE_BYTES_MAX: usize = 512;
/// Most entries in one QUEUE.
pub const QUEUE_ENTRIES_MAX: usize = 50;
/// Bytes of one cursor on the wire.
pub const CURSOR_BYTES: usize = 20;
/// Most bytes in the body of a HELLO or BIND, of this version, all fields at their bound. A server may use it as
/// the frame limit until the HELLO has arrived, so that a stranger can make it hold no more than this.
pub const HELLO_BYTES_MAX: usize = 16_384;
/// Most bytes of a WebSocket message from a client: one frame with its header, or one JSON text.
pub const WS_MESSAGE_BYTES_MAX: usize = FRAME_BYTES_MAX + HEADER_BYTES;
/// Most bytes of an HTTP upgrade request.
pub const UPGRADE_BYTES_MAX: usize = 8_192;

// A full message, a full HELLO and one full item in a page each fit into a frame with room to grow.
const _: () = assert!(BODY_BYTES_MAX + 1_024 + HEADER_BYTES < FRAME_BYTES_MAX);
const _: () = assert!(TICKET_BYTES_MAX + CURSORS_MAX * CURSOR_BYTES + 1_024 < HELLO_BYTES_MAX);
const _: () = assert!(HELLO_BYTES_MAX <= FRAME_BYTES_MAX);
const _: () = assert!(QUEUE_ENTRIES_MAX * (18 + VISITOR_BYTES_MAX) + 1_024 < FRAME_BYTES_MAX);
const _: () = assert!(TICKET_BYTES_MAX < 65_536 && CURSORS_MAX < 65_536);

/// The version to speak with a client that offers `min..=max`, or `None` (then `BAD_VERSION`).
pub fn negotiate(min: u8, max: u8) -> Option<u8> {
    (min <= VERSION && VERSION <= max).then_some(VERSION)
}

/// Items a HISTORY with this `limit` asks for: 0 and anything above the bound mean [`PAGE_ITEMS_MAX`].
pub fn page_items(limit: u16) -> usize {
    match usize::from(limit) {
        0 => PAGE_ITEMS_MAX,
        wanted => wanted.min(PAGE_ITEMS_MAX),
    }
}
