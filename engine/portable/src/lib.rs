//! The driver contract of `ringdesk-uring` on monoio's epoll driver, for hosts where io_uring is forbidden: Docker's
//! default seccomp profile, the sysctl `kernel.io_uring_disabled`, Linux before 6.1.
//!
//! Order of reading: `fleet` (what the shards know of each other), `watch` (waiting, the part that monoio does),
//! `descriptor` (the socket calls), `files` (segment files on threads of their own), `kernel` (the contract).
//!
//! Ownership: monoio says *when* a descriptor can be read or written; the kernel does it then, itself, straight
//! between the socket and the buffers of the operation table. So a waiting connection owns no buffer, nothing is
//! copied that io_uring would not copy, and a cancelled operation ends at once: no other thread and no system call
//! of a connection can be in the middle of it.
//!
//! What it costs against io_uring: a system call per receive, per send and per wake-up; each connection takes a
//! descriptor of the process (RLIMIT_NOFILE bounds their number) and about half a kilobyte while it waits; writes to
//! the log pass through another thread.

mod descriptor;
mod files;
mod fleet;
#[cfg(feature = "glommio")]
mod glommio;
mod kernel;
mod watch;

pub use fleet::Fleet;
#[cfg(feature = "glommio")]
pub use glommio::GlommioKernel;
pub use kernel::{OpenError, PortableConfig, PortableKernel};
