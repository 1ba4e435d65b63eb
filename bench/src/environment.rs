//! Facts about the machine and this process that a report carries.

use std::process::Command;

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_facts_are_there() {
        assert!(kernel().starts_with(|c: char| c.is_ascii_digit()));
        assert!(!cpu().is_empty() && cores() >= 1 && !command().is_empty());
        let before = cpu_ns();
        let spun = (0..2_000_000u64).fold(0u64, |sum, i| std::hint::black_box(sum.wrapping_add(i)));
        assert!(spun > 0 && cpu_ns() > before, "processor time grows by working");
    }
}
