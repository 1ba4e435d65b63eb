//! Clients that behave, measured beside clients that do not: their p99 with and without the others, in turns.
//!
//! Order: [`Pace`]s say who speaks when; [`drive`] lets them until a time; [`Beside`] sums up. Latency counts from the
//! intended start.

use serde::Serialize;

use crate::environment::median;
use crate::report::{Latency, round2};
use crate::swarm::visitors::Visitors;
use crate::swarm::{Reply, Swarm};

/// Visitors asked in turn for one start before it is given up as not to be had now.
const TRIES: u32 = 64;

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
pub fn drive(swarm: &mut Swarm, visitors: &mut Visitors, paces: &mut [Pace], end_ns: u64) {
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
                    swarm.write(who, |reply: &mut Reply| said = visitors.say(who, at, reply));
                    if said {
                        break;
                    }
                }
                pace.skipped += u64::from(!said);
            }
            next_ns = next_ns.min(pace.at_ns as u64);
        }
        swarm.turn(visitors, next_ns);
    }
}

/// p99 of the bystanders, microseconds, measurement by measurement in the order they were made.
#[derive(Clone, Default, Debug, Serialize)]
pub struct Beside {
    /// Without the others.
    pub without: Vec<u64>,
    /// With them.
    pub with: Vec<u64>,
}

/// What the measurements allow to say.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Within the bound, and noise would have been seen.
    Passed,
    /// Beyond the bound, by more than noise explains.
    Failed,
    /// The measurements without the others disagree among themselves too much to tell.
    #[serde(rename = "no_verdict")]
    Unclear,
}

/// Medians and what they say.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct Judged {
    /// Median of the p99 without the others, microseconds.
    pub p99_without_us: f64,
    /// Median of the p99 with them.
    pub p99_with_us: f64,
    /// The second by the first: 1.0 = not at all.
    pub p99_ratio: f64,
    /// Every other measurement without them against the rest, the larger median by the smaller: what the same thing
    /// measured twice differs by.
    pub noise: f64,
    /// Whether the ratio keeps the bound.
    pub verdict: Verdict,
}

impl Beside {
    /// Sums up, with `bound` for the ratio.
    pub fn judge(&self, bound: f64) -> Judged {
        let middle = |all: &mut dyn Iterator<Item = &u64>| {
            let all: Vec<f64> = all.map(|&us| us as f64).collect();
            if all.is_empty() { 0.0 } else { median(all).max(1.0) }
        };
        let (without, with) = (middle(&mut self.without.iter()), middle(&mut self.with.iter()));
        let odd = middle(&mut self.without.iter().skip(1).step_by(2));
        let even = middle(&mut self.without.iter().step_by(2));
        // One measurement alone cannot disagree with itself, so it says nothing about noise.
        let noise = if odd == 0.0 { f64::INFINITY } else { (odd / even).max(even / odd) };
        let ratio = with / without.max(1.0);
        let verdict = if ratio > bound * noise {
            Verdict::Failed
        } else if noise > bound || ratio > bound {
            Verdict::Unclear
        } else {
            Verdict::Passed
        };
        let (p99_ratio, noise) = (round2(ratio), round2(noise));
        Judged { p99_without_us: without, p99_with_us: with, p99_ratio, noise, verdict }
    }
}

impl Judged {
    /// Whether a run whose other checks came out as `good` passed.
    ///
    /// # Errors
    /// A sentence when that cannot be told; what failed apart from the p99 failed all the same.
    pub fn outcome(&self, good: bool) -> Result<bool, String> {
        match self.verdict {
            Verdict::Unclear if good => Err(format!(
                "no verdict: measured without the others, the p99 differs from itself by a factor of {}, and with them \
                 by {}; repeat it on a quiet machine or with more --rounds",
                self.noise, self.p99_ratio
            )),
            verdict => Ok(good && verdict == Verdict::Passed),
        }
    }
}

impl std::fmt::Display for Judged {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let verdict = match self.verdict {
            Verdict::Passed => "passed",
            Verdict::Failed => "failed",
            Verdict::Unclear => "no verdict",
        };
        write!(
            f,
            "others' p99: {:.0} us without, {:.0} us with, ratio {:.2}, noise {:.2}: {verdict}",
            self.p99_without_us, self.p99_with_us, self.p99_ratio, self.noise
        )
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

    fn judged(without: &[u64], with: &[u64]) -> Judged {
        Beside { without: without.to_vec(), with: with.to_vec() }.judge(1.1)
    }

    #[test]
    fn the_ratio_is_that_of_the_medians() {
        let judged = judged(&[100, 110, 900, 110], &[121, 10, 200]);
        assert_eq!((judged.p99_without_us, judged.p99_with_us, judged.p99_ratio), (110.0, 121.0, 1.1));
    }

    #[test]
    fn noise_neither_passes_nor_fails_a_run() {
        let verdict = |without: &[u64], with: &[u64]| judged(without, with).verdict;
        assert_eq!(verdict(&[100, 101, 99, 100], &[105, 104, 106]), Verdict::Passed);
        assert_eq!(verdict(&[100, 101, 99, 100], &[125, 124, 126]), Verdict::Failed);
        // Controls that differ by half: a good ratio is luck, a bad one may be.
        assert_eq!(verdict(&[100, 150, 100, 150], &[105, 104, 106]), Verdict::Unclear);
        assert_eq!(verdict(&[100, 150, 100, 150], &[170, 170, 170]), Verdict::Unclear);
        assert_eq!(verdict(&[100, 150, 100, 150], &[400, 400, 400]), Verdict::Failed);
        assert_eq!(verdict(&[100, 105, 100, 105], &[115, 115, 115]), Verdict::Unclear);
        assert_eq!(verdict(&[100], &[100]), Verdict::Unclear, "one alone says nothing of noise");
        let (calm, torn) = (judged(&[100, 100], &[100]), judged(&[100, 200], &[100]));
        assert_eq!((calm.outcome(true), calm.outcome(false)), (Ok(true), Ok(false)));
        assert!(torn.outcome(true).unwrap_err().starts_with("no verdict"));
        assert_eq!(torn.outcome(false), Ok(false), "what failed otherwise failed");
    }
}
