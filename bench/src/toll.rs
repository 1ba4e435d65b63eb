//! What disk and scheduler took of a run: the server's own figures and its threads' waiting for a core, over exactly the
//! measured window, and the bare append at the size of the server's batches.
//!
//! Order: [`Watch::over`] takes a [`Sight`] at the start and at the end of the window, on a thread of its own so that the
//! generator waits for nothing; [`Toll::between`] is what happened meanwhile. Waiting comes from the kernel
//! (`/proc/PID/task/TID/schedstat`: time on a core, time ready without one, turns on a core; Linux
//! Documentation/scheduler/sched-stats.rst).

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::Value;

use crate::disk::{APPEND_BYTES, AppendProbe};
use crate::http::Http;
use crate::report::{Latency, Single, round2};

/// Bare appends measured at the size of a batch.
const APPENDS: usize = 500;

/// Time of a thread, nanoseconds since it started.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Slices {
    on_core_ns: u64,
    waiting_ns: u64,
    count: u64,
}

impl Slices {
    fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.split_ascii_whitespace().map(|word| word.parse().ok());
        let mut next = || numbers.next().flatten();
        Some(Self { on_core_ns: next()?, waiting_ns: next()?, count: next()? })
    }

    /// Of the calling thread; zeros where the kernel keeps none.
    pub fn own() -> Self {
        let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
        Self::parse(&text).unwrap_or_default()
    }
}

/// What a thread had of a window.
#[derive(Clone, Copy, Default, PartialEq, Debug, Serialize)]
pub struct OnCore {
    /// Share of the window on a core.
    pub cpu: f64,
    /// Share of the window ready to run, without a core.
    pub waiting: f64,
    /// Of one such wait, the mean, microseconds.
    pub wait_us_mean: f64,
}

impl OnCore {
    /// From two looks at the same thread.
    pub fn between(before: Slices, after: Slices, window: Duration) -> Self {
        let window_ns = (window.as_nanos() as f64).max(1.0);
        let waited = after.waiting_ns.saturating_sub(before.waiting_ns) as f64;
        Self {
            cpu: round2(after.on_core_ns.saturating_sub(before.on_core_ns) as f64 / window_ns),
            waiting: round2(waited / window_ns),
            wait_us_mean: round2(waited / 1e3 / after.count.saturating_sub(before.count).max(1) as f64),
        }
    }
}

/// The server at one moment: figures of each shard, and its threads by name.
#[derive(Clone, Debug)]
pub struct Sight {
    at: Instant,
    status: Value,
    threads: BTreeMap<String, Slices>,
}

impl Sight {
    fn take(address: SocketAddr, pid: u32) -> Result<Self, String> {
        let status = Http::new(address, None).get("/v1/status")?;
        Ok(Self { at: Instant::now(), status, threads: threads(pid) })
    }

    fn shard(&self, number: usize) -> Option<&Value> {
        self.status["shards"].get(number)
    }
}

/// Threads of a process by name; without those that are gone meanwhile.
fn threads(pid: u32) -> BTreeMap<String, Slices> {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return BTreeMap::new() };
    let look = |task: &Path| {
        let name = std::fs::read_to_string(task.join("comm")).ok()?;
        let slices = Slices::parse(&std::fs::read_to_string(task.join("schedstat")).ok()?)?;
        Some((name.trim().to_owned(), slices))
    };
    tasks.flatten().filter_map(|task| look(&task.path())).collect()
}

/// The looks at the start and at the end of a window.
pub struct Watch(JoinHandle<Result<[Sight; 2], String>>);

impl Watch {
    /// Looks at the server of this control plane and process at `start` and at `end`.
    pub fn over(address: SocketAddr, pid: u32, start: Instant, end: Instant) -> Self {
        Self(std::thread::spawn(move || {
            let look = |at: Instant| {
                std::thread::sleep(at.saturating_duration_since(Instant::now()));
                Sight::take(address, pid)
            };
            Ok([look(start)?, look(end)?])
        }))
    }

