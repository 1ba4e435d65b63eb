//! What a device does on its own: open, write, resolve, confirm, look back, and a few things that must not work.

use ringdesk_protocol::{Availability, ClientMessage, Content, Side};

use super::Scene;
use super::device::{Attempt, Declared, Device, Whose, body_hash, keyed};
use super::thread::Thread;
use crate::oracle::{Asked, Marks};
use crate::plan::MS;

impl Device {
    /// Which side's receipts it moves.
    pub fn side(&self) -> Side {
        match self.whose {
            Whose::Visitor(_) => Side::Visitor,
            Whose::Agent(_) => Side::Staff,
        }
    }

    /// One act, and the time of the next.
    pub fn act(&mut self, scene: &mut Scene<'_>, out: &mut Vec<u8>) {
        // In a healed world only what is owed is done, and a run may last minutes of virtual time.
        let pause = match scene.healed {
            true => 100 * MS,
            // Who has said all it wanted looks around now and then.
            false if self.budget == 0 => scene.cast.pause_ns.max(20 * MS),
            false => scene.cast.pause_ns,
        };
        self.next_act = scene.now + scene.rng.range(pause / 2, pause * 2);
        if !self.up || self.dead || self.auditor {
            return;
        }
        match self.whose {
            Whose::Visitor(_) => self.act_visitor(scene, out),
            Whose::Agent(_) => self.act_agent(scene, out),
        }
        self.confirm(scene);
        self.flush(scene, out);
    }

    fn act_visitor(&mut self, scene: &mut Scene<'_>, out: &mut Vec<u8>) {
        if self.open_n == 0 {
            self.open();
            return;
        }
        let Some(id) = self.current else { return };
        if scene.healed {
            if std::mem::take(&mut self.owes_message) {
                self.write(id, scene);
            }
            // At the end every OPEN is repeated once, the oldest first.
            if self.opens_answered() > self.opens_repeated {
                self.opens_repeated += 1;
                self.open_again(self.opens_repeated, out);
            }
            return;
        }
        let may_open = !self.open_wanted && self.open_n < u64::from(scene.cast.opens);
        if scene.rng.ppm(scene.cast.churn_ppm) {
            return match self.threads[&id].resolved {
                true if may_open => self.open(),
                true => self.open_any_again(scene, out),
                false => self.resolve(id),
            };
        }
        match scene.rng.below(16) {
            0 if may_open => self.open(),
            5 => self.open_any_again(scene, out),
            1 => self.look_back(id, scene, out),
            2 => self.repeat(id, scene, out),
            3 => self.type_in(id, out),
            4 if scene.rng.one_in(2) => self.resolve(id),
            _ => self.write(id, scene),
        }
    }

    fn act_agent(&mut self, scene: &mut Scene<'_>, out: &mut Vec<u8>) {
        if self.declared.is_none() {
            let capacity = scene.rng.range(1, 6) as u16;
            self.declare(Availability::Online, capacity);
        }
        if scene.healed {
            return;
        }
        let owned: Vec<u64> = self
            .threads
            .iter()
            .filter(|(_, thread)| thread.owner_epoch.is_some())
            .map(|(id, _)| *id)
            .collect();
        if scene.rng.one_in(24) && self.declared.is_some_and(|declared| declared.acked) {
            let availability = Availability::ALL[scene.rng.index(Availability::ALL.len())];
            let capacity = scene.rng.range(0, 6) as u16;
            self.declare(availability, capacity);
        }
        if owned.is_empty() {
            return;
        }
        let id = owned[scene.rng.index(owned.len())];
        match scene.rng.below(12) {
            0 => self.look_back(id, scene, out),
            1 => self.repeat(id, scene, out),
            2 => self.type_in(id, out),
            3 if scene.rng.one_in(2) => self.resolve(id),
            _ if self.threads[&id].unanswered > 0 => {
                self.write(id, scene);
                let thread = self.threads.get_mut(&id).expect("it is owned");
                thread.unanswered -= 1;
            }
            _ => {}
        }
    }

    /// States availability; a new key each time.
    pub fn declare(&mut self, availability: Availability, capacity: u16) {
        let n = self.declared.map_or(0, |declared| declared.n) + 1;
        self.declared = Some(Declared { n, availability, capacity, acked: false, tag: None });
    }

    fn open(&mut self) {
        self.open_n += 1;
        self.open_wanted = true;
    }

    /// Repeats one of the OPENs that were answered.
    fn open_any_again(&mut self, scene: &mut Scene<'_>, out: &mut Vec<u8>) {
        let answered = self.opens_answered();
        if answered > 0 {
            self.open_again(scene.rng.range(1, answered), out);
        }
    }

