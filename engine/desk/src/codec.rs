//! Records: the events of one decision as bytes, little-endian, each event versioned on its own.
//!
//! ```text
//! record  = count u16, then count events
//! event   = kind u8, version u8, length u32, then length bytes of fields in the order of the enum
//! fields  = Slot u16; SiteId, AgentId, epoch, links u32; ConversationId, DeviceId, Hlc, seq, n u64
//!           Status, Cause, Side, Availability u8; capacity u16
//!           party      u8 (0 visitor, 1 agent, 2 system), agent u32 (0 unless an agent)
//!           agent?     u32, 0 = none
//!           key?       u8 (0 none, 1 some), then device u64 and n u64 in both cases
//!           visitor    u16 length, UTF-8
//!           body       u32 length, bytes
//!           note       u8 (1 Want, 2 Assign, 3 Unassign, 4 Release), then its fields
//! ```
//!
//! An event's fields fill its length exactly; a kind whose fields change gets the next version, and the old one
//! stays readable for ever. Kinds are never used again. Damage is the log's business (its checksums come first):
//! what fails here was written by another version of the engine, or by none.

use std::fmt;

use crate::codec_read::Reader;
use crate::event::{Cause, Event, Note, Status};
use crate::ids::{AgentId, ConversationId, DeviceId, Hlc, Party};

/// Kinds of events on disk.
pub(crate) mod kind {
    pub(crate) const OPENED: u8 = 1;
    pub(crate) const FOUND: u8 = 2;
    pub(crate) const SENT: u8 = 3;
    pub(crate) const CHANGED: u8 = 4;
    pub(crate) const RECEIPT_MOVED: u8 = 5;
    pub(crate) const DEVICE_RETIRED: u8 = 6;
    pub(crate) const OPENER_RETIRED: u8 = 7;
    pub(crate) const WAITING: u8 = 8;
    pub(crate) const PLACED: u8 = 9;
    pub(crate) const RETURNED: u8 = 10;
    pub(crate) const LEFT: u8 = 11;
    pub(crate) const AGENT_DECLARED: u8 = 12;
    pub(crate) const AGENT_LINKS: u8 = 13;
    pub(crate) const TOLD: u8 = 14;
    pub(crate) const HEARD: u8 = 15;
    pub(crate) const CONFIRMED: u8 = 16;
    pub(crate) const BOOTED: u8 = 17;
    pub(crate) const AGENT_LAPSED: u8 = 18;
}

/// Version of every event written today.
const VERSION: u8 = 1;

/// Why a record cannot be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CodecError {
    /// The record ends inside an event, or an event's length runs beyond the record.
    Short,
    /// Bytes are left behind the last event.
    Trailing,
    /// No event has this kind.
    UnknownKind(u8),
    /// The kind is known, this version of it is not.
    UnknownVersion {
        /// The kind.
        kind: u8,
        /// The version found.
        version: u8,
    },
    /// The fields of an event do not fill its length, or one of them is outside its bounds.
    BadField {
        /// The kind.
        kind: u8,
    },
}

impl fmt::Display for CodecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Short => write!(f, "the record ends inside an event"),
            Self::Trailing => write!(f, "bytes are left behind the record's last event"),
            Self::UnknownKind(kind) => write!(f, "event kind {kind} is unknown; a newer engine wrote it"),
            Self::UnknownVersion { kind, version } => {
                write!(
                    f,
                    "event kind {kind} has version {version}, which is unknown; a newer engine wrote it"
                )
            }
            Self::BadField { kind } => write!(f, "an event of kind {kind} has a field outside its bounds"),
        }
    }
}

impl std::error::Error for CodecError {}

/// One item of a conversation's total order, borrowed from a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Item<'a> {
    /// `Event::Sent`.
    Sent {
        /// The conversation.
        conversation: ConversationId,
        /// Its seq.
        seq: u64,
        /// Author.
        party: Party,
        /// Author's device.
        device: DeviceId,
        /// Author's device sequence.
        n: u64,
        /// When.
        at: Hlc,
        /// Message kind.
        kind: u8,
        /// UTF-8 body.
        body: &'a [u8],
    },
    /// `Event::Changed`.
    Changed {
        /// The conversation.
        conversation: ConversationId,
        /// Its seq.
        seq: u64,
        /// New status.
        status: Status,
        /// Why.
        cause: Cause,
        /// The owner while `Assigned`.
        agent: Option<AgentId>,
        /// Assignment epoch.
        epoch: u32,
        /// Who caused it.
        by: Party,
        /// The key of a RESOLVE.
        key: Option<(DeviceId, u64)>,
        /// When.
        at: Hlc,
    },
}

