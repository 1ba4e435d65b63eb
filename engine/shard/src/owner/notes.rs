//! Notes between entities (C2): told by one slot, logged, numbered per pair, sent when durable, heard and logged by
//! the other, confirmed, forgotten. What is not confirmed is told again at boot.
//!
//! The inbox holds notes and confirmations that found no room in the log, in order; it is bounded by what the
//! tellers may have outstanding (`Limits::notes_outstanding_max` each).

use std::collections::VecDeque;

use ringdesk_desk::command::{Answer, Command, Refusal};
use ringdesk_desk::event::Note;
use ringdesk_desk::ids::Slot;

use super::Owner;
use super::effect::Effect;
use crate::ask::{Ask, OwnedAsk};
use crate::mail::Mail;
use crate::message::ShardMessage;

/// Entries handled per turn; the rest in the next.
const INBOX_PER_TURN: usize = 4096;

#[derive(Debug)]
enum Letter {
    Note { from: Slot, to: Slot, n: u64, note: Note },
    Confirm { from: Slot, to: Slot, upto: u64 },
    Postponed(Box<OwnedAsk>),
}

/// Notes waiting to be heard.
#[derive(Default, Debug)]
pub struct Inbox {
    letters: VecDeque<Letter>,
}

impl Inbox {
    /// Whether there is something to hear, given room.
    pub fn is_ready(&self, room: bool) -> bool {
        room && !self.letters.is_empty()
    }

    /// Keeps a link or unlink until there is room.
    pub fn postpone(&mut self, ask: &Ask<'_>) {
        self.letters.push_back(Letter::Postponed(ask.to_owned()));
    }
}

impl Owner {
    /// A note arrived.
    pub fn note(&mut self, from: Slot, to: Slot, n: u64, note: Note) {
        self.inbox.letters.push_back(Letter::Note { from, to, n, note });
    }

    /// A confirmation arrived.
    pub fn confirmed(&mut self, from: Slot, to: Slot, upto: u64) {
        self.inbox.letters.push_back(Letter::Confirm { from, to, upto });
    }

    /// Handles what arrived, as far as the log has room.
    pub(super) fn work_inbox(&mut self) {
        for _ in 0..INBOX_PER_TURN {
            if !self.inbox.is_ready(self.staging_has_room(0)) {
                return;
            }
            match self.inbox.letters.pop_front() {
                Some(Letter::Note { from, to, n, note }) => self.hear(from, to, n, note),
                Some(Letter::Confirm { from, to, upto }) => self.confirm(from, to, upto),
                Some(Letter::Postponed(ask)) => self.command(&ask.borrow()),
                None => return,
            }
        }
    }

    fn hear(&mut self, from: Slot, to: Slot, n: u64, note: Note) {
        let now = self.clock.stamp();
        let command = Command::Hear { from, to, n, note };
        match self.desk.decide(now, &command, &mut self.events) {
            Ok(Answer::Heard { upto }) => {
                let news = !self.events.is_empty();
                self.commit(to);
                if !news {
                    self.hold(Effect::Confirm { from, to, upto });
                }
            }
            // A note ahead of its turn: the ones before it were lost with a lane and come again with it at boot.
            Err(Refusal::OutOfOrder { .. }) => {}
            other => panic!("note {n} of {from:?} to {to:?}: {other:?}"),
        }
    }

    fn confirm(&mut self, from: Slot, to: Slot, upto: u64) {
        let now = self.clock.stamp();
        let answer = self.desk.decide(now, &Command::Confirm { from, to, upto }, &mut self.events);
        assert!(answer.is_ok(), "confirmation of {from:?} to {to:?} up to {upto}: {answer:?}");
        self.commit(from);
        for placed in self.floor.arrived(from, to, upto) {
            self.hold(Effect::Placed {
                slot: from,
                site: placed.site,
                agent: placed.agent,
                conversation: placed.conversation,
            });
        }
    }

    /// Sends a note that is durable here.
    pub(super) fn tell(&self, from: Slot, to: Slot, n: u64, note: Note, mail: &mut Mail<'_>) {
        mail.send(self.router.owner(to), ShardMessage::Note { from, to, n, note });
    }
}
