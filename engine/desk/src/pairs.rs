//! Notes between slots: numbered per pair, kept by the teller until confirmed (contract C2).
//!
//! Owned by the slot. The teller's side holds what was told and not yet confirmed, in order; the hearer's side
//! holds the highest number heard of each teller. Full: `Limits::notes_outstanding_max` over all pairs of the
//! teller, where client commands get `Busy` and the dispatcher waits for a confirmation.

use std::collections::VecDeque;

use crate::digest::Digest;
use crate::event::Note;
use crate::ids::{AgentId, ConversationId, Slot};

/// Told to one hearer. `last` is the number of the newest note; the outstanding ones end with it. Confirmed ones are
/// gone, and between notes there is no queue.
#[derive(Default)]
struct Told {
    last: u64,
    #[allow(clippy::box_collection, reason = "8 bytes instead of 32 in every pair")]
    outstanding: Option<Box<VecDeque<Note>>>,
}

impl Told {
    fn confirmed(&self) -> u64 {
        self.last - self.len() as u64
    }

    fn len(&self) -> usize {
        self.outstanding.as_ref().map_or(0, |notes| notes.len())
    }

    fn notes(&self) -> impl Iterator<Item = &Note> {
        self.outstanding.iter().flat_map(|notes| notes.iter())
    }
}

/// Values by slot, in order. A slot of conversations has one pair, held in place; a dispatcher's has at most one per slot
/// there is.
enum BySlot<T> {
    None,
    One(Slot, T),
    #[allow(clippy::box_collection, reason = "8 bytes instead of 24 in every slot")]
    Many(Box<Vec<(Slot, T)>>),
}

impl<T: Default> BySlot<T> {
    fn get(&self, slot: Slot) -> Option<&T> {
        match self {
            Self::One(known, value) if *known == slot => Some(value),
            Self::Many(values) => find(values, slot).ok().map(|at| &values[at].1),
            _ => None,
        }
    }

    fn get_mut(&mut self, slot: Slot) -> Option<&mut T> {
        match self {
            Self::One(known, value) if *known == slot => Some(value),
            Self::Many(values) => find(values, slot).ok().map(|at| &mut values[at].1),
            _ => None,
        }
    }

    fn get_or_default(&mut self, slot: Slot) -> &mut T {
        if let Self::None = self {
            *self = Self::One(slot, T::default());
        }
        match std::mem::replace(self, Self::None) {
            Self::One(known, value) if known != slot => *self = Self::Many(Box::new(vec![(known, value)])),
            same => *self = same,
        }
        match self {
            Self::One(_, value) => value,
            Self::Many(values) => {
                let at = find(values, slot).unwrap_or_else(|at| {
                    values.insert(at, (slot, T::default()));
                    at
                });
                &mut values[at].1
            }
            Self::None => panic!("it was just made one"),
        }
    }

    fn len(&self) -> usize {
        self.iter().count()
    }

    fn iter(&self) -> impl Iterator<Item = (Slot, &T)> {
        let (one, many) = match self {
            Self::None => (None, None),
            Self::One(slot, value) => (Some((*slot, value)), None),
            Self::Many(values) => (None, Some(values)),
        };
        one.into_iter()
            .chain(many.into_iter().flat_map(|many| many.iter().map(|(slot, value)| (*slot, value))))
    }
}

fn find<T>(values: &[(Slot, T)], slot: Slot) -> Result<usize, usize> {
    values.binary_search_by_key(&slot, |(known, _)| *known)
}

/// All pairs of one slot, in both directions.
pub(crate) struct Pairs {
    told: BySlot<Told>,
    heard: BySlot<u64>,
    outstanding: u32,
}

impl Pairs {
    pub(crate) const fn new() -> Self {
        Self { told: BySlot::None, heard: BySlot::None, outstanding: 0 }
    }

    /// Whether no note was ever told or heard.
    pub(crate) fn is_blank(&self) -> bool {
        matches!((&self.told, &self.heard), (BySlot::None, BySlot::None))
    }

    /// Number of the last note told to `to`.
    pub(crate) fn told(&self, to: Slot) -> u64 {
        self.told.get(to).map_or(0, |told| told.last)
    }

