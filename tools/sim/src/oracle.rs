//! The oracle: what the contract promises (C1 to C7, and of C8 what a slow consumer costs), checked against everything
//! any client ever saw.
//!
//! It knows nothing of the engine. Clients tell it what they asked for and what they saw; it keeps one small model
//! for all of them, across every crash. Because nothing it was told is ever forgotten, a fact that does not survive
//! a crash contradicts what comes after: the same seq with another item, an ACK that is taken back, an n that is
//! expected again. What is lost without a successor is found by the audit at the end, in which new devices read
//! every conversation from the start.
//!
//! A broken promise is a panic that starts with the number of the promise.

use std::collections::{BTreeMap, BTreeSet};

use ringdesk_protocol::{Author, Cause, Side, Status};

/// One item of a conversation, as a client saw it. The body is kept as its xxh3-64.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Item {
    /// DELIVER.
    Message {
        /// Who wrote.
        author: Author,
        /// Which agent, 0 for none.
        agent: u32,
        /// The writing device.
        device: u64,
        /// Its n.
        n: u64,
        /// Content and body.
        body: u64,
        /// The stamp.
        at: u64,
    },
    /// STATE.
    State {
        /// The new status.
        status: Status,
        /// Why.
        cause: Cause,
        /// By whom.
        by: Author,
        /// The agent concerned.
        agent: u32,
        /// The epoch after the change.
        epoch: u32,
        /// The stamp.
        at: u64,
    },
}

/// What a client asked under one key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Asked {
    /// SEND, by the hash of content and body.
    Body(u64),
    /// RESOLVE.
    Resolve,
}

/// How far one side has stored and read.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Marks {
    /// Highest seq stored.
    pub delivered: u64,
    /// Highest seq read.
    pub read: u64,
}

impl Marks {
    /// Takes over what is higher.
    pub fn raise(&mut self, other: Self) {
        self.delivered = self.delivered.max(other.delivered);
        self.read = self.read.max(other.read);
    }

    fn covers(self, other: Self) -> bool {
        self.delivered >= other.delivered && self.read >= other.read
    }
}

/// Where the total order stands after the items walked so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Walk {
    seq: u64,
    status: Status,
    owner: u32,
    epoch: u32,
    /// The visitor's message must be followed by the change it causes.
    must_queue: Option<Cause>,
}

/// One conversation.
#[derive(Debug)]
pub struct Conversation {
    /// Its visitor.
    pub visitor: u32,
    items: BTreeMap<u64, Item>,
    /// Where each key was recorded.
    keys: BTreeMap<(u64, u64), u64>,
    /// Everything asked under each key.
    asked: BTreeMap<(u64, u64), BTreeSet<Asked>>,
    acked: BTreeMap<(u64, u64), (u64, Asked)>,
    /// Highest seq anybody saw or was acked.
    highest: u64,
    confirmed: [Marks; 2],
    seen: [Marks; 2],
    epochs: BTreeMap<u32, u32>,
    walk: Walk,
    last_n: BTreeMap<u64, u64>,
}

/// What one connection may cost, bytes unless said otherwise.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bounds {
    /// The cap of what is pushed.
    pub cap: usize,
    /// Answers to what the client itself asked.
    pub answers: usize,
    /// Pages of the log that were asked for before the cap was reached.
    pub pages: usize,
    /// Conversations there may be: as many subscriptions may wait beside one.
    pub conversations: u64,
}

/// The model.
#[derive(Default, Debug)]
pub struct Oracle {
    conversations: BTreeMap<u64, Conversation>,
    opens: BTreeMap<(u32, u64, u64), u64>,
    /// Facts told, so that an empty run is noticed.
    pub facts: u64,
}

fn side_index(side: Side) -> usize {
    usize::from(side == Side::Staff)
}

impl Oracle {
    fn known(&mut self, conversation: u64) -> &mut Conversation {
        self.facts += 1;
        self.conversations.get_mut(&conversation).unwrap_or_else(|| {
            panic!("C10: something was shown of conversation {conversation:016x}, which nobody opened")
        })
    }

    /// OPEN was answered.
    pub fn opened(&mut self, visitor: u32, device: u64, n: u64, conversation: u64, seq: u64) {
        self.facts += 1;
        let known = *self.opens.entry((visitor, device, n)).or_insert(conversation);
        assert!(
            known == conversation,
            "C4: OPEN {n} of device {device:x} was {known:016x} and is now {conversation:016x}"
        );
        let entry = self.conversations.entry(conversation).or_insert_with(|| Conversation::new(visitor));
        assert!(
            entry.visitor == visitor,
            "C10: conversation {conversation:016x} is visitor {} and {visitor}'s",
            entry.visitor
        );
        entry.highest = entry.highest.max(seq);
    }