    /// What was seen.
    ///
    /// # Errors
    /// A sentence when the server could not be asked.
    pub fn sights(self) -> Result<[Sight; 2], String> {
        self.0.join().expect("looking does not panic")
    }
}

/// What one shard did in the window.
#[derive(Clone, Debug, Serialize)]
pub struct ShardToll {
    /// The shard.
    pub shard: usize,
    /// Batches made durable per second; one is under way at a time.
    pub batches_per_second: f64,
    /// Records in one.
    pub records_per_batch: f64,
    /// Bytes of one, padding included.
    pub bytes_per_batch: f64,
    /// Turns of its loop per second that found work.
    pub turns_per_second: f64,
    /// Mean length of such a turn, microseconds: what it waited for a core in between is in it.
    pub turn_us: f64,
    /// Longest turn since the server started, microseconds.
    pub turn_us_max: f64,
    /// Share of the window in such turns.
    pub busy: f64,
    /// Share of the window asleep.
    pub asleep: f64,
    /// Its thread.
    pub thread: OnCore,
}

/// What disk and scheduler took.
#[derive(Clone, Debug, Serialize)]
pub struct Toll {
    /// Each shard.
    pub shards: Vec<ShardToll>,
    /// The generator's thread.
    pub generator: OnCore,
    /// Size of the bare appends below: the server's mean batch, in whole pages.
    pub append_bytes: usize,
    /// A bare durable append of that size on the same disk, after the load.
    pub append_us: Option<Single>,
}

impl Toll {
    /// What happened between two looks; `generator` are two looks at the generator's thread over the same window.
    pub fn between(sights: &[Sight; 2], generator: [Slices; 2]) -> Self {
        let [before, after] = sights;
        let window = after.at.duration_since(before.at);
        let seconds = window.as_secs_f64().max(1e-9);
        let count = after.status["shards"].as_array().map_or(0, Vec::len);
        let (mut batches, mut bytes) = (0.0, 0.0);
        let shards = (0..count)
            .map(|shard| {
                let grown = |path: &str| {
                    let of = |sight: &Sight| sight.shard(shard).and_then(|s| s.pointer(path)?.as_u64());
                    of(after).unwrap_or(0).saturating_sub(of(before).unwrap_or(0)) as f64
                };
                let name = format!("rd-shard-{shard}");
                let slices = |sight: &Sight| sight.threads.get(&name).copied().unwrap_or_default();
                let thread = OnCore::between(slices(before), slices(after), window);
                let (its, turns) = (grown("/log/batches"), grown("/duty/busy_turns"));
                let longest = after.shard(shard).and_then(|s| s.pointer("/duty/turn_ns_max")?.as_u64());
                batches += its;
                bytes += grown("/log/bytes");
                ShardToll {
                    shard,
                    batches_per_second: round2(its / seconds),
                    records_per_batch: round2(grown("/log/records") / its.max(1.0)),
                    bytes_per_batch: round2(grown("/log/bytes") / its.max(1.0)),
                    turns_per_second: round2(turns / seconds),
                    turn_us: round2(grown("/duty/busy_ns") / 1e3 / turns.max(1.0)),
                    turn_us_max: round2(longest.unwrap_or(0) as f64 / 1e3),
                    busy: round2(grown("/duty/busy_ns") / 1e9 / seconds),
                    asleep: round2(grown("/duty/sleep_ns") / 1e9 / seconds),
                    thread,
                }
            })
            .collect();
        let mean = (bytes / f64::max(batches, 1.0)) as usize;
        Self {
            shards,
            generator: OnCore::between(generator[0], generator[1], window),
            append_bytes: mean.max(1).next_multiple_of(APPEND_BYTES),
            append_us: None,
        }
    }

    /// Measures the bare append in this folder, with nothing else going on.
    ///
    /// # Errors
    /// A sentence when the folder cannot be written.
    pub fn measure_append(&mut self, folder: &Path) -> Result<(), String> {
        let mut probe = AppendProbe::create(folder, self.append_bytes, APPENDS)?;
        let mut latency = Latency::new();
        for _ in 0..APPENDS {
            latency.record_ns(probe.append()?);
        }
        self.append_us = Single::of(&latency);
        Ok(())
    }
}

