//! Reading single records back: which sectors to ask for, and taking the record out of them.
//!
//! Order: [`plan_reads`] (or [`read_op`] for one) says what to read, the driver reads, [`extract`] verifies each
//! sector a record touches and the record's own checksum. A record is served whole and verified or not at all.

use crate::batch::{RECORD_HEAD, RecordHead};
use crate::sector::{self, Role, SECTOR_BYTES, SECTOR_HEAD, SECTOR_PAYLOAD, Sector};
use crate::{DiskOp, Generations, LogId, OpId, Pages, Position, RecordRef};
use std::fmt;
use std::ops::Range;

/// An aligned range of one segment file, and which of the asked records it covers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReadSpan {
    /// The log.
    pub log: LogId,
    /// Segment number.
    pub segment: u32,
    /// Byte offset, a multiple of the alignment asked for.
    pub offset: u32,
    /// Bytes, a multiple of the alignment asked for.
    pub bytes: u32,
    /// The records covered, as a range of indices into the slice given to [`plan_reads`].
    pub records: Range<usize>,
}

impl ReadSpan {
    /// The read operation, with a fresh buffer.
    #[must_use]
    pub fn op(&self, op: OpId) -> DiskOp {
        let pages = Pages::zeroed(self.bytes as usize);
        DiskOp::Read { op, log: self.log, segment: self.segment, offset: u64::from(self.offset), pages }
    }
}

/// First byte, and first byte after, of the sectors a record touches.
fn sectors(record: RecordRef) -> (u32, u64) {
    let offset = record.position.offset();
    let start = offset - offset % SECTOR_BYTES as u32;
    let inside = (offset as usize % SECTOR_BYTES).saturating_sub(SECTOR_HEAD);
    let count = (inside + record.len as usize).div_ceil(SECTOR_PAYLOAD);
    (start, u64::from(start) + (count * SECTOR_BYTES) as u64)
}

fn span(record: RecordRef, align: u32, index: usize) -> ReadSpan {
    let (from, to) = sectors(record);
    let offset = from - from % align;
    let bytes = to.next_multiple_of(u64::from(align)) - u64::from(offset);
    let bytes = u32::try_from(bytes).expect("a record lies inside a segment");
    let (log, segment) = (record.position.log(), record.position.segment());
    ReadSpan { log, segment, offset, bytes, records: index..index + 1 }
}

/// The read that covers one record, aligned to `align` (512 or 4096) bytes.
#[must_use]
pub fn read_op(record: RecordRef, op: OpId, align: u32) -> DiskOp {
    span(record, align, 0).op(op)
}

/// Reads that cover `records` in their order, neighbours merged.
///
/// Records that follow each other in the slice join one read if they lie in the same segment in ascending order, at
/// most `gap_max` bytes apart, and the read stays within `bytes_max` bytes (a single larger record still gets its
/// read). Sort the slice by position for the best merging; ask for both ends of a page in one call.
#[must_use]
pub fn plan_reads(records: &[RecordRef], align: u32, gap_max: u32, bytes_max: u32) -> Vec<ReadSpan> {
    assert!(align == 512 || align == 4096, "reads are aligned to 512 or 4096 bytes");
    let mut spans: Vec<ReadSpan> = Vec::new();
    for (index, record) in records.iter().enumerate() {
        let next = span(*record, align, index);
        if let Some(last) = spans.last_mut() {
            let same = last.log == next.log && last.segment == next.segment && next.offset >= last.offset;
            let end = u64::from(last.offset) + u64::from(last.bytes);
            let near = u64::from(next.offset) <= end + u64::from(gap_max);
            let whole = end.max(u64::from(next.offset) + u64::from(next.bytes)) - u64::from(last.offset);
            if same && near && whole <= u64::from(bytes_max) {
                last.bytes = whole as u32;
                last.records.end = index + 1;
                continue;
            }
        }
        spans.push(next);
    }
    spans
}

/// A record taken out of sectors, verified.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Extracted {
    /// Its hash slot.
    pub slot: u16,
    /// Epoch of the slot.
    pub slot_epoch: u32,
    /// The payload.
    pub payload: Vec<u8>,
}

/// Why a record could not be taken out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ExtractError {
    /// The segment's generation is not known: it was never scanned nor opened in this run.
    UnknownSegment,
    /// The buffer does not cover the record: a short read or another read's buffer.
    NotCovered,
    /// The sector at this position is damaged, blank or of another generation.
    Sector(Position),
    /// The sectors are whole but hold no such record: a wrong address or a wrong length.
    Record,
}

impl fmt::Display for ExtractError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownSegment => write!(f, "the segment was not opened in this run"),
            Self::NotCovered => write!(f, "the bytes read do not cover the record"),
            Self::Sector(position) => write!(f, "the sector at {position} is damaged"),
            Self::Record => write!(f, "no record of this length starts here"),
        }
    }
}

impl std::error::Error for ExtractError {}

/// Takes one record out of `bytes`, which were read from `offset` of the record's segment.
///
/// Verifies the checksum, position and generation of each sector the record touches, then the record's length and
/// checksum.
///
/// # Errors
/// See [`ExtractError`]. Nothing unverified is returned.
pub fn extract(
    record: RecordRef,
    offset: u32,
    bytes: &[u8],
    generations: &Generations,
) -> Result<Extracted, ExtractError> {
    let position = record.position;
    let generation = generations.of(position).ok_or(ExtractError::UnknownSegment)?;
    let inside = position.offset() as usize % SECTOR_BYTES;
    if inside < SECTOR_HEAD || (record.len as usize) < RECORD_HEAD {
        return Err(ExtractError::Record);
    }
    let (from, to) = sectors(record);
    let start = from.checked_sub(offset).ok_or(ExtractError::NotCovered)? as usize;
    let end = start + (to - u64::from(from)) as usize;
    let bytes = bytes.get(start..end).ok_or(ExtractError::NotCovered)?;
    let mut stream = Vec::with_capacity(bytes.len());
    for (index, sector) in bytes.chunks_exact(SECTOR_BYTES).enumerate() {
        let at = Position::new(position.log(), position.segment(), from + (index * SECTOR_BYTES) as u32);
        match sector::classify(sector, generation, at) {
            Sector::Good(Role::Head | Role::Body) => sector::unframe(sector, &mut stream),
            _ => return Err(ExtractError::Sector(at)),
        }
    }
    let record_bytes = &stream[inside - SECTOR_HEAD..][..record.len as usize];
    let head = RecordHead::decode(record_bytes).ok_or(ExtractError::Record)?;
    let payload = &record_bytes[RECORD_HEAD..];
    if head.len != record.len || !head.covers(payload) {
        return Err(ExtractError::Record);
    }
    Ok(Extracted { slot: head.slot, slot_epoch: head.slot_epoch, payload: payload.to_vec() })
}
