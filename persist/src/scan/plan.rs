//! What a scan is told before it starts, and why it may not go on.

use std::fmt;

use crate::segment::FORMAT_VERSION;
use crate::{Extent, LogId, Position};

/// What a scan must know before it starts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ScanPlan {
    /// The log.
    pub log: LogId,
    /// Configured length of a segment file, used where a file cannot tell its own.
    pub segment_bytes: u32,
    /// Number of the first segment that should exist: 0 until old segments are dropped.
    pub first_segment: u32,
    /// First number that need not exist: everything from `first_segment` below it was brought to life.
    pub end_segment: u32,
    /// Where the log ended when it was closed, if it was: it cannot end earlier.
    pub closed: Option<Position>,
}

impl ScanPlan {
    /// A scan of a log whose [`crate::Extent`] is `extent`; without one every file there is counts, and no other.
    #[must_use]
    pub fn new(log: LogId, segment_bytes: u32, extent: Option<&Extent>) -> Self {
        let (first_segment, end_segment) = extent.map_or((0, 0), |extent| (extent.lowest, extent.end));
        let closed = extent.and_then(|extent| extent.closed);
        Self { log, segment_bytes, first_segment, end_segment, closed }
    }
}

/// Why a scan cannot go on. Damage is not among these: it is reported and the rest is served.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ScanError {
    /// Segments were given out of order: this number after a higher or equal one.
    Order(u32),
    /// The segment has this format version, which this build does not read.
    Version(u32, u16),
}

impl fmt::Display for ScanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Order(segment) => write!(f, "segment {segment} was given out of order"),
            Self::Version(segment, version) => {
                write!(f, "segment {segment} has format version {version}; this build reads {FORMAT_VERSION}")
            }
        }
    }
}

impl std::error::Error for ScanError {}
