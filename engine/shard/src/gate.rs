//! The gate: nothing leaves to a socket or to another shard before the log position it follows from is durable.
//!
//! Entries are held in order of the record they follow from. The bound is the appender's staging bound: an entry
//! exists only beside a staged record or an answer to a request that found room, and requests are refused with
//! BUSY before either is full.

use std::collections::VecDeque;

use ringdesk_persist::Lsn;

/// Entries the gate holds before new requests are refused with BUSY.
pub const GATE_ENTRIES_MAX: usize = 1 << 17;

/// A queue of effects, each waiting for a record.
#[derive(Debug)]
pub struct Gate<T> {
    held: VecDeque<(Lsn, T)>,
}

impl<T> Default for Gate<T> {
    fn default() -> Self {
        Self { held: VecDeque::new() }
    }
}

impl<T> Gate<T> {
    /// Holds an effect until `after` is durable. `after` never decreases.
    pub fn hold(&mut self, after: Lsn, effect: T) {
        if let Some((last, _)) = self.held.back() {
            assert!(*last <= after, "gate entries out of order: {last:?} then {after:?}");
        }
        self.held.push_back((after, effect));
    }

    /// The next effect that may leave, given what is durable.
    pub fn release(&mut self, durable: Lsn) -> Option<(Lsn, T)> {
        match self.held.front() {
            Some((after, _)) if *after <= durable => self.held.pop_front(),
            _ => None,
        }
    }

    /// Whether something would be released.
    pub fn is_ready(&self, durable: Lsn) -> bool {
        self.held.front().is_some_and(|(after, _)| *after <= durable)
    }

    /// Takes out held effects out of turn: what a planted bug does, and nothing else may.
    #[cfg(feature = "planted")]
    pub fn leak(&mut self, mut which: impl FnMut(&T) -> bool) -> Vec<T> {
        let (early, held) = self.held.drain(..).partition(|(_, effect)| which(effect));
        self.held = held;
        let early: VecDeque<(Lsn, T)> = early;
        early.into_iter().map(|(_, effect)| effect).collect()
    }

    /// Whether new requests still find room.
    pub fn has_room(&self) -> bool {
        self.held.len() < GATE_ENTRIES_MAX
    }

    /// Entries held now.
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_passes_before_its_record() {
        let mut gate = Gate::default();
        gate.hold(Lsn(1), 'a');
        gate.hold(Lsn(1), 'b');
        gate.hold(Lsn(3), 'c');
        assert_eq!(gate.release(Lsn(0)), None);
        assert_eq!(gate.release(Lsn(2)), Some((Lsn(1), 'a')));
        assert_eq!(gate.release(Lsn(2)), Some((Lsn(1), 'b')));
        assert_eq!(gate.release(Lsn(2)), None);
        assert_eq!(gate.release(Lsn(3)), Some((Lsn(3), 'c')));
        assert!(gate.is_empty());
    }

    #[test]
    #[should_panic(expected = "out of order")]
    fn an_earlier_record_cannot_follow() {
        let mut gate = Gate::default();
        gate.hold(Lsn(2), ());
        gate.hold(Lsn(1), ());
    }
}