impl Item<'_> {
    /// Its conversation.
    pub fn conversation(&self) -> ConversationId {
        match *self {
            Item::Sent { conversation, .. } | Item::Changed { conversation, .. } => conversation,
        }
    }

    /// Its place in the conversation.
    pub fn seq(&self) -> u64 {
        match *self {
            Item::Sent { seq, .. } | Item::Changed { seq, .. } => seq,
        }
    }

    /// The key it recorded: (party, device, n). `None` for a change nobody keyed.
    pub fn key(&self) -> Option<(Party, DeviceId, u64)> {
        match *self {
            Item::Sent { party, device, n, .. } => Some((party, device, n)),
            Item::Changed { by, key, .. } => key.map(|(device, n)| (by, device, n)),
        }
    }

    /// The dedup hash of its body, to be held against `Answer::OldDuplicate`.
    pub fn body_hash(&self) -> u64 {
        match *self {
            Item::Sent { kind, body, .. } => crate::device::send_hash(kind, body),
            Item::Changed { .. } => crate::device::resolve_hash(),
        }
    }
}

/// Appends the record of one decision. Panics on more than 65,535 events, which no decision has.
pub fn encode(events: &[Event], out: &mut Vec<u8>) {
    let count = u16::try_from(events.len()).expect("a record counts its events in 16 bits");
    out.extend_from_slice(&count.to_le_bytes());
    for event in events {
        let start = out.len();
        out.extend_from_slice(&[0, VERSION, 0, 0, 0, 0]);
        let kind = put_event(event, out);
        let length = u32::try_from(out.len() - start - 6).expect("an event is far below 4 GiB");
        out[start] = kind;
        out[start + 2..start + 6].copy_from_slice(&length.to_le_bytes());
    }
}

/// Reads a record. Fails on anything `encode` does not write; never panics.
pub fn decode(bytes: &[u8]) -> Result<Vec<Event>, CodecError> {
    let mut events = Vec::new();
    decode_each(bytes, |event| events.push(event))?;
    Ok(events)
}

/// Reads a record event by event. On `Err` the events before the bad one have been visited.
pub fn decode_each(bytes: &[u8], mut visit: impl FnMut(Event)) -> Result<(), CodecError> {
    for framed in frames(bytes)? {
        let framed = framed?;
        visit(framed.event()?);
    }
    Ok(())
}

/// The items of a record, borrowed, in order. Other events are passed over without reading their fields.
pub fn items(bytes: &[u8]) -> impl Iterator<Item = Result<Item<'_>, CodecError>> {
    let (frames, failed) = match frames(bytes) {
        Ok(frames) => (Some(frames), None),
        Err(error) => (None, Some(Err(error))),
    };
    let items = frames.into_iter().flatten().filter_map(|framed| match framed {
        Ok(framed) => framed.item().transpose(),
        Err(error) => Some(Err(error)),
    });
    failed.into_iter().chain(items)
}

/// The item of a record with this seq, borrowed; `None` when the record has none. A record belongs to one decision,
/// so its items are of one conversation.
pub fn decode_item(bytes: &[u8], seq: u64) -> Result<Option<Item<'_>>, CodecError> {
    for item in items(bytes) {
        let item = item?;
        if item.seq() == seq {
            return Ok(Some(item));
        }
    }
    Ok(None)
}

/// One event between its length and its fields.
pub(crate) struct Framed<'a> {
    pub(crate) kind: u8,
    pub(crate) version: u8,
    pub(crate) fields: &'a [u8],
}

/// Cuts a record into its events.
fn frames(bytes: &[u8]) -> Result<impl Iterator<Item = Result<Framed<'_>, CodecError>>, CodecError> {
    let (count, mut rest) = bytes.split_first_chunk::<2>().ok_or(CodecError::Short)?;
    let mut left = u16::from_le_bytes(*count);
    let mut failed = false;
    Ok(std::iter::from_fn(move || {
        if failed {
            return None;
        }
        if left == 0 {
            failed = true;
            return (!rest.is_empty()).then_some(Err(CodecError::Trailing));
        }
        let framed = cut(&mut rest);
        left -= 1;
        failed = framed.is_err();
        Some(framed)
    }))
}

