//! What the owners push: items in order, answers, invitations. A slow client's items are not kept here: its
//! subscription is paused at `last`, and read from the log when the client has drained.

use ringdesk_desk::ids::ConversationId;

use super::Front;
use super::backpressure::is_counted;
use super::session::{Flow, Listen};
use crate::ask::{FROM_TAIL, Want};
use crate::io::ConnId;
use crate::mail::Mail;
use crate::message::{NO_SUCH, SessionRef, ShardMessage};
use crate::owner::Owner;
use crate::planted::{self, Bug};
use crate::router::site_slot;

/// Where a frame's kind and a REJECT's `of` lie, and the kinds that are treated apart.
const KIND_AT: usize = 4;
const REJECT_OF_AT: usize = 16 + 2;
const RECEIPT_OF: std::ops::Range<usize> = 16..24;
const HISTORY: u8 = 0x06;
const ACK: u8 = 0x82;
const RECEIPT: u8 = 0x86;
const TYPING: u8 = 0x87;
const PAGE: u8 = 0x88;
const REJECT: u8 = 0x8A;
const QUEUE: u8 = 0x8D;

/// Conversations one session listens to at most. Full: the oldest one is let go.
pub const LISTENS_MAX: usize = 4096;

impl Front {
    /// A message of an owner for one of the sessions here.
    pub fn deliver(&mut self, message: ShardMessage, owner: &mut Owner, mail: &mut Mail<'_>) {
        match message {
            ShardMessage::Push { to, seq: 0, frame, .. } => {
                self.aside(to, &frame, owner, mail);
            }
            ShardMessage::Push { to, conversation, seq, frame } => {
                self.item(to, conversation, seq, &frame, owner, mail);
            }
            ShardMessage::Caught { to, conversation, upto, live, frames } => {
                self.caught(to, conversation, (upto, live), &frames, owner, mail);
            }
            ShardMessage::Invite { to, conversation, after } => {
                self.invited(to, conversation, after, owner, mail);
            }
            other => panic!("not for the front: {other:?}"),
        }
    }

    /// A frame beside the order. A slow client is spared what is pushed: typing and the queue are dropped; with a
    /// receipt its subscription is paused, because it is told all receipts when it goes live again. Answers always
    /// go.
    fn aside(&mut self, to: SessionRef, frame: &[u8], owner: &mut Owner, mail: &mut Mail<'_>) {
        let slow = self.is_slow(to, frame.len());
        let Some(connection) = self.by_ref(to) else { return };
        if answers(frame) {
            connection.answered(to.channel);
        }
        if connection.session_mut(to.channel).is_none() {
            return;
        }
        match frame[KIND_AT] {
            PAGE => connection.pages_out = connection.pages_out.saturating_sub(1),
            REJECT if frame[REJECT_OF_AT] == HISTORY => {
                connection.pages_out = connection.pages_out.saturating_sub(1);
            }
            TYPING | QUEUE if slow => return,
            RECEIPT if slow => {
                let conversation = receipt_of(frame);
                let live = connection
                    .session_mut(to.channel)
                    .and_then(|session| session.listen_mut(conversation))
                    .is_some_and(|listen| listen.flow == Flow::Live);
                if live {
                    self.pause(to, conversation);
                    self.ask_for(to.index, to.channel, Want::Unsubscribe { conversation }, owner, mail);
                }
                return;
            }
            _ => {}
        }
        self.put(to, frame);
    }

    /// Asks for the items after `after`, or waits paused when this connection asks enough already.
    pub(super) fn ask_items(
        &mut self,
        (index, channel): (u32, u32),
        conversation: ConversationId,
        after: u64,
        announce: bool,
        owner: &mut Owner,
        mail: &mut Mail<'_>,
    ) {
        let cap = self.settings.outbox_bytes_max as usize;
        let still = self.is_still();
        let connection = self.at(index);
        let wait = still || !connection.may_ask(cap);
        if wait {
            connection.paused.add((channel, conversation));
        } else {
            connection.asking += 1;
        }
        let listen = connection.session_mut(channel).and_then(|session| session.listen_mut(conversation));
        if let Some(listen) = listen {
            listen.flow = if wait { Flow::Paused } else { Flow::Asking };
        }
        if wait {
            self.look_soon(index);
        } else {
            let want = Want::Subscribe { conversation, after, announce };
            self.ask_for(index, channel, want, owner, mail);
        }
    }

    fn is_slow(&mut self, to: SessionRef, bytes: usize) -> bool {
        let cap = self.settings.outbox_bytes_max as usize;
        !planted::on(Bug::IgnoreCap)
            && self.by_ref(to).is_some_and(|connection| connection.is_slow(bytes, cap))
    }

