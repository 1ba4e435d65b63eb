//! Where the items of each conversation lie in the log, and which sessions listen to it. Owner side.
//!
//! Only durable items are here: the gate appends an item's position when it releases it, so "in the index" and
//! "may be seen" are the same thing. Conversations go by their place in the desk. Memory: 32 bytes per conversation, which hold one visitor's session and the items of one
//! record; beyond that 12 bytes per item, and half as much room. The log issue moves it to disk.

use ringdesk_desk::ids::AgentId;
use ringdesk_persist::{Position, RecordRef};

use crate::chunks::Chunks;
use crate::message::SessionRef;

/// Sessions that may listen to one conversation at once. Full: the subscription is refused with BUSY.
pub const SUBSCRIBERS_MAX: usize = 256;

/// One session that is pushed the items of a conversation from now on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Subscriber {
    /// The session.
    pub session: SessionRef,
    /// The agent's number for staff sessions, 0 for visitors.
    agent: u32,
}

impl Subscriber {
    /// A session of an agent, or of a visitor.
    pub fn new(session: SessionRef, agent: Option<AgentId>) -> Self {
        Self { session, agent: agent.map_or(0, |agent| agent.0) }
    }

    /// The agent, for staff sessions.
    pub fn agent(&self) -> Option<AgentId> {
        (self.agent != 0).then_some(AgentId(self.agent))
    }
}

/// A `RecordRef` in 12 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Packed {
    position: [u32; 2],
    len: u32,
}

impl Packed {
    fn new(record: RecordRef) -> Self {
        let position = record.position.to_bits();
        Self { position: [position as u32, (position >> 32) as u32], len: record.len }
    }

    fn record(self) -> RecordRef {
        let [low, high] = self.position;
        let position = Position::from_bits(u64::from(high) << 32 | u64::from(low));
        RecordRef { position, len: self.len }
    }
}

/// Position of item `seq` at `seq - 1`. A conversation with one message has its items in one record, which takes no
/// allocation.
#[derive(Clone, Default, Debug)]
enum Items {
    #[default]
    None,
    /// The first `count` items lie in one record.
    Run { record: Packed, count: u16 },
    #[allow(clippy::box_collection, reason = "8 bytes instead of 24 in every conversation")]
    Many(Box<Vec<Packed>>),
}

impl Items {
    fn len(&self) -> usize {
        match self {
            Self::None => 0,
            Self::Run { count, .. } => usize::from(*count),
            Self::Many(items) => items.len(),
        }
    }

    fn get(&self, at: usize) -> Packed {
        match self {
            Self::Run { record, count } if at < usize::from(*count) => *record,
            Self::Many(items) => items[at],
            _ => panic!("item {at} of {}", self.len()),
        }
    }

    fn push(&mut self, record: Packed) {
        match self {
            Self::None => *self = Self::Run { record, count: 1 },
            Self::Run { record: first, count } if *first == record && *count < u16::MAX => *count += 1,
            Self::Run { record: first, count } => {
                let mut items = vec![*first; usize::from(*count)];
                items.push(record);
                *self = Self::Many(Box::new(items));
            }
            Self::Many(items) => {
                if items.len() == items.capacity() {
                    items.reserve_exact(1 + items.len() / 2);
                }
                items.push(record);
            }
        }
    }
}

/// Who listens, in order of subscription. One session of a visitor, which most conversations have, takes no allocation.
#[derive(Clone, Default, Debug)]
enum Subscribers {
    #[default]
    None,
    /// A [`SessionRef`] of a visitor, in its own fields: they fit around the variant's number.
    Visitor { shard: u16, index: u32, generation: u32, channel: u32 },
    #[allow(clippy::box_collection, reason = "8 bytes instead of 24 in every conversation")]
    Many(Box<Vec<Subscriber>>),
}

impl Subscribers {
    fn of(listeners: Vec<Subscriber>) -> Self {
        match listeners[..] {
            [] => Self::None,
            [Subscriber { session: SessionRef { shard, index, generation, channel }, agent: 0 }] => {
                Self::Visitor { shard, index, generation, channel }
            }
            _ => Self::Many(Box::new(listeners)),
        }
    }

