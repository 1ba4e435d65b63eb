//! The io_uring driver of a shard.
//!
//! Ownership, the one rule everything here follows: **a descriptor and a buffer belong to an operation until its
//! last completion.** The operation table ([`table`]) is pure and knows who owns what; the kernel ([`kernel`])
//! carries operations out and is either io_uring (`sys`, on Linux 6.1 or later), the portable backend, or the
//! simulator. The [`reactor`] is the loop around both, the same code over each of them.
//!
//! Order of reading: [`turn`] (what is driven), [`kernel`] (the seam), [`buffers`], [`table`], [`reactor`], [`run`],
//! then `sys`. Unsafe code lives in `sys` only.

pub mod buffers;
pub mod clock;
#[cfg(feature = "host")]
pub mod extents;
#[cfg(feature = "host")]
pub mod files;
#[cfg(feature = "host")]
pub mod host;
pub mod kernel;
#[cfg(feature = "host")]
pub mod listen;
pub mod mailbox;
pub mod reactor;
pub mod run;
pub mod still;
#[cfg(feature = "sys")]
pub mod sys;
pub mod table;
pub mod turn;
