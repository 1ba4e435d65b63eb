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

/// Visitors of a slot that are looked through one by one. With a hundred thousand of them a slot has six.
const SCANNED: usize = 16;

/// One slot's state.
pub(crate) struct SlotState {
    /// Number `n` stands at `n - 1`: numbers are dense from 1 and no conversation is ever forgotten.
    conversations: Vec<Conversation>,
    /// In the order they came, so that a conversation can name its visitor by place.
    visitors: Vec<Visitor>,
    /// Places of all visitors, in order of site and external id: made when there are more than [`SCANNED`].
    #[allow(clippy::box_collection, reason = "8 bytes instead of 24 in every slot")]
    by_key: Option<Box<Vec<u32>>>,
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
            by_key: None,
            home: None,
            pairs: Pairs::new(),
        }
    }

    /// Whether nothing has ever happened here: there is no event that leaves nothing behind.
    pub(crate) fn is_blank(&self) -> bool {
        self.conversations.is_empty() && self.home.is_none() && self.pairs.is_blank()
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
        let place = self.find(site, visitor).ok()?;
        Some(&self.visitors[place as usize])
    }

    /// Place of a visitor; for one who is not known, where its place goes in `by_key`.
    fn find(&self, site: SiteId, visitor: &str) -> Result<u32, usize> {
        let Some(by_key) = &self.by_key else {
            let known = |known: &Visitor| *known.name == *visitor && self.site_of(known) == site;
            return self.visitors.iter().position(known).map(|place| place as u32).ok_or(0);
        };
        by_key.binary_search_by(|place| self.key(*place).cmp(&(site, visitor))).map(|at| by_key[at])
    }

    /// How visitors are ordered.
    fn key(&self, place: u32) -> (SiteId, &str) {
        let visitor = &self.visitors[place as usize];
        (self.site_of(visitor), &visitor.name)
    }

    fn site_of(&self, visitor: &Visitor) -> SiteId {
        self.numbered(visitor.latest()).site
    }

    /// Takes note of a visitor who just came, behind the conversation that it came with.
    fn enter(&mut self, free: usize, place: u32) {
        if let Some(by_key) = &mut self.by_key {
            grow(by_key);
            by_key.insert(free, place);
        } else if self.visitors.len() > SCANNED {
            let mut by_key: Vec<u32> = (0..self.visitors.len() as u32).collect();
            by_key.sort_unstable_by(|one, two| self.key(*one).cmp(&self.key(*two)));
            self.by_key = Some(Box::new(by_key));
        }
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
                let found = self.find(*site, visitor);
                let place = found.unwrap_or(self.visitors.len() as u32);
                push(&mut self.conversations, Conversation::new(*site, *site_slot, place, *at));
                match found {
                    Ok(place) => self.visitors[place as usize].apply_open(*device, *n, number, limits),
                    Err(free) => {
                        assert!(*n == 1, "the first OPEN of {visitor} is {n}");
                        push(&mut self.visitors, Visitor::new(visitor, *device, number));
                        self.enter(free, place);
                    }
                }
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
            self.visitors.iter().map(|one| format!("{}/{}", self.site_of(one).0, one.name)).collect();
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

    /// There are 16,384 of them from the first visitors on.
    #[test]
    fn a_slot_is_small() {
        assert!(size_of::<SlotState>() <= 112, "{}", size_of::<SlotState>());
    }

    /// However many visitors a hash tag brings into one slot, each is found, and nobody else is.
    #[test]
    fn visitors_are_found_before_and_after_they_are_sorted() {
        let (mut state, limits) = (SlotState::new(), Limits::default());
        let names = |visitor: u64| (SiteId(1 + (visitor % 3) as u32), format!("v{}", visitor * 7 % 50));
        for number in 1..=50u64 {
            let (site, visitor) = names(number);
            assert!(state.visitor(site, &visitor).is_none());
            let (conversation, site_slot) =
                (ConversationId::new(crate::ids::Slot(3), number), crate::ids::Slot(4));
            let (device, at) = (crate::ids::DeviceId(number), Hlc(number));
            state.apply(&Event::Opened { conversation, site, site_slot, visitor, device, n: 1, at }, &limits);
            assert_eq!(state.by_key.is_some(), number > SCANNED as u64);
            for known in 1..=number {
                let (site, visitor) = names(known);
                assert_eq!(state.visitor(site, &visitor).map(Visitor::latest), Some(known));
                assert!(state.visitor(SiteId(9), &visitor).is_none());
            }
        }
    }
}