    /// An OPEN that was answered was repeated, however long after: it names the same conversation.
    pub fn opened_again(&mut self, visitor: u32, device: u64, n: u64, conversation: u64, seq: u64) {
        let known = self.opens.contains_key(&(visitor, device, n));
        assert!(known, "C4: OPEN {n} of device {device:x} is a duplicate, but was never answered");
        self.opened(visitor, device, n, conversation, seq);
    }

    /// A client asks under a key. Told before the bytes leave.
    pub fn asks(&mut self, conversation: u64, device: u64, n: u64, what: Asked) {
        self.known(conversation).asked.entry((device, n)).or_default().insert(what);
    }

    /// A request under a key was acked.
    pub fn acked(&mut self, conversation: u64, device: u64, n: u64, seq: u64, what: Asked) {
        let known = self.known(conversation);
        assert!(seq > 0, "C1: ACK of device {device:x} n {n} without a seq");
        match known.acked.get(&(device, n)) {
            Some(before) => assert!(
                *before == (seq, what),
                "C4: {conversation:016x} device {device:x} n {n} was acked as {before:?}, now as {:?}",
                (seq, what)
            ),
            None => drop(known.acked.insert((device, n), (seq, what))),
        }
        known.highest = known.highest.max(seq);
        known.place(conversation, device, n, seq);
        if let Some(item) = known.items.get(&seq) {
            known.check_key(conversation, seq, *item);
        }
    }

    /// A client was told ID_REUSED: another body must be recorded, or at least possible, under that key.
    pub fn id_reused(&mut self, conversation: u64, device: u64, n: u64, what: Asked) {
        let known = self.known(conversation);
        let acked = known.acked.get(&(device, n)).map(|(_, asked)| *asked);
        let others =
            known.asked.get(&(device, n)).is_some_and(|asked| asked.iter().any(|other| *other != what));
        assert!(
            acked != Some(what) && others,
            "C4: {conversation:016x} device {device:x} n {n}: ID_REUSED for the body that was recorded"
        );
    }

    /// A client was told which n is expected: nothing acked may lie at or above it.
    pub fn expected(&mut self, conversation: u64, device: u64, n: u64) {
        let known = self.known(conversation);
        let acked = known.acked.range((device, n)..=(device, u64::MAX)).next();
        assert!(
            acked.is_none(),
            "C4: {conversation:016x} device {device:x}: n {n} is expected, but {acked:?} was acked"
        );
    }

    /// A client saw an item.
    pub fn item(&mut self, observer: u64, conversation: u64, seq: u64, item: Item) {
        let known = self.known(conversation);
        assert!(seq > 0, "C3: {conversation:016x} has an item 0");
        if let Some(before) = known.items.get(&seq) {
            assert!(
                *before == item,
                "C3: {conversation:016x} item {seq} was {before:?}; device {observer:x} sees {item:?}"
            );
            return;
        }
        known.items.insert(seq, item);
        known.highest = known.highest.max(seq);
        if let Item::Message { device, n, .. } = item {
            known.place(conversation, device, n, seq);
        }
        known.check_key(conversation, seq, item);
        known.walk_on(conversation);
    }

    /// A device of a side confirms. Told before the bytes leave.
    pub fn confirms(&mut self, conversation: u64, side: Side, marks: Marks) {
        self.known(conversation).confirmed[side_index(side)].raise(marks);
    }

    /// A client saw receipts.
    pub fn receipt(&mut self, observer: u64, conversation: u64, side: Side, marks: Marks) {
        let known = self.known(conversation);
        let confirmed = known.confirmed[side_index(side)];
        assert!(
            marks.read <= marks.delivered,
            "C6: {conversation:016x} {side:?}: read {} beyond delivered {}",
            marks.read,
            marks.delivered
        );
        // A read implies delivered.
        let most = Marks { delivered: confirmed.delivered.max(confirmed.read), read: confirmed.read };
        assert!(
            most.covers(marks),
            "C6: {conversation:016x} {side:?}: device {observer:x} sees {marks:?}, confirmed was {most:?}"
        );
        known.seen[side_index(side)].raise(marks);
    }

