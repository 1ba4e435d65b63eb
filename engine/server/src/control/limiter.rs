//! How often a password may be tried: a token bucket per (address, login).

use std::collections::BTreeMap;
use std::net::IpAddr;

/// Attempts at once.
pub const BURST: u32 = 5;
/// Milliseconds until one attempt is given back.
pub const REFILL_MS: u64 = 6_000;
/// Buckets kept. Full: buckets that are whole again are dropped; if none is, the attempt is refused (BUSY).
pub const BUCKETS_MAX: usize = 4_096;

struct Bucket {
    /// Attempts taken, in milliseconds of refill still owed.
    owed_ms: u64,
    at_ms: u64,
}

/// Token buckets by address and login.
#[derive(Default)]
pub struct LoginLimiter {
    buckets: BTreeMap<(IpAddr, String), Bucket>,
}

impl LoginLimiter {
    /// Takes one attempt at `now_ms` (monotonic). `Err(seconds)`: none is left; try again then.
    pub fn take(&mut self, address: IpAddr, account: &str, now_ms: u64) -> Result<(), u32> {
        let key = (address, account.to_string());
        if !self.buckets.contains_key(&key) && self.buckets.len() >= BUCKETS_MAX {
            self.buckets.retain(|_, bucket| bucket.owed_ms > now_ms.saturating_sub(bucket.at_ms));
            if self.buckets.len() >= BUCKETS_MAX {
                return Err(seconds(REFILL_MS));
            }
        }
        let bucket = self.buckets.entry(key).or_insert(Bucket { owed_ms: 0, at_ms: now_ms });
        bucket.owed_ms = bucket.owed_ms.saturating_sub(now_ms.saturating_sub(bucket.at_ms));
        bucket.at_ms = now_ms;
        let allowed = u64::from(BURST) * REFILL_MS;
        if bucket.owed_ms + REFILL_MS > allowed {
            return Err(seconds(bucket.owed_ms + REFILL_MS - allowed));
        }
        bucket.owed_ms += REFILL_MS;
        Ok(())
    }

    /// Forgets the attempts of an account whose password was right.
    pub fn clear(&mut self, address: IpAddr, account: &str) {
        self.buckets.remove(&(address, account.to_string()));
    }
}

fn seconds(ms: u64) -> u32 {
    u32::try_from(ms.div_ceil(1000)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    #[test]
    fn a_burst_passes_and_then_one_per_refill() {
        let mut limiter = LoginLimiter::default();
        for _ in 0..BURST {
            limiter.take(HERE, "demo/ana", 1000).expect("within the burst");
        }
        assert_eq!(limiter.take(HERE, "demo/ana", 1000), Err(6));
        limiter.take(HERE, "demo/bo", 1000).expect("another account");
        limiter.take(HERE, "demo/ana", 1000 + REFILL_MS).expect("one came back");
        assert!(limiter.take(HERE, "demo/ana", 1000 + REFILL_MS).is_err());
        limiter.clear(HERE, "demo/ana");
        limiter.take(HERE, "demo/ana", 1000 + REFILL_MS).expect("cleared");
    }

    #[test]
    fn the_table_is_bounded() {
        let mut limiter = LoginLimiter::default();
        for number in 0..BUCKETS_MAX {
            limiter.take(HERE, &number.to_string(), 0).expect("room");
        }
        assert!(limiter.take(HERE, "one more", 0).is_err());
        limiter.take(HERE, "one more", REFILL_MS + 1).expect("whole buckets are dropped");
        assert!(limiter.buckets.len() <= BUCKETS_MAX);
    }
}
