//! Everything one slot owns, so that a slot can later move to another shard.
//!
//! Owned by the desk. Conversations by number, visitors by site and external id, one dispatcher per site whose
//! slot this is, and the pairs of notes in both directions. Conversations and visitors stand in the desk's [`Store`], at
//! places that the slot knows; nobody else's places lead there.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::conversation::Conversation;
use crate::digest::Digest;
use crate::dispatcher::Dispatcher;
use crate::event::{Event, Note};
use crate::ids::{ConversationId, Hlc, SiteId};
use crate::limits::Limits;
use crate::pairs::Pairs;
use crate::store::{Places, Store};
use crate::visitor::Visitor;

/// Conversations of a slot that are looked through one by one for a visitor. With a hundred thousand a slot has six.
const SCANNED: usize = 16;

/// One slot's state.
pub(crate) struct SlotState {
    /// Place of the conversation with number `n` at `n - 1`: numbers are dense from 1 and none is ever forgotten.
    conversations: Places,
    /// Places of all visitors, in order of site and external id: made when there are more than [`SCANNED`]
    /// conversations.
    #[allow(clippy::box_collection, reason = "8 bytes instead of 24 in every slot")]
    by_key: Option<Box<Vec<u32>>>,
    /// Made by the first dispatcher: most slots have none.
    home: Option<Box<Home>>,
    pub(crate) pairs: Pairs,
}

