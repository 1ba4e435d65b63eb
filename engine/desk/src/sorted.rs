//! A sorted map of small values that keeps them close together: full runs where keys come in order, and at most a half
//! of a run unused where they do not.
//!
//! Takes the place of a B-tree from std, whose nodes of 11 stay half empty when keys come in ascending order, as those who
//! join a queue do. A hundred thousand of them wait.

/// Most values of one run.
const RUN: usize = 128;

/// Up to here a run doubles; then it grows by [`STEP`].
const DOUBLES: usize = 64;
const STEP: usize = 16;

/// A run this short joins a neighbour that has room.
const SHORT: usize = RUN / 4;

/// Values by key, in order. No run is empty.
pub(crate) struct Sorted<K, V> {
    runs: Vec<Vec<(K, V)>>,
    len: usize,
}

impl<K: Ord + Copy, V> Sorted<K, V> {
    pub(crate) const fn new() -> Self {
        Self { runs: Vec::new(), len: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// All values, in order of their keys.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &(K, V)> {
        self.runs.iter().flatten()
    }

    /// The run that holds a key, or would.
    fn run_of(&self, key: &K) -> usize {
        self.runs.partition_point(|run| run[0].0 <= *key).saturating_sub(1)
    }

    fn find(&self, key: &K) -> Option<(usize, usize)> {
        let run = self.run_of(key);
        let at = self.runs.get(run)?.binary_search_by(|(known, _)| known.cmp(key)).ok()?;
        Some((run, at))
    }

    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        self.find(key).map(|(run, at)| &self.runs[run][at].1)
    }

    pub(crate) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        self.find(key).map(|(run, at)| &mut self.runs[run][at].1)
    }

    /// Adds a value. `false`: the key is there already, and nothing has changed.
    pub(crate) fn insert(&mut self, key: K, value: V) -> bool {
        let mut number = self.run_of(&key);
        let Some(run) = self.runs.get(number) else {
            self.runs.push(vec![(key, value)]);
            self.len = 1;
            return true;
        };
        let Err(mut at) = run.binary_search_by(|(known, _)| known.cmp(&key)) else { return false };
        if run.len() == RUN {
            // Behind all others: the full run stays full.
            let half = if at == RUN { RUN } else { RUN / 2 };
            let behind = self.split(number, half);
            self.runs.insert(number + 1, behind);
            if at >= half {
                (number, at) = (number + 1, at - half);
            }
        }
        let run = &mut self.runs[number];
        grow(run);
        run.insert(at, (key, value));
        self.len += 1;
        true
    }

    /// Takes what is from `half` on out of a run, which gives back the room of it.
    fn split(&mut self, number: usize, half: usize) -> Vec<(K, V)> {
        let run = &mut self.runs[number];
        let mut behind = Vec::with_capacity(RUN - half);
        behind.extend(run.drain(half..));
        run.shrink_to_fit();
        behind
    }

    /// Takes a value out.
    pub(crate) fn remove(&mut self, key: &K) -> Option<V> {
        let (number, at) = self.find(key)?;
        let (_, value) = self.runs[number].remove(at);
        self.len -= 1;
        self.tidy(number);
        Some(value)
    }

    /// After a removal from a run: an empty one goes, a short one joins the one behind or before it.
    fn tidy(&mut self, number: usize) {
        let len = self.runs[number].len();
        if len == 0 {
            self.runs.remove(number);
        } else if len <= SHORT {
            let fits = |other: usize| self.runs.get(other).is_some_and(|run| run.len() + len <= RUN - STEP);
            let first = match number.checked_sub(1).filter(|before| fits(*before)) {
                Some(before) => before,
                None if fits(number + 1) => number,
                None => return,
            };
            let behind = self.runs.remove(first + 1);
            let run = &mut self.runs[first];
            run.reserve_exact(behind.len());
            run.extend(behind);
        }
    }
}

/// Makes room for one more.
fn grow<T>(run: &mut Vec<T>) {
    if run.len() == run.capacity() {
        run.reserve_exact(if run.len() < DOUBLES { run.len().max(1) } else { STEP });
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    impl<K: Ord + Copy, V> Sorted<K, V> {
        fn check(&self) {
            assert_eq!(self.runs.iter().map(Vec::len).sum::<usize>(), self.len);
            assert!(self.runs.iter().all(|run| (1..=RUN).contains(&run.len())));
            assert!(self.iter().is_sorted_by(|(one, _), (two, _)| one < two));
        }
    }

    #[derive(Clone, Debug)]
    enum Act {
        Insert(u16),
        Change(u16),
        Remove(u16),
        /// A run of keys from here on, upwards or away.
        Many(u16, u16),
        Drain(u16, u16),
    }

    fn act() -> impl Strategy<Value = Act> {
        prop_oneof![
            4 => (0..2_000u16).prop_map(Act::Insert),
            1 => (0..2_000u16).prop_map(Act::Change),
            4 => (0..2_000u16).prop_map(Act::Remove),
            1 => (0..2_000u16, 0..400u16).prop_map(|(from, count)| Act::Many(from, count)),
            1 => (0..2_000u16, 0..400u16).prop_map(|(from, count)| Act::Drain(from, count)),
        ]
    }

    proptest! {
        #[test]
        fn behaves_like_a_map(acts in prop::collection::vec(act(), 1..120)) {
            let (mut sorted, mut model) = (Sorted::new(), BTreeMap::new());
            for (number, act) in acts.into_iter().enumerate() {
                match act {
                    Act::Insert(key) => {
                        let new = !model.contains_key(&key);
                        model.entry(key).or_insert(number);
                        prop_assert_eq!(sorted.insert(key, number), new);
                    }
                    Act::Change(key) => {
                        prop_assert_eq!(sorted.get(&key), model.get(&key));
                        if let (Some(one), Some(two)) = (sorted.get_mut(&key), model.get_mut(&key)) {
                            (*one, *two) = (number, number);
                        }
                    }
                    Act::Remove(key) => prop_assert_eq!(sorted.remove(&key), model.remove(&key)),
                    Act::Many(from, count) => {
                        for key in from..from + count {
                            model.entry(key).or_insert(number);
                            sorted.insert(key, number);
                        }
                    }
                    Act::Drain(from, count) => {
                        for key in from..from + count {
                            prop_assert_eq!(sorted.remove(&key), model.remove(&key));
                        }
                    }
                }
                sorted.check();
                prop_assert_eq!(sorted.len(), model.len());
            }
            prop_assert!(sorted.iter().map(|(key, value)| (key, value)).eq(&model));
        }
    }

    #[test]
    fn room_is_little_where_keys_ascend_and_half_where_they_do_not() {
        let room = |sorted: &Sorted<u64, ()>| sorted.runs.iter().map(Vec::capacity).sum::<usize>();
        let (mut ascending, mut mixed) = (Sorted::new(), Sorted::new());
        for key in 0..50_000u64 {
            assert!(ascending.insert(key, ()));
            assert!(mixed.insert(key.wrapping_mul(0x9E37_79B9_7F4A_7C15), ()));
        }
        assert!(room(&ascending) <= 50_000 + RUN, "room for {}", room(&ascending));
        assert!(room(&mixed) <= 50_000 * 5 / 4, "room for {}", room(&mixed));
        for key in 0..49_000u64 {
            assert!(mixed.remove(&key.wrapping_mul(0x9E37_79B9_7F4A_7C15)).is_some());
        }
        assert!(mixed.runs.len() <= 2 + 1_000 / (SHORT / 2), "{} runs for 1,000 values", mixed.runs.len());
    }
}
