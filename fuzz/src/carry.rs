//! `shard::carry`: a connection from another process, and a whole shard that adopts it.
//!
//! Input: the connection.

use ringdesk_shard::carry::{Carried, CarryError, VERSION};

use crate::shard::World;

/// What is read is written as the bytes that were read, and a shard adopts it without a panic: whatever it says of
/// itself, the next visitor is served, and it can be written down once more.
///
/// # Panics
/// If not.
pub fn check(input: &[u8]) {
    let carried = match Carried::decode(input) {
        Ok(carried) => carried,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            let other = input.first().is_some_and(|version| *version != VERSION);
            assert_eq!(other, matches!(error, CarryError::Version(_)), "{error:?}");
            return;
        }
    };
    let mut written = Vec::new();
    carried.encode(&mut written);
    assert_eq!(written, input, "{carried:?}");
    assert!(carried.home().is_none_or(|slot| slot.0 < 16_384));
    let mut world = World::new();
    world.neighbours();
    let conn = world.adopt(carried);
    for carried in world.stand_still() {
        let mut bytes = Vec::new();
        carried.encode(&mut bytes);
        assert_eq!(Carried::decode(&bytes), Ok(carried));
    }
    world.go_on();
    world.hangup(conn);
    world.another_is_served();
}