    fn item(
        &mut self,
        to: SessionRef,
        conversation: ConversationId,
        seq: u64,
        frame: &[u8],
        owner: &mut Owner,
        mail: &mut Mail<'_>,
    ) {
        let slow = self.is_slow(to, frame.len());
        let Some(connection) = self.by_ref(to) else { return };
        let Some(listen) =
            connection.session_mut(to.channel).and_then(|session| session.listen_mut(conversation))
        else {
            return;
        };
        // While asking or paused, what still comes belongs to the subscription before.
        if listen.flow != Flow::Live {
            return;
        }
        assert!(seq == listen.last() + 1, "{conversation:?}: item {seq} pushed after {}", listen.last());
        if slow {
            listen.flow = Flow::Paused;
            connection.paused.add((to.channel, conversation));
            self.slow += 1;
            self.look_soon(to.index);
            self.ask_for(to.index, to.channel, Want::Unsubscribe { conversation }, owner, mail);
            return;
        }
        listen.reach(seq);
        // With nothing else waiting any frame fits.
        let alone = connection.backlog_bytes() == 0;
        self.put(to, frame);
        if let Some(connection) = self.by_ref(to).filter(|_| !alone) {
            let backlog = connection.backlog_bytes();
            self.most.pushed_bytes = self.most.pushed_bytes.max(backlog);
        }
    }

    fn caught(
        &mut self,
        to: SessionRef,
        conversation: ConversationId,
        (upto, live): (u64, bool),
        frames: &[u8],
        owner: &mut Owner,
        mail: &mut Mail<'_>,
    ) {
        let Some(connection) = self.by_ref(to) else { return };
        if connection.asking > 0 {
            connection.asking -= 1;
            connection.rest();
        }
        let Some(session) = connection.session_mut(to.channel) else {
            return self.resume_if_fast(to.index, owner, mail);
        };
        if upto == NO_SUCH {
            session.listens.remove(conversation);
            connection.waits_no_more(to.channel, conversation);
            self.resume_if_fast(to.index, owner, mail);
            return;
        }
        let listen = session.listen_mut(conversation).filter(|listen| listen.flow == Flow::Asking);
        let Some(listen) = listen else { return self.resume_if_fast(to.index, owner, mail) };
        listen.reach(upto);
        (listen.from_tail, listen.fresh) = (false, false);
        listen.flow = if live { Flow::Live } else { Flow::Asking };
        if !frames.is_empty() {
            self.put(to, frames);
        }
        // More to read: at once if the client keeps up, otherwise when it has drained.
        if !live && (frames.is_empty() || self.is_slow(to, 0) || self.is_still()) {
            self.pause(to, conversation);
        } else if !live {
            self.ask_items((to.index, to.channel), conversation, upto, false, owner, mail);
        }
        if live {
            self.resume_if_fast(to.index, owner, mail);
        }
    }

    /// Lets the next paused subscriptions read, if the client keeps up.
    fn resume_if_fast(&mut self, index: u32, owner: &mut Owner, mail: &mut Mail<'_>) {
        let cap = self.settings.outbox_bytes_max as usize;
        if self.at(index).may_resume(cap) {
            self.resume_paused(index, owner, mail);
        }
    }

    fn pause(&mut self, to: SessionRef, conversation: ConversationId) {
        let Some(connection) = self.by_ref(to) else { return };
        let listen = connection.session_mut(to.channel).and_then(|session| session.listen_mut(conversation));
        if let Some(listen) = listen {
            listen.flow = Flow::Paused;
            connection.paused.add((to.channel, conversation));
            self.slow += 1;
            self.look_soon(to.index);
        }
    }

    fn invited(
        &mut self,
        to: SessionRef,
        conversation: ConversationId,
        after: u64,
        owner: &mut Owner,
        mail: &mut Mail<'_>,
    ) {
        let Some(session) = self.by_ref(to).and_then(|connection| connection.session_mut(to.channel)) else {
            return;
        };
        if session.listen_mut(conversation).is_some() {
            return;
        }
        let oldest = session.listens.make_room(LISTENS_MAX);
        let from_tail = after == FROM_TAIL;
        let last = if from_tail { 0 } else { after };
        // The desk's copy of the name instead of an own one, where it has just made it.
        if let Some(name) = owner.desk().visitor_name(conversation).filter(|name| **name == session.name) {
            session.name = name.clone();
        }
        session.listens.push(Listen::asking(conversation, last, from_tail));
        if let Some(oldest) = oldest {
            self.at(to.index).waits_no_more(to.channel, oldest.conversation);
            let want = Want::Unsubscribe { conversation: oldest.conversation };
            self.ask_for(to.index, to.channel, want, owner, mail);
        }
        self.ask_items((to.index, to.channel), conversation, after, true, owner, mail);
    }

