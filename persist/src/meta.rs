//! The data folder's META file: 64 bytes that say whose folder it is and how often it was booted.
//!
//! Encode and decode only. The server writes it beside its place, syncs, renames, and syncs the directory, so that
//! there is always one whole copy.

use std::fmt;
use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bytes of the META file.
pub const META_BYTES: usize = 64;

const META_MAGIC: [u8; 8] = *b"RDMETA\0\0";

/// What the META file says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Meta {
    /// Number of this data set, random, given once.
    pub data_set: u64,
    /// Boots so far; incremented and durable before anything else is written.
    pub boot_epoch: u32,
    /// Epoch of the cursors; incremented when a loss is declared.
    pub log_epoch: u32,
    /// Logs that exist: 0 to this number, less one. Never shrinks, so that a log directory that vanished is noticed.
    pub logs: u16,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct MetaBytes {
    magic: [u8; 8],
    version: U16,
    logs: U16,
    boot_epoch: U32,
    data_set: U64,
    log_epoch: U32,
    reserved: [u8; 32],
    crc: U32,
}

const _: () = assert!(size_of::<MetaBytes>() == META_BYTES);

/// Why a META file was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MetaError {
    /// Not 64 bytes, or other magic bytes: not a META file.
    NotMeta,
    /// The checksum does not match.
    Damaged,
    /// Written by another format version.
    Version(u16),
}

impl fmt::Display for MetaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotMeta => write!(f, "META is not a file of Ringdesk"),
            Self::Damaged => write!(f, "META is damaged: its checksum does not match"),
            Self::Version(version) => {
                write!(f, "META has format version {version}; this build reads {}", crate::FORMAT_VERSION)
            }
        }
    }
}

impl std::error::Error for MetaError {}

impl Meta {
    /// The 64 bytes of the file.
    #[must_use]
    pub fn encode(&self) -> [u8; META_BYTES] {
        let mut raw = MetaBytes {
            magic: META_MAGIC,
            version: U16::new(crate::FORMAT_VERSION),
            logs: U16::new(self.logs),
            boot_epoch: U32::new(self.boot_epoch),
            data_set: U64::new(self.data_set),
            log_epoch: U32::new(self.log_epoch),
            reserved: [0; 32],
            crc: U32::new(0),
        };
        raw.crc = U32::new(crc32c::crc32c(&raw.as_bytes()[..META_BYTES - 4]));
        raw.as_bytes().try_into().expect("64 bytes")
    }

    /// Reads the file's bytes.
    ///
    /// # Errors
    /// See [`MetaError`]. The magic is looked at first, then the checksum, then the version.
    pub fn decode(bytes: &[u8]) -> Result<Self, MetaError> {
        let raw = MetaBytes::ref_from_bytes(bytes).map_err(|_| MetaError::NotMeta)?;
        if raw.magic != META_MAGIC {
            return Err(MetaError::NotMeta);
        }
        if raw.crc.get() != crc32c::crc32c(&bytes[..META_BYTES - 4]) {
            return Err(MetaError::Damaged);
        }
        if raw.version.get() != crate::FORMAT_VERSION {
            return Err(MetaError::Version(raw.version.get()));
        }
        Ok(Self {
            data_set: raw.data_set.get(),
            boot_epoch: raw.boot_epoch.get(),
            log_epoch: raw.log_epoch.get(),
            logs: raw.logs.get(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meta_survives_the_round_trip_and_no_flipped_bit() {
        let meta = Meta { data_set: 0x1122_3344_5566_7788, boot_epoch: 7, log_epoch: 2, logs: 4 };
        let mut bytes = meta.encode();
        assert_eq!(Meta::decode(&bytes), Ok(meta));
        for bit in 0..META_BYTES * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(Meta::decode(&bytes).is_err(), "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        assert_eq!(Meta::decode(&bytes[..63]), Err(MetaError::NotMeta));
    }
}
