//! What the owners push: items in order, answers, invitations. A slow client's items are not kept here: its
//! subscription is paused at `last`, and read from the log when the client has drained.

use ringdesk_desk::ids::ConversationId;

use super::Front;
use super::connection::{Flow, Listen};
use crate::ask::{FROM_TAIL, Want};
use crate::io::ConnId;
use crate::mail::Mail;
use crate::message::{NO_SUCH, SessionRef, ShardMessage};
use crate::owner::Owner;
use crate::router::site_slot;

/// Conversations one session listens to at most. Full: the oldest one is let go.
const LISTENS_MAX: usize = 4096;

impl Front {
    /// A message of an owner for one of the sessions here.
    pub fn deliver(&mut self, message: ShardMessage, owner: &mut Owner, mail: &mut Mail<'_>) {
        match message {
            ShardMessage::Push { to, seq: 0, frame, .. } => {
                if self.by_ref(to).is_some_and(|connection| connection.session_mut(to.channel).is_some()) {
                    self.put(to, &frame);
                }
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

    fn is_slow(&mut self, to: SessionRef) -> bool {
        let cap = self.settings.outbox_bytes_max as usize;
        self.by_ref(to).is_some_and(|connection| connection.backlog_bytes() >= cap)
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
        let slow = self.is_slow(to);
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
        assert!(seq == listen.last + 1, "{conversation:?}: item {seq} pushed after {}", listen.last);
        if slow {
            listen.flow = Flow::Paused;
            connection.paused += 1;
            self.slow += 1;
            self.ask_for(to.index, to.channel, Want::Unsubscribe { conversation }, owner, mail);
            return;
        }
        listen.last = seq;
        self.put(to, frame);
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
        let slow = self.is_slow(to);
        let Some(connection) = self.by_ref(to) else { return };
        let Some(session) = connection.session_mut(to.channel) else { return };
        if upto == NO_SUCH {
            session.listens.retain(|listen| listen.conversation != conversation);
            return;
        }
        let Some(listen) = session.listen_mut(conversation) else { return };
        if listen.flow != Flow::Asking {
            return;
        }
        listen.last = upto;
        listen.flow = if live { Flow::Live } else { Flow::Asking };
        if !frames.is_empty() {
            self.put(to, frames);
        }
        if live {
            return;
        }
        // More to read: at once if the client keeps up, otherwise when it has drained.
        if slow || frames.is_empty() {
            self.pause(to, conversation);
        } else {
            let want = Want::Subscribe { conversation, after: upto, announce: false };
            self.ask_for(to.index, to.channel, want, owner, mail);
        }
    }

    fn pause(&mut self, to: SessionRef, conversation: ConversationId) {
        let Some(connection) = self.by_ref(to) else { return };
        let listen = connection.session_mut(to.channel).and_then(|session| session.listen_mut(conversation));
        if let Some(listen) = listen {
            listen.flow = Flow::Paused;
            connection.paused += 1;
            self.slow += 1;
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
        let oldest = (session.listens.len() >= LISTENS_MAX).then(|| session.listens.remove(0));
        let last = if after == FROM_TAIL { 0 } else { after };
        session.listens.push(Listen { conversation, last, flow: Flow::Asking });
        if let Some(oldest) = oldest {
            let want = Want::Unsubscribe { conversation: oldest.conversation };
            self.ask_for(to.index, to.channel, want, owner, mail);
        }
        let want = Want::Subscribe { conversation, after, announce: true };
        self.ask_for(to.index, to.channel, want, owner, mail);
    }

    /// The client has drained: its paused subscriptions read on from the log.
    pub(super) fn resume_paused(&mut self, index: u32, owner: &mut Owner, mail: &mut Mail<'_>) {
        let connection = self.at(index);
        connection.paused = 0;
        let Some(ready) = connection.ready_mut() else { return };
        let mut resumed = Vec::new();
        for (&channel, session) in &mut ready.sessions {
            for listen in session.listens.iter_mut().filter(|listen| listen.flow == Flow::Paused) {
                listen.flow = Flow::Asking;
                resumed.push((channel, listen.conversation, listen.last));
            }
        }
        for (channel, conversation, after) in resumed {
            let want = Want::Subscribe { conversation, after, announce: true };
            self.ask_for(index, channel, want, owner, mail);
        }
    }

    /// All sessions of a connection end: no more pushes, and the dispatcher knows that the agent is gone.
    pub(super) fn end_sessions(&mut self, index: u32, owner: &mut Owner, mail: &mut Mail<'_>) {
        let channels: Vec<u32> = match self.at(index).ready_mut() {
            Some(ready) => ready.sessions.keys().copied().collect(),
            None => return,
        };
        for channel in channels {
            self.end_session(index, channel, owner, mail);
        }
    }

    pub(super) fn end_session(&mut self, index: u32, channel: u32, owner: &mut Owner, mail: &mut Mail<'_>) {
        let Some(ready) = self.at(index).ready_mut() else { return };
        let site_name = ready.principal.site_name.clone();
        let Some(session) = ready.sessions.get_mut(&channel) else { return };
        let is_agent = session.agent.is_some();
        for listen in std::mem::take(&mut session.listens) {
            let want = Want::Unsubscribe { conversation: listen.conversation };
            self.ask_for(index, channel, want, owner, mail);
        }
        if is_agent {
            let want = Want::Unlink { slot: site_slot(&site_name) };
            self.ask_for(index, channel, want, owner, mail);
        }
        if let Some(ready) = self.at(index).ready_mut() {
            ready.sessions.remove(&channel);
            self.sessions -= 1;
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
