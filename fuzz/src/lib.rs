//! Fuzz targets: each module takes any bytes, gives them to one decoder, and panics if the decoder breaks a promise.
//!
//! Order, along the data path: [`proxy`], [`frame`], [`message`], [`json`], [`websocket`], [`upgrade`], [`ticket`]; then what is
//! read from the disk: [`record`], [`log`]; what another process hands over: [`carry`]; and at the end all of it together, [`shard`]. A target is a pure function of its input, so an input that fails once
//! fails always; the runner keeps it, and it becomes a file in `corpus/` and a named test of the crate it concerns.
//!
//! Decoders that are fed piece by piece are checked for every way of cutting: the first bytes of the input
//! ([`pieces`]) say how the rest is cut.

pub mod carry;
pub mod frame;
pub mod json;
pub mod log;
pub mod message;
pub mod pieces;
pub mod proxy;
pub mod record;
pub mod shard;
pub mod ticket;
pub mod upgrade;
pub mod websocket;

/// A target: panics if a promise is broken.
pub type Check = fn(&[u8]);

/// Every target by its name, which is also that of its folder in `corpus/`.
pub const TARGETS: &[(&str, Check)] = &[
    ("proxy", proxy::check),
    ("frame", frame::check),
    ("message", message::check),
    ("json", json::check),
    ("websocket", websocket::check),
    ("upgrade", upgrade::check),
    ("ticket", ticket::check),
    ("record", record::check),
    ("log", log::check),
    ("carry", carry::check),
    ("shard", shard::check),
];
