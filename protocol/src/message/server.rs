//! What the server sends.

use super::macros::messages;
use super::{Author, Cause, Content, Items, QueueEntries, Side, Status, WireError};
use crate::code::Code;
use crate::codec::{
    Body, Fixed, Flag, FromServer, Id, Kind, Named, Number, PageItems, Sentence, Text, Variable, Waiting,
};
use crate::frame::Header;
use crate::json::{Document, write};
use crate::limits::{FRAME_BYTES_MAX, HEADER_BYTES, NAME_BYTES_MAX, VISITOR_BYTES_MAX};

messages! {
    /// A message from the server. Borrows from the frame body, the JSON document or the server's own memory.
    pub enum ServerMessage<'a>;

    /// Answers HELLO and BIND.
    Welcome = 0x81, "welcome", &[], own_channel: false {
        fixed {
            /// The version spoken from here on.
            version: u8 => Number,
            /// The log epoch, for cursors.
            epoch: u32 => Number,
            /// Names this session in logs.
            session: u64 => Id,
            /// Hybrid logical clock of the server: wall milliseconds since 1970 << 16, plus a counter.
            at: u64 => Id,
            /// Send something at least this often, in seconds.
            heartbeat_s: u16 => Number,
            /// Longest frame body the server takes.
            frame_bytes_max: u32 => Number,
            /// The agent's number; 0 unless the role is agent.
            agent: u32 => Number,
        }
        variable {
            /// The visitor's id or the agent's name; at most 64 bytes.
            identity: &'a str => Text<0, NAME_BYTES_MAX>,
            /// The site's name; at most 64 bytes.
            site: &'a str => Text<0, NAME_BYTES_MAX>,
        }
    }
    /// The command took effect and is durable.
    Ack = 0x82, "ack", &[], own_channel: false {
        fixed {
            /// The conversation of the command; 0 where it has none.
            conversation: u64 => Id,
            /// SEND, RESOLVE: the seq it got. OPEN: the highest seq so far. Else 0.
            seq: u64 => Number,
            /// The n of the command; 0 where it has none.
            n: u64 => Number,
            /// True if the command had been accepted before and nothing was written now.
            duplicate: bool => Flag,
        }
        variable {}
    }
    /// A message of a conversation.
    Deliver = 0x83, "deliver", &[], own_channel: false {
        fixed {
            /// The conversation.
            conversation: u64 => Id,
            /// Its place in the conversation, dense from 1, shared with STATE.
            seq: u64 => Number,
            /// Hybrid logical clock of acceptance.
            at: u64 => Id,
            /// Who wrote.
            author: Author => Named,
            /// Which agent; 0 unless the author is one.
            agent: u32 => Number,
            /// The writing device.
            device: u64 => Id,
            /// That device's n.
            n: u64 => Number,
            /// How the body is meant.
            content: Content => Named,
        }
        variable {
            /// UTF-8, at most 65,536 bytes.
            body: &'a [u8] => Body<FromServer>,
        }
    }
    /// Tells an agent's session that a conversation is its own.
    Assigned = 0x84, "assigned", &[], own_channel: false {
        fixed {
            /// The conversation.
            conversation: u64 => Id,
            /// The owning agent.
            agent: u32 => Number,
            /// The epoch to act under.
            owner_epoch: u32 => Number,
            /// Where the conversation stands.
            status: Status => Named,
            /// Every item after this seq is pushed; those up to it come through HISTORY. At most the highest durable seq.
            seq: u64 => Number,
            /// Hybrid logical clock since when its visitor waits or waited; assignment does not change it.
            since: u64 => Id,
            /// Highest seq read by the visitor.
            visitor_read: u64 => Number,
            /// Highest seq stored by a device of the visitor.
            visitor_delivered: u64 => Number,
            /// Highest seq read by the staff.
            staff_read: u64 => Number,
            /// Highest seq stored by a device of the staff.
            staff_delivered: u64 => Number,
        }
        variable {
            /// External id of the visitor, 1..=64 bytes.
            visitor: &'a str => Text<1, VISITOR_BYTES_MAX>,
        }
    }
    /// A change of status; an item of the conversation like DELIVER.
    State = 0x85, "state", &[], own_channel: false {
        fixed {
            /// The conversation.
            conversation: u64 => Id,
            /// Its place in the conversation, shared with DELIVER.
            seq: u64 => Number,
            /// Hybrid logical clock of the change.
            at: u64 => Id,
            /// The new status.
            status: Status => Named,
            /// Why.
            cause: Cause => Named,
            /// Who caused it.
            by: Author => Named,
            /// The new owner, or who resolved or lost it; else 0.
            agent: u32 => Number,
            /// The assignment epoch after the change.
            owner_epoch: u32 => Number,
        }
        variable {
            /// Name of that agent, may be empty; at most 64 bytes.
            agent_name: &'a str => Text<0, NAME_BYTES_MAX>,
        }
    }
    /// How far a side has stored and read.
    Receipt = 0x86, "receipt", &[], own_channel: false {
        fixed {
            /// The conversation.
            conversation: u64 => Id,
            /// Whose.
            side: Side => Named,
            /// Highest seq stored.
            delivered: u64 => Number,
            /// Highest seq read.
            read: u64 => Number,
        }
        variable {}
    }
    /// Somebody is typing or has stopped.
    Typing = 0x87, "typing", &[], own_channel: false {
        fixed {
            /// The conversation.
            conversation: u64 => Id,
            /// Who.
            author: Author => Named,
            /// Which agent; 0 unless the author is one.
            agent: u32 => Number,
            /// True while typing.
            on: bool => Flag,
        }
        variable {}
    }
    /// Answers HISTORY.
    Page = 0x88, "page", &[], own_channel: false {
        fixed {
            /// The conversation.
            conversation: u64 => Id,
            /// Seq of the first item; 0 if there is none.
            first: u64 => Number,
            /// Seq of the last item; 0 if there is none.
            last: u64 => Number,
            /// True if there are more in the direction asked for.
            more: bool => Flag,
            /// Number of items.
            count: u16 => Number,
        }
        variable {
            /// DELIVER and STATE, in order of seq.
            items: Items<'a> => PageItems,
        }
    }
    /// These seq, both ends included, are not retained or set aside as damaged, and will not come.
    Gap = 0x89, "gap", &[], own_channel: false {
        fixed {
            /// The conversation.
            conversation: u64 => Id,
            /// First missing seq.
            from: u64 => Number,
            /// Last missing seq.
            to: u64 => Number,
        }
        variable {}
    }
    /// One request was refused; the connection goes on.
    Reject = 0x8A, "reject", &[], own_channel: false {
        fixed {
            /// Why.
            code: Code => Named,
            /// Kind of the refused frame; 0 for a cursor of HELLO or BIND, and where no kind could be read.
            of: u8 => Kind,
            /// The conversation it was about; 0 where there is none, or the frame could not be read.
            conversation: u64 => Id,
            /// Try again after this long; 0 = trying again as it is will not help.
            retry_after_ms: u32 => Number,
            /// OUT_OF_ORDER: the n expected. STALE_OWNER: the current epoch. BEYOND_END: the highest seq. Else 0.
            detail: u64 => Number,
        }
        variable {
            /// For people; at most 512 bytes, clipped by the encoder.
            sentence: &'a str => Sentence,
        }
    }
    /// The server closes the connection after this frame; on a channel that is not 0, it ends that channel alone.
    Goodbye = 0x8B, "goodbye", &[], own_channel: false {
        fixed {
            /// Why.
            code: Code => Named,
            /// Connect again after this long; 0 = at once, if the code allows it.
            retry_after_ms: u32 => Number,
        }
        variable {
            /// For people; at most 512 bytes, clipped by the encoder.
            sentence: &'a str => Sentence,
        }
    }
    /// Answers PING.
    Pong = 0x8C, "pong", &[], own_channel: false {
        fixed {
            /// As in the PING.
            nonce: u64 => Id,
        }
        variable {}
    }
    /// Who waits at the site; for agents, at most one per second.
    Queue = 0x8D, "queue", &[], own_channel: false {
        fixed {
            /// Conversations waiting, listed or not.
            waiting: u32 => Number,
            /// Hybrid logical clock since when the first waits; 0 if nobody does.
            oldest_since: u64 => Id,
        }
        variable {
            /// The longest waiting, at most 50.
            entries: QueueEntries<'a> => Waiting,
        }
    }
}