    /// An agent was told that a conversation is its own.
    pub fn assigned(&mut self, conversation: u64, agent: u32, epoch: u32) {
        let known = self.known(conversation);
        let owner = *known.epochs.entry(epoch).or_insert(agent);
        assert!(
            owner == agent,
            "C7: {conversation:016x} epoch {epoch} belongs to agents {owner} and {agent}"
        );
    }

    /// A shard tells the most that ever waited for one connection, right after a push and at all, and the most turns that
    /// others had while one subscription waited.
    pub fn bounds(&self, pushed: usize, backlog: usize, turns: u64, bounds: Bounds) {
        assert!(pushed <= bounds.cap, "C8: an item was pushed although {pushed} bytes wait then: {bounds:?}");
        assert!(
            backlog <= bounds.cap + bounds.answers + bounds.pages,
            "C8: {backlog} bytes wait for one connection: {bounds:?}"
        );
        assert!(
            turns <= bounds.conversations,
            "C8: a subscription waited for {turns} turns of others: {bounds:?}"
        );
    }

    /// Receipts anybody saw so far.
    pub fn seen_marks(&self, conversation: u64, side: Side) -> Marks {
        self.conversations[&conversation].seen[side_index(side)]
    }

    /// Whether receipts shown earlier still stand, as the final audit reads them.
    pub fn audit_marks(&mut self, conversation: u64, side: Side, marks: Marks) {
        let seen = self.known(conversation).seen[side_index(side)];
        assert!(
            marks.covers(seen),
            "C6: {conversation:016x} {side:?}: {seen:?} was shown, the log has {marks:?}"
        );
    }

    /// Every conversation, in order of id.
    pub fn conversations(&self) -> impl Iterator<Item = (u64, &Conversation)> {
        self.conversations.iter().map(|(id, known)| (*id, known))
    }

    /// One conversation, which exists.
    pub fn conversation(&self, id: u64) -> &Conversation {
        &self.conversations[&id]
    }

    /// The end of a run: every conversation was read from the start by somebody new.
    pub fn close(&self) {
        self.conversations.iter().for_each(|(id, known)| known.close(*id));
    }
}

impl Conversation {
    fn new(visitor: u32) -> Self {
        let walk = Walk { seq: 0, status: Status::Open, owner: 0, epoch: 0, must_queue: None };
        Self {
            visitor,
            items: BTreeMap::new(),
            keys: BTreeMap::new(),
            asked: BTreeMap::new(),
            acked: BTreeMap::new(),
            highest: 0,
            confirmed: [Marks::default(); 2],
            seen: [Marks::default(); 2],
            epochs: BTreeMap::new(),
            walk,
            last_n: BTreeMap::new(),
        }
    }

    /// Highest seq anybody saw or was acked.
    pub fn highest(&self) -> u64 {
        self.highest
    }

    /// Status and owner after all items walked without a gap.
    pub fn standing(&self) -> (Status, u32) {
        (self.walk.status, self.walk.owner)
    }

    /// Items known without a gap from 1.
    pub fn walked(&self) -> u64 {
        self.walk.seq
    }

    /// A key is recorded at one seq, and a seq holds one key.
    fn place(&mut self, id: u64, device: u64, n: u64, seq: u64) {
        let before = *self.keys.entry((device, n)).or_insert(seq);
        assert!(before == seq, "C4: {id:016x} device {device:x} n {n} is recorded at {before} and at {seq}");
    }

    /// The item at `seq` is what was asked, and what was acked there.
    fn check_key(&self, id: u64, seq: u64, item: Item) {
        let acked = self.acked.iter().find(|(_, (at, _))| *at == seq);
        match item {
            Item::Message { device, n, body, .. } => {
                let asked = self.asked.get(&(device, n));
                assert!(
                    asked.is_some_and(|asked| asked.contains(&Asked::Body(body))),
                    "C3: {id:016x} item {seq}: device {device:x} never sent this under n {n}"
                );
                if let Some((key, (_, what))) = acked {
                    assert!(
                        *key == (device, n) && *what == Asked::Body(body),
                        "C1: {id:016x} item {seq} is device {device:x} n {n}, but {key:?} was acked there"
                    );
                }
            }
            Item::State { status, .. } => {
                if let Some((key, (_, what))) = acked {
                    assert!(
                        *what == Asked::Resolve && status == Status::Resolved,
                        "C1: {id:016x} item {seq} is a change to {status:?}, but {key:?} was acked there as {what:?}"
                    );
                }
            }
        }
    }

