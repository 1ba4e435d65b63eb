//! What was asked, what was acknowledged, what was seen: one record per conversation, and the checks over it.
//!
//! Order: the fleet writes an [`Entry`] for every SEND, fills in its seq when the ACK arrives, and
//! appends a [`Seen`] for every item pushed to either side. [`check_view`] and [`check_history`] are pure
//! functions over that. Ownership: the ledger lives in this process and never in the server's, so nothing the
//! server forgets can be forgotten here. It is kept in memory: about 40 bytes per message and side.

use std::collections::{BTreeMap, BTreeSet};

/// The two sides of a conversation; also indices of the pairs below.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Side {
    /// The visitor.
    Visitor = 0,
    /// The agent that owns the conversation.
    Agent = 1,
}

impl Side {
    /// Both, visitor first.
    pub const BOTH: [Self; 2] = [Self::Visitor, Self::Agent];

    /// The side that hears what this one says.
    pub fn other(self) -> Self {
        match self {
            Self::Visitor => Self::Agent,
            Self::Agent => Self::Visitor,
        }
    }
}

/// One SEND of one side. Its `n` is its index in [`Conversation::sent`] plus one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    /// xxh3-64 of the body.
    pub hash: u64,
    /// The seq of its ACK, 0 while there is none.
    pub acked: u64,
    /// Intended start, nanoseconds of the run's clock.
    pub intended_ns: u64,
    /// Which sides listen and have not been shown it yet; its author is shown it like the other side.
    pub owed: [bool; 2],
}

/// One item as a side (or a page of history) showed it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Seen {
    /// Place in the conversation.
    pub seq: u64,
    /// The author's device; 0 for a change of state.
    pub device: u64,
    /// The author's device sequence; 0 for a change of state.
    pub n: u64,
    /// xxh3-64 of the body, or of the fields of a change of state.
    pub hash: u64,
}

/// What was pushed to one side, in order of arrival.
#[derive(Clone, Default, Debug)]
pub struct View {
    /// The side joined after this seq: it is owed every item beyond.
    pub base: u64,
    /// Arrivals.
    pub seen: Vec<Seen>,
}

/// The record of one conversation.
#[derive(Clone, Debug)]
pub struct Conversation {
    /// Its id, 0 until OPEN was acknowledged.
    pub id: u64,
    /// The device of each side; the bench uses one per side for life.
    pub devices: [u64; 2],
    /// Messages of each side, in order of `n`.
    pub sent: [Vec<Entry>; 2],
    /// What each side was shown.
    pub views: [View; 2],
}

/// What a check found. All zero is a pass.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Faults {
    /// Items that had to be there and are not.
    pub lost: u64,
    /// Items shown more often than once.
    pub duplicated: u64,
    /// Items out of order: arrivals that go back, or a message at another seq than its ACK named.
    pub reordered: u64,
    /// Items whose author, key or body is not what was sent, and items nobody sent.
    pub altered: u64,
    /// Messages that were never acknowledged.
    pub unacked: u64,
}

impl Faults {
    /// Adds the findings of another check.
    pub fn add(&mut self, other: Self) {
        self.lost += other.lost;
        self.duplicated += other.duplicated;
        self.reordered += other.reordered;
        self.altered += other.altered;
        self.unacked += other.unacked;
    }

    /// What was found beyond an earlier count of the same things.
    pub fn since(&self, before: Self) -> Self {
        Self {
            lost: self.lost.saturating_sub(before.lost),
            duplicated: self.duplicated.saturating_sub(before.duplicated),
            reordered: self.reordered.saturating_sub(before.reordered),
            altered: self.altered.saturating_sub(before.altered),
            unacked: self.unacked.saturating_sub(before.unacked),
        }
    }

    /// Whether anything at all was found.
    pub fn any(&self) -> bool {
        *self != Self::default()
    }
}

impl std::fmt::Display for Faults {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "lost {} duplicated {} reordered {} altered {} unacked {}",
            self.lost, self.duplicated, self.reordered, self.altered, self.unacked
        )
    }
}

impl Conversation {
    /// A conversation not yet opened.
    pub fn new(visitor_device: u64, agent_device: u64) -> Self {
        Self {
            id: 0,
            devices: [visitor_device, agent_device],
            sent: [Vec::new(), Vec::new()],
            views: [View::default(), View::default()],
        }
    }

    /// The entry of a key, when this side made it.
    pub fn entry(&self, side: Side, n: u64) -> Option<&Entry> {
        let index = usize::try_from(n.checked_sub(1)?).ok()?;
        self.sent[side as usize].get(index)
    }

    /// Marks a message of `author` as shown to `viewer`; its intended start when that was owed.
    pub fn shown(&mut self, author: Side, viewer: Side, n: u64) -> Option<u64> {
        let index = usize::try_from(n).ok()?.checked_sub(1)?;
        let entry = self.sent[author as usize].get_mut(index)?;
        std::mem::take(&mut entry.owed[viewer as usize]).then_some(entry.intended_ns)
    }

    /// The side whose device this is.
    pub fn side_of(&self, device: u64) -> Option<Side> {
        Side::BOTH.into_iter().find(|side| self.devices[*side as usize] == device)
    }

