//! Everything one slot owns, so that a slot can later move to another shard as one object.
//!
//! Owned by the desk. Conversations by number, visitors by site and external id, one dispatcher per site whose
//! slot this is, and the pairs of notes in both directions.

use std::collections::BTreeMap;

use crate::conversation::Conversation;
use crate::digest::Digest;
use crate::dispatcher::Dispatcher;
use crate::event::{Event, Note};
use crate::ids::{ConversationId, Hlc, SiteId};
use crate::limits::Limits;
use crate::pairs::Pairs;
use crate::visitor::Visitor;

/// One slot's state.
pub(crate) struct SlotState {
    /// Number `n` stands at `n - 1`: numbers are dense from 1 and no conversation is ever forgotten.
    conversations: Vec<Conversation>,
    /// In the order they came, so that a conversation can name its visitor by place.
    visitors: Vec<Visitor>,
    /// Places of all visitors, in order of `Visitor::key`.
    by_key: Vec<u32>,
    /// Made by the first dispatcher: most slots have none.
    home: Option<Box<Home>>,
    pub(crate) pairs: Pairs,
}

/// The dispatchers of a slot.
#[derive(Default)]
struct Home {
    sites: BTreeMap<SiteId, Dispatcher>,
    /// What `Desk::due` lists for this slot.
    due: Option<Hlc>,
}

static NO_SITES: BTreeMap<SiteId, Dispatcher> = BTreeMap::new();

impl SlotState {
    pub(crate) const fn new() -> Self {
        Self {
            conversations: Vec::new(),
            visitors: Vec::new(),
            by_key: Vec::new(),
            home: None,
            pairs: Pairs::new(),
        }
    }

    /// Its dispatchers.
    pub(crate) fn sites(&self) -> &BTreeMap<SiteId, Dispatcher> {
        self.home.as_ref().map_or(&NO_SITES, |home| &home.sites)
    }

    /// What `Desk::due` lists for this slot; changed to `due`.
    pub(crate) fn replace_due(&mut self, due: Option<Hlc>) -> Option<Hlc> {
        match &mut self.home {
            Some(home) => std::mem::replace(&mut home.due, due),
            None => {
                assert!(due.is_none(), "only dispatchers have deadlines");
                None
            }
        }
    }

    /// Whether notes may be told beside `told` that the running decision tells already.
    pub(crate) fn note_room(&self, told: usize, limits: &Limits) -> bool {
        self.pairs.outstanding() + told < limits.notes_outstanding_max as usize
    }

    /// Earliest deadline of its dispatchers. While the notes are at their bound nothing can be done about one,
    /// so there is none until a confirmation arrives.
    pub(crate) fn deadline(&self, limits: &Limits) -> Option<Hlc> {
        if !self.note_room(0, limits) {
            return None;
        }
        self.sites().values().filter_map(Dispatcher::deadline).min()
    }

    pub(crate) fn visitor(&self, site: SiteId, visitor: &str) -> Option<&Visitor> {
        let found = self.find(site, visitor).ok()?;
        Some(&self.visitors[self.by_key[found] as usize])
    }

    fn find(&self, site: SiteId, visitor: &str) -> Result<usize, usize> {
        self.by_key.binary_search_by(|place| self.visitors[*place as usize].key().cmp(&(site, visitor)))
    }

    /// Number of the newest conversation.
    pub(crate) fn last_number(&self) -> u64 {
        self.conversations.len() as u64
    }

    /// The conversation of a number that exists.
    pub(crate) fn numbered(&self, number: u64) -> &Conversation {
        &self.conversations[(number - 1) as usize]
    }

    /// External id of a conversation's visitor.
    pub(crate) fn name_of(&self, conversation: &Conversation) -> &std::sync::Arc<str> {
        &self.visitors[conversation.visitor as usize].name
    }

    pub(crate) fn conversation(&self, id: ConversationId) -> Option<&Conversation> {
        self.conversations.get(place_of(id)?)
    }

    fn conversation_mut(&mut self, id: ConversationId) -> &mut Conversation {
        match place_of(id).and_then(|place| self.conversations.get_mut(place)) {
            Some(conversation) => conversation,
            None => panic!("an event names {id:?}, which was never opened"),
        }
    }

    fn visitor_of(&mut self, id: ConversationId) -> &mut Visitor {
        let place = self.conversation_mut(id).visitor;
        &mut self.visitors[place as usize]
    }

