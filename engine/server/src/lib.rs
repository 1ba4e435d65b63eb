//! ringdeskd: boot, replay, reactors, control plane.
//!
//! Order of reading: [`config`], [`directory`], [`control`], [`boot`]. Ownership: the control plane has one thread; shards have
//! one each and are reached through their mailboxes only.

pub mod boot;
pub mod config;
pub mod control;
pub mod demo;
pub mod directory;
pub mod journal;
pub mod secrets;
pub mod tls;
pub mod upgrade;
