//! The 512-byte sector: checksum, generation, 504 bytes of stream.
//!
//! The checksum covers the generation, the stream bytes and the sector's own position, so that a sector written to,
//! or read from, the wrong place is caught. Three constants tell apart a segment's header, the first sector of a
//! batch and any other sector: stream bytes that look like a batch header are never taken for one.

use crate::Position;

/// Bytes of a sector: the unit that a disk writes whole or not at all.
pub const SECTOR_BYTES: usize = 512;

/// Bytes of stream in a sector.
pub const SECTOR_PAYLOAD: usize = SECTOR_BYTES - SECTOR_HEAD;

/// Bytes of a sector's own header: checksum u32, generation u32.
pub(crate) const SECTOR_HEAD: usize = 8;

/// What a caller puts in place of a sector that the disk refuses to read: scanning calls it damage.
pub const UNREADABLE: [u8; SECTOR_BYTES] = [0xFF; SECTOR_BYTES];

/// The part a sector plays, folded into its checksum.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Role {
    /// First sector of a segment file.
    Segment,
    /// First sector of a batch.
    Head,
    /// Any other sector of a batch.
    Body,
}

impl Role {
    const fn mask(self) -> u32 {
        match self {
            Self::Segment => 0x5EC7_1A5E,
            Self::Head => 0xB47C_4EAD,
            Self::Body => 0,
        }
    }
}

/// What stands in a sector, seen from a segment of a known generation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Sector {
    /// All zero: never written.
    Blank,
    /// Of another, older generation: left over from the file's earlier life.
    Older,
    /// Written in this generation, whole and in its place.
    Good(Role),
    /// Written in this generation and damaged since, or not of this log at all.
    Bad,
}

fn checksum(sector: &[u8], generation: u32, position: Position) -> u32 {
    let crc = crc32c::crc32c(&generation.to_le_bytes());
    let crc = crc32c::crc32c_append(crc, &sector[SECTOR_HEAD..SECTOR_BYTES]);
    crc32c::crc32c_append(crc, &position.to_bits().to_le_bytes())
}

fn word(sector: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(sector[at..at + 4].try_into().expect("four bytes"))
}

/// Writes the header of one sector whose stream bytes are in place.
pub(crate) fn seal(sector: &mut [u8], generation: u32, position: Position, role: Role) {
    assert_eq!(sector.len(), SECTOR_BYTES);
    assert!(generation != 0, "generation 0 means never written");
    let sum = checksum(sector, generation, position) ^ role.mask();
    sector[..4].copy_from_slice(&sum.to_le_bytes());
    sector[4..8].copy_from_slice(&generation.to_le_bytes());
}

/// What stands in `sector`, which was read from `position` of a segment of `generation`.
///
/// A sector that verifies under the segment's generation but names another one had its generation field damaged;
/// it is `Bad`, or a flipped bit there would make an acked sector look never written.
pub(crate) fn classify(sector: &[u8], generation: u32, position: Position) -> Sector {
    assert_eq!(sector.len(), SECTOR_BYTES);
    let (stored, named) = (word(sector, 0), word(sector, 4));
    if named == 0 && stored == 0 && sector.iter().all(|b| *b == 0) {
        return Sector::Blank;
    }
    let mask = stored ^ checksum(sector, generation, position);
    let role = [Role::Body, Role::Head, Role::Segment].into_iter().find(|role| role.mask() == mask);
    match role {
        Some(role) if named == generation => Sector::Good(role),
        Some(_) => Sector::Bad,
        None if named < generation => Sector::Older,
        None => Sector::Bad,
    }
}

/// The generation that a sector names, if it verifies under that generation.
pub(crate) fn own_generation(sector: &[u8], position: Position) -> Option<u32> {
    let named = word(sector, 4);
    let good = named != 0 && matches!(classify(sector, named, position), Sector::Good(_));
    good.then_some(named)
}

/// File offset of stream byte `stream` of a batch that starts at file offset `start`.
pub(crate) fn file_offset(start: u32, stream: usize) -> u32 {
    let sector = stream / SECTOR_PAYLOAD * SECTOR_BYTES;
    start + (sector + SECTOR_HEAD + stream % SECTOR_PAYLOAD) as u32
}

/// Copies the stream bytes of whole sectors to `stream`, without their headers.
pub(crate) fn unframe(sectors: &[u8], stream: &mut Vec<u8>) {
    for sector in sectors.chunks_exact(SECTOR_BYTES) {
        stream.extend_from_slice(&sector[SECTOR_HEAD..]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::LogId;

    const AT: u32 = 1024;

    fn sealed() -> ([u8; SECTOR_BYTES], Position) {
        let position = Position::new(LogId(2), 5, AT);
        let mut sector = [0x3C; SECTOR_BYTES];
        seal(&mut sector, 9, position, Role::Head);
        (sector, position)
    }

    #[test]
    fn classes_of_sectors() {
        let (sector, position) = sealed();
        assert_eq!(classify(&sector, 9, position), Sector::Good(Role::Head));
        assert_eq!(classify(&sector, 10, position), Sector::Older);
        assert_eq!(classify(&sector, 8, position), Sector::Bad, "a generation from the future is not older");
        assert_eq!(classify(&[0; SECTOR_BYTES], 9, position), Sector::Blank);
        assert_eq!(classify(&UNREADABLE, 9, position), Sector::Bad);
        assert_eq!(own_generation(&sector, position), Some(9));
        for elsewhere in [
            Position::new(LogId(1), 5, AT),
            Position::new(LogId(2), 4, AT),
            Position::new(LogId(2), 5, AT + 512),
        ] {
            assert_eq!(classify(&sector, 9, elsewhere), Sector::Bad, "misdirected to {elsewhere}");
            assert_eq!(own_generation(&sector, elsewhere), None);
        }
    }

    #[test]
    fn every_flipped_bit_is_bad() {
        let (mut sector, position) = sealed();
        for bit in 0..SECTOR_BYTES * 8 {
            sector[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(classify(&sector, 9, position), Sector::Bad, "bit {bit}");
            sector[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn stream_bytes_step_over_sector_headers() {
        assert_eq!(file_offset(512, 0), 520);
        assert_eq!(file_offset(512, 503), 1023);
        assert_eq!(file_offset(512, 504), 1032);
        let (sector, _) = sealed();
        let mut stream = Vec::new();
        unframe(&[sector, sector].concat(), &mut stream);
        assert_eq!(stream, vec![0x3C; 1008]);
    }
}
