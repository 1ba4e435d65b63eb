//! Facts about the machine and this process that a report carries.

use std::path::Path;
use std::process::Command;

use serde::Serialize;

use rustix::time::{ClockId, clock_gettime};

/// `uname -r`.
pub fn kernel() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

/// Model name of the first processor as /proc/cpuinfo states it, `unknown` where it states none.
pub fn cpu() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text.lines().find_map(|line| line.strip_prefix("model name"));
    model.and_then(|rest| rest.split_once(':')).map_or("unknown".into(), |(_, name)| name.trim().into())
}

/// Processors this process may use.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Commit of the working folder, with `+` when it has uncommitted changes; `unknown` outside a clone.
pub fn commit() -> String {
    let git = |args: &[&str]| {
        let out = Command::new("git").args(args).output().ok().filter(|out| out.status.success())?;
        Some(String::from_utf8_lossy(&out.stdout).trim().to_owned())
    };
    let Some(commit) = git(&["rev-parse", "--short=12", "HEAD"]) else {
        return "unknown".into();
    };
    let changed = git(&["status", "--porcelain", "--untracked-files=no"]).is_some_and(|s| !s.is_empty());
    if changed { commit + "+" } else { commit }
}

/// The command line, words joined by spaces.
pub fn command() -> String {
    std::env::args().collect::<Vec<_>>().join(" ")
}

/// Processor time this process has used, nanoseconds.
pub fn cpu_ns() -> u64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// The median of at least one figure.
pub fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    let middle = figures.len() / 2;
    match figures.len() % 2 {
        0 => (figures[middle - 1] + figures[middle]) / 2.0,
        _ => figures[middle],
    }
}

/// What every report says of its surroundings, beside its own figures.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
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
    /// The machine's load over the last minute when the report was made: other work disturbs figures.
    pub load_average: f64,
}

impl Machine {
    /// As it is now.
    pub fn new(server_version: String) -> Self {
        let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let load = load.split_ascii_whitespace().next().and_then(|word| word.parse().ok());
        Self {
            kernel: kernel(),
            cpu: cpu(),
            cores: cores(),
            commit: commit(),
            command: command(),
            version: env!("CARGO_PKG_VERSION").into(),
            server_version,
            load_average: load.unwrap_or(0.0),
        }
    }
}

impl std::fmt::Display for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { kernel, cpu, cores, commit, load_average, .. } = self;
        write!(f, "{cpu} | {cores} cores, load {load_average:.1} | Linux {kernel} | commit {commit}")
    }
}

/// Writes a report as indented JSON with a closing newline, where a file is wanted.
///
/// # Errors
/// A sentence naming the file.
pub fn write_json(path: Option<&Path>, report: &impl Serialize) -> Result<(), String> {
    let Some(path) = path else { return Ok(()) };
    let mut text = serde_json::to_string_pretty(report).expect("a report holds nothing JSON cannot say");
    text.push('\n');
    std::fs::write(path, text).map_err(|e| format!("cannot write {}: {e}", path.display()))
}

/// Processor time the calling thread has used, nanoseconds.
pub fn thread_cpu_ns() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(vec![9.0]), 9.0);
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
    }

    #[test]
    fn the_facts_are_there() {
        assert!(kernel().starts_with(|c: char| c.is_ascii_digit()));
        assert!(!cpu().is_empty() && cores() >= 1 && !command().is_empty());
        let before = cpu_ns();
        let spun = (0..2_000_000u64).fold(0u64, |sum, i| std::hint::black_box(sum.wrapping_add(i)));
        assert!(spun > 0 && cpu_ns() > before, "processor time grows by working");
    }
}
