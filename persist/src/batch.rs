//! One batch: a header, records back to back, zeros up to the alignment; sealed and written in one piece.
//!
//! Order: records are framed into sectors as they are staged ([`OpenBatch::push`]), so that sealing only fills in
//! the header and the sector checksums. Nothing is copied twice.

use crate::chain::Link;
use crate::sector::{self, Role, SECTOR_BYTES, SECTOR_HEAD, SECTOR_PAYLOAD};
use crate::{Lsn, Pages, Position, RecordRef};
use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// "RDB1" in the file.
const BATCH_MAGIC: u32 = u32::from_le_bytes(*b"RDB1");
/// Bytes of a batch header.
pub(crate) const BATCH_HEAD: usize = 56;
/// Bytes of a record header.
pub(crate) const RECORD_HEAD: usize = 16;

/// Bytes lie between the predecessor's end and this batch that replay declared damaged; without it such bytes are the
/// rest of a torn write that was never acked.
const GAP_DAMAGED: u16 = 1;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct BatchHeadBytes {
    magic: U32,
    flags: U16,
    reserved: U16,
    number: U64,
    bytes: U32,
    records: U32,
    body_bytes: U32,
    body_crc: U32,
    durable: U64,
    wall_ms: U64,
    previous: U32,
    reserved_end: U32,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct RecordHeadBytes {
    len: U32,
    slot: U16,
    flags: U16,
    slot_epoch: U32,
    crc: U32,
}

const _: () = assert!(size_of::<BatchHeadBytes>() == BATCH_HEAD);
const _: () = assert!(size_of::<RecordHeadBytes>() == RECORD_HEAD);

/// A batch header, decoded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct BatchHead {
    /// Dense per log, from 1.
    pub number: u64,
    /// Bytes in the file, sector headers and padding included.
    pub bytes: u32,
    /// Records; none in a mark.
    pub records: u32,
    /// Stream bytes of the records.
    pub body_bytes: u32,
    /// crc32c of those bytes.
    pub body_crc: u32,
    /// End of the predecessor: everything before it that was not cut is durable.
    pub durable: Position,
    /// Wall clock at sealing, milliseconds since 1970; for people only.
    pub wall_ms: u64,
    /// Checksum of the predecessor's header, 0 for the first batch of a log.
    pub previous: u32,
    /// See [`GAP_DAMAGED`].
    pub gap_damaged: bool,
}

impl BatchHead {
    fn encode(&self) -> BatchHeadBytes {
        BatchHeadBytes {
            magic: U32::new(BATCH_MAGIC),
            flags: U16::new(if self.gap_damaged { GAP_DAMAGED } else { 0 }),
            reserved: U16::new(0),
            number: U64::new(self.number),
            bytes: U32::new(self.bytes),
            records: U32::new(self.records),
            body_bytes: U32::new(self.body_bytes),
            body_crc: U32::new(self.body_crc),
            durable: U64::new(self.durable.to_bits()),
            wall_ms: U64::new(self.wall_ms),
            previous: U32::new(self.previous),
            reserved_end: U32::new(0),
        }
    }

    /// The header in the stream bytes of a batch's first sector, or None if its fields contradict each other.
    pub(crate) fn decode(stream: &[u8]) -> Option<Self> {
        let (raw, _) = BatchHeadBytes::read_from_prefix(stream).ok()?;
        let head = Self {
            number: raw.number.get(),
            bytes: raw.bytes.get(),
            records: raw.records.get(),
            body_bytes: raw.body_bytes.get(),
            body_crc: raw.body_crc.get(),
            durable: Position::from_bits(raw.durable.get()),
            wall_ms: raw.wall_ms.get(),
            previous: raw.previous.get(),
            gap_damaged: raw.flags.get() & GAP_DAMAGED != 0,
        };
        let reserved =
            raw.flags.get() & !GAP_DAMAGED != 0 || raw.reserved.get() != 0 || raw.reserved_end.get() != 0;
        let sectors = head.bytes as usize / SECTOR_BYTES;
        let whole = sectors > 0 && (head.bytes as usize).is_multiple_of(SECTOR_BYTES);
        let fits = BATCH_HEAD + head.body_bytes as usize <= sectors * SECTOR_PAYLOAD;
        let dense = head.records as usize * RECORD_HEAD <= head.body_bytes as usize;
        let good = raw.magic.get() == BATCH_MAGIC && !reserved && head.number > 0 && whole && fits && dense;
        good.then_some(head)
    }

    /// What the successor of this batch, which starts at `start`, will name.
    pub(crate) fn link(&self, start: Position) -> Link {
        let end = Position::new(start.log(), start.segment(), start.offset() + self.bytes);
        Link { number: self.number, end, checksum: crc32c::crc32c(self.encode().as_bytes()) }
    }
}

/// A record header, decoded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct RecordHead {
    /// Bytes of the record, this header included.
    pub len: u32,
    pub slot: u16,
    pub slot_epoch: u32,
    crc: u32,
}

impl RecordHead {
    fn sum(len: u32, slot: u16, slot_epoch: u32, payload: &[u8]) -> (RecordHeadBytes, u32) {
        let mut raw = RecordHeadBytes {
            len: U32::new(len),
            slot: U16::new(slot),
            flags: U16::new(0),
            slot_epoch: U32::new(slot_epoch),
            crc: U32::new(0),
        };
        let crc = crc32c::crc32c_append(crc32c::crc32c(&raw.as_bytes()[..12]), payload);
        raw.crc = U32::new(crc);
        (raw, crc)
    }