    /// Applies an event of this slot. Gives whether the dispatchers' deadline may have moved.
    pub(crate) fn apply(&mut self, event: &Event, limits: &Limits) -> bool {
        match event {
            Event::Opened { conversation, site, site_slot, visitor, device, n, at } => {
                let number = conversation.number();
                assert!(
                    number == self.last_number() + 1,
                    "{conversation:?} opened after {}",
                    self.last_number()
                );
                let place = match self.find(*site, visitor) {
                    Ok(found) => {
                        let place = self.by_key[found];
                        self.visitors[place as usize].apply_open(*device, *n, number, limits);
                        place
                    }
                    Err(free) => {
                        assert!(*n == 1, "the first OPEN of {visitor} is {n}");
                        let place = self.visitors.len() as u32;
                        push(&mut self.visitors, Visitor::new(*site, visitor, *device, number));
                        grow(&mut self.by_key);
                        self.by_key.insert(free, place);
                        place
                    }
                };
                push(&mut self.conversations, Conversation::new(*site, *site_slot, place, *at));
            }
            Event::Found { conversation, device, n, .. } => {
                let number = conversation.number();
                self.visitor_of(*conversation).apply_open(*device, *n, number, limits);
            }
            Event::OpenerRetired { conversation, device } => {
                self.visitor_of(*conversation).apply_retired(*device, limits);
            }
            Event::Sent { conversation, .. }
            | Event::Changed { conversation, .. }
            | Event::ReceiptMoved { conversation, .. }
            | Event::DeviceRetired { conversation, .. } => {
                self.conversation_mut(*conversation).apply(event, limits);
            }
            Event::Told { to, n, note, .. } => {
                self.pairs.apply_told(*to, *n, *note);
                if let Note::Release { conversation, epoch, .. } = note {
                    self.conversation_mut(*conversation).apply_released(*epoch);
                }
                return !self.note_room(0, limits);
            }
            Event::Heard { from, n, .. } => self.pairs.apply_heard(*from, *n),
            Event::Confirmed { to, upto, .. } => {
                let had_room = self.note_room(0, limits);
                self.pairs.apply_confirmed(*to, *upto);
                return !had_room;
            }
            Event::Booted { at, .. } => {
                let sites = self.home.iter_mut().flat_map(|home| home.sites.values_mut());
                sites.for_each(|site| site.apply_booted(*at, limits));
                return true;
            }
            Event::Waiting { site, .. }
            | Event::Placed { site, .. }
            | Event::Returned { site, .. }
            | Event::Left { site, .. }
            | Event::AgentDeclared { site, .. }
            | Event::AgentLinks { site, .. }
            | Event::AgentLapsed { site, .. } => {
                let sites = &mut self.home.get_or_insert_default().sites;
                sites.entry(*site).or_insert_with(Dispatcher::new).apply(event, limits);
                return true;
            }
        }
        false
    }

    pub(crate) fn digest(&self, digest: &mut Digest) {
        digest.u64(self.last_number());
        digest.count(self.conversations.len());
        let keys: Vec<String> =
            self.visitors.iter().map(|visitor| format!("{}/{}", visitor.site.0, visitor.name)).collect();
        for (conversation, number) in self.conversations.iter().zip(1u64..) {
            digest.u64(number);
            conversation.digest(&keys[conversation.visitor as usize], digest);
        }
        digest.count(self.visitors.len());
        let by_key: BTreeMap<&String, &Visitor> = keys.iter().zip(&self.visitors).collect();
        for (key, visitor) in by_key {
            digest.bytes(key.as_bytes());
            visitor.digest(digest);
        }
        digest.count(self.sites().len());
        for (site, dispatcher) in self.sites() {
            digest.u32(site.0);
            dispatcher.digest(digest);
        }
        self.pairs.digest(digest);
    }

    #[cfg(feature = "planted")]
    pub(crate) fn forget_devices(&mut self) {
        self.conversations.iter_mut().for_each(Conversation::forget_devices);
    }

    #[cfg(feature = "planted")]
    pub(crate) fn forget_old_opens(&mut self) {
        self.visitors.iter_mut().for_each(Visitor::forget_old_opens);
    }
}

/// Where a conversation stands in its slot.
fn place_of(id: ConversationId) -> Option<usize> {
    usize::try_from(id.number().checked_sub(1)?).ok()
}

/// Makes room for one more: an eighth at a time, because most slots have one or two and none shall pay for twice what
/// it has.
fn grow<T>(values: &mut Vec<T>) {
    if values.len() == values.capacity() {
        values.reserve_exact(1 + values.len() / 8);
    }
}

fn push<T>(values: &mut Vec<T>, value: T) {
    grow(values);
    values.push(value);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With 16,384 slots, twenty thousand visitors have half a slot each.
    #[test]
    fn a_slot_is_small() {
        assert!(size_of::<SlotState>() <= 128, "{}", size_of::<SlotState>());
    }
}
