//! The note beside a log's segments: which numbers exist, and where the log ended at the last clean stop.
//!
//! Encode and decode only. What no segment file can tell, because it is gone, stands here: that it was there. The note
//! is kept twice in one file and overwritten in place, the older copy first, so that one whole copy remains whatever
//! stops a write, and so that a full disk does not prevent it.
//!
//! Order: a segment is durable under its name before the note counts it, and the note counts it before a batch is
//! written into it. So a crash between leaves one file more than noted, never one less.

use crate::{LogId, Position};
use std::fmt;
use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bytes of the file: two copies, each alone in a block of 4096 bytes.
pub const EXTENT_BYTES: usize = 2 * COPY_STRIDE;
const COPY_STRIDE: usize = 4096;
/// Bytes of one copy.
const COPY_BYTES: usize = 64;
const EXTENT_MAGIC: [u8; 8] = *b"RDEXTENT";
/// The log was closed at `closed`.
const CLOSED: u16 = 1;

/// What the note says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Extent {
    /// The log.
    pub log: LogId,
    /// Lowest segment that must exist: 0 until old segments are dropped.
    pub lowest: u32,
    /// First number above `lowest` that no segment had yet. Equal to `lowest`: none must exist.
    pub end: u32,
    /// End of the log at the last clean stop: it cannot end earlier. None while the log is written.
    pub closed: Option<Position>,
    /// Number of this copy, rising by 1 with each write.
    pub number: u64,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct CopyBytes {
    magic: [u8; 8],
    version: U16,
    log: U16,
    flags: U16,
    reserved: U16,
    number: U64,
    lowest: U32,
    end: U32,
    closed: U64,
    reserved_end: [u8; 20],
    crc: U32,
}

const _: () = assert!(size_of::<CopyBytes>() == COPY_BYTES);

/// Why the note was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ExtentError {
    /// Neither copy is whole.
    Damaged,
    /// The note of another log.
    Foreign(LogId),
    /// Written by another format version.
    Version(u16),
}

impl fmt::Display for ExtentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Damaged => write!(f, "neither of its two copies is whole"),
            Self::Foreign(log) => write!(f, "it belongs to log {}", log.0),
            Self::Version(version) => {
                write!(f, "it has format version {version}; this build reads {}", crate::FORMAT_VERSION)
            }
        }
    }
}

impl std::error::Error for ExtentError {}

impl Extent {
    /// The note of a log without segments.
    #[must_use]
    pub fn empty(log: LogId) -> Self {
        Self { log, lowest: 0, end: 0, closed: None, number: 0 }
    }

    /// The next copy of the note, in which `segment` exists.
    #[must_use]
    pub fn with(self, segment: u32) -> Self {
        Self { end: self.end.max(segment + 1), number: self.number + 1, ..self }
    }

    /// The next copy of the note, with another end of the log.
    #[must_use]
    pub fn closed_at(self, closed: Option<Position>) -> Self {
        Self { closed, number: self.number + 1, ..self }
    }

    /// Where this copy goes in the file, and its bytes. Copies take turns, so the older one is overwritten.
    #[must_use]
    pub fn encode(&self) -> (u64, [u8; COPY_BYTES]) {
        let mut raw = CopyBytes {
            magic: EXTENT_MAGIC,
            version: U16::new(crate::FORMAT_VERSION),
            log: U16::new(self.log.0),
            flags: U16::new(if self.closed.is_some() { CLOSED } else { 0 }),
            reserved: U16::new(0),
            number: U64::new(self.number),
            lowest: U32::new(self.lowest),
            end: U32::new(self.end),
            closed: U64::new(self.closed.map_or(0, Position::to_bits)),
            reserved_end: [0; 20],
            crc: U32::new(0),
        };
        raw.crc = U32::new(crc32c::crc32c(&raw.as_bytes()[..COPY_BYTES - 4]));
        let at = self.number % 2 * COPY_STRIDE as u64;
        (at, raw.as_bytes().try_into().expect("64 bytes"))
    }

    /// The newest whole copy in the file's bytes, which must be the note of `log`.
    ///
    /// # Errors
    /// See [`ExtentError`].
    pub fn decode(log: LogId, bytes: &[u8]) -> Result<Self, ExtentError> {
        let copies = [0, COPY_STRIDE].into_iter().filter_map(|at| copy(bytes.get(at..at + COPY_BYTES)?));
        let newest = copies.max_by_key(|raw| raw.number.get()).ok_or(ExtentError::Damaged)?;
        if newest.version.get() != crate::FORMAT_VERSION {
            return Err(ExtentError::Version(newest.version.get()));
        }
        if newest.log.get() != log.0 {
            return Err(ExtentError::Foreign(LogId(newest.log.get())));
        }
        let closed = newest.flags.get() & CLOSED != 0;
        Ok(Self {
            log,
            lowest: newest.lowest.get(),
            end: newest.end.get(),
            closed: closed.then(|| Position::from_bits(newest.closed.get())),
            number: newest.number.get(),
        })
    }
}

fn copy(bytes: &[u8]) -> Option<&CopyBytes> {
    let raw = CopyBytes::ref_from_bytes(bytes).ok()?;
    let whole = raw.magic == EXTENT_MAGIC && raw.crc.get() == crc32c::crc32c(&bytes[..COPY_BYTES - 4]);
    whole.then_some(raw)
}

/// Path of a log's note below the data folder: `log/0003/EXTENT`.
#[must_use]
pub fn extent_file(log: LogId) -> String {
    format!("log/{:04}/EXTENT", log.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: LogId = LogId(3);

    fn put(file: &mut [u8], extent: &Extent) {
        let (at, copy) = extent.encode();
        file[at as usize..at as usize + COPY_BYTES].copy_from_slice(&copy);
    }

    #[test]
    fn the_newest_whole_copy_counts() {
        let mut file = vec![0; EXTENT_BYTES];
        assert_eq!(Extent::decode(LOG, &file), Err(ExtentError::Damaged));
        let one = Extent::empty(LOG);
        put(&mut file, &one);
        let two = one.with(0).closed_at(Some(Position::new(LOG, 0, 4096)));
        put(&mut file, &Extent { number: 1, ..two });
        assert_eq!(Extent::decode(LOG, &file), Ok(Extent { number: 1, ..two }));
        file[COPY_STRIDE + 20] ^= 1;
        assert_eq!(Extent::decode(LOG, &file), Ok(one), "a torn write leaves the copy before it");
        file[20] ^= 1;
        assert_eq!(Extent::decode(LOG, &file), Err(ExtentError::Damaged));
        file[20] ^= 1;
        assert_eq!(Extent::decode(LogId(4), &file), Err(ExtentError::Foreign(LOG)));
        assert_eq!(Extent::decode(LOG, &file[..10]), Err(ExtentError::Damaged));
    }

    #[test]
    fn numbers_only_rise_and_an_end_can_be_taken_back() {
        let extent = Extent::empty(LOG).with(4).with(2);
        assert_eq!((extent.lowest, extent.end, extent.number), (0, 5, 2));
        let closed = extent.closed_at(Some(Position::new(LOG, 4, 512)));
        assert_eq!(closed.closed_at(None).closed, None);
        assert_eq!(closed.end, 5);
    }
}
