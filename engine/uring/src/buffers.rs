//! The slab of buffers that operations own while they are in flight.
//!
//! A buffer is either at rest (the table may look at it and take it out) or lent to exactly one operation (only the
//! kernel may touch it). Every access asserts which of the two it is, in release builds too: a buffer reused before
//! its last completion corrupts a peer's stream or the log without any other trace.

use std::num::NonZeroU32;

use ringdesk_persist::Pages;

/// A place in the slab and its generation, so that a kept id of an earlier buffer never reaches a later one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct BufferId {
    /// The place and one, so that no buffer at all is as long as a buffer: every connection keeps room for one.
    number: NonZeroU32,
    generation: u32,
}

const _: () = assert!(size_of::<Option<BufferId>>() == 8);

impl BufferId {
    fn new(index: u32, generation: u32) -> Self {
        let number =
            index.checked_add(1).and_then(NonZeroU32::new).expect("fewer than 2^32 buffers in flight");
        Self { number, generation }
    }

    /// The place alone, dense from 0; unique among the buffers that exist now.
    pub fn index(self) -> u32 {
        self.number.get() - 1
    }
}

#[derive(Debug)]
enum Content {
    Free,
    Bytes(Vec<u8>),
    Pages(Pages),
}

#[derive(Debug)]
struct Place {
    generation: u32,
    lent: bool,
    content: Content,
}

/// The slab. Grows to the number of operations in flight, which the table bounds.
#[derive(Default, Debug)]
pub struct Buffers {
    places: Vec<Place>,
    free: Vec<u32>,
    lent: usize,
}

impl Buffers {
    /// An empty slab.
    pub fn new() -> Self {
        Self::default()
    }

    /// Stores bytes to send, at rest.
    pub fn insert_bytes(&mut self, bytes: Vec<u8>) -> BufferId {
        self.insert(Content::Bytes(bytes))
    }

    /// Stores pages to write or to read into, at rest.
    pub fn insert_pages(&mut self, pages: Pages) -> BufferId {
        self.insert(Content::Pages(pages))
    }

    fn insert(&mut self, content: Content) -> BufferId {
        match self.free.pop() {
            Some(index) => {
                let place = &mut self.places[index as usize];
                assert!(!place.lent && matches!(place.content, Content::Free), "place {index} is taken");
                place.content = content;
                BufferId::new(index, place.generation)
            }
            None => {
                let index = u32::try_from(self.places.len()).expect("fewer than 2^32 buffers in flight");
                self.places.push(Place { generation: 0, lent: false, content });
                BufferId::new(index, 0)
            }
        }
    }

    /// Lends a buffer at rest to an operation. Panics if it is in flight already.
    pub fn lend(&mut self, id: BufferId) {
        let place = self.place_mut(id);
        assert!(!place.lent, "{id:?} lent twice");
        place.lent = true;
        self.lent += 1;
    }

    /// Ends the loan: the operation's last completion was seen. Panics if the buffer was not lent.
    pub fn give_back(&mut self, id: BufferId) {
        let place = self.place_mut(id);
        assert!(place.lent, "{id:?} given back but not in flight");
        place.lent = false;
        self.lent -= 1;
    }

    /// Takes sent bytes out. Panics if the buffer is in flight or holds pages.
    pub fn take_bytes(&mut self, id: BufferId) -> Vec<u8> {
        match self.take(id) {
            Content::Bytes(bytes) => bytes,
            other => panic!("{id:?} holds {other:?}, not bytes"),
        }
    }

    /// Takes pages out. Panics if the buffer is in flight or holds bytes.
    pub fn take_pages(&mut self, id: BufferId) -> Pages {
        match self.take(id) {
            Content::Pages(pages) => pages,
            other => panic!("{id:?} holds {other:?}, not pages"),
        }
    }

    fn take(&mut self, id: BufferId) -> Content {
        let place = self.place_mut(id);
        assert!(!place.lent, "{id:?} taken while in flight");
        place.generation = place.generation.wrapping_add(1);
        let content = std::mem::replace(&mut place.content, Content::Free);
        self.free.push(id.index());
        content
    }

