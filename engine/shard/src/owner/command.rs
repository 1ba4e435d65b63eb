//! Asks of sessions: room, decision, answer.

use ringdesk_desk::command::{Answer, Caller, Command};
use ringdesk_desk::ids::{Party, Slot};
use ringdesk_protocol::Code;

use super::effect::Effect;
use super::load::SHED_TYPING;
use super::{Owner, frames};
use crate::ask::{Ask, Want};
use crate::frames::Rejection;
use crate::mail::Mail;
use crate::message::ShardMessage;
#[cfg(feature = "planted")]
use crate::planted::{self, Bug};

fn party(caller: &Caller<'_>) -> Party {
    match caller {
        Caller::Visitor { .. } => Party::Visitor,
        Caller::Agent { agent, .. } => Party::Agent(*agent),
    }
}

impl Owner {
    /// Handles a request of a session. Its answer leaves through the gate.
    pub fn ask(&mut self, ask: Ask<'_>, mail: &mut Mail<'_>) {
        match ask.want {
            Want::Typing { conversation, on } => self.typing(&ask, conversation, on, mail),
            Want::History { .. } => self.history(&ask),
            Want::Subscribe { conversation, after, announce } => {
                self.subscribe(&ask, conversation, after, announce);
            }
            Want::Unsubscribe { conversation } => {
                // A client may name what nobody has opened.
                if let Some(place) = self.desk.place(conversation) {
                    self.index.unsubscribe(place, ask.from);
                }
            }
            _ => self.command(&ask),
        }
    }

    /// Decides a request. A link or unlink must be counted whatever the load: it waits for room instead of being
    /// refused.
    pub(super) fn command(&mut self, ask: &Ask<'_>) {
        let must = matches!(ask.want, Want::Link { .. } | Want::Unlink { .. });
        if must && !self.staging_has_room(0) {
            self.inbox.postpone(ask);
            return;
        }
        let room = match ask.want {
            Want::Send { .. } | Want::Open { .. } => self.has_room_for_body(ask.body.len()),
            _ => self.has_room(ask.body.len()),
        };
        if !must && !room {
            self.reject(ask, Code::Busy, 0);
            return;
        }
        let Some((slot, command)) = self.translate(ask) else { return };
        if ask.body.len() + super::DECISION_OVERHEAD_BYTES.min(self.reserve())
            > self.appender.geometry().payload_bytes_max()
        {
            self.reject(ask, Code::TooLarge, 0);
            return;
        }
        #[cfg(feature = "planted")]
        if planted::on(Bug::ForgetOldOpens) && matches!(ask.want, Want::Open { .. }) {
            self.desk.forget_old_opens();
        }
        let now = self.clock.stamp();
        match self.desk.decide(now, &command, &mut self.events) {
            Ok(answer) => {
                self.commit(slot);
                self.answer(ask, slot, answer);
            }
            Err(refusal) => {
                let (code, detail) = frames::refusal(refusal);
                self.reject(ask, code, detail);
            }
        }
    }

    /// The desk's command for an ask, and the slot that decides it.
    fn translate<'a>(&mut self, ask: &Ask<'a>) -> Option<(Slot, Command<'a>)> {
        let (device, caller) = (ask.device, ask.caller);
        let command = match (ask.want, caller) {
            (Want::Open { slot, site_slot, n }, Caller::Visitor { site, visitor }) => {
                Command::Open { slot, site_slot, site, visitor, device, n }
            }
            (Want::Send { conversation, n, owner_epoch, content }, _) => {
                Command::Send { conversation, caller, device, n, owner_epoch, kind: content, body: ask.body }
            }
            (Want::Receipt { conversation, delivered, read }, _) => {
                Command::Receipt { conversation, caller, delivered, read }
            }
            (Want::Resolve { conversation, n, owner_epoch }, _) => {
                Command::Resolve { conversation, caller, device, n, owner_epoch }
            }
            (Want::Presence { slot, n, availability, capacity }, Caller::Agent { site, agent }) => {
                Command::Presence { slot, site, agent, device, n, availability, capacity }
            }
            (Want::Link { slot }, Caller::Agent { site, agent }) => {
                self.floor.link(slot, site, agent, ask.from);
                Command::AgentLinked { slot, site, agent }
            }
            (Want::Unlink { slot }, Caller::Agent { site, agent }) => {
                if !self.floor.unlink(slot, site, agent, ask.from) {
                    return None;
                }
                Command::AgentUnlinked { slot, site, agent }
            }
            _ => {
                self.reject(ask, Code::Forbidden, 0);
                return None;
            }
        };
        Some((ask.want.slot(), command))
    }

    fn answer(&mut self, ask: &Ask<'_>, slot: Slot, answer: Answer) {
        let (to, tag) = (ask.from, ask.tag);
        let (conversation, n) = (ask.want.conversation(), ask.want.n());
        match (answer, ask.want) {
            (Answer::Opened { conversation, seq, duplicate }, _) => {
                self.hold(Effect::Ack { to, tag, conversation: conversation.0, seq, n, duplicate });
                self.hold(Effect::Invite { to, conversation, after: seq });
                self.counters.duplicates += u64::from(duplicate);
            }
            (Answer::Accepted { seq }, _) => {
                self.hold(Effect::Ack { to, tag, conversation, seq, n, duplicate: false });
            }
            (Answer::Duplicate { seq }, _) => {
                self.counters.duplicates += 1;
                self.hold(Effect::Ack { to, tag, conversation, seq, n, duplicate: true });
            }
            (Answer::OldDuplicate { body_hash }, _) => self.find_old(ask, party(&ask.caller), n, body_hash),
            (Answer::Done, Want::Link { .. }) => {
                if let Caller::Agent { site, agent } = ask.caller {
                    self.hold(Effect::Linked { to, slot, site, agent });
                }
            }
            (Answer::Done, Want::Unlink { .. }) | (Answer::Heard { .. }, _) => {}
            (Answer::Done, _) => {
                self.hold(Effect::Ack { to, tag, conversation, seq: 0, n, duplicate: false });
            }
        }
    }

    /// Refuses a request. Held too: what it tells may follow from what is not durable yet.
    pub(super) fn reject(&mut self, ask: &Ask<'_>, code: Code, detail: u64) {
        self.counters.rejects += 1;
        self.counters.busy += u64::from(code == Code::Busy);
        let rejection = Rejection { code, of: ask.kind, conversation: ask.want.conversation(), detail };
        self.hold(Effect::Answer { to: ask.from, frame: rejection.frame(ask.tag) });
    }

    /// Typing is told to the others at once: it follows from nothing durable and is the first to be shed.
    fn typing(
        &mut self,
        ask: &Ask<'_>,
        conversation: ringdesk_desk::ids::ConversationId,
        on: bool,
        mail: &mut Mail<'_>,
    ) {
        if !self.desk.may_read(&ask.caller, conversation) {
            self.reject(ask, Code::NotFound, 0);
            return;
        }
        if self.load_eighths() >= SHED_TYPING {
            return;
        }
        let frame = frames::typing(conversation, party(&ask.caller), on);
        let Some(entry) = self.entry(conversation) else { return };
        for listener in entry.subscribers().filter(|listener| listener.session != ask.from) {
            let to = listener.session;
            mail.send(to.shard, ShardMessage::Push { to, conversation, seq: 0, frame: frame.clone() });
        }
    }
}