impl std::fmt::Display for Toll {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(append) = self.append_us {
            let kib = self.append_bytes >> 10;
            writeln!(
                f,
                "  bare append of {kib} KiB, a mean batch: {} us p50, {} us p99",
                append.p50, append.p99
            )?;
        }
        for s in &self.shards {
            writeln!(
                f,
                "  shard {}: {:.0} batches/s of {:.1} records and {:.1} KiB; {:.0} turns/s of {:.1} us, longest {:.0}; {:.2} busy, {:.2} asleep; {}",
                s.shard,
                s.batches_per_second,
                s.records_per_batch,
                s.bytes_per_batch / 1024.0,
                s.turns_per_second,
                s.turn_us,
                s.turn_us_max,
                s.busy,
                s.asleep,
                s.thread
            )?;
        }
        writeln!(f, "  generator: {}", self.generator)
    }
}

impl std::fmt::Display for OnCore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { cpu, waiting, wait_us_mean } = self;
        write!(f, "{cpu:.2} of a core, {waiting:.2} waiting for one, {wait_us_mean:.0} us each time")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn two_looks_become_shares_and_means() {
        let at = Instant::now();
        let sight = |at, batches: u64, bytes: u64, turns: u64, slices: &str| Sight {
            at,
            status: json!({"shards": [{"duty": {"busy_turns": turns, "busy_ns": 20_000 * turns, "turn_ns_max": 900_000}, "log": {"batches": batches, "records": 3 * batches, "bytes": bytes}}]}),
            threads: BTreeMap::from([(
                "rd-shard-0".to_owned(),
                Slices::parse(slices).expect("three numbers"),
            )]),
        };
        let first = sight(at, 10, 5_000, 100, "1000000000 0 5");
        let second = sight(at + Duration::from_secs(2), 30, 105_000, 50_100, "2000000000 500000000 105\n");
        let slices = |text| Slices::parse(text).expect("three numbers");
        let toll = Toll::between(&[first, second], [slices("0 0 0"), slices("1000000000 1000 10")]);
        let shard = &toll.shards[0];
        assert_eq!(
            (shard.batches_per_second, shard.records_per_batch, shard.bytes_per_batch),
            (10.0, 3.0, 5000.0)
        );
        assert_eq!((shard.turns_per_second, shard.turn_us), (25_000.0, 20.0));
        assert_eq!((shard.turn_us_max, shard.busy, shard.asleep), (900.0, 0.5, 0.0));
        assert_eq!(shard.thread, OnCore { cpu: 0.5, waiting: 0.25, wait_us_mean: 5_000.0 });
        assert_eq!(toll.generator, OnCore { cpu: 0.5, waiting: 0.0, wait_us_mean: 0.1 });
        assert_eq!(toll.append_bytes, 8192, "a mean batch in whole pages");
        assert_eq!(Slices::parse("1 2"), None);
    }

    #[test]
    fn the_kernel_tells_of_this_process() {
        let here = threads(std::process::id());
        assert!(!here.is_empty(), "this test runs on a thread with a name");
        let before = Slices::own();
        std::hint::black_box((0..5_000_000u64).fold(0, |sum: u64, i| std::hint::black_box(sum ^ i)));
        // The kernel adds up when a thread leaves its core, or at the next tick.
        std::thread::sleep(Duration::from_millis(5));
        assert!(Slices::own().on_core_ns > before.on_core_ns);
        let folder = std::env::temp_dir().join(format!("ringbench-toll-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let (shards, generator) = (Vec::new(), OnCore::default());
        let mut toll = Toll { shards, generator, append_bytes: 8192, append_us: None };
        toll.measure_append(&folder).unwrap();
        assert_eq!(toll.append_us.map(|append| append.samples), Some(APPENDS as u64));
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
