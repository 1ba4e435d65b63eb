//! The io_uring_enter call, through the registered descriptor of the ring where that is possible.
//!
//! The `io-uring` crate keeps a registered descriptor only inside a borrowed submitter, which cannot live beside the
//! ring it borrows from; so the two system calls are made here.

use std::io;
use std::os::fd::RawFd;

const ENTER_GETEVENTS: u32 = 1;
const ENTER_EXT_ARG: u32 = 1 << 3;
const ENTER_REGISTERED_RING: u32 = 1 << 4;
const REGISTER_RING_FDS: u32 = 20;
const UNREGISTER_RING_FDS: u32 = 21;

/// struct io_uring_rsrc_update (linux/io_uring.h).
#[repr(C)]
struct RingUpdate {
    offset: u32,
    resv: u32,
    data: u64,
}

/// struct io_uring_getevents_arg (linux/io_uring.h).
#[repr(C)]
struct WaitArg {
    sigmask: u64,
    sigmask_sz: u32,
    min_wait_usec: u32,
    ts: u64,
}

/// struct __kernel_timespec (linux/time_types.h).
#[repr(C)]
struct Timespec {
    tv_sec: i64,
    tv_nsec: i64,
}

/// How to name the ring in system calls.
#[derive(Debug)]
pub(super) struct Gate {
    ring: RawFd,
    registered: Option<u32>,
}

impl Gate {
    /// The ring by its ordinary descriptor, which must outlive the gate.
    pub(super) fn new(ring: RawFd) -> Self {
        Self { ring, registered: None }
    }

    /// Registers the ring with the calling thread, which saves a table look-up per call.
    pub(super) fn register(&mut self) -> io::Result<()> {
        let mut update = RingUpdate { offset: u32::MAX, resv: 0, data: self.ring as u64 };
        self.register_call(REGISTER_RING_FDS, &mut update)?;
        self.registered = Some(update.offset);
        Ok(())
    }

    fn register_call(&self, code: u32, update: &mut RingUpdate) -> io::Result<()> {
        // SAFETY: `update` is a live, exclusively borrowed struct of the layout the kernel reads and writes, one of
        // it, as the count says.
        let done = unsafe {
            libc::syscall(libc::SYS_io_uring_register, self.ring, code, std::ptr::from_mut(update), 1)
        };
        if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Submits `count` queued operations and runs what the kernel deferred. With `wait_ns`, also waits for a
    /// completion, at most that long (`u64::MAX`: without limit).
    pub(super) fn enter(&self, count: u32, wait_ns: Option<u64>) -> io::Result<()> {
        let mut flags = ENTER_GETEVENTS;
        let ring = match self.registered {
            Some(index) => {
                flags |= ENTER_REGISTERED_RING;
                index as RawFd
            }
            None => self.ring,
        };
        let ns = wait_ns.unwrap_or(u64::MAX);
        let limit = Timespec { tv_sec: (ns / 1_000_000_000) as i64, tv_nsec: (ns % 1_000_000_000) as i64 };
        let ts = if ns == u64::MAX { 0 } else { std::ptr::from_ref(&limit).addr() as u64 };
        let arg = WaitArg { sigmask: 0, sigmask_sz: 0, min_wait_usec: 0, ts };
        let want = u32::from(wait_ns.is_some());
        let (arg, size) = match wait_ns {
            Some(_) => (std::ptr::from_ref(&arg), size_of::<WaitArg>()),
            None => (std::ptr::null(), 0),
        };
        if wait_ns.is_some() {
            flags |= ENTER_EXT_ARG;
        }
        // SAFETY: `ring` is open (or registered by this thread) as long as the gate lives; `arg` is null or points
        // to a live struct of the announced size whose `ts` is 0 or the address of `limit`, alive until the call
        // returns. Operations in the queue were vouched for when they were pushed.
        let done = unsafe { libc::syscall(libc::SYS_io_uring_enter, ring, count, want, flags, arg, size) };
        if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        if let Some(offset) = self.registered {
            // Fails only if the thread is not the one that registered, and then its exit frees the registration.
            let _ = self.register_call(UNREGISTER_RING_FDS, &mut RingUpdate { offset, resv: 0, data: 0 });
        }
    }
}
