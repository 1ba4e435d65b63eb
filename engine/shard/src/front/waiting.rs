//! Subscriptions that wait for their turn to read the log. Whoever waits is found without a look at those who do not: a
//! gateway that comes back with thousands of cold conversations takes them a few at a time, and each turn costs the
//! same however many wait.
//!
//! Turns go round in the order of the keys, so that one that pauses again and again does not keep the rest waiting. Each
//! subscription waits once at most; the bound is that of the subscriptions themselves.

use std::collections::BTreeMap;
use std::ops::Bound;

use crate::planted::{self, Bug};

/// Those who wait. Empty, it takes no memory beside its pointer.
#[derive(Debug)]
pub struct Waiting<K>(Option<Box<Line<K>>>);

#[derive(Debug)]
struct Line<K> {
    /// Those who wait, and how many turns there had been when each began to.
    keys: BTreeMap<K, u32>,
    /// Whose turn it was last.
    last: Option<K>,
    /// Turns there have been since anybody waits.
    turns: u32,
}

impl<K> Default for Waiting<K> {
    fn default() -> Self {
        Self(None)
    }
}

impl<K: Ord + Copy> Waiting<K> {
    /// Nobody waits.
    pub const EMPTY: Self = Self(None);

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Waits from now on, if it did not before.
    pub fn add(&mut self, key: K) {
        let line =
            self.0.get_or_insert_with(|| Box::new(Line { keys: BTreeMap::new(), last: None, turns: 0 }));
        line.keys.entry(key).or_insert(line.turns);
    }

    /// Waits no more.
    pub fn remove(&mut self, key: K) {
        if let Some(line) = &mut self.0 {
            line.keys.remove(&key);
        }
        self.give_back();
    }

    /// Takes out whose turn it is: the next key behind the one before, and behind the last the first. Also tells how
    /// many turns others had while it waited: one each at most.
    pub fn take(&mut self) -> Option<(K, u32)> {
        let line = self.0.as_mut()?;
        let behind = |last| line.keys.range((Bound::Excluded(last), Bound::Unbounded)).next();
        let last = line.last.filter(|_| !planted::on(Bug::LowestTurn));
        let (&next, &since) = last.and_then(behind).or_else(|| line.keys.first_key_value())?;
        let waited = line.turns.wrapping_sub(since);
        line.keys.remove(&next);
        line.last = Some(next);
        line.turns = line.turns.wrapping_add(1);
        self.give_back();
        Some((next, waited))
    }

    fn give_back(&mut self) {
        if self.0.as_ref().is_some_and(|line| line.keys.is_empty()) {
            self.0 = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::cmp::Ordering;

    use super::*;

    thread_local! {
        static STEPS: Cell<u64> = const { Cell::new(0) };
    }

    /// A key that counts how often it is looked at.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    struct Counted(u32);

    impl Ord for Counted {
        fn cmp(&self, other: &Self) -> Ordering {
            STEPS.set(STEPS.get() + 1);
            self.0.cmp(&other.0)
        }
    }

    impl PartialOrd for Counted {
        fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
            Some(self.cmp(other))
        }
    }

    fn drain(waiting: &mut Waiting<Counted>) -> Vec<u32> {
        std::iter::from_fn(|| waiting.take()).map(|(key, _)| key.0).collect()
    }

    #[test]
    fn turns_go_round() {
        let mut waiting = Waiting::default();
        assert!(waiting.is_empty() && waiting.take().is_none());
        for key in [5, 1, 3, 3] {
            waiting.add(Counted(key));
        }
        assert_eq!(waiting.take(), Some((Counted(1), 0)));
        waiting.add(Counted(1));
        waiting.add(Counted(2));
        waiting.remove(Counted(5));
        waiting.remove(Counted(9));
        assert_eq!(drain(&mut waiting), [2, 3, 1]);
        assert!(waiting.is_empty());
        waiting.add(Counted(7));
        waiting.remove(Counted(7));
        assert!(waiting.is_empty(), "it owns nothing when nobody waits");
    }

    #[test]
    fn a_turn_looks_at_few_however_many_wait() {
        let steps_each = |count: u32| {
            let mut waiting = Waiting::default();
            (0..count).for_each(|key| waiting.add(Counted(key)));
            STEPS.set(0);
            // Each comes twice: the log is read on where one page did not reach the end.
            for _ in 0..count {
                let (key, waited) = waiting.take().expect("somebody waits");
                assert!(waited < count, "{waited} turns of {count} others");
                waiting.add(key);
            }
            assert_eq!(drain(&mut waiting).len(), count as usize);
            STEPS.get() / u64::from(count)
        };
        let (few, many) = (steps_each(100), steps_each(10_000));
        assert!(many <= 4 * few, "{few} keys looked at for one of 100, {many} for one of 10,000");
    }
}
