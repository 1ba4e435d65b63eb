//! The deterministic simulator and its oracle.
//!
//! # Fault model
//!
//! Stated before the code, because the code has to follow it.
//!
//! **Disk.** The unit of survival is a 512-byte sector. A completed write is durable. When the machine stops, each
//! sector of a write in flight survives or not by itself; a file being created is there as a whole or not at all,
//! since it is renamed last. When only the process is killed, what survived lies in a cache: replay reads it, and a
//! later power loss may still drop it, unless it was synced in between. A write may be shorter than asked; its bytes
//! are durable only with a later full one. A write may fail (EIO): some of its sectors may have reached the medium,
//! and until the process ends every retry of it reports success, shows the bytes, and keeps nothing. Creating a file
//! may fail (ENOSPC). Bits do not rot here; damaged sectors are the tests of the log itself.
//!
//! **Network.** Bytes of one direction of one connection keep their order and may be cut anywhere and delayed; between
//! connections nothing is ordered. A connection may fail for both sides, be closed by either, or lose its client
//! without a word. A client may stop reading; then the engine's sends find no room. A new connection arrives at a
//! random shard.
//!
//! **Kernel.** Completions of different operations come in any order and late. Receives and sends are shortened.
//! Multishot operations end without need, receives find no buffer (ENOBUFS), operations are interrupted (EINTR,
//! EAGAIN), a full table refuses accepts and hand-overs (ENFILE), a cancelled operation ends as cancelled or with what
//! it had reached. A send reads its buffer when it completes, not when it is submitted.
//!
//! **Shards.** Each runs the real reactor, operation table, lanes and shard. A shard may pause. Process or machine may
//! stop at any point and come back with another number of shards.
//!
//! **Upgrades.** All shards stand still, their connections are written down, and a process with another number of shards
//! takes them over, booted from what the disk has durably. It may be called off at any point, and process or machine may
//! stop at any point of it.
//!
//! **Not modelled.** Memory exhaustion, Byzantine clients (the protocol's own tests), rotten bits, clocks that run
//! backwards.
//!
//! # A run
//!
//! A seed draws a [`plan::Plan`]. In the safety phase faults and stops happen while clients work. Then everything
//! heals and the liveness phase must end: each request answered, each device caught up, each conversation with an
//! agent. Last comes the audit: new devices read everything from the start and the [`oracle::Oracle`] compares. The
//! oracle knows the contract and nothing of the engine. The same seed gives the same hash of every byte a client saw
//! and every disk write.
//!
//! Order of reading: [`plan`], [`disk`], [`net`], [`kernel`] (the environment), [`oracle`], [`client`] (the clients),
//! [`cluster`] (the engine), [`world`] (time), [`upgrade`] (two processes), [`run`] (a seed).

pub mod client;
pub mod cluster;
pub mod disk;
pub mod kernel;
pub mod net;
pub mod oracle;
pub mod plan;
pub mod rng;
pub mod run;
pub mod upgrade;
pub mod world;

pub use run::{Outcome, run_plan, run_seed};
