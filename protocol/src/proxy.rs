//! PROXY protocol version 2, the receiving side: the header a front proxy writes before the bytes of its client.
//!
//! Format: "The PROXY protocol, versions 1 & 2", haproxy.org, section 2.2. The header comes once, first on the
//! connection; what follows belongs to the next layer. The decoder owns bytes only until the header is complete.
//!
//! Strict: whatever the document does not define ends the connection, because an address taken from a half-understood
//! header would be believed. Version 1 is refused; its proxy is named by its own sentence so that the operator sees why.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

/// First 12 bytes of every header.
pub const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";

/// Bytes of the fixed part: signature, version and command, family and protocol, length.
const FIXED_BYTES: usize = 16;

/// Longest header taken: the fixed part and 520 bytes of addresses and TLVs. It holds the largest address block (216
/// bytes, Unix) with 304 bytes beside it, and fits the first segment of every TCP connection (RFC 1122: 536 bytes).
pub const HEADER_BYTES_MAX: usize = 536;

const VERSION_1: &[u8] = b"PROXY ";
const TLV_CRC32C: u8 = 0x03;
const TLV_HEAD_BYTES: usize = 3;

/// Bytes of the address block by family: AF_INET, AF_INET6, AF_UNIX.
const ADDRESS_BYTES: [usize; 4] = [0, 12, 36, 216];

/// A header that is in order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Proxied {
    /// The client's address. `None`: the proxy speaks for itself (LOCAL), or its client has no internet address.
    pub peer: Option<SocketAddr>,
    /// Whether the proxy opened the connection for itself, a health check for instance.
    pub local: bool,
}

/// Why a header was refused. The connection is closed without an answer: whoever reads it is a proxy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ProxyError {
    /// The connection does not begin with a header.
    Missing,
    /// A header of version 1, the text form.
    Version1,
    /// The version is not 2; the byte as it came.
    Version(u8),
    /// The command is neither LOCAL nor PROXY; its nibble.
    Command(u8),
    /// Not one of the defined families over a stream; the byte as it came.
    Family(u8),
    /// Longer than [`HEADER_BYTES_MAX`]; the length field.
    TooLong(u16),
    /// The length field leaves no room for the family's addresses; the length field.
    TooShort(u16),
    /// A TLV reaches beyond the header, or the checksum TLV is repeated or has not 4 bytes.
    Tlv,
    /// The checksum TLV does not fit the header.
    Checksum,
}

impl fmt::Display for ProxyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => write!(f, "the connection does not begin with a PROXY protocol header"),
            Self::Version1 => {
                write!(f, "the proxy speaks version 1 of the PROXY protocol; set it to version 2 (binary)")
            }
            Self::Version(byte) => write!(f, "{byte:#04x} is not version 2 of the PROXY protocol"),
            Self::Command(nibble) => write!(f, "{nibble:#x} is neither LOCAL nor PROXY"),
            Self::Family(byte) => write!(f, "{byte:#04x} is no address family over a stream"),
            Self::TooLong(length) => {
                write!(f, "a header of {length} bytes after the first 16 is over {HEADER_BYTES_MAX} in all")
            }
            Self::TooShort(length) => write!(f, "{length} bytes are too few for the addresses announced"),
            Self::Tlv => write!(f, "an extension (TLV) of the header is malformed"),
            Self::Checksum => write!(f, "the checksum of the header is wrong"),
        }
    }
}

impl std::error::Error for ProxyError {}

/// Takes a header in whatever pieces it arrives.
#[derive(Default, Debug)]
pub struct Decoder {
    held: Vec<u8>,
}

impl Decoder {
    /// Nothing arrived yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The bytes of the incomplete header: fed to a new decoder, they bring it here again.
    pub fn held(&self) -> &[u8] {
        &self.held
    }

    /// Takes bytes until the header is complete. Gives the header and how many of `bytes` belong to it; `None`: all of
    /// them do, and more have to come. Holds at most [`HEADER_BYTES_MAX`]. An error is final.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<Option<(Proxied, usize)>, ProxyError> {
        let mut taken = 0;
        loop {
            let whole = whole_bytes(&self.held)?;
            if let Some(whole) = whole
                && self.held.len() == whole
            {
                return Ok(Some((parse(&self.held)?, taken)));
            }
            let wanted = whole.unwrap_or(FIXED_BYTES) - self.held.len();
            let more = wanted.min(bytes.len() - taken);
            if more == 0 {
                return Ok(None);
            }
            self.held.extend_from_slice(&bytes[taken..taken + more]);
            taken += more;
        }
    }
}

