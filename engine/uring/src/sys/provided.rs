//! The receive buffers of a ring: a pool the kernel picks from when bytes arrive, so that an idle connection owns
//! none.
//!
//! Order: the kernel takes a buffer, its completion names it, its bytes are copied out, it goes back at once, and the
//! kernel sees all that went back with the next [`ProvidedBuffers::publish`].

use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::{Submitter, types::BufRingEntry};

/// The group number of the only pool of a ring.
pub(super) const GROUP: u16 = 0;

/// Anonymous memory, page aligned, zeroed.
#[derive(Debug)]
pub(super) struct Mapping {
    at: NonNull<u8>,
    bytes: usize,
}

impl Mapping {
    pub(super) fn new(bytes: usize) -> io::Result<Self> {
        // SAFETY: a fresh private mapping at an address of the kernel's choice touches no existing memory.
        let at = unsafe {
            let (protection, kind) =
                (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
            libc::mmap(std::ptr::null_mut(), bytes, protection, kind, -1, 0)
        };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let at = NonNull::new(at.cast()).expect("a mapping is never at address 0");
        Ok(Self { at, bytes })
    }

    pub(super) fn start(&self) -> *mut u8 {
        self.at.as_ptr()
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and nothing borrows from it any more; the kernel's operations on it ended
        // (the shim waits for that, or leaks the mapping).
        unsafe { libc::munmap(self.at.as_ptr().cast(), self.bytes) };
    }
}

/// The pool.
#[derive(Debug)]
pub(super) struct ProvidedBuffers {
    ring: Mapping,
    memory: Mapping,
    count: u16,
    bytes_each: u32,
    tail: u16,
}

impl ProvidedBuffers {
    /// Registers `count` buffers (a power of two up to 32,768) of `bytes_each` bytes.
    pub(super) fn new(submitter: &Submitter<'_>, count: u16, bytes_each: u32) -> io::Result<Self> {
        assert!(count.is_power_of_two() && bytes_each > 0, "{count} receive buffers of {bytes_each} bytes");
        let ring = Mapping::new(usize::from(count) * size_of::<BufRingEntry>())?;
        let memory = Mapping::new(usize::from(count) * bytes_each as usize)?;
        // SAFETY: the mapping is page aligned, holds `count` entries, and outlives the registration: it is unmapped
        // only after the ring's operations ended.
        unsafe { submitter.register_buf_ring_with_flags(ring.start().addr() as u64, count, GROUP, 0)? };
        let mut buffers = Self { ring, memory, count, bytes_each, tail: 0 };
        for id in 0..count {
            buffers.give_back(id);
        }
        buffers.publish();
        Ok(buffers)
    }

    pub(super) fn bytes_each(&self) -> u32 {
        self.bytes_each
    }

    fn buffer(&self, id: u16) -> *mut u8 {
        assert!(id < self.count, "receive buffer {id} of {}", self.count);
        // SAFETY: `id` is below `count`, so the offset lies inside the mapping.
        unsafe { self.memory.start().add(usize::from(id) * self.bytes_each as usize) }
    }

    /// The first `len` bytes of a buffer that a completion named and that was not given back yet.
    pub(super) fn bytes(&self, id: u16, len: usize) -> &[u8] {
        assert!(len <= self.bytes_each as usize, "{len} bytes in a buffer of {}", self.bytes_each);
        // SAFETY: inside the mapping, initialised (mapped zeroed, then written by the kernel), and not written again
        // before the buffer is given back, which needs `&mut self`.
        unsafe { std::slice::from_raw_parts(self.buffer(id), len) }
    }

    /// Returns a buffer to the pool; the kernel sees it after [`Self::publish`].
    pub(super) fn give_back(&mut self, id: u16) {
        let (address, at) = (self.buffer(id).addr() as u64, self.tail & (self.count - 1));
        // SAFETY: `at` is below `count`, so the entry lies inside the mapping, which is aligned for it; the kernel
        // does not read entries at or beyond the published tail. Only the three fields are written: the tail lives
        // in the reserved bytes of entry 0.
        let entry = unsafe { &mut *self.ring.start().cast::<BufRingEntry>().add(usize::from(at)) };
        entry.set_addr(address);
        entry.set_len(self.bytes_each);
        entry.set_bid(id);
        self.tail = self.tail.wrapping_add(1);
    }

    /// Shows the kernel what was given back.
    pub(super) fn publish(&mut self) {
        // SAFETY: the ring's base is a valid entry; its tail is a u16 at an even offset that only we write and the
        // kernel reads, so an atomic store is the right access.
        let tail = unsafe { &*BufRingEntry::tail(self.ring.start().cast()).cast::<AtomicU16>() };
        tail.store(self.tail, Ordering::Release);
    }
}