    /// Highest number heard of `from`.
    pub(crate) fn heard(&self, from: Slot) -> u64 {
        self.heard.get(from).copied().unwrap_or(0)
    }

    /// Highest number `to` has confirmed.
    pub(crate) fn confirmed(&self, to: Slot) -> u64 {
        self.told.get(to).map_or(0, Told::confirmed)
    }

    /// Notes told and not yet confirmed, over all pairs.
    pub(crate) fn outstanding(&self) -> usize {
        self.outstanding as usize
    }

    pub(crate) fn apply_told(&mut self, to: Slot, n: u64, note: Note) {
        let told = self.told.get_or_default(to);
        assert!(n == told.last + 1, "note {n} to {to:?} told after {}", told.last);
        told.last = n;
        told.outstanding.get_or_insert_default().push_back(note);
        self.outstanding += 1;
    }

    pub(crate) fn apply_heard(&mut self, from: Slot, n: u64) {
        let heard = self.heard.get_or_default(from);
        assert!(n == *heard + 1, "note {n} of {from:?} heard after {heard}");
        *heard = n;
    }

    pub(crate) fn apply_confirmed(&mut self, to: Slot, upto: u64) {
        let told = self.told.get_mut(to).expect("only a note that was told can be confirmed");
        let confirmed = told.confirmed();
        assert!(
            upto > confirmed && upto <= told.last,
            "{to:?} confirmed {upto} of {confirmed}..{}",
            told.last
        );
        let count = (upto - confirmed) as usize;
        let notes = told.outstanding.as_mut().expect("what is not confirmed is kept");
        notes.drain(..count);
        if notes.is_empty() {
            told.outstanding = None;
        }
        self.outstanding -= count as u32;
    }

    /// Unconfirmed notes: (to, n, note), by hearer and in order.
    pub(crate) fn unconfirmed(&self) -> impl Iterator<Item = (Slot, u64, Note)> + '_ {
        self.told.iter().flat_map(|(to, told)| {
            told.notes().zip(told.confirmed() + 1..).map(move |(note, n)| (to, n, *note))
        })
    }

    pub(crate) fn digest(&self, digest: &mut Digest) {
        digest.count(self.told.len());
        for (to, told) in self.told.iter() {
            digest.u32(u32::from(to.0));
            digest.u64(told.last);
            digest.count(told.len());
            for note in told.notes() {
                digest_note(digest, *note);
            }
        }
        digest.count(self.heard.len());
        for (from, n) in self.heard.iter() {
            digest.u32(u32::from(from.0));
            digest.u64(*n);
        }
    }
}

fn digest_note(digest: &mut Digest, note: Note) {
    let (kind, conversation, epoch, first, second) = match note {
        Note::Want { site, conversation, since, epoch } => (0, conversation, epoch, site.0, since.0),
        Note::Assign { conversation, agent: AgentId(agent), epoch } => (1, conversation, epoch, agent, 0),
        Note::Unassign { conversation, epoch } => (2, conversation, epoch, 0, 0),
        Note::Release { site, conversation, epoch } => (3, conversation, epoch, site.0, 0),
    };
    let ConversationId(conversation) = conversation;
    digest.u32(kind);
    digest.u64(conversation);
    digest.u32(epoch);
    digest.u32(first);
    digest.u64(second);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(epoch: u32) -> Note {
        Note::Unassign { conversation: ConversationId::new(Slot(3), 1), epoch }
    }

    #[test]
    fn confirmed_notes_are_forgotten_in_order() {
        let mut pairs = Pairs::new();
        for n in 1..=5 {
            pairs.apply_told(Slot(9), n, note(n as u32));
        }
        pairs.apply_told(Slot(2), 1, note(77));
        pairs.apply_confirmed(Slot(9), 3);
        assert_eq!(pairs.outstanding(), 3);
        assert_eq!(pairs.confirmed(Slot(9)), 3);
        let left: Vec<_> = pairs.unconfirmed().collect();
        assert_eq!(left, vec![(Slot(2), 1, note(77)), (Slot(9), 4, note(4)), (Slot(9), 5, note(5))]);
    }

    #[test]
    #[should_panic(expected = "heard after")]
    fn hearing_with_a_hole_is_a_broken_invariant() {
        let mut pairs = Pairs::new();
        pairs.apply_heard(Slot(1), 2);
    }
}
