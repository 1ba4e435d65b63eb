//! Connections that change the process: a descriptor of the process for an entry of the table, and the way back.
//!
//! A direct descriptor is nobody's but the ring's, and a ring cannot be sent to another process. So the old process
//! installs ordinary descriptors beside the entries (IORING_OP_FIXED_FD_INSTALL), sends and closes them; the new one
//! registers what it receives in its own table (IORING_REGISTER_FILES_UPDATE) and closes its ordinary ones. The
//! connection itself never closes: there is always a reference more.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use io_uring::opcode;
use io_uring::types::Fixed;

use super::shim::{INSTALL, SysKernel, accept_reserve, internal};
use crate::kernel::Transfer;

/// Longest wait for the kernel to install a batch of descriptors, which takes it microseconds.
const INSTALL_WAIT: Duration = Duration::from_secs(5);

impl SysKernel {
    /// Takes what the rings completed; ends of installs are noted, all else waits for the next turn.
    fn take_installs(&mut self) -> io::Result<()> {
        let (mut batch, mut arena) = (Vec::new(), Vec::new());
        for at in 0..self.rings.len() {
            self.rings[at].enter(None)?;
            self.rings[at].take(usize::MAX, &mut batch);
            for entry in batch.drain(..) {
                if let Some(completion) = self.translate(at, &entry, &mut arena) {
                    self.local.push_back(completion);
                }
            }
            self.rings[at].provided().publish();
        }
        assert!(arena.is_empty(), "a shard that stands still received bytes");
        Ok(())
    }
}

impl Transfer for SysKernel {
    fn listen(&mut self, listeners: Vec<OwnedFd>) -> io::Result<()> {
        assert!(self.listeners.is_empty(), "a kernel takes its listeners once");
        self.accepting = vec![(0, 0); listeners.len()];
        self.listeners = listeners;
        Ok(())
    }

    fn exports(&self) -> bool {
        self.features.fd_install
    }

    fn export(&mut self, entries: &[u32]) -> io::Result<Vec<OwnedFd>> {
        assert!(self.features.fd_install, "this kernel does not export");
        self.installs = vec![None; entries.len()];
        for (place, entry) in (0..).zip(entries) {
            let (ring, local) = self.place(*entry);
            // Flags 0: the descriptor is closed in programs that are started.
            let install = opcode::FixedFdInstall::new(Fixed(local), 0).build();
            ring.push(&install.user_data(internal(INSTALL, place)), true);
        }
        let deadline = Instant::now() + INSTALL_WAIT;
        while self.installs.contains(&None) {
            self.take_installs()?;
            if Instant::now() > deadline {
                return Err(io::Error::from_raw_os_error(libc::ETIMEDOUT));
            }
        }
        let mut installed = Vec::with_capacity(entries.len());
        let mut failure = None;
        for result in self.installs.drain(..) {
            match result.expect("waited for") {
                errno @ ..0 => failure = Some(io::Error::from_raw_os_error(-errno)),
                // SAFETY: the kernel installed this descriptor for this call a moment ago; nobody else knows its number.
                descriptor => installed.push(unsafe { OwnedFd::from_raw_fd(descriptor) }),
            }
        }
        failure.map_or(Ok(installed), Err)
    }

    fn import(&mut self, sockets: Vec<OwnedFd>) -> io::Result<Vec<u32>> {
        assert!(self.accepting.iter().all(|(_, user)| *user == 0), "an import after the first turn");
        let numbers: Vec<RawFd> = sockets.iter().map(AsRawFd::as_raw_fd).collect();
        let mut entries = Vec::with_capacity(numbers.len());
        // First as accepts would fill the rings; what is left over goes wherever there is room.
        for reserve in [true, false] {
            for ring in &mut self.rings {
                let kept = if reserve { accept_reserve(ring) } else { 0 };
                let room = ring.entries.saturating_sub(ring.used() + kept) as usize;
                let rest = &numbers[entries.len()..];
                let next = &rest[..room.min(rest.len())];
                if !next.is_empty() {
                    // Nothing was closed yet, so the free entries are those from the count of used ones on.
                    let (local, put) = (ring.used(), ring.put(ring.used(), next)?);
                    entries.extend((0..put as u32).map(|at| ring.base + local + at));
                }
            }
        }
        Ok(entries)
    }
}
