//! One conversation: its order, its owner, its devices and receipts, and the rules of SEND, RESOLVE, RECEIPT
//! and of the notes its dispatcher tells it.
//!
//! Owned by its slot. Order of a keyed command: bounds, who calls (C10), dedup (C4), ownership (C7), room for the
//! device. Dedup stands before ownership, so that the retry of an acked message is answered DUP even when the
//! conversation has another owner by then.

use crate::command::{Answer, Caller, Refusal};
use crate::decision::{Decision, Keyed, check_agent};
use crate::device::{Device, Devices, KIND_RESOLVE, Key, resolve_hash, send_hash};
use crate::digest::{Digest, party_number};
use crate::event::{Cause, Event, Note, Status};
use crate::ids::{AgentId, ConversationId, DeviceId, Hlc, Party, Side, SiteId, Slot};
use crate::limits::Limits;
use crate::view::{ConversationView, Receipts};

/// One conversation. seq, epoch and receipts are 32 bits wide: see `Limits::items_max`.
pub(crate) struct Conversation {
    devices: Devices,
    since: Hlc,
    /// Place of its visitor in the store.
    pub(crate) visitor: u32,
    pub(crate) site: SiteId,
    seq: u32,
    /// Highest assignment epoch seen, refused assignments included: it must never be given out again.
    epoch: u32,
    /// The owner, 0 = none.
    agent: u32,
    /// (delivered, read) of the visitor, then of the staff.
    receipts: [[u32; 2]; 2],
    site_slot: Slot,
    pub(crate) status: Status,
}

/// A keyed command that may be recorded.
struct Admitted<'a> {
    conversation: &'a Conversation,
    party: Party,
    /// The device that makes room for the caller's.
    retire: Option<(Party, DeviceId)>,
}

impl Conversation {
    pub(crate) fn new(site: SiteId, site_slot: Slot, visitor: u32, at: Hlc) -> Self {
        Self {
            devices: Devices::None,
            since: at,
            visitor,
            site,
            seq: 0,
            epoch: 0,
            agent: 0,
            receipts: [[0; 2]; 2],
            site_slot,
            status: Status::Open,
        }
    }

    #[cfg(feature = "planted")]
    pub(crate) fn forget_devices(&mut self) {
        self.devices = Devices::None;
    }

    pub(crate) fn seq(&self) -> u64 {
        u64::from(self.seq)
    }

