//! Where things are: logs, positions, record references, and the names of the files.

use std::fmt;

/// Number of a log, 0 to 1023. One log belongs to one shard while it is written.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct LogId(pub u16);

impl LogId {
    /// Largest log number that a [`Position`] can hold.
    pub const MAX: u16 = (1 << 10) - 1;
}

/// Dense number of a record within one log during this run, in staged order.
///
/// `Lsn(0)` stands for everything replay brought back; the first record staged in a run is `Lsn(1)`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Lsn(pub u64);

/// A place in a log: log number (10 bits), segment number (22 bits), byte offset in the segment file (32 bits), from
/// the highest bit down. Within one log, positions order as the bytes were written.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position(u64);

impl Position {
    /// Largest segment number.
    pub const SEGMENT_MAX: u32 = (1 << 22) - 1;

    /// Builds a position.
    ///
    /// # Panics
    /// If the log exceeds [`LogId::MAX`] or the segment [`Position::SEGMENT_MAX`]: an address that would alias
    /// another one must never be written.
    #[must_use]
    pub fn new(log: LogId, segment: u32, offset: u32) -> Self {
        assert!(log.0 <= LogId::MAX, "log {} exceeds {}", log.0, LogId::MAX);
        assert!(segment <= Self::SEGMENT_MAX, "segment {segment} exceeds {}", Self::SEGMENT_MAX);
        Self(u64::from(log.0) << 54 | u64::from(segment) << 32 | u64::from(offset))
    }

    /// The 64 bits, as they stand in files.
    #[must_use]
    pub fn to_bits(self) -> u64 {
        self.0
    }

    /// A position from its 64 bits. Every value is a position.
    #[must_use]
    pub fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The log.
    #[must_use]
    pub fn log(self) -> LogId {
        LogId((self.0 >> 54) as u16)
    }

    /// The segment number.
    #[must_use]
    pub fn segment(self) -> u32 {
        (self.0 >> 32) as u32 & Self::SEGMENT_MAX
    }

    /// Byte offset in the segment file.
    #[must_use]
    pub fn offset(self) -> u32 {
        self.0 as u32
    }
}

impl fmt::Debug for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}/{:08}+{}", self.log().0, self.segment(), self.offset())
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// A record's address: where its header starts, and how long it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RecordRef {
    /// Position of the first byte of the record's header. Never inside a sector's own 8-byte header.
    pub position: Position,
    /// Bytes of the record, header included, sector headers not counted: 16 + payload.
    pub len: u32,
}

impl RecordRef {
    /// Bytes of the payload.
    #[must_use]
    pub fn payload_len(self) -> usize {
        self.len as usize - crate::RECORD_HEAD_BYTES
    }
}

const _: () = assert!(size_of::<RecordRef>() <= 16);

/// One record as replay shows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Record<'a> {
    /// Its address.
    pub reference: RecordRef,
    /// Hash slot it belongs to.
    pub slot: u16,
    /// Epoch of the slot. A slot's records order by (slot epoch, position).
    pub slot_epoch: u32,
    /// The payload.
    pub payload: &'a [u8],
}

/// Directory of a log below the data folder: `log/0003`.
#[must_use]
pub fn log_directory(log: LogId) -> String {
    format!("log/{:04}", log.0)
}

/// Path of a segment file below the data folder: `log/0003/00000017.seg`.
#[must_use]
pub fn segment_file(log: LogId, segment: u32) -> String {
    format!("log/{:04}/{segment:08}.seg", log.0)
}

/// The segment number that a file name in a log's directory stands for; None for any other file.
#[must_use]
pub fn segment_number(file_name: &str) -> Option<u32> {
    let digits = file_name.strip_suffix(".seg")?;
    let plain = digits.len() == 8 && digits.bytes().all(|byte| byte.is_ascii_digit());
    let number = if plain { digits.parse().ok()? } else { return None };
    (number <= Position::SEGMENT_MAX).then_some(number)
}

/// Path under which a segment is prepared before it is renamed to [`segment_file`]. Leftovers are deleted at boot.
#[must_use]
pub fn unborn_file(log: LogId, segment: u32) -> String {
    format!("log/{:04}/{segment:08}.new", log.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_pack_and_order() {
        let a = Position::new(LogId(1023), Position::SEGMENT_MAX, u32::MAX);
        assert_eq!(a.to_bits(), u64::MAX);
        assert_eq!((a.log(), a.segment(), a.offset()), (LogId(1023), Position::SEGMENT_MAX, u32::MAX));
        let b = Position::new(LogId(3), 17, 4096);
        assert_eq!((b.log(), b.segment(), b.offset()), (LogId(3), 17, 4096));
        assert!(b < Position::new(LogId(3), 18, 0));
        assert!(b < Position::new(LogId(4), 0, 0));
        assert_eq!(Position::from_bits(b.to_bits()), b);
        assert_eq!(b.to_string(), "0003/00000017+4096");
    }

    #[test]
    fn names_of_files() {
        assert_eq!(log_directory(LogId(3)), "log/0003");
        assert_eq!(segment_file(LogId(3), 17), "log/0003/00000017.seg");
        assert_eq!(segment_number("00000017.seg"), Some(17));
        for other in ["17.seg", "00000017.new", "0000001x.seg", "+0000017.seg", "99999999.seg", ".seg", ""] {
            assert_eq!(segment_number(other), None, "{other}");
        }
        assert_eq!(unborn_file(LogId(3), 17), "log/0003/00000017.new");
    }

    #[test]
    #[should_panic(expected = "exceeds")]
    fn a_segment_past_the_bound_would_alias() {
        let _ = Position::new(LogId(0), Position::SEGMENT_MAX + 1, 0);
    }
}
