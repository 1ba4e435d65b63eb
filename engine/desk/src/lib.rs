//! The pure desk: conversations, queues, agents, assignment, dedup.
//!
//! `decide(now, command) -> events` reads the state and changes nothing; `apply(event)` changes it and cannot
//! fail. There is no clock, no randomness, no I/O and no hash-order iteration in this crate: the same events
//! give the same state on every machine.

mod agent;
pub mod census;
pub mod codec;
mod codec_read;
pub mod command;
mod conversation;
mod decision;
pub mod desk;
mod device;
mod digest;
mod dispatcher;
pub mod event;
pub mod ids;
pub mod limits;
mod pairs;
mod placement;
mod queue;
mod slot;
mod sorted;
mod store;
pub mod view;
mod visitor;

pub use desk::Desk;
pub use device::{KIND_RESOLVE, resolve_hash, send_hash};
pub use limits::{EPOCH_MAX, Limits};
pub use view::{AgentView, ConversationView, Receipts, SiteView};