    /// The client has drained: its paused subscriptions read on from the log, as many at a time as may.
    pub(super) fn resume_paused(&mut self, index: u32, owner: &mut Owner, mail: &mut Mail<'_>) {
        if self.is_still() {
            return;
        }
        let cap = self.settings.outbox_bytes_max as usize;
        loop {
            let connection = self.at(index);
            if !connection.may_ask(cap) {
                return;
            }
            let Some(((channel, conversation), waited)) = connection.next_paused() else { return };
            let listen = connection.session_mut(channel).and_then(|session| session.listen_mut(conversation));
            let listen = listen.expect("who ends waits no more");
            assert!(listen.flow == Flow::Paused, "{conversation:?} waits and is {:?}", listen.flow);
            let after = if listen.from_tail { FROM_TAIL } else { listen.last() };
            let announce = listen.fresh;
            self.most.turns_waited = self.most.turns_waited.max(waited);
            self.ask_items((index, channel), conversation, after, announce, owner, mail);
        }
    }

    /// All sessions of a connection end: no more pushes, and the dispatcher knows that the agent is gone.
    pub(super) fn end_sessions(&mut self, index: u32, owner: &mut Owner, mail: &mut Mail<'_>) {
        let channels: Vec<u32> = match self.at(index).ready_mut() {
            Some(ready) => ready.sessions.iter().map(|(channel, _)| channel).collect(),
            None => return,
        };
        for channel in channels {
            self.end_session(index, channel, owner, mail);
        }
    }

    pub(super) fn end_session(&mut self, index: u32, channel: u32, owner: &mut Owner, mail: &mut Mail<'_>) {
        let Some(ready) = self.at(index).ready_mut() else { return };
        let home = ready.site;
        let Some(session) = ready.sessions.get_mut(channel) else { return };
        let is_agent = session.agent != 0;
        for listen in std::mem::take(&mut session.listens).as_slice() {
            self.at(index).waits_no_more(channel, listen.conversation);
            let want = Want::Unsubscribe { conversation: listen.conversation };
            self.ask_for(index, channel, want, owner, mail);
        }
        if is_agent {
            let want = Want::Unlink { slot: site_slot(self.sites.name(home)) };
            self.ask_for(index, channel, want, owner, mail);
        }
        if let Some(ready) = self.at(index).ready_mut() {
            let ended = ready.sessions.remove(channel);
            self.sessions -= u64::from(ended);
        }
    }

    /// The hand-over failed: the connection stays and is served from here.
    pub fn hand_over_failed(
        &mut self,
        id: ConnId,
        state: crate::message::HandOver,
        owner: &mut Owner,
        mail: &mut Mail<'_>,
    ) {
        self.handed_over(id, state, owner, mail);
    }
}

/// Whether a frame answers a request that was counted when it was asked.
fn answers(frame: &[u8]) -> bool {
    match frame[KIND_AT] {
        ACK | PAGE => true,
        REJECT => is_counted(frame[REJECT_OF_AT]),
        _ => false,
    }
}

/// The conversation a RECEIPT frame is about.
fn receipt_of(frame: &[u8]) -> ConversationId {
    ConversationId(u64::from_le_bytes(frame[RECEIPT_OF].try_into().expect("a whole RECEIPT")))
}

#[cfg(test)]
mod tests {
    use ringdesk_protocol::{ClientMessage, Code, ServerMessage};

    use super::*;

    #[test]
    fn kinds_and_places_are_what_the_protocol_says() {
        for (kind, name) in [
            (ACK, "ack"),
            (RECEIPT, "receipt"),
            (TYPING, "typing"),
            (PAGE, "page"),
            (REJECT, "reject"),
            (QUEUE, "queue"),
        ] {
            assert!(ServerMessage::KINDS.contains(&(kind, name)), "{name}");
        }
        assert!(ClientMessage::KINDS.contains(&(HISTORY, "history")));
        let rejection =
            crate::frames::Rejection { code: Code::Busy, of: HISTORY, conversation: 1, detail: 0 };
        let frame = rejection.frame(1);
        assert_eq!((frame[KIND_AT], frame[REJECT_OF_AT]), (REJECT, HISTORY));
        let id = ConversationId(0x1234_5678_9abc_def0);
        let receipt = crate::frames::receipt(id, ringdesk_desk::ids::Side::Staff, 1, 1);
        assert_eq!((receipt[KIND_AT], receipt_of(&receipt)), (RECEIPT, id));
    }
}
