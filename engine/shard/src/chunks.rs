//! A row of values by index that grows chunk by chunk: nothing is copied when it grows and nothing is left behind.
//!
//! A `Vec` of a hundred thousand entries frees a block of each size it had on its way, which an allocator that sorts
//! blocks by size keeps: as much again as the entries take.

use std::ops::{Index, IndexMut};

/// Bytes of one chunk: a size class of its own in mimalloc, so that nothing is lost behind the last value.
pub(crate) const CHUNK_BYTES: usize = 32 << 10;

/// Values by index, dense from 0.
#[derive(Debug)]
pub struct Chunks<T> {
    chunks: Vec<Box<[T]>>,
    /// What a place holds before something else is put there.
    empty: T,
}

impl<T: Clone> Chunks<T> {
    /// Values of one chunk.
    const CHUNK: usize = CHUNK_BYTES / size_of::<T>();

    /// No places.
    pub const fn new(empty: T) -> Self {
        Self { chunks: Vec::new(), empty }
    }

    /// Places: a whole number of chunks.
    pub fn len(&self) -> usize {
        self.chunks.len() * Self::CHUNK
    }

    /// Whether there is no place.
    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// Makes all places up to `index`.
    pub fn reach(&mut self, index: usize) {
        while index >= self.len() {
            self.chunks.push(vec![self.empty.clone(); Self::CHUNK].into_boxed_slice());
        }
    }

    /// All places, in order.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.chunks.iter().flat_map(|chunk| chunk.iter())
    }

    /// The value at a place, if there is the place.
    pub fn get(&self, index: usize) -> Option<&T> {
        self.chunks.get(index / Self::CHUNK).map(|chunk| &chunk[index % Self::CHUNK])
    }

    /// The value at a place, if there is the place.
    pub fn get_mut(&mut self, index: usize) -> Option<&mut T> {
        self.chunks.get_mut(index / Self::CHUNK).map(|chunk| &mut chunk[index % Self::CHUNK])
    }
}

impl<T: Clone> Index<usize> for Chunks<T> {
    type Output = T;

    fn index(&self, index: usize) -> &T {
        &self.chunks[index / Self::CHUNK][index % Self::CHUNK]
    }
}

impl<T: Clone> IndexMut<usize> for Chunks<T> {
    fn index_mut(&mut self, index: usize) -> &mut T {
        &mut self.chunks[index / Self::CHUNK][index % Self::CHUNK]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_there_as_far_as_somebody_reached() {
        let mut chunks = Chunks::new(7u32);
        assert!(chunks.is_empty());
        assert!(chunks.get(0).is_none() && chunks.get_mut(0).is_none());
        chunks.reach(0);
        assert_eq!((chunks.len(), chunks.get(8_191), chunks.get(8_192)), (8_192, Some(&7), None));
        chunks[8_191] = 1;
        chunks.reach(20_000);
        chunks[20_000] = 2;
        assert_eq!((chunks[8_191], chunks[8_192], chunks[20_000]), (1, 7, 2));
        assert_eq!(chunks.get(24_576), None);
        let changed: Vec<_> = (0u32..).zip(chunks.iter()).filter(|(_, value)| **value != 7).collect();
        assert_eq!((changed, chunks.iter().count()), (vec![(8_191, &1), (20_000, &2)], 24_576));
    }
}