fn cut<'a>(rest: &mut &'a [u8]) -> Result<Framed<'a>, CodecError> {
    let (head, behind) = rest.split_first_chunk::<6>().ok_or(CodecError::Short)?;
    let [kind, version, a, b, c, d] = *head;
    let length = u32::from_le_bytes([a, b, c, d]) as usize;
    let (fields, behind) = behind.split_at_checked(length).ok_or(CodecError::Short)?;
    *rest = behind;
    if !(kind::OPENED..=kind::AGENT_LAPSED).contains(&kind) {
        return Err(CodecError::UnknownKind(kind));
    }
    if version != VERSION {
        return Err(CodecError::UnknownVersion { kind, version });
    }
    Ok(Framed { kind, version, fields })
}

impl<'a> Framed<'a> {
    /// The item, when the event is one.
    fn item(&self) -> Result<Option<Item<'a>>, CodecError> {
        let mut reader = Reader::new(self.fields);
        let item = match self.kind {
            kind::SENT => reader.sent(),
            kind::CHANGED => reader.changed(),
            _ => return Ok(None),
        };
        match item.filter(|_| reader.is_empty()) {
            Some(item) => Ok(Some(item)),
            None => Err(CodecError::BadField { kind: self.kind }),
        }
    }

    fn event(&self) -> Result<Event, CodecError> {
        assert!(self.version == VERSION, "cut lets no other version pass");
        let mut reader = Reader::new(self.fields);
        let event = reader.event(self.kind).filter(|_| reader.is_empty());
        event.ok_or(CodecError::BadField { kind: self.kind })
    }
}

/// Little-endian fields behind each other.
trait Put {
    fn u8(&mut self, value: u8) -> &mut Self;
    fn u16(&mut self, value: u16) -> &mut Self;
    fn u32(&mut self, value: u32) -> &mut Self;
    fn u64(&mut self, value: u64) -> &mut Self;
    fn party(&mut self, party: Party) -> &mut Self;
    fn bytes(&mut self, bytes: &[u8]) -> &mut Self;
    fn note(&mut self, note: Note) -> &mut Self;
}

impl Put for Vec<u8> {
    fn u8(&mut self, value: u8) -> &mut Self {
        self.push(value);
        self
    }

    fn u16(&mut self, value: u16) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    fn u32(&mut self, value: u32) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    fn u64(&mut self, value: u64) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    fn party(&mut self, party: Party) -> &mut Self {
        match party {
            Party::Visitor => self.u8(0).u32(0),
            Party::Agent(agent) => self.u8(1).u32(agent.0),
            Party::System => self.u8(2).u32(0),
        }
    }

    fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.extend_from_slice(bytes);
        self
    }

    fn note(&mut self, note: Note) -> &mut Self {
        match note {
            Note::Want { site, conversation, since, epoch } => {
                self.u8(1).u32(site.0).u64(conversation.0).u64(since.0).u32(epoch)
            }
            Note::Assign { conversation, agent, epoch } => {
                self.u8(2).u64(conversation.0).u32(agent.0).u32(epoch)
            }
            Note::Unassign { conversation, epoch } => self.u8(3).u64(conversation.0).u32(epoch),
            Note::Release { site, conversation, epoch } => {
                self.u8(4).u32(site.0).u64(conversation.0).u32(epoch)
            }
        }
    }
}

/// Appends an event's fields; gives its kind.
fn put_event(event: &Event, out: &mut Vec<u8>) -> u8 {
    match event {
        Event::Opened { .. }
        | Event::Found { .. }
        | Event::Sent { .. }
        | Event::Changed { .. }
        | Event::ReceiptMoved { .. }
        | Event::DeviceRetired { .. }
        | Event::OpenerRetired { .. } => put_conversation_event(event, out),
        Event::Told { from, to, n, note } => {
            out.u16(from.0).u16(to.0).u64(*n).note(*note);
            kind::TOLD
        }
        Event::Heard { from, to, n } => {
            out.u16(from.0).u16(to.0).u64(*n);
            kind::HEARD
        }
        Event::Confirmed { from, to, upto } => {
            out.u16(from.0).u16(to.0).u64(*upto);
            kind::CONFIRMED
        }
        Event::Booted { slot, at } => {
            out.u16(slot.0).u64(at.0);
            kind::BOOTED
        }
        _ => put_dispatcher_event(event, out),
    }
}

