//! The dispatcher of one site: the single writer of its queue, its agents and every assignment.
//!
//! Owned by the slot of `{site}`. It hears what conversations want (Want, Release) and what agents declare; it
//! never sees a message or a receipt. Assignment itself is in `placement`.
//!
//! Epochs: for each conversation the dispatcher knows, its entry's epoch is at least the highest the conversation
//! has seen. When it is higher, the Assign that says so is on its way, and the conversation will take it or
//! answer it with a Release of that epoch. Hence the one rule for notes that crossed it: a Want or Release that
//! names an older epoch than the entry is ignored. Were an entry dropped on such a note, its epoch would be given
//! out a second time and the conversation would take the second Assign for a repeat.

use crate::agent::Roster;
use crate::command::{Answer, Availability, Refusal};
use crate::decision::{Decision, check_agent};
use crate::digest::Digest;
use crate::event::Event;
use crate::ids::{AgentId, ConversationId, DeviceId, Hlc, SiteId};
use crate::limits::Limits;
use crate::placement::Draft;
use crate::queue::Queue;

/// One site's queue and agents.
pub(crate) struct Dispatcher {
    pub(crate) queue: Queue,
    pub(crate) roster: Roster,
}

/// What a site looks like before its first event.
pub(crate) static EMPTY: Dispatcher = Dispatcher::new();

impl Dispatcher {
    pub(crate) const fn new() -> Self {
        Self { queue: Queue::new(), roster: Roster::new() }
    }

    /// When it wants a Tick: at once while somebody waits and an agent is free, else at the first loss of an agent.
    pub(crate) fn deadline(&self) -> Option<Hlc> {
        if self.queue.waiting_count() > 0 && self.roster.available().next().is_some() {
            return Some(Hlc(0));
        }
        self.roster.graces().next().map(|(due, _)| *due)
    }

    /// Conversations placed with an agent: (conversation, epoch).
    pub(crate) fn placed(&self, agent: AgentId) -> impl Iterator<Item = (ConversationId, u32)> + use<'_> {
        self.roster.placed(agent).map(|conversation| {
            let entry = self.queue.entry(conversation).expect("what is placed has an entry");
            (conversation, entry.epoch)
        })
    }

    pub(crate) fn apply(&mut self, event: &Event, limits: &Limits) {
        match *event {
            Event::Waiting { conversation, since, epoch, .. } => {
                self.queue.apply_waiting(conversation, since, epoch);
            }
            Event::Placed { conversation, agent, epoch, at, .. } => {
                self.queue.apply_placed(conversation, agent, epoch);
                self.roster.apply_placed(agent, conversation, at, limits);
            }
            Event::Returned { conversation, agent, epoch, at, .. } => {
                self.queue.apply_returned(conversation, agent, epoch);
                self.roster.apply_freed(agent, conversation, at, limits);
            }
            Event::Left { conversation, at, .. } => {
                if let Some(agent) = self.queue.apply_left(conversation) {
                    self.roster.apply_freed(agent, conversation, at, limits);
                }
            }
            Event::AgentDeclared { agent, device, n, availability, capacity, at, .. } => {
                self.roster.apply_declared((agent, device, n), (availability, capacity), at, limits);
            }
            Event::AgentLinks { agent, links, at, .. } => self.roster.apply_links(agent, links, at, limits),
            Event::AgentLapsed { agent, at, .. } => self.roster.apply_lapsed(agent, at, limits),
            ref other => panic!("{other:?} is no event of a dispatcher"),
        }
    }

    pub(crate) fn apply_booted(&mut self, at: Hlc, limits: &Limits) {
        self.roster.apply_booted(at, limits);
    }

    pub(crate) fn digest(&self, digest: &mut Digest) {
        self.queue.digest(digest);
        self.roster.digest(digest);
    }
}

