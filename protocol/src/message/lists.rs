//! Lists inside messages, borrowed from the bytes they came in.

use zerocopy::byteorder::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{ServerMessage, WireError};
use crate::codec::take_visitor;
use crate::frame::{self, Header};
use crate::limits::{FRAME_BYTES_MAX, QUEUE_ENTRIES_MAX, VISITOR_BYTES_MAX};

/// A place to resume from, as it lies on the wire (20 bytes): everything up to `seq` is known to the client.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct Cursor {
    conversation: U64,
    epoch: U32,
    seq: U64,
}

impl Cursor {
    /// A cursor after `seq` of `conversation`; `epoch` is that of the WELCOME under which it was learned.
    pub const fn new(conversation: u64, epoch: u32, seq: u64) -> Self {
        Self { conversation: U64::new(conversation), epoch: U32::new(epoch), seq: U64::new(seq) }
    }

    /// The conversation.
    pub const fn conversation(&self) -> u64 {
        self.conversation.get()
    }

    /// The log epoch; a cursor of another epoch is worth nothing.
    pub const fn epoch(&self) -> u32 {
        self.epoch.get()
    }

    /// Highest seq the client has.
    pub const fn seq(&self) -> u64 {
        self.seq.get()
    }
}

/// The items of a PAGE: whole DELIVER and STATE frames, headers included, one after the other. Build one by
/// encoding those messages into a buffer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Items<'a>(&'a [u8]);

impl<'a> Items<'a> {
    /// Takes encoded frames. They are looked at only by [`Items::iter`].
    pub const fn new(frames: &'a [u8]) -> Self {
        Self(frames)
    }

    /// The encoded frames.
    pub const fn as_bytes(&self) -> &'a [u8] {
        self.0
    }

    /// Decodes the items in order.
    ///
    /// # Errors
    /// Each item may be [`WireError::Missing`] (the bytes are no whole frames) or whatever its message gives.
    pub fn iter(&self) -> impl Iterator<Item = Result<(Header, ServerMessage<'a>), WireError>> + use<'a> {
        frame::frames(self.0, FRAME_BYTES_MAX as u32).map(|frame| {
            let frame = frame.map_err(|_| WireError::Missing { field: "items" })?;
            Ok((frame.header, ServerMessage::decode(frame.header.kind, frame.body)?))
        })
    }
}

/// One waiting conversation, as agents see it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct QueueEntry<'a> {
    /// The conversation.
    pub conversation: u64,
    /// Hybrid logical clock since when it waits.
    pub since: u64,
    /// External id of the visitor, at most 64 bytes; empty where the sender does not know it (the dispatcher does
    /// not: agents learn it with ASSIGNED).
    pub visitor: &'a str,
}

/// The entries of a QUEUE in their wire form; at most [`QUEUE_ENTRIES_MAX`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct QueueEntries<'a> {
    count: u16,
    bytes: &'a [u8],
}

impl<'a> QueueEntries<'a> {
    /// Encodes entries into `scratch` (cleared first). Takes the first [`QUEUE_ENTRIES_MAX`] and leaves the rest.
    pub fn build<'e>(entries: impl IntoIterator<Item = QueueEntry<'e>>, scratch: &'a mut Vec<u8>) -> Self {
        scratch.clear();
        let mut count = 0;
        for entry in entries.into_iter().take(QUEUE_ENTRIES_MAX) {
            Self::put_one(&entry, scratch);
            count += 1;
        }
        Self { count, bytes: scratch }
    }

    pub(crate) const fn new(count: u16, bytes: &'a [u8]) -> Self {
        Self { count, bytes }
    }

    pub(crate) const fn as_bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        usize::from(self.count)
    }

    /// True if nobody is listed.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The entries in order.
    pub fn iter(&self) -> impl Iterator<Item = QueueEntry<'a>> + use<'a> {
        let mut rest = self.bytes;
        (0..self.count).map(move |_| {
            let (entry, left) =
                Self::take_one(rest, "entries").expect("entries were checked when they were made");
            rest = left;
            entry
        })
    }

    pub(crate) fn put_one(entry: &QueueEntry<'_>, out: &mut Vec<u8>) {
        let length = entry.visitor.len();
        assert!(length <= VISITOR_BYTES_MAX, "visitor id of {length} bytes");
        out.extend_from_slice(&entry.conversation.to_le_bytes());
        out.extend_from_slice(&entry.since.to_le_bytes());
        out.extend_from_slice(&(length as u16).to_le_bytes());
        out.extend_from_slice(entry.visitor.as_bytes());
    }

    pub(crate) fn take_one<'b>(
        rest: &'b [u8],
        field: &'static str,
    ) -> Result<(QueueEntry<'b>, &'b [u8]), WireError> {
        let (conversation, rest) = rest.split_first_chunk().ok_or(WireError::Missing { field })?;
        let (since, rest) = rest.split_first_chunk().ok_or(WireError::Missing { field })?;
        let (visitor, rest) = take_visitor(rest, field)?;
        let (conversation, since) = (u64::from_le_bytes(*conversation), u64::from_le_bytes(*since));
        Ok((QueueEntry { conversation, since, visitor }, rest))
    }
}
