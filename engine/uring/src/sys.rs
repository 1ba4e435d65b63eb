//! The io_uring shim: carries out what the table describes. No decisions: those are the table's.
//!
//! Order of reading: `fleet` (what rings know of each other), `setup` (the ring, its flags and tables, and what may
//! be missing), `enter` (the one system call of a turn), `provided` (receive buffers), `registered` (the log's buffers),
//! `ring` (one ring), `shim` (operations in, completions out, over all rings of the shard), `segments` (open log files),
//! `transfer` (connections that change the process).
//! Apart from these: `sockets`, a ring for load generators.
//!
//! Ownership: memory the kernel writes to is either a lent buffer of the table or a mapping of `provided`; both stay
//! mapped until the last completion, also when a reactor is dropped in the middle of its work.
#![allow(unsafe_code)] // The crate's reason to exist; every block states why it holds.

mod enter;
mod fleet;
mod inherit;
mod provided;
mod registered;
mod ring;
mod segments;
mod setup;
mod shim;
mod sockets;
mod transfer;

pub use fleet::Fleet;
pub use inherit::{Inherited, inherited};
pub use setup::{Features, OpenError, SysConfig};
pub use shim::SysKernel;
pub use sockets::{IDLE_SLOT_BYTES, SLOTS_PER_ADDRESS, SocketEvent, SocketRing, SocketRingConfig};
