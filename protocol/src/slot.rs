//! Hash slots, computed as Redis Cluster does (Redis Cluster specification, "Key distribution model" and "Hash
//! tags"), so that front-ends reuse the code they have: CRC16/XMODEM of the hash tag modulo 16384.

/// Number of slots.
pub const SLOTS: u16 = 16_384;

/// CRC16/XMODEM by table: polynomial 0x1021, start 0, no reflection, no final exclusive-or.
const TABLE: [u16; 256] = {
    let mut table = [0u16; 256];
    let mut index = 0;
    while index < 256 {
        let mut crc = (index as u16) << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 };
            bit += 1;
        }
        table[index] = crc;
        index += 1;
    }
    table
};

/// Continues a CRC16/XMODEM over more bytes; start with 0.
pub fn crc16(crc: u16, bytes: &[u8]) -> u16 {
    bytes.iter().fold(crc, |crc, &byte| (crc << 8) ^ TABLE[usize::from((crc >> 8) as u8 ^ byte)])
}

/// The slot of a hash key, `0..SLOTS`. If the key has a `{` and a later `}` with at least one byte between the
/// first of each, only those bytes are hashed (the hash tag); else the whole key.
pub fn slot_of(key: &[u8]) -> u16 {
    crc16(0, tag_of(key)) % SLOTS
}

fn tag_of(key: &[u8]) -> &[u8] {
    let Some(open) = key.iter().position(|&byte| byte == b'{') else {
        return key;
    };
    let inside = &key[open + 1..];
    match inside.iter().position(|&byte| byte == b'}') {
        None | Some(0) => key,
        Some(close) => &inside[..close],
    }
}

/// Slot of a visitor's conversations: of the key `{site/visitor}`, without building it. A `}` in either part
/// ends the tag there, exactly as it does in the written-out key.
pub fn visitor_slot(site: &str, visitor: &str) -> u16 {
    pair_slot(site.as_bytes(), visitor.as_bytes())
}

/// Slot of an agent: of the key `{site/agent}`.
pub fn agent_slot(site: &str, agent: &str) -> u16 {
    pair_slot(site.as_bytes(), agent.as_bytes())
}

/// Slot of a site's dispatcher: of the key `{site}`. `site` must not be empty.
pub fn site_slot(site: &str) -> u16 {
    assert!(!site.is_empty() && !site.contains('}'), "a site name is not empty and has no closing brace");
    crc16(0, site.as_bytes()) % SLOTS
}

fn pair_slot(site: &[u8], name: &[u8]) -> u16 {
    assert!(!site.is_empty() && !site.contains(&b'}'), "a site name is not empty and has no closing brace");
    let name = name.split(|&byte| byte == b'}').next().unwrap_or(name);
    crc16(crc16(crc16(0, site), b"/"), name) % SLOTS
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_values_of_redis() {
        assert_eq!(crc16(0, b"123456789"), 0x31C3);
        assert_eq!(slot_of(b"123456789"), 12_739);
        assert_eq!(slot_of(b"foo"), 12_182);
        assert_eq!(slot_of(b""), 0);
        assert_eq!(slot_of(b"{user1000}.following"), slot_of(b"user1000"));
        assert_eq!(slot_of(b"{user1000}.following"), slot_of(b"{user1000}.followers"));
        // The cases of the specification's section on hash tags.
        assert_eq!(slot_of(b"foo{}{bar}"), crc16(0, b"foo{}{bar}") % SLOTS);
        assert_eq!(slot_of(b"foo{{bar}}zap"), slot_of(b"{bar"));
        assert_eq!(slot_of(b"foo{bar}{zap}"), slot_of(b"bar"));
    }

    proptest! {
        #[test]
        fn shortcuts_agree_with_the_written_key(site in "[a-z0-9-]{1,12}", visitor in ".{0,20}") {
            let key = format!("{{{site}/{visitor}}}");
            prop_assert_eq!(visitor_slot(&site, &visitor), slot_of(key.as_bytes()));
            prop_assert_eq!(agent_slot(&site, &visitor), slot_of(key.as_bytes()));
            prop_assert_eq!(site_slot(&site), slot_of(format!("{{{site}}}").as_bytes()));
        }

        #[test]
        fn table_agrees_with_bit_by_bit(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let mut crc = 0u16;
            for &byte in &bytes {
                crc ^= u16::from(byte) << 8;
                for _ in 0..8 {
                    crc = if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 };
                }
            }
            prop_assert_eq!(crc16(0, &bytes), crc);
        }
    }
}
