//! One segment file: its header, and which generation each segment has.

use crate::sector::{self, Role, SECTOR_BYTES, SECTOR_HEAD, Sector};
use crate::{LogId, Pages, Position};
use std::collections::BTreeMap;
use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Version of the byte format that this build reads and writes.
pub const FORMAT_VERSION: u16 = 1;

/// "RDSEGMNT" in the file.
const SEGMENT_MAGIC: u64 = u64::from_le_bytes(*b"RDSEGMNT");

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct SegmentHeadBytes {
    magic: U64,
    version: U16,
    log: U16,
    segment: U32,
    generation: U32,
    bytes: U32,
    created_ms: U64,
}

/// A segment header, decoded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct SegmentHead {
    pub version: u16,
    pub log: LogId,
    pub segment: u32,
    pub generation: u32,
    /// Length of the file.
    pub bytes: u32,
    /// Wall clock at creation, milliseconds since 1970.
    pub created_ms: u64,
}

impl SegmentHead {
    /// The first `align` bytes of the segment file.
    pub(crate) fn encode(&self, align: u32) -> Pages {
        let raw = SegmentHeadBytes {
            magic: U64::new(SEGMENT_MAGIC),
            version: U16::new(self.version),
            log: U16::new(self.log.0),
            segment: U32::new(self.segment),
            generation: U32::new(self.generation),
            bytes: U32::new(self.bytes),
            created_ms: U64::new(self.created_ms),
        };
        let mut pages = Pages::zeroed(align as usize);
        let sector = &mut pages.as_bytes_mut()[..SECTOR_BYTES];
        sector[SECTOR_HEAD..SECTOR_HEAD + size_of::<SegmentHeadBytes>()].copy_from_slice(raw.as_bytes());
        sector::seal(sector, self.generation, Position::new(self.log, self.segment, 0), Role::Segment);
        pages
    }

    /// The header of segment `segment` of `log`, if the first sector of `bytes` is whole and says so.
    pub(crate) fn decode(log: LogId, segment: u32, bytes: &[u8]) -> Option<Self> {
        let sector = bytes.get(..SECTOR_BYTES)?;
        let position = Position::new(log, segment, 0);
        let generation = sector::own_generation(sector, position)?;
        if sector::classify(sector, generation, position) != Sector::Good(Role::Segment) {
            return None;
        }
        let (raw, _) = SegmentHeadBytes::read_from_prefix(&sector[SECTOR_HEAD..]).ok()?;
        let head = Self {
            version: raw.version.get(),
            log: LogId(raw.log.get()),
            segment: raw.segment.get(),
            generation: raw.generation.get(),
            bytes: raw.bytes.get(),
            created_ms: raw.created_ms.get(),
        };
        let whole = (head.bytes as usize).is_multiple_of(SECTOR_BYTES) && head.bytes as usize > SECTOR_BYTES;
        let own = head.log == log && head.segment == segment && head.generation == generation;
        (raw.magic.get() == SEGMENT_MAGIC && own && whole).then_some(head)
    }
}

/// Generation of every segment that records may be read from, over all logs of a data folder.
///
/// Replay fills it (merge the tails' tables of all logs), the appender adds the segments it opens.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Generations {
    table: BTreeMap<(LogId, u32), u32>,
}

impl Generations {
    /// Notes the generation of one segment.
    pub fn insert(&mut self, log: LogId, segment: u32, generation: u32) {
        self.table.insert((log, segment), generation);
    }

    /// Takes over every entry of `other`.
    pub fn merge(&mut self, other: &Self) {
        self.table.extend(&other.table);
    }

    /// Generation of the segment that `position` lies in, if known.
    #[must_use]
    pub fn of(&self, position: Position) -> Option<u32> {
        self.table.get(&(position.log(), position.segment())).copied()
    }

    /// Number of segments known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// True if no segment is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }
}
