//! What the gate lets out: positions into the index, items to their listeners, answers to their sessions, notes to
//! their hearers.

use std::sync::Arc;

use ringdesk_desk::ids::{AgentId, ConversationId, SiteId, Slot};
use ringdesk_persist::{Lsn, RecordRef};

use super::Owner;
use super::effect::Effect;
use crate::ask::FROM_TAIL;
use crate::frames;
use crate::mail::Mail;
use crate::message::{SessionRef, ShardMessage};
#[cfg(feature = "planted")]
use crate::planted::{self, Bug};

/// Frames outside any conversation's order carry this.
const NO_CONVERSATION: ConversationId = ConversationId(0);

fn push(to: SessionRef, conversation: ConversationId, seq: u64, frame: Arc<[u8]>, mail: &mut Mail<'_>) {
    mail.send(to.shard, ShardMessage::Push { to, conversation, seq, frame });
}

impl Owner {
    /// Releases all that has become durable.
    pub(super) fn release(&mut self, mail: &mut Mail<'_>) {
        #[cfg(feature = "planted")]
        self.leak(mail);
        let Some(durable) = self.appender.durable() else { return };
        while let Some((lsn, effect)) = self.gate.release(durable) {
            let record = self.record_of(lsn);
            self.let_out(effect, record, mail);
        }
        while self.released.front().is_some_and(|(lsn, _)| *lsn <= durable) {
            self.released.pop_front();
        }
    }

    #[cfg(feature = "planted")]
    fn leak(&mut self, mail: &mut Mail<'_>) {
        let early = self.gate.leak(|effect| match effect {
            Effect::Ack { .. } => planted::on(Bug::AckBeforeSync),
            Effect::Tell { to, .. } => planted::on(Bug::SkipRingGate) && self.router.owner(*to) != self.shard,
            _ => false,
        });
        for effect in early {
            self.let_out(effect, None, mail);
        }
    }

    /// Where the record `lsn` lies. `None` for `Lsn(0)` and for records already passed by answers that follow from
    /// nothing newer.
    fn record_of(&mut self, lsn: Lsn) -> Option<RecordRef> {
        while self.released.front().is_some_and(|(first, _)| *first < lsn) {
            self.released.pop_front();
        }
        self.released.front().filter(|(first, _)| *first == lsn).map(|(_, record)| *record)
    }

    fn let_out(&mut self, effect: Effect, record: Option<RecordRef>, mail: &mut Mail<'_>) {
        match effect {
            Effect::Item { conversation, seq, frame, owner } => {
                let record = record.unwrap_or_else(|| panic!("item {seq} of {conversation:?} has no record"));
                self.let_out_item(conversation, seq, frame, owner, record, mail);
            }
            Effect::Beside { conversation, frame } => {
                let Some(entry) = self.entry(conversation) else { return };
                for listener in entry.subscribers() {
                    push(listener.session, conversation, 0, frame.clone(), mail);
                }
            }
            Effect::Answer { to, frame } => push(to, NO_CONVERSATION, 0, frame, mail),
            Effect::Ack { to, tag, conversation, seq, n, duplicate } => {
                let frame = frames::ack(tag, conversation, seq, n, duplicate);
                push(to, NO_CONVERSATION, 0, frame, mail);
            }
            Effect::Subscribe { listener, conversation, after, assigned } => {
                let announced = assigned.as_ref().map(|(epoch, _)| *epoch);
                if let Some((_, frame)) = assigned {
                    push(listener.session, conversation, 0, frame, mail);
                }
                self.catch_up(listener, conversation, (after, announced), mail);
            }
            Effect::Invite { to, conversation, after } => {
                mail.send(to.shard, ShardMessage::Invite { to, conversation, after });
            }
            Effect::Placed { slot, site, agent, conversation } => {
                for &to in self.floor.sessions(slot, site, agent) {
                    mail.send(to.shard, ShardMessage::Invite { to, conversation, after: FROM_TAIL });
                }
            }
            Effect::Linked { to, slot, site, agent } => self.let_in(to, slot, site, agent, mail),
            Effect::Tell { from, to, n, note } => self.tell(from, to, n, note, mail),
            Effect::Confirm { from, to, upto } => {
                mail.send(self.router.owner(from), ShardMessage::Confirm { from, to, upto });
            }
            Effect::QueueChanged { slot, site } => self.floor.touch(slot, site),
        }
    }

    fn let_out_item(
        &mut self,
        conversation: ConversationId,
        seq: u64,
        frame: Arc<[u8]>,
        owner: Option<(AgentId, Arc<[u8]>)>,
        record: RecordRef,
        mail: &mut Mail<'_>,
    ) {
        self.index.append(self.place(conversation), seq, record);
        let entry = self.entry(conversation).expect("an item was just appended");
        for listener in entry.subscribers() {
            push(listener.session, conversation, seq, frame.clone(), mail);
        }
        let Some((owner, assigned)) = owner else { return };
        for listener in entry.subscribers().filter(|listener| listener.agent() == Some(owner)) {
            push(listener.session, conversation, 0, assigned.clone(), mail);
        }
    }

    /// An agent's session came up: invited to all that the agent owns, except what is still on its way.
    fn let_in(&mut self, to: SessionRef, slot: Slot, site: SiteId, agent: AgentId, mail: &mut Mail<'_>) {
        let Some(view) = self.desk.site_view(slot, site) else { return };
        for (conversation, _) in view.placed(agent) {
            if !self.floor.is_on_its_way(slot, conversation) {
                mail.send(to.shard, ShardMessage::Invite { to, conversation, after: FROM_TAIL });
            }
        }
    }
}