    pub(crate) fn view<'a>(&self, conversation: ConversationId, visitor: &'a str) -> ConversationView<'a> {
        ConversationView {
            conversation,
            site: self.site,
            site_slot: self.site_slot,
            visitor,
            status: self.status,
            seq: self.seq(),
            epoch: self.epoch,
            agent: (self.agent != 0).then_some(AgentId(self.agent)),
            visitor_receipts: self.receipts(Side::Visitor),
            staff_receipts: self.receipts(Side::Staff),
            since: self.since,
        }
    }

    fn receipts(&self, side: Side) -> Receipts {
        let [delivered, read] = self.receipts[side as usize];
        Receipts { delivered: u64::from(delivered), read: u64::from(read) }
    }

    /// Who the caller is here. A foreign caller learns nothing, not even that the conversation exists.
    pub(crate) fn party(&self, caller: &Caller<'_>, name: &str) -> Result<Party, Refusal> {
        match *caller {
            Caller::Visitor { site, visitor } if site == self.site && visitor == name => Ok(Party::Visitor),
            Caller::Agent { site, agent } if site == self.site => {
                check_agent(agent)?;
                Ok(Party::Agent(agent))
            }
            _ => Err(Refusal::NotFound),
        }
    }

    fn device(&self, party: Party, device: DeviceId) -> Option<&Device> {
        let party = party_number(party);
        self.devices.as_slice().iter().find(|known| known.device == device && known.party == party)
    }

    /// Whether an agent owns it at the epoch it believes in.
    fn check_owner(&self, agent: AgentId, owner_epoch: u32) -> Result<(), Refusal> {
        if self.status == Status::Assigned && self.agent == agent.0 && self.epoch == owner_epoch {
            return Ok(());
        }
        if self.status == Status::Resolved && self.epoch == owner_epoch {
            return Err(Refusal::Resolved);
        }
        Err(Refusal::StaleOwner { epoch: self.epoch })
    }

    /// Room for a device that is not known: `None` when there is some, else the device to retire, the one whose
    /// last item is oldest.
    fn device_room(&self, limits: &Limits) -> Result<Option<(Party, DeviceId)>, Refusal> {
        if self.devices.as_slice().len() < limits.devices_live_max as usize {
            return Ok(None);
        }
        if self.devices.retired().len() >= limits.devices_retired_max as usize {
            return Err(Refusal::DeviceLimit);
        }
        let oldest = self.devices.as_slice().iter().min_by_key(|device| device.last_seq());
        Ok(oldest.map(|device| (number_party(device.party), device.device)))
    }

    pub(crate) fn apply(&mut self, event: &Event, limits: &Limits) {
        match event {
            Event::Sent { seq, party, device, n, kind, body, .. } => {
                self.append(*seq);
                self.record((*party, *device), *n, send_hash(*kind, body), limits);
            }
            Event::Changed { seq, status, cause, agent, epoch, by, key, at, .. } => {
                self.append(*seq);
                assert!(agent.is_some() == (*status == Status::Assigned), "an owner is what Assigned means");
                assert!(*epoch >= self.epoch, "epoch {epoch} after {}", self.epoch);
                self.status = *status;
                self.epoch = *epoch;
                self.agent = agent.map_or(0, |agent| agent.0);
                if matches!(cause, Cause::FirstMessage | Cause::Reopened) {
                    self.since = *at;
                }
                if let Some((device, n)) = key {
                    self.record((*by, *device), *n, resolve_hash(), limits);
                }
            }
            Event::ReceiptMoved { side, delivered, read, .. } => {
                let before = self.receipts(*side);
                assert!(
                    read <= delivered && *delivered <= self.seq(),
                    "receipts {read} <= {delivered} <= seq"
                );
                assert!(*delivered >= before.delivered && *read >= before.read, "receipts only grow");
                self.receipts[*side as usize] = [narrow(*delivered), narrow(*read)];
            }
            Event::DeviceRetired { party, device, .. } => {
                self.devices.retire(party_number(*party), *device, limits.devices_retired_max);
            }
            other => panic!("{other:?} is no event of a conversation"),
        }
    }

    /// It told its dispatcher that the assignment of `epoch` is over, perhaps one it never took.
    pub(crate) fn apply_released(&mut self, epoch: u32) {
        assert!(self.status != Status::Assigned, "the owner's epoch is released while it owns");
        self.epoch = self.epoch.max(epoch);
    }

    fn append(&mut self, seq: u64) {
        assert!(seq == self.seq() + 1, "seq {seq} after {}", self.seq);
        self.seq = narrow(seq);
    }

    /// Records the key of the item just appended.
    fn record(&mut self, (party, device): (Party, DeviceId), n: u64, hash: u64, limits: &Limits) {
        let (party, seq) = (party_number(party), self.seq());
        if let Some(known) = self.devices.find_mut(party, device) {
            return known.record(n, seq, hash, limits.window);
        }
        assert!(
            self.devices.as_slice().len() < limits.devices_live_max as usize,
            "live devices are bounded by decide"
        );
        assert!(!self.devices.retired().contains(party, device), "a retired device never comes back");
        self.devices.push(Device::new(device, party, n, seq, hash));
    }

    /// `key` names its visitor and site.
    pub(crate) fn digest(&self, key: &str, digest: &mut Digest) {
        digest.u32(self.site.0);
        digest.u32(u32::from(self.site_slot.0));
        digest.bytes(key.as_bytes());
        digest.u32(self.status as u32);
        digest.u32(self.seq);
        digest.u32(self.epoch);
        digest.u32(self.agent);
        digest.u64(self.since.0);
        self.receipts.iter().flatten().for_each(|receipt| digest.u32(*receipt));
        self.devices.digest(digest);
    }
}

