//! Backpressure: a connection whose queues are full is not read, so that what its client sends next waits in the
//! client's own socket. Nothing is refused and nothing is lost; reading goes on when there is room again.
//!
//! | Queue | Full | Goes on |
//! |---|---|---|
//! | outbox: the client does not read its answers | at `outbox_bytes_max` | at half of it |
//! | requests out: decided but not durable, or on their way to another shard | [`ASKED_MAX`], gateways [`GATEWAY_ASKED_MAX`] | at half of it |
//! | lane to another shard: for the connection that fills it | [`LANE_LOW`] places left | when there are more |
//!
//! A visitor behind a gateway has a credit of [`CHANNEL_CREDIT`] requests: beyond it this one visitor is told BUSY, so
//! that it does not stop the others' connection.

use super::connection::{Connection, Cutter, Phase, Stopped};
use super::{Front, LANE_RESERVE};
use crate::ask::Ask;
use crate::io::{ConnId, Output};
use crate::mail::Mail;
use crate::owner::Owner;
use crate::planted::{self, Bug};

/// Requests of one visitor behind a gateway that may be out at once. More: BUSY.
pub const CHANNEL_CREDIT: u16 = 64;

/// Requests of a visitor's or agent's connection that may be out at once.
const ASKED_MAX: u32 = 1_024;

/// Requests of a gateway's connection that may be out at once.
const GATEWAY_ASKED_MAX: u32 = 32_768;

/// Places of a lane at which the connection that took the last one is not read any more. Above what is left for
/// answers and notes, so that backpressure comes before BUSY.
const LANE_LOW: u32 = LANE_RESERVE + 32;

/// How soon a full lane is looked at again: it empties without a sound.
const LANE_LOOK_NS: u64 = 100_000;

/// Kinds of requests that are answered exactly once, with ACK, PAGE or REJECT: OPEN, SEND, HISTORY, RESOLVE, PRESENCE.
pub(super) fn is_counted(kind: u8) -> bool {
    matches!(kind, 0x02 | 0x03 | 0x06 | 0x07 | 0x08)
}

impl Connection {
    /// A counted request was answered.
    pub(super) fn answered(&mut self, channel: u32) {
        self.asked = self.asked.saturating_sub(1);
        if let Some(session) = self.session_mut(channel) {
            session.asked = session.asked.saturating_sub(1);
        }
    }

    fn asked_max(&self) -> u32 {
        match &self.phase {
            Phase::Ready(ready) if ready.sessions.is_gateway() => GATEWAY_ASKED_MAX,
            _ => ASKED_MAX,
        }
    }
}

impl Front {
    /// A request goes to its owner.
    pub(super) fn count_asked(&mut self, ask: &Ask<'_>) {
        if !is_counted(ask.kind) {
            return;
        }
        let Some(connection) = self.by_ref(ask.from) else { return };
        connection.asked += 1;
        if let Some(session) = connection.session_mut(ask.from.channel) {
            session.asked = session.asked.saturating_add(1);
        }
    }

    /// Whether nothing more of this connection may be decoded now.
    pub(super) fn is_full(&mut self, index: u32) -> bool {
        let cap = self.settings.outbox_bytes_max as usize;
        let connection = self.at(index);
        connection.stopped.is_some()
            || connection.backlog_bytes() >= cap
            || connection.asked >= connection.asked_max()
    }

    /// Stops reading after a request took one of the last places of a lane.
    pub(super) fn stop_at_lane(&mut self, index: u32, room: u32, mail: &mut Mail<'_>) {
        if room <= LANE_LOW && !self.at(index).closing {
            let stopped = self.stop(index, mail);
            if !std::mem::replace(&mut stopped.behind_lane, true) {
                self.behind_lanes.push(index);
            }
        }
    }

    pub(super) fn stop_if_full(&mut self, id: ConnId, mail: &mut Mail<'_>) {
        let stays = self.get(id).is_some_and(|connection| {
            !connection.closing && !matches!(connection.phase, Phase::Leaving { .. })
        });
        if stays && self.is_full(id.index) {
            self.stop(id.index, mail);
        }
    }

    /// Stops reading a connection, if it is read.
    pub(super) fn stop(&mut self, index: u32, mail: &mut Mail<'_>) -> &mut Stopped {
        let connection = self.at(index);
        // Before HELLO the receive is single-shot and nothing is armed.
        if connection.stopped.is_none() && matches!(connection.phase, Phase::Ready(_)) {
            mail.output(Output::Pause { conn: connection.id });
        }
        connection.stopped.get_or_insert_default()
    }

    /// Decodes what had arrived and reads on, if there is room again.
    pub(super) fn go_on_if_room(&mut self, index: u32, owner: &mut Owner, mail: &mut Mail<'_>) {
        if self.is_still() {
            return;
        }
        let cap = self.settings.outbox_bytes_max as usize;
        let lanes = self.lanes_have_room();
        let connection = self.at(index);
        let room = connection.backlog_bytes() <= cap / 2 && connection.asked <= connection.asked_max() / 2;
        let Some(stopped) = connection.stopped.take_if(|stopped| room && (lanes || !stopped.behind_lane))
        else {
            return;
        };
        if connection.closing {
            return;
        }
        let (id, greeting) = (connection.id, matches!(connection.phase, Phase::Greeting));
        if !greeting && !planted::on(Bug::NeverGoOn) {
            mail.output(Output::Receive { conn: id, once: false });
        }
        let mut unread = stopped.unread;
        if planted::on(Bug::ForgetUnread) {
            unread.clear();
        }
        if !unread.is_empty() && matches!(self.at(index).cutter, Cutter::Proxy(_)) {
            self.unwrap(index, &mut unread, owner, mail);
        } else if !unread.is_empty() {
            self.cut(index, &mut unread, owner, mail);
            self.stop_if_full(id, mail);
        }
        let again = self.get(id).is_some_and(|connection| {
            matches!(connection.phase, Phase::Greeting) && !connection.closing && connection.stopped.is_none()
        });
        if greeting && again {
            mail.output(Output::Receive { conn: id, once: true });
        }
    }

    fn lanes_have_room(&self) -> bool {
        let own = usize::from(self.shard);
        self.lane_room.iter().enumerate().all(|(to, room)| to == own || *room > LANE_LOW)
    }

    /// Lets those go on that waited for a lane.
    pub(super) fn look_behind_lanes(&mut self) {
        if self.behind_lanes.is_empty() || self.is_still() || !self.lanes_have_room() {
            return;
        }
        for index in std::mem::take(&mut self.behind_lanes) {
            if self.connections.get_mut(index).is_some_and(|waiting| waiting.stopped.is_some()) {
                self.touch(index);
            }
        }
    }

    /// When lanes are to be looked at again.
    pub(super) fn lanes_due_ns(&self) -> Option<u64> {
        (!self.behind_lanes.is_empty() && !self.is_still()).then_some(self.now_ns + LANE_LOOK_NS)
    }
}

#[cfg(test)]
mod tests {
    use ringdesk_protocol::ClientMessage;

    use super::*;

    #[test]
    fn counted_kinds_are_what_the_protocol_says() {
        let counted: Vec<&str> = ClientMessage::KINDS
            .iter()
            .filter(|(kind, _)| is_counted(*kind))
            .map(|(_, name)| *name)
            .collect();
        assert_eq!(counted, ["open", "send", "history", "resolve", "presence"]);
    }
}