/// Length of the header that begins with `held`, once it says. Looks at the bytes in their order, so that an error does
/// not depend on how many came at once.
fn whole_bytes(held: &[u8]) -> Result<Option<usize>, ProxyError> {
    if held.first() == VERSION_1.first() {
        let seen = held.len().min(VERSION_1.len());
        if held[..seen] != VERSION_1[..seen] {
            return Err(ProxyError::Missing);
        }
        return if seen == VERSION_1.len() { Err(ProxyError::Version1) } else { Ok(None) };
    }
    let seen = held.len().min(SIGNATURE.len());
    if held[..seen] != SIGNATURE[..seen] {
        return Err(ProxyError::Missing);
    }
    let Some(&version_command) = held.get(12) else { return Ok(None) };
    if version_command >> 4 != 2 {
        return Err(ProxyError::Version(version_command));
    }
    if version_command & 0xF > 1 {
        return Err(ProxyError::Command(version_command & 0xF));
    }
    let local = version_command & 0xF == 0;
    let Some(&family) = held.get(13) else { return Ok(None) };
    // LOCAL: "the receiver must ... discard the protocol block including the family which is ignored".
    if !local && !matches!(family, 0x00 | 0x11 | 0x21 | 0x31) {
        return Err(ProxyError::Family(family));
    }
    if held.len() < FIXED_BYTES {
        return Ok(None);
    }
    let length = u16::from_be_bytes([held[14], held[15]]);
    if usize::from(length) > HEADER_BYTES_MAX - FIXED_BYTES {
        return Err(ProxyError::TooLong(length));
    }
    if !local && usize::from(length) < ADDRESS_BYTES[usize::from(family >> 4)] {
        return Err(ProxyError::TooShort(length));
    }
    Ok(Some(FIXED_BYTES + usize::from(length)))
}

/// A complete header whose fixed part is in order.
fn parse(header: &[u8]) -> Result<Proxied, ProxyError> {
    if header[12] & 0xF == 0 {
        return Ok(Proxied { peer: None, local: true });
    }
    let family = header[13] >> 4;
    let (addresses, extensions) = header[FIXED_BYTES..].split_at(ADDRESS_BYTES[usize::from(family)]);
    // Without a family there is no saying where extensions begin: "the receiver should ignore" what follows.
    if family != 0 {
        check_extensions(header, extensions)?;
    }
    let port = |at: usize| u16::from_be_bytes([addresses[at], addresses[at + 1]]);
    let peer = match family {
        1 => {
            let ip: [u8; 4] = addresses[..4].try_into().expect("an address block has its length");
            Some(SocketAddr::from((Ipv4Addr::from(ip), port(8))))
        }
        2 => {
            let ip: [u8; 16] = addresses[..16].try_into().expect("an address block has its length");
            Some(SocketAddr::from((Ipv6Addr::from(ip), port(32))))
        }
        _ => None,
    };
    Ok(Proxied { peer, local: false })
}

/// Walks the TLVs; unknown types are skipped, CRC32C (RFC 4960 appendix B) over the whole header with the checksum's
/// own bytes zero must fit.
fn check_extensions(header: &[u8], mut rest: &[u8]) -> Result<(), ProxyError> {
    let mut checksum = None;
    while !rest.is_empty() {
        if rest.len() < TLV_HEAD_BYTES {
            return Err(ProxyError::Tlv);
        }
        let length = usize::from(u16::from_be_bytes([rest[1], rest[2]]));
        let value_at = header.len() - rest.len() + TLV_HEAD_BYTES;
        let value = rest.get(TLV_HEAD_BYTES..TLV_HEAD_BYTES + length).ok_or(ProxyError::Tlv)?;
        if rest[0] == TLV_CRC32C {
            let value: [u8; 4] = value.try_into().map_err(|_| ProxyError::Tlv)?;
            if checksum.replace((value_at, u32::from_be_bytes(value))).is_some() {
                return Err(ProxyError::Tlv);
            }
        }
        rest = &rest[TLV_HEAD_BYTES + length..];
    }
    let Some((at, expected)) = checksum else { return Ok(()) };
    let before = crc32c::crc32c(&header[..at]);
    let zeroed = crc32c::crc32c_append(before, &[0; 4]);
    let actual = crc32c::crc32c_append(zeroed, &header[at + 4..]);
    if actual == expected { Ok(()) } else { Err(ProxyError::Checksum) }
}

/// Appends a header as a proxy writes it, for tests and load generators: PROXY over a stream from `peer` to `local`,
/// which must be of one family, with a checksum TLV.
pub fn write(peer: SocketAddr, local: SocketAddr, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(&SIGNATURE);
    let (family, mut addresses) = match (peer, local) {
        (SocketAddr::V4(peer), SocketAddr::V4(local)) => {
            (0x11, [peer.ip().octets(), local.ip().octets()].concat())
        }
        (SocketAddr::V6(peer), SocketAddr::V6(local)) => {
            (0x21, [peer.ip().octets(), local.ip().octets()].concat())
        }
        _ => panic!("{peer} and {local} are of two families"),
    };
    addresses.extend_from_slice(&peer.port().to_be_bytes());
    addresses.extend_from_slice(&local.port().to_be_bytes());
    let length = u16::try_from(addresses.len() + TLV_HEAD_BYTES + 4).expect("two addresses are short");
    out.extend_from_slice(&[0x21, family]);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(&addresses);
    out.extend_from_slice(&[TLV_CRC32C, 0, 4, 0, 0, 0, 0]);
    let checksum = crc32c::crc32c(&out[start..]).to_be_bytes();
    let at = out.len() - 4;
    out[at..].copy_from_slice(&checksum);
}

#[cfg(test)]
mod tests;