impl<'a> Decision<'a> {
    fn dispatcher(&self, site: SiteId) -> &'a Dispatcher {
        self.state.sites().get(&site).unwrap_or(&EMPTY)
    }

    fn draft(&mut self, site: SiteId) -> Draft<'_, 'a> {
        let dispatcher = self.dispatcher(site);
        Draft::new(self, site, dispatcher)
    }

    /// Refuses an agent the site has no room for.
    fn agent_room(&self, site: SiteId, agent: AgentId) -> Result<(), Refusal> {
        check_agent(agent)?;
        let roster = &self.dispatcher(site).roster;
        let full = roster.count() >= self.limits.agents_per_site_max as usize;
        if full && roster.standing(agent).is_none() { Err(Refusal::Busy) } else { Ok(()) }
    }

    /// PRESENCE. Only the newest of a device counts, so its n may skip. A repeat changes nothing, unless what it
    /// declared has lapsed: who repeats it for want of an answer must not be left offline. A lower n is refused: its
    /// client has lost count, or was overtaken by itself.
    pub(crate) fn presence(
        &mut self,
        (site, agent): (SiteId, AgentId),
        (device, n): (DeviceId, u64),
        (availability, capacity): (Availability, u16),
    ) -> Result<Answer, Refusal> {
        if n == 0 || capacity > self.limits.capacity_max {
            return Err(Refusal::Invalid);
        }
        self.agent_room(site, agent)?;
        let roster = &self.dispatcher(site).roster;
        let standing = roster.standing(agent);
        match roster.declared(agent, device) {
            Some(last) if n < last.n => {
                return Err(Refusal::OutOfOrder { expected: last.n.saturating_add(1) });
            }
            Some(last) if n == last.n && last.what != (availability, capacity) => {
                return Err(Refusal::IdReused);
            }
            Some(last) if n == last.n && !standing.is_some_and(|standing| standing.lapsed) => {
                return Ok(Answer::Duplicate { seq: 0 });
            }
            _ => {}
        }
        let (slot, at) = (self.slot, self.now);
        self.push(Event::AgentDeclared { slot, site, agent, device, n, availability, capacity, at });
        // Without a session, because that is still on its way: the grace period runs from this word on.
        let lost =
            availability != Availability::Offline && standing.is_some_and(|standing| standing.links == 0);
        if lost {
            self.push(Event::AgentLinks { slot, site, agent, links: 0, at });
        }
        let mut draft = self.draft(site);
        draft.change(agent, |standing| {
            standing.lapsed = false;
            standing.availability = availability;
            standing.capacity = capacity;
            if lost {
                standing.lost_since = at;
            }
        });
        draft.settle();
        Ok(Answer::Done)
    }

    /// A session of the agent came up.
    pub(crate) fn linked(&mut self, site: SiteId, agent: AgentId) -> Result<Answer, Refusal> {
        self.agent_room(site, agent)?;
        let links = self.dispatcher(site).roster.standing(agent).map_or(0, |standing| standing.links);
        let links = links.checked_add(1).ok_or(Refusal::Busy)?;
        self.relink(site, agent, links);
        Ok(Answer::Done)
    }

    /// A session of the agent went away. One that was never counted, because the engine restarted in between,
    /// changes nothing.
    pub(crate) fn unlinked(&mut self, site: SiteId, agent: AgentId) -> Result<Answer, Refusal> {
        check_agent(agent)?;
        let links = self.dispatcher(site).roster.standing(agent).map_or(0, |standing| standing.links);
        if let Some(links) = links.checked_sub(1) {
            self.relink(site, agent, links);
        }
        Ok(Answer::Done)
    }

    fn relink(&mut self, site: SiteId, agent: AgentId, links: u32) {
        let (slot, at) = (self.slot, self.now);
        self.push(Event::AgentLinks { slot, site, agent, links, at });
        let mut draft = self.draft(site);
        draft.change(agent, |standing| {
            standing.links = links;
            if links == 0 {
                standing.lost_since = at;
            }
        });
        draft.settle();
    }

    /// A conversation wants an agent.
    pub(crate) fn hear_want(&mut self, site: SiteId, conversation: ConversationId, since: Hlc, epoch: u32) {
        let entry = self.dispatcher(site).queue.entry(conversation);
        let (slot, at) = (self.slot, self.now);
        let mut since = since;
        match entry {
            Some(entry) if entry.epoch > epoch => return,
            Some(entry) if entry.epoch == epoch && entry.agent.is_none() => return,
            // Placed at this epoch or known at an older one cannot be: the Release travels ahead. Were it so,
            // the conversation would know better what it has seen; it joins the queue anew.
            Some(entry) => {
                since = since.min(entry.since);
                self.push(Event::Left { slot, site, conversation, epoch: entry.epoch, at });
            }
            None => {}
        }
        self.push(Event::Waiting { slot, site, conversation, since, epoch });
        let mut draft = self.draft(site);
        if let Some(entry) = entry {
            draft.leave(conversation, &entry);
        }
        draft.wait(conversation, since, epoch);
        draft.settle();
    }

    /// A conversation needs nobody any more.
    pub(crate) fn hear_release(&mut self, site: SiteId, conversation: ConversationId, epoch: u32) {
        let Some(entry) = self.dispatcher(site).queue.entry(conversation) else { return };
        if entry.epoch > epoch {
            return;
        }
        let (slot, at) = (self.slot, self.now);
        self.push(Event::Left { slot, site, conversation, epoch: entry.epoch, at });
        let mut draft = self.draft(site);
        draft.leave(conversation, &entry);
        draft.settle();
    }

    /// A deadline is due, or work was left over.
    pub(crate) fn tick(&mut self) -> Result<Answer, Refusal> {
        let state = self.state;
        for (site, dispatcher) in state.sites() {
            if dispatcher.deadline().is_some_and(|due| due <= self.now) {
                self.draft(*site).settle();
            }
        }
        Ok(Answer::Done)
    }

    /// The engine has replayed this slot. A slot without agents has nothing to start again.
    pub(crate) fn boot(&mut self) -> Result<Answer, Refusal> {
        if self.state.sites().values().any(|site| site.roster.count() > 0) {
            self.push(Event::Booted { slot: self.slot, at: self.now });
        }
        Ok(Answer::Done)
    }
}
