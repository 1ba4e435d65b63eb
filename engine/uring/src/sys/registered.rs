//! The log's buffers: memory that a ring knows from the start, so that the kernel pins no pages for a write out of it.
//!
//! Order: allocated and registered while the ring is still disabled, handed to the shard's log once
//! ([`Registered::take`]), and from then on each goes round: filled, lent to a write, given back. The log may have more
//! batches at hand than there are buffers here; those go out of ordinary memory with an ordinary write.
//!
//! Ownership: a buffer is the log's, or the table's while it is lent. The registration holds its pages in memory, not the
//! value: a buffer that is dropped leaves a registration that no write names again, because its number went with it.

use std::os::fd::RawFd;

use io_uring::types::Fd;
use io_uring::{Submitter, opcode, squeue};
use ringdesk_persist::Pages;
use rustix::process::{Resource, getrlimit};
use rustix::thread::{CapabilitySet, capabilities};

use super::setup::{Features, SysConfig};

/// What the log's buffers may take of RLIMIT_MEMLOCK, in quarters: the rest is for the rings of all shards.
const QUARTERS: u64 = 3;

/// What the log does without, for people.
const WITHOUT: &str = "the kernel pins the memory of each write to the log";

/// The buffers of one ring, by number.
#[derive(Default, Debug)]
pub(super) struct Registered {
    /// First address and length of each.
    places: Vec<(usize, usize)>,
    /// Not yet handed out.
    pages: Vec<Pages>,
    writes: u64,
}

/// Takes the log's buffers out of a configuration if those of all `shards` together would leave the rings too little of
/// the memory that may be locked.
pub(super) fn bound(config: &mut SysConfig, shards: usize, notices: &mut Vec<String>) {
    let bytes = u64::from(config.log_buffers) * u64::from(config.log_buffer_bytes);
    if !fits(bytes, shards, lockable()) {
        config.features.registered_buffers = false;
        notices.push(format!(
            "RLIMIT_MEMLOCK is too low to register {} KiB of log buffers for each of {shards} shards: {WITHOUT}",
            bytes >> 10
        ));
    }
}

/// Bytes the process may lock; `None`: any number.
fn lockable() -> Option<u64> {
    // Without an answer the limit counts; a kernel that thinks otherwise says so when the buffers are registered.
    let may_exceed = capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::IPC_LOCK));
    if may_exceed { None } else { getrlimit(Resource::Memlock).current }
}

fn fits(bytes_each: u64, shards: usize, lockable: Option<u64>) -> bool {
    lockable.is_none_or(|limit| bytes_each.saturating_mul(shards as u64) <= limit / 4 * QUARTERS)
}

impl Registered {
    /// Allocates and registers what `config` wants and `features` still hold. A kernel that refuses costs the feature and
    /// a line, not the start.
    pub(super) fn open(
        submitter: &Submitter<'_>,
        config: &SysConfig,
        features: &mut Features,
        notices: &mut Vec<String>,
    ) -> Self {
        if !features.registered_buffers || config.log_buffers == 0 {
            return Self::default();
        }
        let bytes = config.log_buffer_bytes as usize;
        let mut pages: Vec<Pages> =
            (0..config.log_buffers).map(|number| Pages::numbered(bytes, number)).collect();
        let vectors: Vec<libc::iovec> = pages
            .iter_mut()
            .map(|pages| {
                let bytes = pages.as_bytes_mut();
                libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() }
            })
            .collect();
        // SAFETY: each range is memory of a live allocation of that length. The ring only reads it, for writes that name
        // it, and `write` names it only for a buffer with its number, which is that very allocation, lent and therefore
        // alive until the write's last completion. Memory freed before the ring ends is pinned, not reused by the kernel.
        let registered = unsafe { submitter.register_buffers(&vectors) };
        if let Err(error) = registered {
            features.registered_buffers = false;
            notices.push(format!("the log's buffers cannot be registered ({error}): {WITHOUT}"));
            return Self::default();
        }
        let places = vectors.iter().map(|vector| (vector.iov_base.addr(), vector.iov_len)).collect();
        Self { places, pages, writes: 0 }
    }

    /// The buffers, the first time; then none.
    pub(super) fn take(&mut self) -> Vec<Pages> {
        std::mem::take(&mut self.pages)
    }

    /// Writes built so far that name a registered buffer.
    pub(super) fn writes(&self) -> u64 {
        self.writes
    }

    /// A write of lent `bytes` at `offset` of a file: out of registered memory if `number` says that they are, and they
    /// are. A number of another ring's buffer is none here.
    pub(super) fn write(
        &mut self,
        file: RawFd,
        number: Option<u16>,
        bytes: &[u8],
        offset: u64,
    ) -> squeue::Entry {
        let len = u32::try_from(bytes.len()).expect("a write below 4 GiB");
        let lies_in = |number: &u16| {
            let first = bytes.as_ptr().addr();
            let place = self.places.get(usize::from(*number));
            place.is_some_and(|(start, size)| first >= *start && first + bytes.len() <= start + size)
        };
        match number.filter(lies_in) {
            Some(number) => {
                self.writes += 1;
                opcode::WriteFixed::new(Fd(file), bytes.as_ptr(), len, number).offset(offset).build()
            }
            None => opcode::Write::new(Fd(file), bytes.as_ptr(), len).offset(offset).build(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rings_keep_their_quarter_of_the_lockable_memory() {
        let (three, eight) = (3 << 20, Some(8 << 20));
        assert!(fits(three, 2, eight));
        assert!(!fits(three, 3, eight));
        assert!(!fits(three, 1, Some(64 << 10)));
        assert!(fits(three, 1024, None));
    }

    #[test]
    fn only_the_buffer_itself_is_written_out_of_registered_memory() {
        let own = Pages::numbered(8192, 0);
        let stranger = Pages::numbered(8192, 0);
        let places = vec![(own.as_bytes().as_ptr().addr(), own.len())];
        let mut registered = Registered { places, pages: Vec::new(), writes: 0 };
        let mut code = |number, bytes: &[u8]| registered.write(0, number, bytes, 0).get_opcode() as u8;
        assert_eq!(code(own.number(), own.as_bytes()), opcode::WriteFixed::CODE);
        assert_eq!(code(own.number(), &own.as_bytes()[512..1024]), opcode::WriteFixed::CODE);
        assert_eq!(code(stranger.number(), stranger.as_bytes()), opcode::Write::CODE);
        assert_eq!(code(Some(1), own.as_bytes()), opcode::Write::CODE);
        assert_eq!(code(None, own.as_bytes()), opcode::Write::CODE);
        assert_eq!(registered.writes(), 2);
    }
}
