//! The desk: every slot of one shard behind `decide` and `apply`.
//!
//! Order: decide reads the state and writes events; the caller logs them as one record; apply changes the state.
//! Owned by the shard, single-threaded. State is kept per slot, so that a slot can move.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::command::{Answer, Caller, Command, Refusal};
use crate::decision::{Decision, Keyed};
use crate::digest::Digest;
use crate::event::{Event, Note};
use crate::ids::{ConversationId, Hlc, SLOTS, SiteId, Slot};
use crate::limits::Limits;
use crate::slot::{SlotState, SlotView};
use crate::store::Store;
use crate::view::{ConversationView, SiteView};

/// What a slot looks like before its first event.
static EMPTY: SlotState = SlotState::new();

/// Slots of one chunk. A box for each slot would cost what it saves: from a few thousand visitors on no chunk is empty.
const CHUNK: usize = 64;

/// All slots one shard owns.
pub struct Desk {
    limits: Limits,
    /// All slots, by [`CHUNK`]; a chunk is filled by the first event of one of its slots.
    slots: Box<[Option<Box<[SlotState]>>]>,
    store: Store,
    /// Earliest deadline of each slot that has one: `SlotState::due`.
    due: BTreeSet<(Hlc, Slot)>,
    conversations: u64,
}

impl Desk {
    /// An empty desk. Panics when the limits contradict each other.
    pub fn new(limits: Limits) -> Self {
        limits.check();
        let slots = (0..usize::from(SLOTS).div_ceil(CHUNK)).map(|_| None).collect();
        Self { limits, slots, store: Store::new(), due: BTreeSet::new(), conversations: 0 }
    }

    /// The bounds it was made with.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Decides one command at `now`. Reads only. On `Ok` the events, none or at most
    /// `Limits::decision_events_max`, are appended to `events`; all belong to the one slot that decides and must
    /// be logged as one record and applied together, in order, before the next decision of that slot. On `Err`
    /// `events` is as it was. Any command is taken or refused, however wrong; none panics.
    pub fn decide(
        &self,
        now: Hlc,
        command: &Command<'_>,
        events: &mut Vec<Event>,
    ) -> Result<Answer, Refusal> {
        let slot = command.slot();
        if slot.0 >= SLOTS {
            return Err(Refusal::Invalid);
        }
        let start = events.len();
        let state = SlotView { slot: self.slot(slot).unwrap_or(&EMPTY), store: &self.store };
        let mut decision = Decision::new(now, &self.limits, (slot, state), self.conversations, events);
        let answer = dispatch(&mut decision, command);
        if answer.is_err() {
            events.truncate(start);
        }
        answer
    }

    /// Applies one event. Cannot fail; panics on a broken invariant (a seq, note or conversation number that is not
    /// dense, an event about what never came to be), since going on would be worse.
    pub fn apply(&mut self, event: &Event) {
        let slot = event.slot();
        assert!(slot.0 < SLOTS, "{slot:?} is out of range");
        let (chunk, place) = (usize::from(slot.0) / CHUNK, usize::from(slot.0) % CHUNK);
        let chunk = &mut self.slots[chunk];
        let state = &mut chunk.get_or_insert_with(|| (0..CHUNK).map(|_| SlotState::new()).collect())[place];
        if matches!(event, Event::Opened { .. }) {
            self.conversations += 1;
        }
        if !state.apply(event, &mut self.store, &self.limits) {
            return;
        }
        let due = state.deadline(&self.limits);
        let before = state.replace_due(due);
        if due != before {
            if let Some(before) = before {
                self.due.remove(&(before, slot));
            }
            self.due.extend(due.map(|due| (due, slot)));
        }
    }

    /// The earliest deadline: at `now >=` this stamp, `Command::Tick` of the slot has something to decide. Work left
    /// over by a bounded decision is due at `Hlc(0)`, that is at once. After deciding and applying the Tick the
    /// deadline is gone, moved, or nearer to done by `Limits::moves_per_decision` moves. A slot whose notes are at their
    /// bound has no deadline until a confirmation makes room.
    pub fn next_deadline(&self) -> Option<(Hlc, Slot)> {
        self.due.first().copied()
    }

    /// Slots with agents, in order: `Command::Boot` each, once, after replay and before the first session.
    pub fn slots_to_boot(&self) -> Vec<Slot> {
        let has_agents = |state: &SlotState| state.sites().values().any(|site| site.roster.count() > 0);
        self.states().filter(|(_, state)| has_agents(state)).map(|(slot, _)| slot).collect()
    }

