//! Hybrid logical clock (Kulkarni et al., "Logical Physical Clocks", 2014), reduced to one node: wall milliseconds
//! where the wall clock moved on, a counter where it did not. Stamps only grow.

use ringdesk_desk::ids::Hlc;

/// The shard's clock.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    last: Hlc,
    wall_ms: u64,
}

impl Default for Clock {
    fn default() -> Self {
        Self { last: Hlc(0), wall_ms: 0 }
    }
}

impl Clock {
    /// Takes note of the turn's wall time, milliseconds since 1970.
    pub fn turn(&mut self, wall_ms: u64) {
        self.wall_ms = wall_ms;
    }

    /// A stamp larger than every one before.
    pub fn stamp(&mut self) -> Hlc {
        self.last = Hlc::from_millis(self.wall_ms).max(Hlc(self.last.0 + 1));
        self.last
    }

    /// Never goes back behind a stamp found in the log.
    pub fn observe(&mut self, at: Hlc) {
        self.last = self.last.max(at);
    }

    /// The time deadlines are compared with: the wall clock, or the last stamp where that is ahead of it.
    pub fn now(&self) -> Hlc {
        Hlc::from_millis(self.wall_ms).max(self.last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_grow_though_the_wall_clock_jumps_back() {
        let mut clock = Clock::default();
        clock.turn(1_000);
        let a = clock.stamp();
        let b = clock.stamp();
        clock.turn(500);
        let c = clock.stamp();
        assert!(a < b && b < c);
        assert_eq!(a.millis(), 1_000);
        clock.turn(2_000);
        assert_eq!(clock.stamp(), Hlc::from_millis(2_000));
    }
}
