//! Where a desk keeps its conversations and visitors: all of a kind in one row, whatever slot they belong to.
//!
//! Owned by the desk; a slot knows the places of its own. A list of conversations in each slot would free a block of
//! every size it had on its way to the next, sixteen thousand times, and an allocator that sorts blocks by size keeps
//! these: a fifth of what the conversations take.

use crate::conversation::Conversation;
use crate::visitor::Visitor;

/// Bytes of one chunk of a row.
const CHUNK_BYTES: usize = 32 << 10;

/// Values by place, dense from 0 in the order they came. Grows chunk by chunk, copies nothing and forgets nothing.
pub(crate) struct Row<T> {
    chunks: Vec<Vec<T>>,
}

impl<T> Row<T> {
    /// Values of one chunk.
    const CHUNK: usize = CHUNK_BYTES / size_of::<T>();

    const fn new() -> Self {
        Self { chunks: Vec::new() }
    }

    /// Adds a value; gives its place.
    pub(crate) fn push(&mut self, value: T) -> u32 {
        if self.chunks.last().is_none_or(|last| last.len() == Self::CHUNK) {
            self.chunks.push(Vec::with_capacity(Self::CHUNK));
        }
        let full = self.chunks.len() - 1;
        let place = full * Self::CHUNK + self.chunks[full].len();
        self.chunks[full].push(value);
        u32::try_from(place).expect("conversations_max bounds a row")
    }

    /// The value at a place that was given.
    pub(crate) fn at(&self, place: u32) -> &T {
        &self.chunks[place as usize / Self::CHUNK][place as usize % Self::CHUNK]
    }

    /// The value at a place that was given, to be changed.
    pub(crate) fn at_mut(&mut self, place: u32) -> &mut T {
        &mut self.chunks[place as usize / Self::CHUNK][place as usize % Self::CHUNK]
    }

    #[cfg(feature = "planted")]
    fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.chunks.iter_mut().flatten()
    }
}

/// All conversations and visitors of a desk.
pub(crate) struct Store {
    pub(crate) conversations: Row<Conversation>,
    pub(crate) visitors: Row<Visitor>,
}

impl Store {
    pub(crate) const fn new() -> Self {
        Self { conversations: Row::new(), visitors: Row::new() }
    }

    #[cfg(feature = "planted")]
    pub(crate) fn forget_devices(&mut self) {
        self.conversations.iter_mut().for_each(Conversation::forget_devices);
    }

    #[cfg(feature = "planted")]
    pub(crate) fn forget_old_opens(&mut self) {
        self.visitors.iter_mut().for_each(Visitor::forget_old_opens);
    }
}

/// Places in a row, in order. A slot has a few, which take no allocation.
pub(crate) enum Places {
    /// The first `len`.
    Few { len: u8, places: [u32; FEW] },
    /// Any number.
    Many(Vec<u32>),
}

/// As many as fit into the room that the list of many needs anyway.
const FEW: usize = 3;

const _: () = assert!(size_of::<Places>() == size_of::<Vec<u32>>());

/// A list grows by so many at first: whole steps of what an allocator gives.
const STEP: usize = 4;

impl Places {
    pub(crate) const NONE: Self = Self::Few { len: 0, places: [0; FEW] };

    pub(crate) fn as_slice(&self) -> &[u32] {
        match self {
            Self::Few { len, places } => &places[..usize::from(*len)],
            Self::Many(places) => places,
        }
    }

    pub(crate) fn push(&mut self, place: u32) {
        self.insert(self.as_slice().len(), place);
    }

    /// Puts a place before the one at `at`.
    pub(crate) fn insert(&mut self, at: usize, place: u32) {
        if let Self::Few { len, places } = self {
            let used = usize::from(*len);
            if used < FEW {
                places.copy_within(at..used, at + 1);
                places[at] = place;
                *len += 1;
                return;
            }
            let mut many = Vec::with_capacity(STEP);
            many.extend_from_slice(places);
            *self = Self::Many(many);
        }
        let Self::Many(many) = self else { panic!("it was just made many") };
        if many.len() == many.capacity() {
            // An eighth at a time once that is more: none shall pay for twice what it has.
            many.reserve_exact(STEP.max(many.len() / 8));
        }
        many.insert(at, place);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_stay_where_they_were_put() {
        let mut row = Row::new();
        for value in 0..20_000u64 {
            assert_eq!(row.push(value), value as u32);
        }
        *row.at_mut(4_096) = 7;
        for value in (0..20_000u32).filter(|value| *value != 4_096) {
            assert_eq!(*row.at(value), u64::from(value));
        }
        assert_eq!((*row.at(4_096), row.chunks.len()), (7, 5));
    }

    #[test]
    fn places_are_in_the_order_they_were_put() {
        let (mut places, mut model) = (Places::NONE, Vec::new());
        for place in 0..200u32 {
            let at = place as usize * 7 % (model.len() + 1);
            places.insert(at, place);
            model.insert(at, place);
            places.push(1_000 + place);
            model.push(1_000 + place);
            assert_eq!(places.as_slice(), model);
            if let Places::Many(many) = &places {
                let (room, len) = (many.capacity(), many.len());
                assert!(room <= len + STEP + len / 8, "room for {room}, {len} used");
            }
        }
    }
}
