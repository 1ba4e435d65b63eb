//! A hashed timing wheel (Varghese and Lauck, "Hashed and Hierarchical Timing Wheels", 1987) of one-second slots: when
//! each connection is to be looked at next. Owned by the front; 8 bytes per descriptor table entry.
//!
//! Lazy: hearing from a connection moves nothing. Its entry fires at the time it was set to, the front sees that the
//! true deadline is later, and sets it again. Only a deadline that comes nearer has to be told. A deadline beyond the
//! wheel's horizon is put at the horizon, and set again from there.

use crate::chunks::Chunks;

/// Slots, and seconds to the horizon: one more than the default silence of two heartbeats needs.
const SLOTS: u64 = 64;

/// No entry.
const NONE: u32 = u32::MAX;

/// Marks a `prev` that is a slot's head; the slot is in the low bits.
const HEAD: u32 = 1 << 31;

/// Neighbours in a slot's list. `prev == NONE`: in no list.
#[derive(Clone, Copy, Debug)]
struct Link {
    prev: u32,
    next: u32,
}

const UNLINKED: Link = Link { prev: NONE, next: NONE };

/// The wheel. Entries are descriptor table indices below 2^31.
#[derive(Debug)]
pub struct Wheel {
    heads: [u32; SLOTS as usize],
    /// Bit `i`: slot `i` has entries.
    occupied: u64,
    links: Chunks<Link>,
    /// All up to this second has fired.
    now_s: u64,
}

impl Wheel {
    /// Nothing to wait for.
    pub const fn new() -> Self {
        Self { heads: [NONE; SLOTS as usize], occupied: 0, links: Chunks::new(UNLINKED), now_s: 0 }
    }

    /// Fires `entry` at second `at_s`, or at the horizon if that is nearer, instead of when it was to fire before. A
    /// second that has passed is the next one.
    pub fn set(&mut self, entry: u32, at_s: u64) {
        assert!(entry < HEAD, "entry {entry} is no descriptor table index");
        self.clear(entry);
        let index = entry as usize;
        self.links.reach(index);
        let slot = (at_s.clamp(self.now_s + 1, self.now_s + SLOTS) % SLOTS) as usize;
        let next = std::mem::replace(&mut self.heads[slot], entry);
        self.links[index] = Link { prev: HEAD | slot as u32, next };
        if next != NONE {
            self.links[next as usize].prev = entry;
        }
        self.occupied |= 1 << slot;
    }

    /// `entry` fires no more.
    pub fn clear(&mut self, entry: u32) {
        let Some(link) = self.links.get_mut(entry as usize) else { return };
        let Link { prev, next } = std::mem::replace(link, UNLINKED);
        if prev == NONE {
            return;
        }
        if next != NONE {
            self.links[next as usize].prev = prev;
        }
        if prev & HEAD == 0 {
            self.links[prev as usize].next = next;
            return;
        }
        let slot = (prev & !HEAD) as usize;
        self.heads[slot] = next;
        if next == NONE {
            self.occupied &= !(1 << slot);
        }
    }

    /// Appends to `fired` all entries whose second has come by `now_s`, earliest second first. They are no longer set.
    pub fn fire(&mut self, now_s: u64, fired: &mut Vec<u32>) {
        if now_s <= self.now_s {
            return;
        }
        for second in self.now_s + 1..=now_s.min(self.now_s + SLOTS) {
            let slot = (second % SLOTS) as usize;
            self.occupied &= !(1 << slot);
            let mut entry = std::mem::replace(&mut self.heads[slot], NONE);
            while entry != NONE {
                fired.push(entry);
                entry = std::mem::replace(&mut self.links[entry as usize], UNLINKED).next;
            }
        }
        self.now_s = now_s;
    }

    /// The second at which the first entry fires.
    pub fn next_s(&self) -> Option<u64> {
        let turned = self.occupied.rotate_right(((self.now_s + 1) % SLOTS) as u32);
        (turned != 0).then(|| self.now_s + 1 + u64::from(turned.trailing_zeros()))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Act {
        Set(u32, u64),
        Clear(u32),
        Pass(u64),
    }

    fn act() -> impl Strategy<Value = Act> {
        prop_oneof![
            4 => (0..40u32, 0..200u64).prop_map(|(entry, ahead)| Act::Set(entry, ahead)),
            1 => (0..40u32).prop_map(Act::Clear),
            2 => prop_oneof![Just(1), 0..10u64, 50..300u64].prop_map(Act::Pass),
        ]
    }

    proptest! {
        /// The model: a map from entry to the second it fires at.
        #[test]
        fn behaves_like_a_map_of_deadlines(start in 0..1_000u64, acts in prop::collection::vec(act(), 1..200)) {
            let mut wheel = Wheel::new();
            let mut model: BTreeMap<u32, u64> = BTreeMap::new();
            let mut fired = Vec::new();
            wheel.fire(start, &mut fired);
            let mut now_s = start;
            for act in acts {
                match act {
                    Act::Set(entry, ahead) => {
                        // Also behind the present: `ahead` counts from ten seconds ago.
                        let at_s = (now_s + ahead).saturating_sub(10);
                        wheel.set(entry, at_s);
                        model.insert(entry, at_s.clamp(now_s + 1, now_s + SLOTS));
                    }
                    Act::Clear(entry) => {
                        wheel.clear(entry);
                        model.remove(&entry);
                    }
                    Act::Pass(seconds) => {
                        now_s += seconds;
                        fired.clear();
                        wheel.fire(now_s, &mut fired);
                        let seconds: Vec<u64> = fired.iter().map(|entry| model[entry]).collect();
                        prop_assert!(seconds.is_sorted(), "{seconds:?}");
                        fired.sort_unstable();
                        let due: Vec<u32> = model.extract_if(.., |_, at| *at <= now_s).map(|(entry, _)| entry).collect();
                        prop_assert_eq!(&fired, &due);
                    }
                }
                prop_assert_eq!(wheel.next_s(), model.values().min().copied());
            }
        }
    }

    #[test]
    fn an_entry_is_eight_bytes() {
        assert_eq!(size_of::<Link>(), 8);
    }
}
