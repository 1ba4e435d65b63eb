//! Sizes of one log, named, related to each other, and checked.

use crate::{LogId, SECTOR_BYTES};
use std::fmt;

/// Sizes and bounds of one log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Geometry {
    /// The log.
    pub log: LogId,
    /// Length of a segment file in bytes; a multiple of `align`, at most 4 GiB - `align`. Default 64 MiB.
    pub segment_bytes: u32,
    /// Alignment of writes in bytes: 512 or 4096, what the file system reports for direct I/O.
    pub align: u32,
    /// Largest batch, sector headers and padding included, in bytes; a multiple of `align`. Default 1 MiB.
    pub batch_bytes_max: u32,
    /// Bytes of zeros per fill write, a multiple of `align`. Default 1 MiB.
    pub fill_step_bytes: u32,
    /// How far ahead of the tail zeros are kept, in bytes. Default 8 MiB. Zero turns filling off.
    pub fill_ahead_bytes: u32,
    /// Longest time between the write of the last batch and the mark that covers it, in nanoseconds. Default 10 ms.
    pub mark_after_ns: u64,
    /// Bound on bytes staged and not yet durable (records with their headers). Default 8 MiB.
    pub staged_bytes_max: usize,
}

impl Geometry {
    /// The defaults for a log.
    #[must_use]
    pub fn new(log: LogId) -> Self {
        Self {
            log,
            segment_bytes: 64 << 20,
            align: 512,
            batch_bytes_max: 1 << 20,
            fill_step_bytes: 1 << 20,
            fill_ahead_bytes: 8 << 20,
            mark_after_ns: 10_000_000,
            staged_bytes_max: 8 << 20,
        }
    }

    /// Small sizes for tests and the simulator: segments of 64 KiB, batches of at most 8 KiB, fills of 8 KiB.
    #[must_use]
    pub fn small(log: LogId) -> Self {
        Self {
            segment_bytes: 64 << 10,
            batch_bytes_max: 8 << 10,
            fill_step_bytes: 8 << 10,
            fill_ahead_bytes: 16 << 10,
            staged_bytes_max: 64 << 10,
            ..Self::new(log)
        }
    }

    /// Largest payload of one record in bytes: it must fit a batch of its own.
    #[must_use]
    pub fn payload_bytes_max(&self) -> usize {
        let stream = self.batch_bytes_max as usize / SECTOR_BYTES * crate::SECTOR_PAYLOAD;
        stream - crate::batch::BATCH_HEAD - crate::RECORD_HEAD_BYTES
    }

    /// Checks how the sizes relate.
    ///
    /// # Errors
    /// The first rule that is broken, as a sentence.
    pub fn check(&self) -> Result<(), GeometryError> {
        let rule =
            |holds: bool, sentence: &'static str| if holds { Ok(()) } else { Err(GeometryError(sentence)) };
        rule(self.log.0 <= LogId::MAX, "log numbers end at 1023")?;
        rule(self.align == 512 || self.align == 4096, "align is 512 or 4096 bytes")?;
        let whole = |bytes: u32| bytes >= self.align && bytes.is_multiple_of(self.align);
        rule(whole(self.segment_bytes), "segment_bytes is a multiple of align")?;
        rule(whole(self.batch_bytes_max), "batch_bytes_max is a multiple of align")?;
        rule(whole(self.fill_step_bytes), "fill_step_bytes is a multiple of align")?;
        rule(self.batch_bytes_max <= 16 << 20, "batch_bytes_max is at most 16 MiB")?;
        rule(
            self.segment_bytes - self.align >= self.batch_bytes_max,
            "segment_bytes holds a header and the largest batch",
        )?;
        rule(
            self.staged_bytes_max >= self.batch_bytes_max as usize,
            "staged_bytes_max holds the largest batch",
        )?;
        rule(self.mark_after_ns > 0, "mark_after_ns is above zero")
    }
}

/// A rule between sizes that a configuration breaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GeometryError(pub &'static str);

impl fmt::Display for GeometryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "log geometry: {}", self.0)
    }
}

impl std::error::Error for GeometryError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_hold_and_each_rule_bites() {
        let good = Geometry::new(LogId(0));
        assert_eq!(good.check(), Ok(()));
        assert_eq!(Geometry::small(LogId(0)).check(), Ok(()));
        let broken = [
            Geometry { log: LogId(1024), ..good },
            Geometry { align: 1024, ..good },
            Geometry { segment_bytes: good.segment_bytes + 1, ..good },
            Geometry { segment_bytes: 1 << 20, ..good },
            Geometry { batch_bytes_max: 0, ..good },
            Geometry { batch_bytes_max: 32 << 20, ..good },
            Geometry { fill_step_bytes: 100, ..good },
            Geometry { staged_bytes_max: 1, ..good },
            Geometry { mark_after_ns: 0, ..good },
        ];
        for geometry in broken {
            assert!(geometry.check().is_err(), "{geometry:?}");
        }
    }
}
