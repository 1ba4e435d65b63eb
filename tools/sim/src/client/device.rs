//! One device: a visitor's tab, an agent's console, or an auditor that reads everything once more at the end.

use std::collections::BTreeMap;

use ringdesk_protocol::{Availability, ClientMessage, Content, Cursor};

use super::Scene;
use super::thread::Thread;
use crate::oracle::{Asked, Marks};

/// Whose device it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Whose {
    /// A visitor's, by number.
    Visitor(u32),
    /// An agent's, by number.
    Agent(u32),
}

/// What a tag stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Attempt {
    /// OPEN.
    Open,
    /// A repetition of an OPEN that was answered.
    OpenAgain {
        /// The key.
        n: u64,
    },
    /// SEND or RESOLVE from a thread's queue.
    Keyed {
        /// The conversation.
        conversation: u64,
        /// The key.
        n: u64,
        /// What was asked.
        asked: Asked,
    },
    /// A repetition of a key that was acked.
    Again {
        /// The conversation.
        conversation: u64,
        /// The key.
        n: u64,
        /// What was asked.
        asked: Asked,
        /// Whether the body is the acked one.
        same: bool,
    },
    /// RECEIPT.
    Receipt {
        /// The conversation.
        conversation: u64,
        /// What was confirmed.
        marks: Marks,
    },
    /// HISTORY.
    History {
        /// The conversation.
        conversation: u64,
        /// As asked.
        before: u64,
        /// As asked.
        after: u64,
        /// As asked.
        limit: u16,
        /// Highest seq anybody knew of when it was asked.
        highest: u64,
    },
    /// PRESENCE.
    Presence,
    /// PING.
    Ping(u64),
    /// TYPING, which is answered only when refused.
    Typing,
}

/// What an agent last declared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Declared {
    /// Its key.
    pub n: u64,
    /// Availability.
    pub availability: Availability,
    /// Capacity.
    pub capacity: u16,
    /// It was acked.
    pub acked: bool,
    /// Tag it is out under.
    pub tag: Option<u32>,
}

/// One device.
#[derive(Debug)]
pub struct Device {
    /// Its id, unique in a run.
    pub id: u64,
    /// Whose.
    pub whose: Whose,
    /// Its channel on the connection, 0 for the connection's own.
    pub channel: u32,
    /// WELCOME arrived on the present connection.
    pub up: bool,
    /// The server retired this id; it does nothing any more.
    pub dead: bool,
    /// Reads only.
    pub auditor: bool,
    /// Log epoch of the last WELCOME.
    pub epoch: u32,
    /// Conversations it knows.
    pub threads: BTreeMap<u64, Thread>,
    /// The conversation it writes to.
    pub current: Option<u64>,
    /// n of the last OPEN; 0 = none yet.
    pub open_n: u64,
    /// Tag of the OPEN that is out; answered when `open_wanted` is false.
    pub open_tag: Option<u32>,
    /// The last OPEN is not answered yet.
    pub open_wanted: bool,
    /// OPENs repeated since the world healed, from n 1 on.
    pub opens_repeated: u64,
    /// Nothing but what is due anyway before: OPEN or PRESENCE got BUSY.
    pub not_before: u64,
    /// Agents.
    pub declared: Option<Declared>,
    /// Messages it may still write.
    pub budget: u32,
    /// It writes one message even in a healed world.
    pub owes_message: bool,
    /// Requests it keeps in flight at most.
    pub window: usize,
    /// When it acts next.
    pub next_act: u64,
    pub(super) attempts: BTreeMap<u32, Attempt>,
    next_tag: u32,
}

impl Device {
    /// A device that has done nothing yet.
    pub fn new(id: u64, whose: Whose, channel: u32) -> Self {
        Self {
            id,
            whose,
            channel,
            up: false,
            dead: false,
            auditor: false,
            epoch: 0,
            threads: BTreeMap::new(),
            current: None,
            open_n: 0,
            open_tag: None,
            open_wanted: false,
            opens_repeated: 0,
            not_before: 0,
            declared: None,
            budget: 0,
            owes_message: false,
            window: 1,
            next_act: 0,
            attempts: BTreeMap::new(),
            next_tag: 0,
        }
    }

    /// The visitor's number; panics for agents.
    pub fn visitor(&self) -> u32 {
        match self.whose {
            Whose::Visitor(number) => number,
            Whose::Agent(agent) => panic!("agent {agent} is no visitor"),
        }
    }

    /// The agent's number, 0 for visitors.
    pub fn agent(&self) -> u32 {
        match self.whose {
            Whose::Visitor(_) => 0,
            Whose::Agent(agent) => agent,
        }
    }

    /// OPENs that were answered, which are those from n 1 to this.
    pub fn opens_answered(&self) -> u64 {
        self.open_n - u64::from(self.open_wanted)
    }

    /// Cursors for HELLO or BIND.
    pub fn cursors(&self) -> Vec<Cursor> {
        let known = self.threads.iter().filter(|(_, thread)| thread.based);
        known.map(|(id, thread)| Cursor::new(*id, self.epoch, thread.cursor)).collect()
    }

    /// The connection is gone.
    pub fn down(&mut self) {
        self.up = false;
        // Repetitions that were out are asked once more.
        let again = self.attempts.values().filter_map(|attempt| match attempt {
            Attempt::OpenAgain { n } => Some(n - 1),
            _ => None,
        });
        self.opens_repeated = again.min().unwrap_or(u64::MAX).min(self.opens_repeated);
        self.attempts.clear();
        self.open_tag = None;
        if let Some(declared) = &mut self.declared {
            declared.tag = None;
        }
        self.threads.values_mut().for_each(Thread::forget_tags);
    }

