//! What clients send.

use super::macros::messages;
use super::{Availability, Content, Cursor, Role, WireError};
use crate::codec::{Body, Cursors, Fixed, Flag, FromClient, Id, Named, Number, Text, Variable};
use crate::frame::Header;
use crate::json::{Document, write};
use crate::limits::{
    FRAME_BYTES_MAX, HEADER_BYTES, MAGIC, TICKET_BYTES_MAX, TOPIC_BYTES_MAX, VISITOR_BYTES_MAX,
};

messages! {
    /// A message from a client. Borrows from the frame body or the JSON document it was read from.
    pub enum ClientMessage<'a>;

    /// The first frame of a connection. Answered by WELCOME or GOODBYE.
    Hello = 0x01, "hello", &MAGIC, own_channel: false {
        fixed {
            /// Lowest protocol version the client speaks.
            version_min: u8 => Number,
            /// Highest protocol version the client speaks.
            version_max: u8 => Number,
            /// What the client asks to be.
            role: Role => Named,
            /// This tab or app instance; chosen at random, not 0.
            device: u64 => Id,
        }
        variable {
            /// Opaque to the client; at most 4,096 bytes.
            ticket: &'a str => Text<0, TICKET_BYTES_MAX>,
            /// Where to resume; at most 256.
            cursors: &'a [Cursor] => Cursors,
        }
    }
    /// A visitor opens its conversation, or finds the one that is not resolved. Answered by ACK.
    Open = 0x02, "open", &[], own_channel: false {
        fixed {
            /// The device's OPEN sequence, from 1.
            n: u64 => Number,
        }
        variable {
            /// What it is about; at most 64 bytes, may be empty.
            topic: &'a str => Text<0, TOPIC_BYTES_MAX>,
        }
    }
    /// Appends a message. Answered by ACK once it is durable.
    Send = 0x03, "send", &[], own_channel: false {
        fixed {
            /// The conversation.
            conversation: u64 => Id,
            /// The device's sequence in this conversation, from 1, shared with RESOLVE.
            n: u64 => Number,
            /// Agents: the epoch of the ASSIGNED they act under. Visitors: 0.
            owner_epoch: u32 => Number,
            /// How the body is meant.
            content: Content => Named,
        }
        variable {
            /// UTF-8 (checked on decoding), at most 65,536 bytes.
            body: &'a [u8] => Body<FromClient>,
        }
    }
    /// Confirms storing and reading, cumulatively, for the caller's side. Answered by ACK.
    Receipt = 0x04, "receipt", &[], own_channel: false {
        fixed {
            /// The conversation.
            conversation: u64 => Id,
            /// Highest seq stored by this device; 0 = unchanged.
            delivered: u64 => Number,
            /// Highest seq read; 0 = unchanged. Implies delivered.
            read: u64 => Number,
        }
        variable {}
    }
    /// Says that the caller is typing or has stopped. Not answered, never stored.
    Typing = 0x05, "typing", &[], own_channel: false {
        fixed {
            /// The conversation.
            conversation: u64 => Id,
            /// True while typing.
            on: bool => Flag,
        }
        variable {}
    }
    /// Asks for stored items. `before != 0`: the newest items with seq < before; else the oldest with seq > after.
    /// Answered by PAGE.
    History = 0x06, "history", &[], own_channel: false {
        fixed {
            /// The conversation.
            conversation: u64 => Id,
            /// 0 = not used.
            before: u64 => Number,
            /// Used if `before` is 0; 0 = from the start.
            after: u64 => Number,
            /// Items wanted; see `limits::page_items`.
            limit: u16 => Number,
        }
        variable {}
    }
    /// Ends a conversation. Answered by ACK.
    Resolve = 0x07, "resolve", &[], own_channel: false {
        fixed {
            /// The conversation.
            conversation: u64 => Id,
            /// The device's sequence in this conversation, shared with SEND.
            n: u64 => Number,
            /// Agents: the epoch of the ASSIGNED they act under. Visitors: 0.
            owner_epoch: u32 => Number,
        }
        variable {}
    }
    /// An agent states availability and capacity. Answered by ACK.
    Presence = 0x08, "presence", &[], own_channel: false {
        fixed {
            /// The device's PRESENCE sequence, from 1; may skip.
            n: u64 => Number,
            /// What it declares.
            availability: Availability => Named,
            /// Conversations it takes at once, 0 to 1,000.
            capacity: u16 => Number,
        }
        variable {}
    }
    /// A gateway attaches a visitor of its site to a channel. The header's channel is 0. Answered by WELCOME on
    /// the new channel.
    Bind = 0x09, "bind", &[], own_channel: true {
        fixed {
            /// The channel to attach to; not 0.
            channel: u32 => Number,
            /// The visitor's device.
            device: u64 => Id,
        }
        variable {
            /// External id of the visitor, 1..=64 bytes.
            visitor: &'a str => Text<1, VISITOR_BYTES_MAX>,
            /// Where to resume; at most 256.
            cursors: &'a [Cursor] => Cursors,
        }
    }
    /// A gateway lets go of a channel. The header's channel is 0. Answered by ACK on that channel.
    Unbind = 0x0A, "unbind", &[], own_channel: true {
        fixed {
            /// The channel.
            channel: u32 => Number,
        }
        variable {}
    }
    /// Asks for a PONG with the same nonce.
    Ping = 0x0B, "ping", &[], own_channel: false {
        fixed {
            /// Any value.
            nonce: u64 => Id,
        }
        variable {}
    }
}
