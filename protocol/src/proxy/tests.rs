//! Headers as the document writes them, malformed ones, and every way of cutting them.

use proptest::prelude::*;

use super::*;

fn header(version_command: u8, family: u8, block: &[u8]) -> Vec<u8> {
    let mut bytes = SIGNATURE.to_vec();
    bytes.extend_from_slice(&[version_command, family]);
    bytes.extend_from_slice(&u16::try_from(block.len()).expect("short").to_be_bytes());
    bytes.extend_from_slice(block);
    bytes
}

fn whole(bytes: &[u8]) -> Result<Option<(Proxied, usize)>, ProxyError> {
    Decoder::new().feed(bytes)
}

fn inet(extensions: &[u8]) -> Vec<u8> {
    let mut block = vec![192, 0, 2, 1, 198, 51, 100, 2, 0xC0, 0x00, 0x1E, 0x79];
    block.extend_from_slice(extensions);
    header(0x21, 0x11, &block)
}

#[test]
fn addresses_of_both_families() {
    let found = whole(&inet(&[])).unwrap().unwrap();
    assert_eq!(found, (Proxied { peer: Some("192.0.2.1:49152".parse().unwrap()), local: false }, 28));
    let mut block = Vec::new();
    block.extend_from_slice(&"2001:db8::7".parse::<Ipv6Addr>().unwrap().octets());
    block.extend_from_slice(&[0; 16]);
    block.extend_from_slice(&[0x12, 0x34, 0, 80]);
    let (found, taken) = whole(&header(0x21, 0x21, &block)).unwrap().unwrap();
    assert_eq!((found.peer, taken), (Some("[2001:db8::7]:4660".parse().unwrap()), 52));
}

#[test]
fn no_address_where_there_is_none() {
    let unix = whole(&header(0x21, 0x31, &[7; 216])).unwrap().unwrap().0;
    assert_eq!(unix, Proxied { peer: None, local: false });
    let unspecified = whole(&header(0x21, 0x00, &[1, 2, 3])).unwrap().unwrap();
    assert_eq!(unspecified, (Proxied { peer: None, local: false }, 19));
    // The block of LOCAL is discarded whatever it says.
    let local = whole(&header(0x20, 0xFF, &[9; 5])).unwrap().unwrap();
    assert_eq!(local, (Proxied { peer: None, local: true }, 21));
}

#[test]
fn what_follows_is_not_taken() {
    let mut bytes = inet(&[]);
    bytes.extend_from_slice(b"GET /ws HTTP/1.1\r\n");
    assert_eq!(whole(&bytes).unwrap().unwrap().1, 28);
}

#[test]
fn malformed_headers_are_told_apart() {
    let cases: [(Vec<u8>, ProxyError); 16] = [
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n".to_vec(), ProxyError::Version1),
        (b"PROXY UNKNOWN\r\n".to_vec(), ProxyError::Version1),
        (b"POST / HTTP/1.1\r\n".to_vec(), ProxyError::Missing),
        (b"GET / HTTP/1.1\r\n".to_vec(), ProxyError::Missing),
        (b"\r\n\r\n\0\r\nQUIT\r".to_vec(), ProxyError::Missing),
        (header(0x11, 0x11, &[0; 12]), ProxyError::Version(0x11)),
        (header(0x31, 0x11, &[0; 12]), ProxyError::Version(0x31)),
        (header(0x22, 0x11, &[0; 12]), ProxyError::Command(2)),
        (header(0x21, 0x12, &[0; 12]), ProxyError::Family(0x12)),
        (header(0x21, 0x41, &[0; 12]), ProxyError::Family(0x41)),
        (header(0x21, 0x11, &[0; 11]), ProxyError::TooShort(11)),
        (header(0x21, 0x21, &[0; 35]), ProxyError::TooShort(35)),
        (header(0x21, 0x31, &[0; 521]), ProxyError::TooLong(521)),
        (inet(&[0x04, 0]), ProxyError::Tlv),
        (inet(&[0x04, 0, 9, 1]), ProxyError::Tlv),
        (inet(&[TLV_CRC32C, 0, 3, 1, 2, 3]), ProxyError::Tlv),
    ];
    for (bytes, error) in cases {
        assert_eq!(whole(&bytes), Err(error), "{bytes:02x?}");
        assert!(!error.to_string().is_empty());
    }
}