    /// Sends an OPEN again that was answered.
    fn open_again(&mut self, n: u64, out: &mut Vec<u8>) {
        let tag = self.tag(Attempt::OpenAgain { n });
        self.say(&ClientMessage::Open { n, topic: "again" }, tag, out);
    }

    /// Opens if it never did, and writes one message, also in the healed phase: for the audit's new visitors.
    pub fn open_and_write(&mut self) {
        self.open();
        self.budget = 1;
        self.owes_message = true;
    }

    fn write(&mut self, id: u64, scene: &mut Scene<'_>) {
        if self.budget == 0 {
            return;
        }
        self.budget -= 1;
        let thread = self.threads.get_mut(&id).expect("a thread to write to");
        let body = body(self.id, thread.last_n + 1, scene);
        thread.push(Asked::Body(body_hash(Content::Text, &body)), body);
    }

    fn resolve(&mut self, id: u64) {
        let thread = self.threads.get_mut(&id).expect("a thread to resolve");
        if thread.queue.is_empty() && !thread.resolved {
            thread.push(Asked::Resolve, Vec::new());
        }
    }

    fn type_in(&mut self, id: u64, out: &mut Vec<u8>) {
        let tag = self.tag(Attempt::Typing);
        self.say(&ClientMessage::Typing { conversation: id, on: true }, tag, out);
    }

    /// Sends a key again that was answered, with the same body or with another.
    fn repeat(&mut self, id: u64, scene: &mut Scene<'_>, out: &mut Vec<u8>) {
        let thread = &self.threads[&id];
        if thread.done.is_empty() {
            return;
        }
        let done = thread.done[scene.rng.index(thread.done.len())].clone();
        let epoch = thread.owner_epoch.unwrap_or(0);
        let same = scene.rng.one_in(2);
        let (asked, body) = if same {
            (done.asked, done.body)
        } else {
            let body = b"not what was sent before".to_vec();
            (Asked::Body(body_hash(Content::Text, &body)), body)
        };
        scene.oracle.asks(id, self.id, done.n, asked);
        let tag = self.tag(Attempt::Again { conversation: id, n: done.n, asked, same });
        self.say(&keyed(id, done.n, epoch, asked, &body), tag, out);
    }

    fn look_back(&mut self, id: u64, scene: &mut Scene<'_>, out: &mut Vec<u8>) {
        // One page at a time: an engine may close who asks for much and reads nothing.
        if self.attempts.values().any(|attempt| matches!(attempt, Attempt::History { .. })) {
            return;
        }
        let highest = scene.oracle.conversation(id).highest();
        let limit = scene.rng.range(1, 4) as u16;
        let (before, after) = match scene.rng.below(3) {
            0 => (scene.rng.range(1, highest + 2), 0),
            1 => (u64::MAX, 0),
            _ => (0, scene.rng.below(highest + 2)),
        };
        let tag = self.tag(Attempt::History { conversation: id, before, after, limit, highest });
        self.say(&ClientMessage::History { conversation: id, before, after, limit }, tag, out);
    }

    /// Confirms what was stored and, later, read.
    fn confirm(&mut self, scene: &mut Scene<'_>) {
        let (healed, agent) = (scene.healed, self.agent() != 0);
        for thread in self.threads.values_mut().filter(|thread| !agent || thread.owner_epoch.is_some()) {
            thread.confirm(healed, scene);
        }
    }
}

impl Thread {
    fn confirm(&mut self, healed: bool, scene: &mut Scene<'_>) {
        // A new confirmation waits for the answer to the last one, so that what is out is what was acked.
        if self.confirmed != self.confirmed_acked || self.cursor == 0 || !self.based {
            return;
        }
        if !healed && scene.rng.one_in(2) {
            return;
        }
        let read = if healed { self.cursor } else { scene.rng.range(self.confirmed.read, self.cursor) };
        let marks = Marks { delivered: self.cursor, read };
        if marks.delivered >= self.confirmed.delivered && marks.read >= self.confirmed.read {
            self.confirmed = marks;
        }
    }
}

fn body(device: u64, n: u64, scene: &mut Scene<'_>) -> Vec<u8> {
    let mut body = format!("{device:x}/{n}/").into_bytes();
    let len = scene.rng.below(u64::from(scene.cast.body_bytes)) as usize;
    let letter = b'a' + scene.rng.below(26) as u8;
    body.extend(std::iter::repeat_n(letter, len));
    body
}
