//! Which shard owns which slot, and which slot an identity hashes to.

use ringdesk_desk::ids::{SLOTS, Slot};
use ringdesk_protocol::slot::slot_of;

/// The slot table: 16,384 entries, the same on every shard.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Router {
    owner: Box<[u16]>,
}

impl Router {
    /// Even, contiguous ranges over `shards` shards (1..=1024).
    pub fn even(shards: u16) -> Self {
        assert!((1..=1024).contains(&shards), "{shards} shards");
        let owner =
            (0..u32::from(SLOTS)).map(|slot| (slot * u32::from(shards) / u32::from(SLOTS)) as u16).collect();
        Self { owner }
    }

    /// The shard that owns a slot.
    pub fn owner(&self, slot: Slot) -> u16 {
        self.owner[usize::from(slot.0)]
    }

    /// Number of slots a shard owns.
    pub fn owned(&self, shard: u16) -> u32 {
        self.owner.iter().filter(|&&owner| owner == shard).count() as u32
    }

    /// Whether a number from outside is a slot at all.
    pub fn is_slot(slot: Slot) -> bool {
        slot.0 < SLOTS
    }
}

/// Slot of a site's dispatcher: hash key `{site}`.
pub fn site_slot(site: &str) -> Slot {
    Slot(slot_of(&hash_key(&[site.as_bytes()])))
}

/// Slot of a visitor's conversations or of an agent: hash key `{site/name}`, hashed exactly as Redis Cluster
/// would, so that a front-end finds the same slot with the code it has.
pub fn identity_slot(site: &str, name: &str) -> Slot {
    Slot(slot_of(&hash_key(&[site.as_bytes(), b"/", name.as_bytes()])))
}

fn hash_key(parts: &[&[u8]]) -> Vec<u8> {
    let mut key = Vec::with_capacity(2 + parts.iter().map(|part| part.len()).sum::<usize>());
    key.push(b'{');
    parts.iter().for_each(|part| key.extend_from_slice(part));
    key.push(b'}');
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_even_and_cover_all() {
        for shards in [1u16, 2, 3, 7, 64] {
            let router = Router::even(shards);
            let counts: Vec<u32> = (0..shards).map(|shard| router.owned(shard)).collect();
            assert_eq!(counts.iter().sum::<u32>(), u32::from(SLOTS));
            assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1, "{counts:?}");
        }
    }

    #[test]
    fn an_identity_hashes_like_its_tag() {
        assert_eq!(identity_slot("demo", "v-1").0, slot_of(b"{demo/v-1}"));
        assert_eq!(identity_slot("demo", "v-1").0, slot_of(b"anything{demo/v-1}else"));
        assert_eq!(site_slot("demo").0, slot_of(b"{demo}"));
    }
}
