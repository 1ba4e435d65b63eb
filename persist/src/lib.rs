//! Per-shard append-only log: sectors, batches, segments, replay. Payloads are opaque bytes.
//!
//! Sans-IO. [`Appender`] turns staged records into [`DiskOp`]s and is fed [`DiskDone`]s; [`SegmentScan`] reads the
//! bytes of one segment file at a time; [`extract`] takes single records out of what a read brought. Nothing here
//! calls the system, reads a clock or knows what a record means. The byte format, the fault model and the decision
//! table for a damaged or torn log are in `docs/LOG_FORMAT.md`; change that page first.
//!
//! Order, from the bytes up: [`Pages`] (aligned memory), `sector` (512 bytes, checksum and generation), `batch`
//! (one write), `segment` (one file), [`Appender`] (one log being written), [`SegmentScan`] (one log being read).
//!
//! Ownership: a log has one appender, owned by one shard. A buffer inside a [`DiskOp`] belongs to the driver until
//! it comes back in the [`DiskDone`].

mod appender;
mod batch;
mod chain;
mod disk;
mod extent;
mod follow;
mod geometry;
mod meta;
mod pages;
mod position;
mod read;
mod report;
mod runway;
mod scan;
mod sector;
mod segment;

pub use appender::{Appender, AppenderStats, Fatal, Flushed, Full};
pub use chain::Link;
pub use disk::{DiskDone, DiskOp, OpId};
pub use extent::{EXTENT_BYTES, Extent, ExtentError, extent_file};
pub use follow::{FollowError, Follower, Progress, Source};
pub use geometry::{Geometry, GeometryError};
pub use meta::{META_BYTES, Meta, MetaError};
pub use pages::{Page, Pages};
pub use position::{
    LogId, Lsn, Position, Record, RecordRef, log_directory, segment_file, segment_number, unborn_file,
};
pub use read::{ExtractError, Extracted, ReadSpan, extract, plan_reads, read_op};
pub use report::{Damage, DamageKind, LogReport, LostRecord, Resume, Spare, Tail, Torn};
pub use scan::{ScanError, ScanPlan, SegmentScan, scan_log};
pub use sector::{SECTOR_BYTES, SECTOR_PAYLOAD, UNREADABLE};
pub use segment::{FORMAT_VERSION, Generations};

/// Bytes of the fixed header in front of each record's payload.
pub const RECORD_HEAD_BYTES: usize = batch::RECORD_HEAD;