#[test]
fn the_longest_header_is_taken() {
    let mut extensions = vec![0xE0, 0x01, 0xF9];
    extensions.extend_from_slice(&[5; 505]);
    let bytes = inet(&extensions);
    assert_eq!(bytes.len(), HEADER_BYTES_MAX);
    assert_eq!(whole(&bytes).unwrap().unwrap().1, HEADER_BYTES_MAX);
}

#[test]
fn a_checksum_is_verified_wherever_it_stands() {
    let mut extensions = vec![0x02, 0, 3, b'a', b'b', b'c'];
    extensions.extend_from_slice(&[TLV_CRC32C, 0, 4, 0, 0, 0, 0]);
    extensions.extend_from_slice(&[0x04, 0, 2, 0, 0]);
    let mut bytes = inet(&extensions);
    let at = 28 + 6 + 3;
    let checksum = crc32c::crc32c(&bytes).to_be_bytes();
    bytes[at..at + 4].copy_from_slice(&checksum);
    assert!(whole(&bytes).unwrap().is_some());
    // Its own type cannot be covered: with another one there is no checksum.
    for byte in (16..bytes.len()).filter(|byte| *byte != at - 3) {
        let mut wrong = bytes.clone();
        wrong[byte] ^= 1;
        assert!(whole(&wrong).is_err(), "byte {byte} is covered");
    }
    let twice = [&extensions[..], &[TLV_CRC32C, 0, 4, 0, 0, 0, 0]].concat();
    assert_eq!(whole(&inet(&twice)), Err(ProxyError::Tlv));
}

#[test]
fn what_is_written_is_read() {
    for (peer, local) in [("203.0.113.9:1", "127.0.0.1:2"), ("[2001:db8::1]:65535", "[::1]:7801")] {
        let peer: SocketAddr = peer.parse().unwrap();
        let mut bytes = Vec::new();
        write(peer, local.parse().unwrap(), &mut bytes);
        assert_eq!(whole(&bytes), Ok(Some((Proxied { peer: Some(peer), local: false }, bytes.len()))));
    }
}

/// Feeds in pieces that end at `cuts`; the outcome with `taken` counted from the first byte.
fn in_pieces(bytes: &[u8], cuts: &[usize]) -> Result<Option<(Proxied, usize)>, ProxyError> {
    let mut decoder = Decoder::new();
    let mut from = 0;
    for to in cuts.iter().copied().chain([bytes.len()]) {
        if let Some((found, taken)) = decoder.feed(&bytes[from..to])? {
            return Ok(Some((found, from + taken)));
        }
        from = to;
    }
    Ok(None)
}

fn nearly_headers() -> impl Strategy<Value = Vec<u8>> {
    let block = proptest::collection::vec(any::<u8>(), 0..560);
    let small = prop_oneof![Just(0x20u8), Just(0x21), any::<u8>()];
    let family = prop_oneof![Just(0u8), Just(0x11), Just(0x21), Just(0x31), any::<u8>()];
    let made = (small, family, block).prop_map(|(command, family, block)| header(command, family, &block));
    let change = proptest::option::weighted(0.3, (any::<prop::sample::Index>(), any::<u8>()));
    (made, change, proptest::collection::vec(any::<u8>(), 0..20)).prop_map(|(mut bytes, change, tail)| {
        if let Some((at, to)) = change {
            let at = at.index(bytes.len());
            bytes[at] = to;
        }
        bytes.extend_from_slice(&tail);
        bytes
    })
}

proptest! {
    #[test]
    fn every_way_of_cutting_gives_the_same(
        bytes in prop_oneof![
            nearly_headers(),
            proptest::collection::vec(any::<u8>(), 0..64),
            Just(b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n".to_vec()),
        ],
        cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        cuts.sort_unstable();
        let expected = whole(&bytes);
        prop_assert_eq!(in_pieces(&bytes, &cuts), expected);
        let singly: Vec<usize> = (1..=bytes.len()).collect();
        prop_assert_eq!(in_pieces(&bytes, &singly), expected);
    }
}
