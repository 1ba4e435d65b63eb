//! The reading half of `codec`: fields out of bytes, bounds checked one by one.
//!
//! `None` means outside its bounds or beyond the end; `codec` turns it into an error that names the event's kind.

use crate::codec::{Item, kind};
use crate::command::Availability;
use crate::event::{Cause, Event, Note, Status};
use crate::ids::{AgentId, ConversationId, DeviceId, Hlc, Party, SLOTS, Side, SiteId, Slot};

/// Fields of one event, read from the front.
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn new(fields: &'a [u8]) -> Self {
        Self(fields)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (array, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*array)
    }

    fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(bytes)
    }

    fn slot(&mut self) -> Option<Slot> {
        self.u16().filter(|slot| *slot < SLOTS).map(Slot)
    }

    fn site(&mut self) -> Option<SiteId> {
        self.u32().map(SiteId)
    }

    fn conversation(&mut self) -> Option<ConversationId> {
        self.u64().map(ConversationId).filter(|id| id.number() > 0)
    }

    fn device(&mut self) -> Option<DeviceId> {
        self.u64().map(DeviceId)
    }

    fn at(&mut self) -> Option<Hlc> {
        self.u64().map(Hlc)
    }

    fn agent(&mut self) -> Option<AgentId> {
        self.u32().filter(|agent| *agent != 0 && *agent != u32::MAX).map(AgentId)
    }

    fn agent_or_none(&mut self) -> Option<Option<AgentId>> {
        let agent = self.u32().filter(|agent| *agent != u32::MAX)?;
        Some((agent != 0).then_some(AgentId(agent)))
    }

    fn party(&mut self) -> Option<Party> {
        match (self.u8()?, self.agent_or_none()?) {
            (0, None) => Some(Party::Visitor),
            (1, Some(agent)) => Some(Party::Agent(agent)),
            (2, None) => Some(Party::System),
            _ => None,
        }
    }

    fn key(&mut self) -> Option<Option<(DeviceId, u64)>> {
        match (self.u8()?, self.device()?, self.u64()?) {
            (0, DeviceId(0), 0) => Some(None),
            (1, device, n) => Some(Some((device, n))),
            _ => None,
        }
    }

    fn status(&mut self) -> Option<Status> {
        [Status::Open, Status::Queued, Status::Assigned, Status::Resolved]
            .get(usize::from(self.u8()?))
            .copied()
    }

    fn cause(&mut self) -> Option<Cause> {
        let causes =
            [Cause::FirstMessage, Cause::Reopened, Cause::Assigned, Cause::AgentLost, Cause::Resolved];
        causes.get(usize::from(self.u8()?)).copied()
    }

    fn side(&mut self) -> Option<Side> {
        [Side::Visitor, Side::Staff].get(usize::from(self.u8()?)).copied()
    }

    fn availability(&mut self) -> Option<Availability> {
        let all = [Availability::Offline, Availability::Online, Availability::Away];
        all.get(usize::from(self.u8()?)).copied()
    }

    fn note(&mut self) -> Option<Note> {
        Some(match self.u8()? {
            1 => Note::Want {
                site: self.site()?,
                conversation: self.conversation()?,
                since: self.at()?,
                epoch: self.u32()?,
            },
            2 => {
                Note::Assign { conversation: self.conversation()?, agent: self.agent()?, epoch: self.u32()? }
            }
            3 => Note::Unassign { conversation: self.conversation()?, epoch: self.u32()? },
            4 => Note::Release { site: self.site()?, conversation: self.conversation()?, epoch: self.u32()? },
            _ => return None,
        })
    }

    pub(crate) fn sent(&mut self) -> Option<Item<'a>> {
        let (conversation, seq) = (self.conversation()?, self.u64()?);
        let (party, device, n) = (self.party()?, self.device()?, self.u64()?);
        let (at, kind) = (self.at()?, self.u8()?);
        let length = self.u32()? as usize;
        let body = self.bytes(length)?;
        Some(Item::Sent { conversation, seq, party, device, n, at, kind, body })
    }

    pub(crate) fn changed(&mut self) -> Option<Item<'a>> {
        let (conversation, seq) = (self.conversation()?, self.u64()?);
        let (status, cause) = (self.status()?, self.cause()?);
        let (agent, epoch, by) = (self.agent_or_none()?, self.u32()?, self.party()?);
        let (key, at) = (self.key()?, self.at()?);
        Some(Item::Changed { conversation, seq, status, cause, agent, epoch, by, key, at })
    }

    fn opened(&mut self) -> Option<Event> {
        let (conversation, site, site_slot) = (self.conversation()?, self.site()?, self.slot()?);
        let (device, n, at) = (self.device()?, self.u64()?, self.at()?);
        let length = usize::from(self.u16()?);
        let visitor = str::from_utf8(self.bytes(length)?).ok()?.to_owned();
        Some(Event::Opened { conversation, site, site_slot, visitor, device, n, at })
    }

    pub(crate) fn event(&mut self, event_kind: u8) -> Option<Event> {
        Some(match event_kind {
            kind::OPENED => self.opened()?,
            kind::FOUND => Event::Found {
                conversation: self.conversation()?,
                device: self.device()?,
                n: self.u64()?,
                at: self.at()?,
            },
            kind::SENT => owned(self.sent()?),
            kind::CHANGED => owned(self.changed()?),
            kind::RECEIPT_MOVED => Event::ReceiptMoved {
                conversation: self.conversation()?,
                side: self.side()?,
                delivered: self.u64()?,
                read: self.u64()?,
                at: self.at()?,
            },
            kind::DEVICE_RETIRED => Event::DeviceRetired {
                conversation: self.conversation()?,
                party: self.party()?,
                device: self.device()?,
            },
            kind::OPENER_RETIRED => {
                Event::OpenerRetired { conversation: self.conversation()?, device: self.device()? }
            }
            kind::TOLD => {
                Event::Told { from: self.slot()?, to: self.slot()?, n: self.u64()?, note: self.note()? }
            }
            kind::HEARD => Event::Heard { from: self.slot()?, to: self.slot()?, n: self.u64()? },
            kind::CONFIRMED => Event::Confirmed { from: self.slot()?, to: self.slot()?, upto: self.u64()? },
            kind::BOOTED => Event::Booted { slot: self.slot()?, at: self.at()? },
            _ => return self.dispatcher_event(event_kind),
        })
    }

    /// Every event of a dispatcher begins with the slot and the site.
    fn dispatcher_event(&mut self, event_kind: u8) -> Option<Event> {
        let (slot, site) = (self.slot()?, self.site()?);
        Some(match event_kind {
            kind::WAITING => {
                let (conversation, since, epoch) = (self.conversation()?, self.at()?, self.u32()?);
                Event::Waiting { slot, site, conversation, since, epoch }
            }
            kind::PLACED | kind::RETURNED => {
                let (conversation, agent, epoch) = (self.conversation()?, self.agent()?, self.u32()?);
                let at = self.at()?;
                if event_kind == kind::PLACED {
                    Event::Placed { slot, site, conversation, agent, epoch, at }
                } else {
                    Event::Returned { slot, site, conversation, agent, epoch, at }
                }
            }
            kind::LEFT => {
                let (conversation, epoch, at) = (self.conversation()?, self.u32()?, self.at()?);
                Event::Left { slot, site, conversation, epoch, at }
            }
            kind::AGENT_DECLARED => Event::AgentDeclared {
                slot,
                site,
                agent: self.agent()?,
                device: self.device()?,
                n: self.u64()?,
                availability: self.availability()?,
                capacity: self.u16()?,
                at: self.at()?,
            },
            kind::AGENT_LINKS => {
                Event::AgentLinks { slot, site, agent: self.agent()?, links: self.u32()?, at: self.at()? }
            }
            kind::AGENT_LAPSED => Event::AgentLapsed { slot, site, agent: self.agent()?, at: self.at()? },
            _ => return None,
        })
    }
}

fn owned(item: Item<'_>) -> Event {
    match item {
        Item::Sent { conversation, seq, party, device, n, at, kind, body } => {
            Event::Sent { conversation, seq, party, device, n, at, kind, body: body.to_vec() }
        }
        Item::Changed { conversation, seq, status, cause, agent, epoch, by, key, at } => {
            Event::Changed { conversation, seq, status, cause, agent, epoch, by, key, at }
        }
    }
}