    /// The kernel's view of a buffer in flight, to send or write from. Panics if it is at rest.
    pub fn lent(&self, id: BufferId) -> &[u8] {
        let place = self.place(id);
        assert!(place.lent, "the kernel touched {id:?} outside an operation");
        match &place.content {
            Content::Bytes(bytes) => bytes,
            Content::Pages(pages) => pages.as_bytes(),
            Content::Free => panic!("{id:?} is free"),
        }
    }

    /// The number under which the driver knows the memory of a buffer, if it is one that the driver prepared
    /// ([`Pages::numbered`]).
    pub fn number(&self, id: BufferId) -> Option<u16> {
        match &self.place(id).content {
            Content::Pages(pages) => pages.number(),
            Content::Bytes(_) | Content::Free => None,
        }
    }

    /// The kernel's view of a buffer in flight, to read into. Panics if it is at rest.
    pub fn lent_mut(&mut self, id: BufferId) -> &mut [u8] {
        let place = self.place_mut(id);
        assert!(place.lent, "the kernel touched {id:?} outside an operation");
        match &mut place.content {
            Content::Bytes(bytes) => bytes,
            Content::Pages(pages) => pages.as_bytes_mut(),
            Content::Free => panic!("{id:?} is free"),
        }
    }

    /// Fills the first buffer of a send in flight with other bytes: a bug, planted to see it found.
    #[cfg(feature = "planted")]
    pub fn scribble(&mut self, other: &[u8]) {
        use ringdesk_shard::planted::{self, Bug};
        let lent =
            self.places.iter_mut().filter(|place| place.lent).find_map(|place| match &mut place.content {
                Content::Bytes(bytes) => Some(bytes),
                _ => None,
            });
        if let Some(bytes) = lent.filter(|_| planted::on(Bug::ReuseBuffer)) {
            let len = bytes.len().min(other.len());
            bytes[..len].copy_from_slice(&other[..len]);
        }
    }

    /// Number of buffers in flight.
    pub fn in_flight(&self) -> usize {
        self.lent
    }

    fn place(&self, id: BufferId) -> &Place {
        let place = &self.places[id.index() as usize];
        assert!(place.generation == id.generation, "{id:?} is stale");
        place
    }

    fn place_mut(&mut self, id: BufferId) -> &mut Place {
        let place = &mut self.places[id.index() as usize];
        assert!(place.generation == id.generation, "{id:?} is stale");
        place
    }
}

impl Drop for Buffers {
    /// What is still lent is leaked: the kernel may write into it after this thread is gone, and a freed buffer
    /// would by then be somebody else's memory.
    fn drop(&mut self) {
        for place in &mut self.places {
            if place.lent {
                std::mem::forget(std::mem::replace(&mut place.content, Content::Free));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_back_as_they_went_in() {
        let mut buffers = Buffers::new();
        let id = buffers.insert_bytes(vec![1, 2, 3]);
        buffers.lend(id);
        assert_eq!(buffers.lent(id), [1, 2, 3]);
        assert_eq!(buffers.in_flight(), 1);
        buffers.give_back(id);
        assert_eq!(buffers.take_bytes(id), [1, 2, 3]);
        assert_eq!(buffers.in_flight(), 0);
    }

    #[test]
    #[should_panic(expected = "taken while in flight")]
    fn a_buffer_in_flight_cannot_be_taken() {
        let mut buffers = Buffers::new();
        let id = buffers.insert_bytes(Vec::new());
        buffers.lend(id);
        buffers.take_bytes(id);
    }

    #[test]
    #[should_panic(expected = "lent twice")]
    fn a_buffer_in_flight_cannot_be_lent_again() {
        let mut buffers = Buffers::new();
        let id = buffers.insert_bytes(Vec::new());
        buffers.lend(id);
        buffers.lend(id);
    }

    #[test]
    #[should_panic(expected = "outside an operation")]
    fn the_kernel_cannot_touch_a_buffer_at_rest() {
        let mut buffers = Buffers::new();
        let id = buffers.insert_bytes(vec![1]);
        buffers.lent_mut(id);
    }

    #[test]
    #[should_panic(expected = "is stale")]
    fn a_stale_id_never_reaches_a_later_buffer() {
        let mut buffers = Buffers::new();
        let old = buffers.insert_bytes(vec![1]);
        buffers.take_bytes(old);
        let new = buffers.insert_bytes(vec![2]);
        assert_eq!(new.index(), old.index());
        buffers.lend(old);
    }
}
