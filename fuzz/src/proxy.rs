//! `protocol::proxy`: the PROXY protocol header, version 2, before the bytes of a client.
//!
//! Input: plan of the pieces (4), then the bytes.

use std::net::SocketAddr;

use ringdesk_protocol::proxy::{Decoder, HEADER_BYTES_MAX, Proxied, ProxyError, SIGNATURE};

use crate::pieces::Pieces;

/// Bytes of the fixed part.
const FIXED_BYTES: usize = 16;

/// Every way of cutting gives the same header, taken to the same byte, or the same refusal; what was read is what
/// stands there.
///
/// # Panics
/// If not.
pub fn check(input: &[u8]) {
    let Some((pieces, bytes)) = Pieces::take(input) else { return };
    let whole = feed(Pieces::WHOLE, bytes);
    assert_eq!(feed(Pieces::EACH, bytes), whole, "byte by byte");
    assert_eq!(feed(pieces, bytes), whole, "{pieces:?}");
    match whole {
        Ok(Some((proxied, end))) => same_bytes(&bytes[..end], proxied),
        Ok(None) => assert!(bytes.len() < HEADER_BYTES_MAX, "an endless header"),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// The header and the place where it ends in the stream.
fn feed(pieces: Pieces, bytes: &[u8]) -> Result<Option<(Proxied, usize)>, ProxyError> {
    let mut decoder = Decoder::new();
    let mut before = 0;
    for piece in pieces.of(bytes) {
        if let Some((proxied, taken)) = decoder.feed(piece)? {
            assert!(taken <= piece.len());
            return Ok(Some((proxied, before + taken)));
        }
        before += piece.len();
    }
    Ok(None)
}

/// Reads the header again by the table of its document.
fn same_bytes(header: &[u8], proxied: Proxied) {
    assert!(header.starts_with(&SIGNATURE) && (FIXED_BYTES..=HEADER_BYTES_MAX).contains(&header.len()));
    let length = u16::from_be_bytes([header[14], header[15]]);
    assert_eq!(FIXED_BYTES + usize::from(length), header.len());
    assert_eq!(proxied.local, header[12] == 0x20);
    let block = &header[FIXED_BYTES..];
    let peer = match (proxied.local, header[13]) {
        (false, 0x11) => {
            let address: [u8; 4] = block[..4].try_into().expect("four bytes");
            Some(SocketAddr::from((address, u16::from_be_bytes([block[8], block[9]]))))
        }
        (false, 0x21) => {
            let address: [u8; 16] = block[..16].try_into().expect("sixteen bytes");
            Some(SocketAddr::from((address, u16::from_be_bytes([block[32], block[33]]))))
        }
        _ => None,
    };
    assert_eq!(proxied.peer, peer);
}
