//! Where the items of each conversation lie in the log, and which sessions listen to it. Owner side.
//!
//! Only durable items are here: the gate appends an item's position when it releases it, so "in the index" and
//! "may be seen" are the same thing. Memory: 12 to 16 bytes per item; the log issue moves it to disk.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use ringdesk_desk::ids::{AgentId, ConversationId};
use ringdesk_persist::RecordRef;

use crate::message::SessionRef;

/// Sessions that may listen to one conversation at once. Full: the subscription is refused with BUSY.
pub const SUBSCRIBERS_MAX: usize = 256;

/// Hash of an id: the finalizer of splitmix64 (Stafford's mix 13), so that every bit of the id reaches the low bits
/// that choose a bucket and the high bits that tag it. One multiplication is not enough: ids hold the slot above and a
/// small number below, and thousands of them met in one bucket. The maps that use it are never iterated.
#[derive(Default)]
pub struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(u64::from(byte));
        }
    }

    fn write_u64(&mut self, value: u64) {
        let mut mixed = self.0 ^ value;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        self.0 = mixed ^ (mixed >> 31);
    }

    fn write_u32(&mut self, value: u32) {
        self.write_u64(u64::from(value));
    }
}

/// One session that is pushed the items of a conversation from now on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Subscriber {
    /// The session.
    pub session: SessionRef,
    /// The agent, for staff sessions.
    pub agent: Option<AgentId>,
}

/// What the shard knows of one conversation beside the desk.
#[derive(Default, Debug)]
pub struct Entry {
    /// Position of item `seq` at `seq - 1`. Its length is the highest durable seq.
    items: Vec<RecordRef>,
    /// Who listens, in order of subscription.
    pub subscribers: Vec<Subscriber>,
}

impl Entry {
    /// Highest durable seq.
    pub fn durable_seq(&self) -> u64 {
        self.items.len() as u64
    }

    /// Positions of the items `first..=last`, both within `1..=durable_seq`.
    pub fn range(&self, first: u64, last: u64) -> &[RecordRef] {
        assert!(first >= 1 && last <= self.durable_seq() && first <= last + 1, "range {first}..={last}");
        &self.items[(first - 1) as usize..last as usize]
    }
}

/// All conversations of the shard.
#[derive(Default, Debug)]
pub struct Index {
    entries: HashMap<ConversationId, Entry, BuildHasherDefault<IdHasher>>,
}

impl Index {
    /// The conversation's entry, if it has durable items or listeners.
    pub fn get(&self, conversation: ConversationId) -> Option<&Entry> {
        self.entries.get(&conversation)
    }

    /// The conversation's entry, made if missing.
    pub fn entry(&mut self, conversation: ConversationId) -> &mut Entry {
        self.entries.entry(conversation).or_default()
    }

    /// Highest durable seq, 0 for none.
    pub fn durable_seq(&self, conversation: ConversationId) -> u64 {
        self.get(conversation).map_or(0, Entry::durable_seq)
    }

    /// Appends the position of item `seq`, which must be the next.
    pub fn append(&mut self, conversation: ConversationId, seq: u64, record: RecordRef) {
        let entry = self.entry(conversation);
        assert!(
            seq == entry.durable_seq() + 1,
            "conversation {conversation:?}: item {seq} follows {}",
            entry.durable_seq()
        );
        entry.items.push(record);
    }

    /// Adds or renews a listener. `false` when there is no room.
    pub fn subscribe(&mut self, conversation: ConversationId, subscriber: Subscriber) -> bool {
        let subscribers = &mut self.entry(conversation).subscribers;
        if let Some(known) = subscribers.iter_mut().find(|known| known.session == subscriber.session) {
            *known = subscriber;
            return true;
        }
        if subscribers.len() >= SUBSCRIBERS_MAX {
            return false;
        }
        subscribers.push(subscriber);
        true
    }

    /// Removes a listener.
    pub fn unsubscribe(&mut self, conversation: ConversationId, session: SessionRef) {
        if let Some(entry) = self.entries.get_mut(&conversation) {
            entry.subscribers.retain(|known| known.session != session);
            if entry.subscribers.is_empty() {
                entry.subscribers.shrink_to_fit();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use ringdesk_desk::ids::Slot;
    use ringdesk_persist::{LogId, Position};

    use super::*;

    fn record(offset: u32) -> RecordRef {
        RecordRef { position: Position::new(LogId(0), 1, offset), len: 64 }
    }

    /// Buckets and tags of hashbrown: the low bits and the top seven.
    #[test]
    fn ids_spread_over_buckets_and_tags() {
        let hash = |value: u64| {
            let mut hasher = IdHasher::default();
            hasher.write_u64(value);
            hasher.finish()
        };
        let one_per_slot = (0..4096).map(|slot| hash(ConversationId::new(Slot(slot), 1).0));
        let one_slot = (1..=4096).map(|number| hash(ConversationId::new(Slot(7), number).0));
        for hashes in [one_per_slot.collect::<Vec<_>>(), one_slot.collect()] {
            let buckets: std::collections::BTreeSet<u64> = hashes.iter().map(|hash| hash % 4096).collect();
            let tags: std::collections::BTreeSet<u64> = hashes.iter().map(|hash| hash >> 57).collect();
            // Of 4,096 random choices among 4,096 buckets 63% are hit.
            assert!(buckets.len() > 2_400, "{} buckets", buckets.len());
            assert_eq!(tags.len(), 128);
        }
    }

    #[test]
    fn items_are_dense() {
        let mut index = Index::default();
        let id = ConversationId::new(Slot(3), 1);
        index.append(id, 1, record(512));
        index.append(id, 2, record(1024));
        assert_eq!(index.durable_seq(id), 2);
        assert_eq!(index.get(id).unwrap().range(2, 2), &[record(1024)]);
        assert!(index.get(id).unwrap().range(3, 2).is_empty());
    }

    #[test]
    #[should_panic(expected = "item 3 follows 1")]
    fn a_hole_is_a_broken_invariant() {
        let mut index = Index::default();
        let id = ConversationId::new(Slot(3), 1);
        index.append(id, 1, record(512));
        index.append(id, 3, record(1024));
    }

    #[test]
    fn a_session_listens_once() {
        let mut index = Index::default();
        let id = ConversationId::new(Slot(3), 1);
        let session = SessionRef { shard: 0, index: 4, generation: 1, channel: 0 };
        assert!(index.subscribe(id, Subscriber { session, agent: None }));
        assert!(index.subscribe(id, Subscriber { session, agent: None }));
        assert_eq!(index.get(id).unwrap().subscribers.len(), 1);
        index.unsubscribe(id, session);
        assert!(index.get(id).unwrap().subscribers.is_empty());
    }
}
