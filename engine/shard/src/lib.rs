//! One shard, sans-IO: connections, router, desk, log appender, gate, outbox.
//!
//! `Shard::step(now, inputs, outputs)` is one turn. The crate has no clock, no randomness, no thread and no
//! system call; the reactor and the simulator drive the same object.
//!
//! Data path, in the order of the modules: `front` (bytes to asks) -> `router` -> `owner` (decide, stage, `gate`,
//! `index`) -> `mail` -> `front` (frames to outboxes).

pub mod ask;
pub mod carry;
pub mod chunks;
mod clock;
mod frames;
mod front;
mod gate;
mod index;
pub mod io;
mod jwt;
mod mail;
pub mod message;
mod owner;
pub mod planted;
pub mod report;
pub mod router;
pub mod settings;
mod shard;
pub mod ticket;
pub mod tls;

pub use front::{ASKING_MAX, Most};
pub use owner::{CHUNK_BYTES, Owner, OwnerConfig, Replay, ReplayError};
pub use shard::Shard;
