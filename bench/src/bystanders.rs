//! Clients that behave, measured beside clients that do not: their p99 with and without the others, in turns.
//!
//! Order: [`Pace`]s say who speaks when; [`drive`] lets them until a time; [`Beside`] sums up. Latency counts from the
//! intended start.

use serde::Serialize;

use crate::environment::median;
use crate::report::{Latency, round2};
use crate::swarm::visitors::Visitors;
use crate::swarm::{Crowd, Reply, Swarm};

/// Visitors asked in turn for one start before it is given up as not to be had now.
const TRIES: u32 = 64;

/// Crowds with visitors among them.
pub trait WithVisitors: Crowd {
    /// The visitors.
    fn visitors(&mut self) -> &mut Visitors;
}

impl WithVisitors for Visitors {
    fn visitors(&mut self) -> &mut Visitors {
        self
    }
}

/// Messages at equal gaps from visitors in turn.
pub struct Pace {
    who: std::ops::Range<u32>,
    next: u32,
    gap_ns: f64,
    at_ns: f64,
    /// Starts for which nobody was free.
    pub skipped: u64,
}

impl Pace {
    /// `rate` messages per second of these visitors, from `now_ns` on.
    pub fn new(who: std::ops::Range<u32>, rate: u64, now_ns: u64) -> Self {
        assert!(!who.is_empty() && rate > 0, "somebody speaks at some rate");
        Self { next: who.start, who, gap_ns: 1e9 / rate as f64, at_ns: now_ns as f64, skipped: 0 }
    }

    fn due(&mut self, now_ns: u64) -> Option<u64> {
        let at = self.at_ns as u64;
        (at <= now_ns).then(|| {
            self.at_ns += self.gap_ns;
            at
        })
    }

    fn turn(&mut self) -> u32 {
        let who = self.next;
        self.next = if who + 1 < self.who.end { who + 1 } else { self.who.start };
        who
    }
}

/// Lets the paces speak until `end_ns`.
pub fn drive<C: WithVisitors>(swarm: &mut Swarm, crowd: &mut C, paces: &mut [Pace], end_ns: u64) {
    loop {
        let now = swarm.now_ns();
        if now >= end_ns {
            return;
        }
        let mut next_ns = end_ns;
        for pace in &mut *paces {
            while let Some(at) = pace.due(now) {
                let mut said = false;
                for _ in 0..TRIES {
                    let who = pace.turn();
                    let visitors = crowd.visitors();
                    swarm.write(who, |reply: &mut Reply| said = visitors.say(who, at, reply));
                    if said {
                        break;
                    }
                }
                pace.skipped += u64::from(!said);
            }
            next_ns = next_ns.min(pace.at_ns as u64);
        }
        swarm.turn(crowd, next_ns);
    }
}

/// p99 of the bystanders, microseconds, round by round.
#[derive(Clone, Default, Debug, Serialize)]
pub struct Beside {
    /// Without the others.
    pub without: Vec<u64>,
    /// With them.
    pub with: Vec<u64>,
}

impl Beside {
    /// Medians without and with, and by what the second is larger: 1.0 = not at all.
    pub fn medians(&self) -> (f64, f64, f64) {
        let middle = |all: &[u64]| median(all.iter().map(|&us| us as f64).collect());
        let (without, with) = (middle(&self.without), middle(&self.with));
        (without, with, round2(with / without.max(1.0)))
    }
}

/// Begins a measurement of `seconds` and returns its end.
pub fn measure(visitors: &mut Visitors, now_ns: u64, seconds: f64) -> u64 {
    let end = now_ns + (seconds * 1e9) as u64;
    (visitors.window, visitors.ack, visitors.window_acks) = (now_ns..end, Latency::new(), 0);
    end
}

/// p99 of the last measurement, microseconds; a sentence when there was no message.
pub fn p99(visitors: &Visitors) -> Result<u64, String> {
    let found = visitors.ack.percentiles().map(|percentiles| percentiles.p99);
    found.ok_or_else(|| "no message of the bystanders was acknowledged".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pace_keeps_its_gap_and_goes_round() {
        let mut pace = Pace::new(3..5, 1_000, 500);
        assert_eq!(
            [pace.due(499), pace.due(500), pace.due(1_000_499), pace.due(1_000_500)],
            [None, Some(500), None, Some(1_000_500)]
        );
        assert_eq!([pace.turn(), pace.turn(), pace.turn()], [3, 4, 3]);
    }

    #[test]
    fn the_ratio_is_that_of_the_medians() {
        let beside = Beside { without: vec![100, 900, 110], with: vec![121, 10, 200] };
        assert_eq!(beside.medians(), (110.0, 121.0, 1.1));
    }
}
