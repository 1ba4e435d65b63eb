//! Dedup of one party's device in one conversation (contract C4), and the memory of retired devices.
//!
//! Owned by the conversation. `n` is dense per device, so the window needs no n: that of sequence n stands at
//! (n - 1) mod window.

use std::collections::BTreeSet;

use crate::digest::Digest;
use crate::ids::DeviceId;

/// Message kind reserved for the marker of a RESOLVE in the dedup window; a SEND of this kind is `Invalid`.
pub const KIND_RESOLVE: u8 = 0xFF;

/// Bytes hashed on the stack before the streaming hasher pays off.
const HASH_STACK_BYTES: usize = 512;

/// Dedup hash of a SEND: xxh3-64 over the kind byte and then the body.
pub fn send_hash(kind: u8, body: &[u8]) -> u64 {
    if body.len() < HASH_STACK_BYTES {
        let mut bytes = [0u8; HASH_STACK_BYTES];
        bytes[0] = kind;
        bytes[1..=body.len()].copy_from_slice(body);
        return xxhash_rust::xxh3::xxh3_64(&bytes[..=body.len()]);
    }
    let mut hasher = xxhash_rust::xxh3::Xxh3Default::new();
    hasher.update(&[kind]);
    hasher.update(body);
    hasher.digest()
}

/// Dedup hash of a RESOLVE: that of a message of kind `KIND_RESOLVE` without a body, which no SEND can have.
pub fn resolve_hash() -> u64 {
    send_hash(KIND_RESOLVE, &[])
}

/// One recorded key: 12 bytes, so that a full window of 16 is 192.
#[derive(Clone, Copy)]
struct Kept {
    hash: [u32; 2],
    seq: u32,
}

impl Kept {
    fn new(seq: u64, hash: u64) -> Self {
        Self { hash: halves(hash), seq: u32::try_from(seq).expect("seq is kept in 32 bits") }
    }
}

/// A live device of a conversation.
pub(crate) struct Device {
    pub(crate) device: DeviceId,
    /// `digest::party_number` of its party.
    pub(crate) party: u32,
    /// Last recorded n. Each n has a seq of its own and seq is 32 bits wide, so n is too.
    last: u32,
    kept: Window,
}

/// The newest keys. Most devices of most conversations have written once, which takes no allocation.
enum Window {
    One([Kept; 1]),
    #[allow(clippy::box_collection, reason = "8 bytes instead of 24 in every device")]
    Many(Box<Vec<Kept>>),
}

impl Window {
    fn as_slice(&self) -> &[Kept] {
        match self {
            Self::One(kept) => kept,
            Self::Many(kept) => kept,
        }
    }

    fn push(&mut self, kept: Kept, max: usize) {
        match self {
            Self::One([first]) => *self = Self::Many(Box::new(vec![*first, kept])),
            Self::Many(many) => {
                if many.len() == many.capacity() {
                    // Half as much again: a window may stay as it is for years.
                    many.reserve_exact((many.len() / 2).clamp(1, max - many.len()));
                }
                many.push(kept);
            }
        }
    }

    fn set(&mut self, at: usize, kept: Kept) {
        match self {
            Self::One(one) => one[at] = kept,
            Self::Many(many) => many[at] = kept,
        }
    }
}

/// What the window says about a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Key {
    /// The next one.
    Fresh,
    /// Recorded at this seq with the same body.
    Same(u64),
    /// Recorded with another body.
    Other,
    /// Recorded, but longer ago than the window reaches.
    Old,
    /// Beyond the next; the next is this.
    Ahead(u64),
}

impl Device {
    /// A device with its first key.
    pub(crate) fn new(device: DeviceId, party: u32, n: u64, seq: u64, hash: u64) -> Self {
        assert!(n == 1, "device {device:?}: its first n is {n}");
        Self { device, party, last: 1, kept: Window::One([Kept::new(seq, hash)]) }
    }

    /// Looks up a key. `n` is at least 1.
    pub(crate) fn key(&self, n: u64, hash: u64) -> Key {
        let last = u64::from(self.last);
        if n > last {
            return if n == last + 1 { Key::Fresh } else { Key::Ahead(last + 1) };
        }
        let kept = self.kept.as_slice();
        let window = kept.len() as u64;
        if n + window <= last {
            return Key::Old;
        }
        let kept = kept[((n - 1) % window) as usize];
        if kept.hash == halves(hash) { Key::Same(u64::from(kept.seq)) } else { Key::Other }
    }

    /// Records the next key.
    pub(crate) fn record(&mut self, n: u64, seq: u64, hash: u64, window: u32) {
        assert!(
            n == u64::from(self.last) + 1,
            "device {:?}: n {n} recorded after {}",
            self.device,
            self.last
        );
        self.last += 1;
        let kept = Kept::new(seq, hash);
        if self.kept.as_slice().len() < window as usize {
            self.kept.push(kept, window as usize);
        } else {
            self.kept.set(((n - 1) % u64::from(window)) as usize, kept);
        }
    }

    /// Seq of the newest key: the device's last activity.
    pub(crate) fn last_seq(&self) -> u64 {
        let kept = self.kept.as_slice();
        u64::from(kept[(self.last as usize - 1) % kept.len()].seq)
    }

    pub(crate) fn digest(&self, digest: &mut Digest) {
        digest.u64(self.device.0);
        digest.u32(self.party);
        digest.u32(self.last);
        digest.count(self.kept.as_slice().len());
        for kept in self.kept.as_slice() {
            digest.u32(kept.hash[0]);
            digest.u32(kept.hash[1]);
            digest.u32(kept.seq);
        }
    }
}

