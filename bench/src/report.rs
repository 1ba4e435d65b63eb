//! The report: percentiles, the JSON whose names stay, and the table for people.
//!
//! Order: the run fills [`Latency`] histograms and hands everything to [`Report`]; [`Report::json`] and the
//! `Display` form show the same figures. When the generator itself was late, the percentiles say more about it
//! than about the server: then they are withheld (null in JSON) and a sentence says why.

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::toll::Toll;

/// Longest latency a histogram keeps apart, one minute in microseconds; longer ones count as this.
const LATENCY_US_MAX: u64 = 60_000_000;

/// A latency histogram: recorded in nanoseconds, kept in microseconds at 3 significant digits.
pub struct Latency {
    histogram: Histogram<u64>,
}

impl Latency {
    /// An empty one.
    pub fn new() -> Self {
        let histogram = Histogram::new_with_bounds(1, LATENCY_US_MAX, 3);
        Self { histogram: histogram.expect("the bounds are constants that hdrhistogram accepts") }
    }

    /// Adds one latency in nanoseconds, rounded to the nearest microsecond, at least 1.
    pub fn record_ns(&mut self, ns: u64) {
        self.histogram.saturating_record(((ns + 500) / 1000).max(1));
    }

    /// Adds the samples of another.
    pub fn add(&mut self, other: &Self) {
        let added = self.histogram.add(&other.histogram);
        added.expect("all histograms have the same bounds");
    }

    /// Number of samples.
    pub fn count(&self) -> u64 {
        self.histogram.len()
    }

    /// The percentiles of the report; `None` without samples.
    pub fn percentiles(&self) -> Option<Percentiles> {
        let at = |quantile| self.histogram.value_at_quantile(quantile);
        (!self.histogram.is_empty()).then(|| Percentiles {
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: self.histogram.max(),
        })
    }
}

/// Percentiles in microseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct Percentiles {
    /// Median.
    pub p50: u64,
    /// 90th percentile.
    pub p90: u64,
    /// 99th percentile.
    pub p99: u64,
    /// 99.9th percentile.
    pub p999: u64,
    /// Largest sample.
    pub max: u64,
}

/// The two latencies of a message, both counted from its intended start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct Latencies {
    /// Until its ACK arrived at the sender.
    pub send_ack: Option<Percentiles>,
    /// Until its DELIVER arrived at the other party.
    pub send_deliver: Option<Percentiles>,
}

/// A figure taken by itself, one sample at a time.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct Single {
    /// Median, microseconds.
    pub p50: u64,
    /// 99th percentile, microseconds.
    pub p99: u64,
    /// How many were taken.
    pub samples: u64,
}

impl Single {
    /// From a histogram; `None` without samples.
    pub fn of(latency: &Latency) -> Option<Self> {
        let p = latency.percentiles()?;
        Some(Self { p50: p.p50, p99: p.p99, samples: latency.count() })
    }
}

/// Where and how a run was made; enough to repeat it.
#[derive(Clone, Debug, Serialize)]
pub struct Environment {
    /// `uname -r`.
    pub kernel: String,
    /// Model name of the first processor.
    pub cpu: String,
    /// Processors this process may use.
    pub cores: usize,
    /// Commit of the working folder, `unknown` outside a clone.
    pub commit: String,
    /// The command line.
    pub command: String,
    /// Version of ringbench.
    pub version: String,
    /// Version the server states.
    pub server_version: String,
    /// `binary`, `websocket` or `mixed`.
    pub transport: String,
    /// Visitors, one connection and one conversation each.
    pub visitors: usize,
    /// Agents, one connection each.
    pub agents: usize,
    /// Offered messages per second, both sides together.
    pub rate: u64,
    /// `poisson` or `constant`.
    pub arrivals: String,
    /// Bytes of a message body.
    pub body_bytes: usize,
    /// Seed of the schedule.
    pub seed: u64,
    /// Measured seconds, after the warm-up.
    pub seconds: u64,
    /// Discarded seconds before.
    pub warmup_seconds: u64,
    /// Share of one core the generator used while measuring, 1.0 = one whole core.
    pub generator_cpu: f64,
    /// How late messages left the generator after their intended start, microseconds.
    pub lateness_us: Option<Percentiles>,
    /// Above this p99 of lateness the percentiles are withheld.
    pub lateness_bound_us: u64,
    /// How the bare append opened its file.
    pub append_mode: String,
}