    /// Notes told and not confirmed: (from, to, n, note), in order per pair. At boot they are told again.
    pub fn unconfirmed(&self) -> impl Iterator<Item = (Slot, Slot, u64, Note)> + '_ {
        self.states()
            .flat_map(|(from, state)| state.pairs.unconfirmed().map(move |(to, n, note)| (from, to, n, note)))
    }

    /// Notes told by one slot and not confirmed; bounded by `Limits::notes_outstanding_max`, beyond which only the
    /// answers to late assignments go, at most one per conversation.
    pub fn notes_outstanding(&self, from: Slot) -> usize {
        self.slot(from).map_or(0, |state| state.pairs.outstanding())
    }

    /// One conversation, `None` when it was never opened here.
    pub fn conversation(&self, id: ConversationId) -> Option<ConversationView<'_>> {
        let state = self.view(id.slot())?;
        let conversation = state.conversation(id)?;
        Some(conversation.view(id, state.name_of(conversation)))
    }

    /// Whether the caller may see a conversation: its visitor, or an agent of its site. False for one that does not
    /// exist, so that the two cannot be told apart (C10).
    pub fn may_read(&self, caller: &Caller<'_>, id: ConversationId) -> bool {
        let Some(state) = self.view(id.slot()) else { return false };
        let conversation = state.conversation(id);
        conversation.is_some_and(|known| known.party(caller, state.name_of(known)).is_ok())
    }

    /// External id of a conversation's visitor, to be shared instead of copied.
    pub fn visitor_name(&self, id: ConversationId) -> Option<&Arc<str>> {
        let state = self.view(id.slot())?;
        state.conversation(id).map(|conversation| state.name_of(conversation))
    }

    /// The latest conversation of a visitor. `slot` is that of `{site/visitor}`.
    pub fn visitor_conversation(&self, slot: Slot, site: SiteId, visitor: &str) -> Option<ConversationId> {
        let visitor = self.view(slot)?.visitor(site, visitor)?;
        Some(ConversationId::new(slot, visitor.latest()))
    }

    /// A site's queue and agents. `slot` is that of `{site}`; `None` before the site's first event.
    pub fn site_view(&self, slot: Slot, site: SiteId) -> Option<SiteView<'_>> {
        self.slot(slot)?.sites().get(&site).map(|dispatcher| SiteView { dispatcher })
    }

    /// The sites whose dispatcher lives here: (slot, site), in order.
    pub fn sites(&self) -> impl Iterator<Item = (Slot, SiteId)> + '_ {
        self.states().flat_map(|(slot, state)| state.sites().keys().map(move |site| (slot, *site)))
    }

    /// Forgets the keys of every conversation: a bug, planted to see it found.
    #[cfg(feature = "planted")]
    pub fn forget_devices(&mut self) {
        self.store.forget_devices();
    }

    /// Takes every OPEN key for one of its device's newest conversation: a bug, planted to see it found.
    #[cfg(feature = "planted")]
    pub fn forget_old_opens(&mut self) {
        self.store.forget_old_opens();
    }

    /// Place of a conversation among all of this desk, `None` when it was never opened here: dense from 0, in the order
    /// they were opened, and the same as long as the desk lives.
    pub fn place(&self, id: ConversationId) -> Option<u32> {
        self.slot(id.slot())?.place(id)
    }

    /// Number of conversations.
    pub fn conversations(&self) -> u64 {
        self.conversations
    }

    /// xxh3-64 over the whole state in a fixed order. Equal for equal histories on every machine; used by the
    /// simulator and by the tests that replay golden logs.
    pub fn digest(&self) -> u64 {
        let mut digest = Digest::new();
        for (slot, state) in self.states() {
            digest.u32(u32::from(slot.0));
            SlotView { slot: state, store: &self.store }.digest(&mut digest);
        }
        digest.finish()
    }

    fn slot(&self, slot: Slot) -> Option<&SlotState> {
        let chunk = self.slots.get(usize::from(slot.0) / CHUNK)?.as_ref()?;
        Some(&chunk[usize::from(slot.0) % CHUNK]).filter(|state| !state.is_blank())
    }

    fn view(&self, slot: Slot) -> Option<SlotView<'_>> {
        Some(SlotView { slot: self.slot(slot)?, store: &self.store })
    }

    fn states(&self) -> impl Iterator<Item = (Slot, &SlotState)> {
        (0..SLOTS).map(Slot).filter_map(|slot| Some((slot, self.slot(slot)?)))
    }
}

fn dispatch(decision: &mut Decision<'_>, command: &Command<'_>) -> Result<Answer, Refusal> {
    match *command {
        Command::Open { site_slot, site, visitor, device, n, .. } => {
            decision.open((site, site_slot), visitor, device, n)
        }
        Command::Send { conversation, caller, device, n, owner_epoch, kind, body } => {
            decision.send(Keyed { conversation, caller, device, n, owner_epoch }, kind, body)
        }
        Command::Receipt { conversation, caller, delivered, read } => {
            decision.receipt(conversation, caller, delivered, read)
        }
        Command::Resolve { conversation, caller, device, n, owner_epoch } => {
            decision.resolve(Keyed { conversation, caller, device, n, owner_epoch })
        }
        Command::Presence { site, agent, device, n, availability, capacity, .. } => {
            decision.presence((site, agent), (device, n), (availability, capacity))
        }
        Command::AgentLinked { site, agent, .. } => decision.linked(site, agent),
        Command::AgentUnlinked { site, agent, .. } => decision.unlinked(site, agent),
        Command::Hear { from, n, note, .. } => decision.hear(from, n, note),
        Command::Confirm { to, upto, .. } => decision.confirm(to, upto),
        Command::Tick { .. } => decision.tick(),
        Command::Boot { .. } => decision.boot(),
    }
}
