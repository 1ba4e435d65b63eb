//! The one source of chance, and the digest of a run. Both are plain integer arithmetic: the same on every machine.

/// SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014).
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// A generator for a seed; neighbouring seeds give unrelated streams.
    pub fn new(seed: u64) -> Self {
        let mut rng = Self(seed ^ 0x5DEE_CE66_D151_7A7E);
        rng.next();
        rng
    }

    /// The next 64 bits.
    #[allow(clippy::should_implement_trait, reason = "a generator has no end, so it is no iterator")]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mix(self.0)
    }

    /// A number below `bound`, which is at least 1. The bias of the multiplication is below 2^-32.
    pub fn below(&mut self, bound: u64) -> u64 {
        assert!(bound > 0, "an empty range has no member");
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }

    /// A number in `low..=high`.
    pub fn range(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    /// An index below `len`.
    pub fn index(&mut self, len: usize) -> usize {
        self.below(len as u64) as usize
    }

    /// True in `parts` of a million cases.
    pub fn ppm(&mut self, parts: u32) -> bool {
        // No draw for a fault that is off: a plan without faults has the same workload as one with them.
        parts > 0 && self.below(1_000_000) < u64::from(parts)
    }

    /// True in one of `n` cases.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// A generator of its own for a part of the run.
    pub fn fork(&mut self) -> Self {
        Self::new(self.next())
    }
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Digest of everything a run showed: each client-visible byte and each disk write, in order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RunHash(u64);

impl Default for RunHash {
    fn default() -> Self {
        Self(0x6A09_E667_F3BC_C908)
    }
}

impl RunHash {
    /// Folds a number in.
    pub fn number(&mut self, value: u64) {
        self.0 = mix(self.0 ^ value).wrapping_add(0x9E37_79B9_7F4A_7C15);
    }

    /// Folds bytes in.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.number(xxhash_rust::xxh3::xxh3_64(bytes));
    }

    /// The digest so far.
    pub fn value(self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stream_of_a_seed_never_changes() {
        // Reference values: the published algorithm, computed once. A change makes every recorded seed worthless.
        let mut rng = Rng(0);
        assert_eq!(rng.next(), 0xE220_A839_7B1D_CDAF);
        assert_eq!(rng.next(), 0x6E78_9E6A_A1B9_65F4);
    }

    #[test]
    fn ranges_are_closed_and_complete() {
        let mut rng = Rng::new(1);
        let mut seen = [false; 4];
        for _ in 0..200 {
            seen[rng.range(3, 6) as usize - 3] = true;
        }
        assert_eq!(seen, [true; 4]);
    }
}
