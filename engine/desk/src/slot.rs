//! Everything one slot owns, so that a slot can later move to another shard as one object.
//!
//! Owned by the desk. Conversations by number, visitors by site and external id, one dispatcher per site whose
//! slot this is, and the pairs of notes in both directions.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::conversation::Conversation;
use crate::digest::Digest;
use crate::dispatcher::Dispatcher;
use crate::event::{Event, Note};
use crate::ids::{ConversationId, Hlc, SiteId};
use crate::limits::Limits;
use crate::pairs::Pairs;
use crate::visitor::{Visitor, visitor_key};

/// One slot's state.
pub(crate) struct SlotState {
    /// By number, dense from 1. Boxed: a node of the map holds eleven values whether used or not.
    pub(crate) conversations: BTreeMap<u64, Box<Conversation>>,
    /// Number of the newest conversation.
    pub(crate) last_number: u64,
    /// By `visitor_key`, which the visitor's conversations share.
    pub(crate) visitors: BTreeMap<Arc<str>, Visitor>,
    pub(crate) sites: BTreeMap<SiteId, Dispatcher>,
    pub(crate) pairs: Pairs,
    /// What `Desk::due` lists for this slot.
    pub(crate) due: Option<Hlc>,
}

impl SlotState {
    pub(crate) const fn new() -> Self {
        Self {
            conversations: BTreeMap::new(),
            last_number: 0,
            visitors: BTreeMap::new(),
            sites: BTreeMap::new(),
            pairs: Pairs::new(),
            due: None,
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
        self.sites.values().filter_map(Dispatcher::deadline).min()
    }

    pub(crate) fn visitor(&self, site: SiteId, visitor: &str) -> Option<&Visitor> {
        self.visitors.get(visitor_key(site, visitor).as_str())
    }

    pub(crate) fn conversation(&self, id: ConversationId) -> Option<&Conversation> {
        self.conversations.get(&id.number()).map(|conversation| &**conversation)
    }

    fn conversation_mut(&mut self, id: ConversationId) -> &mut Conversation {
        match self.conversations.get_mut(&id.number()) {
            Some(conversation) => conversation,
            None => panic!("an event names {id:?}, which was never opened"),
        }
    }

    fn visitor_of(&mut self, id: ConversationId) -> &mut Visitor {
        let key = self.conversation_mut(id).visitor.clone();
        self.visitors.get_mut(&key).expect("a conversation's visitor is known")
    }

    /// Applies an event of this slot. Gives whether the dispatchers' deadline may have moved.
    pub(crate) fn apply(&mut self, event: &Event, limits: &Limits) -> bool {
        match event {
            Event::Opened { conversation, site, site_slot, visitor, device, n, at } => {
                let key = visitor_key(*site, visitor);
                let key = match self.visitors.get_key_value(key.as_str()) {
                    Some((key, _)) => key.clone(),
                    None => Arc::from(key),
                };
                let number = conversation.number();
                assert!(number == self.last_number + 1, "{conversation:?} opened after {}", self.last_number);
                self.last_number = number;
                let opened = Conversation::new(*site, *site_slot, key.clone(), *at);
                self.conversations.insert(number, Box::new(opened));
                let known = self.visitors.entry(key).or_default();
                known.latest = number;
                known.apply_open(*device, *n, number, limits);
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
                self.sites.values_mut().for_each(|site| site.apply_booted(*at, limits));
                return true;
            }
            Event::Waiting { site, .. }
            | Event::Placed { site, .. }
            | Event::Returned { site, .. }
            | Event::Left { site, .. }
            | Event::AgentDeclared { site, .. }
            | Event::AgentLinks { site, .. }
            | Event::AgentLapsed { site, .. } => {
                self.sites.entry(*site).or_insert_with(Dispatcher::new).apply(event, limits);
                return true;
            }
        }
        false
    }

    pub(crate) fn digest(&self, digest: &mut Digest) {
        digest.u64(self.last_number);
        digest.count(self.conversations.len());
        for (number, conversation) in &self.conversations {
            digest.u64(*number);
            conversation.digest(digest);
        }
        digest.count(self.visitors.len());
        for (key, visitor) in &self.visitors {
            digest.bytes(key.as_bytes());
            visitor.digest(digest);
        }
        digest.count(self.sites.len());
        for (site, dispatcher) in &self.sites {
            digest.u32(site.0);
            dispatcher.digest(digest);
        }
        self.pairs.digest(digest);
    }
}