    fn iter(&self) -> impl Iterator<Item = Subscriber> {
        let (visitor, many) = match self {
            Self::None => (None, None),
            Self::Visitor { shard, index, generation, channel } => {
                let (shard, index, generation, channel) = (*shard, *index, *generation, *channel);
                let session = SessionRef { shard, index, generation, channel };
                (Some(Subscriber { session, agent: 0 }), None)
            }
            Self::Many(many) => (None, Some(many.iter().copied())),
        };
        visitor.into_iter().chain(many.into_iter().flatten())
    }
}

/// What the shard knows of one conversation beside the desk.
#[derive(Clone, Debug)]
pub struct Entry {
    items: Items,
    subscribers: Subscribers,
}

impl Entry {
    const NONE: Self = Self { items: Items::None, subscribers: Subscribers::None };

    /// Highest durable seq.
    pub fn durable_seq(&self) -> u64 {
        self.items.len() as u64
    }

    /// Position of item `seq`, within `1..=durable_seq`.
    pub fn record(&self, seq: u64) -> RecordRef {
        assert!((1..=self.durable_seq()).contains(&seq), "item {seq} of {}", self.durable_seq());
        self.items.get((seq - 1) as usize).record()
    }

    /// Who listens, in order of subscription.
    pub fn subscribers(&self) -> impl Iterator<Item = Subscriber> {
        self.subscribers.iter()
    }

    fn subscribe(&mut self, subscriber: Subscriber) -> bool {
        if let Subscribers::Many(many) = &mut self.subscribers {
            match many.iter().position(|known| known.session == subscriber.session) {
                Some(known) => many[known] = subscriber,
                None if many.len() >= SUBSCRIBERS_MAX => return false,
                None => many.push(subscriber),
            }
            return true;
        }
        let others = self.subscribers.iter().filter(|known| known.session != subscriber.session);
        self.subscribers = Subscribers::of(others.chain([subscriber]).collect());
        true
    }

    fn unsubscribe(&mut self, session: SessionRef) {
        match &mut self.subscribers {
            Subscribers::None => {}
            Subscribers::Many(many) => {
                many.retain(|known| known.session != session);
                if many.len() < 2 {
                    self.subscribers = Subscribers::of(std::mem::take(many));
                }
            }
            visitor => {
                if visitor.iter().any(|known| known.session == session) {
                    self.subscribers = Subscribers::None;
                }
            }
        }
    }
}

/// All conversations of the shard.
#[derive(Debug)]
pub struct Index {
    /// By place, see [`ringdesk_desk::desk::Desk::place`].
    entries: Chunks<Entry>,
}

impl Index {
    /// No items and no listeners.
    pub const fn new() -> Self {
        Self { entries: Chunks::new(Entry::NONE) }
    }

    /// The entry of the conversation at a place, if it may have durable items or listeners.
    pub fn get(&self, place: u32) -> Option<&Entry> {
        self.entries.get(place as usize)
    }

    /// The entry of the conversation at a place, made if missing.
    fn entry(&mut self, place: u32) -> &mut Entry {
        self.entries.reach(place as usize);
        &mut self.entries[place as usize]
    }

    /// Appends the position of item `seq`, which must be the next.
    pub fn append(&mut self, place: u32, seq: u64, record: RecordRef) {
        let entry = self.entry(place);
        let last = entry.durable_seq();
        assert!(seq == last + 1, "conversation at place {place}: item {seq} follows {last}");
        entry.items.push(Packed::new(record));
    }

    /// Adds or renews a listener. `false` when there is no room.
    pub fn subscribe(&mut self, place: u32, subscriber: Subscriber) -> bool {
        self.entry(place).subscribe(subscriber)
    }

    /// Removes a listener.
    pub fn unsubscribe(&mut self, place: u32, session: SessionRef) {
        if let Some(entry) = self.entries.get_mut(place as usize) {
            entry.unsubscribe(session);
        }
    }
}

#[cfg(test)]
mod tests {
    use ringdesk_persist::LogId;

    use super::*;

