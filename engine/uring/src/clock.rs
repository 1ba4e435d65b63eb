//! The clock of a reactor, read once per turn.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use ringdesk_shard::io::Now;

/// Where the loop gets the time from.
pub trait Clock {
    /// The time now; `mono_ns` never goes back.
    fn now(&mut self) -> Now;
}

/// The host's clocks.
#[derive(Debug)]
pub struct HostClock {
    start: Instant,
}

impl HostClock {
    /// A clock whose monotonic zero is now.
    pub fn start() -> Self {
        Self { start: Instant::now() }
    }
}

impl Clock for HostClock {
    fn now(&mut self) -> Now {
        let mono_ns = u64::try_from(self.start.elapsed().as_nanos()).expect("584 years of uptime");
        // A wall clock before 1970 is a host set up wrongly; stamps only inform (contract C3), so 0 does.
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now { mono_ns, wall_ms: u64::try_from(wall.as_millis()).expect("a date of this millennium") }
    }
}
