//! What time does to connections: silence, a drain, a revocation.

use ringdesk_protocol::Code;

use super::Front;
use super::connection::Phase;
use crate::io::Output;
use crate::mail::Mail;
use crate::message::Identity;
use crate::owner::Owner;

/// Seconds a connection has for its HELLO.
const GREETING_S: u64 = 10;

/// Seconds a closing connection has to take its last bytes.
const CLOSING_S: u64 = 5;

impl Front {
    /// Once a second: closes who was silent for two heartbeats, who never said HELLO, and who does not take its
    /// goodbye.
    pub fn sweep(&mut self, owner: &mut Owner, mail: &mut Mail<'_>) {
        if self.open > 0 && self.now_s > self.swept_s {
            self.swept_s = self.now_s;
            for index in 0..self.connections.len() as u32 {
                self.sweep_one(index, owner, mail);
            }
        }
        self.finish_drain(mail);
    }

    fn sweep_one(&mut self, index: u32, owner: &mut Owner, mail: &mut Mail<'_>) {
        let silence_s = 2 * u64::from(self.settings.heartbeat_s);
        let (now_s, cap) = (self.now_s, self.settings.outbox_bytes_max as usize);
        let Some(connection) = self.connections[index as usize].as_deref_mut() else { return };
        let silent_s = now_s.saturating_sub(connection.heard_s);
        if connection.closing {
            if silent_s > CLOSING_S {
                self.close(index, owner, mail);
            }
            return;
        }
        // A subscription that could not be read when asked tries again here, if nothing is in the way.
        let resume = connection.may_resume(cap);
        let limit = match connection.phase {
            Phase::Ready(_) => silence_s,
            _ => GREETING_S,
        };
        if silent_s >= limit {
            let code = if limit == GREETING_S { Code::HelloExpected } else { Code::Idle };
            connection.heard_s = now_s;
            self.goodbye(index, code);
        } else if resume {
            self.resume_paused(index, owner, mail);
        }
    }

    /// When the next sweep is due, monotonic nanoseconds; `None` without connections.
    pub fn next_deadline_ns(&self) -> Option<u64> {
        let drain = self.draining_since_s.is_some() && !self.drained;
        let sweep = (self.open > 0 || drain).then(|| (self.swept_s.max(self.now_s) + 1) * 1_000_000_000);
        [sweep, self.lanes_due_ns()].into_iter().flatten().min()
    }

    /// Says goodbye to everybody and takes nobody new.
    pub fn drain(&mut self) {
        if self.draining_since_s.is_some() {
            return;
        }
        self.draining_since_s = Some(self.now_s);
        for index in 0..self.connections.len() as u32 {
            if let Some(connection) = self.connections[index as usize].as_deref_mut() {
                connection.heard_s = self.now_s;
                self.goodbye(index, Code::ShuttingDown);
            }
        }
    }

    fn finish_drain(&mut self, mail: &mut Mail<'_>) {
        let Some(since) = self.draining_since_s else { return };
        let late = self.now_s.saturating_sub(since) > CLOSING_S;
        if !self.drained && (self.open == 0 || late) {
            self.drained = true;
            mail.output(Output::Drained);
        }
    }

    /// Closes the live sessions of an identity, and refuses its earlier tickets from now on.
    pub fn revoke(&mut self, key: (u32, u32, String), before_s: u64, owner: &mut Owner, mail: &mut Mail<'_>) {
        for index in 0..self.connections.len() as u32 {
            self.revoke_one(index, &key, before_s, owner, mail);
        }
        let known = self.revoked.entry(key).or_default();
        *known = before_s.max(*known);
    }

    fn revoke_one(
        &mut self,
        index: u32,
        key: &(u32, u32, String),
        before_s: u64,
        owner: &mut Owner,
        mail: &mut Mail<'_>,
    ) {
        let Some(connection) = self.connections[index as usize].as_deref_mut() else { return };
        if connection.closing {
            return;
        }
        let Some(ready) = connection.ready_mut() else { return };
        if ready.principal.site.0 != key.0 {
            return;
        }
        let gateway = ready.principal.identity == Identity::Gateway;
        if !gateway && ready.principal.issued_s >= before_s {
            return;
        }
        let hit: Vec<u32> = ready
            .sessions
            .iter()
            .filter(|(_, session)| match session.agent {
                Some(agent) => agent.0 == key.1,
                None => key.1 == 0 && *session.name == *key.2,
            })
            .map(|(channel, _)| *channel)
            .collect();
        for channel in hit {
            if !gateway {
                self.at(index).heard_s = self.now_s;
                self.goodbye(index, Code::TicketRevoked);
                return;
            }
            self.end_session(index, channel, owner, mail);
            let code = Code::TicketRevoked;
            let sentence = code.sentence(ringdesk_protocol::Language::English);
            let message = ringdesk_protocol::ServerMessage::Goodbye { code, retry_after_ms: 0, sentence };
            self.at(index).put(channel, 0, &message);
            self.touch(index);
        }
    }
}