fn put_conversation_event(event: &Event, out: &mut Vec<u8>) -> u8 {
    match event {
        Event::Opened { conversation, site, site_slot, visitor, device, n, at } => {
            out.u64(conversation.0).u32(site.0).u16(site_slot.0).u64(device.0).u64(*n).u64(at.0);
            let length = u16::try_from(visitor.len()).expect("a visitor id is bounded by decide");
            out.u16(length).bytes(visitor.as_bytes());
            kind::OPENED
        }
        Event::Found { conversation, device, n, at } => {
            out.u64(conversation.0).u64(device.0).u64(*n).u64(at.0);
            kind::FOUND
        }
        Event::Sent { conversation, seq, party, device, n, at, kind, body } => {
            out.u64(conversation.0).u64(*seq).party(*party).u64(device.0).u64(*n).u64(at.0).u8(*kind);
            let length = u32::try_from(body.len()).expect("a body is bounded by decide");
            out.u32(length).bytes(body);
            kind::SENT
        }
        Event::Changed { conversation, seq, status, cause, agent, epoch, by, key, at } => {
            out.u64(conversation.0).u64(*seq).u8(*status as u8).u8(*cause as u8);
            out.u32(agent.map_or(0, |agent| agent.0)).u32(*epoch).party(*by);
            let (device, n) = key.unwrap_or((DeviceId(0), 0));
            out.u8(u8::from(key.is_some())).u64(device.0).u64(n).u64(at.0);
            kind::CHANGED
        }
        Event::ReceiptMoved { conversation, side, delivered, read, at } => {
            out.u64(conversation.0).u8(*side as u8).u64(*delivered).u64(*read).u64(at.0);
            kind::RECEIPT_MOVED
        }
        Event::DeviceRetired { conversation, party, device } => {
            out.u64(conversation.0).party(*party).u64(device.0);
            kind::DEVICE_RETIRED
        }
        Event::OpenerRetired { conversation, device } => {
            out.u64(conversation.0).u64(device.0);
            kind::OPENER_RETIRED
        }
        other => unreachable!("{other:?} is no event of a conversation"),
    }
}

fn put_dispatcher_event(event: &Event, out: &mut Vec<u8>) -> u8 {
    match event {
        Event::Waiting { slot, site, conversation, since, epoch } => {
            out.u16(slot.0).u32(site.0).u64(conversation.0).u64(since.0).u32(*epoch);
            kind::WAITING
        }
        Event::Placed { slot, site, conversation, agent, epoch, at } => {
            out.u16(slot.0).u32(site.0).u64(conversation.0).u32(agent.0).u32(*epoch).u64(at.0);
            kind::PLACED
        }
        Event::Returned { slot, site, conversation, agent, epoch, at } => {
            out.u16(slot.0).u32(site.0).u64(conversation.0).u32(agent.0).u32(*epoch).u64(at.0);
            kind::RETURNED
        }
        Event::Left { slot, site, conversation, epoch, at } => {
            out.u16(slot.0).u32(site.0).u64(conversation.0).u32(*epoch).u64(at.0);
            kind::LEFT
        }
        Event::AgentDeclared { slot, site, agent, device, n, availability, capacity, at } => {
            out.u16(slot.0).u32(site.0).u32(agent.0).u64(device.0).u64(*n);
            out.u8(*availability as u8).u16(*capacity).u64(at.0);
            kind::AGENT_DECLARED
        }
        Event::AgentLinks { slot, site, agent, links, at } => {
            out.u16(slot.0).u32(site.0).u32(agent.0).u32(*links).u64(at.0);
            kind::AGENT_LINKS
        }
        Event::AgentLapsed { slot, site, agent, at } => {
            out.u16(slot.0).u32(site.0).u32(agent.0).u64(at.0);
            kind::AGENT_LAPSED
        }
        other => unreachable!("{other:?} is no event of a dispatcher"),
    }
}