fn halves(hash: u64) -> [u32; 2] {
    [hash as u32, (hash >> 32) as u32]
}

/// The live devices of one conversation. Most conversations have one, held in place.
#[derive(Default)]
pub(crate) enum Devices {
    #[default]
    None,
    One(Device),
    Many(Box<Crowd>),
}

/// More than one device, now or before.
pub(crate) struct Crowd {
    live: Vec<Device>,
    retired: Retired,
}

impl Devices {
    pub(crate) fn as_slice(&self) -> &[Device] {
        match self {
            Self::None => &[],
            Self::One(device) => std::slice::from_ref(device),
            Self::Many(crowd) => &crowd.live,
        }
    }

    pub(crate) fn find_mut(&mut self, party: u32, device: DeviceId) -> Option<&mut Device> {
        let devices = match self {
            Self::None => &mut [],
            Self::One(device) => std::slice::from_mut(device),
            Self::Many(crowd) => crowd.live.as_mut_slice(),
        };
        devices.iter_mut().find(|known| known.device == device && known.party == party)
    }

    fn crowd(&mut self) -> &mut Crowd {
        if !matches!(self, Self::Many(_)) {
            let live = match std::mem::take(self) {
                Self::One(device) => vec![device],
                _ => Vec::new(),
            };
            *self = Self::Many(Box::new(Crowd { live, retired: Retired::default() }));
        }
        let Self::Many(crowd) = self else { panic!("it was just made one") };
        crowd
    }

    pub(crate) fn push(&mut self, device: Device) {
        if matches!(self, Self::None) {
            *self = Self::One(device);
            return;
        }
        let live = &mut self.crowd().live;
        live.reserve_exact(1);
        live.push(device);
    }

    /// Retires a live device. Panics when it is not live.
    pub(crate) fn retire(&mut self, party: u32, device: DeviceId, retired_max: u32) {
        let crowd = self.crowd();
        let live = crowd.live.iter().position(|known| known.device == device && known.party == party);
        crowd.live.remove(live.expect("only a live device is retired"));
        crowd.retired.insert(party, device, retired_max);
    }

    pub(crate) fn retired(&self) -> &Retired {
        match self {
            Self::Many(crowd) => &crowd.retired,
            _ => &Retired(None),
        }
    }

    pub(crate) fn digest(&self, digest: &mut Digest) {
        digest.count(self.as_slice().len());
        self.as_slice().iter().for_each(|device| device.digest(digest));
        self.retired().digest(digest);
    }
}

/// Devices that may not come back. Most conversations never retire one, so it costs a null pointer until then.
#[derive(Default)]
pub(crate) struct Retired(Option<Box<RetiredSet>>);

#[derive(Default)]
struct RetiredSet(BTreeSet<(u32, DeviceId)>);

impl Retired {
    pub(crate) fn contains(&self, party: u32, device: DeviceId) -> bool {
        self.0.as_ref().is_some_and(|set| set.0.contains(&(party, device)))
    }

    pub(crate) fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |set| set.0.len())
    }

    pub(crate) fn insert(&mut self, party: u32, device: DeviceId, max: u32) {
        assert!(self.len() < max as usize, "retired devices are bounded by decide");
        let new = self.0.get_or_insert_default().0.insert((party, device));
        assert!(new, "device {device:?} retired twice");
    }

    pub(crate) fn digest(&self, digest: &mut Digest) {
        digest.count(self.len());
        for (party, device) in self.0.iter().flat_map(|set| &set.0) {
            digest.u32(*party);
            digest.u64(device.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: u32 = 16;

    fn device_with(n_last: u64) -> Device {
        let mut device = Device::new(DeviceId(7), 0, 1, 3, send_hash(0, &1u64.to_le_bytes()));
        for n in 2..=n_last {
            device.record(n, n * 3, send_hash(0, &n.to_le_bytes()), WINDOW);
        }
        device
    }

    #[test]
    fn window_answers_each_of_the_newest_sixteen() {
        for last in 1..40u64 {
            let device = device_with(last);
            for n in 1..=last {
                let hash = send_hash(0, &n.to_le_bytes());
                let expected = if n + 16 > last { Key::Same(n * 3) } else { Key::Old };
                assert_eq!(device.key(n, hash), expected, "n {n} of {last}");
                if n + 16 > last {
                    assert_eq!(device.key(n, hash ^ 1), Key::Other);
                    assert_eq!(device.key(n, hash ^ (1 << 63)), Key::Other);
                }
            }
            assert_eq!(device.key(last + 1, 0), Key::Fresh);
            assert_eq!(device.key(last + 2, 0), Key::Ahead(last + 1));
            assert_eq!(device.key(u64::MAX, 0), Key::Ahead(last + 1));
            assert_eq!(device.last_seq(), last * 3);
        }
    }

    #[test]
    #[should_panic(expected = "recorded after")]
    fn recording_with_a_hole_is_a_broken_invariant() {
        device_with(2).record(4, 9, 0, WINDOW);
    }

    #[test]
    fn short_and_long_bodies_hash_alike() {
        for len in [0, 1, 510, 511, 512, 513, 5000] {
            let body = vec![b'x'; len];
            let mut whole = vec![2u8];
            whole.extend_from_slice(&body);
            assert_eq!(send_hash(2, &body), xxhash_rust::xxh3::xxh3_64(&whole), "{len} bytes");
        }
    }
}