impl<'a> Decision<'a> {
    /// SEND: the item, and what the visitor's word does to the status.
    pub(crate) fn send(&mut self, keyed: Keyed<'_>, kind: u8, body: &[u8]) -> Result<Answer, Refusal> {
        if kind == KIND_RESOLVE || body.len() > self.limits.body_bytes_max as usize {
            return Err(Refusal::Invalid);
        }
        let admitted = match self.admit(&keyed, send_hash(kind, body), false)? {
            Ok(admitted) => admitted,
            Err(known) => return Ok(known),
        };
        let conversation = admitted.conversation;
        let cause = match (admitted.party, conversation.status) {
            (Party::Visitor, Status::Open) => Some(Cause::FirstMessage),
            (Party::Visitor, Status::Resolved) => Some(Cause::Reopened),
            _ => None,
        };
        if cause.is_some() && !self.note_room() {
            return Err(Refusal::Busy);
        }
        let (id, party, seq, at) = (keyed.conversation, admitted.party, conversation.seq() + 1, self.now);
        self.retire(id, admitted.retire);
        let Keyed { device, n, .. } = keyed;
        self.push(Event::Sent { conversation: id, seq, party, device, n, at, kind, body: body.to_vec() });
        if let Some(cause) = cause {
            let (site, epoch) = (conversation.site, conversation.epoch);
            self.push(Event::Changed {
                conversation: id,
                seq: seq + 1,
                status: Status::Queued,
                cause,
                agent: None,
                epoch,
                by: party,
                key: None,
                at,
            });
            self.tell(conversation.site_slot, Note::Want { site, conversation: id, since: at, epoch });
        }
        Ok(Answer::Accepted { seq })
    }

    /// RESOLVE: the change, and word to the dispatcher when it knows the conversation.
    pub(crate) fn resolve(&mut self, keyed: Keyed<'_>) -> Result<Answer, Refusal> {
        let admitted = match self.admit(&keyed, resolve_hash(), true)? {
            Ok(admitted) => admitted,
            Err(known) => return Ok(known),
        };
        let conversation = admitted.conversation;
        let dispatched = matches!(conversation.status, Status::Queued | Status::Assigned);
        if dispatched && !self.note_room() {
            return Err(Refusal::Busy);
        }
        let (id, epoch, seq) = (keyed.conversation, conversation.epoch, conversation.seq() + 1);
        self.retire(id, admitted.retire);
        self.push(Event::Changed {
            conversation: id,
            seq,
            status: Status::Resolved,
            cause: Cause::Resolved,
            agent: None,
            epoch,
            by: admitted.party,
            key: Some((keyed.device, keyed.n)),
            at: self.now,
        });
        if dispatched {
            let site = conversation.site;
            self.tell(conversation.site_slot, Note::Release { site, conversation: id, epoch });
        }
        Ok(Answer::Accepted { seq })
    }

    /// RECEIPT: cumulative, monotonic, never beyond the end. `read` implies delivered.
    pub(crate) fn receipt(
        &mut self,
        id: ConversationId,
        caller: Caller<'_>,
        delivered: u64,
        read: u64,
    ) -> Result<Answer, Refusal> {
        let conversation = self.state.conversation(id).ok_or(Refusal::NotFound)?;
        let side = match conversation.party(&caller, self.state.name_of(conversation))? {
            Party::Agent(agent)
                if conversation.status == Status::Assigned && conversation.agent == agent.0 =>
            {
                Side::Staff
            }
            Party::Visitor => Side::Visitor,
            _ => return Err(Refusal::StaleOwner { epoch: conversation.epoch }),
        };
        if delivered.max(read) > conversation.seq() {
            return Err(Refusal::BeyondEnd { seq: conversation.seq() });
        }
        let before = conversation.receipts(side);
        let (read_now, delivered_now) = (before.read.max(read), before.delivered.max(delivered).max(read));
        if (Receipts { delivered: delivered_now, read: read_now }) != before {
            let (delivered, read, at) = (delivered_now, read_now, self.now);
            self.push(Event::ReceiptMoved { conversation: id, side, delivered, read, at });
        }
        Ok(Answer::Done)
    }

