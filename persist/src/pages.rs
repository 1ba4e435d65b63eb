//! Aligned memory for direct I/O, without unsafe.
//!
//! Order: allocated zeroed, filled by its owner, lent to the driver inside a [`crate::DiskOp`], handed back in the
//! [`crate::DiskDone`]. Whoever holds the value owns the memory; there is no sharing.

use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

/// 4096 bytes, aligned to 4096: the coarsest alignment that direct I/O asks for here.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(4096))]
pub struct Page([u8; 4096]);

/// An owned buffer whose address is a multiple of 4096 and whose length is a multiple of 512 bytes.
pub struct Pages {
    pages: Box<[Page]>,
    len: usize,
    number: Option<u16>,
}

impl Pages {
    /// A zeroed buffer of `bytes` bytes.
    ///
    /// # Panics
    /// If `bytes` is not a multiple of 512, or memory is exhausted.
    #[must_use]
    pub fn zeroed(bytes: usize) -> Self {
        assert!(bytes.is_multiple_of(512), "a page buffer of {bytes} bytes is not whole sectors");
        let count = bytes.div_ceil(size_of::<Page>());
        // A Box of this size fails only when memory is exhausted, where the allocator would abort anyway.
        let pages = <[Page]>::new_box_zeroed_with_elems(count).expect("memory for a page buffer");
        Self { pages, len: bytes, number: None }
    }

    /// [`Pages::zeroed`] that its driver knows by a number: memory the driver prepared for writes. The number stays with
    /// the memory for as long as the value lives, whatever passes it on.
    ///
    /// # Panics
    /// As [`Pages::zeroed`].
    #[must_use]
    pub fn numbered(bytes: usize, number: u16) -> Self {
        Self { number: Some(number), ..Self::zeroed(bytes) }
    }

    /// The number that the driver gave it, if it is one of the driver's.
    #[must_use]
    pub fn number(&self) -> Option<u16> {
        self.number
    }

    /// Length in bytes, a multiple of 512.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// True if the buffer has no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes the buffer can hold without allocating, a multiple of 4096.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.pages.len() * size_of::<Page>()
    }

    /// Shortens or lengthens the buffer within its capacity. Bytes are neither cleared nor moved.
    ///
    /// # Panics
    /// If `bytes` is not a multiple of 512 or larger than [`Pages::capacity`].
    pub fn set_len(&mut self, bytes: usize) {
        assert!(bytes.is_multiple_of(512), "a page buffer of {bytes} bytes is not whole sectors");
        assert!(bytes <= self.capacity(), "{bytes} bytes exceed the buffer's {}", self.capacity());
        self.len = bytes;
    }

    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.pages.as_bytes()[..self.len]
    }

    /// The bytes, writable.
    #[must_use]
    pub fn as_bytes_mut(&mut self) -> &mut [u8] {
        &mut self.pages.as_mut_bytes()[..self.len]
    }
}

impl std::fmt::Debug for Pages {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pages({} bytes)", self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_aligned_and_zero() {
        let mut pages = Pages::zeroed(1536);
        assert_eq!(pages.len(), 1536);
        assert_eq!(pages.capacity(), 4096);
        assert_eq!(pages.as_bytes().as_ptr().addr() % 4096, 0);
        assert!(pages.as_bytes().iter().all(|b| *b == 0));
        pages.as_bytes_mut()[1535] = 7;
        pages.set_len(512);
        assert_eq!(pages.as_bytes().len(), 512);
        pages.set_len(1536);
        assert_eq!(pages.as_bytes()[1535], 7, "set_len moves no bytes");
    }

    #[test]
    fn a_number_stays_with_its_memory() {
        let mut pages = Pages::numbered(8192, 3);
        pages.set_len(512);
        assert_eq!((pages.number(), pages.capacity()), (Some(3), 8192));
        assert_eq!(Pages::zeroed(8192).number(), None);
    }

    #[test]
    #[should_panic(expected = "not whole sectors")]
    fn odd_lengths_are_a_broken_invariant() {
        let _ = Pages::zeroed(100);
    }
}