    fn record(offset: u32) -> RecordRef {
        RecordRef { position: Position::new(LogId(0), 1, offset), len: 64 }
    }

    #[test]
    fn a_place_that_nobody_reached_has_no_entry() {
        let mut index = Index::new();
        index.append(0, 1, record(512));
        index.unsubscribe(100_000, SessionRef { shard: 0, index: 1, generation: 1, channel: 0 });
        assert!(index.get(100_000).is_none());
    }

    #[test]
    fn an_entry_is_small() {
        assert_eq!(size_of::<Packed>(), 12);
        assert_eq!(size_of::<Entry>(), 32);
    }

    #[test]
    fn items_are_dense() {
        let mut index = Index::new();
        let id = 3;
        index.append(id, 1, record(512));
        index.append(id, 2, record(1024));
        assert_eq!(index.get(id).map(Entry::durable_seq), Some(2));
        let many: Vec<RecordRef> = (1..=40).map(|at| record(512 * at.max(3))).collect();
        let other = 5_000;
        for (seq, record) in (1..).zip(&many) {
            index.append(other, seq, *record);
            let entry = index.get(other).unwrap();
            let found: Vec<RecordRef> = (1..=seq).map(|seq| entry.record(seq)).collect();
            assert_eq!(found, many[..seq as usize]);
        }
        assert_eq!(index.get(2).map(Entry::durable_seq), Some(0));
    }

    #[test]
    fn a_record_of_very_many_items_is_a_list_at_last() {
        let mut index = Index::new();
        let (id, last) = (3, u64::from(u16::MAX) + 2);
        (1..=last).for_each(|seq| index.append(id, seq, record(512)));
        let entry = index.get(id).unwrap();
        assert_eq!(
            (entry.durable_seq(), entry.record(1), entry.record(last)),
            (last, record(512), record(512))
        );
    }

    #[test]
    #[should_panic(expected = "item 3 follows 1")]
    fn a_hole_is_a_broken_invariant() {
        let mut index = Index::new();
        let id = 3;
        index.append(id, 1, record(512));
        index.append(id, 3, record(1024));
    }

    #[test]
    fn a_session_listens_once() {
        let mut index = Index::new();
        let id = 3;
        let session = |index| SessionRef { shard: 0, index, generation: 1, channel: 0 };
        let listening = |index: &Index| -> Vec<u32> {
            let listeners = index.get(id).into_iter().flat_map(Entry::subscribers);
            listeners.map(|listener| listener.session.index).collect()
        };
        for entry in [4, 4, 5, 4, 6] {
            assert!(index.subscribe(id, Subscriber::new(session(entry), None)));
        }
        assert_eq!(listening(&index), [4, 5, 6]);
        for (entry, left) in [(5, vec![4, 6]), (5, vec![4, 6]), (4, vec![6]), (4, vec![6]), (6, vec![])] {
            index.unsubscribe(id, session(entry));
            assert_eq!(listening(&index), left);
        }
        for entry in 0..SUBSCRIBERS_MAX as u32 {
            assert!(index.subscribe(id, Subscriber::new(session(entry), Some(AgentId(7)))));
        }
        assert!(!index.subscribe(id, Subscriber::new(session(1_000), None)), "no room");
        assert!(index.subscribe(id, Subscriber::new(session(3), None)), "a known one is renewed");
        let agents: Vec<_> = index.get(id).unwrap().subscribers().map(|listener| listener.agent()).collect();
        assert_eq!((agents.len(), agents[3], agents[4]), (SUBSCRIBERS_MAX, None, Some(AgentId(7))));
        // One agent alone, then the same session as a visitor's, then nobody.
        (1..SUBSCRIBERS_MAX as u32).for_each(|entry| index.unsubscribe(id, session(entry)));
        for agent in [Some(AgentId(7)), None] {
            assert!(index.subscribe(id, Subscriber::new(session(0), agent)));
            let left: Vec<_> =
                index.get(id).unwrap().subscribers().map(|listener| listener.agent()).collect();
            assert_eq!(left, [agent]);
        }
        index.unsubscribe(id, session(0));
        assert_eq!(index.get(id).unwrap().subscribers().count(), 0);
    }
}