/// One slot with the conversations and visitors it knows the places of.
#[derive(Clone, Copy)]
pub(crate) struct SlotView<'a> {
    pub(crate) slot: &'a SlotState,
    pub(crate) store: &'a Store,
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
        Self { conversations: Places::NONE, by_key: None, home: None, pairs: Pairs::new() }
    }

    /// Whether nothing has ever happened here: there is no event that leaves nothing behind.
    pub(crate) fn is_blank(&self) -> bool {
        self.last_number() == 0 && self.home.is_none() && self.pairs.is_blank()
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

    /// Takes note of a visitor who just came; `free` is where its place goes in `by_key`.
    fn enter(&mut self, free: usize, place: u32) {
        if let Some(by_key) = &mut self.by_key {
            if by_key.len() == by_key.capacity() {
                // An eighth at a time: none shall pay for twice what it has.
                by_key.reserve_exact(1 + by_key.len() / 8);
            }
            by_key.insert(free, place);
        }
    }

    /// Number of the newest conversation.
    pub(crate) fn last_number(&self) -> u64 {
        self.conversations.as_slice().len() as u64
    }

    /// Place of a conversation in the store, `None` when it was never opened.
    pub(crate) fn place(&self, id: ConversationId) -> Option<u32> {
        let at = usize::try_from(id.number().checked_sub(1)?).ok()?;
        self.conversations.as_slice().get(at).copied()
    }

    fn conversation_mut<'s>(&self, id: ConversationId, store: &'s mut Store) -> &'s mut Conversation {
        match self.place(id) {
            Some(place) => store.conversations.at_mut(place),
            None => panic!("an event names {id:?}, which was never opened"),
        }
    }

    fn visitor_mut<'s>(&self, id: ConversationId, store: &'s mut Store) -> &'s mut Visitor {
        let place = self.conversation_mut(id, store).visitor;
        store.visitors.at_mut(place)
    }

    fn apply_opened(&mut self, event: &Event, store: &mut Store, limits: &Limits) {
        let Event::Opened { conversation, site, site_slot, visitor, device, n, at } = event else {
            panic!("{event:?} opens nothing")
        };
        let number = conversation.number();
        assert!(number == self.last_number() + 1, "{conversation:?} opened after {}", self.last_number());
        let found = SlotView { slot: self, store }.find(*site, visitor);
        let place = match found {
            Ok(place) => {
                store.visitors.at_mut(place).apply_open(*device, *n, number, limits);
                place
            }
            Err(_) => {
                assert!(*n == 1, "the first OPEN of {visitor} is {n}");
                store.visitors.push(Visitor::new(visitor, *device, number))
            }
        };
        self.conversations.push(store.conversations.push(Conversation::new(*site, *site_slot, place, *at)));
        if let Err(free) = found {
            self.enter(free, place);
        }
        if self.by_key.is_none() && self.last_number() > SCANNED as u64 {
            let view = SlotView { slot: self, store };
            let mut by_key = view.visitors();
            by_key.sort_unstable_by(|one, two| view.key(*one).cmp(&view.key(*two)));
            self.by_key = Some(Box::new(by_key));
        }
    }

    /// Applies an event of this slot. Gives whether the dispatchers' deadline may have moved.
    pub(crate) fn apply(&mut self, event: &Event, store: &mut Store, limits: &Limits) -> bool {
        match event {
            Event::Opened { .. } => self.apply_opened(event, store, limits),
            Event::Found { conversation, device, n, .. } => {
                let number = conversation.number();
                self.visitor_mut(*conversation, store).apply_open(*device, *n, number, limits);
            }
            Event::OpenerRetired { conversation, device } => {
                self.visitor_mut(*conversation, store).apply_retired(*device, limits);
            }
            Event::Sent { conversation, .. }
            | Event::Changed { conversation, .. }
            | Event::ReceiptMoved { conversation, .. }
            | Event::DeviceRetired { conversation, .. } => {
                self.conversation_mut(*conversation, store).apply(event, limits);
            }
            Event::Told { to, n, note, .. } => {
                self.pairs.apply_told(*to, *n, *note);
                if let Note::Release { conversation, epoch, .. } = note {
                    self.conversation_mut(*conversation, store).apply_released(*epoch);
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
}

impl<'a> SlotView<'a> {
    /// Its dispatchers.
    pub(crate) fn sites(self) -> &'a BTreeMap<SiteId, Dispatcher> {
        self.slot.sites()
    }

    pub(crate) fn visitor(self, site: SiteId, visitor: &str) -> Option<&'a Visitor> {
        let place = self.find(site, visitor).ok()?;
        Some(self.store.visitors.at(place))
    }

    /// Place of a visitor; for one who is not known, where its place goes in `by_key`.
    fn find(self, site: SiteId, visitor: &str) -> Result<u32, usize> {
        if let Some(by_key) = &self.slot.by_key {
            return by_key
                .binary_search_by(|place| self.key(*place).cmp(&(site, visitor)))
                .map(|at| by_key[at]);
        }
        let known = |known: &&Conversation| known.site == site && **self.name_of(known) == *visitor;
        self.conversations().find(known).map(|known| known.visitor).ok_or(0)
    }

    /// How visitors are ordered.
    fn key(self, place: u32) -> (SiteId, &'a str) {
        let visitor = self.store.visitors.at(place);
        (self.site_of(visitor), &visitor.name)
    }

    fn site_of(self, visitor: &Visitor) -> SiteId {
        self.numbered(visitor.latest()).site
    }

    /// Places of all visitors.
    fn visitors(self) -> Vec<u32> {
        let mut places: Vec<u32> = self.conversations().map(|conversation| conversation.visitor).collect();
        places.sort_unstable();
        places.dedup();
        places
    }

    /// All conversations, from number 1 on.
    fn conversations(self) -> impl Iterator<Item = &'a Conversation> {
        self.slot.conversations.as_slice().iter().map(move |place| self.store.conversations.at(*place))
    }

    /// Number of the newest conversation.
    pub(crate) fn last_number(self) -> u64 {
        self.slot.last_number()
    }

    /// The conversation of a number that exists.
    pub(crate) fn numbered(self, number: u64) -> &'a Conversation {
        self.store.conversations.at(self.slot.conversations.as_slice()[(number - 1) as usize])
    }

    /// External id of a conversation's visitor.
    pub(crate) fn name_of(self, conversation: &Conversation) -> &'a Arc<str> {
        &self.store.visitors.at(conversation.visitor).name
    }

    pub(crate) fn conversation(self, id: ConversationId) -> Option<&'a Conversation> {
        self.slot.place(id).map(|place| self.store.conversations.at(place))
    }

    pub(crate) fn digest(self, digest: &mut Digest) {
        let key_of = |place| {
            let (site, name) = self.key(place);
            format!("{}/{name}", site.0)
        };
        digest.u64(self.last_number());
        digest.count(self.last_number() as usize);
        for (conversation, number) in self.conversations().zip(1u64..) {
            digest.u64(number);
            conversation.digest(&key_of(conversation.visitor), digest);
        }
        let by_key: BTreeMap<String, u32> =
            self.visitors().into_iter().map(|place| (key_of(place), place)).collect();
        digest.count(by_key.len());
        for (key, place) in by_key {
            digest.bytes(key.as_bytes());
            self.store.visitors.at(place).digest(digest);
        }
        digest.count(self.sites().len());
        for (site, dispatcher) in self.sites() {
            digest.u32(site.0);
            dispatcher.digest(digest);
        }
        self.slot.pairs.digest(digest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// There are 16,384 of them from the first visitors on.
    #[test]
    fn a_slot_is_small() {
        assert!(size_of::<SlotState>() <= 88, "{}", size_of::<SlotState>());
    }

    /// However many visitors a hash tag brings into one slot, each is found, and nobody else is.
    #[test]
    fn visitors_are_found_before_and_after_they_are_sorted() {
        let (mut state, mut store, limits) = (SlotState::new(), Store::new(), Limits::default());
        let names = |visitor: u64| (SiteId(1 + (visitor % 3) as u32), format!("v{}", visitor * 7 % 50));
        for number in 1..=50u64 {
            let (site, visitor) = names(number);
            assert!(SlotView { slot: &state, store: &store }.visitor(site, &visitor).is_none());
            let (conversation, site_slot) =
                (ConversationId::new(crate::ids::Slot(3), number), crate::ids::Slot(4));
            let (device, at) = (crate::ids::DeviceId(number), Hlc(number));
            let event = Event::Opened { conversation, site, site_slot, visitor, device, n: 1, at };
            state.apply(&event, &mut store, &limits);
            assert_eq!(state.by_key.is_some(), number > SCANNED as u64);
            for known in 1..=number {
                let (site, visitor) = names(known);
                let view = SlotView { slot: &state, store: &store };
                assert_eq!(view.visitor(site, &visitor).map(Visitor::latest), Some(known));
                assert!(view.visitor(SiteId(9), &visitor).is_none());
            }
        }
    }
}
