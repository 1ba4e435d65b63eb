//! The pure desk: conversations, queues, agents, assignment, dedup.
//!
//! `decide(now, command) -> events` reads the state and changes nothing; `apply(event)` changes it and cannot
//! fail. There is no clock, no randomness, no I/O and no hash-order iteration in this crate: the same events
//! give the same state on every machine.

pub mod command;
pub mod event;
pub mod ids;