    /// The header at the start of `stream`, or None if there is no room for one or its fields cannot be.
    pub(crate) fn decode(stream: &[u8]) -> Option<Self> {
        let (raw, _) = RecordHeadBytes::read_from_prefix(stream).ok()?;
        let head = Self {
            len: raw.len.get(),
            slot: raw.slot.get(),
            slot_epoch: raw.slot_epoch.get(),
            crc: raw.crc.get(),
        };
        (raw.flags.get() == 0 && head.len as usize >= RECORD_HEAD).then_some(head)
    }

    /// True if `payload` is the one this header was written for.
    pub(crate) fn covers(&self, payload: &[u8]) -> bool {
        Self::sum(self.len, self.slot, self.slot_epoch, payload).1 == self.crc
    }
}

/// A batch that still takes records.
pub(crate) struct OpenBatch {
    pages: Pages,
    /// Stream bytes taken, the batch header included.
    stream: usize,
    stream_max: usize,
    body_crc: u32,
    /// Stream offset and length of each record.
    records: Vec<(u32, u32)>,
    first: Lsn,
}

/// A batch ready to be written.
pub(crate) struct SealedBatch {
    pub pages: Pages,
    pub link: Link,
    pub records: Vec<(Lsn, RecordRef)>,
    pub body_bytes: usize,
}

/// Where and as what a batch is sealed.
pub(crate) struct Place {
    pub start: Position,
    pub generation: u32,
    pub align: u32,
    pub previous: Link,
    pub gap_damaged: bool,
    pub wall_ms: u64,
}

impl OpenBatch {
    /// An empty batch in `pages`, whose first record will be `first`. Old bytes in the buffer do not matter.
    pub(crate) fn new(mut pages: Pages, bytes_max: u32, first: Lsn) -> Self {
        pages.set_len(bytes_max as usize);
        let stream_max = bytes_max as usize / SECTOR_BYTES * SECTOR_PAYLOAD;
        Self { pages, stream: BATCH_HEAD, stream_max, body_crc: 0, records: Vec::new(), first }
    }

    pub(crate) fn fits(&self, payload_len: usize) -> bool {
        self.stream + RECORD_HEAD + payload_len <= self.stream_max
    }

    /// Stream bytes of the records taken so far.
    pub(crate) fn body_bytes(&self) -> usize {
        self.stream - BATCH_HEAD
    }

    /// Bytes in the file once sealed with `align`.
    pub(crate) fn bytes(&self, align: u32) -> u32 {
        let sectors = self.stream.div_ceil(SECTOR_PAYLOAD);
        ((sectors * SECTOR_BYTES) as u32).next_multiple_of(align)
    }

    /// Gives the buffer back unused.
    pub(crate) fn into_pages(self) -> Pages {
        self.pages
    }

    /// Takes one record. The caller has checked [`OpenBatch::fits`].
    pub(crate) fn push(&mut self, slot: u16, slot_epoch: u32, payload: &[u8]) {
        assert!(self.fits(payload.len()), "a record was staged past the end of its batch");
        let len = (RECORD_HEAD + payload.len()) as u32;
        self.records.push((self.stream as u32, len));
        let (head, _) = RecordHead::sum(len, slot, slot_epoch, payload);
        self.copy(head.as_bytes());
        self.copy(payload);
    }

    fn copy(&mut self, mut bytes: &[u8]) {
        self.body_crc = crc32c::crc32c_append(self.body_crc, bytes);
        let pages = self.pages.as_bytes_mut();
        while !bytes.is_empty() {
            let inside = self.stream % SECTOR_PAYLOAD;
            let take = bytes.len().min(SECTOR_PAYLOAD - inside);
            let at = sector::file_offset(0, self.stream) as usize;
            pages[at..at + take].copy_from_slice(&bytes[..take]);
            bytes = &bytes[take..];
            self.stream += take;
        }
    }

    /// Closes the batch: padding, header, sector checksums.
    pub(crate) fn seal(mut self, place: &Place) -> SealedBatch {
        let bytes = self.bytes(place.align);
        assert!(place.start.offset().is_multiple_of(place.align), "a batch starts aligned");
        self.pages.set_len(bytes as usize);
        let head = BatchHead {
            number: place.previous.number + 1,
            bytes,
            records: self.records.len() as u32,
            body_bytes: self.body_bytes() as u32,
            body_crc: self.body_crc,
            durable: place.previous.end,
            wall_ms: place.wall_ms,
            previous: place.previous.checksum,
            gap_damaged: place.gap_damaged,
        };
        let (log, segment, start) = (place.start.log(), place.start.segment(), place.start.offset());
        let buffer = self.pages.as_bytes_mut();
        // The buffer is reused: what an earlier batch left behind the records must not reach the disk.
        let end = sector::file_offset(0, self.stream - 1) as usize + 1;
        buffer[end..].fill(0);
        buffer[SECTOR_HEAD..SECTOR_HEAD + BATCH_HEAD].copy_from_slice(head.encode().as_bytes());
        for (index, bytes) in buffer.chunks_exact_mut(SECTOR_BYTES).enumerate() {
            let role = if index == 0 { Role::Head } else { Role::Body };
            let position = Position::new(log, segment, start + (index * SECTOR_BYTES) as u32);
            sector::seal(bytes, place.generation, position, role);
        }
        let first = self.first.0;
        let records = self.records.iter().zip(first..).map(|((stream, len), lsn)| {
            let position = Position::new(log, segment, sector::file_offset(start, *stream as usize));
            (Lsn(lsn), RecordRef { position, len: *len })
        });
        let records = records.collect();
        SealedBatch {
            link: head.link(place.start),
            records,
            body_bytes: self.body_bytes(),
            pages: self.pages,
        }
    }
}
