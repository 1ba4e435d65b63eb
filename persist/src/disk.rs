//! What the log asks of a disk, and what the driver answers. The driver and the simulated disk both speak this.

use crate::{LogId, Pages};

/// Number of one disk operation. Bit 63 is set on the appender's own operations; a shard numbers its reads without it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct OpId(pub u64);

impl OpId {
    const APPENDER: u64 = 1 << 63;

    pub(crate) fn appender(n: u64) -> Self {
        assert!(n < Self::APPENDER, "operation numbers are exhausted");
        Self(n | Self::APPENDER)
    }

    /// True if the completion belongs to [`crate::Appender::complete`].
    #[must_use]
    pub fn is_appender(self) -> bool {
        self.0 & Self::APPENDER != 0
    }
}

/// One operation for the disk. Offsets and lengths are multiples of the geometry's `align`.
#[derive(Debug)]
pub enum DiskOp {
    /// Brings a segment file to life: under [`crate::unborn_file`] give it its full length (it reads as zeros), write
    /// `header` at offset 0, sync the file, rename it to [`crate::segment_file`] (replacing a file of that name), sync
    /// the directory. Done when all of that is durable. So a file under a segment's name is never short and never
    /// without its header unless it was damaged.
    Create {
        /// Number for the completion.
        op: OpId,
        /// Log of the new segment.
        log: LogId,
        /// Its number.
        segment: u32,
        /// Length of the file in bytes.
        bytes: u64,
        /// The first bytes of the file.
        header: Pages,
    },
    /// Writes all of `pages`. Durable when it completes (O_DIRECT and O_DSYNC, or write and fdatasync). A driver
    /// that gets a short write finishes the rest itself or reports an error.
    Write {
        /// Number for the completion.
        op: OpId,
        /// Log of the segment.
        log: LogId,
        /// Segment number.
        segment: u32,
        /// Byte offset in the file.
        offset: u64,
        /// What to write.
        pages: Pages,
    },
    /// Fills `pages` from the file. The completion's result is the bytes read; short at the end of a short file.
    Read {
        /// Number for the completion.
        op: OpId,
        /// Log of the segment.
        log: LogId,
        /// Segment number.
        segment: u32,
        /// Byte offset in the file.
        offset: u64,
        /// Where to put the bytes.
        pages: Pages,
    },
    /// Syncs a segment file (fdatasync) and the disk's cache with it. Needed once per log after replay: a killed
    /// process may have left its last write in a volatile cache, from which replay has just read it.
    Sync {
        /// Number for the completion.
        op: OpId,
        /// Log of the segment.
        log: LogId,
        /// Segment number.
        segment: u32,
    },
}

impl DiskOp {
    /// Number of the operation.
    #[must_use]
    pub fn op(&self) -> OpId {
        match self {
            Self::Create { op, .. }
            | Self::Write { op, .. }
            | Self::Read { op, .. }
            | Self::Sync { op, .. } => *op,
        }
    }
}

/// The end of one operation.
#[derive(Debug)]
pub struct DiskDone {
    /// Number of the operation.
    pub op: OpId,
    /// Bytes written or read (for Create and Sync any number), or the errno.
    pub result: Result<u32, i32>,
    /// The buffer that went with the operation, for reading or reuse. A driver that lost it gives None.
    pub pages: Option<Pages>,
}