    /// Walks the total order on as far as it is known without a gap.
    fn walk_on(&mut self, id: u64) {
        while let Some(item) = self.items.get(&(self.walk.seq + 1)).copied() {
            let seq = self.walk.seq + 1;
            match item {
                Item::Message { author, agent, device, n, .. } => {
                    self.walk_message(id, seq, author, agent);
                    self.walk_key(id, seq, device, n);
                }
                Item::State { status, cause, agent, epoch, .. } => {
                    self.walk_state(id, seq, status, cause, agent, epoch);
                }
            }
            self.walk.seq = seq;
        }
    }

    fn walk_message(&mut self, id: u64, seq: u64, author: Author, agent: u32) {
        let walk = &mut self.walk;
        let pending = walk.must_queue.take();
        assert!(pending.is_none(), "C3: {id:016x} item {seq}: a change ({pending:?}) had to come first");
        match author {
            Author::Visitor => {
                walk.must_queue = match walk.status {
                    Status::Open => Some(Cause::FirstMessage),
                    Status::Resolved => Some(Cause::Reopened),
                    Status::Queued | Status::Assigned => None,
                };
            }
            Author::Agent => assert!(
                walk.status == Status::Assigned && walk.owner == agent,
                "C7: {id:016x} item {seq} is by agent {agent}; the conversation is {walk:?}"
            ),
            Author::System => panic!("C3: {id:016x} item {seq}: the system writes no messages"),
        }
    }

    /// Per device the order of n is the order of seq; a skipped n must have been a RESOLVE.
    fn walk_key(&mut self, id: u64, seq: u64, device: u64, n: u64) {
        let last = self.last_n.insert(device, n).unwrap_or(0);
        assert!(n > last, "C3: {id:016x} item {seq}: device {device:x} n {n} after n {last}");
        for skipped in last + 1..n {
            let resolve =
                self.asked.get(&(device, skipped)).is_some_and(|asked| asked.contains(&Asked::Resolve));
            assert!(resolve, "C4: {id:016x} item {seq}: device {device:x} n {n} follows n {last}");
        }
    }

    fn walk_state(&mut self, id: u64, seq: u64, status: Status, cause: Cause, agent: u32, epoch: u32) {
        let walk = self.walk;
        let legal = match (cause, status) {
            (Cause::FirstMessage | Cause::Reopened, Status::Queued) => walk.must_queue == Some(cause),
            (Cause::Assigned, Status::Assigned) => {
                walk.must_queue.is_none() && walk.status == Status::Queued && epoch > walk.epoch && agent != 0
            }
            (Cause::AgentLost, Status::Queued) => {
                walk.must_queue.is_none() && walk.status == Status::Assigned && agent == walk.owner
            }
            (Cause::Resolved, Status::Resolved) => {
                let resolver = agent == 0 || agent == walk.owner;
                walk.must_queue.is_none() && walk.status != Status::Resolved && resolver
            }
            _ => false,
        };
        assert!(
            legal,
            "C7: {id:016x} item {seq}: {cause:?} to {status:?} (agent {agent}, epoch {epoch}) from {walk:?}"
        );
        assert!(epoch >= walk.epoch, "C7: {id:016x} item {seq}: epoch {epoch} after {}", walk.epoch);
        let owner = if status == Status::Assigned { agent } else { 0 };
        if status == Status::Assigned {
            let told = *self.epochs.entry(epoch).or_insert(agent);
            assert!(told == agent, "C7: {id:016x} epoch {epoch} belongs to agents {told} and {agent}");
        }
        self.walk = Walk { seq, status, owner, epoch, must_queue: None };
    }

    fn close(&self, id: u64) {
        assert!(
            self.walk.seq == self.highest && self.items.len() as u64 == self.highest,
            "C1: {id:016x}: seq {} was seen or acked, but only 1 to {} can be read",
            self.highest,
            self.walk.seq
        );
        assert!(self.walk.must_queue.is_none(), "C3: {id:016x} ends before {:?}", self.walk.must_queue);
        for (key, (seq, what)) in &self.acked {
            let item = self.items.get(seq);
            let kept = match (item, what) {
                (Some(Item::Message { device, n, body, .. }), Asked::Body(sent)) => {
                    (*device, *n) == *key && body == sent
                }
                (Some(Item::State { status, .. }), Asked::Resolve) => *status == Status::Resolved,
                _ => false,
            };
            assert!(kept, "C1: {id:016x}: {key:?} was acked at {seq} as {what:?}, there is {item:?}");
        }
    }
}

#[cfg(test)]
mod tests;