    /// What it still waits for; `None` when everything it asked was answered.
    pub fn waits_for(&self) -> Option<String> {
        if self.dead {
            return None;
        }
        if !self.up {
            return Some("a connection".into());
        }
        if self.open_wanted {
            return Some(format!("the answer to OPEN {}", self.open_n));
        }
        if self.opens_repeated < self.opens_answered() && !self.auditor {
            return Some(format!("repetitions of OPEN from {} on", self.opens_repeated + 1));
        }
        if let Some(declared) = self.declared.filter(|declared| !declared.acked) {
            return Some(format!("the answer to {declared:?}"));
        }
        let open = self.attempts.values().find(|attempt| !matches!(attempt, Attempt::Typing));
        if let Some(attempt) = open {
            return Some(format!("the answer to {attempt:?}"));
        }
        self.threads.iter().find_map(|(id, thread)| {
            let waits = !thread.is_settled();
            waits.then(|| {
                format!(
                    "answers in {id:016x}: {} queued, confirmed {:?} of {:?}, owner epoch {:?}",
                    thread.queue.len(),
                    thread.confirmed_acked,
                    thread.confirmed,
                    thread.owner_epoch
                )
            })
        })
    }

    /// A tag for an attempt.
    pub(super) fn tag(&mut self, attempt: Attempt) -> u32 {
        self.next_tag += 1;
        self.attempts.insert(self.next_tag, attempt);
        self.next_tag
    }

    /// Encodes a request on this device's channel.
    pub(super) fn say(&self, message: &ClientMessage<'_>, tag: u32, out: &mut Vec<u8>) {
        message.encode(self.channel, tag, out);
    }

    /// Sends what is queued and not out, in order, as far as the window and BUSY allow.
    pub fn flush(&mut self, scene: &mut Scene<'_>, out: &mut Vec<u8>) {
        if !self.up || self.dead {
            return;
        }
        if self.open_wanted && self.open_tag.is_none() && scene.now >= self.not_before {
            let tag = self.tag(Attempt::Open);
            self.open_tag = Some(tag);
            self.say(&ClientMessage::Open { n: self.open_n, topic: "sim" }, tag, out);
        }
        self.flush_presence(scene, out);
        let ids: Vec<u64> = self.threads.keys().copied().collect();
        for id in ids {
            self.flush_thread(id, scene, out);
        }
    }

    fn flush_presence(&mut self, scene: &Scene<'_>, out: &mut Vec<u8>) {
        let Some(declared) = self.declared else { return };
        if declared.acked || declared.tag.is_some() || scene.now < self.not_before {
            return;
        }
        let Declared { n, availability, capacity, .. } = declared;
        let tag = self.tag(Attempt::Presence);
        self.declared = Some(Declared { tag: Some(tag), ..declared });
        self.say(&ClientMessage::Presence { n, availability, capacity }, tag, out);
    }

    fn flush_thread(&mut self, id: u64, scene: &mut Scene<'_>, out: &mut Vec<u8>) {
        let window = self.window;
        let agent = self.agent() != 0;
        loop {
            let thread = &self.threads[&id];
            if scene.now < thread.not_before {
                break;
            }
            let mut first = thread.queue.iter().take(window);
            let Some(at) = first.position(|pending| pending.tag.is_none()) else { break };
            if agent && thread.owner_epoch.is_none() && !thread.queue[at].sent {
                break;
            }
            let pending = thread.queue[at].clone();
            let owner_epoch = thread.owner_epoch.unwrap_or(0);
            scene.oracle.asks(id, self.id, pending.n, pending.asked);
            let tag = self.tag(Attempt::Keyed { conversation: id, n: pending.n, asked: pending.asked });
            self.say(&keyed(id, pending.n, owner_epoch, pending.asked, &pending.body), tag, out);
            let thread = self.threads.get_mut(&id).expect("it was just there");
            thread.queue[at].tag = Some(tag);
            thread.queue[at].sent = true;
        }
        self.flush_receipt(id, scene, out);
    }

    fn flush_receipt(&mut self, id: u64, scene: &mut Scene<'_>, out: &mut Vec<u8>) {
        let agent = self.agent() != 0;
        let thread = &self.threads[&id];
        let owes = thread.confirmed != thread.confirmed_acked && thread.receipt_tag.is_none();
        if !owes || scene.now < thread.not_before || (agent && thread.owner_epoch.is_none()) {
            return;
        }
        let marks = thread.confirmed;
        scene.oracle.confirms(id, self.side(), marks);
        let tag = self.tag(Attempt::Receipt { conversation: id, marks });
        let message =
            ClientMessage::Receipt { conversation: id, delivered: marks.delivered, read: marks.read };
        self.say(&message, tag, out);
        self.threads.get_mut(&id).expect("it was just there").receipt_tag = Some(tag);
    }
}

/// The request of a key.
pub(super) fn keyed(id: u64, n: u64, owner_epoch: u32, asked: Asked, body: &[u8]) -> ClientMessage<'_> {
    match asked {
        Asked::Body(_) => {
            ClientMessage::Send { conversation: id, n, owner_epoch, content: Content::Text, body }
        }
        Asked::Resolve => ClientMessage::Resolve { conversation: id, n, owner_epoch },
    }
}

/// How the oracle names content and body.
pub fn body_hash(content: Content, body: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64_with_seed(body, u64::from(content.number()))
}