/// One whole run.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Messages acknowledged per second of the measured window, both sides together.
    pub messages_per_second: f64,
    /// Latencies under load.
    pub latency_us: Latencies,
    /// Refusals, broken connections, missing ACKs, altered items: everything that should not have happened and
    /// is not one of the three below.
    pub errors: u64,
    /// Items that never arrived.
    pub lost: u64,
    /// Items that arrived more than once.
    pub duplicated: u64,
    /// Items that arrived out of order.
    pub reordered: u64,
    /// Messages offered in the measured window.
    pub messages: u64,
    /// send->ack with one message in flight and no other load.
    pub unloaded_ack_us: Option<Single>,
    /// send->deliver with one message in flight and no other load.
    pub unloaded_deliver_us: Option<Single>,
    /// A bare durable append of 4 KiB on the same disk.
    pub append_4k_us: Option<Single>,
    /// `unloaded_ack_us.p50 / append_4k_us.p50`.
    pub ratio_unloaded_ack_to_append: Option<f64>,
    /// What disk and scheduler took, where it was looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub toll: Option<Toll>,
    /// What the errors were, with their numbers.
    pub error_detail: std::collections::BTreeMap<String, u64>,
    /// Why percentiles are withheld, when they are.
    pub refused: Option<String>,
    /// Where and how.
    pub environment: Environment,
}

impl Report {
    /// Withholds the percentiles under load when the generator was later than it may be, and works out the ratio.
    pub fn judge(mut self) -> Self {
        let bound = self.environment.lateness_bound_us;
        if let Some(late) = self.environment.lateness_us.filter(|late| late.p99 > bound) {
            self.latency_us = Latencies { send_ack: None, send_deliver: None };
            self.refused = Some(format!(
                "The generator was the bottleneck: one message in a hundred left {} us or more after its \
                 intended start, and the bound is {bound} us; lower --rate or give it a core of its own.",
                late.p99
            ));
        }
        if let (Some(ack), Some(append)) = (self.unloaded_ack_us, self.append_4k_us) {
            self.ratio_unloaded_ack_to_append = Some(round2(ack.p50 as f64 / append.p50.max(1) as f64));
        }
        self
    }

    /// Whether the run kept every promise.
    pub fn passed(&self) -> bool {
        self.errors + self.lost + self.duplicated + self.reordered == 0
    }

    /// The JSON form, indented, with a closing newline.
    pub fn json(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).expect("a report holds nothing JSON cannot say");
        text.push('\n');
        text
    }
}

/// Two decimals are all these figures carry.
pub fn round2(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

fn row(f: &mut std::fmt::Formatter<'_>, name: &str, p: Option<Percentiles>) -> std::fmt::Result {
    match p {
        Some(p) => {
            writeln!(f, "  {name:<22}{:>10}{:>10}{:>10}{:>10}{:>10}", p.p50, p.p90, p.p99, p.p999, p.max)
        }
        None => writeln!(f, "  {name:<22}{:>10}", "-"),
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let e = &self.environment;
        writeln!(
            f,
            "{} visitors, {} agents, {} transport, {} messages/s offered ({}), {} s, {} B bodies",
            e.visitors, e.agents, e.transport, e.rate, e.arrivals, e.seconds, e.body_bytes
        )?;
        writeln!(f, "  {:<22}{:>10.0}", "messages/s", self.messages_per_second)?;
        writeln!(
            f,
            "  {:<22}{:>10}{:>10}{:>10}{:>10}{:>10}",
            "microseconds", "p50", "p90", "p99", "p99.9", "max"
        )?;
        row(f, "send -> ack", self.latency_us.send_ack)?;
        row(f, "send -> deliver", self.latency_us.send_deliver)?;
        row(f, "generator lateness", e.lateness_us)?;
        writeln!(f, "  {:<22}{:>10.2} of a core", "generator CPU", e.generator_cpu)?;
        for (name, single) in [
            ("unloaded ack", self.unloaded_ack_us),
            ("unloaded deliver", self.unloaded_deliver_us),
            ("4 KiB append", self.append_4k_us),
        ] {
            if let Some(s) = single {
                writeln!(f, "  {name:<22}{:>10}{:>20} p99, {} samples", s.p50, s.p99, s.samples)?;
            }
        }
        if let Some(ratio) = self.ratio_unloaded_ack_to_append {
            writeln!(f, "  {:<22}{ratio:>10.2} ({})", "ack / append", e.append_mode)?;
        }
        if let Some(toll) = &self.toll {
            write!(f, "{toll}")?;
        }
        writeln!(
            f,
            "  errors {}  lost {}  duplicated {}  reordered {}",
            self.errors, self.lost, self.duplicated, self.reordered
        )?;
        for (what, count) in &self.error_detail {
            writeln!(f, "    {count} x {what}")?;
        }
        if let Some(sentence) = &self.refused {
            writeln!(f, "  {sentence}")?;
        }
        write!(f, "  {} | {} cores | Linux {} | commit {}", e.cpu, e.cores, e.kernel, e.commit)
    }
}

#[cfg(test)]
#[path = "report_tests.rs"]
mod tests;