    /// Checks a keyed command. The inner `Err` is the answer to a key that was recorded before.
    fn admit(
        &self,
        keyed: &Keyed<'_>,
        hash: u64,
        resolves: bool,
    ) -> Result<Result<Admitted<'a>, Answer>, Refusal> {
        if keyed.n == 0 {
            return Err(Refusal::Invalid);
        }
        let conversation = self.state.conversation(keyed.conversation).ok_or(Refusal::NotFound)?;
        let party = conversation.party(&keyed.caller, self.state.name_of(conversation))?;
        let device = conversation.device(party, keyed.device);
        match device.map(|device| device.key(keyed.n, hash)) {
            Some(Key::Same(seq)) => return Ok(Err(Answer::Duplicate { seq })),
            Some(Key::Old) => return Ok(Err(Answer::OldDuplicate { body_hash: hash })),
            Some(Key::Other) => return Err(Refusal::IdReused),
            Some(Key::Ahead(expected)) => return Err(Refusal::OutOfOrder { expected }),
            Some(Key::Fresh) => {}
            None if conversation.devices.retired().contains(party_number(party), keyed.device) => {
                return Err(Refusal::DeviceExpired);
            }
            None if keyed.n != 1 => return Err(Refusal::OutOfOrder { expected: 1 }),
            None => {}
        }
        match party {
            Party::Agent(agent) => conversation.check_owner(agent, keyed.owner_epoch)?,
            _ if resolves && conversation.status == Status::Resolved => return Err(Refusal::Resolved),
            _ => {}
        }
        if conversation.seq >= self.limits.items_max {
            return Err(Refusal::Invalid);
        }
        let retire = if device.is_some() { None } else { conversation.device_room(self.limits)? };
        Ok(Ok(Admitted { conversation, party, retire }))
    }

    fn retire(&mut self, conversation: ConversationId, retire: Option<(Party, DeviceId)>) {
        if let Some((party, device)) = retire {
            self.push(Event::DeviceRetired { conversation, party, device });
        }
    }

    /// The dispatcher gave it to an agent. One that nobody wants any more is released at its epoch, so that the
    /// agent gets free and the epoch is never used again.
    pub(crate) fn hear_assign(&mut self, id: ConversationId, agent: AgentId, epoch: u32) {
        let Some(conversation) = self.state.conversation(id) else { return };
        if epoch <= conversation.epoch {
            return;
        }
        match conversation.status {
            // Assigned and given again cannot be, since the Unassign travels ahead. Were it so, the newer epoch
            // would be the truth, because the dispatcher is the only one who places.
            Status::Queued | Status::Assigned => self.push(Event::Changed {
                conversation: id,
                seq: conversation.seq() + 1,
                status: Status::Assigned,
                cause: Cause::Assigned,
                agent: Some(agent),
                epoch,
                by: Party::System,
                key: None,
                at: self.now,
            }),
            // No bound on the notes here: each Assign is answered by at most one Release, and the dispatcher,
            // whose notes are bounded, sends no second one before it has heard the first.
            Status::Open | Status::Resolved => {
                let site = conversation.site;
                self.tell(conversation.site_slot, Note::Release { site, conversation: id, epoch });
            }
        }
    }

    /// The dispatcher took it back from a lost agent.
    pub(crate) fn hear_unassign(&mut self, id: ConversationId, epoch: u32) {
        let Some(conversation) = self.state.conversation(id) else { return };
        if conversation.status != Status::Assigned || conversation.epoch != epoch {
            return;
        }
        self.push(Event::Changed {
            conversation: id,
            seq: conversation.seq() + 1,
            status: Status::Queued,
            cause: Cause::AgentLost,
            agent: None,
            epoch,
            by: number_party(conversation.agent),
            key: None,
            at: self.now,
        });
    }
}

/// The inverse of `digest::party_number`.
fn number_party(number: u32) -> Party {
    match number {
        0 => Party::Visitor,
        u32::MAX => Party::System,
        agent => Party::Agent(AgentId(agent)),
    }
}

fn narrow(seq: u64) -> u32 {
    u32::try_from(seq).expect("seq is kept in 32 bits")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What an idle conversation with one device and one message costs beside its share of its slot, the visitor's
    /// external id, and its place in the shard's index. A larger number here is a decision, not an accident: there are a
    /// hundred thousand of them.
    #[test]
    fn an_idle_conversation_is_small() {
        let (conversation, device) = (size_of::<Conversation>(), size_of::<Device>());
        let visitor = size_of::<crate::visitor::Visitor>();
        assert!(conversation <= 80, "Conversation grew to {conversation} bytes");
        assert!(device <= 32, "Device grew to {device} bytes");
        assert!(visitor <= 32, "Visitor grew to {visitor} bytes");
    }
}
