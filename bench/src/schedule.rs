//! The open-loop schedule: when each message is meant to start, whatever the server does meanwhile.
//!
//! Order: [`Schedule::due`] gives the starts whose time has come, each with its *intended* time, from which all
//! latencies count. A generator that waited for answers would stop asking while the server is slow and so
//! never see the worst (coordinated omission). Ownership: the schedule owns its generator; same seed, same starts.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng as _};

/// How the gaps between starts are drawn.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Arrivals {
    /// Exponential gaps: what many independent people do.
    Poisson,
    /// Equal gaps.
    Constant,
}

/// One intended start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Start {
    /// Intended time, nanoseconds of the run's clock.
    pub at_ns: u64,
    /// Which conversation, `0..conversations`.
    pub conversation: usize,
}

/// An endless seeded sequence of starts.
pub struct Schedule {
    rng: ChaCha8Rng,
    gap_ns: f64,
    arrivals: Arrivals,
    conversations: u64,
    next_ns: f64,
}

impl Schedule {
    /// `rate` starts per second over `conversations` conversations, the first one gap after `start_ns`.
    pub fn new(seed: u64, rate: u64, arrivals: Arrivals, conversations: usize, start_ns: u64) -> Self {
        assert!(rate > 0 && conversations > 0, "a schedule needs a rate and somebody to write");
        let mut schedule = Self {
            rng: ChaCha8Rng::seed_from_u64(seed),
            gap_ns: 1e9 / rate as f64,
            arrivals,
            conversations: conversations as u64,
            next_ns: start_ns as f64,
        };
        schedule.advance();
        schedule
    }

    /// Intended time of the next start.
    pub fn next_ns(&self) -> u64 {
        self.next_ns as u64
    }

    /// Moves the next start to one gap after `now_ns`, when it lies before that.
    pub fn skip_to(&mut self, now_ns: u64) {
        if self.next_ns() < now_ns {
            self.next_ns = now_ns as f64;
            self.advance();
        }
    }

    /// The next start when its time has come, else `None`.
    pub fn due(&mut self, now_ns: u64) -> Option<Start> {
        let at_ns = self.next_ns();
        if at_ns > now_ns {
            return None;
        }
        let conversation = (self.rng.next_u64() % self.conversations) as usize;
        self.advance();
        Some(Start { at_ns, conversation })
    }

    fn advance(&mut self) {
        self.next_ns += match self.arrivals {
            Arrivals::Constant => self.gap_ns,
            Arrivals::Poisson => {
                // Inverse transform sampling; 53 bits, never 0, so that the logarithm is finite.
                let unit = ((self.rng.next_u64() >> 11) + 1) as f64 / (1u64 << 53) as f64;
                -unit.ln() * self.gap_ns
            }
        };
    }
}

/// A seeded number in `low..high`.
pub fn between(seed: u64, draw: u64, low: u64, high: u64) -> u64 {
    assert!(low < high, "an empty range has no member");
    let mut rng = ChaCha8Rng::seed_from_u64(seed ^ draw.wrapping_mul(0x9E37_79B9_7F4A_7C15));
    low + rng.next_u64() % (high - low)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn starts(arrivals: Arrivals, seed: u64) -> Vec<Start> {
        let mut schedule = Schedule::new(seed, 10_000, arrivals, 100, 5_000_000);
        std::iter::from_fn(|| schedule.due(1_005_000_000)).collect()
    }

    #[test]
    fn the_rate_is_kept_and_the_seed_decides() {
        for arrivals in [Arrivals::Poisson, Arrivals::Constant] {
            let one = starts(arrivals, 7);
            assert!((9_600..=10_400).contains(&one.len()), "{arrivals:?}: {} starts in a second", one.len());
            assert!(one.windows(2).all(|w| w[0].at_ns <= w[1].at_ns));
            assert_eq!(one, starts(arrivals, 7));
            assert_ne!(one, starts(arrivals, 8));
        }
    }

    #[test]
    fn poisson_gaps_have_the_spread_of_an_exponential() {
        let all = starts(Arrivals::Poisson, 3);
        let gaps: Vec<f64> = all.windows(2).map(|w| (w[1].at_ns - w[0].at_ns) as f64).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let deviation = (gaps.iter().map(|g| (g - mean).powi(2)).sum::<f64>() / gaps.len() as f64).sqrt();
        assert!((0.9..1.1).contains(&(deviation / mean)), "deviation {deviation} of mean {mean}");
    }

    #[test]
    fn nothing_is_due_before_its_time() {
        let mut schedule = Schedule::new(1, 1_000, Arrivals::Constant, 1, 0);
        assert_eq!(schedule.due(999_999), None);
        assert_eq!(schedule.due(1_000_000), Some(Start { at_ns: 1_000_000, conversation: 0 }));
        assert_eq!(schedule.due(1_000_000), None);
    }

    #[test]
    fn skipping_leaves_out_what_was_missed() {
        let mut schedule = Schedule::new(1, 1_000, Arrivals::Constant, 1, 0);
        schedule.skip_to(10_000_000);
        assert_eq!(schedule.next_ns(), 11_000_000);
        schedule.skip_to(10_500_000);
        assert_eq!(schedule.next_ns(), 11_000_000);
    }

    #[test]
    fn between_stays_inside_and_depends_on_the_draw() {
        let drawn: Vec<u64> = (0..50).map(|i| between(9, i, 500, 2000)).collect();
        assert!(drawn.iter().all(|d| (500..2000).contains(d)));
        assert!(drawn.windows(2).any(|w| w[0] != w[1]));
    }
}
