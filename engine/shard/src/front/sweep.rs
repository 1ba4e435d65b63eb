//! What time does to connections: silence, a drain, a revocation.

use ringdesk_protocol::Code;

use super::Front;
use super::connection::Phase;
use super::wheel::Wheel;
use crate::io::Output;
use crate::mail::Mail;
use crate::owner::Owner;

/// Seconds a connection has for its HELLO.
const GREETING_S: u32 = 10;

/// Seconds a closing connection has to take its last bytes.
const CLOSING_S: u32 = 5;

/// Parts in which the connections of one second are looked at, over that second. All at once would be a turn of
/// milliseconds for everybody else, where thousands that came together are silent together.
const PARTS: usize = 128;

/// Connections in a part at least: a few are looked at in one turn, so that they do not wake a sleeper each.
const PART_MIN: usize = 16;

/// Nanoseconds from one part to the next.
const PART_NS: u64 = 1_000_000_000 / PARTS as u64;

/// Connections whose second has come and that nobody looked at yet. One that went meanwhile is looked at for nothing, or
/// its successor early, which changes nothing.
#[derive(Default, Debug)]
pub struct Due {
    waiting: Vec<u32>,
    part: usize,
    next_ns: u64,
}

impl Due {
    /// Takes what the wheel fired, and gives the part whose time it is.
    fn take(&mut self, wheel: &mut Wheel, now_s: u32, now_ns: u64) -> Vec<u32> {
        let before = self.waiting.len();
        wheel.fire(u64::from(now_s), &mut self.waiting);
        if self.waiting.len() > before {
            self.part = self.waiting.len().div_ceil(PARTS).max(PART_MIN);
        }
        if self.waiting.is_empty() || now_ns < self.next_ns {
            return Vec::new();
        }
        self.next_ns = now_ns + PART_NS;
        let rest = self.waiting.len().saturating_sub(self.part);
        let part = self.waiting.split_off(rest);
        if rest == 0 {
            self.waiting = Vec::new();
        }
        part
    }

    fn next_ns(&self) -> Option<u64> {
        (!self.waiting.is_empty()).then_some(self.next_ns)
    }
}

impl Front {
    /// Looks at the connections whose time has come, within a second of it: closes who was silent for two heartbeats, who never said HELLO,
    /// and who does not take its goodbye.
    pub fn sweep(&mut self, owner: &mut Owner, mail: &mut Mail<'_>) {
        if self.is_still() {
            return;
        }
        for index in self.due.take(&mut self.wheel, self.now_s, self.now_ns) {
            self.look(index, owner, mail);
        }
        self.finish_drain(mail);
    }

    /// Something waits for another try: the next second looks at this connection.
    pub(super) fn look_soon(&mut self, index: u32) {
        self.wheel.set(index, u64::from(self.now_s) + 1);
    }

    /// Its deadline may have come nearer.
    pub(super) fn set_deadline(&mut self, index: u32) {
        let Some(connection) = self.connections.get_mut(index) else { return };
        let silence_s = match connection.phase {
            _ if connection.closing => CLOSING_S + 1,
            Phase::Ready(_) => 2 * u32::from(self.settings.heartbeat_s),
            _ => GREETING_S,
        };
        let due_s = u64::from(connection.heard_s) + u64::from(silence_s);
        self.wheel.set(index, due_s);
    }

    fn look(&mut self, index: u32, owner: &mut Owner, mail: &mut Mail<'_>) {
        let silence_s = 2 * u32::from(self.settings.heartbeat_s);
        let (now_s, cap) = (self.now_s, self.settings.outbox_bytes_max as usize);
        let Some(connection) = self.connections.get_mut(index) else { return };
        let silent_s = now_s.saturating_sub(connection.heard_s);
        if connection.closing {
            if silent_s > CLOSING_S {
                self.close(index, owner, mail);
            } else {
                self.set_deadline(index);
            }
            return;
        }
        // A subscription that could not be read when asked tries again here, if nothing is in the way.
        let resume = connection.may_resume(cap);
        let (limit, code) = match connection.phase {
            Phase::Ready(_) => (silence_s, Code::Idle),
            _ => (GREETING_S, Code::HelloExpected),
        };
        if silent_s >= limit {
            connection.heard_s = now_s;
            self.goodbye(index, code);
        } else if resume {
            self.resume_paused(index, owner, mail);
        }
        match self.connections.get_mut(index) {
            Some(connection) if !connection.paused.is_empty() && !connection.closing => self.look_soon(index),
            _ => self.set_deadline(index),
        }
    }

    /// When the next look is due, monotonic nanoseconds; `None` without connections.
    pub fn next_deadline_ns(&self) -> Option<u64> {
        if self.is_still() {
            return None;
        }
        let drain =
            self.draining_since_s.filter(|_| !self.drained).map(|since| u64::from(since + CLOSING_S + 1));
        let wheel = [self.wheel.next_s(), drain].into_iter().flatten().min().map(|at_s| at_s * 1_000_000_000);
        [wheel, self.due.next_ns(), self.lanes_due_ns()].into_iter().flatten().min()
    }

    /// Says goodbye to everybody and takes nobody new.
    pub fn drain(&mut self) {
        if self.draining_since_s.is_some() {
            return;
        }
        self.draining_since_s = Some(self.now_s);
        for index in 0..self.connections.end() {
            if let Some(connection) = self.connections.get_mut(index) {
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
        for index in 0..self.connections.end() {
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
        let Some(connection) = self.connections.get_mut(index) else { return };
        if connection.closing {
            return;
        }
        let Some(ready) = connection.ready_mut() else { return };
        let home = ready.site;
        if self.sites.site(home).0 != key.0 {
            return;
        }
        let Some(ready) = self.at(index).ready_mut() else { return };
        let gateway = ready.sessions.is_gateway();
        // An adopted gateway says there when it stood still: what was revoked before that has been done, and repeated at
        // start only for those who come with a ticket.
        let later = if gateway {
            before_s < u64::from(ready.issued_s)
        } else {
            u64::from(ready.issued_s) >= before_s
        };
        if later {
            return;
        }
        let hit: Vec<u32> = ready
            .sessions
            .iter()
            .filter(|(_, session)| match session.agent() {
                Some(agent) => agent.0 == key.1,
                None => key.1 == 0 && *session.name == *key.2,
            })
            .map(|(channel, _)| channel)
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

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    /// What a second brings is spread over it, none is left out, and each part is small.
    #[test]
    fn a_second_is_looked_at_in_parts() {
        for count in [1, 16, 17, 1_000, 5_000] {
            let (mut wheel, mut due) = (Wheel::new(), Due::default());
            (0..count).for_each(|entry| wheel.set(entry, 7));
            let (mut now_ns, mut seen, mut longest) = (7 * SECOND, Vec::new(), 0);
            loop {
                let part = due.take(&mut wheel, (now_ns / SECOND) as u32, now_ns);
                longest = longest.max(part.len());
                seen.extend(part);
                assert!(
                    due.take(&mut wheel, (now_ns / SECOND) as u32, now_ns).is_empty(),
                    "one part at a time"
                );
                let Some(next_ns) = due.next_ns() else { break };
                now_ns = next_ns;
            }
            seen.sort_unstable();
            assert_eq!(seen, (0..count).collect::<Vec<_>>());
            assert!(now_ns < 8 * SECOND, "{count} took until {now_ns}");
            assert!(
                longest <= (count as usize).div_ceil(PARTS).max(PART_MIN),
                "{longest} of {count} at once"
            );
        }
    }
}
