//! Values by descriptor table entry, in chunks: no allocation per entry, and no doubling of what a million of them take.

use crate::chunks::CHUNK_BYTES;

type Chunk<T> = Box<[Option<T>]>;

/// Values by entry. A chunk exists from its first value on.
#[derive(Debug)]
pub struct Entries<T> {
    chunks: Vec<Option<Chunk<T>>>,
}

impl<T> Entries<T> {
    /// Entries of one chunk.
    const CHUNK: usize = CHUNK_BYTES / size_of::<Option<T>>();

    /// No values.
    pub const fn new() -> Self {
        Self { chunks: Vec::new() }
    }

    /// The value at an entry.
    pub fn get_mut(&mut self, index: u32) -> Option<&mut T> {
        let (chunk, place) = Self::place_of(index);
        self.chunks.get_mut(chunk)?.as_mut()?[place].as_mut()
    }

    /// Puts a value at an entry. Panics when it is taken.
    pub fn insert(&mut self, index: u32, value: T) {
        let (chunk, place) = Self::place_of(index);
        if chunk >= self.chunks.len() {
            self.chunks.resize_with(chunk + 1, || None);
        }
        let chunk = self.chunks[chunk].get_or_insert_with(|| (0..Self::CHUNK).map(|_| None).collect());
        assert!(chunk[place].is_none(), "entry {index} is taken");
        chunk[place] = Some(value);
    }

    /// Takes the value out of an entry.
    pub fn remove(&mut self, index: u32) -> Option<T> {
        let (chunk, place) = Self::place_of(index);
        self.chunks.get_mut(chunk)?.as_mut()?[place].take()
    }

    /// All values, by entry.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.chunks.iter().flatten().flatten().flatten()
    }

    fn place_of(index: u32) -> (usize, usize) {
        (index as usize / Self::CHUNK, index as usize % Self::CHUNK)
    }

    /// Entries below this may hold a value.
    pub fn end(&self) -> u32 {
        (self.chunks.len() * Self::CHUNK) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_stand_at_their_entries() {
        let mut entries = Entries::new();
        for index in [0, 1, 4_095, 4_096, 70_000] {
            entries.insert(index, index);
        }
        assert_eq!(entries.iter().copied().collect::<Vec<u32>>(), [0, 1, 4_095, 4_096, 70_000]);
        assert_eq!(entries.get_mut(4_096).copied(), Some(4_096));
        assert_eq!(entries.get_mut(4_097), None);
        assert_eq!(entries.get_mut(90_000), None);
        assert_eq!((entries.remove(1), entries.remove(1)), (Some(1), None));
        assert!(entries.end() > 70_000);
        assert_eq!(entries.chunks.iter().flatten().count(), 3, "chunks nobody needs do not exist");
    }

    #[test]
    #[should_panic(expected = "entry 7 is taken")]
    fn an_entry_has_one_value() {
        let mut entries = Entries::new();
        entries.insert(7, 'a');
        entries.insert(7, 'b');
    }
}
