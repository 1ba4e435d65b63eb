//! One shard, sans-IO: connections, router, desk, log appender, gate, outbox.
//!
//! `Shard::step(now, inputs, outputs)` is one turn. The crate has no clock, no randomness, no thread and no
//! system call; the reactor and the simulator drive the same object.

pub mod ask;
pub mod io;
pub mod message;
pub mod report;
pub mod settings;
