//! One decision in the making: the state it reads, the events it writes, the numbers it hands out.
//!
//! Lives as long as one call of `Desk::decide`. The rules are `impl Decision` blocks beside the state they read:
//! opening in `visitor`, messages and ownership in `conversation`, presence and notes in `dispatcher`,
//! assignment in `placement`.

use crate::command::{Answer, Caller, Refusal};
use crate::event::{Event, Note};
use crate::ids::{AgentId, ConversationId, DeviceId, Hlc, SLOTS, Slot};
use crate::limits::{EPOCH_MAX, Limits};
use crate::slot::SlotView;

/// The key and the claim of a SEND or RESOLVE.
#[derive(Clone, Copy)]
pub(crate) struct Keyed<'a> {
    pub(crate) conversation: ConversationId,
    pub(crate) caller: Caller<'a>,
    pub(crate) device: DeviceId,
    pub(crate) n: u64,
    pub(crate) owner_epoch: u32,
}

/// One decision of one slot.
pub(crate) struct Decision<'a> {
    pub(crate) now: Hlc,
    pub(crate) limits: &'a Limits,
    pub(crate) slot: Slot,
    pub(crate) state: SlotView<'a>,
    /// Conversations of the whole desk.
    pub(crate) conversations: u64,
    /// Placements, returns and lapses this decision may still make.
    pub(crate) moves_left: u32,
    events: &'a mut Vec<Event>,
    start: usize,
    told: usize,
}

impl<'a> Decision<'a> {
    pub(crate) fn new(
        now: Hlc,
        limits: &'a Limits,
        (slot, state): (Slot, SlotView<'a>),
        conversations: u64,
        events: &'a mut Vec<Event>,
    ) -> Self {
        let start = events.len();
        let moves_left = limits.moves_per_decision;
        Self { now, limits, slot, state, conversations, moves_left, events, start, told: 0 }
    }

    pub(crate) fn push(&mut self, event: Event) {
        let count = self.events.len() - self.start;
        assert!(count < self.limits.decision_events_max as usize, "a decision grew beyond its bound");
        self.events.push(event);
    }

    /// Whether one more note may be told.
    pub(crate) fn note_room(&self) -> bool {
        self.state.slot.note_room(self.told, self.limits)
    }

    /// Tells `to` a note under the pair's next number.
    pub(crate) fn tell(&mut self, to: Slot, note: Note) {
        let decided = self.events[self.start..].iter().rev().find_map(|event| match event {
            Event::Told { to: hearer, n, .. } if *hearer == to => Some(*n),
            _ => None,
        });
        let n = decided.unwrap_or_else(|| self.state.slot.pairs.told(to)) + 1;
        self.told += 1;
        self.push(Event::Told { from: self.slot, to, n, note });
    }

    /// Hears a note: its number and its effects are one record.
    pub(crate) fn hear(&mut self, from: Slot, n: u64, note: Note) -> Result<Answer, Refusal> {
        if from.0 >= SLOTS || n == 0 {
            return Err(Refusal::Invalid);
        }
        let heard = self.state.slot.pairs.heard(from);
        if n <= heard {
            return Ok(Answer::Heard { upto: heard });
        }
        if n > heard + 1 {
            return Err(Refusal::OutOfOrder { expected: heard + 1 });
        }
        // A note names the slots it travels between; one that does not fit them was never told by a desk.
        let (conversation, epoch, at_conversation) = match note {
            Note::Want { conversation, epoch, .. } | Note::Release { conversation, epoch, .. } => {
                (conversation, epoch, from)
            }
            Note::Assign { conversation, agent, epoch } => {
                check_agent(agent)?;
                (conversation, epoch, self.slot)
            }
            Note::Unassign { conversation, epoch } => (conversation, epoch, self.slot),
        };
        if conversation.slot() != at_conversation || epoch > EPOCH_MAX {
            return Err(Refusal::Invalid);
        }
        self.push(Event::Heard { from, to: self.slot, n });
        match note {
            Note::Want { site, conversation, since, epoch } => {
                self.hear_want(site, conversation, since, epoch)
            }
            Note::Release { site, conversation, epoch } => self.hear_release(site, conversation, epoch),
            Note::Assign { conversation, agent, epoch } => self.hear_assign(conversation, agent, epoch),
            Note::Unassign { conversation, epoch } => self.hear_unassign(conversation, epoch),
        }
        Ok(Answer::Heard { upto: n })
    }

    /// The hearer's confirmation. One that says nothing new changes nothing.
    pub(crate) fn confirm(&mut self, to: Slot, upto: u64) -> Result<Answer, Refusal> {
        if to.0 >= SLOTS || upto > self.state.slot.pairs.told(to) {
            return Err(Refusal::Invalid);
        }
        if upto > self.state.slot.pairs.confirmed(to) {
            self.push(Event::Confirmed { from: self.slot, to, upto });
        }
        Ok(Answer::Done)
    }
}

/// Ids that stand for the visitor and the system where a party is a number are no agent's.
pub(crate) fn check_agent(agent: AgentId) -> Result<(), Refusal> {
    if agent.0 == 0 || agent.0 == u32::MAX { Err(Refusal::Invalid) } else { Ok(()) }
}