    /// Records an ACK. Returns the entry's intended start when this is its first ACK, `None` for a repeat.
    ///
    /// # Errors
    /// An ACK for a key nobody used, or a second ACK with another seq: a broken promise (C4).
    pub fn acked(&mut self, side: Side, n: u64, seq: u64) -> Result<Option<u64>, &'static str> {
        let index = usize::try_from(n).ok().and_then(|n| n.checked_sub(1));
        let Some(entry) = index.and_then(|i| self.sent[side as usize].get_mut(i)) else {
            return Err("an ACK named a key that was never sent");
        };
        if seq == 0 {
            return Err("an ACK of a message named seq 0");
        }
        if entry.acked == 0 {
            entry.acked = seq;
            return Ok(Some(entry.intended_ns));
        }
        if entry.acked == seq { Ok(None) } else { Err("two ACKs of one key named two seqs") }
    }

    /// How many messages of both sides still wait for their ACK.
    pub fn unacked(&self) -> u64 {
        self.sent.iter().flatten().filter(|entry| entry.acked == 0).count() as u64
    }

    /// The highest seq anybody has been told of.
    pub fn top(&self) -> u64 {
        let acked = self.sent.iter().flatten().map(|entry| entry.acked);
        let seen = self.views.iter().flat_map(|view| &view.seen).map(|item| item.seq);
        acked.chain(seen).max().unwrap_or(0)
    }

    /// Whether an item is what its key was sent with. `None` when it is a message nobody sent.
    fn matches(&self, item: &Seen) -> Option<bool> {
        if item.device == 0 {
            return Some(true);
        }
        let entry = self.entry(self.side_of(item.device)?, item.n)?;
        Some(entry.hash == item.hash)
    }
}

/// Checks what one side was shown live: everything beyond its base exactly once, in order, unaltered.
///
/// Its own messages are items like any other: the server pushes every item to everybody who listens.
pub fn check_view(conversation: &Conversation, side: Side) -> Faults {
    let view = &conversation.views[side as usize];
    let mut faults = Faults { unacked: 0, ..Faults::default() };
    let mut known: BTreeMap<u64, Seen> = BTreeMap::new();
    let mut highest = 0;
    for item in &view.seen {
        if known.insert(item.seq, *item).is_some() {
            faults.duplicated += 1;
            continue;
        }
        faults.reordered += u64::from(item.seq < highest);
        highest = highest.max(item.seq);
        faults.altered += u64::from(conversation.matches(item) != Some(true));
    }
    for author in Side::BOTH {
        for (index, entry) in conversation.sent[author as usize].iter().enumerate() {
            if entry.acked <= view.base {
                continue;
            }
            // A hole at that seq is counted as lost below; here another item stands in its place.
            if let Some(item) = known.get(&entry.acked) {
                faults.reordered += u64::from(!has_key(conversation, author, index, item));
            }
        }
    }
    faults.duplicated += keys_twice(known.values());
    faults.lost += holes(known.keys().copied(), view.base, conversation.top());
    faults
}

/// Checks a whole history (oldest first, from seq 1) against the ledger: every acknowledged message at the seq of
/// its ACK exactly once, dense, every message one that was sent, and everything seen live still there, the same.
pub fn check_history(conversation: &Conversation, history: &[Seen]) -> Faults {
    let mut faults = Faults::default();
    let mut known: BTreeMap<u64, Seen> = BTreeMap::new();
    let mut highest = 0;
    for item in history {
        if known.insert(item.seq, *item).is_some() {
            faults.duplicated += 1;
            continue;
        }
        faults.reordered += u64::from(item.seq < highest);
        highest = highest.max(item.seq);
        faults.altered += u64::from(conversation.matches(item) != Some(true));
    }
    faults.duplicated += keys_twice(known.values());
    faults.lost += holes(known.keys().copied(), 0, conversation.top());
    let at: BTreeMap<(u64, u64), u64> =
        known.values().filter(|i| i.device != 0).map(|i| ((i.device, i.n), i.seq)).collect();
    for author in Side::BOTH {
        let device = conversation.devices[author as usize];
        let mut before = 0;
        for (index, entry) in conversation.sent[author as usize].iter().enumerate() {
            if entry.acked == 0 {
                faults.unacked += 1;
                continue;
            }
            // A hole at the seq was counted as lost above; here it is another item's place that is wrong.
            if let Some(item) = known.get(&entry.acked) {
                let fits = has_key(conversation, author, index, item);
                let elsewhere = at.contains_key(&(device, index as u64 + 1));
                faults.reordered += u64::from(!fits && elsewhere);
                faults.lost += u64::from(!fits && !elsewhere);
            }
            faults.reordered += u64::from(entry.acked < before);
            before = entry.acked;
        }
    }
    for view in &conversation.views {
        let differs = |item: &&Seen| known.get(&item.seq).is_some_and(|kept| kept != *item);
        faults.altered += view.seen.iter().filter(differs).count() as u64;
    }
    faults
}

/// Whether `item` carries the key of `author`'s message number `index + 1`.
fn has_key(conversation: &Conversation, author: Side, index: usize, item: &Seen) -> bool {
    item.device == conversation.devices[author as usize] && item.n == index as u64 + 1
}

/// The seqs one side should have been shown and was not, at most `most` of them: for the words of a report.
pub fn missing(conversation: &Conversation, side: Side, most: usize) -> Vec<u64> {
    let view = &conversation.views[side as usize];
    let known: BTreeSet<u64> = view.seen.iter().map(|item| item.seq).collect();
    (view.base + 1..=conversation.top()).filter(|seq| !known.contains(seq)).take(most).collect()
}

/// Messages whose key stands at more than one seq.
fn keys_twice<'a>(items: impl Iterator<Item = &'a Seen>) -> u64 {
    let mut keys = BTreeSet::new();
    items.filter(|i| i.device != 0).filter(|i| !keys.insert((i.device, i.n))).count() as u64
}

/// Seqs in `base + 1 ..= top` that are not in the ascending `known`.
fn holes(known: impl Iterator<Item = u64>, base: u64, top: u64) -> u64 {
    let present = known.filter(|seq| *seq > base && *seq <= top).count() as u64;
    top.saturating_sub(base) - present
}

#[cfg(test)]
#[path = "ledger_tests.rs"]
mod tests;
